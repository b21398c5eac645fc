//! Where the parts of a ring are. Of a split one: `vring_init` and `vring_size` as `const fn`.
//!
//! ```text
//!  base                                             used: next multiple of `align`
//!  │                                                │
//!  ▼ 16 × num bytes       4 + 2 × num + 2 bytes     ▼ 4 + 8 × num + 2 bytes
//!  ┌──────────────────────┬─────────────────────┬───┬──────────────────────┐
//!  │ descriptor table     │ available ring      │pad│ used ring            │
//!  └──────────────────────┴─────────────────────┴───┴──────────────────────┘
//!                          flags idx ring[] used_event flags idx ring[] avail_event
//! ```
//!
//! One block of this shape is what the legacy interface demands (VIRTIO 1.4, 2.7.2), with
//! `align` = 4096. The modern interface takes three addresses (2.7): the same block with
//! `align` = [`USED_ALIGN_SIZE`] satisfies it, so that there is one layout and one allocation.
//!
//! Two traps are avoided here. The specification prints `ALIGN(x)` as `(x + qalign) & ~qalign`,
//! which is right for a mask (4095) and wrong for an alignment (4096). And its formula for the
//! total rounds the used ring up to `align`, where Linux's `vring_size` does not:
//! [`Layout::size`] is Linux's, [`Layout::legacy_size`] is the larger.
//!
//! Offsets do not depend on the base address when the base is aligned to `align` (or to 16, where
//! that is larger), as [`Layout::alignment`] demands.
//!
//! A packed ring has a layout of this crate's own choice, [`PackedLayout`]: the specification asks
//! for three areas, and says only how each is aligned (VIRTIO 1.4, 2.8.10.1).

use core::fmt;

/// Alignment of a descriptor table in bytes (VIRTIO 1.4, 2.7).
#[doc(alias = "VRING_DESC_ALIGN_SIZE")]
pub const DESC_ALIGN_SIZE: usize = 16;
/// Alignment of an available ring in bytes (VIRTIO 1.4, 2.7).
#[doc(alias = "VRING_AVAIL_ALIGN_SIZE")]
pub const AVAIL_ALIGN_SIZE: usize = 2;
/// Alignment of a used ring in bytes (VIRTIO 1.4, 2.7).
#[doc(alias = "VRING_USED_ALIGN_SIZE")]
pub const USED_ALIGN_SIZE: usize = 4;

/// The largest queue size (VIRTIO 1.4, 2.6).
pub const MAX_QUEUE_SIZE: u16 = 32768;

/// One descriptor: 16 bytes, in little-endian order on a modern device (VIRTIO 1.4, 2.7.5). A
/// table of them is aligned to [`DESC_ALIGN_SIZE`], a single one, as in C, only as its fields are.
#[doc(alias = "vring_desc")]
#[doc(alias = "virtq_desc")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Descriptor {
    /// Address of the buffer for the device.
    pub addr: u64,
    /// Its length in bytes.
    pub len: u32,
    /// [`DescriptorFlags`].
    pub flags: u16,
    /// Index of the next descriptor of the chain, where the flags say that there is one.
    pub next: u16,
}

bitflags::bitflags! {
    /// Flags of a descriptor (VIRTIO 1.4, 2.7.5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DescriptorFlags: u16 {
        /// The chain goes on at `next`.
        #[doc(alias = "VRING_DESC_F_NEXT")]
        #[doc(alias = "VIRTQ_DESC_F_NEXT")]
        const NEXT = 1;
        /// The device writes the buffer; otherwise it reads it.
        #[doc(alias = "VRING_DESC_F_WRITE")]
        #[doc(alias = "VIRTQ_DESC_F_WRITE")]
        const WRITE = 2;
        /// The buffer is a table of descriptors.
        #[doc(alias = "VRING_DESC_F_INDIRECT")]
        #[doc(alias = "VIRTQ_DESC_F_INDIRECT")]
        const INDIRECT = 4;
    }
}

/// The head of an available ring; `num` entries of `u16` and `used_event` follow
/// (VIRTIO 1.4, 2.7.6).
#[doc(alias = "vring_avail")]
#[doc(alias = "virtq_avail")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Available {
    /// [`AVAIL_F_NO_INTERRUPT`] or 0.
    pub flags: u16,
    /// Where the driver puts the next entry, modulo the queue size.
    pub idx: u16,
    /// The entries: heads of chains.
    pub ring: [u16; 0],
}

/// One entry of a used ring (VIRTIO 1.4, 2.7.8).
#[doc(alias = "vring_used_elem")]
#[doc(alias = "virtq_used_elem")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct UsedElement {
    /// Head of the chain that was used.
    pub id: u32,
    /// Bytes that the device says it wrote.
    pub len: u32,
}

