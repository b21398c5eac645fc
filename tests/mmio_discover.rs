//! Where the windows are: the command line, and device trees like those of QEMU's `virt` machines,
//! read with another crate's reader.

use fdt::Fdt;
use fdt::node::FdtNode;
use proptest::prelude::*;
use vm_fdt::FdtWriter;
use vring::transport::mmio::{
    CommandLineDevice, CommandLineFault, Line, Node, NodeError, Trigger, Window, command_line,
};

fn window(address: u64, length: u64, number: u32, trigger: Option<Trigger>) -> Window {
    let interrupt = Some(Line { number, trigger });
    Window {
        address,
        length,
        interrupt,
    }
}

/// The devices of a command line without errors.
fn devices(line: &str) -> Vec<CommandLineDevice> {
    command_line(line).map(Result::unwrap).collect()
}

fn device(address: u64, length: u64, number: u32, id: Option<u32>) -> CommandLineDevice {
    let window = window(address, length, number, None);
    CommandLineDevice { window, id }
}

#[test]
fn a_command_line_tells_of_devices_as_linux_reads_it() {
    assert_eq!(devices(""), []);
    assert_eq!(
        devices("console=ttyS0 quiet virtio_mmio.devices=512@4096:5 =x"),
        []
    );
    // QEMU's microvm, and Firecracker.
    let microvm =
        "earlyprintk virtio_mmio.device=512@0xfeb00e00:12 virtio_mmio.device=512@0xfeb00c00:11";
    let expected = [
        device(0xfeb0_0e00, 512, 12, None),
        device(0xfeb0_0c00, 512, 11, None),
    ];
    assert_eq!(devices(microvm), expected);
    let firecracker = "reboot=k panic=1 virtio_mmio.device=4K@0xd0001000:5";
    assert_eq!(devices(firecracker), [device(0xd000_1000, 4096, 5, None)]);
    // An example of Linux's documentation.
    let two = "virtio_mmio.device=1K@0x1001e000:74 virtio_mmio.device=0x100@0x100b0000:48:7";
    let expected = [
        device(0x1001_e000, 1024, 74, None),
        device(0x100b_0000, 256, 48, Some(7)),
    ];
    assert_eq!(devices(two), expected);
}

#[test]
fn numbers_are_decimal_hexadecimal_or_octal_and_sizes_have_suffixes() {
    for (text, expected) in [
        ("512@4096:5", device(4096, 512, 5, None)),
        (
            "0X200@0XfEb00000:0x10:0x2",
            device(0xfeb0_0000, 512, 16, Some(2)),
        ),
        ("01000@010000:010:00", device(4096, 512, 8, Some(0))),
        ("1m@0:1", device(0, 1 << 20, 1, None)),
        ("0x2G@1:4294967295", device(1, 2 << 30, u32::MAX, None)),
        ("3t@1:1", device(1, 3 << 40, 1, None)),
        ("1P@1:1", device(1, 1 << 50, 1, None)),
        ("8e@1:1", device(1, 8 << 60, 1, None)),
        ("1@0xffffffffffffffff:1", device(u64::MAX, 1, 1, None)),
    ] {
        assert_eq!(
            devices(&format!("virtio_mmio.device={text}")),
            [expected],
            "{text}"
        );
    }
}

#[test]
fn names_quotes_and_blanks_are_as_linux_has_them() {
    let one = [device(0x1000, 512, 5, None)];
    for line in [
        "virtio-mmio.device=512@0x1000:5",
        "  \t\nvirtio_mmio.device=512@0x1000:5\n",
        "virtio_mmio.device=\"512@0x1000:5\"",
        "\"virtio_mmio.device=512@0x1000:5\"",
        "x=\"virtio_mmio.device=1@1:1 virtio_mmio.device=2@2:2\" virtio_mmio.device=512@0x1000:5",
        "virtio_mmio.device=512@0x1000:5 -- virtio_mmio.device=1@1:1",
        "größe=ü virtio_mmio.device=512@0x1000:5 ü",
    ] {
        assert_eq!(devices(line), one, "{line}");
    }
    assert_eq!(devices("-- virtio_mmio.device=1@1:1"), []);
    assert_eq!(
        devices("Virtio_mmio.device=1@1:1 xvirtio_mmio.device=1@1:1"),
        []
    );
}

