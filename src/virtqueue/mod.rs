//! A queue of owned buffers over a ring.
//!
//! ```text
//!            submit            publish / kick             device              next_completion
//!   caller ─────────▶ chain ───────────────────▶ device ─────────▶ completed ────────────────▶ caller
//!     B        B moves into a slot                                            B moves out again
//! ```
//!
//! - **Submit** moves the buffer into its slot, maps it, and writes descriptors. Nothing is visible
//!   to the device yet.
//! - **Publish** makes everything submitted visible with one store; **kick** publishes, asks whether
//!   the device wants to be told, and rings the doorbell at most once.
//! - **Reap** with [`next_completion`](Virtqueue::next_completion) or
//!   [`drain`](Virtqueue::drain): the buffer comes back with the number of bytes written.
//! - **Arm** asks for an interrupt and says whether work raced in: sleep only when it says no.
//!   A new queue is disarmed, as suits a poller.
//!
//! A buffer leaves the queue on four ways only: with a completion, with a [`Rejected`], from
//! [`close`](Virtqueue::close) or
//! [`restart_queue`](crate::init::Live::restart_queue) after a confirmed reset, or not at all: a
//! queue that is dropped while its device may be live leaks its memory, and says so.
//!
//! The device is not believed. An id that is not in flight or an index that jumps is a [`Fault`],
//! and the queue is broken until it or the device is reset; a length beyond what was writable is
//! cut to it, and reported with the completion.

mod completion;
mod cut;
mod errors;
mod few;
mod submit;

#[cfg(test)]
mod tests;

use core::fmt;

use zerocopy::{Immutable, IntoBytes};

use crate::buffer::DmaBuf;
use crate::dma::{Leaky, OnLeak};
use crate::init::{Epoch, Quiesced};
use crate::platform::{Direction, Mapping, Platform};
use crate::ring::Counts;
use crate::ring::core::{FEW, Ring, with_format, with_ring};
use crate::ring::format::{Format, Formatted};
use crate::ring::storage::{Slot, Storage};
use crate::ring::take::{drain, pop};
use crate::shared::{CellMemory, TableMemory};
use crate::transport::{Doorbell, QueueAreas, QueueIndex, Transport, TransportError};
use crate::virtqueue::few::{Way, add_burst_of_few, is_few};
use crate::virtqueue::submit::{Ended, add_burst, add_one};

pub use completion::{Completion, Ticket};
pub use errors::{BurstError, Fault, Reject, Rejected};

/// Where a queue keeps the mapping of a segment, for platforms that are not
/// [`DIRECT`](Platform::DIRECT). Opaque: make an array of [`MappingSlot::new`] to lend it.
#[derive(Debug, Default)]
pub struct MappingSlot(Option<(Mapping, Direction)>);

impl MappingSlot {
    /// An empty slot.
    #[must_use]
    pub const fn new() -> Self {
        Self(None)
    }
}

/// Private state that the caller lends to a queue, for kernels without a heap. A queue has as many
/// descriptors as the shortest slice that it needs.
///
/// ```
/// use vring::buffer::{Readable, RawBuf};
/// use vring::ring::Slot;
/// use vring::virtqueue::QueueStorage;
///
/// // In a kernel: a `static` cell that hands out its content once.
/// let slots: &'static mut [Slot<RawBuf>] = Box::leak(Box::new([const { Slot::new() }; 64]));
/// let storage = QueueStorage { slots, mappings: &mut [] };
/// # let _ = storage;
/// ```
#[derive(Debug)]
pub struct QueueStorage<B: 'static> {
    /// One per descriptor.
    pub slots: &'static mut [Slot<B>],
    /// One per descriptor, or as many as [`QueueConfig::indirect`](crate::init::QueueConfig) says
    /// for each; may be empty when the platform is [`DIRECT`](Platform::DIRECT).
    pub mappings: &'static mut [MappingSlot],
}

