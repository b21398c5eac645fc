//! A live device is suspended, and resumed (VIRTIO 1.4, 3.4): `VIRTIO_F_SUSPEND`.
//!
//! ```text
//!            suspend(queues)                    resume()
//!   Live ───────────────────▶ Suspended ─────────────────────▶ Live, and the queues
//!              SUSPEND          │ has the queues    DRIVER_OK
//!              … read back      │                   … read back
//!                               └──▶ reset() ─▶ transport, proof, and the queues
//! ```
//!
//! While a device is suspended no buffer may be made available, no doorbell rung and no
//! configuration written. So the queues are handed in, all of them, and come back when the device
//! runs again; and [`Live`], which writes configuration, is gone.
//!
//! What cannot be taken in is a [`Notification`](crate::virtqueue::Notification) that was prepared
//! and not sent: send it first.

use core::fmt;

use super::{InitFailure, Leaked, Live, PendingQueue, Quiesced};
use crate::buffer::DmaBuf;
use crate::features::{Feature, Features};
use crate::platform::{Platform, Wait};
use crate::transport::{Status, Transport};
use crate::virtqueue::Virtqueue;

pub(crate) mod sealed {
    /// What a suspension asks of queues.
    pub trait Sealed {
        /// How many there are; `None` when one is not of this initialization.
        fn count(&self, epoch: usize) -> Option<usize>;

        /// Tells the device of what it has, as far as it wants to be told.
        fn remind(&mut self);
    }
}
use sealed::Sealed;

/// All queues of a device: a queue, or a tuple, an array or a `Vec` of them.
pub trait Queues: Sealed {}

impl<S: Sealed> Queues for S {}

impl<P: Platform, B: DmaBuf> Sealed for Virtqueue<P, B> {
    fn count(&self, epoch: usize) -> Option<usize> {
        (self.epoch().0 == epoch).then_some(1)
    }

    fn remind(&mut self) {
        Virtqueue::remind(self);
    }
}

impl<P: Platform, B: DmaBuf> Sealed for PendingQueue<P, B> {
    fn count(&self, epoch: usize) -> Option<usize> {
        self.0.count(epoch)
    }

    fn remind(&mut self) {}
}

impl Sealed for () {
    fn count(&self, _: usize) -> Option<usize> {
        Some(0)
    }

    fn remind(&mut self) {}
}

impl<Q: Sealed, const N: usize> Sealed for [Q; N] {
    fn count(&self, epoch: usize) -> Option<usize> {
        count_all(self, epoch)
    }

    fn remind(&mut self) {
        self.iter_mut().for_each(Q::remind);
    }
}

#[cfg(feature = "alloc")]
impl<Q: Sealed> Sealed for alloc::vec::Vec<Q> {
    fn count(&self, epoch: usize) -> Option<usize> {
        count_all(self, epoch)
    }

    fn remind(&mut self) {
        self.iter_mut().for_each(Q::remind);
    }
}

fn count_all<Q: Sealed>(queues: &[Q], epoch: usize) -> Option<usize> {
    let add = |sum: usize, queue: &Q| Some(sum.wrapping_add(queue.count(epoch)?));
    queues.iter().try_fold(0, add)
}

macro_rules! tuple {
    ($($queue:ident)*) => {
        impl<$($queue: Sealed),*> Sealed for ($($queue,)*) {
            #[allow(non_snake_case)] // a type each, and its value
            fn count(&self, epoch: usize) -> Option<usize> {
                let ($($queue,)*) = self;
                let mut sum = 0usize;
                $(sum = sum.wrapping_add($queue.count(epoch)?);)*
                Some(sum)
            }

            #[allow(non_snake_case)] // as above
            fn remind(&mut self) {
                let ($($queue,)*) = self;
                $($queue.remind();)*
            }
        }
    };
}

tuple!(A);
tuple!(A B);
tuple!(A B C);
tuple!(A B C D);
tuple!(A B C D E);
tuple!(A B C D E F);

