//! The drivers that are compared, behind one small trait.
//!
//! Each has one queue of [`QUEUE`] descriptors and a pool of items. The trait's methods are what a
//! caller of that driver writes: take items from the pool, hand them in, take back what came back.
//! A driver whose interface returns a token or an id keeps the items that are with the device in a
//! table by it, as its callers must (indices of items, which is cheaper than moving owners about);
//! vring gives the item itself back.

mod libblkio;
mod memory;
mod virtio_drivers;
mod vring;

pub use self::libblkio::Libblkio;
pub use self::virtio_drivers::VirtioDrivers;
pub use self::vring::{Burst, Calls, Cells, Identity, Single, Vring, Wants};

use crate::device::Areas;
use crate::item::{Item, Piece};

/// Descriptors of every queue.
pub const QUEUE: u16 = 256;

/// Names a place where a driver is used. A driver has types of its own there, so that a compiler
/// inlines it as if it were used there only.
pub trait Site: Clone + Copy + std::fmt::Debug + Send + Sync + 'static {}

/// An item in a pool, as the self-check sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owned {
    /// Its number.
    pub number: u32,
    /// Address of its data.
    pub data: u64,
}

/// One driver with one queue, and its pool.
pub trait Driver {
    /// Hands in `n` items of the pool. A driver that can publish them together does not yet.
    fn submit(&mut self, n: usize);

    /// Makes what was handed in visible, to a device that polls.
    fn publish(&mut self);

    /// Makes what was handed in visible, and tells the device if it wants to be told.
    fn kick(&mut self);

    /// Takes back what has come back; how many there were.
    fn reap(&mut self) -> usize;

    /// Where the queue is.
    fn areas(&self) -> Areas;

    /// Descriptors of an item.
    fn pieces(&self) -> &'static [Piece];

    /// Which descriptor holds the data.
    fn data_piece(&self) -> usize;

    /// The items that are in the pool.
    fn owned(&self) -> Vec<Owned>;
}

/// The items of a pool, for [`Driver::owned`].
fn owned<'a, I: Item>(pool: impl IntoIterator<Item = &'a I>) -> Vec<Owned> {
    let look = |item: &I| {
        let data = item.data();
        // SAFETY: every item has four bytes of data and more, and is in the pool, not lent.
        let bytes = unsafe { std::ptr::read_unaligned(data.cast::<[u8; 4]>()) };
        Owned {
            number: u32::from_le_bytes(bytes),
            data: data as u64,
        }
    };
    pool.into_iter().map(look).collect()
}

/// Puts an item back into a pool, which has room for all that it was made with: as in a kernel, the
/// data path does not grow it.
#[inline(always)] // is the caller's code
fn give_back<T>(pool: &mut Vec<T>, item: T) {
    assert!(pool.len() < pool.capacity(), "an item too many");
    pool.push(item);
}

/// Items, numbered from 1.
fn items<I: Item>(items: usize) -> Vec<I> {
    (1..=items as u32).map(I::new).collect()
}
