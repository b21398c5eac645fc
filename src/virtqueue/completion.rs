//! What comes back.

use core::fmt;

use zerocopy::FromBytes;

use crate::ring::take::Used;
use crate::shared::Cells;

/// Names one submission: its slot, and a number that tells it from others in that slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    slot: u16,
    number: u64,
}

impl Ticket {
    #[inline]
    pub(crate) fn new(slot: u16, number: u64) -> Self {
        Self { slot, number }
    }

    /// Below the queue size, and no other submission's while this one is in the queue: an index
    /// for a table beside it.
    #[inline]
    #[must_use]
    pub const fn slot(self) -> u16 {
        self.slot
    }
}

/// A buffer that the device has returned.
///
/// Bytes beyond [`written`](Self::written) are as the device left them: initialized, and without
/// meaning (VIRTIO 1.4, 2.7.8.2).
#[must_use = "the buffer is in it"]
pub struct Completion<'q, B> {
    buf: B,
    ticket: Ticket,
    written: u32,
    claimed: u32,
    assumed: bool,
    cells: Option<&'q Cells>,
}

impl<'q, B> Completion<'q, B> {
    #[inline(always)]
    pub(crate) fn new(used: Used<B>, cells: Option<&'q Cells>) -> Self {
        Self {
            ticket: Ticket::new(used.slot, used.number),
            buf: used.payload,
            written: used.written,
            claimed: used.claimed,
            assumed: used.assumed,
            cells,
        }
    }

    /// Which submission it was.
    #[inline]
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// Bytes that the device wrote, reply cell included, by its own word and no more than the
    /// chain holds.
    #[inline]
    pub fn written(&self) -> u32 {
        self.written
    }

    /// Bytes that the device says it wrote. More than [`written`](Self::written) is a lie that
    /// some honest back ends tell.
    #[inline]
    pub fn claimed(&self) -> u32 {
        self.claimed
    }

    /// The device said nothing of this chain but that a later one is done, as it may under
    /// `VIRTIO_F_IN_ORDER`: [`written`](Self::written) is then all that was writable.
    #[inline]
    pub fn is_assumed(&self) -> bool {
        self.assumed
    }

    /// The buffer.
    #[inline]
    pub fn buf(&self) -> &B {
        &self.buf
    }

    /// Takes the buffer.
    #[inline]
    pub fn into_buf(self) -> B {
        self.buf
    }

    /// Copies the reply out of its cell; `None` when the chain had no reply cell, or one smaller
    /// than `R`. Bytes that the device did not write are ones.
    pub fn reply<R: FromBytes + zerocopy::IntoBytes>(&self) -> Option<R> {
        let cells = self.cells?;
        if size_of::<R>() > usize::from(cells.reply_size()) {
            return None;
        }
        let mut reply = R::new_zeroed();
        cells.read_reply(self.ticket.slot, reply.as_mut_bytes());
        Some(reply)
    }

    /// Bytes of the reply cell; 0 when the chain had none.
    #[cfg(feature = "futures")]
    pub(crate) fn reply_size(&self) -> usize {
        self.cells.map_or(0, |cells| cells.reply_size().into())
    }

    /// Copies the reply out of its cell: as many bytes as `to` has, and no more than
    /// [`reply_size`](Self::reply_size).
    #[cfg(feature = "futures")]
    pub(crate) fn copy_reply(&self, to: &mut [u8]) {
        if let Some(cells) = self.cells.filter(|_| to.len() <= self.reply_size()) {
            cells.read_reply(self.ticket.slot, to);
        }
    }
}

impl<B> fmt::Debug for Completion<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Completion")
            .field("ticket", &self.ticket)
            .field("written", &self.written)
            .field("claimed", &self.claimed)
            .finish_non_exhaustive()
    }
}
