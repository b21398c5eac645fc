//! The reasons of an interrupt, and the vectors of MSI-X: bug classes 44, 70 and 71.

use vring::transport::pci::{Message, MsixError, MsixTable, PciTransport};
use vring::transport::{Interrupt, Status, Transport, TransportError};

use super::{enable, ready};
use crate::pci_support::config::{BUS_MASTER, INTX_DISABLE, MEMORY};
use crate::pci_support::{Fake, FakeConfig, FakeFunction, Write, at, open};

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
