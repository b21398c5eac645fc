//! Indices, free list, chains, lengths, the kick decision: bug classes 1 to 14.

#[path = "support/queue.rs"]
mod rig;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use vring::features::Wish;
use vring::init::{self, QueueConfig, QueueError};
use vring::ring::layout::{vring_init, vring_size};
use vring::testing::{Bouncing, Event, Fake, FakeDevice, InPlace, Kind};
use vring::transport::{DeviceId, QueueIndex};
use vring::virtqueue::{Reject, Ticket};

use rig::{Maker, Part, R, Rig, W, config, descriptors, every_platform, few, maps, reply, scaled};
use support::{FEATURES, Naming, Q, RINGS, Ring, every_ring};

/// Runs on each ring that has event indices.
fn on_every_ring_with_events(f: impl Fn(&InPlace, Ring)) {
    on_every_ring_in_place(|platform, ring| {
        if ring.has_events() {
            f(platform, ring);
        }
    });
}

/// Runs on each ring, on the platform that maps nothing.
fn on_every_ring_in_place(f: impl Fn(&InPlace, Ring)) {
    for ring in Ring::ALL {
        let _naming = Naming(ring);
        f(&InPlace::new(), ring);
    }
}

/// Defends: SP-022, SP-023.
#[test]
fn bug_class_01_kick_decision_across_the_index_wrap() {
    on_every_ring_with_events(|platform, ring| {
        for start in few(&[65_530, 65_535, 65_520, 0], 1) {
            let mut rig = Rig::new(platform, ring.features, &config(16, start));
            // Far enough from 0 for what is behind it.
            let mut at = u64::from(start) + 0x1_0000;
            for round in 0..scaled(400, 12) as u64 {
                let batch = 1 + round % 16;
                // From well behind the batch to well before it.
                let event = ring.spot(16, at + round * 7 % 40 - 12);
                rig.device
                    .with_queue(Q, |queue| queue.set_avail_event(event));
                for _ in 0..batch {
                    let buf = rig.maker.chunks(&[(R, 1)]);
                    rig.queue.submit(buf).unwrap();
                }
                let passed = (at..at + batch).any(|number| ring.spot(16, number) == event);
                let kicked = rig.queue.kick_prepare();
                if kicked.is_some() != passed {
                    // A whole lap of a packed ring passes everything, whatever the lap.
                    assert!(
                        ring.is_packed() && batch == 16 && !passed,
                        "{at} + {batch}, event {event:#x}"
                    );
                }
                assert!(rig.queue.kick_prepare().is_none(), "nothing is new");
                at += batch;
                assert_eq!(rig.serve_and_drain() as u64, batch);
            }
            let counters = rig.queue.counters();
            assert!(counters.kicks > 0 && counters.suppressed_kicks > 0);
            rig.finish(0);
        }
    });
}

/// Defends: SP-022.
#[test]
#[cfg(not(miri))] // 70,000 rounds
fn bug_class_01_a_kick_is_due_after_65536_publishes_without_one() {
    for published in [65_535_u32, 65_536, 65_537, 70_000, 131_072] {
        let platform = InPlace::new();
        let mut rig = Rig::new(&platform, FEATURES[0], &config(4, 65_530));
        for _ in 0..published {
            let buf = rig.maker.chunks(&[(R, 1)]);
            rig.queue.submit(buf).unwrap();
            rig.queue.publish();
            rig.serve_and_drain();
        }
        // The only index that 65535 steps leave out is where they end.
        let last = rig.device.with_queue(Q, |queue| {
            let last = queue.used_idx();
            queue.set_avail_event(last);
            last
        });
        assert_eq!(last, Some(65_530_u16.wrapping_add(published as u16)));
        let due = rig.queue.kick_prepare().is_some();
        assert_eq!(due, published > 65_535, "after {published}");
        rig.finish(0);
    }
}

#[test]
fn bug_class_01_a_kick_is_due_after_whole_laps_without_one() {
    let platform = InPlace::new();
    for size in few(&[3_u16, 1, 8], 1) {
        let lap = u64::from(size);
        let mut rig = Rig::new(&platform, Ring::PACKED.features, &config(size, 0));
        let mut at = 0;
        for published in (lap..=3 * lap).step_by(scaled(1, 5)) {
            // Whatever was passed, be it two laps ago, when it had the name of what is ahead.
            for back in (1..=published.min(2 * lap)).step_by(scaled(1, 5)) {
                for _ in 0..published {
                    let buf = rig.maker.chunks(&[(R, 1)]);
                    rig.queue.submit(buf).unwrap();
                    rig.queue.publish();
                    rig.serve_and_drain();
                }
                at += published;
                let event = Ring::PACKED.spot(size, at - back);
                rig.device
                    .with_queue(Q, |queue| queue.set_avail_event(event));
                let due = rig.queue.kick_prepare().is_some();
                assert!(due, "at {at}, after {published}, event {back} back");
            }
        }
        rig.finish(0);
    }
}

/// Defends: SP-022.
#[test]
fn a_kick_looks_at_everything_since_the_last_decision() {
    on_every_ring_with_events(looks_at_everything);
}

fn looks_at_everything(platform: &InPlace, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(8, 65_534));
    let event = ring.spot(8, 65_535);
    rig.device
        .with_queue(Q, |queue| queue.set_avail_event(event));
    for _ in 0..4 {
        let buf = rig.maker.chunks(&[(R, 1)]);
        rig.queue.submit(buf).unwrap();
        rig.queue.publish();
    }
    assert_eq!(
        rig.device.with_queue(Q, |queue| queue.owes_kick()),
        Some(true)
    );
    rig.queue.kick();
    assert_eq!(rig.device.kicks(Q), 1);
    rig.queue.kick();
    assert_eq!(rig.device.kicks(Q), 1, "nothing is new");
    let counters = rig.queue.counters();
    assert_eq!((counters.kicks, counters.suppressed_kicks), (1, 0));
    rig.finish(4);
}

