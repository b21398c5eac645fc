//! Words in memory that a device also touches.
//!
//! An area is a part of a ring: its base, and nothing else, as whoever has one knows its size. Two
//! kinds of words are in it. *Control* words (`word_*`) carry order: who writes one with release
//! publishes what it wrote before. *Data* words (`set_*`, `get_*`) are ordered by control words
//! alone, and never race when both sides keep the rules; a device that does not must still not
//! cause undefined behavior, so they are relaxed atomics too.
//!
//! All words are little-endian. Control words are converted by who uses them, with their orders;
//! 64-bit words are converted here.
//!
//! # 64-bit words where machine words have 32 bits
//!
//! There they are two words of 32 bits. Atomics of 64 bits are missing on many such machines, and
//! where they are not (`lock cmpxchg8b`, `ldrexd` and `strexd`) a load may store, and a store is a
//! loop. The specification needs none: no field of a ring that is read while it may change is wider
//! than 16 bits. An address, and a split ring's descriptor, is read after the index that publishes
//! it (VIRTIO 1.4, 2.7.13). In a packed ring's descriptor the flags alone say whose it is: they are
//! written after everything else (2.8.21) and looked at before it (2.8.22). They are in the upper
//! half, which is therefore stored last, with the order asked for, and loaded first; the buffer's
//! id, in the same half, comes and goes with them.

use core::ptr::NonNull;
#[cfg(target_pointer_width = "64")]
use core::sync::atomic::AtomicU64;
use core::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use super::Shape;

/// A part of a ring, accessed word by word.
pub(super) struct Area {
    base: NonNull<u8>,
}

impl Area {
    /// An area of `num` elements. What they are matters to a model only.
    pub(super) const fn new(base: NonNull<u8>, _: Shape, _num: usize) -> Self {
        Self { base }
    }

    /// The same area once more.
    #[inline(always)] // a move
    pub(super) const fn again(&self) -> Self {
        Self { base: self.base }
    }
}

macro_rules! words {
    ($($atomic:ident, $word:ident;)*) => {$(
        impl Area {
            /// The control word at an offset.
            ///
            /// # Safety
            /// It lies in the area, at a multiple of its size, and is accessed as an atomic of
            /// this width alone.
            #[inline(always)] // an address
            pub(super) unsafe fn $word(&self, offset: usize) -> &$atomic {
                // SAFETY: the caller's promise: the word lies in the area.
                let word = unsafe { self.base.add(offset) };
                // SAFETY: the caller's promise: it is aligned, and an atomic for everybody.
                unsafe { $atomic::from_ptr(word.as_ptr().cast()) }
            }
        }
    )*};
}

words! {
    AtomicU16, word_u16;
    AtomicU32, word_u32;
}

#[cfg(target_pointer_width = "64")]
words! {
    AtomicU64, word_u64;
}

/// Words of 64 bits in one access.
#[cfg(target_pointer_width = "64")]
impl Area {
    /// Writes a word, as one that carries order.
    ///
    /// # Safety
    /// It lies in the area, at a multiple of its size, and is accessed by this and
    /// [`load_u64`](Self::load_u64) alone, or their like.
    #[inline(always)] // one store
    pub(super) unsafe fn store_u64(&self, offset: usize, value: u64, order: Ordering) {
        // SAFETY: the caller's promise.
        let word = unsafe { self.word_u64(offset) };
        word.store(value.to_le(), order);
    }

    /// Reads a word, as one that carries order.
    ///
    /// # Safety
    /// As [`store_u64`](Self::store_u64).
    #[inline(always)] // one load
    pub(super) unsafe fn load_u64(&self, offset: usize, order: Ordering) -> u64 {
        // SAFETY: the caller's promise.
        let word = unsafe { self.word_u64(offset) };
        u64::from_le(word.load(order))
    }
}