/// What happened on a queue since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Buffers submitted.
    pub submitted: u64,
    /// Buffers that came back with a completion.
    pub completed: u64,
    /// Times that the doorbell was, or was to be, rung.
    pub kicks: u64,
    /// Times that the device had asked not to be told.
    pub suppressed_kicks: u64,
    /// Completions whose length was beyond what was writable.
    pub overruns: u64,
    /// Faults: 0, or 1 when the queue is broken.
    pub faults: u64,
}

/// A notification that is due: [`send`](Self::send) it, at best after unlocking the queue.
#[derive(Debug)]
#[must_use = "the device sleeps until it is told"]
pub struct Notification {
    doorbell: Doorbell,
    position: u16,
}

impl Notification {
    /// Rings the doorbell: one store.
    #[inline]
    pub fn send(self) {
        self.doorbell.ring(self.position);
    }
}

/// A virtqueue that takes buffers of type `B`.
///
/// See the [module](self) for how it is used. It comes from
/// [`PendingQueue::start`](crate::init::PendingQueue::start), so that none exists before the
/// device is told `DRIVER_OK`. It is `Send`, shares nothing with other queues, and never touches
/// the transport.
#[repr(C, align(128))]
pub struct Virtqueue<P: Platform, B: DmaBuf> {
    core: Leaky<Core<P, B>>,
}

struct Core<P: Platform, B: DmaBuf> {
    ring: Ring<P, B>,
    doorbell: Doorbell,
    platform: P,
    cells: Option<CellMemory<P>>,
    tables: Option<TableMemory<P>>,
    mappings: Storage<MappingSlot>,
    kicks: u64,
    suppressed: u64,
    /// Descriptors that a chain has at most, in a table or in the ring.
    longest: u16,
    index: QueueIndex,
    epoch: Epoch,
    /// Its device is done with it: mappings have ended, and slots are in line.
    withdrawn: bool,
}

impl<P: Platform, B: DmaBuf> OnLeak for Core<P, B> {
    fn on_leak(&mut self) {
        let bytes = self.ring.memory_size()
            + self.cells.as_ref().map_or(0, CellMemory::size)
            + self.tables.as_ref().map_or(0, TableMemory::size);
        let buffers = usize::from(self.ring.outstanding());
        log::warn!(
            "{}: dropped while its device may be live; {bytes} bytes of rings and {buffers} \
             buffers are leaked",
            self.index
        );
        self.platform.leaked(bytes, buffers);
    }
}

/// What [`Virtqueue::new`] is made of.
pub(crate) struct Parts<P: Platform, B: DmaBuf> {
    pub(crate) ring: Ring<P, B>,
    pub(crate) platform: P,
    pub(crate) cells: Option<CellMemory<P>>,
    pub(crate) tables: Option<TableMemory<P>>,
    pub(crate) mappings: Storage<MappingSlot>,
    pub(crate) longest: u16,
    pub(crate) index: QueueIndex,
    pub(crate) epoch: Epoch,
}

impl<P: Platform, B: DmaBuf> Virtqueue<P, B> {
    /// A queue that no device knows of yet: [`expose`](Self::expose).
    pub(crate) fn new(parts: Parts<P, B>) -> Self {
        let Parts {
            ring,
            platform,
            cells,
            tables,
            mappings,
            longest,
            index,
            epoch,
        } = parts;
        let core = Core {
            ring,
            doorbell: Doorbell::function(|_, _| {}, 0, 0),
            platform,
            cells,
            tables,
            mappings,
            kicks: 0,
            suppressed: 0,
            longest,
            index,
            epoch,
            withdrawn: false,
        };
        Self {
            core: Leaky::new(core),
        }
    }

    /// Hands the ring to a device. From here on, and also when this fails or panics, the queue is
    /// leaked rather than freed without proof of a reset.
    pub(crate) fn expose(
        &mut self,
        transport: &mut impl Transport,
        vector: Option<u16>,
    ) -> Result<(), TransportError> {
        let core = &mut *self.core;
        core.doorbell = core.ring.expose(transport, core.index, vector)?;
        Ok(())
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.core.epoch
    }

