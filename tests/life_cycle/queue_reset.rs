//! A queue that is reset on its own, set up anew, or parked.

use std::sync::{Arc, Mutex};

use vring::features::{Feature, Features, Wish};
use vring::init::{self, InitFailure, QueueConfig, QueueError, SuspendFailure, Unsuspended};
use vring::platform::Wait;
use vring::testing::{Bouncing, Event, Fake, FakeDevice, InPlace, Kind, ResetAnswer};
use vring::transport::{DeviceId, QueueIndex, Status, TransportError};
use vring::virtqueue::{Fault, Reject};

use super::{RINGS, two};
use crate::rig::{Chunks, every_platform};
use crate::support::{Q, stop};

/// Defends: CF-006, CF-007, LC-008, LC-009.
#[test]
fn a_queue_is_reset_and_set_up_anew_with_another_size() {
    for ring in RINGS {
        every_platform!(restarted, ring);
    }
}

fn restarted<K: Kind>(platform: &Fake<K>, ring: Features) {
    let features = Feature::RING_RESET | Feature::EVENT_IDX | ring;
    let mut two = two(platform, features, &QueueConfig::new(16));
    let packed = ring.has(Feature::RING_PACKED);
    let regions = platform.counts().regions;
    for (size, split) in [(64, 64), (8, 8), (1000, 256), (100, 64), (16, 16)] {
        let got = if packed { size.min(256) } else { split };
        two.submit(0, 3);
        two.submit(1, 1);
        two.queues[0].kick();
        // One more that was never published.
        two.submit(0, 1);
        let alive = two.maker.alive();
        let polls = 5;
        two.device.set_queue_reset(ResetAnswer::After(polls));
        let mut back = Vec::new();
        two.live
            .restart_queue(&mut two.queues[0], &QueueConfig::new(size), |withdrawn| {
                assert!(!withdrawn.header);
                back.push(withdrawn.buf);
            })
            .unwrap();
        let numbers: Vec<u64> = back.iter().map(|buf| buf.number).collect();
        assert_eq!(numbers.len(), 4);
        assert!(
            numbers.is_sorted(),
            "in the order of submission: {numbers:?}"
        );
        drop(back);
        assert_eq!(two.maker.alive(), alive - 4);
        let queue = &two.queues[0];
        assert_eq!(
            (queue.size(), queue.free(), queue.outstanding()),
            (got, got, 0)
        );
        assert_eq!((queue.fault(), platform.counts().regions), (None, regions));
        // It works, and the other one never stopped.
        for _ in 0..3 {
            two.submit(0, 4);
            two.queues[0].kick();
            assert_eq!(two.round(0), 4);
        }
        two.queues[1].kick();
        assert_eq!(two.round(1), 1);
    }
    two.finish();
}

#[test]
fn a_broken_queue_works_again_after_its_reset() {
    let platform = Bouncing::new();
    let mut two = two(&platform, Feature::RING_RESET, &QueueConfig::new(8));
    two.device.violations().set_lenient();
    two.submit(0, 2);
    two.queues[0].kick();
    two.device.with_queue(Q, |queue| queue.forge_used(77, 0));
    let fault = two.queues[0].next_completion().unwrap_err();
    assert_eq!(fault, Fault::UsedIdOutOfRange { id: 77, size: 8 });
    let mut back = 0;
    two.live
        .restart_queue(&mut two.queues[0], &QueueConfig::new(8), |_| back += 1)
        .unwrap();
    assert_eq!(back, 2);
    two.submit(0, 2);
    two.queues[0].kick();
    assert_eq!(two.round(0), 2);
    let (_, proof) = two.live.reset().unwrap();
    for queue in two.queues {
        drop(queue.close(&proof).unwrap());
    }
    assert_eq!(two.maker.alive(), 0);
    platform.assert_no_leaks();
}

/// Defends: CF-006.
#[test]
fn a_queue_reset_that_is_not_confirmed_parks_the_queue() {
    for ring in RINGS {
        every_platform!(queue_reset_not_confirmed, ring);
    }
}

