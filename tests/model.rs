//! A queue against the simplest model of one: lists of numbers.
//!
//! Driver and device do random steps in one thread. After each step the queue is what the lists
//! say: nothing is lost, nothing comes twice, bytes and lengths are right, a kick that is due is
//! sent and one that is not is not, and an interrupt that was asked for is not missed.

#[path = "support/queue.rs"]
mod rig;
mod support;

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestRunner};

use vring::init::QueueConfig;
use vring::platform::Direction;
use vring::testing::{Bouncing, Chain, Discontiguous, Fake, InPlace, Kind};
use vring::virtqueue::{Reject, Ticket};

use rig::{Chunks, R, Rig, W, config, pattern, scaled};
use support::{FEATURES, Q};

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
    Disarm,
    Next,
    Drain,
    /// The device takes some.
    Take(usize),
    /// The device returns one of those that it has: which, the bytes that it writes, by how much
    /// it lies about them. It publishes them now or later.
    Return(usize, usize, i64, bool),
    /// The device makes visible what it returned.
    DevicePublish,
    /// The device wants kicks, does not want them, wants one after so many more.
    EnableKicks,
    DisableKicks,
    KickAfter(u16),
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
        2 => Just(Step::Disarm),
        4 => Just(Step::Next),
        3 => Just(Step::Drain),
        5 => (1_usize..5).prop_map(Step::Take),
        8 => (any::<usize>(), 0_usize..100, prop_oneof![4 => Just(0), 1 => -50..2_000_i64], any::<bool>())
            .prop_map(|(i, n, lie, now)| Step::Return(i, n, lie, now)),
        2 => Just(Step::DevicePublish),
        2 => Just(Step::EnableKicks),
        1 => Just(Step::DisableKicks),
        1 => (0_u16..6).prop_map(Step::KickAfter),
    ]
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
}

struct Model<K: Kind> {
    rig: Rig<K>,
    event_idx: bool,
    start: u16,
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
    /// Chains that were published and for which no kick was considered.
    unkicked: usize,
    /// The device has changed its mind about kicks since then.
    late: bool,
    /// Kicks that were not wanted.
    needless: usize,
    /// The driver sleeps unless it is interrupted.
    armed: bool,
    /// Interrupts are disabled, so that none should come.
    disarmed: bool,
    submitted: u64,
    completed: u64,
    overruns: u64,
}

impl<K: Kind> Model<K> {
    fn new(platform: &Fake<K>, event_idx: bool, size: u16, start: u16) -> Self {
        let config: QueueConfig = config(size, start).cells(CELLS.0, CELLS.1);
        let features = FEATURES[usize::from(!event_idx)];
        Self {
            rig: Rig::new(platform, features, &config),
            event_idx,
            start,
            unpublished: VecDeque::new(),
            published: VecDeque::new(),
            taken: Vec::new(),
            unseen: VecDeque::new(),
            seen: VecDeque::new(),
            unkicked: 0,
            late: false,
            needless: 0,
            armed: false,
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
            Step::Disarm => {
                self.rig.queue.disarm();
                (self.armed, self.disarmed) = (false, true);
            }
            Step::Next => self.next(),
            Step::Drain => self.drain(),
            Step::Take(n) => self.take(n),
            Step::Return(which, bytes, lie, now) => self.give_back(which, bytes, lie, now),
            Step::DevicePublish => self.device_publish(),
            Step::EnableKicks => self.enable_kicks(),
            Step::DisableKicks => {
                self.enable_kicks();
                self.rig
                    .device
                    .with_queue(Q, |queue| queue.disable_notifications());
            }
            Step::KickAfter(more) => self.kick_after(more),
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
                assert!(segments + cells >= 1 && segments + cells <= usize::from(free));
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
                assert!(needed <= usize::from(size) && needed >= wanted);
            }
            Reject::TooManySegments { needed, size: told } => {
                assert_eq!(told, size);
                assert!(needed > usize::from(size) && needed >= wanted);
            }
            Reject::Map(_) => {} // which was made to fail
            why => panic!("{why:?}"),
        }
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
        assert!(usize::from(descriptors) >= least);
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
        assert!(usize::from(before - self.rig.queue.free()) >= least);
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
                    Sent {
                        number,
                        slot: chain.head(),
                        ticket: None,
                        descriptors: chain.segments().len() as u16,
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
        assert_eq!(chain.segments().len(), usize::from(sent.descriptors));
        let reply = if sent.reply { usize::from(CELLS.1) } else { 0 };
        assert_eq!(chain.writable() as usize, sent.writable + reply);
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
        self.unkicked += self.unpublished.len();
        self.published.append(&mut self.unpublished);
    }

