//! The ring behind a queue: private bookkeeping, the same for both formats.
//!
//! ```text
//!   slots (private)                               shared with the device
//!   ┌────┬─────────┬──────┬──────┬───────┐
//!   │ id │ payload │ next │ tail │ chain │ ─────▶  descriptors, in one format or the other
//!   ├────┼─────────┼──────┼──────┼───────┤
//!   │ …  │ None    │  ●───┼──▶ … │       │         ids that come back
//!   └────┴─────────┴──────┴──────┴───────┘
//! ```
//!
//! There are as many slots as descriptors. Free ones form a list through `next`, last in first out;
//! a chain takes as many off its front as it has descriptors, and puts them back whole. Chains of a
//! few descriptors that come back in a burst stay chains, in a list of their own, as the next is
//! likely to have as many: their links need not be made again. One slot
//! record per chain carries the payload (the caller's buffer, which this module never looks into)
//! and all that is needed to check the device's word when the chain comes back: one table, loaded
//! once.
//!
//! With `VIRTIO_F_IN_ORDER` the list goes round and round instead: chains come back as they went,
//! the oldest first, and the device may name only the last of several. Those that it skipped are
//! complete, with a length that is assumed (VIRTIO 1.4, 2.7.9 and 2.8.9).
//!
//! A broken ring costs the data path no test: it has no free descriptors, so nothing more can be
//! submitted, and its format is poisoned, so that every look for completions goes the slow way,
//! where the fault is kept.

use super::counts::Counts;
use super::format::{Format, Impossible};
use super::packed::PackedRing;
use super::split::SplitRing;
use super::storage::{HEADER, REPLY, Slot, Storage};
use super::take::{Seen, Trouble, Used, in_batch};
use crate::buffer::{DmaBuf, Segment};
use crate::platform::Platform;
use crate::shared::{PackedMemory, SplitMemory};
use crate::transport::{Doorbell, QueueAreas, QueueIndex, Transport, TransportError};
use crate::virtqueue::Fault;

/// The most descriptors of a chain that has a quick way, and stays a chain when it comes back.
pub(crate) const FEW: usize = 4;

/// No slot.
const NONE: u16 = u16::MAX;

/// The two formats. `--cfg vring_ring="split"` or `"packed"` leaves one: that is for measuring what
/// the choice costs (`tests/budget`), and makes queues of that format whatever was negotiated.
pub(crate) enum AnyFormat<P: Platform> {
    #[cfg(not(vring_ring = "packed"))]
    Split(SplitRing<P>),
    #[cfg(not(vring_ring = "split"))]
    Packed(PackedRing<P>),
}

/// Does the same with either format.
macro_rules! with_format {
    ($any:expr, $format:ident => $body:expr) => {
        $crate::ring::core::with_ring!($any, ring => {
            let $format = &$crate::ring::format::Formatted::format(ring);
            $body
        })
    };
}
pub(crate) use with_format;

/// Does the same with either ring.
macro_rules! with_ring {
    ($any:expr, $ring:ident => $body:expr) => {
        match $any {
            #[cfg(not(vring_ring = "packed"))]
            $crate::ring::core::AnyFormat::Split($ring) => $body,
            #[cfg(not(vring_ring = "split"))]
            $crate::ring::core::AnyFormat::Packed($ring) => $body,
        }
    };
}
pub(crate) use with_ring;

/// Where a ring's shared memory is.
pub(crate) enum Memory<P: Platform> {
    #[cfg(not(vring_ring = "packed"))]
    Split(SplitMemory<P>),
    #[cfg(not(vring_ring = "split"))]
    Packed(PackedMemory<P>),
}

/// What was negotiated about a ring.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RingOptions {
    /// `VIRTIO_F_EVENT_IDX`.
    pub(crate) event_idx: bool,
    /// `VIRTIO_F_IN_ORDER`.
    pub(crate) in_order: bool,
    /// `VIRTIO_F_ORDER_PLATFORM`.
    pub(crate) strong: bool,
    /// First running number: 0 but in tests that start near the wrap.
    pub(crate) start: u16,
}

