//! Suspend and resume.

use std::sync::{Arc, Mutex};

use vring::features::{Feature, Features};
use vring::init::{self, InitFailure, QueueConfig, SuspendFailure, Unsuspended};
use vring::platform::Wait;
use vring::testing::{Event, Fake, FakeDevice, InPlace, Kind, ResetAnswer, SuspendAnswer};
use vring::transport::Status;

use super::{Q1, RINGS, Two, two};
use crate::rig::every_platform;
use crate::support::Q;

/// Defends: LC-010, LC-011, LC-012, LC-013, LC-014, LC-015.
#[test]
fn a_device_is_suspended_with_all_its_queues_and_goes_on_where_it_was() {
    for ring in RINGS {
        every_platform!(suspended, ring);
    }
}

fn suspended<K: Kind>(platform: &Fake<K>, ring: Features) {
    let features = Feature::SUSPEND | Feature::EVENT_IDX | ring;
    let mut two = two(platform, features, &QueueConfig::new(8));
    let running = two.device.status();
    for polls in [0, 1, 7] {
        two.device.set_suspend(SuspendAnswer::After(polls));
        // With the device: two chains; on their way: one.
        two.submit(0, 2);
        two.queues[0].kick();
        two.submit(0, 1);
        let suspended = two.live.suspend(two.queues).unwrap();
        assert_eq!(
            two.device.status(),
            (running - Status::DRIVER_OK) | Status::SUSPEND
        );
        let (live, queues) = suspended.resume().unwrap();
        assert_eq!(two.device.status(), running);
        two = Two {
            live,
            queues,
            ..two
        };
        let kicks = two.device.kicks(Q);
        two.queues[0].kick();
        assert_eq!(two.device.kicks(Q), kicks + 1);
        assert_eq!(two.round(0), 3);
    }
    let written: Vec<Status> = two
        .device
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Status(status) => Some(status),
            _ => None,
        })
        .collect();
    let both = running | Status::SUSPEND;
    assert_eq!(
        written[written.len() - 6..],
        [both; 6],
        "no bit is ever cleared"
    );
    two.finish();
}

#[test]
fn a_device_that_missed_a_kick_is_told_again_when_it_goes_on() {
    let platform = InPlace::new();
    let with_and_without = |ring| [ring, ring | Feature::EVENT_IDX];
    for features in RINGS.into_iter().flat_map(with_and_without) {
        let features = features | Feature::SUSPEND;
        let mut two = two(&platform, features, &QueueConfig::new(8));
        two.submit(0, 2);
        two.queues[0].kick();
        two.submit(1, 1);
        two.queues[1].kick();
        assert_eq!(two.round(1), 1);
        let (live, queues) = two.live.suspend(two.queues).unwrap().resume().unwrap();
        // Nothing is left in the second queue, nothing to be told.
        assert_eq!((two.device.kicks(Q), two.device.kicks(Q1)), (2, 1));
        two = Two {
            live,
            queues,
            ..two
        };
        assert_eq!(two.round(0), 2);
        two.finish();
    }
}

/// Defends: LC-010, LC-012.
#[test]
fn a_device_with_a_queue_in_use_is_not_suspended() {
    let platform = InPlace::new();
    let [platform_2, platform_3] = [InPlace::new(), InPlace::new()];
    let why = |error: &init::SuspendError<_, _, _>| error.why;
    let mut one = two(&platform, Feature::SUSPEND, &QueueConfig::new(8));
    let other = two(&platform_2, Feature::SUSPEND, &QueueConfig::new(8));
    let without = two(&platform_3, Features::EMPTY, &QueueConfig::new(8));

    let events = one.device.events();
    let [first, second] = one.queues;
    let error = one.live.suspend(first).unwrap_err();
    let missing = SuspendFailure::QueuesMissing {
        given: 1,
        set_up: 2,
    };
    assert_eq!(error.why, missing);
    let Unsuspended::Running(live, first) = error.state else {
        panic!("it was not told anything");
    };
    let [foreign, third] = other.queues;
    let error = live.suspend((first, foreign)).unwrap_err();
    assert_eq!(error.why, SuspendFailure::ForeignQueue);
    let Unsuspended::Running(live, (first, foreign)) = error.state else {
        panic!("it was not told anything");
    };
    // A queue that was dropped is missing for ever.
    let error = live.suspend(vec![first]).unwrap_err();
    assert_eq!(error.why, missing);
    let Unsuspended::Running(live, mut first) = error.state else {
        panic!("it was not told anything");
    };
    one.queues = [first.remove(0), second];
    one.live = live;
    assert_eq!(one.device.events(), events, "no status was written");
    one.submit(0, 1);
    one.queues[0].kick();
    assert_eq!(one.round(0), 1);

    let error = without.live.suspend(without.queues).unwrap_err();
    assert_eq!(why(&error), SuspendFailure::NotNegotiated);
    let Unsuspended::Running(live, queues) = error.state else {
        panic!("it was not told anything");
    };
    Two {
        live,
        queues,
        ..without
    }
    .finish();
    let queues = [foreign, third];
    Two { queues, ..other }.finish();

    one.device.fail();
    assert_eq!(one.live.check(), Err(InitFailure::NeedsReset));
    let error = one.live.suspend(one.queues).unwrap_err();
    assert_eq!(error.why, SuspendFailure::NeedsReset);
    let Unsuspended::Running(live, queues) = error.state else {
        panic!("it was not told anything");
    };
    Two {
        live,
        queues,
        ..one
    }
    .finish();
}

