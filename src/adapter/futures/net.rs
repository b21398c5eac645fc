//! The network driver's parts, awaited: each is one task's, and has a notifier of its own.
//!
//! A part is whatever leads to one: `&mut Receiver`, a
//! [`ReceiverHalf`](crate::device::net::ReceiverHalf) for a task on another core, a box.

use core::fmt;
use core::future::{Future, poll_fn};
use core::ops::{Deref, DerefMut};
use core::pin::Pin;
use core::task::{Context, Poll};

use super::bell::{Busy, Notifier};
use super::config::ConfigChanges;
use super::sleeper::Sleeper;
use super::state::{IN_A_ROW, ROUNDS};
use crate::buffer::{StableBytesMut, Window};
use crate::device::net::{Control, Receiver, TransmitError, TransmitFailure, Transmitter};
use crate::init::InitFailure;
use crate::platform::Platform;
use crate::transport::Transport;
use crate::virtqueue::{Fault, Reject};

/// The one task that waits, and how long it has not.
struct Waiter {
    sleeper: Sleeper,
    in_a_row: u32,
    /// Interrupts may come.
    armed: bool,
}

impl Waiter {
    fn new() -> Self {
        Self {
            sleeper: Sleeper::new(),
            in_a_row: 0,
            armed: false,
        }
    }

    fn notifier(&self) -> Notifier {
        self.sleeper.notifier()
    }

    /// Polls a half: until `attempt` has a result, or arming it, which looks once more, finds
    /// nothing new.
    fn poll<H: Half, R>(
        &mut self,
        half: &mut H,
        cx: &Context<'_>,
        mut attempt: impl FnMut(&mut H) -> Option<R>,
    ) -> Poll<R> {
        // None in a row, unless this one is ready, too.
        let in_a_row = core::mem::take(&mut self.in_a_row);
        let rounds = if in_a_row < IN_A_ROW { ROUNDS } else { 0 };
        for _ in 0..rounds {
            if let Some(result) = attempt(half) {
                if core::mem::take(&mut self.armed) {
                    half.disarm();
                }
                self.in_a_row = in_a_row.saturating_add(1);
                return Poll::Ready(result);
            }
            // Put the waker down first, then look once more.
            if let Err(Busy) = self.sleeper.sit(cx.waker()) {
                break;
            }
            self.armed = true;
            if !half.arm_to_sleep() {
                return Poll::Pending;
            }
        }
        // Another task is due, the device is faster than this, or somebody is at the waker: this
        // task is polled again.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// What is awaited in the same way of both halves.
trait Half {
    /// Tells the device what it has not been told, and asks for an interrupt. True when something is
    /// there already.
    fn arm_to_sleep(&mut self) -> bool;
    /// Asks for no interrupts.
    fn disarm(&mut self);
}

impl<P: Platform, M: StableBytesMut> Half for Receiver<P, M> {
    fn arm_to_sleep(&mut self) -> bool {
        self.kick();
        self.arm()
    }

    fn disarm(&mut self) {
        Self::disarm(self);
    }
}

impl<P: Platform, M: StableBytesMut> Half for Transmitter<P, M> {
    fn arm_to_sleep(&mut self) -> bool {
        self.kick();
        self.arm()
    }

    fn disarm(&mut self) {
        Self::disarm(self);
    }
}

/// Why no frame will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReceiveError {
    /// The queue is broken, or was reset: see [`Control::restart_receive`] and
    /// [`Driver::recover`](crate::device::net::Driver::recover).
    Fault(Fault),
    /// The device has no buffer to receive into: [refill](Receiver::refill) first.
    NoBuffers {
        /// Buffers that the queue has room for.
        room: u16,
    },
}

impl From<Fault> for ReceiveError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl fmt::Display for ReceiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::NoBuffers { room } => write!(
                f,
                "no frame can come: the device has no receive buffer, and there is room for {room}"
            ),
        }
    }
}

impl core::error::Error for ReceiveError {}

/// A [`Receiver`] whose frames are awaited.
pub struct AsyncReceiver<R> {
    half: R,
    waiter: Waiter,
}

impl<R> AsyncReceiver<R> {
    /// The receiver itself: to refill it, and for whole bursts.
    #[must_use]
    pub fn get(&mut self) -> &mut R {
        &mut self.half
    }

