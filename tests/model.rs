//! A queue against the simplest model of one: lists of numbers.
//!
//! Driver and device do random steps in one thread. After each step the queue is what the lists
//! say: nothing is lost, nothing comes twice, bytes and lengths are right, a kick that is due is
//! sent and one that is not is not, and an interrupt that was asked for is not missed. The fake
//! device is strict all the while.
//!
//! One macro does it on every ring: split, packed, each with indirect tables and in order, with and
//! without event indices; on every platform; with indices that start anywhere, and often just in
//! front of their wrap.

#[path = "support/queue.rs"]
mod rig;
mod support;

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use vring::features::Feature;
use vring::init::QueueConfig;
use vring::platform::Direction;
use vring::testing::{Bouncing, Chain, Discontiguous, Fake, InPlace, Kind};
use vring::virtqueue::{Reject, Ticket};

use rig::{Chunks, R, Rig, TABLE, W, config, pattern, scaled};
use support::{Q, Ring, start};

/// Bytes of a header cell and of a reply cell.
const CELLS: (u16, u16) = (5, 3);

#[derive(Clone, Debug)]
enum Step {
    /// Submits one: lengths of readable and of writable segments.
    Submit(Vec<usize>, Vec<usize>),
    /// Submits one with so many bytes of header, and a reply.
    SubmitWith(usize, Vec<usize>, Vec<usize>),
    /// Submits some in one burst.
    Burst(Vec<(Vec<usize>, Vec<usize>)>),
    /// Makes the next map fail, where there is one.
    FailMap(u32),
    Publish,
    Kick,
    Arm,
    ArmDelayed,
    Disarm,
    Next,
    Drain,
    /// The device takes some.
    Take(usize),
    /// The device returns one of those that it has: which, the bytes that it writes, by how much
    /// it lies about them. It publishes them now or later.
    Return(usize, usize, i64, bool),
    /// The device returns so many at once: in order by one element, which tells the bytes of the
    /// last of them.
    ReturnBatch(usize, usize),
    /// The device makes visible what it returned.
    DevicePublish,
    /// The device wants kicks, does not want them, wants one after so many more.
    EnableKicks,
    DisableKicks,
    KickAfter(u16),
    /// The driver resets the queue and sets it up again, of another size.
    ResetQueue(u16),
    /// The driver resets the device and starts it again.
    ResetDevice,
}

fn lens() -> impl Strategy<Value = Vec<usize>> {
    vec(prop_oneof![9 => 1_usize..40, 1 => 40_usize..200], 0..4)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (lens(), lens()).prop_map(|(r, w)| Step::Submit(r, w)),
        3 => (0..=usize::from(CELLS.0), lens(), lens())
            .prop_map(|(h, r, w)| Step::SubmitWith(h, r, w)),
        3 => vec((lens(), lens()), 0..6).prop_map(Step::Burst),
        1 => (1_u32..4).prop_map(Step::FailMap),
        3 => Just(Step::Publish),
        6 => Just(Step::Kick),
        3 => Just(Step::Arm),
        2 => Just(Step::ArmDelayed),
        2 => Just(Step::Disarm),
        4 => Just(Step::Next),
        3 => Just(Step::Drain),
        5 => (1_usize..5).prop_map(Step::Take),
        8 => (any::<usize>(), 0_usize..100, prop_oneof![4 => Just(0), 1 => -50..2_000_i64], any::<bool>())
            .prop_map(|(i, n, lie, now)| Step::Return(i, n, lie, now)),
        3 => (1_usize..6, 0_usize..100).prop_map(|(n, bytes)| Step::ReturnBatch(n, bytes)),
        2 => Just(Step::DevicePublish),
        2 => Just(Step::EnableKicks),
        1 => Just(Step::DisableKicks),
        1 => (0_u16..6).prop_map(Step::KickAfter),
    ]
}

/// Sizes of a ring: the largest is costly, and rare.
fn size(ring: Ring) -> impl Strategy<Value = u16> + Clone {
    let small = ring.sizes(&[1, 2, 3, 7, 8, 16, 200, 256]);
    prop_oneof![30 => prop::sample::select(small), 1 => Just(32_768_u16)]
}

fn steps(ring: Ring) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        100 => step(),
        2 => size(ring).prop_map(Step::ResetQueue),
        1 => Just(Step::ResetDevice),
    ];
    vec(step, 0..scaled(150, 40))
}