/// Why a device is not suspended, or does not run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SuspendFailure {
    /// `VIRTIO_F_SUSPEND` was not negotiated.
    NotNegotiated,
    /// Not every queue that was set up was handed in.
    QueuesMissing {
        /// Queues that were handed in.
        given: usize,
        /// Queues that are set up.
        set_up: usize,
    },
    /// One of the queues is not of this device and initialization.
    ForeignQueue,
    /// The device asks for a reset: it cannot be suspended, or resumed.
    NeedsReset,
    /// The status did not read as suspended, or as running, for as long as the platform cared to
    /// wait.
    NotConfirmed {
        /// What it read.
        status: Status,
    },
}

impl fmt::Display for SuspendFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNegotiated => f.write_str("VIRTIO_F_SUSPEND was not negotiated"),
            Self::QueuesMissing { given, set_up } => write!(
                f,
                "{given} queues were handed in, and {set_up} are set up: a suspended device may not \
                 have any that is in use"
            ),
            Self::ForeignQueue => f.write_str("a queue is of another device, or of another time"),
            Self::NeedsReset => f.write_str("the device asks for a reset"),
            Self::NotConfirmed { status } => write!(
                f,
                "the device does not confirm: status {:#x}",
                status.bits()
            ),
        }
    }
}

impl core::error::Error for SuspendFailure {}

/// A device that is not suspended, or does not run again, and why.
pub struct SuspendError<P: Platform, T: Transport, Q> {
    /// The device and its queues.
    pub state: Unsuspended<P, T, Q>,
    /// What went wrong.
    pub why: SuspendFailure,
}

/// What became of a device that is not suspended, or does not run again.
pub enum Unsuspended<P: Platform, T: Transport, Q> {
    /// It was not told anything, and goes on.
    Running(Live<P, T>, Q),
    /// It was told, and has not followed: it may yet. Try again, or reset it.
    Undecided(Suspended<P, T, Q>),
}

impl<P: Platform, T: Transport, Q> fmt::Debug for SuspendError<P, T, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SuspendError")
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}

impl<P: Platform, T: Transport, Q> fmt::Display for SuspendError<P, T, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl<P: Platform, T: Transport, Q> core::error::Error for SuspendError<P, T, Q> {}

/// How far a device is that was told to stop, or to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It was told `SUSPEND`.
    Suspending,
    /// It has confirmed it.
    Suspended,
    /// It was told `DRIVER_OK`.
    Resuming,
}

/// A device that is suspended, and its queues.
#[must_use = "the device does nothing until it is resumed"]
pub struct Suspended<P: Platform, T: Transport, Q> {
    live: Live<P, T>,
    queues: Q,
    phase: Phase,
}

impl<P: Platform, T: Transport, Q> fmt::Debug for Suspended<P, T, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Suspended")
            .field("phase", &self.phase)
            .finish_non_exhaustive()
    }
}

impl<P: Platform, T: Transport> Live<P, T> {
    /// Suspends the device, and waits for it to say so. It finishes what it has begun, and touches
    /// no queue from then on until it is [resumed](Suspended::resume).
    ///
    /// `queues` are all the queues that were set up; those that are forgotten or were dropped are
    /// missing for ever. They are in the [`Suspended`] meanwhile:
    ///
    /// ```compile_fail
    /// # use vring::{Platform, buffer::DmaBuf, init::Live, transport::Transport};
    /// # use vring::virtqueue::Virtqueue;
    /// # fn kick<P: Platform, T: Transport, B: DmaBuf>(
    /// #     live: Live<P, T>,
    /// #     mut queue: Virtqueue<P, B>,
    /// # ) {
    /// let suspended = live.suspend(queue);
    /// queue.kick();
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`SuspendError`], with everything.
    pub fn suspend<Q: Queues>(
        self,
        queues: Q,
    ) -> Result<Suspended<P, T, Q>, SuspendError<P, T, Q>> {
        let given = queues.count(self.epoch.0);
        let status = self.transport.status();
        let why = match given {
            _ if !self.features().has(Feature::SUSPEND) => Some(SuspendFailure::NotNegotiated),
            None => Some(SuspendFailure::ForeignQueue),
            Some(given) if given != self.queues => Some(SuspendFailure::QueuesMissing {
                given,
                set_up: self.queues,
            }),
            Some(_) if self.resetting || status.contains(Status::NEEDS_RESET) => {
                Some(SuspendFailure::NeedsReset)
            }
            Some(_) => None,
        };
        if let Some(why) = why {
            let state = Unsuspended::Running(self, queues);
            return Err(SuspendError { state, why });
        }
        let mut suspended = Suspended {
            live: self,
            queues,
            phase: Phase::Suspending,
        };
        suspended
            .live
            .transport
            .set_status(status | Status::SUSPEND);
        suspended.confirm()
    }
}

