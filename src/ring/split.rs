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
use super::format::{Format, Impossible, Piece, Poll};
use super::notify;
use crate::platform::Platform;
use crate::shared::SplitMemory;
use crate::transport::{Doorbell, QueueAreas, QueueIndex, Transport, TransportError};

/// A split ring's memory, and what was negotiated about it.
pub(crate) struct Split<P: Platform> {
    memory: SplitMemory<P>,
    event_idx: bool,
    strong: bool,
}

impl<P: Platform> Split<P> {
    /// A split ring, and what is known of its entries.
    pub(super) fn new(memory: SplitMemory<P>, options: &RingOptions, counts: &mut Counts) -> Self {
        let split = Self {
            memory,
            event_idx: options.event_idx,
            strong: options.strong,
        };
        if options.in_order {
            counts.settled = counts.next.wrapping_add(split.num().into());
        }
        split
    }
}

impl<P: Platform> Format for Split<P> {
    const BATCH_IS_ONE_LOOK: bool = false;

    #[inline]
    fn num(&self) -> u16 {
        self.memory.mask().wrapping_add(1)
    }

    #[inline(always)] // a few stores
    fn describe(&self, _: &mut Counts, _: u16, node: u16, _: u16, piece: Piece, next: u16) {
        let Piece { addr, len, flags } = piece;
        self.memory
            .set_descriptor(node.into(), addr, len, flags, next);
    }

    #[inline]
    fn retract(&self, _: &Counts, _: u16) {
        // Free descriptors are nobody's.
    }

    #[inline(always)] // one store
    fn enter(&self, counts: &mut Counts, next: u64, head: u16, len: u16) {
        if next < counts.settled {
            self.memory.set_avail_entry(next as u32, head);
        }
        // Later heads are further on. They are written for a lap, and then as they were again.
        if len != 1 && counts.settled != u64::MAX {
            self.memory.set_avail_entry(next as u32, head);
            let lap = u64::from(self.memory.mask()).wrapping_add(2);
            counts.settled = next.wrapping_add(lap);
        }
    }

    #[inline(always)] // one store
    fn publish(&self, counts: &mut Counts) {
        notify::publish_split(&self.memory, counts.next as u16, self.strong);
    }

    #[inline(always)] // the empty look ends every loop
    fn glance(&self, counts: &mut Counts) -> Result<u64, Impossible> {
        // Read before the acquire, which would have them read again.
        let (completed, with_device) = (counts.completed, counts.with_device());
        let ready = counts.seen.wrapping_sub(completed);
        let seen = notify::look_split(&self.memory, self.strong);
        let new = u64::from(seen.wrapping_sub(completed as u16));
        // Nor does the index go back behind what was seen of it.
        if new > with_device || new < ready {
            return Err(Impossible { seen });
        }
        counts.seen = completed.wrapping_add(new);
        Ok(counts.seen)
    }

    #[inline(always)] // a comparison
    fn more(&self, counts: &mut Counts, end: u64) -> bool {
        counts.completed != end
    }

    #[inline(always)] // the empty look ends every loop
    fn poll(&self, counts: &mut Counts) -> Poll {
        let (completed, with_device) = (counts.completed, counts.with_device());
        if counts.seen != completed {
            return Poll::Ready;
        }
        let seen = notify::look_split(&self.memory, self.strong);
        let new = u64::from(seen.wrapping_sub(completed as u16));
        if new == 0 {
            return Poll::Empty;
        }
        if new > with_device {
            return Poll::Impossible(Impossible { seen });
        }
        counts.seen = completed.wrapping_add(new);
        Poll::Ready
    }

    #[inline(always)] // two loads
    fn element(&self, counts: &Counts) -> (u32, u32) {
        self.memory.used_element(counts.completed as u32)
    }

    #[inline(always)] // nothing
    fn excess(&self, _: &Counts, len: u32, _: u32) -> u32 {
        len
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
    }

    fn tables_are_linked(&self) -> bool {
        true
    }

    fn memory_size(&self) -> usize {
        self.memory.size()
    }

    fn areas(&self) -> QueueAreas {
        self.memory.areas()
    }

    fn expose(
        &self,
        transport: &mut impl Transport,
        queue: QueueIndex,
        vector: Option<u16>,
    ) -> Result<Doorbell, TransportError> {
        self.memory.expose(transport, queue, vector)
    }
}
