//! What a lying device meets in the queue, beside what `hostile.rs` shows: bug classes 37 to 45.

#[path = "support/queue.rs"]
mod rig;
mod support;

use vring::features::{Feature, Wish};
use vring::init;
use vring::platform::DmaAddr;
use vring::testing::{Bouncing, Fake, Kind, QueueDevice, ResetAnswer};
use vring::virtqueue::Fault;

use rig::{Chunks, Maker, R, Rig, W, config, every_platform, reply, scaled};
use support::{FEATURES, Naming, Q, Ring, every_ring};

#[test]
fn bug_class_39_an_index_that_goes_back_behind_what_was_seen_is_a_fault() {
    every_ring!(index_goes_back);
}

fn index_goes_back<K: Kind>(platform: &Fake<K>, ring: Ring) {
    if ring.is_packed() {
        return; // which has no index
    }
    for back in 1..=3 {
        let mut rig = Rig::new(platform, ring.features, &config(8, 65_533));
        rig.device.violations().set_lenient();
        for _ in 0..6 {
            let buf = rig.maker.chain(1);
            rig.queue.submit(buf).unwrap();
        }
        rig.queue.kick();
        rig.device.with_queue(Q, |queue| {
            for _ in 0..4 {
                let chain = queue.pop().unwrap();
                queue.push(chain, 0);
            }
            queue.publish();
        });
        // The driver has seen four, and takes one.
        drop(rig.queue.next_completion().unwrap().unwrap());
        let last = 65_533_u16.wrapping_add(4);
        rig.device
            .with_queue(Q, |queue| queue.forge_used_idx(last.wrapping_sub(back)));
        let fault = rig.queue.drain(|_| panic!("it is broken")).unwrap_err();
        let expected = Fault::UsedIndex {
            seen: last.wrapping_sub(back),
            last,
            outstanding: 5,
        };
        assert_eq!(fault, expected);
        assert_eq!(rig.queue.next_completion().map(drop), Err(fault));
        rig.finish(5);
    }
}

#[test]
fn bug_class_43_a_batch_beyond_the_index_keeps_no_driver_awake() {
    every_platform!(batch_beyond_the_index);
}

fn batch_beyond_the_index<K: Kind>(platform: &Fake<K>) {
    let features = FEATURES[0].with(Feature::IN_ORDER);
    let config = config(8, 65_534);
    let device = rig::device(platform, features, &config);
    let reset = init::reset(device.transport(), platform).unwrap();
    let wish = Wish {
        want: features,
        ..Wish::default()
    };
    let mut negotiated = reset.negotiate(&wish).unwrap();
    let pending = negotiated.queue::<Chunks>(Q, &config).unwrap();
    let live = negotiated.finish().unwrap();
    let mut queue = pending.start(&live).unwrap();
    device.violations().set_lenient();
    let mut maker = Maker::new();
    let tickets: Vec<_> = (0..4)
        .map(|_| queue.submit(maker.chain(1)).unwrap())
        .collect();
    queue.kick();
    // The index says one, the element says that three are done.
    let last = tickets[2].slot();
    device.with_queue(Q, |queue| queue.forge_used(last.into(), 0));
    let mut next = |expected: Option<usize>| {
        let done = queue.next_completion().unwrap();
        let ticket = done.map(|done| done.ticket());
        assert_eq!(ticket, expected.map(|i| tickets[i]));
        // A driver polls for as long as this is true.
        queue.arm()
    };
    assert!(!next(Some(0)), "there is no more, by the index");
    assert!(!next(None));
    device.with_queue(Q, |queue| queue.forge_used_idx(65_534_u16.wrapping_add(3)));
    assert!(next(Some(1)));
    assert!(!next(Some(2)));
    assert!(!next(None));
    assert_eq!(support::stop(live, queue).len(), 1);
    platform.assert_no_leaks();
}

#[test]
fn what_came_back_before_a_fault_is_given_out() {
    every_ring!(given_out_before_a_fault);
}

fn given_out_before_a_fault<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for good in (0..4).step_by(scaled(1, 2)) {
        for singly in [false, true] {
            let mut rig = Rig::new(platform, ring.features, &config(8, 65_533));
            for _ in 0..4 {
                let buf = rig.maker.chunks(&[(R, 3), (W, 1)]);
                rig.queue.submit(buf).unwrap();
            }
            rig.queue.kick();
            rig.device.with_queue(Q, |queue| {
                for _ in 0..good {
                    let chain = queue.pop().unwrap();
                    let len = reply(queue, &chain, 1);
                    queue.push(chain, len);
                }
                queue.forge_used(8, 0);
            });
            let mut came = 0;
            let mut take = |buf: rig::Chunks| {
                buf.check(1);
                came += 1;
            };
            let fault = if singly {
                loop {
                    match rig.queue.next_completion() {
                        Ok(done) => take(done.unwrap().into_buf()),
                        Err(fault) => break fault,
                    }
                }
            } else {
                rig.queue.drain(|done| take(done.into_buf())).unwrap_err()
            };
            assert_eq!(fault, Fault::UsedIdOutOfRange { id: 8, size: 8 });
            assert_eq!(came, good);
            let counters = rig.queue.counters();
            assert_eq!((counters.completed, counters.faults), (good as u64, 1));
            assert_eq!(usize::from(rig.queue.outstanding()), 4 - good);
            rig.finish(4 - good);
        }
    }
}