#[test]
fn what_is_submitted_is_invisible_until_it_is_published() {
    every_ring!(invisible_until_published);
}

fn invisible_until_published<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(8, 65_533));
    for n in 1..=4 {
        let buf = rig.maker.chain(2);
        rig.queue.submit(buf).unwrap();
        assert_eq!(
            rig.device.with_queue(Q, |queue| queue.refresh()),
            Some(0),
            "{n}"
        );
    }
    rig.queue.publish();
    assert_eq!(rig.device.with_queue(Q, |queue| queue.refresh()), Some(4));
    assert_eq!(rig.device.kicks(Q), 0, "publish never kicks");
    rig.queue.kick();
    assert_eq!(rig.device.kicks(Q), 1);
    assert_eq!(rig.serve_and_drain(), 4);
    rig.finish(0);
}

#[test]
fn bug_class_02_used_event_follows_what_was_taken() {
    on_every_ring_with_events(event_follows);
}

fn event_follows(platform: &InPlace, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(4, 65_530));
    let mut taken = 65_530_u64;
    for round in 0..scaled(24, 6) {
        let batch = 1 + round % 4;
        for _ in 0..batch {
            let buf = rig.maker.chunks(&[(W, 1)]);
            rig.queue.submit(buf).unwrap();
        }
        assert!(!rig.queue.arm());
        let event = rig.device.with_queue(Q, |queue| queue.used_event());
        let next = ring.spot(4, taken);
        assert_eq!(event, Some(next), "the next one interrupts");
        rig.queue.kick();
        rig.device.with_queue(Q, |queue| {
            let mut first = true;
            while let Some(chain) = queue.pop() {
                assert_eq!(
                    queue.complete(chain, 0),
                    first,
                    "only the first one interrupts"
                );
                first = false;
            }
        });
        assert!(rig.queue.arm(), "it is there already");
        assert_eq!(rig.queue.drain(|_| ()).unwrap(), batch);
        taken += batch as u64;
    }
    rig.finish(0);
}

/// Defends: SP-013.
#[test]
fn bug_class_03_disarm_is_obeyed_with_and_without_event_indices() {
    on_every_ring_in_place(|platform, ring| {
        let mut rig = Rig::new(platform, ring.features, &config(8, 65_000));
        assert!(!rig.queue.arm());
        for round in 0..scaled(200, 3) {
            rig.queue.disarm();
            for _ in 0..8 {
                let buf = rig.maker.chunks(&[(R, 1)]);
                rig.queue.submit(buf).unwrap();
            }
            rig.queue.kick();
            rig.device.with_queue(Q, |queue| {
                while let Some(chain) = queue.pop() {
                    assert!(!queue.complete(chain, 0), "round {round}");
                }
            });
            assert_eq!(rig.queue.drain(|_| ()).unwrap(), 8);
        }
        rig.finish(0);
    });
}

/// Defends: SP-014.
#[test]
fn arm_says_true_when_work_raced_in_and_a_spurious_interrupt_finds_nothing() {
    on_every_ring_in_place(|platform, ring| {
        let mut rig = Rig::new(platform, ring.features, &config(4, 65_535));
        for _ in 0..4 {
            assert!(!rig.queue.arm(), "a spurious interrupt: nothing is there");
            assert!(rig.queue.next_completion().unwrap().is_none());
        }
        let buf = rig.maker.chunks(&[(R, 1)]);
        rig.queue.submit(buf).unwrap();
        rig.queue.kick();
        rig.device.echo(Q);
        for _ in 0..3 {
            assert!(rig.queue.arm(), "it stays true until it is taken");
        }
        drop(rig.queue.next_completion().unwrap().unwrap());
        assert!(!rig.queue.arm());
        rig.finish(0);
    });
}

#[test]
fn arm_says_true_for_what_was_seen_and_not_taken() {
    on_every_ring_in_place(seen_and_not_taken);
}

fn seen_and_not_taken(platform: &InPlace, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(4, 0));
    for _ in 0..3 {
        let buf = rig.maker.chunks(&[(R, 1)]);
        rig.queue.submit(buf).unwrap();
    }
    rig.queue.kick();
    rig.device.echo(Q);
    drop(rig.queue.next_completion().unwrap().unwrap());
    assert!(rig.queue.arm());
    assert_eq!(rig.queue.drain(|_| ()).unwrap(), 2);
    assert!(!rig.queue.arm());
    rig.finish(0);
}

#[test]
fn bug_class_30_a_delayed_interrupt_does_not_wait_for_what_is_not_published() {
    on_every_ring_in_place(|platform, ring| {
        for start in (0..16).step_by(scaled(1, 9)) {
            let mut rig = Rig::new(platform, ring.features, &config(8, start));
            for published in 1..=3 {
                for _ in 0..published {
                    let buf = rig.maker.chunks(&[(R, 1)]);
                    rig.queue.submit(buf).unwrap();
                }
                rig.queue.kick();
                let buf = rig.maker.chain(5);
                rig.queue.submit(buf).unwrap();
                assert!(!rig.queue.arm_delayed());
                let woken = rig.device.with_queue(Q, |queue| {
                    let chains: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
                    assert_eq!(chains.len(), published);
                    let woken = chains.into_iter().map(|chain| queue.complete(chain, 0));
                    woken.filter(|&woken| woken).count()
                });
                assert!(woken > Some(0), "{published} from {start}");
                assert_eq!(rig.queue.drain(|_| ()).unwrap(), published);
                rig.queue.kick();
                assert_eq!(rig.serve_and_drain(), 1);
            }
            rig.finish(0);
        }
    });
}

