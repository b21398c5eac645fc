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
use super::storage::{REPLY, Slot, Storage};
use crate::buffer::{DmaBuf, Segment};
use crate::platform::Platform;
use crate::shared::{PackedMemory, SplitMemory};
use crate::transport::{Doorbell, QueueAreas, QueueIndex, Transport, TransportError};
use crate::virtqueue::Fault;

/// No slot.
const NONE: u16 = u16::MAX;

/// The two formats.
pub(crate) enum AnyFormat<P: Platform> {
    Split(Split<P>),
    Packed(Packed<P>),
}

/// Does the same with either format.
macro_rules! with_format {
    ($any:expr, $format:ident => $body:expr) => {
        match $any {
            $crate::ring::core::AnyFormat::Split($format) => $body,
            $crate::ring::core::AnyFormat::Packed($format) => $body,
        }
    };
}
pub(crate) use with_format;

/// Where a ring's shared memory is.
pub(crate) enum Memory<P: Platform> {
    Split(SplitMemory<P>),
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
    pub(crate) order: Order,
    /// Running number at the last kick decision.
    kicked: u64,
    start: u64,
    /// What the device did wrong, and how many chains had come back by then.
    fault: Option<(Fault, u64)>,
}

/// How chains come back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    /// As they went, and not in any order.
    in_order: bool,
    /// The last of the batch that the device returned in order, and its length.
    batch: Option<(u32, u32)>,
}

