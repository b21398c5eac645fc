//! From a buffer to descriptors.
//!
//! The buffer moves into its slot first; pointers are derived from where it stays. Then one pass
//! maps a piece and writes its descriptor, over and over; descriptors that are not committed are
//! nobody's. Counts and the available ring change once the last mapping has succeeded, so that a
//! failure leaves the queue as it was: what was mapped is unmapped in reverse, and the buffer moves
//! out again.
//!
//! That is the way of any buffer. Those of one segment, and of few (`few.rs`), have shorter ones on
//! platforms that map nothing.
//!
//! A chain of several pieces goes into the slot's indirect table when there is one and it pays:
//! from [`INDIRECT_FROM`] pieces on, or when the ring is short of descriptors.

use super::{Core, Reject, Rejected, Ticket};
use crate::buffer::{DmaBuf, Segment};
use crate::dma;
use crate::platform::{Direction, DmaError, Mapping, Platform};
use crate::ring::Counts;
use crate::ring::core::{ChainInfo, burst, keep_singles, with_format};
use crate::ring::format::{Format, Formatted, Piece, Writer};
use crate::ring::layout::DescriptorFlags;
use crate::ring::storage::{Parked, Slot};
use crate::shared::TableMemory;

/// Pieces from which on a table is worth its extra line of cache.
pub(super) const INDIRECT_FROM: usize = 3;

pub(super) const WRITE: u16 = DescriptorFlags::WRITE.bits();
pub(super) const NEXT: u16 = DescriptorFlags::NEXT.bits();

/// Submits a buffer of one segment on a platform that maps nothing: the slot is looked up once, and
/// `write` writes one descriptor and enters it.
#[inline(always)] // or the slot and the counts go through memory
pub(super) fn add_one<P: Platform, B: DmaBuf>(
    slot: &mut Slot<B>,
    counts: &mut Counts,
    platform: &P,
    buf: B,
    write: impl FnOnce(&mut Counts, u32, Piece),
) -> Result<Ticket, Rejected<B>> {
    let head = counts.head_index() as u32;
    let parked = Parked(slot);
    let slot = &mut *parked.0;
    let number = counts.next();
    let segment = slot.payload.park(buf, number).segment(0);
    let len = segment.len();
    let why = if len.wrapping_sub(1) < u32::MAX as usize {
        match dma::map(platform, segment) {
            Ok(mapping) if mapping.len as usize == len => {
                let writable = segment.direction() == Direction::Writable;
                let flags = if writable { WRITE } else { 0 };
                let (addr, len) = (mapping.addr.0, mapping.len);
                write(counts, head, Piece { addr, len, flags });
                slot.writable = if writable { len } else { 0 };
                slot.shape = 1;
                counts.admit(number, slot.next);
                core::mem::forget(parked);
                return Ok(Ticket::new(head as u16, number));
            }
            Ok(mapping) => split_mapping(len, mapping),
            Err(error) => Reject::Map(error),
        }
    } else {
        bad_length(0, len)
    };
    match slot.payload.take() {
        Some(buf) => Err(Rejected { buf, why }),
        // The buffer was parked above.
        None => Ok(Ticket::new(head as u16, 0)),
    }
}

/// Submits buffers of one segment, on a platform that maps nothing, while there is room. Returns
/// what ended it.
#[inline(never)] // the loop has all registers for itself
pub(super) fn add_burst<const IN_ORDER: bool, R: Formatted, P: Platform, B: DmaBuf>(
    ring: &R,
    slots: &mut [Slot<B>],
    counts: &mut Counts,
    platform: &P,
    bufs: &mut impl Iterator<Item = B>,
) -> Ended<B> {
    let format = &ring.format();
    burst(counts, keep_singles(format), |counts| {
        let start = counts.next();
        loop {
            let room = counts.room(start);
            if room == 0 {
                return Ended::Full;
            }
            if format.holds_next(counts) {
                let write = |counts: &mut Counts, head, piece| {
                    format.describe(counts, head, head, 0, piece, 0);
                    format.enter(counts, counts.next(), head, 1);
                };
                if let Err(ended) = add_next(slots, counts, platform, bufs, write) {
                    return ended;
                }
                continue;
            }
            let mut writer = format.writer::<IN_ORDER>(counts, room);
            while writer.has_room(counts) {
                let write = |counts: &mut Counts, head, piece| writer.put(counts, head, piece);
                if let Err(ended) = add_next(slots, counts, platform, bufs, write) {
                    return ended;
                }
            }
        }
    })
}

