//! What a ring format has to do: the narrow line between the one queue and the two rings.
//!
//! [`split`](super::split) and [`packed`](super::packed) implement [`Format`]; everything else
//! (slots, the free list, what is believed of the device) is written once, in
//! [`Ring`](super::Ring). A call of the queue chooses the format once, a burst too.

use super::counts::Counts;
use crate::transport::{Doorbell, QueueAreas, QueueIndex, Transport, TransportError};

/// A descriptor, in terms of both formats.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    /// Where the device finds the bytes.
    pub(crate) addr: u64,
    /// How many there are.
    pub(crate) len: u32,
    /// [`DescriptorFlags`](super::layout::DescriptorFlags): `WRITE`, `NEXT`, `INDIRECT`.
    pub(crate) flags: u16,
}

/// The device's index cannot be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Impossible {
    /// The index.
    pub(crate) seen: u16,
}

/// What a look for completions found.
pub(crate) enum Poll {
    /// One is there.
    Ready,
    /// None is there.
    Empty,
    /// What cannot be.
    Impossible(Impossible),
}

/// One of the two ring formats: shared memory, and how it is written and read.
pub(crate) trait Format {
    /// In order: the device writes one element for a batch of chains, and nothing for the others.
    const BATCH_IS_ONE_LOOK: bool;

    /// Queue size.
    fn num(&self) -> u16;

    /// Writes the descriptor that is number `k` of the chain of slot `id`. It belongs to slot
    /// `node`, and the next of the chain, when the flags say that there is one, to `next`.
    ///
    /// The device does not look at it before the chain is published.
    fn describe(&self, counts: &mut Counts, id: u16, node: u16, k: u16, piece: Piece, next: u16);

    /// Takes back the first `len` descriptors of a chain that is not to be.
    fn retract(&self, counts: &Counts, len: u16);

    /// Enters the chain of `len` descriptors of slot `head`, with running number `next`.
    fn enter(&self, counts: &mut Counts, next: u64, head: u16, len: u16);

    /// Makes all entered chains visible: one release store.
    fn publish(&self, counts: &mut Counts);

    /// The running number up to which chains may have come back: at most all that are published.
    fn glance(&self, counts: &mut Counts) -> Result<u64, Impossible>;

    /// Whether another chain has come back, of those before `end`, which [`glance`](Self::glance)
    /// said.
    fn more(&self, counts: &mut Counts, end: u64) -> bool;

    /// Whether a chain has come back, from what is known or by looking.
    fn poll(&self, counts: &mut Counts) -> Poll;

    /// The id and the length of the chain that came back.
    fn element(&self, counts: &Counts) -> (u32, u32);

    /// Bytes that the device says it wrote, from the length of [`element`](Self::element), which is
    /// more than the `written` that the chain holds.
    fn excess(&self, counts: &Counts, len: u32, written: u32) -> u32;

    /// Goes on behind `element`, whose chain has `len` descriptors.
    fn pass(&self, counts: &mut Counts, len: u16);

    /// Whether the device wants to be told of what was published since the last call; `chains`
    /// chains.
    fn wants_kick(&self, counts: &mut Counts, chains: u64) -> bool;

    /// Asks for an interrupt when the next chain has come back or, `delayed`, about three quarters
    /// of those that are with the device; true when it may be too late for one.
    fn arm(&self, counts: &Counts, delayed: bool) -> bool;

    /// Asks for no interrupts.
    fn disarm(&self, counts: &Counts);

    /// What a doorbell says under `VIRTIO_F_NOTIFICATION_DATA` (VIRTIO 1.4, 2.9).
    fn notification(&self, counts: &Counts) -> u16;

    /// Makes every later look find nothing.
    fn poison(&self, counts: &mut Counts);

    /// Whether the entries of an indirect table are linked.
    fn tables_are_linked(&self) -> bool;

    /// Bytes of shared memory.
    fn memory_size(&self) -> usize;

    /// Where the device finds the three areas.
    fn areas(&self) -> QueueAreas;

    /// Hands the ring to a device: see [`SplitMemory::expose`](crate::shared::SplitMemory::expose).
    fn expose(
        &self,
        transport: &mut impl Transport,
        queue: QueueIndex,
        vector: Option<u16>,
    ) -> Result<Doorbell, TransportError>;
}
