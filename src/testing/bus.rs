//! Guest memory as a device reaches it.

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::Ordering;

use super::books::{Core, Style};
use super::memory::Words;
use super::table::Memory;
use crate::platform::{Direction, DmaAddr};

/// Why the device could not reach memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusFault {
    /// Nothing was ever at this address.
    Wild {
        /// Where.
        addr: DmaAddr,
        /// Bytes of the access.
        len: usize,
    },
    /// What was at this address was freed or unmapped, or the access starts past its end.
    Freed {
        /// Where.
        addr: DmaAddr,
        /// Bytes of the access.
        len: usize,
    },
    /// The access goes past the end of what is there.
    Overrun {
        /// Where.
        addr: DmaAddr,
        /// Bytes of the access.
        len: usize,
        /// Bytes that are there.
        room: usize,
    },
    /// The buffer was mapped for the other direction.
    Direction {
        /// Where.
        addr: DmaAddr,
        /// What the device may do.
        allowed: Direction,
    },
    /// A word of a ring in memory that the driver did not allocate from the platform.
    NotShared {
        /// Where.
        addr: DmaAddr,
    },
    /// A word that is not aligned to its size.
    Misaligned {
        /// Where.
        addr: DmaAddr,
        /// Bytes of the word.
        width: usize,
    },
    /// A buffer of a queue that was stopped by a reset.
    Halted {
        /// Where.
        addr: DmaAddr,
    },
    /// Memory of an [`InPlace`](super::InPlace) platform, touched without the queue that carries
    /// it: nothing would stop the access when the driver has its buffer back.
    Direct {
        /// Where.
        addr: DmaAddr,
    },
}

impl fmt::Display for BusFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Wild { addr, len } => write!(f, "{len} bytes at {addr}: nothing was ever there"),
            Self::Freed { addr, len } => write!(f, "{len} bytes at {addr}: freed or unmapped"),
            Self::Overrun { addr, len, room } => {
                write!(f, "{len} bytes at {addr}: there are only {room}")
            }
            Self::Direction { addr, allowed } => {
                write!(f, "the buffer at {addr} is only {allowed:?}")
            }
            Self::NotShared { addr } => write!(f, "{addr} is not memory from `Platform::alloc`"),
            Self::Misaligned { addr, width } => write!(f, "a word of {width} bytes at {addr}"),
            Self::Halted { addr } => write!(f, "{addr}: the device was reset"),
            Self::Direct { addr } => {
                write!(
                    f,
                    "{addr} of an in-place platform is reached through its queue only"
                )
            }
        }
    }
}

impl core::error::Error for BusFault {}

/// Guest memory as a device reaches it: by bus address, checked. Clones are the same memory.
///
/// The methods panic where the device is trapped; the `try_` forms return the fault instead.
///
/// Bytes are plain memory: the device touches what the driver has published, and returns it
/// before the driver touches it again. A test that breaks this from another thread has a data
/// race, which Miri reports. Words of rings are atomics.
///
/// On an [`InPlace`](super::InPlace) platform only reads of allocated memory work here. Nobody
/// tells that platform when a buffer is the driver's again, so buffers are reached through the
/// queue that carries them ([`QueueDevice::read`](super::QueueDevice::read) and `write`), which
/// ends the loan when it returns them.
#[derive(Clone)]
pub struct Bus {
    core: Arc<Core>,
}

impl Bus {
    pub(super) fn new(style: Style) -> Self {
        Self {
            core: Arc::new(Core::new(style)),
        }
    }

    pub(super) fn core(&self) -> &Core {
        &self.core
    }

    /// Reads bytes.
    ///
    /// # Panics
    /// With the [`BusFault`].
    pub fn read(&self, addr: DmaAddr, into: &mut [u8]) {
        self.try_read(addr, into)
            .unwrap_or_else(|fault| panic!("device read: {fault}"));
    }

    /// Writes bytes.
    ///
    /// # Panics
    /// With the [`BusFault`].
    pub fn write(&self, addr: DmaAddr, bytes: &[u8]) {
        self.try_write(addr, bytes)
            .unwrap_or_else(|fault| panic!("device write: {fault}"));
    }

