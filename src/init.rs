//! The initialisation sequence of the specification (VIRTIO 1.4, 3.1.1) as types.
//!
//! ```text
//!            reset()          negotiate()                 queue()…, finish()
//! transport ────────▶ Reset ─────────────▶ Negotiated ─────────────────────▶ Live ──┐
//!               1        2 ACKNOWLEDGE          7 queues, configuration       8     │ reset()
//!                        3 DRIVER                                             ▼     ▼
//!                        4 features                      PendingQueue::start(&live) Quiesced
//!                        5 FEATURES_OK                          │                   │
//!                        6 … read back                          ▼                   ▼
//!                                                           Virtqueue ──────── close(&proof)
//! ```
//!
//! A step cannot be left out or taken twice, and a [`Virtqueue`] does not exist before
//! `DRIVER_OK`, so that an early kick cannot be written. When a step fails, `FAILED` is set, and
//! the error gives the transport back.
//!
//! A reset that the device confirmed is a value, [`Quiesced`]: the only key that takes buffers and
//! rings back out of a queue. It opens the queues of this device and of this initialisation only.

use core::alloc::Layout;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::buffer::DmaBuf;
use crate::dma::DmaRegion;
use crate::features::{Feature, Features, NegotiateError, Negotiation, Wish, negotiate};
use crate::platform::{DmaError, Platform, Wait};
use crate::ring::layout::{self, LayoutError, USED_ALIGN_SIZE};
use crate::ring::split::SplitRing;
use crate::ring::storage::{Slot, Storage};
use crate::shared::{CellMemory, SplitMemory};
use crate::transport::{QueueAreas, QueueIndex, Status, Transport, TransportError};
use crate::virtqueue::{Closed, MappingSlot, Parts, QueueStorage, Virtqueue};

/// One initialisation of one device, told from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(usize);

impl Epoch {
    /// `None` when they are used up, after 2^32 initialisations on the smallest machines.
    fn new() -> Option<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let step = |n: usize| n.checked_add(1);
        NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step)
            .ok()
            .map(Self)
    }
}

/// Proof that a device has been reset and has confirmed it: it uses no memory of this
/// initialisation any more (VIRTIO 1.4, 2.4).
#[derive(Debug)]
pub struct Quiesced(Epoch);

impl Quiesced {
    /// Whether queues of this epoch are covered.
    pub(crate) fn covers(&self, epoch: Epoch) -> bool {
        self.0 == epoch
    }
}

/// Why a device could not be initialised. The status is `FAILED` where there was one to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InitFailure {
    /// The status did not read 0 after a reset, for as long as the platform cared to wait.
    ResetNotConfirmed {
        /// What it read.
        status: Status,
    },
    /// The features do not do.
    Features(NegotiateError),
    /// The device did not keep `FEATURES_OK`: it cannot work with these features.
    FeaturesRefused {
        /// What was written.
        features: Features,
        /// The status that was read back.
        status: Status,
    },
    /// A queue could not be set up.
    Queue(QueueError),
    /// The transport could not do something that is not a queue's.
    Transport(TransportError),
    /// The device asks for a reset already.
    NeedsReset,
    /// Its configuration makes no sense; the text names the field.
    Configuration {
        /// The field, as the specification calls it.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// It is a device of another type than the driver's.
    WrongDevice {
        /// The driver's type id.
        expected: u16,
        /// The device's type id.
        found: u16,
    },
    /// All numbers for initialisations have been given out.
    TooManyInitialisations,
}

impl fmt::Display for InitFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ResetNotConfirmed { status } => {
                write!(
                    f,
                    "the device does not confirm its reset: status {:#x}",
                    status.bits()
                )
            }
            Self::Features(error) => error.fmt(f),
            Self::FeaturesRefused { features, status } => write!(
                f,
                "the device does not accept the features {features} (status {:#x})",
                status.bits()
            ),
            Self::Queue(error) => error.fmt(f),
            Self::Transport(error) => error.fmt(f),
            Self::NeedsReset => f.write_str("the device asks for a reset"),
            Self::Configuration { field, value } => {
                write!(
                    f,
                    "the device's configuration is unusable: {field} = {value}"
                )
            }
            Self::WrongDevice { expected, found } => {
                write!(
                    f,
                    "a device of type {found}, where the driver is for type {expected}"
                )
            }
            Self::TooManyInitialisations => f.write_str("too many initialisations"),
        }
    }
}

impl core::error::Error for InitFailure {}

impl From<QueueError> for InitFailure {
    fn from(error: QueueError) -> Self {
        Self::Queue(error)
    }
}

