//! The initialization sequence of the specification (VIRTIO 1.4, 3.1.1) as types.
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
//! A [legacy](Transport::is_legacy) device goes the same way without steps 5 and 6, which it does
//! not know (3.1.2), when its driver [takes](Wish::legacy) such devices. Its rings are laid out as it
//! is told of them, in one block, and have the size that it says, where it fixes one.
//!
//! A live device lets a queue be [reset on its own](Live::restart_queue), and itself be
//! [suspended](Live::suspend), where it offers that.
//!
//! A reset that the device confirmed is a value, [`Quiesced`]: the only key that takes buffers and
//! rings back out of a queue. It opens the queues of this device and of this initialization only.

mod controls;
mod errors;
mod queue;
mod queue_reset;
mod suspend;

#[cfg(all(test, feature = "test-util", not(vring_loom)))]
mod tests;

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::buffer::DmaBuf;
use crate::features::{Features, Negotiation, Wish, negotiate_legacy, negotiate_over};
use crate::platform::{Platform, Wait};
use crate::transport::config::check_byte_order;
use crate::transport::{QueueAreas, QueueIndex, Status, Transport};
use crate::virtqueue::{Closed, QueueStorage, Virtqueue};

pub use controls::Controls;
pub use errors::{Aborted, InitError, InitFailure, Leaked, QueueError, QueueResetError};
pub use queue::QueueConfig;
use queue::{MakeError, Maker};
pub use queue_reset::{QueueQuiesced, RestartError};
pub(crate) use suspend::sealed::Sealed as SealedQueues;
pub use suspend::{Queues, SuspendError, SuspendFailure, Suspended, Unsuspended};

/// One initialization of one device, told from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Epoch(usize);

impl Epoch {
    /// `None` when they are used up, after 2^32 initializations on the smallest machines.
    pub(crate) fn new() -> Option<Self> {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let mut epoch = NEXT.load(Ordering::Relaxed);
        // `fetch_update` would do, but newer compilers than the oldest that will do rename it.
        loop {
            let next = epoch.checked_add(1)?;
            match NEXT.compare_exchange_weak(epoch, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(Self(epoch)),
                Err(seen) => epoch = seen,
            }
        }
    }
}

/// Proof that a device has been reset and has confirmed it: it uses no memory of this
/// initialization any more (VIRTIO 1.4, 2.4).
#[derive(Debug)]
pub struct Quiesced(Epoch);

impl Quiesced {
    /// Whether queues of this epoch are covered.
    pub(crate) fn covers(&self, epoch: Epoch) -> bool {
        self.0 == epoch
    }
}

