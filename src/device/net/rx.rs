//! The receiving half.

use core::fmt;

use crate::buffer::{StableBytesMut, Window, Writable};
use crate::platform::Platform;
use crate::transport::QueueAreas;
use crate::virtqueue::{BurstError, Counters, Fault, Reject, Virtqueue, Withdrawn};

/// Receives frames into buffers that it was given.
///
/// Each buffer takes one frame, behind the device's header of
/// [`header_len`](Self::header_len) bytes. Give it buffers with [`refill`](Self::refill), whenever
/// there are some: it does not depend on [`receive`](Self::receive) being called.
///
/// A buffer takes one descriptor; two on a legacy device without `VIRTIO_F_ANY_LAYOUT`, which wants
/// one for the header (VIRTIO 1.4, 5.1.9.8). Where the header is in the buffer is the same.
///
/// Several frames at once cost least with [`receive_burst`](Self::receive_burst).
pub struct Receiver<P: Platform, M: StableBytesMut> {
    pub(super) queue: Virtqueue<P, Writable<M>>,
    pub(super) header_len: usize,
    pub(super) buffer_len: usize,
    /// Bytes of a buffer that goes the short way, at least: more than any has, where the header is a
    /// descriptor of its own.
    plain: usize,
    runts: u64,
}

/// A receive buffer that was not taken.
pub struct RefillError<M> {
    /// The buffer.
    pub buffer: M,
    /// Buffers that were taken before it, and are with the device.
    pub taken: usize,
    /// Why it was not taken.
    pub why: RefillFailure,
}

/// Why a receive buffer was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefillFailure {
    /// A frame and its header may be larger.
    TooSmall {
        /// Bytes of the buffer.
        len: usize,
        /// Bytes that it takes.
        needed: usize,
    },
    /// The queue did not take it.
    Queue(Reject),
}

impl fmt::Display for RefillFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { len, needed } => {
                write!(
                    f,
                    "a receive buffer of {len} bytes, where frames take {needed}"
                )
            }
            Self::Queue(why) => why.fmt(f),
        }
    }
}

impl<M> fmt::Debug for RefillError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefillError")
            .field("taken", &self.taken)
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}

impl<M> fmt::Display for RefillError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl<M> core::error::Error for RefillError<M> {}

impl<P: Platform, M: StableBytesMut> Receiver<P, M> {
    /// `frame_len` is the longest frame; `cut` says that the header is a descriptor of its own.
    pub(super) fn new(
        queue: Virtqueue<P, Writable<M>>,
        header_len: usize,
        frame_len: usize,
        cut: bool,
    ) -> Self {
        let buffer_len = header_len.wrapping_add(frame_len);
        Self {
            queue,
            header_len,
            buffer_len,
            plain: if cut { usize::MAX } else { buffer_len },
            runts: 0,
        }
    }

    /// Whether the header is a descriptor of its own: a legacy device wants it so.
    #[inline]
    fn is_cut(&self) -> bool {
        self.plain != self.buffer_len
    }

    /// Bytes of the device's header in front of each frame.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Bytes that a buffer must have, at least: a header and the longest frame.
    #[must_use]
    pub fn buffer_len(&self) -> usize {
        self.buffer_len
    }

    /// Buffers that the queue has room for.
    #[inline]
    #[must_use]
    pub fn room(&self) -> u16 {
        self.queue.free() >> u32::from(self.is_cut())
    }

    /// Queue size: so many buffers can be with the device at once, or half as many where each takes
    /// two descriptors.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Buffers that are with the device, or wait to be received.
    #[must_use]
    pub fn outstanding(&self) -> u16 {
        self.queue.outstanding()
    }

    /// Where the device finds the ring.
    #[must_use]
    pub fn areas(&self) -> QueueAreas {
        self.queue.areas()
    }

