//! Device memory with an owner, mappings, and values that are leaked on purpose.
//!
//! Everything that a [`Platform`] is asked to do is asked here.

use core::alloc::Layout;
use core::mem::ManuallyDrop;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;

use crate::buffer::Segment;
use crate::platform::{Direction, DmaAddr, DmaError, Mapping, Platform, RawRegion};

/// Memory that driver and device share; freed when it is dropped.
///
/// Whoever owns one must not drop it while the device may still use it.
#[derive(Debug)]
pub struct DmaRegion<P: Platform> {
    raw: RawRegion,
    platform: P,
}

// SAFETY: the region is plain memory with one owner.
unsafe impl<P: Platform + Send> Send for DmaRegion<P> {}
// SAFETY: nothing can be done to the memory through a shared reference.
unsafe impl<P: Platform + Sync> Sync for DmaRegion<P> {}

impl<P: Platform> DmaRegion<P> {
    /// Allocates zeroed memory, contiguous for the device.
    ///
    /// # Errors
    /// What the platform says; [`DmaError::OutOfMemory`] for a layout of no bytes, which allocators
    /// do not take.
    pub fn alloc(platform: &P, layout: Layout) -> Result<Self, DmaError> {
        if layout.size() == 0 {
            let align = layout.align();
            return Err(DmaError::OutOfMemory { size: 0, align });
        }
        let raw = platform.alloc(layout)?;
        Ok(Self {
            raw,
            platform: platform.clone(),
        })
    }

    /// Where the driver finds it.
    #[must_use]
    pub fn ptr(&self) -> NonNull<u8> {
        self.raw.ptr
    }

    /// Where the device finds it.
    #[must_use]
    pub fn addr(&self) -> DmaAddr {
        self.raw.addr
    }

    /// Its size and alignment.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.raw.layout
    }
}

impl<P: Platform> Drop for DmaRegion<P> {
    fn drop(&mut self) {
        // SAFETY: the region came from `alloc` of this platform and has one owner, who ends here.
        unsafe { self.platform.dealloc(self.raw) }
    }
}

/// Maps the longest prefix of a segment that is contiguous for the device.
#[inline(always)]
pub(crate) fn map<P: Platform>(platform: &P, segment: Segment) -> Result<Mapping, DmaError> {
    let asked = segment.len().min(u32::MAX as usize) as u32;
    let buf = NonNull::slice_from_raw_parts(segment.ptr(), asked as usize);
    // SAFETY: a segment is memory that is lent to the queue until it comes back (the contract of
    // `Segment::new` and `DmaBuf`), and the callers let no empty one through.
    let mapping = unsafe { platform.map(buf, segment.direction()) }?;
    if mapping.len.wrapping_sub(1) >= asked {
        return Err(DmaError::BadMapping {
            asked,
            got: mapping.len,
        });
    }
    Ok(mapping)
}

/// Ends a mapping whose buffer the device has returned, or never saw.
#[inline]
pub(crate) fn unmap<P: Platform>(platform: &P, mapping: Mapping, direction: Direction, used: u32) {
    // SAFETY: queues keep each mapping until its chain has been used, has been withdrawn by a
    // confirmed reset, or was never published; they take it out of their table to call this.
    unsafe { platform.unmap(mapping, direction, used) }
}

/// What is said when a value is left to the device for good.
pub(crate) trait OnLeak {
    /// Writes it to the log and tells the platform.
    fn on_leak(&mut self);
}

/// A value that is never dropped: it is taken out, or leaked and reported.
pub(crate) struct Leaky<T: OnLeak>(ManuallyDrop<T>);

impl<T: OnLeak> Leaky<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(ManuallyDrop::new(value))
    }

    /// Takes the value out: from here it is dropped as any other.
    pub(crate) fn into_inner(self) -> T {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used again, and its own `drop` does not run.
        unsafe { ManuallyDrop::take(&mut this.0) }
    }
}

impl<T: OnLeak> Drop for Leaky<T> {
    fn drop(&mut self) {
        self.0.on_leak();
    }
}

impl<T: OnLeak> Deref for Leaky<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: OnLeak> DerefMut for Leaky<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

/// Where a [`Lent`] value goes when it is dropped.
pub(crate) trait Home<T> {
    /// Takes the value back.
    fn take_back(self, value: T);
}

/// A value that goes home when it is dropped.
pub(crate) struct Lent<T, H: Home<T>> {
    value: ManuallyDrop<T>,
    home: ManuallyDrop<H>,
}

impl<T, H: Home<T>> Lent<T, H> {
    pub(crate) fn new(value: T, home: H) -> Self {
        Self {
            value: ManuallyDrop::new(value),
            home: ManuallyDrop::new(home),
        }
    }

    /// Where it would go.
    #[cfg(feature = "alloc")]
    pub(crate) fn home(&self) -> &H {
        &self.home
    }

    /// Takes both apart: the value does not go home.
    pub(crate) fn into_parts(self) -> (T, H) {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is not used again but for the other field, and its `drop` does not run.
        let value = unsafe { ManuallyDrop::take(&mut this.value) };
        // SAFETY: as above.
        let home = unsafe { ManuallyDrop::take(&mut this.home) };
        (value, home)
    }
}

impl<T, H: Home<T>> Drop for Lent<T, H> {
    fn drop(&mut self) {
        // SAFETY: this is `drop`: neither field is used again.
        let value = unsafe { ManuallyDrop::take(&mut self.value) };
        // SAFETY: as above.
        let home = unsafe { ManuallyDrop::take(&mut self.home) };
        home.take_back(value);
    }
}

impl<T, H: Home<T>> Deref for Lent<T, H> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T, H: Home<T>> DerefMut for Lent<T, H> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}
