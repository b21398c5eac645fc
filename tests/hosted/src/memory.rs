//! Memory that this process and a back end share, and nothing else.
//!
//! A [`Region`] is one memfd, mapped here; the back end maps it where it likes. A byte of it has
//! three addresses, and they are told apart on purpose: the pointer in this process, the pointer in
//! the back end, and the *guest-physical* address of descriptors, which starts at [`GUEST_BASE`].
//! Mixing them up finds no memory.
//!
//! [`Shared`] is the [`Platform`]: rings come from the region, and buffers must lie in it, as
//! [`PoolBuf`]s do. [`Bouncing`] takes buffers from anywhere and copies them through the region.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd as _;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::{FileOffset, MmapRegion};
use vring::buffer::{DmaBuf, Segment, StableBytes, StableBytesMut, Window};
use vring::platform::{Direction, DmaAddr, DmaError, Mapping, Platform, RawRegion, Wait};

/// Guest-physical address of a region's first byte.
pub const GUEST_BASE: u64 = 0x5_0000_0000;

/// How long a wait of the crate lasts at most, in polls of a millisecond.
const PATIENCE: u32 = 500;

/// Pages of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// What the system has anyway.
    Plain,
    /// Pages of 2 MiB, which the system must have reserved.
    Huge,
}

impl Pages {
    /// Bytes of a page.
    #[must_use]
    pub const fn size(self) -> usize {
        match self {
            Self::Plain => 4 << 10,
            Self::Huge => 2 << 20,
        }
    }
}

/// A memfd that both sides map.
#[derive(Debug)]
pub struct Region {
    map: ManuallyDrop<MmapRegion>,
    /// Free extents: offset and length, none of which touch.
    free: Mutex<BTreeMap<usize, usize>>,
    leaked_bytes: AtomicUsize,
    leaked_buffers: AtomicUsize,
}

