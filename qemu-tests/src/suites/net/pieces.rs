//! The card over bare queues, for what the network driver has no need of: frames in several
//! pieces, with an indirect table or a chain in the ring, and queues that are reset one at a time.
//!
//! The queues carry the guest's own pings. Where the device can reset a queue, each of them is
//! reset in mid-traffic, its buffers are counted as they come back, and it goes on with another
//! size.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};
use core::array;
use core::time::Duration;

use guest_services::{Config, Pings, Progress, Services};
use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;
use vring::buffer::{Readable, Writable};
use vring::device::net::{F, RECEIVE_QUEUE, TRANSMIT_QUEUE};
use vring::features::{Feature, Features, Wish};
use vring::init::{self, Live, QueueConfig, Quiesced};
use vring::virtqueue::{Closed, Counters, Virtqueue};
use vring_protocol::{Event, Options};

use super::{HEADER, LEGACY_HEADER, LONGEST, facts, now};
use crate::kernel::clock;
use crate::kernel::platform::Identity;
use crate::kernel::transports::AnyTransport;
use crate::report::{Report, event};

const HERE: &str = "qemu-tests/src/suites/net/pieces.rs";

/// Pieces of each frame: enough for a table to pay.
const PIECES: usize = 4;

/// Bytes of the pieces of a receive buffer behind the header's: the longest frame.
const RECEIVE: [usize; PIECES - 1] = [14, 500, 1000];

/// How long it may take, on a host that is busy.
const PATIENCE: Duration = Duration::from_secs(Options::PIECES_SECONDS);

/// Times that each queue is reset.
const RESETS: u32 = 2;

/// What this page is able to use.
const WANTED: Features = Features::of(&[
    F::MAC,
    Feature::INDIRECT_DESC,
    Feature::EVENT_IDX,
    Feature::RING_PACKED,
    Feature::IN_ORDER,
    Feature::RING_RESET,
]);

type Received = [Writable<Box<[u8]>>; PIECES];
type Sent = [Readable<Box<[u8]>>; PIECES];

/// The card with its two queues. A queue is absent while it is being reset, and after a failure.
struct Bare {
    live: Live<Identity, AnyTransport>,
    header: usize,
    rx: Option<Virtqueue<Identity, Received>>,
    tx: Option<Virtqueue<Identity, Sent>>,
    indirect: u16,
    descriptors: u16,
    sizes: Vec<(u16, u16)>,
    /// What queues counted that are no more, and what came back from them.
    past: [Past; 2],
    queue_resets: u32,
    trouble: Option<String>,
}

#[derive(Clone, Copy, Default)]
struct Past {
    submitted: u64,
    completed: u64,
    returned: u64,
}

impl Past {
    fn add(&mut self, counters: Counters, returned: u64) {
        self.submitted += counters.submitted;
        self.completed += counters.completed;
        self.returned += returned;
    }
}

/// Drives the card.
pub(super) fn run(
    transport: AnyTransport,
    config: &Config,
    options: &Options,
    report: &mut Report,
) {
    let bare = Bare::start(transport, options);
    let mut bare = match bare {
        Ok(bare) => {
            report.pass("pieces_init");
            bare
        }
        Err(why) => {
            report.fail("pieces_init", "a device and two queues", &why, HERE);
            return;
        }
    };
    let config = Config {
        ping: options.pieces,
        ..*config
    };
    let can_reset = bare.live.features().has(Feature::RING_RESET);
    let pings = bare.ping(&config, can_reset);
    bare.judge(options, can_reset, pings, report);
}

impl Bare {
    fn start(transport: AnyTransport, options: &Options) -> Result<Self, String> {
        let require = facts::by_name(&options.require)?;
        let wish = Wish {
            want: WANTED,
            // The rest is asked of the network driver.
            require: require & (WANTED | Feature::VERSION_1 | Feature::ACCESS_PLATFORM),
            refuse: facts::by_name(&options.refuse)?,
            legacy: options.transport.is_legacy(),
            ..Wish::default()
        };
        let reset = init::reset(transport, &Identity).map_err(|error| error.why.to_string())?;
        let negotiated = reset.negotiate(&wish);
        let mut negotiated = negotiated.map_err(|error| error.why.to_string())?;
        let indirect = if options.indirect { PIECES as u16 } else { 0 };
        // A chain must fit.
        let size = options.queue_size.max(PIECES as u16);
        let config = QueueConfig::new(size).indirect(indirect);
        let rx = negotiated.queue(RECEIVE_QUEUE, &config);
        let tx = negotiated.queue(TRANSMIT_QUEUE, &config);
        let live = negotiated.finish();
        let live = live.map_err(|aborted| aborted.why.to_string())?;
        let (rx, tx) = match (rx, tx) {
            (Ok(rx), Ok(tx)) => (rx.start(&live), tx.start(&live)),
            (Err(why), _) | (_, Err(why)) => return Err(why.to_string()),
        };
        let (Ok(rx), Ok(tx)) = (rx, tx) else {
            return Err("a queue of another device".into());
        };
        let legacy = live.transport().is_legacy();
        let mut bare = Self {
            live,
            header: if legacy { LEGACY_HEADER } else { HEADER },
            sizes: vec![(rx.size(), tx.size())],
            rx: Some(rx),
            tx: Some(tx),
            indirect,
            descriptors: 0,
            past: [Past::default(); 2],
            queue_resets: 0,
            trouble: None,
        };
        bare.refill();
        Ok(bare)
    }

