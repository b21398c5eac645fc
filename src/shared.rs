//! The only accessors of words that the device also touches.
//!
//! # Invariants
//!
//! 1. Every pointer here lies in a [`DmaRegion`] that a memory ([`SplitMemory`] and the like) owns, at
//!    an offset that was checked against the region's size when the memory was made. The memory
//!    lends copies of its pointers, as words, runs and descriptors: their lifetimes end before it
//!    does. Its own copy says `'static` and never leaves it. Indices are masked, places compared with
//!    the end of the table where they are used, and runs end with their ring at the latest, so that
//!    no value of any index or place leaves the region.
//! 2. A word of a ring is accessed as an atomic of its own width, by us and by the device: a
//!    descriptor as two 64-bit words, or in halves where pointers have 32 bits, which [`area`]
//!    argues for; a used element as two 32-bit words, everything else as 16-bit words. There is
//!    never a reference or a slice over ring memory.
//! 3. Cells are bytes that only one side writes at a time; a hostile device may write them at any
//!    time, so replies are copied out by volatile reads.
//!
//! The orders of the accesses are the business of [`ring::notify`](crate::ring::notify): what is
//! not named `_release` or `_acquire` here is relaxed.
//!
//! The words themselves are those of an [`Area`], which has a second body: under
//! `--cfg vring_loom` they are loom's, so that a model checker runs everything above it, this file
//! too, as it is.

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use crate::dma::DmaRegion;
use crate::platform::{DmaAddr, Platform};
use crate::ring::layout::{self, LayoutError};
use crate::transport::{Doorbell, QueueAreas, QueueIndex, Transport, TransportError};

#[cfg(not(vring_loom))]
mod area;
#[cfg(vring_loom)]
#[path = "shared/loom.rs"]
// A model that is wrong ends, and only tests have one.
#[allow(dead_code, clippy::indexing_slicing, clippy::panic)]
mod area;

#[cfg(vring_loom)]
pub(crate) use area::Area;
#[cfg(not(vring_loom))]
use area::Area;

/// What an area holds.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// Of a split ring, or of an indirect table.
    Descriptors,
    /// The available ring and `used_event`.
    Available,
    /// The used ring and `avail_event`.
    Used,
    /// Of a packed ring: the second word is a control word.
    PackedDescriptors,
    /// An event suppression structure.
    Event,
}

/// The three areas of a split ring in one block.
pub(crate) struct SplitMemory<P: Platform> {
    words: SplitWords<'static>,
    layout: layout::Layout,
    region: DmaRegion<P>,
}

/// The words of a split ring: a copy of its pointers, for as long as its memory is borrowed, so that
/// a burst has them in registers.
pub(crate) struct SplitWords<'a> {
    desc: Area,
    avail: Area,
    used: Area,
    mask: u32,
    memory: PhantomData<&'a ()>,
}

// SAFETY: the pointers lie in the region, which may move between threads.
unsafe impl<P: Platform + Send> Send for SplitMemory<P> {}

impl<P: Platform> SplitMemory<P> {
    /// Lays a ring of `num` descriptors out in a region.
    pub(crate) fn new(region: DmaRegion<P>, num: u16, align: usize) -> Result<Self, LayoutError> {
        let layout = layout::vring_init(num, align)?;
        if !num.is_power_of_two() {
            return Err(LayoutError::Num { num });
        }
        let have = region.layout();
        if have.size() < layout.size() || have.align() < layout.alignment() {
            return Err(LayoutError::TooLarge { num, align });
        }
        let at = |offset: usize| {
            // SAFETY: invariant 1: every offset of the layout is below its size, and the region
            // is at least that large.
            unsafe { region.ptr().add(offset) }
        };
        let words = SplitWords {
            desc: Area::new(at(layout.desc), Shape::Descriptors, num.into()),
            avail: Area::new(at(layout.avail), Shape::Available, num.into()),
            used: Area::new(at(layout.used), Shape::Used, num.into()),
            mask: u32::from(num) - 1,
            memory: PhantomData,
        };
        Ok(Self {
            words,
            layout,
            region,
        })
    }