    /// Number of the queue.
    #[must_use]
    pub fn index(&self) -> QueueIndex {
        self.core.index
    }

    /// Queue size: descriptors in all.
    #[inline]
    #[must_use]
    pub fn size(&self) -> u16 {
        self.core.ring.size()
    }

    /// Free descriptors. 0 when the queue is broken.
    #[inline]
    #[must_use]
    pub fn free(&self) -> u16 {
        self.core.ring.free()
    }

    /// Buffers in the queue: submitted and not yet returned.
    #[inline]
    #[must_use]
    pub fn outstanding(&self) -> u16 {
        self.core.ring.outstanding()
    }

    /// Where the device finds the ring.
    #[must_use]
    pub fn areas(&self) -> QueueAreas {
        self.core.ring.areas()
    }

    /// What the device did wrong, when the queue is broken.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.core.ring.fault()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let (submitted, completed) = self.core.ring.totals();
        Counters {
            submitted,
            completed,
            kicks: self.core.kicks,
            suppressed_kicks: self.core.suppressed,
            overruns: self.core.ring.counts.overruns,
            faults: u64::from(self.fault().is_some()),
        }
    }

    /// Takes a buffer and writes its descriptors. The device sees nothing before
    /// [`publish`](Self::publish) or [`kick`](Self::kick).
    ///
    /// # Errors
    /// [`Rejected`] gives the buffer back and says why; the queue is as it was.
    #[inline(always)]
    pub fn submit(&mut self, buf: B) -> Result<Ticket, Rejected<B>> {
        let Core {
            ring,
            platform,
            tables,
            longest,
            ..
        } = &mut *self.core;
        if P::DIRECT && buf.count() == 1 && ring.counts.free() != 0 {
            let Ring {
                format,
                slots,
                counts,
                ..
            } = ring;
            if let Some(slot) = slots.get_mut(counts.head_index()) {
                return with_format!(format, format => {
                    add_one(slot, counts, platform, buf, |counts, head, piece| {
                        format.describe(counts, head, head, 0, piece, 0);
                        format.enter(counts, counts.next(), head, 1);
                        counts.take_room(1);
                    })
                });
            }
        }
        if P::DIRECT
            && is_few(buf.count())
            && buf.count() <= usize::from(*longest)
            && buf.count() <= ring.counts.free() as usize
        {
            let Ring {
                format,
                slots,
                counts,
                in_order,
                ..
            } = ring;
            return with_format!(format, format => {
                let way = Way {
                    format,
                    platform,
                    tables: tables.as_ref(),
                    in_order: *in_order,
                    held: format.holds_next(counts),
                };
                way.add::<false, _>(slots, counts, buf)
            });
        }
        self.core.add(&[], false, buf)
    }

    /// Takes a buffer with a header in front, which is copied into the slot's cell, and the
    /// slot's reply cell behind, filled with ones (the sizes of both were declared when the queue
    /// was made; a queue without reply cells adds none).
    ///
    /// # Errors
    /// [`Rejected`], as [`submit`](Self::submit); [`Reject::Header`] when the header is larger
    /// than the cell.
    #[inline(always)]
    pub fn submit_with<H: IntoBytes + Immutable + ?Sized>(
        &mut self,
        header: &H,
        buf: B,
    ) -> Result<Ticket, Rejected<B>> {
        let header = header.as_bytes();
        let Core {
            ring,
            platform,
            tables,
            cells,
            longest,
            ..
        } = &mut *self.core;
        if P::DIRECT
            && buf.count() == 1
            && let Some(cells) = cells
            && header.len() <= usize::from(cells.view().header_size())
            && *longest >= 3
            && ring.counts.free() >= 3
            && !(header.is_empty() && cells.view().reply_size() == 0)
        {
            let Ring {
                format,
                slots,
                counts,
                in_order,
                ..
            } = ring;
            return with_format!(format, format => {
                let (tables, in_order) = (tables.as_ref(), *in_order);
                let held = format.holds_next(counts);
                let way = Way { format, platform, tables, in_order, held };
                way.add_with(slots, counts, cells, header, buf)
            });
        }
        self.core.add(header, true, buf)
    }

    /// Takes a buffer of one segment, whose first `at` bytes are a descriptor of their own, as legacy
    /// devices without `VIRTIO_F_ANY_LAYOUT` want headers to be (VIRTIO 1.4, 2.7.4.3).
    ///
    /// # Errors
    /// [`Rejected`], as [`submit`](Self::submit); [`Reject::Cut`] when the first bytes are not one
    /// piece for the device, and [`Reject::Empty`] when a piece has no bytes.
    pub(crate) fn submit_cut(&mut self, at: usize, buf: B) -> Result<Ticket, Rejected<B>> {
        self.core.add_cut(at, buf)
    }

    /// Takes buffers from `bufs` while there is room for one more descriptor and an item to take.
    /// Returns how many were taken. Nothing is taken from the iterator that is not submitted,
    /// but for the one that an error gives back.
    ///
    /// # Errors
    /// [`BurstError`]: how many were submitted before one was rejected, and that one.
    #[inline(always)]
    pub fn submit_burst(
        &mut self,
        bufs: &mut impl Iterator<Item = B>,
    ) -> Result<usize, BurstError<B>> {
        let mut submitted = 0usize;
        let mut first = None;
        loop {
            let Core {
                ring,
                platform,
                tables,
                longest,
                ..
            } = &mut *self.core;
            let Ring {
                format,
                slots,
                counts,
                in_order,
                ..
            } = ring;
            // Where each fits into the ring.
            let few = P::DIRECT && usize::from(*longest) >= FEW;
            let tables = tables.as_ref();
            let before = counts.next();
            let ended = with_ring!(format, ring => if *in_order {
                burst_of::<true, _, _, _>(ring, slots, counts, platform, tables, few, first, bufs)
            } else {
                burst_of::<false, _, _, _>(ring, slots, counts, platform, tables, few, first, bufs)
            });
            first = None;
            submitted = submitted.wrapping_add(ring.counts.next().wrapping_sub(before) as usize);
            let outcome = match ended {
                Ended::Over => return Ok(submitted),
                Ended::Full => {
                    // What is free are chains that are free as a whole, if anything.
                    if ring.free() == 0 {
                        return Ok(submitted);
                    }
                    let Some(buf) = bufs.next() else {
                        return Ok(submitted);
                    };
                    if few && ring.counts.has_chain(buf.count()) {
                        first = Some(buf);
                        continue;
                    }
                    self.submit(buf)
                }
                Ended::Odd(buf) => self.submit(buf),
                Ended::Rejected(rejected) => Err(rejected),
            };
            match outcome {
                Ok(_) => submitted = submitted.wrapping_add(1),
                Err(rejected) => {
                    return Err(BurstError {
                        submitted,
                        rejected,
                    });
                }
            }
        }
    }

    /// Makes everything submitted visible to the device: one release store. Enough when the device
    /// is known to poll; otherwise [`kick`](Self::kick).
    #[inline]
    pub fn publish(&mut self) {
        self.core.ring.publish();
    }

    /// Publishes, and returns the notification that is due, if the device wants one. It may be sent
    /// after the queue is unlocked, and must be sent.
    #[inline(always)]
    pub fn kick_prepare(&mut self) -> Option<Notification> {
        let core = &mut *self.core;
        let position = core
            .ring
            .kick_prepare(|wanted, position| wanted.then(position));
        match position? {
            Some(position) => {
                core.kicks = core.kicks.wrapping_add(1);
                Some(Notification {
                    doorbell: core.doorbell,
                    position,
                })
            }
            None => {
                core.suppressed = core.suppressed.wrapping_add(1);
                None
            }
        }
    }

    /// Publishes, and tells the device if it wants to be told: at most one doorbell store.
    #[inline(always)]
    pub fn kick(&mut self) {
        let Core {
            ring,
            doorbell,
            kicks,
            suppressed,
            ..
        } = &mut *self.core;
        ring.kick_prepare(|wanted, position| {
            if wanted {
                *kicks = kicks.wrapping_add(1);
                doorbell.ring_at(position);
            } else {
                *suppressed = suppressed.wrapping_add(1);
            }
        });
    }

    /// The next buffer that came back, in the order in which the device used them.
    ///
    /// # Errors
    /// [`Fault`]: the device broke the rules. It is said again by every later call, and the
    /// buffers that are still in the queue come back from [`close`](Self::close).
    #[inline(always)]
    pub fn next_completion(&mut self) -> Result<Option<Completion<'_, B>>, Fault> {
        let core = &mut *self.core;
        if !P::DIRECT {
            return core.unmap_next();
        }
        let Core { ring, cells, .. } = core;
        let Ring {
            format,
            slots,
            counts,
            in_order,
            ..
        } = ring;
        let trouble = with_format!(format, format => match pop(format, slots, counts, in_order) {
            Ok(None) => return Ok(None),
            Ok(Some(used)) => {
                let cells = if used.reply { cells.as_ref() } else { None };
                return Ok(Some(Completion::new(used, cells.map(CellMemory::view))));
            }
            Err(trouble) => trouble,
        });
        Err(core.ring.trouble(trouble))
    }

    /// Gives every buffer that has come back to `f`, and returns how many. It reads the device's
    /// index once, so that it ends however fast the device is.
    ///
    /// # Errors
    /// [`Fault`], as [`next_completion`](Self::next_completion); what came back before it was
    /// given to `f`.
    #[inline(always)]
    pub fn drain(&mut self, mut f: impl FnMut(Completion<'_, B>)) -> Result<usize, Fault> {
        let core = &mut *self.core;
        if !P::DIRECT {
            return core.drain_and_unmap(f);
        }
        let Core { ring, cells, .. } = core;
        let Ring {
            format,
            slots,
            counts,
            in_order,
            ..
        } = ring;
        let drained = with_ring!(format, ring => {
            let cells = cells.as_ref();
            drain(ring, slots, counts, *in_order, move |used| {
                let cells = cells.filter(|_| used.reply);
                f(Completion::new(used, cells.map(CellMemory::view)));
            })
        });
        drained.map_err(|trouble| core.ring.trouble(trouble))
    }

    /// Asks for an interrupt at the next completion. True when one is there already: poll again,
    /// an interrupt may not come.
    #[inline]
    #[must_use = "when work raced in, no interrupt may come"]
    pub fn arm(&mut self) -> bool {
        self.core.ring.arm(false)
    }

    /// Asks for an interrupt when about three quarters of what is with the device has come back:
    /// for buffers that are in no hurry, such as transmitted frames. Without
    /// `VIRTIO_F_EVENT_IDX` it is the same as [`arm`](Self::arm).
    #[inline]
    #[must_use = "when work raced in, no interrupt may come"]
    pub fn arm_delayed(&mut self) -> bool {
        self.core.ring.arm(true)
    }

    /// Asks for no interrupts. One may come all the same.
    #[inline]
    pub fn disarm(&mut self) {
        self.core.ring.disarm();
    }

    /// Takes the queue apart after its device was reset: returns the buffers that had not come
    /// back, and frees the ring once the iterator is dropped.
    ///
    /// # Errors
    /// The queue, when the proof is of another device or of another time.
    pub fn close(self, proof: &Quiesced) -> Result<Closed<P, B>, Self> {
        if !proof.covers(self.core.epoch) {
            return Err(self);
        }
        Ok(self.take_apart())
    }

    /// Takes the queue apart: the device has confirmed that it uses it no more.
    pub(crate) fn take_apart(self) -> Closed<P, B> {
        let mut core = self.core.into_inner();
        core.withdraw_all();
        Closed { core, at: 0 }
    }

    /// Stops the queue, for a reason that its driver has: nothing more goes in, is made available
    /// or comes back, and the device is not told of anything.
    pub(crate) fn park(&mut self, why: Fault) {
        self.core.ring.park(why);
    }

    /// Gives all buffers to `f`: the device has confirmed that it uses the queue no more, which is
    /// [stopped](Fault::Stopped) by now.
    pub(crate) fn empty(&mut self, mut f: impl FnMut(Withdrawn<B>)) {
        self.core.withdraw_all();
        let mut at = 0usize;
        while let Some(place) = self.core.ring.withdraw(at) {
            at = at.wrapping_add(1);
            if let Some((buf, header)) = place {
                f(Withdrawn { buf, header });
            }
        }
        self.core.ring.emptied();
    }

    /// Takes the private state that was lent out of a queue that is empty; `None` when it is on the
    /// heap.
    pub(crate) fn take_storage(&mut self) -> Option<QueueStorage<B>> {
        self.core.take_storage()
    }

    /// Room for buffers and mappings, and whether it was lent.
    pub(crate) fn lent(&self) -> Option<(usize, usize)> {
        match &self.core.ring.slots {
            #[cfg(feature = "alloc")]
            Storage::Heap(_) => None,
            Storage::Lent(slots) => Some((slots.len(), self.core.mappings.len())),
        }
    }

    /// Tells the device of what it has, if it wants to be told: it may have missed it.
    pub(crate) fn remind(&mut self) {
        let core = &mut *self.core;
        if let Some((true, position)) = core.ring.remind() {
            core.kicks = core.kicks.wrapping_add(1);
            core.doorbell.ring(position);
        }
    }
}

