//! A virtio device, found and taken over by the transport that the command line names.
//!
//! Suites have one type for it, [`AnyTransport`], whatever it is: a card over MMIO is driven by the
//! code that drives one over PCI. What is different is here: where the device is found, how its
//! registers are reached, and how it interrupts.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use vring::transport::mmio::{MmioError, MmioTransport};
use vring::transport::pci::{
    self, Address, AssignError, ConfigAccess as _, Far, LegacyTransport, MsixTable, PciError,
    PciTransport, Window,
};
use vring::transport::{DeviceId, Isr, Registers, Transport as _};
use vring_protocol::{Options, Transport};

use super::Machine;
use super::access::{Access, Io};
use super::device_interrupts::{InterruptError, Interrupting};
use super::{arch, mmio};

/// A device by whatever transport.
pub(crate) type AnyTransport = Box<dyn vring::transport::Transport + Send>;

/// A device that was found and taken over.
pub(crate) struct Found {
    access: Access,
    device: Device,
}

enum Device {
    /// Structures in memory, as most kernels need it.
    Modern(PciTransport<Access>),
    /// Whichever interface there is, and structures elsewhere than in memory.
    Any(pci::AnyTransport<Access, Far<Io>>),
    Mmio(MmioTransport<Access>, vring::transport::mmio::Window),
}

/// Why a device could not be had.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// The machine has no PCI.
    NoPci,
    /// The machine describes no windows of registers.
    NoWindows,
    /// No device of that type is there.
    NoDevice {
        /// Its type.
        id: DeviceId,
        /// Where was looked.
        place: &'static str,
    },
    /// A device is there, and cannot be taken over.
    Pci(PciError),
    /// Its BARs were cleared and cannot be assigned.
    Assign(AssignError),
    /// A window of registers cannot be used.
    Mmio {
        /// Its address.
        address: u64,
        /// Why; `None`: it could not be mapped.
        why: Option<MmioError>,
    },
    /// The device has the other interface.
    Version {
        /// Whether it is the legacy one.
        legacy: bool,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoPci => f.write_str(
                "this machine has no PCI: use transport=mmio, or a machine that has, as q35",
            ),
            Self::NoWindows => f.write_str(
                "this machine tells of no virtio device over MMIO: use transport=pci-modern, or a \
                 machine that has them, as microvm or virt",
            ),
            Self::NoDevice { id, place } => {
                write!(f, "no virtio device of type {} {place}", id.0)
            }
            Self::Pci(error) => error.fmt(f),
            Self::Assign(error) => error.fmt(f),
            Self::Mmio {
                address,
                why: Some(why),
            } => write!(f, "the window at {address:#x}: {why}"),
            Self::Mmio { address, why: None } => {
                write!(f, "the window at {address:#x} is memory, or out of reach")
            }
            Self::Version { legacy } => {
                let (has, use_) = if *legacy {
                    ("the legacy interface", "mmio-legacy")
                } else {
                    ("the modern interface", "mmio")
                };
                write!(f, "the device has {has}: use transport={use_}")
            }
        }
    }
}

impl Found {
    /// Finds the first device of a type, and takes it over as the command line says.
    pub(crate) fn new(
        machine: &Machine,
        options: &Options,
        id: DeviceId,
    ) -> Result<Self, OpenError> {
        if options.kernel_assigns_bars && options.transport.is_pci() {
            let address = find_function(machine, id)?;
            machine.reassign_bars(address).map_err(OpenError::Assign)?;
        }
        Self::with_access(machine, options.transport, Access::of(options), id)
    }

    /// The same, by a transport and with an access of one's own.
    pub(crate) fn with_access(
        machine: &Machine,
        transport: Transport,
        access: Access,
        id: DeviceId,
    ) -> Result<Self, OpenError> {
        let device = if transport.is_pci() {
            let address = find_function(machine, id)?;
            Device::pci(machine, transport, access, address).map_err(OpenError::Pci)?
        } else {
            let (device, window) = mmio::open(machine, access, id)?;
            if device.is_legacy() != transport.is_legacy() {
                let legacy = device.is_legacy();
                return Err(OpenError::Version { legacy });
            }
            Device::Mmio(device, window)
        };
        Ok(Self { access, device })
    }

    /// Where it is, for people.
    pub(crate) fn place(&self) -> String {
        match &self.device {
            Device::Modern(transport) => transport.address().to_string(),
            Device::Any(transport) => transport.address().to_string(),
            Device::Mmio(_, window) => format!("{:#x}", window.address),
        }
    }

    /// The transport alone.
    pub(crate) fn into_transport(self) -> AnyTransport {
        match self.device {
            Device::Modern(transport) => Box::new(transport),
            Device::Any(transport) => Box::new(transport),
            Device::Mmio(transport, _) => Box::new(transport),
        }
    }
}

