//! Queues, tickets and half-made devices that are dropped, forgotten or fail: bug classes 48 to 50
//! and 54.

use std::mem::forget;

use vring::init::{self, InitFailure, Negotiated, PendingQueue, QueueConfig, QueueError};
use vring::platform::{DmaError, Platform};
use vring::ring::layout::vring_size;
use vring::testing::{Event, Fake, FakeDevice, FakeTransport, InPlace, Kind, ResetAnswer};
use vring::transport::{DeviceId, QueueIndex, Status};

use super::negotiated;
use crate::rig::{Chunks, Rig, config, every_platform, reply, scaled};
use crate::support::{FEATURES, Q, Ring, every_ring, stop};

// Class 48 is of blocking calls, which there are none of: `submit` takes the buffer, so that no borrow
// can end while the device has it. Futures have tests of their own, in `futures`.

#[test]
fn bug_class_49_whatever_is_forgotten_the_device_goes_on_safely() {
    every_ring!(forgotten);
}

fn forgotten<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(8, 65_533));
    for _ in 0..4 {
        let buf = rig.maker.chain(2);
        rig.queue.submit(buf).unwrap();
    }
    let _never_sent = rig.queue.kick_prepare();
    assert_eq!(
        rig.device.serve(Q, |queue, chain| reply(queue, chain, 1)),
        4
    );
    forget(rig.queue.next_completion());
    assert_eq!(rig.queue.free(), 2, "the slot is free all the same");
    let device = rig.device.clone();
    forget(rig.queue);
    forget(rig.live);
    // The device finds everything where it was, buffers too.
    assert_eq!(device.serve(Q, |queue, chain| reply(queue, chain, 1)), 0);
    device.with_queue(Q, |queue| queue.should_interrupt());
    device.assert_clean();
    assert_eq!(rig.maker.alive(), 4, "not one was dropped");
}

#[test]
fn bug_class_50_a_ticket_or_notification_dropped_unused_keeps_no_slot() {
    let platform = InPlace::new();
    let mut rig = Rig::new(&platform, FEATURES[0], &config(4, 0));
    for _ in 0..scaled(20, 4) {
        let buf = rig.maker.chain(4);
        let _ = rig.queue.submit(buf).unwrap();
        let _ = rig.queue.kick_prepare();
        assert_eq!(rig.serve_and_drain(), 1);
    }
    rig.full_round();
    rig.finish(0);
}

#[test]
fn bug_class_54_a_queue_that_is_dropped_leaves_its_memory_to_the_device() {
    every_ring!(dropped_queue);
}

fn dropped_queue<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let before = platform.counts();
    let rig = Rig::new(platform, ring.features, &QueueConfig::new(8).cells(4, 3));
    let Rig {
        mut queue,
        mut maker,
        live,
        device,
        ..
    } = rig;
    for _ in 0..3 {
        queue.submit_with(&[1_u8, 2, 3], maker.chain(1)).ok();
    }
    let outstanding = usize::from(queue.outstanding());
    let expected = if ring.is_indirect() { 3 } else { 2 };
    assert_eq!(outstanding, expected, "three descriptors each, or one");
    queue.kick();
    drop(queue);
    let counts = platform.counts();
    let bytes = counts.region_bytes - before.region_bytes;
    assert!(bytes >= 8 * 16 + 8 * 32);
    assert_eq!(counts.leaked_bytes - before.leaked_bytes, bytes);
    assert_eq!(counts.leaked_buffers - before.leaked_buffers, outstanding);
    assert_eq!(maker.alive(), outstanding);
    // The device goes on: nothing that it reaches was freed.
    let served = device.serve(Q, |queue, chain| reply(queue, chain, 9));
    assert_eq!(served, outstanding);
    let (_, _proof) = live.reset().unwrap();
    let regions = if ring.is_indirect() { 3 } else { 2 };
    assert_eq!(
        platform.counts().regions,
        before.regions + regions,
        "never freed"
    );
    device.assert_clean();
}

#[test]
fn bug_class_54_a_pending_queue_that_is_dropped_leaks_and_says_so() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK);
    let mut negotiated = negotiated(&platform, &device);
    drop(negotiated.queue::<Chunks>(Q, &QueueConfig::new(8)).unwrap());
    let counts = platform.counts();
    assert_eq!(
        (counts.leaked_bytes, counts.leaked_buffers),
        (vring_size(8, 4).unwrap(), 0)
    );
    assert_eq!(counts.regions, 1);
    let live = negotiated.finish().unwrap();
    assert_eq!(
        device.with_queue(Q, |queue| queue.refresh()),
        Some(0),
        "it is there"
    );
    let _ = live.reset().unwrap();
}

/// Defends: LC-005, LC-006.
#[test]
fn bug_class_54_when_queue_k_fails_the_others_are_freed_by_the_proof() {
    every_platform!(queue_k_fails);
}