/// A ring with its private state. What every round touches comes first.
#[repr(C, align(128))]
pub(crate) struct Ring<P: Platform, T: 'static> {
    pub(crate) format: AnyFormat<P>,
    pub(crate) slots: Storage<Slot<T>>,
    pub(crate) counts: Counts,
    /// Chains come back as they went, and not in any order.
    pub(crate) in_order: bool,
    /// Running number at the last kick decision.
    kicked: u64,
    start: u64,
    /// Why the ring is broken, and where the counts were then.
    fault: Option<Broken>,
}

/// Why a ring is broken, and what was counted by then: a poisoned ring's counts count no more.
#[derive(Clone, Copy, Debug)]
struct Broken {
    fault: Fault,
    next: u64,
    completed: u64,
    /// The chains that had not come back were withdrawn.
    emptied: bool,
}

/// What [`Ring::commit`] is told of a chain.
pub(crate) struct ChainInfo {
    /// Its last slot.
    pub(crate) tail: u16,
    /// The slot behind it in the free list.
    pub(crate) behind: u16,
    /// Its descriptors in the ring.
    pub(crate) len: u16,
    /// Its pieces: as many as descriptors, or those in an indirect table.
    pub(crate) pieces: u16,
    /// They are in the slot's indirect table.
    pub(crate) table: bool,
    /// Bytes that the device may write.
    pub(crate) writable: u32,
    /// It begins with a header cell.
    pub(crate) header: bool,
    /// It ends with a reply cell.
    pub(crate) reply: bool,
}

impl ChainInfo {
    /// The slot at `behind` has become the last of the chain; `next` is behind it.
    #[inline(always)] // three moves
    pub(crate) fn push(&mut self, next: u16) {
        self.tail = self.behind;
        self.behind = next;
        self.len = self.len.wrapping_add(1);
    }
}