impl From<TransportError> for InitFailure {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

/// A failure, and the transport to try again with.
pub struct InitError<T> {
    /// The transport.
    pub transport: T,
    /// What went wrong.
    pub why: InitFailure,
}

impl<T> fmt::Debug for InitError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InitError")
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Display for InitError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl<T> core::error::Error for InitError<T> {}

/// Why a queue could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueError {
    /// The device has no such queue, or says that its size is 0.
    Unavailable {
        /// The queue.
        queue: QueueIndex,
    },
    /// The size asked for is 0.
    ZeroSize {
        /// The queue.
        queue: QueueIndex,
    },
    /// The storage that was lent is too short for a queue of even one descriptor.
    Storage {
        /// The queue.
        queue: QueueIndex,
        /// Slots lent.
        slots: usize,
        /// Mapping slots lent.
        mappings: usize,
    },
    /// The layout of the ring.
    Layout(LayoutError),
    /// No device memory.
    Memory(DmaError),
    /// The transport. The device has been told that the driver failed, and has been reset.
    Transport(TransportError),
    /// An earlier queue failed: nothing more can be set up.
    Failed,
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable { queue } => write!(f, "the device has no {queue}"),
            Self::ZeroSize { queue } => write!(f, "{queue}: a size of 0 was asked for"),
            Self::Storage {
                queue,
                slots,
                mappings,
            } => write!(
                f,
                "{queue}: {slots} slots and {mappings} mapping slots were lent, too few for any \
                 queue"
            ),
            Self::Layout(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Transport(error) => error.fmt(f),
            Self::Failed => f.write_str("an earlier queue of this device failed"),
        }
    }
}

impl core::error::Error for QueueError {}

/// Resets a device and waits for it to say so: step 1.
///
/// # Errors
/// [`InitFailure::ResetNotConfirmed`], when [`Platform::wait`] gives up.
pub fn reset<P: Platform, T: Transport>(
    mut transport: T,
    platform: &P,
) -> Result<Reset<P, T>, InitError<T>> {
    match quiesce(&mut transport, platform) {
        Ok(()) => Ok(Reset {
            transport,
            platform: platform.clone(),
        }),
        Err(why) => Err(InitError { transport, why }),
    }
}

/// Writes 0 to the status and waits until it reads 0 (VIRTIO 1.4, 2.4.2 and 4.1.4.3.2).
fn quiesce<P: Platform, T: Transport>(transport: &mut T, platform: &P) -> Result<(), InitFailure> {
    transport.set_status(Status::empty());
    let mut polls = 0u32;
    loop {
        let status = transport.status();
        if status.is_empty() {
            return Ok(());
        }
        if !platform.wait(Wait::Reset, polls) {
            log::warn!("virtio reset not confirmed: status {:#x}", status.bits());
            return Err(InitFailure::ResetNotConfirmed { status });
        }
        polls = polls.saturating_add(1);
    }
}

/// A device that has just been reset.
#[derive(Debug)]
pub struct Reset<P: Platform, T: Transport> {
    transport: T,
    platform: P,
}

impl<P: Platform, T: Transport> Reset<P, T> {
    /// The transport, to look at what the device offers.
    #[must_use]
    pub fn transport_mut(&mut self) -> &mut T {
        &mut self.transport
    }

    /// Acknowledges the device and agrees on features: steps 2 to 6, each status bit by a write of
    /// its own, `FEATURES_OK` read back.
    ///
    /// # Errors
    /// [`InitFailure::Features`] and [`InitFailure::FeaturesRefused`]; the status is `FAILED`.
    pub fn negotiate(self, wish: &Wish<'_>) -> Result<Negotiated<P, T>, InitError<T>> {
        let Self {
            mut transport,
            platform,
        } = self;
        let Some(epoch) = Epoch::new() else {
            return Err(InitError {
                transport,
                why: InitFailure::TooManyInitialisations,
            });
        };
        let mut status = Status::ACKNOWLEDGE;
        transport.set_status(status);
        status |= Status::DRIVER;
        transport.set_status(status);
        let offered = transport.device_features();
        let negotiation = match negotiate(offered, wish, platform.access()) {
            Ok(negotiation) => negotiation,
            Err(error) => {
                transport.set_status(status | Status::FAILED);
                return Err(InitError {
                    transport,
                    why: InitFailure::Features(error),
                });
            }
        };
        log::debug!(
            "virtio device {}: accepted {}, not accepted {}",
            transport.device_id().0,
            negotiation.accepted,
            negotiation.refused
        );
        transport.set_driver_features(negotiation.accepted);
        status |= Status::FEATURES_OK;
        transport.set_status(status);
        let read = transport.status();
        if !read.contains(Status::FEATURES_OK) {
            transport.set_status(status | Status::FAILED);
            let features = negotiation.accepted;
            let why = InitFailure::FeaturesRefused {
                features,
                status: read,
            };
            return Err(InitError { transport, why });
        }
        Ok(Negotiated {
            transport,
            platform,
            epoch,
            offered,
            negotiation,
            status,
            failed: None,
        })
    }
}

