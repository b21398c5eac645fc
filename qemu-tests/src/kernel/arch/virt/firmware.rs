//! What the kernel wants to know from the device tree: where PCI and virtio devices are, and which
//! interrupt controllers there are.

use alloc::format;
use alloc::vec::Vec;

use vring::transport::mmio::Window;
use vring::transport::pci::{Address, BarWindow};

use super::BootInfo;
use super::interrupt_map::{InterruptMap, Specifier};
use super::mmio;
use super::tree::{self, Node};
use crate::kernel::FirmwareCheck;
use crate::kernel::arch::Controllers;
use crate::kernel::pci::EcamWindow;

/// Ports of PCI functions, which the host bridge shows as memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct IoWindow {
    /// The first port.
    pub(super) first: u64,
    /// Its physical address.
    pub(super) address: u64,
    /// Ports.
    pub(super) size: u64,
}

/// Digest of the tree.
#[derive(Clone, Debug)]
pub(crate) struct Firmware {
    /// Windows onto PCI configuration space; none on machines without PCI.
    pub(crate) ecam: Vec<EcamWindow>,
    /// Where PCI functions can be given addresses.
    pub(super) bar_windows: Vec<BarWindow>,
    /// Where the ports of PCI functions are; `None`: the host bridge passes none on.
    pub(super) io: Option<IoWindow>,
    /// Windows of registers of virtio devices.
    pub(super) mmio: Vec<Window>,
    /// The interrupt controllers, as the architecture has them.
    pub(crate) controllers: Controllers,
    lines: InterruptMap,
}

impl Firmware {
    /// Reads the tree.
    pub(crate) fn read(boot: &BootInfo) -> Self {
        let tree = boot.tree;
        let bridge = tree::compatible(tree, "pci-host-ecam-generic", &|_| true);
        Self {
            ecam: bridge.iter().filter_map(ecam).collect(),
            bar_windows: bridge.iter().flat_map(bar_windows).collect(),
            io: bridge.iter().find_map(io_window),
            mmio: mmio::windows(tree),
            controllers: Controllers::read(tree),
            lines: bridge.map_or_else(InterruptMap::default, |bridge| {
                InterruptMap::read(tree, &bridge)
            }),
        }
    }

    /// The interrupt controller's input for an INTx pin (1 is INTA) of a function.
    pub(super) fn line(&self, address: Address, pin: u8) -> Option<Specifier> {
        self.lines.line(address, pin)
    }

    /// What the suites check of it.
    pub(crate) fn check(&self) -> FirmwareCheck {
        FirmwareCheck {
            name: "boot_device_tree",
            complete: self.controllers.are_usable(),
            expected: "an interrupt controller that this kernel knows",
            seen: format!("{self:x?}"),
            hint: "qemu-tests/src/kernel/arch/virt/firmware.rs",
        }
    }
}

/// The window onto configuration space.
fn ecam(bridge: &Node) -> Option<EcamWindow> {
    let window = tree::ranges(bridge).next()?;
    let mut buses = tree::cells(bridge, "bus-range").map(|bus| bus as u8);
    let (first, last) = (buses.next()?, buses.next()?);
    Some(EcamWindow {
        segment: tree::cell(bridge, "linux,pci-domain").unwrap_or(0) as u16,
        buses: first..=last,
        // The binding's window begins with the first bus.
        base: window.start.checked_sub(u64::from(first) << 20)?,
    })
}

/// An entry of the bridge's `ranges`: a PCI address of three cells, whose first says the space, then
/// the processor's address and the size, two cells each.
struct Range {
    space: u32,
    bus: u64,
    here: u64,
    size: u64,
}

/// The space of I/O ports.
const IO: u32 = 1;

impl Range {
    /// Which space: 0 configuration, 1 I/O, 2 memory of 32 bits, 3 of 64.
    fn kind(&self) -> u32 {
        self.space >> 24 & 3
    }
}

fn ranges(bridge: &Node) -> impl Iterator<Item = Range> + use<> {
    let mut cells = tree::cells(bridge, "ranges");
    core::iter::from_fn(move || {
        let space = cells.next()?;
        let mut wide = || Some(tree::wide(cells.next()?, cells.next()?));
        let (bus, here, size) = (wide()?, wide()?, wide()?);
        Some(Range {
            space,
            bus,
            here,
            size,
        })
    })
}

fn bar_windows(bridge: &Node) -> Vec<BarWindow> {
    let window = |range: Range| {
        let Range {
            space,
            bus,
            here,
            size,
        } = range;
        let prefetchable = space >> 30 & 1 != 0;
        Some(match range.kind() {
            IO => BarWindow::io(bus as u32, size as u32),
            // The kernel reaches a BAR at the address that is written into it.
            2 | 3 if bus == here && prefetchable => BarWindow::prefetchable(bus, size),
            2 | 3 if bus == here => BarWindow::memory(bus, size),
            _ => return None,
        })
    };
    ranges(bridge).filter_map(window).collect()
}

fn io_window(bridge: &Node) -> Option<IoWindow> {
    let io = ranges(bridge).find(|range| range.kind() == IO)?;
    Some(IoWindow {
        first: io.bus,
        address: io.here,
        size: io.size,
    })
}