#[test]
fn bad_pieces_are_typed_errors_and_the_next_device_is_found_all_the_same() {
    use CommandLineFault as F;
    for (text, why) in [
        ("", F::Size),
        ("@0x1000:5", F::Size),
        ("x@0x1000:5", F::Size),
        ("0@0x1000:5", F::Size),
        ("0x@0x1000:5", F::Size),
        ("-1@0x1000:5", F::Size),
        ("0x10000000000000000@0x1000:5", F::Size),
        ("16E@0x1000:5", F::Size),
        ("512", F::Address),
        ("512x@0x1000:5", F::Address),
        ("512KK@0x1000:5", F::Address),
        ("512:5", F::Address),
        ("512@", F::Address),
        ("512@x:5", F::Address),
        ("512@18446744073709551616:5", F::Address),
        ("512@0x1000", F::Interrupt),
        ("512@0x1000K:5", F::Interrupt),
        ("512@08:5", F::Interrupt),
        ("512@0x1000:", F::Interrupt),
        ("512@0x1000:0", F::Interrupt),
        ("512@0x1000:4294967296", F::Interrupt),
        ("512@0x1000:5:", F::Id),
        ("512@0x1000:5:-1", F::Id),
        ("512@0x1000:5x", F::Trailing),
        ("512@0x1000:5:1:2", F::Trailing),
        ("512@0x1000:5,", F::Trailing),
        (
            "2@0xffffffffffffffff:1",
            F::Wraps {
                address: u64::MAX,
                length: 2,
            },
        ),
    ] {
        let argument = format!("virtio_mmio.device={text}");
        let line = format!("a {argument} virtio_mmio.device=512@0x1000:5 b");
        let found: Vec<_> = command_line(&line).collect();
        let [Err(error), Ok(next)] = found[..] else {
            panic!("{text}: {found:?}")
        };
        assert_eq!((error.argument, error.why), (&*argument, why));
        assert_eq!(next, device(0x1000, 512, 5, None));
        let text = error.to_string();
        assert!(
            text.contains(&argument) && text.contains("512@0xfeb00000:5"),
            "{text}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 16 } else { 2000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_command_line_makes_the_iterator_panic_or_run_for_ever(
        pieces in proptest::collection::vec(prop_oneof![
            Just("virtio_mmio.device=".to_string()),
            Just(" ".to_string()),
            Just("\"".to_string()),
            Just("@".to_string()),
            Just(":".to_string()),
            Just("0x".to_string()),
            Just("--".to_string()),
            "[0-9a-fKMGTPE]{1,20}",
            any::<String>(),
        ], 0..20),
    ) {
        let line = pieces.concat();
        let mut found = command_line(&line);
        prop_assert!(found.by_ref().count() <= line.len());
        prop_assert!(found.next().is_none(), "it has ended");
    }

    #[test]
    fn a_device_that_is_written_is_read_back(
        address in any::<u64>(),
        length in 1..u64::MAX,
        number in 1..u32::MAX,
        id in any::<Option<u32>>(),
    ) {
        let suffix = id.map_or(String::new(), |id| format!(":{id}"));
        let line = format!("virtio_mmio.device={length}@{address:#x}:{number}{suffix}");
        let found = command_line(&line).next().unwrap();
        match address.checked_add(length - 1) {
            Some(_) => prop_assert_eq!(found, Ok(device(address, length, number, id))),
            None => {
                let why = CommandLineFault::Wraps { address, length };
                prop_assert_eq!(found.unwrap_err().why, why);
            }
        }
    }

    #[test]
    fn no_properties_make_a_node_panic(
        reg in proptest::collection::vec(any::<u8>(), 0..40),
        interrupts in proptest::collection::vec(any::<u8>(), 0..20),
        cells in [0usize..5, 0..5, 0..5],
        huge in any::<bool>(),
    ) {
        let [address_cells, size_cells, interrupt_cells] = match huge {
            true => cells.map(|cells| usize::MAX - cells),
            false => cells,
        };
        let node = Node {
            compatible: b"virtio,mmio",
            reg: &reg,
            interrupts: &interrupts,
            address_cells,
            size_cells,
            interrupt_cells,
        };
        if let Ok(Some(window)) = node.window() {
            let last = window.address.checked_add(window.length.saturating_sub(1));
            prop_assert!(last.is_some());
        }
    }
}

/// What a kernel writes over the reader that it has: this one is over the `fdt` crate. `bus` is the
/// node's parent.
fn node_window(tree: &Fdt<'_>, bus: FdtNode<'_, '_>, node: FdtNode<'_, '_>) -> Option<Window> {
    let value = |name| {
        node.property(name)
            .map_or(&[][..], |property| property.value)
    };
    let cells = bus.cell_sizes();
    // The controller is named by the node or by one above it.
    let parent = [node, bus, tree.find_node("/").unwrap()];
    let parent = parent.iter().find_map(|n| n.property("interrupt-parent"));
    let controller = parent.and_then(|parent| tree.find_phandle(parent.as_usize()? as u32));
    let node = Node {
        compatible: value("compatible"),
        reg: value("reg"),
        interrupts: value("interrupts"),
        address_cells: cells.address_cells,
        size_cells: cells.size_cells,
        interrupt_cells: controller.and_then(FdtNode::interrupt_cells).unwrap_or(1),
    };
    node.window().unwrap()
}

/// All windows below a node.
fn windows(blob: &[u8], bus: &str) -> Vec<Window> {
    let tree = Fdt::new(blob).unwrap();
    let bus = tree.find_node(bus).unwrap();
    bus.children()
        .filter_map(|node| node_window(&tree, bus, node))
        .collect()
}

/// As QEMU describes its `virt` machine for aarch64: 32 windows at the root, and other devices.
fn aarch64() -> Result<Vec<u8>, vm_fdt::Error> {
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    tree.property_u32("interrupt-parent", 0x8002)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_string("compatible", "linux,dummy-virt")?;
    for i in 0..32u32 {
        let address = 0x0a00_0000 + 0x200 * i;
        let node = tree.begin_node(&format!("virtio_mmio@{address:x}"))?;
        tree.property_null("dma-coherent")?;
        tree.property_array_u32("interrupts", &[0, 0x10 + i, 1])?;
        tree.property_array_u32("reg", &[0, address, 0, 0x200])?;
        tree.property_string("compatible", "virtio,mmio")?;
        tree.end_node(node)?;
    }
    let uart = tree.begin_node("pl011@9000000")?;
    tree.property_array_u32("interrupts", &[0, 1, 4])?;
    tree.property_array_u32("reg", &[0, 0x0900_0000, 0, 0x1000])?;
    tree.property_string_list(
        "compatible",
        vec!["arm,pl011".into(), "arm,primecell".into()],
    )?;
    tree.end_node(uart)?;
    let intc = tree.begin_node("intc@8000000")?;
    tree.property_phandle(0x8002)?;
    tree.property_array_u32(
        "reg",
        &[0, 0x0800_0000, 0, 0x1_0000, 0, 0x0801_0000, 0, 0x1_0000],
    )?;
    tree.property_string("compatible", "arm,cortex-a15-gic")?;
    tree.property_null("interrupt-controller")?;
    tree.property_u32("#interrupt-cells", 3)?;
    tree.end_node(intc)?;
    tree.end_node(root)?;
    tree.finish()
}

/// As for riscv64: eight windows behind a bus, at a PLIC.
fn riscv64() -> Result<Vec<u8>, vm_fdt::Error> {
    let mut tree = FdtWriter::new()?;
    let root = tree.begin_node("")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    let soc = tree.begin_node("soc")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_string("compatible", "simple-bus")?;
    tree.property_null("ranges")?;
    for i in 1..=8u32 {
        let address = 0x1000_0000 + 0x1000 * i;
        let node = tree.begin_node(&format!("virtio_mmio@{address:x}"))?;
        tree.property_u32("interrupts", i)?;
        tree.property_u32("interrupt-parent", 3)?;
        tree.property_array_u32("reg", &[0, address, 0, 0x1000])?;
        tree.property_string("compatible", "virtio,mmio")?;
        tree.end_node(node)?;
    }
    let plic = tree.begin_node("plic@c000000")?;
    tree.property_phandle(3)?;
    tree.property_array_u32("reg", &[0, 0x0c00_0000, 0, 0x60_0000])?;
    tree.property_null("interrupt-controller")?;
    tree.property_string_list("compatible", vec!["sifive,plic-1.0.0".into()])?;
    tree.property_u32("#interrupt-cells", 1)?;
    tree.end_node(plic)?;
    tree.end_node(soc)?;
    tree.end_node(root)?;
    tree.finish()
}

#[test]
fn every_window_of_a_device_tree_is_found_by_any_reader() {
    let edge = Some(Trigger::RisingEdge);
    let expected: Vec<_> = (0..32)
        .map(|i| window(0x0a00_0000 + 0x200 * i, 0x200, 48 + i as u32, edge))
        .collect();
    assert_eq!(windows(&aarch64().unwrap(), "/"), expected);
    let expected: Vec<_> = (1..=8)
        .map(|i| window(0x1000_0000 + 0x1000 * i, 0x1000, i as u32, None))
        .collect();
    assert_eq!(windows(&riscv64().unwrap(), "/soc"), expected);
}

const NODE: Node<'_> = Node {
    compatible: b"vendor,special\0virtio,mmio\0",
    reg: &[0, 1, 0xe0, 0, 0, 0, 2, 0],
    interrupts: &[0, 0, 0, 42],
    address_cells: 1,
    size_cells: 1,
    interrupt_cells: 1,
};

