//! The device's side of one split virtqueue.
//!
//! ```text
//!            refresh                pop                push               publish
//!  avail.idx ───────▶ pending ────────────▶ held ────────────▶ used ring ─────────▶ used.idx
//!            checks each chain              reads and writes    checks that nothing changed
//! ```

mod chain;
mod expose;
mod forge;
mod notify;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU8, Ordering};

use super::bus::{Bus, BusFault};
use super::memory::Words;
use super::violation::{Violation, Violations};
use crate::platform::{Direction, DmaAddr};
use crate::transport::QueueAreas;

use chain::Record;
pub use chain::{Chain, Segment};
use notify::Notify;

/// Offset of `idx` in the available and in the used ring; `flags` is at 0, entries begin at 4.
const IDX: usize = 2;
const RING: usize = 4;

/// What driver and device have agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SplitOptions {
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_idx: bool,
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub indirect: bool,
    /// `VIRTIO_F_IN_ORDER`.
    pub in_order: bool,
    /// The value of both indices at the start. 0 on a real device; close to 65536 it makes the
    /// indices wrap soon. Anything but 0 is written into the rings when the device is made.
    pub start: u16,
}

/// The device's side of one split virtqueue: it checks every rule that the driver has to keep, and
/// returns buffers in the order and with the lengths that the test likes.
///
/// It runs by steps in the test, or in a thread of its own. What it finds goes to its
/// [`Violations`].
pub struct SplitDevice {
    bus: Bus,
    log: Violations,
    options: SplitOptions,
    size: u16,
    desc: Words,
    avail: Words,
    used: Words,
    /// Available index up to which chains have been looked at.
    seen: u16,
    /// Used elements written so far, published or not.
    written: u16,
    /// Chains seen and not popped.
    pending: VecDeque<Chain>,
    /// What must not change: all chains, seen and not returned, by head.
    records: BTreeMap<u16, Record>,
    /// Which chain each descriptor belongs to.
    owner: Vec<Option<u16>>,
    notify: Notify,
    /// The device has lied where nobody can tell which buffers the driver took back: it touches
    /// no leased buffer any more.
    tainted: bool,
    /// How the device that it was taken from stops it.
    leash: Option<Leash>,
    halted: bool,
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

impl SplitDevice {
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
        options: SplitOptions,
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
        options: SplitOptions,
        log: &Violations,
    ) -> Result<Self, Violation> {
        if !size.is_power_of_two() {
            let what = format!("a split queue of {size} descriptors");
            return Err(Violation { id: "bug-8", what });
        }
        let n = usize::from(size);
        let area = |name, addr: DmaAddr, len, align| {
            if !addr.0.is_multiple_of(align) {
                let what = format!("{name} at {addr}, not aligned to {align}");
                return Err(Violation { id: "SP-001", what });
            }
            let lost = |fault| Violation {
                id: "bug-7",
                what: format!("{name}: {fault}"),
            };
            bus.words(addr, len).map_err(lost)
        };
        let desc = area("the descriptor table", areas.desc, 16 * n, 16)?;
        let avail = area("the available ring", areas.driver, RING + 2 * n + 2, 2)?;
        let used = area("the used ring", areas.device, RING + 8 * n + 2, 4)?;

        let flags = used.load_u16(0, Ordering::Relaxed);
        if flags != 0 {
            log.report(
                "SP-017",
                format!("used.flags is {flags} before the device started"),
            );
        }
        let idx = used.load_u16(IDX, Ordering::Relaxed);
        if idx != 0 {
            log.report(
                "bug-25",
                format!("used.idx is {idx} before the device started"),
            );
        }
        if options.start != 0 {
            avail.store_u16(IDX, options.start, Ordering::Relaxed);
            used.store_u16(IDX, options.start, Ordering::Relaxed);
            used.store_u16(RING + 8 * n, options.start, Ordering::Relaxed);
        }
        Ok(Self {
            bus: bus.clone(),
            log: log.clone(),
            options,
            size,
            desc,
            avail,
            used,
            seen: options.start,
            written: options.start,
            pending: VecDeque::new(),
            records: BTreeMap::new(),
            owner: alloc::vec![None; n],
            notify: Notify::new(options.start),
            tainted: false,
            leash: None,
            halted: false,
        })
    }

    /// The queue size.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// What was agreed on.
    #[must_use]
    pub fn options(&self) -> SplitOptions {
        self.options
    }

    /// Where the violations go.
    #[must_use]
    pub fn violations(&self) -> &Violations {
        &self.log
    }

    /// Checks that the driver violated nothing so far.
    ///
    /// # Panics
    /// With the violations.
    pub fn assert_clean(&self) {
        self.log.assert_clean();
    }

    /// Takes the next available buffer.
    pub fn pop(&mut self) -> Option<Chain> {
        if self.is_halted() {
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
                self.bus.lent_read(segment.addr, &mut bytes[from..])?;
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
                self.bus.lent_write(segment.addr, now)?;
                written += now.len() as u32;
                bytes = later;
            }
        }
        Ok(written)
    }

    /// Puts the chain into the used ring with the length `len`, true or not. The driver sees it
    /// after [`publish`](Self::publish).
    ///
    /// # Panics
    /// When the device does not have this chain: it was returned already.
    pub fn push(&mut self, chain: Chain, len: u32) {
        if self.halted {
            return;
        }
        let head = chain.head;
        let Some(record) = self.records.remove(&head) else {
            panic!("the device does not have the chain at {head}");
        };
        if let Some(index) = record.changed(&self.desc) {
            let what = format!("descriptor {index} of the chain at {head} changed while exposed");
            self.log.report("LC-008", what);
        }
        for (index, _) in record.direct {
            self.owner[usize::from(index)] = None;
        }
        for segment in &chain.segments {
            self.bus.end_lease(segment.addr);
        }
        self.put(u32::from(head), len);
    }

    /// Makes what was pushed visible to the driver. An interrupt may be due:
    /// [`should_interrupt`](Self::should_interrupt).
    pub fn publish(&mut self) {
        if self.halted {
            return;
        }
        self.used.store_u16(IDX, self.written, Ordering::Release);
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

    /// Whether the driver's memory is still there.
    pub(super) fn is_live(&self) -> bool {
        self.desc.is_live() && self.avail.is_live() && self.used.is_live()
    }

    /// A leased buffer may be touched while its queue exists and nothing was forged.
    fn may_touch(&self, addr: DmaAddr) -> Result<(), BusFault> {
        if self.halted {
            return Err(BusFault::Halted { addr });
        }
        match self.bus.is_direct() && (self.tainted || !self.is_live()) {
            true => Err(BusFault::Direct { addr }),
            false => Ok(()),
        }
    }

    fn put(&mut self, id: u32, len: u32) {
        let offset = RING + 8 * usize::from(self.written % self.size);
        self.used.store_u32(offset, id, Ordering::Relaxed);
        self.used.store_u32(offset + 4, len, Ordering::Relaxed);
        self.written = self.written.wrapping_add(1);
    }
}

impl Drop for SplitDevice {
    fn drop(&mut self) {
        self.halt();
    }
}

impl fmt::Debug for SplitDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SplitDevice")
            .field("size", &self.size)
            .field("options", &self.options)
            .field("seen", &self.seen)
            .field("written", &self.written)
            .field("pending", &self.pending.len())
            .field("outstanding", &self.records.len())
            .finish()
    }
}