fn queue_k_fails<K: Kind>(platform: &Fake<K>) {
    for k in 0..4 {
        let mut sizes = [8; 5];
        sizes[k] = 0;
        // By a queue that the device does not have: the others may go on.
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).queues(&sizes);
        let mut half = negotiated(platform, &device);
        let mut pending = Vec::new();
        for index in 0..5 {
            match half.queue::<Chunks>(QueueIndex(index), &QueueConfig::new(8)) {
                Ok(queue) => pending.push(queue),
                Err(why) => assert_eq!(
                    why,
                    QueueError::Unavailable {
                        queue: QueueIndex(index)
                    }
                ),
            }
        }
        assert_eq!(pending.len(), 4);
        close_all(half, pending);

        // By a vector that the device does not have: it has been reset.
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
            .queues(&[8; 5])
            .vectors(Some(1));
        let mut half = negotiated(platform, &device);
        let mut pending = Vec::new();
        for index in 0..5 {
            let vector = u16::from(usize::from(index) == k);
            let config = QueueConfig::new(8).vector(Some(vector));
            let outcome = half.queue::<Chunks>(QueueIndex(index), &config);
            match (usize::from(index)).cmp(&k) {
                std::cmp::Ordering::Less => pending.push(outcome.unwrap()),
                std::cmp::Ordering::Equal => {
                    assert!(matches!(outcome, Err(QueueError::Transport(_))));
                    assert!(device.status().is_empty(), "it was reset");
                    let failed = |event: &Event| matches!(event, Event::Status(s) if s.contains(Status::FAILED));
                    assert!(device.events().iter().any(failed), "and told why");
                }
                std::cmp::Ordering::Greater => {
                    assert_eq!(outcome.unwrap_err(), QueueError::Failed);
                }
            }
        }
        assert_eq!(pending.len(), k);
        match k % 2 {
            0 => close_all(half, pending),
            _ => {
                let aborted = half.finish().unwrap_err();
                assert_eq!(aborted.why, InitFailure::Queue(QueueError::Failed));
                let proof = aborted.proof.unwrap();
                for queue in pending {
                    drop(queue.close(&proof).unwrap());
                }
            }
        }
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

fn close_all<P: Platform + std::fmt::Debug>(
    negotiated: Negotiated<P, FakeTransport>,
    pending: Vec<PendingQueue<P, Chunks>>,
) {
    let (_, proof) = negotiated.abort();
    let proof = proof.unwrap();
    for queue in pending {
        assert_eq!(queue.close(&proof).unwrap().count(), 0);
    }
}

#[test]
fn bug_class_54_when_any_allocation_fails_nothing_is_left_and_it_can_be_tried_again() {
    every_platform!(nth_alloc_fails);
}

fn nth_alloc_fails<K: Kind>(platform: &Fake<K>) {
    for nth in 1..=2 {
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK);
        let mut half = negotiated(platform, &device);
        let config = QueueConfig::new(8).cells(12, 1);
        platform.fail_nth_alloc(nth);
        let failed = half.queue::<Chunks>(Q, &config).unwrap_err();
        assert!(matches!(
            failed,
            QueueError::Memory(DmaError::OutOfMemory { .. })
        ));
        assert_eq!(platform.counts().regions, 0);
        let pending = half.queue::<Chunks>(Q, &config).unwrap();
        let live = half.finish().unwrap();
        let queue = pending.start(&live).unwrap();
        assert_eq!(stop(live, queue).len(), 0);
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

#[test]
fn bug_class_54_a_failed_queue_whose_reset_is_not_confirmed_is_leaked() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .queues(&[8, 8])
        .vectors(Some(1));
    let mut half = negotiated(&platform, &device);
    let first = half.queue::<Chunks>(Q, &QueueConfig::new(8)).unwrap();
    device.set_reset(ResetAnswer::Never);
    let config = QueueConfig::new(8).vector(Some(1));
    assert!(half.queue::<Chunks>(QueueIndex(1), &config).is_err());
    let size = vring_size(8, 4).unwrap();
    assert_eq!(platform.counts().leaked_bytes, size);
    let aborted = half.finish().unwrap_err();
    assert!(matches!(
        aborted.proof,
        Err(InitFailure::ResetNotConfirmed { .. })
    ));
    drop(first);
    assert_eq!(platform.counts().leaked_bytes, 2 * size);
    assert_eq!(platform.counts().regions, 2);
    // The transport is there to try again, and a new start is a new start.
    device.set_reset(ResetAnswer::After(2));
    let mut again = match init::reset(aborted.transport, &platform) {
        Ok(reset) => reset.negotiate(&Default::default()).unwrap(),
        Err(error) => panic!("{error}"),
    };
    let pending = again.queue::<Chunks>(Q, &QueueConfig::new(8)).unwrap();
    let live = again.finish().unwrap();
    let queue = pending.start(&live).unwrap();
    assert_eq!(stop(live, queue).len(), 0);
    assert_eq!(platform.counts().regions, 2);
}
