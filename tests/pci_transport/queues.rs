//! Queues that are set up and reset: widths, order, sizes, and a device that lies about them.

use vring::features::Feature;
use vring::transport::pci::Message;
use vring::transport::{QueueIndex, Status, Transport, TransportError};

use super::{enable, ready, with_structures};
use crate::pci_support::{Cap, Write};

const QUEUE_SELECT: usize = 0x16;

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
