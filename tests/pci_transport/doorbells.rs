//! Where a doorbell is, its width and its value: bug classes 28 and 69.

use vring::features::{Feature, Features};
use vring::transport::{QueueIndex, Transport, TransportError};

use super::{enable, ready, with_structures};
use crate::pci_support::{Cap, Fake, FakeConfig, FakeFunction, at, open};

/// The doorbell of each of the three queues, with these offsets and this multiplier.
fn doorbells(
    multiplier: u32,
    length: u32,
    offs: [u16; 3],
) -> Vec<Result<(usize, u16), TransportError>> {
    let function = FakeFunction::new(0x1af4, 0x1041)
        .memory_bar64(4, 0x80_0000_0000, 0x80_0000)
        .caps(vec![
            Cap::virtio(1, 4, 0, 64),
            Cap::notify(4, 0x3000, length, multiplier),
            Cap::virtio(3, 4, 0x1000, 1),
        ]);
    let config = FakeConfig::with(at(), function);
    let fake = Fake::new();
    let mut transport = open(&config, &fake).unwrap();
    let each = (0..).zip(offs).map(|(queue, off)| {
        fake.model().queues[usize::from(queue)].notify_off = off;
        let doorbell = enable(&mut transport, queue, 256, None)?;
        fake.model().reads.clear();
        fake.model().writes.clear();
        doorbell.ring(0);
        let mut model = fake.model();
        assert_eq!(model.reads, [], "a ring reads no register");
        assert_eq!(model.writes, [], "a ring is one store");
        assert_eq!(model.rings.len(), 1);
        Ok(model.rings.remove(0))
    });
    each.collect()
}

/// Defends: PCI-029, PCI-031.
#[test]
fn bug_class_69_notify_offset_times_multiplier_for_each_queue() {
    let ok = |rings: [(usize, u16); 3]| rings.map(Ok).to_vec();
    // Multiplier 0: one address for all queues, told apart by the value.
    assert_eq!(
        doorbells(0, 2, [0, 1, 2]),
        ok([(0x3000, 0), (0x3000, 1), (0x3000, 2)])
    );
    assert_eq!(
        doorbells(0, 2, [9, 9, 0xffff]),
        ok([(0x3000, 0), (0x3000, 1), (0x3000, 2)])
    );
    assert_eq!(
        doorbells(2, 6, [0, 1, 2]),
        ok([(0x3000, 0), (0x3002, 1), (0x3004, 2)])
    );
    assert_eq!(
        doorbells(4, 0x1000, [0, 1, 2]),
        ok([(0x3000, 0), (0x3004, 1), (0x3008, 2)])
    );
    // Queues that share an offset, and offsets that are not the queue's number.
    assert_eq!(
        doorbells(4, 0x1000, [7, 7, 0]),
        ok([(0x301c, 0), (0x301c, 1), (0x3000, 2)])
    );
    assert_eq!(
        doorbells(4096, 0x3000, [0, 1, 2]),
        ok([(0x3000, 0), (0x4000, 1), (0x5000, 2)])
    );
}

#[test]
fn bug_class_69_a_doorbell_outside_of_its_structure_is_refused() {
    let outside = |queue, offset, len| {
        let queue = QueueIndex(queue);
        Err(TransportError::NotifyOutOfRange { queue, offset, len })
    };
    assert_eq!(doorbells(4, 8, [0, 1, 2])[2], outside(2, 8, 8));
    // The last two bytes are in, the next two half out.
    assert_eq!(
        doorbells(2, 5, [0, 1, 2])[1..],
        [Ok((0x3002, 1)), outside(2, 4, 5)]
    );
    let far = 0xffff * 0xffff_ffff;
    assert_eq!(
        doorbells(u32::MAX, 0x1000, [0xffff, 0, 0])[0],
        outside(0, far, 0x1000)
    );
    assert_eq!(
        doorbells(1 << 31, 0x1000, [2, 0, 0])[0],
        outside(0, 1 << 32, 0x1000)
    );
}

#[test]
fn bug_class_69_a_misaligned_doorbell_is_refused() {
    let misaligned = |queue, offset| {
        let queue = QueueIndex(queue);
        Err(TransportError::NotifyMisaligned { queue, offset })
    };
    let expected = [Ok((0x3000, 0)), misaligned(1, 1), Ok((0x3002, 2))];
    assert_eq!(doorbells(1, 0x1000, [0, 1, 2]), expected);
}

