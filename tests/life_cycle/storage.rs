//! A queue in storage that is lent, which is longer than the queue.

use vring::features::{Feature, Wish};
use vring::init::{self, QueueConfig, QueueError};
use vring::ring::Slot;
use vring::testing::{Fake, FakeDevice, InPlace, Kind};
use vring::transport::DeviceId;
use vring::virtqueue::{Fault, MappingSlot, QueueStorage};

use crate::rig::{Chunks, Maker, every_platform, reply};
use crate::support::{Q, stop};

fn storage(slots: usize, mappings: usize) -> QueueStorage<Chunks> {
    QueueStorage {
        slots: Vec::leak((0..slots).map(|_| Slot::new()).collect()),
        mappings: Vec::leak((0..mappings).map(|_| MappingSlot::new()).collect()),
    }
}

#[test]
fn a_queue_in_lent_storage_shrinks_and_grows_up_to_it() {
    every_platform!(lent_storage);
}

fn lent_storage<K: Kind>(platform: &Fake<K>) {
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(Feature::VERSION_1 | Feature::RING_RESET);
    let reset = init::reset(device.transport(), platform).unwrap();
    let mut negotiated = reset.negotiate(&Wish::ring()).unwrap();
    let pending = negotiated
        .queue_in(Q, &QueueConfig::new(4), storage(40, 40))
        .unwrap();
    let mut live = negotiated.finish().unwrap();
    let mut queue = pending.start(&live).unwrap();
    let mut maker = Maker::new();
    assert_eq!(queue.size(), 4);
    for (size, got) in [(256, 32), (2, 2), (33, 32), (1, 1), (8, 8)] {
        queue.submit(maker.chain(1)).unwrap();
        queue.kick();
        let mut back = 0;
        live.restart_queue(&mut queue, &QueueConfig::new(size), |_| back += 1)
            .unwrap();
        assert_eq!((queue.size(), back), (got, 1));
        while queue.free() != 0 {
            queue.submit(maker.chain(1)).unwrap();
        }
        queue.kick();
        device.serve(Q, |queue, chain| reply(queue, chain, 9));
        assert_eq!(queue.drain(|_| ()).unwrap(), usize::from(got));
    }
    // By value, too: the storage comes back, and is lent again.
    queue.submit(maker.chain(1)).unwrap();
    let (closed, proof) = live.reset_queue(queue).unwrap();
    assert_eq!(proof.index(), Q);
    let storage = closed.into_storage().unwrap();
    assert_eq!((maker.alive(), storage.slots.len()), (0, 40));
    let error = live
        .queue_in(proof, &QueueConfig::new(0), storage)
        .unwrap_err();
    assert_eq!(error.why, QueueError::ZeroSize { queue: Q });
    let mut queue = live
        .queue(error.proof.unwrap(), &QueueConfig::new(256))
        .unwrap();
    assert_eq!(queue.size(), 256);
    queue.submit(maker.chain(1)).unwrap();
    drop(stop(live, queue));
    assert_eq!(maker.alive(), 0);
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn a_stale_id_in_longer_storage_is_out_of_range() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK);
    device.violations().set_lenient();
    let reset = init::reset(device.transport(), &platform).unwrap();
    let mut negotiated = reset.negotiate(&Wish::ring()).unwrap();
    let pending = negotiated
        .queue_in(Q, &QueueConfig::new(4), storage(40, 40))
        .unwrap();
    let live = negotiated.finish().unwrap();
    let mut queue = pending.start(&live).unwrap();
    queue.submit(Maker::new().chain(1)).unwrap();
    queue.kick();
    device.with_queue(Q, |queue| queue.forge_used(4, 0));
    let fault = queue.next_completion().unwrap_err();
    assert_eq!(fault, Fault::UsedIdOutOfRange { id: 4, size: 4 });
    drop(stop(live, queue));
}
