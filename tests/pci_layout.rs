//! Capabilities and BARs: what cannot be used is skipped or refused by name, and every walk ends.

mod pci_support;

use pci_support::config::{BUS_MASTER, COMMAND, INTX_DISABLE, IO, MEMORY};
use pci_support::{Cap, Fake, FakeConfig, FakeFunction, at, open, qemu_net};
use vring::transport::pci::{Bar, BarError, Capabilities, PciError, PciTransport, Structure, scan};
use vring::transport::{DeviceId, Transport};

/// A function with these capabilities and BARs 4 (64-bit, 16 KiB) and 1 (4 KiB).
fn with_caps(caps: Vec<Cap>) -> FakeConfig {
    let function = FakeFunction::new(0x1af4, 0x1041)
        .memory_bar64(4, 0x80_0000_0000, 0x4000)
        .memory_bar(1, 0xfebd_0000, 0x1000)
        .caps(caps);
    FakeConfig::with(at(), function)
}

fn common() -> Cap {
    Cap::virtio(1, 4, 0, 0x1000)
}
fn notify() -> Cap {
    Cap::notify(4, 0x3000, 0x1000, 4)
}
fn isr() -> Cap {
    Cap::virtio(3, 4, 0x1000, 0x1000)
}
fn device() -> Cap {
    Cap::virtio(4, 4, 0x2000, 0x1000)
}

fn error(config: &FakeConfig) -> PciError {
    open(config, &Fake::new()).expect_err("refused")
}

fn mapped(config: &FakeConfig) -> Vec<(u64, usize)> {
    let fake = Fake::new();
    open(config, &fake).expect("accepted");
    std::mem::take(&mut fake.model().mapped)
}

/// Defends: PCI-009.
#[test]
fn a_structure_is_mapped_only_as_far_as_it_is_needed() {
    let (config, fake) = qemu_net();
    open(&config, &fake).unwrap();
    assert_eq!(
        fake.model().mapped,
        [
            (0x80_0000_0000, 64),
            (0x80_0000_3000, 0x1000),
            (0x80_0000_1000, 1),
            (0x80_0000_2000, 0x1000)
        ]
    );
}

#[test]
fn bug_class_44_capability_list_that_loops() {
    let config = with_caps(vec![common(), notify(), isr(), device()]);
    // The last capability points to the first.
    let mut function = config.function(at());
    let last = Capabilities::new(&config, at()).last().unwrap();
    function.space[usize::from(last.register) + 1] = 0x40;
    config.add(at(), function.clone());
    assert_eq!(Capabilities::new(&config, at()).count(), 4);
    assert_eq!(mapped(&config).len(), 4);

    // A capability that points to itself.
    function.space[0x41] = 0x40;
    config.add(at(), function);
    assert_eq!(Capabilities::new(&config, at()).count(), 1);
    let structure = Structure::Notify;
    assert_eq!(error(&config), PciError::Missing { structure });
}

#[test]
fn bug_class_43_a_capability_list_has_48_places_at_most() {
    let mut function = FakeFunction::new(0x1af4, 0x1041);
    for i in 0..48u8 {
        function.space[0x40 + usize::from(i) * 4] = 0x09;
        function.space[0x41 + usize::from(i) * 4] = 0x40 + (i + 1) % 48 * 4;
    }
    function.space[0x34] = 0x40;
    let config = FakeConfig::with(at(), function);
    assert_eq!(Capabilities::new(&config, at()).count(), 48);
}

#[test]
fn the_low_bits_of_a_capability_pointer_are_masked() {
    let config = with_caps(vec![common(), notify(), isr()]);
    let mut function = config.function(at());
    function.space[0x34] |= 3;
    function.space[0x41] |= 3;
    config.add(at(), function);
    assert_eq!(Capabilities::new(&config, at()).count(), 3);
}

