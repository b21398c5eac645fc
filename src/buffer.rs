//! Memory that can be lent to a device: who owns it, where it is, which way it is used.
//!
//! A queue takes a buffer by value and gives it back with the completion, with the error, or from
//! the reset; in between nobody else can touch it. Which values qualify is said by two small
//! families of unsafe traits:
//!
//! - [`StableBytes`] and [`StableBytesMut`]: one block of bytes that stays where it is when its
//!   owner moves (`Box<[u8]>`, `Vec<u8>`, `&'static mut [u8]`, ...). Most kernels implement these
//!   for their own page or pool type, if anything.
//! - [`DmaBuf`]: what a queue takes, a list of [`Segment`]s. [`Readable`] and [`Writable`] make one
//!   of a block, pairs and arrays combine them, and [`RawBuf`] is for memory that the caller
//!   manages.
//!
//! ```
//! use vring::buffer::{Readable, Writable};
//!
//! // A request of 16 bytes that the device reads, and 512 that it writes.
//! let request = (Readable(vec![0u8; 16]), Writable(vec![0u8; 512]));
//! # fn takes(_: impl vring::buffer::DmaBuf) {}
//! # takes(request);
//! ```
//!
//! A buffer whose device-writable part comes before a device-readable one is refused when it is
//! submitted (VIRTIO 1.4, 2.7.4.2), and so is an empty segment.

use core::ptr::NonNull;

use crate::platform::Direction;

/// A piece of memory that is contiguous for the driver, lent to the device one way.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    ptr: NonNull<u8>,
    len: usize,
    direction: Direction,
}

impl Segment {
    /// A segment of `len` bytes from `ptr`.
    ///
    /// # Safety
    /// The bytes are initialized and valid for reads, and for writes when `direction` is
    /// [`Direction::Writable`], through `ptr`, for as long as the [`DmaBuf`] that names them is in
    /// a queue, and nobody else writes them (or reads them, when writable) in that time.
    #[inline]
    #[must_use]
    pub const unsafe fn new(ptr: NonNull<u8>, len: usize, direction: Direction) -> Self {
        Self {
            ptr,
            len,
            direction,
        }
    }

    /// Its first byte.
    #[inline]
    #[must_use]
    pub const fn ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    /// Its length in bytes.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes. Such a segment is never given to a device.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Which way the device uses it.
    #[inline]
    #[must_use]
    pub const fn direction(&self) -> Direction {
        self.direction
    }

    /// Its first `bytes` bytes.
    #[inline]
    pub(crate) fn first(self, bytes: usize) -> Self {
        Self {
            ptr: self.ptr,
            len: self.len.min(bytes),
            direction: self.direction,
        }
    }

    /// What is left of it behind its first `bytes` bytes.
    #[inline]
    pub(crate) fn advance(self, bytes: usize) -> Self {
        let bytes = bytes.min(self.len);
        // SAFETY: `bytes` is at most `len`, so the result is in or just behind the same memory.
        let ptr = unsafe { self.ptr.add(bytes) };
        Self {
            ptr,
            len: self.len.wrapping_sub(bytes),
            direction: self.direction,
        }
    }
}

/// What a queue takes: a value that owns the memory of its segments.
///
/// # Safety
///
/// From the moment a segment is named until the value is moved, dropped or borrowed mutably by
/// anything but [`segment`](Self::segment) (naming one segment, or the same again, ends no other):
///
/// 1. The bytes of each segment are initialized and valid at the same address, also while the
///    value itself is moved: they live behind it, not in it.
/// 2. Nobody else writes them; when the segment is writable, nobody else reads them either. A
///    device's writes may come from another core at any time.
/// 3. [`count`](Self::count) stays the same, from when the value is handed over: room is looked for
///    before a segment is named.
/// 4. Pointers are derived so that they may be used as their direction says: for writes, from a
///    mutable borrow or a raw pointer.
///
/// The queue names segments only after it has moved the value to where it stays, and touches
/// neither until the device has returned them.
pub unsafe trait DmaBuf: 'static {
    /// How many segments it has.
    fn count(&self) -> usize;

    /// Segment `index`, below [`count`](Self::count): device-readable ones first.
    fn segment(&mut self, index: usize) -> Segment;
}