    /// Reads bytes.
    ///
    /// # Errors
    /// The [`BusFault`]; nothing is read then.
    pub fn try_read(&self, addr: DmaAddr, into: &mut [u8]) -> Result<(), BusFault> {
        self.refuse_leased(addr, into.len())?;
        self.lent_read(addr, into)
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// The [`BusFault`]; nothing is written then.
    pub fn try_write(&self, addr: DmaAddr, bytes: &[u8]) -> Result<(), BusFault> {
        self.refuse_direct(addr)?;
        self.lent_write(addr, bytes)
    }

    /// Whether the device may read or write these bytes.
    ///
    /// # Errors
    /// The [`BusFault`] that it would meet.
    pub fn check(&self, addr: DmaAddr, len: usize, direction: Direction) -> Result<(), BusFault> {
        self.core.table().find_for(addr, len, direction).map(|_| ())
    }

    /// As `try_read`, also of a leased buffer: for queues, which end leases.
    pub(super) fn lent_read(&self, addr: DmaAddr, into: &mut [u8]) -> Result<(), BusFault> {
        let table = self.core.table();
        let (entry, offset) = table.find_for(addr, into.len(), Direction::Readable)?;
        entry.read(offset, into);
        Ok(())
    }

    /// As `try_write`, also of a leased buffer: for queues, which end leases.
    pub(super) fn lent_write(&self, addr: DmaAddr, bytes: &[u8]) -> Result<(), BusFault> {
        let table = self.core.table();
        let (entry, offset) = table.find_for(addr, bytes.len(), Direction::Writable)?;
        entry.write(offset, bytes);
        Ok(())
    }

    /// Whether buffers are leased, not mapped.
    pub(super) fn is_direct(&self) -> bool {
        self.core.style() == Style::Direct
    }

    /// The device is about to return the buffer at `addr`, and touches it no more.
    pub(super) fn end_lease(&self, addr: DmaAddr) {
        if self.is_direct() {
            self.core.table().end_lease(addr);
        }
    }

    /// The words of `len` bytes that the driver allocated.
    pub(super) fn words(&self, addr: DmaAddr, len: usize) -> Result<Words, BusFault> {
        self.core.table().words(addr, len)
    }

    fn refuse_direct(&self, addr: DmaAddr) -> Result<(), BusFault> {
        match self.is_direct() {
            true => Err(BusFault::Direct { addr }),
            false => Ok(()),
        }
    }

    fn refuse_leased(&self, addr: DmaAddr, len: usize) -> Result<(), BusFault> {
        match self.core.table().find(addr, len)?.0.memory {
            Memory::Leased(_) => Err(BusFault::Direct { addr }),
            _ => Ok(()),
        }
    }

    fn word(&self, addr: DmaAddr, width: usize) -> Words {
        match addr.0.is_multiple_of(width as u64) {
            true => self.words(addr, width),
            false => Err(BusFault::Misaligned { addr, width }),
        }
        .unwrap_or_else(|fault| panic!("device word: {fault}"))
    }
}

macro_rules! bus_words {
    ($($load:ident, $store:ident: $int:ty, $bits:literal;)*) => { impl Bus {$(
        #[doc = concat!("Loads a little-endian ", $bits, "-bit word of a ring.")]
        ///
        /// # Panics
        /// With the [`BusFault`].
        #[must_use]
        pub fn $load(&self, addr: DmaAddr, order: Ordering) -> $int {
            self.word(addr, size_of::<$int>()).$load(0, order)
        }

        #[doc = concat!("Stores a little-endian ", $bits, "-bit word of a ring.")]
        ///
        /// # Panics
        /// With the [`BusFault`].
        pub fn $store(&self, addr: DmaAddr, value: $int, order: Ordering) {
            self.refuse_direct(addr).unwrap_or_else(|fault| panic!("device word: {fault}"));
            self.word(addr, size_of::<$int>()).$store(0, value, order);
        }
    )*} };
}

bus_words! {
    load_u16, store_u16: u16, "16";
    load_u32, store_u32: u32, "32";
    load_u64, store_u64: u64, "64";
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("style", &self.core.style())
            .field("counts", &self.core.counts())
            .finish()
    }
}
