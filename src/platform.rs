//! What a kernel gives the crate: device memory, address translation, patience.
//!
//! [`Platform`] is one of the three things that a user implements. It is an ordinary value, cloned
//! into every queue and driver: a zero-sized type, a `&'static T` or an `Arc<T>`. Nothing here is
//! global, so two devices behind two IOMMU domains are two platforms.
//!
//! ```text
//!            alloc / dealloc                      map / unmap
//!   rings, cells ──────▶ memory for both sides     buffers ──────▶ addresses for the device
//!                        (coherent, zeroed)                        (in place, bounced, remapped)
//! ```
//!
//! None of its methods is called from [`Isr::ack`](crate::transport::Isr::ack), so an
//! implementation need not be safe to call from an interrupt handler unless the kernel itself
//! drives queues there. With [`Platform::DIRECT`] true, `map` is all that the data path ever calls.
//!
//! What this module does not do: it holds no allocator and no page tables. The fake platforms for
//! tests are in `vring::testing` (feature `test-util`).

use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;

/// An address as the device sees it: guest-physical, or an I/O virtual address behind an IOMMU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct DmaAddr(pub u64);

impl DmaAddr {
    /// The address `offset` bytes further on, `None` where the address space ends.
    #[inline]
    #[must_use]
    pub const fn checked_add(self, offset: u64) -> Option<Self> {
        match self.0.checked_add(offset) {
            Some(addr) => Some(Self(addr)),
            None => None,
        }
    }
}

impl fmt::Display for DmaAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// Which way the device uses a buffer. The specification says *device-readable* and
/// *device-writable* (VIRTIO 1.4, 2.6.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The device only reads it.
    Readable,
    /// The device only writes it.
    Writable,
}

/// What the addresses that [`Platform::map`] returns mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Guest-physical addresses. Any device can be driven.
    Physical,
    /// Addresses of an IOMMU or of memory shared on purpose. Only a device that offers
    /// `VIRTIO_F_ACCESS_PLATFORM` can be driven; another one is refused (VIRTIO 1.4, 6.1).
    Translated,
}

/// Memory from [`Platform::alloc`]: where the CPU and where the device finds it.
#[derive(Clone, Copy, Debug)]
pub struct RawRegion {
    /// Where the driver finds it.
    pub ptr: NonNull<u8>,
    /// Where the device finds it.
    pub addr: DmaAddr,
    /// Size and alignment, as they were asked for.
    pub layout: Layout,
}

/// The device's view of a piece of a buffer, from [`Platform::map`] to [`Platform::unmap`].
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    /// Where the device finds the piece.
    pub addr: DmaAddr,
    /// Its length in bytes: at least 1, at most what was asked for.
    pub len: u32,
    /// Where the piece is for the driver.
    pub ptr: NonNull<u8>,
    /// For the platform's own use: the number of a bounce slot, an IOMMU cookie.
    pub token: usize,
}

// SAFETY: both are addresses; who may use the memory is the contract of `Platform`.
unsafe impl Send for RawRegion {}
// SAFETY: as above.
unsafe impl Sync for RawRegion {}
// SAFETY: as above.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// Why memory could not be had or mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DmaError {
    /// No memory of that layout, or no bounce buffer free now. Try again later.
    OutOfMemory {
        /// Bytes asked for.
        size: usize,
        /// Alignment asked for, in bytes.
        align: usize,
    },
    /// The platform cannot give this address to a device: not mapped, or out of the device's reach.
    Unmappable {
        /// The first byte of the buffer, as the driver sees it.
        address: usize,
    },
    /// The platform broke its contract: a mapping of no bytes, or of more than were asked for.
    BadMapping {
        /// Bytes asked for.
        asked: u32,
        /// Bytes that the mapping claims.
        got: u32,
    },
}

impl fmt::Display for DmaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OutOfMemory { size, align } => {
                write!(f, "no device memory of {size} bytes aligned to {align}")
            }
            Self::Unmappable { address } => {
                write!(f, "the buffer at {address:#x} cannot be given to a device")
            }
            Self::BadMapping { asked, got } => {
                write!(
                    f,
                    "the platform mapped {got} bytes where 1 to {asked} were asked for"
                )
            }
        }
    }
}

