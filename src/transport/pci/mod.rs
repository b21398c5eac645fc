//! virtio over PCI (VIRTIO 1.4, 4.1).
//!
//! ```text
//!   ConfigAccess ──▶ scan ──▶ Function ──▶ PciTransport::new ──▶ Transport
//!   (Ecam, PortIo,            .virtio()      │ capabilities, BARs, `map`
//!    or the kernel's)                        ▼
//!                                          enable_msix ──▶ MsixTable   (or INTx, with the Isr)
//! ```
//!
//! A kernel brings two things: a way to read and write configuration space, and a closure that maps
//! device registers. Firmware has assigned the BARs, or the kernel does, with [`assign_bars`].
//! A kernel with a PCI stack of its own has both already: see [`from_fn`].
//!
//! ```
//! use vring::transport::pci::{self, ConfigAccess, PciError, PciTransport};
//! use vring::transport::{DeviceId, Registers};
//!
//! fn find_net(config: &impl ConfigAccess) -> Option<Result<PciTransport, PciError>> {
//!     // Called for each structure that is needed. The address is the device's word: refuse RAM.
//!     let map = |physical: u64, len: usize| {
//!         let base = map_uncached(physical, len)?;
//!         // SAFETY: device registers, mapped for good, lent to this transport alone.
//!         Some(unsafe { Registers::new(base, len) })
//!     };
//!     let net = pci::scan(config).find(|f| f.virtio() == Some(DeviceId::NETWORK))?;
//!     Some(PciTransport::new(config, net.address, map))
//! }
//! # fn map_uncached(_: u64, _: usize) -> Option<core::ptr::NonNull<u8>> { None }
//! # struct Empty;
//! # // SAFETY: nothing is there.
//! # unsafe impl ConfigAccess for Empty {
//! #     fn read32(&self, _: pci::Address, _: u16) -> u32 { !0 }
//! #     fn write32(&self, _: pci::Address, _: u16, _: u32) {}
//! #     fn write16(&self, _: pci::Address, _: u16, _: u16) {}
//! #     fn write8(&self, _: pci::Address, _: u16, _: u8) {}
//! # }
//! # assert!(find_net(&Empty).is_none());
//! ```
//!
//! Everything that configuration space and registers hold is the device's word: walks are bounded,
//! sums are checked, and what cannot be used is skipped or refused by name.
//!
//! # Where registers are
//! In a memory BAR, and that is all that [`PciTransport::new`] looks at. Structures that a device
//! has in I/O BARs only are used by [`PciTransport::with_ports`]; those that cannot be reached in
//! their BAR at all, by [`PciTransport::with_window`], slowly. Memory comes first, then ports, then
//! the window.
//!
//! A legacy device has none of these structures: [`LegacyTransport`] drives it, by ports.
//! [`AnyTransport`] takes the modern interface where there is one, else the legacy one.
//!
//! What this module does not do: it does not number or program bridges, or route interrupts.

mod access;
mod any;
mod area;
mod assign;
mod bar;
mod capability;
mod common;
mod from_fn;
mod layout;
mod legacy;
mod modern;
mod msix;
mod open;
mod scan;
mod shm;
mod window;

use core::fmt;

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
pub use access::NativePorts;
pub use access::{Address, ConfigAccess, ConfigPorts, Ecam, PortIo};
pub use any::AnyTransport;
pub use area::{Area, Nowhere};
pub use assign::{AssignError, BarWindow, assign_bars, avoid_bars};
pub use bar::{Bar, BarError};
pub use capability::{Capabilities, Capability};
pub use from_fn::{FromFn, Width, from_fn};
pub use layout::Structure;
pub use legacy::LegacyTransport;
pub use modern::PciTransport;
pub use msix::{Message, MsixError, MsixTable};
pub use scan::{Function, Scan, scan, scan_buses, scan_from, scan_roots};
pub use window::{Far, Window, WindowArea};

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
pub use crate::mmio::Ports;

use super::DeviceId;

/// The PCI vendor id of virtio devices.
#[doc(alias = "VIRTIO_PCI_VENDOR_ID")]
pub const VENDOR: u16 = 0x1af4;

const COMMAND: u16 = 0x04;
const COMMAND_IO: u16 = 1 << 0;
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_BUS_MASTER: u16 = 1 << 2;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;