#[test]
fn a_capability_pointer_into_the_header_ends_the_list() {
    let config = with_caps(vec![common(), notify(), isr()]);
    let mut function = config.function(at());
    function.space[0x41] = 0x3c;
    config.add(at(), function);
    assert_eq!(Capabilities::new(&config, at()).count(), 1);
}

#[test]
fn without_the_status_bit_there_are_no_capabilities() {
    let (config, _) = qemu_net();
    let mut function = config.function(at());
    function.put16(6, 0);
    config.add(at(), function);
    assert_eq!(Capabilities::new(&config, at()).count(), 0);
}

#[test]
fn bug_class_44_offset_and_length_beyond_the_bar_are_refused_with_their_numbers() {
    for (offset, length) in [
        (0x4000, 0x1000),
        (0x3004, 0x1000),
        (0, 0x4001),
        (0xffff_fffc, 0x1000),
        (0xffff_fffc, 0xffff_ffff),
        (0, u32::MAX),
    ] {
        let config = with_caps(vec![Cap::virtio(1, 4, offset, length), notify(), isr()]);
        let error_of_bar = BarError::Outside {
            bar: 4,
            offset: offset.into(),
            length: length.into(),
            size: 0x4000,
        };
        let expected = PciError::Bar {
            structure: Structure::Common,
            error: error_of_bar,
        };
        assert_eq!(error(&config), expected);
    }
}

#[test]
fn a_structure_that_ends_where_its_bar_ends_is_used() {
    let config = with_caps(vec![
        common(),
        notify(),
        isr(),
        Cap::virtio(4, 4, 0x3ffc, 4),
    ]);
    assert_eq!(mapped(&config)[3], (0x80_0000_3ffc, 4));
}

/// Defends: PCI-009, PCI-010, CF-004.
#[test]
fn an_unexpectedly_large_structure_is_used_as_far_as_needed() {
    let function = FakeFunction::new(0x1af4, 0x1041)
        .memory_bar64(4, 0x80_0000_0000, 1 << 34)
        .caps(vec![
            Cap::virtio(1, 4, 0, u32::MAX),
            Cap::notify(4, 0x3000, 0x2_0000, 4),
            Cap::virtio(3, 4, 0x1000, u32::MAX),
            Cap::virtio(4, 4, 0x2000, u32::MAX),
        ]);
    let lengths = mapped(&FakeConfig::with(at(), function));
    assert_eq!(
        lengths.iter().map(|m| m.1).collect::<Vec<_>>(),
        [64, 0x2_0000, 1, 4096]
    );
}

#[test]
fn bug_class_44_bar_size_zero() {
    let config = with_caps(vec![Cap::virtio(1, 0, 0, 0x1000), notify(), isr()]);
    let (structure, bar) = (Structure::Common, 0);
    let error_of_bar = BarError::Unimplemented { bar };
    assert_eq!(
        error(&config),
        PciError::Bar {
            structure,
            error: error_of_bar
        }
    );
}

#[test]
fn bug_class_44_an_instance_in_an_io_bar_yields_to_one_in_a_memory_bar() {
    let mut function =
        config_with_io_notify(vec![common(), Cap::notify(2, 0, 4, 0), notify(), isr()]);
    let fake = Fake::new();
    open(&function, &fake).unwrap();
    assert!(fake.model().mapped.contains(&(0x80_0000_3000, 0x1000)));

    // Alone it is refused, and says why.
    function = config_with_io_notify(vec![common(), Cap::notify(2, 0, 4, 0), isr()]);
    let structure = Structure::Notify;
    let io = BarError::Io {
        bar: 2,
        port: 0xc040,
    };
    assert_eq!(
        error(&function),
        PciError::Bar {
            structure,
            error: io
        }
    );
}

fn config_with_io_notify(caps: Vec<Cap>) -> FakeConfig {
    let function = FakeFunction::new(0x1af4, 0x1041)
        .io_bar(2, 0xc040, 32)
        .memory_bar64(4, 0x80_0000_0000, 0x4000)
        .caps(caps);
    FakeConfig::with(at(), function)
}

