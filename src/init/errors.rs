//! What can go wrong on the way to a live device, and back.

use core::fmt;

use super::{Live, Quiesced};
use crate::buffer::DmaBuf;
use crate::features::{Features, NegotiateError};
use crate::platform::{DmaError, Platform};
use crate::ring::layout::LayoutError;
use crate::transport::{QueueIndex, Status, Transport, TransportError};
use crate::virtqueue::Virtqueue;

/// Why a device could not be initialized. The status is `FAILED` where there was one to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InitFailure {
    /// The status did not read 0 after a reset, for as long as the platform cared to wait.
    ResetNotConfirmed {
        /// What it read.
        status: Status,
    },
    /// A queue did not confirm its reset for as long as the platform cared to wait.
    QueueResetNotConfirmed {
        /// The queue.
        queue: QueueIndex,
    },
    /// The features do not do.
    Features(NegotiateError),
    /// The device did not keep `FEATURES_OK`: it cannot work with these features.
    FeaturesRefused {
        /// What was written.
        features: Features,
        /// The status that was read back.
        status: Status,
    },
    /// A queue could not be set up.
    Queue(QueueError),
    /// The transport could not do something that is not a queue's.
    Transport(TransportError),
    /// The device asks for a reset already.
    NeedsReset,
    /// Its configuration makes no sense; the text names the field.
    Configuration {
        /// The field, as the specification calls it.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// It is a device of another type than the driver's.
    WrongDevice {
        /// The driver's type id.
        expected: u16,
        /// The device's type id.
        found: u16,
    },
    /// All numbers for initializations have been given out.
    TooManyInitializations,
}

impl fmt::Display for InitFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ResetNotConfirmed { status } => {
                write!(
                    f,
                    "the device does not confirm its reset: status {:#x}",
                    status.bits()
                )
            }
            Self::QueueResetNotConfirmed { queue } => {
                write!(f, "{queue} does not confirm its reset")
            }
            Self::Features(error) => error.fmt(f),
            Self::FeaturesRefused { features, status } => write!(
                f,
                "the device does not accept the features {features} (status {:#x})",
                status.bits()
            ),
            Self::Queue(error) => error.fmt(f),
            Self::Transport(error) => error.fmt(f),
            Self::NeedsReset => f.write_str("the device asks for a reset"),
            Self::Configuration { field, value } => {
                write!(
                    f,
                    "the device's configuration is unusable: {field} = {value}"
                )
            }
            Self::WrongDevice { expected, found } => {
                write!(
                    f,
                    "a device of type {found}, where the driver is for type {expected}"
                )
            }
            Self::TooManyInitializations => f.write_str("too many initializations"),
        }
    }
}

impl core::error::Error for InitFailure {}

impl From<QueueError> for InitFailure {
    fn from(error: QueueError) -> Self {
        Self::Queue(error)
    }
}

impl From<TransportError> for InitFailure {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

/// A failure, and the transport to try again with.
pub struct InitError<T> {
    /// The transport.
    pub transport: T,
    /// What went wrong.
    pub why: InitFailure,
}

impl<T> fmt::Debug for InitError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InitError")
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Display for InitError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl<T> core::error::Error for InitError<T> {}

/// Why a queue could not be set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueueError {
    /// The device has no such queue, or says that its size is 0; or, over MMIO, the queue is in use:
    /// it was made before, or firmware left it.
    Unavailable {
        /// The queue.
        queue: QueueIndex,
    },
    /// The size asked for is 0.
    ZeroSize {
        /// The queue.
        queue: QueueIndex,
    },
    /// The storage that was lent is too short for a queue of even one descriptor.
    Storage {
        /// The queue.
        queue: QueueIndex,
        /// Slots lent.
        slots: usize,
        /// Mapping slots lent.
        mappings: usize,
    },
    /// The device fixes the size of the queue, and no ring has that size: it is above 32768, or, of
    /// a split ring, not a power of two.
    FixedSize {
        /// The queue.
        queue: QueueIndex,
        /// The size.
        size: u16,
    },
    /// The device fixes the size of the queue, and the storage that was lent is too short for it.
    FixedSizeStorage {
        /// The queue.
        queue: QueueIndex,
        /// The size.
        size: u16,
        /// Slots lent.
        slots: usize,
        /// Mapping slots lent.
        mappings: usize,
    },
    /// The queue has fewer descriptors than the driver needs for one buffer. The device was
    /// told to reset.
    TooShort {
        /// The queue.
        queue: QueueIndex,
        /// Its size.
        size: u16,
        /// Descriptors that a buffer takes.
        needed: u16,
    },
    /// The layout of the ring.
    Layout(LayoutError),
    /// No device memory.
    Memory(DmaError),
    /// The transport. The device has been told that the driver failed, and has been reset.
    Transport(TransportError),
    /// An earlier queue failed: nothing more can be set up.
    Failed,
}

impl fmt::Display for QueueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable { queue } => {
                write!(f, "the device has no {queue}, or it is in use already")
            }
            Self::ZeroSize { queue } => write!(f, "{queue}: a size of 0 was asked for"),
            Self::Storage {
                queue,
                slots,
                mappings,
            } => write!(
                f,
                "{queue}: {slots} slots and {mappings} mapping slots were lent, too few for any \
                 queue"
            ),
            Self::FixedSize { queue, size } => write!(
                f,
                "{queue}: the device has it take exactly {size} descriptors, which no ring has"
            ),
            Self::FixedSizeStorage {
                queue,
                size,
                slots,
                mappings,
            } => write!(
                f,
                "{queue}: the device has it take exactly {size} descriptors, and {slots} slots and \
                 {mappings} mapping slots were lent; lend {size} slots, and mapping slots for each \
                 of them where the platform maps"
            ),
            Self::TooShort {
                queue,
                size,
                needed,
            } => write!(
                f,
                "{queue}: a buffer takes {needed} descriptors here, and the queue has {size}; ask \
                 for a longer one, where the device has it"
            ),
            Self::Layout(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Transport(error) => error.fmt(f),
            Self::Failed => f.write_str("an earlier queue of this device failed"),
        }
    }
}

impl core::error::Error for QueueError {}

/// An initialization that was given up at its last step.
pub struct Aborted<T> {
    /// The transport.
    pub transport: T,
    /// What went wrong.
    pub why: InitFailure,
    /// The proof that closes the queues, when the device confirmed its reset.
    pub proof: Result<Quiesced, InitFailure>,
}

impl<T> fmt::Debug for Aborted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aborted")
            .field("why", &self.why)
            .field("proof", &self.proof)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Display for Aborted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl<T> core::error::Error for Aborted<T> {}

/// A reset that the device did not confirm: its queues cannot be taken apart.
#[derive(Debug)]
pub struct Leaked<P: Platform, T: Transport> {
    /// The device, to try again with.
    pub live: Live<P, T>,
    /// What the status read.
    pub why: InitFailure,
}

impl<P: Platform, T: Transport> fmt::Display for Leaked<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl<P: Platform + fmt::Debug, T: Transport + fmt::Debug> core::error::Error for Leaked<P, T> {}

/// A queue that was not reset, and why.
pub struct QueueResetError<P: Platform, B: DmaBuf> {
    /// The queue, as it was.
    pub queue: Virtqueue<P, B>,
    /// Why it was not reset.
    pub why: InitFailure,
}

impl<P: Platform, B: DmaBuf> fmt::Debug for QueueResetError<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueueResetError")
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}

impl<P: Platform, B: DmaBuf> fmt::Display for QueueResetError<P, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl<P: Platform, B: DmaBuf> core::error::Error for QueueResetError<P, B> {}