/// What ended a burst.
pub(super) enum Ended<B> {
    /// There is no other buffer.
    Over,
    /// There is no room where this kind of buffer goes, and no other was asked for.
    Full,
    /// A buffer of another kind.
    Odd(B),
    /// A buffer that was rejected.
    Rejected(Rejected<B>),
}

/// Submits the next buffer of a burst.
#[inline(always)] // as above
fn add_next<P: Platform, B: DmaBuf>(
    slots: &mut [Slot<B>],
    counts: &mut Counts,
    platform: &P,
    bufs: &mut impl Iterator<Item = B>,
    write: impl FnOnce(&mut Counts, u32, Piece),
) -> Result<(), Ended<B>> {
    let Some(buf) = bufs.next() else {
        return Err(Ended::Over);
    };
    if !P::DIRECT || buf.count() != 1 {
        return Err(Ended::Odd(buf));
    }
    let Some(slot) = slots.get_mut(counts.head_index()) else {
        return Err(Ended::Odd(buf));
    };
    match add_one(slot, counts, platform, buf, write) {
        Ok(_) => Ok(()),
        Err(rejected) => Err(Ended::Rejected(rejected)),
    }
}

/// Why a chain was not laid out, and what has to be undone.
struct Abandoned {
    why: Reject,
    chain: ChainInfo,
    /// There was no room where it was being laid.
    full: bool,
}

impl<P: Platform, B: DmaBuf> Core<P, B> {
    /// Submits any buffer, with a header in front unless it is empty, and with the reply cell
    /// behind when `cells` says so.
    #[inline]
    pub(super) fn add(
        &mut self,
        header: &[u8],
        cells: bool,
        buf: B,
    ) -> Result<Ticket, Rejected<B>> {
        if self.ring.counts.chained() != 0 {
            self.ring.unchain();
        }
        let segments = buf.count();
        let reply = cells
            && self
                .cells
                .as_ref()
                .is_some_and(|c| c.view().reply_size() != 0);
        let extra = usize::from(!header.is_empty()).wrapping_add(usize::from(reply));
        let needed = segments.saturating_add(extra);
        let free = usize::from(self.ring.free());
        let table = self.tables.as_ref().is_some_and(|tables| {
            needed > 1
                && needed <= usize::from(tables.entries())
                && (needed >= INDIRECT_FROM || needed > free)
        });
        // A buffer of no segments, too: in order, the slot behind the last free one is in use.
        if (if table { 1 } else { needed.max(1) }) > free || needed > usize::from(self.longest) {
            return Err(self.no_room(buf, needed));
        }
        let head = self.ring.counts.head();
        let number = self.ring.counts.next();
        let Some(slot) = self.ring.slots.get_mut(usize::from(head)) else {
            return Err(self.no_room(buf, needed));
        };
        slot.payload.park(buf, number);
        let laying = Laying(self, head);
        let mut laid = laying.0.lay(header, segments, reply, head, table);
        if let Err(Abandoned {
            full: true,
            ref chain,
            ..
        }) = laid
            && (table || laying.0.tables.is_some())
        {
            // The platform made more pieces than there are segments: the other place may do.
            laying.0.unwind(head, chain);
            let held = chain.pieces;
            if !table {
                laying.0.ring.retract(held);
            }
            laid = laying.0.lay(header, segments, reply, head, !table);
            // Neither does: the one with more room tells more of what the chain takes.
            if let Err(Abandoned {
                full: true,
                ref mut why,
                ref chain,
            }) = laid
                && chain.pieces < held
            {
                *why = laying.0.full(usize::from(held).wrapping_add(1));
            }
        }
        if let Err(Abandoned { ref chain, .. }) = laid {
            laying.0.unwind(head, chain);
        }
        core::mem::forget(laying);
        match laid {
            Ok(chain) => Ok(Ticket::new(head, self.ring.commit(&chain))),
            Err(Abandoned { why, chain, .. }) => {
                let len = if chain.table { 1 } else { chain.pieces };
                match self.ring.take_back(head, len) {
                    Some(buf) => Err(Rejected { buf, why }),
                    // The slot was filled above. Should it be empty, the ring is broken now, and
                    // the next look for completions says so.
                    None => Ok(Ticket::new(head, 0)),
                }
            }
        }
    }

