//! The split ring (VIRTIO 1.4, 2.7): three areas, of which each side writes its own.
//!
//! ```text
//!   descriptor table      available ring (ours)        used ring (the device's)
//!   ┌────────────┐        ┌─────┬─────┬──────────┐     ┌─────┬─────┬───────────────┐
//!   │ addr, len, │◀───────│flags│ idx │ heads …  │     │flags│ idx │ (id, len) …   │
//!   │ flags,next │        └─────┴─────┴──────────┘     └─────┴─────┴───────────────┘
//!   └────────────┘         used_event behind it         avail_event behind it
//! ```
//!
//! A descriptor belongs to the slot of its index. It is written once per chain, as two words, and
//! never read back.
//!
//! With `VIRTIO_F_IN_ORDER` descriptors are used round and round (2.7.9), so that while all chains
//! are of one descriptor, the available ring has the same heads in every lap: an entry that is
//! there already is not written again, and its line stays with the device.

use super::core::RingOptions;
use super::counts::Counts;
use super::format::{Element, Format, Formatted, Impossible, Piece, Reader, Writer};
use super::notify;
use crate::platform::Platform;
use crate::shared::{AvailRun, SplitMemory, SplitWords, UsedRun};

/// A split ring's memory, and what was negotiated about it.
pub(crate) struct SplitRing<P: Platform> {
    memory: SplitMemory<P>,
    event_idx: bool,
    strong: bool,
}

impl<P: Platform> SplitRing<P> {
    /// A split ring, and what is known of its entries.
    pub(super) fn new(memory: SplitMemory<P>, options: &RingOptions, counts: &mut Counts) -> Self {
        if options.in_order {
            let num = u64::from(memory.words().mask()).wrapping_add(1);
            counts.settled = counts.next.wrapping_add(num);
        }
        Self {
            memory,
            event_idx: options.event_idx,
            strong: options.strong,
        }
    }

    /// Its memory.
    pub(super) fn memory(&self) -> &SplitMemory<P> {
        &self.memory
    }
}

impl<P: Platform> Formatted for SplitRing<P> {
    type Format<'a>
        = Split<'a>
    where
        Self: 'a;

    #[inline(always)] // a few loads, of what is used
    fn format(&self) -> Split<'_> {
        Split {
            memory: self.memory.words(),
            event_idx: self.event_idx,
            strong: self.strong,
        }
    }
}

/// A split ring, as it is written and read.
pub(crate) struct Split<'a> {
    memory: SplitWords<'a>,
    event_idx: bool,
    strong: bool,
}

/// Entries of the available ring, one behind the other, and the descriptors that they name.
pub(crate) struct SplitWriter<'w, 'a> {
    memory: &'w SplitWords<'a>,
    entries: AvailRun<'w>,
    /// They are not what they have to be already.
    write: bool,
}

impl Writer for SplitWriter<'_, '_> {
    #[inline(always)] // a comparison
    fn has_room(&self, _: &Counts) -> bool {
        !self.entries.is_empty()
    }

    #[inline(always)] // three stores
    fn put(&mut self, _: &mut Counts, head: u32, piece: Piece) {
        let Piece { addr, len, flags } = piece;
        self.memory.set_descriptor(head, addr, len, flags, 0);
        if self.write {
            self.entries.push(head as u16);
        } else {
            self.entries.pass();
        }
    }
}

#[inline(always)] // nothing
fn element((id, len): (u32, u32)) -> Element {
    let flags = 0;
    Element { id, len, flags }
}

/// Used elements, one behind the other.
pub(crate) struct SplitReader<'r, 'a> {
    memory: &'r SplitWords<'a>,
    elements: UsedRun<'r>,
}

impl Reader for SplitReader<'_, '_> {
    #[inline(always)] // rarely
    fn goes_on(&mut self, counts: &mut Counts, end: u64) -> bool {
        let left = end.wrapping_sub(counts.completed) as u32;
        self.elements = self.memory.used_run(counts.completed as u32, left);
        left != 0
    }

    #[inline(always)] // two loads
    fn next(&mut self, _: &mut Counts) -> Option<Element> {
        self.elements.next().map(element)
    }
}

impl<'a> Format for Split<'a> {
    const BATCH_IS_ONE_LOOK: bool = false;

    type Writer<'w>
        = SplitWriter<'w, 'a>
    where
        Self: 'w;

    #[inline(always)] // nothing
    fn keep_submitted(from: &Counts, to: &mut Counts) {
        to.settled = from.settled;
    }

    #[inline(always)] // two stores
    fn keep_taken(from: &Counts, to: &mut Counts) {
        to.seen = from.seen;
        to.ready = from.ready;
    }

    type Reader<'r>
        = SplitReader<'r, 'a>
    where
        Self: 'r;

    #[inline(always)] // so that it is in registers
    fn reader(&self, counts: &mut Counts, _: u64) -> SplitReader<'_, 'a> {
        SplitReader {
            memory: &self.memory,
            elements: self.memory.used_run(counts.completed as u32, 0),
        }
    }

    #[inline(always)] // nothing
    fn holds_next(&self, _: &Counts) -> bool {
        false
    }

    #[inline(always)] // so that it is in registers
    fn writer<const IN_ORDER: bool>(
        &self,
        counts: &mut Counts,
        mut most: u32,
    ) -> SplitWriter<'_, 'a> {
        let mut write = true;
        if IN_ORDER {
            let unsettled = counts.settled.saturating_sub(counts.next);
            write = unsettled != 0;
            if write {
                most = most.min(unsettled.min(u32::MAX.into()) as u32);
            }
        }
        SplitWriter {
            memory: &self.memory,
            entries: self.memory.avail_run(counts.next as u32, most),
            write,
        }
    }

