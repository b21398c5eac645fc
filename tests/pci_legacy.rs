//! The legacy PCI transport: its layout, its order, and what it says of a device that lies.

mod pci_support;

use pci_support::config::{BUS_MASTER, INTX_DISABLE, IO, MEMORY};
use pci_support::legacy::Legacy;
use pci_support::{AREAS, Cap, Fake, FakeConfig, FakeFunction, at};
use vring::features::{Feature, Features};
use vring::platform::DmaAddr;
use vring::transport::pci::{
    AnyTransport, BarError, LegacyTransport, MsixTable, PciError, Structure,
};
use vring::transport::{
    DeviceId, Doorbell, Interrupt, Native, QueueAreas, QueueIndex, Status, Transport,
    TransportError,
};

const PORT: u32 = 0xc080;

/// A legacy network card, as QEMU makes one with `disable-modern=on`.
fn legacy_function() -> FakeFunction {
    FakeFunction::new(0x1af4, 0x1000)
        .io_bar(0, PORT, 32)
        .memory_bar(1, 0xfebd_0000, 0x1000)
        .caps(vec![Cap::msix(3, 1, 0)])
}

fn open(config: &FakeConfig, legacy: &Legacy) -> Result<LegacyTransport<Legacy>, PciError> {
    LegacyTransport::new(config, at(), |port, len| {
        assert_eq!((port, len), (PORT, 32));
        Some(legacy.clone())
    })
}

fn ready() -> (FakeConfig, Legacy, LegacyTransport<Legacy>) {
    let (config, legacy) = (FakeConfig::with(at(), legacy_function()), Legacy::new());
    let transport = open(&config, &legacy).unwrap();
    legacy.model().log.clear();
    (config, legacy, transport)
}

/// Areas of one block at page 0x12345.
const BLOCK: QueueAreas = QueueAreas {
    desc: DmaAddr(0x1234_5000),
    driver: DmaAddr(0x1234_6000),
    device: DmaAddr(0x1234_7000),
};

fn enable(
    transport: &mut LegacyTransport<Legacy>,
    queue: u16,
    size: u16,
    vector: Option<u16>,
) -> Result<Doorbell, TransportError> {
    // SAFETY: a model uses no memory.
    unsafe { transport.enable_queue(QueueIndex(queue), size, &BLOCK, vector) }
}

/// Defends: PCI-L01.
#[test]
fn a_legacy_device_is_driven_by_its_header_in_bar_0() {
    let (config, legacy, mut transport) = ready();
    assert_eq!(config.function(at()).command(), IO | BUS_MASTER);
    assert_eq!(transport.device_id(), DeviceId::NETWORK);
    assert!(transport.is_legacy() && transport.is_queue_size_fixed());
    assert_eq!(
        (transport.num_queues(), transport.config_generation()),
        (None, None)
    );
    assert_eq!(transport.device_features(), Features(1 << 28 | 1 << 5));
    transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER);
    transport.set_driver_features(Features(1 << 32 | 1 << 5));
    assert_eq!(legacy.model().accepted, 1 << 5, "32 bits are all there are");
    assert_eq!(transport.max_queue_size(QueueIndex(1)), 128);
    assert_eq!(transport.max_queue_size(QueueIndex(2)), 0);
    legacy.model().log.clear();
    let doorbell = enable(&mut transport, 1, 128, None).unwrap();
    let writes = [(14, 2, Some(1)), (8, 4, Some(0x12345))];
    assert_eq!(
        legacy.writes(),
        writes,
        "the page frame number, and that last"
    );
    assert_eq!(legacy.model().frames, [0, 0x12345]);
    doorbell.ring(77);
    assert_eq!(legacy.writes(), [(16, 2, Some(1))]);
    assert_eq!(transport.status(), Status::ACKNOWLEDGE | Status::DRIVER);
    transport.set_status(Status::empty());
    assert_eq!(legacy.writes(), [(18, 1, Some(0))]);
    enable(&mut transport, 1, 128, None).unwrap();
}

