//! Chains that become available, and every rule about them (VIRTIO 1.4, 2.7.4 to 2.7.9).

use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::{RING, Split};
use crate::testing::queue::{
    Chain, Fresh, INDIRECT, Ids, NEXT, Raw, Record, Segment, Table, View, WRITE,
};

const IDS: Ids = Ids {
    too_long: "SP-008",
    too_many_bytes: "SP-004",
    order: "SP-002",
    limit: "SP-008",
};

impl Split {
    /// Takes and judges what is newly available.
    pub(super) fn expose(&mut self, view: &View, outstanding: usize) -> Vec<Fresh> {
        self.check_flags(view);
        let new = self.new_chains();
        if usize::from(new) > usize::from(self.size) - outstanding {
            let (seen, idx) = (self.seen as u16, self.seen.wrapping_add(new.into()) as u16);
            let what =
                format!("avail.idx went from {seen} to {idx} with {outstanding} buffers out");
            view.report("SP-011", what);
            return Vec::new();
        }
        let mut fresh = Vec::new();
        for _ in 0..new {
            let slot = (self.seen % u64::from(self.size)) as usize;
            let head = self.avail.load_u16(RING + 2 * slot, Ordering::Relaxed);
            self.seen += 1;
            fresh.extend(self.enter(view, head));
        }
        fresh
    }

    /// Enters the chain at `head`, unless it is unusable.
    fn enter(&mut self, view: &View, head: u16) -> Option<Fresh> {
        if head >= self.size {
            let size = self.size;
            view.report("bug-4", format!("available head {head} of {size}"));
            return None;
        }
        if let Some(owner) = self.owner[usize::from(head)] {
            let what = format!("head {head} is available again, the chain at {owner} has it");
            view.report("LC-008", what);
            return None;
        }
        if view.options.in_order && head != self.next {
            let what = format!("in order: {head} is available, {} is next", self.next);
            view.report("SP-005", what);
        }
        let fresh = self.walk(view, head)?;
        for &(index, _) in &fresh.record.direct {
            if let Some(owner) = self.owner[usize::from(index)].replace(head) {
                let what = format!("descriptor {index} is in the chains at {owner} and {head}");
                view.report("LC-008", what);
            }
            self.next = (index + 1) % self.size;
        }
        Some(fresh)
    }

    /// Reads the chain that starts at `head`. `None` when the device could make nothing of it.
    fn walk(&self, view: &View, head: u16) -> Option<Fresh> {
        let mut record = Record::default();
        let mut segments = Vec::new();
        let mut index = head;
        loop {
            if record.direct.len() == usize::from(self.size) {
                view.report("SP-004", format!("the chain at {head} is a loop"));
                return None;
            }
            let raw = Raw::load(&self.desc, index);
            record.direct.push((index, raw));
            let flags = raw.third();
            known_flags(view, head, flags);
            if flags & INDIRECT != 0 {
                record.indirect = Some(walk_table(view, head, raw, &mut segments)?);
                break;
            }
            segments.push(view.segment(head, raw, flags));
            if flags & NEXT == 0 {
                break;
            }
            let next = raw.fourth();
            if next >= self.size {
                let what = format!("the chain at {head}: next {next} of {}", self.size);
                view.report("SP-004", what);
                return None;
            }
            if view.options.in_order && next != (index + 1) % self.size {
                view.report("SP-005", format!("in order: {next} comes after {index}"));
            }
            index = next;
        }
        record.descriptors = record.direct.len() as u16;
        let chain = Chain {
            head,
            descriptors: record.descriptors,
            segments,
        };
        view.judge(&chain, &IDS);
        Some(Fresh { chain, record })
    }

    fn check_flags(&self, view: &View) {
        let flags = self.avail.load_u16(0, Ordering::Relaxed);
        match view.options.event_idx {
            true if flags != 0 => {
                view.report("SP-013", format!("avail.flags is {flags} under EVENT_IDX"));
            }
            false if flags > 1 => view.report("SP-012", format!("avail.flags is {flags}")),
            _ => {}
        }
    }
}

fn walk_table(view: &View, head: u16, raw: Raw, segments: &mut Vec<Segment>) -> Option<Table> {
    if !view.options.indirect {
        let what = format!("the chain at {head} is indirect, not negotiated");
        view.report("SP-006", what);
    }
    if raw.third() & NEXT != 0 {
        view.report("SP-009", format!("the chain at {head}: INDIRECT and NEXT"));
    }
    let (table, entries) = view.table(head, raw, "SP-008")?;
    let mut seen = Vec::new();
    let mut index = 0;
    loop {
        if seen.len() == entries as usize {
            let what = format!("the indirect table of {head} has a loop");
            view.report("SP-004", what);
            return None;
        }
        let raw = Raw::load(&table, index);
        let flags = raw.third();
        seen.push((index, raw));
        known_flags(view, head, flags);
        if flags & INDIRECT != 0 {
            view.report("SP-007", format!("a table within the table of {head}"));
            return None;
        }
        segments.push(view.segment(head, raw, flags));
        if flags & NEXT == 0 {
            return Some((table, seen));
        }
        let next = raw.fourth();
        if u32::from(next) >= entries {
            view.report(
                "SP-004",
                format!("the indirect table of {head}: next {next}"),
            );
            return None;
        }
        if view.options.in_order && next != index + 1 {
            view.report("SP-010", format!("in order: {next} comes after {index}"));
        }
        index = next;
    }
}

fn known_flags(view: &View, head: u16, flags: u16) {
    if flags & !(NEXT | WRITE | INDIRECT) != 0 {
        view.report("bug-11", format!("the chain at {head}: flags {flags:#x}"));
    }
}
