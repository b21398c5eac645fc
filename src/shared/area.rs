//! Words in memory that a device also touches.
//!
//! An area is a part of a ring: its base, and nothing else, as whoever has one knows its size. Two
//! kinds of words are in it. *Control* words (`word_*`) carry order: who writes one with release
//! publishes what it wrote before. *Data* words (`set_*`, `get_*`) are ordered by control words
//! alone, and never race when both sides keep the rules; a device that does not must still not
//! cause undefined behavior, so they are relaxed atomics too.
//!
//! All words are little-endian. Control words are converted by who uses them, with their orders.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

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
    AtomicU64, word_u64;
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
    /// As [`word_u64`](Self::word_u64).
    #[inline(always)] // one store
    pub(super) unsafe fn set_u64(&self, offset: usize, value: u64) {
        // SAFETY: the caller's promise.
        let word = unsafe { self.word_u64(offset) };
        word.store(value.to_le(), Ordering::Relaxed);
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
