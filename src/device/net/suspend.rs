//! A driver whose device rests (VIRTIO 1.4, 3.4).

use core::fmt;

use super::{Control, Driver, Facts, Parts, Receiver, ResetOnDrop, Transmitter};
use crate::buffer::StableBytesMut;
use crate::dma::{Home, Lent};
use crate::init::{self, SealedQueues, SuspendFailure, Unsuspended};
use crate::platform::Platform;
use crate::transport::Transport;

impl<P: Platform, M: StableBytesMut> SealedQueues for Receiver<P, M> {
    fn count(&self, epoch: usize) -> Option<usize> {
        self.queue.count(epoch)
    }

    fn remind(&mut self) {
        self.queue.remind();
    }
}

impl<P: Platform, M: StableBytesMut> SealedQueues for Transmitter<P, M> {
    fn count(&self, epoch: usize) -> Option<usize> {
        self.queue.count(epoch)
    }

    fn remind(&mut self) {
        self.queue.remind();
    }
}

type Resting<P, T, M> = init::Suspended<P, T, (Receiver<P, M>, Transmitter<P, M>)>;

struct SuspendedParts<P: Platform, T: Transport, M: StableBytesMut> {
    device: Resting<P, T, M>,
    facts: Facts,
}

impl<P: Platform, T: Transport, M: StableBytesMut> Home<SuspendedParts<P, T, M>> for ResetOnDrop {
    fn take_back(self, parts: SuspendedParts<P, T, M>) {
        if let Ok((_, proof, (rx, tx))) = parts.device.reset() {
            drop(rx.queue.close(&proof));
            drop(tx.queue.close(&proof));
        }
    }
}

/// A network driver whose device is suspended. Dropping it resets the device.
#[must_use = "the device does nothing until it is resumed"]
pub struct Suspended<P: Platform, T: Transport, M: StableBytesMut> {
    parts: Lent<SuspendedParts<P, T, M>, ResetOnDrop>,
}

/// A device that is not suspended, or does not run again.
pub enum SuspendError<P: Platform, T: Transport, M: StableBytesMut> {
    /// It was not told anything, and goes on.
    Running(Driver<P, T, M>, SuspendFailure),
    /// It was told, and has not followed: it may yet. Resume it, which waits again, or drop it.
    Undecided(Suspended<P, T, M>, SuspendFailure),
}

impl<P: Platform, T: Transport, M: StableBytesMut> SuspendError<P, T, M> {
    /// What went wrong.
    #[must_use]
    pub fn why(&self) -> SuspendFailure {
        match self {
            Self::Running(_, why) | Self::Undecided(_, why) => *why,
        }
    }

    fn new(
        error: init::SuspendError<P, T, (Receiver<P, M>, Transmitter<P, M>)>,
        facts: Facts,
    ) -> Self {
        let why = error.why;
        match error.state {
            Unsuspended::Running(live, queues) => {
                Self::Running(Driver::again(live, queues, facts), why)
            }
            Unsuspended::Undecided(device) => Self::Undecided(Suspended::new(device, facts), why),
        }
    }
}

impl<P: Platform, T: Transport, M: StableBytesMut> fmt::Debug for SuspendError<P, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Running(..) => "Running",
            Self::Undecided(..) => "Undecided",
        };
        f.debug_tuple(name).field(&self.why()).finish()
    }
}

impl<P: Platform, T: Transport, M: StableBytesMut> fmt::Display for SuspendError<P, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why().fmt(f)
    }
}

impl<P: Platform, T: Transport, M: StableBytesMut> core::error::Error for SuspendError<P, T, M> {}

impl<P: Platform, T: Transport, M: StableBytesMut> Driver<P, T, M> {
    /// Suspends the device, and waits for it to say so (`VIRTIO_F_SUSPEND`). Buffers that it has
    /// stay with it. A driver that was split is [joined](Driver::join) first.
    ///
    /// # Errors
    /// [`SuspendError`].
    pub fn suspend(self) -> Result<Suspended<P, T, M>, SuspendError<P, T, M>> {
        let (Parts { rx, tx, control }, ResetOnDrop) = self.parts.into_parts();
        let Control { live, facts } = control;
        match live.suspend((rx, tx)) {
            Ok(device) => Ok(Suspended::new(device, facts)),
            Err(error) => Err(SuspendError::new(error, facts)),
        }
    }

    fn again(
        live: init::Live<P, T>,
        (rx, tx): (Receiver<P, M>, Transmitter<P, M>),
        facts: Facts,
    ) -> Self {
        let control = Control { live, facts };
        Self {
            parts: Lent::new(Parts { rx, tx, control }, ResetOnDrop),
        }
    }
}

impl<P: Platform, T: Transport, M: StableBytesMut> Suspended<P, T, M> {
    fn new(device: Resting<P, T, M>, facts: Facts) -> Self {
        Self {
            parts: Lent::new(SuspendedParts { device, facts }, ResetOnDrop),
        }
    }

    /// Has the device run again, and waits for it to say so. The state of the link may have
    /// changed meanwhile.
    ///
    /// # Errors
    /// [`SuspendError::Undecided`].
    pub fn resume(self) -> Result<Driver<P, T, M>, SuspendError<P, T, M>> {
        let (SuspendedParts { device, facts }, ResetOnDrop) = self.parts.into_parts();
        match device.resume() {
            Ok((live, queues)) => Ok(Driver::again(live, queues, facts)),
            Err(error) => Err(SuspendError::new(error, facts)),
        }
    }
}

impl<P: Platform, T: Transport, M: StableBytesMut> fmt::Debug for Suspended<P, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Suspended")
            .field(&self.parts.device)
            .finish()
    }
}
