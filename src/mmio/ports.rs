//! The I/O ports of x86: a space of 65536 addresses beside memory, reached by `in` and `out`.
//!
//! [`NativePorts`] are the eight of PCI configuration mechanism #1, [`Ports`] those of a device's
//! I/O BAR. Both check a port before it is touched, so that only creating one is a promise.

use core::arch::asm;

use super::ConfigPorts;
use crate::transport::{Doorbell, Isr};

/// The two instructions of a width.
macro_rules! instructions {
    ($word:ty, $read:ident, $write:ident, $in:literal, $out:literal, $reg:tt) => {
        /// # Safety
        /// The CPU may use ports, and a register of this width is at this one.
        #[inline]
        unsafe fn $read(port: u16) -> $word {
            let value: $word;
            // SAFETY: the caller vouches for the port.
            unsafe {
                asm!($in, out($reg) value, in("dx") port, options(nostack, preserves_flags));
            }
            value
        }

        /// # Safety
        /// As for reading. What the register does with the value is the caller's business.
        #[inline]
        unsafe fn $write(port: u16, value: $word) {
            // SAFETY: the caller vouches for the port.
            unsafe {
                asm!($out, in("dx") port, in($reg) value, options(nostack, preserves_flags));
            }
        }
    };
}

instructions!(u8, in8, out8, "in al, dx", "out dx, al", "al");
instructions!(u16, in16, out16, "in ax, dx", "out dx, ax", "ax");
instructions!(u32, in32, out32, "in eax, dx", "out dx, eax", "eax");

/// `in` and `out`. Other ports than the eight of configuration mechanism #1 are not touched:
/// they read as all-ones.
#[derive(Debug)]
pub struct NativePorts(());

impl NativePorts {
    /// The ports of this machine.
    ///
    /// # Safety
    /// 1. The CPU may use I/O ports: ring 0, or an I/O permission that allows them.
    /// 2. `0xcf8` to `0xcff` are PCI configuration mechanism #1, and nothing else uses them
    ///    meanwhile but other values of this type: the lock is in
    ///    [`PortIo`](crate::transport::pci::PortIo).
    /// 3. Whoever makes one answers for what configuration space is used for, as the makers of
    ///    every [`ConfigAccess`](crate::transport::pci::ConfigAccess) do.
    #[must_use]
    pub const unsafe fn new() -> Self {
        Self(())
    }
}

const fn ours(port: u16, width: u16) -> bool {
    port >= 0xcf8 && port <= 0xd00 - width
}

macro_rules! config_port {
    ($word:ty, $read:ident, $write:ident, $in:ident, $out:ident) => {
        fn $read(&self, port: u16) -> $word {
            if !ours(port, size_of::<$word>() as u16) {
                return <$word>::MAX;
            }
            // SAFETY: by the promise at `new`, one of the eight ports.
            unsafe { $in(port) }
        }

        fn $write(&self, port: u16, value: $word) {
            if !ours(port, size_of::<$word>() as u16) {
                return;
            }
            // SAFETY: by the promise at `new`, one of the eight ports.
            unsafe { $out(port, value) }
        }
    };
}

// SAFETY: one instruction of that width, at one of the eight ports; made by an unsafe function only.
unsafe impl ConfigPorts for NativePorts {
    config_port!(u8, read8, write8, in8, out8);
    config_port!(u16, read16, write16, in16, out16);
    config_port!(u32, read32, write32, in32, out32);
}

/// The registers of a device's I/O BAR, at I/O ports of this machine: what [`Registers`] are for
/// memory. On other architectures the host bridge shows I/O space as memory: there `Registers`
/// serve.
///
/// [`Registers`]: super::Registers
#[derive(Debug)]
pub struct Ports {
    first: u16,
    len: u16,
}

impl Ports {
    /// The `len` ports from `first` on are device registers.
    ///
    /// # Safety
    /// 1. The CPU may use I/O ports: ring 0, or an I/O permission that allows them; and so it stays
    ///    while the transport made from them, or a doorbell or interrupt handle that it handed out,
    ///    may be used.
    /// 2. They are the registers of one device, and nobody else uses them meanwhile.
    /// 3. They are no ports by which others are programmed, such as those of a DMA controller. An
    ///    I/O BAR holds what firmware *or the host* wrote there: a kernel that does not trust its
    ///    host refuses what is not in the I/O window of a host bridge.
    /// 4. They go to the transport that asked for the ports from `first` on.
    #[must_use]
    pub const unsafe fn new(first: u16, len: u16) -> Self {
        Self { first, len }
    }

    /// How many ports there are.
    #[must_use]
    #[expect(clippy::len_without_is_empty)] // an empty range has no use that could ask
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the first port is a multiple of `alignment`, a power of two.
    pub(crate) const fn is_aligned_to(&self, alignment: usize) -> bool {
        self.first as usize & (alignment - 1) == 0
    }

    /// The port of a register of `width` bytes; `None` when it is not wholly inside, or misaligned.
    pub(crate) fn port(&self, offset: usize, width: u16) -> Option<u16> {
        let offset = u16::try_from(offset).ok()?;
        let port = self.first.checked_add(offset)?;
        port.checked_add(width - 1)?;
        let inside = offset.checked_add(width)? <= self.len;
        (inside && port.is_multiple_of(width)).then_some(port)
    }
}

macro_rules! port {
    ($word:ty, $load:ident, $store:ident, $in:ident, $out:ident) => {
        /// Reads a register; all-ones where there is none.
        pub(crate) fn $load(&self, offset: usize) -> $word {
            let port = self.port(offset, size_of::<$word>() as u16);
            // SAFETY: inside of what was promised at `new`.
            port.map_or(<$word>::MAX, |port| unsafe { $in(port) })
        }

        /// Writes a register, after every earlier store to memory: `out` waits for them.
        pub(crate) fn $store(&self, offset: usize, value: $word) {
            if let Some(port) = self.port(offset, size_of::<$word>() as u16) {
                // SAFETY: inside of what was promised at `new`.
                unsafe { $out(port, value) }
            }
        }
    };
}

impl Ports {
    port!(u8, load8, store8, in8, out8);
    port!(u16, load16, store16, in16, out16);
    port!(u32, load32, store32, in32, out32);
}

impl Ports {
    /// A doorbell that is one 16-bit `out`.
    pub(crate) fn doorbell(&self, offset: usize, value: u16) -> Option<Doorbell> {
        let port = self.port(offset, 2)?;
        Some(Doorbell::function(ring16, port.into(), value))
    }

    /// A doorbell that is one 32-bit `out`, with the queue's position in the high half.
    pub(crate) fn doorbell_with_data(&self, offset: usize, value: u16) -> Option<Doorbell> {
        let port = self.port(offset, 4)?;
        Some(Doorbell::function(ring32, port.into(), value).with_data())
    }

    /// A handle that is one 8-bit `in`.
    pub(crate) fn isr(&self, offset: usize) -> Option<Isr> {
        let port = self.port(offset, 1)?;
        Some(Isr::function(read_isr, port.into()))
    }
}

fn ring16(port: usize, value: u32) {
    // SAFETY: only `doorbell` gives this function away, with a port that it checked, of `Ports`
    // that were promised to stay.
    unsafe { out16(port as u16, value as u16) }
}

fn ring32(port: usize, value: u32) {
    // SAFETY: only `doorbell_with_data` gives this function away, as above.
    unsafe { out32(port as u16, value) }
}

fn read_isr(port: usize) -> u8 {
    // SAFETY: only `isr` gives this function away, as above.
    unsafe { in8(port as u16) }
}