#[test]
fn bug_class_45_a_broken_queue_is_as_good_as_new_after_a_reset() {
    let lies: [fn(&mut QueueDevice); 5] = [
        |queue| queue.forge_used(99, 0),
        |queue| queue.forge_used(u32::MAX, 1),
        |queue| queue.forge_used(3, 1),
        |queue| queue.forge_used_idx(queue.used_idx().wrapping_sub(1)),
        |queue| queue.forge_used_idx(queue.used_idx().wrapping_add(300)),
    ];
    every_ring!(works_after_a_reset, &lies[..3]);
    // A packed ring has no index.
    for ring in Ring::ALL.into_iter().filter(|ring| !ring.is_packed()) {
        let _naming = Naming(ring);
        works_after_a_reset(&Bouncing::new(), ring, &lies[3..]);
    }
}

fn works_after_a_reset<K: Kind>(platform: &Fake<K>, ring: Ring, lies: &[fn(&mut QueueDevice)]) {
    for _ in 0..scaled(2, 1) {
        for &lie in lies {
            let mut rig = Rig::new(platform, ring.features, &config(8, 65_533));
            rig.full_round();
            let buf = rig.maker.chain(2);
            rig.queue.submit(buf).unwrap();
            rig.queue.kick();
            rig.device.with_queue(Q, lie);
            assert!(rig.queue.drain(|_| panic!("a lie")).is_err());
            let before = rig.queue.counters();
            for _ in 0..scaled(20, 3) {
                // Whatever it goes on to say, nothing changes any more.
                rig.device.with_queue(Q, lie);
                assert!(rig.queue.next_completion().is_err());
                assert!(rig.queue.drain(|_| panic!("a lie")).is_err());
            }
            assert_eq!(rig.queue.counters(), before);
            rig.finish(1);
        }
    }
}

#[test]
fn bug_class_45_a_lie_about_a_length_costs_nothing() {
    every_ring!(length_lies);
}

fn length_lies<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(8, 65_533));
    for round in 1..=scaled(100, 10) as u64 {
        let buf = rig.maker.chunks(&[(R, 3), (W, 2)]);
        rig.queue.submit(buf).unwrap();
        rig.queue.kick();
        rig.device.serve(Q, |queue, chain| {
            reply(queue, chain, 2);
            u32::MAX
        });
        let done = rig.queue.next_completion().unwrap().unwrap();
        assert_eq!((done.written(), done.claimed()), (2, u32::MAX));
        done.into_buf().check(2);
        assert_eq!(rig.queue.counters().overruns, round);
        assert_eq!(rig.queue.free(), 8);
    }
    rig.full_round();
    rig.finish(0);
}

/// Of a queue that a device broke, or its driver stopped, no descriptor, entry or index changes any
/// more: what was not published stays so.
#[test]
fn bug_class_45_a_broken_queue_makes_nothing_available() {
    every_ring!(nothing_available);
}

fn nothing_available<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for start in [0, 65_533] {
        let features = ring.features.with(Feature::RING_RESET);
        for parked in [false, true] {
            let mut rig = Rig::new(platform, features, &config(8, start));
            rig.full_round();
            for published in [true, false] {
                let buf = rig.maker.chain(2);
                rig.queue.submit(buf).unwrap();
                if published {
                    rig.queue.publish();
                }
            }
            if parked {
                platform.set_patience(2);
                rig.device.set_queue_reset(ResetAnswer::Never);
                let again = config(8, start);
                let restarted = rig.live.restart_queue(&mut rig.queue, &again, |_| panic!());
                assert!(restarted.is_err());
            } else {
                rig.device.with_queue(Q, |queue| queue.forge_used(77, 0));
                assert!(rig.queue.next_completion().is_err());
            }
            let fault = rig.queue.fault();
            let (kicks, counters) = (rig.device.kicks(Q), rig.queue.counters());
            let ring = |rig: &Rig<K>| {
                let areas = rig.queue.areas();
                let mut desc = [0; 8 * 16];
                rig.platform.bus().read(areas.desc, &mut desc);
                // Entries and index. What asks for interrupts, or for none, is advice.
                let mut avail = [0; 2 + 8 * 2];
                if !features.has(Feature::RING_PACKED) {
                    let entries = DmaAddr(areas.driver.0 + 2);
                    rig.platform.bus().read(entries, &mut avail);
                }
                (desc, avail)
            };
            let before = ring(&rig);
            for _ in 0..3 {
                let buf = rig.maker.chain(1);
                assert!(rig.queue.submit(buf).is_err());
                let mut bufs = [rig.maker.chain(1)].into_iter();
                assert_eq!(rig.queue.submit_burst(&mut bufs).unwrap(), 0);
                rig.queue.publish();
                rig.queue.kick();
                assert!(rig.queue.arm() && rig.queue.arm_delayed());
                rig.queue.disarm();
                assert!(rig.queue.next_completion().is_err());
                assert!(rig.queue.drain(|_| panic!("it is broken")).is_err());
                assert_eq!((rig.queue.fault(), rig.queue.free()), (fault, 0));
            }
            assert_eq!(
                (rig.device.kicks(Q), rig.queue.counters()),
                (kicks, counters)
            );
            assert!(ring(&rig) == before, "something was written");
            assert_eq!(rig.queue.outstanding(), 2);
            rig.finish(2);
        }
    }
}
