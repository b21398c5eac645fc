//! A queue that tasks share.

use alloc::sync::Arc;
use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};

use zerocopy::{Immutable, IntoBytes};

use super::bell::{Bell, Notifier};
use super::finished::{Finished, Unclaimed};
use super::later::Later;
use super::state::{Key, State};
use crate::buffer::DmaBuf;
use crate::platform::Platform;
use crate::sync::Mutex;
use crate::virtqueue::{Fault, Rejected, Virtqueue};

/// A [`Virtqueue`] that tasks share, each awaiting what it submitted.
///
/// See the [module](super) for how it is used. All calls take `&self`: keep it in a `static`, an
/// `Arc`, or on the stack of a task that has several things to wait for. It is `Send + Sync`.
///
/// A call takes a spin lock for as long as it takes to submit, or to take back what has come back.
/// The [`Notifier`] does not take it. So tasks of one queue may run on several cores, but must not
/// interrupt each other, or a call of the notifier, on one: keep them on executors of one priority,
/// which is not above that of whoever calls the notifier.
///
/// Wakers are called when the lock is open, and may use the queue. With the lock held run: the
/// [`Platform`], the methods of [`DmaBuf`] and the allocator, `clone` of a waker, what is given to
/// [`look`](Self::look), and the logger of the [`log`] crate, once, when the device has broken the
/// queue. None of these may use the queue: they
/// would wait for ever. So a logger that writes through a queue, to a console say, must not wait
/// for one whose fault it is told of: have it collect what it is told, and a task write it.
pub struct Queue<P: Platform, B: DmaBuf> {
    state: Mutex<State<P, B>>,
    bell: Arc<Bell>,
}

impl<P: Platform, B: DmaBuf> Queue<P, B> {
    /// Shares a queue. What was submitted to it before comes back [unclaimed](Self::next_unclaimed).
    #[must_use]
    pub fn new(queue: Virtqueue<P, B>) -> Self {
        Self {
            state: Mutex::new(State::new(queue)),
            bell: Bell::new(),
        }
    }

    /// For the handler of the queue's interrupt.
    #[must_use]
    pub fn notifier(&self) -> Notifier {
        Notifier(self.bell.clone())
    }

    /// Does something with the lock held, and what follows from it with the lock open.
    fn with<R>(&self, f: impl FnOnce(&mut State<P, B>, &mut Later<'_>) -> R) -> R {
        let mut later = Later::new(&self.bell);
        // Declared behind it, and so dropped before it, also when something panics.
        let mut state = self.state.lock();
        f(&mut state, &mut later)
    }

    /// Submits a buffer, once there is room: a future of a future, that the device returns it.
    ///
    /// Tasks that wait for room are all woken when there is some, in the order in which they came,
    /// and who comes when others wait lets them go first. So on an executor that polls tasks in the
    /// order in which they were woken, and where all need as many descriptors, none is overtaken more
    /// often than there are tasks. No room is kept for anybody, as who is first in line may have been
    /// forgotten: a buffer that needs more descriptors than others waits for as long as they keep
    /// coming. Where that may be, have indirect descriptors negotiated
    /// ([`Feature::INDIRECT_DESC`](crate::features::Feature::INDIRECT_DESC)), with which each
    /// buffer needs one, or a queue for the large ones.
    ///
    /// Dropped before that, the buffer is [unclaimed](Self::next_unclaimed):
    /// [`Unclaimed::NotSubmitted`].
    ///
    /// The future's error is [`Rejected`], with the buffer: as [`Virtqueue::submit`], save that
    /// [`Reject::Full`](crate::virtqueue::Reject::Full) means that an empty queue has too little
    /// room.
    pub fn submit(&self, buf: B) -> Submit<'_, P, B> {
        Submit::new(self, None, buf)
    }