impl<P: Platform, B: DmaBuf> Core<P, B> {
    /// As [`Virtqueue::drain`], on a platform that maps.
    fn drain_and_unmap(&mut self, mut f: impl FnMut(Completion<'_, B>)) -> Result<usize, Fault> {
        let Ring {
            format,
            counts,
            in_order,
            ..
        } = &mut self.ring;
        let most = match with_format!(format, format => format.glance(counts, *in_order)) {
            Ok(end) => counts.until(end),
            Err(impossible) => return Err(self.ring.trouble(impossible.into())),
        };
        for drained in 0..most {
            match self.unmap_next()? {
                Some(done) => f(done),
                None => return Ok(drained),
            }
        }
        Ok(most)
    }

    /// The next chain that came back, unmapped before its buffer leaves the slot: pointers to the
    /// buffer's memory were derived where it is, and moving a box or an exclusive reference ends
    /// what they may do.
    fn unmap_next(&mut self) -> Result<Option<Completion<'_, B>>, Fault> {
        let Some(seen) = self.ring.see()? else {
            return Ok(None);
        };
        self.unmap_chain(seen.slot, seen.written);
        let used = self.ring.take(seen)?;
        let cells = self.cells.as_ref().filter(|_| used.reply);
        Ok(Some(Completion::new(used, cells.map(CellMemory::view))))
    }