    /// For the handler of the receive queue's interrupt.
    ///
    /// It is this value's, not the half's: of one that is made anew around the same half, the handler
    /// needs the new notifier. The old one wakes nobody then.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        self.waiter.notifier()
    }

    /// Takes the receiver back.
    #[must_use]
    pub fn into_inner(self) -> R {
        self.half
    }
}

impl<P, M, R> AsyncReceiver<R>
where
    P: Platform,
    M: StableBytesMut,
    R: DerefMut<Target = Receiver<P, M>>,
{
    /// Frames of a receiver, which has buffers or gets some before any is awaited. It has a
    /// [notifier](Self::notifier) of its own.
    #[must_use]
    pub fn new(half: R) -> Self {
        let waiter = Waiter::new();
        Self { half, waiter }
    }

    /// The next frame, in its buffer, as from [`Receiver::receive`].
    ///
    /// The future holds nothing: dropped or forgotten, it leaves the frame in the queue. Buffers that
    /// were given and not announced are announced before it sleeps. After 64 frames without sleep it
    /// lets other tasks go first once.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub async fn receive(&mut self) -> Result<Window<M>, ReceiveError> {
        poll_fn(|cx| self.poll_receive(cx)).await
    }

    /// As [`receive`](Self::receive), for who writes a future or a stream.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Window<M>, ReceiveError>> {
        let half: &mut Receiver<P, M> = &mut self.half;
        self.waiter.poll(half, cx, |half| match half.receive() {
            Ok(Some(frame)) => Some(Ok(frame)),
            Ok(None) if half.outstanding() == 0 => {
                let room = half.room();
                Some(Err(ReceiveError::NoBuffers { room }))
            }
            Ok(None) => None,
            Err(fault) => Some(Err(fault.into())),
        })
    }
}

impl<R: fmt::Debug> fmt::Debug for AsyncReceiver<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncReceiver").field(&self.half).finish()
    }
}

/// A [`Transmitter`] whose room is awaited.
///
/// Memory of frames that went out goes to `back`, whenever room is looked for: to be used again, or
/// dropped.
pub struct AsyncTransmitter<T, F> {
    half: T,
    back: F,
    waiter: Waiter,
}

impl<T, F> AsyncTransmitter<T, F> {
    /// The transmitter itself: for whole bursts, after [`room`](Self::room).
    #[must_use]
    pub fn get(&mut self) -> &mut T {
        &mut self.half
    }

    /// For the handler of the transmit queue's interrupt.
    ///
    /// It is this value's, not the half's: of one that is made anew around the same half, the handler
    /// needs the new notifier. The old one wakes nobody then.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        self.waiter.notifier()
    }

    /// Takes the transmitter back.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.half
    }
}

impl<P, M, T, F> AsyncTransmitter<T, F>
where
    P: Platform,
    M: StableBytesMut,
    T: DerefMut<Target = Transmitter<P, M>>,
    F: FnMut(M),
{
    /// Room of a transmitter; `back` gets memory of frames that went out. It has a
    /// [notifier](Self::notifier) of its own.
    #[must_use]
    pub fn new(half: T, back: F) -> Self {
        let waiter = Waiter::new();
        Self { half, back, waiter }
    }

    /// Waits until a frame finds room ([`Transmitter::has_room`]). The future holds nothing.
    ///
    /// # Errors
    /// [`Fault`]: the queue is broken, or was reset.
    pub async fn room(&mut self) -> Result<(), Fault> {
        poll_fn(|cx| self.poll_room(cx)).await
    }

    /// As [`room`](Self::room), for who writes a future.
    ///
    /// # Errors
    /// [`Fault`].
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        self.poll_with(cx, |half| match half.has_room() {
            true => Some(Ok(())),
            false => half.fault().map(Err),
        })
    }

    /// Transmits a frame, once there is room, and tells the device; not that it went out.
    ///
    /// Until the frame is taken the future has it. Dropped before that, its memory goes to `back`, as
    /// that of frames that went out; [`Transmit::cancel`] gives the frame itself back. Forgotten, it
    /// keeps the frame, and nothing else.
    ///
    /// The future's error is [`TransmitError`], with the frame, as [`Transmitter::transmit`];
    /// [`Reject::Full`] means that an empty queue has too little room.
    pub fn transmit(&mut self, frame: Window<M>) -> Transmit<'_, M, T, F> {
        let frame = Some(frame);
        Transmit { tx: self, frame }
    }

    /// Waits until `attempt` has a result; it is tried when buffers have come back.
    fn poll_with<R>(
        &mut self,
        cx: &Context<'_>,
        mut attempt: impl FnMut(&mut Transmitter<P, M>) -> Option<R>,
    ) -> Poll<R> {
        let Self { half, back, waiter } = self;
        let half: &mut Transmitter<P, M> = half;
        waiter.poll(half, cx, |half| match attempt(half) {
            // A fault is found again by the attempt, and said.
            None if half.reclaim(&mut *back) != Ok(0) => attempt(half),
            result => result,
        })
    }
}