    /// Its words.
    #[inline(always)] // a few loads, of what is used
    pub(crate) fn words(&self) -> SplitWords<'_> {
        SplitWords {
            desc: self.words.desc.again(),
            avail: self.words.avail.again(),
            used: self.words.used.again(),
            mask: self.words.mask,
            memory: PhantomData,
        }
    }

    /// Bytes of the block.
    pub(crate) fn size(&self) -> usize {
        self.region.layout().size()
    }

    /// Where the device finds the three areas.
    pub(crate) fn areas(&self) -> QueueAreas {
        let at = |offset: usize| DmaAddr(self.region.addr().0.wrapping_add(offset as u64));
        QueueAreas {
            desc: at(self.layout.desc),
            driver: at(self.layout.avail),
            device: at(self.layout.used),
        }
    }

    /// Hands the ring to a device. From here on it must not be freed before the device has
    /// confirmed a reset.
    pub(crate) fn expose(
        &self,
        transport: &mut impl Transport,
        queue: QueueIndex,
        vector: Option<u16>,
    ) -> Result<Doorbell, TransportError> {
        // SAFETY: the areas are those of this ring, and its owners (`Virtqueue` and those before
        // it) leak it rather than drop it without proof of a reset.
        unsafe { transport.enable_queue(queue, self.words.mask() + 1, &self.areas(), vector) }
    }

    /// The three areas, for a device in a model.
    #[cfg(all(test, vring_loom))]
    pub(crate) fn model(&self) -> [Area; 3] {
        let words = self.words();
        [words.desc, words.avail, words.used]
    }
}

impl SplitWords<'_> {
    /// Queue size less one.
    #[inline]
    pub(crate) fn mask(&self) -> u16 {
        self.mask as u16
    }

    /// Writes a descriptor: two stores.
    #[inline]
    pub(crate) fn set_descriptor(&self, index: u32, addr: u64, len: u32, flags: u16, next: u16) {
        let second = u64::from(len) | u64::from(flags) << 32 | u64::from(next) << 48;
        let offset = (index & self.mask) as usize * 16;
        // SAFETY: invariants 1 and 2: the index is masked.
        unsafe { self.desc.set_u64(offset, addr) };
        // SAFETY: as above; a descriptor has two words.
        unsafe { self.desc.set_u64(offset + 8, second) };
    }

    /// Writes an entry of the available ring.
    #[inline]
    pub(crate) fn set_avail_entry(&self, index: u32, head: u16) {
        let offset = (index & self.mask) as usize * 2 + 4;
        // SAFETY: invariants 1 and 2: the index is masked.
        unsafe { self.avail.set_u16(offset, head) };
    }

    /// Writes the available index: everything written before is visible to who reads it.
    #[inline]
    pub(crate) fn set_avail_idx_release(&self, idx: u16) {
        // SAFETY: invariants 1 and 2: the second word.
        let word = unsafe { self.avail.word_u16(2) };
        word.store(idx.to_le(), Ordering::Release);
    }

    /// Writes the available ring's flags.
    #[inline]
    pub(crate) fn set_avail_flags(&self, flags: u16) {
        // SAFETY: invariants 1 and 2: the first word.
        let word = unsafe { self.avail.word_u16(0) };
        word.store(flags.to_le(), Ordering::Relaxed);
    }

    /// Writes `used_event`.
    #[inline]
    pub(crate) fn set_used_event(&self, event: u16) {
        // SAFETY: invariants 1 and 2: the word behind the entries.
        let word = unsafe { self.avail.word_u16(self.mask as usize * 2 + 6) };
        word.store(event.to_le(), Ordering::Relaxed);
    }

    /// Reads the used index: everything the device wrote before it is visible.
    #[inline]
    pub(crate) fn used_idx_acquire(&self) -> u16 {
        // SAFETY: invariants 1 and 2: the second word.
        let word = unsafe { self.used.word_u16(2) };
        u16::from_le(word.load(Ordering::Acquire))
    }

    /// Reads the used ring's flags.
    #[inline]
    pub(crate) fn used_flags(&self) -> u16 {
        // SAFETY: invariants 1 and 2: the first word.
        let word = unsafe { self.used.word_u16(0) };
        u16::from_le(word.load(Ordering::Relaxed))
    }

    /// Reads `avail_event`.
    #[inline]
    pub(crate) fn avail_event(&self) -> u16 {
        let offset = 4 + 8 * (self.mask as usize + 1);
        // SAFETY: invariants 1 and 2: the word behind the elements.
        let word = unsafe { self.used.word_u16(offset) };
        u16::from_le(word.load(Ordering::Relaxed))
    }

    /// Reads an entry of the used ring: id and length, each once.
    #[inline]
    pub(crate) fn used_element(&self, index: u32) -> (u32, u32) {
        let offset = 4 + 8 * (index & self.mask) as usize;
        // SAFETY: invariants 1 and 2: the index is masked.
        let id = unsafe { self.used.get_u32(offset) };
        // SAFETY: as above; an element has two words.
        let len = unsafe { self.used.get_u32(offset + 4) };
        (id, len)
    }
}