fn queue_reset_not_confirmed<K: Kind>(platform: &Fake<K>, ring: Features) {
    platform.set_patience(20);
    let waited = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&waited);
    platform.on_wait(move |what, polls| log.lock().unwrap().push((what, polls)));
    for way in 0..3 {
        let features = Feature::RING_RESET | ring;
        let mut two = two(platform, features, &QueueConfig::new(8));
        two.device.set_queue_reset(ResetAnswer::Never);
        two.submit(0, 2);
        two.queues[0].kick();
        two.submit(0, 1);
        let (kicks, idx) = (
            two.device.kicks(Q),
            two.device.with_queue(Q, |queue| queue.refresh()),
        );
        for _ in 0..3 {
            waited.lock().unwrap().clear();
            let why = two
                .live
                .restart_queue(&mut two.queues[0], &QueueConfig::new(8), |_| {
                    panic!("a buffer that the device may have")
                })
                .unwrap_err();
            assert_eq!(why, InitFailure::QueueResetNotConfirmed { queue: Q });
            let expected: Vec<_> = (0..=20).map(|n| (Wait::QueueReset, n)).collect();
            assert_eq!(*waited.lock().unwrap(), expected);
        }
        let begun = |event: &&Event| **event == Event::QueueResetBegun(Q);
        let events = two.device.events();
        assert_eq!(
            events.iter().filter(begun).count(),
            1,
            "the device is told once"
        );
        // Nothing goes in, and nothing more is made available or told.
        let queue = &mut two.queues[0];
        assert_eq!(queue.fault(), Some(Fault::ResetUnconfirmed));
        assert_eq!((queue.free(), queue.outstanding()), (0, 3));
        let rejected = queue.submit(two.maker.chain(1)).unwrap_err();
        assert_eq!(rejected.why, Reject::Broken(Fault::ResetUnconfirmed));
        drop(rejected);
        queue.publish();
        queue.kick();
        assert_eq!(
            queue.next_completion().unwrap_err(),
            Fault::ResetUnconfirmed
        );
        assert_eq!(two.device.kicks(Q), kicks);
        assert_eq!(two.device.with_queue(Q, |queue| queue.refresh()), idx);
        let before = platform.counts();
        match way {
            // The device comes to its senses.
            0 => {
                two.device.set_queue_reset(ResetAnswer::After(0));
                let mut back = 0;
                two.live
                    .restart_queue(&mut two.queues[0], &QueueConfig::new(8), |_| back += 1)
                    .unwrap();
                assert_eq!(back, 3);
                two.submit(0, 3);
                two.queues[0].kick();
                assert_eq!(two.round(0), 3);
                two.finish();
            }
            // A reset of the device takes it apart.
            1 => two.finish(),
            // It is left to the device, and counted.
            _ => {
                let [first, second] = two.queues;
                drop(first);
                let counts = platform.counts();
                assert_eq!(counts.leaked_buffers - before.leaked_buffers, 3);
                assert_ne!(counts.leaked_bytes, before.leaked_bytes);
                assert_eq!(counts.regions, before.regions);
                assert_eq!(two.maker.alive(), 3);
                drop(stop(two.live, second));
            }
        }
    }
}

#[test]
fn a_queue_that_is_parked_kicks_for_nothing_that_it_published() {
    for ring in RINGS {
        let platform = InPlace::new();
        platform.set_patience(5);
        let mut two = two(&platform, Feature::RING_RESET | ring, &QueueConfig::new(8));
        two.device.set_queue_reset(ResetAnswer::Never);
        two.submit(0, 2);
        two.queues[0].publish();
        let config = QueueConfig::new(8);
        let restarted = two.live.restart_queue(&mut two.queues[0], &config, |_| ());
        assert!(restarted.is_err());
        two.queues[0].kick();
        assert_eq!(two.device.kicks(Q), 0);
        two.finish();
    }
}