/// What a queue is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueConfig {
    /// Descriptors wanted, at most. The queue gets the largest power of two that neither this nor
    /// the device's maximum (nor lent storage) is below.
    pub size: u16,
    /// Bytes of a header cell per slot, for [`Virtqueue::submit_with`]; 0: none.
    pub header: u16,
    /// Bytes of a reply cell per slot; 0: none.
    pub reply: u16,
    /// Interrupt vector of the queue; `None`: none.
    pub vector: Option<u16>,
    /// Where the indices start. Only fakes can follow anything but 0: this is for tests of the
    /// wrap.
    #[cfg(feature = "test-util")]
    pub start_index: u16,
}

impl QueueConfig {
    /// A queue of at most `size` descriptors, without cells or interrupt vector.
    #[must_use]
    pub const fn new(size: u16) -> Self {
        Self {
            size,
            header: 0,
            reply: 0,
            vector: None,
            #[cfg(feature = "test-util")]
            start_index: 0,
        }
    }

    /// With cells of so many bytes for headers and replies.
    #[must_use]
    pub const fn cells(mut self, header: u16, reply: u16) -> Self {
        self.header = header;
        self.reply = reply;
        self
    }

    /// With an interrupt vector.
    #[must_use]
    pub const fn vector(mut self, vector: Option<u16>) -> Self {
        self.vector = vector;
        self
    }
}

/// A device that has accepted features, on the way to [`Live`].
#[derive(Debug)]
pub struct Negotiated<P: Platform, T: Transport> {
    transport: T,
    platform: P,
    epoch: Epoch,
    offered: Features,
    negotiation: Negotiation,
    status: Status,
    /// A queue failed; the device was told, and was or was not reset.
    failed: Option<Result<(), InitFailure>>,
}

impl<P: Platform, T: Transport> Negotiated<P, T> {
    /// The features that both sides use.
    #[must_use]
    pub fn features(&self) -> Features {
        self.negotiation.accepted
    }

    /// The features that the device offered.
    #[must_use]
    pub fn offered(&self) -> Features {
        self.offered
    }

    /// The transport, to read and write configuration.
    #[must_use]
    pub fn transport_mut(&mut self) -> &mut T {
        &mut self.transport
    }

    /// The platform.
    #[must_use]
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// Sets a queue up, its private state on the heap: part of step 7.
    ///
    /// # Errors
    /// [`QueueError`]. When it is the transport's, the device is told `FAILED` and is reset, and
    /// nothing more can be set up.
    #[cfg(feature = "alloc")]
    pub fn queue<B: DmaBuf>(
        &mut self,
        index: QueueIndex,
        config: &QueueConfig,
    ) -> Result<PendingQueue<P, B>, QueueError> {
        let size = self.queue_size(index, config.size)?;
        let slots = Storage::heap(size, Slot::new);
        let mappings = if P::DIRECT { 0 } else { size };
        let mappings = Storage::heap(mappings, MappingSlot::new);
        self.queue_of(index, size, config, slots, mappings)
    }

    /// Sets a queue up, its private state in `storage`, which may limit its size.
    ///
    /// # Errors
    /// As [`queue`](Self::queue), and [`QueueError::Storage`].
    pub fn queue_in<B: DmaBuf>(
        &mut self,
        index: QueueIndex,
        config: &QueueConfig,
        storage: QueueStorage<B>,
    ) -> Result<PendingQueue<P, B>, QueueError> {
        let QueueStorage { slots, mappings } = storage;
        let room = if P::DIRECT {
            slots.len()
        } else {
            slots.len().min(mappings.len())
        };
        let limit = room.min(usize::from(layout::MAX_QUEUE_SIZE)) as u16;
        if limit == 0 {
            let (slots, mappings) = (slots.len(), mappings.len());
            return Err(QueueError::Storage {
                queue: index,
                slots,
                mappings,
            });
        }
        let size = self.queue_size(index, config.size.min(limit))?;
        for slot in slots.iter_mut() {
            *slot = Slot::new();
        }
        for mapping in mappings.iter_mut() {
            *mapping = MappingSlot::new();
        }
        let slots = slots.get_mut(..usize::from(size)).unwrap_or_default();
        self.queue_of(
            index,
            size,
            config,
            Storage::Lent(slots),
            Storage::Lent(mappings),
        )
    }