impl Region {
    /// A region of `size` bytes, all of them zero.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(size: usize) -> io::Result<Arc<Self>> {
        Self::with_pages(size, Pages::Plain)
    }

    /// A region of `size` bytes and what is missing to a whole page, all of them zero.
    ///
    /// # Errors
    /// What the system says: that it has not so many pages of that size, for one.
    pub fn with_pages(size: usize, pages: Pages) -> io::Result<Arc<Self>> {
        let size = size.next_multiple_of(pages.size());
        let flags = match pages {
            Pages::Plain => MemfdFlags::CLOEXEC,
            Pages::Huge => MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
        };
        let file = memfd_create("vring", flags)?;
        ftruncate(&file, size as u64)?;
        if pages == Pages::Huge {
            // A page that is missing later would be a signal rather than an error.
            fallocate(&file, FallocateFlags::empty(), 0, size as u64)?;
        }
        let file = FileOffset::new(File::from(file), 0);
        let map = MmapRegion::from_file(file, size).map_err(io::Error::other)?;
        Ok(Arc::new(Self {
            map: ManuallyDrop::new(map),
            free: Mutex::new(BTreeMap::from([(0, size)])),
            leaked_bytes: AtomicUsize::new(0),
            leaked_buffers: AtomicUsize::new(0),
        }))
    }

    fn free(&self) -> MutexGuard<'_, BTreeMap<usize, usize>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that are not allocated.
    #[must_use]
    pub fn free_bytes(&self) -> usize {
        self.free().values().sum()
    }

    /// What was reported as leaked: bytes of rings and cells, and buffers.
    #[must_use]
    pub fn leaked(&self) -> (usize, usize) {
        let bytes = self.leaked_bytes.load(Ordering::Relaxed);
        (bytes, self.leaked_buffers.load(Ordering::Relaxed))
    }

    /// Takes the first extent that a layout fits in.
    fn take(&self, layout: Layout) -> Option<usize> {
        let (size, align) = (layout.size(), layout.align());
        // The map starts at a page: what is aligned in the region is aligned in memory.
        assert!(align <= 4096, "an alignment of {align} is beyond a page");
        let mut free = self.free();
        let (&start, &len) = free.iter().find(|&(&start, &len)| {
            let skip = start.next_multiple_of(align) - start;
            len.checked_sub(skip).is_some_and(|left| left >= size)
        })?;
        let at = start.next_multiple_of(align);
        free.remove(&start);
        if at > start {
            free.insert(start, at - start);
        }
        if start + len > at + size {
            free.insert(at + size, start + len - at - size);
        }
        Some(at)
    }

    /// Gives an extent back.
    fn give(&self, mut at: usize, mut size: usize) {
        let mut free = self.free();
        if let Some(behind) = free.remove(&(at + size)) {
            size += behind;
        }
        if let Some((&before, &len)) = free.range(..at).next_back() {
            assert!(before + len <= at, "{at:#x} is freed twice");
            if before + len == at {
                free.remove(&before);
                (at, size) = (before, size + len);
            }
        }
        assert!(free.insert(at, size).is_none(), "{at:#x} is freed twice");
    }

    fn ptr(&self, offset: usize) -> NonNull<u8> {
        assert!(offset <= self.map.size(), "{offset:#x} is no offset");
        let start = NonNull::new(self.map.as_ptr()).expect("a mapping is not at 0");
        // SAFETY: the offset lies in the mapping, or just behind it.
        unsafe { start.add(offset) }
    }

    /// The offset of `len` bytes from `ptr`, when all of them are in the region.
    #[inline]
    fn offset_of(&self, ptr: NonNull<u8>, len: usize) -> Option<usize> {
        let offset = ptr.addr().get().checked_sub(self.map.as_ptr().addr())?;
        (offset.checked_add(len)? <= self.map.size()).then_some(offset)
    }

    /// Where this process has the byte of a guest-physical address.
    #[must_use]
    pub fn user_address(&self, addr: DmaAddr) -> Option<u64> {
        let offset = usize::try_from(addr.0.checked_sub(GUEST_BASE)?).ok()?;
        (offset < self.map.size()).then(|| self.map.as_ptr().addr() as u64 + offset as u64)
    }

    /// The region as a row of a vhost-user memory table.
    #[must_use]
    pub fn table_row(&self) -> VhostUserMemoryRegionInfo {
        let file = self.map.file_offset().expect("it was made of a file");
        VhostUserMemoryRegionInfo {
            guest_phys_addr: GUEST_BASE,
            memory_size: self.map.size() as u64,
            userspace_addr: self.map.as_ptr().addr() as u64,
            mmap_offset: file.start(),
            mmap_handle: file.file().as_raw_fd(),
        }
    }

    fn alloc(&self, layout: Layout) -> Result<RawRegion, DmaError> {
        let (size, align) = (layout.size(), layout.align());
        let no_memory = DmaError::OutOfMemory { size, align };
        let offset = self.take(layout).ok_or(no_memory)?;
        let ptr = self.ptr(offset);
        // SAFETY: the extent is in the mapping, and was nobody's.
        unsafe { ptr.write_bytes(0, size) };
        let addr = DmaAddr(GUEST_BASE + offset as u64);
        Ok(RawRegion { ptr, addr, layout })
    }

    fn dealloc(&self, region: RawRegion) {
        let size = region.layout.size();
        let offset = self.offset_of(region.ptr, size);
        self.give(offset.expect("it is of this region"), size);
    }

    fn wait(polls: u32) -> bool {
        std::thread::sleep(Duration::from_millis(1));
        polls < PATIENCE
    }

    fn count_leak(&self, bytes: usize, buffers: usize) {
        self.leaked_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.leaked_buffers.fetch_add(buffers, Ordering::Relaxed);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // Where something was not given back, somebody may still use it.
        if self.free_bytes() == self.map.size() {
            // SAFETY: this is `drop`: the field is not used again.
            unsafe { ManuallyDrop::drop(&mut self.map) };
        }
    }
}

/// The platform whose buffers lie in the region.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Region>);

impl Shared {
    /// The platform over a region.
    #[must_use]
    pub fn new(region: &Arc<Region>) -> Self {
        Self(region.clone())
    }
}

// SAFETY: (1) `alloc` gives out extents of the region that are nobody else's, zeroed; the back end
// finds them at the guest-physical address, by the memory table. (2) A buffer in the region is at
// the same distance from its start there as here; one that is not is refused. (3) Clones share the
// region, which stays mapped while anything of it is allocated.
unsafe impl Platform for Shared {
    const DIRECT: bool = true;

    fn alloc(&self, layout: Layout) -> Result<RawRegion, DmaError> {
        self.0.alloc(layout)
    }