#[test]
fn a_queue_that_cannot_be_reset_is_as_it_was() {
    let platform = InPlace::new();
    let platform_2 = InPlace::new();
    let mut without = two(&platform, Features::EMPTY, &QueueConfig::new(8));
    let mut other = two(&platform_2, Feature::RING_RESET, &QueueConfig::new(8));
    for round in 1..3 {
        without.submit(0, 1);
        let unsupported = without
            .live
            .restart_queue(&mut without.queues[0], &QueueConfig::new(8), |_| panic!())
            .unwrap_err();
        assert!(matches!(
            unsupported,
            InitFailure::Transport(TransportError::Unsupported { .. })
        ));
        let foreign = other
            .live
            .restart_queue(&mut without.queues[0], &QueueConfig::new(8), |_| panic!())
            .unwrap_err();
        let unavailable = QueueError::Unavailable { queue: Q };
        assert_eq!(foreign, InitFailure::Queue(unavailable));
        without.queues[0].kick();
        assert_eq!(without.round(0), 1);
        assert_eq!(without.queues[0].counters().completed, round);
    }
    let queue = without.queues.into_iter().next().unwrap();
    let error = other.live.reset_queue(queue).unwrap_err();
    assert_eq!(
        error.why,
        InitFailure::Queue(QueueError::Unavailable { queue: Q })
    );
    drop(stop(without.live, error.queue));
    other.submit(1, 2);
    other.queues[1].kick();
    assert_eq!(other.round(1), 2);
    other.finish();
}

#[test]
fn bug_class_54_when_a_restart_fails_half_way_nothing_is_lost() {
    for ring in RINGS {
        every_platform!(restart_fails, ring);
    }
}

fn restart_fails<K: Kind>(platform: &Fake<K>, ring: Features) {
    // Memory that runs out, the first, the second and the third time.
    let config = QueueConfig::new(8).cells(4, 4).indirect(4);
    let mut two = two(
        platform,
        Feature::RING_RESET | Feature::INDIRECT_DESC | ring,
        &config,
    );
    for nth in 0..3 {
        two.submit(0, 2);
        two.queues[0].kick();
        platform.fail_nth_alloc(nth);
        let mut back = 0;
        let why = two
            .live
            .restart_queue(&mut two.queues[0], &config, |_| back += 1)
            .unwrap_err();
        assert!(
            matches!(why, InitFailure::Queue(QueueError::Memory(_))),
            "{why}"
        );
        assert_eq!(back, 2, "the device was done with them");
        let queue = &mut two.queues[0];
        assert_eq!(
            (queue.fault(), queue.outstanding()),
            (Some(Fault::Stopped), 0)
        );
        let rejected = queue.submit(two.maker.chain(1)).unwrap_err();
        assert_eq!(rejected.why, Reject::Broken(Fault::Stopped));
        drop(rejected);
        let events = two.device.events().len();
        two.live
            .restart_queue(&mut two.queues[0], &config, |_| panic!("twice"))
            .unwrap();
        let events = &two.device.events()[events..];
        assert_eq!(events, [Event::Enabled(Q, 8)], "it need not be reset again");
        two.submit(0, 2);
        two.queues[0].kick();
        assert_eq!(two.round(0), 2);
    }
    // A vector that the device cannot assign: the new ring was perhaps taken, and is reset.
    let with_vector = config.vector(Some(9));
    let why = two
        .live
        .restart_queue(&mut two.queues[0], &with_vector, |_| ())
        .unwrap_err();
    assert_eq!(
        why,
        InitFailure::Queue(QueueError::Transport(TransportError::NoVectors))
    );
    two.live
        .restart_queue(&mut two.queues[0], &config, |_| ())
        .unwrap();
    two.submit(0, 2);
    two.queues[0].kick();
    assert_eq!(two.round(0), 2);
    two.finish();
}

#[test]
fn what_a_queue_reset_withdraws_is_counted_as_no_completion() {
    for ring in RINGS {
        let platform = InPlace::new();
        let config = QueueConfig::new(8);
        let mut two = two(&platform, Feature::RING_RESET | ring, &config);
        two.submit(0, 3);
        two.queues[0].kick();
        assert_eq!(two.round(0), 3);
        two.submit(0, 2);
        platform.fail_nth_alloc(0);
        let restarted = two.live.restart_queue(&mut two.queues[0], &config, |_| ());
        assert!(restarted.is_err());
        let (queue, counters) = (&two.queues[0], two.queues[0].counters());
        assert_eq!(
            (queue.fault(), queue.outstanding()),
            (Some(Fault::Stopped), 0)
        );
        assert_eq!((counters.submitted, counters.completed), (5, 3));
        two.live
            .restart_queue(&mut two.queues[0], &config, |_| panic!("twice"))
            .unwrap();
        two.finish();
    }
}

