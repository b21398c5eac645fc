//! What each processor does with its queue pair: pings of its own, from an address of its own.
//!
//! Linux's tap sends a flow's frames to the queue that its last frame came from, so the answers to a
//! processor's pings come to its own receive queue. That holds from the second frame of a flow on:
//! before the pings that count, each processor probes until an answer finds it. An answer that the
//! other one meets all the same is counted as astray, and is not lost.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use alloc::{format, vec};
use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use smoltcp::wire::{EthernetAddress, Ipv4Address};
use vring::buffer::{Readable, Writable};
use vring::virtqueue::Virtqueue;
use vring_protocol::Options;

use super::super::HEADER;
use super::PAIRS;
use super::frames::{self, Echo, RECEIVE, Seen, Station};
use crate::kernel::platform::Identity;
use crate::kernel::{clock, idle, smp};

/// A receive queue.
pub(super) type Rx = Virtqueue<Identity, Writable<Box<[u8]>>>;
/// A transmit queue.
pub(super) type Tx = Virtqueue<Identity, Readable<Box<[u8]>>>;

/// Pings on their way at a time.
const WINDOW: u32 = 32;

/// How long each part may take, on a host that is busy.
pub(super) const PATIENCE: Duration = Duration::from_secs(Options::PAIRS_SECONDS);

/// How long a probe may take before the next one goes out, and a halt before it is looked again.
const PROBE_TIME: Duration = Duration::from_millis(200);
const NAP: Duration = Duration::from_millis(20);

/// How long after a frame its interrupt may come, on a host that is busy.
const LATE: Duration = Duration::from_secs(5);

/// Identifiers of echo requests, to which the processor's number is added.
const PROBE: u16 = 0x7600;
const COUNTED: u16 = 0x7700;

/// The interrupts of one queue pair.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    /// Those of the receive queue that arrived where they were sent.
    pub(super) receive: AtomicU64,
    /// Those of the transmit queue that arrived where they were sent.
    pub(super) transmit: AtomicU64,
    /// Those of either that arrived on another processor.
    pub(super) elsewhere: AtomicU64,
}

impl Alarm {
    /// Called by the handler of the receive queue's vector.
    pub(super) fn receive(&self, cpu: usize) {
        self.count(&self.receive, cpu);
    }

    /// Called by the handler of the transmit queue's vector.
    pub(super) fn transmit(&self, cpu: usize) {
        self.count(&self.transmit, cpu);
    }

    fn count(&self, here: &AtomicU64, cpu: usize) {
        let found = smp::index() == cpu;
        let count = if found { here } else { &self.elsewhere };
        count.fetch_add(1, Ordering::Release);
    }

    /// Those that a halt waits for.
    fn received(&self) -> u64 {
        self.receive.load(Ordering::Acquire)
    }
}

/// What the processors know together.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// The gateway's hardware address, and a bit above it once it is known.
    gateway: AtomicU64,
    /// Processors to which an answer found its way.
    settled: AtomicUsize,
    /// Processors that have all their answers, or gave up.
    over: AtomicUsize,
    /// Answers to each processor's pings that another one received.
    astray: [AtomicU64; PAIRS],
}

const KNOWN: u64 = 1 << 48;

impl Shared {
    /// Answers to the pings of that processor that went to another one.
    pub(super) fn astray(&self, cpu: usize) -> u64 {
        self.astray[cpu].load(Ordering::Relaxed)
    }

    fn learn(&self, mac: EthernetAddress) {
        let [a, b, c, d, e, f] = mac.0;
        let word = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        self.gateway.store(KNOWN | word, Ordering::Relaxed);
    }

    fn gateway(&self) -> Option<EthernetAddress> {
        let word = self.gateway.load(Ordering::Relaxed);
        let [_, _, mac @ ..] = word.to_be_bytes();
        (word & KNOWN != 0).then_some(EthernetAddress(mac))
    }
}

/// A processor's share: its halves of the card, and who it is on the network.
pub(super) struct Worker {
    pub(super) cpu: usize,
    pub(super) rx: Rx,
    pub(super) tx: Tx,
    pub(super) mac: EthernetAddress,
    /// The addresses of all processors.
    pub(super) ips: [Ipv4Address; PAIRS],
    pub(super) gateway: Ipv4Address,
    /// Pings that count.
    pub(super) wanted: u16,
    pub(super) alarm: Arc<Alarm>,
    pub(super) shared: Arc<Shared>,
}

