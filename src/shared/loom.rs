//! The words of an area as loom has them: the other body of `area`.
//!
//! Control words are loom's atomics. Data words are plain cells: that two sides use one of them at
//! once, without an order between them, is an error that the model reports, where the real atomics
//! would hide it. The memory that was allocated for the ring is not used.
//!
//! A model's device gets the same words from `model` of the ring's memory, and uses the safe half
//! of this file.

use core::ptr::NonNull;

use alloc::sync::Arc;
use alloc::vec::Vec;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::Shape;

/// A word, or none: one starts at every other byte at most.
enum Word {
    U16(AtomicU16),
    U32(AtomicU32),
    U64(AtomicU64),
    Data(UnsafeCell<u64>),
    None,
}

/// The words of a part of a ring. Clones are the same words.
#[derive(Clone)]
pub(crate) struct Area(Arc<[Word]>);

// SAFETY: loom runs one thread at a time, and checks every access to a cell.
unsafe impl Send for Area {}
// SAFETY: as above.
unsafe impl Sync for Area {}

impl Area {
    /// An area of `num` elements, all zero.
    pub(super) fn new(_: NonNull<u8>, shape: Shape, num: usize) -> Self {
        let size = match shape {
            Shape::Descriptors | Shape::PackedDescriptors => 16 * num,
            Shape::Available => 4 + 2 * num + 2,
            Shape::Used => 4 + 8 * num + 2,
            Shape::Event => 4,
        };
        let data = || Word::Data(UnsafeCell::new(0));
        let word = |offset: usize| match shape {
            Shape::Descriptors if offset.is_multiple_of(8) => data(),
            Shape::PackedDescriptors if offset.is_multiple_of(16) => data(),
            Shape::PackedDescriptors if offset.is_multiple_of(8) => Word::U64(AtomicU64::new(0)),
            Shape::Available | Shape::Used if offset < 4 => Word::U16(AtomicU16::new(0)),
            Shape::Available | Shape::Used if offset + 2 == size => Word::U16(AtomicU16::new(0)),
            Shape::Available => data(),
            Shape::Used if offset.is_multiple_of(4) => data(),
            Shape::Event if offset == 0 => Word::U32(AtomicU32::new(0)),
            _ => Word::None,
        };
        Self((0..size).step_by(2).map(word).collect::<Vec<_>>().into())
    }

    /// The same area once more.
    pub(super) fn again(&self) -> Self {
        self.clone()
    }

    /// Data words alone, for what is not a ring: the contents of buffers.
    pub(crate) fn data(num: usize) -> Self {
        let cells = (0..4 * num).map(|at| match at % 4 {
            0 => Word::Data(UnsafeCell::new(0)),
            _ => Word::None,
        });
        Self(cells.collect::<Vec<_>>().into())
    }

    fn word(&self, offset: usize) -> &Word {
        assert!(offset.is_multiple_of(2), "no word is at offset {offset}");
        &self.0[offset / 2]
    }

    /// The 16-bit control word at an offset.
    pub(crate) fn u16(&self, offset: usize) -> &AtomicU16 {
        match self.word(offset) {
            Word::U16(word) => word,
            _ => panic!("no 16-bit control word at {offset}"),
        }
    }

    /// The 32-bit control word at an offset.
    pub(crate) fn u32(&self, offset: usize) -> &AtomicU32 {
        match self.word(offset) {
            Word::U32(word) => word,
            _ => panic!("no 32-bit control word at {offset}"),
        }
    }

    /// The 64-bit control word at an offset.
    pub(crate) fn u64(&self, offset: usize) -> &AtomicU64 {
        match self.word(offset) {
            Word::U64(word) => word,
            _ => panic!("no 64-bit control word at {offset}"),
        }
    }

    fn cell(&self, offset: usize) -> &UnsafeCell<u64> {
        match self.word(offset) {
            Word::Data(cell) => cell,
            _ => panic!("no data word at {offset}"),
        }
    }

    /// Reads a data word.
    pub(crate) fn get(&self, offset: usize) -> u64 {
        self.cell(offset).with(|word| {
            // SAFETY: loom has just checked that nobody writes it.
            unsafe { *word }
        })
    }

    /// Writes a data word.
    pub(crate) fn set(&self, offset: usize, value: u64) {
        self.cell(offset).with_mut(|word| {
            // SAFETY: loom has just checked that nobody else uses it.
            unsafe { *word = value };
        });
    }
}

/// What `area` has, with the same promises, none of which is needed here: every access is checked.
impl Area {
    /// # Safety
    /// As the real one.
    pub(super) unsafe fn word_u16(&self, offset: usize) -> &AtomicU16 {
        self.u16(offset)
    }

    /// # Safety
    /// As the real one.
    pub(super) unsafe fn word_u32(&self, offset: usize) -> &AtomicU32 {
        self.u32(offset)
    }

    /// # Safety
    /// As the real one.
    pub(super) unsafe fn store_u64(&self, offset: usize, value: u64, order: Ordering) {
        self.u64(offset).store(value.to_le(), order);
    }

    /// # Safety
    /// As the real one.
    pub(super) unsafe fn load_u64(&self, offset: usize, order: Ordering) -> u64 {
        u64::from_le(self.u64(offset).load(order))
    }

    /// # Safety
    /// As the real one.
    pub(super) unsafe fn set_u16(&self, offset: usize, value: u16) {
        self.set(offset, value.into());
    }

    /// # Safety
    /// As the real one.
    pub(super) unsafe fn set_u64(&self, offset: usize, value: u64) {
        self.set(offset, value);
    }

    /// # Safety
    /// As the real one.
    pub(super) unsafe fn get_u32(&self, offset: usize) -> u32 {
        self.get(offset) as u32
    }
}
