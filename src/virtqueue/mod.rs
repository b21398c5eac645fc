//! A queue of owned buffers over a ring.
//!
//! ```text
//!            submit            publish / kick             device              next_completion
//!   caller ─────────▶ chain ───────────────────▶ device ─────────▶ used ring ────────────────▶ caller
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
//! [`close`](Virtqueue::close) after a confirmed reset, or not at all: a queue that is dropped
//! while its device may be live leaks its memory, and says so.
//!
//! The device is not believed. An id that is not in flight or an index that jumps is a [`Fault`],
//! and the queue is broken until the device is reset; a length beyond what was writable is cut to
//! it, and reported with the completion.

mod completion;
mod errors;

#[cfg(test)]
mod tests;

use core::fmt;

use zerocopy::{Immutable, IntoBytes};

use crate::buffer::DmaBuf;
use crate::dma::{self, Leaky, OnLeak};
use crate::init::{Epoch, Quiesced};
use crate::platform::{Direction, DmaError, Mapping, Platform};
use crate::ring::layout::DescriptorFlags;
use crate::ring::split::{ChainInfo, Counts, Returned, SplitRing, Used};
use crate::ring::storage::{Parked, Slot, Storage};
use crate::shared::{CellMemory, SplitMemory};
use crate::transport::{Doorbell, QueueAreas, QueueIndex};

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
    /// One per descriptor; may be empty when the platform is [`DIRECT`](Platform::DIRECT).
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
pub struct Notification(Doorbell);

impl Notification {
    /// Rings the doorbell: one store.
    #[inline]
    pub fn send(self) {
        self.0.ring();
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
    ring: SplitRing<P, B>,
    doorbell: Doorbell,
    platform: P,
    cells: Option<CellMemory<P>>,
    mappings: Storage<MappingSlot>,
    kicks: u64,
    suppressed: u64,
    overruns: u64,
    index: QueueIndex,
    epoch: Epoch,
}

impl<P: Platform, B: DmaBuf> OnLeak for Core<P, B> {
    fn on_leak(&mut self) {
        let bytes = self.ring.memory().size() + self.cells.as_ref().map_or(0, CellMemory::size);
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
    pub(crate) ring: SplitRing<P, B>,
    pub(crate) platform: P,
    pub(crate) cells: Option<CellMemory<P>>,
    pub(crate) mappings: Storage<MappingSlot>,
    pub(crate) index: QueueIndex,
    pub(crate) epoch: Epoch,
}

impl<P: Platform, B: DmaBuf> Virtqueue<P, B> {
    pub(crate) fn new(parts: Parts<P, B>, doorbell: Doorbell) -> Self {
        let Parts {
            ring,
            platform,
            cells,
            mappings,
            index,
            epoch,
        } = parts;
        let core = Core {
            ring,
            doorbell,
            platform,
            cells,
            mappings,
            kicks: 0,
            suppressed: 0,
            overruns: 0,
            index,
            epoch,
        };
        Self {
            core: Leaky::new(core),
        }
    }