/// Defends: PCI-006.
#[test]
fn bug_class_44_of_duplicates_the_first_usable_one_is_used() {
    let config = with_caps(vec![
        Cap::virtio(1, 4, 2, 0x1000),      // misaligned
        Cap::virtio(1, 4, 0, 55),          // too short
        Cap::virtio(1, 4, 0x8000, 0x1000), // outside
        Cap::virtio(1, 4, 0, 56),          // this one
        common(),
        notify(),
        isr(),
    ]);
    assert_eq!(mapped(&config)[0], (0x80_0000_0000, 56));
}

/// An instance that the kernel cannot map is none that it can support.
///
/// Defends: PCI-006.
#[test]
fn bug_class_44_of_duplicates_the_first_that_the_kernel_maps_is_used() {
    const FAR: u64 = 0x100_0000_0000;
    let mut caps = Vec::new();
    for bar in [0, 4, 2] {
        caps.push(Cap::virtio(1, bar, 0, 0x40));
        caps.push(Cap::notify(bar, 0x3000, 0x1000, 4));
        caps.push(Cap::virtio(3, bar, 0x1000, 1));
    }
    let function = FakeFunction::new(0x1af4, 0x1041)
        .memory_bar64(0, FAR, 0x4000)
        .memory_bar64(2, FAR + 0x4000, 0x4000)
        .memory_bar64(4, 0x80_0000_0000, 0x4000)
        .caps(caps);
    let (config, fake) = (FakeConfig::with(at(), function), Fake::new());
    let near = |address, len| match address {
        FAR.. => None,
        _ => fake.map(address, len),
    };
    let transport = PciTransport::with_access(&config, at(), fake.clone(), near).unwrap();
    assert_eq!(transport.num_queues(), Some(3));
    // Where none can be mapped, the error tells of the first.
    let (structure, address, length) = (Structure::Common, FAR, 64);
    let failed = PciError::MapFailed {
        structure,
        address,
        length,
    };
    let refused = PciTransport::with_access(&config, at(), Fake::new(), |_, _| None);
    assert_eq!(refused.unwrap_err(), failed);
}

#[test]
fn the_first_reason_is_the_error_when_no_instance_is_usable() {
    let config = with_caps(vec![
        Cap::virtio(1, 4, 0, 55),
        Cap::virtio(1, 4, 2, 0x1000),
        notify(),
        isr(),
    ]);
    let (structure, length, needed) = (Structure::Common, 55, 56);
    assert_eq!(
        error(&config),
        PciError::TooShort {
            structure,
            length,
            needed
        }
    );

    let config = with_caps(vec![Cap::virtio(1, 4, 2, 0x1000), notify(), isr()]);
    assert_eq!(
        error(&config),
        PciError::Misaligned {
            structure,
            offset: 2
        }
    );
}

/// Defends: PCI-005, PCI-008.
#[test]
fn reserved_types_and_reserved_bars_are_ignored() {
    let config = with_caps(vec![
        Cap::virtio(0, 4, 0, 0x1000),
        Cap::virtio(6, 4, 0, 0x1000),
        Cap::virtio(0xff, 4, 0, 0x1000),
        Cap::virtio(1, 6, 0, 0x1000),
        Cap::virtio(1, 0xff, 0, 0x1000),
        common(),
        notify(),
        isr(),
    ]);
    assert_eq!(mapped(&config)[0].0, 0x80_0000_0000);

    let config = with_caps(vec![Cap::virtio(1, 6, 0, 0x1000), notify(), isr()]);
    let structure = Structure::Common;
    assert_eq!(error(&config), PciError::Missing { structure });
}

