//! Packed rings: bug classes 19 to 27, and the statements about them that the strict device sees.

#[path = "support/queue.rs"]
mod rig;
mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use vring::buffer::{DmaBuf, Segment, Writable};
use vring::features::{Feature, Features, Wish};
use vring::init::{self, QueueConfig};
use vring::testing::{Bouncing, Chain, Fake, FakeDevice, InPlace, Kind};
use vring::transport::DeviceId;
use vring::virtqueue::{Reject, Virtqueue};

use rig::{Maker, R, Rig, W, config, every_platform, few, reply, scaled};
use support::{Q, Ring};

/// Sizes of packed rings: powers of two, and none.
const SIZES: [u16; 7] = [1, 2, 3, 7, 8, 100, 200];

fn packed() -> impl Iterator<Item = Features> {
    let rings = Ring::ALL.into_iter().filter(|ring| ring.is_packed());
    rings.map(|ring| ring.features)
}

/// Packed, without tables and in any order.
fn plain() -> impl Iterator<Item = Features> {
    let other = Feature::INDIRECT_DESC | Feature::IN_ORDER;
    packed().filter(move |features| !features.intersects(other))
}

/// All chains that are available.
fn pop_all<K: Kind>(rig: &Rig<K>) -> Vec<Chain> {
    let pop =
        |queue: &mut vring::testing::QueueDevice| std::iter::from_fn(|| queue.pop()).collect();
    rig.device.with_queue(Q, pop).unwrap()
}

/// Takes everything back that came, and checks it; how many.
fn drain<K: Kind>(rig: &mut Rig<K>) -> usize {
    let drained = rig.queue.drain(|done| {
        let written = done.written() as usize;
        done.into_buf().check(written);
    });
    drained.unwrap()
}

/// Defends: PK-001.
#[test]
fn each_area_of_a_packed_ring_is_aligned() {
    let platform = InPlace::new();
    for size in SIZES {
        let rig = Rig::new(&platform, plain().next().unwrap(), &config(size, 0));
        let areas = rig.queue.areas();
        let misaligned = [areas.desc.0 % 16, areas.driver.0 % 4, areas.device.0 % 4];
        assert_eq!((rig.queue.size(), misaligned), (size, [0; 3]));
        rig.finish(0);
    }
}

#[test]
fn bug_class_19_the_wrap_counters_turn_exactly_at_the_end() {
    every_platform!(exact_wrap);
}

fn exact_wrap<K: Kind>(platform: &Fake<K>) {
    for features in packed() {
        for size in few(&[3, 1, 2, 8], 1) {
            // Chains that end exactly where the ring ends, one before, and one behind.
            for start in few(&[size - 1, 2 * size - 1, 0, size, 2 * size], 2) {
                let mut rig = Rig::new(platform, features, &config(size, start));
                for _ in 0..scaled(4, 1) {
                    for n in 1..=size {
                        let buf = rig.maker.chain(n.into());
                        rig.queue.submit(buf).unwrap();
                        rig.queue.kick();
                        rig.device.assert_kicked(Q);
                        assert!(rig.queue.next_completion().unwrap().is_none());
                        assert_eq!(rig.serve_and_drain(), 1);
                    }
                    rig.full_round();
                }
                rig.finish(0);
            }
        }
    }
}

/// A buffer that has the device look whenever the driver asks for a segment.
#[derive(Debug)]
struct Watched {
    device: FakeDevice,
    looks: &'static AtomicUsize,
    parts: Vec<Writable<Box<[u8]>>>,
}

// SAFETY: the segments are those of boxes that stay.
unsafe impl DmaBuf for Watched {
    fn count(&self) -> usize {
        self.parts.len()
    }

    fn segment(&mut self, index: usize) -> Segment {
        let seen = self.device.with_queue(Q, |queue| queue.refresh());
        assert_eq!(
            seen,
            Some(0),
            "something is available in the middle of a batch"
        );
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.parts[index].segment(0)
    }
}

/// Defends: PK-009, PK-010.
#[test]
fn bug_class_20_the_head_becomes_available_after_the_rest_of_its_list() {
    every_platform!(head_last);
}

