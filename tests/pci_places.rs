//! Structures in I/O BARs, and behind the window in configuration space: the same device, reached
//! in another way.

mod pci_support;

use pci_support::config::{BUS_MASTER, COMMAND, IO, MEMORY};
use pci_support::{AREAS, Cap, Fake, FakeConfig, FakeFunction, FakePorts, PORT, Shared, Write, at};
use vring::features::Feature;
use vring::transport::pci::{
    BarError, Far, Nowhere, PciError, PciTransport, Structure, Window, WindowArea,
};
use vring::transport::{Interrupt, QueueIndex, Status, Transport, TransportError};

/// All structures in the memory BAR 4 and in the I/O BAR 2, in this order, and the window.
fn function(order: [u8; 2]) -> FakeFunction {
    let structures = order.map(|bar| {
        [
            Cap::virtio(1, bar, 0, 0x40),
            Cap::notify(bar, 0x3000, 0x1000, 4),
            Cap::virtio(3, bar, 0x1000, 1),
            Cap::virtio(4, bar, 0x2000, 0x40),
        ]
    });
    let [first, second] = structures;
    let mut caps = Vec::from(first);
    caps.push(Cap::msix(3, 1, 0));
    caps.push(Cap::window());
    if order[0] != order[1] {
        caps.truncate(4);
        caps.extend(second);
    }
    FakeFunction::new(0x1af4, 0x1041)
        .memory_bar(1, 0xfebd_0000, 0x1000)
        .io_bar(2, PORT, 0x4000)
        .memory_bar64(4, 0x80_0000_0000, 0x4000)
        .caps(caps)
}

type Ported = PciTransport<Fake, FakePorts>;

fn with_ports(config: &FakeConfig, fake: &Fake) -> Result<Ported, PciError> {
    let map = |addr, len| fake.map(addr, len);
    let ports = |port, len| Some(FakePorts::new(fake, port, len));
    PciTransport::with_ports(config, at(), fake.clone(), map, ports)
}

/// A device that has its structures in the I/O BAR only.
fn ports_only() -> (FakeConfig, Fake) {
    (FakeConfig::with(at(), function([2, 2])), Fake::new())
}

#[test]
fn bug_class_67_structures_in_an_io_bar_are_used_where_there_are_ports() {
    let (config, fake) = ports_only();
    let mut transport = with_ports(&config, &fake).unwrap();
    assert_eq!(fake.model().mapped, [], "nothing is in memory");
    let function = config.function(at());
    assert_eq!(
        function.command(),
        IO | BUS_MASTER,
        "and memory is not decoded"
    );

    assert_eq!(transport.num_queues(), Some(3));
    fake.model().writes.clear();
    transport.set_driver_features(Feature::VERSION_1.into());
    // SAFETY: a fake device uses no memory.
    let doorbell = unsafe { transport.enable_queue(QueueIndex(1), 128, &AREAS, None) }.unwrap();
    let writes = fake.model().writes.clone();
    let expected = [
        Write(0x08, 4, 0),
        Write(0x0c, 4, 0),
        Write(0x08, 4, 1),
        Write(0x0c, 4, 1),
        Write(0x16, 2, 1),
        Write(0x18, 2, 128),
        Write(0x20, 4, 0x2222_3000),
        Write(0x24, 4, 0x11),
        Write(0x28, 4, 0x5555_6000),
        Write(0x2c, 4, 0x44),
        Write(0x30, 4, 0x8888_9000),
        Write(0x34, 4, 0x77),
        Write(0x1c, 2, 1),
    ];
    assert_eq!(writes, expected, "the registers and widths of memory");
    doorbell.ring(5);
    assert_eq!(fake.model().rings, [(0x3004, 1)]);

    let isr = transport.take_isr().unwrap();
    assert!(transport.take_isr().is_none());
    fake.model().isr = 3;
    assert_eq!(isr.ack(), Interrupt::QUEUE | Interrupt::CONFIG);

    fake.model().reads.clear();
    let mut bytes = [0; 8];
    transport.read_config(8, &mut bytes).unwrap();
    assert_eq!(bytes, [8, 9, 10, 11, 12, 13, 14, 15]);
    transport.write_config(2, &[1, 2]).unwrap();
    assert_eq!(fake.model().reads, [(0x2008, 4), (0x200c, 4)]);
    assert_eq!(fake.model().writes.last(), Some(&Write(0x2002, 2, 0x0201)));
    assert!(matches!(
        transport.read_config(0x40, &mut [0]),
        Err(TransportError::ConfigOutOfRange { size: 0x40, .. })
    ));
}

