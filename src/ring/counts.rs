//! What every round of a ring writes, small enough to be copied into registers for a burst.

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
    /// The first free slot.
    pub(super) free_head: u32,
    /// Free descriptors.
    pub(super) free: u32,
    /// In order: the slot of the oldest chain that has not come back.
    pub(super) oldest: u32,
    /// Packed: where the next descriptor is made available.
    pub(super) avail_at: u32,
    /// Packed: where the next used descriptor is expected.
    pub(super) used_at: u32,
    /// Packed: the flags that make a descriptor available in this lap, where they are in its second
    /// word.
    pub(super) avail_lap: u64,
    /// Packed: the flags of a descriptor that is used in this lap, likewise; [`NEVER`] when broken.
    pub(super) used_lap: u64,
    /// Packed: the second word of the first head of the batch, stored last.
    pub(super) held: u64,
    /// Packed: where it belongs.
    pub(super) held_at: u32,
    /// Packed: the second word of the used descriptor that was seen last.
    pub(super) word: u64,
    /// Packed: descriptors made available since the last kick decision, beyond one per chain.
    pub(super) extra: u64,
    /// Split, in order: the running number from which on the available ring holds the heads
    /// already, if all chains are of one descriptor; otherwise never.
    pub(super) settled: u64,
    /// In order: running number of the first chain that the device has not named or skipped.
    pub(super) until: u64,
    /// In order: the length that it gave for the last one before.
    pub(super) batch_len: u32,
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
            free_head: 0,
            free: num.into(),
            oldest: 0,
            avail_at: 0,
            used_at: 0,
            avail_lap: 0,
            used_lap: 0,
            held: 0,
            held_at: 0,
            word: 0,
            extra: 0,
            settled: u64::MAX,
            until: 0,
            batch_len: 0,
        }
    }

    /// Writes back what submitting changes.
    #[inline(always)] // the counts are in registers
    pub(crate) fn keep_submitted(&self, to: &mut Self) {
        to.next = self.next;
        to.free_head = self.free_head;
        to.free = self.free;
        to.avail_at = self.avail_at;
        to.avail_lap = self.avail_lap;
        to.held = self.held;
        to.held_at = self.held_at;
        to.extra = self.extra;
        to.settled = self.settled;
    }

    /// Writes back what taking completions changes. So many chains so many free descriptors: those
    /// beyond one per chain have been counted.
    #[inline(always)] // the counts are in registers
    pub(crate) fn keep_taken(&self, to: &mut Self) {
        let taken = self.completed.wrapping_sub(to.completed) as u32;
        to.completed = self.completed;
        to.seen = self.seen;
        to.free_head = self.free_head;
        to.free = self.free.wrapping_add(taken);
        to.oldest = self.oldest;
        to.used_at = self.used_at;
        to.used_lap = self.used_lap;
        to.until = self.until;
        to.batch_len = self.batch_len;
    }

    /// The slot that the next chain starts at.
    #[inline]
    pub(crate) fn head(&self) -> u16 {
        self.free_head as u16
    }

    /// Free descriptors.
    #[inline]
    pub(crate) fn free(&self) -> u32 {
        self.free
    }

    /// How many chains before running number `end` have not been taken.
    #[inline]
    pub(crate) fn until(&self, end: u64) -> usize {
        end.wrapping_sub(self.completed) as usize
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
