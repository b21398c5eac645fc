//! How a device is reached: registers, capabilities, interrupts, doorbells.
//!
//! A [`Transport`] serves the initialization sequence and the control path. The data path never
//! touches it: enabling a queue returns a [`Doorbell`], a plain value that rings without reading a
//! register, and [`Transport::take_isr`] returns an [`Isr`], a plain value that an interrupt
//! handler can hold.
//!
//! # Legacy devices
//! A device from before VIRTIO 1.0, and a transitional one that is reached by its legacy interface,
//! has another transport, which says [`is_legacy`](Transport::is_legacy). What is different then:
//!
//! ```text
//!                   modern                            legacy
//!   features        128 bits                          bits 0 to 31, never VERSION_1
//!   status          FEATURES_OK is set and read back  there is no such bit
//!   ring            three addresses of 64 bits        one block, told as a page frame number
//!   size of a queue the driver's, up to a maximum     PCI: the device's; MMIO: as modern
//!   byte order      little-endian                     the guest's
//!   configuration   has a generation                  has none: read until two reads agree
//! ```
//!
//! [`init`](crate::init) sees to all of it; a transport tells what it is, and turns the address of
//! a ring into a [page frame number](QueueAreas::page_frame).
//!
//! What this module does not know: rings and buffers.

pub mod config;
pub mod mmio;
pub mod pci;

#[cfg(feature = "alloc")]
mod boxed;
mod doorbell;
mod isr;
mod space;

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

/// A region of memory that a device shares with its driver (VIRTIO 1.4, 2.10).
///
/// Both numbers are the device's word: map the region only where no RAM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShmRegion {
    /// First physical address.
    pub address: u64,
    /// Bytes; at least 1, and the region ends within the address space.
    pub length: u64,
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

/// Bytes of a page of a legacy device, whatever a page of the guest is: the address of a ring is
/// told in such pages, and its used ring is aligned to one (VIRTIO 1.4, 2.7.2 and 4.1.5.1.3.1;
/// 4.2.4, where the driver chooses both).
#[doc(alias = "VIRTIO_PCI_VRING_ALIGN")]
#[doc(alias = "VIRTIO_PCI_QUEUE_ADDR_SHIFT")]
pub const LEGACY_PAGE_SIZE: u32 = 4096;

impl QueueAreas {
    /// The number of the page at which the ring of `queue` starts, as a legacy device is told of
    /// it: the address of the descriptor table in units of [`LEGACY_PAGE_SIZE`]. The other two
    /// areas follow from it ([`vring_init`](crate::ring::layout::vring_init)).
    ///
    /// # Errors
    /// [`TransportError::QueueAddress`], when the address is not a page's, is 0, which means no
    /// queue, or is 2^44 or more, which 32 bits cannot tell.
    #[doc(alias = "QueuePFN")]
    #[doc(alias = "VIRTIO_PCI_QUEUE_PFN")]
    pub const fn page_frame(&self, queue: QueueIndex) -> Result<u32, TransportError> {
        let page = LEGACY_PAGE_SIZE as u64;
        let addr = self.desc;
        let frame = addr.0 / page;
        if frame == 0 || frame > u32::MAX as u64 || addr.0 & (page - 1) != 0 {
            return Err(TransportError::QueueAddress { queue, addr });
        }
        Ok(frame as u32)
    }
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
    /// A legacy device cannot be told where the ring is.
    QueueAddress {
        /// The queue.
        queue: QueueIndex,
        /// Where the ring is.
        addr: DmaAddr,
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
    /// A legacy device on a big-endian target: its byte order would be the guest's, and this crate
    /// writes little-endian ones.
    LegacyByteOrder,
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
            Self::QueueAddress { queue, addr } => write!(
                f,
                "{queue}: a legacy device cannot be told of a ring at {addr}: it takes a page \
                 above 0 and below {:#x}; have `Platform::alloc` return memory from there",
                1u64 << 44
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
            Self::LegacyByteOrder => f.write_str(
                "a legacy device has the byte order of the guest, which is big-endian here and not \
                 implemented; give it a modern interface (QEMU: disable-modern=off, or \
                 virtio-mmio.force-legacy=off)",
            ),
            Self::Unsupported { what } => write!(f, "the transport does not support {what}"),
        }
    }
}

impl core::error::Error for TransportError {}

/// Refuses a size that a queue cannot have, of which the device says the maximum. A transport may
/// read that anew: what was chosen by it before is checked.
fn check_queue_size(
    queue: QueueIndex,
    size: u16,
    max: u16,
    accepted: Features,
) -> Result<(), TransportError> {
    let packed = accepted.has(Feature::RING_PACKED);
    match size {
        _ if max == 0 => Err(TransportError::QueueUnavailable { queue }),
        1..=0x8000 if size <= max && (packed || size.is_power_of_two()) => Ok(()),
        _ => Err(TransportError::QueueSize { queue, size, max }),
    }
}

