//! Shared memory regions (VIRTIO 1.4, 2.10 and 4.1.4.7): memory of the device that the kernel may
//! map, such as the window of a file system.
//!
//! They are found once, with the other structures. A capability of one has 24 bytes, and there are
//! 192 for all capabilities, so a device cannot have more than eight.

use super::access::ConfigAccess;
use super::bar::Bars;
use super::capability::VirtioCapability;
use crate::transport::ShmRegion;

const MOST: usize = 8;

/// Regions by their ids.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SharedMemory {
    regions: [Option<(u8, ShmRegion)>; MOST],
}

impl SharedMemory {
    /// Takes a region into account; one that cannot be used is skipped.
    pub(super) fn add<C: ConfigAccess>(
        &mut self,
        bars: &mut Bars<'_, C>,
        capability: &VirtioCapability,
    ) {
        let (bar, id) = (capability.bar, capability.id);
        let (Some(offset_high), Some(length_high)) = (capability.extra, capability.extra_high)
        else {
            log::debug!("shared memory region {id}: its capability is too short: skipped");
            return;
        };
        let offset = u64::from(offset_high) << 32 | u64::from(capability.offset);
        let length = u64::from(length_high) << 32 | u64::from(capability.length);
        match bars.memory(bar, offset, length) {
            Ok(address) if length != 0 => {
                let region = ShmRegion { address, length };
                if let Some(free) = self.regions.iter_mut().find(|region| region.is_none()) {
                    *free = Some((id, region));
                }
            }
            Ok(_) => log::debug!("shared memory region {id} is empty: skipped"),
            Err(error) => log::debug!("shared memory region {id}: {error}: skipped"),
        }
    }

    /// Of regions that have one id, which they must not, the first.
    pub(super) fn get(&self, id: u8) -> Option<ShmRegion> {
        let mut regions = self.regions.iter().flatten();
        regions
            .find(|(its, _)| *its == id)
            .map(|(_, region)| *region)
    }
}
