//! The PCI side of what `vring` asks of a kernel: configuration space, and mapped registers.
//!
//! The crate brings both ways to configuration space. The kernel says which one the machine has,
//! and where; and it refuses to take for device registers what is memory.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::ptr::NonNull;

use vring::transport::Registers;
use vring::transport::pci::{self, Address, ConfigAccess, Function};

use super::Machine;
use super::arch::{self, memory};

/// A window onto the configuration space of some buses, as the firmware describes it.
#[derive(Clone, Debug)]
pub(crate) struct EcamWindow {
    /// The PCI segment group.
    pub(crate) segment: u16,
    /// The buses.
    pub(crate) buses: RangeInclusive<u8>,
    /// Physical address of bus 0, whether or not that is among them.
    pub(crate) base: u64,
}

/// PCI configuration space.
pub(crate) enum ConfigSpace {
    /// Mapped into memory, a window for some buses each.
    Ecam(Vec<pci::Ecam>),
    /// Behind the ports 0xcf8 and 0xcfc.
    Ports(Box<dyn ConfigAccess>),
    /// Not to be reached: a machine without PCI.
    Absent,
}

impl ConfigSpace {
    /// Maps the windows that the firmware describes, or without any takes the ports.
    pub(super) fn new(windows: &[EcamWindow]) -> Self {
        let ecam: Vec<_> = windows.iter().filter_map(map_window).collect();
        if ecam.is_empty() {
            arch::config_ports().map_or(Self::Absent, Self::Ports)
        } else {
            Self::Ecam(ecam)
        }
    }

    /// The word for it in the protocol.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ecam(_) => "ecam",
            Self::Ports(_) => "cf8",
            Self::Absent => "none",
        }
    }

    /// Every function behind the first host bridge.
    pub(crate) fn functions(&self) -> impl Iterator<Item = Function> {
        pci::scan(self)
    }
}

/// Maps the registers of a window's buses.
fn map_window(window: &EcamWindow) -> Option<pci::Ecam> {
    let buses = window.buses.clone();
    let len = buses.len() << 20;
    let start = window.base + (u64::from(*buses.start()) << 20);
    memory::map_device(start, len as u64);
    let base = NonNull::new(start as *mut u8)?;
    // SAFETY: the firmware's word that configuration space is there; it stays mapped, and the
    // kernel reaches it only through this value.
    let registers = unsafe { Registers::new(base, len) };
    Some(pci::Ecam::new(registers, window.segment, buses))
}

/// Maps device registers for a transport; `None` for addresses that are memory.
pub(crate) fn map_registers(machine: &Machine, address: u64, len: usize) -> Option<Registers> {
    let end = address.checked_add(len as u64)?;
    let is_memory = |ram: &core::ops::Range<u64>| address < ram.end && ram.start < end;
    if end > memory::HIGHEST || machine.ram.iter().any(is_memory) {
        return None;
    }
    memory::map_device(address, len as u64);
    let base = NonNull::new(address as *mut u8)?;
    // SAFETY: mapped for good, not memory, and asked for by the one transport of the device.
    Some(unsafe { Registers::new(base, len) })
}

macro_rules! forward {
    ($($read:ident $write:ident $word:ty),*) => {$(
        fn $read(&self, address: Address, register: u16) -> $word {
            match self {
                // A window answers all-ones for buses that are not its own.
                Self::Ecam(windows) => windows
                    .iter()
                    .map(|window| window.$read(address, register))
                    .fold(<$word>::MAX, core::ops::BitAnd::bitand),
                Self::Ports(ports) => ports.$read(address, register),
                Self::Absent => <$word>::MAX,
            }
        }

        fn $write(&self, address: Address, register: u16, value: $word) {
            match self {
                Self::Ecam(windows) => windows
                    .iter()
                    .for_each(|window| window.$write(address, register, value)),
                Self::Ports(ports) => ports.$write(address, register, value),
                Self::Absent => {}
            }
        }
    )*};
}

// SAFETY: every call is handed on to the window that holds the function, or to the ports. The kernel
// makes one value, and of a function that is in use nothing but its transport writes registers.
unsafe impl ConfigAccess for ConfigSpace {
    forward!(read32 write32 u32, read16 write16 u16, read8 write8 u8);
}
