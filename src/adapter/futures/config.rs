//! Changes of a device's configuration, awaited: for a device of any type.

use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll};

use super::bell::{Busy, Notifier};
use super::sleeper::Sleeper;

/// Configuration changes, of which an interrupt tells (VIRTIO 1.4, 2.3, 4.1.4.5).
///
/// The handler calls the [`Notifier`] when the interrupt for the configuration came, or when
/// [`Isr::ack`](crate::transport::Isr::ack) has
/// [`Interrupt::CONFIG`](crate::transport::Interrupt::CONFIG). That is also what a loop does that
/// polls, where MSI-X is not used. The same interrupt tells that the device needs a reset.
pub struct ConfigChanges {
    sleeper: Sleeper,
    /// Rings that are known.
    seen: usize,
}

impl ConfigChanges {
    /// Changes from now on, with a [notifier](Self::notifier) of its own.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sleeper: Sleeper::new(),
            seen: 0,
        }
    }

    /// For the handler of the interrupt for configuration changes.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        self.sleeper.notifier()
    }

    /// Waits until the notifier was called since the last time. None is missed that comes while
    /// nobody waits, and several are one. The future holds nothing.
    pub async fn changed(&mut self) {
        poll_fn(|cx| self.poll_changed(cx)).await;
    }

    /// As [`changed`](Self::changed), for who writes a future or a stream.
    pub fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Put the waker down first, then look.
        let put_down = self.sleeper.sit(cx.waker());
        let rings = self.sleeper.rings();
        if rings != self.seen {
            self.seen = rings;
            return Poll::Ready(());
        }
        if let Err(Busy) = put_down {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

impl Default for ConfigChanges {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ConfigChanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigChanges").finish_non_exhaustive()
    }
}
