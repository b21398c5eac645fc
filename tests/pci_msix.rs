//! Interrupt vectors of a device that has fewer than queues: one each, one for all, or none but
//! for the configuration; and the line that is left, which devices share.

mod pci_support;

use pci_support::config::INTX_DISABLE;
use pci_support::{AREAS, Fake, FakeConfig, FakeFunction, at, open};
use vring::transport::pci::{Message, MsixError, MsixTable, PciTransport};
use vring::transport::{Interrupt, QueueIndex, Status, Transport, TransportError};

const NONE: u16 = 0xffff;

/// A device with so many vectors in its table, and resources for so many.
fn with_vectors(
    vectors: u16,
    room: u16,
) -> (FakeConfig, Fake, PciTransport<Fake>, MsixTable<Fake>) {
    let function = FakeFunction::qemu(0x1041).memory_bar(1, 0xfebd_0000, 0x8000);
    let config = FakeConfig::with(at(), function);
    let mut function = config.function(at());
    function.put16(0x42, vectors - 1);
    config.add(at(), function);
    let fake = Fake::new();
    fake.model().vector_room = room;
    let mut transport = open(&config, &fake).unwrap();
    let table = transport.enable_msix(&config, |addr, len| fake.map(addr, len));
    (config, fake, transport, table.unwrap())
}

fn enable(
    transport: &mut PciTransport<Fake>,
    queue: u16,
    vector: Option<u16>,
) -> Result<(), TransportError> {
    // SAFETY: a fake device uses no memory.
    let doorbell = unsafe { transport.enable_queue(QueueIndex(queue), 256, &AREAS, vector) };
    doorbell.map(drop)
}

/// What the device has in its registers: of the configuration, and of each queue.
fn assigned(fake: &Fake) -> (u16, Vec<u16>) {
    let model = fake.model();
    let queues = model.queues.iter().map(|queue| queue.vector).collect();
    (model.config_vector, queues)
}

/// Defends: PCI-026, PCI-027.
#[test]
fn bug_class_70_one_vector_for_all() {
    let (_, fake, mut transport, _table) = with_vectors(1, 0x800);
    transport.set_config_vector(Some(0)).unwrap();
    for queue in 0..3 {
        enable(&mut transport, queue, Some(0)).unwrap();
    }
    assert_eq!(assigned(&fake), (0, vec![0; 3]));
}

/// Defends: PCI-026.
#[test]
fn bug_class_70_a_vector_for_the_configuration_only() {
    let (_, fake, mut transport, _table) = with_vectors(1, 0x800);
    transport.set_config_vector(Some(0)).unwrap();
    for queue in 0..3 {
        enable(&mut transport, queue, None).unwrap();
    }
    // NO_VECTOR is written and read back: what a queue had before is not kept.
    assert_eq!(assigned(&fake), (0, vec![NONE; 3]));
    let written = fake.model().writes.iter().filter(|w| w.0 == 0x1a).count();
    assert_eq!(written, 3);
}

/// Defends: PCI-027, PCI-028.
#[test]
fn bug_class_70_fewer_vectors_than_queues_are_shared_after_a_refusal() {
    // The table has five, the device resources for two.
    let (_, fake, mut transport, table) = with_vectors(5, 2);
    assert_eq!(table.len(), 5);
    transport.set_config_vector(Some(0)).unwrap();
    enable(&mut transport, 0, Some(1)).unwrap();
    let refused = TransportError::VectorRefused {
        vector: 2,
        got: NONE,
    };
    assert_eq!(enable(&mut transport, 1, Some(2)), Err(refused));
    assert_eq!(fake.model().queues[1].enable, 0);
    enable(&mut transport, 1, Some(1)).unwrap();
    enable(&mut transport, 2, Some(1)).unwrap();
    assert_eq!(assigned(&fake), (0, vec![1; 3]));
    // A vector that is not in the table is never written.
    fake.model().writes.clear();
    let (vector, vectors) = (5, 5);
    let beyond = TransportError::VectorOutOfRange { vector, vectors };
    assert_eq!(transport.set_config_vector(Some(5)), Err(beyond));
    assert_eq!(fake.model().writes, []);
}