#[test]
fn bug_class_04_the_right_head_after_a_chain_was_recycled() {
    every_ring!(right_head_after_recycle);
}

fn right_head_after_recycle<K: Kind>(platform: &Fake<K>, ring: Ring) {
    // Chains of 1 to 4, returned in every rotation, over and over in the same eight descriptors.
    let mut rig = Rig::new(platform, ring.features, &config(8, 65_529));
    for round in 0..scaled(60, 4) {
        let turn = if ring.is_in_order() { 0 } else { round % 3 };
        let lens = [[1, 3, 4], [2, 2, 4], [4, 1, 2], [3, 4, 1]][round % 4];
        let mut sent: Vec<(Ticket, u64, usize)> = Vec::new();
        for len in lens {
            let buf = rig.maker.chain(len);
            let number = buf.number;
            sent.push((rig.queue.submit(buf).unwrap(), number, len));
        }
        let taken: u16 = lens.iter().map(|&len| descriptors(ring, 8, len)).sum();
        assert_eq!(rig.queue.free(), 8 - taken);
        rig.queue.kick();
        rig.device.with_queue(Q, |queue| {
            let mut chains: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
            for (chain, &(ticket, _, len)) in chains.iter().zip(&sent) {
                assert_eq!(chain.head(), ticket.slot());
                assert_eq!(chain.segments().len(), len);
                assert_eq!(chain.descriptors(), descriptors(ring, 8, len));
            }
            chains.rotate_left(turn);
            sent.rotate_left(turn);
            for chain in chains {
                let len = reply(queue, &chain, usize::MAX);
                queue.push(chain, len);
            }
            queue.publish();
        });
        for (ticket, number, _) in sent {
            let done = rig.queue.next_completion().unwrap().unwrap();
            assert_eq!(done.ticket(), ticket);
            let written = done.written() as usize;
            let buf = done.into_buf();
            assert_eq!(buf.number, number);
            buf.check(written);
        }
        assert_eq!(rig.queue.free(), 8);
    }
    rig.finish(0);
}

#[test]
fn bug_class_05_the_free_list_survives_every_order_of_return() {
    assert_eq!(permutations(4).len(), 24);
    on_every_ring_in_place(every_order_of_return);
}

fn every_order_of_return(platform: &InPlace, ring: Ring) {
    let mut orders: Vec<Vec<usize>> = permutations(4);
    orders = orders.into_iter().step_by(scaled(1, 8)).collect();
    if ring.is_in_order() {
        orders = vec![vec![0, 1, 2, 3]; 3];
    }
    let mut rig = Rig::new(platform, ring.features, &config(8, 65_500));
    for order in orders {
        let mut slots = Vec::new();
        for len in [1, 2, 3, 2] {
            let buf = rig.maker.chain(len);
            slots.push(rig.queue.submit(buf).unwrap().slot());
        }
        let free = if ring.is_indirect() { 2 } else { 0 };
        assert_eq!(rig.queue.free(), free);
        rig.queue.kick();
        rig.device.with_queue(Q, |queue| {
            let mut chains: Vec<_> = std::iter::from_fn(|| queue.pop().map(Some)).collect();
            for &i in &order {
                let chain = chains[i].take().unwrap();
                let len = reply(queue, &chain, usize::MAX);
                queue.push(chain, len);
            }
            queue.publish();
        });
        let mut came = Vec::new();
        rig.queue
            .drain(|done| came.push(done.ticket().slot()))
            .unwrap();
        assert_eq!(came, order.iter().map(|&i| slots[i]).collect::<Vec<_>>());
        // All ids are there once: eight chains of one, and no ninth.
        rig.full_round();
    }
    rig.finish(0);
}

fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let insert = |rest: Vec<usize>| {
        (0..n).map(move |at| {
            let mut all = rest.clone();
            all.insert(at, n - 1);
            all
        })
    };
    permutations(n - 1).into_iter().flat_map(insert).collect()
}

#[test]
fn bug_class_05_exhaustion_is_an_answer_not_a_panic() {
    every_ring!(exhaustion);
}

fn exhaustion<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for size in [1, 2, 4] {
        let mut rig = Rig::new(platform, ring.features, &config(size, 65_534));
        for _ in 0..size {
            let buf = rig.maker.chunks(&[(R, 1)]);
            rig.queue.submit(buf).unwrap();
        }
        for _ in 0..3 {
            let buf = rig.maker.chunks(&[(R, 1)]);
            let rejected = rig.queue.submit(buf).unwrap_err();
            assert_eq!(rejected.why, Reject::Full { needed: 1, free: 0 });
            let buf = rig.maker.parts(Vec::new());
            assert!(rig.queue.submit(buf).is_err(), "no segments, no room");
        }
        rig.finish(usize::from(size));
    }
}

/// In order, the head of an empty free list is the slot of the oldest chain.
#[test]
fn bug_class_05_a_buffer_of_no_segments_displaces_nothing_on_a_full_queue() {
    every_ring!(displaces_nothing);
}

fn displaces_nothing<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(4, 65_534));
    for _ in 0..4 {
        let buf = rig.maker.chunks(&[(W, 2)]);
        rig.queue.submit(buf).unwrap();
    }
    for _ in 0..3 {
        let buf = rig.maker.parts(Vec::new());
        let number = buf.number;
        let rejected = rig.queue.submit(buf).unwrap_err();
        assert_eq!(rejected.why, Reject::Full { needed: 0, free: 0 });
        assert_eq!(rejected.buf.number, number);
    }
    rig.queue.kick();
    assert_eq!(rig.serve_and_drain(), 4);
    assert_eq!(rig.maker.alive(), 0);
    rig.full_round();
    rig.finish(0);
}

