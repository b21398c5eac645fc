//! The split ring: private bookkeeping over three shared areas.
//!
//! ```text
//!   slots (private)                     shared with the device
//!   ┌────┬─────────┬──────┬──────┐      ┌────────────┐  written once per chain, never read back
//!   │ id │ payload │ next │ tail │ ───▶ │ descriptor │
//!   ├────┼─────────┼──────┼──────┤      ├────────────┤
//!   │ …  │ None    │  ●───┼──▶ …  │      │ …          │  available ring: heads, in order
//!   └────┴─────────┴──────┴──────┘      └────────────┘  used ring: heads, in any order
//! ```
//!
//! A slot and the descriptor of the same index belong together. Free ones form a list through
//! `next`, last in first out; a chain is cut off its front and put back whole. One slot record per
//! chain carries the payload (the caller's buffer, which this module never looks into) and all
//! that is needed to check the device's word when the chain comes back: one table, loaded once.
//!
//! Running counts are 64 bits wide; their low 16 bits are the ring's indices.
//!
//! A broken ring costs the data path no test: it has no free descriptors, so nothing more can be
//! submitted, and a cached index that equals the last used one, so that every look for completions
//! takes the slow way, where the fault is kept.

use crate::buffer::{DmaBuf, Segment};
use crate::platform::Platform;
use crate::ring::notify;
use crate::ring::storage::{Slot, Storage};
use crate::shared::SplitMemory;
use crate::virtqueue::Fault;

/// No slot.
const NONE: u16 = u16::MAX;

/// A split ring with its private state. Pointers come first, then what every round writes.
#[repr(C, align(128))]
pub(crate) struct SplitRing<P: Platform, T: 'static> {
    memory: SplitMemory<P>,
    pub(crate) slots: Storage<Slot<T>>,
    counts: Counts,
    event_idx: bool,
    /// Running number at the last kick decision.
    kicked: u64,
    /// First running number: 0 but in tests that start near the wrap.
    start: u64,
    fault: Option<Fault>,
}

/// What a burst keeps in registers, and writes back when it ends.
#[derive(Clone, Copy)]
pub(crate) struct Counts {
    /// Running number of the next chain.
    next: u64,
    /// Running number up to which chains are visible to the device.
    published: u64,
    /// Chains that came back.
    completed: u64,
    /// Low 16 bits of the device's index, when last read.
    seen: u16,
    free_head: u16,
    free: u16,
}

/// A chain that came back.
pub(crate) struct Used<T> {
    pub(crate) payload: T,
    pub(crate) slot: u16,
    pub(crate) number: u32,
    /// Bytes written, by the device's word and no more than the chain holds.
    pub(crate) written: u32,
    /// Bytes written, by the device's word.
    pub(crate) claimed: u32,
    /// It had a reply cell.
    pub(crate) reply: bool,
    /// Descriptors.
    pub(crate) chain: u16,
}

