//! Reading a chain out of a descriptor table, with every rule about chains.

use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::{Bus, SplitOptions, Violations};
use crate::platform::{Direction, DmaAddr};
use crate::testing::memory::Words;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A buffer that the driver has made available: what the device sees of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub(super) head: u16,
    pub(super) segments: Vec<Segment>,
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
    /// The descriptor that the available ring names.
    #[must_use]
    pub fn head(&self) -> u16 {
        self.head
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

/// One descriptor as two words: its address, and its length, flags and next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Raw {
    pub(super) addr: u64,
    pub(super) rest: u64,
}

impl Raw {
    pub(super) fn load(table: &Words, index: u16) -> Self {
        let offset = usize::from(index) * 16;
        Self {
            addr: table.load_u64(offset, Ordering::Relaxed),
            rest: table.load_u64(offset + 8, Ordering::Relaxed),
        }
    }

    fn len(self) -> u32 {
        self.rest as u32
    }

    fn flags(self) -> u16 {
        (self.rest >> 32) as u16
    }

    fn next(self) -> u16 {
        (self.rest >> 48) as u16
    }
}

/// What must not change while the device has the chain.
pub(super) struct Record {
    /// The descriptors in the queue's own table.
    pub(super) direct: Vec<(u16, Raw)>,
    /// The descriptors in an indirect table.
    pub(super) indirect: Option<(Words, Vec<(u16, Raw)>)>,
}

impl Record {
    /// The first descriptor that is not as it was.
    pub(super) fn changed(&self, table: &Words) -> Option<u16> {
        let moved = |table: &Words, seen: &[(u16, Raw)]| {
            seen.iter()
                .find(|&&(i, raw)| Raw::load(table, i) != raw)
                .map(|&(i, _)| i)
        };
        let indirect = self.indirect.as_ref();
        moved(table, &self.direct).or_else(|| indirect.and_then(|(table, seen)| moved(table, seen)))
    }
}

/// Reads chains and judges them.
pub(super) struct Walker<'a> {
    pub(super) bus: &'a Bus,
    pub(super) table: &'a Words,
    pub(super) size: u16,
    pub(super) options: SplitOptions,
    pub(super) log: &'a Violations,
}

impl Walker<'_> {
    /// Reads the chain that starts at `head`. `None` when the device could make nothing of it.
    pub(super) fn walk(&self, head: u16) -> Option<(Chain, Record)> {
        let mut record = Record {
            direct: Vec::new(),
            indirect: None,
        };
        let mut segments = Vec::new();
        let mut index = head;
        loop {
            if record.direct.len() == usize::from(self.size) {
                self.log
                    .report("SP-004", format!("the chain at {head} is a loop"));
                return None;
            }
            let raw = Raw::load(self.table, index);
            record.direct.push((index, raw));
            let flags = raw.flags();
            self.known_flags(head, flags);
            if flags & INDIRECT != 0 {
                record.indirect = Some(self.walk_indirect(head, raw, &mut segments)?);
                break;
            }
            segments.push(self.segment(head, raw));
            if flags & NEXT == 0 {
                break;
            }
            let next = raw.next();
            if next >= self.size {
                let size = self.size;
                self.log.report(
                    "SP-004",
                    format!("the chain at {head}: next {next} of {size}"),
                );
                return None;
            }
            if self.options.in_order && next != (index + 1) % self.size {
                self.log
                    .report("SP-005", format!("in order: {next} comes after {index}"));
            }
            index = next;
        }
        let chain = Chain { head, segments };
        self.judge(&chain);
        Some((chain, record))
    }

    fn walk_indirect(
        &self,
        head: u16,
        raw: Raw,
        segments: &mut Vec<Segment>,
    ) -> Option<(Words, Vec<(u16, Raw)>)> {
        let (addr, len) = (DmaAddr(raw.addr), raw.len());
        if !self.options.indirect {
            self.log.report(
                "SP-006",
                format!("the chain at {head} is indirect, not negotiated"),
            );
        }
        if raw.flags() & NEXT != 0 {
            self.log
                .report("SP-009", format!("the chain at {head}: INDIRECT and NEXT"));
        }
        if len == 0 || !len.is_multiple_of(16) {
            self.log.report(
                "SP-008",
                format!("the chain at {head}: a table of {len} bytes"),
            );
            return None;
        }
        let table = match self.bus.words(addr, len as usize) {
            Ok(table) => table,
            Err(fault) => {
                self.log
                    .report("bug-15", format!("the indirect table of {head}: {fault}"));
                return None;
            }
        };
        let mut seen = Vec::new();
        let mut index = 0;
        loop {
            if seen.len() == (len / 16) as usize {
                self.log
                    .report("SP-004", format!("the indirect table of {head} has a loop"));
                return None;
            }
            let raw = Raw::load(&table, index);
            seen.push((index, raw));
            self.known_flags(head, raw.flags());
            if raw.flags() & INDIRECT != 0 {
                self.log
                    .report("SP-007", format!("a table within the table of {head}"));
                return None;
            }
            segments.push(self.segment(head, raw));
            if raw.flags() & NEXT == 0 {
                return Some((table, seen));
            }
            let next = raw.next();
            if u32::from(next) >= len / 16 {
                self.log.report(
                    "SP-004",
                    format!("the indirect table of {head}: next {next}"),
                );
                return None;
            }
            if self.options.in_order && next != index + 1 {
                self.log
                    .report("SP-010", format!("in order: {next} comes after {index}"));
            }
            index = next;
        }
    }

    fn known_flags(&self, head: u16, flags: u16) {
        if flags & !(NEXT | WRITE | INDIRECT) != 0 {
            self.log
                .report("bug-11", format!("the chain at {head}: flags {flags:#x}"));
        }
    }

    /// One segment: it has bytes, and they are mapped for the direction that the flags say.
    fn segment(&self, head: u16, raw: Raw) -> Segment {
        let segment = Segment {
            addr: DmaAddr(raw.addr),
            len: raw.len(),
            direction: match raw.flags() & WRITE {
                0 => Direction::Readable,
                _ => Direction::Writable,
            },
        };
        if segment.len == 0 {
            self.log.report(
                "bug-12",
                format!("the chain at {head} has a segment of no bytes"),
            );
        } else if let Err(fault) =
            self.bus
                .check(segment.addr, segment.len as usize, segment.direction)
        {
            self.log
                .report("bug-52", format!("the chain at {head}: {fault}"));
        }
        segment
    }

    /// The rules about a chain as a whole.
    fn judge(&self, chain: &Chain) {
        let (head, count) = (chain.head, chain.segments.len());
        if count > usize::from(self.size) {
            let size = self.size;
            self.log.report(
                "SP-008",
                format!("the chain at {head}: {count} segments of {size}"),
            );
        }
        let total = chain.readable() + chain.writable();
        if total > 1 << 32 {
            self.log
                .report("SP-004", format!("the chain at {head} has {total} bytes"));
        }
        let directions = chain.segments.iter().map(|segment| segment.direction);
        if !directions.is_sorted_by_key(|direction| direction == Direction::Writable) {
            self.log.report(
                "SP-002",
                format!("the chain at {head}: readable after writable"),
            );
        }
    }
}