impl core::error::Error for DmaError {}

/// What is being waited for in [`Platform::wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// The device status to read 0 after a reset (VIRTIO 1.4, 2.4).
    Reset,
    /// A queue reset to finish (VIRTIO 1.4, 2.6.1).
    QueueReset,
    /// The configuration generation to be the same before and after a read (VIRTIO 1.4, 2.5).
    ConfigGeneration,
    /// The reply to a request that the driver itself waits for.
    Reply,
    /// The device to be suspended (VIRTIO 1.4, 3.4).
    Suspend,
    /// The device to run again after it was suspended (VIRTIO 1.4, 3.4).
    Resume,
}

/// Handle to the platform.
///
/// # Safety
///
/// The crate's soundness rests on this trait. An implementation promises:
///
/// 1. [`alloc`](Self::alloc) returns memory of that size and alignment, zeroed, readable and
///    writable through `ptr`, contiguous at `addr` for the device, and used by nobody else until
///    [`dealloc`](Self::dealloc).
/// 2. [`map`](Self::map) returns an address at which the device reaches exactly the first
///    `len` bytes of the buffer (or a copy of them), and nothing that is not lent, until
///    [`unmap`](Self::unmap).
/// 3. Clones are the same platform: what one allocates or maps, another may free or unmap. Memory
///    and mappings that were not given back stay as they are when the last clone is gone: a queue
///    may have been leaked to its device.
pub unsafe trait Platform: Clone {
    /// True: a buffer is always one piece at a known address, so that mapping stores nothing and
    /// unmapping does nothing. The crate then never calls [`unmap`](Self::unmap) and keeps no
    /// [`Mapping`]s.
    const DIRECT: bool;

    /// What the addresses mean.
    fn access(&self) -> Access {
        Access::Physical
    }

    /// Allocates memory that driver and device share: zeroed and contiguous for the device. The
    /// crate asks for one byte or more.
    ///
    /// # Errors
    /// [`DmaError::OutOfMemory`].
    fn alloc(&self, layout: Layout) -> Result<RawRegion, DmaError>;

    /// Frees what [`alloc`](Self::alloc) returned.
    ///
    /// # Safety
    /// The region came from this platform, is freed once, and neither side uses it any more.
    unsafe fn dealloc(&self, region: RawRegion);

    /// Maps the longest prefix of `buf` that is contiguous for the device.
    ///
    /// A buffer may cross pages that are not neighbors: the crate calls again for the rest.
    ///
    /// # Safety
    /// `buf` is valid for reads (and for writes, when [`Direction::Writable`]) of all its bytes
    /// until it is unmapped, and not empty.
    ///
    /// # Errors
    /// Any [`DmaError`]; the queue is then as it was before, and the caller may try again.
    unsafe fn map(&self, buf: NonNull<[u8]>, direction: Direction) -> Result<Mapping, DmaError>;

    /// Ends a mapping. A platform that bounces copies the first `used` bytes back to
    /// [`Mapping::ptr`] when the direction is [`Direction::Writable`], each of them read once.
    ///
    /// # Safety
    /// The mapping came from [`map`](Self::map) of this platform with this direction, is ended
    /// once, its buffer is still valid, and the device has returned it.
    unsafe fn unmap(&self, mapping: Mapping, direction: Direction, used: u32);

    /// Called between polls of something that has to happen soon. There is no clock in `no_std`:
    /// this bounds every wait of the crate. Returns false to give up.
    ///
    /// `polls` counts from 0. The default spins and gives up after a million polls.
    fn wait(&self, what: Wait, polls: u32) -> bool {
        let _ = what;
        core::hint::spin_loop();
        polls < 1_000_000
    }

    /// Told when memory is left to the device for good, because it could not be shown that the
    /// device is done with it: `bytes` of rings and cells, `buffers` of the user. Counting them is
    /// the platform's business; the crate has already written a warning to the log.
    fn leaked(&self, bytes: usize, buffers: usize) {
        let _ = (bytes, buffers);
    }
}
