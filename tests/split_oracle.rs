//! Our driver against an independent device: rust-vmm's `virtio-queue`, which several virtual
//! machine monitors ship, on the same memory.

// Guest memory is a mapping of the system's, in a crate that 32-bit targets do not have.
#![cfg(all(not(miri), target_pointer_width = "64"))]

mod support {
    pub(crate) mod guest;
}

use std::io::{Read, Write};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use virtio_queue::{DescriptorChain, Queue, QueueT};
use vm_memory::GuestMemoryMmap;
use vring::buffer::{DmaBuf, Segment};
use vring::features::{Feature, Features, Wish};
use vring::init::{self, Live, QueueConfig};
use vring::platform::Direction;
use vring::transport::QueueIndex;
use vring::virtqueue::Virtqueue;

use support::guest::{Guest, OneQueue};

const RINGS: [Features; 2] = [
    Features::of(&[Feature::VERSION_1]),
    Features::of(&[Feature::VERSION_1, Feature::EVENT_IDX]),
];

/// A buffer of any number of segments, on the heap.
#[derive(Debug)]
struct Scattered {
    parts: Vec<(Box<[u8]>, Direction)>,
}

// SAFETY: the boxes own initialized bytes, which stay where they are when the vector moves.
unsafe impl DmaBuf for Scattered {
    fn count(&self) -> usize {
        self.parts.len()
    }

    fn segment(&mut self, index: usize) -> Segment {
        let (bytes, direction) = &mut self.parts[index];
        let len = bytes.len();
        // SAFETY: the box is ours alone.
        unsafe { Segment::new(NonNull::from(&mut **bytes).cast(), len, *direction) }
    }
}

impl Scattered {
    fn new(number: u64, readable: &[usize], writable: &[usize]) -> Self {
        let of = |direction| move |&len: &usize| (vec![0; len].into(), direction);
        let mut parts: Vec<(Box<[u8]>, _)> = readable.iter().map(of(Direction::Readable)).collect();
        let mut bytes = pattern(number);
        parts
            .iter_mut()
            .for_each(|(part, _)| part.fill_with(|| bytes.next().unwrap()));
        parts.extend(writable.iter().map(of(Direction::Writable)));
        Self { parts }
    }

    fn bytes(&self, direction: Direction) -> Vec<u8> {
        let of = self.parts.iter().filter(|part| part.1 == direction);
        of.flat_map(|part| part.0.iter().copied()).collect()
    }

    /// Checks what the device did: it answers with a pattern of the sum of what it read.
    fn check(&self, number: u64, written: usize) {
        let sent = self.bytes(Direction::Readable);
        assert!(
            sent.iter().copied().eq(pattern(number).take(sent.len())),
            "{number} is as it was"
        );
        let got = self.bytes(Direction::Writable);
        assert!(
            got[..written]
                .iter()
                .copied()
                .eq(pattern(sum(&sent)).take(written)),
            "{number}"
        );
        assert!(
            got[written..].iter().all(|&byte| byte == 0),
            "{number}: beyond what was written"
        );
    }
}

fn pattern(seed: u64) -> impl Iterator<Item = u8> {
    (1_u64..).map(move |i| {
        (i.wrapping_mul(2 * seed + 1)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            >> 56) as u8
    })
}

fn sum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(7, |sum, &byte| sum * 31 % 1_000_003 + u64::from(byte))
}

type Chain<'a> = DescriptorChain<&'a GuestMemoryMmap>;

/// What the device does with a chain: how many bytes it wrote, at most `most`.
fn answer(memory: &GuestMemoryMmap, chain: Chain<'_>, most: usize) -> u32 {
    let mut read = Vec::new();
    chain
        .clone()
        .reader(memory)
        .unwrap()
        .read_to_end(&mut read)
        .unwrap();
    let mut writer = chain.writer(memory).unwrap();
    let bytes: Vec<u8> = pattern(sum(&read))
        .take(writer.available_bytes().min(most))
        .collect();
    writer.write_all(&bytes).unwrap();
    bytes.len() as u32
}

type Started = (
    Live<Guest<false>, OneQueue<false>>,
    Virtqueue<Guest<false>, Scattered>,
    Queue,
);