/// Defends: PCI-007.
#[test]
fn bug_class_44_a_short_capability_is_skipped_and_a_long_one_accepted() {
    let mut short = Cap::virtio(1, 4, 0x800, 0x100);
    short.0[2] = 15;
    let mut long = common();
    long.0[2] = 24;
    long.0.extend([0xaa; 8]);
    let config = with_caps(vec![short, long, notify(), isr()]);
    assert_eq!(mapped(&config)[0], (0x80_0000_0000, 64));

    let mut short = notify();
    short.0[2] = 16;
    let config = with_caps(vec![common(), short, isr()]);
    let structure = Structure::Notify;
    assert_eq!(error(&config), PciError::Missing { structure });
}

#[test]
fn a_capability_that_runs_beyond_the_first_256_bytes_is_skipped() {
    let config = with_caps(vec![notify(), isr(), common()]);
    let mut function = config.function(at());
    // Move the common configuration to 0xf4, where its last word would be at 0x100.
    let cap = common().0;
    function.space[0xf4..0xf4 + 16].copy_from_slice(&cap);
    let isr_at = Capabilities::new(&config, at()).nth(1).unwrap().register;
    function.space[usize::from(isr_at) + 1] = 0xf4;
    config.add(at(), function);
    let structure = Structure::Common;
    assert_eq!(error(&config), PciError::Missing { structure });
}

#[test]
fn each_structure_that_a_device_must_have_is_named_when_it_is_missing() {
    let all = [common as fn() -> Cap, notify, isr];
    for (missing, structure) in [
        (0, Structure::Common),
        (1, Structure::Notify),
        (2, Structure::Isr),
    ] {
        let kept = all.iter().enumerate().filter(|(i, _)| *i != missing);
        let config = with_caps(kept.map(|(_, cap)| cap()).collect());
        assert_eq!(error(&config), PciError::Missing { structure });
    }
}

#[test]
fn a_device_without_configuration_has_a_configuration_of_no_bytes() {
    let config = with_caps(vec![common(), notify(), isr()]);
    let transport = open(&config, &Fake::new()).unwrap();
    assert_eq!(transport.config_size(), 0);
    assert!(transport.read_config(0, &mut [0]).is_err());
}

/// Defends: PCI-L06.
#[test]
fn bug_class_64_legacy_only_device_is_refused_by_name() {
    for device in [0x1000, 0x1001, 0x1041] {
        let function = FakeFunction::new(0x1af4, device)
            .io_bar(0, 0xc000, 32)
            .memory_bar(1, 0xfebd_0000, 0x1000)
            .caps(vec![Cap::msix(3, 1, 0)]);
        let config = FakeConfig::with(at(), function);
        assert_eq!(error(&config), PciError::LegacyOnly { device });
        assert!(error(&config).to_string().contains("legacy"));
        assert_eq!(
            *config.writes.borrow(),
            [],
            "a refused device is left as it was"
        );
    }
}

/// Defends: PCI-001, PCI-002, PCI-003, PCI-L03, PCI-L05.
#[test]
fn bug_class_64_transitional_ids_with_modern_capabilities_are_accepted() {
    let transitional = [
        (0x1000, 0x1100, DeviceId::NETWORK),
        (0x1001, 2, DeviceId::BLOCK),
        (0x1002, 5, DeviceId(5)),
        (0x1003, 3, DeviceId::CONSOLE),
        (0x1004, 8, DeviceId(8)),
        (0x1005, 4, DeviceId::ENTROPY),
        (0x1009, 9, DeviceId(9)),
        (0x1010, 24, DeviceId(24)),
        (0x1041, 0x1100, DeviceId::NETWORK),
        (0x107f, 0, DeviceId(63)),
    ];
    for (device, subsystem, id) in transitional {
        for revision in [0, 1, 0xff] {
            let mut function = FakeFunction::qemu(device);
            function.put16(0x2e, subsystem);
            function.space[8] = revision;
            let config = FakeConfig::with(at(), function);
            assert_eq!(scan(&config).next().unwrap().virtio(), Some(id));
            assert_eq!(open(&config, &Fake::new()).unwrap().device_id(), id);
        }
    }
}