#[test]
fn the_example_of_the_specification_is_a_window() {
    assert_eq!(NODE.window(), Ok(Some(window(0x1_e000, 0x200, 42, None))));
    let interrupts = &[];
    let polled = Node { interrupts, ..NODE }.window().unwrap().unwrap();
    assert_eq!(polled.interrupt, None);
    // More than one window, or interrupt: the first.
    let reg = &[0, 1, 0xe0, 0, 0, 0, 2, 0, 0, 1, 0xf0, 0, 0, 0, 2, 0];
    let interrupts = &[0, 0, 0, 42, 0, 0, 0, 43];
    let node = Node {
        reg,
        interrupts,
        ..NODE
    };
    assert_eq!(node.window(), NODE.window());
}

#[test]
fn a_node_of_another_device_is_no_window_and_no_error() {
    for compatible in [
        &b""[..],
        b"virtio,mmi",
        b"virtio,mmio2\0",
        b"pci-host\0xvirtio,mmio\0",
    ] {
        let reg = &[];
        let node = Node {
            compatible,
            reg,
            ..NODE
        };
        assert_eq!(node.window(), Ok(None));
    }
}

#[test]
fn an_interrupt_is_a_number_as_the_controller_counts_and_how_it_is_signaled() {
    let line = |cells: &[u32]| {
        let bytes: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        let node = Node {
            interrupts: &bytes,
            interrupt_cells: cells.len(),
            ..NODE
        };
        node.window()
            .map(|window| window.unwrap().interrupt.unwrap())
    };
    let is = |number, trigger| Ok(Line { number, trigger });
    assert_eq!(line(&[7]), is(7, None));
    assert_eq!(line(&[7, 4]), is(7, Some(Trigger::High)));
    assert_eq!(line(&[7, 8]), is(7, Some(Trigger::Low)));
    assert_eq!(line(&[0, 16, 0xf01]), is(48, Some(Trigger::RisingEdge)));
    assert_eq!(line(&[1, 15, 2]), is(31, Some(Trigger::FallingEdge)));
    assert_eq!(line(&[0, 0, 3]), is(32, None));
    for (kind, number) in [(2, 0), (1, 16), (0, u32::MAX), (0, u32::MAX - 31)] {
        assert_eq!(
            line(&[kind, number, 1]),
            Err(NodeError::Gic { kind, number })
        );
    }
    assert_eq!(
        line(&[0, u32::MAX - 32, 1]),
        is(u32::MAX, Some(Trigger::RisingEdge))
    );
}