/// Defends: PCI-L02.
#[test]
fn device_configuration_moves_when_msix_is_turned_on_and_back() {
    let (config, legacy, mut transport) = ready();
    let read = |transport: &LegacyTransport<Legacy>| {
        let mut bytes = [0; 6];
        transport.read_config(0, &mut bytes).unwrap();
        bytes
    };
    assert_eq!(transport.config_size(), 12);
    assert_eq!(read(&transport), [1, 2, 3, 4, 5, 6]);
    assert_eq!(legacy.model().log[0], (20, 1, None));

    let fake = Fake::new();
    let table = transport.enable_msix(&config, fake.clone(), |addr, len| fake.map(addr, len));
    assert_eq!(table.unwrap().len(), 3);
    legacy.model().msix = true; // what the device does at the write of its capability
    assert_eq!(
        config.function(at()).command(),
        IO | MEMORY | BUS_MASTER | INTX_DISABLE
    );
    legacy.model().log.clear();
    assert_eq!(transport.config_size(), 8);
    assert_eq!(read(&transport), [1, 2, 3, 4, 5, 6]);
    assert_eq!(legacy.model().log[0], (24, 1, None));
    legacy.model().log.clear();
    transport.write_config(4, &[9, 9, 9, 9]).unwrap();
    assert_eq!(legacy.writes(), [(28, 4, Some(0x0909_0909))]);

    transport.disable_msix(&config);
    legacy.model().msix = false;
    assert_eq!(config.function(at()).command() & INTX_DISABLE, 0);
    assert_eq!(read(&transport), [1, 2, 3, 4, 9, 9]);
}

fn with_msix() -> (Legacy, LegacyTransport<Legacy>, MsixTable<Fake>) {
    let (config, legacy, mut transport) = ready();
    let fake = Fake::new();
    let table = transport.enable_msix(&config, fake.clone(), |addr, len| fake.map(addr, len));
    legacy.model().msix = true;
    legacy.model().log.clear();
    (legacy, transport, table.unwrap())
}

/// Defends: PCI-027, PCI-028.
#[test]
fn bug_class_70_legacy_vectors_are_read_back_and_never_written_without_msix() {
    let (_, legacy, mut transport) = ready();
    assert_eq!(
        transport.set_config_vector(Some(0)),
        Err(TransportError::NoVectors)
    );
    assert_eq!(
        enable(&mut transport, 0, 256, Some(0)).unwrap_err(),
        TransportError::NoVectors
    );
    transport.set_config_vector(None).unwrap();
    enable(&mut transport, 0, 256, None).unwrap();
    assert!(
        legacy.writes().iter().all(|write| write.0 < 20),
        "that is device configuration"
    );

    let (legacy, mut transport, _table) = with_msix();
    legacy.model().vector_room = 2;
    transport.set_config_vector(Some(1)).unwrap();
    enable(&mut transport, 0, 256, Some(0)).unwrap();
    assert_eq!(legacy.model().config_vector, 1);
    assert_eq!(legacy.model().vectors[0], 0);
    let (vector, got) = (2, 0xffff);
    let refused = TransportError::VectorRefused { vector, got };
    assert_eq!(
        enable(&mut transport, 1, 128, Some(2)).unwrap_err(),
        refused
    );
    assert_eq!(
        legacy.model().frames[1],
        0,
        "not enabled without its vector"
    );
    let (vector, vectors) = (3, 3);
    let beyond = TransportError::VectorOutOfRange { vector, vectors };
    assert_eq!(enable(&mut transport, 1, 128, Some(3)).unwrap_err(), beyond);
    enable(&mut transport, 1, 128, None).unwrap();
    assert_eq!(legacy.model().vectors[1], 0xffff);
}

#[test]
fn the_interrupt_status_is_acknowledged_by_one_read_without_a_lock() {
    let (_, legacy, mut transport) = ready();
    let isr = transport.take_isr().unwrap();
    assert!(transport.take_isr().is_none());
    legacy.model().isr = 3;
    assert_eq!(isr.ack(), Interrupt::QUEUE | Interrupt::CONFIG);
    assert_eq!(isr.ack(), Interrupt::empty());
    assert_eq!(legacy.model().log, [(19, 1, None); 2]);
}

#[test]
fn bug_class_41_a_legacy_queue_has_the_size_of_the_device_or_none() {
    let (_, legacy, mut transport) = ready();
    legacy.model().sizes = vec![256, 3];
    let unavailable = |queue| TransportError::QueueUnavailable {
        queue: QueueIndex(queue),
    };
    assert_eq!(
        enable(&mut transport, 2, 256, None).unwrap_err(),
        unavailable(2)
    );
    assert_eq!(
        enable(&mut transport, 0xffff, 256, None).unwrap_err(),
        unavailable(0xffff)
    );
    let queue = QueueIndex(0);
    for size in [0, 128, 512] {
        let refused = TransportError::QueueSizeRefused {
            queue,
            size,
            got: 256,
        };
        assert_eq!(enable(&mut transport, 0, size, None).unwrap_err(), refused);
    }
    let odd = TransportError::QueueSize {
        queue: QueueIndex(1),
        size: 3,
        max: 3,
    };
    assert_eq!(enable(&mut transport, 1, 3, None).unwrap_err(), odd);
    assert!(
        legacy.writes().iter().all(|write| write.0 == 14),
        "nothing but the selection"
    );
}