#[test]
fn a_queue_that_was_reset_is_set_up_by_its_proof_only() {
    let platform = InPlace::new();
    let platform_2 = InPlace::new();
    let features = Feature::RING_RESET | Feature::SUSPEND;
    let mut one = two(&platform, features, &QueueConfig::new(8));
    let mut other = two(&platform_2, Feature::RING_RESET, &QueueConfig::new(8));
    let [queue, second] = one.queues;
    let (closed, proof) = one.live.reset_queue(queue).unwrap();
    assert_eq!(closed.count(), 0);
    // The device has one queue now, and can be suspended with that.
    let (live, [second]) = one.live.suspend([second]).unwrap().resume().unwrap();
    one.live = live;
    let error = other
        .live
        .queue::<Chunks>(proof, &QueueConfig::new(8))
        .unwrap_err();
    assert_eq!(error.why, QueueError::Unavailable { queue: Q });
    // A transport that fails: the queue is reset again, and the proof holds again.
    let proof = error.proof.unwrap();
    let with_vector = QueueConfig::new(8).vector(Some(1));
    let regions = platform.counts().regions;
    let error = one.live.queue::<Chunks>(proof, &with_vector).unwrap_err();
    assert!(matches!(error.why, QueueError::Transport(_)), "{error}");
    assert_eq!(platform.counts().regions, regions, "nothing is left behind");
    let queue = one
        .live
        .queue(error.proof.unwrap(), &QueueConfig::new(4))
        .unwrap();
    // And now it has two again.
    (one.live, one.queues) = one.live.suspend([queue, second]).unwrap().resume().unwrap();
    one.submit(0, 2);
    one.queues[0].kick();
    assert_eq!(one.round(0), 2);
    one.finish();
    other.finish();
}

#[test]
fn a_doorbell_from_before_a_queue_reset_is_stale() {
    let platform = InPlace::new();
    let mut two = two(&platform, Feature::RING_RESET, &QueueConfig::new(8));
    two.submit(0, 1);
    let notification = two.queues[0].kick_prepare().unwrap();
    two.live
        .restart_queue(&mut two.queues[0], &QueueConfig::new(8), |_| ())
        .unwrap();
    notification.send();
    assert_eq!((two.device.kicks(Q), two.device.stale_kicks()), (0, 1));
    two.submit(0, 1);
    two.queues[0].kick();
    assert_eq!((two.device.kicks(Q), two.device.stale_kicks()), (1, 1));
    assert_eq!(two.round(0), 1);
    two.finish();
}

#[test]
fn of_a_device_that_was_told_to_reset_nothing_else_can_be_asked() {
    let platform = InPlace::new();
    platform.set_patience(5);
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(Feature::VERSION_1 | Feature::RING_RESET | Feature::SUSPEND)
        .queues(&[8, 8, 8]);
    let reset = init::reset(device.transport(), &platform).unwrap();
    let mut negotiated = reset.negotiate(&Wish::ring()).unwrap();
    let config = QueueConfig::new(8);
    let [first, second, third] = [0, 1, 2]
        .map(QueueIndex)
        .map(|queue| negotiated.queue::<Chunks>(queue, &config).unwrap());
    let mut live = negotiated.finish().unwrap();
    let [mut first, second] = [first, second].map(|pending| pending.start(&live).unwrap());
    let (closed, vacant) = live.reset_queue(second).unwrap();
    drop(closed);
    device.set_reset(ResetAnswer::Never);
    let events = device.events().len();
    let mut live = live.reset().unwrap_err().live;
    assert_eq!(live.check(), Err(InitFailure::NeedsReset));
    let why = live.restart_queue(&mut first, &config, |_| panic!());
    assert_eq!(why, Err(InitFailure::NeedsReset));
    assert!(
        live.queue::<Chunks>(vacant, &config)
            .unwrap_err()
            .proof
            .is_some()
    );
    let third = third.start(&live).unwrap_err();
    let error = live.suspend((first, third)).unwrap_err();
    assert_eq!(error.why, SuspendFailure::NeedsReset);
    assert_eq!(device.events()[events..], [Event::Status(Status::empty())]);
    let Unsuspended::Running(live, (first, third)) = error.state else {
        panic!("it was not told to suspend itself");
    };
    device.set_reset(ResetAnswer::After(0));
    let (_, proof) = live.reset().unwrap();
    drop((first.close(&proof).unwrap(), third.close(&proof).unwrap()));
    device.assert_clean();
    platform.assert_no_leaks();
}