/// A buffer in the queue, as the model has it.
#[derive(Debug)]
struct Sent {
    number: u64,
    slot: u16,
    /// Bursts tell no tickets.
    ticket: Option<Ticket>,
    descriptors: u16,
    header: usize,
    writable: usize,
    reply: bool,
}

/// A buffer that the device returned.
#[derive(Debug)]
struct Back {
    sent: Sent,
    /// Bytes that the device wrote.
    wrote: usize,
    claimed: u32,
    /// What it wrote into the reply cell, and ones.
    reply: [u8; CELLS.1 as usize],
    /// The device said nothing of it.
    assumed: bool,
}

impl Sent {
    /// Bytes that the device may write.
    fn room(&self) -> usize {
        self.writable + if self.reply { CELLS.1.into() } else { 0 }
    }
}

/// The driver sleeps until it is interrupted.
struct Armed {
    /// It must be at the latest when so much more has come back, which is all that was with the
    /// device: chains of a split ring, descriptors of a packed one.
    left: usize,
    /// It must be when exactly so much more has, where that is known.
    exactly: Option<usize>,
}

struct Model<K: Kind> {
    rig: Rig<K>,
    ring: Ring,
    config: QueueConfig,
    /// With the driver, in the order of submission.
    unpublished: VecDeque<Sent>,
    /// Visible to the device.
    published: VecDeque<Sent>,
    /// With the device.
    taken: Vec<(Chain, Sent)>,
    /// Returned, not visible.
    unseen: VecDeque<Back>,
    /// Returned and visible.
    seen: VecDeque<Back>,
    /// Chains that were published and for which no kick was considered, and their descriptors.
    unkicked: usize,
    unkicked_descriptors: usize,
    /// The device has changed its mind about kicks since then.
    late: bool,
    /// Kicks that were not wanted.
    needless: usize,
    armed: Option<Armed>,
    /// Interrupts are disabled, so that none should come.
    disarmed: bool,
    submitted: u64,
    completed: u64,
    overruns: u64,
}

impl<K: Kind> Model<K> {
    fn new(platform: &Fake<K>, ring: Ring, size: u16, start: u16) -> Self {
        let mut config = config(size, start).cells(CELLS.0, CELLS.1);
        if ring.is_indirect() {
            config = config.indirect(TABLE);
        }
        let features = ring.features.with(Feature::RING_RESET);
        Self::of(Rig::new(platform, features, &config), ring, config)
    }

    /// A queue that has just been set up.
    fn of(rig: Rig<K>, ring: Ring, config: QueueConfig) -> Self {
        Self {
            rig,
            ring,
            config,
            unpublished: VecDeque::new(),
            published: VecDeque::new(),
            taken: Vec::new(),
            unseen: VecDeque::new(),
            seen: VecDeque::new(),
            unkicked: 0,
            unkicked_descriptors: 0,
            late: false,
            needless: 0,
            armed: None,
            disarmed: true,
            submitted: 0,
            completed: 0,
            overruns: 0,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Submit(readable, writable) => self.submit(None, &readable, &writable),
            Step::SubmitWith(header, readable, writable) => {
                self.submit(Some(header), &readable, &writable);
            }
            Step::Burst(shapes) => self.burst(&shapes),
            Step::FailMap(nth) => self.rig.platform.fail_nth_map(nth),
            Step::Publish => self.publish(),
            Step::Kick => self.kick(),
            Step::Arm => self.arm(),
            Step::ArmDelayed => self.arm_delayed(),
            Step::Disarm => {
                self.rig.queue.disarm();
                (self.armed, self.disarmed) = (None, true);
            }
            Step::Next => self.next(),
            Step::Drain => self.drain(),
            Step::Take(n) => self.take(n),
            Step::Return(which, bytes, lie, now) => self.give_back(which, bytes, lie, now),
            Step::ReturnBatch(n, bytes) => self.give_back_batch(n, bytes),
            Step::DevicePublish => self.device_publish(),
            Step::EnableKicks => self.enable_kicks(),
            Step::DisableKicks => {
                self.enable_kicks();
                self.rig
                    .device
                    .with_queue(Q, |queue| queue.disable_notifications());
            }
            Step::KickAfter(more) => self.kick_after(more),
            // `play` takes the model for these.
            Step::ResetQueue(_) | Step::ResetDevice => {}
        }
        self.check();
    }