#[test]
fn a_ring_that_has_no_page_frame_number_is_refused_before_the_device_is_told() {
    let (_, legacy, mut transport) = ready();
    for addr in [0, 0x800, 1 << 44, !0xfff] {
        let areas = QueueAreas {
            desc: DmaAddr(addr),
            ..AREAS
        };
        // SAFETY: a model uses no memory.
        let refused = unsafe { transport.enable_queue(QueueIndex(0), 256, &areas, None) };
        let error = refused.unwrap_err();
        assert!(
            matches!(error, TransportError::QueueAddress { .. }),
            "{error}"
        );
    }
    assert!(legacy.writes().iter().all(|write| write.0 == 14));
}

#[test]
fn a_queue_that_is_in_use_or_does_not_start_is_reported() {
    let (_, legacy, mut transport) = ready();
    enable(&mut transport, 0, 256, None).unwrap();
    let queue = QueueIndex(0);
    let again = enable(&mut transport, 0, 256, None).unwrap_err();
    assert_eq!(again, TransportError::QueueInUse { queue });
    legacy.model().forgets_frames = true;
    let queue = QueueIndex(1);
    let lost = enable(&mut transport, 1, 128, None).unwrap_err();
    assert_eq!(lost, TransportError::QueueNotEnabled { queue });
}

#[test]
fn bug_class_60_a_legacy_device_left_running_is_reset_before_it_masters_the_bus() {
    let (config, legacy) = (FakeConfig::with(at(), legacy_function()), Legacy::new());
    legacy.model().status = 7;
    legacy.model().frames[0] = 0x777;
    let mut function = config.function(at());
    function.put16(4, INTX_DISABLE);
    function.space[0x43] |= 0x80; // MSI-X was on
    config.add(at(), function);
    open(&config, &legacy).unwrap();
    assert_eq!(legacy.model().frames[0], 0);
    assert_eq!(config.function(at()).msix_control(), 2);
    let commands = config.writes.borrow();
    let commands = commands.iter().filter(|w| w.0 == 4).map(|w| w.2 as u16);
    let last_two = commands.rev().take(2).collect::<Vec<_>>();
    assert_eq!(last_two, [IO | BUS_MASTER, IO]);
}

#[test]
fn bug_class_42_legacy_configuration_ends_where_the_ports_do() {
    let (_, legacy, mut transport) = ready();
    for (offset, len) in [(9, 4), (12, 1), (usize::MAX, 1), (0, 13)] {
        let error = TransportError::ConfigOutOfRange {
            offset,
            len,
            size: 12,
        };
        assert_eq!(transport.read_config(offset, &mut vec![0; len]), Err(error));
        assert_eq!(transport.write_config(offset, &vec![0; len]), Err(error));
    }
    assert_eq!(legacy.model().log, []);
    assert_eq!(transport.shm_region(0), None);
    let unsupported = transport.reset_queue(QueueIndex(0)).unwrap_err();
    assert!(matches!(unsupported, TransportError::Unsupported { .. }));
}

#[test]
fn bug_class_64_what_has_no_legacy_interface_is_refused_by_name() {
    let legacy = Legacy::new();
    let refused = |function: FakeFunction| {
        let config = FakeConfig::with(at(), function);
        let error = LegacyTransport::new(&config, at(), |_, _| Some(legacy.clone())).unwrap_err();
        assert_eq!(config.function(at()).command(), 0, "it is not turned on");
        error
    };
    // A modern id, and a BAR 0 in memory.
    let device = 0x1041;
    assert_eq!(
        refused(FakeFunction::qemu(device)),
        PciError::NoLegacy { device }
    );
    let device = 0x1000;
    let memory = FakeFunction::new(0x1af4, device).memory_bar(0, 0xfebd_0000, 0x1000);
    assert_eq!(refused(memory), PciError::NoLegacy { device });
    let structure = Structure::Legacy;
    let error = BarError::Unassigned { bar: 0, size: 32 };
    let unassigned = legacy_function().io_bar(0, 0, 32);
    assert_eq!(refused(unassigned), PciError::Bar { structure, error });
    let (length, needed) = (16, 20);
    let short = legacy_function().io_bar(0, PORT, 16);
    let too_short = PciError::TooShort {
        structure,
        length,
        needed,
    };
    assert_eq!(refused(short), too_short);
    let (vendor, device) = (0x8086, 0x1000);
    let foreign = FakeFunction::new(vendor, device).io_bar(0, PORT, 32);
    assert_eq!(refused(foreign), PciError::NotVirtio { vendor, device });
}