    /// Gives the device as many receive buffers as it takes.
    fn refill(&mut self) {
        let Some(rx) = &mut self.rx else { return };
        let free = rx.free();
        let [a, b, c] = RECEIVE;
        let lens = [self.header, a, b, c];
        let fresh = || lens.map(|len| Writable(vec![0; len].into_boxed_slice()));
        while rx.free() > 0 && rx.submit(fresh()).is_ok() {
            if self.descriptors == 0 {
                self.descriptors = free - rx.free();
            }
        }
        rx.kick();
    }

    /// Pings until all are answered or given up, and resets queues in between.
    fn ping(&mut self, config: &Config, can_reset: bool) -> Option<Pings> {
        let mut services = Services::new(config, self, now());
        let until = clock::now() + PATIENCE;
        let steps = 2 * RESETS + 1;
        while clock::now() < until && self.trouble.is_none() {
            let progress = services.poll(now(), self);
            let pings = services.pings();
            if pings.is_some() || matches!(progress, Progress::Finished | Progress::GaveUp) {
                return pings;
            }
            let due = services.pings_sent() * steps / config.ping.max(1);
            if can_reset && due > self.queue_resets && self.queue_resets < 2 * RESETS {
                self.reset_one();
                services.forgive_ping();
            }
        }
        None
    }

    /// Resets a queue in mid-traffic, receive and transmit in turn, and goes on with half its size
    /// or its first size.
    fn reset_one(&mut self) {
        let (first_rx, first_tx) = self.sizes[0];
        let (last_rx, last_tx) = self.sizes[self.sizes.len() - 1];
        let other = |first: u16, last: u16| {
            let half = first / 2;
            if last == first && half >= PIECES as u16 {
                half
            } else {
                first
            }
        };
        let outcome = if self.queue_resets.is_multiple_of(2) {
            let size = other(first_rx, last_rx);
            let Self {
                live,
                rx,
                past,
                indirect,
                ..
            } = self;
            let [past, _] = past;
            again(live, rx, past, size, *indirect).map(|size| (size, last_tx))
        } else {
            let size = other(first_tx, last_tx);
            let Self {
                live,
                tx,
                past,
                indirect,
                ..
            } = self;
            let [_, past] = past;
            again(live, tx, past, size, *indirect).map(|size| (last_rx, size))
        };
        match outcome {
            Ok(sizes) => self.sizes.push(sizes),
            Err(why) => self.trouble = Some(why),
        }
        self.queue_resets += 1;
        self.refill();
    }

    fn judge(
        mut self,
        options: &Options,
        can_reset: bool,
        pings: Option<Pings>,
        report: &mut Report,
    ) {
        let features = self.live.features();
        let table = options.indirect && features.has(Feature::INDIRECT_DESC);
        let expected = if table { 1 } else { PIECES as u16 };
        report.check(
            "pieces_chains",
            self.descriptors == expected,
            &format!("{expected} descriptors of the ring for {PIECES} pieces"),
            &format!("{}", self.descriptors),
            HERE,
        );
        let (sent, received) = pings.map_or((0, 0), |pings| (pings.sent, pings.received));
        report.check(
            "pieces_ping",
            sent == options.pieces && received + self.queue_resets >= sent,
            "every ping answered, but for one with each queue that was reset",
            &format!(
                "{pings:?}, {} queues reset, {:?}",
                self.queue_resets, self.trouble
            ),
            HERE,
        );
        let running = self.past;
        if can_reset {
            let kept = |past: &Past| past.submitted == past.completed + past.returned;
            let [rx, tx] = &running;
            report.check(
                "pieces_queue_reset",
                self.trouble.is_none()
                    && self.queue_resets == 2 * RESETS
                    && kept(rx)
                    && kept(tx)
                    && rx.returned > 0,
                "queues that are reset give their buffers back and go on with another size",
                &format!(
                    "{:?}, {} reset, sizes {:?}",
                    self.trouble, self.queue_resets, self.sizes
                ),
                HERE,
            );
        }
        let happened = Event::Pieces {
            acked: facts::names(features),
            sent,
            received,
            descriptors: self.descriptors,
            sizes: core::mem::take(&mut self.sizes),
            queue_resets: self.queue_resets,
            returned: running.iter().map(|past| past.returned).sum(),
        };
        self.end(report);
        event(&happened);
    }