    fn make(&mut self, readable: &[usize], writable: &[usize]) -> Chunks {
        let shape: Vec<(Direction, usize)> = readable
            .iter()
            .map(|&len| (R, len))
            .chain(writable.iter().map(|&len| (W, len)))
            .collect();
        self.rig.maker.chunks(&shape)
    }

    fn submit(&mut self, header: Option<usize>, readable: &[usize], writable: &[usize]) {
        let buf = self.make(readable, writable);
        let number = buf.number;
        let cells = header.map_or(0, |len| 1 + usize::from(len != 0));
        let segments = readable.len() + writable.len();
        let before = self.rig.snapshot();
        let free = self.rig.queue.free();
        let outcome = match header {
            None => self.rig.queue.submit(buf),
            Some(len) => self
                .rig
                .queue
                .submit_with(&vec![number as u8; len][..], buf),
        };
        match outcome {
            Ok(ticket) => {
                let pieces = segments + cells;
                assert!(pieces >= 1);
                let fits = match self.ring.is_indirect() {
                    true => free >= 1 && pieces <= usize::from(free.max(self.table())),
                    false => pieces <= usize::from(free),
                };
                assert!(fits);
                let writable = writable.iter().sum();
                self.enter(number, ticket, free, segments + cells, writable, header);
            }
            Err(rejected) => {
                assert_eq!(rejected.buf.number, number);
                rejected.buf.check(0);
                assert_eq!(self.rig.snapshot(), before, "{:?}", rejected.why);
                self.may_reject(rejected.why, segments + cells);
            }
        }
    }

    /// Whether the reason is one that there can be.
    fn may_reject(&self, why: Reject, wanted: usize) {
        let (free, size) = (self.rig.queue.free(), self.rig.queue.size());
        match why {
            Reject::Empty { index: 0 } => assert_eq!(wanted, 0),
            Reject::Full { needed, free: told } => {
                assert_eq!(told, free);
                assert!(needed > usize::from(free) || wanted == 0);
                // What a table could not take is counted up to where the ring ends.
                assert!(needed <= usize::from(size));
                assert!(needed >= wanted || self.ring.is_indirect());
            }
            Reject::TooManySegments { needed, most: told } => {
                assert_eq!(told, size);
                assert!(needed > usize::from(size) && needed >= wanted);
            }
            Reject::Map(_) => {} // which was made to fail
            why => panic!("{why:?}"),
        }
    }

    /// Descriptors of an indirect table.
    fn table(&self) -> u16 {
        TABLE.min(self.rig.queue.size())
    }

    /// So many descriptors for so many chains of at least so many pieces.
    fn plausible(&self, descriptors: usize, chains: usize, pieces: usize) {
        assert!(
            descriptors
                >= if self.ring.is_indirect() {
                    chains
                } else {
                    pieces
                }
        );
    }

    fn enter(
        &mut self,
        number: u64,
        ticket: Ticket,
        free: u16,
        least: usize,
        writable: usize,
        header: Option<usize>,
    ) {
        let descriptors = free - self.rig.queue.free();
        self.plausible(usize::from(descriptors), 1, least);
        let all = self.unpublished.iter().chain(&self.published);
        let all = all.chain(self.taken.iter().map(|(_, sent)| sent));
        let mut all = all.chain(self.unseen.iter().chain(&self.seen).map(|back| &back.sent));
        assert!(all.all(|sent| sent.slot != ticket.slot()), "two in a slot");
        self.submitted += 1;
        self.unpublished.push_back(Sent {
            number,
            slot: ticket.slot(),
            ticket: Some(ticket),
            descriptors,
            header: header.unwrap_or(0),
            writable,
            reply: header.is_some(),
        });
    }