#[test]
fn bug_class_06_queues_of_every_size() {
    let sizes: &[u16] = if cfg!(miri) {
        &[1, 2, 3]
    } else {
        &[1, 2, 3, 4, 7, 8, 200, 256, 1024, 32_767, 32_768]
    };
    on_every_ring_in_place(|platform, ring| {
        let plain = !ring.is_indirect() && !ring.is_in_order() && ring.has_events();
        for size in ring.sizes(sizes) {
            for start in [0, 65_535 - size / 2] {
                if plain || size < 32_767 {
                    of_size(platform, ring, size, start);
                }
            }
        }
    });
}

fn of_size(platform: &InPlace, ring: Ring, size: u16, start: u16) {
    let mut rig = Rig::new(platform, ring.features, &config(size, start));
    assert_eq!((rig.queue.size(), rig.queue.free()), (size, size));
    rig.full_round();
    rig.full_round();
    let buf = rig.maker.chain(usize::from(size));
    rig.queue.submit(buf).unwrap();
    let left = size - descriptors(ring, size, size.into());
    assert_eq!((rig.queue.free(), rig.queue.outstanding()), (left, 1));
    rig.queue.kick();
    assert_eq!(rig.serve_and_drain(), 1);
    rig.full_round();
    rig.finish(0);
}

#[test]
#[cfg(not(miri))] // a queue of 32768
fn bug_class_06_the_largest_queue_on_platforms_that_map() {
    for ring in [Ring::SPLIT, Ring::PACKED] {
        let _naming = Naming(ring);
        let platform = Bouncing::new();
        let mut rig = Rig::new(&platform, ring.features, &config(32_768, 40_000));
        rig.full_round();
        let buf = rig.maker.chain(32_768);
        rig.queue.submit(buf).unwrap();
        assert_eq!(platform.counts().mappings, 32_768);
        rig.queue.kick();
        assert_eq!(rig.serve_and_drain(), 1);
        assert_eq!(platform.counts().mappings, 0);
        rig.finish(0);
    }
}

#[test]
fn bug_class_06_a_queue_index_beyond_a_byte() {
    let platform = InPlace::new();
    let mut sizes = vec![8; 256];
    sizes.resize(300, 16);
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(FEATURES[0])
        .queues(&sizes);
    let reset = init::reset(device.transport(), &platform).unwrap();
    let mut negotiated = reset.negotiate(&Default::default()).unwrap();
    let index = QueueIndex(299);
    let pending = negotiated.queue(index, &QueueConfig::new(64)).unwrap();
    let live = negotiated.finish().unwrap();
    let mut queue = pending.start(&live).unwrap();
    assert_eq!((queue.index(), queue.size()), (index, 16));
    queue.submit(Maker::new().chunks(&[(R, 4)])).unwrap();
    queue.kick();
    assert_eq!((device.kicks(index), device.kicks(QueueIndex(43))), (1, 0));
    assert_eq!(device.echo(index), 1);
    assert!(device.events().contains(&Event::Enabled(index, 16)));
    let (_, proof) = live.reset().unwrap();
    drop(queue.close(&proof).unwrap());
    platform.assert_no_leaks();
}

/// Defends: SP-001.
#[test]
fn bug_class_07_the_areas_are_where_vring_init_puts_them() {
    let platform = InPlace::new();
    for log in 0..scaled(16, 6) {
        let size = 1_u16 << log;
        let before = platform.counts().region_bytes;
        let rig = Rig::new(&platform, FEATURES[0], &config(size, 0));
        let (areas, layout) = (rig.queue.areas(), vring_init(size, 4).unwrap());
        let offset = |addr: vring::DmaAddr| (addr.0 - areas.desc.0) as usize;
        assert_eq!(areas.desc.0 % 16, 0);
        assert_eq!(offset(areas.driver), layout.avail);
        assert_eq!(offset(areas.device), layout.used);
        let bytes = platform.counts().region_bytes - before;
        assert_eq!(bytes, vring_size(size, 4).unwrap());
        rig.finish(0);
    }
}

/// Defends: PCI-014.
#[test]
fn bug_class_08_the_size_is_what_both_sides_can_do() {
    let platform = InPlace::new();
    // What the device says, what is wanted, what comes of it.
    let cases = [
        (256, 1024, Ok(256)),
        (256, 256, Ok(256)),
        (256, 255, Ok(128)),
        (48, 100, Ok(32)),
        (1, 256, Ok(1)),
        (65_535, 65_535, Ok(32_768)),
        (3, 3, Ok(2)),
        (0, 8, Err(QueueError::Unavailable { queue: Q })),
        (8, 0, Err(QueueError::ZeroSize { queue: Q })),
        (0, 0, Err(QueueError::ZeroSize { queue: Q })),
    ];
    // A packed queue is as large as it likes.
    let packed = [
        (256, 255, Ok(255)),
        (48, 100, Ok(48)),
        (65_535, 65_535, Ok(32_768)),
        (3, 3, Ok(3)),
        (0, 8, Err(QueueError::Unavailable { queue: Q })),
        (8, 0, Err(QueueError::ZeroSize { queue: Q })),
    ];
    let split = cases.map(|case| (Ring::SPLIT, case));
    let packed = packed.map(|case| (Ring::PACKED, case));
    for (ring, (max, wanted, expected)) in split.into_iter().chain(packed) {
        if cfg!(miri) && max.min(wanted) > 256 {
            continue; // it would take minutes
        }
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
            .offer(ring.features)
            .queues(&[max]);
        let reset = init::reset(device.transport(), &platform).unwrap();
        let wish = Wish {
            want: RINGS,
            ..Wish::default()
        };
        let mut negotiated = reset.negotiate(&wish).unwrap();
        let pending = negotiated.queue::<rig::Chunks>(Q, &QueueConfig::new(wanted));
        let beyond = negotiated.queue::<rig::Chunks>(QueueIndex(1), &QueueConfig::new(8));
        assert_eq!(
            beyond.unwrap_err(),
            QueueError::Unavailable {
                queue: QueueIndex(1)
            }
        );
        let (_, proof) = negotiated.abort();
        match (pending, expected) {
            (Ok(pending), Ok(size)) => {
                assert_eq!(pending.size(), size, "{max} {wanted}");
                drop(pending.close(&proof.unwrap()).unwrap());
            }
            (got, expected) => assert_eq!(got.map(|_| 0).unwrap_err(), expected.unwrap_err()),
        }
    }
    platform.assert_no_leaks();
}