/// The head of a used ring; `num` [`UsedElement`]s and `avail_event` follow (VIRTIO 1.4, 2.7.8).
#[doc(alias = "vring_used")]
#[doc(alias = "virtq_used")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Used {
    /// [`USED_F_NO_NOTIFY`] or 0.
    pub flags: u16,
    /// Where the device puts the next entry, modulo the queue size.
    pub idx: u16,
    /// The entries.
    pub ring: [UsedElement; 0],
}

/// In [`Available::flags`]: the driver does not want interrupts (VIRTIO 1.4, 2.7.7).
#[doc(alias = "VRING_AVAIL_F_NO_INTERRUPT")]
#[doc(alias = "VIRTQ_AVAIL_F_NO_INTERRUPT")]
pub const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// In [`Used::flags`]: the device does not want notifications (VIRTIO 1.4, 2.7.10).
#[doc(alias = "VRING_USED_F_NO_NOTIFY")]
#[doc(alias = "VIRTQ_USED_F_NO_NOTIFY")]
pub const USED_F_NO_NOTIFY: u16 = 1;

/// Why a ring cannot have this shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayoutError {
    /// The number of descriptors is 0 or above [`MAX_QUEUE_SIZE`].
    Num {
        /// The number asked for.
        num: u16,
    },
    /// The alignment is not a power of two, or is below [`USED_ALIGN_SIZE`].
    Align {
        /// The alignment asked for, in bytes.
        align: usize,
    },
    /// The ring does not fit the address space.
    TooLarge {
        /// The number of descriptors asked for.
        num: u16,
        /// The alignment asked for, in bytes.
        align: usize,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Num { num } => {
                write!(
                    f,
                    "a ring of {num} descriptors: it takes 1 to {MAX_QUEUE_SIZE}"
                )
            }
            Self::Align { align } => write!(
                f,
                "alignment {align}: it takes a power of two, {USED_ALIGN_SIZE} or more"
            ),
            Self::TooLarge { num, align } => write!(
                f,
                "a ring of {num} descriptors aligned to {align} does not fit the address space"
            ),
        }
    }
}

impl core::error::Error for LayoutError {}

/// Byte offsets of the parts of a split ring from the start of its block.
#[doc(alias = "vring")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of descriptors.
    pub num: u16,
    /// Alignment of the used ring in bytes.
    pub align: usize,
    /// Descriptor table.
    pub desc: usize,
    /// Available ring.
    pub avail: usize,
    /// `used_event`, the word behind the available ring's entries.
    #[doc(alias = "vring_used_event")]
    pub used_event: usize,
    /// Used ring.
    pub used: usize,
    /// `avail_event`, the word behind the used ring's entries.
    #[doc(alias = "vring_avail_event")]
    pub avail_event: usize,
}

/// Lays out a ring of `num` descriptors with the used ring aligned to `align` bytes, as Linux's
/// `vring_init` does for a block whose base is aligned to [`Layout::alignment`].
///
/// Any `num` from 1 to 32768 is laid out; that a split queue needs a power of two (VIRTIO 1.4,
/// 2.7) is the queue's business.
///
/// # Errors
/// [`LayoutError`] with the offending value.
///
/// # Examples
/// ```
/// use vring::ring::layout::vring_init;
///
/// let layout = vring_init(256, 4096)?;
/// assert_eq!((layout.desc, layout.avail, layout.used), (0, 4096, 8192));
/// # Ok::<(), vring::ring::layout::LayoutError>(())
/// ```
pub const fn vring_init(num: u16, align: usize) -> Result<Layout, LayoutError> {
    if num == 0 || num > MAX_QUEUE_SIZE {
        return Err(LayoutError::Num { num });
    }
    if !align.is_power_of_two() || align < USED_ALIGN_SIZE {
        return Err(LayoutError::Align { align });
    }
    let n = num as usize;
    let avail = n * size_of::<Descriptor>();
    let used_event = avail + size_of::<Available>() + n * size_of::<u16>();
    let Some(padded) = (used_event + size_of::<u16>()).checked_add(align - 1) else {
        return Err(LayoutError::TooLarge { num, align });
    };
    let used = padded & !(align - 1);
    let Some(avail_event) = used.checked_add(size_of::<Used>() + n * size_of::<UsedElement>())
    else {
        return Err(LayoutError::TooLarge { num, align });
    };
    // The whole block, rounded up to `align`, is at most `isize::MAX` bytes, as an allocation is.
    let Some(end) = avail_event.checked_add(size_of::<u16>() + align) else {
        return Err(LayoutError::TooLarge { num, align });
    };
    if end > isize::MAX as usize {
        return Err(LayoutError::TooLarge { num, align });
    }
    Ok(Layout {
        num,
        align,
        desc: 0,
        avail,
        used_event,
        used,
        avail_event,
    })
}

