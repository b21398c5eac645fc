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
//! submitted, and its count of completions is ahead of everything that was ever submitted, so that
//! every look for more finds an impossible index and goes the slow way, where the fault is kept.

use crate::buffer::{DmaBuf, Segment};
use crate::platform::Platform;
use crate::ring::layout::MAX_QUEUE_SIZE;
use crate::ring::notify;
use crate::ring::storage::{REPLY, Slot, Storage};
use crate::shared::SplitMemory;
use crate::virtqueue::Fault;

#[cfg(test)]
mod tests;

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
    /// What the device did wrong, and how many chains had come back by then.
    fault: Option<(Fault, u64)>,
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
    /// Chains that the device had used when its index was last read.
    seen: u64,
    free_head: u32,
    free: u32,
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
}

/// A chain that came back, and is in its slot yet.
pub(crate) struct Returned {
    pub(crate) slot: u16,
    /// Descriptors.
    pub(crate) chain: u16,
    /// Bytes written, by the device's word and no more than the chain holds.
    pub(crate) written: u32,
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
            seen: at,
            free_head: 0,
            free: num.into(),
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
        self.counts.free as u16
    }

    /// Queue size.
    #[inline]
    pub(crate) fn size(&self) -> u16 {
        self.memory.mask() + 1
    }

    /// The slot that the next chain starts at.
    #[inline]
    pub(crate) fn head(&self) -> u16 {
        self.counts.free_head as u16
    }

    /// The number of the next chain.
    #[inline]
    pub(crate) fn number(&self) -> u32 {
        self.counts.number()
    }

    /// Chains with the device, or on their way to it.
    #[inline]
    pub(crate) fn outstanding(&self) -> u16 {
        self.counts.next.wrapping_sub(self.completed()) as u16
    }

    /// Running count of the chains that came back.
    fn completed(&self) -> u64 {
        self.fault
            .map_or(self.counts.completed, |(_, completed)| completed)
    }

    /// Chains submitted and completed since the ring was made.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (
            self.counts.next.wrapping_sub(self.start),
            self.completed().wrapping_sub(self.start),
        )
    }

    pub(crate) fn memory(&self) -> &SplitMemory<P> {
        &self.memory
    }

    /// Writes the descriptor of `node` and returns the node behind it in the free list.
    ///
    /// The descriptor is free, so that nobody else looks at it until the chain is committed.
    #[inline(always)]
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
        self.memory
            .set_descriptor(node.into(), addr, len, flags, link);
        next
    }

    /// Takes the chain from the head of the free list to `tail`, whose payload is in its slot,
    /// out of the list and enters it in the available ring. Returns its running number.
    #[inline]
    pub(crate) fn commit(&mut self, chain: ChainInfo) -> u32 {
        let counts = &mut self.counts;
        let head = counts.free_head as usize;
        if let Some(slot) = self.slots.get_mut(head) {
            slot.writable = chain.writable;
            slot.tail = if chain.reply {
                chain.tail | REPLY
            } else {
                chain.tail
            };
            slot.chain = chain.len;
        }
        counts.enter(&self.memory, chain.len, chain.behind)
    }

    /// What one chain needs: the shared memory, the slot at the head of the free list, the counts.
    #[inline(always)] // as `burst`
    pub(crate) fn slot_and_counts(
        &mut self,
    ) -> Option<(&SplitMemory<P>, &mut Slot<T>, &mut Counts)> {
        let slot = self.slots.get_mut(self.counts.free_head as usize)?;
        Some((&self.memory, slot, &mut self.counts))
    }

    /// Runs `f` with what a burst needs: the shared memory, the slots, and the counts in a copy
    /// that can stay in registers. The copy is written back when `f` ends, also by a panic.
    #[inline(always)] // or the copy is not in registers
    pub(crate) fn burst<R>(
        &mut self,
        f: impl FnOnce(&SplitMemory<P>, &mut [Slot<T>], &mut Counts) -> R,
    ) -> R {
        struct WriteBack<'a>(Counts, &'a mut Counts);
        impl Drop for WriteBack<'_> {
            #[inline(always)] // as above
            fn drop(&mut self) {
                *self.1 = self.0;
            }
        }
        let mut counts = WriteBack(self.counts, &mut self.counts);
        f(&self.memory, &mut self.slots, &mut counts.0)
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

    /// The next chain that came back, from the cached index where that is enough. `before` is as
    /// for [`Counts::take`].
    #[inline(always)] // a chain is large, and is taken apart at once
    pub(crate) fn pop(
        &mut self,
        before: impl FnOnce(&[Slot<T>], Returned),
    ) -> Result<Option<Used<T>>, Fault> {
        if self.counts.ready() == 0 && self.look()? == 0 {
            return Ok(None);
        }
        match self.counts.take(&self.memory, &mut self.slots, before) {
            Ok(used) => Ok(Some(used)),
            Err(fault) => Err(self.broken(fault)),
        }
    }

    /// Reads the device's index, once and with acquire; how many completions there are.
    #[inline(always)] // the empty look ends every loop
    pub(crate) fn look(&mut self) -> Result<u64, Fault> {
        let seen = notify::look(&self.memory);
        let counts = &mut self.counts;
        let new = u64::from(seen.wrapping_sub(counts.completed as u16));
        let outstanding = counts.published.wrapping_sub(counts.completed);
        if new as i64 > outstanding as i64 {
            return Err(self.impossible(seen));
        }
        counts.seen = counts.completed.wrapping_add(new);
        Ok(new)
    }

    /// As [`look`](Self::look), when the index may have been looked at before: it does not go back.
    #[inline(always)] // as `look`
    pub(crate) fn look_again(&mut self) -> Result<u64, Fault> {
        let before = self.counts.ready();
        let now = self.look()?;
        if now < before {
            let last = self.counts.completed.wrapping_add(before) as u16;
            return Err(self.went_back(self.counts.seen as u16, last));
        }
        Ok(now)
    }

    #[cold]
    #[inline(never)]
    fn went_back(&mut self, seen: u16, last: u16) -> Fault {
        let outstanding = self.counts.published.wrapping_sub(self.counts.completed) as u16;
        self.broken(Fault::UsedIndex {
            seen,
            last,
            outstanding,
        })
    }

    /// The device's index is beyond what was published, or the ring was broken before.
    #[cold]
    #[inline(never)]
    fn impossible(&mut self, seen: u16) -> Fault {
        if let Some((fault, _)) = self.fault {
            return fault;
        }
        let last = self.counts.completed as u16;
        let outstanding = self.counts.published.wrapping_sub(self.counts.completed) as u16;
        self.broken(Fault::UsedIndex {
            seen,
            last,
            outstanding,
        })
    }

    /// Asks for an interrupt; true when there is work already.
    #[inline]
    pub(crate) fn arm(&mut self) -> bool {
        let last = self.counts.completed as u16;
        let raced = notify::arm(&self.memory, last, self.event_idx);
        raced || self.counts.ready() != 0 || self.fault.is_some()
    }

    /// Asks for no interrupts.
    #[inline]
    pub(crate) fn disarm(&self) {
        notify::disarm(&self.memory, self.counts.completed as u16, self.event_idx);
    }

    /// What the device did wrong, if it did.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault.map(|(fault, _)| fault)
    }

    /// Marks the ring broken until its device is reset.
    #[cold]
    #[inline(never)]
    pub(crate) fn broken(&mut self, fault: Fault) -> Fault {
        log::warn!("virtqueue broken until reset: {fault}");
        let counts = &mut self.counts;
        self.fault.get_or_insert((fault, counts.completed));
        counts.free = 0;
        counts.completed = counts.next.wrapping_add(1);
        counts.seen = counts.completed;
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

    /// Descriptors of the chain that starts at a slot, if one does.
    pub(crate) fn chain_at(&self, slot: u16) -> Option<u16> {
        let slot = self.slots.get(usize::from(slot))?;
        slot.payload.is_some().then_some(slot.chain)
    }

    /// Takes a payload out of a slot, whatever the device says. For queues whose device has been
    /// reset.
    pub(crate) fn withdraw(&mut self, slot: u16) -> Option<T> {
        self.slots.get_mut(usize::from(slot))?.payload.take()
    }
}

