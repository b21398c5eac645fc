//! The device's side of both rings, by the book: written from the specification alone, over the
//! same words as the driver, with the orders that the specification asks of a device.

use alloc::vec::Vec;

use loom::sync::atomic::{Ordering, fence};

use super::world::{Contents, NUM, Piece};
use crate::shared::Area;

/// `VIRTQ_DESC_F_NEXT`, `_WRITE`, `_INDIRECT`.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A chain that the device has taken.
#[derive(Debug)]
pub(crate) struct Taken {
    /// What names it in a used element.
    id: u16,
    /// Descriptors in the ring.
    descriptors: u16,
    pieces: Vec<Piece>,
}

/// A device at the other end of a queue.
pub(crate) trait Device: Send {
    /// Asks for no kicks. Advice, without an order.
    fn park(&mut self);
    /// Asks to be kicked when the next chain is published. Only after a look that comes behind
    /// this, and finds nothing, may the device sleep.
    fn ask(&mut self);
    /// Whether a chain is available.
    fn has_work(&self) -> bool;
    /// Takes a chain.
    fn pop(&mut self) -> Option<Taken>;
    /// The contents of the buffers.
    fn contents(&self) -> &Contents;
    /// Serves and returns chains: all of them in order with the element of the last.
    fn complete(&mut self, batch: &[Taken]);
    /// Whether the driver wants an interrupt for what was returned since the last call.
    fn wants_interrupt(&mut self) -> bool;

    /// Takes and serves what is there; how many.
    fn drain(&mut self) -> usize {
        let mut drained = 0;
        while let Some(taken) = self.pop() {
            self.contents().serve(&taken.pieces);
            drained += 1;
        }
        drained
    }

    /// Serves chains; what the element of the last says: its id, and the bytes that it was answered
    /// with.
    fn serve(&self, batch: &[Taken]) -> (u16, u32) {
        let serve = |taken: &Taken| (taken.id, self.contents().serve(&taken.pieces));
        batch.iter().map(serve).last().unwrap()
    }
}

/// Indirect tables: where the first one is, and their words.
pub(crate) type Tables = Option<(u64, Area)>;

/// The entries of a table as two words each.
fn table(tables: &Tables, addr: u64, len: u32) -> Vec<(u64, u64)> {
    let (base, words) = tables.as_ref().expect("no tables were agreed on");
    let start = (addr - base) as usize;
    let entries = (start..start + len as usize).step_by(16);
    entries
        .map(|at| (words.get(at), words.get(at + 8)))
        .collect()
}

fn piece(addr: u64, len: u32, flags: u16) -> Piece {
    let writable = flags & WRITE != 0;
    Piece {
        addr,
        len,
        writable,
    }
}

/// VIRTIO 1.4, 2.7.
pub(crate) struct SplitDevice {
    desc: Area,
    avail: Area,
    used: Area,
    tables: Tables,
    contents: Contents,
    event_idx: bool,
    next_avail: u16,
    next_used: u16,
    /// Used index at the last decision about an interrupt.
    told: u16,
}

impl SplitDevice {
    pub(crate) fn new(
        [desc, avail, used]: [Area; 3],
        tables: Tables,
        contents: Contents,
        event_idx: bool,
        start: u16,
    ) -> Self {
        // As if so many chains had come and gone.
        avail.u16(2).store(start, Ordering::Relaxed);
        used.u16(2).store(start, Ordering::Relaxed);
        Self {
            desc,
            avail,
            used,
            tables,
            contents,
            event_idx,
            next_avail: start,
            next_used: start,
            told: start,
        }
    }

    fn set_avail_event(&self, event: u16) {
        let offset = 4 + 8 * usize::from(NUM);
        self.used.u16(offset).store(event, Ordering::Relaxed);
    }

    fn descriptor(&self, index: u16) -> (u64, u64) {
        let at = usize::from(index) * 16;
        (self.desc.get(at), self.desc.get(at + 8))
    }
}

/// Length, flags, next.
fn split_fields(second: u64) -> (u32, u16, u16) {
    (second as u32, (second >> 32) as u16, (second >> 48) as u16)
}

