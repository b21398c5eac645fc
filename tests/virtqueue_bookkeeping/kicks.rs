//! Publishing, and the decision to kick: bug class 1.

use vring::testing::{Fake, InPlace, Kind};

use super::on_every_ring_with_events;
use crate::rig::{R, Rig, config, few, scaled};
#[cfg(not(miri))]
use crate::support::FEATURES;
use crate::support::{Q, Ring, every_ring};

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