#[test]
fn optional_registers_and_wide_doorbells_are_in_ports_too() {
    let (config, fake) = ports_only();
    let mut transport = with_ports(&config, &fake).unwrap();
    let features = Feature::NOTIFICATION_DATA | Feature::NOTIF_CONFIG_DATA | Feature::RING_RESET;
    assert_eq!(transport.transport_features(), features);
    transport.set_driver_features(features | Feature::VERSION_1);
    let queue = QueueIndex(2);
    // SAFETY: a fake device uses no memory.
    let doorbell = unsafe { transport.enable_queue(queue, 256, &AREAS, None) }.unwrap();
    doorbell.ring(0x8003);
    assert_eq!(fake.model().data_rings, [(0x3008, 0x8003_7702)]);
    fake.model().reset_reads = 1;
    transport.reset_queue(queue).unwrap();
    assert!(!transport.is_queue_reset(queue));
    assert!(transport.is_queue_reset(queue));
}

/// Defends: PCI-006.
#[test]
fn of_a_structure_in_both_kinds_of_bar_the_one_in_memory_is_used() {
    for order in [[4, 2], [2, 4]] {
        let (config, fake) = (FakeConfig::with(at(), function(order)), Fake::new());
        let ports = |_, _| -> Option<FakePorts> { panic!("a port is asked for") };
        let map = |addr, len| fake.map(addr, len);
        let transport = PciTransport::with_ports(&config, at(), fake.clone(), map, ports).unwrap();
        assert_eq!(fake.model().mapped.len(), 4);
        assert_eq!(transport.config_size(), 0x40);
        assert_eq!(config.function(at()).command(), MEMORY | BUS_MASTER);
    }
}

#[test]
fn a_structure_whose_memory_is_not_mapped_is_taken_from_its_ports() {
    let (config, fake) = (FakeConfig::with(at(), function([4, 2])), Fake::new());
    // All but the device configuration.
    let map = |addr, len| (addr != 0x80_0000_2000).then(|| fake.map(addr, len))?;
    let ports = |port, len| Some(FakePorts::new(&fake, port, len));
    let transport = PciTransport::with_ports(&config, at(), fake.clone(), map, ports).unwrap();
    assert_eq!(config.function(at()).command(), IO | MEMORY | BUS_MASTER);
    let mut bytes = [0; 2];
    transport.read_config(6, &mut bytes).unwrap();
    assert_eq!(bytes, [6, 7]);
}

#[test]
fn each_instance_has_its_own_multiplier() {
    for (order, place) in [([4, 2], 0x3008), ([2, 4], 0x3010)] {
        let mut caps = vec![Cap::virtio(1, 4, 0, 0x40), Cap::virtio(3, 4, 0x1000, 1)];
        for bar in order {
            caps.push(Cap::notify(
                bar,
                0x3000,
                0x1000,
                if bar == 4 { 8 } else { 16 },
            ));
        }
        let function = FakeFunction::new(0x1af4, 0x1041)
            .io_bar(2, PORT, 0x4000)
            .memory_bar64(4, 0x80_0000_0000, 0x4000)
            .caps(caps);
        let (config, fake) = (FakeConfig::with(at(), function), Fake::new());
        // In the second round the kernel does not map the doorbells.
        let maps = order[0] == 4;
        let map = |addr, len| (maps || addr != 0x80_0000_3000).then(|| fake.map(addr, len))?;
        let ports = |port, len| Some(FakePorts::new(&fake, port, len));
        let transport = PciTransport::with_ports(&config, at(), fake.clone(), map, ports);
        let mut transport = transport.unwrap();
        // SAFETY: a fake device uses no memory.
        let bell = unsafe { transport.enable_queue(QueueIndex(1), 256, &AREAS, None) };
        bell.unwrap().ring(0);
        assert_eq!(fake.model().rings, [(place, 1)]);
    }
}