    /// Maps the buffer in slot `head`, and writes the descriptors of the whole chain.
    #[inline]
    fn lay(
        &mut self,
        header: &[u8],
        segments: usize,
        reply: bool,
        head: u16,
        table: bool,
    ) -> Result<ChainInfo, Abandoned> {
        let mut chain = ChainInfo {
            tail: head,
            behind: head,
            len: 0,
            pieces: 0,
            table,
            writable: 0,
            header: !header.is_empty(),
            reply,
        };
        match self.lay_pieces(header, segments, head, &mut chain) {
            Ok(()) => Ok(chain),
            Err((why, full)) => Err(Abandoned { why, chain, full }),
        }
    }

    #[inline]
    fn lay_pieces(
        &mut self,
        header: &[u8],
        segments: usize,
        head: u16,
        chain: &mut ChainInfo,
    ) -> Result<(), (Reject, bool)> {
        let reply = chain.reply;
        let mut total = header.len() as u64;
        if !header.is_empty() {
            let cells = self.cells.as_ref().map(|cells| cells.view());
            let max = cells.map_or(0, |cells| cells.header_size());
            let Some(cells) = cells.filter(|_| header.len() <= usize::from(max)) else {
                return Err((
                    Reject::Header {
                        size: header.len(),
                        max,
                    },
                    false,
                ));
            };
            let addr = cells.set_header(head, header);
            let last = segments == 0 && !reply;
            self.put(
                chain,
                head,
                Piece {
                    addr,
                    len: header.len() as u32,
                    flags: 0,
                },
                last,
            )?;
        }
        for index in 0..segments {
            let Some(segment) = self.ring.segment(head, index) else {
                return Err((Reject::Empty { index }, false));
            };
            let len = segment.len();
            if len.wrapping_sub(1) >= u32::MAX as usize {
                return Err((bad_length(index, len), false));
            }
            let writable = segment.direction() == Direction::Writable;
            if !writable && chain.writable != 0 {
                return Err((Reject::Order { index }, false));
            }
            total = total.wrapping_add(len as u64);
            let last = index.wrapping_add(1) == segments && !reply;
            self.put_segment(chain, head, segment, last)?;
            if writable {
                chain.writable = chain.writable.saturating_add(len as u32);
            }
        }
        if let Some(cells) = self.cells.as_ref().filter(|_| reply) {
            let addr = cells.view().reset_reply(head);
            let len = u32::from(cells.view().reply_size());
            total = total.wrapping_add(len.into());
            chain.writable = chain.writable.saturating_add(len);
            self.put(
                chain,
                head,
                Piece {
                    addr,
                    len,
                    flags: WRITE,
                },
                true,
            )?;
        }
        if chain.pieces == 0 {
            let empty = Reject::Empty { index: 0 };
            return Err((self.ring.fault().map_or(empty, Reject::Broken), false));
        }
        // VIRTIO 1.4, 2.7.5.2: no chain of more than 2^32 bytes.
        if total > 1 << 32 {
            return Err((Reject::TooLong { bytes: total }, false));
        }
        self.close_table(chain, head);
        Ok(())
    }

    /// Maps a segment, in as many pieces as the platform makes of it, and writes their
    /// descriptors.
    #[inline]
    pub(super) fn put_segment(
        &mut self,
        chain: &mut ChainInfo,
        head: u16,
        mut segment: Segment,
        last: bool,
    ) -> Result<(), (Reject, bool)> {
        let direction = segment.direction();
        let flags = if direction == Direction::Writable {
            WRITE
        } else {
            0
        };
        loop {
            if !P::DIRECT {
                self.check_room(chain)?;
            }
            let mapping =
                dma::map(&self.platform, segment).map_err(|error| (Reject::Map(error), false))?;
            if P::DIRECT && mapping.len as usize != segment.len() {
                return Err((split_mapping(segment.len(), mapping), false));
            }
            if !P::DIRECT {
                let place = self.mapping_place(chain, head);
                if let Some(slot) = self.mappings.get_mut(place) {
                    slot.0 = Some((mapping, direction));
                }
            }
            segment = segment.advance(mapping.len as usize);
            let last = last && segment.is_empty();
            self.put(
                chain,
                head,
                Piece {
                    addr: mapping.addr.0,
                    len: mapping.len,
                    flags,
                },
                last,
            )?;
            if P::DIRECT || segment.is_empty() {
                return Ok(());
            }
        }
    }

