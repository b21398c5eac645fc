//! The modern transport: widths, order, doorbells, vectors, and what it says of a device that lies.

mod pci_support;

use pci_support::config::{BUS_MASTER, INTX_DISABLE, MEMORY};
use pci_support::{AREAS, Cap, Fake, FakeConfig, FakeFunction, Write, at, open, qemu_net};
use vring::features::{Feature, Features};
use vring::transport::pci::{Message, MsixError, MsixTable, PciError, PciTransport};
use vring::transport::{
    Doorbell, Interrupt, QueueAreas, QueueIndex, Status, Transport, TransportError,
};

const STATUS: usize = 0x14;
const QUEUE_SELECT: usize = 0x16;

fn ready() -> (FakeConfig, Fake, PciTransport<Fake>) {
    let (config, fake) = qemu_net();
    let transport = open(&config, &fake).unwrap();
    fake.model().writes.clear();
    fake.model().reads.clear();
    (config, fake, transport)
}

fn enable(
    transport: &mut PciTransport<Fake>,
    queue: u16,
    size: u16,
    vector: Option<u16>,
) -> Result<Doorbell, TransportError> {
    enable_areas(transport, queue, size, &AREAS, vector)
}

fn enable_areas(
    transport: &mut PciTransport<Fake>,
    queue: u16,
    size: u16,
    areas: &QueueAreas,
    vector: Option<u16>,
) -> Result<Doorbell, TransportError> {
    // SAFETY: a fake device uses no memory.
    unsafe { transport.enable_queue(QueueIndex(queue), size, areas, vector) }
}

/// Defends: PCI-012, PCI-015.
#[test]
fn bug_class_65_queue_address_written_as_two_halves() {
    let (_, fake, mut transport) = ready();
    enable(&mut transport, 1, 128, None).unwrap();
    let model = fake.model();
    let writes = [
        Write(QUEUE_SELECT, 2, 1),
        Write(0x18, 2, 128),
        Write(0x20, 4, 0x2222_3000),
        Write(0x24, 4, 0x11),
        Write(0x28, 4, 0x5555_6000),
        Write(0x2c, 4, 0x44),
        Write(0x30, 4, 0x8888_9000),
        Write(0x34, 4, 0x77),
        Write(0x1c, 2, 1),
    ];
    assert_eq!(model.writes, writes, "the fields, and the enable last");
    let areas = [0x2222_3000, 0x11, 0x5555_6000, 0x44, 0x8888_9000, 0x77];
    assert_eq!(model.queues[1].areas, areas);
    assert_eq!(model.queues[1].size, 128);
    assert_eq!(model.queues[0].enable, 0);
}

/// Defends: PCI-017.
#[test]
fn bug_class_66_never_writes_zero_to_queue_enable_or_queue_size() {
    // The fake stops the test if one is written.
    let (_, fake, mut transport) = ready();
    assert_eq!(
        enable(&mut transport, 0, 0, None).unwrap_err(),
        TransportError::QueueSize {
            queue: QueueIndex(0),
            size: 0,
            max: 256
        }
    );
    enable(&mut transport, 0, 256, None).unwrap();
    transport.set_status(Status::empty());
    enable(&mut transport, 0, 256, None).unwrap();
    let model = fake.model();
    let written = |at| model.writes.iter().filter(move |w| w.0 == at).map(|w| w.2);
    assert_eq!(written(0x1c).collect::<Vec<_>>(), [1, 1]);
    assert_eq!(written(0x18).collect::<Vec<_>>(), [256, 256]);
}

#[test]
fn bug_class_36_what_is_shared_does_not_select() {
    let (_, fake, mut transport) = ready();
    enable(&mut transport, 2, 256, None).unwrap();
    fake.model().writes.clear();
    let shared = &transport;
    shared.status();
    shared.num_queues();
    shared.config_generation();
    shared.config_size();
    shared.read_config(0, &mut [0; 8]).unwrap();
    assert_eq!(fake.model().writes, []);
    assert_eq!(fake.model().select, 2);
    // And whoever selects does so each time, whatever was selected before.
    fake.model().select = 0;
    assert_eq!(
        enable(&mut transport, 2, 256, None).unwrap_err(),
        TransportError::QueueInUse {
            queue: QueueIndex(2)
        }
    );
}