/// What a processor counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Where it ran.
    pub(super) cpu: usize,
    pub(super) sent: u32,
    /// Answers of its own that came by its own queue, each once.
    pub(super) received: u32,
    /// Answers that came twice, or with other bytes.
    pub(super) damaged: u32,
    /// From the first ping that counts to the last answer, by the clock.
    pub(super) busy: Range<Duration>,
    /// What broke it off.
    pub(super) trouble: Option<String>,
}

/// A processor at work.
struct Work {
    own: Worker,
    tally: Tally,
    until: Duration,
    /// Which of the pings that count are answered.
    answered: Vec<bool>,
    /// The last probe that was answered.
    probe: Option<u16>,
}

impl Worker {
    /// Fills the receive queue, settles, pings, and waits for the others.
    pub(super) fn run(self) -> (Self, Tally) {
        let mut work = Work {
            tally: Tally {
                cpu: smp::index(),
                ..Tally::default()
            },
            until: clock::now() + PATIENCE,
            answered: vec![false; self.wanted.into()],
            probe: None,
            own: self,
        };
        let outcome = work.all();
        if outcome.is_err() {
            // The others are not left waiting for it.
            work.own.shared.settled.store(PAIRS, Ordering::Relaxed);
        }
        work.own.shared.over.fetch_add(1, Ordering::Relaxed);
        let outcome = outcome.and_then(|()| work.linger());
        work.tally.trouble = outcome.err();
        (work.own, work.tally)
    }

    fn me(&self) -> Station {
        Station {
            mac: self.mac,
            ip: self.ips[self.cpu],
        }
    }
}

impl Work {
    fn all(&mut self) -> Result<(), String> {
        self.own.rx.disarm();
        self.own.tx.disarm();
        while self.own.rx.free() > 0 {
            self.give(vec![0; RECEIVE].into_boxed_slice())?;
        }
        self.own.rx.kick();
        self.settle()?;
        self.pings()
    }

