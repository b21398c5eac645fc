//! Interrupts are parked while nobody sleeps, with `VIRTIO_F_EVENT_IDX` and without.

use std::pin::Pin;
use std::task::{Context, Waker};

use vring::adapter::futures::{AsyncReceiver, AsyncTransmitter};
use vring::buffer::Window;
use vring::device::net::TRANSMIT_QUEUE;
use vring::features::{Feature, Features};
use vring::testing::{Fake, InPlace, Kind};

use super::rig::{W, config};
use super::support::Ring;
use super::wire::{HEADER, OFFERED, buffer, deliver, device, driver, refill};
use super::{Rig, Task};

/// With event indices, with flags, and with the events of a packed ring used as flags.
const WAYS: [Features; 3] = [
    OFFERED,
    OFFERED.without(Feature::EVENT_IDX),
    OFFERED
        .without(Feature::EVENT_IDX)
        .with(Feature::RING_PACKED),
];

/// Defends: SP-014.
#[test]
fn a_receiver_that_is_awake_is_not_interrupted() {
    for features in WAYS {
        let platform = InPlace::new();
        let device = device(&platform, features, 1500);
        let mut net = driver(&platform, &device, 16, 16);
        refill(&mut net);
        let mut rx = AsyncReceiver::new(net.rx());
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..2 {
            assert!(rx.poll_receive(&mut cx).is_pending());
            let before = device.interrupts();
            for frames in 0..4 {
                assert!(deliver(&device, &[0; 60]));
                assert!(rx.poll_receive(&mut cx).is_ready());
                let raised = device.interrupts() - before;
                assert_eq!(raised, 1, "after {frames} frames awake, with {features}");
            }
        }
    }
}

#[test]
fn a_transmitter_that_is_awake_is_not_interrupted() {
    for features in WAYS {
        let platform = InPlace::new();
        let device = device(&platform, features, 1500);
        let mut net = driver(&platform, &device, 16, 4);
        let mut tx = AsyncTransmitter::new(net.tx(), drop);
        let mut cx = Context::from_waker(Waker::noop());
        let before = device.interrupts();
        for _ in 0..2 {
            while tx.poll_room(&mut cx).is_ready() {
                let frame = Window::new(buffer(HEADER + 60), HEADER, 60);
                let _ = Task::new(tx.transmit(frame)).ready();
            }
            assert_eq!(device.serve(TRANSMIT_QUEUE, |_, _| 0), 3);
        }
        assert_eq!(
            device.interrupts(),
            before + 2,
            "it slept twice, with {features}"
        );
        for frames in 0..4 {
            assert!(tx.poll_room(&mut cx).is_ready());
            let frame = Window::new(buffer(HEADER + 60), HEADER, 60);
            let _ = Task::new(tx.transmit(frame)).ready();
            assert_eq!(device.serve(TRANSMIT_QUEUE, |_, _| 0), 1);
            let raised = device.interrupts() - before;
            assert_eq!(raised, 2, "after {frames} frames awake, with {features}");
        }
    }
}

#[test]
fn a_queue_whose_tasks_are_awake_does_not_interrupt() {
    rings!(awake);
}

fn awake<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for event_idx in [false, true] {
        let features = match event_idx {
            true => ring.features | Feature::EVENT_IDX,
            false => ring.features - Features::from(Feature::EVENT_IDX),
        };
        let rig = Rig::new(platform, features, &config(16, 65_530));
        let mut futures: Vec<_> = (0..6).map(|_| rig.submit(rig.chunks(&[(W, 1)]))).collect();
        let mut cx = Context::from_waker(Waker::noop());
        // The first sleeps; all others are awake when they are asked.
        assert!(Pin::new(&mut futures[0]).poll(&mut cx).is_pending());
        let chains = rig.take();
        for (chain, future) in chains.into_iter().zip(&mut futures) {
            rig.complete(chain);
            assert!(Pin::new(future).poll(&mut cx).is_ready());
            assert_eq!(rig.device.interrupts(), 1, "with {features}");
        }
        // Who sleeps next is woken all the same.
        let mut task = rig.round(rig.chunks(&[(W, 1)]));
        task.sleeps();
        assert_eq!(rig.serve(), 1);
        let _ = task.wakes_up();
        drop((task, futures));
        rig.finish(0, 0);
    }
}
