//! What a device sees of a buffer, and the rules that are the same in both formats.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::View;
use crate::platform::{Direction, DmaAddr};
use crate::testing::memory::Words;

pub(in crate::testing) const NEXT: u16 = 1;
pub(in crate::testing) const WRITE: u16 = 2;
pub(in crate::testing) const INDIRECT: u16 = 4;

/// A buffer that the driver has made available: what the device sees of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub(in crate::testing) head: u16,
    pub(in crate::testing) descriptors: u16,
    pub(in crate::testing) segments: Vec<Segment>,
}

/// One descriptor's part of a [`Chain`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where the device finds it.
    pub addr: DmaAddr,
    /// Its length in bytes.
    pub len: u32,
    /// What the device does with it.
    pub direction: Direction,
}

impl Chain {
    /// What the device returns it by: in a split ring the descriptor that the available ring
    /// names, in a packed ring the buffer id.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Descriptors of the ring that it takes: one, when its segments are in an indirect table.
    #[must_use]
    pub fn descriptors(&self) -> u16 {
        self.descriptors
    }

    /// The segments, in the order of the chain.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Bytes for the device to read.
    #[must_use]
    pub fn readable(&self) -> u64 {
        self.total(Direction::Readable)
    }

    /// Bytes for the device to write.
    #[must_use]
    pub fn writable(&self) -> u64 {
        self.total(Direction::Writable)
    }

    fn total(&self, direction: Direction) -> u64 {
        let of = self
            .segments
            .iter()
            .filter(|segment| segment.direction == direction);
        of.map(|segment| u64::from(segment.len)).sum()
    }
}

/// One descriptor as two words: its address, and the rest in the order of its format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::testing) struct Raw {
    pub(in crate::testing) addr: u64,
    pub(in crate::testing) rest: u64,
}

impl Raw {
    pub(in crate::testing) fn load(table: &Words, index: u16) -> Self {
        let offset = usize::from(index) * 16;
        Self {
            addr: table.load_u64(offset, Ordering::Relaxed),
            rest: table.load_u64(offset + 8, Ordering::Relaxed),
        }
    }

    pub(in crate::testing) fn len(self) -> u32 {
        self.rest as u32
    }

    /// The third field: flags of a split ring, id of a packed one.
    pub(in crate::testing) fn third(self) -> u16 {
        (self.rest >> 32) as u16
    }

    /// The fourth field: next of a split ring, flags of a packed one.
    pub(in crate::testing) fn fourth(self) -> u16 {
        (self.rest >> 48) as u16
    }
}

/// A table that is not the queue's own, and what was read in it.
pub(in crate::testing) type Table = (Words, Vec<(u16, Raw)>);

/// What must not change while the device has the chain.
#[derive(Default)]
pub(in crate::testing) struct Record {
    /// The how many-th chain it is.
    pub(super) number: u64,
    /// Its descriptors in the queue's own table, where each stays until the chain is returned.
    pub(in crate::testing) direct: Vec<(u16, Raw)>,
    /// Its descriptors in an indirect table.
    pub(in crate::testing) indirect: Option<Table>,
    /// Descriptors of the ring.
    pub(in crate::testing) descriptors: u16,
    pub(super) segments: Vec<Segment>,
}

impl Record {
    /// The first descriptor that is not as it was.
    pub(super) fn changed(&self, table: Option<&Words>) -> Option<u16> {
        let moved = |table: &Words, seen: &[(u16, Raw)]| {
            seen.iter()
                .find(|&&(i, raw)| Raw::load(table, i) != raw)
                .map(|&(i, _)| i)
        };
        let direct = table.and_then(|table| moved(table, &self.direct));
        let indirect = self.indirect.as_ref();
        direct.or_else(|| indirect.and_then(|(table, seen)| moved(table, seen)))
    }
}

/// The statements that say the same of either format.
pub(in crate::testing) struct Ids {
    pub(in crate::testing) too_long: &'static str,
    pub(in crate::testing) too_many_bytes: &'static str,
    pub(in crate::testing) order: &'static str,
    /// Longer than the device said that it takes.
    pub(in crate::testing) limit: &'static str,
}

impl View {
    pub(in crate::testing) fn report(&self, id: &'static str, what: String) {
        self.log.report(id, what);
    }

    /// One segment: it has bytes, and they are mapped for the direction that the flags say.
    pub(in crate::testing) fn segment(&self, head: u16, raw: Raw, flags: u16) -> Segment {
        let segment = Segment {
            addr: DmaAddr(raw.addr),
            len: raw.len(),
            direction: match flags & WRITE {
                0 => Direction::Readable,
                _ => Direction::Writable,
            },
        };
        if segment.len == 0 {
            self.report(
                "bug-12",
                format!("the chain at {head} has a segment of no bytes"),
            );
        } else if let Err(fault) =
            self.bus
                .check(segment.addr, segment.len as usize, segment.direction)
        {
            self.report("bug-52", format!("the chain at {head}: {fault}"));
        }
        segment
    }

    /// The words of an indirect table of `raw`'s length, and how many entries there are; `None`
    /// when the device could make nothing of it.
    pub(in crate::testing) fn table(
        &self,
        head: u16,
        raw: Raw,
        bad_length: &'static str,
    ) -> Option<(Words, u32)> {
        let len = raw.len();
        if len == 0 || !len.is_multiple_of(16) {
            self.report(
                bad_length,
                format!("the chain at {head}: a table of {len} bytes"),
            );
            return None;
        }
        match self.bus.words(DmaAddr(raw.addr), len as usize) {
            Ok(table) => Some((table, len / 16)),
            Err(fault) => {
                self.report("bug-15", format!("the indirect table of {head}: {fault}"));
                None
            }
        }
    }

    /// The rules about a chain as a whole.
    pub(in crate::testing) fn judge(&self, chain: &Chain, ids: &Ids) {
        let (head, count, size) = (chain.head, chain.segments.len(), self.size);
        if count > usize::from(size) {
            self.report(
                ids.too_long,
                format!("the chain at {head}: {count} segments of {size}"),
            );
        }
        let most = usize::from(self.options.most_segments);
        if most != 0 && count > most {
            self.report(
                ids.limit,
                format!("the chain at {head}: {count} segments, the device takes {most}"),
            );
        }
        if let Some((header, id)) = self.options.header {
            let lens: Vec<u32> = chain.segments.iter().map(|segment| segment.len).collect();
            if count < 2 || lens[0] != u32::from(header) {
                let what = format!("pieces of {lens:?} bytes, behind a header of {header}");
                self.report(id, format!("the chain at {head}: {what}"));
            }
        }
        let total = chain.readable() + chain.writable();
        if total > 1 << 32 {
            self.report(
                ids.too_many_bytes,
                format!("the chain at {head} has {total} bytes"),
            );
        }
        let directions = chain.segments.iter().map(|segment| segment.direction);
        if !directions.is_sorted_by_key(|direction| direction == Direction::Writable) {
            self.report(
                ids.order,
                format!("the chain at {head}: readable after writable"),
            );
        }
    }

    /// The words of an area of the ring.
    pub(in crate::testing) fn area(
        &self,
        name: &str,
        addr: DmaAddr,
        (len, align): (usize, u64),
        misaligned: &'static str,
    ) -> Result<Words, super::Violation> {
        if !addr.0.is_multiple_of(align) {
            return Err(super::Violation {
                id: misaligned,
                what: format!("{name} at {addr} is not aligned to {align}"),
            });
        }
        self.bus.words(addr, len).map_err(|fault| super::Violation {
            id: "bug-7",
            what: format!("{name}: {fault}"),
        })
    }
}