    /// What happened on the queue.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.queue.counters()
    }

    /// Completions that were shorter than the header: delivered as empty frames.
    #[must_use]
    pub fn runts(&self) -> u64 {
        self.runts
    }

    /// What the device did wrong, when the queue is broken.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.queue.fault()
    }

    /// Gives buffers to the device, while there is room and `buffers` has some, and tells it: one
    /// [`give_burst`](Self::give_burst) and one [`kick`](Self::kick). Returns how many were given.
    ///
    /// # Errors
    /// [`RefillError`] with the buffer that was not taken.
    #[inline]
    pub fn refill(
        &mut self,
        buffers: &mut impl Iterator<Item = M>,
    ) -> Result<usize, RefillError<M>> {
        let given = self.give_burst(buffers);
        self.kick();
        given
    }

    /// Gives buffers to the device, while there is room and `buffers` has some; it sees them with
    /// the next [`kick`](Self::kick) or [`publish`](Self::publish). Returns how many were given.
    /// None is taken from the iterator that is not given, but for the one in an error. A broken
    /// queue has no room.
    ///
    /// # Errors
    /// [`RefillError`] with the buffer that was not taken.
    #[inline]
    pub fn give_burst(
        &mut self,
        buffers: &mut impl Iterator<Item = M>,
    ) -> Result<usize, RefillError<M>> {
        let mut fitting = Fitting {
            buffers: &mut *buffers,
            needed: self.plain,
            short: None,
        };
        let burst = self.queue.submit_burst(&mut fitting);
        // The burst ends with a short buffer, so that there is no other error then.
        match (burst, fitting.short) {
            (Ok(taken), None) => Ok(taken),
            (Ok(taken), Some(buffer)) => self.give_rest(buffers, buffer, taken),
            (
                Err(BurstError {
                    submitted,
                    rejected,
                }),
                _,
            ) => Err(RefillError {
                buffer: rejected.buf.0,
                taken: submitted,
                why: RefillFailure::Queue(rejected.why),
            }),
        }
    }

    /// Gives one buffer to the device; it sees it with the next [`kick`](Self::kick) or
    /// [`publish`](Self::publish).
    ///
    /// # Errors
    /// The buffer, and why it was not taken.
    #[inline]
    pub fn give(&mut self, buffer: M) -> Result<(), (M, RefillFailure)> {
        if buffer.bytes().1 < self.plain {
            return self.give_odd(buffer);
        }
        match self.queue.submit(Writable(buffer)) {
            Ok(_) => Ok(()),
            Err(rejected) => Err((rejected.buf.0, RefillFailure::Queue(rejected.why))),
        }
    }

    /// Gives a buffer that is too short, or whose header is a descriptor of its own.
    #[cold]
    #[inline(never)]
    fn give_odd(&mut self, buffer: M) -> Result<(), (M, RefillFailure)> {
        let (len, needed) = (buffer.bytes().1, self.buffer_len);
        if len < needed {
            return Err((buffer, RefillFailure::TooSmall { len, needed }));
        }
        match self.queue.submit_cut(self.header_len, Writable(buffer)) {
            Ok(_) => Ok(()),
            Err(rejected) => Err((rejected.buf.0, RefillFailure::Queue(rejected.why))),
        }
    }

    /// The rest of a burst of which `taken` were given and `buffer` was not.
    #[cold]
    #[inline(never)]
    fn give_rest(
        &mut self,
        buffers: &mut impl Iterator<Item = M>,
        mut buffer: M,
        mut taken: usize,
    ) -> Result<usize, RefillError<M>> {
        loop {
            if let Err((buffer, why)) = self.give_odd(buffer) {
                return Err(RefillError { buffer, taken, why });
            }
            taken = taken.wrapping_add(1);
            buffer = match self.room() {
                0 => return Ok(taken),
                _ => match buffers.next() {
                    Some(next) => next,
                    None => return Ok(taken),
                },
            };
        }
    }

    /// Makes what was given visible to the device, and tells it if it wants to be told.
    #[inline]
    pub fn kick(&mut self) {
        self.queue.kick();
    }

    /// Makes what was given visible to the device, without a word: no fence, no doorbell. Enough
    /// for a device that is known to poll; any other may never look, so [`kick`](Self::kick) it.
    #[inline]
    pub fn publish(&mut self) {
        self.queue.publish();
    }

    /// The next frame, in its buffer: the window is the frame without the device's header.
    ///
    /// # Errors
    /// [`Fault`]: the queue is broken until the device is reset.
    #[inline]
    pub fn receive(&mut self) -> Result<Option<Window<M>>, Fault> {
        let Some(done) = self.queue.next_completion()? else {
            return Ok(None);
        };
        let written = done.written() as usize;
        let Writable(memory) = done.into_buf();
        Ok(Some(frame(
            memory,
            written,
            self.header_len,
            &mut self.runts,
        )))
    }

    /// Gives every frame that is there to `f`, each as [`receive`](Self::receive) would; how many
    /// there were, which is [`size`](Self::size) at most: it looks once, and ends however fast the
    /// device is. When `f` panics, the frames behind the one that it had stay where they are.
    ///
    /// # Errors
    /// [`Fault`]: the queue is broken until the device is reset. Frames before that were given to
    /// `f`.
    #[inline]
    pub fn receive_burst(&mut self, mut f: impl FnMut(Window<M>)) -> Result<usize, Fault> {
        let Self {
            queue,
            header_len,
            runts,
            ..
        } = self;
        queue.drain(|done| {
            let written = done.written() as usize;
            let Writable(memory) = done.into_buf();
            f(frame(memory, written, *header_len, runts));
        })
    }

    /// Asks for an interrupt at the next frame. True when one is there already.
    #[inline]
    #[must_use = "when a frame raced in, no interrupt may come"]
    pub fn arm(&mut self) -> bool {
        self.queue.arm()
    }

    /// Asks for no interrupts.
    #[inline]
    pub fn disarm(&mut self) {
        self.queue.disarm();
    }

    pub(super) fn memory(withdrawn: Withdrawn<Writable<M>>) -> M {
        withdrawn.buf.0
    }
}

/// Buffers as a burst takes them, until one comes that is too small, which is kept aside.
struct Fitting<'a, I, M> {
    buffers: &'a mut I,
    needed: usize,
    short: Option<M>,
}

impl<M: StableBytesMut, I: Iterator<Item = M>> Iterator for Fitting<'_, I, M> {
    type Item = Writable<M>;

    #[inline(always)] // or buffers go through memory once more
    fn next(&mut self) -> Option<Self::Item> {
        let buffer = self.buffers.next()?;
        if buffer.bytes().1 >= self.needed {
            Some(Writable(buffer))
        } else {
            self.short = Some(buffer);
            None
        }
    }
}

/// The frame in a buffer into which the device wrote so many bytes, header included.
#[inline(always)] // a frame is large, and is taken apart at once
fn frame<M: StableBytesMut>(
    memory: M,
    written: usize,
    header_len: usize,
    runts: &mut u64,
) -> Window<M> {
    let len = written.checked_sub(header_len).unwrap_or_else(|| {
        *runts = runts.wrapping_add(1);
        0
    });
    Window::new(memory, header_len, len)
}

impl<P: Platform, M: StableBytesMut> fmt::Debug for Receiver<P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver")
            .field("queue", &self.queue)
            .field("header_len", &self.header_len)
            .field("buffer_len", &self.buffer_len)
            .field("runts", &self.runts)
            .finish()
    }
}