#[test]
fn properties_that_do_not_fit_are_typed_errors() {
    let error = |node: Node<'_>| {
        let error = node.window().unwrap_err();
        assert!(!error.to_string().is_empty());
        error
    };
    for (address, size) in [(0, 1), (3, 1), (1, 0), (1, 3), (usize::MAX, usize::MAX)] {
        let node = Node {
            address_cells: address,
            size_cells: size,
            ..NODE
        };
        assert_eq!(error(node), NodeError::Cells { address, size });
    }
    let size_cells = 2;
    let (bytes, needed) = (8, 12);
    assert_eq!(
        error(Node { size_cells, ..NODE }),
        NodeError::Reg { bytes, needed }
    );
    let reg = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 1];
    let (address, length) = (u64::MAX - 0xff, 0x101);
    let node = Node {
        reg,
        address_cells: 2,
        ..NODE
    };
    assert_eq!(error(node), NodeError::Wraps { address, length });
    for (interrupts, cells) in [
        (&[0, 0, 0, 42][..], 0),
        (&[0, 0, 0, 42], 2),
        (&[0; 8], 3),
        (&[0; 16], 4),
        (&[0, 0, 42], 1),
    ] {
        let node = Node {
            interrupts,
            interrupt_cells: cells,
            ..NODE
        };
        let bytes = interrupts.len();
        assert_eq!(error(node), NodeError::Interrupts { bytes, cells });
    }
}
