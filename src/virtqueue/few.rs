//! Chains of few pieces, on platforms that map nothing.
//!
//! How many pieces there are is known when the code is compiled, wherever the buffer knows it: then
//! all of them are mapped before the first is written, in registers, and nothing has to be taken back
//! when one fails.

use super::submit::{Ended, INDIRECT_FROM, NEXT, WRITE, bad_length, put_in_table, split_mapping};
use super::{Reject, Rejected, Ticket};
use crate::buffer::DmaBuf;
use crate::dma;
use crate::platform::{Direction, Platform};
use crate::ring::Counts;
use crate::ring::core::{FEW, burst, keep_chains};
use crate::ring::format::{Format, Formatted, Piece};
use crate::ring::layout::DescriptorFlags;
use crate::ring::storage::{HEADER, Parked, REPLY, Slot};
use crate::shared::{CellMemory, Cells, TableMemory};

/// Whether a buffer of so many segments, more than one, is for here.
#[inline(always)] // folds where the buffer knows how many segments it has
pub(super) const fn is_few(count: usize) -> bool {
    count.wrapping_sub(2) <= FEW - 2
}

/// What the pieces of a chain need, but for room in the ring.
pub(super) struct Way<'a, F, P: Platform> {
    pub(super) format: &'a F,
    pub(super) platform: &'a P,
    pub(super) tables: Option<&'a TableMemory<P>>,
    pub(super) in_order: bool,
    /// The next chain is the first of its batch.
    pub(super) held: bool,
}

/// A chain's pieces, and how many bytes of it the device may write.
type Pieces<const N: usize> = ([Piece; N], u32);

