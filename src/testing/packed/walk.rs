//! Chains that become available, and every rule about them (VIRTIO 1.4, 2.8.1 to 2.8.9).

use alloc::format;
use alloc::vec::Vec;

use super::{AVAIL, Packed, USED};
use crate::testing::queue::{
    Chain, Fresh, INDIRECT, Ids, NEXT, Raw, Record, Segment, Table, View, WRITE,
};

const IDS: Ids = Ids {
    too_long: "PK-013",
    too_many_bytes: "bug-13",
    order: "PK-007",
    limit: "PK-005",
};

impl Packed {
    /// Takes the next chain; `None` when none is available, or the device could make nothing of
    /// it: then it stays in front of it.
    pub(super) fn walk(&mut self, view: &View) -> Option<Fresh> {
        let size = u64::from(self.size);
        if self.owned() >= size {
            return None;
        }
        let first = self.load(self.seen);
        if !self.is_available(self.seen, first.fourth()) {
            return None;
        }
        let mut record = Record::default();
        let mut segments = Vec::new();
        let mut copies = Vec::new();
        let (mut raw, mut number) = (first, self.seen);
        let at = self.at(number);
        let id = loop {
            let flags = raw.fourth();
            known_flags(view, at, flags, NEXT | WRITE | INDIRECT | AVAIL | USED);
            copies.push(raw);
            number += 1;
            if flags & INDIRECT != 0 {
                if flags & NEXT != 0 || copies.len() > 1 {
                    let what = format!("the list at {at} has INDIRECT and NEXT");
                    view.report("PK-014", what);
                }
                record.indirect = Some(walk_table(view, at, raw, &mut segments)?);
            } else {
                segments.push(view.segment(at, raw, flags));
            }
            if flags & NEXT == 0 {
                break raw.third();
            }
            if copies.len() as u64 == size {
                let what = format!("the list at {at} is longer than the queue of {size}");
                view.report("PK-006", what);
                return None;
            }
            if number.saturating_sub(self.visible) >= size {
                let what = format!("the list at {at} goes on into descriptors of the device");
                view.report("PK-009", what);
                return None;
            }
            raw = self.load(number);
            if !self.is_available(number, raw.fourth()) {
                let next = self.at(number);
                let what = format!("the list at {at} is available, its descriptor {next} is not");
                view.report("PK-010", what);
                return None;
            }
        };
        if id >= self.size {
            let what = format!("the list at {at} has id {id} in a queue of {size}");
            view.report("bug-23", what);
        }
        for (number, raw) in (self.seen..).zip(copies) {
            self.copies[(number % size) as usize] = raw;
        }
        record.descriptors = (number - self.seen) as u16;
        self.seen = number;
        let chain = Chain {
            head: id,
            descriptors: record.descriptors,
            segments,
        };
        view.judge(&chain, &IDS);
        Some(Fresh { chain, record })
    }
}

/// Reads an indirect table: its entries follow each other, and end where it ends.
fn walk_table(view: &View, at: u16, raw: Raw, segments: &mut Vec<Segment>) -> Option<Table> {
    if !view.options.indirect {
        let what = format!("the list at {at} is indirect, not negotiated");
        view.report("PK-011", what);
    }
    let (table, entries) = view.table(at, raw, "PK-013")?;
    let mut seen = Vec::new();
    for index in 0..entries.min(u16::MAX.into()) as u16 {
        let raw = Raw::load(&table, index);
        let flags = raw.fourth();
        if flags & !WRITE != 0 {
            let what = format!("the table of the list at {at}: flags {flags:#x} in entry {index}");
            view.report("PK-012", what);
        }
        seen.push((index, raw));
        segments.push(view.segment(at, raw, flags));
    }
    Some((table, seen))
}

fn known_flags(view: &View, at: u16, flags: u16, known: u16) {
    if flags & !known != 0 {
        view.report("bug-11", format!("the list at {at}: flags {flags:#x}"));
    }
}