/// Defends: PCI-014.
#[test]
fn a_size_that_the_device_cannot_have_is_refused_before_anything_is_written() {
    let (_, fake, mut transport) = ready();
    for size in [0, 3, 255, 257, 512, 0x8000, 0xffff] {
        let queue = QueueIndex(0);
        let refused = TransportError::QueueSize {
            queue,
            size,
            max: 256,
        };
        assert_eq!(enable(&mut transport, 0, size, None).unwrap_err(), refused);
    }
    let written = fake.model().writes.clone();
    assert!(written.iter().all(|w| w.0 == QUEUE_SELECT), "{written:?}");
}

/// Defends: PCI-013.
#[test]
fn a_packed_ring_may_have_any_size_up_to_32768() {
    let (_, fake, mut transport) = ready();
    fake.model().packed = true;
    fake.model().queues[0].max = 0xffff;
    fake.model().queues[0].size = 0xffff;
    transport.set_driver_features(Feature::VERSION_1 | Feature::RING_PACKED);
    let (queue, max) = (QueueIndex(0), 0xffff);
    for size in [0, 0x8001] {
        let refused = TransportError::QueueSize { queue, size, max };
        assert_eq!(enable(&mut transport, 0, size, None).unwrap_err(), refused);
    }
    enable(&mut transport, 0, 1000, None).unwrap();
    assert_eq!(fake.model().queues[0].size, 1000);
}

#[test]
fn bug_class_41_num_queues_absurd() {
    let (_, fake, mut transport) = ready();
    let unavailable = |queue| TransportError::QueueUnavailable {
        queue: QueueIndex(queue),
    };

    fake.model().num_queues = 0;
    assert_eq!(transport.num_queues(), Some(0));
    assert_eq!(transport.max_queue_size(QueueIndex(0)), 0);
    assert_eq!(
        enable(&mut transport, 0, 256, None).unwrap_err(),
        unavailable(0)
    );

    fake.model().num_queues = 0xffff;
    assert_eq!(
        transport.max_queue_size(QueueIndex(0xfffe)),
        0,
        "its size is 0"
    );
    assert_eq!(
        enable(&mut transport, 0xfffe, 256, None).unwrap_err(),
        unavailable(0xfffe)
    );
    assert_eq!(
        enable(&mut transport, 0xffff, 256, None).unwrap_err(),
        unavailable(0xffff)
    );
    assert!(fake.model().writes.iter().all(|w| w.0 == QUEUE_SELECT));
    enable(&mut transport, 2, 256, None).unwrap();
}

#[test]
fn a_device_that_does_not_take_a_size_or_an_enable_is_reported() {
    let (_, fake, mut transport) = ready();
    let queue = QueueIndex(0);
    fake.model().refuse_size = true;
    let refused = TransportError::QueueSizeRefused {
        queue,
        size: 64,
        got: 256,
    };
    assert_eq!(enable(&mut transport, 0, 64, None).unwrap_err(), refused);
    assert_eq!(
        fake.model().queues[0].areas,
        [0; 6],
        "no address before the size is agreed"
    );
    fake.model().refuse_size = false;
    fake.model().refuse_enable = true;
    let refused = TransportError::QueueNotEnabled { queue };
    assert_eq!(enable(&mut transport, 0, 64, None).unwrap_err(), refused);
}

#[test]
fn bug_class_60_a_transport_starts_again_after_a_reset() {
    let (_, fake, mut transport) = ready();
    for size in [256, 64, 256] {
        transport.set_status(Status::empty());
        assert!(transport.status().is_empty());
        transport.set_status(Status::ACKNOWLEDGE);
        transport.set_driver_features(Feature::VERSION_1.into());
        assert_eq!(transport.max_queue_size(QueueIndex(0)), 256);
        enable(&mut transport, 0, size, None).unwrap();
        let again = TransportError::QueueInUse {
            queue: QueueIndex(0),
        };
        assert_eq!(enable(&mut transport, 0, size, None).unwrap_err(), again);
        assert_eq!(fake.model().queues[0].size, size);
    }
}

