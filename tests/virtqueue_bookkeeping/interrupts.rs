//! Arming and disarming: bug classes 2, 3 and 30.

use vring::testing::InPlace;

use super::{on_every_ring_in_place, on_every_ring_with_events};
use crate::rig::{R, Rig, W, config, scaled};
use crate::support::{Q, Ring};

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