/// Defends: PCI-001.
#[test]
fn what_is_no_virtio_device_is_refused_by_its_ids() {
    for (vendor, device) in [
        (0x8086, 0x1041),
        (0x1af4, 0x1040),
        (0x1af4, 0x1080),
        (0x1af4, 0x1010),
    ] {
        let mut function = FakeFunction::qemu(device);
        function.put16(0, vendor);
        let config = FakeConfig::with(at(), function);
        assert_eq!(error(&config), PciError::NotVirtio { vendor, device });
    }
    let address = at();
    assert_eq!(
        error(&FakeConfig::default()),
        PciError::NoFunction { address }
    );

    let mut bridge = FakeFunction::qemu(0x1041);
    bridge.space[0xe] = 1;
    let config = FakeConfig::with(at(), bridge);
    assert_eq!(error(&config), PciError::HeaderType { header_type: 1 });
}

#[test]
fn bug_class_67_sizing_is_done_with_decoding_off_and_everything_is_put_back() {
    for command in [
        0,
        IO | MEMORY,
        MEMORY | BUS_MASTER,
        IO | MEMORY | BUS_MASTER | INTX_DISABLE,
    ] {
        let mut function = FakeFunction::qemu(0x1041).io_bar(0, 0xc000, 32);
        function.put16(4, command);
        let before = function.space.clone();
        let config = FakeConfig::with(at(), function);
        // The configuration space refuses BAR writes while decoding is on.
        for bar in [0, 1, 4] {
            Bar::read(&config, at(), bar).unwrap();
        }
        assert!(
            config.function(at()).space == before,
            "configuration space was changed"
        );
        let commands = config.writes.borrow();
        let commands = commands.iter().filter(|w| w.0 == COMMAND).count();
        assert_eq!(commands, 6, "off and back, once for each BAR");
    }
}

#[test]
fn bug_class_67_bars_of_32_bits_of_64_bits_above_4_gib_and_of_ports() {
    let function = FakeFunction::new(0x1af4, 0x1041)
        .memory_bar64(0, 0xffff_ff00_0000_0000, 1 << 36)
        .memory_bar(2, 0xfebd_0000, 0x1000)
        .io_bar(3, 0xc040, 64)
        .memory_bar64(4, 0xc000_0000, 0x4000);
    let config = FakeConfig::with(at(), function);
    let memory = |address, size, prefetchable| Bar::Memory {
        address,
        size,
        prefetchable,
    };
    let expected = [
        (0, Ok(memory(0xffff_ff00_0000_0000, 1 << 36, true))),
        (1, Err(BarError::UpperHalf { bar: 1 })),
        (2, Ok(memory(0xfebd_0000, 0x1000, false))),
        (
            3,
            Ok(Bar::Io {
                port: 0xc040,
                size: 64,
            }),
        ),
        (4, Ok(memory(0xc000_0000, 0x4000, true))),
        (5, Err(BarError::UpperHalf { bar: 5 })),
        (6, Err(BarError::Reserved { bar: 6 })),
        (255, Err(BarError::Reserved { bar: 255 })),
    ];
    for (bar, expected) in expected {
        assert_eq!(Bar::read(&config, at(), bar), expected);
    }
}

#[test]
fn the_upper_half_of_a_bar_is_not_taken_for_a_bar() {
    // An upper half of 4 looks like the lower half of a 64-bit BAR.
    let function = FakeFunction::new(0x1af4, 0x1041)
        .memory_bar64(0, 0x4_0000_0000, 0x4000)
        .memory_bar(2, 0xfebd_0000, 0x1000);
    let config = FakeConfig::with(at(), function);
    let (address, size, prefetchable) = (0xfebd_0000, 0x1000, false);
    let memory = Bar::Memory {
        address,
        size,
        prefetchable,
    };
    assert_eq!(Bar::read(&config, at(), 2), Ok(memory));
    assert_eq!(
        Bar::read(&config, at(), 1),
        Err(BarError::UpperHalf { bar: 1 })
    );
}