    fn burst(&mut self, shapes: &[(Vec<usize>, Vec<usize>)]) {
        // What a burst does is what the single calls would have done; it tells no tickets, which
        // are known from the device's side.
        let bufs: Vec<_> = shapes.iter().map(|(r, w)| self.make(r, w)).collect();
        let facts: Vec<_> = bufs
            .iter()
            .map(|buf| (buf.number, buf.bytes(W).len()))
            .collect();
        let mut source = bufs.into_iter();
        let before = self.rig.queue.free();
        let (submitted, error) = match self.rig.queue.submit_burst(&mut source) {
            Ok(submitted) => (submitted, None),
            Err(error) => (error.submitted, Some(error.rejected)),
        };
        let taken = shapes.len() - source.len();
        assert_eq!(taken, submitted + usize::from(error.is_some()));
        match error {
            Some(rejected) => {
                assert_eq!(rejected.buf.number, facts[submitted].0);
                let (r, w) = &shapes[submitted];
                self.may_reject(rejected.why, r.len() + w.len());
            }
            None => assert!(source.len() == 0 || self.rig.queue.free() == 0),
        }
        let least: usize = shapes[..submitted]
            .iter()
            .map(|(r, w)| r.len() + w.len())
            .sum();
        self.plausible(
            usize::from(before - self.rig.queue.free()),
            submitted,
            least,
        );
        self.submitted += submitted as u64;
        // Publish at once, so that the device tells how long the chains are and where they start.
        self.publish();
        let device = self.rig.device.clone();
        let chains: Vec<Chain> = device
            .with_queue(Q, |queue| std::iter::from_fn(|| queue.pop()).collect())
            .unwrap();
        let (old, new) = (self.published.len(), submitted);
        assert_eq!(chains.len(), old + new);
        for (i, chain) in chains.into_iter().enumerate() {
            let sent = match self.published.pop_front() {
                Some(sent) => sent,
                None => {
                    let (number, writable) = facts[i - old];
                    self.unkicked += 1;
                    self.unkicked_descriptors += usize::from(chain.descriptors());
                    Sent {
                        number,
                        slot: chain.head(),
                        ticket: None,
                        descriptors: chain.descriptors(),
                        header: 0,
                        writable,
                        reply: false,
                    }
                }
            };
            self.hold(chain, sent);
        }
    }

    fn hold(&mut self, chain: Chain, sent: Sent) {
        assert_eq!(chain.head(), sent.slot);
        assert_eq!(chain.descriptors(), sent.descriptors);
        let pieces = chain.segments().len();
        let in_table = self.ring.is_indirect() && sent.descriptors == 1;
        assert!(in_table || pieces == usize::from(sent.descriptors));
        assert_eq!(chain.writable() as usize, sent.room());
        let read = self
            .rig
            .device
            .with_queue(Q, |queue| queue.read(&chain))
            .unwrap();
        let (header, read) = read.split_at(sent.header);
        assert_eq!(header, vec![sent.number as u8; sent.header]);
        let expected: Vec<u8> = pattern(sent.number).take(read.len()).collect();
        assert_eq!(read, expected);
        self.taken.push((chain, sent));
    }

    fn publish(&mut self) {
        self.rig.queue.publish();
        self.published();
    }

    fn published(&mut self) {
        self.unkicked += self.unpublished.len();
        let of = |sent: &Sent| usize::from(sent.descriptors);
        self.unkicked_descriptors += self.unpublished.iter().map(of).sum::<usize>();
        self.published.append(&mut self.unpublished);
    }

    fn kick(&mut self) {
        let before = self.rig.device.kicks(Q);
        self.rig.queue.kick();
        self.published();
        let kicks = self.rig.device.kicks(Q) - before;
        assert!(kicks <= self.unkicked.min(1), "one, and for something new");
        self.unkicked = 0;
        // A whole lap of a packed ring passes every event.
        let descriptors = std::mem::take(&mut self.unkicked_descriptors);
        self.late |= self.ring.is_packed() && descriptors >= usize::from(self.rig.queue.size());
        let needless = self.rig.device.with_queue(Q, |queue| {
            assert!(!queue.owes_kick(), "a kick was due");
            queue.needless_kicks()
        });
        // For what was published before the device said anew what it wants, one may come late.
        let before = std::mem::replace(&mut self.needless, needless.unwrap());
        assert!(
            self.needless <= before + usize::from(self.late),
            "a kick was not wanted"
        );
        self.late = false;
    }

    fn arm(&mut self) {
        let raced = self.rig.queue.arm();
        assert_eq!(raced, !self.seen.is_empty());
        self.sleep(raced, Some(0));
    }

    fn arm_delayed(&mut self) {
        let seen = self.seen.len();
        let with_device = self.published.len() + self.taken.len() + self.unseen.len();
        let ahead = match self.ring.has_events() {
            true => (with_device + seen) * 3 / 4,
            false => 0,
        };
        let raced = self.rig.queue.arm_delayed();
        if self.ring.is_packed() {
            assert_eq!(raced, seen != 0);
            self.sleep(raced, None);
        } else {
            // A batch that is taken in part is work that is there.
            let work = raced && seen != 0 && self.ring.is_in_order();
            assert!(raced == (seen > ahead) || work);
            self.sleep(raced, Some(ahead.saturating_sub(seen)));
        }
    }

