//! What a reset proves, and what its proof opens: bug class 55.

use vring::init::{self, InitFailure, QueueConfig};
use vring::platform::Wait;
use vring::testing::{Fake, FakeDevice, InPlace, Kind, ResetAnswer};
use vring::transport::DeviceId;
use vring::virtqueue::{Fault, Reject};

use super::negotiated;
use crate::rig::{Chunks, Rig, config, reply};
use crate::support::{FEATURES, Q, Ring, every_ring, stop};

/// Defends: LC-009.
#[test]
fn bug_class_55_no_memory_is_freed_before_the_device_has_stopped() {
    every_ring!(reset_before_free);
}

fn reset_before_free<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(8, 65_534));
    for _ in 0..3 {
        let buf = rig.maker.chain(2);
        rig.queue.submit(buf).unwrap();
    }
    rig.queue.kick();
    // The device works on while the driver waits for the reset.
    rig.device.set_reset(ResetAnswer::After(3));
    let device = rig.device.clone();
    let working = device.clone();
    platform.on_wait(move |what, _| {
        assert_eq!(what, Wait::Reset);
        working.with_queue(Q, |queue| {
            if let Some(chain) = queue.pop() {
                let len = reply(queue, &chain, 9);
                queue.complete(chain, len);
            }
        });
    });
    rig.finish(3);
    assert!(device.status().is_empty(), "it was waited for");
    assert!(device.with_queue(Q, |_| ()).is_none());
}

/// Defends: LC-001, LC-009.
#[test]
fn a_reset_that_is_not_confirmed_opens_nothing_and_can_be_tried_again() {
    every_ring!(reset_not_confirmed);
}

fn reset_not_confirmed<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let Rig {
        mut queue,
        mut maker,
        live,
        device,
        ..
    } = Rig::new(platform, ring.features, &config(8, 65_534));
    for _ in 0..3 {
        queue.submit(maker.chain(2)).unwrap();
    }
    queue.kick();
    device.set_reset(ResetAnswer::Never);
    platform.set_patience(10);
    let mut live = live;
    for _ in 0..3 {
        let leaked = live.reset().unwrap_err();
        assert!(matches!(leaked.why, InitFailure::ResetNotConfirmed { .. }));
        live = leaked.live;
    }
    assert_eq!(device.serve(Q, |queue, chain| reply(queue, chain, 9)), 3);
    device.set_reset(ResetAnswer::After(5));
    assert_eq!(stop(live, queue).len(), 3);
    assert_eq!(maker.alive(), 0);
    platform.assert_no_leaks();
}

/// Defends: LC-009.
#[test]
fn the_wrong_proof_opens_nothing_and_gives_the_queue_back() {
    every_ring!(wrong_proof);
}

fn wrong_proof<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let mut one = Rig::new(platform, ring.features, &config(8, 0));
    let other = Rig::new(platform, ring.features, &config(8, 0));
    let buf = one.maker.chain(3);
    one.queue.submit(buf).unwrap();
    one.queue.kick();

    // Of another device.
    let (_, proof) = other.live.reset().unwrap();
    let queue = one.queue.close(&proof).unwrap_err();
    assert_eq!(queue.outstanding(), 1);
    drop(other.queue.close(&proof).unwrap());

    // Of an earlier and of a later time of the same device.
    let (transport, proof) = one.live.reset().unwrap();
    let again = init::reset(transport, platform).unwrap();
    let mut again = again.negotiate(&Default::default()).unwrap();
    let pending = again.queue::<Chunks>(Q, &QueueConfig::new(4)).unwrap();
    let pending = pending.close(&proof).unwrap_err();
    let live = again.finish().unwrap();
    let later = pending.start(&live).unwrap();
    let later = later.close(&proof).unwrap_err();
    let (_, later_proof) = live.reset().unwrap();
    let queue = queue.close(&later_proof).unwrap_err();
    assert_eq!(queue.close(&proof).unwrap().count(), 1);
    assert_eq!(later.close(&later_proof).unwrap().count(), 0);
    assert_eq!(one.maker.alive(), 0);
    platform.assert_no_leaks();
}