/// Entries of the available ring that follow each other.
pub(crate) struct AvailRun<'a> {
    avail: Area,
    /// The next one, and the end: offsets in the area, whole entries apart, and not the other way
    /// round.
    at: usize,
    end: usize,
    memory: PhantomData<&'a ()>,
}

impl SplitWords<'_> {
    /// The entries from an index on: `most` of them, or those up to the end of the ring.
    #[inline(always)] // so that it is in registers
    pub(crate) fn avail_run(&self, index: u32, most: u32) -> AvailRun<'_> {
        let first = (index & self.mask) as usize;
        let num = (most as usize).min((self.mask as usize).wrapping_sub(first).wrapping_add(1));
        let at = first.wrapping_mul(2).wrapping_add(4);
        AvailRun {
            avail: self.avail.again(),
            at,
            end: at.wrapping_add(num.wrapping_mul(2)),
            memory: PhantomData,
        }
    }

    /// The used elements from an index on: `most` of them, or those up to the end of the ring.
    #[inline(always)] // so that it is in registers
    pub(crate) fn used_run(&self, index: u32, most: u32) -> UsedRun<'_> {
        let first = (index & self.mask) as usize;
        let num = (most as usize).min((self.mask as usize).wrapping_sub(first).wrapping_add(1));
        let at = first.wrapping_mul(8).wrapping_add(4);
        UsedRun {
            used: self.used.again(),
            at,
            end: at.wrapping_add(num.wrapping_mul(8)),
            memory: PhantomData,
        }
    }
}

impl AvailRun<'_> {
    /// Whether there is no other.
    #[inline(always)] // a comparison
    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.end
    }

    /// Writes the next one, if there is one.
    #[inline(always)] // one store
    pub(crate) fn push(&mut self, head: u16) {
        if !self.is_empty() {
            // SAFETY: invariants 1 and 2: from the first entry to the end of the run, which is not
            // behind that of the ring, by steps of one entry.
            unsafe { self.avail.set_u16(self.at, head) };
            self.at = self.at.wrapping_add(2);
        }
    }
}

impl AvailRun<'_> {
    /// Leaves the next one, if there is one, as it is.
    #[inline(always)] // an addition
    pub(crate) fn pass(&mut self) {
        if !self.is_empty() {
            self.at = self.at.wrapping_add(2);
        }
    }
}

/// Used elements that follow each other.
pub(crate) struct UsedRun<'a> {
    used: Area,
    /// The next one, and the end: offsets in the area, whole elements apart, and not the other way
    /// round.
    at: usize,
    end: usize,
    memory: PhantomData<&'a ()>,
}

impl UsedRun<'_> {
    /// Reads the next one, if there is one: id and length, each once.
    #[inline(always)] // two loads
    pub(crate) fn next(&mut self) -> Option<(u32, u32)> {
        if self.at == self.end {
            return None;
        }
        let at = self.at;
        // SAFETY: invariants 1 and 2: from the first element to the end of the run, which is not
        // behind that of the ring, by steps of one element.
        let id = unsafe { self.used.get_u32(at) };
        // SAFETY: as above; an element has two words.
        let len = unsafe { self.used.get_u32(at.wrapping_add(4)) };
        self.at = at.wrapping_add(8);
        Some((id, len))
    }
}

/// Tells the compiler that the end of a ring is a rare place.
#[cold]
fn beyond() {}

