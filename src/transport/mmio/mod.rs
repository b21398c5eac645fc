//! virtio over MMIO (VIRTIO 1.4, 4.2): a window of registers at an address that somebody knows.
//!
//! ```text
//!   device tree ─▶ Node ──┐
//!   virtio_mmio.device= ──┼─▶ Window ──(the kernel maps it)──▶ Registers ──▶ MmioTransport::new
//!   ACPI ─────────────────┘   address, length, interrupt         magic, version, device id │
//!                                                                                          ▼
//!                                                   Ok(None): nothing there     Ok(Some(transport))
//! ```
//!
//! There is no bus to scan. What machines with such devices have is a row of windows, most of them
//! empty; [`MmioTransport::new`] looks into one of them.
//!
//! ```
//! use vring::transport::mmio::{self, MmioError, MmioTransport};
//! use vring::transport::{DeviceId, Registers, Transport};
//!
//! /// The first network card of those that the command line tells of.
//! fn find_net(command_line: &str) -> Option<(MmioTransport, mmio::Window)> {
//!     for found in mmio::command_line(command_line) {
//!         let window = match found {
//!             Ok(device) => device.window,
//!             Err(why) => { log::warn!("{why}"); continue }
//!         };
//!         let Some(base) = map_uncached(window.address, window.length) else { continue };
//!         // SAFETY: device registers, mapped for good, lent to this transport alone.
//!         let registers = unsafe { Registers::new(base, window.length as usize) };
//!         match MmioTransport::new(registers) {
//!             Ok(Some(device)) if device.device_id() == DeviceId::NETWORK => {
//!                 return Some((device, window));
//!             }
//!             Ok(_) => {} // nothing is plugged in there, or something else
//!             Err(why) => log::warn!("{:#x}: {why}", window.address),
//!         }
//!     }
//!     None
//! }
//! # fn map_uncached(_: u64, _: u64) -> Option<core::ptr::NonNull<u8>> { None }
//! # assert!(find_net("quiet virtio_mmio.device=512@0xfeb00000:5").is_none());
//! ```
//!
//! # Two versions
//! Version 2 is the modern interface. Version 1 is the legacy one, which QEMU's `virt` machines
//! still have by default (`-global virtio-mmio.force-legacy=false` turns it off): the same
//! registers, but for how a queue's address is told, and no more than 32 features. One type serves
//! both; [`Transport::is_legacy`] says which it is.
//!
//! # Interrupts
//! A device has one interrupt and no vectors. Its handler calls [`Isr::ack`], which reads
//! `InterruptStatus` and writes to `InterruptACK` what it saw, and then every queue is looked at:
//! the status does not say which one it was.
//!
//! # What devices get wrong
//! QEMU's take every selection of feature words above 1 for 1; the repeats are left out. QEMU 7.2
//! offers `VIRTIO_F_RING_RESET` and has no register for it: such a reset is never confirmed, nothing
//! is given back, and the device has to be reset instead.
//!
//! What this module does not do: it maps nothing, walks no device tree and no ACPI name space, and
//! waits for nothing. A reset is a write of 0, and whoever wrote it polls the status until it reads
//! 0.
//!
//! [`Isr::ack`]: super::Isr::ack
//! [`Transport::is_legacy`]: super::Transport::is_legacy

mod command_line;
mod discover;
mod layout;
mod queue;
mod transport;

use core::fmt;

pub use command_line::{
    CommandLine, CommandLineDevice, CommandLineError, CommandLineFault, command_line,
};
pub use discover::{Line, Node, NodeError, Trigger, Window};
pub use transport::MmioTransport;

use layout::{CONFIG, MAGIC};

/// Why a window cannot be used. A window in which nothing is plugged in is no error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MmioError {
    /// The window is too short for the control registers.
    TooShort {
        /// Its length in bytes.
        length: usize,
    },
    /// The window is not mapped at a multiple of 4.
    Misaligned,
    /// There is no virtio device: the first register is not `virt`.
    NotVirtio {
        /// What it reads.
        magic: u32,
    },
    /// A virtio device of a version that this crate does not know.
    Version {
        /// The version.
        version: u32,
    },
    /// A virtio device of a type that cannot be: its number has more than 16 bits.
    DeviceId {
        /// The number.
        id: u32,
    },
}

impl fmt::Display for MmioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort { length } => write!(
                f,
                "a window of {length:#x} bytes has no room for the {CONFIG:#x} bytes of a virtio \
                 device's registers; map all of what the device tree, the command line or ACPI says"
            ),
            Self::Misaligned => f.write_str(
                "the window is not mapped at a multiple of 4: its registers have 32 bits",
            ),
            Self::NotVirtio { magic } => write!(
                f,
                "no virtio device is here: the first register reads {magic:#010x}, not {MAGIC:#x}; \
                 check the address, and that it is mapped uncached"
            ),
            Self::Version { version } => write!(
                f,
                "a virtio device of version {version} over MMIO; 2 is known, and 1, the legacy one"
            ),
            Self::DeviceId { id } => {
                write!(f, "a virtio device of type {id:#x}; types have 16 bits")
            }
        }
    }
}

impl core::error::Error for MmioError {}