    /// The largest power of two that neither the device nor the driver is below.
    fn queue_size(&mut self, queue: QueueIndex, wanted: u16) -> Result<u16, QueueError> {
        if self.failed.is_some() {
            return Err(QueueError::Failed);
        }
        if wanted == 0 {
            return Err(QueueError::ZeroSize { queue });
        }
        let max = self.transport.max_queue_size(queue);
        match max.min(wanted).min(layout::MAX_QUEUE_SIZE).checked_ilog2() {
            Some(log) => Ok(1 << log),
            None => Err(QueueError::Unavailable { queue }),
        }
    }

    fn queue_of<B: DmaBuf>(
        &mut self,
        index: QueueIndex,
        size: u16,
        config: &QueueConfig,
        slots: Storage<Slot<B>>,
        mappings: Storage<MappingSlot>,
    ) -> Result<PendingQueue<P, B>, QueueError> {
        let layout = layout::vring_init(size, USED_ALIGN_SIZE).map_err(QueueError::Layout)?;
        let region = self.region(layout.size(), layout.alignment())?;
        let memory = SplitMemory::new(region, size, USED_ALIGN_SIZE).map_err(QueueError::Layout)?;
        let cells = self.cells(size, config)?;
        #[cfg(feature = "test-util")]
        let start = config.start_index;
        #[cfg(not(feature = "test-util"))]
        let start = 0;
        let event_idx = self.features().has(Feature::EVENT_IDX);
        let ring = SplitRing::new(memory, slots, event_idx, start);
        let platform = self.platform.clone();
        let parts = Parts {
            ring,
            platform,
            cells,
            mappings,
            index,
            epoch: self.epoch,
        };
        match parts
            .ring
            .memory()
            .expose(&mut self.transport, index, config.vector)
        {
            Ok(doorbell) => Ok(PendingQueue(Virtqueue::new(parts, doorbell))),
            Err(error) => {
                // The device may have taken the addresses: only a reset tells.
                let outcome = self.give_up();
                if outcome.is_err() {
                    Virtqueue::leak(parts);
                }
                self.failed = Some(outcome);
                Err(QueueError::Transport(error))
            }
        }
    }

    fn region(&self, size: usize, align: usize) -> Result<DmaRegion<P>, QueueError> {
        let layout = Layout::from_size_align(size, align)
            .map_err(|_| QueueError::Memory(DmaError::OutOfMemory { size, align }))?;
        DmaRegion::alloc(&self.platform, layout).map_err(QueueError::Memory)
    }

    fn cells(&self, size: u16, config: &QueueConfig) -> Result<Option<CellMemory<P>>, QueueError> {
        let (header, reply) = (config.header, config.reply);
        if header == 0 && reply == 0 {
            return Ok(None);
        }
        let too_large = || {
            QueueError::Memory(DmaError::OutOfMemory {
                size: usize::MAX,
                align: 1,
            })
        };
        let layout = CellMemory::<P>::layout(size, header, reply).ok_or_else(too_large)?;
        let region = self.region(layout.size(), layout.align())?;
        CellMemory::new(region, size, header, reply)
            .ok_or_else(too_large)
            .map(Some)
    }

    fn give_up(&mut self) -> Result<(), InitFailure> {
        self.transport.set_status(self.status | Status::FAILED);
        quiesce(&mut self.transport, &self.platform)
    }

    /// Gives the device up: sets `FAILED`, resets it, and returns the proof that takes the queues
    /// apart that were set up, when the device confirms.
    pub fn abort(mut self) -> (T, Result<Quiesced, InitFailure>) {
        let outcome = match self.failed {
            Some(outcome) => outcome,
            None => self.give_up(),
        };
        (self.transport, outcome.map(|()| Quiesced(self.epoch)))
    }

