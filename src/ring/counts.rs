//! What every round of a ring writes, small enough to be copied into registers for a burst.

use crate::shared::Place;

/// Running counts and positions. Counts are 64 bits wide; their low 16 bits are a split ring's
/// indices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counts {
    /// Running number of the next chain.
    pub(super) next: u64,
    /// Running number up to which chains are visible to the device.
    pub(super) published: u64,
    /// Chains that came back.
    pub(super) completed: u64,
    /// Split: chains that the device had used when its index was last read.
    pub(super) seen: u64,
    /// Split: the same, for a quick look; 0 in order, where that tells nothing.
    pub(super) ready: u64,
    /// The first free slot.
    pub(super) free_head: u32,
    /// Free descriptors in the list that starts there.
    pub(super) free: u32,
    /// Length of the chains that are free as a whole: the next of this length takes one of them.
    pub(super) chain_len: u32,
    /// The first of them.
    pub(super) chain_head: u32,
    /// Their descriptors.
    pub(super) chained: u32,
    /// In order: the slot of the oldest chain that has not come back.
    pub(super) oldest: u32,
    /// Packed: where the next descriptor is made available; [settled](super::packed) when it is used.
    pub(super) avail_at: Place,
    /// Packed: where the next used descriptor is expected, likewise.
    pub(super) used_at: Place,
    /// Packed: the flags that make a descriptor available in this lap, where they are in its second
    /// word.
    pub(super) avail_lap: u64,
    /// Packed: the flags of a descriptor that is used in this lap, likewise; [`NEVER`] when broken.
    pub(super) used_lap: u64,
    /// Packed: the second word of the first head of the batch, stored last.
    pub(super) held: u64,
    /// Packed: where it belongs.
    pub(super) held_at: Place,
    /// Packed: `used_lap` for a quick look; in order flags that are never equal to it.
    pub(super) quick_lap: u64,
    /// Packed: descriptors made available since the last kick decision, beyond one per chain.
    pub(super) extra: u64,
    /// Split, in order: the running number from which on the available ring holds the heads
    /// already, if all chains are of one descriptor; otherwise never.
    pub(super) settled: u64,
    /// In order: running number of the first chain that the device has not named or skipped.
    pub(super) until: u64,
    /// In order: the length that it gave for the last one before.
    pub(super) batch_len: u32,
    /// The last burst of completions ended with a chain of several descriptors.
    pub(super) chains: bool,
    /// Chains whose length was beyond what they hold.
    pub(crate) overruns: u64,
}

/// Flags that no used descriptor is compared equal to.
pub(super) const NEVER: u64 = 1;

impl Counts {
    /// An empty ring of `num` descriptors, whose first chain has running number `start`.
    pub(super) fn new(num: u16, start: u16) -> Self {
        let at = u64::from(start);
        Self {
            next: at,
            published: at,
            completed: at,
            seen: at,
            ready: 0,
            free_head: 0,
            free: num.into(),
            chain_len: 0,
            chain_head: 0,
            chained: 0,
            oldest: 0,
            avail_at: Place::new(0),
            used_at: Place::new(0),
            avail_lap: 0,
            used_lap: 0,
            held: 0,
            held_at: Place::new(0),
            quick_lap: 0,
            extra: 0,
            settled: u64::MAX,
            until: 0,
            batch_len: 0,
            chains: false,
            overruns: 0,
        }
    }

    /// Writes back what a burst of submissions changes, which leaves so many descriptors free.
    #[inline(always)] // the counts are in registers
    pub(crate) fn keep_submitted(&self, to: &mut Self, free: u32) {
        to.free = free;
        to.next = self.next;
        to.free_head = self.free_head;
    }

    /// Writes back what a burst of completions changes, which leaves so many descriptors free.
    #[inline(always)] // the counts are in registers
    pub(crate) fn keep_taken(&self, to: &mut Self, free: u32) {
        to.free = free;
        to.completed = self.completed;
        to.free_head = self.free_head;
        to.overruns = self.overruns;
    }