    fn sleep(&mut self, raced: bool, exactly: Option<usize>) {
        let taken = self.taken.iter().map(|(_, sent)| sent);
        let with_device = self.published.iter().chain(taken);
        let with_device = with_device.chain(self.unseen.iter().map(|back| &back.sent));
        let left = with_device.map(|sent| self.weight(sent)).sum();
        self.armed = (!raced).then_some(Armed { left, exactly });
        self.disarmed = false;
    }

    /// What an event counts.
    fn weight(&self, sent: &Sent) -> usize {
        match self.ring.is_packed() {
            true => sent.descriptors.into(),
            false => 1,
        }
    }

    fn take(&mut self, n: usize) {
        for _ in 0..n {
            let chain = self.rig.device.with_queue(Q, |queue| queue.pop()).unwrap();
            match (chain, self.published.pop_front()) {
                (Some(chain), Some(sent)) => self.hold(chain, sent),
                (None, None) => break,
                (chain, sent) => panic!("the device has {chain:?}, where {sent:?} is due"),
            }
        }
    }

    fn give_back(&mut self, which: usize, bytes: usize, lie: i64, now: bool) {
        if !self.taken.is_empty() {
            let in_order = self.ring.is_in_order();
            let at = if in_order {
                0
            } else {
                which % self.taken.len()
            };
            let (chain, sent) = self.taken.remove(at);
            let mut back = self.answer(&chain, sent, bytes);
            back.claimed = (back.wrote as i64 + lie).clamp(0, u32::MAX.into()) as u32;
            let claimed = back.claimed;
            self.rig
                .device
                .with_queue(Q, |queue| queue.push(chain, claimed));
            self.unseen.push_back(back);
        }
        if now {
            self.device_publish();
        }
    }

    /// The device writes its answer.
    fn answer(&self, chain: &Chain, sent: Sent, bytes: usize) -> Back {
        let bytes: Vec<u8> = answer_to(sent.number).take(bytes).collect();
        let wrote = self
            .rig
            .device
            .with_queue(Q, |queue| queue.write(chain, &bytes));
        let wrote = wrote.unwrap() as usize;
        let mut reply = [0xff; CELLS.1 as usize];
        // What spills over from the buffer lands in the reply.
        let spilt = bytes[..wrote].iter().skip(sent.writable);
        reply
            .iter_mut()
            .zip(spilt)
            .for_each(|(to, byte)| *to = *byte);
        Back {
            claimed: wrote as u32,
            sent,
            wrote,
            reply,
            assumed: false,
        }
    }

    fn give_back_batch(&mut self, n: usize, bytes: usize) {
        if !self.ring.is_in_order() {
            (0..n).for_each(|which| self.give_back(which, bytes, 0, false));
            return self.device_publish();
        }
        let mut chains = Vec::new();
        let mut backs = Vec::new();
        for (chain, sent) in self
            .taken
            .drain(..n.min(self.taken.len()))
            .collect::<Vec<_>>()
        {
            backs.push(self.answer(&chain, sent, bytes));
            chains.push(chain);
        }
        let Some(last) = backs.len().checked_sub(1) else {
            return;
        };
        let claimed = backs[last].claimed;
        self.rig
            .device
            .with_queue(Q, |queue| queue.push_batch(chains, claimed));
        for back in &mut backs[..last] {
            back.assumed = true;
            back.claimed = back.sent.room() as u32;
        }
        self.unseen.extend(backs);
        self.device_publish();
    }

    fn device_publish(&mut self) {
        let interrupt = self.rig.device.with_queue(Q, |queue| {
            queue.publish();
            queue.should_interrupt()
        });
        let news = self.unseen.iter().map(|back| self.weight(&back.sent));
        let news: usize = news.sum();
        self.seen.append(&mut self.unseen);
        let interrupt = interrupt == Some(true);
        assert!(news != 0 || !interrupt);
        if let Some(Armed { left, exactly }) = self.armed.take() {
            if let Some(ahead) = exactly {
                assert_eq!(interrupt, news > ahead, "{news} came back, after {ahead}");
            }
            let woken = interrupt || left > news || news == 0;
            assert!(woken, "the driver sleeps, and is not woken");
            // An event is told once; flags stay.
            if !interrupt || !self.ring.has_events() {
                let left = left.saturating_sub(news);
                let exactly = exactly.map(|ahead| ahead.saturating_sub(news));
                self.armed = Some(Armed { left, exactly });
            }
        }
        if self.disarmed {
            assert!(!interrupt, "it was asked for none");
        }
    }