/// Defends: PCI-028.
#[test]
fn bug_class_70_a_device_without_resources_refuses_the_configuration_vector_too() {
    let (_, fake, mut transport, _table) = with_vectors(3, 0);
    let (vector, got) = (0, NONE);
    let refused = TransportError::VectorRefused { vector, got };
    assert_eq!(transport.set_config_vector(Some(0)), Err(refused));
    assert!(
        refused.to_string().contains("do without MSI-X"),
        "{refused}"
    );
    // It can be polled all the same.
    transport.set_config_vector(None).unwrap();
    enable(&mut transport, 0, None).unwrap();
    assert_eq!(assigned(&fake), (NONE, vec![NONE; 3]));
}

#[test]
fn bug_class_70_vectors_are_assigned_anew_after_a_reset() {
    let (_, fake, mut transport, _table) = with_vectors(3, 0x800);
    transport.set_config_vector(Some(2)).unwrap();
    enable(&mut transport, 0, Some(1)).unwrap();
    transport.set_status(Status::empty());
    assert_eq!(
        assigned(&fake),
        (NONE, vec![NONE; 3]),
        "a reset unmaps all events"
    );
    transport.set_config_vector(Some(0)).unwrap();
    enable(&mut transport, 0, Some(0)).unwrap();
    assert_eq!(assigned(&fake), (0, vec![0, NONE, NONE]));
}

#[test]
fn bug_class_70_after_msix_is_off_intx_is_on_and_no_vector_is_written() {
    let (config, fake, mut transport, _table) = with_vectors(3, 0x800);
    transport.set_status(Status::empty());
    transport.disable_msix(&config);
    assert_eq!(config.function(at()).msix_control() & 0x8000, 0);
    assert_eq!(config.function(at()).command() & INTX_DISABLE, 0);
    fake.model().writes.clear();
    transport.set_config_vector(None).unwrap();
    enable(&mut transport, 0, None).unwrap();
    let vectors = [0x10, 0x1a];
    assert!(fake.model().writes.iter().all(|w| !vectors.contains(&w.0)));
    assert!(
        transport.take_isr().is_some(),
        "the interrupt status serves"
    );
}

/// What an entry holds before it is set is what somebody left there, and it is where the device
/// writes to.
#[test]
fn bug_class_70_a_vector_that_was_given_no_message_stays_masked() {
    let (_, fake, _, mut table) = with_vectors(2048, 0x800);
    // SAFETY: the device is a model, and writes nowhere.
    let message = unsafe { Message::new(0xfee0_0000, 0x40) };
    let control = |vector: usize| 0x1_000c + 16 * vector;
    for vector in [0, 31, 32, 2047] {
        fake.model().writes.clear();
        let refused = Err(MsixError::NoMessage { vector });
        assert_eq!(table.unmask(vector), refused);
        assert_eq!(fake.model().writes, []);
        table.set(vector, message).unwrap();
        table.unmask(vector).unwrap();
        let last = fake.model().writes.last().copied().unwrap();
        assert_eq!((last.0, last.2), (control(vector.into()), 0));
    }
    let why = MsixError::NoMessage { vector: 7 }.to_string();
    assert!(why.contains("7") && why.contains("`set`"), "{why}");
}

/// A line stays up until each device on it has been asked, and asking one takes nothing from the
/// other.
#[test]
fn bug_class_71_on_a_shared_line_each_status_answers_for_its_own_device() {
    let on_the_line = || {
        let function = FakeFunction::qemu(0x1041).memory_bar(1, 0xfebd_0000, 0x8000);
        let config = FakeConfig::with(at(), function);
        let fake = Fake::new();
        let isr = open(&config, &fake).unwrap().take_isr().unwrap();
        (fake, isr)
    };
    let ((first, first_isr), (second, second_isr)) = (on_the_line(), on_the_line());
    let up = || first.model().isr | second.model().isr != 0;
    for (of_first, of_second) in [(1, 0), (0, 1), (1, 2), (3, 3), (2, 0)] {
        first.model().isr = of_first;
        second.model().isr = of_second;
        assert!(up());
        assert_eq!(second_isr.ack(), Interrupt::from_bits_retain(of_second));
        assert_eq!(
            first.model().isr,
            of_first,
            "the other device's is left alone"
        );
        assert_eq!(first_isr.ack(), Interrupt::from_bits_retain(of_first));
        assert!(!up(), "nobody is left who holds the line");
        assert!(first_isr.ack().is_empty() && second_isr.ack().is_empty());
    }
}