fn start(guest: &Guest<false>, transport: OneQueue<false>, size: u16, index: u16) -> Started {
    let wish = Wish {
        want: RINGS[1],
        ..Wish::default()
    };
    let mut negotiated = init::reset(transport, guest)
        .unwrap()
        .negotiate(&wish)
        .unwrap();
    let mut config = QueueConfig::new(size);
    config.start_index = index;
    let pending = negotiated.queue(QueueIndex(0), &config).unwrap();
    let live = negotiated.finish().unwrap();
    let device = live.transport().queue.lock().unwrap().take().unwrap();
    let queue = pending.start(&live).unwrap();
    (live, queue, device)
}

fn stop(
    live: Live<Guest<false>, OneQueue<false>>,
    queue: Virtqueue<Guest<false>, Scattered>,
) -> usize {
    let (_, proof) = live.reset().unwrap();
    queue.close(&proof).unwrap().count()
}

#[derive(Clone, Debug)]
enum Step {
    Submit {
        readable: Vec<usize>,
        writable: Vec<usize>,
    },
    Burst {
        count: usize,
    },
    Publish,
    Kick,
    Pop,
    Return {
        nth: usize,
        most: usize,
    },
    Reap,
    Arm,
    Disarm,
}

fn step() -> impl Strategy<Value = Step> {
    let lengths = |most| prop::collection::vec(1_usize..200, 0..most);
    prop_oneof![
        4 => (lengths(4), lengths(4)).prop_map(|(readable, writable)| Step::Submit { readable, writable }),
        2 => (0_usize..6).prop_map(|count| Step::Burst { count }),
        1 => Just(Step::Publish),
        2 => Just(Step::Kick),
        3 => Just(Step::Pop),
        4 => (0_usize..8, 0_usize..400).prop_map(|(nth, most)| Step::Return { nth, most }),
        2 => Just(Step::Reap),
        1 => Just(Step::Arm),
        1 => Just(Step::Disarm),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any interleaving, any order of return: each buffer comes back once, with what the device
    /// wrote, and the device sees exactly what was published.
    #[test]
    fn both_sides_agree(
        log_size in 0_u32..7,
        features in 0_usize..2,
        index in prop_oneof![Just(0_u16), Just(65_500), any::<u16>()],
        steps in prop::collection::vec(step(), 1..400),
    ) {
        let guest = Guest::new();
        let memory = guest.memory().clone();
        let transport = OneQueue::new(&guest, RINGS[features], index);
        let (live, mut queue, mut device) = start(&guest, transport, 1 << log_size, index);
        let (mut numbers, mut submitted, mut published) = (std::collections::HashMap::new(), 0_u64, 0);
        let mut bursts: Vec<u64> = Vec::new();
        let (mut popped, mut returned, mut reaped) = (0_u64, 0, 0_u64);
        let mut held: Vec<Chain<'_>> = Vec::new();
        for step in steps {
            match step {
                Step::Submit { readable, writable } => {
                    let parts = readable.len() + writable.len();
                    let free = usize::from(queue.free());
                    let buf = Scattered::new(submitted, &readable, &writable);
                    match queue.submit(buf) {
                        Ok(ticket) => {
                            prop_assert!(parts != 0 && parts <= free);
                            numbers.insert(ticket, submitted);
                            submitted += 1;
                        }
                        Err(rejected) => {
                            prop_assert!(parts == 0 || parts > free);
                            prop_assert_eq!(rejected.buf.parts.len(), parts);
                        }
                    }
                }
                Step::Burst { count } => {
                    let free = usize::from(queue.free());
                    let first = submitted;
                    let mut made = 0_u64;
                    let mut bufs = (0..count).map(|_| {
                        made += 1;
                        Scattered::new(first + made - 1, &[3], &[20])
                    });
                    let (done, rejected) = match queue.submit_burst(&mut bufs) {
                        Ok(done) => (done, 0),
                        Err(error) => (error.submitted, 1),
                    };
                    prop_assert_eq!(done, count.min(free / 2));
                    prop_assert_eq!(made, (done + rejected) as u64, "none is lost");
                    bursts.extend(first..first + done as u64);
                    submitted += done as u64;
                }
                Step::Publish => {
                    queue.publish();
                    published = submitted;
                }
                Step::Kick => {
                    queue.kick();
                    published = submitted;
                }
                Step::Pop => match device.pop_descriptor_chain(&memory) {
                    Some(chain) => {
                        held.push(chain);
                        popped += 1;
                    }
                    None => prop_assert_eq!(popped, published),
                },
                Step::Return { nth, most } => if !held.is_empty() {
                    let chain = held.swap_remove(nth % held.len());
                    let head = chain.head_index();
                    let len = answer(&memory, chain, most);
                    device.add_used(&memory, head, len).unwrap();
                    returned += 1;
                },
                Step::Reap => {
                    queue.drain(|done| {
                        // Buffers of a burst have no tickets: the pattern tells which one it is.
                        let number = numbers.remove(&done.ticket()).unwrap_or_else(|| {
                            let sent = done.buf().bytes(Direction::Readable);
                            let same = |&n: &u64| sent.iter().copied().eq(pattern(n).take(sent.len()));
                            let at = bursts.iter().position(same).expect("it was submitted");
                            bursts.swap_remove(at)
                        });
                        assert_eq!(done.written(), done.claimed());
                        done.buf().check(number, done.written() as usize);
                        reaped += 1;
                    }).unwrap();
                    prop_assert_eq!(reaped, returned);
                }
                Step::Arm => prop_assert_eq!(queue.arm(), reaped != returned),
                Step::Disarm => queue.disarm(),
            }
            prop_assert!(popped <= published);
            prop_assert_eq!(u64::from(queue.outstanding()), submitted - reaped);
        }
        prop_assert_eq!(stop(live, queue) as u64, submitted - reaped);
        guest.assert_no_leaks();
    }
}

/// Something to sleep on, for each thread of each test.
struct Bell {
    rung: Mutex<bool>,
    wake: Condvar,
    rings: AtomicUsize,
}

static BELLS: [Bell; 4] = [const {
    Bell {
        rung: Mutex::new(false),
        wake: Condvar::new(),
        rings: AtomicUsize::new(0),
    }
}; 4];

impl Bell {
    fn ring(&self) {
        self.rings.fetch_add(1, Ordering::Relaxed);
        *self.rung.lock().unwrap() = true;
        self.wake.notify_one();
    }

    fn sleep(&self, who: &str) {
        let rung = self.rung.lock().unwrap();
        let limit = Duration::from_secs(30);
        let (mut rung, timeout) = self
            .wake
            .wait_timeout_while(rung, limit, |rung| !*rung)
            .unwrap();
        assert!(!timeout.timed_out(), "{who} was never woken");
        *rung = false;
    }
}

/// Both sides sleep whenever they may: a lost kick or a lost interrupt stops the run.
fn nobody_sleeps_for_ever(features: usize) {
    const REQUESTS: u64 = 150_000;
    let (doorbell, interrupt) = (2 * features, &BELLS[2 * features + 1]);
    let guest = Guest::new();
    let ring: fn(usize, u32) = |bell, _| BELLS[bell].ring();
    let transport = OneQueue::new(&guest, RINGS[features], 0).doorbell(ring, doorbell);
    let (live, mut queue, mut device) = start(&guest, transport, 16, 0);
    let memory = guest.memory().clone();
    let backend = std::thread::spawn(move || {
        let mut served = 0;
        while served < REQUESTS {
            device.disable_notification(&memory).unwrap();
            loop {
                while let Some(chain) = device.pop_descriptor_chain(&memory) {
                    let head = chain.head_index();
                    let len = answer(&memory, chain, 8);
                    device.add_used(&memory, head, len).unwrap();
                    served += 1;
                    if served % 3 == 0 && device.needs_notification(&memory).unwrap() {
                        interrupt.ring();
                    }
                }
                if device.needs_notification(&memory).unwrap() {
                    interrupt.ring();
                }
                if !device.enable_notification(&memory).unwrap() {
                    break;
                }
                device.disable_notification(&memory).unwrap();
            }
            if served < REQUESTS {
                BELLS[doorbell].sleep("the device");
            }
        }
    });
    let (mut submitted, mut reaped) = (0, 0);
    while reaped < REQUESTS {
        for _ in 0..1 + submitted % 5 {
            if submitted < REQUESTS && queue.free() >= 2 {
                queue.submit(Scattered::new(submitted, &[4], &[8])).unwrap();
                submitted += 1;
            }
        }
        queue.kick();
        let mut progress = false;
        queue
            .drain(|done| {
                assert_eq!(done.written(), 8);
                done.buf().check(reaped, 8);
                reaped += 1;
                progress = true;
            })
            .unwrap();
        let idle = queue.free() < 2 || submitted == REQUESTS;
        if !progress && idle && reaped < REQUESTS && !queue.arm() {
            interrupt.sleep("the driver");
            queue.disarm();
        }
    }
    backend.join().unwrap();
    let counters = queue.counters();
    assert_eq!(
        counters.kicks as usize,
        BELLS[doorbell].rings.load(Ordering::Relaxed)
    );
    assert_eq!(
        (counters.submitted, counters.completed),
        (REQUESTS, REQUESTS)
    );
    assert_eq!(stop(live, queue), 0);
    guest.assert_no_leaks();
}

#[test]
fn nobody_sleeps_for_ever_with_flags() {
    nobody_sleeps_for_ever(0);
}

#[test]
fn nobody_sleeps_for_ever_with_event_indices() {
    nobody_sleeps_for_ever(1);
}

/// A buffer in guest memory, for a platform that copies nothing.
#[derive(Debug)]
struct InGuest(vring::buffer::RawBuf);

// SAFETY: `RawBuf` is the caller's promise.
unsafe impl DmaBuf for InGuest {
    fn count(&self) -> usize {
        1
    }

    fn segment(&mut self, _: usize) -> Segment {
        self.0.segment()
    }
}

#[test]
fn buffers_in_place_reach_the_device_in_place() {
    let guest = Guest::<true>::new();
    let memory = guest.memory().clone();
    let index = 65_000;
    let transport = OneQueue::new(&guest, RINGS[1], index);
    let wish = Wish {
        want: RINGS[1],
        ..Wish::default()
    };
    let mut negotiated = init::reset(transport, &guest)
        .unwrap()
        .negotiate(&wish)
        .unwrap();
    let mut config = QueueConfig::new(4);
    config.start_index = index;
    let pending = negotiated.queue::<InGuest>(QueueIndex(0), &config).unwrap();
    let live = negotiated.finish().unwrap();
    let mut device = live.transport().queue.lock().unwrap().take().unwrap();
    let mut queue = pending.start(&live).unwrap();

    let (ptr, addr) = guest.take(64, 8).unwrap();
    let writable = |ptr, len| {
        // SAFETY: the block is the test's, and it looks at it only when it is back.
        InGuest(unsafe { vring::buffer::RawBuf::new(ptr, len, Direction::Writable) })
    };
    for round in 0..1000_u64 {
        queue.submit(writable(ptr, 64)).unwrap();
        queue.kick();
        let chain = device.pop_descriptor_chain(&memory).unwrap();
        let head = chain.head_index();
        assert_eq!(chain.clone().next().unwrap().addr().0, addr.0);
        chain.writer(&memory).unwrap().write_obj(round).unwrap();
        device.add_used(&memory, head, 8).unwrap();
        let done = queue.next_completion().unwrap().unwrap();
        assert_eq!(done.written(), 8);
        // SAFETY: the block holds more than 8 bytes, aligned to 8, and is back.
        assert_eq!(unsafe { ptr.cast::<u64>().read() }, round);
    }
    let outside = Box::leak(Box::new(0_u8));
    let rejected = queue
        .submit(writable(NonNull::from(outside), 1))
        .unwrap_err();
    assert!(matches!(rejected.why, vring::virtqueue::Reject::Map(_)));
    guest.free(addr);
    let (_, proof) = live.reset().unwrap();
    assert_eq!(queue.close(&proof).unwrap().count(), 0);
    guest.assert_no_leaks();
}
