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
    /// Packed: the flags that make a descriptor available in this lap.
    pub(super) avail_flags: u16,
    /// Packed: the flags of a descriptor that is used in this lap; [`NEVER`] when broken.
    pub(super) used_flags: u16,
    /// Packed: the second word of the first head of the batch, stored last.
    pub(super) held: u64,
    /// Packed: where it belongs.
    pub(super) held_at: u32,
    /// Packed: the second word of the used descriptor that was seen last.
    pub(super) word: u64,
    /// Packed: descriptors made available since the last kick decision.
    pub(super) since: u32,
}

/// Flags that no used descriptor is compared equal to.
pub(super) const NEVER: u16 = 1;

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
            avail_flags: 0,
            used_flags: 0,
            held: 0,
            held_at: 0,
            word: 0,
            since: 0,
        }
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

    /// Running number of the next chain.
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Chains that the device may have used: published, and not come back.
    #[inline]
    pub(super) fn with_device(&self) -> u64 {
        self.published.wrapping_sub(self.completed)
    }
}