#[test]
fn bug_class_60_a_device_left_running_is_reset_before_it_masters_the_bus() {
    let (config, fake) = qemu_net();
    fake.model().status = 0xf;
    fake.model().queues[0].enable = 1;
    open(&config, &fake).unwrap();
    assert_eq!(fake.model().writes, [Write(STATUS, 1, 0)]);
    assert_eq!(fake.model().queues[0].enable, 0);
    let commands = config.writes.borrow();
    let commands = commands.iter().filter(|w| w.0 == 4).map(|w| w.2 as u16);
    let last_two = commands.rev().take(2).collect::<Vec<_>>();
    assert_eq!(last_two, [MEMORY | BUS_MASTER, MEMORY]);
}

#[test]
fn a_device_at_rest_is_not_written_to_by_the_constructor() {
    let (config, fake) = qemu_net();
    let transport = open(&config, &fake).unwrap();
    assert_eq!(fake.model().writes, []);
    assert_eq!(config.function(at()).command(), MEMORY | BUS_MASTER);
    assert_eq!(transport.address(), at());
}

#[test]
fn bug_class_70_msix_that_firmware_left_enabled_is_turned_off_and_intx_on() {
    let (config, fake) = qemu_net();
    let mut function = config.function(at());
    function.put16(4, INTX_DISABLE);
    function.space[0x43] |= 0x80; // the MSI-X capability comes first
    config.add(at(), function);
    assert_eq!(config.function(at()).msix_control(), 0x8002);
    open(&config, &fake).unwrap();
    assert_eq!(config.function(at()).msix_control(), 2);
    assert_eq!(config.function(at()).command(), MEMORY | BUS_MASTER);
}

#[test]
fn a_function_that_does_not_turn_on_is_refused() {
    let (config, fake) = qemu_net();
    let mut function = config.function(at());
    function.command_stuck = BUS_MASTER;
    config.add(at(), function);
    let command = MEMORY;
    assert_eq!(
        open(&config, &fake).unwrap_err(),
        PciError::CommandRefused { command }
    );
}

#[test]
fn features_are_128_bits_in_four_words() {
    let (_, fake, mut transport) = ready();
    fake.model().offered = 1 << 127 | 1 << 95 | 1 << 64 | 1 << 32 | 1;
    let offered = transport.device_features();
    assert_eq!(
        offered,
        Features(1 << 127 | 1 << 95 | 1 << 64 | 1 << 32 | 1)
    );
    transport.set_driver_features(offered);
    assert_eq!(fake.model().accepted, [1, 1, 1 << 31 | 1, 1 << 31]);
}

#[test]
fn words_that_older_devices_do_not_know_are_written_only_when_they_matter() {
    let (_, fake, mut transport) = ready();
    transport.set_driver_features(Feature::VERSION_1.into());
    let two_words = [
        Write(0x08, 4, 0),
        Write(0x0c, 4, 0),
        Write(0x08, 4, 1),
        Write(0x0c, 4, 1),
    ];
    assert_eq!(fake.model().writes, two_words);
    // A word that was set is cleared again.
    transport.set_driver_features(Features(1 << 64));
    transport.set_driver_features(Feature::VERSION_1.into());
    assert_eq!(fake.model().accepted, [0, 1, 0, 0]);
}

#[test]
fn status_bits_without_a_name_are_kept() {
    let (_, fake, mut transport) = ready();
    fake.model().status = 0xff;
    assert_eq!(transport.status().bits(), 0xff);
    transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER);
    assert_eq!(fake.model().writes, [Write(STATUS, 1, 3)]);
}

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

