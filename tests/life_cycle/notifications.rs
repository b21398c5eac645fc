//! What the two sides tell each other: doorbells with the position, and interrupts. Bug classes 28
//! and 34.

use std::sync::{Arc, Mutex};

use vring::features::{Feature, Features, Wish};
use vring::init::{self, QueueConfig};
use vring::platform::Wait;
use vring::testing::{Fake, FakeDevice, InPlace, Kind, ResetAnswer};
use vring::transport::DeviceId;

use super::{Q1, RINGS, on};
use crate::rig::{self, Maker, every_platform};
use crate::support::{Q, stop};

/// Defends: PK-004.
#[test]
fn bug_class_28_each_kick_tells_the_position_behind_what_was_published() {
    for ring in RINGS {
        every_platform!(kicks_tell_the_position, ring);
    }
}

fn kicks_tell_the_position<K: Kind>(platform: &Fake<K>, ring: Features) {
    let data = Features::from(Feature::NOTIFICATION_DATA);
    let config = Features::from(Feature::NOTIF_CONFIG_DATA);
    for (features, id) in [
        (Features::EMPTY, 1),
        (config, 0x77),
        (data, 1),
        (data | config, 0x77),
    ] {
        for start in [0, 65_530] {
            let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
                .offer(ring | features.with(Feature::VERSION_1))
                .queues(&[256, 64])
                .start_index(Q, start)
                .start_index(Q1, start)
                .notify_data(Q1, 0x77);
            let mut two = on(platform, device, &rig::config(16, start));
            assert_eq!(
                two.live.features(),
                ring | features.with(Feature::VERSION_1)
            );
            let mut position = u32::from(start);
            for chains in [1, 3, 7, 2, 5] {
                two.submit(1, chains);
                two.queues[1].kick();
                // Two descriptors each, of 16; the wrap counter is 1 in the first lap.
                let high = if !features.has(Feature::NOTIFICATION_DATA) {
                    0
                } else if ring.has(Feature::RING_PACKED) {
                    position += 2 * chains as u32;
                    (position % 16) | u32::from((position / 16).is_multiple_of(2)) << 15
                } else {
                    position += chains as u32;
                    position & 0xffff
                };
                assert_eq!(two.device.rung(Q1), Some(high << 16 | id));
                assert_eq!(two.round(1), chains);
            }
            assert_eq!(two.device.rung(Q), None);
            two.finish();
        }
    }
}

/// Defends: LC-007.
#[test]
fn bug_class_34_an_interrupt_before_driver_ok_or_during_teardown_finds_nothing() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(Feature::VERSION_1 | Feature::RING_RESET)
        .queues(&[8, 8]);
    let reset = init::reset(device.transport(), &platform).unwrap();
    let mut negotiated = reset.negotiate(&Wish::ring()).unwrap();
    let isr = negotiated.transport_mut().take_isr().unwrap();
    let pending = negotiated.queue(Q, &QueueConfig::new(8)).unwrap();
    device.interrupt();
    assert!(isr.ack().is_empty());
    assert_eq!(device.kicks(Q), 0);
    let mut live = negotiated.finish().unwrap();
    let mut queue = pending.start(&live).unwrap();
    let mut maker = Maker::new();
    // The handler runs while a queue is being reset, and while the device is.
    let acked = Arc::new(Mutex::new(Vec::new()));
    let (log, line) = (Arc::clone(&acked), device.clone());
    platform.on_wait(move |what, _| {
        line.interrupt();
        log.lock().unwrap().push((what, isr.ack().bits()));
    });
    device.set_queue_reset(ResetAnswer::After(1));
    device.set_reset(ResetAnswer::After(1));
    queue.submit(maker.chain(2)).unwrap();
    queue.kick();
    live.restart_queue(&mut queue, &QueueConfig::new(8), |_| ())
        .unwrap();
    queue.submit(maker.chain(2)).unwrap();
    queue.kick();
    assert!(queue.next_completion().unwrap().is_none());
    assert_eq!(stop(live, queue).len(), 1);
    let acked = acked.lock().unwrap();
    assert_eq!(acked.first(), Some(&(Wait::QueueReset, 1)));
    assert_eq!(acked.last().map(|(what, _)| *what), Some(Wait::Reset));
    device.assert_clean();
}

#[test]
fn a_delayed_interrupt_comes_when_three_quarters_are_back() {
    for ring in RINGS {
        delayed(ring);
    }
}

fn delayed(ring: Features) {
    let platform = InPlace::new();
    for start in [0, 65_531] {
        for unpublished in [0_usize, 4] {
            // Two descriptors each, of 32: all of them, where nothing else is there.
            let most = 16 - unpublished;
            for with_device in [1, 2, 3, 4, 5, 7, 8, most] {
                let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
                    .offer(Feature::VERSION_1 | Feature::EVENT_IDX | ring)
                    .queues(&[256, 64])
                    .start_index(Q, start)
                    .start_index(Q1, start);
                let mut two = on(&platform, device, &rig::config(32, start));
                two.submit(0, with_device);
                two.queues[0].kick();
                two.submit(0, unpublished);
                assert!(!two.queues[0].arm_delayed());
                let due = with_device * 3 / 4 + 1;
                for done in 1..=with_device {
                    let interrupt = two.device.with_queue(Q, |queue| {
                        let chain = queue.pop().unwrap();
                        queue.complete(chain, 0)
                    });
                    assert_eq!(interrupt, Some(done == due), "{done} of {with_device}");
                }
                // As many are there: no interrupt would come.
                assert!(two.queues[0].arm_delayed());
                assert_eq!(two.queues[0].drain(|_| ()).unwrap(), with_device);
                assert!(!two.queues[0].arm_delayed());
                two.queues[0].kick();
                assert_eq!(two.round(0), unpublished);
                two.finish();
            }
        }
    }
}