impl<T: fmt::Debug, F> fmt::Debug for AsyncTransmitter<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncTransmitter").field(&self.half).finish()
    }
}

/// A frame that waits for room: see [`AsyncTransmitter::transmit`].
#[must_use = "futures do nothing unless they are awaited"]
pub struct Transmit<'a, M: StableBytesMut, T, F: FnMut(M)> {
    tx: &'a mut AsyncTransmitter<T, F>,
    /// `None` when it was taken.
    frame: Option<Window<M>>,
}

// Nothing in it is pinned.
impl<M: StableBytesMut, T, F: FnMut(M)> Unpin for Transmit<'_, M, T, F> {}

impl<M: StableBytesMut, T, F: FnMut(M)> Transmit<'_, M, T, F> {
    /// Takes the frame back; `None` when the queue has taken it.
    #[must_use = "the frame is in it"]
    pub fn cancel(mut self) -> Option<Window<M>> {
        self.frame.take()
    }
}

impl<P, M, T, F> Future for Transmit<'_, M, T, F>
where
    P: Platform,
    M: StableBytesMut,
    T: DerefMut<Target = Transmitter<P, M>>,
    F: FnMut(M),
{
    type Output = Result<(), TransmitError<M>>;

    /// Polled again after it was ready, it is pending for ever.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { tx, frame } = self.get_mut();
        if frame.is_none() {
            return Poll::Pending;
        }
        tx.poll_with(cx, |half| {
            let error = match half.transmit(frame.take()?) {
                Ok(()) => {
                    half.kick();
                    return Some(Ok(()));
                }
                Err(error) => error,
            };
            match error.why {
                // Frames that are out make room when they come back.
                TransmitFailure::Queue(Reject::Full { .. }) if half.outstanding() != 0 => {
                    *frame = Some(error.frame);
                    None
                }
                _ => Some(Err(error)),
            }
        })
    }
}

impl<M: StableBytesMut, T, F: FnMut(M)> Drop for Transmit<'_, M, T, F> {
    fn drop(&mut self) {
        if let Some(frame) = self.frame.take() {
            (self.tx.back)(frame.into_memory());
        }
    }
}

impl<M: StableBytesMut, T, F: FnMut(M)> fmt::Debug for Transmit<'_, M, T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transmit")
            .field("taken", &self.frame.is_none())
            .finish_non_exhaustive()
    }
}

/// A [`Control`] whose configuration changes are awaited.
pub struct AsyncControl<C> {
    part: C,
    changes: ConfigChanges,
}

impl<C> AsyncControl<C> {
    /// The control part itself.
    #[must_use]
    pub fn get(&mut self) -> &mut C {
        &mut self.part
    }

    /// For the handler of the interrupt for configuration changes.
    ///
    /// It is this value's, not the part's: of one that is made anew around the same part, the handler
    /// needs the new notifier. The old one wakes nobody then.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        self.changes.notifier()
    }

    /// Takes the control part back.
    #[must_use]
    pub fn into_inner(self) -> C {
        self.part
    }
}

impl<P, T, C> AsyncControl<C>
where
    P: Platform,
    T: Transport,
    C: Deref<Target = Control<P, T>>,
{
    /// Changes from now on. It has a [notifier](Self::notifier) of its own.
    #[must_use]
    pub fn new(part: C) -> Self {
        let changes = ConfigChanges::new();
        Self { part, changes }
    }

    /// Waits until the notifier was called since the last time, and
    /// [checks](Control::check) the device: then ask for what may have changed, such as
    /// [`link_up`](Control::link_up). None is missed that comes while nobody waits, and several are
    /// one. The future holds nothing.
    ///
    /// # Errors
    /// [`InitFailure::NeedsReset`]: the device works no more. See
    /// [`Driver::recover`](crate::device::net::Driver::recover).
    pub async fn config_change(&mut self) -> Result<(), InitFailure> {
        self.changes.changed().await;
        self.part.check()
    }
}

impl<C: fmt::Debug> fmt::Debug for AsyncControl<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncControl").field(&self.part).finish()
    }
}