#[test]
fn ports_that_are_not_given_are_an_error_with_their_number() {
    let config = FakeConfig::with(at(), legacy_function());
    let structure = Structure::Legacy;
    let error = BarError::Io { bar: 0, port: PORT };
    let expected = PciError::Bar { structure, error };
    let none = LegacyTransport::new(&config, at(), |_, _| None::<Legacy>);
    assert_eq!(none.unwrap_err(), expected);
    let short = Legacy {
        len: 31,
        ..Legacy::new()
    };
    let short = LegacyTransport::new(&config, at(), |_, _| Some(short));
    assert_eq!(short.unwrap_err(), expected);
    assert!(expected.to_string().contains("legacy header"), "{expected}");
}

fn any(
    config: &FakeConfig,
    fake: &Fake,
    legacy: &Legacy,
) -> Result<AnyTransport<Fake, Legacy>, PciError> {
    let map = |addr, len| fake.map(addr, len);
    AnyTransport::new(config, at(), fake.clone(), map, |_, _| Some(legacy.clone()))
}

/// Defends: PCI-L03, PCI-L04.
#[test]
fn bug_class_64_a_device_is_driven_by_its_modern_interface_else_by_its_legacy_one() {
    let (fake, legacy) = (Fake::new(), Legacy::new());
    // A transitional device has both.
    let transitional = || FakeFunction::qemu(0x1000).io_bar(0, PORT, 32);
    let config = FakeConfig::with(at(), transitional());
    let mut transport = any(&config, &fake, &legacy).unwrap();
    assert!(matches!(transport, AnyTransport::Modern(_)));
    assert!(!transport.is_legacy() && !transport.is_queue_size_fixed());
    assert_eq!(transport.num_queues(), Some(3));
    assert!(transport.transport_features().has(Feature::RING_RESET));
    assert_eq!(legacy.model().log, []);
    assert!(transport.take_isr().is_some() && transport.take_isr().is_none());

    // The same by its legacy one, when it is asked for.
    let by_legacy = open(&config, &legacy).unwrap();
    assert_eq!(by_legacy.device_id(), DeviceId::NETWORK);

    // A legacy device has one.
    let config = FakeConfig::with(at(), legacy_function());
    let mut transport = any(&config, &fake, &legacy).unwrap();
    assert!(matches!(transport, AnyTransport::Legacy(_)));
    assert!(transport.is_legacy() && transport.is_queue_size_fixed());
    assert_eq!(transport.transport_features(), Features::EMPTY);
    let map = |addr, len| fake.map(addr, len);
    let table = transport.enable_msix(&config, fake.clone(), map);
    assert_eq!(table.unwrap().len(), 3);
    transport.disable_msix(&config);
    // SAFETY: a model uses no memory.
    let doorbell = unsafe { transport.enable_queue(QueueIndex(0), 256, &BLOCK, None) };
    doorbell.unwrap().ring(0);
    assert_eq!(legacy.model().rings, [0]);
    assert_eq!(transport.address(), at());
}

/// Defends: PCI-L05, PCI-L06.
#[test]
fn bug_class_64_a_modern_id_without_capabilities_is_refused_and_not_driven_as_legacy() {
    let device = 0x1041;
    let function = FakeFunction::new(0x1af4, device).io_bar(0, PORT, 32);
    let config = FakeConfig::with(at(), function);
    let (fake, legacy) = (Fake::new(), Legacy::new());
    let refused = any(&config, &fake, &legacy).unwrap_err();
    assert_eq!(refused, PciError::NoLegacy { device });
    assert_eq!(legacy.model().log, []);
    // And a modern device whose capabilities lie is not driven as a legacy one either.
    let function = FakeFunction::new(0x1af4, 0x1000)
        .io_bar(0, PORT, 32)
        .memory_bar64(4, 0x80_0000_0000, 0x4000)
        .caps(vec![Cap::virtio(1, 4, 0, 55)]);
    let config = FakeConfig::with(at(), function);
    let refused = any(&config, &fake, &legacy).unwrap_err();
    assert!(matches!(refused, PciError::TooShort { .. }), "{refused}");
    assert_eq!(legacy.model().log, []);
}

#[test]
fn a_legacy_device_without_ports_says_what_to_give() {
    let config = FakeConfig::with(at(), legacy_function());
    let none = |_, _| None::<Legacy>;
    let refused = AnyTransport::new(&config, at(), Native, |_, _| None, none).unwrap_err();
    let error = BarError::Io { bar: 0, port: PORT };
    let structure = Structure::Legacy;
    assert_eq!(refused, PciError::Bar { structure, error });
    let device = 0x1000;
    let only = PciError::LegacyOnly { device }.to_string();
    assert!(
        only.contains("LegacyTransport") && only.contains("disable-modern=off"),
        "{only}"
    );
}