    /// Ends all mappings, and lines the buffers up in the order of their submission.
    fn withdraw_all(&mut self) {
        if core::mem::replace(&mut self.withdrawn, true) {
            return;
        }
        for slot in 0..self.ring.size() {
            if !P::DIRECT && self.ring.is_in_flight(slot) {
                self.unmap_chain(slot, 0);
            }
        }
        self.ring.line_up();
    }

    fn take_storage(&mut self) -> Option<QueueStorage<B>> {
        let slots = self.ring.slots.take_lent()?;
        let mappings = self.mappings.take_lent().unwrap_or_default();
        Some(QueueStorage { slots, mappings })
    }
}

/// Submits buffers of one segment, and then those of [few](is_few), while there is room; `first`, of
/// few, before all others. Returns what ended it.
#[inline(always)] // two calls
#[allow(clippy::too_many_arguments)] // they are the parts of a queue
fn burst_of<const IN_ORDER: bool, R: Formatted, P: Platform, B: DmaBuf>(
    ring: &R,
    slots: &mut [Slot<B>],
    counts: &mut Counts,
    platform: &P,
    tables: Option<&TableMemory<P>>,
    few: bool,
    first: Option<B>,
    bufs: &mut impl Iterator<Item = B>,
) -> Ended<B> {
    let mut buf = match first {
        Some(buf) => buf,
        None => match add_burst::<IN_ORDER, _, _, _>(ring, slots, counts, platform, bufs) {
            Ended::Odd(buf) if few && is_few(buf.count()) => buf,
            ended => return ended,
        },
    };
    if counts.has_chain(buf.count()) {
        // In order there are none.
        match add_burst_of_few::<true, false, _, _, _>(
            ring, slots, counts, platform, tables, buf, bufs,
        ) {
            Ended::Odd(odd) if is_few(odd.count()) => buf = odd,
            ended => return ended,
        }
    }
    add_burst_of_few::<false, IN_ORDER, _, _, _>(ring, slots, counts, platform, tables, buf, bufs)
}

