//! UDP: paced by acknowledgement, and as fast as it goes.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use socket2::SockRef;
use vring_protocol::{Datagram, Kind};

use super::{Progress, Stall, is_quiet};
use crate::qemu::limits::Deadline;
use crate::qemu::report::Flow;
use crate::qemu::stop::Stop;

/// Bytes of a datagram of data, its header included.
const SIZE: usize = 64;
/// Kernel buffer for what the guest sends.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Without an acknowledgement for so long, what is outstanding is taken for lost.
/// The same silence ends a burst.
const QUIET: Duration = Duration::from_millis(200);
/// A sequence number beyond this cannot come from a guest that keeps the protocol.
const HIGHEST: u32 = 1 << 24;

/// Which sequence numbers were seen.
#[derive(Debug, Default)]
struct Seen {
    bits: Vec<u64>,
    distinct: u32,
    highest: u32,
}

impl Seen {
    fn note(&mut self, seq: u32) {
        if seq > HIGHEST {
            return;
        }
        let (word, bit) = (seq as usize / 64, seq % 64);
        if self.bits.len() <= word {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] >> bit & 1 == 0 {
            self.bits[word] |= 1 << bit;
            self.distinct += 1;
        }
        self.highest = self.highest.max(seq);
    }
}

/// A socket that talks to one of the guest's services.
#[derive(Debug)]
struct Line {
    socket: UdpSocket,
}

impl Line {
    fn open(to: SocketAddr) -> anyhow::Result<Self> {
        let local = if to.ip().is_loopback() {
            "127.0.0.1:0"
        } else {
            "0.0.0.0:0"
        };
        let socket = UdpSocket::bind(local).context("cannot open a UDP socket")?;
        let sockref = SockRef::from(&socket);
        // With privilege the buffer may exceed the system's limit; without, what the system gives.
        if sockref.set_recv_buffer_size(RECEIVE_BUFFER).is_err() {
            return Err(anyhow::anyhow!("cannot enlarge a UDP buffer"));
        }
        socket.connect(to).context("cannot address a UDP socket")?;
        socket.set_read_timeout(Some(QUIET))?;
        Ok(Self { socket })
    }

    fn send(&self, kind: Kind, seq: u32, value: u32) -> Result<(), Stop> {
        let mut bytes = [0; SIZE];
        bytes[..Datagram::LEN].copy_from_slice(&Datagram { kind, seq, value }.to_bytes());
        let bytes = match kind {
            Kind::Data => &bytes[..],
            _ => &bytes[..Datagram::LEN],
        };
        match self.socket.send(bytes) {
            Ok(_) => Ok(()),
            // A full queue, or word of an earlier datagram that found nobody: both are losses.
            Err(error)
                if is_quiet(&error)
                    || error.kind() == std::io::ErrorKind::ConnectionRefused
                    || error.raw_os_error() == Some(libc::ENOBUFS) =>
            {
                Ok(())
            }
            Err(error) => Err(anyhow::Error::new(error).context("cannot send UDP").into()),
        }
    }

    /// The next datagram, if one is there (`DONTWAIT`) or comes within [`QUIET`].
    fn receive(&self, flags: RecvFlags) -> Result<Option<Datagram>, Stop> {
        let mut bytes = [0; 2048];
        match rustix::net::recv(&self.socket, &mut bytes[..], flags) {
            Ok((count, _)) => Ok(Datagram::parse(&bytes[..count])),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNREFUSED) => Ok(None),
            Err(error) => Err(anyhow::Error::new(error)
                .context("cannot receive UDP")
                .into()),
        }
    }

    fn wait(&self) -> Result<Option<Datagram>, Stop> {
        self.receive(RecvFlags::empty())
    }
}

fn flow(sent: u64, received: u64, start: Instant) -> Flow {
    Flow {
        sent,
        received,
        dropped_by_tap: None,
        seconds: start.elapsed().as_secs_f64(),
    }
}

