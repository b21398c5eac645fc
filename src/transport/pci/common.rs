//! The common configuration structure (VIRTIO 1.4, 4.1.4.3).

use super::area::{Area, Place, is_register};
use crate::mmio::{Block, RegisterAccess, Registers};

/// The 56 bytes that every device has. Never read or written as a whole: it gives each register
/// its offset and its width, by field projection. A 64-bit field is two of 32 bits.
#[derive(zerocopy::FromBytes)]
#[repr(C)]
#[doc(alias = "virtio_pci_common_cfg")]
pub(super) struct CommonConfig {
    pub(super) device_feature_select: u32,
    pub(super) device_feature: u32,
    pub(super) driver_feature_select: u32,
    pub(super) driver_feature: u32,
    pub(super) config_msix_vector: u16,
    pub(super) num_queues: u16,
    pub(super) device_status: u8,
    pub(super) config_generation: u8,
    pub(super) queue_select: u16,
    pub(super) queue_size: u16,
    pub(super) queue_msix_vector: u16,
    pub(super) queue_enable: u16,
    pub(super) queue_notify_off: u16,
    pub(super) queue_desc_low: u32,
    pub(super) queue_desc_high: u32,
    pub(super) queue_driver_low: u32,
    pub(super) queue_driver_high: u32,
    pub(super) queue_device_low: u32,
    pub(super) queue_device_high: u32,
}

const _: () = assert!(size_of::<CommonConfig>() == 56);

/// Beyond the 56 bytes that every device has: there with `VIRTIO_F_NOTIF_CONFIG_DATA`.
pub(super) const QUEUE_NOTIF_CONFIG_DATA: usize = 56;
/// Offset of `queue_reset` in the common configuration: only with `VIRTIO_F_RING_RESET`.
pub(super) const QUEUE_RESET: usize = 58;

/// The common configuration, at a checked place.
pub(super) enum Common<S> {
    Memory {
        block: Block<CommonConfig>,
        /// The same registers, for fields that only some devices have.
        registers: Registers,
    },
    Other(S),
}

impl<S: Area> Common<S> {
    /// Checks the place of what has been reached; `None` when it is too short, or not aligned.
    pub(super) fn new(place: Place<S>) -> Option<Self> {
        match place {
            Place::Memory(registers) => Some(Self::Memory {
                block: registers.block()?,
                registers,
            }),
            Place::Other(area) => Some(Self::Other(area)),
        }
    }

    /// Whether there is a field beyond those that every device has.
    pub(super) fn has(&self, offset: usize) -> bool {
        match self {
            Self::Memory { registers, .. } => registers.register::<u16>(offset).is_some(),
            Self::Other(area) => is_register(area, offset, 2),
        }
    }

    /// Reads such a field; `None` when it is not there.
    pub(super) fn read16<A: RegisterAccess>(&self, access: &A, offset: usize) -> Option<u16> {
        match self {
            Self::Memory { registers, .. } => {
                registers.register(offset).map(|at| access.read16(at))
            }
            Self::Other(area) => self.has(offset).then(|| area.read16(offset)),
        }
    }

    /// Writes such a field, which is there.
    pub(super) fn write16<A: RegisterAccess>(&self, access: &A, offset: usize, value: u16) {
        match self {
            Self::Memory { registers, .. } => {
                if let Some(at) = registers.register(offset) {
                    access.write16(at, value);
                }
            }
            Self::Other(area) => area.write16(offset, value),
        }
    }
}
