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
//! a chain takes as many off its front as it has descriptors, and puts them back whole. One slot
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
use super::format::{Format, Impossible, Poll};
use super::packed::Packed;
use super::split::Split;
use super::storage::{DESCRIPTORS, HEADER, REPLY, Slot, Storage};
use crate::buffer::{DmaBuf, Segment};
use crate::platform::Platform;
use crate::shared::{PackedMemory, SplitMemory};
use crate::transport::{Doorbell, QueueAreas, QueueIndex, Transport, TransportError};
use crate::virtqueue::Fault;

/// No slot.
const NONE: u16 = u16::MAX;

/// The two formats. `--cfg vring_ring="split"` or `"packed"` leaves one: that is for measuring what
/// the choice costs (`tests/budget`), and makes queues of that format whatever was negotiated.
pub(crate) enum AnyFormat<P: Platform> {
    #[cfg(not(vring_ring = "packed"))]
    Split(Split<P>),
    #[cfg(not(vring_ring = "split"))]
    Packed(Packed<P>),
}

/// Does the same with either format.
macro_rules! with_format {
    ($any:expr, $format:ident => $body:expr) => {
        match $any {
            #[cfg(not(vring_ring = "packed"))]
            $crate::ring::core::AnyFormat::Split($format) => $body,
            #[cfg(not(vring_ring = "split"))]
            $crate::ring::core::AnyFormat::Packed($format) => $body,
        }
    };
}
pub(crate) use with_format;

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

