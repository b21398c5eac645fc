//! Where the structures of a modern device are (VIRTIO 1.4, 4.1.4).
//!
//! A device may offer several instances of a structure, in its order of preference. Of those in
//! memory the first one that the kernel can map is used; else the first one in ports, where the
//! kernel has them; else the first one, through the window in configuration space, where the kernel
//! wants that. Why an instance could not be used is remembered, and is the error when no other can.

use core::fmt;

use super::access::ConfigAccess;
use super::bar::{BarError, Bars, Spot};
use super::capability::{Capabilities, PCI_CFG, SHARED_MEMORY, VENDOR_SPECIFIC, VirtioCapability};
use super::shm::SharedMemory;
use super::window::At;
use super::{Function, PciError};

/// A structure of registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Structure {
    /// Common configuration (4.1.4.3).
    #[doc(alias = "VIRTIO_PCI_CAP_COMMON_CFG")]
    Common,
    /// Notifications (4.1.4.4).
    #[doc(alias = "VIRTIO_PCI_CAP_NOTIFY_CFG")]
    Notify,
    /// ISR status (4.1.4.5).
    #[doc(alias = "VIRTIO_PCI_CAP_ISR_CFG")]
    Isr,
    /// Device-specific configuration (4.1.4.6).
    #[doc(alias = "VIRTIO_PCI_CAP_DEVICE_CFG")]
    Device,
    /// What a legacy device has instead of all of these, in BAR 0 (4.1.4.10).
    Legacy,
}

impl Structure {
    /// `None`: a type that is not used here, or reserved.
    const fn of(cfg_type: u8) -> Option<Self> {
        match cfg_type {
            1 => Some(Self::Common),
            2 => Some(Self::Notify),
            3 => Some(Self::Isr),
            4 => Some(Self::Device),
            _ => None,
        }
    }

    /// The least length in bytes that can be worked with.
    pub(super) const fn needed(self) -> u32 {
        match self {
            Self::Common => 56,
            Self::Legacy => 20,
            Self::Notify => 2,
            Self::Isr | Self::Device => 1,
        }
    }

    /// The most that is mapped. A structure may be longer: a driver maps what it needs (4.1.4.1).
    pub(super) const fn mapped(self) -> u32 {
        match self {
            Self::Common => 64,
            Self::Notify => 16 << 20,
            Self::Isr => 1,
            Self::Device | Self::Legacy => 4096,
        }
    }

    /// Of the offset in the BAR, and of the place in the end, in bytes.
    pub(super) const fn alignment(self) -> u32 {
        match self {
            Self::Common | Self::Device | Self::Legacy => 4,
            Self::Notify => 2,
            Self::Isr => 1,
        }
    }
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Common => "common configuration structure",
            Self::Notify => "notification structure",
            Self::Isr => "ISR status",
            Self::Device => "device-specific configuration",
            Self::Legacy => "legacy header",
        })
    }
}

/// One instance of a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Located<T> {
    /// Where it begins.
    pub(super) at: T,
    /// Bytes, as many as are needed.
    pub(super) length: u32,
    /// `notify_off_multiplier`; 0 for other structures.
    pub(super) multiplier: u32,
}

/// An I/O BAR's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) bar: u8,
    pub(super) port: u32,
}

/// Instances of a structure that are kept: a BAR each of what a function has, and more than any
/// device offers.
const MOST: usize = 6;

/// What was found of one structure: its first instances, and why the first that is of no use is not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) structure: Structure,
    /// At physical addresses.
    pub(super) memory: [Option<Located<u64>>; MOST],
    /// At ports.
    pub(super) ports: [Option<Located<Port>>; MOST],
    /// Where the window would show the first.
    pub(super) window: Option<Located<At>>,
    pub(super) unusable: Option<PciError>,
}

impl Found {
    const fn nothing(structure: Structure) -> Self {
        Self {
            structure,
            memory: [None; MOST],
            ports: [None; MOST],
            window: None,
            unusable: None,
        }
    }