/// A transport whose common configuration is so long, and whose doorbells are there.
fn with_structures(common: u32, notify: Cap) -> (Fake, PciTransport<Fake>) {
    let function = FakeFunction::new(0x1af4, 0x1041)
        .memory_bar64(4, 0x80_0000_0000, 0x4000)
        .caps(vec![
            Cap::virtio(1, 4, 0, common),
            notify,
            Cap::virtio(3, 4, 0x1000, 1),
        ]);
    let config = FakeConfig::with(at(), function);
    let fake = Fake::new();
    let transport = open(&config, &fake).unwrap();
    (fake, transport)
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

/// Defends: PCI-018, CF-006, CF-007.
#[test]
fn a_queue_is_reset_when_both_registers_say_so_and_is_programmed_anew() {
    let (config, fake, mut transport) = ready();
    let queue = QueueIndex(1);
    let unsupported = transport.reset_queue(queue).unwrap_err();
    assert!(matches!(unsupported, TransportError::Unsupported { .. }));
    // The field is not there before it is negotiated: what it reads is no proof.
    fake.model().reads.clear();
    assert!(!transport.is_queue_reset(queue));
    assert!(fake.model().reads.iter().all(|read| read.0 != 0x3a));
    let mut table = transport
        .enable_msix(&config, |at, len| fake.map(at, len))
        .unwrap();
    // SAFETY: a fake device writes nowhere.
    let message = unsafe { Message::new(0xfee0_0000, 1) };
    table.set(1, message).unwrap();
    transport.set_driver_features(Feature::VERSION_1 | Feature::RING_RESET);
    enable(&mut transport, 1, 256, Some(1)).unwrap();
    fake.model().reset_reads = 3;
    fake.model().select = 0;
    transport.reset_queue(queue).unwrap();
    assert_eq!(fake.model().queues[0].resetting, None, "another queue");
    for _ in 0..3 {
        // Meanwhile others are worked on.
        assert_eq!(transport.max_queue_size(QueueIndex(2)), 256);
        assert!(!transport.is_queue_reset(queue));
    }
    assert!(transport.is_queue_reset(queue));
    fake.model().writes.clear();
    enable(&mut transport, 1, 64, Some(1)).unwrap();
    let model = fake.model();
    let again = &model.queues[1];
    assert_eq!((again.size, again.vector, again.enable), (64, 1, 1));
    let order: Vec<usize> = model.writes.iter().map(|write| write.0).collect();
    let programmed = [0x16, 0x1a, 0x18, 0x20, 0x24, 0x28, 0x2c, 0x30, 0x34, 0x1c];
    assert_eq!(order, programmed, "everything, and the enable last");
    drop(model);

    // `queue_reset` reads 0 and the queue still runs: it is not done.
    fake.model().keep_enable = true;
    transport.reset_queue(queue).unwrap();
    let done = (0..10).filter(|_| transport.is_queue_reset(queue)).count();
    assert_eq!(done, 0);
    let absent = QueueIndex(3);
    let unavailable = TransportError::QueueUnavailable { queue: absent };
    assert_eq!(transport.reset_queue(absent).unwrap_err(), unavailable);
    assert!(!transport.is_queue_reset(absent));
}

#[test]
fn a_structure_without_queue_reset_has_no_queues_reset() {
    let (_, mut transport) = with_structures(58, Cap::notify(4, 0x3000, 0x1000, 4));
    transport.set_driver_features(Feature::VERSION_1 | Feature::RING_RESET);
    let queue = QueueIndex(0);
    let refused = transport.reset_queue(queue).unwrap_err();
    assert!(
        matches!(refused, TransportError::Unsupported { .. }),
        "{refused}"
    );
    assert!(!transport.is_queue_reset(queue));
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

/// Defends: PCI-004.
#[test]
fn configuration_is_read_with_the_widths_of_its_fields() {
    let (_, fake, transport) = ready();
    let read = |offset, len| {
        let mut bytes = vec![0; len];
        transport.read_config(offset, &mut bytes).unwrap();
        let expected = offset..offset + len;
        assert!(
            bytes.iter().map(|&b| usize::from(b)).eq(expected),
            "{bytes:?}"
        );
        let reads = std::mem::take(&mut fake.model().reads);
        reads
            .iter()
            .map(|r| (r.0 - 0x2000, r.1))
            .collect::<Vec<_>>()
    };
    assert_eq!(read(7, 1), [(7, 1)]);
    assert_eq!(read(6, 2), [(6, 2)]);
    assert_eq!(read(12, 4), [(12, 4)]);
    assert_eq!(
        read(8, 8),
        [(8, 4), (12, 4)],
        "a 64-bit field, low half first"
    );
    assert_eq!(
        read(4, 8),
        [(4, 4), (8, 4)],
        "which need be aligned to 4 only"
    );
    let bytes = (0..6).map(|i| (i, 1)).collect::<Vec<_>>();
    assert_eq!(read(0, 6), bytes, "a MAC address is bytes");
    assert_eq!(read(1, 2), [(1, 1), (2, 1)], "no integer is misaligned");
    assert_eq!(read(2, 4).len(), 4);
    assert_eq!(read(2, 8).len(), 8);
    assert_eq!(read(3, 0), []);
}

/// Defends: PCI-004.
#[test]
fn configuration_is_written_with_the_widths_of_its_fields() {
    let (_, fake, mut transport) = ready();
    transport
        .write_config(0, &[0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8])
        .unwrap();
    transport.write_config(8, &[0xb1, 0xb2]).unwrap();
    transport.write_config(11, &[0xc1]).unwrap();
    transport.write_config(13, &[0xd1, 0xd2, 0xd3]).unwrap();
    let writes = [
        Write(0x2000, 4, 0xa4a3_a2a1),
        Write(0x2004, 4, 0xa8a7_a6a5),
        Write(0x2008, 2, 0xb2b1),
        Write(0x200b, 1, 0xc1),
        Write(0x200d, 1, 0xd1),
        Write(0x200e, 1, 0xd2),
        Write(0x200f, 1, 0xd3),
    ];
    assert_eq!(fake.model().writes, writes);
}

#[test]
fn bug_class_42_config_too_short_is_an_error_not_a_panic() {
    let function = FakeFunction::new(0x1af4, 0x1041)
        .memory_bar64(4, 0x80_0000_0000, 0x4000)
        .caps(vec![
            Cap::virtio(1, 4, 0, 64),
            Cap::notify(4, 0x3000, 0x1000, 4),
            Cap::virtio(3, 4, 0x1000, 1),
            Cap::virtio(4, 4, 0x2000, 7),
        ]);
    let config = FakeConfig::with(at(), function);
    let fake = Fake::new();
    let mut transport = open(&config, &fake).unwrap();
    fake.model().reads.clear();
    assert_eq!(transport.config_size(), 7);
    for (offset, len) in [
        (4, 4),
        (6, 2),
        (7, 1),
        (0, 8),
        (usize::MAX, 1),
        (usize::MAX - 3, 8),
    ] {
        let error = TransportError::ConfigOutOfRange {
            offset,
            len,
            size: 7,
        };
        assert_eq!(transport.read_config(offset, &mut vec![0; len]), Err(error));
        assert_eq!(transport.write_config(offset, &vec![0; len]), Err(error));
    }
    assert_eq!(fake.model().reads, []);
    transport.read_config(6, &mut [0]).unwrap();
    transport.read_config(7, &mut []).unwrap();
}

/// Defends: PCI-035.
#[test]
fn bug_class_71_reading_the_isr_acknowledges_and_tells_the_reasons_apart() {
    let (_, fake, mut transport) = ready();
    let isr = transport.take_isr().unwrap();
    assert!(
        transport.take_isr().is_none(),
        "one handle, for one handler"
    );
    for (bits, interrupt) in [
        (0, Interrupt::empty()), // bug class 73: not ours, or spurious
        (1, Interrupt::QUEUE),
        (2, Interrupt::CONFIG),
        (3, Interrupt::QUEUE | Interrupt::CONFIG),
        (0xfc, Interrupt::from_bits_retain(0xfc)),
    ] {
        fake.model().isr = bits;
        assert_eq!(isr.ack(), interrupt);
        assert_eq!(isr.ack(), Interrupt::empty());
    }
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&isr);
    shared(&transport);
}

fn msix() -> (FakeConfig, Fake, PciTransport<Fake>, MsixTable<Fake>) {
    let (config, fake, mut transport) = ready();
    fake.model().msix_table[0] = 0xdead; // what a previous owner left
    let table = transport
        .enable_msix(&config, |addr, len| fake.map(addr, len))
        .unwrap();
    (config, fake, transport, table)
}

#[test]
fn msix_is_enabled_with_every_vector_masked_and_intx_off() {
    let (config, fake, _, table) = msix();
    assert_eq!(table.len(), 3);
    let function = config.function(at());
    assert_eq!(function.msix_control(), 0x8002);
    assert_eq!(function.command(), MEMORY | BUS_MASTER | INTX_DISABLE);
    assert_eq!(
        [3, 7, 11, 15].map(|word| fake.model().msix_table[word]),
        [1, 1, 1, 0]
    );
    // The function was masked as a whole until the table was.
    let writes = config.writes.borrow();
    let controls = writes
        .iter()
        .filter(|w| w.0 == 0x42)
        .map(|w| w.2)
        .collect::<Vec<_>>();
    assert_eq!(controls, [0xc002, 0x8002]);
}

#[test]
fn a_vector_is_masked_while_its_message_changes() {
    let (_, fake, _, mut table) = msix();
    fake.model().writes.clear();
    // SAFETY: the device is a model, and writes nowhere.
    let message = unsafe { Message::new(0x1_fee0_1000, 0x4041) };
    table.set(1, message).unwrap();
    table.unmask(1).unwrap();
    table.set(1, message).unwrap();
    table.mask(1).unwrap();
    let entry = |control| {
        [
            Write(0x1001c, 4, 1),
            Write(0x10010, 4, 0xfee0_1000),
            Write(0x10014, 4, 1),
            Write(0x10018, 4, 0x4041),
            Write(0x1001c, 4, control),
        ]
    };
    let mut expected = entry(1).to_vec();
    expected.push(Write(0x1001c, 4, 0));
    expected.extend(entry(0));
    expected.push(Write(0x1001c, 4, 1));
    assert_eq!(fake.model().writes, expected);
    for vector in [3, 0xffff] {
        let error = MsixError::NoSuchVector { vector, vectors: 3 };
        assert_eq!(table.set(vector, message), Err(error));
        assert_eq!(table.unmask(vector), Err(error));
    }
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
#[test]
fn a_safe_message_is_an_interrupt_and_no_write_to_memory() {
    for apic_id in 0..=255 {
        for vector in [0, 0x20, 0xff] {
            let message = Message::x86(apic_id, vector);
            let expected = (0xfee0_0000 + 0x1000 * u64::from(apic_id), vector.into());
            assert_eq!((message.address(), message.data()), expected);
        }
    }
}

/// Defends: PCI-026, PCI-027.
#[test]
fn bug_class_70_any_table_size_from_1_to_2048() {
    for vectors in [1, 2, 3, 2047, 2048] {
        let function = FakeFunction::qemu(0x1041).memory_bar(1, 0xfebd_0000, 0x8000);
        let config = FakeConfig::with(at(), function);
        let mut function = config.function(at());
        function.put16(0x42, vectors - 1);
        config.add(at(), function);
        let fake = Fake::new();
        let mut transport = open(&config, &fake).unwrap();
        let table = transport
            .enable_msix(&config, |addr, len| fake.map(addr, len))
            .unwrap();
        assert_eq!(table.len(), vectors);
        enable(&mut transport, 0, 256, Some(vectors - 1)).unwrap();
        let beyond = TransportError::VectorOutOfRange {
            vector: vectors,
            vectors,
        };
        assert_eq!(
            enable(&mut transport, 1, 256, Some(vectors)).unwrap_err(),
            beyond
        );
    }
}

/// Defends: PCI-026.
#[test]
fn bug_class_70_present_is_not_enabled() {
    let (_, fake, mut transport) = ready();
    let refused = enable(&mut transport, 0, 256, Some(0)).unwrap_err();
    assert_eq!(refused, TransportError::NoVectors);
    assert_eq!(
        transport.set_config_vector(Some(0)),
        Err(TransportError::NoVectors)
    );
    // Without vectors all is well, and the vector registers are left alone.
    transport.set_config_vector(None).unwrap();
    enable(&mut transport, 0, 256, None).unwrap();
    assert!(
        fake.model()
            .writes
            .iter()
            .all(|w| w.0 != 0x1a && w.0 != 0x10)
    );
}

/// Defends: PCI-015, PCI-028.
#[test]
fn bug_class_70_no_vector_read_back_is_an_error() {
    let (_, fake, mut transport, _table) = msix();
    fake.model().vector_room = 1;
    enable(&mut transport, 0, 256, Some(0)).unwrap();
    let refused = TransportError::VectorRefused {
        vector: 1,
        got: 0xffff,
    };
    assert_eq!(
        enable(&mut transport, 1, 256, Some(1)).unwrap_err(),
        refused
    );
    assert_eq!(
        fake.model().queues[1].enable,
        0,
        "not enabled without its vector"
    );
    assert_eq!(transport.set_config_vector(Some(1)), Err(refused));
    // Fewer vectors: shared, or none.
    enable(&mut transport, 1, 256, Some(0)).unwrap();
    enable(&mut transport, 2, 256, None).unwrap();
    let vectors = fake
        .model()
        .queues
        .iter()
        .map(|q| q.vector)
        .collect::<Vec<_>>();
    assert_eq!(vectors, [0, 0, 0xffff]);
}

#[test]
fn bug_class_70_configuration_and_queue_vectors_are_not_mixed_up() {
    let (_, fake, mut transport, _table) = msix();
    let vectors = || {
        let model = fake.model();
        (model.config_vector, model.queues[0].vector)
    };
    transport.set_config_vector(Some(2)).unwrap();
    enable(&mut transport, 0, 256, Some(1)).unwrap();
    assert_eq!(vectors(), (2, 1));
    transport.set_config_vector(None).unwrap();
    assert_eq!(vectors(), (0xffff, 1));
}

#[test]
fn msix_turned_off_is_intx_turned_on() {
    let (config, _, mut transport, _table) = msix();
    transport.set_status(Status::empty());
    transport.disable_msix(&config);
    assert_eq!(config.function(at()).msix_control(), 2);
    assert_eq!(config.function(at()).command(), MEMORY | BUS_MASTER);
    let refused = enable(&mut transport, 0, 256, Some(0)).unwrap_err();
    assert_eq!(refused, TransportError::NoVectors);
}

/// What comes of enabling MSI-X on a function with this capability in place of QEMU's.
fn msix_error(change: impl FnOnce(&mut FakeFunction)) -> (MsixError, FakeConfig) {
    let (config, fake, mut transport) = ready();
    let mut function = config.function(at());
    change(&mut function);
    config.add(at(), function);
    let error = transport
        .enable_msix(&config, |addr, len| fake.map(addr, len))
        .unwrap_err();
    let refused = enable(&mut transport, 0, 256, Some(0)).unwrap_err();
    assert_eq!(refused, TransportError::NoVectors, "as before");
    (error, config)
}

#[test]
fn bug_class_70_msix_that_cannot_be_used_is_refused_by_name() {
    use vring::transport::pci::BarError;
    assert_eq!(msix_error(|f| f.space[0x40] = 0x05).0, MsixError::Absent);

    let outside = BarError::Outside {
        bar: 1,
        offset: 0xff8,
        length: 48,
        size: 0x1000,
    };
    let (error, _) = msix_error(|f| _ = f.put32(0x44, 0xff9));
    assert_eq!(error, MsixError::Bar(outside));
    let (error, _) = msix_error(|f| _ = f.put32(0x44, 6));
    assert_eq!(error, MsixError::Bar(BarError::Reserved { bar: 6 }));
    let (error, _) = msix_error(|f| _ = f.put32(0x44, 0xffff_fff8 | 1));
    assert!(
        matches!(error, MsixError::Bar(BarError::Outside { .. })),
        "{error}"
    );

    let (error, config) = msix_error(|f| f.msix_stuck_off = true);
    assert_eq!(error, MsixError::NotEnabled { control: 2 });
    assert_eq!(
        config.function(at()).command(),
        MEMORY | BUS_MASTER,
        "INTx is on"
    );
}

#[test]
fn msix_that_stays_masked_as_a_whole_is_turned_off_again() {
    let (error, config) = msix_error(|f| f.msix_stuck_masked = true);
    assert_eq!(error, MsixError::NotEnabled { control: 0xc002 });
    assert_eq!(config.function(at()).msix_control() & 0x8000, 0);
    assert_eq!(
        config.function(at()).command(),
        MEMORY | BUS_MASTER,
        "INTx is on"
    );
}

#[test]
fn bug_class_44_an_msix_capability_that_ends_beyond_256_bytes_is_none() {
    let (error, _) = msix_error(|f| {
        // Its table would be described by registers 0xfc and 0x100.
        f.space[0x34] = 0xf8;
        f.put32(0xf8, 0x0002_0011).put32(0xfc, 1);
    });
    assert_eq!(error, MsixError::Absent);
}

#[test]
fn a_kernel_that_maps_more_than_the_table_gives_no_more_vectors() {
    let (config, fake, mut transport) = ready();
    let map = |addr, len: usize| fake.map(addr, len + 64);
    let mut table = transport.enable_msix(&config, map).unwrap();
    // SAFETY: the device is a model, and writes nowhere.
    let message = unsafe { Message::new(0xfee0_0000, 0x40) };
    table.set(2, message).unwrap();
    table.unmask(2).unwrap();
    let (vector, vectors) = (3, 3);
    let none = MsixError::NoSuchVector { vector, vectors };
    assert_eq!(table.set(3, message), Err(none));
    assert_eq!(
        table.unmask(3),
        Err(MsixError::NoSuchVector { vector, vectors })
    );
}

#[test]
fn an_msix_table_that_is_not_mapped_is_reported_and_msix_stays_off() {
    let (config, _, mut transport) = ready();
    let error = transport.enable_msix(&config, |_, _| None).unwrap_err();
    assert_eq!(
        error,
        MsixError::MapFailed {
            address: 0xfebd_0000,
            length: 48
        }
    );
    assert_eq!(config.function(at()).msix_control(), 2);
}

#[test]
fn every_error_says_what_and_names_its_numbers() {
    let queue = QueueIndex(7);
    let errors = [
        TransportError::QueueUnavailable { queue },
        TransportError::QueueSize {
            queue,
            size: 3,
            max: 256,
        },
        TransportError::QueueSizeRefused {
            queue,
            size: 64,
            got: 256,
        },
        TransportError::QueueInUse { queue },
        TransportError::QueueNotEnabled { queue },
        TransportError::NotifyOutOfRange {
            queue,
            offset: 0x40,
            len: 0x20,
        },
        TransportError::NotifyMisaligned { queue, offset: 1 },
    ];
    for error in errors {
        assert!(error.to_string().starts_with("queue 7") || error.to_string().ends_with("queue 7"));
    }
    let refused = TransportError::VectorRefused {
        vector: 5,
        got: 0xffff,
    }
    .to_string();
    assert!(
        refused.contains("0x5") && refused.contains("0xffff"),
        "{refused}"
    );
    let absent = TransportError::FieldAbsent {
        offset: 10,
        feature: Feature::EVENT_IDX,
    };
    assert!(absent.to_string().contains("VIRTIO_F_EVENT_IDX"));
}
