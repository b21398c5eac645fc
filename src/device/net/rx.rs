//! The receiving half.

use core::fmt;

use crate::buffer::{StableBytesMut, Window, Writable};
use crate::platform::Platform;
use crate::transport::QueueAreas;
use crate::virtqueue::{Counters, Fault, Reject, Virtqueue, Withdrawn};

/// Receives frames into buffers that it was given.
///
/// Each buffer takes one frame, behind the device's header of
/// [`header_len`](Self::header_len) bytes. Give it buffers with [`refill`](Self::refill), whenever
/// there are some: it does not depend on [`receive`](Self::receive) being called.
pub struct Receiver<P: Platform, M: StableBytesMut> {
    pub(super) queue: Virtqueue<P, Writable<M>>,
    pub(super) header_len: usize,
    pub(super) buffer_len: usize,
    pub(super) runts: u64,
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
        self.queue.free()
    }

    /// Queue size: buffers that can be with the device at once.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.queue.size()
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

    /// Gives buffers to the device, while there is room and `buffers` has some, and tells it.
    /// Returns how many were given.
    ///
    /// # Errors
    /// [`RefillError`] with the buffer that was not taken.
    pub fn refill(
        &mut self,
        buffers: &mut impl Iterator<Item = M>,
    ) -> Result<usize, RefillError<M>> {
        let mut taken = 0usize;
        while self.queue.free() != 0 {
            let Some(buffer) = buffers.next() else { break };
            match self.give(buffer) {
                Ok(()) => taken = taken.wrapping_add(1),
                Err((buffer, why)) => {
                    self.queue.kick();
                    return Err(RefillError { buffer, taken, why });
                }
            }
        }
        self.queue.kick();
        Ok(taken)
    }

    /// Gives one buffer to the device; it sees it with the next [`kick`](Self::kick).
    ///
    /// # Errors
    /// The buffer, and why it was not taken.
    #[inline]
    pub fn give(&mut self, buffer: M) -> Result<(), (M, RefillFailure)> {
        let len = buffer.bytes().1;
        if len < self.buffer_len {
            let needed = self.buffer_len;
            return Err((buffer, RefillFailure::TooSmall { len, needed }));
        }
        match self.queue.submit(Writable(buffer)) {
            Ok(_) => Ok(()),
            Err(rejected) => Err((rejected.buf.0, RefillFailure::Queue(rejected.why))),
        }
    }

    /// Makes what was given visible to the device, and tells it if it wants to be told.
    #[inline]
    pub fn kick(&mut self) {
        self.queue.kick();
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
        let len = written.checked_sub(self.header_len).unwrap_or_else(|| {
            self.runts = self.runts.wrapping_add(1);
            0
        });
        Ok(Some(Window::new(memory, self.header_len, len)))
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
