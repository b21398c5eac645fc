//! One queue of a live device is reset, and set up anew (VIRTIO 1.4, 2.6.1): `VIRTIO_F_RING_RESET`.
//!
//! ```text
//!   Virtqueue ── restart_queue ─▶ the same Virtqueue, new ring, perhaps of another size
//!       │
//!       └────── reset_queue ────▶ Closed: its buffers      QueueQuiesced ── queue ─▶ Virtqueue
//! ```
//!
//! A queue whose reset the device does not confirm is parked: nothing goes in and nothing comes out.
//! It can be tried again, and a reset of the device takes it apart as any other.

use core::fmt;

use super::{Epoch, InitFailure, Live, MakeError, Maker, QueueConfig, QueueError, QueueResetError};
use crate::buffer::DmaBuf;
use crate::features::Feature;
use crate::platform::{Platform, Wait};
use crate::transport::{QueueIndex, Transport, TransportError};
use crate::virtqueue::{Closed, Fault, QueueStorage, Virtqueue, Withdrawn};

/// Proof that a queue has been reset and that the device has confirmed it: the key to set it up
/// again.
#[derive(Debug)]
pub struct QueueQuiesced {
    index: QueueIndex,
    epoch: Epoch,
}

impl QueueQuiesced {
    /// Number of the queue.
    #[must_use]
    pub fn index(&self) -> QueueIndex {
        self.index
    }
}

/// A queue that was not set up again, and why.
#[derive(Debug)]
pub struct RestartError {
    /// The proof to try again with; `None` when the device may have taken the new ring, which is
    /// leaked then: only a reset of the device tells.
    pub proof: Option<QueueQuiesced>,
    /// Why it was not set up.
    pub why: QueueError,
}

impl fmt::Display for RestartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl core::error::Error for RestartError {}

const UNSUPPORTED: TransportError = TransportError::Unsupported {
    what: "VIRTIO_F_RING_RESET",
};

impl<P: Platform, T: Transport> Live<P, T> {
    /// Resets a queue, and sets it up again in its place, as `config` says: with another size, if
    /// you like. Buffers that had not come back go to `f`, in the order in which they were
    /// submitted, as soon as the reset is confirmed. A queue that is broken works again.
    ///
    /// Its private state stays where it is, on the heap or where it was lent, and limits the size
    /// in the latter case. A [`Notification`](crate::virtqueue::Notification) from before is not to
    /// be sent any more.
    ///
    /// # Errors
    /// - [`InitFailure::Transport`], when `VIRTIO_F_RING_RESET` was not negotiated,
    ///   [`InitFailure::Queue`], when the queue is not this device's, and
    ///   [`InitFailure::NeedsReset`], when the whole device was told to reset: it is as it was.
    /// - [`InitFailure::QueueResetNotConfirmed`], when [`Platform::wait`] gives up: the queue has
    ///   its buffers, and does not work ([`Fault::ResetUnconfirmed`]).
    /// - [`InitFailure::Queue`], when it could not be set up again: it has no buffers, and does not
    ///   work ([`Fault::Stopped`]).
    ///
    /// It can be tried again, save that only a reset of the device helps a queue of another one.
    pub fn restart_queue<B: DmaBuf>(
        &mut self,
        queue: &mut Virtqueue<P, B>,
        config: &QueueConfig,
        f: impl FnMut(Withdrawn<B>),
    ) -> Result<(), InitFailure> {
        self.stop_queue(queue)?;
        queue.empty(f);
        self.maker().remake(queue, config)?;
        if let Err(error) = queue.expose(&mut self.transport, config.vector) {
            self.settle(queue)?;
            return Err(InitFailure::Queue(QueueError::Transport(error)));
        }
        Ok(())
    }

    /// Resets a queue and waits for the device to say so: gives the buffers back that had not come
    /// back, and frees the ring. [`queue`](Self::queue) makes it anew, of another type of buffers,
    /// or in other storage.
    ///
    /// # Errors
    /// [`QueueResetError`] with the queue, as [`restart_queue`](Self::restart_queue).
    pub fn reset_queue<B: DmaBuf>(
        &mut self,
        mut queue: Virtqueue<P, B>,
    ) -> Result<(Closed<P, B>, QueueQuiesced), QueueResetError<P, B>> {
        if let Err(why) = self.stop_queue(&mut queue) {
            return Err(QueueResetError { queue, why });
        }
        self.queues = self.queues.saturating_sub(1);
        let (index, epoch) = (queue.index(), self.epoch);
        Ok((queue.take_apart(), QueueQuiesced { index, epoch }))
    }