    /// Resets the card and accounts for every buffer.
    fn end(self, report: &mut Report) {
        let faults = [
            self.rx
                .as_ref()
                .map(|rx| (rx.fault(), rx.counters().overruns)),
            self.tx
                .as_ref()
                .map(|tx| (tx.fault(), tx.counters().overruns)),
        ];
        report.check(
            "pieces_no_faults",
            faults.iter().all(|queue| *queue == Some((None, 0))),
            "two queues, and a device that keeps to the specification",
            &format!("{faults:?}"),
            HERE,
        );
        let Self {
            live, rx, tx, past, ..
        } = self;
        let [mut received, mut sent] = past;
        let proof = live.reset().map(|(_, proof)| proof);
        let good = proof
            .as_ref()
            .is_ok_and(|proof| settle(rx, proof, &mut received) && settle(tx, proof, &mut sent));
        let kept = |past: Past| past.submitted == past.completed + past.returned;
        report.check(
            "pieces_every_buffer_came_back",
            good && kept(received) && kept(sent) && received.submitted > 0 && sent.submitted > 0,
            "submitted = completed + returned by a reset",
            &format!(
                "{} = {} + {} and {} = {} + {}",
                received.submitted,
                received.completed,
                received.returned,
                sent.submitted,
                sent.completed,
                sent.returned
            ),
            HERE,
        );
    }
}

/// Resets a queue and makes it anew, with another size.
fn again<B: vring::buffer::DmaBuf>(
    live: &mut Live<Identity, AnyTransport>,
    queue: &mut Option<Virtqueue<Identity, B>>,
    past: &mut Past,
    size: u16,
    indirect: u16,
) -> Result<u16, String> {
    let old = queue.take().ok_or("no queue")?;
    let counters = old.counters();
    let (closed, proof) = live.reset_queue(old).map_err(|error| {
        *queue = Some(error.queue);
        error.why.to_string()
    })?;
    past.add(counters, count(closed));
    let config = QueueConfig::new(size).indirect(indirect);
    let new = live.queue(proof, &config).map_err(|why| why.to_string())?;
    let size = new.size();
    *queue = Some(new);
    Ok(size)
}

fn count<B: vring::buffer::DmaBuf>(closed: Closed<Identity, B>) -> u64 {
    closed.map(|_| 1).sum()
}

fn settle<B: vring::buffer::DmaBuf>(
    queue: Option<Virtqueue<Identity, B>>,
    proof: &Quiesced,
    past: &mut Past,
) -> bool {
    let Some(queue) = queue else { return false };
    let counters = queue.counters();
    let closed = queue.close(proof).map(count);
    past.add(counters, *closed.as_ref().unwrap_or(&0));
    closed.is_ok()
}

/// A received frame, without the device's header.
pub(super) struct RxToken(Vec<u8>);

/// The right to send a frame.
pub(super) struct TxToken<'a>(&'a mut Bare);

impl phy::RxToken for RxToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let header = self.0.header;
        let mut bytes = vec![0; header + len];
        let result = f(&mut bytes[header..]);
        // The device's header, the destination, half of the rest, and the rest.
        let addressed = header + 6;
        let half = addressed + (bytes.len() - addressed) / 2;
        let ends = [header, addressed, half, bytes.len()];
        let frame: Sent = array::from_fn(|i| {
            let start = i.checked_sub(1).map_or(0, |before| ends[before]);
            Readable(bytes[start..ends[i]].into())
        });
        if let Some(tx) = &mut self.0.tx {
            if let Err(rejected) = tx.submit(frame) {
                self.0.trouble = Some(format!("a frame was rejected: {:?}", rejected.why));
            } else {
                tx.kick();
            }
        }
        result
    }
}

impl phy::Device for Bare {
    type RxToken<'a> = RxToken;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken, TxToken<'_>)> {
        if !self.has_room() {
            return None;
        }
        let Self {
            rx,
            trouble,
            header,
            ..
        } = self;
        let (rx, header) = (rx.as_mut()?, *header);
        let (written, pieces) = match rx.next_completion() {
            Ok(done) => done.map(|done| (done.written() as usize, done.into_buf()))?,
            Err(fault) => {
                *trouble = Some(fault.to_string());
                return None;
            }
        };
        let mut frame: Vec<u8> = pieces
            .iter()
            .flat_map(|piece| piece.0.iter().copied())
            .collect();
        frame.truncate(written);
        frame.drain(..header.min(written));
        if rx.submit(pieces).is_err() {
            *trouble = Some("a receive buffer was not taken again".into());
        }
        rx.kick();
        Some((RxToken(frame), TxToken(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        self.has_room().then_some(TxToken(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = LONGEST;
        capabilities
    }
}

impl Bare {
    /// Takes back what went out; whether another frame finds room.
    fn has_room(&mut self) -> bool {
        let Self {
            tx,
            trouble,
            descriptors,
            ..
        } = self;
        let Some(tx) = tx else { return false };
        if let Err(fault) = tx.drain(|_| {}) {
            *trouble = Some(fault.to_string());
        }
        tx.free() >= *descriptors
    }
}
