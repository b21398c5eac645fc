//! Queues of every size, and where their areas are: bug classes 6, 7 and 8.

use vring::features::Wish;
use vring::init::{self, QueueConfig, QueueError};
use vring::ring::layout::{vring_init, vring_size};
#[cfg(not(miri))]
use vring::testing::Bouncing;
use vring::testing::{Event, FakeDevice, InPlace};
use vring::transport::{DeviceId, QueueIndex};

use super::on_every_ring_in_place;
use crate::rig::{self, Maker, R, Rig, config, descriptors, scaled};
#[cfg(not(miri))]
use crate::support::Naming;
use crate::support::{FEATURES, Q, RINGS, Ring};

#[test]
fn bug_class_06_queues_of_every_size() {
    let sizes: &[u16] = if cfg!(miri) {
        &[1, 2, 3]
    } else {
        &[1, 2, 3, 4, 7, 8, 200, 256, 1024, 32_767, 32_768]
    };
    on_every_ring_in_place(|platform, ring| {
        let plain = !ring.is_indirect() && !ring.is_in_order() && ring.has_events();
        for size in ring.sizes(sizes) {
            for start in [0, 65_535 - size / 2] {
                if plain || size < 32_767 {
                    of_size(platform, ring, size, start);
                }
            }
        }
    });
}

fn of_size(platform: &InPlace, ring: Ring, size: u16, start: u16) {
    let mut rig = Rig::new(platform, ring.features, &config(size, start));
    assert_eq!((rig.queue.size(), rig.queue.free()), (size, size));
    rig.full_round();
    rig.full_round();
    let buf = rig.maker.chain(usize::from(size));
    rig.queue.submit(buf).unwrap();
    let left = size - descriptors(ring, size, size.into());
    assert_eq!((rig.queue.free(), rig.queue.outstanding()), (left, 1));
    rig.queue.kick();
    assert_eq!(rig.serve_and_drain(), 1);
    rig.full_round();
    rig.finish(0);
}

#[test]
#[cfg(not(miri))] // a queue of 32768
fn bug_class_06_the_largest_queue_on_platforms_that_map() {
    for ring in [Ring::SPLIT, Ring::PACKED] {
        let _naming = Naming(ring);
        let platform = Bouncing::new();
        let mut rig = Rig::new(&platform, ring.features, &config(32_768, 40_000));
        rig.full_round();
        let buf = rig.maker.chain(32_768);
        rig.queue.submit(buf).unwrap();
        assert_eq!(platform.counts().mappings, 32_768);
        rig.queue.kick();
        assert_eq!(rig.serve_and_drain(), 1);
        assert_eq!(platform.counts().mappings, 0);
        rig.finish(0);
    }
}

#[test]
fn bug_class_06_a_queue_index_beyond_a_byte() {
    let platform = InPlace::new();
    let mut sizes = vec![8; 256];
    sizes.resize(300, 16);
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(FEATURES[0])
        .queues(&sizes);
    let reset = init::reset(device.transport(), &platform).unwrap();
    let mut negotiated = reset.negotiate(&Default::default()).unwrap();
    let index = QueueIndex(299);
    let pending = negotiated.queue(index, &QueueConfig::new(64)).unwrap();
    let live = negotiated.finish().unwrap();
    let mut queue = pending.start(&live).unwrap();
    assert_eq!((queue.index(), queue.size()), (index, 16));
    queue.submit(Maker::new().chunks(&[(R, 4)])).unwrap();
    queue.kick();
    assert_eq!((device.kicks(index), device.kicks(QueueIndex(43))), (1, 0));
    assert_eq!(device.echo(index), 1);
    assert!(device.events().contains(&Event::Enabled(index, 16)));
    let (_, proof) = live.reset().unwrap();
    drop(queue.close(&proof).unwrap());
    platform.assert_no_leaks();
}

/// Defends: SP-001.
#[test]
fn bug_class_07_the_areas_are_where_vring_init_puts_them() {
    let platform = InPlace::new();
    for log in 0..scaled(16, 6) {
        let size = 1_u16 << log;
        let before = platform.counts().region_bytes;
        let rig = Rig::new(&platform, FEATURES[0], &config(size, 0));
        let (areas, layout) = (rig.queue.areas(), vring_init(size, 4).unwrap());
        let offset = |addr: vring::DmaAddr| (addr.0 - areas.desc.0) as usize;
        assert_eq!(areas.desc.0 % 16, 0);
        assert_eq!(offset(areas.driver), layout.avail);
        assert_eq!(offset(areas.device), layout.used);
        let bytes = platform.counts().region_bytes - before;
        assert_eq!(bytes, vring_size(size, 4).unwrap());
        rig.finish(0);
    }
}

/// Defends: PCI-014.
#[test]
fn bug_class_08_the_size_is_what_both_sides_can_do() {
    let platform = InPlace::new();
    // What the device says, what is wanted, what comes of it.
    let cases = [
        (256, 1024, Ok(256)),
        (256, 256, Ok(256)),
        (256, 255, Ok(128)),
        (48, 100, Ok(32)),
        (1, 256, Ok(1)),
        (65_535, 65_535, Ok(32_768)),
        (3, 3, Ok(2)),
        (0, 8, Err(QueueError::Unavailable { queue: Q })),
        (8, 0, Err(QueueError::ZeroSize { queue: Q })),
        (0, 0, Err(QueueError::ZeroSize { queue: Q })),
    ];
    // A packed queue is as large as it likes.
    let packed = [
        (256, 255, Ok(255)),
        (48, 100, Ok(48)),
        (65_535, 65_535, Ok(32_768)),
        (3, 3, Ok(3)),
        (0, 8, Err(QueueError::Unavailable { queue: Q })),
        (8, 0, Err(QueueError::ZeroSize { queue: Q })),
    ];
    let split = cases.map(|case| (Ring::SPLIT, case));
    let packed = packed.map(|case| (Ring::PACKED, case));
    for (ring, (max, wanted, expected)) in split.into_iter().chain(packed) {
        if cfg!(miri) && max.min(wanted) > 256 {
            continue; // it would take minutes
        }
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
            .offer(ring.features)
            .queues(&[max]);
        let reset = init::reset(device.transport(), &platform).unwrap();
        let wish = Wish {
            want: RINGS,
            ..Wish::default()
        };
        let mut negotiated = reset.negotiate(&wish).unwrap();
        let pending = negotiated.queue::<rig::Chunks>(Q, &QueueConfig::new(wanted));
        let beyond = negotiated.queue::<rig::Chunks>(QueueIndex(1), &QueueConfig::new(8));
        assert_eq!(
            beyond.unwrap_err(),
            QueueError::Unavailable {
                queue: QueueIndex(1)
            }
        );
        let (_, proof) = negotiated.abort();
        match (pending, expected) {
            (Ok(pending), Ok(size)) => {
                assert_eq!(pending.size(), size, "{max} {wanted}");
                drop(pending.close(&proof.unwrap()).unwrap());
            }
            (got, expected) => assert_eq!(got.map(|_| 0).unwrap_err(), expected.unwrap_err()),
        }
    }
    platform.assert_no_leaks();
}