/// A block of initialized bytes at an address that does not change when its owner moves.
///
/// # Safety
/// [`bytes`](Self::bytes) names the same initialized memory, valid for reads and written by nobody
/// else, until the value is dropped or borrowed mutably; moving the value does not change it.
pub unsafe trait StableBytes: 'static {
    /// First byte and length.
    fn bytes(&self) -> (NonNull<u8>, usize);
}

/// A [`StableBytes`] whose bytes may be written.
///
/// # Safety
/// [`bytes_mut`](Self::bytes_mut) names the memory of [`StableBytes::bytes`], valid for reads and
/// writes and used by nobody else until the value is dropped or borrowed.
pub unsafe trait StableBytesMut: StableBytes {
    /// First byte and length.
    fn bytes_mut(&mut self) -> (NonNull<u8>, usize);
}

macro_rules! stable_bytes {
    ($($(#[$attr:meta])* [$($generics:tt)*] $ty:ty, $why:literal;)*) => {$(
        $(#[$attr])*
        // SAFETY: the bytes are owned or borrowed for ever, initialized, and live behind the value.
        #[doc = $why]
        unsafe impl<$($generics)*> StableBytes for $ty {
            #[inline]
            fn bytes(&self) -> (NonNull<u8>, usize) {
                let bytes: &[u8] = &self[..];
                (NonNull::from(bytes).cast(), bytes.len())
            }
        }
    )*};
}

macro_rules! stable_bytes_mut {
    ($($(#[$attr:meta])* [$($generics:tt)*] $ty:ty;)*) => {$(
        $(#[$attr])*
        // SAFETY: as for `StableBytes`, and the owner is unique.
        unsafe impl<$($generics)*> StableBytesMut for $ty {
            #[inline]
            fn bytes_mut(&mut self) -> (NonNull<u8>, usize) {
                let bytes: &mut [u8] = &mut self[..];
                let len = bytes.len();
                (NonNull::from(bytes).cast(), len)
            }
        }
    )*};
}

stable_bytes! {
    [] &'static [u8], "Borrowed for ever.";
    [const N: usize] &'static [u8; N], "Borrowed for ever.";
    [] &'static mut [u8], "Borrowed for ever.";
    [const N: usize] &'static mut [u8; N], "Borrowed for ever.";
    #[cfg(feature = "alloc")] [] alloc::boxed::Box<[u8]>, "On the heap.";
    #[cfg(feature = "alloc")] [const N: usize] alloc::boxed::Box<[u8; N]>, "On the heap.";
    #[cfg(feature = "alloc")] [] alloc::vec::Vec<u8>, "On the heap; its length, not its capacity.";
    #[cfg(feature = "alloc")] [] alloc::sync::Arc<[u8]>, "On the heap, shared.";
}

stable_bytes_mut! {
    [] &'static mut [u8];
    [const N: usize] &'static mut [u8; N];
    #[cfg(feature = "alloc")] [] alloc::boxed::Box<[u8]>;
    #[cfg(feature = "alloc")] [const N: usize] alloc::boxed::Box<[u8; N]>;
    #[cfg(feature = "alloc")] [] alloc::vec::Vec<u8>;
}

/// A block that the device reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Readable<M>(pub M);

/// A block that the device writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Writable<M>(pub M);

// SAFETY: the bytes obey `StableBytes`, and the segment is for reading.
unsafe impl<M: StableBytes> DmaBuf for Readable<M> {
    #[inline]
    fn count(&self) -> usize {
        1
    }

    #[inline]
    fn segment(&mut self, _index: usize) -> Segment {
        let (ptr, len) = self.0.bytes();
        // SAFETY: `StableBytes` promises what a readable segment needs.
        unsafe { Segment::new(ptr, len, Direction::Readable) }
    }
}

// SAFETY: the bytes obey `StableBytesMut`.
unsafe impl<M: StableBytesMut> DmaBuf for Writable<M> {
    #[inline]
    fn count(&self) -> usize {
        1
    }

    #[inline]
    fn segment(&mut self, _index: usize) -> Segment {
        let (ptr, len) = self.0.bytes_mut();
        // SAFETY: `StableBytesMut` promises what a writable segment needs.
        unsafe { Segment::new(ptr, len, Direction::Writable) }
    }
}

// SAFETY: each segment belongs to one of the two parts, which obey the contract.
unsafe impl<A: DmaBuf, B: DmaBuf> DmaBuf for (A, B) {
    #[inline]
    fn count(&self) -> usize {
        self.0.count().saturating_add(self.1.count())
    }

    #[inline]
    fn segment(&mut self, index: usize) -> Segment {
        match index.checked_sub(self.0.count()) {
            None => self.0.segment(index),
            Some(index) => self.1.segment(index),
        }
    }
}

// SAFETY: each segment belongs to one of the three parts, which obey the contract.
unsafe impl<A: DmaBuf, B: DmaBuf, C: DmaBuf> DmaBuf for (A, B, C) {
    #[inline]
    fn count(&self) -> usize {
        self.0
            .count()
            .saturating_add(self.1.count())
            .saturating_add(self.2.count())
    }

    #[inline]
    fn segment(&mut self, index: usize) -> Segment {
        let Some(index) = index.checked_sub(self.0.count()) else {
            return self.0.segment(index);
        };
        match index.checked_sub(self.1.count()) {
            None => self.1.segment(index),
            Some(index) => self.2.segment(index),
        }
    }
}

// SAFETY: each segment belongs to one of the elements, which obey the contract.
unsafe impl<B: DmaBuf, const N: usize> DmaBuf for [B; N] {
    #[inline]
    fn count(&self) -> usize {
        self.iter()
            .fold(0, |sum, part| sum.saturating_add(part.count()))
    }

    #[inline]
    fn segment(&mut self, mut index: usize) -> Segment {
        for part in self {
            match index.checked_sub(part.count()) {
                None => return part.segment(index),
                Some(rest) => index = rest,
            }
        }
        // SAFETY: a segment of no bytes needs no memory; a queue refuses it.
        unsafe { Segment::new(NonNull::dangling(), 0, Direction::Readable) }
    }
}

/// Memory that the caller manages: a page of a page cache, a static region, firmware memory.
#[derive(Debug)]
pub struct RawBuf {
    ptr: NonNull<u8>,
    /// Twice the length, and 1 when writable: no block is longer than half the address space.
    len_and_direction: usize,
}

impl RawBuf {
    /// Lends `len` bytes from `ptr`.
    ///
    /// # Safety
    /// The bytes are initialized, valid for reads (and for writes, when writable), and nobody else
    /// uses them against the direction, until the value comes back from the queue or, when it is
    /// never given to one, until it is dropped. When a queue reports them as leaked, that is for
    /// ever. `len` is at most `isize::MAX`, as in any block of memory.
    #[must_use]
    pub const unsafe fn new(ptr: NonNull<u8>, len: usize, direction: Direction) -> Self {
        let len_and_direction = len << 1 | matches!(direction, Direction::Writable) as usize;
        Self {
            ptr,
            len_and_direction,
        }
    }

    /// The memory.
    #[inline]
    #[must_use]
    pub const fn segment(&self) -> Segment {
        let direction = match self.len_and_direction & 1 {
            0 => Direction::Readable,
            _ => Direction::Writable,
        };
        Segment {
            ptr: self.ptr,
            len: self.len_and_direction >> 1,
            direction,
        }
    }
}

// SAFETY: it is an address; who may use the memory is the contract of `RawBuf::new`.
unsafe impl Send for RawBuf {}

// SAFETY: `RawBuf::new` made it the caller's promise.
unsafe impl DmaBuf for RawBuf {
    #[inline]
    fn count(&self) -> usize {
        1
    }

    #[inline]
    fn segment(&mut self, _index: usize) -> Segment {
        Self::segment(self)
    }
}

/// Part of a block, with room kept in front of it: a packet with headroom for its header.
#[derive(Debug)]
pub struct Window<M> {
    memory: M,
    start: u32,
    len: u32,
}

impl<M: StableBytes + Clone> Clone for Window<M> {
    /// The window of the cloned memory; shortened where that is shorter.
    fn clone(&self) -> Self {
        Self::new(self.memory.clone(), self.start as usize, self.len as usize)
    }
}

impl<M: StableBytes> Window<M> {
    /// The `len` bytes from byte `start` of `memory`; shortened where the memory ends.
    #[inline]
    #[must_use]
    pub fn new(memory: M, start: usize, len: usize) -> Self {
        let size = memory.bytes().1.min(u32::MAX as usize);
        let start = start.min(size);
        let len = len.min(size.wrapping_sub(start));
        Self {
            memory,
            start: start as u32,
            len: len as u32,
        }
    }

    /// Bytes before the window.
    #[inline]
    #[must_use]
    pub const fn headroom(&self) -> usize {
        self.start as usize
    }

    /// Moves the front of the window `bytes` towards the start of the memory; false, and no
    /// change, where there is no room.
    #[inline]
    #[must_use]
    pub fn grow_front(&mut self, bytes: usize) -> bool {
        match (self.start as usize).checked_sub(bytes) {
            Some(start) => {
                self.len = self.len.wrapping_add(self.start.wrapping_sub(start as u32));
                self.start = start as u32;
                true
            }
            None => false,
        }
    }

    /// Moves the front of the window `bytes` towards its end; false, and no change, where it is
    /// shorter.
    #[inline]
    #[must_use]
    pub fn shrink_front(&mut self, bytes: usize) -> bool {
        match (self.len as usize).checked_sub(bytes) {
            Some(len) => {
                self.start = self.start.wrapping_add(bytes as u32);
                self.len = len as u32;
                true
            }
            None => false,
        }
    }

    /// Cuts the window to `len` bytes, where it is longer.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len.min(u32::MAX as usize) as u32);
    }

    /// Gives the memory back.
    #[inline]
    #[must_use]
    pub fn into_memory(self) -> M {
        self.memory
    }

    /// The bytes of the window.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        let (ptr, _) = self.memory.bytes();
        // SAFETY: the window lies in the memory (1: `new` and the moves keep it so).
        let ptr = unsafe { ptr.add(self.start as usize) };
        // SAFETY: the bytes are initialized and written by nobody while `self` is borrowed.
        unsafe { core::slice::from_raw_parts(ptr.as_ptr(), self.len as usize) }
    }

    /// The bytes of the window.
    #[inline]
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8]
    where
        M: StableBytesMut,
    {
        let (ptr, _) = self.memory.bytes_mut();
        // SAFETY: as for `as_slice`.
        let ptr = unsafe { ptr.add(self.start as usize) };
        // SAFETY: the bytes are initialized and used by nobody else while `self` is borrowed.
        unsafe { core::slice::from_raw_parts_mut(ptr.as_ptr(), self.len as usize) }
    }
}

// SAFETY: part of a block that obeys the contract.
unsafe impl<M: StableBytes> StableBytes for Window<M> {
    #[inline]
    fn bytes(&self) -> (NonNull<u8>, usize) {
        let (ptr, _) = self.memory.bytes();
        // SAFETY: the window lies in the memory.
        (unsafe { ptr.add(self.start as usize) }, self.len as usize)
    }
}

// SAFETY: part of a block that obeys the contract.
unsafe impl<M: StableBytesMut> StableBytesMut for Window<M> {
    #[inline]
    fn bytes_mut(&mut self) -> (NonNull<u8>, usize) {
        let (ptr, _) = self.memory.bytes_mut();
        // SAFETY: the window lies in the memory.
        (unsafe { ptr.add(self.start as usize) }, self.len as usize)
    }
}
