//! What a ring format is to the device's side.

use alloc::vec::Vec;

use super::chain::{Chain, Record};
use super::{Bus, QueueOptions, Violations};
use crate::testing::memory::Words;

/// What a side needs to know of its queue.
pub(in crate::testing) struct View {
    pub(in crate::testing) bus: Bus,
    pub(in crate::testing) log: Violations,
    pub(in crate::testing) options: QueueOptions,
    pub(in crate::testing) size: u16,
    /// The device has lied where nobody can tell which buffers the driver took back: it touches
    /// no leased buffer any more, and knows no more what the driver may do.
    pub(in crate::testing) tainted: bool,
}

/// A chain that was just found.
pub(in crate::testing) struct Fresh {
    pub(in crate::testing) chain: Chain,
    pub(in crate::testing) record: Record,
}

/// One ring format, from the device's side. Positions are running numbers that never wrap: of
/// chains in a split ring, of descriptors in a packed one.
pub(in crate::testing) trait Side {
    /// Whether the driver's memory is still there.
    fn is_live(&self) -> bool;

    /// The table that the [`Record`]s of the chains are about, where each descriptor stays as the
    /// driver wrote it until its chain is returned.
    fn table(&self) -> Option<&Words>;

    /// Takes and judges the chains that are available and were not looked at yet; `outstanding`
    /// are with the device.
    fn look(&mut self, view: &View, outstanding: usize) -> Vec<Fresh>;

    /// Checks that the driver left alone what is the device's.
    fn check(&mut self, view: &View);

    /// The chain is about to be returned.
    fn release(&mut self, record: &Record);

    /// Writes a used element that stands for so many chains, and descriptors of the ring.
    fn put(&mut self, id: u32, len: u32, chains: u16, descriptors: u16);

    /// Makes the used elements visible.
    fn publish(&mut self, view: &View);

    /// Up to where the driver has made available, as far as the device can see now.
    fn available(&self) -> u64;

    /// Up to where the device has looked.
    fn looked(&self) -> u64;

    /// Up to where the driver can see used elements.
    fn used(&self) -> u64;

    /// Where the next used element goes, visible or not.
    fn written(&self) -> u64;

    /// A position as the driver and the device tell it each other: an index, or offset and wrap
    /// counter.
    fn spot(&self, position: u64) -> u16;

    /// Whether the driver wants an interrupt for going from `old` to `new`.
    fn wants_interrupt(&self, view: &View, old: u64, new: u64) -> bool;

    /// Whether the driver has to kick for going from `old` to `new`.
    fn wants_kick(&self, view: &View, old: u64, new: u64) -> bool;

    /// Asks for a kick at this position; without an event index, for any.
    fn ask_kick(&mut self, view: &View, position: u64);

    /// Asks for none.
    fn ask_no_kick(&mut self, view: &View);

    /// Stores a position to kick at.
    fn store_event(&mut self, event: u16);

    /// Stores the flags of the device's suppression word.
    fn store_flags(&mut self, flags: u16);

    /// Loads the driver's event.
    fn driver_event(&self) -> u16;

    /// Overwrites the used element of a slot.
    fn forge_element(&mut self, slot: u16, id: u32, len: u32);

    /// Moves the device's position, and shows it where it is shown.
    fn forge_move(&mut self, by: i16);

    /// Turns the flags of a descriptor over that say whose it is, where there are such.
    fn forge_flip(&mut self, index: u16, flags: u16);

    /// Overwrites a descriptor.
    fn forge_descriptor(&mut self, index: u16, addr: u64, rest: u64);

    /// Overwrites an entry of the available ring, where there is one.
    fn forge_available(&mut self, slot: u16, head: u16);

    /// Overwrites the driver's index, or event structure.
    fn forge_driver_word(&mut self, word: u16);
}
