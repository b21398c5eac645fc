//! What a program without an operating system has to bring along: a platform, an entry, and the
//! panic handler that must not be linked in.

use core::alloc::Layout;
use core::hint::black_box;
use core::panic::PanicInfo;
use core::ptr::NonNull;

use vring::Platform;
use vring::platform::{Direction, DmaAddr, DmaError, Mapping, RawRegion};

use crate::roots;

/// Physical is virtual, as in a kernel with an identity map.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Identity;

// SAFETY: it gives no memory away, and an address is a pointer. This program is never run.
unsafe impl Platform for Identity {
    const DIRECT: bool = true;

    fn alloc(&self, layout: Layout) -> Result<RawRegion, DmaError> {
        let (size, align) = (layout.size(), layout.align());
        Err(DmaError::OutOfMemory { size, align })
    }

    unsafe fn dealloc(&self, _: RawRegion) {}

    #[inline]
    unsafe fn map(&self, buf: NonNull<[u8]>, _: Direction) -> Result<Mapping, DmaError> {
        let ptr = buf.cast::<u8>();
        Ok(Mapping {
            addr: DmaAddr(ptr.as_ptr().expose_provenance() as u64),
            len: buf.len() as u32,
            ptr,
            token: 0,
        })
    }

    unsafe fn unmap(&self, _: Mapping, _: Direction, _: u32) {}
}

/// Keeps every root, and with it all that a root reaches. No other symbol has its name.
#[unsafe(no_mangle)]
extern "C" fn _start() -> ! {
    loop {
        roots::keep();
    }
}

/// Linked in only where something can panic. It uses the message, so that what the message is made
/// of is linked in as well, as in any kernel that prints it.
#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    loop {
        black_box(info);
    }
}