impl<F: Format, P: Platform> Way<'_, F, P> {
    /// Submits a buffer of [few](is_few) segments, for all of which there is room in the list of free
    /// descriptors or, when this is `WHOLE`, a chain that is free.
    #[inline(always)] // folds where the buffer knows how many segments it has
    pub(super) fn add<const WHOLE: bool, B: DmaBuf>(
        &self,
        slots: &mut [Slot<B>],
        counts: &mut Counts,
        buf: B,
    ) -> Result<Ticket, Rejected<B>> {
        match buf.count() {
            2 => self.add_n::<2, WHOLE, _>(slots, counts, 0, buf, Alone),
            3 => self.add_n::<3, WHOLE, _>(slots, counts, 0, buf, Alone),
            _ => self.add_n::<FEW, WHOLE, _>(slots, counts, 0, buf, Alone),
        }
    }

    /// Submits a buffer of one segment, with a header in front that fits its cell, or none, and a
    /// reply cell behind when there are such: two or three pieces, for which there is room.
    #[inline(always)] // folds where the size of the header is known
    pub(super) fn add_with<B: DmaBuf>(
        &self,
        slots: &mut [Slot<B>],
        counts: &mut Counts,
        cells: &CellMemory<P>,
        header: &[u8],
        buf: B,
    ) -> Result<Ticket, Rejected<B>> {
        let reply = cells.view().reply_size() != 0;
        let shape = if reply { REPLY } else { 0 } | if header.is_empty() { 0 } else { HEADER };
        let cells = Between(cells.view(), header);
        if reply && !header.is_empty() {
            self.add_n::<3, false, _>(slots, counts, shape, buf, cells)
        } else {
            self.add_n::<2, false, _>(slots, counts, shape, buf, cells)
        }
    }

    /// Submits a chain of `N` pieces, in the ring or in a table.
    #[inline(always)] // as above
    fn add_n<const N: usize, const WHOLE: bool, B: DmaBuf>(
        &self,
        slots: &mut [Slot<B>],
        counts: &mut Counts,
        shape: u32,
        buf: B,
        parts: impl Parts<B>,
    ) -> Result<Ticket, Rejected<B>> {
        match self.tables {
            Some(tables) if N >= INDIRECT_FROM && N <= usize::from(tables.entries()) => {
                self.add_chain::<N, 1, false, _>(slots, counts, shape, Some(tables), buf, parts)
            }
            _ => self.add_chain::<N, N, WHOLE, _>(slots, counts, shape, None, buf, parts),
        }
    }

    /// Submits a chain of `N` pieces with `D` descriptors in the ring: all, or one for a table. They
    /// are those of a chain that is free as a whole, or from the list.
    #[inline(always)] // as above
    fn add_chain<const N: usize, const D: usize, const WHOLE: bool, B: DmaBuf>(
        &self,
        slots: &mut [Slot<B>],
        counts: &mut Counts,
        shape: u32,
        table: Option<&TableMemory<P>>,
        buf: B,
        parts: impl Parts<B>,
    ) -> Result<Ticket, Rejected<B>> {
        // The slots of the chain, and what is behind it: the payload is borrowed when they are used.
        let chain = if WHOLE {
            whole_chain::<D, _>(slots, counts.chain_head())
        } else {
            list_chain::<D, _>(slots, counts.head_index() as u32)
        };
        let Some((nodes, tail, behind)) = chain else {
            return Err(nothing(buf));
        };
        let head = nodes.first().copied().unwrap_or(0);
        let Some(slot) = slots.get_mut(head as usize) else {
            return Err(nothing(buf));
        };
        let parked = Parked(slot);
        let slot = &mut *parked.0;
        let number = counts.next();
        let parked_buf = slot.payload.park(buf, number);
        let why = match parts.map::<N, _>(self.platform, head as u16, parked_buf) {
            Ok((pieces, writable)) => {
                let len = D as u16;
                match table {
                    Some(tables) => self.write_table(tables, counts, head, pieces),
                    None => self.format.write(counts, &nodes, pieces, self.held),
                }
                slot.writable = writable;
                if !WHOLE {
                    slot.tail = tail;
                }
                slot.shape = u32::from(len) | shape;
                core::mem::forget(parked);
                if self.in_order {
                    self.format.enter(counts, number, head, len);
                } else {
                    self.format.enter_any(counts, number, head, len);
                }
                if WHOLE {
                    counts.admit_chain(number, behind, len.into());
                } else {
                    counts.take_room(len.into());
                    counts.admit(number, behind);
                }
                return Ok(Ticket::new(head as u16, number));
            }
            Err(why) => why,
        };
        match slot.payload.take() {
            Some(buf) => Err(Rejected { buf, why }),
            // The buffer was parked above.
            None => Ok(Ticket::new(head as u16, 0)),
        }
    }

    /// Writes a slot's table, and the one descriptor in the ring that stands for it.
    #[inline(always)] // as above
    fn write_table<const N: usize>(
        &self,
        tables: &TableMemory<P>,
        counts: &mut Counts,
        head: u32,
        pieces: [Piece; N],
    ) {
        let linked = self.format.tables_are_linked();
        for entry in 0..N {
            if let Some(&piece) = pieces.get(entry) {
                put_in_table(tables, linked, entry as u16, head as u16, piece);
            }
        }
        let piece = Piece {
            addr: tables.addr(head as u16),
            len: (N as u32).wrapping_mul(16),
            flags: DescriptorFlags::INDIRECT.bits(),
        };
        self.format.describe(counts, head, head, 0, piece, 0);
    }
}

/// Slots of a chain, the last of them, and what is behind it.
type Nodes<const D: usize> = ([u32; D], u16, u16);

/// The first `D` slots of the list of free ones, and the next in it.
#[inline(always)] // as above
fn list_chain<const D: usize, B>(slots: &[Slot<B>], head: u32) -> Option<Nodes<D>> {
    let (mut nodes, mut behind) = ([head; D], head);
    for node in &mut nodes {
        *node = behind;
        behind = slots.get(behind as usize)?.next.into();
    }
    Some((
        nodes,
        nodes.last().map_or(0, |&tail| tail as u16),
        behind as u16,
    ))
}

