//! Zeroed pages for rings, and a doorbell that nobody hears.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// The alignment of what [`Pages`] holds.
pub(super) const PAGE: usize = 4096;

/// Zeroed memory, page aligned, freed when dropped.
#[derive(Debug)]
pub(super) struct Pages {
    ptr: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns the memory.
unsafe impl Send for Pages {}

impl Pages {
    pub(super) fn new(bytes: usize) -> Self {
        let layout = layout(bytes);
        // SAFETY: the size is not 0.
        let ptr = unsafe { alloc_zeroed(layout) };
        match NonNull::new(ptr) {
            Some(ptr) => Self { ptr, layout },
            None => handle_alloc_error(layout),
        }
    }

    /// Pages that were forgotten.
    ///
    /// # Safety
    /// `ptr` is that of pages of as many bytes, which are used no more.
    pub(super) unsafe fn from_raw(ptr: NonNull<u8>, bytes: usize) -> Self {
        let layout = layout(bytes);
        Self { ptr, layout }
    }

    pub(super) fn ptr(&self) -> NonNull<u8> {
        self.ptr
    }

    pub(super) fn len(&self) -> usize {
        self.layout.size()
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: it was allocated with this layout in `new`.
        unsafe { dealloc(self.ptr.as_ptr(), self.layout) }
    }
}

fn layout(bytes: usize) -> Layout {
    let bytes = bytes.max(1).next_multiple_of(PAGE);
    match Layout::from_size_align(bytes, PAGE) {
        Ok(layout) => layout,
        Err(_) => handle_alloc_error(Layout::new::<u8>()),
    }
}

/// Stands in for a notify register: a store to it is what a kick costs the driver.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Register(u16);

impl Register {
    pub(super) fn new() -> Box<Self> {
        Box::new(Self(0))
    }

    #[inline(always)] // one store
    pub(super) fn ring(&mut self, queue: u16) {
        // SAFETY: it is our own word; volatile, so that the store is made.
        unsafe { std::ptr::write_volatile(&raw mut self.0, queue) }
    }

    pub(super) fn ptr(&mut self) -> NonNull<u16> {
        NonNull::from(&mut self.0)
    }
}
