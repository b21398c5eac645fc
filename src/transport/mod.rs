//! How a device is reached: registers, capabilities, interrupts, doorbells.
//!
//! A [`Transport`] serves the initialization sequence and the control path. The data path never
//! touches it: enabling a queue returns a [`Doorbell`], a plain value that rings without reading a
//! register, and [`Transport::take_isr`] returns an [`Isr`], a plain value that an interrupt
//! handler can hold.
//!
//! What this module does not know: rings and buffers.

pub mod config;
pub mod pci;

mod doorbell;
mod isr;

use core::fmt;

use crate::features::{Feature, Features};
use crate::platform::DmaAddr;

pub use crate::mmio::{Native, Register, RegisterAccess, Registers};
pub use doorbell::Doorbell;
pub use isr::{Interrupt, Isr};

/// The type of a device (VIRTIO 1.4, 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct DeviceId(pub u16);

impl DeviceId {
    /// Network card.
    pub const NETWORK: Self = Self(1);
    /// Block device.
    pub const BLOCK: Self = Self(2);
    /// Console.
    pub const CONSOLE: Self = Self(3);
    /// Entropy source.
    pub const ENTROPY: Self = Self(4);
}

/// Number of a virtqueue, counted from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(transparent)]
pub struct QueueIndex(pub u16);

impl fmt::Display for QueueIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "queue {}", self.0)
    }
}

bitflags::bitflags! {
    /// The device status field (VIRTIO 1.4, 2.1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Status: u8 {
        /// The driver has noticed the device.
        #[doc(alias = "VIRTIO_CONFIG_S_ACKNOWLEDGE")]
        const ACKNOWLEDGE = 1;
        /// The driver knows how to drive the device.
        #[doc(alias = "VIRTIO_CONFIG_S_DRIVER")]
        const DRIVER = 2;
        /// The driver is ready.
        #[doc(alias = "VIRTIO_CONFIG_S_DRIVER_OK")]
        const DRIVER_OK = 4;
        /// The driver has accepted its features.
        #[doc(alias = "VIRTIO_CONFIG_S_FEATURES_OK")]
        const FEATURES_OK = 8;
        /// The device is suspended (VIRTIO 1.4).
        #[doc(alias = "VIRTIO_CONFIG_S_SUSPEND")]
        const SUSPEND = 16;
        /// The device met an error from which it cannot recover without a reset.
        #[doc(alias = "VIRTIO_CONFIG_S_NEEDS_RESET")]
        const NEEDS_RESET = 64;
        /// The driver has given up.
        #[doc(alias = "VIRTIO_CONFIG_S_FAILED")]
        const FAILED = 128;
        /// A device may set bits that this version of the specification does not name.
        const _ = !0;
    }
}

/// Where the three areas of a virtqueue are for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueAreas {
    /// Descriptor area: the descriptor table of a split ring.
    #[doc(alias = "queue_desc")]
    pub desc: DmaAddr,
    /// Driver area: the available ring of a split ring.
    #[doc(alias = "queue_driver")]
    #[doc(alias = "avail")]
    pub driver: DmaAddr,
    /// Device area: the used ring of a split ring.
    #[doc(alias = "queue_device")]
    #[doc(alias = "used")]
    pub device: DmaAddr,
}