    /// Leaves a queue to a device that may have taken its addresses.
    pub(crate) fn leak(parts: Parts<P, B>) {
        drop(Self::new(parts, Doorbell::function(|_, _| {}, 0, 0)));
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
        self.core.ring.memory().areas()
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
            overruns: self.core.overruns,
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
        let Core { ring, platform, .. } = &mut *self.core;
        if P::DIRECT && buf.count() == 1 && ring.free() != 0 {
            return match ring.slot_and_counts() {
                Some((memory, slot, counts)) => add_one(memory, slot, counts, platform, buf),
                None => Err(self.core.no_room(buf, 1)),
            };
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
        self.core.add(header.as_bytes(), true, buf)
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
        loop {
            let Core { ring, platform, .. } = &mut *self.core;
            // The buffer with which a run of plain ones ends, when it ends early.
            let odd = ring.burst(|memory, slots, counts| {
                while counts.free() != 0 {
                    let buf = bufs.next()?;
                    if !P::DIRECT || buf.count() != 1 {
                        return Some(Ok(buf));
                    }
                    let Some(slot) = slots.get_mut(usize::from(counts.head())) else {
                        return Some(Ok(buf));
                    };
                    if let Err(rejected) = add_one(memory, slot, counts, platform, buf) {
                        return Some(Err(rejected));
                    }
                    submitted = submitted.wrapping_add(1);
                }
                None
            });
            let outcome = match odd {
                None => return Ok(submitted),
                Some(Ok(buf)) => self.core.add(&[], false, buf),
                Some(Err(rejected)) => Err(rejected),
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
    #[inline]
    pub fn kick_prepare(&mut self) -> Option<Notification> {
        let core = &mut *self.core;
        match core.ring.kick_prepare() {
            Some(true) => {
                core.kicks = core.kicks.wrapping_add(1);
                Some(Notification(core.doorbell))
            }
            Some(false) => {
                core.suppressed = core.suppressed.wrapping_add(1);
                None
            }
            None => None,
        }
    }

    /// Publishes, and tells the device if it wants to be told: at most one doorbell store.
    #[inline]
    pub fn kick(&mut self) {
        if let Some(notification) = self.kick_prepare() {
            notification.send();
        }
    }

    /// The next buffer that came back, in the order in which the device used them.
    ///
    /// # Errors
    /// [`Fault`]: the device broke the rules. It is said again by every later call, and the
    /// buffers that are still in the queue come back from [`close`](Self::close).
    #[inline(always)]
    pub fn next_completion(&mut self) -> Result<Option<Completion<'_, B>>, Fault> {
        self.core.next()
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
        let ready = core.ring.look_again()?;
        if !P::DIRECT {
            for _ in 0..ready {
                match core.next()? {
                    Some(done) => f(done),
                    None => break,
                }
            }
            return Ok(ready as usize);
        }
        let Core {
            ring,
            cells,
            overruns,
            ..
        } = core;
        let outcome = ring.burst(|memory, slots, counts| {
            for _ in 0..ready {
                let used = counts.take(memory, slots, |_, _| {})?;
                if used.claimed > used.written {
                    *overruns = overruns.wrapping_add(1);
                }
                let cells = if used.reply {
                    cells.as_ref().map(CellMemory::view)
                } else {
                    None
                };
                f(Completion::new(used, cells));
            }
            Ok(())
        });
        match outcome {
            Ok(()) => Ok(ready as usize),
            Err(fault) => Err(core.ring.broken(fault)),
        }
    }

    /// Asks for an interrupt at the next completion. True when one is there already: poll again,
    /// an interrupt may not come.
    #[inline]
    #[must_use = "when work raced in, no interrupt may come"]
    pub fn arm(&mut self) -> bool {
        self.core.ring.arm()
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
        Ok(Closed {
            core: self.core.into_inner(),
            at: 0,
        })
    }
}

impl<P: Platform, B: DmaBuf> Core<P, B> {
    /// Moves `buf` into the slot at the head of the free list, maps it, writes descriptors along
    /// the free list, and commits the chain. Nothing private or visible changes before the last
    /// mapping has succeeded, but for descriptors that are free.
    #[inline(always)]
    fn add(&mut self, header: &[u8], cells: bool, buf: B) -> Result<Ticket, Rejected<B>> {
        let segments = buf.count();
        let (reply, extra) = match (cells, &self.cells) {
            (false, _) => (false, 0),
            (true, None) => (false, usize::from(!header.is_empty())),
            (true, Some(cells)) => {
                let reply = cells.view().reply_size() != 0;
                (
                    reply,
                    usize::from(!header.is_empty()).wrapping_add(usize::from(reply)),
                )
            }
        };
        let needed = segments.saturating_add(extra);
        if needed > usize::from(self.ring.free()) {
            return Err(self.no_room(buf, needed));
        }
        let (head, number) = (self.ring.head(), self.ring.number());
        let Some(slot) = self.ring.slots.get_mut(usize::from(head)) else {
            return Err(self.no_room(buf, needed));
        };
        slot.park(buf);
        slot.number = number;
        let laying = Laying(self, head);
        let laid = laying.0.lay(header, segments, reply, head);
        core::mem::forget(laying);
        match laid {
            Ok(chain) => Ok(Ticket::new(head, self.ring.commit(chain))),
            Err(why) => match self.ring.take_back(head) {
                Some(buf) => Err(Rejected { buf, why }),
                // The slot was filled above. Should it be empty, the ring is broken now, and the
                // next look for completions says so.
                None => Ok(Ticket::new(head, 0)),
            },
        }
    }

    /// Maps the buffer in slot `head`, and writes the descriptors of the whole chain.
    #[inline(always)]
    fn lay(
        &mut self,
        header: &[u8],
        segments: usize,
        reply: bool,
        head: u16,
    ) -> Result<ChainInfo, Reject> {
        let free = self.ring.free();
        let mut chain = ChainInfo {
            tail: head,
            behind: head,
            len: 0,
            writable: 0,
            reply,
        };
        let mut total = 0u64;
        if !header.is_empty() {
            let Some(cells) = &self.cells else {
                return Err(header_too_large(header.len(), 0));
            };
            if header.len() > usize::from(cells.view().header_size()) {
                return Err(header_too_large(header.len(), cells.view().header_size()));
            }
            let addr = cells.view().set_header(head, header);
            total = header.len() as u64;
            let last = segments == 0 && !reply;
            chain.push(
                self.ring
                    .set_descriptor(head, addr, header.len() as u32, false, last),
            );
        }
        for index in 0..segments {
            let Some(mut segment) = self.ring.segment(head, index) else {
                return Err(self.unwind(head, chain.len, Reject::Empty { index }));
            };
            let len = segment.len();
            if len.wrapping_sub(1) >= u32::MAX as usize {
                return Err(self.unwind(head, chain.len, bad_length(index, len)));
            }
            let writable = segment.direction() == Direction::Writable;
            if !writable && chain.writable != 0 {
                return Err(self.unwind(head, chain.len, Reject::Order { index }));
            }
            total = total.wrapping_add(len as u64);
            let last_segment = index.wrapping_add(1) == segments && !reply;
            loop {
                if !P::DIRECT && chain.len == free {
                    let needed = usize::from(free).wrapping_add(1);
                    return Err(self.unwind(head, chain.len, self.full(needed)));
                }
                let mapping = match dma::map(&self.platform, segment) {
                    Ok(mapping) => mapping,
                    Err(error) => return Err(self.unwind(head, chain.len, Reject::Map(error))),
                };
                let node = chain.behind;
                if P::DIRECT {
                    if mapping.len as usize != segment.len() {
                        return Err(split_mapping(segment.len(), mapping));
                    }
                } else if let Some(slot) = self.mappings.get_mut(usize::from(node)) {
                    slot.0 = Some((mapping, segment.direction()));
                }
                segment = segment.advance(mapping.len as usize);
                let last = last_segment && segment.is_empty();
                let behind =
                    self.ring
                        .set_descriptor(node, mapping.addr.0, mapping.len, writable, last);
                chain.push(behind);
                if P::DIRECT || segment.is_empty() {
                    break;
                }
            }
            if writable {
                chain.writable = chain.writable.saturating_add(len as u32);
            }
        }
        if reply {
            if !P::DIRECT && chain.len == free {
                let needed = usize::from(free).wrapping_add(1);
                return Err(self.unwind(head, chain.len, self.full(needed)));
            }
            if let Some(cells) = &self.cells {
                let addr = cells.view().reset_reply(head);
                let len = cells.view().reply_size();
                total = total.wrapping_add(u64::from(len));
                chain.writable = chain.writable.saturating_add(u32::from(len));
                chain.push(
                    self.ring
                        .set_descriptor(chain.behind, addr, len.into(), true, true),
                );
            }
        }
        // VIRTIO 1.4, 2.7.5.2: no chain of more than 2^32 bytes, which a queue of one segment
        // cannot make.
        if chain.len == 0 {
            let empty = Reject::Empty { index: 0 };
            return Err(self.ring.fault().map_or(empty, Reject::Broken));
        }
        if total > 1 << 32 {
            return Err(self.unwind(head, chain.len, Reject::TooLong { bytes: total }));
        }
        Ok(chain)
    }

    /// Why a chain of `needed` descriptors does not fit.
    #[cold]
    fn full(&self, needed: usize) -> Reject {
        match self.ring.fault() {
            Some(fault) => Reject::Broken(fault),
            None if needed > usize::from(self.ring.size()) => Reject::TooManySegments {
                needed,
                size: self.ring.size(),
            },
            None => Reject::Full {
                needed,
                free: self.ring.free(),
            },
        }
    }

    #[cold]
    #[inline(never)]
    fn no_room(&self, buf: B, needed: usize) -> Rejected<B> {
        Rejected {
            buf,
            why: self.full(needed),
        }
    }

    /// Unmaps, in reverse, the first `len` nodes of a chain that is not to be.
    #[cold]
    #[inline(never)]
    fn unwind(&mut self, head: u16, len: u16, why: Reject) -> Reject {
        if !P::DIRECT {
            for last in (0..len).rev() {
                let node = (0..last).fold(head, |node, _| self.ring.next(node));
                unmap(&self.platform, &mut self.mappings, node, 0);
            }
        }
        why
    }

    /// The next completion. Mappings end while the buffer is where it was mapped.
    #[inline(always)]
    fn next(&mut self) -> Result<Option<Completion<'_, B>>, Fault> {
        let Self {
            ring,
            platform,
            mappings,
            ..
        } = self;
        let used = ring.pop(|slots, returned| {
            if !P::DIRECT {
                unmap_chain(platform, mappings, slots, returned);
            }
        })?;
        Ok(used.map(|used| self.complete(used)))
    }

    #[inline(always)]
    fn complete(&mut self, used: Used<B>) -> Completion<'_, B> {
        if used.claimed > used.written {
            self.overrun(used.claimed, used.written);
        }
        let cells = if used.reply {
            self.cells.as_ref().map(CellMemory::view)
        } else {
            None
        };
        Completion::new(used, cells)
    }

    #[cold]
    #[inline(never)]
    fn overrun(&mut self, claimed: u32, written: u32) {
        self.overruns = self.overruns.wrapping_add(1);
        let index = self.index;
        log::debug!("{index}: the device claims {claimed} bytes where {written} were writable");
    }
}

/// Ends the mapping of a node, if it has one; returns the bytes that it may have taken.
fn unmap<P: Platform>(platform: &P, mappings: &mut [MappingSlot], node: u16, written: u32) -> u32 {
    let slot = mappings.get_mut(usize::from(node));
    match slot.and_then(|slot| slot.0.take()) {
        Some((mapping, direction)) => {
            let used = match direction {
                Direction::Writable => written.min(mapping.len),
                Direction::Readable => 0,
            };
            dma::unmap(platform, mapping, direction, used);
            used
        }
        None => 0,
    }
}

/// Unmaps a chain that the device has returned. Its buffer has not been moved yet.
fn unmap_chain<P: Platform, B>(
    platform: &P,
    mappings: &mut [MappingSlot],
    slots: &[Slot<B>],
    returned: Returned,
) {
    let mut written = returned.written;
    let mut node = returned.slot;
    for _ in 0..returned.chain {
        written = written.wrapping_sub(unmap(platform, mappings, node, written));
        let Some(slot) = slots.get(usize::from(node)) else {
            break;
        };
        node = slot.next;
    }
}

/// A chain that is being laid. Should the platform panic, its mappings end, and its buffer is
/// dropped; otherwise this is forgotten.
struct Laying<'a, P: Platform, B: DmaBuf>(&'a mut Core<P, B>, u16);

impl<P: Platform, B: DmaBuf> Drop for Laying<'_, P, B> {
    #[cold]
    fn drop(&mut self) {
        let Self(core, head) = self;
        let mut node = *head;
        for _ in 0..core.mappings.len() {
            // Of the nodes in the free list, only those of this chain have mappings.
            unmap(&core.platform, &mut core.mappings, node, 0);
            node = core.ring.next(node);
        }
        drop(core.ring.withdraw(*head));
    }
}

/// Submits a buffer of one segment on a platform that maps nothing: the slot is looked up once, and
/// one descriptor is written.
#[inline(always)] // or the slot and the counts go through memory
fn add_one<P: Platform, B: DmaBuf>(
    memory: &SplitMemory<P>,
    slot: &mut Slot<B>,
    counts: &mut Counts,
    platform: &P,
    buf: B,
) -> Result<Ticket, Rejected<B>> {
    let head = counts.head();
    let parked = Parked(slot);
    let segment = parked.0.park(buf).segment(0);
    let len = segment.len();
    let why = if len.wrapping_sub(1) < u32::MAX as usize {
        match dma::map(platform, segment) {
            Ok(mapping) if mapping.len as usize == len => {
                let writable = segment.direction() == Direction::Writable;
                let flags = if writable {
                    DescriptorFlags::WRITE
                } else {
                    DescriptorFlags::empty()
                };
                memory.set_descriptor(head.into(), mapping.addr.0, mapping.len, flags.bits(), 0);
                parked.0.number = counts.number();
                parked.0.writable = if writable { mapping.len } else { 0 };
                parked.0.tail = head;
                parked.0.chain = 1;
                let next = parked.0.next;
                core::mem::forget(parked);
                return Ok(Ticket::new(head, counts.enter(memory, 1, next)));
            }
            Ok(mapping) => split_mapping(len, mapping),
            Err(error) => Reject::Map(error),
        }
    } else {
        bad_length(0, len)
    };
    match parked.0.payload.take() {
        Some(buf) => Err(Rejected { buf, why }),
        // The buffer was parked above.
        None => Ok(Ticket::new(head, 0)),
    }
}

/// A platform that is direct, and yet maps a segment in pieces.
#[cold]
fn split_mapping(len: usize, mapping: Mapping) -> Reject {
    Reject::Map(DmaError::BadMapping {
        asked: len as u32,
        got: mapping.len,
    })
}

#[cold]
fn header_too_large(size: usize, max: u16) -> Reject {
    Reject::Header { size, max }
}

#[cold]
fn bad_length(index: usize, len: usize) -> Reject {
    if len == 0 {
        Reject::Empty { index }
    } else {
        Reject::TooLong { bytes: len as u64 }
    }
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

/// The buffers that were still in a queue when its device was reset. The ring is freed when this
/// is dropped, and so are buffers that were not taken out.
pub struct Closed<P: Platform, B: DmaBuf> {
    core: Core<P, B>,
    at: u16,
}

impl<P: Platform, B: DmaBuf> Iterator for Closed<P, B> {
    type Item = B;

    fn next(&mut self) -> Option<B> {
        while self.at < self.core.ring.size() {
            let slot = self.at;
            self.at = slot.wrapping_add(1);
            let Core {
                ring,
                platform,
                mappings,
                ..
            } = &mut self.core;
            let Some(chain) = ring.chain_at(slot) else {
                continue;
            };
            if !P::DIRECT {
                let returned = Returned {
                    slot,
                    chain,
                    written: 0,
                };
                unmap_chain(platform, mappings, &ring.slots, returned);
            }
            return ring.withdraw(slot);
        }
        None
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
