//! The PCI side of what `vring` asks of a kernel: configuration space.
//!
//! The crate brings both ways to configuration space. The kernel says which one the machine has,
//! and where. For a test it claims to have a PCI stack of its own instead, and gives the crate two
//! functions.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use core::ptr::NonNull;

use log::info;
use vring::transport::Registers;
use vring::transport::pci::{self, Address, AssignError, Bar, ConfigAccess, Function, Width};

use super::Machine;
use super::access::Access;
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
    Ports(Box<dyn ConfigAccess + Send + Sync>),
    /// By functions of the kernel's own.
    Functions(Box<dyn ConfigAccess + Send + Sync>),
    /// Not to be reached: a machine without PCI.
    Absent,
}

impl ConfigSpace {
    /// Maps the windows that the firmware describes, or without any takes the ports.
    pub(super) fn new(windows: &[EcamWindow]) -> Self {
        let ecam: Vec<_> = windows.iter().filter_map(map_window).collect();
        if !ecam.is_empty() {
            return Self::Ecam(ecam);
        }
        let ports = arch::config_ports().map_or(Self::Absent, Self::Ports);
        // A machine without PCI has no such ports, or ports that nobody answers.
        let answered = ports.functions().next().is_some();
        if answered { ports } else { Self::Absent }
    }

    /// The same by two functions, as a kernel has them that brings a PCI stack.
    pub(super) fn by_functions(self) -> Self {
        if self.is_absent() {
            return self;
        }
        let stack: &'static Self = Box::leak(Box::new(self));
        let read = |at: Address, register: u16, width: Width| match width {
            Width::Byte => stack.read8(at, register).into(),
            Width::Word => stack.read16(at, register).into(),
            Width::Dword => stack.read32(at, register),
        };
        let write = |at: Address, register: u16, width: Width, value: u32| match width {
            Width::Byte => stack.write8(at, register, value as u8),
            Width::Word => stack.write16(at, register, value as u16),
            Width::Dword => stack.write32(at, register, value),
        };
        // SAFETY: each is one access of the stack's, which signed for it.
        let functions = unsafe { pci::from_fn(read, write) };
        Self::Functions(Box::new(functions))
    }

    /// Whether the machine has no PCI.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// The word for it in the protocol.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Ecam(_) => "ecam",
            Self::Ports(_) => "cf8",
            Self::Functions(_) => "functions",
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
    Access::Plain.map(machine, address, len)
}

impl Machine {
    /// Takes the addresses of a function's memory BARs away, as if there had been no firmware, and
    /// gives it others.
    pub(crate) fn reassign_bars(&self, address: Address) -> Result<(), AssignError> {
        const COMMAND: u16 = 0x04;
        const BAR_0: u16 = 0x10;
        let config = self.pci;
        let mut windows = arch::bar_windows(self);
        let memory = |bar: u8| match Bar::read(config, address, bar) {
            Ok(Bar::Memory { address, size, .. }) => Some((bar, address, size)),
            _ => None,
        };
        let before: Vec<_> = (0..6).filter_map(memory).collect();
        // Nothing is decoded meanwhile; the transport turns it on again.
        let command = config.read16(address, COMMAND);
        config.write16(address, COMMAND, command & !3);
        for (bar, at, _) in &before {
            let register = BAR_0 + 4 * u16::from(*bar);
            config.write32(address, register, 0);
            if at >> 32 != 0 {
                config.write32(address, register + 4, 0);
            }
        }
        for function in self.functions_with_bars() {
            pci::avoid_bars(config, function.address, &mut windows);
        }
        pci::assign_bars(config, address, &mut windows)?;
        let after: Vec<_> = (0..6).filter_map(memory).collect();
        info!("{address}: memory BARs were at {before:x?} and are at {after:x?}");
        Ok(())
    }

    /// Functions that are no bridges.
    pub(crate) fn functions_with_bars(&self) -> impl Iterator<Item = Function> {
        let functions = self.pci.functions();
        functions.filter(|function| function.header_type == 0)
    }
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
                Self::Ports(ports) | Self::Functions(ports) => ports.$read(address, register),
                Self::Absent => <$word>::MAX,
            }
        }

        fn $write(&self, address: Address, register: u16, value: $word) {
            match self {
                Self::Ecam(windows) => windows
                    .iter()
                    .for_each(|window| window.$write(address, register, value)),
                Self::Ports(ports) | Self::Functions(ports) => {
                    ports.$write(address, register, value);
                }
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