/// Sends paced datagrams until the guest has acknowledged `count` different ones.
pub(crate) fn paced_down(
    to: SocketAddr,
    count: u32,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Flow, Stop> {
    const WHAT: &str = "acknowledgements of UDP data";
    let start = Instant::now();
    let mut stall = Stall::new(deadline);
    let line = Line::open(to)?;
    // Sequence numbers count from 1: an acknowledgement of 0 has seen nothing.
    let (mut next, mut acknowledged, mut received) = (1u32, 0u32, 0u32);
    let mut sent = 0;
    while received < count {
        stall.check(WHAT)?;
        if next <= acknowledged.saturating_add(Datagram::WINDOW) {
            line.send(Kind::Data, next, 0)?;
            next += 1;
            sent += 1;
            continue;
        }
        match line.wait()? {
            Some(Datagram {
                kind: Kind::Ack,
                seq,
                value,
            }) => {
                if value > received {
                    stall.progress();
                }
                // Neither more than was sent nor less than is known already.
                acknowledged = acknowledged.max(seq.min(next - 1));
                received = received.max(value.min(next - 1));
                progress(u64::from(received), u64::from(count));
            }
            Some(_) => {}
            None => acknowledged = next - 1,
        }
    }
    Ok(flow(sent, u64::from(received), start))
}

/// Has the guest send paced datagrams, and acknowledges them, until `count` have come.
pub(crate) fn paced_up(
    to: SocketAddr,
    count: u32,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Flow, Stop> {
    const WHAT: &str = "UDP data from the guest";
    let start = Instant::now();
    let mut stall = Stall::new(deadline);
    let line = Line::open(to)?;
    let mut seen = Seen::default();
    let mut owed = 0;
    line.send(Kind::Start, 0, count)?;
    loop {
        stall.check(WHAT)?;
        // What is there is taken at once; an acknowledgement goes out when nothing is.
        let next = match line.receive(RecvFlags::DONTWAIT)? {
            None if owed > 0 => {
                line.send(Kind::Ack, seen.highest, seen.distinct)?;
                owed = 0;
                continue;
            }
            None => line.wait()?,
            some => some,
        };
        match next {
            Some(Datagram {
                kind: Kind::Data,
                seq,
                ..
            }) => {
                let before = seen.distinct;
                seen.note(seq);
                if seen.distinct > before {
                    stall.progress();
                }
                owed += 1;
                if owed >= Datagram::ACK_EVERY {
                    line.send(Kind::Ack, seen.highest, seen.distinct)?;
                    owed = 0;
                    progress(u64::from(seen.distinct), u64::from(count));
                }
            }
            Some(Datagram {
                kind: Kind::Stats,
                seq,
                ..
            }) if seen.distinct >= count => {
                return Ok(flow(u64::from(seq), u64::from(seen.distinct), start));
            }
            Some(_) => {}
            // Silence: the start, the last acknowledgement or the last word was lost.
            None if seen.distinct == 0 => line.send(Kind::Start, 0, count)?,
            None => {
                line.send(Kind::Ack, seen.highest, seen.distinct)?;
                if seen.distinct >= count {
                    line.send(Kind::Query, 0, 0)?;
                }
            }
        }
    }
}

/// Asks for the guest's counts until it answers.
fn statistics(line: &Line, ask: Kind, stall: &Stall) -> Result<Datagram, Stop> {
    loop {
        stall.check("the guest's counts")?;
        line.send(ask, 0, 0)?;
        while let Some(datagram) = line.wait()? {
            if datagram.kind == Kind::Stats {
                return Ok(datagram);
            }
        }
    }
}

/// Floods the guest; losses are expected, and counted.
pub(crate) fn burst_down(to: SocketAddr, count: u32, deadline: Deadline) -> Result<Flow, Stop> {
    let start = Instant::now();
    let stall = Stall::new(deadline);
    let line = Line::open(to)?;
    statistics(&line, Kind::Start, &stall)?;
    for seq in 1..=count {
        line.send(Kind::Data, seq, 0)?;
    }
    let answer = statistics(&line, Kind::Query, &stall)?;
    Ok(flow(u64::from(count), u64::from(answer.value), start))
}

/// Has the guest flood the peer; losses are expected, and counted.
pub(crate) fn burst_up(to: SocketAddr, count: u32, deadline: Deadline) -> Result<Flow, Stop> {
    let start = Instant::now();
    let mut stall = Stall::new(deadline);
    let line = Line::open(to)?;
    let mut seen = Seen::default();
    line.send(Kind::Start, 0, count)?;
    loop {
        stall.check("the end of the guest's burst")?;
        match line.wait()? {
            Some(Datagram {
                kind: Kind::Data,
                seq,
                ..
            }) => {
                seen.note(seq);
                stall.progress();
            }
            Some(Datagram {
                kind: Kind::Stats,
                seq,
                ..
            }) if seq >= count => {
                return Ok(flow(u64::from(seq), u64::from(seen.distinct), start));
            }
            Some(_) => {}
            None if seen.distinct == 0 => line.send(Kind::Start, 0, count)?,
            None => line.send(Kind::Query, 0, 0)?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, Lie};
    use super::*;

    #[test]
    fn distinct_numbers_are_counted_once() {
        let mut seen = Seen::default();
        for seq in [1, 2, 2, 70_000, u32::MAX, 1] {
            seen.note(seq);
        }
        assert_eq!((seen.distinct, seen.highest), (3, 70_000));
    }

    #[test]
    fn paced_flows_are_complete_both_ways() {
        let fake = Fake::start(Lie::None);
        let to = fake.endpoints().paced;
        let deadline = Deadline::seconds(30);
        let down = paced_down(to, 5000, deadline, &mut |_, _| ()).unwrap();
        assert!(
            down.received >= 5000 && down.sent >= down.received,
            "{down:?}"
        );
        let up = paced_up(to, 5000, deadline, &mut |_, _| ()).unwrap();
        assert!(up.received >= 5000 && up.sent >= up.received, "{up:?}");
    }

    #[test]
    fn losses_are_sent_again() {
        let fake = Fake::start(Lie::DropSome);
        let to = fake.endpoints().paced;
        let deadline = Deadline::seconds(30);
        let down = paced_down(to, 1000, deadline, &mut |_, _| ()).unwrap();
        assert!(
            down.received >= 1000 && down.sent > down.received,
            "{down:?}"
        );
        let up = paced_up(to, 1000, deadline, &mut |_, _| ()).unwrap();
        assert!(up.received >= 1000 && up.sent > 1000, "{up:?}");
    }

    #[test]
    fn bursts_are_counted() {
        let fake = Fake::start(Lie::DropSome);
        let to = fake.endpoints().burst;
        let deadline = Deadline::seconds(30);
        let down = burst_down(to, 2000, deadline).unwrap();
        assert!(
            down.sent == 2000 && (1..=2000).contains(&down.received),
            "{down:?}"
        );
        let up = burst_up(to, 2000, deadline).unwrap();
        assert!(
            up.sent == 2000 && (1..=2000).contains(&up.received),
            "{up:?}"
        );
    }

    #[test]
    fn silence_ends_in_a_time_limit() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = silent.local_addr().unwrap();
        let deadline = Deadline::after(Duration::from_millis(300));
        let none: Progress<'_> = &mut |_, _| ();
        assert!(matches!(
            paced_down(to, 10, deadline, none),
            Err(Stop::TimeLimit { .. })
        ));
        assert!(matches!(
            burst_up(to, 10, deadline),
            Err(Stop::TimeLimit { .. })
        ));
    }
}