/// Defends: PCI-029, PCI-030, PCI-031, PCI-032, PCI-033, PCI-034.
#[test]
fn bug_class_28_a_doorbell_has_the_width_and_the_value_of_what_was_negotiated() {
    const NONE: &[(usize, u16)] = &[];
    let data = Feature::NOTIFICATION_DATA;
    let config = Feature::NOTIF_CONFIG_DATA;
    let base = Features::from(Feature::VERSION_1);
    // Queue 1 has its doorbell at 0x3004; its device calls it 0x7701. Two bytes each time, or four
    // with the position above.
    for (features, id, wide) in [
        (base, 1, false),
        (base | config, 0x7701, false),
        (base | data, 1, true),
        (base | data | config, 0x7701, true),
    ] {
        let (_, fake, mut transport) = ready();
        transport.set_driver_features(features);
        let doorbell = enable(&mut transport, 1, 256, None).unwrap();
        let reads = fake
            .model()
            .reads
            .iter()
            .filter(|read| read.0 == 0x38)
            .count();
        let negotiated = features.has(config);
        assert_eq!(
            reads,
            usize::from(negotiated),
            "the field is there only then"
        );
        fake.model().reads.clear();
        fake.model().writes.clear();
        let positions = [0, 7, 0x7fff, 0x8000, 0x8123, 0xffff];
        for position in positions {
            doorbell.ring(position);
        }
        let model = fake.model();
        assert_eq!((&*model.reads, &*model.writes), (&[][..], &[][..]));
        if wide {
            let told = |position: u16| (0x3004, u32::from(position) << 16 | u32::from(id));
            assert_eq!(model.data_rings, positions.map(told));
            assert_eq!(model.rings, NONE);
        } else {
            assert_eq!(model.rings, [(0x3004, id); 6]);
            assert_eq!(model.data_rings, []);
        }
    }
}

/// Defends: FE-004, FE-005.
#[test]
fn the_transport_says_what_it_can_do_with_this_device() {
    let data = Features::from(Feature::NOTIFICATION_DATA);
    let config = Features::from(Feature::NOTIF_CONFIG_DATA);
    let whole = data | config | Feature::RING_RESET;
    let all = |offset, length, multiplier| Cap::notify(4, offset, length, multiplier);
    for (common, notify, expected) in [
        (64, all(0x3000, 0x1000, 4), whole),
        (60, all(0x3000, 0x1000, 0), whole),
        (59, all(0x3000, 0x1000, 4), data | config),
        (58, all(0x3000, 0x1000, 4096), data | config),
        (57, all(0x3000, 0x1000, 4), data),
        (56, all(0x3000, 4, 4), data),
        // Doorbells of four bytes have to lie on four bytes.
        (56, all(0x3000, 3, 4), Features::EMPTY),
        (56, all(0x3000, 0x1000, 2), Features::EMPTY),
        (56, all(0x3000, 0x1000, 6), Features::EMPTY),
    ] {
        let (_, transport) = with_structures(common, notify);
        assert_eq!(transport.transport_features(), expected, "{common} bytes");
    }
}

/// Defends: PCI-030, PCI-032.
#[test]
fn bug_class_28_a_doorbell_of_four_bytes_lies_in_its_structure_and_on_four_bytes() {
    let refused = |length, multiplier, off| {
        let (fake, mut transport) = with_structures(64, Cap::notify(4, 0x3000, length, multiplier));
        transport.set_driver_features(Feature::VERSION_1 | Feature::NOTIFICATION_DATA);
        fake.model().queues[0].notify_off = off;
        let outcome = enable(&mut transport, 0, 256, None).map(drop);
        assert_eq!(fake.model().queues[0].enable, u16::from(outcome.is_ok()));
        outcome.err()
    };
    let queue = QueueIndex(0);
    let outside = |offset, len| Some(TransportError::NotifyOutOfRange { queue, offset, len });
    assert_eq!(refused(8, 4, 1), None);
    assert_eq!(refused(7, 4, 1), outside(4, 7));
    assert_eq!(refused(6, 2, 2), outside(4, 6));
    let misaligned = TransportError::NotifyMisaligned { queue, offset: 6 };
    assert_eq!(refused(0x1000, 2, 3), Some(misaligned));
}

#[test]
fn a_doorbell_that_this_transport_cannot_ring_is_refused() {
    // NOTIF_CONFIG_DATA, and a common configuration that ends before the field.
    let function = FakeFunction::new(0x1af4, 0x1041)
        .memory_bar64(4, 0x80_0000_0000, 0x4000)
        .caps(vec![
            Cap::virtio(1, 4, 0, 57),
            Cap::notify(4, 0x3000, 0x1000, 4),
            Cap::virtio(3, 4, 0x1000, 1),
        ]);
    let config = FakeConfig::with(at(), function);
    let mut transport = open(&config, &Fake::new()).unwrap();
    transport.set_driver_features(Feature::VERSION_1 | Feature::NOTIF_CONFIG_DATA);
    let refused = enable(&mut transport, 0, 256, None).unwrap_err();
    assert!(
        matches!(refused, TransportError::Unsupported { .. }),
        "{refused}"
    );
}