/// The slots of a chain that is free as a whole, and the head of the next such chain.
#[inline(always)] // as above
fn whole_chain<const D: usize, B>(slots: &[Slot<B>], head: u32) -> Option<Nodes<D>> {
    let slot = slots.get(head as usize)?;
    let (mut nodes, mut node) = ([head; D], u32::from(slot.next));
    for (k, place) in nodes.iter_mut().enumerate().skip(1) {
        if k.wrapping_add(1) == D {
            *place = slot.tail.into();
        } else {
            *place = node;
            if k.wrapping_add(2) < D {
                node = slots.get(node as usize)?.next.into();
            }
        }
    }
    Some((nodes, slot.tail, slot.after))
}

/// What a chain is made of.
trait Parts<B> {
    /// Maps it, as `N` pieces.
    fn map<const N: usize, P: Platform>(
        self,
        platform: &P,
        head: u16,
        buf: &mut B,
    ) -> Result<Pieces<N>, Reject>;
}

/// The segments of a buffer.
struct Alone;

impl<B: DmaBuf> Parts<B> for Alone {
    #[inline(always)] // folds where the buffer knows its segments
    fn map<const N: usize, P: Platform>(
        self,
        platform: &P,
        _: u16,
        buf: &mut B,
    ) -> Result<Pieces<N>, Reject> {
        let mut chain = Chain::new();
        let mut pieces = [Piece::NONE; N];
        for (index, piece) in pieces.iter_mut().enumerate() {
            *piece = chain.map(platform, buf, index)?;
        }
        chain.end(pieces)
    }
}

/// The one segment of a buffer, between its slot's cells: a header, or nothing when it is empty, and
/// a reply, when there is one.
struct Between<'a>(&'a Cells, &'a [u8]);

impl<B: DmaBuf> Parts<B> for Between<'_> {
    #[inline(always)] // as above
    fn map<const N: usize, P: Platform>(
        self,
        platform: &P,
        head: u16,
        buf: &mut B,
    ) -> Result<Pieces<N>, Reject> {
        let Self(cells, header) = self;
        let mut chain = Chain::new();
        let mut pieces = [Piece::NONE; N];
        let mut places = pieces.iter_mut();
        if !header.is_empty()
            && let Some(piece) = places.next()
        {
            let (addr, len) = (cells.set_header(head, header), header.len() as u32);
            *piece = chain.count(addr, len, false);
        }
        if let Some(piece) = places.next() {
            *piece = chain.map(platform, buf, 0)?;
        }
        if let Some(piece) = places.next() {
            let (addr, len) = (cells.reset_reply(head), cells.reply_size().into());
            *piece = chain.count(addr, len, true);
        }
        chain.end(pieces)
    }
}

/// What is known of a chain while its pieces are mapped.
struct Chain {
    total: u64,
    writable: u32,
}

impl Chain {
    #[inline(always)] // two moves
    fn new() -> Self {
        Self {
            total: 0,
            writable: 0,
        }
    }

    /// A piece that another follows.
    #[inline(always)] // a few additions
    fn count(&mut self, addr: u64, len: u32, writable: bool) -> Piece {
        self.total = self.total.wrapping_add(len.into());
        let mut flags = NEXT;
        if writable {
            flags |= WRITE;
            self.writable = self.writable.saturating_add(len);
        }
        Piece { addr, len, flags }
    }

    /// Maps a segment, as one piece that another follows.
    #[inline(always)] // as above
    fn map<P: Platform, B: DmaBuf>(
        &mut self,
        platform: &P,
        buf: &mut B,
        index: usize,
    ) -> Result<Piece, Reject> {
        let segment = buf.segment(index);
        let len = segment.len();
        if len.wrapping_sub(1) >= u32::MAX as usize {
            return Err(bad_length(index, len));
        }
        let writable = segment.direction() == Direction::Writable;
        if !writable && self.writable != 0 {
            return Err(Reject::Order { index });
        }
        let mapping = dma::map(platform, segment).map_err(Reject::Map)?;
        if mapping.len as usize != len {
            return Err(split_mapping(len, mapping));
        }
        Ok(self.count(mapping.addr.0, mapping.len, writable))
    }