/// Why a transport could not do as it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportError {
    /// The device has no such queue.
    QueueUnavailable {
        /// The queue.
        queue: QueueIndex,
    },
    /// The size is 0, above the device's maximum, or, for a split ring, not a power of two.
    QueueSize {
        /// The queue.
        queue: QueueIndex,
        /// The size asked for.
        size: u16,
        /// The device's maximum.
        max: u16,
    },
    /// The device did not take the size: it read back as another value.
    QueueSizeRefused {
        /// The queue.
        queue: QueueIndex,
        /// The size written.
        size: u16,
        /// What was read back.
        got: u16,
    },
    /// The queue is enabled already.
    QueueInUse {
        /// The queue.
        queue: QueueIndex,
    },
    /// The queue was enabled, and does not read back as enabled.
    QueueNotEnabled {
        /// The queue.
        queue: QueueIndex,
    },
    /// The notify address of the queue lies outside the notification structure.
    NotifyOutOfRange {
        /// The queue.
        queue: QueueIndex,
        /// Byte offset of the doorbell in the structure.
        offset: u64,
        /// Length of the structure in bytes.
        len: u64,
    },
    /// The notify address of the queue is not aligned to its width.
    NotifyMisaligned {
        /// The queue.
        queue: QueueIndex,
        /// Byte offset of the doorbell in the structure.
        offset: u64,
    },
    /// The interrupt vector is not one of the device's.
    VectorOutOfRange {
        /// The vector asked for.
        vector: u16,
        /// How many vectors there are.
        vectors: u16,
    },
    /// The device could not assign the interrupt vector: it read back as another value.
    VectorRefused {
        /// The vector asked for (`0xffff`: none).
        vector: u16,
        /// What was read back (`0xffff`: none).
        got: u16,
    },
    /// An interrupt vector was given to a transport that has none, or on which none are enabled.
    NoVectors,
    /// The range is outside the device's configuration space.
    ConfigOutOfRange {
        /// First byte.
        offset: usize,
        /// Bytes.
        len: usize,
        /// Bytes of configuration space that the device has.
        size: usize,
    },
    /// The configuration field exists only with a feature that is not there.
    FieldAbsent {
        /// First byte of the field.
        offset: usize,
        /// The feature.
        feature: Feature,
    },
    /// The configuration changed under every attempt to read it.
    ConfigUnstable,
    /// The transport cannot do this at all.
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::QueueUnavailable { queue } => write!(f, "the device has no {queue}"),
            Self::QueueSize { queue, size, max } => {
                write!(
                    f,
                    "{queue}: size {size} is not a power of two from 1 to {max}, the device's \
                     maximum"
                )
            }
            Self::QueueSizeRefused { queue, size, got } => write!(
                f,
                "{queue}: size {size} was written and {got} read back; reset the device and ask \
                 for another size"
            ),
            Self::QueueInUse { queue } => write!(f, "{queue} is enabled already"),
            Self::QueueNotEnabled { queue } => {
                write!(f, "{queue} does not read back as enabled")
            }
            Self::NotifyOutOfRange { queue, offset, len } => write!(
                f,
                "{queue}: the doorbell at offset {offset:#x} is outside the notification \
                 structure of {len:#x} bytes"
            ),
            Self::NotifyMisaligned { queue, offset } => write!(
                f,
                "{queue}: the doorbell at offset {offset:#x} is not aligned to its width"
            ),
            Self::VectorOutOfRange { vector, vectors } => write!(
                f,
                "interrupt vector {vector} is not one of the device's {vectors}"
            ),
            Self::VectorRefused { vector, got } => {
                write!(
                    f,
                    "the device took {got:#x} where interrupt vector {vector:#x} was written; \
                     share vectors between queues, or do without MSI-X"
                )
            }
            Self::NoVectors => f.write_str(
                "an interrupt vector was given and none are enabled: enable MSI-X first, or give \
                 none and use the interrupt status",
            ),
            Self::ConfigOutOfRange { offset, len, size } => write!(
                f,
                "{len} bytes at {offset} are outside a configuration space of {size} bytes"
            ),
            Self::FieldAbsent { offset, feature } => write!(
                f,
                "the configuration field at {offset} exists only with {feature}, which is not there"
            ),
            Self::ConfigUnstable => {
                f.write_str("the configuration changed under every attempt to read it")
            }
            Self::Unsupported { what } => write!(f, "the transport does not support {what}"),
        }
    }
}

impl core::error::Error for TransportError {}

