//! Where the structures of a modern device are (VIRTIO 1.4, 4.1.4).
//!
//! A device may offer several instances of a structure, in its order of preference. The first one
//! that can be used is; why an earlier one could not is remembered, and is the error when no later
//! one can.

use core::fmt;

use super::access::ConfigAccess;
use super::bar::Bars;
use super::capability::{Capabilities, VENDOR_SPECIFIC, VirtioCapability};
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
    const fn needed(self) -> u32 {
        match self {
            Self::Common => 56,
            Self::Notify => 2,
            Self::Isr | Self::Device => 1,
        }
    }

    /// The most that is mapped. A structure may be longer: a driver maps what it needs (4.1.4.1).
    const fn mapped(self) -> u32 {
        match self {
            Self::Common => 64,
            Self::Notify => 16 << 20,
            Self::Isr => 1,
            Self::Device => 4096,
        }
    }

    /// Of the offset in the BAR, in bytes.
    const fn alignment(self) -> u32 {
        match self {
            Self::Common | Self::Device => 4,
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
        })
    }
}

/// A range of physical addresses: what the kernel is asked to map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) structure: Structure,
    pub(super) address: u64,
    pub(super) length: u32,
    /// `notify_off_multiplier`; 0 for other structures.
    pub(super) multiplier: u32,
}

/// Where everything is.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) common: Located,
    pub(super) notify: Located,
    pub(super) isr: Located,
    pub(super) device: Option<Located>,
}

/// What was found of one structure.
#[derive(Clone, Copy)]
enum Found {
    Nothing,
    Unusable(PciError),
    Usable(Located),
}

impl Found {
    fn required(self, structure: Structure) -> Result<Located, PciError> {
        match self {
            Self::Usable(located) => Ok(located),
            Self::Unusable(error) => Err(error),
            Self::Nothing => Err(PciError::Missing { structure }),
        }
    }
}

/// Finds the structures. Decoding of the function is off while its BARs are probed.
pub(super) fn locate(config: &impl ConfigAccess, function: &Function) -> Result<Layout, PciError> {
    let address = function.address;
    let mut bars = Bars::new(config, address);
    let [mut common, mut notify, mut isr, mut device] = [Found::Nothing; 4];
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
        // A reserved type or BAR number is for a later version of the specification.
        let Some(structure) = Structure::of(found.cfg_type).filter(|_| found.bar <= 5) else {
            continue;
        };
        any = true;
        let slot = match structure {
            Structure::Common => &mut common,
            Structure::Notify => &mut notify,
            Structure::Isr => &mut isr,
            Structure::Device => &mut device,
        };
        if let Found::Usable(_) = slot {
            continue;
        }
        match usable(&mut bars, structure, &found) {
            Ok(located) => *slot = Found::Usable(located),
            Err(error) => {
                log::debug!("{address}: skipped: {error}");
                if let Found::Nothing = slot {
                    *slot = Found::Unusable(error);
                }
            }
        }
    }
    if !any {
        let device = function.device;
        return Err(PciError::LegacyOnly { device });
    }
    Ok(Layout {
        common: common.required(Structure::Common)?,
        notify: notify.required(Structure::Notify)?,
        isr: isr.required(Structure::Isr)?,
        // A device type without configuration has none; the fields of one that cannot be used are
        // out of range when they are read.
        device: match device {
            Found::Usable(located) => Some(located),
            Found::Nothing | Found::Unusable(_) => None,
        },
    })
}

fn usable<C: ConfigAccess>(
    bars: &mut Bars<'_, C>,
    structure: Structure,
    capability: &VirtioCapability,
) -> Result<Located, PciError> {
    let &VirtioCapability {
        bar,
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
    let multiplier = match (structure, extra) {
        (Structure::Notify, Some(multiplier)) => multiplier,
        (Structure::Notify, None) => return Err(PciError::Missing { structure }),
        _ => 0,
    };
    let address = bars
        .place(bar, offset.into(), length.into())
        .map_err(|error| PciError::Bar { structure, error })?;
    Ok(Located {
        structure,
        address,
        length: length.min(structure.mapped()),
        multiplier,
    })
}