    /// All pieces: no other follows the last.
    #[inline(always)] // as above
    fn end<const N: usize>(self, mut pieces: [Piece; N]) -> Result<Pieces<N>, Reject> {
        // VIRTIO 1.4, 2.7.5.2: no chain of more than 2^32 bytes.
        if self.total > 1 << 32 {
            return Err(Reject::TooLong { bytes: self.total });
        }
        if let Some(last) = pieces.last_mut() {
            last.flags &= !NEXT;
        }
        Ok((pieces, self.writable))
    }
}

#[cold]
fn nothing<B>(buf: B) -> Rejected<B> {
    let why = bad_length(0, 0);
    Rejected { buf, why }
}

/// Submits buffers of [few](is_few) segments, `buf` and those that `bufs` has: while there is room in
/// the list of free descriptors or, when this is `WHOLE`, while there are chains that are free and as
/// long. Returns what ended it.
#[inline(never)] // the loop has all registers for itself
pub(super) fn add_burst_of_few<
    const WHOLE: bool,
    const IN_ORDER: bool,
    R: Formatted,
    P: Platform,
    B: DmaBuf,
>(
    ring: &R,
    slots: &mut [Slot<B>],
    counts: &mut Counts,
    platform: &P,
    tables: Option<&TableMemory<P>>,
    mut buf: B,
    bufs: &mut impl Iterator<Item = B>,
) -> Ended<B> {
    let format = &ring.format();
    let mut way = Way {
        format,
        platform,
        // Only a chain in the ring is free as a whole, and only where any is free before others.
        tables: if WHOLE { None } else { tables },
        in_order: IN_ORDER,
        held: format.holds_next(counts),
    };
    if way.held && !IN_ORDER {
        // The first of a batch by itself: the loop has no register for what is special with it. (In
        // order the loop is shorter with it.)
        match first_of_few::<WHOLE, _, _, _>(&way, slots, counts, buf, bufs) {
            Ok(next) => buf = next,
            Err(ended) => return ended,
        }
        way.held = false;
    }
    burst(counts, keep_chains(format), |counts| {
        loop {
            if !has_room::<WHOLE>(counts, buf.count()) {
                return Ended::Odd(buf);
            }
            if let Err(rejected) = way.add::<WHOLE, _>(slots, counts, buf) {
                return Ended::Rejected(rejected);
            }
            way.held = false;
            if is_full::<WHOLE>(counts) {
                return Ended::Full;
            }
            let Some(next) = bufs.next() else {
                return Ended::Over;
            };
            buf = next;
        }
    })
}

/// One turn of the loop of [`add_burst_of_few`], and the buffer of the next.
#[inline(never)] // to be out of the loop
fn first_of_few<const WHOLE: bool, F: Format, P: Platform, B: DmaBuf>(
    way: &Way<'_, F, P>,
    slots: &mut [Slot<B>],
    counts: &mut Counts,
    buf: B,
    bufs: &mut impl Iterator<Item = B>,
) -> Result<B, Ended<B>> {
    if !has_room::<WHOLE>(counts, buf.count()) {
        return Err(Ended::Odd(buf));
    }
    if let Err(rejected) = way.add::<WHOLE, _>(slots, counts, buf) {
        return Err(Ended::Rejected(rejected));
    }
    if is_full::<WHOLE>(counts) {
        return Err(Ended::Full);
    }
    bufs.next().ok_or(Ended::Over)
}

/// Whether there is room for a buffer of few, where a burst puts them.
#[inline(always)] // a comparison
fn has_room<const WHOLE: bool>(counts: &Counts, count: usize) -> bool {
    let room = if WHOLE {
        counts.has_chain(count)
    } else {
        // Room for any that follows spares a comparison with this one's count.
        counts.free() >= FEW as u32
    };
    is_few(count) && room
}

/// Whether there is no room for another. Where there is room elsewhere, the buffer that is asked for
/// next goes there.
#[inline(always)] // a comparison
fn is_full<const WHOLE: bool>(counts: &Counts) -> bool {
    (!WHOLE || counts.chained() == 0) && counts.free() == 0
}