impl<P: Platform, T: 'static> Ring<P, T> {
    /// An empty ring, interrupts parked.
    pub(crate) fn new(
        memory: Memory<P>,
        mut slots: Storage<Slot<T>>,
        options: RingOptions,
    ) -> Self {
        let RingOptions {
            in_order, start, ..
        } = options;
        let num = match &memory {
            #[cfg(not(vring_ring = "packed"))]
            Memory::Split(memory) => memory.words().mask().wrapping_add(1),
            #[cfg(not(vring_ring = "split"))]
            Memory::Packed(memory) => memory.words().num(),
        };
        let last = if in_order { 0 } else { NONE };
        for (slot, next) in slots.iter_mut().zip(1..=num) {
            slot.next = if next == num { last } else { next };
        }
        let mut counts = Counts::new(num, start);
        let format = match memory {
            #[cfg(not(vring_ring = "packed"))]
            Memory::Split(memory) => {
                AnyFormat::Split(SplitRing::new(memory, &options, &mut counts))
            }
            #[cfg(not(vring_ring = "split"))]
            Memory::Packed(memory) => {
                AnyFormat::Packed(PackedRing::new(memory, &options, &mut counts))
            }
        };
        let ring = Self {
            format,
            slots,
            counts,
            in_order,
            kicked: counts.next,
            start: counts.next,
            fault: None,
        };
        ring.disarm();
        ring
    }

    /// Free descriptors.
    #[inline]
    pub(crate) fn free(&self) -> u16 {
        self.counts.free.wrapping_add(self.counts.chained) as u16
    }

    /// Queue size.
    #[inline]
    pub(crate) fn size(&self) -> u16 {
        with_format!(&self.format, format => format.num())
    }

    /// Chains with the device, or on their way to it.
    #[inline]
    pub(crate) fn outstanding(&self) -> u16 {
        if self.fault.is_some_and(|broken| broken.emptied) {
            return 0;
        }
        let (next, completed) = self.running();
        next.wrapping_sub(completed) as u16
    }

    /// Running numbers of the next chain and of the next that comes back.
    fn running(&self) -> (u64, u64) {
        self.fault
            .map_or((self.counts.next, self.counts.completed), |broken| {
                (broken.next, broken.completed)
            })
    }

    /// Chains submitted and completed since the ring was made.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let (next, completed) = self.running();
        (
            next.wrapping_sub(self.start),
            completed.wrapping_sub(self.start),
        )
    }

    /// Bytes of shared memory.
    pub(crate) fn memory_size(&self) -> usize {
        with_ring!(&self.format, ring => ring.memory().size())
    }

    /// Hands the ring to a device: see [`SplitMemory::expose`].
    pub(crate) fn expose(
        &self,
        transport: &mut impl Transport,
        queue: QueueIndex,
        vector: Option<u16>,
    ) -> Result<Doorbell, TransportError> {
        with_ring!(&self.format, ring => ring.memory().expose(transport, queue, vector))
    }

    /// Where the device finds the three areas.
    pub(crate) fn areas(&self) -> QueueAreas {
        with_ring!(&self.format, ring => ring.memory().areas())
    }

    /// The slot behind `node` in its chain or in the free list.
    #[inline]
    pub(crate) fn next(&self, node: u16) -> u16 {
        self.slots
            .get(usize::from(node))
            .map_or(NONE, |slot| slot.next)
    }

    /// Takes the chain at the head of the free list, whose payload is in its slot, out of the list
    /// and enters it in the ring. Returns its running number.
    #[inline]
    pub(crate) fn commit(&mut self, chain: &ChainInfo) -> u64 {
        let Self {
            format,
            slots,
            counts,
            ..
        } = self;
        let (next, head) = (counts.next, counts.head());
        if let Some(slot) = slots.get_mut(usize::from(head)) {
            slot.writable = chain.writable;
            slot.tail = chain.tail;
            slot.shape = u32::from(chain.len)
                | if chain.reply { REPLY } else { 0 }
                | if chain.header { HEADER } else { 0 };
            slot.set_pieces(chain.pieces, chain.table);
        }
        with_format!(format, format => {
            counts.enter(format, next, head.into(), chain.len, chain.behind);
        });
        next
    }

    /// Makes all committed chains visible: one release store.
    #[inline]
    pub(crate) fn publish(&mut self) {
        let Self { format, counts, .. } = self;
        // A ring that is broken has nothing new, and its counts are no index to store.
        if counts.next != counts.published {
            with_format!(format, format => format.publish(counts));
            counts.published = counts.next;
        }
    }

    /// Publishes, and tells `decided` whether the device wants to be told, and how to work out what a
    /// doorbell says then; `None` when there is nothing new.
    #[inline(always)] // one of two
    pub(crate) fn kick_prepare<R>(
        &mut self,
        decided: impl FnOnce(bool, &dyn Fn() -> u16) -> R,
    ) -> Option<R> {
        let Self {
            format,
            counts,
            kicked,
            ..
        } = self;
        let next = counts.next;
        let since = next.wrapping_sub(*kicked);
        if since == 0 {
            return None;
        }
        with_format!(format, format => {
            format.publish(counts);
            counts.published = next;
            *kicked = next;
            let wanted = format.wants_kick(counts, since);
            Some(decided(wanted, &|| format.notification(counts)))
        })
    }

    /// The next chain that came back, its payload still in its slot: for platforms that have to use
    /// the payload's memory before it may move. [`take`](Self::take) takes it.
    pub(crate) fn see(&mut self) -> Result<Option<Seen>, Fault> {
        let Self {
            format,
            slots,
            counts,
            in_order,
            ..
        } = self;
        let seen = with_format!(format, format => counts.see(format, slots, *in_order));
        seen.map_err(|trouble| self.trouble(trouble))
    }

    /// Takes the chain that was seen.
    pub(crate) fn take(&mut self, seen: Seen) -> Result<Used<T>, Fault> {
        let Self {
            format,
            slots,
            counts,
            in_order,
            ..
        } = self;
        let taken = with_format!(format, format => {
            counts.take_seen(format, slots, *in_order, seen)
        });
        taken.map_err(|fault| self.trouble(fault.into()))
    }

    /// The device's position cannot be, or the ring was broken before.
    #[cold]
    #[inline(never)]
    pub(crate) fn trouble(&mut self, trouble: Trouble) -> Fault {
        if let Some(broken) = self.fault {
            return broken.fault;
        }
        self.broken(match trouble {
            Trouble::Fault(fault) => fault,
            Trouble::Impossible(Impossible { seen }) => Fault::UsedIndex {
                seen,
                last: self.counts.seen as u16,
                outstanding: self.counts.with_device() as u16,
            },
        })
    }

    /// Asks for an interrupt at the next chain, or `delayed`; true when there is work already.
    #[inline]
    pub(crate) fn arm(&mut self, delayed: bool) -> bool {
        let raced = with_format!(&self.format, format => {
            format.arm(&self.counts, delayed) || in_batch(format, &self.counts)
        });
        raced || self.fault.is_some()
    }

    /// Asks for no interrupts.
    #[inline]
    pub(crate) fn disarm(&self) {
        with_format!(&self.format, format => format.disarm(&self.counts));
    }

    /// What the device did wrong, if it did.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault.map(|broken| broken.fault)
    }

    /// Marks the ring broken until its device is reset.
    #[cold]
    #[inline(never)]
    pub(crate) fn broken(&mut self, mut fault: Fault) -> Fault {
        let size = self.size();
        if let Fault::UsedIdNotInFlight { id } = fault {
            // Lent storage may have more slots than the ring has descriptors.
            if id >= size.into() {
                fault = Fault::UsedIdOutOfRange { id, size };
            }
        }
        log::warn!("virtqueue broken until reset: {fault}");
        self.stop(fault);
        fault
    }

    /// Stops the ring for `fault`, or for that for which it was stopped before: nothing more is
    /// submitted, made available or taken back.
    fn stop(&mut self, fault: Fault) {
        let Self {
            format,
            counts,
            kicked,
            ..
        } = self;
        if self.fault.is_some() {
            return;
        }
        self.fault = Some(Broken {
            fault,
            next: counts.next,
            completed: counts.completed,
            emptied: false,
        });
        // No room, nothing to publish or to kick for, and nothing was published that could come back.
        (counts.free, counts.chained) = (0, 0);
        (counts.next, counts.published, counts.until) = (0, 0, 0);
        *kicked = 0;
        with_format!(format, format => format.poison(counts));
    }

    /// Stops the ring for a reason that its driver has.
    #[cold]
    pub(crate) fn park(&mut self, why: Fault) {
        self.stop(why);
        if let Some(broken) = &mut self.fault {
            broken.fault = why;
        }
    }

    /// Notes that every chain has been withdrawn.
    #[cold]
    pub(crate) fn emptied(&mut self) {
        if let Some(broken) = &mut self.fault {
            broken.emptied = true;
        }
    }

    /// Whether a device should look at what it has, as far as it wants to be told: for one that may
    /// have missed it. `None` when there is nothing, or when the next kick tells it anyway.
    #[cold]
    pub(crate) fn remind(&mut self) -> Option<(bool, u16)> {
        let Self {
            format,
            counts,
            kicked,
            fault,
            ..
        } = self;
        if fault.is_some() || counts.with_device() == 0 {
            return None;
        }
        *kicked = counts.completed;
        let num = with_format!(format, format => u64::from(format.num()));
        counts.extra = num
            .wrapping_sub(counts.free.into())
            .wrapping_sub(counts.chained.into())
            .wrapping_sub(counts.outstanding());
        if counts.next == counts.published {
            self.kick_prepare(|wanted, position| (wanted, position()))
        } else {
            None
        }
    }

    /// As [`Counts::unchain`].
    #[cold]
    pub(crate) fn unchain(&mut self) {
        self.counts.unchain(&mut self.slots);
    }

    /// Takes the first `len` descriptors of a chain that was never committed out of the ring.
    #[cold]
    pub(crate) fn retract(&self, len: u16) {
        with_format!(&self.format, format => format.retract(&self.counts, len));
    }

    /// Takes the payload of a chain that was never committed out of its slot, and its `len`
    /// descriptors out of the ring.
    #[cold]
    pub(crate) fn take_back(&mut self, head: u16, len: u16) -> Option<T> {
        self.retract(len);
        let slot = self.slots.get_mut(usize::from(head));
        let payload = slot.and_then(|slot| slot.payload.take());
        if payload.is_none() {
            self.broken(Fault::Corrupt { slot: head });
        }
        payload
    }

    /// Whether a chain starts at a slot.
    pub(crate) fn is_in_flight(&self, slot: u16) -> bool {
        let slot = self.slots.get(usize::from(slot));
        slot.is_some_and(|slot| slot.payload.is_some())
    }

    /// Brings the slots of all chains into the order of their submission. For queues whose device
    /// has been reset: slots have no meaning any more then.
    pub(crate) fn line_up(&mut self) {
        self.slots
            .sort_unstable_by_key(|slot| slot.payload.number());
    }

    /// Takes the payload out of a place of the line, and whether it had a header. `None` at its
    /// end.
    pub(crate) fn withdraw(&mut self, place: usize) -> Option<Option<(T, bool)>> {
        let slot = self.slots.get_mut(place)?;
        let header = slot.has_header();
        Some(slot.payload.take().map(|payload| (payload, header)))
    }

    /// The pieces of the chain that starts, or started last, in a slot, and whether they are in its
    /// table.
    pub(crate) fn pieces(&self, slot: u16) -> (u16, bool) {
        let slot = self.slots.get(usize::from(slot));
        slot.map_or((0, false), Slot::pieces)
    }
}