    /// Whether another piece fits.
    #[inline]
    fn check_room(&self, chain: &ChainInfo) -> Result<(), (Reject, bool)> {
        if chain.pieces < self.room(chain) {
            return Ok(());
        }
        let needed = usize::from(chain.pieces).wrapping_add(1);
        Err((self.full(needed), true))
    }

    /// Pieces that a chain can have.
    #[inline]
    fn room(&self, chain: &ChainInfo) -> u16 {
        let place = match &self.tables {
            Some(tables) if chain.table => tables.entries(),
            _ => self.ring.free(),
        };
        place.min(self.longest)
    }

    /// Where the mapping of the next piece of a chain is kept.
    #[inline]
    fn mapping_place(&self, chain: &ChainInfo, head: u16) -> usize {
        let per_slot = self.mappings_per_slot();
        if chain.table {
            usize::from(head) * per_slot + usize::from(chain.pieces)
        } else {
            usize::from(chain.behind) * per_slot
        }
    }

    fn mappings_per_slot(&self) -> usize {
        usize::from(self.tables.as_ref().map_or(1, TableMemory::entries))
    }

    /// Writes the descriptor of a piece, in the ring or in the slot's table.
    #[inline]
    fn put(
        &mut self,
        chain: &mut ChainInfo,
        head: u16,
        mut piece: Piece,
        last: bool,
    ) -> Result<(), (Reject, bool)> {
        if !P::DIRECT {
            self.check_room(chain)?;
        }
        if !last {
            piece.flags |= NEXT;
        }
        if chain.table {
            self.put_in_table(chain.pieces, head, piece);
            chain.pieces = chain.pieces.wrapping_add(1);
            return Ok(());
        }
        let next = self.ring.next(chain.behind);
        let link = if last { 0 } else { next };
        let counts = &mut self.ring.counts;
        with_format!(&self.ring.format, format => {
            format.describe(counts, head.into(), chain.behind.into(), chain.len, piece, link);
        });
        chain.push(next);
        chain.pieces = chain.len;
        Ok(())
    }

    /// Entries of a split ring's table are linked (VIRTIO 1.4, 2.7.5.3); those of a packed ring's
    /// follow each other, and of their flags only `WRITE` counts (2.8.8).
    #[inline]
    fn put_in_table(&self, entry: u16, head: u16, piece: Piece) {
        let Some(tables) = &self.tables else { return };
        let linked = with_format!(&self.ring.format, format => format.tables_are_linked());
        put_in_table(tables, linked, entry, head, piece);
    }

    /// Writes the one descriptor in the ring that stands for a table.
    #[inline]
    fn close_table(&mut self, chain: &mut ChainInfo, head: u16) {
        let Some(tables) = self.tables.as_ref().filter(|_| chain.table) else {
            return;
        };
        let len = u32::from(chain.pieces) * 16;
        let flags = DescriptorFlags::INDIRECT.bits();
        let piece = Piece {
            addr: tables.addr(head),
            len,
            flags,
        };
        let next = self.ring.next(head);
        let counts = &mut self.ring.counts;
        with_format!(&self.ring.format, format => {
            format.describe(counts, head.into(), head.into(), 0, piece, 0);
        });
        chain.push(next);
    }

    /// Why a chain of `needed` descriptors does not fit.
    #[cold]
    fn full(&self, needed: usize) -> Reject {
        match self.ring.fault() {
            Some(fault) => Reject::Broken(fault),
            None if needed > usize::from(self.longest) => Reject::TooManySegments {
                needed,
                most: self.longest,
            },
            None => Reject::Full {
                needed,
                free: self.ring.free(),
            },
        }
    }

    #[cold]
    #[inline(never)]
    pub(super) fn no_room(&self, buf: B, needed: usize) -> Rejected<B> {
        Rejected {
            buf,
            why: self.full(needed),
        }
    }