impl<P: Platform, T: Transport, Q> Suspended<P, T, Q> {
    /// The features that both sides use.
    #[must_use]
    pub fn features(&self) -> Features {
        self.live.features()
    }

    /// The transport, to read.
    #[must_use]
    pub fn transport(&self) -> &T {
        self.live.transport()
    }

    /// Waits, again, until a device says that it is suspended: for one that had been slow.
    ///
    /// # Errors
    /// [`SuspendError`], with everything.
    pub fn confirm(mut self) -> Result<Self, SuspendError<P, T, Q>> {
        if self.live.resetting {
            let why = SuspendFailure::NeedsReset;
            let state = Unsuspended::Undecided(self);
            return Err(SuspendError { state, why });
        }
        if self.phase == Phase::Suspending {
            let stopped = |status: Status| {
                status.contains(Status::SUSPEND) && !status.contains(Status::DRIVER_OK)
            };
            if let Err(why) = self.wait_until(Wait::Suspend, stopped) {
                let state = Unsuspended::Undecided(self);
                return Err(SuspendError { state, why });
            }
            self.phase = Phase::Suspended;
        }
        Ok(self)
    }

    /// Has the device run again, and waits for it to say so. It is told of buffers that it had not
    /// used yet, as it may have missed their notification.
    ///
    /// # Errors
    /// [`SuspendError`], with everything, and always [`Unsuspended::Undecided`]: the device asks for
    /// a reset, or does not confirm.
    pub fn resume(self) -> Result<(Live<P, T>, Q), SuspendError<P, T, Q>>
    where
        Q: Queues,
    {
        let mut this = self.confirm()?;
        if this.phase == Phase::Suspended {
            let transport = &mut this.live.transport;
            let status = transport.status();
            transport.set_status(status | Status::DRIVER_OK);
            this.phase = Phase::Resuming;
        }
        let runs = |status: Status| {
            status.contains(Status::DRIVER_OK) && !status.contains(Status::SUSPEND)
        };
        if let Err(why) = this.wait_until(Wait::Resume, runs) {
            let state = Unsuspended::Undecided(this);
            return Err(SuspendError { state, why });
        }
        let Self {
            live, mut queues, ..
        } = this;
        queues.remind();
        Ok((live, queues))
    }

    fn wait_until(&self, what: Wait, done: impl Fn(Status) -> bool) -> Result<(), SuspendFailure> {
        let mut polls = 0u32;
        loop {
            let status = self.live.transport.status();
            if status.contains(Status::NEEDS_RESET) {
                return Err(SuspendFailure::NeedsReset);
            }
            if done(status) {
                return Ok(());
            }
            if !self.live.platform.wait(what, polls) {
                return Err(SuspendFailure::NotConfirmed { status });
            }
            polls = polls.saturating_add(1);
        }
    }

    /// Resets the device and waits for it to say so: as [`Live::reset`]. The proof closes the queues.
    ///
    /// # Errors
    /// Itself, when the device does not confirm the reset.
    #[allow(clippy::type_complexity)] // what went in comes out
    pub fn reset(self) -> Result<(T, Quiesced, Q), (Self, InitFailure)> {
        let Self {
            live,
            queues,
            phase,
        } = self;
        match live.reset() {
            Ok((transport, proof)) => Ok((transport, proof, queues)),
            Err(Leaked { live, why }) => Err((
                Self {
                    live,
                    queues,
                    phase,
                },
                why,
            )),
        }
    }
}