impl<P: Platform, T: DmaBuf> SplitRing<P, T> {
    /// A segment of the payload in slot `head`, derived from where the payload stays.
    #[inline(always)]
    pub(crate) fn segment(&mut self, head: u16, index: usize) -> Option<Segment> {
        let slot = self.slots.get_mut(usize::from(head))?;
        slot.payload.as_mut().map(|payload| payload.segment(index))
    }
}

impl Counts {
    /// The slot that the next chain starts at.
    #[inline]
    pub(crate) fn head(&self) -> u16 {
        self.free_head as u16
    }

    /// Free descriptors.
    #[inline]
    pub(crate) fn free(&self) -> u32 {
        self.free
    }

    /// Low half of the running number of the next chain.
    #[inline]
    pub(crate) fn number(&self) -> u32 {
        self.next as u32
    }

    /// Enters the chain of `len` descriptors at the head of the free list in the available ring,
    /// and cuts it off the list before `behind`. Returns its running number.
    #[inline]
    pub(crate) fn enter<P: Platform>(
        &mut self,
        memory: &SplitMemory<P>,
        len: u16,
        behind: u16,
    ) -> u32 {
        let number = self.number();
        memory.set_avail_entry(self.next as u32, self.free_head as u16);
        self.free_head = behind.into();
        self.free = self.free.wrapping_sub(len.into());
        self.next = self.next.wrapping_add(1);
        number
    }