impl Interrupting for Found {
    type Access = Access;

    fn enable_msix(&mut self, machine: &Machine) -> Result<MsixTable<Access>, InterruptError> {
        let map = |address, len| self.access.map(machine, address, len);
        match &mut self.device {
            Device::Modern(transport) => Ok(transport.enable_msix(machine.pci, map)?),
            Device::Any(transport) => Ok(transport.enable_msix(machine.pci, self.access, map)?),
            Device::Mmio(..) => Err(InterruptError::NoVectors),
        }
    }

    fn take_isr(&mut self) -> Option<Isr> {
        match &mut self.device {
            Device::Modern(transport) => Interrupting::take_isr(transport),
            Device::Any(transport) => transport.take_isr(),
            Device::Mmio(transport, _) => transport.take_isr(),
        }
    }

    fn line(&self, machine: &Machine) -> Result<u32, InterruptError> {
        match &self.device {
            Device::Mmio(_, window) => {
                let line = window.interrupt.and_then(arch::line_of_window);
                line.ok_or(InterruptError::NoLine)
            }
            Device::Modern(_) | Device::Any(_) => {
                let address = self.address().ok_or(InterruptError::NoLine)?;
                arch::line_of(machine, address)
            }
        }
    }

    fn address(&self) -> Option<Address> {
        match &self.device {
            Device::Modern(transport) => Some(transport.address()),
            Device::Any(transport) => Some(transport.address()),
            Device::Mmio(..) => None,
        }
    }
}

/// The first function that is a virtio device of this type.
pub(crate) fn find_function(machine: &Machine, id: DeviceId) -> Result<Address, OpenError> {
    if machine.pci.is_absent() {
        return Err(OpenError::NoPci);
    }
    let mut functions = machine.pci.functions();
    let found = functions.find(|function| function.virtio() == Some(id));
    let place = "on the PCI bus";
    let found = found.ok_or(OpenError::NoDevice { id, place })?;
    Ok(found.address)
}

impl Device {
    fn pci(
        machine: &Machine,
        transport: Transport,
        access: Access,
        address: Address,
    ) -> Result<Self, PciError> {
        let config = machine.pci;
        let map = |address, len| access.map(machine, address, len);
        let ports = |port, len| Io::new(machine, access, port, len);
        let far = |port, len| ports(port, len).map(Far::Ports);
        match transport {
            Transport::PciPorts => {
                // What the device has in both is to be reached by ports.
                let doorbells = notify_address(machine, address);
                let map = |at, len| {
                    if Some(at) == doorbells {
                        None
                    } else {
                        map(at, len)
                    }
                };
                let transport = PciTransport::with_ports(config, address, access, map, far)?;
                Ok(Self::Any(pci::AnyTransport::Modern(transport)))
            }
            Transport::PciWindow => {
                // Doorbells keep using the window: it is never given back.
                // SAFETY: the one window of the function, for its one transport.
                let window = unsafe { Window::new(config, address) };
                let window = Box::leak(Box::new(window));
                let nothing = |_, _| -> Option<Registers> { None };
                let transport = PciTransport::with_window(window, access, nothing, |_, _| None)?;
                Ok(Self::Any(pci::AnyTransport::Modern(transport)))
            }
            Transport::PciLegacy => {
                let transport = pci::AnyTransport::new(config, address, access, map, far)?;
                Ok(Self::Any(match transport {
                    // A transitional device has both, and the legacy one was asked for.
                    pci::AnyTransport::Modern(_) => {
                        let legacy = LegacyTransport::new(config, address, far)?;
                        pci::AnyTransport::Legacy(legacy)
                    }
                    legacy @ pci::AnyTransport::Legacy(_) => legacy,
                }))
            }
            _ => PciTransport::with_access(config, address, access, map).map(Self::Modern),
        }
    }
}

/// Where the doorbells of a modern device are in memory (VIRTIO 1.4, 4.1.4.4).
fn notify_address(machine: &Machine, address: Address) -> Option<u64> {
    const VENDOR_SPECIFIC: u8 = 9;
    const NOTIFY: u8 = 2;
    pci::Capabilities::new(machine.pci, address)
        .filter(|capability| capability.id == VENDOR_SPECIFIC)
        .find_map(|capability| {
            let read = |offset| machine.pci.read32(address, capability.register + offset);
            let [_, _, _, kind] = read(0).to_le_bytes();
            let [bar, ..] = read(4).to_le_bytes();
            let offset = u64::from(read(8));
            match pci::Bar::read(machine.pci, address, bar) {
                Ok(pci::Bar::Memory { address, .. }) if kind == NOTIFY => Some(address + offset),
                _ => None,
            }
        })
}
