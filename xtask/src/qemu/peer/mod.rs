//! The other end of the link: a client of each of the guest's services.
//!
//! It is the same code whether it runs beside a tap in the outer machine, in a network namespace
//! of this one, or against ports that QEMU forwards. `down` enters the guest, `up` leaves it.

pub(crate) mod datagram;
#[cfg(test)]
mod fake;
pub(crate) mod ping;
pub(crate) mod stream;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use super::limits::Deadline;
use super::stop::Stop;

/// Without any progress for so long, a transfer is given up.
pub(crate) const STALL_SECONDS: u64 = 25;

/// How long a socket waits before its owner looks at the clock.
const SOCKET_TICK: Duration = Duration::from_millis(200);

/// Where the guest's services are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoints {
    pub(crate) control: SocketAddr,
    pub(crate) sink: SocketAddr,
    pub(crate) source: SocketAddr,
    pub(crate) paced: SocketAddr,
    pub(crate) burst: SocketAddr,
}

/// Tells how far a transfer is: so much of so much.
pub(crate) type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// A deadline that moves along as long as there is progress.
#[derive(Debug)]
struct Stall {
    total: Deadline,
    current: Deadline,
}

impl Stall {
    fn new(total: Deadline) -> Self {
        Self {
            total,
            current: total.within(STALL_SECONDS),
        }
    }

    fn progress(&mut self) {
        self.current = self.total.within(STALL_SECONDS);
    }

    fn check(&self, waiting_for: &str) -> Result<(), Stop> {
        self.current.check(waiting_for)
    }
}

/// Whether the error only says that nothing came within a socket's time.
fn is_quiet(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
