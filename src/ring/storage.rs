//! Private state of a queue: on the heap, or lent by the caller for ever.
//!
//! It is never in memory from a [`Platform`](crate::Platform): a host could write it there.

use core::ops::{Deref, DerefMut};

use super::payload::Payload;

/// The record of one slot. Opaque: make an array of [`Slot::new`] to lend it to a queue.
#[derive(Debug)]
pub struct Slot<T> {
    /// The buffer of the chain that starts here, while it is with the device, and the chain's
    /// running number.
    pub(crate) payload: Payload<T>,
    /// Bytes of the chain that the device may write.
    pub(crate) writable: u32,
    /// The next free slot, or the next of the same chain.
    pub(crate) next: u16,
    /// Last slot of the chain that starts here.
    pub(crate) tail: u16,
    /// The next chain that is free as a whole, when the one that starts here is.
    pub(crate) after: u16,
    /// Descriptors of the chain that starts here, and [`REPLY`] and [`HEADER`].
    pub(crate) shape: u32,
    /// Its pieces; [`INDIRECT`] more when they are in a table.
    pieces: u16,
}

/// In [`Slot::shape`]: the chain ends with a reply cell. No chain is so long.
pub(crate) const REPLY: u32 = 1 << 16;
/// Likewise: it begins with a header cell.
pub(crate) const HEADER: u32 = 1 << 17;
/// Likewise: its descriptors.
pub(crate) const DESCRIPTORS: u32 = (1 << 16) - 1;
/// The most pieces that a chain has in the ring; one in a table has fewer.
const INDIRECT: u16 = 0x8000;
/// The most pieces that a chain has in a table.
pub(crate) const MOST_IN_TABLE: u16 = INDIRECT - 1;

impl<T> Slot<T> {
    /// An empty slot.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            payload: Payload::empty(),
            writable: 0,
            next: 0,
            tail: 0,
            after: 0,
            shape: 0,
            pieces: 0,
        }
    }
}

impl<T> Slot<T> {
    /// Whether the chain that starts here, or started last, begins with a header cell.
    pub(crate) fn has_header(&self) -> bool {
        self.shape & HEADER != 0
    }
}

impl<T> Slot<T> {
    /// Notes how many pieces the chain has that starts here.
    pub(crate) fn set_pieces(&mut self, pieces: u16, table: bool) {
        self.pieces = if table {
            pieces.wrapping_add(INDIRECT)
        } else {
            pieces
        };
    }

    /// How many pieces the chain has that starts here, and whether they are in a table.
    pub(crate) fn pieces(&self) -> (u16, bool) {
        match self.pieces.checked_sub(INDIRECT) {
            // A table has at least two entries.
            Some(pieces) if pieces != 0 => (pieces, true),
            _ => (self.pieces, false),
        }
    }
}

/// A slot whose payload is in no chain yet: it leaves the slot when this is dropped, by a panic of
/// the platform too. [`forget`](core::mem::forget) it when the chain is complete.
pub(crate) struct Parked<'a, T>(pub(crate) &'a mut Slot<T>);

impl<T> Drop for Parked<'_, T> {
    #[inline(always)] // it is empty, but for panics
    fn drop(&mut self) {
        drop(self.0.payload.take());
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A slice on the heap, or one that was lent.
#[derive(Debug)]
pub(crate) enum Storage<S: 'static> {
    #[cfg(feature = "alloc")]
    Heap(alloc::boxed::Box<[S]>),
    Lent(&'static mut [S]),
}

impl<S: 'static> Storage<S> {
    /// `num` fresh elements on the heap.
    #[cfg(feature = "alloc")]
    pub(crate) fn heap(num: usize, fresh: impl Fn() -> S) -> Self {
        Self::Heap((0..num).map(|_| fresh()).collect())
    }

    /// Leaves nothing behind, and returns what was lent; what was on the heap stays there.
    pub(crate) fn take_lent(&mut self) -> Option<&'static mut [S]> {
        match self {
            #[cfg(feature = "alloc")]
            Self::Heap(_) => None,
            Self::Lent(slice) => Some(core::mem::take(slice)),
        }
    }
}

impl<S> Deref for Storage<S> {
    type Target = [S];

    #[inline]
    fn deref(&self) -> &[S] {
        match self {
            #[cfg(feature = "alloc")]
            Self::Heap(slice) => slice,
            Self::Lent(slice) => slice,
        }
    }
}

impl<S> DerefMut for Storage<S> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [S] {
        match self {
            #[cfg(feature = "alloc")]
            Self::Heap(slice) => slice,
            Self::Lent(slice) => slice,
        }
    }
}