#[test]
fn bug_class_44_ports_that_are_not_given_or_too_few_are_an_error_with_their_number() {
    let (config, fake) = ports_only();
    let (bar, port) = (2, PORT);
    let error = BarError::Io { bar, port };
    let structure = Structure::Common;
    let refused = PciError::Bar { structure, error };
    let map = |addr, len| fake.map(addr, len);
    let none = |_, _| None::<FakePorts>;
    let short = |port, len| Some(FakePorts::new(&fake, port, len - 1));
    let shifted = |port, len| Some(FakePorts::new(&fake, port + 2, len));
    let open = |ports: &dyn Fn(u32, usize) -> Option<FakePorts>| {
        PciTransport::with_ports(&config, at(), fake.clone(), map, ports).unwrap_err()
    };
    assert_eq!(open(&none), refused);
    assert_eq!(open(&short), refused);
    assert_eq!(open(&shifted), refused);
    assert!(refused.to_string().contains("0xc000"), "{refused}");
    // A structure that leaves its I/O BAR.
    let function = FakeFunction::new(0x1af4, 0x1041)
        .io_bar(2, PORT, 0x4000)
        .caps(vec![Cap::virtio(1, 2, 0x3ff0, 0x40)]);
    let config = FakeConfig::with(at(), function);
    let outside = BarError::Outside {
        bar: 2,
        offset: 0x3ff0,
        length: 0x40,
        size: 0x4000,
    };
    let error = with_ports(&config, &fake).unwrap_err();
    let expected = PciError::Bar {
        structure,
        error: outside,
    };
    assert_eq!(error, expected);
}

#[test]
fn registers_serve_for_ports_that_a_bridge_shows_as_memory() {
    // Memory that answers 0 everywhere: a device without queues.
    let config = FakeConfig::with(at(), function([2, 2]));
    let mut arena = vec![0u64; 0x4000 / 8];
    let base = arena.as_mut_ptr();
    let ports = |port: u32, len| {
        let at = base.cast::<u8>().wrapping_add((port - PORT) as usize);
        // SAFETY: memory of that length, which lives as long as the transport.
        Some(unsafe { vring::transport::Registers::new(std::ptr::NonNull::new(at)?, len) })
    };
    let native = vring::transport::Native;
    let mut transport =
        PciTransport::with_ports(&config, at(), native, |_, _| None, ports).unwrap();
    assert_eq!(transport.num_queues(), Some(0));
    transport.set_status(Status::ACKNOWLEDGE);
    transport.write_config(4, &[1, 2, 3, 4]).unwrap();
    assert!(transport.take_isr().unwrap().ack().is_empty());
    assert_eq!(arena[2].to_le_bytes()[4], 1, "the status");
    assert_eq!(arena[0x2000 / 8].to_le_bytes(), [0, 0, 0, 0, 1, 2, 3, 4]);
}

/// MSI-X of a device whose other registers are in ports: its table is in memory all the same.
#[test]
fn bug_class_70_the_table_is_decoded_also_when_nothing_else_is_in_memory() {
    let (config, fake) = ports_only();
    let mut transport = with_ports(&config, &fake).unwrap();
    assert_eq!(config.function(at()).command() & MEMORY, 0);
    let table = transport.enable_msix(&config, |addr, len| fake.map(addr, len));
    assert_eq!(table.unwrap().len(), 3);
    assert_eq!(config.function(at()).command() & MEMORY, MEMORY);
    transport.set_config_vector(Some(2)).unwrap();
    assert_eq!(fake.model().config_vector, 2);
}

type Windowed = PciTransport<Fake, Far<Nowhere>>;

/// A device whose BARs the kernel does not map.
fn with_window(function: FakeFunction) -> (&'static Shared, Fake, Result<Windowed, PciError>) {
    let (config, fake) = (FakeConfig::with(at(), function), Fake::new());
    *config.device.borrow_mut() = Some(fake.clone());
    let config = Shared::lend(config);
    // SAFETY: nobody else uses this device.
    let window = unsafe { Window::new(config, at()) };
    let window = Box::leak(Box::new(window));
    let none = |_, _| None::<Nowhere>;
    let transport = PciTransport::with_window(window, fake.clone(), |_, _| None, none);
    (config, fake, transport)
}

/// Defends: PCI-011, PCI-023, PCI-024, PCI-025.
#[test]
fn through_the_window_each_register_is_one_access_of_its_width_inside_a_structure() {
    // Configuration space stops the test when an offset is no multiple of the length, when the
    // data are not as long as that, or when they are in no structure.
    let (config, fake, transport) = with_window(function([4, 4]));
    let mut transport = transport.unwrap();
    assert_eq!(transport.num_queues(), Some(3));
    transport.set_driver_features(Feature::VERSION_1.into());
    fake.model().writes.clear();
    // SAFETY: a fake device uses no memory.
    let doorbell = unsafe { transport.enable_queue(QueueIndex(1), 128, &AREAS, None) }.unwrap();
    let writes = fake.model().writes.clone();
    let order: Vec<_> = writes.iter().map(|write| (write.0, write.1)).collect();
    let expected = [
        (0x16, 2),
        (0x18, 2),
        (0x20, 4),
        (0x24, 4),
        (0x28, 4),
        (0x2c, 4),
        (0x30, 4),
        (0x34, 4),
        (0x1c, 2),
    ];
    assert_eq!(order, expected);
    doorbell.ring(0);
    assert_eq!(fake.model().rings, [(0x3004, 1)]);
    let mut bytes = [0; 7];
    transport.read_config(1, &mut bytes).unwrap();
    assert_eq!(bytes, [1, 2, 3, 4, 5, 6, 7]);
    transport.write_config(4, &[9, 9]).unwrap();
    assert_eq!(fake.model().config[4..6], [9, 9]);
    let config = config.0.lock().unwrap();
    assert!(config.shown.borrow().iter().all(|shown| shown.0 == 4));
    // Neither memory nor ports are decoded for it.
    assert_eq!(config.function(at()).command(), BUS_MASTER);
}

