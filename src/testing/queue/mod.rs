//! The device's side of one virtqueue, of either format.
//!
//! ```text
//!             refresh                pop                push              publish
//!  available ─────────▶ pending ────────────▶ held ────────────▶ used ─────────────▶ seen by the
//!             checks each chain              reads and writes    checks that nothing changed  driver
//! ```
//!
//! What is the same for both formats is here; [`split`](super::split) and
//! [`packed`](super::packed) implement [`Side`]: what a ring looks like, and its rules.

mod chain;
mod forge;
mod notify;
mod side;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};

use super::bus::{Bus, BusFault};
use super::packed::Packed;
use super::split::Split;
use super::violation::{Violation, Violations};
use crate::features::{Feature, Features};
use crate::platform::{Direction, DmaAddr};
use crate::transport::QueueAreas;

pub use chain::{Chain, Segment};
pub(super) use chain::{INDIRECT, Ids, NEXT, Raw, Record, Table, WRITE};
use notify::Tally;
pub(super) use side::{Fresh, Side, View};

/// What driver and device have agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueOptions {
    /// `VIRTIO_F_RING_PACKED`.
    pub packed: bool,
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_idx: bool,
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub indirect: bool,
    /// `VIRTIO_F_IN_ORDER`.
    pub in_order: bool,
    /// Running number of the first chain of a split ring, of the first descriptor of a packed one.
    /// 0 on a real device; close to 65536 it makes the indices of a split ring wrap soon, and
    /// anything puts the positions of a packed ring there. The ring is made to look so when the
    /// device is made: a split ring's indices, the flags of a packed ring's descriptors.
    pub start: u16,
    /// Segments that the device takes in one chain, beside the queue size; 0: any number.
    pub most_segments: u16,
    /// Bytes of the header in front that is to be a descriptor of its own, with others behind, and
    /// the statement that says so, as on legacy devices without `VIRTIO_F_ANY_LAYOUT`.
    pub header: Option<(u16, &'static str)>,
}

impl QueueOptions {
    /// What these features say.
    #[must_use]
    pub fn negotiated(features: Features) -> Self {
        Self {
            packed: features.has(Feature::RING_PACKED),
            event_idx: features.has(Feature::EVENT_IDX),
            indirect: features.has(Feature::INDIRECT_DESC),
            in_order: features.has(Feature::IN_ORDER),
            ..Self::default()
        }
    }
}

/// The device's side of one virtqueue, split or packed: it checks every rule that the driver has to
/// keep, and returns buffers in the order and with the lengths that the test likes.
///
/// It runs by steps in the test, or in a thread of its own. What it finds goes to its
/// [`Violations`].
pub struct QueueDevice {
    view: View,
    side: Box<dyn Side + Send>,
    /// Chains seen and not popped.
    pending: VecDeque<Chain>,
    /// What must not change: all chains, seen and not returned, by id.
    records: BTreeMap<u16, Record>,
    /// Chains that became available, and that were returned.
    seen: u64,
    returned: u64,
    tally: Tally,
    /// How the device that it was taken from stops it.
    leash: Option<Leash>,
    halted: bool,
    /// Up to where buffers were available when the driver asked the device to suspend itself.
    frozen: Option<u64>,
    /// The device is suspended: it takes no buffers.
    paused: bool,
}

/// Stops a queue that runs in a thread of its own.
#[derive(Clone, Debug, Default)]
pub(super) struct Leash(Arc<AtomicU8>);

impl Leash {
    const STOP: u8 = 1;
    const STOPPED: u8 = 2;

    /// Asks the queue to stop; true when it has.
    pub(super) fn stop(&self) -> bool {
        let order = Ordering::AcqRel;
        let _ = self
            .0
            .compare_exchange(0, Self::STOP, order, Ordering::Acquire);
        self.0.load(Ordering::Acquire) == Self::STOPPED
    }
}