/// The type of a virtio device by its PCI ids (VIRTIO 1.4, 4.1.2): `0x1040` and the type, or one of
/// the transitional ids, for which the subsystem id is the type where no table has it.
const fn device_type(device: u16, subsystem: u16) -> Option<DeviceId> {
    let id = match device {
        0x1000 => 1,
        0x1001 => 2,
        0x1002 => 5,
        0x1003 => 3,
        0x1004 => 8,
        0x1005 => 4,
        0x1009 => 9,
        0x1006..=0x103f => subsystem,
        0x1040..=0x107f => device - 0x1040,
        _ => 0,
    };
    if id == 0 { None } else { Some(DeviceId(id)) }
}

/// Whether these are the ids of devices that have, or may have, a legacy interface.
const fn is_transitional(device: u16) -> bool {
    matches!(device, 0x1000..=0x103f)
}

/// Why a function could not become a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PciError {
    /// There is no function at the address.
    NoFunction {
        /// The address.
        address: Address,
    },
    /// The function is not a virtio device.
    NotVirtio {
        /// Its vendor id.
        vendor: u16,
        /// Its device id.
        device: u16,
    },
    /// The function claims to be a virtio device and has the header of something else.
    HeaderType {
        /// The header type; 0 was expected.
        header_type: u8,
    },
    /// The device has no virtio capability: it speaks the legacy interface only.
    LegacyOnly {
        /// Its device id.
        device: u16,
    },
    /// The device has no legacy interface: its id is that of a modern one, or its BAR 0 is not in
    /// I/O space.
    NoLegacy {
        /// Its device id.
        device: u16,
    },
    /// The device lacks a structure that it must have.
    Missing {
        /// The structure.
        structure: Structure,
    },
    /// The structure is shorter than the specification says.
    TooShort {
        /// The structure.
        structure: Structure,
        /// Its length in bytes.
        length: u32,
        /// The least length in bytes.
        needed: u32,
    },
    /// The structure is not aligned as the specification says.
    Misaligned {
        /// The structure.
        structure: Structure,
        /// Its offset in the BAR.
        offset: u32,
    },
    /// The BAR that holds the structure cannot be used.
    Bar {
        /// The structure.
        structure: Structure,
        /// Why.
        error: BarError,
    },
    /// The kernel did not map the structure, or mapped less of it, or without its alignment.
    MapFailed {
        /// The structure.
        structure: Structure,
        /// Physical address.
        address: u64,
        /// Bytes.
        length: usize,
    },
    /// The function did not turn on: the command register read back without memory decoding or
    /// without bus mastering.
    CommandRefused {
        /// What was read back.
        command: u16,
    },
}

impl fmt::Display for PciError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoFunction { address } => write!(f, "there is no PCI function at {address}"),
            Self::NotVirtio { vendor, device } => {
                write!(f, "{vendor:04x}:{device:04x} is not a virtio device")
            }
            Self::HeaderType { header_type } => {
                write!(
                    f,
                    "a virtio device with PCI header type {header_type}, not 0"
                )
            }
            Self::LegacyOnly { device } => write!(
                f,
                "device {device:#06x} has no virtio capabilities: it speaks only the legacy \
                 interface; give its I/O ports to a `LegacyTransport` or `AnyTransport`, or give it \
                 a modern interface (QEMU: disable-modern=off)"
            ),
            Self::NoLegacy { device } => write!(
                f,
                "device {device:#06x} has no legacy interface: its id is not a transitional one \
                 (0x1000 to 0x103f), or its BAR 0 is not in I/O space; use `PciTransport`"
            ),
            Self::Missing { structure } => write!(f, "the device has no {structure}"),
            Self::TooShort {
                structure,
                length,
                needed,
            } => write!(
                f,
                "the {structure} has {length} bytes where {needed} are needed"
            ),
            Self::Misaligned { structure, offset } => {
                write!(f, "the {structure} is misaligned at offset {offset:#x}")
            }
            Self::Bar { structure, error } => write!(f, "the {structure}: {error}"),
            Self::MapFailed {
                structure,
                address,
                length,
            } => write!(
                f,
                "the {structure}: {length} bytes at {address:#x} were not mapped, or not wholly, or \
                 not with their alignment"
            ),
            Self::CommandRefused { command } => write!(
                f,
                "the function does not turn on: its command register reads {command:#06x}"
            ),
        }
    }
}

impl core::error::Error for PciError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Bar { error, .. } => Some(error),
            _ => None,
        }
    }
}