#[test]
fn a_pending_queue_starts_with_its_own_device_only() {
    let platform = InPlace::new();
    let device = |n| FakeDevice::new(platform.bus(), DeviceId::NETWORK).queues(&[n]);
    let (one, other) = (device(8), device(16));
    let (mut a, mut b) = (negotiated(&platform, &one), negotiated(&platform, &other));
    let of_a = a.queue::<Chunks>(Q, &QueueConfig::new(64)).unwrap();
    let of_b = b.queue::<Chunks>(Q, &QueueConfig::new(64)).unwrap();
    let (a, b) = (a.finish().unwrap(), b.finish().unwrap());
    let of_a = of_a.start(&b).unwrap_err();
    let of_b = of_b.start(&a).unwrap_err();
    let (of_a, of_b) = (of_a.start(&a).unwrap(), of_b.start(&b).unwrap());
    assert_eq!((of_a.size(), of_b.size()), (8, 16));
    stop(a, of_a);
    stop(b, of_b);
    platform.assert_no_leaks();
}

#[test]
fn the_transports_of_two_devices_cannot_be_exchanged() {
    // The reset of one would then free the rings of the other. `Live::transport_mut` has the
    // example that must not compile; here is why it does not: what is behind has no size to swap.
    let platform = InPlace::new();
    let mut rig = Rig::new(&platform, FEATURES[0], &config(4, 0));
    fn size<T>(_: T) -> usize {
        size_of::<T>()
    }
    let two_words = 2 * size_of::<usize>();
    assert_eq!(size(rig.live.transport_mut()), two_words);
    rig.finish(0);
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK);
    let mut reset = init::reset(device.transport(), &platform).unwrap();
    assert_eq!(size(reset.transport_mut()), two_words);
    let mut half = reset.negotiate(&Default::default()).unwrap();
    assert_eq!(size(half.transport_mut()), two_words);
}

#[test]
fn closing_and_dropping_half_way_frees_the_rest() {
    every_ring!(closed_half_way);
}

fn closed_half_way<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for taken in 0..4 {
        let Rig {
            mut queue,
            mut maker,
            live,
            ..
        } = Rig::new(platform, ring.features, &config(8, 65_534));
        for n in [1, 2, 3] {
            queue.submit(maker.chain(n)).unwrap();
        }
        queue.kick();
        let (_, proof) = live.reset().unwrap();
        let mut closed = queue.close(&proof).unwrap();
        let kept: Vec<_> = closed.by_ref().take(taken).collect();
        assert_eq!(kept.len(), taken.min(3));
        assert_eq!(maker.alive(), 3);
        drop(closed);
        assert_eq!(maker.alive(), kept.len());
        platform.assert_no_leaks();
    }
}

#[test]
fn a_broken_queue_gives_its_buffers_back_after_the_reset() {
    every_ring!(broken_queue);
}

fn broken_queue<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for unpublished in [false, true] {
        let mut rig = Rig::new(platform, ring.features, &config(8, 65_534));
        for n in [2, 1, 2] {
            let buf = rig.maker.chain(n);
            rig.queue.submit(buf).unwrap();
        }
        rig.queue.kick();
        if unpublished {
            let buf = rig.maker.chain(2);
            rig.queue.submit(buf).unwrap();
        }
        rig.device.with_queue(Q, |queue| match ring.is_packed() {
            true => queue.forge_used(9, 0),
            false => queue.forge_used_idx(9),
        });
        let fault = rig
            .queue
            .drain(|_| panic!("nothing came back"))
            .unwrap_err();
        let expected = match ring.is_packed() {
            true => Fault::UsedIdOutOfRange { id: 9, size: 8 },
            false => Fault::UsedIndex {
                seen: 9,
                last: 65_534,
                outstanding: 3,
            },
        };
        assert_eq!(fault, expected);
        let buf = rig.maker.parts(Vec::new());
        let rejected = rig.queue.submit(buf).unwrap_err();
        assert_eq!(
            rejected.why,
            Reject::Broken(fault),
            "no segments, and broken"
        );
        drop(rejected);
        let buf = rig.maker.chain(1);
        assert_eq!(
            rig.queue.submit(buf).unwrap_err().why,
            Reject::Broken(fault)
        );
        let buf = rig.maker.chain(1);
        let rejected = rig.queue.submit_with(&[1_u8], buf).unwrap_err();
        assert_eq!(rejected.why, Reject::Broken(fault));
        drop(rejected);
        let mut none_taken = std::iter::from_fn(|| -> Option<Chunks> { panic!("no room") });
        assert_eq!(rig.queue.submit_burst(&mut none_taken).unwrap(), 0);
        assert_eq!(rig.queue.counters().faults, 1);
        assert_eq!(rig.queue.free(), 0);
        let left = 3 + usize::from(unpublished);
        assert_eq!(usize::from(rig.queue.outstanding()), left);
        rig.queue.kick();
        assert!(rig.queue.arm());
        rig.queue.disarm();
        assert_eq!(rig.queue.next_completion().map(drop), Err(fault));
        rig.finish(left);
    }
}