#[test]
fn bug_class_09_full_is_not_empty() {
    every_ring!(full_is_not_empty);
}

fn full_is_not_empty<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let sizes = ring.sizes(&[1, 2, 3, 7, 8]);
    for size in few(&sizes, 3) {
        // Full exactly at the wrap, and everywhere near it.
        for start in (65_536 - 2 * i32::from(size)..=65_536).step_by(scaled(1, 5)) {
            let mut rig = Rig::new(platform, ring.features, &config(size, start as u16));
            for _ in 0..scaled(3, 2) {
                rig.full_round();
                assert!(rig.queue.next_completion().unwrap().is_none());
            }
            rig.finish(0);
        }
    }
}

/// Defends: SP-008, PK-005, PK-006.
#[test]
fn bug_class_10_a_chain_longer_than_the_queue_never_fits() {
    every_ring!(longer_than_the_queue);
}

fn longer_than_the_queue<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let sizes = ring.sizes(&[1_u16, 2, 3, 8, 64]);
    for size in few(&sizes, 3) {
        let mut rig = Rig::new(platform, ring.features, &config(size, 65_535));
        let n = usize::from(size);
        let before = rig.snapshot();
        for too_long in [n + 1, n + 7, 3 * n + 1] {
            let buf = rig.maker.chain(too_long);
            let rejected = rig.queue.submit(buf).unwrap_err();
            let expected = Reject::TooManySegments {
                needed: too_long,
                most: size,
            };
            assert_eq!(rejected.why, expected);
            assert_eq!(rejected.buf.parts.len(), too_long);
            assert_eq!(rig.snapshot(), before);
        }
        let buf = rig.maker.chain(n);
        rig.queue.submit(buf).unwrap();
        rig.queue.kick();
        assert_eq!(rig.serve_and_drain(), 1);
        rig.full_round();
        rig.finish(0);
    }
}

/// Defends: PK-008, PK-009.
#[test]
fn bug_class_10_a_chain_waits_for_room_and_says_how_much() {
    on_every_ring_in_place(|platform, ring| {
        if !ring.is_indirect() {
            waits_for_room(platform, ring);
        }
    });
}

fn waits_for_room(platform: &InPlace, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(8, 0));
    let buf = rig.maker.chain(5);
    rig.queue.submit(buf).unwrap();
    let before = rig.snapshot();
    let buf = rig.maker.chain(4);
    let rejected = rig.queue.submit(buf).unwrap_err();
    assert_eq!(rejected.why, Reject::Full { needed: 4, free: 3 });
    assert_eq!(rig.snapshot(), before);
    let buf = rig.maker.chain(3);
    rig.queue.submit(buf).unwrap();
    rig.queue.kick();
    assert_eq!(rig.serve_and_drain(), 2);
    rig.queue.submit(rejected.buf).unwrap();
    rig.finish(1);
}

#[test]
fn bug_class_11_flags_and_links_of_earlier_chains_leave_no_trace() {
    every_ring!(no_stale_flags);
}

fn no_stale_flags<K: Kind>(platform: &Fake<K>, ring: Ring) {
    // The same descriptors serve as middle, end, only one; readable, then writable.
    let mut rig = Rig::new(platform, ring.features, &config(4, 65_530));
    for round in 0..scaled(40, 6) {
        let shapes: [&[_]; 5] = [
            &[(R, 1), (R, 1), (R, 1), (W, 1)],
            &[(W, 1)],
            &[(R, 1), (W, 1)],
            &[(R, 1)],
            &[(W, 1), (W, 1), (W, 1)],
        ];
        let shape = shapes[round % 5];
        let buf = rig.maker.chunks(shape);
        rig.queue.submit(buf).unwrap();
        rig.queue.kick();
        let seen = rig.device.with_queue(Q, |queue| {
            let chain = queue.pop().unwrap();
            let seen: Vec<_> = chain.segments().iter().map(|s| (s.direction, 1)).collect();
            let len = reply(queue, &chain, usize::MAX);
            queue.complete(chain, len);
            seen
        });
        assert_eq!(seen.as_deref(), Some(shape));
        assert_eq!(rig.serve_and_drain(), 1);
    }
    rig.finish(0);
}

/// Submits a buffer that must be refused for `why`, on an empty and on a half full queue; nothing
/// changes, the buffer is the one that was given, and the queue works.
fn refused<K: Kind>(platform: &Fake<K>, ring: Ring, parts: fn() -> Vec<Part>, why: Reject) {
    for busy in few(&[3, 0], 1) {
        let mut rig = Rig::new(platform, ring.features, &config(8, 65_533));
        for _ in 0..busy {
            let buf = rig.maker.chain(1);
            rig.queue.submit(buf).unwrap();
            rig.queue.publish();
        }
        let before = rig.snapshot();
        for _ in 0..scaled(3, 1) {
            let buf = rig.maker.parts(parts());
            let (number, count) = (buf.number, buf.parts.len());
            let rejected = rig.queue.submit(buf).unwrap_err();
            assert_eq!(rejected.why, why);
            assert_eq!(rejected.buf.number, number);
            assert_eq!(rejected.buf.parts.len(), count);
            assert_eq!(rig.snapshot(), before);
            drop(rejected);
            assert_eq!(rig.maker.alive(), busy);

            let buf = rig.maker.parts(parts());
            let error = rig
                .queue
                .submit_burst(&mut std::iter::once(buf))
                .unwrap_err();
            assert_eq!((error.submitted, error.rejected.why), (0, why));
            assert_eq!(rig.snapshot(), before);
        }
        // The snapshots say it already; Miri takes a second for this.
        if !cfg!(miri) {
            rig.full_round();
        } else {
            assert_eq!(rig.serve_and_drain(), busy);
        }
        rig.finish(0);
    }
}