    unsafe fn dealloc(&self, region: RawRegion) {
        self.0.dealloc(region);
    }

    #[inline]
    unsafe fn map(&self, buf: NonNull<[u8]>, _: Direction) -> Result<Mapping, DmaError> {
        let (ptr, len) = (buf.cast::<u8>(), buf.len());
        let address = ptr.addr().get();
        let offset = self.0.offset_of(ptr, len);
        let offset = offset.ok_or(DmaError::Unmappable { address })?;
        Ok(Mapping {
            addr: DmaAddr(GUEST_BASE + offset as u64),
            len: len as u32,
            ptr,
            token: 0,
        })
    }

    #[inline]
    unsafe fn unmap(&self, _: Mapping, _: Direction, _: u32) {}

    fn wait(&self, _: Wait, polls: u32) -> bool {
        Region::wait(polls)
    }

    fn leaked(&self, bytes: usize, buffers: usize) {
        self.0.count_leak(bytes, buffers);
    }
}

/// The platform that copies buffers through the region: the device never sees the memory that they
/// are in.
#[derive(Clone, Debug)]
pub struct Bouncing(Arc<Region>);

impl Bouncing {
    /// The platform over a region.
    #[must_use]
    pub fn new(region: &Arc<Region>) -> Self {
        Self(region.clone())
    }
}

// SAFETY: (1) and (3) as for `Shared`. (2) Each mapping is an extent of its own, which holds a copy
// of the buffer, or receives one.
unsafe impl Platform for Bouncing {
    const DIRECT: bool = false;

    fn alloc(&self, layout: Layout) -> Result<RawRegion, DmaError> {
        self.0.alloc(layout)
    }

    unsafe fn dealloc(&self, region: RawRegion) {
        self.0.dealloc(region);
    }

    unsafe fn map(&self, buf: NonNull<[u8]>, direction: Direction) -> Result<Mapping, DmaError> {
        let (ptr, len) = (buf.cast::<u8>(), buf.len());
        let no_memory = DmaError::OutOfMemory {
            size: len,
            align: 1,
        };
        let layout = Layout::from_size_align(len, 1).map_err(|_| no_memory)?;
        let bounce = self.0.alloc(layout)?;
        if direction == Direction::Readable {
            // SAFETY: the buffer is readable (the contract of `map`), the extent is new.
            unsafe { bounce.ptr.copy_from_nonoverlapping(ptr, len) };
        }
        Ok(Mapping {
            addr: bounce.addr,
            len: len as u32,
            ptr,
            token: bounce.ptr.addr().get() - self.0.map.as_ptr().addr(),
        })
    }

    unsafe fn unmap(&self, mapping: Mapping, direction: Direction, used: u32) {
        let bounce = self.0.ptr(mapping.token);
        if direction == Direction::Writable {
            // SAFETY: the buffer is writable until now (the contract of `unmap`), the extent is the
            // mapping's, and `used` is at most its length.
            unsafe {
                mapping
                    .ptr
                    .copy_from_nonoverlapping(bounce, used.min(mapping.len) as usize);
            }
        }
        self.0.give(mapping.token, mapping.len as usize);
    }

    fn wait(&self, _: Wait, polls: u32) -> bool {
        Region::wait(polls)
    }

    fn leaked(&self, bytes: usize, buffers: usize) {
        self.0.count_leak(bytes, buffers);
    }
}

/// A block of the region with an owner.
#[derive(Debug)]
pub struct PoolBuf {
    region: Arc<Region>,
    raw: RawRegion,
}

impl PoolBuf {
    /// A block of `len` zeroes.
    ///
    /// # Errors
    /// [`DmaError::OutOfMemory`].
    pub fn new(region: &Arc<Region>, len: usize) -> Result<Self, DmaError> {
        let size = len.max(1);
        let no_memory = DmaError::OutOfMemory { size, align: 64 };
        let layout = Layout::from_size_align(size, 64).map_err(|_| no_memory)?;
        Ok(Self {
            region: region.clone(),
            raw: region.alloc(layout)?,
        })
    }
}

impl Drop for PoolBuf {
    fn drop(&mut self) {
        self.region.dealloc(self.raw);
    }
}

// SAFETY: the bytes are initialized, live in the region, and are this value's alone until it is
// dropped.
unsafe impl StableBytes for PoolBuf {
    fn bytes(&self) -> (NonNull<u8>, usize) {
        (self.raw.ptr, self.raw.layout.size())
    }
}

