//! Private state that the caller lends: what a kernel without a heap uses.

#[path = "support/queue.rs"]
mod rig;
mod support;
#[path = "support/net.rs"]
mod wire;

use vring::buffer::{Window, Writable};
use vring::device::net::{self, Driver};
use vring::features::{Feature, Wish};
use vring::init::{self, InitFailure, QueueConfig, QueueError};
use vring::platform::Platform;
use vring::ring::Slot;
use vring::testing::{Bouncing, Discontiguous, Fake, FakeDevice, InPlace, Kind};
use vring::transport::{DeviceId, QueueIndex};
use vring::virtqueue::{MappingSlot, QueueStorage, Reject};

use rig::{Chunks, Maker, R, every_platform, maps, reply};
use support::{FEATURES, Q};

/// Storage of so many slots and mapping slots.
fn storage<B: 'static>(slots: usize, mappings: usize) -> QueueStorage<B> {
    QueueStorage {
        slots: Vec::leak((0..slots).map(|_| Slot::new()).collect()),
        mappings: Vec::leak((0..mappings).map(|_| MappingSlot::new()).collect()),
    }
}

#[test]
fn the_size_is_what_the_storage_has_room_for() {
    every_platform!(storage_limits_the_size);
}

fn storage_limits_the_size<K: Kind>(platform: &Fake<K>) {
    // Slots, mapping slots, the device's maximum, what is wanted, and what comes of it.
    let cases = [
        (8, 8, 256, 256, 8),
        (9, 15, 256, 256, 8),
        (7, 8, 256, 256, 4),
        (3, 3, 256, 256, 2),
        (1, 1, 256, 256, 1),
        (64, 64, 16, 256, 16),
        (64, 64, 256, 20, 16),
        (64, 1000, 256, 256, 64),
        (8, 5, 256, 256, if maps(platform) { 4 } else { 8 }),
    ];
    for (slots, mappings, max, wanted, size) in cases {
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).queues(&[max]);
        let reset = init::reset(device.transport(), platform).unwrap();
        let mut negotiated = reset.negotiate(&Default::default()).unwrap();
        let pending = negotiated
            .queue_in::<Chunks>(Q, &QueueConfig::new(wanted), storage(slots, mappings))
            .unwrap();
        let live = negotiated.finish().unwrap();
        let mut queue = pending.start(&live).unwrap();
        assert_eq!(
            queue.size(),
            size,
            "{slots} slots, {mappings} mapping slots"
        );
        let mut maker = Maker::new();
        for _ in 0..3 {
            while queue.free() != 0 {
                queue.submit(maker.chunks(&[(R, 1)])).unwrap();
            }
            let rejected = queue.submit(maker.chain(1)).unwrap_err();
            assert_eq!(rejected.why, Reject::Full { needed: 1, free: 0 });
            queue.kick();
            device.serve(Q, |queue, chain| reply(queue, chain, 1));
            assert_eq!(queue.drain(|_| ()).unwrap(), usize::from(size));
        }
        queue.submit(maker.chain(size.into())).unwrap();
        drop(support::stop(live, queue));
        assert_eq!(maker.alive(), 0);
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

#[test]
fn bug_class_51_tables_find_a_place_for_every_mapping() {
    every_platform!(tables_in_lent_storage);
}

fn tables_in_lent_storage<K: Kind>(platform: &Fake<K>) {
    let features = FEATURES[0].with(Feature::INDIRECT_DESC);
    for mappings in 1..80 {
        for wanted in [2, 4, 8, 16] {
            for entries in [0, 1, 2, 4, 8, 9] {
                let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
                    .offer(features)
                    .queues(&[256]);
                let wish = Wish {
                    want: features,
                    ..Wish::default()
                };
                let reset = init::reset(device.transport(), platform).unwrap();
                let mut negotiated = reset.negotiate(&wish).unwrap();
                let config = QueueConfig::new(wanted).indirect(entries);
                let pending = negotiated
                    .queue_in::<Chunks>(Q, &config, storage(16, mappings))
                    .unwrap();
                let live = negotiated.finish().unwrap();
                let mut queue = pending.start(&live).unwrap();
                let size = usize::from(queue.size());
                let case = format!("{wanted} of {entries} in {mappings} mappings: {size}");
                if maps(platform) {
                    // No larger size would do.
                    let needed = |size: usize| size * usize::from(entries).min(size).max(1);
                    assert!(needed(size) <= mappings, "{case}");
                    let next = size * 2;
                    assert!(
                        next > usize::from(wanted) || needed(next) > mappings,
                        "{case}"
                    );
                }
                let mut maker = Maker::new();
                let pieces = usize::from(entries).clamp(1, size);
                for expected in 1..=queue.size() {
                    match queue.submit(maker.chain(pieces)) {
                        Ok(_) => {}
                        Err(_) if expected > 1 => break,
                        Err(rejected) => panic!("{case}: {rejected}"),
                    }
                }
                let sent = usize::from(queue.outstanding());
                if maps(platform) {
                    let counts = platform.counts();
                    assert_eq!(counts.mappings, sent * pieces, "{case}");
                }
                queue.kick();
                device.serve(Q, |queue, chain| reply(queue, chain, 1));
                queue.drain(|done| done.into_buf().check(1)).unwrap();
                drop(support::stop(live, queue));
                device.assert_clean();
                platform.assert_no_leaks();
            }
        }
    }
}

#[test]
fn storage_for_no_descriptor_is_a_typed_error() {
    every_platform!(too_short);
}

fn too_short<K: Kind>(platform: &Fake<K>) {
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(FEATURES[0]);
    let reset = init::reset(device.transport(), platform).unwrap();
    let mut negotiated = reset.negotiate(&Default::default()).unwrap();
    for (slots, mappings) in [(0, 0), (0, 8), (8, 0)] {
        let outcome =
            negotiated.queue_in::<Chunks>(Q, &QueueConfig::new(8), storage(slots, mappings));
        if slots == 8 && !maps(platform) {
            // A platform that maps nothing needs no place for mappings.
            let (_, proof) = negotiated.abort();
            assert_eq!(outcome.unwrap().close(&proof.unwrap()).unwrap().count(), 0);
            return;
        }
        let expected = QueueError::Storage {
            queue: Q,
            slots,
            mappings,
        };
        assert_eq!(outcome.unwrap_err(), expected);
    }
    // It was nobody's fault: it goes on.
    let pending = negotiated
        .queue_in::<Chunks>(Q, &QueueConfig::new(8), storage(8, 8))
        .unwrap();
    let (_, proof) = negotiated.abort();
    drop(pending.close(&proof.unwrap()).unwrap());
    platform.assert_no_leaks();
}

#[test]
fn a_network_driver_runs_on_what_it_was_lent() {
    every_platform!(lent_network);
}

fn lent_network<K: Kind>(_: &Fake<K>) {
    // Pages of 16 bytes are too small for frames.
    lent_network_on(&InPlace::new());
    lent_network_on(&Bouncing::new());
    lent_network_on(&Discontiguous::new(2048));
}

fn lent_network_on<K: Kind>(platform: &Fake<K>) {
    type Memory = &'static mut [u8];
    let device = wire::device(platform, wire::OFFERED, 1500);
    let mappings = if <Fake<K> as Platform>::DIRECT { 0 } else { 8 };
    let storage = net::Storage {
        receive: storage(8, mappings),
        transmit: storage(8, mappings),
    };
    let options = wire::options(256, 256);
    let mut driver: Driver<_, _, Memory> =
        Driver::new_in(platform.clone(), device.transport(), options, storage).unwrap();
    assert_eq!((driver.rx().size(), driver.tx().size()), (8, 8));
    let leak = |len: usize| -> Memory { Vec::leak(vec![0; len]) };
    let len = driver.rx().buffer_len();
    driver.rx().give(leak(len)).unwrap();
    driver.rx().kick();
    for i in 0..20 {
        assert!(wire::deliver(&device, &[i; 60]));
        let frame = driver.rx().receive().unwrap().unwrap();
        assert_eq!(frame.as_slice(), [i; 60]);
        // The answer goes out in the same memory, with the header in the same place.
        driver.tx().transmit(frame).unwrap();
        driver.tx().kick();
        assert_eq!(wire::take(&device).unwrap().1, [i; 60]);
        let mut back = None;
        driver.tx().reclaim(|memory| back = Some(memory)).unwrap();
        driver.rx().give(back.unwrap()).unwrap();
        driver.rx().kick();
    }
    driver.tx().transmit(Window::new(leak(100), 0, 60)).unwrap();
    let mut came = [0, 0];
    driver
        .shutdown(|queue, _| came[usize::from(queue.0)] += 1)
        .unwrap();
    assert_eq!(came, [1, 1]);
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn a_network_driver_with_too_little_storage_leaves_nothing_behind() {
    let platform = Bouncing::new();
    for (receive, transmit) in [(0, 8), (8, 0)] {
        let device = wire::device(&platform, wire::OFFERED, 1500);
        let storage = net::Storage::<&'static mut [u8]> {
            receive: storage(receive, 8),
            transmit: storage(transmit, 8),
        };
        let options = wire::options(8, 8);
        let error = Driver::new_in(platform.clone(), device.transport(), options, storage);
        let queue = QueueIndex(u16::from(transmit == 0));
        let expected = InitFailure::Queue(QueueError::Storage {
            queue,
            slots: 0,
            mappings: 8,
        });
        assert_eq!(error.unwrap_err().why, expected);
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

#[test]
fn forgotten_storage_is_never_used_again() {
    // It was lent for ever; a queue that is forgotten keeps it, and its buffers.
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK);
    let reset = init::reset(device.transport(), &platform).unwrap();
    let mut negotiated = reset.negotiate(&Default::default()).unwrap();
    let pending = negotiated
        .queue_in(Q, &QueueConfig::new(4), storage(4, 0))
        .unwrap();
    let live = negotiated.finish().unwrap();
    let mut queue = pending.start(&live).unwrap();
    queue.submit(Writable(vec![0_u8; 8])).unwrap();
    queue.kick();
    std::mem::forget(queue);
    assert_eq!(
        device.serve(Q, |queue, chain| queue.write(chain, &[1; 8])),
        1
    );
    device.assert_clean();
}