fn bytes(direction: vring::platform::Direction, len: usize) -> Part {
    Part::Bytes(direction, vec![7; len].into())
}

#[test]
fn bug_class_12_a_segment_of_no_bytes_is_refused() {
    fn first() -> Vec<Part> {
        vec![bytes(R, 0)]
    }
    fn second() -> Vec<Part> {
        vec![bytes(R, 1), bytes(W, 0), bytes(W, 1)]
    }
    fn last() -> Vec<Part> {
        vec![bytes(R, 9), bytes(R, 1), bytes(W, 0)]
    }
    fn none() -> Vec<Part> {
        Vec::new()
    }
    every_ring!(refused, first, Reject::Empty { index: 0 });
    every_ring!(refused, second, Reject::Empty { index: 1 });
    every_ring!(refused, last, Reject::Empty { index: 2 });
    every_ring!(refused, none, Reject::Empty { index: 0 });
}

#[test]
#[cfg(target_pointer_width = "64")]
fn bug_class_13_a_segment_of_4_gib_is_refused_and_not_touched() {
    fn only() -> Vec<Part> {
        vec![Part::Phantom(W, 1 << 32)]
    }
    fn behind() -> Vec<Part> {
        vec![bytes(R, 3), Part::Phantom(W, (1 << 32) + 5)]
    }
    fn endless() -> Vec<Part> {
        vec![Part::Phantom(R, isize::MAX as usize)]
    }
    every_ring!(refused, only, Reject::TooLong { bytes: 1 << 32 });
    every_ring!(
        refused,
        behind,
        Reject::TooLong {
            bytes: (1 << 32) + 5
        }
    );
    let bytes = isize::MAX as u64;
    every_ring!(refused, endless, Reject::TooLong { bytes });
}

/// Defends: SP-004.
#[test]
#[cfg(all(target_pointer_width = "64", not(miri)))] // pointers to memory that is not there
fn bug_class_13_a_chain_of_more_than_4_gib_is_refused() {
    // In place, nobody touches what is only named.
    fn two() -> Vec<Part> {
        vec![Part::Phantom(W, 3 << 30), Part::Phantom(W, 3 << 30)]
    }
    on_every_ring_in_place(|platform, ring| {
        refused(platform, ring, two, Reject::TooLong { bytes: 6 << 30 });
    });
    fn three() -> Vec<Part> {
        vec![
            bytes(R, 1),
            Part::Phantom(W, u32::MAX as usize),
            bytes(W, 1),
        ]
    }
    let bytes = (1 << 32) + 1;
    on_every_ring_in_place(|platform, ring| {
        refused(platform, ring, three, Reject::TooLong { bytes });
    });
}

#[test]
#[cfg(all(target_pointer_width = "64", not(miri)))] // pointers to memory that is not there
fn bug_class_13_lengths_up_to_4_gib_reach_the_device_whole() {
    on_every_ring_in_place(long_lengths);
}

#[cfg(all(target_pointer_width = "64", not(miri)))]
fn long_lengths(platform: &InPlace, ring: Ring) {
    for len in [0x7fff_ffff_u32, 0x8000_0000, 0x8000_0001, u32::MAX] {
        let mut rig = Rig::new(platform, ring.features, &config(4, 0));
        let buf = rig
            .maker
            .parts(vec![bytes(R, 1), Part::Phantom(W, len as usize)]);
        rig.queue.submit(buf).unwrap();
        rig.queue.kick();
        rig.device.with_queue(Q, |queue| {
            let chain = queue.pop().unwrap();
            assert_eq!(chain.segments()[1].len, len);
            assert_eq!(chain.writable(), u64::from(len));
            queue.complete(chain, len);
        });
        let done = rig.queue.next_completion().unwrap().unwrap();
        assert_eq!((done.written(), done.claimed()), (len, len));
        drop(done);
        assert_eq!(rig.queue.counters().overruns, 0);
        rig.finish(0);
    }
}

#[test]
fn bug_class_13_raw_memory_of_4_gib_is_refused() {
    use vring::buffer::RawBuf;
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(FEATURES[0]);
    let (live, mut queue) = support::start(&platform, &device, &config(4, 0));
    let mut byte = 0_u8;
    let ptr = std::ptr::NonNull::from(&mut byte);
    #[cfg(target_pointer_width = "64")]
    for len in [1 << 32, isize::MAX as usize] {
        // SAFETY: it is refused, and nobody looks at the memory, which is not there.
        let buf = unsafe { RawBuf::new(ptr, len, W) };
        let rejected = queue.submit(buf).unwrap_err();
        assert_eq!(rejected.why, Reject::TooLong { bytes: len as u64 });
        assert_eq!(rejected.buf.segment().ptr(), ptr);
        assert_eq!(rejected.buf.segment().len(), len);
    }
    // SAFETY: as above.
    let buf = unsafe { RawBuf::new(ptr, 0, W) };
    let rejected = queue.submit(buf).unwrap_err();
    assert_eq!(rejected.why, Reject::Empty { index: 0 });
    assert_eq!(platform.counts().maps, 0);
    assert_eq!(support::stop(live, queue).len(), 0);
    platform.assert_no_leaks();
}