    fn enable_kicks(&mut self) {
        self.late |= self.unkicked != 0;
        // As a device does it: what came meanwhile is taken, until nothing has.
        while self
            .rig
            .device
            .with_queue(Q, |queue| queue.enable_notifications())
            == Some(true)
        {
            self.take(usize::MAX);
        }
    }

    fn kick_after(&mut self, more: u16) {
        // Without event indices, `avail_event` is nothing; a packed ring's structure is not.
        if self.ring.is_packed() && !self.ring.has_events() {
            return;
        }
        self.enable_kicks();
        self.take(usize::MAX);
        self.rig
            .device
            .with_queue(Q, |queue| queue.kick_after(more));
    }

    fn next(&mut self) {
        let done = self.rig.queue.next_completion().unwrap();
        let Some(back) = self.seen.pop_front() else {
            assert!(done.is_none());
            return;
        };
        let done = done.unwrap();
        expect(&back, &done);
        let buf = done.into_buf();
        self.completed(&back, &buf);
    }

    fn drain(&mut self) {
        let mut bufs = Vec::new();
        let (seen, queue) = (&self.seen, &mut self.rig.queue);
        let count = queue.drain(|done| {
            expect(&seen[bufs.len()], &done);
            bufs.push(done.into_buf());
        });
        assert_eq!(count, Ok(self.seen.len()));
        assert_eq!(bufs.len(), self.seen.len());
        for buf in bufs {
            let back = self.seen.pop_front().unwrap();
            self.completed(&back, &buf);
        }
    }

    fn completed(&mut self, back: &Back, buf: &Chunks) {
        assert_eq!(buf.number, back.sent.number);
        let copied = back.wrote.min(back.claimed as usize);
        let copied = copied.min(back.sent.writable);
        let expected: Vec<u8> = answer_to(buf.number).take(copied).collect();
        assert_eq!(buf.bytes(W)[..copied], expected);
        let sent = buf.bytes(R);
        assert!(pattern(buf.number).take(sent.len()).eq(sent));
        self.completed += 1;
        self.overruns += u64::from(back.claimed as usize > back.sent.room());
    }

    fn check(&self) {
        let queue = &self.rig.queue;
        let all = self.unpublished.iter().chain(&self.published);
        let all = all.chain(self.taken.iter().map(|(_, sent)| sent));
        let all = all.chain(self.unseen.iter().chain(&self.seen).map(|back| &back.sent));
        let (mut count, mut descriptors) = (0, 0);
        for sent in all {
            count += 1;
            descriptors += sent.descriptors;
        }
        assert_eq!(queue.outstanding(), count);
        assert_eq!(queue.free(), queue.size() - descriptors);
        let counters = queue.counters();
        assert_eq!(counters.submitted, self.submitted);
        assert_eq!(counters.completed, self.completed);
        assert_eq!(counters.overruns, self.overruns);
        assert_eq!(counters.faults, 0);
        assert_eq!(self.rig.maker.alive(), usize::from(count));
        self.rig.device.assert_clean();
    }