impl<P: Platform, B: DmaBuf> fmt::Debug for Virtqueue<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Virtqueue")
            .field("index", &self.index().0)
            .field("size", &self.size())
            .field("free", &self.free())
            .field("outstanding", &self.outstanding())
            .field("areas", &self.areas())
            .field("fault", &self.fault())
            .field("counters", &self.counters())
            .finish()
    }
}

/// A buffer that had not come back when its queue was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Withdrawn<B> {
    /// The buffer.
    pub buf: B,
    /// It was submitted with a header in front, in the slot's cell.
    pub header: bool,
}

/// The buffers that were still in a queue when it, or its device, was reset, in the order in which
/// they were submitted. The ring is freed when this is dropped, and so are buffers that were not
/// taken out.
pub struct Closed<P: Platform, B: DmaBuf> {
    core: Core<P, B>,
    at: usize,
}

impl<P: Platform, B: DmaBuf> Closed<P, B> {
    /// The next buffer, and how it was submitted.
    pub fn next_withdrawn(&mut self) -> Option<Withdrawn<B>> {
        while let Some(place) = self.core.ring.withdraw(self.at) {
            self.at = self.at.wrapping_add(1);
            if let Some((buf, header)) = place {
                return Some(Withdrawn { buf, header });
            }
        }
        None
    }

    /// Whether private state was lent to the queue.
    pub(crate) fn is_lent(&self) -> bool {
        matches!(self.core.ring.slots, Storage::Lent(_))
    }

    /// The private state that was lent to the queue, to be lent again; `None` when it was on the
    /// heap. Buffers that were not taken out are dropped.
    #[must_use]
    pub fn into_storage(mut self) -> Option<QueueStorage<B>> {
        self.by_ref().for_each(drop);
        self.core.take_storage()
    }
}

impl<P: Platform, B: DmaBuf> Iterator for Closed<P, B> {
    type Item = B;

    fn next(&mut self) -> Option<B> {
        self.next_withdrawn().map(|withdrawn| withdrawn.buf)
    }
}

impl<P: Platform, B: DmaBuf> Drop for Closed<P, B> {
    fn drop(&mut self) {
        for buf in &mut *self {
            drop(buf);
        }
    }
}

impl<P: Platform, B: DmaBuf> fmt::Debug for Closed<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Closed")
            .field("index", &self.core.index.0)
            .finish_non_exhaustive()
    }
}