impl QueueDevice {
    /// The device's side of a queue that the driver has just enabled. `log` gets the violations;
    /// `Violations::new()` panics at the first.
    ///
    /// # Panics
    /// With the [`Violation`], when there is no queue at these addresses.
    #[must_use]
    pub fn new(
        bus: &Bus,
        size: u16,
        areas: &QueueAreas,
        options: QueueOptions,
        log: &Violations,
    ) -> Self {
        match Self::try_new(bus, size, areas, options, log) {
            Ok(device) => device,
            Err(violation) => panic!("the driver violated {violation}"),
        }
    }

    /// As [`new`](Self::new).
    ///
    /// # Errors
    /// The [`Violation`], when there is no queue at these addresses.
    pub fn try_new(
        bus: &Bus,
        size: u16,
        areas: &QueueAreas,
        options: QueueOptions,
        log: &Violations,
    ) -> Result<Self, Violation> {
        let view = View {
            bus: bus.clone(),
            log: log.clone(),
            options,
            size,
            tainted: false,
        };
        let side: Box<dyn Side + Send> = match options.packed {
            true => Box::new(Packed::new(&view, areas)?),
            false => Box::new(Split::new(&view, areas)?),
        };
        Ok(Self {
            tally: Tally::new(&*side),
            view,
            side,
            pending: VecDeque::new(),
            records: BTreeMap::new(),
            seen: 0,
            returned: 0,
            leash: None,
            halted: false,
            frozen: None,
            paused: false,
        })
    }