impl<P: Platform, T: 'static> SplitRing<P, T> {
    /// An empty ring, interrupts parked.
    pub(crate) fn new(
        memory: SplitMemory<P>,
        mut slots: Storage<Slot<T>>,
        event_idx: bool,
        start: u16,
    ) -> Self {
        let num = memory.mask() + 1;
        for (slot, next) in slots.iter_mut().zip(1..=num) {
            slot.next = if next == num { NONE } else { next };
        }
        let at = u64::from(start);
        let counts = Counts {
            next: at,
            published: at,
            completed: at,
            seen: start,
            free_head: 0,
            free: num,
        };
        let ring = Self {
            memory,
            slots,
            counts,
            event_idx,
            kicked: at,
            start: at,
            fault: None,
        };
        ring.disarm();
        ring
    }

    /// Free descriptors.
    #[inline]
    pub(crate) fn free(&self) -> u16 {
        self.counts.free
    }

    /// Queue size.
    #[inline]
    pub(crate) fn size(&self) -> u16 {
        self.memory.mask() + 1
    }

    /// The slot that the next chain starts at.
    #[inline]
    pub(crate) fn head(&self) -> u16 {
        self.counts.free_head
    }

    /// Chains with the device, or on their way to it.
    #[inline]
    pub(crate) fn outstanding(&self) -> u16 {
        self.counts.next.wrapping_sub(self.counts.completed) as u16
    }

    /// Chains submitted and completed since the ring was made.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (
            self.counts.next.wrapping_sub(self.start),
            self.counts.completed.wrapping_sub(self.start),
        )
    }

    pub(crate) fn memory(&self) -> &SplitMemory<P> {
        &self.memory
    }

    /// Writes the descriptor of `node` and returns the node behind it in the free list.
    ///
    /// The descriptor is free, so that nobody else looks at it until the chain is committed.
    #[inline]
    pub(crate) fn set_descriptor(
        &self,
        node: u16,
        addr: u64,
        len: u32,
        writable: bool,
        last: bool,
    ) -> u16 {
        let next = self
            .slots
            .get(usize::from(node))
            .map_or(NONE, |slot| slot.next);
        let write = if writable { 2 } else { 0 };
        let (flags, link) = if last { (write, 0) } else { (write | 1, next) };
        self.memory.set_descriptor(node, addr, len, flags, link);
        next
    }

    /// Takes the chain from the head of the free list to `tail`, whose payload is in its slot,
    /// out of the list and enters it in the available ring. Returns its running number.
    #[inline]
    pub(crate) fn commit(&mut self, chain: ChainInfo) -> u32 {
        let counts = &mut self.counts;
        let number = counts.next as u32;
        let head = counts.free_head;
        if let Some(slot) = self.slots.get_mut(usize::from(head)) {
            slot.number = number;
            slot.writable = chain.writable;
            slot.tail = chain.tail;
            slot.chain = chain.len;
            slot.reply = chain.reply;
        }
        counts.free_head = chain.behind;
        counts.free = counts.free.wrapping_sub(chain.len);
        self.memory.set_avail_entry(counts.next as u16, head);
        counts.next = counts.next.wrapping_add(1);
        number
    }

    /// Makes all committed chains visible: one release store.
    #[inline]
    pub(crate) fn publish(&mut self) {
        self.counts.published = self.counts.next;
        notify::publish(&self.memory, self.counts.next as u16);
    }

    /// Publishes, and says whether the device wants to be told; `None` when there is nothing new.
    #[inline]
    pub(crate) fn kick_prepare(&mut self) -> Option<bool> {
        let since = self.counts.next.wrapping_sub(self.kicked);
        if since == 0 {
            return None;
        }
        self.publish();
        self.kicked = self.counts.next;
        Some(notify::wants_kick(
            &self.memory,
            self.counts.next as u16,
            since,
            self.event_idx,
        ))
    }

    /// The next chain that came back, from the cached index; `None`: look, or give up.
    #[inline]
    pub(crate) fn pop(&mut self) -> Result<Option<Used<T>>, Fault> {
        if self.counts.completed as u16 == self.counts.seen && !self.look()? {
            return Ok(None);
        }
        let (id, claimed) = self.memory.used_element(self.counts.completed as u16);
        let counts = &mut self.counts;
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return Err(self.broken(Fault::UsedIdOutOfRange {
                id,
                size: self.size(),
            }));
        };
        // A chain that was not yet published when the device reported it is not its to report.
        let age = counts.published.wrapping_sub(1) as u32;
        let published = age.wrapping_sub(slot.number) <= u32::MAX / 2;
        let Some(payload) = (if published { slot.payload.take() } else { None }) else {
            return Err(self.broken(Fault::UsedIdNotInFlight { id }));
        };
        let used = Used {
            payload,
            slot: id as u16,
            number: slot.number,
            written: claimed.min(slot.writable),
            claimed,
            reply: slot.reply,
            chain: slot.chain,
        };
        let tail = slot.tail;
        if let Some(tail) = self.slots.get_mut(usize::from(tail)) {
            tail.next = counts.free_head;
        }
        counts.free_head = id as u16;
        counts.free = counts.free.wrapping_add(used.chain);
        counts.completed = counts.completed.wrapping_add(1);
        Ok(Some(used))
    }

    /// Reads the device's index, once and with acquire; true when there is something new.
    #[inline]
    pub(crate) fn look(&mut self) -> Result<bool, Fault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let seen = notify::look(&self.memory);
        let last = self.counts.completed as u16;
        let new = seen.wrapping_sub(last);
        let published = self.counts.published.wrapping_sub(self.counts.completed);
        if u64::from(new) > published {
            return Err(self.broken(Fault::UsedIndex {
                seen,
                last,
                outstanding: published as u16,
            }));
        }
        self.counts.seen = seen;
        Ok(new != 0)
    }

    /// Completions that can be popped without looking again.
    #[inline]
    pub(crate) fn ready(&self) -> u16 {
        self.counts.seen.wrapping_sub(self.counts.completed as u16)
    }

    /// Asks for an interrupt; true when there is work already.
    #[inline]
    pub(crate) fn arm(&mut self) -> bool {
        let last = self.counts.completed as u16;
        let raced = notify::arm(&self.memory, last, self.event_idx);
        raced || self.counts.seen != last || self.fault.is_some()
    }

    /// Asks for no interrupts.
    #[inline]
    pub(crate) fn disarm(&self) {
        notify::disarm(&self.memory, self.counts.completed as u16, self.event_idx);
    }

    /// What the device did wrong, if it did.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Marks the ring broken until its device is reset.
    #[cold]
    #[inline(never)]
    fn broken(&mut self, fault: Fault) -> Fault {
        log::warn!("virtqueue broken until reset: {fault}");
        self.counts.free = 0;
        self.counts.seen = self.counts.completed as u16;
        self.fault = Some(fault);
        fault
    }

    /// The node behind `node` in its chain or in the free list.
    #[inline]
    pub(crate) fn next(&self, node: u16) -> u16 {
        self.slots
            .get(usize::from(node))
            .map_or(NONE, |slot| slot.next)
    }

    /// Takes the payload of a chain that was never committed out of its slot.
    #[cold]
    pub(crate) fn take_back(&mut self, head: u16) -> Option<T> {
        let payload = self
            .slots
            .get_mut(usize::from(head))
            .and_then(|slot| slot.payload.take());
        if payload.is_none() {
            self.broken(Fault::Corrupt { slot: head });
        }
        payload
    }

    /// Takes a payload and the length of its chain out of a slot, whatever the device says. For
    /// queues whose device has been reset.
    pub(crate) fn withdraw(&mut self, slot: u16) -> Option<(T, u16)> {
        let slot = self.slots.get_mut(usize::from(slot))?;
        let payload = slot.payload.take()?;
        Some((payload, slot.chain))
    }
}

impl<P: Platform, T: DmaBuf> SplitRing<P, T> {
    /// A segment of the payload in slot `head`, derived from where the payload stays.
    #[inline]
    pub(crate) fn segment(&mut self, head: u16, index: usize) -> Option<Segment> {
        let slot = self.slots.get_mut(usize::from(head))?;
        slot.payload.as_mut().map(|payload| payload.segment(index))
    }
}

/// What [`SplitRing::commit`] is told of a chain.
pub(crate) struct ChainInfo {
    /// Its last node.
    pub(crate) tail: u16,
    /// The node behind it in the free list.
    pub(crate) behind: u16,
    /// Its descriptors.
    pub(crate) len: u16,
    /// Bytes that the device may write.
    pub(crate) writable: u32,
    /// It ends with a reply cell.
    pub(crate) reply: bool,
}

impl ChainInfo {
    /// The node at `behind` has become the last of the chain.
    #[inline]
    pub(crate) fn push(&mut self, behind: u16) {
        self.tail = self.behind;
        self.behind = behind;
        self.len = self.len.wrapping_add(1);
    }
}