/// Defends: SP-002, PK-007.
#[test]
fn bug_class_14_readable_behind_writable_is_refused() {
    fn two() -> Vec<Part> {
        vec![bytes(W, 1), bytes(R, 1)]
    }
    fn three() -> Vec<Part> {
        vec![bytes(R, 1), bytes(W, 40), bytes(R, 1)]
    }
    every_ring!(refused, two, Reject::Order { index: 1 });
    every_ring!(refused, three, Reject::Order { index: 2 });
}

#[test]
fn a_burst_stops_where_the_room_ends_and_takes_nothing_more_from_the_iterator() {
    every_ring!(burst_stops);
}

fn burst_stops<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(8, 65_532));
    let mut bufs: Vec<_> = (0..20).map(|_| rig.maker.chunks(&[(R, 1)])).collect();
    let mut source = bufs.drain(..);
    assert_eq!(rig.queue.submit_burst(&mut source).unwrap(), 8);
    assert_eq!(source.len(), 12, "nothing is taken that is not submitted");
    assert_eq!(rig.queue.submit_burst(&mut source).unwrap(), 0);
    assert_eq!(source.len(), 12);
    rig.queue.kick();
    assert_eq!(rig.serve_and_drain(), 8);
    assert_eq!(rig.queue.submit_burst(&mut source).unwrap(), 8);
    rig.queue.kick();
    assert_eq!(rig.serve_and_drain(), 8);
    assert_eq!(rig.queue.submit_burst(&mut source).unwrap(), 4);
    drop(source);
    rig.finish(4);
}

#[test]
fn a_burst_of_chains_gives_back_the_one_that_does_not_fit() {
    every_ring!(burst_of_chains);
}

fn burst_of_chains<K: Kind>(platform: &Fake<K>, ring: Ring) {
    if ring.is_indirect() {
        return;
    }
    let mut rig = Rig::new(platform, ring.features, &config(8, 65_532));
    // 1 + 2 + 1 + 3 = 7, and 2 more do not fit.
    let bufs: Vec<_> = [1, 2, 1, 3, 2, 1].map(|n| rig.maker.chain(n)).into();
    let fifth = bufs[4].number;
    let mut source = bufs.into_iter();
    let error = rig.queue.submit_burst(&mut source).unwrap_err();
    assert_eq!(error.submitted, 4);
    assert_eq!(error.rejected.buf.number, fifth);
    assert_eq!(error.rejected.why, Reject::Full { needed: 2, free: 1 });
    assert_eq!(source.len(), 1);
    assert_eq!(rig.queue.submit_burst(&mut source).unwrap(), 1);
    rig.queue.kick();
    assert_eq!(rig.serve_and_drain(), 5);
    drop(error);
    rig.full_round();
    rig.finish(0);
}

#[test]
fn an_iterator_that_panics_leaves_the_queue_whole() {
    every_ring!(panicking_iterator);
}

fn panicking_iterator<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for good in (0..6).step_by(scaled(1, 3)) {
        let mut rig = Rig::new(platform, ring.features, &config(8, 65_533));
        let Rig { queue, maker, .. } = &mut rig;
        let mut left = good;
        let mut source = std::iter::from_fn(|| {
            assert!(left > 0, "the iterator stops here");
            left -= 1;
            Some(maker.chain(1 + left % 2))
        });
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            queue.submit_burst(&mut source).map(drop)
        }));
        assert!(outcome.is_err());
        assert_eq!(usize::from(rig.queue.outstanding()), good);
        assert_eq!(rig.queue.counters().submitted, good as u64);
        assert_eq!(rig.maker.alive(), good, "nothing is lost, nothing dropped");
        rig.queue.kick();
        assert_eq!(rig.serve_and_drain(), good);
        rig.full_round();
        rig.finish(0);
    }
}

#[test]
fn a_closure_that_panics_loses_only_the_buffer_that_it_was_given() {
    every_ring!(panicking_closure);
}

fn panicking_closure<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for good in (0..4_usize).step_by(scaled(1, 2)) {
        let mut rig = Rig::new(platform, ring.features, &config(8, 65_533));
        for n in [2, 1, 3, 2] {
            let buf = rig.maker.chain(n);
            rig.queue.submit(buf).unwrap();
        }
        rig.queue.kick();
        rig.device
            .serve(Q, |queue, chain| reply(queue, chain, usize::MAX));
        let mut came = Vec::new();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            rig.queue.drain(|done| {
                assert!(came.len() < good, "the closure stops here");
                came.push(done.into_buf());
            })
        }));
        assert!(outcome.is_err());
        // The one that it held when it panicked was dropped with it.
        assert_eq!(rig.maker.alive(), 3);
        assert_eq!(rig.queue.counters().completed, good as u64 + 1);
        assert_eq!(usize::from(rig.queue.outstanding()), 3 - good);
        if maps(platform) {
            assert_eq!(platform.counts().mappings, [6, 5, 2, 0][good]);
        }
        assert_eq!(rig.queue.drain(|_| ()).unwrap(), 3 - good);
        drop(came);
        rig.full_round();
        rig.finish(0);
    }
}

#[test]
fn drain_ends_though_the_device_goes_on() {
    // The device returns one more chain each time that the closure runs.
    let platform = Bouncing::new();
    let mut rig = Rig::new(&platform, FEATURES[0], &config(16, 65_530));
    for _ in 0..16 {
        let buf = rig.maker.chunks(&[(R, 1)]);
        rig.queue.submit(buf).unwrap();
    }
    rig.queue.kick();
    let mut remote = rig.device.take_queue(Q).unwrap();
    let mut one = || {
        if let Some(chain) = remote.pop() {
            remote.complete(chain, 0);
        }
    };
    one();
    one();
    assert_eq!(rig.queue.drain(|_| one()).unwrap(), 2);
    assert_eq!(rig.queue.drain(|_| one()).unwrap(), 2);
    drop(remote);
    rig.finish(12);
}