impl Device for SplitDevice {
    fn park(&mut self) {
        if self.event_idx {
            self.set_avail_event(self.next_avail.wrapping_add(0x8000));
        } else {
            self.used.u16(0).store(1, Ordering::Relaxed);
        }
    }

    fn ask(&mut self) {
        if self.event_idx {
            self.set_avail_event(self.next_avail);
        } else {
            self.used.u16(0).store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
    }

    fn has_work(&self) -> bool {
        self.avail.u16(2).load(Ordering::Acquire) != self.next_avail
    }

    fn pop(&mut self) -> Option<Taken> {
        if !self.has_work() {
            return None;
        }
        let at = usize::from(self.next_avail % NUM);
        let id = self.avail.get(4 + 2 * at) as u16;
        self.next_avail = self.next_avail.wrapping_add(1);
        let mut pieces = Vec::new();
        let (mut index, mut descriptors) = (id, 0);
        loop {
            let (addr, second) = self.descriptor(index);
            let (len, flags, next) = split_fields(second);
            descriptors += 1;
            if flags & INDIRECT != 0 {
                let entries = table(&self.tables, addr, len);
                let mut entry = 0;
                loop {
                    let (addr, second) = entries[entry];
                    let (len, flags, next) = split_fields(second);
                    pieces.push(piece(addr, len, flags));
                    if flags & NEXT == 0 {
                        break;
                    }
                    entry = usize::from(next);
                }
                break;
            }
            pieces.push(piece(addr, len, flags));
            if flags & NEXT == 0 {
                break;
            }
            index = next;
        }
        Some(Taken {
            id,
            descriptors,
            pieces,
        })
    }

    fn contents(&self) -> &Contents {
        &self.contents
    }

    fn complete(&mut self, batch: &[Taken]) {
        let (id, written) = self.serve(batch);
        // A batch is one element where its first would be (2.7.9).
        let at = 4 + 8 * usize::from(self.next_used % NUM);
        self.used.set(at, id.into());
        self.used.set(at + 4, written.into());
        self.next_used = self.next_used.wrapping_add(batch.len() as u16);
        self.used.u16(2).store(self.next_used, Ordering::Release);
    }

    fn wants_interrupt(&mut self) -> bool {
        fence(Ordering::SeqCst);
        let told = core::mem::replace(&mut self.told, self.next_used);
        if self.event_idx {
            let offset = 4 + 2 * usize::from(NUM);
            let event = self.avail.u16(offset).load(Ordering::Relaxed);
            let passed = |n: &u16| told.wrapping_add(*n) == event;
            (0..self.next_used.wrapping_sub(told)).any(|n| passed(&n))
        } else {
            self.avail.u16(0).load(Ordering::Relaxed) & 1 == 0
        }
    }
}

/// A position in a packed ring, with its wrap counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    at: u16,
    wrap: bool,
}

impl Position {
    /// As if so many descriptors had come and gone.
    fn start(start: u16) -> Self {
        Self {
            at: start % NUM,
            wrap: (start / NUM).is_multiple_of(2),
        }
    }

    fn step(self) -> Self {
        if self.at + 1 == NUM {
            return Self {
                at: 0,
                wrap: !self.wrap,
            };
        }
        Self {
            at: self.at + 1,
            ..self
        }
    }

    /// The position before.
    fn back(self) -> Self {
        if self.at == 0 {
            return Self {
                at: NUM - 1,
                wrap: !self.wrap,
            };
        }
        Self {
            at: self.at - 1,
            ..self
        }
    }

    fn event(self) -> u32 {
        u32::from(self.at) | u32::from(self.wrap) << 15
    }
}

/// VIRTIO 1.4, 2.8.
pub(crate) struct PackedDevice {
    desc: Area,
    driver: Area,
    device: Area,
    tables: Tables,
    contents: Contents,
    event_idx: bool,
    next_avail: Position,
    next_used: Position,
    /// Where the next used descriptor belonged at the last decision about an interrupt.
    told: Position,
}

const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
const EVENT_DISABLE: u32 = 1 << 16;
const EVENT_DESC: u32 = 2 << 16;