    /// The numbers of all buffers in the queue, sorted.
    fn numbers(&self) -> Vec<u64> {
        let all = self.unpublished.iter().chain(&self.published);
        let all = all.chain(self.taken.iter().map(|(_, sent)| sent));
        let all = all.chain(self.unseen.iter().chain(&self.seen).map(|back| &back.sent));
        let mut numbers: Vec<u64> = all.map(|sent| sent.number).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Resets the queue: exactly the buffers that the model has come back, and it works again.
    fn reset_queue(self, size: u16) -> Self {
        let expected = self.numbers();
        let Self {
            rig,
            ring,
            mut config,
            ..
        } = self;
        let Rig {
            platform,
            device,
            mut live,
            queue,
            maker,
        } = rig;
        let (closed, proof) = live.reset_queue(queue).unwrap();
        came_back(closed, &expected);
        assert_eq!(maker.alive(), 0);
        config.size = size;
        let queue = live.queue(proof, &config).unwrap();
        assert_eq!(queue.size(), size);
        let rig = Rig {
            platform,
            device,
            live,
            queue,
            maker,
        };
        Self::of(rig, ring, config)
    }

    /// Resets the device: exactly the buffers that the model has come back, and it works again.
    fn reset_device(self) -> Self {
        let expected = self.numbers();
        let Self {
            rig, ring, config, ..
        } = self;
        let Rig {
            platform,
            device,
            live,
            queue,
            maker,
        } = rig;
        came_back(support::stop(live, queue), &expected);
        assert_eq!(maker.alive(), 0);
        platform.assert_no_leaks();
        let (live, queue) = start(&platform, &device, &config);
        let rig = Rig {
            platform,
            device,
            live,
            queue,
            maker,
        };
        Self::of(rig, ring, config)
    }

    /// Resets the device for good.
    fn finish(self) {
        let expected = self.numbers();
        came_back(support::stop(self.rig.live, self.rig.queue), &expected);
        assert_eq!(self.rig.maker.alive(), 0);
        self.rig.device.assert_clean();
        self.rig.platform.assert_no_leaks();
    }
}

/// These buffers, and no others.
fn came_back(bufs: impl IntoIterator<Item = Chunks>, expected: &[u64]) {
    let mut came: Vec<u64> = bufs.into_iter().map(|buf| buf.number).collect();
    came.sort_unstable();
    assert_eq!(came, expected);
}

/// What the completion has to say.
fn expect(back: &Back, done: &vring::virtqueue::Completion<'_, Chunks>) {
    let room = back.sent.room();
    assert_eq!(done.is_assumed(), back.assumed);
    assert_eq!(done.ticket().slot(), back.sent.slot);
    assert!(
        back.sent
            .ticket
            .is_none_or(|ticket| ticket == done.ticket())
    );
    assert_eq!(done.claimed(), back.claimed);
    assert_eq!(done.written() as usize, room.min(back.claimed as usize));
    let reply: Option<[u8; CELLS.1 as usize]> = done.reply();
    assert_eq!(reply, back.sent.reply.then_some(back.reply));
}

/// What the device writes.
fn answer_to(number: u64) -> impl Iterator<Item = u8> {
    pattern(number + 1_000_000)
}

fn play<K: Kind>(platform: &Fake<K>, ring: Ring, size: u16, start: u16, steps: Vec<Step>) {
    let mut model = Model::new(platform, ring, size, start);
    for step in steps {
        match step {
            Step::ResetQueue(size) => model = model.reset_queue(size),
            Step::ResetDevice => model = model.reset_device(),
            step => model.step(step),
        }
    }
    model.finish();
}

fn agrees<K: Kind>(ring: Ring, make: impl Fn() -> Fake<K>) {
    let mut runner = TestRunner::new(ProptestConfig {
        cases: scaled(60, 1) as u32,
        max_shrink_iters: 2000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(7),
        ..ProptestConfig::default()
    });
    let starts = prop_oneof![Just(0_u16), 65_500_u16..=65_535, any::<u16>()];
    let outcome = runner.run(
        &(size(ring), starts, steps(ring)),
        |(size, start, steps)| {
            play(&make(), ring, size, start, steps);
            Ok(())
        },
    );
    outcome.unwrap_or_else(|error| panic!("{}: {error}", ring.features));
}

/// A queue is what the model says: on each platform, for each ring of [`Ring::ALL`].
macro_rules! a_queue_is_what_the_model_says {
    ($($ring:ident: $number:literal;)*) => {$(
        mod $ring {
            use super::*;

            const RING: Ring = Ring::EVERY[$number];

            #[test]
            fn in_place() {
                agrees(RING, InPlace::new);
            }

            #[test]
            fn where_buffers_are_bounced() {
                agrees(RING, Bouncing::new);
            }

            #[test]
            fn where_bounce_space_is_short() {
                agrees(RING, || Bouncing::with_space(300));
            }

            #[test]
            fn where_buffers_are_in_pieces() {
                agrees(RING, || Discontiguous::new(16));
            }
        }
    )*};
}

a_queue_is_what_the_model_says! {
    split_events: 0;
    split: 1;
    split_indirect_events: 2;
    split_indirect: 3;
    split_in_order_events: 4;
    split_in_order: 5;
    packed_events: 6;
    packed: 7;
    packed_indirect_events: 8;
    packed_indirect: 9;
    packed_in_order_events: 10;
    packed_in_order: 11;
}