    /// Takes an instance into account.
    fn add<C: ConfigAccess>(&mut self, bars: &mut Bars<'_, C>, capability: &VirtioCapability) {
        let (structure, bar) = (self.structure, capability.bar);
        let (offset, length) = (capability.offset, capability.length);
        let multiplier = match check(structure, capability) {
            Ok(multiplier) => multiplier,
            Err(error) => return self.refuse(error),
        };
        fn located<T>(at: T, length: u32, multiplier: u32) -> Located<T> {
            Located {
                at,
                length,
                multiplier,
            }
        }
        let mapped = length.min(structure.mapped());
        let spot = bars.place(bar, offset.into(), length.into());
        // The window's offsets have 32 bits: what is beyond cannot be shown.
        let shown = mapped.min((u32::MAX - offset).saturating_add(1));
        if is_in_bar(spot, offset, length) && shown >= structure.needed() {
            let at = At {
                capability: 0,
                bar,
                offset,
            };
            self.window.get_or_insert(located(at, shown, multiplier));
        }
        match spot {
            Ok(Spot::Memory(at)) => keep(&mut self.memory, located(at, mapped, multiplier)),
            Ok(Spot::Ports(port)) => {
                let at = Port { bar, port };
                keep(&mut self.ports, located(at, mapped, multiplier));
            }
            Err(error) => self.refuse(PciError::Bar { structure, error }),
        }
    }

    fn refuse(&mut self, error: PciError) {
        log::debug!("an instance is skipped: {error}");
        self.unusable.get_or_insert(error);
    }
}

/// Puts an instance behind those that were found before; forgets it where they are many.
fn keep<T>(kept: &mut [Option<T>], instance: T) {
    if let Some(free) = kept.iter_mut().find(|place| place.is_none()) {
        *free = Some(instance);
    }
}

/// Where everything is.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) common: Found,
    pub(super) notify: Found,
    pub(super) isr: Found,
    pub(super) device: Found,
    pub(super) shared_memory: SharedMemory,
    /// Where the window's capability begins.
    pub(super) window: Option<u8>,
}

/// Finds the structures. Decoding of the function is off while its BARs are probed.
pub(super) fn locate(config: &impl ConfigAccess, function: &Function) -> Result<Layout, PciError> {
    let address = function.address;
    let mut bars = Bars::new(config, address);
    let mut layout = Layout {
        common: Found::nothing(Structure::Common),
        notify: Found::nothing(Structure::Notify),
        isr: Found::nothing(Structure::Isr),
        device: Found::nothing(Structure::Device),
        shared_memory: SharedMemory::default(),
        window: None,
    };
    let mut any = false;
    for capability in Capabilities::new(config, address) {
        if capability.id != VENDOR_SPECIFIC {
            continue;
        }
        let Some(found) = VirtioCapability::read(config, address, capability) else {
            let at = capability.register;
            log::debug!("{address}: the vendor capability at {at:#x} is too short: skipped");
            continue;
        };
        if found.cfg_type == PCI_CFG && found.extra.is_some() {
            layout.window.get_or_insert(capability.register as u8);
        }
        // A reserved type or BAR number is for a later version of the specification.
        if found.bar > 5 {
            continue;
        }
        if found.cfg_type == SHARED_MEMORY {
            layout.shared_memory.add(&mut bars, &found);
        }
        let Some(structure) = Structure::of(found.cfg_type) else {
            continue;
        };
        any = true;
        let instances = match structure {
            Structure::Common => &mut layout.common,
            Structure::Notify => &mut layout.notify,
            Structure::Isr => &mut layout.isr,
            // No capability tells of the legacy header.
            Structure::Device | Structure::Legacy => &mut layout.device,
        };
        instances.add(&mut bars, &found);
    }
    if any {
        Ok(layout)
    } else {
        let device = function.device;
        Err(PciError::LegacyOnly { device })
    }
}

/// What can be said of an instance without its BAR. Returns the multiplier.
fn check(structure: Structure, capability: &VirtioCapability) -> Result<u32, PciError> {
    let &VirtioCapability {
        offset,
        length,
        extra,
        ..
    } = capability;
    if !offset.is_multiple_of(structure.alignment()) {
        return Err(PciError::Misaligned { structure, offset });
    }
    let needed = structure.needed();
    if length < needed {
        return Err(PciError::TooShort {
            structure,
            length,
            needed,
        });
    }
    match (structure, extra) {
        (Structure::Notify, Some(multiplier)) => Ok(multiplier),
        (Structure::Notify, None) => Err(PciError::Missing { structure }),
        _ => Ok(0),
    }
}

/// Whether a structure is inside of its BAR: the window shows nothing else. That the BAR has no
/// address does not matter to the window.
fn is_in_bar(spot: Result<Spot, BarError>, offset: u32, length: u32) -> bool {
    match spot {
        Ok(_) => true,
        Err(BarError::Unassigned { size, .. }) => u64::from(offset) + u64::from(length) <= size,
        Err(_) => false,
    }
}
