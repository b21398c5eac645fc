//! Lies that a device can write into a queue.
//!
//! After the first of them the driver may take back any buffer at any time, so that the device
//! touches no more buffers of an [`InPlace`](super::super::InPlace) platform, which has no
//! other way to take them from it.

use super::QueueDevice;

impl QueueDevice {
    /// Puts a used element that no chain stands for into the ring, and publishes it. A packed ring
    /// has 16 bits for the id, and the element takes one descriptor.
    pub fn forge_used(&mut self, id: u32, len: u32) {
        self.view.tainted = true;
        self.side.put(id, len, 1, 1);
        self.side.publish(&self.view);
    }

    /// Moves the device's position, back or ahead, without an element. A split ring's used index
    /// shows it, until the next honest [`publish`](Self::publish); in a packed ring the next used
    /// element is written there.
    pub fn forge_move(&mut self, by: i16) {
        self.view.tainted = true;
        self.side.forge_move(by);
    }

    /// Stores an index into the used ring of a split queue, as [`forge_move`](Self::forge_move).
    pub fn forge_used_idx(&mut self, idx: u16) {
        let by = idx.wrapping_sub(self.used_idx()) as i16;
        self.forge_move(by);
    }

    /// The used index that an honest device would show; of a packed ring, offset and wrap counter.
    #[must_use]
    pub fn used_idx(&self) -> u16 {
        self.side.spot(self.side.written())
    }

    /// Overwrites a used element: one that the driver has read, or has not. In a packed ring the
    /// descriptor looks used in this lap.
    pub fn forge_used_element(&mut self, slot: u16, id: u32, len: u32) {
        self.view.tainted = true;
        self.side
            .forge_element(slot % self.view.size.max(1), id, len);
    }

    /// Turns flags of a packed ring's descriptor over: `1 << 7` is AVAIL, `1 << 15` is USED.
    pub fn forge_flip(&mut self, index: u16, flags: u16) {
        self.view.tainted = true;
        self.side.forge_flip(index % self.view.size.max(1), flags);
    }

    /// Overwrites a descriptor, which is the driver's to write.
    pub fn forge_descriptor(&mut self, index: u16, addr: u64, rest: u64) {
        self.view.tainted = true;
        self.side
            .forge_descriptor(index % self.view.size.max(1), addr, rest);
    }

    /// Overwrites an entry of the available ring, which is the driver's to write.
    pub fn forge_available(&mut self, slot: u16, head: u16) {
        self.view.tainted = true;
        self.side
            .forge_available(slot % self.view.size.max(1), head);
    }

    /// Overwrites the index of the available ring, or half of a packed ring's driver area: the
    /// driver's to write.
    pub fn forge_available_idx(&mut self, idx: u16) {
        self.view.tainted = true;
        self.side.forge_driver_word(idx);
    }
}