/// The words of the features that a driver accepts, with their numbers. Devices of before VIRTIO 1.4
/// know two only, and have no need of zeros in the others: only where there were some `before`.
fn driver_words(before: Features, accepted: Features) -> impl Iterator<Item = (u32, u32)> {
    let words = (0..4).map(move |select| (select, accepted.word(select)));
    words.filter(move |&(select, word)| select < 2 || before.word(select) | word != 0)
}

/// A device as initialization and the control path see it. Object-safe: with `alloc`, a
/// `Box<dyn Transport + Send>` is a transport too, for a kernel that learns only at run time how
/// its devices are reached.
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
///    done: it uses no memory any more. A legacy device has no other way to say so than a status
///    that reads 0, and has forgotten the page frame number of every queue by then (VIRTIO 1.4,
///    4.2.4).
/// 3. [`is_queue_reset`](Self::is_queue_reset) says yes only when the device says that it uses no
///    memory of that queue any more.
#[allow(unsafe_code)] // declares the contract that a transport signs
pub unsafe trait Transport {
    /// The type of the device.
    fn device_id(&self) -> DeviceId;

    /// Whether the device is driven by its legacy interface. Then it is told nothing of what VIRTIO
    /// 1.0 brought: features above 31, `FEATURES_OK`, a queue's reset, its three areas one by one.
    ///
    /// It is the same for as long as the transport lives. A modern device stays modern when it does
    /// not offer `VIRTIO_F_VERSION_1`; it cannot be driven.
    fn is_legacy(&self) -> bool {
        false
    }

    /// Whether a queue has exactly [`max_queue_size`](Self::max_queue_size) descriptors, as on a
    /// legacy PCI device, which takes no other size (VIRTIO 1.4, 4.1.5.1.3.1). Otherwise the driver
    /// may choose fewer.
    fn is_queue_size_fixed(&self) -> bool {
        false
    }

    /// How many queues the device says it has, where the transport can tell.
    fn num_queues(&self) -> Option<u16>;

    /// Reads the device status.
    fn status(&self) -> Status;

    /// Writes the device status; [`Status::empty`] resets the device.
    fn set_status(&mut self, status: Status);

    /// Reads the feature bits that the device offers: of a legacy device, bits 0 to 31.
    fn device_features(&mut self) -> Features;

    /// Which of [`Features::TRANSPORT`] this transport implements, for this device. The others are
    /// not accepted, even if offered (VIRTIO 1.4, 2.2.1).
    fn transport_features(&self) -> Features {
        Features::EMPTY
    }

    /// Writes the feature bits that the driver accepts. A legacy device is given none above 31.
    fn set_driver_features(&mut self, features: Features);

    /// The largest size of a queue, or its only one ([`is_queue_size_fixed`]); 0 when the queue
    /// does not exist, and over MMIO when it is in use, where the size is not to be read (VIRTIO 1.4,
    /// 4.2.3.2 and 4.2.4).
    ///
    /// [`is_queue_size_fixed`]: Self::is_queue_size_fixed
    fn max_queue_size(&mut self, queue: QueueIndex) -> u16;

    /// Programmes a queue and enables it. `vector` is its interrupt vector, `None` for none.
    ///
    /// A legacy device is told the [page frame number](QueueAreas::page_frame) of the ring, after
    /// all else: it may use the queue from then on, before `DRIVER_OK`. Where the size is not
    /// fixed, it is told the size and an alignment of [`LEGACY_PAGE_SIZE`] before.
    ///
    /// # Errors
    /// Any of the queue or vector variants of [`TransportError`]. After an error the device may or
    /// may not have taken the addresses: only a reset tells.
    ///
    /// # Safety
    /// The areas are the ring of a queue of that size, in memory that stays theirs until the device
    /// has confirmed a reset. Of a legacy device, they are one block, as
    /// [`vring_init`](crate::ring::layout::vring_init) lays it out with an alignment of
    /// [`LEGACY_PAGE_SIZE`], and the size is the device's where that is fixed.
    /// [`init`](crate::init) sees to it.
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

    /// The configuration generation, where the transport has one: a legacy one has none.
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

    /// Where the shared memory region `id` of the device is (VIRTIO 1.4, 2.10); what it is for is
    /// the device type's business. `None`: the device has no such region, or says nonsense of it.
    fn shm_region(&mut self, id: u8) -> Option<ShmRegion> {
        let _ = id;
        None
    }

    /// Takes the handle for the interrupt handler; `None` when it was taken already, or when the
    /// transport has no interrupt status register.
    fn take_isr(&mut self) -> Option<Isr>;
}