    /// Completions that can be taken without looking again.
    #[inline]
    pub(crate) fn ready(&self) -> u64 {
        self.seen.wrapping_sub(self.completed)
    }

    /// Takes the next chain that came back, when one is [`ready`](Self::ready).
    ///
    /// The one look-up of the slot is also the validation: the id is a slot's, the slot holds a
    /// payload (so that a chain starts there, and has not come back before), and the chain was
    /// published when the device reported it.
    ///
    /// `before` is called when the chain is known to be good, and its payload has not been moved:
    /// whoever still has to use the payload's memory does so there. The pointers to it were derived
    /// where it is, and moving a box or an exclusive reference ends what they may do.
    #[inline(always)] // a chain is large, and is taken apart at once
    pub(crate) fn take<P: Platform, T>(
        &mut self,
        memory: &SplitMemory<P>,
        slots: &mut [Slot<T>],
        before: impl FnOnce(&[Slot<T>], Returned),
    ) -> Result<Used<T>, Fault> {
        let (id, claimed) = memory.used_element(self.completed as u32);
        let Some(slot) = slots.get_mut(id as usize) else {
            return Err(Fault::UsedIdOutOfRange {
                id,
                size: memory.mask().wrapping_add(1),
            });
        };
        // What was not published is not the device's to return: numbers from `published` to that of
        // the next chain, which a buffer has whose mapping panicked. No more chains than
        // descriptors are unpublished. All other numbers are in the past, however long ago.
        if slot.number.wrapping_sub(self.published as u32) <= MAX_QUEUE_SIZE.into() {
            return Err(Fault::UsedIdNotInFlight { id });
        }
        let slot = if P::DIRECT || slot.payload.is_none() {
            slot
        } else {
            let returned = Returned {
                slot: id as u16,
                chain: slot.chain,
                written: claimed.min(slot.writable),
            };
            before(slots, returned);
            match slots.get_mut(id as usize) {
                Some(slot) => slot,
                None => return Err(Fault::UsedIdNotInFlight { id }),
            }
        };
        let Some(payload) = slot.payload.take() else {
            return Err(Fault::UsedIdNotInFlight { id });
        };
        let (number, writable, chain) = (slot.number, slot.writable, slot.chain);
        let reply = slot.tail & REPLY != 0;
        let tail = slot.tail & !REPLY;
        if u32::from(tail) == id {
            slot.next = self.free_head as u16;
        } else if let Some(tail) = slots.get_mut(usize::from(tail)) {
            tail.next = self.free_head as u16;
        }
        self.free_head = id;
        self.free = self.free.wrapping_add(chain.into());
        self.completed = self.completed.wrapping_add(1);
        let written = claimed.min(writable);
        Ok(Used {
            payload,
            slot: id as u16,
            number,
            written,
            claimed,
            reply,
        })
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
    #[inline(always)]
    pub(crate) fn push(&mut self, behind: u16) {
        self.tail = self.behind;
        self.behind = behind;
        self.len = self.len.wrapping_add(1);
    }
}