/// A device as initialization and the control path see it. Object-safe.
///
/// # For implementors
/// What a transport *reads* is the device's word, and is checked by whoever uses it. What it is
/// told to write, it writes.
///
/// # Safety
/// Rings are freed on the word of a transport. An implementation promises:
///
/// 1. [`enable_queue`](Self::enable_queue) hands the areas to queue `queue` of this device and to
///    nobody else.
/// 2. [`set_status`](Self::set_status) with [`Status::empty`] resets this device, and
///    [`status`](Self::status) then reads as empty only when the device says that the reset is
///    done: it uses no memory any more.
/// 3. [`is_queue_reset`](Self::is_queue_reset) says yes only when the device says that it uses no
///    memory of that queue any more.
#[allow(unsafe_code)] // declares the contract that a transport signs
pub unsafe trait Transport {
    /// The type of the device.
    fn device_id(&self) -> DeviceId;

    /// How many queues the device says it has, where the transport can tell.
    fn num_queues(&self) -> Option<u16>;

    /// Reads the device status.
    fn status(&self) -> Status;

    /// Writes the device status; [`Status::empty`] resets the device.
    fn set_status(&mut self, status: Status);

    /// Reads the feature bits that the device offers.
    fn device_features(&mut self) -> Features;

    /// Which of [`Features::TRANSPORT`] this transport implements, for this device. The others are
    /// not accepted, even if offered (VIRTIO 1.4, 2.2.1).
    fn transport_features(&self) -> Features {
        Features::EMPTY
    }

    /// Writes the feature bits that the driver accepts.
    fn set_driver_features(&mut self, features: Features);

    /// The largest size of a queue; 0 when the queue does not exist.
    fn max_queue_size(&mut self, queue: QueueIndex) -> u16;

    /// Programmes a queue and enables it. `vector` is its interrupt vector, `None` for none.
    ///
    /// # Errors
    /// Any of the queue or vector variants of [`TransportError`]. After an error the device may or
    /// may not have taken the addresses: only a reset tells.
    ///
    /// # Safety
    /// The areas are the ring of a queue of that size, in memory that stays theirs until the device
    /// has confirmed a reset. [`init`](crate::init) sees to it.
    unsafe fn enable_queue(
        &mut self,
        queue: QueueIndex,
        size: u16,
        areas: &QueueAreas,
        vector: Option<u16>,
    ) -> Result<Doorbell, TransportError>;

    /// Begins to reset a queue, with `VIRTIO_F_RING_RESET` (VIRTIO 1.4, 2.6.1).
    ///
    /// # Errors
    /// [`TransportError::Unsupported`], where the transport or the device cannot.
    fn reset_queue(&mut self, queue: QueueIndex) -> Result<(), TransportError> {
        let _ = queue;
        let what = "VIRTIO_F_RING_RESET";
        Err(TransportError::Unsupported { what })
    }

    /// Whether the reset of a queue that was begun is done.
    fn is_queue_reset(&mut self, queue: QueueIndex) -> bool {
        let _ = queue;
        false
    }

    /// Sets the interrupt vector for configuration changes, and reads it back.
    ///
    /// # Errors
    /// [`TransportError::VectorRefused`], [`TransportError::NoVectors`].
    fn set_config_vector(&mut self, vector: Option<u16>) -> Result<(), TransportError>;

    /// The configuration generation, where the transport has one.
    fn config_generation(&self) -> Option<u32>;

    /// Bytes of device configuration space that the device has.
    fn config_size(&self) -> usize;

    /// Reads device configuration: an aligned field of 1, 2, 4 or 8 bytes by accesses of its width
    /// (two of 4 bytes for 8, low half first), anything else byte by byte. It may tear: see [`config::read`].
    ///
    /// # Errors
    /// [`TransportError::ConfigOutOfRange`].
    fn read_config(&self, offset: usize, dst: &mut [u8]) -> Result<(), TransportError>;

    /// Writes device configuration, with the widths of [`read_config`](Self::read_config).
    ///
    /// # Errors
    /// [`TransportError::ConfigOutOfRange`].
    fn write_config(&mut self, offset: usize, src: &[u8]) -> Result<(), TransportError>;

    /// Takes the handle for the interrupt handler; `None` when it was taken already, or when the
    /// transport has no interrupt status register.
    fn take_isr(&mut self) -> Option<Isr>;
}