/// A packed ring in one block.
pub(crate) struct PackedMemory<P: Platform> {
    words: PackedWords<'static>,
    layout: layout::PackedLayout,
    region: DmaRegion<P>,
}

/// The words of a packed ring, as [`SplitWords`].
pub(crate) struct PackedWords<'a> {
    desc: Area,
    driver: Area,
    device: Area,
    /// Bytes of the table: of whole descriptors, and of one at least.
    size: usize,
    /// The places below it, if any, have [`NEAR`] descriptors before the end of the table.
    far: usize,
    memory: PhantomData<&'a ()>,
}

/// The place of a descriptor in a packed ring's table. It may be beyond the table's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// In bytes: a multiple of [`DESCRIPTOR`].
    offset: usize,
}

/// Bytes of a descriptor.
const DESCRIPTOR: usize = 16;

/// The most descriptors that are written in one go.
const NEAR: usize = 4;

impl Place {
    /// Place `index`, from 0.
    #[inline]
    pub(crate) const fn new(index: u32) -> Self {
        Self {
            offset: (index as usize).wrapping_mul(DESCRIPTOR),
        }
    }

    /// From 0.
    #[inline]
    pub(crate) const fn index(self) -> u32 {
        (self.offset / DESCRIPTOR) as u32
    }

    /// The place `by` descriptors on.
    #[inline]
    pub(crate) const fn on(self, by: u32) -> Self {
        Self {
            offset: self
                .offset
                .wrapping_add((by as usize).wrapping_mul(DESCRIPTOR)),
        }
    }
}

// SAFETY: the pointers lie in the region, which may move between threads.
unsafe impl<P: Platform + Send> Send for PackedMemory<P> {}

impl<P: Platform> PackedMemory<P> {
    /// Lays a ring of `num` descriptors out in a region.
    pub(crate) fn new(region: DmaRegion<P>, num: u16) -> Result<Self, LayoutError> {
        let layout = layout::packed_init(num)?;
        let have = region.layout();
        if have.size() < layout.size() || have.align() < layout.alignment() {
            let align = layout.alignment();
            return Err(LayoutError::TooLarge { num, align });
        }
        let at = |offset: usize| {
            // SAFETY: invariant 1: every offset of the layout is below its size, and the region
            // is at least that large.
            unsafe { region.ptr().add(offset) }
        };
        let words = PackedWords {
            desc: Area::new(at(layout.desc), Shape::PackedDescriptors, num.into()),
            driver: Area::new(at(layout.driver), Shape::Event, 1),
            device: Area::new(at(layout.device), Shape::Event, 1),
            size: usize::from(num) * DESCRIPTOR,
            far: (usize::from(num) * DESCRIPTOR).saturating_sub(NEAR * DESCRIPTOR - 1),
            memory: PhantomData,
        };
        Ok(Self {
            words,
            layout,
            region,
        })
    }

    /// Its words.
    #[inline(always)] // a few loads, of what is used
    pub(crate) fn words(&self) -> PackedWords<'_> {
        PackedWords {
            desc: self.words.desc.again(),
            driver: self.words.driver.again(),
            device: self.words.device.again(),
            size: self.words.size,
            far: self.words.far,
            memory: PhantomData,
        }
    }

    /// Bytes of the block.
    pub(crate) fn size(&self) -> usize {
        self.region.layout().size()
    }

    /// Where the device finds the three areas.
    pub(crate) fn areas(&self) -> QueueAreas {
        let at = |offset: usize| DmaAddr(self.region.addr().0.wrapping_add(offset as u64));
        QueueAreas {
            desc: at(self.layout.desc),
            driver: at(self.layout.driver),
            device: at(self.layout.device),
        }
    }

    /// As [`SplitMemory::expose`].
    pub(crate) fn expose(
        &self,
        transport: &mut impl Transport,
        queue: QueueIndex,
        vector: Option<u16>,
    ) -> Result<Doorbell, TransportError> {
        // SAFETY: as for a split ring.
        unsafe { transport.enable_queue(queue, self.words.num(), &self.areas(), vector) }
    }

    /// The three areas, for a device in a model.
    #[cfg(all(test, vring_loom))]
    pub(crate) fn model(&self) -> [Area; 3] {
        let words = self.words();
        [words.desc, words.driver, words.device]
    }
}