impl PackedDevice {
    pub(crate) fn new(
        [desc, driver, device]: [Area; 3],
        tables: Tables,
        contents: Contents,
        event_idx: bool,
        start: u16,
    ) -> Self {
        let start = Position::start(start);
        // As if so many descriptors had come and gone, each of which was marked used.
        for at in 0..NUM {
            let wrap = (at < start.at) == start.wrap;
            let second = u64::from(used_flags(wrap)) << 48;
            let word = desc.u64(usize::from(at) * 16 + 8);
            word.store(second, Ordering::Relaxed);
        }
        Self {
            desc,
            driver,
            device,
            tables,
            contents,
            event_idx,
            next_avail: start,
            next_used: start,
            told: start,
        }
    }

    fn second(&self, at: u16, order: Ordering) -> u64 {
        self.desc.u64(usize::from(at) * 16 + 8).load(order)
    }

    fn set_event(&self, event: u32) {
        self.device.u32(0).store(event, Ordering::Relaxed);
    }
}

/// The flags of a descriptor that is used in a lap.
fn used_flags(wrap: bool) -> u16 {
    if wrap { AVAIL | USED } else { 0 }
}

/// Length, id, flags.
fn packed_fields(second: u64) -> (u32, u16, u16) {
    (second as u32, (second >> 32) as u16, (second >> 48) as u16)
}

impl Device for PackedDevice {
    fn park(&mut self) {
        self.set_event(if self.event_idx {
            // A lap away, but for one.
            EVENT_DESC | self.next_avail.back().event()
        } else {
            EVENT_DISABLE
        });
    }

    fn ask(&mut self) {
        self.set_event(if self.event_idx {
            EVENT_DESC | self.next_avail.event()
        } else {
            0
        });
        fence(Ordering::SeqCst);
    }

    fn has_work(&self) -> bool {
        let Position { at, wrap } = self.next_avail;
        let (_, _, flags) = packed_fields(self.second(at, Ordering::Acquire));
        (flags & AVAIL != 0) == wrap && (flags & USED != 0) != wrap
    }

    fn pop(&mut self) -> Option<Taken> {
        if !self.has_work() {
            return None;
        }
        let mut pieces = Vec::new();
        let mut descriptors = 0;
        let id = loop {
            let Position { at, wrap } = self.next_avail;
            let addr = self.desc.get(usize::from(at) * 16);
            // The head was acquired, and the others come before it.
            let (len, id, flags) = packed_fields(self.second(at, Ordering::Relaxed));
            let available = (flags & AVAIL != 0) == wrap && (flags & USED != 0) != wrap;
            assert!(available, "a chain is available as a whole");
            self.next_avail = self.next_avail.step();
            descriptors += 1;
            if flags & INDIRECT != 0 {
                for (addr, second) in table(&self.tables, addr, len) {
                    let (len, _, flags) = packed_fields(second);
                    pieces.push(piece(addr, len, flags));
                }
                break id;
            }
            pieces.push(piece(addr, len, flags));
            if flags & NEXT == 0 {
                break id;
            }
        };
        Some(Taken {
            id,
            descriptors,
            pieces,
        })
    }

    fn contents(&self) -> &Contents {
        &self.contents
    }

    fn complete(&mut self, batch: &[Taken]) {
        let (id, written) = self.serve(batch);
        // A batch is one descriptor where its first would be (2.8.9).
        let Position { at, wrap } = self.next_used;
        let flags = used_flags(wrap);
        let second = u64::from(written) | u64::from(id) << 32 | u64::from(flags) << 48;
        for _ in batch.iter().flat_map(|taken| 0..taken.descriptors) {
            self.next_used = self.next_used.step();
        }
        let word = self.desc.u64(usize::from(at) * 16 + 8);
        word.store(second, Ordering::Release);
    }

    fn wants_interrupt(&mut self) -> bool {
        fence(Ordering::SeqCst);
        let mut told = core::mem::replace(&mut self.told, self.next_used);
        let event = self.driver.u32(0).load(Ordering::Relaxed);
        if event & EVENT_DISABLE != 0 {
            return false;
        }
        if event & EVENT_DESC == 0 {
            return true;
        }
        while told != self.next_used {
            if told.event() == event & 0xffff {
                return true;
            }
            told = told.step();
        }
        false
    }
}
