//! The device's side of a packed ring (VIRTIO 1.4, 2.8).
//!
//! ```text
//!     visible        written             seen
//!        │ used, held   │ the device's    │ available, not looked at   free
//!  ──────▼──────────────▼─────────────────▼───────────────────────────────────▶ running number
//! ```
//!
//! Positions are running numbers of descriptors. A number says where in the ring (its remainder) and
//! in which lap, and so what the two flags mean there. As many descriptors as a chain had are passed
//! for it when it is used, whichever chain it is.
//!
//! The device keeps a copy of every descriptor that is its own, as it read it or wrote it. What the
//! driver changes there is found at the next look, and whenever used elements become visible.

mod notify;
mod walk;

use alloc::format;
use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use super::memory::Words;
use super::queue::{Fresh, Raw, Record, Side, View, WRITE};
use super::violation::Violation;
use crate::transport::QueueAreas;

/// The driver's wrap counter, where a descriptor is available.
const AVAIL: u16 = 1 << 7;
/// As `AVAIL`, where it is used; and not so, where it is available.
const USED: u16 = 1 << 15;

/// A packed ring.
pub(super) struct Packed {
    size: u16,
    desc: Words,
    driver: Words,
    device: Words,
    /// Up to where descriptors have been looked at.
    seen: u64,
    /// Up to where descriptors are used, visible or not.
    written: u64,
    /// Up to where that is visible.
    visible: u64,
    /// The second word of the first used element that is not visible: stored last.
    held: Option<u64>,
    /// The descriptors from `visible` to `seen`, as they have to be.
    copies: Vec<Raw>,
}

impl Packed {
    pub(super) fn new(view: &View, areas: &QueueAreas) -> Result<Self, Violation> {
        let size = view.size;
        if size == 0 || size > 32768 {
            let what = format!("a packed queue of {size} descriptors");
            return Err(Violation { id: "bug-8", what });
        }
        let area = |name, addr, len, align| view.area(name, addr, (len, align), "PK-001");
        let n = usize::from(size);
        let desc = area("the descriptor ring", areas.desc, 16 * n, 16)?;
        let driver = area("the driver event structure", areas.driver, 4, 4)?;
        let device = area("the device event structure", areas.device, 4, 4)?;
        if let Some(at) = (0..size).find(|&at| Raw::load(&desc, at).fourth() != 0) {
            let what = format!("descriptor {at} has flags before the device started");
            view.report("bug-25", what);
        }
        let event = device.load_u32(0, Ordering::Relaxed);
        if event != 0 {
            let what = format!("the device's event structure is {event:#x} before it started");
            view.report("bug-25", what);
        }
        let start = u64::from(view.options.start);
        let ring = Self {
            size,
            desc,
            driver,
            device,
            seen: start,
            written: start,
            visible: start,
            held: None,
            copies: alloc::vec![Raw::default(); n],
        };
        // What comes next was used a lap ago, unless this is the first: in the other lap, a
        // descriptor that nobody wrote looks used.
        for number in start.saturating_sub(size.into())..start {
            ring.store(
                ring.at(number),
                ring.used_word(number, 0, 0),
                Ordering::Relaxed,
            );
        }
        Ok(ring)
    }

    /// Where in the ring the descriptor of this number is.
    fn at(&self, number: u64) -> u16 {
        (number % u64::from(self.size)) as u16
    }

    /// The wrap counter in the lap of this number.
    fn wrap(&self, number: u64) -> bool {
        (number / u64::from(self.size)).is_multiple_of(2)
    }

    /// The descriptor of this number: the second word first, with acquire.
    fn load(&self, number: u64) -> Raw {
        let offset = 16 * usize::from(self.at(number));
        let rest = self.desc.load_u64(offset + 8, Ordering::Acquire);
        let addr = self.desc.load_u64(offset, Ordering::Relaxed);
        Raw { addr, rest }
    }

    fn store(&self, at: u16, word: u64, order: Ordering) {
        self.desc.store_u64(16 * usize::from(at) + 8, word, order);
    }

    /// Whether flags say that the descriptor of this number is available.
    fn is_available(&self, number: u64, flags: u16) -> bool {
        let wrap = self.wrap(number);
        (flags & AVAIL != 0) == wrap && (flags & USED != 0) != wrap
    }

    /// Descriptors of the device, from `visible` on.
    fn owned(&self) -> u64 {
        self.seen.saturating_sub(self.visible)
    }

    /// Checks that the driver left those before `end` alone.
    fn check_until(&mut self, view: &View, end: u64) {
        for number in self.visible..end {
            if view.tainted {
                return;
            }
            let (at, now) = (self.at(number), self.load(number));
            let was = core::mem::replace(&mut self.copies[usize::from(at)], now);
            if now == was {
                continue;
            }
            let (id, what) = match (now.fourth() ^ was.fourth()) & AVAIL {
                0 => ("PK-003", "was changed"),
                _ => ("PK-002", "was made available again"),
            };
            let what =
                format!("descriptor {at} {what} while the device has it: {was:x?}, {now:x?}");
            view.report(id, what);
        }
    }

