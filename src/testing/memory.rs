//! The only unsafe file of the test doubles: blocks of memory, lent buffers, and the platforms'
//! side of the contract.
//!
//! Every pointer here is used with the provenance that it came with. A bus address is a number in
//! a table, never a pointer, so that Miri checks the driver under strict provenance.
//!
//! Two kinds of memory are behind a bus address:
//!
//! * A [`Block`] belongs to the fake. Views of it keep it allocated, so that a device which uses
//!   it after the driver freed it is trapped instead of reading freed memory.
//! * A [`Lent`] buffer belongs to the driver. It is touched under the table's lock only, and the
//!   table forgets it when it is unmapped.
//!
//! Ring words are touched with the widths that the driver uses (`u16`, `u32`, and `u64` for the
//! halves of a descriptor), because atomic accesses of mixed sizes that race are undefined.

use alloc::sync::Arc;
use core::alloc::Layout;
use core::ptr::NonNull;
#[cfg(target_pointer_width = "64")]
use core::sync::atomic::AtomicU64;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};

use super::books::Core;
use super::platform::{Fake, Kind};
use crate::platform::{Access, Direction, DmaError, Mapping, Platform, RawRegion, Wait};

/// What freed memory is filled with.
const FREED: u8 = 0xdd;

/// Memory that the fake owns. Freed when the table and every view have let go of it.
pub(super) struct Block {
    ptr: NonNull<u8>,
    layout: Layout,
    live: AtomicBool,
}

// SAFETY: the block owns its memory, and is only touched through raw pointers.
unsafe impl Send for Block {}
// SAFETY: as for `Send`. Ring words are atomics; bytes are ordered by the protocol of the ring,
// and Miri reports a driver that breaks it.
unsafe impl Sync for Block {}

impl Block {
    /// A block of that layout, zeroed. `None` when the heap is empty or the layout is.
    pub(super) fn zeroed(layout: Layout) -> Option<Arc<Self>> {
        if layout.size() == 0 {
            return None;
        }
        // SAFETY: the size is not 0.
        let ptr = NonNull::new(unsafe { alloc::alloc::alloc_zeroed(layout) })?;
        Some(Arc::new(Self {
            ptr,
            layout,
            live: AtomicBool::new(true),
        }))
    }

    pub(super) fn pointer(&self) -> NonNull<u8> {
        self.ptr
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    /// From now on every access through a view is a trap.
    pub(super) fn retire(&self) {
        self.live.store(false, Ordering::Relaxed);
    }

    fn is_live(&self) -> bool {
        self.live.load(Ordering::Relaxed)
    }

    pub(super) fn read(&self, offset: usize, into: &mut [u8]) {
        let (from, len) = (self.at(offset, into.len()), into.len());
        // SAFETY: the range is inside the block, and `into` is a different allocation.
        unsafe { from.copy_to_nonoverlapping(NonNull::from(into).cast(), len) }
    }

    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.at(offset, bytes.len());
        // SAFETY: the range is inside the block, and `bytes` is a different allocation.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) }
    }

    pub(super) fn fill(&self, byte: u8) {
        // SAFETY: the whole block is ours.
        unsafe { self.ptr.write_bytes(byte, self.layout.size()) }
    }

    fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
        let inside = offset
            .checked_add(len)
            .is_some_and(|end| end <= self.layout.size());
        assert!(
            inside,
            "{len} bytes at {offset} of a block of {}",
            self.layout.size()
        );
        // SAFETY: the offset is inside the block.
        unsafe { self.ptr.add(offset) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.fill(FREED);
        // SAFETY: it was allocated with this layout, and nobody has a view any more.
        unsafe { alloc::alloc::dealloc(self.ptr.as_ptr(), self.layout) }
    }
}

/// A part of a block, as the device sees the area of a ring: words at offsets.
#[derive(Clone)]
pub(super) struct Words {
    block: Arc<Block>,
    start: usize,
    len: usize,
}

impl Words {
    /// `len` bytes of the block from `start`; the table has checked that they are there.
    pub(super) fn new(block: Arc<Block>, start: usize, len: usize) -> Self {
        assert!(
            start
                .checked_add(len)
                .is_some_and(|end| end <= block.layout.size())
        );
        Self { block, start, len }
    }

    /// Whether the driver has not freed it.
    pub(super) fn is_live(&self) -> bool {
        self.block.is_live()
    }

    fn word<T>(&self, offset: usize) -> NonNull<T> {
        assert!(
            self.block.is_live(),
            "bug-54: the device is live and its ring was freed (offset {offset})"
        );
        let inside = offset
            .checked_add(size_of::<T>())
            .is_some_and(|end| end <= self.len);
        assert!(
            inside,
            "a word at {offset} of an area of {} bytes",
            self.len
        );
        let word = self
            .block
            .at(self.start + offset, size_of::<T>())
            .cast::<T>();
        assert!(
            word.is_aligned(),
            "a word of {} bytes at {word:p}",
            size_of::<T>()
        );
        word
    }
}