/// Bytes of a ring of `num` descriptors, as Linux's `vring_size` counts them: up to and with
/// `avail_event`, not rounded up.
///
/// # Errors
/// As [`vring_init`].
pub const fn vring_size(num: u16, align: usize) -> Result<usize, LayoutError> {
    match vring_init(num, align) {
        Ok(layout) => Ok(layout.size()),
        Err(error) => Err(error),
    }
}

impl Layout {
    /// Bytes of the block, as Linux's `vring_size`.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.avail_event + size_of::<u16>()
    }

    /// Bytes of the block with the used ring rounded up to `align`, as the legacy interface
    /// counts them (VIRTIO 1.4, 2.7.2).
    #[must_use]
    pub const fn legacy_size(&self) -> usize {
        (self.size() + self.align - 1) & !(self.align - 1)
    }

    /// Alignment of the base of the block in bytes: `align`, or 16 for the descriptor table.
    #[must_use]
    pub const fn alignment(&self) -> usize {
        if self.align > DESC_ALIGN_SIZE {
            self.align
        } else {
            DESC_ALIGN_SIZE
        }
    }

    /// Offset of entry `i` of the available ring, `i` below `num`.
    #[must_use]
    pub const fn avail_entry(&self, i: u16) -> usize {
        self.avail + size_of::<Available>() + i as usize * size_of::<u16>()
    }

    /// Offset of entry `i` of the used ring, `i` below `num`.
    #[must_use]
    pub const fn used_entry(&self, i: u16) -> usize {
        self.used + size_of::<Used>() + i as usize * size_of::<UsedElement>()
    }
}

/// Alignment of the descriptor ring of a packed queue in bytes (VIRTIO 1.4, 2.8.10.1).
pub const PACKED_DESC_ALIGN_SIZE: usize = 16;
/// Alignment of an event suppression structure of a packed queue in bytes (VIRTIO 1.4, 2.8.10.1).
pub const PACKED_EVENT_ALIGN_SIZE: usize = 4;

/// One descriptor of a packed ring: 16 bytes, little-endian (VIRTIO 1.4, 2.8.13).
#[doc(alias = "pvirtq_desc")]
#[doc(alias = "vring_packed_desc")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PackedDescriptor {
    /// Address of the buffer for the device.
    pub addr: u64,
    /// Its length in bytes.
    pub len: u32,
    /// Buffer id.
    pub id: u16,
    /// Flags: those of [`DescriptorFlags`], and the two that say who owns it.
    pub flags: u16,
}

/// An event suppression structure (VIRTIO 1.4, 2.8.14).
#[doc(alias = "pvirtq_event_suppress")]
#[doc(alias = "vring_packed_desc_event")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PackedEvent {
    /// Offset of a descriptor, and its wrap counter in bit 15.
    pub off_wrap: u16,
    /// 0: always, 1: never, 2: at the descriptor.
    pub flags: u16,
}

/// Byte offsets of the parts of a packed ring from the start of its block. The two event structures
/// have a line of cache each, as each is written by one side and read by the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedLayout {
    /// Number of descriptors.
    pub num: u16,
    /// Descriptor ring.
    pub desc: usize,
    /// The driver's event suppression structure.
    pub driver: usize,
    /// The device's event suppression structure.
    pub device: usize,
}

/// Lays out a packed ring of `num` descriptors, of any number from 1 to 32768 (VIRTIO 1.4, 2.8).
///
/// # Errors
/// [`LayoutError::Num`].
///
/// # Examples
/// ```
/// use vring::ring::layout::packed_init;
///
/// let layout = packed_init(200)?;
/// assert_eq!((layout.desc, layout.driver, layout.device), (0, 3200, 3264));
/// # Ok::<(), vring::ring::layout::LayoutError>(())
/// ```
pub const fn packed_init(num: u16) -> Result<PackedLayout, LayoutError> {
    if num == 0 || num > MAX_QUEUE_SIZE {
        return Err(LayoutError::Num { num });
    }
    let end = num as usize * size_of::<PackedDescriptor>();
    let driver = end.next_multiple_of(CACHE_LINE);
    Ok(PackedLayout {
        num,
        desc: 0,
        driver,
        device: driver + CACHE_LINE,
    })
}

const CACHE_LINE: usize = 64;

impl PackedLayout {
    /// Bytes of the block.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.device + CACHE_LINE
    }

    /// Alignment of the base of the block in bytes.
    #[must_use]
    pub const fn alignment(&self) -> usize {
        CACHE_LINE
    }
}