    /// Unmaps, in reverse, the pieces of a chain that is not to be.
    #[cold]
    #[inline(never)]
    pub(super) fn unwind(&mut self, head: u16, chain: &ChainInfo) {
        if !P::DIRECT {
            // The piece that failed may have been mapped and not been written, if there was a place
            // for it: what is behind the last place is another chain's.
            let end = chain.pieces.saturating_add(1).min(self.room(chain));
            for piece in (0..end).rev() {
                let place = self.piece_place(head, chain.table, piece);
                self.unmap(place, 0);
            }
        }
    }

    /// Where the mapping of piece `piece` of the chain in slot `head` is kept.
    fn piece_place(&self, head: u16, table: bool, piece: u16) -> usize {
        let per_slot = self.mappings_per_slot();
        if table {
            usize::from(head) * per_slot + usize::from(piece)
        } else {
            let node = (0..piece).fold(head, |node, _| self.ring.next(node));
            usize::from(node) * per_slot
        }
    }

    /// Ends the mapping at a place, if there is one; returns the bytes that it may have taken.
    fn unmap(&mut self, place: usize, written: u32) -> u32 {
        match self.mappings.get_mut(place).and_then(|slot| slot.0.take()) {
            Some((mapping, direction)) => {
                let used = match direction {
                    Direction::Writable => written.min(mapping.len),
                    Direction::Readable => 0,
                };
                dma::unmap(&self.platform, mapping, direction, used);
                used
            }
            None => 0,
        }
    }

    /// Unmaps the chain in slot `head`, which the device has returned with `written` bytes.
    pub(super) fn unmap_chain(&mut self, head: u16, mut written: u32) {
        let (pieces, table) = self.ring.pieces(head);
        let per_slot = self.mappings_per_slot();
        let mut node = head;
        for piece in 0..pieces {
            let place = if table {
                usize::from(head) * per_slot + usize::from(piece)
            } else {
                usize::from(node) * per_slot
            };
            written = written.wrapping_sub(self.unmap(place, written));
            node = self.ring.next(node);
        }
    }
}

/// A chain that is being laid. Should the platform panic, its mappings end, and its buffer is
/// dropped; otherwise this is forgotten.
pub(super) struct Laying<'a, P: Platform, B: DmaBuf>(pub(super) &'a mut Core<P, B>, pub(super) u16);

impl<P: Platform, B: DmaBuf> Drop for Laying<'_, P, B> {
    #[cold]
    fn drop(&mut self) {
        let Self(core, head) = self;
        let per_slot = core.mappings_per_slot();
        let free = core.ring.free();
        let mut node = *head;
        for _ in 0..free {
            // Of the free slots, only those of this chain have mappings.
            for piece in 0..per_slot {
                core.unmap(usize::from(node) * per_slot + piece, 0);
            }
            node = core.ring.next(node);
        }
        // What was written of it must not look available.
        drop(core.ring.take_back(*head, free));
    }
}

/// Writes an entry of a table, which are linked or follow each other.
#[inline(always)] // two stores
pub(super) fn put_in_table<P: Platform>(
    tables: &TableMemory<P>,
    linked: bool,
    entry: u16,
    head: u16,
    piece: Piece,
) {
    let (flags, next) = if !linked {
        (0, piece.flags & WRITE)
    } else if piece.flags & NEXT != 0 {
        (piece.flags, entry.wrapping_add(1))
    } else {
        (piece.flags, 0)
    };
    // Split: length, flags, next. Packed: length, id, flags.
    let second = u64::from(piece.len) | u64::from(flags) << 32 | u64::from(next) << 48;
    tables.set(head, entry, piece.addr, second);
}

/// A platform that is direct, and yet maps a segment in pieces.
#[cold]
pub(super) fn split_mapping(len: usize, mapping: Mapping) -> Reject {
    Reject::Map(DmaError::BadMapping {
        asked: len as u32,
        got: mapping.len,
    })
}

#[cold]
pub(super) fn bad_length(index: usize, len: usize) -> Reject {
    if len == 0 {
        Reject::Empty { index }
    } else {
        Reject::TooLong { bytes: len as u64 }
    }
}