// SAFETY: as above; the pointer is the mapping's, and may be written through.
unsafe impl StableBytesMut for PoolBuf {
    fn bytes_mut(&mut self) -> (NonNull<u8>, usize) {
        self.bytes()
    }
}

impl Deref for PoolBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let (ptr, len) = self.bytes();
        // SAFETY: the bytes are initialized, and written by nobody while `self` is borrowed.
        unsafe { std::slice::from_raw_parts(ptr.as_ptr(), len) }
    }
}

impl DerefMut for PoolBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        let (ptr, len) = self.bytes_mut();
        // SAFETY: the bytes are initialized, and used by nobody else while `self` is borrowed.
        unsafe { std::slice::from_raw_parts_mut(ptr.as_ptr(), len) }
    }
}

/// Blocks that go to the device as one buffer, in as many segments.
#[derive(Debug)]
pub struct Chain<M> {
    /// The segments.
    pub pieces: Vec<Window<M>>,
    /// Which way the device uses them, all alike.
    pub direction: Direction,
}

// SAFETY: each piece obeys the contract of a block that may be written; the vector does not move
// what is behind it.
unsafe impl<M: StableBytesMut> DmaBuf for Chain<M> {
    fn count(&self) -> usize {
        self.pieces.len()
    }

    fn segment(&mut self, index: usize) -> Segment {
        let (ptr, len) = self.pieces[index].bytes_mut();
        // SAFETY: `StableBytesMut` promises what a segment of either direction needs.
        unsafe { Segment::new(ptr, len, self.direction) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 64 << 10;

    #[test]
    fn what_is_given_back_can_be_taken_again_in_one_piece() {
        let region = Region::new(SIZE).unwrap();
        let mut blocks: Vec<_> = (0..16)
            .map(|_| PoolBuf::new(&region, SIZE / 16).unwrap())
            .collect();
        assert!(PoolBuf::new(&region, 1).is_err());
        for index in [3, 9, 0, 5, 2, 7, 1] {
            drop(blocks.swap_remove(index));
        }
        drop(blocks);
        assert_eq!(region.free_bytes(), SIZE);
        let mut whole = PoolBuf::new(&region, SIZE).unwrap();
        whole.fill(1);
        drop(whole);
        assert!(PoolBuf::new(&region, SIZE).unwrap().iter().all(|&b| b == 0));
    }

    #[test]
    fn a_region_is_whole_pages() {
        let region = Region::with_pages(1, Pages::Plain).unwrap();
        assert_eq!(region.free_bytes(), Pages::Plain.size());
        // Where the system has huge pages to spare, one is as good.
        if let Ok(region) = Region::with_pages(1, Pages::Huge) {
            let mut whole = PoolBuf::new(&region, Pages::Huge.size()).unwrap();
            whole.fill(1);
            assert!(PoolBuf::new(&region, 1).is_err());
        }
    }

    #[test]
    fn only_what_the_back_end_can_reach_is_mapped() {
        let region = Region::new(SIZE).unwrap();
        let platform = Shared::new(&region);
        let block = PoolBuf::new(&region, 100).unwrap();
        let inside = NonNull::slice_from_raw_parts(block.bytes().0, 100);
        // SAFETY: the block is readable for as long as this test runs.
        let mapping = unsafe { platform.map(inside, Direction::Readable) }.unwrap();
        let user = region.user_address(mapping.addr).unwrap();
        assert_eq!(user, block.bytes().0.addr().get() as u64);
        assert_ne!(user, mapping.addr.0);
        let heap = [0u8; 100];
        // SAFETY: as above.
        let outside = unsafe { platform.map(NonNull::from(&heap[..]), Direction::Readable) };
        assert!(matches!(outside, Err(DmaError::Unmappable { .. })));
        let last = NonNull::slice_from_raw_parts(region.ptr(SIZE - 8), 16);
        // SAFETY: the memory is not used.
        let across = unsafe { platform.map(last, Direction::Readable) };
        assert!(matches!(across, Err(DmaError::Unmappable { .. })));
        assert_eq!(region.user_address(DmaAddr(GUEST_BASE + SIZE as u64)), None);
        assert_eq!(region.user_address(DmaAddr(GUEST_BASE - 1)), None);
    }
}