    /// As [`submit`](Self::submit), with a header in front and the reply cell behind: see
    /// [`Virtqueue::submit_with`].
    pub fn submit_with<H: IntoBytes + Immutable>(&self, header: H, buf: B) -> Submit<'_, P, B, H> {
        Submit::new(self, Some(header), buf)
    }

    /// Submits a buffer if there is room now, ahead of tasks that wait for some.
    ///
    /// # Errors
    /// [`Rejected`], as [`Virtqueue::submit`].
    pub fn try_submit(&self, buf: B) -> Result<InFlight<'_, P, B>, Rejected<B>> {
        let key = self.with(|state, later| state.try_submit(None, buf, later))?;
        Ok(InFlight::new(self, key))
    }

    /// As [`try_submit`](Self::try_submit), with a header in front and the reply cell behind.
    ///
    /// # Errors
    /// [`Rejected`], as [`Virtqueue::submit_with`].
    pub fn try_submit_with<H: IntoBytes + Immutable + ?Sized>(
        &self,
        header: &H,
        buf: B,
    ) -> Result<InFlight<'_, P, B>, Rejected<B>> {
        let header = Some(header.as_bytes());
        let key = self.with(|state, later| state.try_submit(header, buf, later))?;
        Ok(InFlight::new(self, key))
    }

    /// Tells the device what was submitted. Futures do so before they sleep, and when they are
    /// dropped: this is for who waits for something else first.
    pub fn kick(&self) {
        self.with(|state, later| state.kick(later));
    }

    /// Takes what has come back, and wakes the tasks that wait for it; how much there was. Where more
    /// than eight come back at once, or somebody is calling wakers just now, all tasks are woken. For a loop that polls: cheaper than [`Notifier::wake`], and not for a handler.
    ///
    /// # Errors
    /// [`Fault`]: the queue is broken, and all who wait are told.
    pub fn reap(&self) -> Result<usize, Fault> {
        self.with(State::reap_and_settle)
    }

    /// The next buffer that nobody waits for, because its future was dropped.
    ///
    /// They are kept until they are fetched: take them out now and then, where futures are dropped
    /// that were not ready.
    #[must_use = "the buffer is in it"]
    pub fn next_unclaimed(&self) -> Option<Unclaimed<B>> {
        self.with(|state, later| {
            // When the queue is broken, there may be some all the same.
            let _ = state.reap_and_settle(later);
            state.unclaimed.pop_front()
        })
    }

    /// What the device did wrong, when the queue is broken; [`Fault::Stopped`] when it was
    /// [taken](Self::take).
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.state.lock().fault()
    }

    /// A look at the queue: its size, what is free, its counters. `None` when it was
    /// [taken](Self::take).
    ///
    /// The lock is held meanwhile: within `f`, a call of this queue, or a future of it that is
    /// dropped, waits for ever. So does formatting the queue itself for [`Debug`](fmt::Debug), which
    /// looks.
    pub fn look<R>(&self, f: impl FnOnce(&Virtqueue<P, B>) -> R) -> Option<R> {
        self.state.lock().queue.as_ref().map(f)
    }

    /// Takes the queue, to [close](Virtqueue::close) it after a reset, or to
    /// [restart](crate::init::Live::restart_queue) it; `None` when it was taken already. Everybody
    /// who waits gets [`Fault::Stopped`], and their buffers are in the queue. What has come back
    /// before can still be awaited and fetched.
    ///
    /// A task on another core that is just telling the device of a buffer may still do so.
    #[must_use = "it is leaked when its device may be live"]
    pub fn take(&self) -> Option<Virtqueue<P, B>> {
        self.with(|state, later| state.take(later))
    }

    /// Puts a queue in the place of one that was [taken](Self::take).
    ///
    /// # Errors
    /// The queue, when there is one already.
    pub fn put(&self, queue: Virtqueue<P, B>) -> Result<(), Virtqueue<P, B>> {
        let mut state = self.state.lock();
        match &state.queue {
            Some(_) => Err(queue),
            None => {
                state.queue = Some(queue);
                Ok(())
            }
        }
    }

    /// Takes all apart: the queue, unless it was taken, and every buffer that has come back and was
    /// not fetched.
    #[must_use = "the queue is leaked when its device may be live"]
    pub fn into_inner(
        self,
    ) -> (
        Option<Virtqueue<P, B>>,
        impl Iterator<Item = Unclaimed<B>> + use<P, B>,
    ) {
        let (queue, unclaimed) = self.state.into_inner().into_parts();
        (queue, unclaimed.into_iter())
    }
}

impl<P: Platform, B: DmaBuf> fmt::Debug for Queue<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.look(|queue| f.debug_tuple("Queue").field(queue).finish())
            .unwrap_or_else(|| f.write_str("Queue(taken)"))
    }
}

