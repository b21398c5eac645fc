//! Lies that a device can write into a split queue.
//!
//! After the first of them the driver may take back any buffer at any time, so that the device
//! touches no more buffers of an [`InPlace`](super::super::InPlace) platform, which has no
//! other way to take them from it.

use core::sync::atomic::Ordering;

use super::{IDX, RING, SplitDevice};

impl SplitDevice {
    /// Puts an element that no chain stands for into the used ring, and publishes it.
    pub fn forge_used(&mut self, id: u32, len: u32) {
        self.tainted = true;
        self.put(id, len);
        self.publish();
    }

    /// Stores an index into the used ring. The next honest [`publish`](Self::publish) overwrites
    /// it.
    pub fn forge_used_idx(&mut self, idx: u16) {
        self.tainted = true;
        self.used.store_u16(IDX, idx, Ordering::Release);
    }

    /// The used index that an honest device would show.
    #[must_use]
    pub fn used_idx(&self) -> u16 {
        self.written
    }

    /// Overwrites an element of the used ring: one that the driver has read, or has not.
    pub fn forge_used_element(&mut self, slot: u16, id: u32, len: u32) {
        self.tainted = true;
        let offset = RING + 8 * usize::from(slot % self.size);
        self.used.store_u32(offset, id, Ordering::Relaxed);
        self.used.store_u32(offset + 4, len, Ordering::Relaxed);
    }

    /// Overwrites a descriptor, which is the driver's to write.
    pub fn forge_descriptor(&mut self, index: u16, addr: u64, rest: u64) {
        self.tainted = true;
        let offset = 16 * usize::from(index % self.size);
        self.desc.store_u64(offset, addr, Ordering::Relaxed);
        self.desc.store_u64(offset + 8, rest, Ordering::Relaxed);
    }

    /// Overwrites an entry of the available ring, which is the driver's to write.
    pub fn forge_available(&mut self, slot: u16, head: u16) {
        self.tainted = true;
        let offset = RING + 2 * usize::from(slot % self.size);
        self.avail.store_u16(offset, head, Ordering::Relaxed);
    }

    /// Overwrites the index of the available ring, which is the driver's to write.
    pub fn forge_available_idx(&mut self, idx: u16) {
        self.tainted = true;
        self.avail.store_u16(IDX, idx, Ordering::Relaxed);
    }
}