fn head_last<K: Kind>(platform: &Fake<K>) {
    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    for features in plain() {
        for size in few(&[3, 8, 10], 2) {
            let device = rig::device(platform, features, &config(size, 5));
            let (live, mut queue) =
                support::start::<_, Watched>(platform, &device, &config(size, 5));
            let watched = |n: usize| Watched {
                device: device.clone(),
                looks: &LOOKS,
                parts: (0..n).map(|_| Writable(vec![0; 2].into())).collect(),
            };
            for _ in 0..scaled(20, 2) {
                // A list alone, over the end of the ring and not; and a batch of lists.
                let before = LOOKS.load(Ordering::Relaxed);
                queue.submit(watched(3)).unwrap();
                assert!(LOOKS.load(Ordering::Relaxed) >= before + 3);
                if size >= 8 {
                    queue.submit(watched(1)).unwrap();
                    let mut lists = [2, 1].map(watched).into_iter();
                    assert_eq!(queue.submit_burst(&mut lists).unwrap(), 2);
                }
                queue.kick();
                let expected = if size >= 8 { 4 } else { 1 };
                let served = device.serve(Q, |queue, chain| queue.write(chain, &[1; 6]));
                assert_eq!(served, expected);
                assert_eq!(queue.drain(|_| ()), Ok(expected));
            }
            assert_eq!(support::stop(live, queue).len(), 0);
            device.assert_clean();
            platform.assert_no_leaks();
        }
    }
}

#[test]
fn bug_class_22_rings_of_any_size_and_bursts_over_their_end() {
    every_platform!(any_size);
}

fn any_size<K: Kind>(platform: &Fake<K>) {
    for features in packed() {
        for size in few(&[3, 7, 8, 2, 1, 100, 200], 2) {
            let mut rig = Rig::new(platform, features, &config(size, size / 2));
            let n = usize::from(size);
            let mut at = 0;
            for round in 0..scaled(3 * n.min(20), 6) {
                let burst = 1 + round * 5 % n;
                // Lists, too, as many as fit: they go over the end with any of their descriptors.
                let list = [1, 2, 3][round % 3].min(burst);
                let count = burst / list;
                let bufs: Vec<_> = (0..count).map(|_| rig.maker.chain(list)).collect();
                let submitted = rig.queue.submit_burst(&mut bufs.into_iter());
                assert_eq!(submitted.unwrap(), count);
                rig.queue.kick();
                rig.device.assert_kicked(Q);
                assert_eq!(rig.serve_and_drain(), count, "size {size}, at {at}");
                at += burst;
            }
            assert!(at > n, "it went over the end");
            rig.full_round();
            rig.finish(0);
        }
    }
}

#[test]
fn bug_class_23_ids_come_back_in_any_order_and_each_with_its_own_buffer() {
    every_platform!(any_order);
}

fn any_order<K: Kind>(platform: &Fake<K>) {
    for features in plain() {
        for size in [7_u16, 8] {
            let mut rig = Rig::new(platform, features, &config(size, 3));
            for round in 0..scaled(60, 3) {
                let mut sent = Vec::new();
                for n in [1, 3, 2] {
                    let buf = rig.maker.chain(n);
                    let number = buf.number;
                    sent.push((rig.queue.submit(buf).unwrap(), number));
                }
                let slots: Vec<_> = sent.iter().map(|(ticket, _)| ticket.slot()).collect();
                rig.queue.kick();
                let mut chains = pop_all(&rig);
                let ids: Vec<_> = chains.iter().map(Chain::head).collect();
                assert_eq!(ids, slots, "an id is the slot, not the place");
                chains.rotate_left(round % 3);
                sent.rotate_left(round % 3);
                if round % 2 == 0 {
                    chains.swap(0, 1);
                    sent.swap(0, 1);
                }
                for (chain, expected) in chains.into_iter().zip(sent) {
                    rig.device.with_queue(Q, |queue| {
                        let len = reply(queue, &chain, 9);
                        queue.complete(chain, len);
                    });
                    let done = rig.queue.next_completion().unwrap().unwrap();
                    let written = done.written() as usize;
                    assert_eq!((done.ticket(), done.buf().number), expected);
                    done.into_buf().check(written);
                }
                // Every id is there once, and none twice.
                if round % 10 == 0 {
                    rig.full_round();
                }
            }
            rig.finish(0);
        }
    }
}

#[test]
fn bug_class_24_event_structures_have_their_bits_where_they_belong() {
    let platform = InPlace::new();
    for features in plain() {
        let events = features.has(Feature::EVENT_IDX);
        for size in [3_u16, 8] {
            let mut rig = Rig::new(&platform, features, &config(size, 0));
            let word = |rig: &Rig<_>| {
                let mut bytes = [0; 4];
                platform.bus().read(rig.queue.areas().driver, &mut bytes);
                u32::from_le_bytes(bytes)
            };
            let (mut at, mut wrap) = (0, 1);
            for _ in 0..3 * size {
                assert!(!rig.queue.arm());
                let place = at | wrap << 15;
                let expected = if events { 2 << 16 | place } else { 0 };
                assert_eq!(word(&rig), expected, "armed at {at}, {wrap}");
                rig.queue.disarm();
                assert_eq!(word(&rig) >> 16, 1, "disarmed at {at}, {wrap}");
                let buf = rig.maker.chunks(&[(W, 1)]);
                rig.queue.submit(buf).unwrap();
                rig.queue.kick();
                assert_eq!(rig.serve_and_drain(), 1);
                at += 1;
                if at == size.into() {
                    (at, wrap) = (0, 1 - wrap);
                }
            }
            rig.finish(0);
        }
    }
}