impl PackedWords<'_> {
    /// Queue size.
    #[inline]
    pub(crate) fn num(&self) -> u16 {
        (self.size / DESCRIPTOR) as u16
    }

    /// The descriptor at a place, which is brought back into the table first when it is beyond the
    /// end; whether it was.
    #[inline(always)] // a comparison
    pub(crate) fn descriptor(&self, at: &mut Place) -> (PackedDescriptor<'_>, bool) {
        let wraps = at.offset >= self.size;
        if wraps {
            beyond();
            // What is left is whole descriptors, as the table is.
            at.offset = at.offset.checked_rem(self.size).unwrap_or(0);
        }
        let descriptor = PackedDescriptor {
            desc: &self.desc,
            offset: at.offset,
        };
        (descriptor, wraps)
    }

    /// `N` descriptors from a place on; `None` when it is nearer to the end of the table than
    /// [`NEAR`] descriptors, or when there are more of them.
    #[inline(always)] // a comparison
    pub(crate) fn descriptors<const N: usize>(
        &self,
        at: Place,
    ) -> Option<[PackedDescriptor<'_>; N]> {
        // Below `far` there are `NEAR` descriptors in the table.
        if N > NEAR || at.offset >= self.far {
            return None;
        }
        Some(core::array::from_fn(|k| PackedDescriptor {
            desc: &self.desc,
            offset: at.offset.wrapping_add(k.wrapping_mul(DESCRIPTOR)),
        }))
    }

    /// The descriptors from a place on: `most` of them, or those up to the end of the ring.
    #[inline(always)] // so that it is in registers
    pub(crate) fn run(&self, at: Place, most: u32) -> PackedRun<'_> {
        let most = (most as usize).saturating_mul(DESCRIPTOR);
        PackedRun {
            desc: self.desc.again(),
            // A place that is beyond the end of the table has none.
            end: at.offset.saturating_add(most).min(self.size),
            memory: PhantomData,
        }
    }

    /// Writes the driver's event structure: `off_wrap` in the low half, flags in the high one.
    #[inline]
    pub(crate) fn set_driver_event(&self, event: u32) {
        // SAFETY: invariants 1 and 2: the structure is one word.
        let word = unsafe { self.driver.word_u32(0) };
        word.store(event.to_le(), Ordering::Relaxed);
    }

    /// Reads the device's event structure.
    #[inline]
    pub(crate) fn device_event(&self) -> u32 {
        // SAFETY: invariants 1 and 2: the structure is one word.
        let word = unsafe { self.device.word_u32(0) };
        u32::from_le(word.load(Ordering::Relaxed))
    }
}

/// A descriptor of a packed ring.
pub(crate) struct PackedDescriptor<'a> {
    desc: &'a Area,
    /// In the table, which ends a whole descriptor behind it or later.
    offset: usize,
}

impl PackedDescriptor<'_> {
    /// Writes it: address; then length, id and flags.
    #[inline(always)] // two stores
    pub(crate) fn set(&self, addr: u64, second: u64) {
        self.set_addr(addr);
        self.set_word(second);
    }

    /// Writes the first word: the address.
    #[inline(always)] // one store
    pub(crate) fn set_addr(&self, addr: u64) {
        // SAFETY: invariants 1 and 2: a descriptor of the ring.
        unsafe { self.desc.set_u64(self.offset, addr) };
    }

    /// Writes the second word: length, id, flags.
    #[inline(always)] // one store
    pub(crate) fn set_word(&self, second: u64) {
        self.store(second, Ordering::Relaxed);
    }

    /// Writes the second word: everything written before is visible to who reads it.
    #[inline(always)] // one store
    pub(crate) fn set_word_release(&self, second: u64) {
        self.store(second, Ordering::Release);
    }

    #[inline(always)] // one store
    fn store(&self, second: u64, order: Ordering) {
        // SAFETY: invariants 1 and 2: a descriptor of the ring has two words.
        unsafe { self.desc.store_u64(self.offset + 8, second, order) };
    }

    /// Reads the second word: everything the device wrote before is visible.
    #[inline(always)] // one load
    pub(crate) fn word_acquire(&self) -> u64 {
        // SAFETY: invariants 1 and 2: a descriptor of the ring has two words.
        unsafe { self.desc.load_u64(self.offset + 8, Ordering::Acquire) }
    }
}