/// A chain that came back.
pub(crate) struct Used<T> {
    pub(crate) payload: T,
    pub(crate) slot: u16,
    pub(crate) number: u64,
    /// Bytes written, by the device's word and no more than the chain holds.
    pub(crate) written: u32,
    /// Bytes written, by the device's word.
    pub(crate) claimed: u32,
    /// It had a reply cell.
    pub(crate) reply: bool,
    /// The device skipped it: the length is assumed.
    pub(crate) assumed: bool,
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
            Memory::Split(memory) => memory.mask().wrapping_add(1),
            #[cfg(not(vring_ring = "split"))]
            Memory::Packed(memory) => memory.num(),
        };
        let last = if in_order { 0 } else { NONE };
        for (slot, next) in slots.iter_mut().zip(1..=num) {
            slot.next = if next == num { last } else { next };
        }
        let mut counts = Counts::new(num, start);
        let format = match memory {
            #[cfg(not(vring_ring = "packed"))]
            Memory::Split(memory) => AnyFormat::Split(Split::new(memory, &options, &mut counts)),
            #[cfg(not(vring_ring = "split"))]
            Memory::Packed(memory) => AnyFormat::Packed(Packed::new(memory, &options, &mut counts)),
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
        self.counts.free as u16
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
        with_format!(&self.format, format => format.memory_size())
    }

    /// Hands the ring to a device: see [`SplitMemory::expose`].
    pub(crate) fn expose(
        &self,
        transport: &mut impl Transport,
        queue: QueueIndex,
        vector: Option<u16>,
    ) -> Result<Doorbell, TransportError> {
        with_format!(&self.format, format => format.expose(transport, queue, vector))
    }

    /// Where the device finds the three areas.
    pub(crate) fn areas(&self) -> QueueAreas {
        with_format!(&self.format, format => format.areas())
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
            slot.number = next;
            slot.writable = chain.writable;
            slot.tail = chain.tail;
            slot.shape = u32::from(chain.len)
                | if chain.reply { REPLY } else { 0 }
                | if chain.header { HEADER } else { 0 };
            slot.set_pieces(chain.pieces, chain.table);
        }
        with_format!(format, format => counts.enter(format, next, head, chain.len, chain.behind));
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

    /// Publishes, and says whether the device wants to be told, and what a doorbell says then;
    /// `None` when there is nothing new.
    #[inline(always)] // one of two
    pub(crate) fn kick_prepare(&mut self) -> Option<(bool, u16)> {
        let Self {
            format,
            counts,
            kicked,
            ..
        } = self;
        let since = counts.next.wrapping_sub(*kicked);
        if since == 0 {
            return None;
        }
        with_format!(format, format => {
            format.publish(counts);
            counts.published = counts.next;
            *kicked = counts.next;
            Some((format.wants_kick(counts, since), format.notification(counts)))
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
        let seen = with_format!(format, format => match ready(format, counts) {
            Ok(false) => return Ok(None),
            Ok(true) => counts.see(format, slots, *in_order).map_err(Trouble::from),
            Err(impossible) => Err(impossible.into()),
        });
        seen.map(Some).map_err(|trouble| self.trouble(trouble))
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
        counts.free = 0;
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
            .wrapping_sub(counts.outstanding());
        if counts.next == counts.published {
            self.kick_prepare()
        } else {
            None
        }
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
        self.slots.sort_unstable_by_key(|slot| slot.number);
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
        slot.payload.as_mut().map(|payload| payload.segment(index))
    }
}

/// Why no chain could be taken.
pub(crate) enum Trouble {
    /// The position that the device shows.
    Impossible(Impossible),
    /// The element that it wrote.
    Fault(Fault),
}

impl From<Impossible> for Trouble {
    fn from(impossible: Impossible) -> Self {
        Self::Impossible(impossible)
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Whether a chain has come back with the last of its batch, which was seen. Of a split ring the
/// device's index says that, and a batch that goes beyond it is a lie.
#[inline(always)] // ends every loop
fn in_batch<F: Format>(_: &F, counts: &Counts) -> bool {
    F::BATCH_IS_ONE_LOOK && counts.in_batch()
}

/// Whether a chain has come back.
#[inline(always)] // ends every loop
fn ready<F: Format>(format: &F, counts: &mut Counts) -> Result<bool, Impossible> {
    if in_batch(format, counts) {
        return Ok(true);
    }
    match format.poll(counts) {
        Poll::Ready => Ok(true),
        Poll::Empty => Ok(false),
        Poll::Impossible(impossible) => Err(impossible),
    }
}

/// The next chain that came back.
#[inline(always)] // a chain is large, and is taken apart at once
pub(crate) fn pop<F: Format, T>(
    format: &F,
    slots: &mut [Slot<T>],
    counts: &mut Counts,
    in_order: bool,
) -> Result<Option<Used<T>>, Trouble> {
    // The same twice: compilers make the most of each shape in one of the formats.
    if F::BATCH_IS_ONE_LOOK {
        return match in_order {
            true if !ready(format, counts)? => Ok(None),
            true => Ok(Some(counts.take_in_order(format, slots, 0)?)),
            false => match format.poll(counts) {
                Poll::Ready => Ok(Some(counts.take_any(format, slots, 0)?)),
                Poll::Empty => Ok(None),
                Poll::Impossible(impossible) => Err(impossible.into()),
            },
        };
    }
    if !ready(format, counts)? {
        return Ok(None);
    }
    let taken = if in_order {
        counts.take_in_order(format, slots, 0)
    } else {
        counts.take_any(format, slots, 0)
    };
    Ok(Some(taken?))
}

/// A chain that came back, and was found good: its payload is in its slot yet.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) slot: u16,
    /// Bytes written, by the device's word and no more than the chain holds.
    pub(crate) written: u32,
    claimed: u32,
    assumed: bool,
}

/// Gives every chain that has come back to `f`; how many there were. It ends however fast the
/// device is: chains are not made available meanwhile, and each is taken once.
///
/// The descriptors of chains of one are counted as free by [`Counts::keep_taken`].
#[inline(always)] // or the counts are not in registers
pub(crate) fn drain<F: Format, T>(
    format: &F,
    slots: &mut [Slot<T>],
    counts: &mut Counts,
    in_order: bool,
    mut f: impl FnMut(Used<T>),
) -> Result<usize, Trouble> {
    let start = counts.completed;
    let end = format.glance(counts)?;
    if in_order {
        while in_batch(format, counts) || format.more(counts, end) {
            f(counts.take_in_order(format, slots, 1)?);
        }
    } else {
        while format.more(counts, end) {
            f(counts.take_any(format, slots, 1)?);
        }
    }
    Ok(counts.completed.wrapping_sub(start) as usize)
}

impl Counts {
    /// Enters the chain of `len` descriptors at `head`, the head of the free list, with running
    /// number `next`, in the ring, and cuts it off the list before `behind`.
    #[inline(always)] // the counts are in registers
    pub(crate) fn enter<F: Format>(
        &mut self,
        format: &F,
        next: u64,
        head: u16,
        len: u16,
        behind: u16,
    ) {
        format.enter(self, next, head, len);
        self.free_head = behind.into();
        self.free = self.free.wrapping_sub(len.into());
        self.next = next.wrapping_add(1);
    }

    /// The one look-up of the slot is also the validation: the id is a slot's, the slot holds a
    /// payload (so that a chain starts there, and has not come back before), and the chain was
    /// published when the device reported it.
    #[inline(always)] // a chain is large, and is taken apart at once
    fn take_any<F: Format, T>(
        &mut self,
        format: &F,
        slots: &mut [Slot<T>],
        later: u32,
    ) -> Result<Used<T>, Fault> {
        let (id, len) = format.element(self);
        let Some(slot) = slots.get_mut(id as usize) else {
            return Err(out_of_range(format, id));
        };
        if !self.was_published(slot.number) {
            return Err(Fault::UsedIdNotInFlight { id });
        }
        let Some(payload) = slot.payload.take() else {
            return Err(Fault::UsedIdNotInFlight { id });
        };
        let (number, writable, shape) = (slot.number, slot.writable, slot.shape);
        let claimed = self.claim(format, len, writable);
        if shape == 1 {
            slot.next = self.free_head as u16;
            self.free_head = id;
            self.came_back(format, 1, later);
        } else {
            longer();
            let tail = usize::from(slot.tail);
            if let Some(tail) = slots.get_mut(tail) {
                tail.next = self.free_head as u16;
            }
            self.free_head = id;
            self.came_back(format, shape & DESCRIPTORS, later);
        }
        Ok(Used {
            payload,
            slot: id as u16,
            number,
            written: claimed.min(writable),
            claimed,
            reply: shape & REPLY != 0,
            assumed: false,
        })
    }

    /// The oldest chain, which is the one that the device names, or was skipped by it.
    #[inline(always)] // a chain is large, and is taken apart at once
    fn take_in_order<F: Format, T>(
        &mut self,
        format: &F,
        slots: &mut [Slot<T>],
        later: u32,
    ) -> Result<Used<T>, Fault> {
        if !self.in_batch() {
            self.begin_batch(format, slots)?;
        }
        let id = self.oldest;
        let slot = slots.get_mut(id as usize).ok_or_else(|| corrupt(id))?;
        let payload = slot.payload.take().ok_or_else(|| corrupt(id))?;
        let (number, writable, shape) = (slot.number, slot.writable, slot.shape);
        let assumed = self.is_skipped();
        let claimed = if assumed { writable } else { self.batch_len };
        if shape == 1 {
            self.oldest = slot.next.into();
            self.came_back(format, 1, later);
        } else {
            longer();
            let tail = usize::from(slot.tail);
            self.oldest = slots.get(tail).map_or(0, |tail| tail.next.into());
            self.came_back(format, shape & DESCRIPTORS, later);
        }
        Ok(Used {
            payload,
            slot: id as u16,
            number,
            written: claimed.min(writable),
            claimed,
            reply: shape & REPLY != 0,
            assumed,
        })
    }

    /// The next chain that came back, when the format says that there is one, with its payload left
    /// where it is. [`take_seen`](Self::take_seen) takes it. The device's words are read here, once.
    fn see<F: Format, T>(
        &mut self,
        format: &F,
        slots: &[Slot<T>],
        in_order: bool,
    ) -> Result<Seen, Fault> {
        if !in_order {
            let (id, len) = format.element(self);
            let slot = self.in_flight(format, slots, id)?;
            let claimed = self.claim(format, len, slot.writable);
            return Ok(Seen {
                slot: id as u16,
                written: claimed.min(slot.writable),
                claimed,
                assumed: false,
            });
        }
        if !self.in_batch() {
            self.begin_batch(format, slots)?;
        }
        let id = self.oldest;
        let slot = slots.get(id as usize).ok_or_else(|| corrupt(id))?;
        let assumed = self.is_skipped();
        let claimed = if assumed {
            slot.writable
        } else {
            self.batch_len
        };
        Ok(Seen {
            slot: id as u16,
            written: claimed.min(slot.writable),
            claimed,
            assumed,
        })
    }

    /// Takes the chain that was seen.
    fn take_seen<F: Format, T>(
        &mut self,
        format: &F,
        slots: &mut [Slot<T>],
        in_order: bool,
        seen: Seen,
    ) -> Result<Used<T>, Fault> {
        let id = u32::from(seen.slot);
        let slot = slots.get_mut(id as usize).ok_or_else(|| corrupt(id))?;
        let payload = slot.payload.take().ok_or_else(|| corrupt(id))?;
        let (number, shape) = (slot.number, slot.shape);
        let tail = usize::from(if shape == 1 { seen.slot } else { slot.tail });
        if in_order {
            self.oldest = slots.get(tail).map_or(0, |tail| tail.next.into());
        } else {
            if let Some(tail) = slots.get_mut(tail) {
                tail.next = self.free_head as u16;
            }
            self.free_head = id;
        }
        self.came_back(format, shape & DESCRIPTORS, 0);
        let Seen {
            slot,
            written,
            claimed,
            assumed,
        } = seen;
        Ok(Used {
            payload,
            slot,
            number,
            written,
            claimed,
            reply: shape & REPLY != 0,
            assumed,
        })
    }

    /// Reads which chain the device names in order: it and all before it are done.
    #[inline(always)] // a few comparisons
    fn begin_batch<F: Format, T>(&mut self, format: &F, slots: &[Slot<T>]) -> Result<(), Fault> {
        let (id, len) = format.element(self);
        let slot = self.in_flight(format, slots, id)?;
        self.until = slot.number.wrapping_add(1);
        self.batch_len = self.claim(format, len, slot.writable);
        Ok(())
    }

    /// Bytes that the device says it wrote into a chain that has room for `writable`.
    #[inline(always)] // a comparison, and it is made anyway
    fn claim<F: Format>(&self, format: &F, len: u32, writable: u32) -> u32 {
        if len > writable {
            longer();
            format.excess(self, len, writable)
        } else {
            len
        }
    }

    /// In order, whether the oldest chain is one that the device skipped.
    #[inline(always)] // a comparison
    fn is_skipped(&self) -> bool {
        self.completed.wrapping_add(1) != self.until
    }

    /// The slot that the device names, if its chain is with the device.
    #[inline(always)] // a few comparisons
    fn in_flight<'a, F: Format, T>(
        &self,
        format: &F,
        slots: &'a [Slot<T>],
        id: u32,
    ) -> Result<&'a Slot<T>, Fault> {
        match slots.get(id as usize) {
            None => Err(out_of_range(format, id)),
            Some(slot) if slot.payload.is_some() && self.was_published(slot.number) => Ok(slot),
            Some(_) => Err(Fault::UsedIdNotInFlight { id }),
        }
    }

    /// Counts a chain of so many descriptors as taken, and all but `later` of them as free.
    #[inline(always)] // the counts are in registers
    fn came_back<F: Format>(&mut self, format: &F, chain: u32, later: u32) {
        self.free = self.free.wrapping_add(chain.wrapping_sub(later));
        self.completed = self.completed.wrapping_add(1);
        format.pass(self, chain as u16);
    }

    /// Whether the chain with this running number was visible to the device.
    #[inline(always)] // a comparison
    fn was_published(&self, number: u64) -> bool {
        number < self.published
    }
}

/// Tells the compiler to lay code out for chains of one descriptor, and for honest lengths.
#[cold]
fn longer() {}

#[cold]
fn out_of_range<F: Format>(format: &F, id: u32) -> Fault {
    let size = format.num();
    Fault::UsedIdOutOfRange { id, size }
}

#[cold]
fn corrupt(id: u32) -> Fault {
    Fault::Corrupt { slot: id as u16 }
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
