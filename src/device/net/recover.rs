//! From a device that does not work any more to one that does.

use core::fmt;

use super::{
    Driver, Parts, RECEIVE_QUEUE, Receiver, Stopped, Storage, TRANSMIT_QUEUE, Transmitter, give_all,
};
use crate::buffer::{StableBytesMut, Window};
use crate::dma::Lent;
use crate::features::Features;
use crate::init::{InitError, InitFailure};
use crate::platform::Platform;
use crate::transport::{QueueIndex, Transport};
use crate::virtqueue::Closed;

/// What came of a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovery {
    /// The features that were used before.
    pub before: Features,
    /// The features that are used now.
    pub after: Features,
    /// Frames that were transmitted again.
    pub replayed: usize,
    /// Receive buffers that the device has again.
    pub refilled: usize,
}

impl Recovery {
    /// Whether the device works with other features than before. What depends on them, such as the
    /// longest frame, is to be asked anew.
    #[must_use]
    pub fn features_changed(&self) -> bool {
        self.before != self.after
    }
}

/// A driver that was not recovered.
pub enum RecoverError<P: Platform, T: Transport, M: StableBytesMut> {
    /// The device did not confirm its reset: the driver has all its buffers, and does not work. It
    /// can be tried again.
    NotReset(Driver<P, T, M>, InitFailure),
    /// The device was reset and did not start again; all buffers were given back.
    NotStarted(InitError<T>),
}

impl<P: Platform, T: Transport, M: StableBytesMut> RecoverError<P, T, M> {
    /// What went wrong.
    #[must_use]
    pub fn why(&self) -> InitFailure {
        match self {
            Self::NotReset(_, why) | Self::NotStarted(InitError { why, .. }) => *why,
        }
    }
}

impl<P: Platform, T: Transport, M: StableBytesMut> fmt::Debug for RecoverError<P, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::NotReset(..) => "NotReset",
            Self::NotStarted(_) => "NotStarted",
        };
        f.debug_tuple(name).field(&self.why()).finish()
    }
}

impl<P: Platform, T: Transport, M: StableBytesMut> fmt::Display for RecoverError<P, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why().fmt(f)
    }
}

impl<P: Platform, T: Transport, M: StableBytesMut> core::error::Error for RecoverError<P, T, M> {}

impl<P: Platform, T: Transport, M: StableBytesMut> Driver<P, T, M> {
    /// Resets the device and starts it again, with the options that the driver has: for a device
    /// that asks for a reset ([`Control::check`](super::Control::check)), and for queues that are
    /// broken.
    ///
    /// Every frame that the device had not given back goes to `replay`, in the order in which they
    /// were transmitted: what it returns is transmitted again. The device may have sent such a frame,
    /// or not. Receive buffers go to the device again. Both queues are kicked.
    ///
    /// Memory that the new queues do not take goes to `back`, with the queue that it was in. With
    /// [lent storage](Driver::new_in) that is all of it, as there is no other place to keep it in
    /// meanwhile; nothing is replayed then.
    ///
    /// A driver that was split is [joined](Driver::join) first.
    ///
    /// # Errors
    /// [`RecoverError`]. Storage that was lent is lost when the device does not start again.
    pub fn recover(
        self,
        mut replay: impl FnMut(Window<M>) -> Option<Window<M>>,
        mut back: impl FnMut(QueueIndex, M),
    ) -> Result<(Self, Recovery), RecoverError<P, T, M>> {
        let (parts, home) = self.parts.into_parts();
        let platform = parts.control.live().platform().clone();
        let stopped = parts.stop().map_err(|(parts, why)| {
            let parts = Lent::new(parts, home);
            RecoverError::NotReset(Self { parts }, why)
        })?;
        let Stopped {
            transport,
            features: before,
            facts,
            header_len,
            receive,
            transmit,
        } = stopped;
        let mut back_rx = |done| back(RECEIVE_QUEUE, Receiver::<P, M>::memory(done));
        let (receive, lent_rx) = part_with(receive, &mut back_rx);
        let mut back_tx = |done| back(TRANSMIT_QUEUE, Transmitter::<P, M>::memory(done));
        let (mut transmit, lent_tx) = part_with(transmit, &mut back_tx);
        let options = facts.options;
        let started = match (lent_rx, lent_tx) {
            (Some(receive), Some(transmit)) => {
                let storage = Storage { receive, transmit };
                Self::new_in(platform, transport, options, storage)
            }
            #[cfg(feature = "alloc")]
            _ => Self::new(platform, transport, options),
            // Without a heap, all is lent; these parts are not of one driver.
            #[cfg(not(feature = "alloc"))]
            _ => Err(InitError {
                transport,
                why: InitFailure::Queue(crate::init::QueueError::Failed),
            }),
        };
        let mut driver = match started {
            Ok(driver) => driver,
            Err(error) => {
                give_all(receive, |done| {
                    back(RECEIVE_QUEUE, Receiver::<P, M>::memory(done));
                });
                give_all(transmit, |done| {
                    back(TRANSMIT_QUEUE, Transmitter::<P, M>::memory(done));
                });
                return Err(RecoverError::NotStarted(error));
            }
        };
        let Parts { rx, tx, control } = &mut *driver.parts;
        let mut recovery = Recovery {
            before,
            after: control.features(),
            replayed: 0,
            refilled: 0,
        };
        if recovery.features_changed() {
            let after = recovery.after;
            log::warn!(
                "virtio net: the features were {before}, and are {after} after the recovery"
            );
        }
        give_all(receive, |done| {
            match rx.give(Receiver::<P, M>::memory(done)) {
                Ok(()) => recovery.refilled = recovery.refilled.wrapping_add(1),
                Err((memory, _)) => back(RECEIVE_QUEUE, memory),
            }
        });
        rx.kick();
        while let Some(done) = transmit.as_mut().and_then(Closed::next_withdrawn) {
            let Some(frame) = replay(Transmitter::<P, M>::frame(header_len, done)) else {
                continue;
            };
            match tx.transmit(frame) {
                Ok(()) => recovery.replayed = recovery.replayed.wrapping_add(1),
                Err(rejected) => back(TRANSMIT_QUEUE, rejected.frame.into_memory()),
            }
        }
        tx.kick();
        Ok((driver, recovery))
    }
}

/// A queue that is on the heap, with its buffers, or storage that was lent, without them: they are
/// given to `back`.
#[allow(clippy::type_complexity)] // one or the other
fn part_with<P: Platform, B: crate::buffer::DmaBuf>(
    closed: Option<Closed<P, B>>,
    back: &mut impl FnMut(crate::virtqueue::Withdrawn<B>),
) -> (
    Option<Closed<P, B>>,
    Option<crate::virtqueue::QueueStorage<B>>,
) {
    match closed {
        Some(mut closed) if closed.is_lent() => {
            while let Some(done) = closed.next_withdrawn() {
                back(done);
            }
            (None, closed.into_storage())
        }
        closed => (closed, None),
    }
}