impl<P: Platform, T: DmaBuf> Ring<P, T> {
    /// A segment of the payload in slot `head`, derived from where the payload stays.
    #[inline(always)] // folds away where the buffer knows its segments
    pub(crate) fn segment(&mut self, head: u16, index: usize) -> Option<Segment> {
        let slot = self.slots.get_mut(usize::from(head))?;
        slot.payload.get_mut().map(|payload| payload.segment(index))
    }
}

impl Counts {
    /// Enters the chain of `len` descriptors at `head`, the head of the free list, with running
    /// number `next`, in the ring, and cuts it off the list before `behind`.
    #[inline(always)] // the counts are in registers
    pub(crate) fn enter<F: Format>(
        &mut self,
        format: &F,
        next: u64,
        head: u32,
        len: u16,
        behind: u16,
    ) {
        format.enter(self, next, head, len);
        self.take_room(len.into());
        self.admit(next, behind);
    }
}

/// What to write back after a burst of chains of one descriptor, which do not count it as taken
/// themselves.
#[inline(always)] // folds into the burst
pub(crate) fn keep_singles<F: Format>(_: &F) -> impl Fn(&Counts, &mut Counts) + use<F> {
    |from, to| {
        let free = from.room(to.next());
        from.keep_submitted(to, free);
        F::keep_submitted(from, to);
    }
}

