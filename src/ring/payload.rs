//! The place of a buffer in its slot, with the running number of its chain: the one says whether the
//! other is there.
//!
//! A device that names a slot is believed when the slot's chain was published, which is when its
//! running number is below the next one to be published. A place that is empty has a number that is
//! below none, so that one comparison is the whole check, and no flag is kept beside the buffer.
//!
//! # Invariant
//!
//! `value` is initialized exactly when `number` is not [`EMPTY`].

use core::fmt;
use core::mem::MaybeUninit;

/// The number of no chain.
const EMPTY: u64 = u64::MAX;

/// Room for a buffer.
pub(crate) struct Payload<T> {
    value: MaybeUninit<T>,
    number: u64,
}

impl<T> Payload<T> {
    /// Nothing.
    pub(crate) const fn empty() -> Self {
        Self {
            value: MaybeUninit::uninit(),
            number: EMPTY,
        }
    }

    /// Puts a buffer in its place, under the number that its chain will have, and says where it
    /// stays. What was there before, if anything, is forgotten, not dropped, which spares the data
    /// path the code to drop it.
    #[inline(always)] // the buffer is moved once
    pub(crate) fn park(&mut self, value: T, number: u64) -> &mut T {
        // Were the number that of no chain, the buffer would be forgotten.
        self.number = number;
        self.value.write(value)
    }

    /// The running number of the chain; of none when it is empty.
    #[inline]
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Whether a buffer is there.
    #[inline]
    pub(crate) fn is_some(&self) -> bool {
        self.number != EMPTY
    }

    /// The buffer, where it is.
    #[inline]
    pub(crate) fn get_mut(&mut self) -> Option<&mut T> {
        if self.number == EMPTY {
            return None;
        }
        // SAFETY: the invariant.
        Some(unsafe { self.value.assume_init_mut() })
    }

    /// Takes the buffer.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<T> {
        self.take_before(EMPTY)
    }

    /// Takes the buffer if its number is below `end`.
    #[inline(always)] // the buffer is moved once
    pub(crate) fn take_before(&mut self, end: u64) -> Option<T> {
        if self.number >= end {
            return None;
        }
        self.number = EMPTY;
        // SAFETY: the number was below another, so not `EMPTY`: the value was initialized. It is
        // taken to be uninitialized from now on.
        Some(unsafe { self.value.assume_init_read() })
    }
}

impl<T> Drop for Payload<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}

impl<T> fmt::Debug for Payload<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.is_some().then_some(self.number);
        f.debug_tuple("Payload").field(&number).finish()
    }
}