#[test]
fn a_doorbell_through_the_window_tells_the_position_when_that_was_negotiated() {
    let (_, fake, transport) = with_window(function([4, 4]));
    let mut transport = transport.unwrap();
    let features = Feature::VERSION_1 | Feature::NOTIFICATION_DATA;
    transport.set_driver_features(features);
    // SAFETY: a fake device uses no memory.
    let doorbell = unsafe { transport.enable_queue(QueueIndex(2), 128, &AREAS, None) }.unwrap();
    let copy = doorbell;
    std::thread::spawn(move || copy.ring(0x8001))
        .join()
        .unwrap();
    assert_eq!(fake.model().data_rings, [(0x3008, 0x8001_0002)]);
    assert!(
        format!("{doorbell:?}").contains("BAR 4 at 0x3008"),
        "{doorbell:?}"
    );
}

#[test]
fn through_the_window_there_is_no_interrupt_handle_that_could_wait_for_a_lock() {
    let (_, _, transport) = with_window(function([4, 4]));
    assert!(transport.unwrap().take_isr().is_none());
}

#[test]
fn bug_class_67_the_window_reaches_a_device_whose_bars_nobody_assigned() {
    let function = function([4, 4]).memory_bar64(4, 0, 0x4000);
    let (_, fake, transport) = with_window(function);
    let transport = transport.unwrap();
    assert_eq!(transport.config_size(), 0x40);
    fake.model().status = 0x40;
    assert_eq!(transport.status(), Status::NEEDS_RESET);
}

#[test]
fn bug_class_44_the_window_shows_nothing_that_lies_outside_of_its_bar() {
    let outside = FakeFunction::new(0x1af4, 0x1041)
        .memory_bar64(4, 0, 0x4000)
        .caps(vec![Cap::window(), Cap::virtio(1, 4, 0x3fe0, 0x40)]);
    let (config, _, refused) = with_window(outside);
    let error = BarError::Unassigned {
        bar: 4,
        size: 0x4000,
    };
    let structure = Structure::Common;
    assert_eq!(refused.unwrap_err(), PciError::Bar { structure, error });
    assert_eq!(*config.0.lock().unwrap().shown.borrow(), []);
}

/// The window has 32 bits for an offset, and a BAR of 64 bits may be larger than they reach.
#[test]
fn bug_class_44_the_window_shows_nothing_beyond_its_32_bits() {
    let caps = |notify, common| {
        let function = FakeFunction::new(0x1af4, 0x1041).memory_bar64(4, 0, 0x2_0000_0000);
        function.caps(vec![
            Cap::window(),
            Cap::virtio(1, 4, common, 0x40),
            Cap::notify(4, notify, 0x1_0000, 0x3000),
            Cap::virtio(3, 4, 0x1000, 1),
            Cap::virtio(4, 4, 0x2000, 0x40),
        ])
    };
    // The doorbell of queue 1 would be 0x3000 further on, at 0x2000 again: the configuration.
    let (_, fake, transport) = with_window(caps(0xffff_f000, 0));
    let mut transport = transport.unwrap();
    let queue = QueueIndex(1);
    let (offset, len) = (0x3000, 0x1000);
    // SAFETY: a fake device uses no memory.
    let refused = unsafe { transport.enable_queue(queue, 128, &AREAS, None) }.unwrap_err();
    let expected = TransportError::NotifyOutOfRange { queue, offset, len };
    assert_eq!(refused, expected);
    assert_eq!(fake.model().rings, []);
    // A structure that has not what is needed below it cannot be reached at all.
    let (_, _, refused) = with_window(caps(0x3000, 0xffff_ffe0));
    let (bar, size) = (4, 0x2_0000_0000);
    let (structure, error) = (Structure::Common, BarError::Unassigned { bar, size });
    assert_eq!(refused.unwrap_err(), PciError::Bar { structure, error });
}

