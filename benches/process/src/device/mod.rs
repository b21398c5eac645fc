//! The smallest device that works: walks chains, returns them in order, publishes once a burst.
//!
//! It reads every descriptor and adds up what is writable, which is what it says it wrote; it
//! touches no payload and checks nothing, so that what is measured is the driver and the lines of
//! cache that both sides need. The same code runs watched, once for each driver before anything is
//! timed: see [`crate::check`].

mod packed;
mod split;

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use packed::Packed;
use split::Split;

/// Chains that the device takes at most before it publishes.
pub const BURST: usize = 32;

/// `VIRTQ_DESC_F_NEXT`, `WRITE` and `INDIRECT`.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// Where a queue is, and how many descriptors it has.
#[derive(Clone, Copy, Debug)]
pub struct Areas {
    /// Address of the descriptor area.
    pub desc: u64,
    /// Address of the driver area: the available ring, or the driver's event words.
    pub driver: u64,
    /// Address of the device area: the used ring, or the device's event words.
    pub device: u64,
    /// Queue size.
    pub num: u16,
}

/// What was negotiated, and what the device makes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// `VIRTIO_F_RING_PACKED`.
    pub packed: bool,
    /// `VIRTIO_F_EVENT_IDX`: the device asks to be told of the next chain after each burst.
    pub event_idx: bool,
    /// `VIRTIO_F_IN_ORDER`, and the device writes one used element a burst.
    pub one_used_a_burst: bool,
}

/// What sees the chains that a device walks.
pub trait Watch {
    /// A descriptor of the chain being walked.
    fn piece(&mut self, addr: u64, len: u32, writable: bool);

    /// The chain ends.
    fn end(&mut self);
}

/// Nothing is watched, and it costs nothing.
#[derive(Clone, Copy, Debug)]
struct Unwatched;

impl Watch for Unwatched {
    #[inline(always)] // nothing
    fn piece(&mut self, _: u64, _: u32, _: bool) {}

    #[inline(always)] // nothing
    fn end(&mut self) {}
}

/// A device's side of one queue, apart from everybody else's lines.
#[derive(Debug)]
#[repr(align(128))]
pub struct Device {
    ring: Ring,
}

#[derive(Debug)]
enum Ring {
    Split(Split),
    Packed(Packed),
}

impl Device {
    /// The device of a queue.
    ///
    /// # Safety
    /// `areas` are those of a live queue of a driver in this process that lays out valid chains of
    /// memory in this process, addresses being pointers whose provenance is exposed, and that
    /// outlives the device. Sizes and alignments are those that VIRTIO asks for.
    #[must_use]
    pub unsafe fn new(areas: &Areas, rules: Rules) -> Self {
        let ring = if rules.packed {
            Ring::Packed(Packed::new(areas, rules))
        } else {
            Ring::Split(Split::new(areas, rules))
        };
        Self { ring }
    }

    /// Returns what is available, [`BURST`] chains at most, and publishes once. How many there
    /// were.
    #[inline(never)] // callgrind tells it from the driver
    pub fn run(&mut self) -> usize {
        match &mut self.ring {
            Ring::Split(split) => split.burst(&mut Unwatched),
            Ring::Packed(packed) => packed.burst(&mut Unwatched),
        }
    }

    /// As [`run`](Self::run), and shows every descriptor to `watch`.
    pub fn run_watched(&mut self, watch: &mut impl Watch) -> usize {
        match &mut self.ring {
            Ring::Split(split) => split.burst(watch),
            Ring::Packed(packed) => packed.burst(watch),
        }
    }
}

/// Memory that driver and device share: every access is atomic.
#[derive(Clone, Copy, Debug)]
struct Shared(*mut u8);

// SAFETY: it is an address; every access to what it names is atomic.
unsafe impl Send for Shared {}

impl Shared {
    fn at(addr: u64) -> Self {
        Self(std::ptr::with_exposed_provenance_mut(addr as usize))
    }

    #[inline(always)] // an addition
    fn word16(&self, byte: usize) -> &AtomicU16 {
        // SAFETY: `Device::new` promises the area, and no offset is beyond it.
        let word = unsafe { self.0.add(byte) }.cast();
        // SAFETY: as above, aligned; drivers in this process synchronize by indices and flags.
        unsafe { AtomicU16::from_ptr(word) }
    }

    #[inline(always)] // an addition
    fn word32(&self, byte: usize) -> &AtomicU32 {
        // SAFETY: `Device::new` promises the area, and no offset is beyond it.
        let word = unsafe { self.0.add(byte) }.cast();
        // SAFETY: as above, aligned; drivers in this process synchronize by indices and flags.
        unsafe { AtomicU32::from_ptr(word) }
    }

    #[inline(always)] // an addition
    fn word64(&self, byte: usize) -> &AtomicU64 {
        // SAFETY: `Device::new` promises the area, and no offset is beyond it.
        let word = unsafe { self.0.add(byte) }.cast();
        // SAFETY: as above, aligned; drivers in this process synchronize by indices and flags.
        unsafe { AtomicU64::from_ptr(word) }
    }

    /// The two words of descriptor `index`.
    #[inline(always)] // two loads
    fn descriptor(&self, index: usize) -> (u64, u64) {
        let addr = self.word64(index * 16).load(Ordering::Relaxed);
        let rest = self.word64(index * 16 + 8).load(Ordering::Relaxed);
        (addr, rest)
    }
}