/// Defends: LC-011, LC-015.
#[test]
fn a_device_that_does_not_follow_is_waited_for_and_can_be_reset() {
    let platform = InPlace::new();
    platform.set_patience(10);
    let waited = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&waited);
    platform.on_wait(move |what, _| log.lock().unwrap().push(what));
    for answer in [
        SuspendAnswer::Never,
        SuspendAnswer::After(25),
        SuspendAnswer::Fail,
    ] {
        for resuming in [false, true] {
            let mut two = two(&platform, Feature::SUSPEND, &QueueConfig::new(8));
            two.submit(0, 2);
            two.queues[0].kick();
            let (live, queues) = (two.live, two.queues);
            waited.lock().unwrap().clear();
            let (error, wait) = if resuming {
                let suspended = live.suspend(queues).unwrap();
                two.device.set_suspend(answer);
                (suspended.resume().unwrap_err(), Wait::Resume)
            } else {
                two.device.set_suspend(answer);
                (live.suspend(queues).unwrap_err(), Wait::Suspend)
            };
            let Unsuspended::Undecided(suspended) = error.state else {
                panic!("it was told");
            };
            if answer == SuspendAnswer::Fail {
                assert_eq!(error.why, SuspendFailure::NeedsReset);
            } else {
                let status = two.device.status();
                assert_eq!(error.why, SuspendFailure::NotConfirmed { status });
                assert_eq!(*waited.lock().unwrap(), [wait; 11]);
            }
            let written = |device: &FakeDevice| {
                let events = device.events();
                events
                    .iter()
                    .filter(|event| matches!(event, Event::Status(_)))
                    .count()
            };
            let before = written(&two.device);
            if answer == SuspendAnswer::After(25) {
                // It was slow; one more wait is too short, too.
                let Unsuspended::Undecided(suspended) = suspended.resume().unwrap_err().state
                else {
                    panic!("it was told");
                };
                assert_eq!(written(&two.device), before, "and need not be told again");
                let (live, queues) = match suspended.resume() {
                    Ok(both) => both,
                    Err(error) => {
                        // It stopped at last, and is slow again.
                        assert!(!resuming);
                        two.device.set_suspend(SuspendAnswer::After(0));
                        let Unsuspended::Undecided(suspended) = error.state else {
                            panic!("it was told");
                        };
                        suspended.resume().unwrap()
                    }
                };
                two = Two {
                    live,
                    queues,
                    ..two
                };
                assert_eq!(two.round(0), 2);
                two.finish();
            } else {
                let (_, proof, queues) = suspended.reset().unwrap();
                let buffers = queues.map(|queue| queue.close(&proof).unwrap().count());
                assert_eq!(buffers, [2, 0]);
                two.device.assert_clean();
                platform.assert_no_leaks();
            }
        }
    }
}

#[test]
fn a_suspended_device_that_is_dropped_keeps_its_memory() {
    let platform = InPlace::new();
    platform.set_patience(10);
    for forget in [false, true] {
        let mut two = two(&platform, Feature::SUSPEND, &QueueConfig::new(8));
        two.submit(0, 2);
        let before = platform.counts();
        let suspended = two.live.suspend(two.queues).unwrap();
        if forget {
            std::mem::forget(suspended);
        } else {
            two.device.set_reset(ResetAnswer::Never);
            let (suspended, why) = suspended.reset().unwrap_err();
            assert!(matches!(why, InitFailure::ResetNotConfirmed { .. }));
            let error = suspended.resume().unwrap_err();
            assert_eq!(error.why, SuspendFailure::NeedsReset);
            drop(error);
            let leaked = platform.counts().leaked_buffers - before.leaked_buffers;
            assert_eq!(leaked, 2);
        }
        assert_eq!(platform.counts().regions, before.regions);
        assert_eq!(two.maker.alive(), 2);
        two.device.assert_clean();
    }
}
