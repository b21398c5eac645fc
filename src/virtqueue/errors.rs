//! What can go wrong on a queue.

use core::fmt;

use crate::platform::DmaError;

/// Why a queue does not work: what a device did that no device may do, and the queue is broken until
/// the device is reset; or what its driver did to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The used index moved back, or by more than was with the device.
    UsedIndex {
        /// The index that was read.
        seen: u16,
        /// Where it was before.
        last: u16,
        /// Chains that were with the device.
        outstanding: u16,
    },
    /// A used element names a descriptor beyond the queue.
    UsedIdOutOfRange {
        /// The id.
        id: u32,
        /// Queue size.
        size: u16,
    },
    /// A used element names a descriptor at which no chain starts that is with the device: it is
    /// idle, or in the middle of a chain, or was returned before.
    UsedIdNotInFlight {
        /// The id.
        id: u32,
    },
    /// The queue's own records contradict each other. This cannot be a device's doing while the
    /// platform keeps private memory private.
    Corrupt {
        /// The slot concerned.
        slot: u16,
    },
    /// The driver began to reset the queue, or the device, which has not confirmed it.
    ResetUnconfirmed,
    /// The queue was reset, and has not been set up again.
    Stopped,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::UsedIndex {
                seen,
                last,
                outstanding,
            } => write!(
                f,
                "the used index went from {last} to {seen} with {outstanding} chains outstanding"
            ),
            Self::UsedIdOutOfRange { id, size } => {
                write!(f, "used id {id} in a queue of {size}")
            }
            Self::UsedIdNotInFlight { id } => {
                write!(
                    f,
                    "used id {id}, where no chain that is with the device starts"
                )
            }
            Self::Corrupt { slot } => write!(f, "the record of slot {slot} is corrupt"),
            Self::ResetUnconfirmed => f.write_str("its reset is not confirmed"),
            Self::Stopped => f.write_str("it was reset, and is not set up again"),
        }
    }
}

impl core::error::Error for Fault {}

/// Why a buffer was not taken. The queue is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reject {
    /// There is no room now: reap, and try again.
    Full {
        /// Descriptors that the chain takes, at least.
        needed: usize,
        /// Descriptors that are free.
        free: u16,
    },
    /// The chain is longer than the queue, or than
    /// [`QueueConfig::longest`](crate::init::QueueConfig::longest) allows: it will never fit.
    TooManySegments {
        /// Descriptors that the chain takes, at least.
        needed: usize,
        /// Descriptors that a chain has at most.
        most: u16,
    },
    /// A segment has no bytes, or the buffer has no segments (VIRTIO 1.4, 2.7.5).
    Empty {
        /// The segment.
        index: usize,
    },
    /// A segment of 2^32 bytes or more, or a chain of more than 2^32 (VIRTIO 1.4, 2.7.5.2).
    TooLong {
        /// Bytes.
        bytes: u64,
    },
    /// A device-readable segment behind a device-writable one (VIRTIO 1.4, 2.7.4.2).
    Order {
        /// The readable segment.
        index: usize,
    },
    /// The header is larger than the cell that was declared for it.
    Header {
        /// Bytes of the header.
        size: usize,
        /// Bytes of the cell.
        max: u16,
    },
    /// The first bytes, which a legacy device wants in one descriptor, are in several pieces for it:
    /// they cross a page of a platform whose pages are not neighbors.
    Cut {
        /// How many bytes.
        at: usize,
    },
    /// The platform could not map a segment; perhaps it can later.
    Map(DmaError),
    /// The queue is broken until its device is reset.
    Broken(Fault),
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Full { needed, free } => {
                write!(
                    f,
                    "the queue is full: {needed} descriptors are needed, {free} are free"
                )
            }
            Self::TooManySegments { needed, most } => {
                write!(
                    f,
                    "a chain of {needed} descriptors never fits: {most} are the most"
                )
            }
            Self::Empty { index } => write!(f, "segment {index} is empty"),
            Self::TooLong { bytes } => {
                write!(
                    f,
                    "{bytes} bytes are more than a descriptor or a chain holds"
                )
            }
            Self::Order { index } => {
                write!(
                    f,
                    "segment {index} is device-readable, behind a device-writable one"
                )
            }
            Self::Header { size, max } => {
                write!(
                    f,
                    "a header of {size} bytes, where the queue was made for {max}"
                )
            }
            Self::Cut { at } => write!(
                f,
                "the first {at} bytes are not one piece for the device, as a legacy one wants \
                 them: have the buffer start further from the end of its page"
            ),
            Self::Map(error) => error.fmt(f),
            Self::Broken(fault) => write!(f, "the queue does not work until a reset: {fault}"),
        }
    }
}

impl core::error::Error for Reject {}

/// A buffer that was not taken, and why.
pub struct Rejected<B> {
    /// The buffer, untouched.
    pub buf: B,
    /// Why it was not taken.
    pub why: Reject,
}

impl<B> fmt::Debug for Rejected<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected")
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}

impl<B> fmt::Display for Rejected<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl<B> core::error::Error for Rejected<B> {}

/// A burst that ended early.
pub struct BurstError<B> {
    /// Buffers of the burst that are in the queue.
    pub submitted: usize,
    /// The one that was not taken.
    pub rejected: Rejected<B>,
}

impl<B> fmt::Debug for BurstError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BurstError")
            .field("submitted", &self.submitted)
            .field("why", &self.rejected.why)
            .finish_non_exhaustive()
    }
}

impl<B> fmt::Display for BurstError<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} buffers: {}", self.submitted, self.rejected)
    }
}

impl<B> core::error::Error for BurstError<B> {}