/// A buffer on its way through the device: the future of its return.
///
/// It can be dropped or forgotten any time. The queue owns the buffer; when it comes back it is
/// [unclaimed](Queue::next_unclaimed), and its slot is free. What a forgotten future would have got
/// stays until [`Queue::into_inner`].
///
/// Its error is the queue's [`Fault`]: the buffer comes back when the queue is closed. It tells the
/// device of all that was submitted before it sleeps for the first time, so that a batch of futures
/// that are awaited together costs one notification.
#[must_use = "futures do nothing unless they are awaited"]
pub struct InFlight<'q, P: Platform, B: DmaBuf> {
    queue: &'q Queue<P, B>,
    /// `None` when it was ready.
    key: Option<Key>,
}

impl<'q, P: Platform, B: DmaBuf> InFlight<'q, P, B> {
    fn new(queue: &'q Queue<P, B>, key: Key) -> Self {
        let key = Some(key);
        Self { queue, key }
    }
}

impl<P: Platform, B: DmaBuf> Future for InFlight<'_, P, B> {
    type Output = Result<Finished<B>, Fault>;

    /// Polled again after it was ready, it is pending for ever.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(key) = self.key else {
            return Poll::Pending;
        };
        let queue = self.queue;
        let polled = queue.with(|state, later| state.poll(key, cx.waker(), later));
        if polled.is_ready() {
            self.key = None;
        }
        polled
    }
}

impl<P: Platform, B: DmaBuf> Drop for InFlight<'_, P, B> {
    fn drop(&mut self) {
        let Some(key) = self.key.take() else { return };
        self.queue.with(|state, later| {
            state.kick(later);
            state.abandon(key, later);
        });
    }
}

impl<P: Platform, B: DmaBuf> fmt::Debug for InFlight<'_, P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InFlight").field(&self.key).finish()
    }
}

/// A buffer that waits for room in a queue: see [`Queue::submit`].
///
/// It may be dropped any time, and the buffer is [unclaimed](Queue::next_unclaimed) then, or
/// [taken back](Self::cancel). When it is forgotten, the buffer is with it. In line nobody waits for
/// it, but its turn stays: from then on every newcomer is polled twice, as when others wait, and the
/// queue interrupts for each buffer that comes back.
#[must_use = "futures do nothing unless they are awaited"]
pub struct Submit<'q, P: Platform, B: DmaBuf, H = ()> {
    queue: &'q Queue<P, B>,
    header: Option<H>,
    /// `None` when it was submitted.
    buf: Option<B>,
    turn: Option<u64>,
}

// Nothing in it is pinned.
impl<P: Platform, B: DmaBuf, H> Unpin for Submit<'_, P, B, H> {}

impl<'q, P: Platform, B: DmaBuf, H> Submit<'q, P, B, H> {
    fn new(queue: &'q Queue<P, B>, header: Option<H>, buf: B) -> Self {
        Self {
            queue,
            header,
            buf: Some(buf),
            turn: None,
        }
    }

    /// Takes the buffer back; `None` when it was submitted.
    #[must_use = "the buffer is in it"]
    pub fn cancel(mut self) -> Option<B> {
        self.buf.take()
    }
}

impl<'q, P, B, H> Future for Submit<'q, P, B, H>
where
    P: Platform,
    B: DmaBuf,
    H: IntoBytes + Immutable,
{
    type Output = Result<InFlight<'q, P, B>, Rejected<B>>;

    /// Polled again after it was ready, it is pending for ever.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self {
            queue,
            header,
            buf,
            turn,
        } = self.get_mut();
        let queue: &'q Queue<P, B> = queue;
        let header = header.as_ref().map(IntoBytes::as_bytes);
        queue
            .with(|state, later| state.poll_submit(turn, header, buf, cx.waker(), later))
            .map_ok(|key| InFlight::new(queue, key))
    }
}

impl<P: Platform, B: DmaBuf, H> Drop for Submit<'_, P, B, H> {
    fn drop(&mut self) {
        let (buf, turn) = (self.buf.take(), &mut self.turn);
        if buf.is_none() && turn.is_none() {
            return;
        }
        self.queue.with(|state, later| {
            state.unclaimed.extend(buf.map(Unclaimed::NotSubmitted));
            state.leave_line(turn, later);
        });
    }
}

impl<P: Platform, B: DmaBuf, H> fmt::Debug for Submit<'_, P, B, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submit")
            .field("submitted", &self.buf.is_none())
            .field("turn", &self.turn)
            .finish_non_exhaustive()
    }
}