    fn kick(&mut self) {
        let before = self.rig.device.kicks(Q);
        self.rig.queue.kick();
        self.unkicked += self.unpublished.len();
        self.published.append(&mut self.unpublished);
        let kicks = self.rig.device.kicks(Q) - before;
        assert!(kicks <= self.unkicked.min(1), "one, and for something new");
        self.unkicked = 0;
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
        (self.armed, self.disarmed) = (!raced, false);
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
            let at = which % self.taken.len();
            let (chain, sent) = self.taken.swap_remove(at);
            let mut answer = [0xff; CELLS.1 as usize];
            let back = self.rig.device.with_queue(Q, |queue| {
                let bytes: Vec<u8> = answer_to(sent.number).take(bytes).collect();
                let wrote = queue.write(&chain, &bytes) as usize;
                // What spills over from the buffer lands in the reply.
                let spilt = bytes[..wrote].iter().skip(sent.writable);
                answer
                    .iter_mut()
                    .zip(spilt)
                    .for_each(|(to, byte)| *to = *byte);
                let claimed = (wrote as i64 + lie).clamp(0, u32::MAX.into()) as u32;
                queue.push(chain, claimed);
                (wrote, claimed)
            });
            let (wrote, claimed) = back.unwrap();
            self.unseen.push_back(Back {
                sent,
                wrote,
                claimed,
                reply: answer,
            });
        }
        if now {
            self.device_publish();
        }
    }

    fn device_publish(&mut self) {
        let interrupt = self.rig.device.with_queue(Q, |queue| {
            queue.publish();
            queue.should_interrupt()
        });
        let news = !self.unseen.is_empty();
        self.seen.append(&mut self.unseen);
        let interrupt = interrupt == Some(true);
        assert!(news || !interrupt);
        if self.armed && news {
            assert!(interrupt, "the driver sleeps, and is not woken");
            // An event is told once; flags stay.
            self.armed = !self.event_idx;
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
        self.enable_kicks();
        self.take(usize::MAX);
        let at = self.submitted.wrapping_sub(self.unpublished.len() as u64) as u16;
        let at = at.wrapping_add(self.start);
        self.rig
            .device
            .with_queue(Q, |queue| queue.set_avail_event(at.wrapping_add(more)));
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
        let room = back.sent.writable + if back.sent.reply { CELLS.1.into() } else { 0 };
        self.overruns += u64::from(back.claimed as usize > room);
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

    /// Resets the device: exactly the buffers that the model has come back.
    fn finish(self) {
        let all = self.unpublished.iter().chain(&self.published);
        let all = all.chain(self.taken.iter().map(|(_, sent)| sent));
        let all = all.chain(self.unseen.iter().chain(&self.seen).map(|back| &back.sent));
        let mut expected: Vec<u64> = all.map(|sent| sent.number).collect();
        let left = support::stop(self.rig.live, self.rig.queue);
        let mut came: Vec<u64> = left.iter().map(|buf| buf.number).collect();
        expected.sort_unstable();
        came.sort_unstable();
        assert_eq!(came, expected);
        drop(left);
        assert_eq!(self.rig.maker.alive(), 0);
        self.rig.platform.assert_no_leaks();
    }
}

/// What the completion has to say.
fn expect(back: &Back, done: &vring::virtqueue::Completion<'_, Chunks>) {
    let room = back.sent.writable + if back.sent.reply { CELLS.1.into() } else { 0 };
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

fn play<K: Kind>(platform: &Fake<K>, event_idx: bool, size: u16, start: u16, steps: Vec<Step>) {
    let mut model = Model::new(platform, event_idx, size, start);
    for step in steps {
        model.step(step);
    }
    model.finish();
}

fn agrees<K: Kind>(make: impl Fn() -> Fake<K>) {
    let mut runner = TestRunner::new(ProptestConfig {
        cases: scaled(400, 4) as u32,
        max_shrink_iters: 2000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(7),
        ..ProptestConfig::default()
    });
    let steps = vec(step(), 0..scaled(150, 40));
    let starts = prop_oneof![Just(0_u16), 65_500_u16..=65_535, any::<u16>()];
    let sizes = prop::sample::select(vec![1_u16, 2, 8, 16, 256]);
    let outcome = runner.run(
        &(any::<bool>(), sizes, starts, steps),
        |(event_idx, size, start, steps)| {
            play(&make(), event_idx, size, start, steps);
            Ok(())
        },
    );
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_queue_is_what_the_model_says_in_place() {
    agrees(InPlace::new);
}

#[test]
fn a_queue_is_what_the_model_says_where_buffers_are_bounced() {
    agrees(Bouncing::new);
}

#[test]
fn a_queue_is_what_the_model_says_where_bounce_space_is_short() {
    agrees(|| Bouncing::with_space(300));
}

#[test]
fn a_queue_is_what_the_model_says_where_buffers_are_in_pieces() {
    agrees(|| Discontiguous::new(16));
}