#[test]
fn bug_class_24_a_kick_is_due_when_the_device_s_event_says_so() {
    let platform = Bouncing::new();
    for features in plain() {
        let mut rig = Rig::new(&platform, features, &config(8, 0));
        let device = rig.queue.areas().device;
        let ask = |word: u32| platform.bus().write(device, &word.to_le_bytes());
        let (mut at, mut wrap) = (0_u32, 1_u32);
        for round in 0..scaled(100, 12) {
            // Two descriptors: at `at`, and behind it.
            let next = (at + 1) % 8;
            let next_wrap = if next == 0 { 1 - wrap } else { wrap };
            let desc = 2 << 16;
            let cases = [
                (0, true),
                (1 << 16, false),
                (desc | at | wrap << 15, true),
                (desc | next | next_wrap << 15, true),
                (desc | at | (1 - wrap) << 15, false),
                (
                    desc | ((at + 2) % 8) | (if at >= 6 { 1 - wrap } else { wrap }) << 15,
                    false,
                ),
            ];
            let (word, due) = cases[round % cases.len()];
            ask(word);
            let buf = rig.maker.chunks(&[(R, 1), (W, 1)]);
            rig.queue.submit(buf).unwrap();
            let kick = rig.queue.kick_prepare();
            assert_eq!(kick.is_some(), due, "{word:#x} at {at}, {wrap}");
            ask(1 << 16);
            let chain = pop_all(&rig).remove(0);
            rig.device.with_queue(Q, |queue| {
                let len = reply(queue, &chain, 9);
                queue.complete(chain, len);
            });
            assert_eq!(drain(&mut rig), 1);
            at += 2;
            if at == 8 {
                (at, wrap) = (0, 1 - wrap);
            }
        }
        rig.finish(0);
    }
}

#[test]
fn bug_class_25_a_ring_is_zero_when_the_device_gets_it_and_shows_no_ghosts() {
    let platform = InPlace::new();
    for features in packed() {
        for round in 0..scaled(3, 2) {
            let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(features);
            let reset = init::reset(device.transport(), &platform).unwrap();
            let wish = Wish {
                want: features,
                ..Wish::default()
            };
            let mut negotiated = reset.negotiate(&wish).unwrap();
            let pending = negotiated.queue(Q, &QueueConfig::new(20)).unwrap();
            let areas = pending.areas();
            let mut ring = vec![0xff; 20 * 16];
            platform.bus().read(areas.desc, &mut ring);
            assert!(ring.iter().all(|&byte| byte == 0), "round {round}");
            let live = negotiated.finish().unwrap();
            let mut queue: Virtqueue<_, rig::Chunks> = pending.start(&live).unwrap();
            assert!(queue.next_completion().unwrap().is_none(), "a ghost");
            assert_eq!(queue.drain(|_| ()), Ok(0));
            let mut maker = Maker::new();
            for n in 0..scaled(30, 6) {
                queue.submit(maker.chain(1 + n % 5)).unwrap();
                assert!(queue.next_completion().unwrap().is_none(), "a ghost");
                queue.kick();
                device.serve(Q, |queue, chain| reply(queue, chain, 9));
                assert_eq!(queue.drain(|_| ()), Ok(1));
                assert!(queue.next_completion().unwrap().is_none(), "a ghost");
            }
            assert_eq!(support::stop(live, queue).len(), 0);
            device.assert_clean();
        }
    }
    platform.assert_no_leaks();
}

#[test]
fn bug_class_26_a_used_list_is_skipped_by_as_many_descriptors_as_it_had() {
    every_platform!(skipped);
}