/// Descriptors of a packed ring up to a place.
pub(crate) struct PackedRun<'a> {
    desc: Area,
    /// An offset in the table, not behind its end.
    end: usize,
    memory: PhantomData<&'a ()>,
}

impl PackedRun<'_> {
    /// Whether a place is in it.
    #[inline(always)] // a comparison
    pub(crate) fn has(&self, at: Place) -> bool {
        at.offset < self.end
    }

    /// Writes a descriptor, if it is in the run: address; then length, id and flags.
    #[inline(always)] // two stores
    pub(crate) fn set_descriptor(&self, at: Place, addr: u64, second: u64) {
        if self.has(at) {
            // SAFETY: invariants 1 and 2: a descriptor before the end of the run, which is not
            // behind that of the ring.
            unsafe { self.desc.set_u64(at.offset, addr) };
            // SAFETY: as above; it has two words.
            unsafe {
                self.desc
                    .store_u64(at.offset + 8, second, Ordering::Relaxed)
            };
        }
    }
}

/// Indirect tables, one per slot, in one region.
pub(crate) struct TableMemory<P: Platform> {
    tables: Area,
    num: u16,
    entries: u16,
    region: DmaRegion<P>,
}

// SAFETY: the pointer lies in the region, which may move between threads.
unsafe impl<P: Platform + Send> Send for TableMemory<P> {}

impl<P: Platform> TableMemory<P> {
    /// Room for `entries` descriptors per slot.
    pub(crate) fn layout(num: u16, entries: u16) -> Option<core::alloc::Layout> {
        let size = usize::from(num)
            .checked_mul(usize::from(entries))?
            .checked_mul(16)?;
        core::alloc::Layout::from_size_align(size, layout::DESC_ALIGN_SIZE).ok()
    }

    /// Lays tables out in a region; `None` when it is too small.
    pub(crate) fn new(region: DmaRegion<P>, num: u16, entries: u16) -> Option<Self> {
        if region.layout().size() < Self::layout(num, entries)?.size() {
            return None;
        }
        Some(Self {
            tables: Area::new(
                region.ptr(),
                Shape::Descriptors,
                usize::from(num) * usize::from(entries),
            ),
            num,
            entries,
            region,
        })
    }

    /// Descriptors of a table.
    #[inline]
    pub(crate) fn entries(&self) -> u16 {
        self.entries
    }

    /// Bytes of the region.
    pub(crate) fn size(&self) -> usize {
        self.region.layout().size()
    }

    /// Where the device finds a slot's table.
    #[inline]
    pub(crate) fn addr(&self, slot: u16) -> u64 {
        let offset = usize::from(slot) * usize::from(self.entries) * 16;
        self.region.addr().0.wrapping_add(offset as u64)
    }

    /// Writes an entry of a slot's table; the second word is of the format's making. One that does
    /// not exist is not written.
    #[inline]
    pub(crate) fn set(&self, slot: u16, entry: u16, addr: u64, second: u64) {
        if slot >= self.num || entry >= self.entries {
            return;
        }
        let index = usize::from(slot) * usize::from(self.entries) + usize::from(entry);
        // SAFETY: invariants 1 and 2: slot and entry were just checked.
        unsafe { self.tables.set_u64(index * 16, addr) };
        // SAFETY: as above; a descriptor has two words.
        unsafe { self.tables.set_u64(index * 16 + 8, second) };
    }

    /// The tables, for a device in a model.
    #[cfg(all(test, vring_loom))]
    pub(crate) fn model(&self) -> Area {
        self.tables.clone()
    }
}

/// Header and reply cells, one of each per slot, in one region.
pub(crate) struct CellMemory<P: Platform> {
    view: Cells,
    region: DmaRegion<P>,
}

// SAFETY: the pointer of the view lies in the region, which may move between threads.
unsafe impl<P: Platform + Send> Send for CellMemory<P> {}

/// Where the cells are. Only ever borrowed from the [`CellMemory`] that owns them.
pub(crate) struct Cells {
    base: NonNull<u8>,
    addr: u64,
    stride: usize,
    header: u16,
    reply: u16,
    num: u16,
}