macro_rules! words {
    ($($load:ident, $store:ident: $atomic:ident of $int:ty;)*) => { impl Words {$(
        pub(super) fn $load(&self, offset: usize, order: Ordering) -> $int {
            let word = self.word::<$int>(offset).as_ptr();
            // SAFETY: `word` checked that it is inside a block that we keep, and aligned.
            <$int>::from_le(unsafe { $atomic::from_ptr(word) }.load(order))
        }

        pub(super) fn $store(&self, offset: usize, value: $int, order: Ordering) {
            let word = self.word::<$int>(offset).as_ptr();
            // SAFETY: `word` checked that it is inside a block that we keep, and aligned.
            unsafe { $atomic::from_ptr(word) }.store(value.to_le(), order);
        }
    )*} };
}

words! {
    load_u16, store_u16: AtomicU16 of u16;
    load_u32, store_u32: AtomicU32 of u32;
}

#[cfg(target_pointer_width = "64")]
words! {
    load_u64, store_u64: AtomicU64 of u64;
}

/// In halves, as the driver has them: the upper one carries the order.
#[cfg(not(target_pointer_width = "64"))]
impl Words {
    pub(super) fn load_u64(&self, offset: usize, order: Ordering) -> u64 {
        let upper = self.load_u32(offset + 4, order);
        u64::from(upper) << 32 | u64::from(self.load_u32(offset, Ordering::Relaxed))
    }

    pub(super) fn store_u64(&self, offset: usize, value: u64, order: Ordering) {
        self.store_u32(offset, value as u32, Ordering::Relaxed);
        self.store_u32(offset + 4, (value >> 32) as u32, order);
    }
}

/// A buffer of the driver, from `map` to `unmap`.
pub(super) struct Lent(NonNull<[u8]>);

// SAFETY: whoever mapped it has lent it to the device, on whatever thread that runs.
unsafe impl Send for Lent {}

impl Lent {
    /// # Safety
    /// The buffer is valid as [`Platform::map`] demands, for as long as this value is used.
    unsafe fn new(buf: NonNull<[u8]>) -> Self {
        Self(buf)
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn pointer(&self) -> NonNull<u8> {
        self.0.cast()
    }

    pub(super) fn read(&self, offset: usize, into: &mut [u8]) {
        let (from, len) = (self.at(offset, into.len()), into.len());
        // SAFETY: `new` made it valid, `at` checked the range, and `into` is not lent memory.
        unsafe { from.copy_to_nonoverlapping(NonNull::from(into).cast(), len) }
    }

    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.at(offset, bytes.len());
        // SAFETY: as in `read`; the table lets only writable buffers get here.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) }
    }

    /// The first bytes of it.
    fn prefix(&self, len: usize) -> Self {
        Self(NonNull::slice_from_raw_parts(
            self.pointer(),
            len.min(self.len()),
        ))
    }

    fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len());
        assert!(
            inside,
            "{len} bytes at {offset} of a buffer of {}",
            self.len()
        );
        // SAFETY: the offset is inside the buffer.
        unsafe { self.pointer().add(offset) }
    }
}

// SAFETY: 1. `Core::alloc` hands out a zeroed block of that layout at an address of its own.
// 2. `Core::map` enters exactly the piece that it returns. 3. Clones share the core.
unsafe impl<K: Kind> Platform for Fake<K> {
    const DIRECT: bool = K::DIRECT;

    fn access(&self) -> Access {
        self.core().access()
    }

    fn alloc(&self, layout: Layout) -> Result<RawRegion, DmaError> {
        let (addr, block) = self.core().alloc(layout)?;
        Ok(RawRegion {
            ptr: block.pointer(),
            addr,
            layout,
        })
    }

    unsafe fn dealloc(&self, region: RawRegion) {
        self.core().dealloc(region.addr, region.ptr, region.layout);
    }

    unsafe fn map(&self, buf: NonNull<[u8]>, direction: Direction) -> Result<Mapping, DmaError> {
        // SAFETY: the caller vouches for the buffer until it is unmapped. With `DIRECT`, until
        // the device returns it: the fake device ends the lease before it publishes the return.
        let lent = unsafe { Lent::new(buf) };
        let len = self.core().piece(&lent);
        let (addr, token) = self.core().map(lent.prefix(len), direction)?;
        Ok(Mapping {
            addr,
            // `piece` is at most `u32::MAX`.
            len: len as u32,
            ptr: buf.cast(),
            token,
        })
    }

    unsafe fn unmap(&self, mapping: Mapping, direction: Direction, used: u32) {
        Core::unmap(self.core(), &mapping, direction, used);
    }

    fn wait(&self, what: Wait, polls: u32) -> bool {
        self.core().wait(what, polls)
    }

    fn leaked(&self, bytes: usize, buffers: usize) {
        self.core().leaked(bytes, buffers);
    }
}