    /// A used element: length, id, flags.
    fn used_word(&self, number: u64, id: u32, len: u32) -> u64 {
        let mut flags = match self.wrap(number) {
            true => AVAIL | USED,
            false => 0,
        };
        if len != 0 {
            flags |= WRITE;
        }
        u64::from(len) | u64::from(id as u16) << 32 | u64::from(flags) << 48
    }
}

impl Side for Packed {
    fn is_live(&self) -> bool {
        self.desc.is_live() && self.driver.is_live() && self.device.is_live()
    }

    fn table(&self) -> Option<&Words> {
        // The ring is reused while chains are out: `check` compares it.
        None
    }

    fn look(&mut self, view: &View, _: usize) -> Vec<Fresh> {
        self.check(view);
        self.check_event(view);
        let mut fresh = Vec::new();
        while let Some(next) = self.walk(view) {
            fresh.push(next);
        }
        fresh
    }

    fn check(&mut self, view: &View) {
        self.check_until(view, self.seen);
    }

    fn release(&mut self, _: &Record) {}

    fn put(&mut self, id: u32, len: u32, _: u16, descriptors: u16) {
        let word = self.used_word(self.written, id, len);
        let at = self.at(self.written);
        if self.written == self.visible {
            self.held = Some(word);
        } else {
            self.store(at, word, Ordering::Relaxed);
            self.copies[usize::from(at)].rest = word;
        }
        self.written += u64::from(descriptors);
    }

    fn publish(&mut self, view: &View) {
        // Afterwards these descriptors are the driver's.
        self.check_until(view, self.written);
        let at = self.at(self.visible);
        self.visible = self.written;
        if let Some(word) = self.held.take() {
            self.store(at, word, Ordering::Release);
        }
    }

    fn available(&self) -> u64 {
        // Behind the first that is not available, nothing is.
        let end = self.seen + u64::from(self.size).saturating_sub(self.owned());
        (self.seen..end)
            .find(|&number| !self.is_available(number, self.load(number).fourth()))
            .unwrap_or(end)
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
        self.at(position) | u16::from(self.wrap(position)) << 15
    }

    fn wants_interrupt(&self, _: &View, old: u64, new: u64) -> bool {
        self.due(self.driver.load_u32(0, Ordering::Relaxed), old, new)
    }

    fn wants_kick(&self, _: &View, old: u64, new: u64) -> bool {
        self.due(self.device.load_u32(0, Ordering::Relaxed), old, new)
    }

    fn ask_kick(&mut self, view: &View, position: u64) {
        match view.options.event_idx {
            true => self.store_event(self.spot(position)),
            false => self.store_flags(notify::ENABLE),
        }
    }

    fn ask_no_kick(&mut self, _: &View) {
        self.store_flags(notify::DISABLE);
    }

    fn store_event(&mut self, event: u16) {
        let word = u32::from(event) | u32::from(notify::DESC) << 16;
        self.device.store_u32(0, word, Ordering::Relaxed);
    }

    fn store_flags(&mut self, flags: u16) {
        let word = self.device.load_u32(0, Ordering::Relaxed) & 0xffff;
        let word = word | u32::from(flags) << 16;
        self.device.store_u32(0, word, Ordering::Relaxed);
    }

    fn driver_event(&self) -> u16 {
        self.driver.load_u32(0, Ordering::Relaxed) as u16
    }

    fn forge_element(&mut self, slot: u16, id: u32, len: u32) {
        let lap = self.written - self.written % u64::from(self.size);
        let word = self.used_word(lap + u64::from(slot), id, len);
        self.store(slot, word, Ordering::Release);
    }

    fn forge_move(&mut self, by: i16) {
        // Two laps more, so that it cannot go below 0: they mean the same.
        let laps = 2 * u64::from(self.size) * 0x1_0000;
        let to = (self.written + laps).wrapping_add_signed(by.into());
        (self.written, self.visible) = (to, to);
        self.seen += laps;
        self.held = None;
    }

    fn forge_flip(&mut self, index: u16, flags: u16) {
        let rest = Raw::load(&self.desc, index).rest;
        let word = rest ^ u64::from(flags & (AVAIL | USED)) << 48;
        self.store(index, word, Ordering::Release);
    }

    fn forge_descriptor(&mut self, index: u16, addr: u64, rest: u64) {
        let offset = 16 * usize::from(index);
        self.desc.store_u64(offset, addr, Ordering::Relaxed);
        self.desc.store_u64(offset + 8, rest, Ordering::Relaxed);
    }

    fn forge_available(&mut self, _: u16, _: u16) {}

    fn forge_driver_word(&mut self, word: u16) {
        let word = u32::from(word) | u32::from(word) << 16;
        self.driver.store_u32(0, word, Ordering::Relaxed);
    }
}