    /// Probes until an answer has come here, and to every other processor.
    fn settle(&mut self) -> Result<(), String> {
        let mut found = false;
        for seq in 0.. {
            if self.own.shared.settled.load(Ordering::Relaxed) >= PAIRS {
                return Ok(());
            }
            self.in_time("an answer to a probe")?;
            let me = self.own.me();
            let gateway = self.own.gateway;
            let Some(mac) = self.own.shared.gateway() else {
                self.send(frames::who_has(me, gateway))?;
                self.wait(PROBE_TIME, |work| work.own.shared.gateway().is_some())?;
                continue;
            };
            let to = Station { mac, ip: gateway };
            let ident = PROBE + self.own.cpu as u16;
            self.send(frames::request(me, to, Echo { ident, seq }))?;
            self.wait(PROBE_TIME, |work| work.probe == Some(seq))?;
            if !found && self.probe == Some(seq) {
                found = true;
                self.own.shared.settled.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// The pings that count, a window of them on their way at a time.
    fn pings(&mut self) -> Result<(), String> {
        let mac = self.own.shared.gateway().ok_or("no gateway")?;
        let to = Station {
            mac,
            ip: self.own.gateway,
        };
        let (me, wanted) = (self.own.me(), u32::from(self.own.wanted));
        let ident = COUNTED + self.own.cpu as u16;
        self.tally.busy = clock::now()..clock::now();
        loop {
            let astray = self.own.shared.astray(self.own.cpu) as u32;
            let back = self.tally.received + astray;
            self.tally.busy.end = clock::now();
            if back >= wanted {
                return Ok(());
            }
            self.in_time(&format!("{back} of {wanted} answers"))?;
            while self.tally.sent < wanted
                && self.tally.sent < back + WINDOW
                && self.own.tx.free() > 0
            {
                let seq = self.tally.sent as u16;
                self.own
                    .submit(frames::request(me, to, Echo { ident, seq }))?;
                self.tally.sent += 1;
            }
            self.own.tx.kick();
            if !self.turn()? {
                self.nap()?;
            }
        }
    }

    /// Answers the peer's questions until every processor is over, and everything has gone out.
    fn linger(&mut self) -> Result<(), String> {
        let done = |work: &Self| work.own.shared.over.load(Ordering::Relaxed) >= PAIRS;
        while !done(self) || self.own.tx.outstanding() > 0 {
            self.in_time("the others, or the last frames")?;
            if !self.turn()? {
                self.nap()?;
            }
        }
        Ok(())
    }

    fn in_time(&self, what: &str) -> Result<(), String> {
        let seen = || format!("{what} within {PATIENCE:?}");
        (clock::now() < self.until).then_some(()).ok_or_else(seen)
    }

    /// Works until `ready`, or for so long.
    fn wait(&mut self, time: Duration, ready: impl Fn(&Self) -> bool) -> Result<(), String> {
        let until = clock::now() + time;
        while !ready(self) && clock::now() < until {
            if !self.turn()? {
                self.nap()?;
            }
        }
        Ok(())
    }

    /// Halts until the receive queue interrupts, or until it is time to look at what the others do,
    /// unless something came meanwhile. A frame that the interrupt does not tell of is an error.
    fn nap(&mut self) -> Result<(), String> {
        let Worker { rx, alarm, .. } = &mut self.own;
        let seen = alarm.received();
        let interrupted = || alarm.received() != seen;
        if !rx.arm() {
            idle::wait(clock::now() + NAP, interrupted);
            if !interrupted() && rx.arm() {
                // It came as the nap ended, and its interrupt may be on the way.
                idle::wait(clock::now() + LATE, interrupted);
                if !interrupted() {
                    return Err(format!("a frame waits {LATE:?} without an interrupt"));
                }
            }
        }
        rx.disarm();
        Ok(())
    }

    /// Takes what has come, and what has gone out. Whether there was any of the first.
    fn turn(&mut self) -> Result<bool, String> {
        let drained = self.own.tx.drain(|_| {});
        drained.map_err(|fault| fault.to_string())?;
        let mut came = false;
        loop {
            let done = self.own.rx.next_completion();
            let Some(done) = done.map_err(|fault| fault.to_string())? else {
                break;
            };
            came = true;
            let written = done.written() as usize;
            let Writable(bytes) = done.into_buf();
            let seen = bytes.get(HEADER..written).map_or(Seen::Other, frames::read);
            self.give(bytes)?;
            self.take(seen)?;
        }
        if came {
            self.own.rx.kick();
        }
        Ok(came)
    }

    /// Deals with a frame.
    fn take(&mut self, seen: Seen) -> Result<(), String> {
        let cpu = self.own.cpu as u16;
        match seen {
            Seen::Answer { echo, .. } if echo.ident == PROBE + cpu => self.probe = Some(echo.seq),
            Seen::Answer { echo, intact } if echo.ident == COUNTED + cpu => {
                let place = self.answered.get_mut(usize::from(echo.seq));
                let first = place.is_some_and(|place| !core::mem::replace(place, true));
                self.tally.received += u32::from(first);
                self.tally.damaged += u32::from(!first || !intact);
            }
            Seen::Answer { echo, .. } => {
                let whose = usize::from(echo.ident.wrapping_sub(COUNTED));
                if let Some(astray) = self.own.shared.astray.get(whose) {
                    astray.fetch_add(1, Ordering::Relaxed);
                }
            }
            // The peer asks by whichever queue it likes, so each answers for all.
            Seen::WhoHas { asked, by } if self.own.ips.contains(&asked) => {
                let mac = self.own.mac;
                self.send(frames::is_at(Station { mac, ip: asked }, by))?;
            }
            Seen::IsAt(station) if station.ip == self.own.gateway => {
                self.own.shared.learn(station.mac);
            }
            Seen::WhoHas { .. } | Seen::IsAt(_) | Seen::Other => {}
        }
        Ok(())
    }

    fn give(&mut self, bytes: Box<[u8]>) -> Result<(), String> {
        let given = self.own.rx.submit(Writable(bytes));
        given
            .map(drop)
            .map_err(|rejected| format!("a receive buffer was rejected: {:?}", rejected.why))
    }

    fn send(&mut self, frame: Box<[u8]>) -> Result<(), String> {
        self.own.submit(frame)?;
        self.own.tx.kick();
        Ok(())
    }
}

impl Worker {
    fn submit(&mut self, frame: Box<[u8]>) -> Result<(), String> {
        let given = self.tx.submit(Readable(frame));
        given
            .map(drop)
            .map_err(|rejected| format!("a frame was rejected: {:?}", rejected.why))
    }
}