#[test]
fn drain_of_a_packed_ring_ends_with_what_was_out_when_it_began() {
    let platform = Bouncing::new();
    let mut rig = Rig::new(&platform, Ring::PACKED.features, &config(7, 65_530));
    for _ in 0..5 {
        let buf = rig.maker.chunks(&[(R, 1)]);
        rig.queue.submit(buf).unwrap();
    }
    rig.queue.kick();
    let mut remote = rig.device.take_queue(Q).unwrap();
    let mut one = || {
        if let Some(chain) = remote.pop() {
            remote.complete(chain, 0);
        }
    };
    one();
    one();
    assert_eq!(rig.queue.drain(|_| one()).unwrap(), 5);
    drop(remote);
    rig.finish(0);
}

#[test]
fn tickets_of_what_is_in_the_queue_are_distinct_and_dense() {
    on_every_ring_in_place(distinct_tickets);
}

fn distinct_tickets(platform: &InPlace, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(16, 65_530));
    let mut table: Vec<Option<Ticket>> = vec![None; 16];
    for round in 0..scaled(300, 12) {
        let buf = rig.maker.chain(1 + round % 3);
        if let Ok(ticket) = rig.queue.submit(buf) {
            let old = table[usize::from(ticket.slot())].replace(ticket);
            assert_eq!(old, None, "two in one slot");
            rig.queue.kick();
        }
        if round % 2 == 0 {
            rig.device.with_queue(Q, |queue| {
                if let Some(chain) = queue.pop() {
                    queue.complete(chain, 0);
                }
            });
        }
        if let Some(done) = rig.queue.next_completion().unwrap() {
            let old = table[usize::from(done.ticket().slot())].take();
            assert_eq!(old, Some(done.ticket()));
        }
    }
    let left = table.iter().flatten().count();
    rig.finish(left);
}

/// Ends in a panic of the caller's, and of nobody else.
fn interrupted<R>(f: impl FnOnce() -> R) {
    let payload = catch_unwind(AssertUnwindSafe(f)).err().expect("a panic");
    assert!(payload.is::<Interrupted>(), "another panic");
}

/// What the caller panics with; quiet.
struct Interrupted;

fn interrupt() -> ! {
    std::panic::resume_unwind(Box::new(Interrupted))
}

#[test]
fn bursts_and_drains_that_panic_leave_every_count_as_it_is() {
    every_platform!(interrupted_bursts);
}

fn interrupted_bursts<K: Kind>(platform: &Fake<K>) {
    for ring in Ring::ALL {
        let _naming = Naming(ring);
        for size in ring
            .sizes(&[1, 2, 3, 8, 7, 16])
            .into_iter()
            .take(scaled(6, 3))
        {
            let mut rig = Rig::new(platform, ring.features, &config(size, 65_531));
            let mut seed = u32::from(size);
            let mut below = |bound: usize| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 16) as usize % bound
            };
            let mut inside = 0;
            for _ in 0..scaled(60, 4) {
                // Buffers of one segment and of several; then the iterator panics, if the queue
                // asks for as many.
                let mut lengths: Vec<_> = (0..=below(5)).map(|_| 1 + below(4) * below(2)).collect();
                let (mut given, mut ended) = (0, false);
                let submitted = catch_unwind(AssertUnwindSafe(|| {
                    let mut bufs = std::iter::from_fn(|| match lengths.pop() {
                        Some(n) => {
                            given += 1;
                            Some(rig.maker.chain(n))
                        }
                        None => {
                            ended = true;
                            interrupt()
                        }
                    });
                    rig.queue.submit_burst(&mut bufs)
                }));
                inside += match submitted {
                    Ok(Ok(submitted)) => submitted,
                    Ok(Err(error)) => error.submitted,
                    Err(_) => given,
                };
                assert_eq!(usize::from(rig.queue.outstanding()), inside, "{ended}");
                match below(3) {
                    0 => rig.queue.publish(),
                    1 => rig.queue.kick(),
                    _ => (),
                }
                // Some come back, in order by one element each time.
                let batch = 1 + below(3);
                let back = rig.device.with_queue(Q, |queue| {
                    let chains: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
                    let back = chains.len();
                    let mut chains = chains.into_iter().peekable();
                    while chains.peek().is_some() {
                        let several = if ring.is_in_order() { batch } else { 1 };
                        let several: Vec<_> = chains.by_ref().take(several).collect();
                        let mut last = 0;
                        for chain in &several {
                            last = reply(queue, chain, usize::MAX);
                        }
                        queue.push_batch(several, last);
                    }
                    queue.publish();
                    back
                });
                let mut left = back.unwrap();
                while left != 0 {
                    let stop = 1 + below(left);
                    let mut came = 0;
                    interrupted(|| {
                        rig.queue.drain(|done| {
                            let written = done.written() as usize;
                            done.into_buf().check(written);
                            came += 1;
                            if came == stop {
                                interrupt();
                            }
                        })
                    });
                    assert_eq!(came, stop);
                    (left, inside) = (left - came, inside - came);
                    assert_eq!(usize::from(rig.queue.outstanding()), inside);
                    assert_eq!(rig.queue.arm(), left != 0, "{left} are left");
                }
                if inside == 0 {
                    assert_eq!(rig.queue.free(), size);
                }
            }
            rig.queue.kick();
            assert_eq!(rig.serve_and_drain(), inside);
            rig.full_round();
            rig.finish(0);
        }
    }
}