    /// The queue size.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.view.size
    }

    /// What was agreed on.
    #[must_use]
    pub fn options(&self) -> QueueOptions {
        self.view.options
    }

    /// Where the violations go.
    #[must_use]
    pub fn violations(&self) -> &Violations {
        &self.view.log
    }

    /// Checks that the driver violated nothing so far.
    ///
    /// # Panics
    /// With the violations.
    pub fn assert_clean(&self) {
        self.view.log.assert_clean();
    }

    /// Looks for newly available buffers and checks them. Returns how many wait to be popped.
    pub fn refresh(&mut self) -> usize {
        if self.is_halted() || self.paused {
            return 0;
        }
        for Fresh { chain, mut record } in self.side.look(&self.view, self.records.len()) {
            let id = chain.head;
            record.number = self.seen;
            record.segments.clone_from(&chain.segments);
            self.seen += 1;
            if self.records.insert(id, record).is_some() {
                let what = format!("id {id} is that of another buffer that the device has");
                self.view.log.report("bug-23", what);
                self.pending.retain(|pending| pending.head != id);
            }
            self.pending.push_back(chain);
        }
        self.pending.len()
    }

    /// Takes the next available buffer.
    pub fn pop(&mut self) -> Option<Chain> {
        if self.is_halted() || self.paused {
            return None;
        }
        if self.pending.is_empty() {
            self.refresh();
        }
        self.pending.pop_front()
    }

    /// Chains that the driver has made available and the device has not returned.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.records.len()
    }

    /// All bytes of the chain that the device may read.
    ///
    /// # Panics
    /// With the [`BusFault`], where the memory is not the device's to read.
    #[must_use]
    pub fn read(&self, chain: &Chain) -> Vec<u8> {
        self.try_read(chain)
            .unwrap_or_else(|fault| panic!("device read: {fault}"))
    }

    /// Fills the chain's writable segments from the front. Returns the bytes written: all, or as
    /// many as fit.
    ///
    /// # Panics
    /// With the [`BusFault`], where the memory is not the device's to write.
    pub fn write(&self, chain: &Chain, bytes: &[u8]) -> u32 {
        self.try_write(chain, bytes)
            .unwrap_or_else(|fault| panic!("device write: {fault}"))
    }

    /// As [`read`](Self::read).
    ///
    /// # Errors
    /// The [`BusFault`], where the memory is not the device's to read.
    pub fn try_read(&self, chain: &Chain) -> Result<Vec<u8>, BusFault> {
        let mut bytes = Vec::new();
        for segment in &chain.segments {
            if segment.direction == Direction::Readable {
                self.may_touch(segment.addr)?;
                let from = bytes.len();
                bytes.resize(from + segment.len as usize, 0);
                self.view.bus.lent_read(segment.addr, &mut bytes[from..])?;
            }
        }
        Ok(bytes)
    }

    /// As [`write`](Self::write).
    ///
    /// # Errors
    /// The [`BusFault`], where the memory is not the device's to write.
    pub fn try_write(&self, chain: &Chain, mut bytes: &[u8]) -> Result<u32, BusFault> {
        let mut written = 0;
        for segment in &chain.segments {
            if segment.direction == Direction::Writable {
                self.may_touch(segment.addr)?;
                let (now, later) = bytes.split_at(bytes.len().min(segment.len as usize));
                self.view.bus.lent_write(segment.addr, now)?;
                written += now.len() as u32;
                bytes = later;
            }
        }
        Ok(written)
    }

    /// Marks the chain used, with the length `len`, true or not. The driver sees it after
    /// [`publish`](Self::publish).
    ///
    /// # Panics
    /// When the device does not have this chain: it was returned already; or under
    /// `VIRTIO_F_IN_ORDER` when there is an older one.
    pub fn push(&mut self, chain: Chain, len: u32) {
        self.push_batch([chain], len);
    }

    /// Marks chains used by one used element, as a device may under `VIRTIO_F_IN_ORDER`: it names
    /// the last of them, whose length is `len`, and nothing is said of the others.
    ///
    /// # Panics
    /// As [`push`](Self::push), and when there are several chains without `VIRTIO_F_IN_ORDER`.
    pub fn push_batch(&mut self, chains: impl IntoIterator<Item = Chain>, len: u32) {
        if self.halted {
            return;
        }
        let (mut id, mut count, mut descriptors) = (0, 0, 0);
        for chain in chains {
            id = chain.head;
            count += 1;
            descriptors += self.take_back(&chain);
        }
        let in_order = self.view.options.in_order;
        assert!(count <= 1 || in_order, "a batch, and not in order");
        if count != 0 {
            self.side.put(id.into(), len, count, descriptors);
        }
    }

    /// Gives a chain up; how many descriptors of the ring it has.
    fn take_back(&mut self, chain: &Chain) -> u16 {
        let head = chain.head;
        let Some(record) = self.records.remove(&head) else {
            // A device that overwrites descriptors may find an id twice.
            if self.view.tainted {
                return chain.descriptors;
            }
            panic!("the device does not have the chain at {head}");
        };
        assert!(
            !self.view.options.in_order || self.view.tainted || record.number == self.returned,
            "in order: the chain at {head} is not the oldest"
        );
        self.returned += 1;
        self.judge(&record, head);
        self.side.release(&record);
        for segment in &record.segments {
            self.view.bus.end_lease(segment.addr);
        }
        record.descriptors
    }

    /// What must hold as long as the device has a chain.
    fn judge(&self, record: &Record, head: u16) {
        if self.view.tainted {
            return;
        }
        if let Some(index) = record.changed(self.side.table()) {
            let what = format!("descriptor {index} of the chain at {head} changed while exposed");
            self.view.log.report("LC-008", what);
        }
        for segment in &record.segments {
            if let Err(fault @ BusFault::Freed { .. }) =
                self.view
                    .bus
                    .check(segment.addr, segment.len as usize, segment.direction)
            {
                let what = format!("the chain at {head} was withdrawn while exposed: {fault}");
                self.view.log.report("LC-009", what);
            }
        }
    }

    /// Makes what was pushed visible to the driver. An interrupt may be due:
    /// [`should_interrupt`](Self::should_interrupt).
    pub fn publish(&mut self) {
        if self.halted {
            return;
        }
        self.side.publish(&self.view);
    }

    /// Returns one chain: pushes, publishes. True when the driver wants an interrupt for it.
    pub fn complete(&mut self, chain: Chain, len: u32) -> bool {
        self.push(chain, len);
        self.publish();
        self.should_interrupt()
    }

    /// Serves all available buffers: `device` gets each chain and says how many bytes it wrote.
    /// Returns how many were served. Interrupts are left to the caller.
    pub fn serve(&mut self, mut device: impl FnMut(&Self, &Chain) -> u32) -> usize {
        let mut served = 0;
        loop {
            while let Some(chain) = self.pop() {
                let len = device(self, &chain);
                self.push(chain, len);
                served += 1;
            }
            if !self.rearm() {
                break;
            }
        }
        if served != 0 {
            self.publish();
        }
        served
    }

    /// Serves all available buffers by copying what is to be read into what is to be written.
    pub fn echo(&mut self) -> usize {
        self.serve(|queue, chain| queue.write(chain, &queue.read(chain)))
    }

    /// Whether the device was reset while this queue was taken out of it
    /// ([`FakeDevice::take_queue`](super::FakeDevice::take_queue)). Asking lets the reset go on:
    /// from then on the queue touches no memory, and what is pushed goes nowhere.
    pub fn is_halted(&mut self) -> bool {
        let asked = |leash: &Leash| leash.0.load(Ordering::Acquire) != 0;
        if !self.halted && self.leash.as_ref().is_some_and(asked) {
            self.halt();
        }
        self.halted
    }

    pub(super) fn leash(&mut self) -> Leash {
        self.leash.get_or_insert_default().clone()
    }

    fn halt(&mut self) {
        self.halted = true;
        self.pending.clear();
        self.records.clear();
        if let Some(leash) = &self.leash {
            leash.0.store(Leash::STOPPED, Ordering::Release);
        }
    }

    /// A reset is about to be confirmed: until now the driver had to leave everything alone.
    /// `id` is the statement that says so.
    pub(super) fn judge_reset(&mut self, id: &'static str) {
        if self.view.tainted || self.is_halted() {
            return;
        }
        if !self.side.is_live() {
            let what = "the ring was freed before its reset was confirmed".into();
            self.view.log.report(id, what);
            return;
        }
        self.side.check(&self.view);
        let records = core::mem::take(&mut self.records);
        for (&head, record) in &records {
            self.judge(record, head);
        }
    }

    /// The device is asked to suspend itself: no more buffers may become available.
    pub(super) fn freeze(&mut self) {
        self.frozen = Some(self.side.available());
    }

    /// The device suspends itself, or goes on.
    pub(super) fn pause(&mut self, paused: bool) {
        self.paused = paused;
        if !paused {
            self.frozen = None;
        }
    }

    /// Checks that none became available meanwhile; `id` is the statement that says so.
    pub(super) fn judge_frozen(&mut self, id: &'static str) {
        let Some(frozen) = self.frozen else { return };
        let now = self.side.available();
        if now != frozen && !self.view.tainted {
            let what = format!("buffers became available while suspended: {frozen} to {now}");
            self.view.log.report(id, what);
            self.frozen = Some(now);
        }
    }

    pub(super) fn is_tainted(&self) -> bool {
        self.view.tainted
    }

    /// A leased buffer may be touched while its queue exists and nothing was forged.
    fn may_touch(&self, addr: DmaAddr) -> Result<(), BusFault> {
        if self.halted {
            return Err(BusFault::Halted { addr });
        }
        match self.view.bus.is_direct() && (self.view.tainted || !self.side.is_live()) {
            true => Err(BusFault::Direct { addr }),
            false => Ok(()),
        }
    }
}

impl Drop for QueueDevice {
    fn drop(&mut self) {
        self.halt();
    }
}

impl fmt::Debug for QueueDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueDevice")
            .field("size", &self.view.size)
            .field("options", &self.view.options)
            .field("seen", &self.seen)
            .field("returned", &self.returned)
            .field("pending", &self.pending.len())
            .field("outstanding", &self.records.len())
            .finish()
    }
}
