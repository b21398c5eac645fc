//! A device whose rings another crate lays out: the same transport as for this crate, without its
//! initialization.

use std::alloc::Layout;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use vring::features::Features;
use vring::platform::{DmaAddr, Platform as _, RawRegion};
use vring::transport::{Doorbell, QueueAreas, QueueIndex, Status, Transport as _};
use vring_hosted::memory::{Region, Shared};
use vring_hosted::vhost_user::VhostUser;

/// Bytes of a page, which is what rings are aligned to.
const PAGE: usize = 4096;

/// Pages of the shared region.
#[derive(Debug)]
pub(crate) struct Pages {
    platform: Shared,
    raw: RawRegion,
}

// SAFETY: whoever has the value has the memory for himself.
unsafe impl Send for Pages {}

impl Pages {
    /// So many bytes of zeroes, at a page.
    pub(crate) fn new(region: &Arc<Region>, bytes: usize) -> anyhow::Result<Self> {
        let platform = Shared::new(region);
        let layout = Layout::from_size_align(bytes.next_multiple_of(PAGE), PAGE)?;
        let raw = platform.alloc(layout)?;
        Ok(Self { platform, raw })
    }

    /// The memory, for somebody who says that it is in use.
    ///
    /// # Safety
    /// It ends before `self` does, and there is no other.
    pub(crate) unsafe fn bytes<'a>(&self) -> &'a mut [u8] {
        // SAFETY: the pages are this value's, and initialized; the rest is the caller's word.
        unsafe { std::slice::from_raw_parts_mut(self.raw.ptr.as_ptr(), self.raw.layout.size()) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: it came from there, and is not used again.
        unsafe { self.platform.dealloc(self.raw) }
    }
}

/// What an address in this process and the device's for the same byte are apart.
pub(crate) fn distance(region: &Region) -> u64 {
    let row = region.table_row();
    row.guest_phys_addr.wrapping_sub(row.userspace_addr)
}

/// A device that has taken its features.
#[derive(Debug)]
pub(crate) struct Raw {
    transport: VhostUser,
    distance: u64,
}

impl Raw {
    /// Resets it and agrees on exactly these features.
    pub(crate) fn begin(
        mut transport: VhostUser,
        region: &Region,
        features: Features,
    ) -> anyhow::Result<Self> {
        let offered = transport.device_features();
        ensure!(
            offered & features == features,
            "the device offers {offered} only"
        );
        let mut status = Status::ACKNOWLEDGE | Status::DRIVER;
        transport.set_status(Status::empty());
        transport.set_status(status);
        transport.set_driver_features(features);
        status |= Status::FEATURES_OK;
        transport.set_status(status);
        ensure!(
            transport.status() == status,
            "the device does not take {features}"
        );
        Ok(Self {
            transport,
            distance: distance(region),
        })
    }

    /// Tells the device of a ring: pointers to its descriptor, driver and device area.
    ///
    /// # Safety
    /// They are the ring of a queue of that size, in the region, and stay there until
    /// [`reset`](Self::reset) has returned.
    pub(crate) unsafe fn queue(
        &mut self,
        queue: QueueIndex,
        size: u16,
        [desc, driver, device]: [*const u8; 3],
    ) -> anyhow::Result<Doorbell> {
        let at = |ptr: *const u8| DmaAddr((ptr.addr() as u64).wrapping_add(self.distance));
        let areas = QueueAreas {
            desc: at(desc),
            driver: at(driver),
            device: at(device),
        };
        // SAFETY: the caller's word.
        let doorbell = unsafe { self.transport.enable_queue(queue, size, &areas, None) };
        doorbell.context("the device does not take a queue")
    }

    /// Lets it run.
    pub(crate) fn go(&mut self) -> anyhow::Result<()> {
        let status = self.transport.status() | Status::DRIVER_OK;
        self.transport.set_status(status);
        ensure!(
            self.transport.status() == status,
            "the device does not start"
        );
        Ok(())
    }

    /// Stops it.
    pub(crate) fn reset(&mut self) -> anyhow::Result<()> {
        self.transport.set_status(Status::empty());
        ensure!(
            self.transport.status().is_empty(),
            "the device does not stop"
        );
        Ok(())
    }
}
