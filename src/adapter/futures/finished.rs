//! What has come back, as a value that can be kept.

use alloc::boxed::Box;
use core::fmt;

use zerocopy::FromBytes;

use crate::virtqueue::{Completion, Ticket};

/// Bytes of a reply that are kept without a heap.
const SHORT: usize = 16;

/// A buffer that the device has returned, with all that its completion said.
///
/// It is a [`Completion`] that does not borrow the queue. A reply of more than 16 bytes is kept on
/// the heap.
#[must_use = "the buffer is in it"]
pub struct Finished<B> {
    buf: B,
    ticket: Ticket,
    written: u32,
    claimed: u32,
    assumed: bool,
    reply: Reply,
}

/// The content of a reply cell.
enum Reply {
    None,
    Short(usize, [u8; SHORT]),
    Long(Box<[u8]>),
}

impl Reply {
    fn of<B>(done: &Completion<'_, B>) -> Self {
        let size = done.reply_size();
        let mut short = [0; SHORT];
        if size == 0 {
            Self::None
        } else if let Some(bytes) = short.get_mut(..size) {
            done.copy_reply(bytes);
            Self::Short(size, short)
        } else {
            let mut bytes = alloc::vec![0; size].into_boxed_slice();
            done.copy_reply(&mut bytes);
            Self::Long(bytes)
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::None => &[],
            Self::Short(size, bytes) => bytes.get(..*size).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }
}

impl<B> Finished<B> {
    pub(super) fn new(done: Completion<'_, B>) -> Self {
        Self {
            ticket: done.ticket(),
            written: done.written(),
            claimed: done.claimed(),
            assumed: done.is_assumed(),
            reply: Reply::of(&done),
            buf: done.into_buf(),
        }
    }

    /// Which submission it was. Its slot may be another's by now.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// As [`Completion::written`]: bytes that the device wrote.
    pub fn written(&self) -> u32 {
        self.written
    }

    /// As [`Completion::claimed`]: bytes that it says it wrote.
    pub fn claimed(&self) -> u32 {
        self.claimed
    }

    /// As [`Completion::is_assumed`]: it said nothing of this very chain.
    pub fn is_assumed(&self) -> bool {
        self.assumed
    }

    /// The buffer.
    pub fn buf(&self) -> &B {
        &self.buf
    }

    /// Takes the buffer.
    pub fn into_buf(self) -> B {
        self.buf
    }

    /// The reply, as [`Completion::reply`]: `None` when the chain had no reply cell, or one smaller
    /// than `R`.
    pub fn reply<R: FromBytes>(&self) -> Option<R> {
        match self.reply {
            Reply::None => None,
            _ => R::read_from_prefix(self.reply.bytes())
                .ok()
                .map(|(reply, _)| reply),
        }
    }
}

impl<B> fmt::Debug for Finished<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Finished")
            .field("ticket", &self.ticket)
            .field("written", &self.written)
            .field("claimed", &self.claimed)
            .finish_non_exhaustive()
    }
}

/// A buffer that nobody waits for.
#[derive(Debug)]
pub enum Unclaimed<B> {
    /// The device has returned it, and its future was dropped before.
    Finished(Finished<B>),
    /// It was never submitted: the future that waited for room was dropped.
    NotSubmitted(B),
}

impl<B> Unclaimed<B> {
    /// The buffer.
    pub fn into_buf(self) -> B {
        match self {
            Self::Finished(finished) => finished.into_buf(),
            Self::NotSubmitted(buf) => buf,
        }
    }
}