    /// Sets a queue up again that was [reset](Self::reset_queue), its private state on the heap.
    ///
    /// # Errors
    /// [`RestartError`].
    #[cfg(feature = "alloc")]
    pub fn queue<B: DmaBuf>(
        &mut self,
        proof: QueueQuiesced,
        config: &QueueConfig,
    ) -> Result<Virtqueue<P, B>, RestartError> {
        self.queue_again(proof, |maker, index| maker.queue(index, config))
    }

    /// As [`queue`](Self::queue), its private state in `storage`.
    ///
    /// # Errors
    /// As `queue`, also with [`QueueError::Storage`].
    pub fn queue_in<B: DmaBuf>(
        &mut self,
        proof: QueueQuiesced,
        config: &QueueConfig,
        storage: QueueStorage<B>,
    ) -> Result<Virtqueue<P, B>, RestartError> {
        self.queue_again(proof, |maker, index| maker.queue_in(index, config, storage))
    }

    fn queue_again<B: DmaBuf>(
        &mut self,
        proof: QueueQuiesced,
        make: impl FnOnce(Maker<'_, P, T>, QueueIndex) -> Result<Virtqueue<P, B>, MakeError<P, B>>,
    ) -> Result<Virtqueue<P, B>, RestartError> {
        let queue = proof.index;
        if proof.epoch != self.epoch || self.resetting {
            let proof = Some(proof);
            let why = QueueError::Unavailable { queue };
            return Err(RestartError { proof, why });
        }
        let (mut failed, error) = match make(self.maker(), queue) {
            Ok(queue) => {
                self.queues = self.queues.saturating_add(1);
                return Ok(queue);
            }
            Err(MakeError::Before(why)) => {
                let proof = Some(proof);
                return Err(RestartError { proof, why });
            }
            Err(MakeError::Exposed(failed, error)) => (failed, error),
        };
        let confirmed = self.settle(&mut failed);
        let proof = confirmed.is_ok().then(|| {
            drop(failed.take_apart());
            proof
        });
        let why = QueueError::Transport(error);
        Err(RestartError { proof, why })
    }

    fn maker(&mut self) -> Maker<'_, P, T> {
        Maker {
            transport: &mut self.transport,
            platform: &self.platform,
            features: self.negotiation.accepted,
            epoch: self.epoch,
        }
    }

    /// Resets a queue and waits for the device to say so. It is parked from then on.
    fn stop_queue<B: DmaBuf>(&mut self, queue: &mut Virtqueue<P, B>) -> Result<(), InitFailure> {
        let index = queue.index();
        if queue.epoch() != self.epoch {
            let why = QueueError::Unavailable { queue: index };
            return Err(InitFailure::Queue(why));
        }
        if !self.features().has(Feature::RING_RESET) {
            return Err(InitFailure::Transport(UNSUPPORTED));
        }
        if self.resetting {
            return Err(InitFailure::NeedsReset);
        }
        match queue.fault() {
            // The device was told already, and need not be told again.
            Some(Fault::Stopped) => return Ok(()),
            Some(Fault::ResetUnconfirmed) => {}
            _ => {
                self.transport.reset_queue(index)?;
                queue.park(Fault::ResetUnconfirmed);
            }
        }
        self.await_queue_reset(queue)
    }

    /// A queue was not enabled, or only half: the device may have taken the addresses. It says that
    /// it has not, or it is told to reset the queue.
    fn settle<B: DmaBuf>(&mut self, queue: &mut Virtqueue<P, B>) -> Result<(), InitFailure> {
        let index = queue.index();
        queue.park(Fault::ResetUnconfirmed);
        if !self.transport.is_queue_reset(index) {
            self.transport.reset_queue(index)?;
        }
        self.await_queue_reset(queue)
    }

    /// Waits until the device says that a queue has been reset (VIRTIO 1.4, 2.6.1.1.2).
    fn await_queue_reset<B: DmaBuf>(
        &mut self,
        queue: &mut Virtqueue<P, B>,
    ) -> Result<(), InitFailure> {
        let index = queue.index();
        let mut polls = 0u32;
        while !self.transport.is_queue_reset(index) {
            if !self.platform.wait(Wait::QueueReset, polls) {
                log::warn!("{index}: reset not confirmed");
                return Err(InitFailure::QueueResetNotConfirmed { queue: index });
            }
            polls = polls.saturating_add(1);
        }
        queue.park(Fault::Stopped);
        Ok(())
    }
}