    /// Tells the device to start: step 8.
    ///
    /// # Errors
    /// [`InitFailure::Queue`] when a queue failed, [`InitFailure::NeedsReset`] when the device met
    /// an error. It is reset then; queues that were set up are closed by the [`Aborted`]'s proof.
    pub fn finish(mut self) -> Result<Live<P, T>, Aborted<T>> {
        let mut why = InitFailure::Queue(QueueError::Failed);
        if self.failed.is_none() {
            let status = self.status | Status::DRIVER_OK;
            self.transport.set_status(status);
            if !self.transport.status().contains(Status::NEEDS_RESET) {
                let Self {
                    transport,
                    platform,
                    epoch,
                    offered,
                    negotiation,
                    ..
                } = self;
                return Ok(Live {
                    transport,
                    platform,
                    epoch,
                    offered,
                    negotiation,
                });
            }
            self.status = status;
            why = InitFailure::NeedsReset;
        }
        let (transport, proof) = self.abort();
        Err(Aborted {
            transport,
            why,
            proof,
        })
    }
}

/// An initialisation that was given up at its last step.
pub struct Aborted<T> {
    /// The transport.
    pub transport: T,
    /// What went wrong.
    pub why: InitFailure,
    /// The proof that closes the queues, when the device confirmed its reset.
    pub proof: Result<Quiesced, InitFailure>,
}

impl<T> fmt::Debug for Aborted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aborted")
            .field("why", &self.why)
            .field("proof", &self.proof)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Display for Aborted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl<T> core::error::Error for Aborted<T> {}

/// A queue that is set up, before the device is told to start. Dropping it leaks its memory, as
/// dropping a live queue does.
#[derive(Debug)]
#[must_use = "dropping it leaks the ring"]
pub struct PendingQueue<P: Platform, B: DmaBuf>(Virtqueue<P, B>);

impl<P: Platform, B: DmaBuf> PendingQueue<P, B> {
    /// Where the device finds the ring.
    #[must_use]
    pub fn areas(&self) -> QueueAreas {
        self.0.areas()
    }

    /// Queue size.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.0.size()
    }

    /// The queue, now that its device is live.
    ///
    /// # Errors
    /// The queue, when `live` is another device, or another initialisation of this one.
    pub fn start<T: Transport>(self, live: &Live<P, T>) -> Result<Virtqueue<P, B>, Self> {
        if self.0.epoch() == live.epoch {
            Ok(self.0)
        } else {
            Err(self)
        }
    }

    /// Takes the queue apart, as [`Virtqueue::close`].
    ///
    /// # Errors
    /// The queue, when the proof is of another device or of another time.
    pub fn close(self, proof: &Quiesced) -> Result<Closed<P, B>, Self> {
        self.0.close(proof).map_err(Self)
    }
}

/// A device that runs.
#[derive(Debug)]
pub struct Live<P: Platform, T: Transport> {
    transport: T,
    platform: P,
    epoch: Epoch,
    offered: Features,
    negotiation: Negotiation,
}

/// A reset that the device did not confirm: its queues cannot be taken apart.
#[derive(Debug)]
pub struct Leaked<P: Platform, T: Transport> {
    /// The device, to try again with.
    pub live: Live<P, T>,
    /// What the status read.
    pub why: InitFailure,
}

impl<P: Platform, T: Transport> fmt::Display for Leaked<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl<P: Platform + fmt::Debug, T: Transport + fmt::Debug> core::error::Error for Leaked<P, T> {}

impl<P: Platform, T: Transport> Live<P, T> {
    /// The features that both sides use.
    #[must_use]
    pub fn features(&self) -> Features {
        self.negotiation.accepted
    }

    /// The features that the device offered.
    #[must_use]
    pub fn offered(&self) -> Features {
        self.offered
    }

    /// The transport.
    #[must_use]
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// The transport, for configuration and interrupts. Writing the status is
    /// [`reset`](Self::reset)'s business.
    #[must_use]
    pub fn transport_mut(&mut self) -> &mut T {
        &mut self.transport
    }

    /// Gives the transport back, and leaves the device as it is: its queues can never be taken
    /// apart then.
    #[must_use]
    pub fn into_transport(self) -> T {
        self.transport
    }

    /// The platform.
    #[must_use]
    pub fn platform(&self) -> &P {
        &self.platform
    }

    /// Whether the device met an error from which only a reset recovers it
    /// (VIRTIO 1.4, 2.1.2).
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        self.transport.status().contains(Status::NEEDS_RESET)
    }

    /// Resets the device and waits for it to say so. The proof takes its queues apart.
    ///
    /// # Errors
    /// [`Leaked`], when [`Platform::wait`] gives up: the queues must stay as they are. Trying
    /// again is allowed.
    pub fn reset(mut self) -> Result<(T, Quiesced), Leaked<P, T>> {
        match quiesce(&mut self.transport, &self.platform) {
            Ok(()) => Ok((self.transport, Quiesced(self.epoch))),
            Err(why) => Err(Leaked { live: self, why }),
        }
    }
}