impl<P: Platform> CellMemory<P> {
    /// Room for a header and a reply of so many bytes per slot.
    pub(crate) fn layout(num: u16, header: u16, reply: u16) -> Option<core::alloc::Layout> {
        let size = Self::stride(header, reply).checked_mul(usize::from(num))?;
        core::alloc::Layout::from_size_align(size, Self::LINE).ok()
    }

    /// Bytes of a cache line.
    const LINE: usize = 64;

    /// What a cell begins at a multiple of.
    const ALIGN: usize = 16;

    /// Bytes from a slot's cells to the next. A reply is written by the device while the driver
    /// writes the next header: in a line that two slots share, each would wait for the other.
    fn stride(header: u16, reply: u16) -> usize {
        let end = Self::reply_offset(header) + usize::from(reply);
        let align = if reply == 0 { Self::ALIGN } else { Self::LINE };
        end.next_multiple_of(align)
    }

    fn reply_offset(header: u16) -> usize {
        usize::from(header).next_multiple_of(Self::ALIGN)
    }

    /// Lays cells out in a region; `None` when it is too small.
    pub(crate) fn new(region: DmaRegion<P>, num: u16, header: u16, reply: u16) -> Option<Self> {
        let needed = Self::layout(num, header, reply)?;
        if region.layout().size() < needed.size() || num == 0 {
            return None;
        }
        let view = Cells {
            base: region.ptr(),
            addr: region.addr().0,
            stride: Self::stride(header, reply),
            header,
            reply,
            num,
        };
        Some(Self { view, region })
    }

    /// The cells.
    #[inline]
    pub(crate) fn view(&self) -> &Cells {
        &self.view
    }

    /// Bytes of the region.
    pub(crate) fn size(&self) -> usize {
        self.region.layout().size()
    }
}

impl Cells {
    /// Bytes of a header cell.
    #[inline]
    pub(crate) fn header_size(&self) -> u16 {
        self.header
    }

    /// Bytes of a reply cell.
    #[inline]
    pub(crate) fn reply_size(&self) -> u16 {
        self.reply
    }

    #[inline]
    fn slot(&self, slot: u16) -> usize {
        usize::from(if slot < self.num { slot } else { 0 }) * self.stride
    }

    fn reply_at(&self, slot: u16) -> usize {
        self.slot(slot) + usize::from(self.header).next_multiple_of(16)
    }

    /// Copies a header into a slot's cell (as much as the cell holds); where the device finds it.
    #[inline]
    pub(crate) fn set_header(&self, slot: u16, bytes: &[u8]) -> u64 {
        let offset = self.slot(slot);
        let len = bytes.len().min(usize::from(self.header));
        // SAFETY: invariant 1: the slot is below `num`.
        let cell = unsafe { self.base.add(offset) };
        // SAFETY: invariants 1 and 3; `len` is at most the cell's size, and the bytes of a caller
        // are never device memory.
        unsafe { cell.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), len) };
        self.addr.wrapping_add(offset as u64)
    }

    /// Fills a slot's reply cell with ones, so that an answer that was never written shows;
    /// where the device finds it.
    #[inline]
    pub(crate) fn reset_reply(&self, slot: u16) -> u64 {
        let offset = self.reply_at(slot);
        // SAFETY: invariant 1: the slot is below `num`.
        let cell = unsafe { self.base.add(offset) };
        // SAFETY: invariants 1 and 3.
        unsafe { cell.as_ptr().write_bytes(0xff, usize::from(self.reply)) };
        self.addr.wrapping_add(offset as u64)
    }

    /// Copies a slot's reply out, each byte read once.
    pub(crate) fn read_reply(&self, slot: u16, dst: &mut [u8]) {
        let offset = self.reply_at(slot);
        for (i, byte) in dst.iter_mut().enumerate().take(usize::from(self.reply)) {
            // SAFETY: invariant 1: the slot is below `num` and `i` is below the cell's size.
            let cell = unsafe { self.base.add(offset + i) };
            // SAFETY: invariants 1 and 3.
            *byte = unsafe { cell.read_volatile() };
        }
    }
}