fn skipped<K: Kind>(platform: &Fake<K>) {
    for features in plain() {
        // Lists of different lengths that change places: each is passed by its own length.
        let mut rig = Rig::new(platform, features, &config(13, 0));
        for round in 0..scaled(60, 3) {
            let lens = [[1, 4, 2, 6], [5, 1, 1, 3], [2, 3, 7, 1]][round % 3];
            for n in lens {
                let buf = rig.maker.chain(n);
                rig.queue.submit(buf).unwrap();
            }
            rig.queue.kick();
            let mut chains = pop_all(&rig);
            chains.reverse();
            let mut free = rig.queue.free();
            for (chain, n) in chains.into_iter().zip(lens.into_iter().rev()) {
                assert_eq!(usize::from(chain.descriptors()), n);
                rig.device.with_queue(Q, |queue| {
                    let len = reply(queue, &chain, 9);
                    queue.complete(chain, len);
                });
                assert_eq!(drain(&mut rig), 1);
                free += n as u16;
                assert_eq!(rig.queue.free(), free);
            }
            assert_eq!(free, 13);
        }
        rig.full_round();
        rig.finish(0);
    }
}

#[test]
fn bug_class_27_one_used_element_for_a_batch_returns_all_of_it() {
    every_platform!(batches);
}

fn batches<K: Kind>(platform: &Fake<K>) {
    for ring in Ring::ALL.into_iter().filter(|ring| ring.is_in_order()) {
        let mut rig = Rig::new(platform, ring.features, &config(16, 0));
        for round in 0..scaled(60, 3) {
            let lens = [[1, 3, 2, 4], [2, 2, 2, 2], [4, 1, 1, 5]][round % 3];
            let mut sent = Vec::new();
            for n in lens {
                let buf = rig.maker.chain(n);
                let writable = n - n / 2;
                sent.push((rig.queue.submit(buf).unwrap(), writable as u32));
            }
            rig.queue.kick();
            let chains = pop_all(&rig);
            // The first `k` have one element, and the others one each.
            let k = 1 + round % 4;
            rig.device.with_queue(Q, |queue| {
                let mut chains = chains.into_iter();
                let batch: Vec<_> = chains.by_ref().take(k).collect();
                let mut last = 0;
                for chain in &batch {
                    last = reply(queue, chain, 9);
                }
                queue.push_batch(batch, last);
                for chain in chains {
                    let len = reply(queue, &chain, 9);
                    queue.push(chain, len);
                }
                queue.publish();
            });
            for (i, (ticket, writable)) in sent.into_iter().enumerate() {
                let done = rig.queue.next_completion().unwrap().unwrap();
                assert_eq!(done.ticket(), ticket);
                assert_eq!(done.is_assumed(), i + 1 < k, "the last one is not");
                assert_eq!(done.written(), writable);
            }
            assert!(rig.queue.next_completion().unwrap().is_none());
            assert_eq!(rig.queue.free(), 16);
        }
        rig.full_round();
        rig.finish(0);
    }
}

/// Defends: PK-002, PK-003.
#[test]
fn descriptors_of_the_device_are_left_alone_whatever_happens_around_them() {
    every_platform!(left_alone);
}

fn left_alone<K: Kind>(platform: &Fake<K>) {
    for features in plain() {
        let mut rig = Rig::new(platform, features, &config(16, 13));
        let desc = rig.queue.areas().desc;
        for _ in 0..scaled(40, 2) {
            for n in [2, 1, 3] {
                let buf = rig.maker.chain(n);
                rig.queue.submit(buf).unwrap();
            }
            rig.queue.kick();
            let chains = pop_all(&rig);
            let look = || {
                let mut bytes = vec![0; 16 * 16];
                platform.bus().read(desc, &mut bytes);
                bytes
            };
            let before = look();
            // Rejected, armed, disarmed, looked for in vain; the ring is as it was.
            let buf = rig.maker.parts(Vec::new());
            assert!(rig.queue.submit(buf).is_err());
            let buf = rig.maker.chain(11);
            let why = rig.queue.submit(buf).unwrap_err().why;
            assert_eq!(
                why,
                Reject::Full {
                    needed: 11,
                    free: 10
                }
            );
            assert!(!rig.queue.arm());
            rig.queue.disarm();
            rig.queue.kick();
            assert!(rig.queue.next_completion().unwrap().is_none());
            assert!(look() == before);
            // More is made available behind, and what is there stays.
            let buf = rig.maker.chain(9);
            rig.queue.submit(buf).unwrap();
            rig.queue.kick();
            let after = look();
            let kept = (0..16).filter(|i| before[16 * i..][..16] == after[16 * i..][..16]);
            assert!(kept.count() >= 7, "nine of 16 were written");
            let last = pop_all(&rig);
            rig.device.with_queue(Q, |queue| {
                for chain in chains.into_iter().chain(last) {
                    let len = reply(queue, &chain, 9);
                    queue.push(chain, len);
                }
                queue.publish();
            });
            assert_eq!(drain(&mut rig), 4);
        }
        rig.finish(0);
    }
}
