//! The device's side of a split ring (VIRTIO 1.4, 2.7).

mod notify;
mod walk;

use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::memory::Words;
use super::queue::{Fresh, Record, Side, View};
use super::violation::Violation;
use crate::transport::QueueAreas;

/// Offset of `idx` in the available and in the used ring; `flags` is at 0, entries begin at 4.
const IDX: usize = 2;
const RING: usize = 4;

/// A split ring: positions are running numbers of chains, their low 16 bits the indices.
pub(super) struct Split {
    size: u16,
    desc: Words,
    avail: Words,
    used: Words,
    /// Up to where chains have been looked at.
    seen: u64,
    /// Used elements written so far, published or not.
    written: u64,
    /// Up to where they are published.
    visible: u64,
    /// Which chain each descriptor belongs to.
    owner: Vec<Option<u16>>,
    /// In order: the descriptor that the next chain has to start at.
    next: u16,
}

impl Split {
    pub(super) fn new(view: &View, areas: &QueueAreas) -> Result<Self, Violation> {
        let (size, start) = (view.size, view.options.start);
        if !size.is_power_of_two() {
            let what = format!("a split queue of {size} descriptors");
            return Err(Violation { id: "bug-8", what });
        }
        let n = usize::from(size);
        let area = |name, addr, len, align| view.area(name, addr, (len, align), "SP-001");
        let desc = area("the descriptor table", areas.desc, 16 * n, 16)?;
        let avail = area("the available ring", areas.driver, RING + 2 * n + 2, 2)?;
        let used = area("the used ring", areas.device, RING + 8 * n + 2, 4)?;

        let flags = used.load_u16(0, Ordering::Relaxed);
        if flags != 0 {
            view.report(
                "SP-017",
                format!("used.flags is {flags} before the device started"),
            );
        }
        let idx = used.load_u16(IDX, Ordering::Relaxed);
        if idx != 0 {
            view.report(
                "bug-25",
                format!("used.idx is {idx} before the device started"),
            );
        }
        if start != 0 {
            avail.store_u16(IDX, start, Ordering::Relaxed);
            used.store_u16(IDX, start, Ordering::Relaxed);
            used.store_u16(RING + 8 * n, start, Ordering::Relaxed);
        }
        Ok(Self {
            size,
            desc,
            avail,
            used,
            seen: start.into(),
            written: start.into(),
            visible: start.into(),
            owner: alloc::vec![None; n],
            next: 0,
        })
    }

    /// Available chains that were not looked at.
    fn new_chains(&self) -> u16 {
        let idx = self.avail.load_u16(IDX, Ordering::Acquire);
        idx.wrapping_sub(self.seen as u16)
    }
}

impl Side for Split {
    fn is_live(&self) -> bool {
        self.desc.is_live() && self.avail.is_live() && self.used.is_live()
    }

    fn table(&self) -> Option<&Words> {
        Some(&self.desc)
    }

    fn look(&mut self, view: &View, outstanding: usize) -> Vec<Fresh> {
        self.expose(view, outstanding)
    }

    fn check(&mut self, _: &View) {}

    fn release(&mut self, record: &Record) {
        for &(index, _) in &record.direct {
            self.owner[usize::from(index)] = None;
        }
    }

    fn put(&mut self, id: u32, len: u32, chains: u16, _: u16) {
        self.forge_element((self.written % u64::from(self.size)) as u16, id, len);
        self.written += u64::from(chains);
    }

    fn publish(&mut self, _: &View) {
        self.visible = self.written;
        self.used
            .store_u16(IDX, self.visible as u16, Ordering::Release);
    }

    fn available(&self) -> u64 {
        self.seen + u64::from(self.new_chains())
    }

    fn looked(&self) -> u64 {
        self.seen
    }

    fn used(&self) -> u64 {
        self.visible
    }

    fn written(&self) -> u64 {
        self.written
    }

    fn spot(&self, position: u64) -> u16 {
        position as u16
    }

    fn wants_interrupt(&self, view: &View, old: u64, new: u64) -> bool {
        self.interrupt_due(view.options.event_idx, old, new)
    }

    fn wants_kick(&self, view: &View, old: u64, new: u64) -> bool {
        self.kick_due(view.options.event_idx, old, new)
    }

    fn ask_kick(&mut self, view: &View, position: u64) {
        match view.options.event_idx {
            true => self.store_event(position as u16),
            false => self.store_flags(0),
        }
    }

    fn ask_no_kick(&mut self, view: &View) {
        match view.options.event_idx {
            // As far away as it can be.
            true => self.store_event((self.seen as u16).wrapping_sub(1)),
            false => self.store_flags(notify::NO_NOTIFY),
        }
    }

    fn store_event(&mut self, event: u16) {
        let at = RING + 8 * usize::from(self.size);
        self.used.store_u16(at, event, Ordering::Relaxed);
    }

    fn store_flags(&mut self, flags: u16) {
        self.used.store_u16(0, flags, Ordering::Relaxed);
    }

    fn driver_event(&self) -> u16 {
        let at = RING + 2 * usize::from(self.size);
        self.avail.load_u16(at, Ordering::Relaxed)
    }

    fn forge_element(&mut self, slot: u16, id: u32, len: u32) {
        let offset = RING + 8 * usize::from(slot);
        self.used.store_u32(offset, id, Ordering::Relaxed);
        self.used.store_u32(offset + 4, len, Ordering::Relaxed);
    }

    fn forge_move(&mut self, by: i16) {
        let idx = (self.written as u16).wrapping_add_signed(by);
        self.used.store_u16(IDX, idx, Ordering::Release);
    }

    fn forge_flip(&mut self, _: u16, _: u16) {}

    fn forge_descriptor(&mut self, index: u16, addr: u64, rest: u64) {
        let offset = 16 * usize::from(index);
        self.desc.store_u64(offset, addr, Ordering::Relaxed);
        self.desc.store_u64(offset + 8, rest, Ordering::Relaxed);
    }

    fn forge_available(&mut self, slot: u16, head: u16) {
        let offset = RING + 2 * usize::from(slot);
        self.avail.store_u16(offset, head, Ordering::Relaxed);
    }

    fn forge_driver_word(&mut self, word: u16) {
        self.avail.store_u16(IDX, word, Ordering::Relaxed);
    }
}