/// Resets a device and waits for it to say so: step 1.
///
/// # Errors
/// [`InitFailure::ResetNotConfirmed`], when [`Platform::wait`] gives up;
/// [`TransportError::LegacyByteOrder`](crate::transport::TransportError::LegacyByteOrder) for a
/// legacy device on a big-endian target, which is left as it is.
pub fn reset<P: Platform, T: Transport>(
    mut transport: T,
    platform: &P,
) -> Result<Reset<P, T>, InitError<T>> {
    let order = check_byte_order(transport.is_legacy(), cfg!(target_endian = "big"));
    if let Err(error) = order {
        let why = InitFailure::Transport(error);
        return Err(InitError { transport, why });
    }
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
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// The transport, for configuration and interrupts: see [`Controls`].
    #[must_use]
    pub fn transport_mut(&mut self) -> Controls<'_> {
        Controls(&mut self.transport)
    }

    /// Acknowledges the device and agrees on features: steps 2 to 6, each status bit by a write of
    /// its own, `FEATURES_OK` read back. A legacy device is told its features, and that is all.
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
                why: InitFailure::TooManyInitializations,
            });
        };
        let mut status = Status::ACKNOWLEDGE;
        transport.set_status(status);
        status |= Status::DRIVER;
        transport.set_status(status);
        let legacy = transport.is_legacy();
        let mut offered = transport.device_features();
        let negotiated = if legacy {
            offered = offered & Features::LEGACY;
            negotiate_legacy(offered, wish, platform.access())
        } else {
            let transport_has = transport.transport_features();
            negotiate_over(offered, wish, platform.access(), transport_has)
        };
        let negotiation = match negotiated {
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
        if !legacy {
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
        }
        Ok(Negotiated {
            transport,
            platform,
            epoch,
            offered,
            negotiation,
            status,
            failed: None,
            queues: 0,
        })
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
    /// Queues that were set up.
    queues: usize,
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

    /// The features that the device offered and that are not used.
    #[must_use]
    pub fn refused(&self) -> Features {
        self.negotiation.refused
    }

    /// The transport, to read configuration.
    #[must_use]
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// The transport, to write configuration: see [`Live::transport_mut`].
    #[must_use]
    pub fn transport_mut(&mut self) -> Controls<'_> {
        Controls(&mut self.transport)
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
        self.queue_by(|maker| maker.queue(index, config))
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
        self.queue_by(|maker| maker.queue_in(index, config, storage))
    }

    fn queue_by<B: DmaBuf>(
        &mut self,
        make: impl FnOnce(Maker<'_, P, T>) -> Result<Virtqueue<P, B>, MakeError<P, B>>,
    ) -> Result<PendingQueue<P, B>, QueueError> {
        if self.failed.is_some() {
            return Err(QueueError::Failed);
        }
        let maker = Maker {
            transport: &mut self.transport,
            platform: &self.platform,
            features: self.negotiation.accepted,
            epoch: self.epoch,
        };
        match make(maker) {
            Ok(queue) => {
                self.queues = self.queues.wrapping_add(1);
                Ok(PendingQueue(queue))
            }
            Err(MakeError::Before(why)) => Err(why),
            Err(MakeError::Exposed(queue, error)) => {
                // The device may have taken the addresses: only a reset tells. Without its word the
                // queue is leaked, which it says itself.
                let outcome = self.give_up();
                if outcome.is_ok() {
                    drop(queue.take_apart());
                }
                self.failed = Some(outcome);
                Err(QueueError::Transport(error))
            }
        }
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
                    queues,
                    ..
                } = self;
                return Ok(Live {
                    transport,
                    platform,
                    epoch,
                    offered,
                    negotiation,
                    queues,
                    resetting: false,
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
    /// The queue, when `live` is another device, or another initialization of this one, or was told
    /// to reset.
    pub fn start<T: Transport>(self, live: &Live<P, T>) -> Result<Virtqueue<P, B>, Self> {
        if self.0.epoch() == live.epoch && !live.resetting {
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
    /// Queues that are set up.
    queues: usize,
    /// It was told to reset, and has not confirmed it: nothing but that can be asked of it.
    resetting: bool,
}

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

    /// The features that the device offered and that are not used.
    #[must_use]
    pub fn refused(&self) -> Features {
        self.negotiation.refused
    }

    /// The transport.
    #[must_use]
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// The transport, for configuration and interrupts. Writing the status is
    /// [`reset`](Self::reset)'s business.
    ///
    /// Its type is hidden, so that it cannot be exchanged for another device's: the reset of that
    /// one would prove nothing about the queues of this one.
    ///
    /// ```compile_fail
    /// # fn exchange<P: vring::Platform, T: vring::transport::Transport>(
    /// #     one: &mut vring::init::Live<P, T>,
    /// #     other: &mut vring::init::Live<P, T>,
    /// # ) {
    /// core::mem::swap(&mut *one.transport_mut(), &mut *other.transport_mut());
    /// # }
    /// ```
    #[must_use]
    pub fn transport_mut(&mut self) -> Controls<'_> {
        Controls(&mut self.transport)
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
    /// (VIRTIO 1.4, 2.1.2), or was told to reset and has not confirmed it.
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        self.resetting || self.transport.status().contains(Status::NEEDS_RESET)
    }

    /// Whether the device works.
    ///
    /// # Errors
    /// [`InitFailure::NeedsReset`]: what it has of buffers may never come back. Ask when the
    /// interrupt for configuration changes comes, or when a queue makes no progress (VIRTIO 1.4,
    /// 2.1.2).
    pub fn check(&self) -> Result<(), InitFailure> {
        if self.needs_reset() {
            Err(InitFailure::NeedsReset)
        } else {
            Ok(())
        }
    }

    /// Resets the device and waits for it to say so. The proof takes its queues apart.
    ///
    /// # Errors
    /// [`Leaked`], when [`Platform::wait`] gives up: the queues must stay as they are. Trying
    /// again is allowed, and nothing else.
    pub fn reset(mut self) -> Result<(T, Quiesced), Leaked<P, T>> {
        match quiesce(&mut self.transport, &self.platform) {
            Ok(()) => Ok((self.transport, Quiesced(self.epoch))),
            Err(why) => {
                self.resetting = true;
                Err(Leaked { live: self, why })
            }
        }
    }
}