    /// Writes back what a burst changes of the chains that are free as a whole.
    #[inline(always)] // the counts are in registers
    pub(crate) fn keep_chains(&self, to: &mut Self) {
        to.chain_len = self.chain_len;
        to.chain_head = self.chain_head;
        to.chained = self.chained;
    }

    /// Free descriptors, one more for each chain that was taken since `before`.
    #[inline(always)] // two additions
    pub(crate) fn room_of_singles(&self, before: &Self) -> u32 {
        let taken = self.completed.wrapping_sub(before.completed) as u32;
        self.free.wrapping_add(taken)
    }

    /// Writes back what taking completions in order changes, besides.
    #[inline(always)] // the counts are in registers
    pub(crate) fn keep_taken_in_order(&self, to: &mut Self) {
        to.oldest = self.oldest;
        to.until = self.until;
        to.batch_len = self.batch_len;
    }

    /// Free descriptors, less one for each chain since running number `start`.
    #[inline(always)] // two subtractions
    pub(crate) fn room(&self, start: u64) -> u32 {
        let since = self.next.wrapping_sub(start) as u32;
        self.free.wrapping_sub(since)
    }

    /// Takes so many descriptors from those that are free.
    #[inline(always)] // a subtraction
    pub(crate) fn take_room(&mut self, len: u32) {
        self.free = self.free.wrapping_sub(len);
    }

    /// Counts the chain at the head of the free list, which has running number `next`, as entered,
    /// and cuts it off the list before `behind`.
    #[inline(always)] // the counts are in registers
    pub(crate) fn admit(&mut self, next: u64, behind: u16) {
        self.free_head = behind.into();
        self.next = next.wrapping_add(1);
    }

    /// The slot that the next chain starts at.
    #[inline]
    pub(crate) fn head(&self) -> u16 {
        self.free_head as u16
    }

    /// The same, as an index.
    #[inline]
    pub(crate) fn head_index(&self) -> usize {
        self.free_head as usize
    }

    /// Free descriptors in the list.
    #[inline]
    pub(crate) fn free(&self) -> u32 {
        self.free
    }

    /// Free descriptors of chains that are free as a whole.
    #[inline]
    pub(crate) fn chained(&self) -> u32 {
        self.chained
    }

    /// Whether a chain of so many descriptors is free as a whole.
    #[inline(always)] // two comparisons
    pub(crate) fn has_chain(&self, len: usize) -> bool {
        self.chained != 0 && self.chain_len as usize == len
    }

    /// The slot of the first chain that is free as a whole.
    #[inline]
    pub(crate) fn chain_head(&self) -> u32 {
        self.chain_head
    }

    /// Counts the first chain that is free as a whole, of `len` descriptors, as entered with running
    /// number `next`; `after` is the one behind it.
    #[inline(always)] // the counts are in registers
    pub(crate) fn admit_chain(&mut self, next: u64, after: u16, len: u32) {
        self.chain_head = after.into();
        self.chained = self.chained.wrapping_sub(len);
        self.next = next.wrapping_add(1);
    }

    /// How many chains before running number `end` have not been taken.
    #[inline]
    pub(crate) fn until(&self, end: u64) -> usize {
        end.wrapping_sub(self.completed) as usize
    }

    /// Split: notes how far the device's index is.
    #[inline(always)] // two stores
    pub(super) fn saw(&mut self, seen: u64, in_order: bool) {
        self.seen = seen;
        if !in_order {
            self.ready = seen;
        }
    }

    /// In order: whether chains of a batch are still to be taken.
    #[inline]
    pub(super) fn in_batch(&self) -> bool {
        self.completed < self.until
    }

    /// Running number of the next chain.
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Chains that have not come back.
    #[inline]
    pub(super) fn outstanding(&self) -> u64 {
        self.next.wrapping_sub(self.completed)
    }

    /// Chains that the device may have used: published, and not come back.
    #[inline]
    pub(super) fn with_device(&self) -> u64 {
        self.published.wrapping_sub(self.completed)
    }
}