impl Order {
    /// Whether chains of a batch are still to be taken.
    #[inline]
    pub(crate) fn is_pending(&self) -> bool {
        self.in_order && self.batch.is_some()
    }
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
            event_idx,
            in_order,
            strong,
            start,
        } = options;
        let num = match &memory {
            Memory::Split(memory) => memory.mask().wrapping_add(1),
            Memory::Packed(memory) => memory.num(),
        };
        let last = if in_order { 0 } else { NONE };
        for (slot, next) in slots.iter_mut().zip(1..=num) {
            slot.next = if next == num { last } else { next };
        }
        let mut counts = Counts::new(num, start);
        let format = match memory {
            Memory::Split(memory) => AnyFormat::Split(Split {
                memory,
                event_idx,
                strong,
            }),
            Memory::Packed(memory) => {
                AnyFormat::Packed(Packed::new(memory, event_idx, strong, &mut counts))
            }
        };
        let ring = Self {
            format,
            slots,
            counts,
            order: Order {
                in_order,
                batch: None,
            },
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

    /// Whether the ring is packed.
    pub(crate) fn is_packed(&self) -> bool {
        matches!(self.format, AnyFormat::Packed(_))
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

    /// Bytes of shared memory.
    pub(crate) fn memory_size(&self) -> usize {
        match &self.format {
            AnyFormat::Split(split) => split.memory.size(),
            AnyFormat::Packed(packed) => packed.memory().size(),
        }
    }

    /// Hands the ring to a device: see [`SplitMemory::expose`].
    pub(crate) fn expose(
        &self,
        transport: &mut impl Transport,
        queue: QueueIndex,
        vector: Option<u16>,
    ) -> Result<Doorbell, TransportError> {
        match &self.format {
            AnyFormat::Split(split) => split.memory.expose(transport, queue, vector),
            AnyFormat::Packed(packed) => packed.memory().expose(transport, queue, vector),
        }
    }

    /// Where the device finds the three areas.
    pub(crate) fn areas(&self) -> QueueAreas {
        match &self.format {
            AnyFormat::Split(split) => split.memory.areas(),
            AnyFormat::Packed(packed) => packed.memory().areas(),
        }
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
            slot.tail = if chain.reply {
                chain.tail | REPLY
            } else {
                chain.tail
            };
            slot.chain = chain.len;
            slot.set_pieces(chain.pieces, chain.table);
        }
        with_format!(format, format => counts.enter(format, next, head, chain.len, chain.behind));
        next
    }

    /// Makes all committed chains visible: one release store.
    #[inline]
    pub(crate) fn publish(&mut self) {
        let Self { format, counts, .. } = self;
        with_format!(format, format => format.publish(counts));
        counts.published = counts.next;
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
            order,
            ..
        } = self;
        let seen = with_format!(format, format => match ready(format, counts, order) {
            Ok(false) => return Ok(None),
            Ok(true) => counts.see(format, slots, order).map_err(Trouble::from),
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
            order,
            ..
        } = self;
        let taken = with_format!(format, format => counts.take_seen(format, slots, order, seen));
        taken.map_err(|fault| self.trouble(fault.into()))
    }

    /// The device's position cannot be, or the ring was broken before.
    #[cold]
    #[inline(never)]
    pub(crate) fn trouble(&mut self, trouble: Trouble) -> Fault {
        if let Some((fault, _)) = self.fault {
            return fault;
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
            format.arm(&self.counts, delayed) || in_batch(format, &self.order)
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
        self.fault.map(|(fault, _)| fault)
    }

    /// Marks the ring broken until its device is reset.
    #[cold]
    #[inline(never)]
    pub(crate) fn broken(&mut self, fault: Fault) -> Fault {
        log::warn!("virtqueue broken until reset: {fault}");
        let Self {
            format,
            counts,
            order,
            ..
        } = self;
        self.fault.get_or_insert((fault, counts.completed));
        counts.free = 0;
        order.batch = None;
        with_format!(format, format => format.poison(counts));
        fault
    }

    /// Takes the payload of a chain that was never committed out of its slot, and its `len`
    /// descriptors out of the ring.
    #[cold]
    pub(crate) fn take_back(&mut self, head: u16, len: u16) -> Option<T> {
        with_format!(&self.format, format => format.retract(&self.counts, len));
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

    /// Takes a payload out of a slot, whatever the device says. For queues whose device has been
    /// reset.
    pub(crate) fn withdraw(&mut self, slot: u16) -> Option<T> {
        self.slots.get_mut(usize::from(slot))?.payload.take()
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
fn in_batch<F: Format>(_: &F, order: &Order) -> bool {
    F::BATCH_IS_ONE_LOOK && order.is_pending()
}

/// Whether a chain has come back.
#[inline(always)] // ends every loop
fn ready<F: Format>(format: &F, counts: &mut Counts, order: &Order) -> Result<bool, Impossible> {
    if in_batch(format, order) {
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
    order: &mut Order,
) -> Result<Option<Used<T>>, Trouble> {
    if !ready(format, counts, order)? {
        return Ok(None);
    }
    let taken = if order.in_order {
        counts.take_in_order(format, slots, &mut order.batch)
    } else {
        counts.take_any(format, slots)
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

/// Gives every chain that has come back to `f`; how many there were.
#[inline(always)] // or the counts are not in registers
pub(crate) fn drain<F: Format, T>(
    format: &F,
    slots: &mut [Slot<T>],
    counts: &mut Counts,
    order: &mut Order,
    mut f: impl FnMut(Used<T>),
) -> Result<usize, Trouble> {
    let most = format.glance(counts)?;
    let mut drained = 0usize;
    if order.in_order {
        let batch = &mut order.batch;
        while (drained as u64) < most
            && ((F::BATCH_IS_ONE_LOOK && batch.is_some()) || format.more(counts))
        {
            let used = counts.take_in_order(format, slots, batch)?;
            drained = drained.wrapping_add(1);
            f(used);
        }
    } else {
        while (drained as u64) < most && format.more(counts) {
            let used = counts.take_any(format, slots)?;
            drained = drained.wrapping_add(1);
            f(used);
        }
    }
    Ok(drained)
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
    ) -> Result<Used<T>, Fault> {
        let (id, claimed) = format.element(self);
        let Some(slot) = slots.get_mut(id as usize) else {
            return Err(Fault::UsedIdOutOfRange {
                id,
                size: format.num(),
            });
        };
        if !self.was_published(slot.number) {
            return Err(Fault::UsedIdNotInFlight { id });
        }
        let Some(payload) = slot.payload.take() else {
            return Err(Fault::UsedIdNotInFlight { id });
        };
        let (number, writable, chain) = (slot.number, slot.writable, slot.chain);
        let reply = slot.tail & REPLY != 0;
        let tail = slot.tail & !REPLY;
        if chain == 1 {
            slot.next = self.free_head as u16;
        } else if let Some(tail) = slots.get_mut(usize::from(tail)) {
            tail.next = self.free_head as u16;
        }
        self.free_head = id;
        self.free = self.free.wrapping_add(chain.into());
        self.completed = self.completed.wrapping_add(1);
        format.pass(self, chain);
        let (slot, written) = (id as u16, claimed.min(writable));
        Ok(Used {
            payload,
            slot,
            number,
            written,
            claimed,
            reply,
            assumed: false,
        })
    }

    /// The oldest chain, which is the one that the device names, or was skipped by it.
    #[inline]
    fn take_in_order<F: Format, T>(
        &mut self,
        format: &F,
        slots: &mut [Slot<T>],
        batch: &mut Option<(u32, u32)>,
    ) -> Result<Used<T>, Fault> {
        let (last, len) = match *batch {
            Some(batch) => batch,
            None => {
                let (id, len) = format.element(self);
                let Some(slot) = slots.get(id as usize) else {
                    return Err(Fault::UsedIdOutOfRange {
                        id,
                        size: format.num(),
                    });
                };
                if slot.payload.is_none() || !self.was_published(slot.number) {
                    return Err(Fault::UsedIdNotInFlight { id });
                }
                *batch = Some((id, len));
                (id, len)
            }
        };
        let id = self.oldest;
        let corrupt = Fault::Corrupt { slot: id as u16 };
        let slot = slots.get_mut(id as usize).ok_or(corrupt)?;
        let payload = slot.payload.take().ok_or(corrupt)?;
        let assumed = id != last;
        if !assumed {
            *batch = None;
        }
        let (number, writable, chain) = (slot.number, slot.writable, slot.chain);
        let reply = slot.tail & REPLY != 0;
        let tail = slot.tail & !REPLY;
        let claimed = if assumed { writable } else { len };
        self.oldest = slots
            .get(usize::from(tail))
            .map_or(0, |tail| tail.next.into());
        self.free = self.free.wrapping_add(chain.into());
        self.completed = self.completed.wrapping_add(1);
        format.pass(self, chain);
        let (slot, written) = (id as u16, claimed.min(writable));
        Ok(Used {
            payload,
            slot,
            number,
            written,
            claimed,
            reply,
            assumed,
        })
    }

    /// The next chain that came back, when the format says that there is one, with its payload left
    /// where it is. [`take_seen`](Self::take_seen) takes it. The device's words are read here, once.
    fn see<F: Format, T>(
        &self,
        format: &F,
        slots: &[Slot<T>],
        order: &mut Order,
    ) -> Result<Seen, Fault> {
        let (id, len) = order.batch.unwrap_or_else(|| format.element(self));
        let Some(slot) = slots.get(id as usize) else {
            return Err(Fault::UsedIdOutOfRange {
                id,
                size: format.num(),
            });
        };
        if slot.payload.is_none() || !self.was_published(slot.number) {
            return Err(Fault::UsedIdNotInFlight { id });
        }
        let mut seen = Seen {
            slot: id as u16,
            written: len.min(slot.writable),
            claimed: len,
            assumed: false,
        };
        if order.in_order {
            order.batch = Some((id, len));
            seen.assumed = id != self.oldest;
        }
        if seen.assumed {
            seen.slot = self.oldest as u16;
            let oldest = slots.get(self.oldest as usize);
            seen.claimed = oldest.map_or(0, |slot| slot.writable);
            seen.written = seen.claimed;
        }
        Ok(seen)
    }

    /// Takes the chain that was seen.
    fn take_seen<F: Format, T>(
        &mut self,
        format: &F,
        slots: &mut [Slot<T>],
        order: &mut Order,
        seen: Seen,
    ) -> Result<Used<T>, Fault> {
        let corrupt = Fault::Corrupt { slot: seen.slot };
        let slot = slots.get_mut(usize::from(seen.slot)).ok_or(corrupt)?;
        let payload = slot.payload.take().ok_or(corrupt)?;
        let (number, chain) = (slot.number, slot.chain);
        let reply = slot.tail & REPLY != 0;
        let tail = usize::from(slot.tail & !REPLY);
        if order.in_order {
            if !seen.assumed {
                order.batch = None;
            }
            self.oldest = slots.get(tail).map_or(0, |tail| tail.next.into());
        } else {
            if let Some(tail) = slots.get_mut(tail) {
                tail.next = self.free_head as u16;
            }
            self.free_head = seen.slot.into();
        }
        self.free = self.free.wrapping_add(chain.into());
        self.completed = self.completed.wrapping_add(1);
        format.pass(self, chain);
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
            reply,
            assumed,
        })
    }

    /// Whether the chain with this running number was visible to the device.
    #[inline(always)] // a comparison
    fn was_published(&self, number: u64) -> bool {
        number < self.published
    }
}

/// Runs `f` with a copy of the counts that can stay in registers. It is written back when `f`
/// ends, also by a panic.
#[inline(always)] // or the copy is not in registers
pub(crate) fn burst<R>(counts: &mut Counts, f: impl FnOnce(&mut Counts) -> R) -> R {
    struct WriteBack<'a>(Counts, &'a mut Counts);
    impl Drop for WriteBack<'_> {
        #[inline(always)] // as above
        fn drop(&mut self) {
            *self.1 = self.0;
        }
    }
    let mut copy = WriteBack(*counts, counts);
    f(&mut copy.0)
}