#[test]
fn a_window_that_is_too_short_or_absent_is_none() {
    let mut short = Cap::window();
    short.0[2] = 16;
    for caps in [vec![short], vec![]] {
        let mut caps = caps;
        caps.push(Cap::virtio(1, 4, 0, 0x40));
        let function = FakeFunction::new(0x1af4, 0x1041)
            .memory_bar64(4, 0x80_0000_0000, 0x4000)
            .caps(caps);
        let (config, _, refused) = with_window(function);
        let failed = PciError::MapFailed {
            structure: Structure::Common,
            address: 0x80_0000_0000,
            length: 0x40,
        };
        assert_eq!(refused.unwrap_err(), failed);
        assert_eq!(*config.0.lock().unwrap().shown.borrow(), []);
    }
}

#[test]
fn ports_come_before_the_window() {
    let (config, fake) = (FakeConfig::with(at(), function([2, 2])), Fake::new());
    let config = Shared::lend(config);
    // SAFETY: nobody else uses this device.
    let window = unsafe { Window::new(config, at()) };
    let window: &'static mut Window<&'static Shared> = Box::leak(Box::new(window));
    let ports = |port, len| Some(FakePorts::new(&fake, port, len));
    let transport = PciTransport::with_window(window, fake.clone(), |_, _| None, ports).unwrap();
    assert_eq!(transport.num_queues(), Some(3));
    let config = config.0.lock().unwrap();
    assert_eq!(*config.shown.borrow(), []);
    assert_eq!(config.function(at()).command(), IO | BUS_MASTER);
    let commands = config
        .writes
        .borrow()
        .iter()
        .filter(|w| w.0 == COMMAND)
        .count();
    assert!(commands >= 2);
}

/// The window is four registers that belong together, and transport and doorbells are used from
/// several cores.
#[test]
fn bug_class_36_the_window_is_one_resource_for_all_cores() {
    let (_, fake, transport) = with_window(function([4, 4]));
    let mut transport = transport.unwrap();
    // SAFETY: a fake device uses no memory.
    let doorbell = unsafe { transport.enable_queue(QueueIndex(1), 128, &AREAS, None) }.unwrap();
    let rounds = 60;
    std::thread::scope(|scope| {
        let transport = &transport;
        scope.spawn(move || (0..rounds).for_each(|_| doorbell.ring(0)));
        scope.spawn(move || {
            for _ in 0..rounds {
                let mut bytes = [0; 4];
                transport.read_config(4, &mut bytes).unwrap();
                assert_eq!(bytes, [4, 5, 6, 7]);
            }
        });
        for _ in 0..rounds {
            assert_eq!(transport.num_queues(), Some(3));
        }
    });
    assert_eq!(fake.model().rings, vec![(0x3004, 1); rounds]);
}

#[test]
fn handles_of_the_window_go_to_any_core() {
    fn shared<T: Send + Sync>() {}
    shared::<WindowArea>();
    shared::<PciTransport<Fake, Far<Nowhere>>>();
    shared::<vring::transport::Doorbell>();
}

#[cfg(target_arch = "x86_64")]
#[test]
fn ports_of_this_machine_are_touched_only_inside_and_aligned() {
    use vring::transport::pci::{Area, Ports};
    // SAFETY: no port is touched: every access below is refused before.
    let ports = unsafe { Ports::new(0xc002, 0x20) };
    assert_eq!(
        (ports.size(), ports.is_aligned_to(2), ports.is_aligned_to(4)),
        (0x20, true, false)
    );
    assert_eq!(ports.read8(0x20), !0);
    assert_eq!(ports.read16(0x1f), !0);
    assert_eq!(ports.read32(0), !0, "misaligned");
    assert_eq!(ports.read8(usize::MAX), !0);
    ports.write8(0x20, 0);
    ports.write16(1, 0);
    ports.write32(0x1e, 0);
    assert!(ports.doorbell(0x20, 0).is_none());
    assert!(ports.doorbell(1, 0).is_none());
    assert!(ports.doorbell_with_data(0, 0).is_none());
    assert!(ports.isr(0x20).is_none());
    // SAFETY: as above.
    let last = unsafe { Ports::new(0xfff0, 0x20) };
    assert_eq!(last.read8(0x10), !0, "beyond the last port");
    assert_eq!(last.read32(0xe), !0, "half of it beyond the last port");
}