/// What to write back after a burst of chains.
#[inline(always)] // folds into the burst
pub(crate) fn keep_chains<F: Format>(_: &F) -> impl Fn(&Counts, &mut Counts) + use<F> {
    |from, to| {
        from.keep_submitted(to, from.free());
        from.keep_chains(to);
        F::keep_submitted(from, to);
    }
}

/// What to write back after a burst of completions, of which each does not count one descriptor
/// as free itself.
#[inline(always)] // folds into the burst
pub(crate) fn keep_taken<F: Format>(
    _: &F,
    in_order: bool,
) -> impl Fn(&Counts, &mut Counts) + use<F> {
    move |from, to| {
        let free = from.room_of_singles(to);
        from.keep_taken(to, free);
        F::keep_taken(from, to);
        if in_order {
            from.keep_taken_in_order(to);
        }
    }
}

/// The same, after chains that count all their descriptors as free.
#[inline(always)] // folds into the burst
pub(crate) fn keep_taken_chains<F: Format>(_: &F) -> impl Fn(&Counts, &mut Counts) + use<F> {
    |from, to| {
        from.keep_taken(to, from.free());
        from.keep_chains(to);
        F::keep_taken(from, to);
    }
}

/// Runs `f` with a copy of the counts that can stay in registers. When `f` ends, also by a panic,
/// `keep` writes back what it may have changed.
#[inline(always)] // or the copy is not in registers
pub(crate) fn burst<R>(
    counts: &mut Counts,
    keep: impl Fn(&Counts, &mut Counts),
    f: impl FnOnce(&mut Counts) -> R,
) -> R {
    struct WriteBack<'a, K: Fn(&Counts, &mut Counts)>(Counts, &'a mut Counts, K);
    impl<K: Fn(&Counts, &mut Counts)> Drop for WriteBack<'_, K> {
        #[inline(always)] // as above
        fn drop(&mut self) {
            (self.2)(&self.0, self.1);
        }
    }
    let mut copy = WriteBack(*counts, counts, keep);
    f(&mut copy.0)
}
