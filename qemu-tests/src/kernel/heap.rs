//! The heap: `talc` over the largest free range of memory.
//!
//! Physical and virtual addresses are the same in this kernel, so what the heap hands out is also
//! what a device can be given.

use core::ops::Range;

use spin::Mutex;
use talc::TalcLock;
use talc::source::Manual;

#[global_allocator]
static HEAP: TalcLock<Mutex<()>, Manual> = TalcLock::new(Manual);

/// Gives the heap its memory, which is nobody else's, and returns how many bytes that is.
///
/// Every processor may allocate: they take turns. Interrupt handlers must not: the lock does not
/// keep interrupts off, and its holder may be what was interrupted.
pub(super) fn init(range: Range<u64>) -> usize {
    let size = (range.end - range.start) as usize;
    let start = range.start as usize as *mut u8;
    // SAFETY: the firmware says that this is memory, nothing else uses it, and it stays mapped.
    let claimed = unsafe { HEAP.lock().claim(start, size) };
    assert!(claimed.is_some(), "no memory for a heap in {range:#x?}");
    size
}