    #[inline]
    fn num(&self) -> u16 {
        self.memory.mask().wrapping_add(1)
    }

    #[inline(always)] // a few stores
    fn describe(&self, _: &mut Counts, _: u32, node: u32, _: u16, piece: Piece, next: u16) {
        let Piece { addr, len, flags } = piece;
        self.memory.set_descriptor(node, addr, len, flags, next);
    }

    #[inline(always)] // as above
    fn write<const N: usize>(&self, _: &mut Counts, nodes: &[u32], pieces: [Piece; N], _: bool) {
        for k in 0..N {
            let (Some(&node), Some(piece)) = (nodes.get(k), pieces.get(k)) else {
                break;
            };
            let next = nodes.get(k.wrapping_add(1)).map_or(0, |&next| next as u16);
            let &Piece { addr, len, flags } = piece;
            self.memory.set_descriptor(node, addr, len, flags, next);
        }
    }

    #[inline]
    fn retract(&self, _: &Counts, _: u16) {
        // Free descriptors are nobody's.
    }

    #[inline(always)] // one store
    fn enter(&self, counts: &mut Counts, next: u64, head: u32, len: u16) {
        if next < counts.settled {
            self.memory.set_avail_entry(next as u32, head as u16);
        }
        // Later heads are further on. They are written for a lap, and then as they were again.
        if len != 1 && counts.settled != u64::MAX {
            self.memory.set_avail_entry(next as u32, head as u16);
            let lap = u64::from(self.memory.mask()).wrapping_add(2);
            counts.settled = next.wrapping_add(lap);
        }
    }

    #[inline(always)] // one store
    fn enter_any(&self, _: &mut Counts, next: u64, head: u32, _: u16) {
        self.memory.set_avail_entry(next as u32, head as u16);
    }

    #[inline(always)] // one store
    fn publish(&self, counts: &mut Counts) {
        notify::publish_split(&self.memory, counts.next as u16, self.strong);
    }

    #[inline(always)] // bounds a burst
    fn glance(&self, counts: &mut Counts, in_order: bool) -> Result<u64, Impossible> {
        // Read before the acquire, which would have them read again.
        let (completed, with_device) = (counts.completed, counts.with_device());
        let ready = counts.seen.wrapping_sub(completed);
        let seen = notify::look_split(&self.memory, self.strong);
        let new = u64::from(seen.wrapping_sub(completed as u16));
        // Nor does the index go back behind what was seen of it.
        if new > with_device || new < ready {
            return Err(Impossible { seen });
        }
        counts.saw(completed.wrapping_add(new), in_order);
        Ok(counts.seen)
    }

    type Mark = ();

    #[inline(always)] // a comparison
    fn more(&self, counts: &mut Counts, end: u64) -> Option<()> {
        (counts.completed != end).then_some(())
    }

    #[inline(always)] // a comparison
    fn peek(&self, counts: &mut Counts) -> Result<(), ()> {
        if counts.completed < counts.ready {
            Ok(())
        } else {
            Err(())
        }
    }

    #[inline(always)] // the empty look ends every loop
    fn poll(&self, counts: &mut Counts, (): (), in_order: bool) -> Result<Option<()>, Impossible> {
        let (completed, with_device) = (counts.completed, counts.with_device());
        if in_order && counts.seen != completed {
            return Ok(Some(()));
        }
        let seen = notify::look_split(&self.memory, self.strong);
        let new = u64::from(seen.wrapping_sub(completed as u16));
        if new == 0 {
            return Ok(None);
        }
        if new > with_device {
            return Err(Impossible { seen });
        }
        counts.saw(completed.wrapping_add(new), in_order);
        Ok(Some(()))
    }

    #[inline(always)] // two loads
    fn element(&self, counts: &Counts, (): ()) -> Element {
        element(self.memory.used_element(counts.completed as u32))
    }

    #[inline(always)] // nothing
    fn excess(element: Element, _: u32) -> u32 {
        element.len
    }

    #[inline(always)] // nothing
    fn pass(&self, _: &mut Counts, _: u16) {}

    #[inline(always)] // decides every kick
    fn wants_kick(&self, counts: &mut Counts, chains: u64) -> bool {
        let (event_idx, strong) = (self.event_idx, self.strong);
        notify::wants_kick_split(&self.memory, counts.next as u16, chains, event_idx, strong)
    }

    #[inline]
    fn arm(&self, counts: &Counts, delayed: bool) -> bool {
        let ahead = if delayed {
            (counts.with_device() * 3 / 4) as u16
        } else {
            0
        };
        let ready = counts.seen.wrapping_sub(counts.completed);
        let last = counts.completed as u16;
        let (event_idx, strong) = (self.event_idx, self.strong);
        notify::arm_split(&self.memory, last, ahead, event_idx, strong) || ready > u64::from(ahead)
    }

    #[inline]
    fn disarm(&self, counts: &Counts) {
        notify::disarm_split(&self.memory, counts.completed as u16, self.event_idx);
    }

    #[inline]
    fn notification(&self, counts: &Counts) -> u16 {
        counts.next as u16
    }

    fn poison(&self, counts: &mut Counts) {
        // Something is always ready, and nothing was published that it could be.
        counts.completed = 0;
        counts.seen = 1;
        counts.ready = 1;
    }

    fn tables_are_linked(&self) -> bool {
        true
    }
}
