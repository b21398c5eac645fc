//! What a ring format has to do: the narrow line between the one queue and the two rings.
//!
//! [`split`](super::split) and [`packed`](super::packed) implement [`Format`]; everything else
//! (slots, the free list, what is believed of the device) is written once, in
//! [`Ring`](super::Ring). A call of the queue chooses the format once, a burst too.

use super::counts::Counts;

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

impl Piece {
    /// Nothing.
    pub(crate) const NONE: Self = Self {
        addr: 0,
        len: 0,
        flags: 0,
    };
}

/// The device's index cannot be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Impossible {
    /// The index.
    pub(crate) seen: u16,
}

/// What the device says of a chain that came back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element {
    /// Whose it is: a slot, if that is true.
    pub(crate) id: u32,
    /// How much it wrote.
    pub(crate) len: u32,
    /// Packed: the flags that it left.
    pub(crate) flags: u16,
}

/// A stretch of a ring in which chains of one descriptor are written one behind the other.
pub(crate) trait Writer {
    /// Whether there is a place for another one.
    fn has_room(&self, counts: &Counts) -> bool;

    /// Writes the descriptor of slot `head`, and enters it.
    fn put(&mut self, counts: &mut Counts, head: u32, piece: Piece);
}

/// A stretch of a ring in which chains come back, one behind the other.
pub(crate) trait Reader {
    /// Whether to go on reading, now that the stretch is at its end, or before its start.
    fn goes_on(&mut self, counts: &mut Counts, end: u64) -> bool;

    /// The next chain that came back, while the stretch goes.
    fn next(&mut self, counts: &mut Counts) -> Option<Element>;
}

/// A ring's memory, of one of the two formats.
pub(crate) trait Formatted {
    /// The format.
    type Format<'a>: Format
    where
        Self: 'a;

    /// How it is written and read.
    fn format(&self) -> Self::Format<'_>;
}

/// One of the two ring formats: shared memory, and how it is written and read.
pub(crate) trait Format {
    /// In order: the device writes one element for a batch of chains, and nothing for the others.
    const BATCH_IS_ONE_LOOK: bool;

    /// Queue size.
    fn num(&self) -> u16;

    /// Writes back what a burst of submissions changes of this format's part of the counts.
    fn keep_submitted(from: &Counts, to: &mut Counts);

    /// Writes back what a burst of completions changes of it.
    fn keep_taken(from: &Counts, to: &mut Counts);

    /// What a burst is read with.
    type Reader<'r>: Reader
    where
        Self: 'r;

    /// Reads the chains that have come back, of those before `end`, which [`glance`](Self::glance)
    /// said.
    fn reader(&self, counts: &mut Counts, end: u64) -> Self::Reader<'_>;

    /// Whether the next chain's first descriptor is held back until it is published: then it is not
    /// for a [`Writer`].
    fn holds_next(&self, counts: &Counts) -> bool;

    /// What a burst is written with.
    type Writer<'w>: Writer
    where
        Self: 'w;

    /// Writes at most `most` chains of one descriptor each, behind what is there.
    fn writer<const IN_ORDER: bool>(&self, counts: &mut Counts, most: u32) -> Self::Writer<'_>;

    /// Writes the descriptor that is number `k` of the chain of slot `id`. It belongs to slot
    /// `node`, and the next of the chain, when the flags say that there is one, to `next`.
    ///
    /// The device does not look at it before the chain is published.
    fn describe(&self, counts: &mut Counts, id: u32, node: u32, k: u16, piece: Piece, next: u16);

    /// Writes all descriptors of a chain, as [`describe`](Self::describe): they belong to these slots,
    /// of which the first is that of the chain. `held` is what [`holds_next`](Self::holds_next) says.
    fn write<const N: usize>(
        &self,
        counts: &mut Counts,
        nodes: &[u32],
        pieces: [Piece; N],
        held: bool,
    );

    /// Takes back the first `len` descriptors of a chain that is not to be.
    fn retract(&self, counts: &Counts, len: u16);

    /// Enters the chain of `len` descriptors of slot `head`, with running number `next`.
    fn enter(&self, counts: &mut Counts, next: u64, head: u32, len: u16);

    /// The same, of a ring whose chains come back in any order.
    fn enter_any(&self, counts: &mut Counts, next: u64, head: u32, len: u16) {
        self.enter(counts, next, head, len);
    }

    /// Makes all entered chains visible: one release store.
    fn publish(&self, counts: &mut Counts);

    /// The running number up to which chains may have come back: at most all that are published.
    fn glance(&self, counts: &mut Counts, in_order: bool) -> Result<u64, Impossible>;

    /// What a look leaves, from which [`element`](Self::element) is read.
    type Mark: Copy;

    /// Whether another chain has come back, of those before `end`, which [`glance`](Self::glance)
    /// said.
    fn more(&self, counts: &mut Counts, end: u64) -> Option<Self::Mark>;

    /// Whether a chain has come back, as far as a quick look tells. In order, and of a broken ring,
    /// it tells nothing.
    fn peek(&self, counts: &mut Counts) -> Result<Self::Mark, Self::Mark>;

    /// Whether a chain has come back, though a quick look, which left `mark`, did not tell.
    fn poll(
        &self,
        counts: &mut Counts,
        mark: Self::Mark,
        in_order: bool,
    ) -> Result<Option<Self::Mark>, Impossible>;

    /// What the device says of the chain that came back.
    fn element(&self, counts: &Counts, mark: Self::Mark) -> Element;

    /// Bytes that the device says it wrote, where `element` says more than the `written` that the
    /// chain holds.
    fn excess(element: Element, written: u32) -> u32;

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

    /// What a doorbell says under `VIRTIO_F_NOTIFICATION_DATA` (VIRTIO 1.4, 2.9), after
    /// [`wants_kick`](Self::wants_kick).
    fn notification(&self, counts: &Counts) -> u16;

    /// Makes every later look find nothing.
    fn poison(&self, counts: &mut Counts);

    /// Whether the entries of an indirect table are linked.
    fn tables_are_linked(&self) -> bool;
}