/// The same in halves, of which the upper one carries the order.
#[cfg(not(target_pointer_width = "64"))]
impl Area {
    /// Writes a word: the lower half, then the upper one.
    ///
    /// # Safety
    /// It lies in the area, at a multiple of its size, and is accessed by this and
    /// [`load_u64`](Self::load_u64) alone, or their like.
    #[inline(always)] // two stores
    pub(super) unsafe fn store_u64(&self, offset: usize, value: u64, order: Ordering) {
        // SAFETY: the caller's promise: both halves lie in the area.
        let lower = unsafe { self.word_u32(offset) };
        // SAFETY: as above.
        let upper = unsafe { self.word_u32(offset.wrapping_add(4)) };
        lower.store((value as u32).to_le(), Ordering::Relaxed);
        upper.store(((value >> 32) as u32).to_le(), order);
    }

    /// Reads a word: the upper half, then the lower one.
    ///
    /// # Safety
    /// As [`store_u64`](Self::store_u64).
    #[inline(always)] // two loads
    pub(super) unsafe fn load_u64(&self, offset: usize, order: Ordering) -> u64 {
        // SAFETY: the caller's promise: both halves lie in the area.
        let lower = unsafe { self.word_u32(offset) };
        // SAFETY: as above.
        let upper = unsafe { self.word_u32(offset.wrapping_add(4)) };
        let upper = u32::from_le(upper.load(order));
        let lower = u32::from_le(lower.load(Ordering::Relaxed));
        u64::from(upper) << 32 | u64::from(lower)
    }
}

impl Area {
    /// Writes a data word.
    ///
    /// # Safety
    /// As [`word_u16`](Self::word_u16).
    #[inline(always)] // one store
    pub(super) unsafe fn set_u16(&self, offset: usize, value: u16) {
        // SAFETY: the caller's promise.
        let word = unsafe { self.word_u16(offset) };
        word.store(value.to_le(), Ordering::Relaxed);
    }

    /// Writes a data word.
    ///
    /// # Safety
    /// As [`store_u64`](Self::store_u64).
    #[inline(always)] // one store, or two
    pub(super) unsafe fn set_u64(&self, offset: usize, value: u64) {
        // SAFETY: the caller's promise.
        unsafe { self.store_u64(offset, value, Ordering::Relaxed) };
    }

    /// Reads a data word.
    ///
    /// # Safety
    /// As [`word_u32`](Self::word_u32).
    #[inline(always)] // one load
    pub(super) unsafe fn get_u32(&self, offset: usize) -> u32 {
        // SAFETY: the caller's promise.
        let word = unsafe { self.word_u32(offset) };
        u32::from_le(word.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use core::hint::spin_loop;
    use std::thread;

    use super::*;

    struct Shared(Area);

    // SAFETY: the test below accesses its word by atomics alone.
    unsafe impl Sync for Shared {}

    /// Where a word of 64 bits is two, a device that reads the flags of a packed ring's descriptor,
    /// and then the rest of it, reads what came with those flags or after them.
    #[test]
    fn flags_never_come_before_the_rest_of_a_descriptor() {
        let rounds: u32 = if cfg!(miri) { 300 } else { 100_000 };
        let mut word = 0u64;
        let shared = Shared(Area::new(
            NonNull::from(&mut word).cast(),
            Shape::PackedDescriptors,
            1,
        ));
        let Shared(area) = &shared;
        thread::scope(|scope| {
            let shared = &shared;
            scope.spawn(move || {
                let Shared(area) = shared;
                for round in (1..=rounds).map(u64::from) {
                    // SAFETY: the word is there, aligned, and accessed in no other way.
                    unsafe { area.store_u64(0, round << 32 | round, Ordering::Release) };
                }
            });
            loop {
                // SAFETY: as above.
                let seen = unsafe { area.load_u64(0, Ordering::Acquire) };
                let (flags, rest) = ((seen >> 32) as u32, seen as u32);
                assert!(rest >= flags, "of round {flags}, and the rest of {rest}");
                if flags == rounds {
                    return;
                }
                spin_loop();
            }
        });
    }
}
