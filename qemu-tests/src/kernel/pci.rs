//! The PCI side of what `vring` asks of a kernel: configuration space, and mapped registers.
//!
//! The crate brings both ways to configuration space. The kernel says which one the machine has,
//! and where; and it refuses to take for device registers what is memory.

use alloc::vec::Vec;
use core::ptr::NonNull;

use vring::transport::Registers;
use vring::transport::pci::{self, Address, ConfigAccess, Function, NativePorts, PortIo};

use super::{Machine, acpi, paging};

/// PCI configuration space.
pub(crate) enum ConfigSpace {
    /// Mapped into memory, a window for some buses each.
    Ecam(Vec<pci::Ecam>),
    /// Behind the ports 0xcf8 and 0xcfc.
    Ports(PortIo<NativePorts>),
}

impl ConfigSpace {
    /// Maps the windows that the firmware describes, or without any takes the ports.
    pub(super) fn new(windows: &[acpi::Ecam]) -> Self {
        let ecam: Vec<_> = windows.iter().filter_map(map_window).collect();
        if ecam.is_empty() {
            // SAFETY: a PC; the kernel uses these ports only through this value.
            Self::Ports(PortIo::new(unsafe { NativePorts::new() }))
        } else {
            Self::Ecam(ecam)
        }
    }

    /// The word for it in the protocol.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ecam(_) => "ecam",
            Self::Ports(_) => "cf8",
        }
    }

    /// Every function behind the first host bridge.
    pub(crate) fn functions(&self) -> impl Iterator<Item = Function> {
        pci::scan(self)
    }

    /// The ISA interrupt line that the firmware gave the function's INTx pin, if it has either.
    pub(crate) fn interrupt_line(&self, address: Address) -> Option<u8> {
        let [line, pin, ..] = self.read32(address, 0x3c).to_le_bytes();
        (pin != 0 && line < 16).then_some(line)
    }
}

/// Maps the registers of a window's buses.
fn map_window(window: &acpi::Ecam) -> Option<pci::Ecam> {
    let buses = window.buses.clone();
    let len = buses.len() << 20;
    let start = window.base + (u64::from(*buses.start()) << 20);
    paging::map_device(start, len as u64);
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
    if end > paging::HIGHEST || machine.ram.iter().any(is_memory) {
        return None;
    }
    paging::map_device(address, len as u64);
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
            }
        }

        fn $write(&self, address: Address, register: u16, value: $word) {
            match self {
                Self::Ecam(windows) => windows
                    .iter()
                    .for_each(|window| window.$write(address, register, value)),
                Self::Ports(ports) => ports.$write(address, register, value),
            }
        }
    )*};
}

impl ConfigAccess for ConfigSpace {
    forward!(read32 write32 u32, read16 write16 u16, read8 write8 u8);
}