#[test]
fn bug_class_67_unassigned_bar_is_an_error_with_its_number() {
    let function = FakeFunction::qemu(0x1041).memory_bar64(4, 0, 0x4000);
    let config = FakeConfig::with(at(), function);
    let unassigned = BarError::Unassigned {
        bar: 4,
        size: 0x4000,
    };
    let structure = Structure::Common;
    assert_eq!(
        error(&config),
        PciError::Bar {
            structure,
            error: unassigned
        }
    );
    assert!(error(&config).to_string().contains("BAR 4"));

    let function = FakeFunction::new(0x1af4, 0x1041).io_bar(3, 0, 64);
    let config = FakeConfig::with(at(), function);
    let unassigned = BarError::Unassigned { bar: 3, size: 64 };
    assert_eq!(Bar::read(&config, at(), 3), Err(unassigned));
}

#[test]
fn bars_that_make_no_sense_are_refused() {
    let function = FakeFunction::new(0x1af4, 0x1041)
        .bar(0, 0x1000_0002, !0xfff)
        .bar(1, 0x1000_0006, !0xfff)
        .bar(5, 0x1000_0004, !0xfff);
    let config = FakeConfig::with(at(), function);
    let (bar, value) = (0, 0x1000_0002);
    assert_eq!(
        Bar::read(&config, at(), bar),
        Err(BarError::MemoryType { bar, value })
    );
    let (bar, value) = (1, 0x1000_0006);
    assert_eq!(
        Bar::read(&config, at(), bar),
        Err(BarError::MemoryType { bar, value })
    );
    assert_eq!(
        Bar::read(&config, at(), 5),
        Err(BarError::NoUpperHalf { bar: 5 })
    );

    // An address that is no multiple of the size, so near the end that the sum overflows.
    let function = FakeFunction::new(0x1af4, 0x1041)
        .bar(0, 0xffff_f00c, 0)
        .bar(1, 0xffff_ffff, 1 << 31);
    let config = FakeConfig::with(at(), function);
    let (bar, address, size) = (0, 0xffff_ffff_ffff_f000, 1 << 32);
    let wraps = BarError::Wraps { bar, address, size };
    assert_eq!(Bar::read(&config, at(), 0), Err(wraps));
}

#[test]
fn bug_class_44_a_bar_of_32_bits_does_not_run_beyond_them() {
    let function = FakeFunction::new(0x1af4, 0x1041)
        .bar(0, 0xffff_ff01, !0x1ff)
        .bar(1, 0xffff_f000, !0xffff)
        .bar(2, 0xffff_0000, !0xffff);
    let config = FakeConfig::with(at(), function);
    for (bar, address, size) in [(0, 0xffff_ff00, 0x200), (1, 0xffff_f000, 0x1_0000)] {
        let wraps = BarError::Wraps { bar, address, size };
        assert_eq!(Bar::read(&config, at(), bar), Err(wraps));
    }
    // Up to the last byte is inside.
    assert!(Bar::read(&config, at(), 2).is_ok());
}

#[test]
fn a_kernel_that_does_not_map_is_told_what_it_did_not_map() {
    let (config, fake) = qemu_net();
    let refused = vring::transport::pci::PciTransport::new(&config, at(), |_, _| None);
    let (structure, address, length) = (Structure::Common, 0x80_0000_0000, 64);
    let failed = PciError::MapFailed {
        structure,
        address,
        length,
    };
    assert_eq!(refused.unwrap_err(), failed);

    fake.model().map_short = true;
    assert_eq!(open(&config, &fake).unwrap_err(), failed);
    fake.model().map_short = false;
    fake.model().map_shift = 1;
    assert_eq!(open(&config, &fake).unwrap_err(), failed);
}
