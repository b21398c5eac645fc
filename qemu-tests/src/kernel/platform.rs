//! The memory side of what `vring` asks of a kernel: the whole of it.
//!
//! This kernel maps physical memory to itself and takes device memory from its heap, so an address
//! is an address: [`Platform::DIRECT`]. A kernel with a direct map adds or subtracts its offset
//! here; one with an IOMMU or bounce buffers has more to do.

use alloc::alloc::{alloc_zeroed, dealloc};
use core::alloc::Layout;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;

use vring::platform::{Direction, DmaError, Mapping, RawRegion, Wait};
use vring::{DmaAddr, Platform};

use super::clock;

/// How long one poll of something that has to happen soon lasts.
const POLL: Duration = Duration::from_micros(10);

/// Polls until it is given up: ten seconds, as the host may hold the device up.
const POLLS: u32 = 1_000_000;

/// Buffers and regions that were left to a device for good.
static LEAKS: AtomicUsize = AtomicUsize::new(0);

/// Identity-mapped memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity;

impl Identity {
    /// How often memory was left to a device for good.
    pub(crate) fn leaks() -> usize {
        LEAKS.load(Ordering::Relaxed)
    }
}

/// Where a device finds what the kernel finds at `pointer`.
fn device_address(pointer: NonNull<u8>) -> DmaAddr {
    DmaAddr(pointer.addr().get() as u64)
}

// SAFETY: 1. the heap hands out each piece once, and identity-mapped memory is contiguous for a
// device without an IOMMU; 2. the address of a buffer is the address of its bytes; 3. there is
// nothing in the value that a clone could differ in.
unsafe impl Platform for Identity {
    const DIRECT: bool = true;

    fn alloc(&self, layout: Layout) -> Result<RawRegion, DmaError> {
        let size = layout.size().max(1);
        let padded = Layout::from_size_align(size, layout.align()).unwrap_or(layout);
        // SAFETY: the layout has a size.
        let pointer = unsafe { alloc_zeroed(padded) };
        let ptr = NonNull::new(pointer).ok_or(DmaError::OutOfMemory {
            size: layout.size(),
            align: layout.align(),
        })?;
        Ok(RawRegion {
            ptr,
            addr: device_address(ptr),
            layout: padded,
        })
    }

    unsafe fn dealloc(&self, region: RawRegion) {
        // SAFETY: the caller's word that it came from `alloc`, with the layout put into it there.
        unsafe { dealloc(region.ptr.as_ptr(), region.layout) }
    }

    unsafe fn map(&self, buf: NonNull<[u8]>, _: Direction) -> Result<Mapping, DmaError> {
        let ptr = buf.cast::<u8>();
        Ok(Mapping {
            addr: device_address(ptr),
            len: u32::try_from(buf.len()).unwrap_or(u32::MAX),
            ptr,
            token: 0,
        })
    }

    unsafe fn unmap(&self, _: Mapping, _: Direction, _: u32) {}

    fn wait(&self, _: Wait, polls: u32) -> bool {
        let until = clock::now() + POLL;
        while clock::now() < until {
            core::hint::spin_loop();
        }
        polls < POLLS
    }

    fn leaked(&self, _: usize, buffers: usize) {
        LEAKS.fetch_add(1 + buffers, Ordering::Relaxed);
    }
}
