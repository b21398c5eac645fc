//! Structures of registers, wherever a device has them.
//!
//! Most devices have all of them in memory, and a kernel maps them: that is [`Registers`], reached
//! by the transport's [`RegisterAccess`]. A structure may also be in an I/O BAR, or be reachable
//! through the window in configuration space only. Those are an [`Area`].
//!
//! ```text
//!                        ┌ Memory(Registers)  by A: RegisterAccess     one load, one store
//!   PciTransport<A, S> ──┤
//!                        └ Other(S)           S: Area                  in and out, or a window
//! ```
//!
//! `S` is [`Nowhere`] unless the kernel gave something else. It has no values, so a transport that
//! knows memory only has no second case to test for.

use crate::mmio::{Native, RegisterAccess, Registers};
use crate::transport::space::{Elsewhere, Mapped, Space};
use crate::transport::{Doorbell, Isr};

/// Registers that are not reached by loads and stores: I/O ports, the window in configuration
/// space, or what a hypercall reaches. [`Registers`] are one too: I/O space that a host bridge
/// shows as memory.
///
/// The crate asks only for what lies wholly inside and is aligned to its width. Values are in the
/// CPU's byte order; the registers are little-endian.
///
/// # Safety
/// Rings are freed on what the registers say. An implementation promises that it reads and writes
/// the registers of this structure, each time, with one access of the width that is asked for, and
/// that a write comes after every earlier store to memory, on the bus as well as in the CPU.
#[allow(unsafe_code)] // declares the contract of who reaches registers
pub unsafe trait Area {
    /// Bytes.
    fn size(&self) -> usize;
    /// Whether the first register is at a multiple of `alignment`, a power of two.
    fn is_aligned_to(&self, alignment: usize) -> bool;
    /// Reads 8 bits.
    fn read8(&self, offset: usize) -> u8;
    /// Reads 16 bits in one access.
    fn read16(&self, offset: usize) -> u16;
    /// Reads 32 bits in one access.
    fn read32(&self, offset: usize) -> u32;
    /// Writes 8 bits.
    fn write8(&self, offset: usize, value: u8);
    /// Writes 16 bits in one access.
    fn write16(&self, offset: usize, value: u16);
    /// Writes 32 bits in one access.
    fn write32(&self, offset: usize, value: u32);
    /// A doorbell that writes `value`, 16 bits, each time; `None` outside, or misaligned.
    fn doorbell(&self, offset: usize, value: u16) -> Option<Doorbell>;
    /// A doorbell that writes `value` and the queue's position, 32 bits, each time; `None` outside,
    /// or misaligned.
    fn doorbell_with_data(&self, offset: usize, value: u16) -> Option<Doorbell>;
    /// A handle that reads 8 bits each time, without a lock; `None` where there can be none.
    fn isr(&self, offset: usize) -> Option<Isr>;
}

/// No registers elsewhere than in memory.
#[derive(Clone, Copy, Debug)]
pub enum Nowhere {}

/// The methods of [`Area`], each handed on to the area that a variant holds.
macro_rules! hand_on {
    ($($variant:ident)*) => { $crate::transport::pci::area::hand_on! { @each [$($variant)*]
        fn size(&self) -> usize;
        fn is_aligned_to(&self, alignment: usize) -> bool;
        fn read8(&self, offset: usize) -> u8;
        fn read16(&self, offset: usize) -> u16;
        fn read32(&self, offset: usize) -> u32;
        fn write8(&self, offset: usize, value: u8) -> ();
        fn write16(&self, offset: usize, value: u16) -> ();
        fn write32(&self, offset: usize, value: u32) -> ();
        fn doorbell(&self, offset: usize, value: u16) -> Option<Doorbell>;
        fn doorbell_with_data(&self, offset: usize, value: u16) -> Option<Doorbell>;
        fn isr(&self, offset: usize) -> Option<Isr>;
    } };
    (@each $variants:tt $(fn $name:ident(&self $(, $arg:ident: $ty:ty)*) -> $ret:ty;)*) => {$(
        fn $name(&self $(, $arg: $ty)*) -> $ret {
            $crate::transport::pci::area::hand_on!(@match $variants self.$name($($arg),*))
        }
    )*};
    (@match [$($variant:ident)*] $self:ident.$name:ident $args:tt) => {
        match *$self {
            $(Self::$variant(ref area) => area.$name $args,)*
        }
    };
}
pub(super) use hand_on;

#[allow(unsafe_code)] // signs the contract of who reaches registers
// Its functions cannot be called.
#[allow(unused_variables)]
// SAFETY: there is none.
unsafe impl Area for Nowhere {
    hand_on! {}
}

macro_rules! mapped {
    ($($read:ident $write:ident $word:ty),*) => {$(
        fn $read(&self, offset: usize) -> $word {
            self.register(offset).map_or(<$word>::MAX, |at| Native.$read(at))
        }
        fn $write(&self, offset: usize, value: $word) {
            if let Some(at) = self.register(offset) {
                Native.$write(at, value);
            }
        }
    )*};
}

#[allow(unsafe_code)] // signs the contract of who reaches registers
// SAFETY: loads and stores of registers, which were promised to be the structure's.
unsafe impl Area for Registers {
    mapped!(read8 write8 u8, read16 write16 u16, read32 write32 u32);

    fn size(&self) -> usize {
        self.len()
    }
    fn is_aligned_to(&self, alignment: usize) -> bool {
        self.is_aligned_to(alignment)
    }
    fn doorbell(&self, offset: usize, value: u16) -> Option<Doorbell> {
        Some(Native.doorbell(self.register(offset)?, value))
    }
    fn doorbell_with_data(&self, offset: usize, value: u16) -> Option<Doorbell> {
        Some(Native.doorbell_with_data(self.register(offset)?, value))
    }
    fn isr(&self, offset: usize) -> Option<Isr> {
        Some(Native.isr(self.register(offset)?))
    }
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
macro_rules! ported {
    ($($read:ident $load:ident $write:ident $store:ident $word:ty),*) => {$(
        fn $read(&self, offset: usize) -> $word {
            self.$load(offset)
        }
        fn $write(&self, offset: usize, value: $word) {
            self.$store(offset, value);
        }
    )*};
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
#[allow(unsafe_code)] // signs the contract of who reaches registers
// SAFETY: `in` and `out`, at ports that were promised to be the structure's. `out` waits until
// earlier stores are done.
unsafe impl Area for crate::mmio::Ports {
    fn size(&self) -> usize {
        self.len()
    }
    fn is_aligned_to(&self, alignment: usize) -> bool {
        self.is_aligned_to(alignment)
    }
    ported!(read8 load8 write8 store8 u8, read16 load16 write16 store16 u16,
        read32 load32 write32 store32 u32);
    fn doorbell(&self, offset: usize, value: u16) -> Option<Doorbell> {
        self.doorbell(offset, value)
    }
    fn doorbell_with_data(&self, offset: usize, value: u16) -> Option<Doorbell> {
        self.doorbell_with_data(offset, value)
    }
    fn isr(&self, offset: usize) -> Option<Isr> {
        self.isr(offset)
    }
}

/// A structure where it was found. `S` is how it is reached when it is not in memory.
pub(super) enum Place<S> {
    Memory(Registers),
    Other(S),
}

impl<S: Area> Place<S> {
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Memory(registers) => registers.len(),
            Self::Other(area) => area.size(),
        }
    }

    pub(super) fn is_aligned_to(&self, alignment: usize) -> bool {
        match self {
            Self::Memory(registers) => registers.is_aligned_to(alignment),
            Self::Other(area) => area.is_aligned_to(alignment),
        }
    }

    /// `None`: outside, or misaligned.
    pub(super) fn doorbell<A: RegisterAccess>(
        &self,
        access: &A,
        offset: usize,
        value: u16,
        with_data: bool,
    ) -> Option<Doorbell> {
        match self {
            Self::Memory(registers) if with_data => {
                let at = registers.register(offset)?;
                Some(access.doorbell_with_data(at, value))
            }
            Self::Memory(registers) => Some(access.doorbell(registers.register(offset)?, value)),
            Self::Other(area) if with_data => area.doorbell_with_data(offset, value),
            Self::Other(area) => area.doorbell(offset, value),
        }
    }

    pub(super) fn isr<A: RegisterAccess>(&self, access: &A) -> Option<Isr> {
        match self {
            Self::Memory(registers) => registers.register(0).map(|at| access.isr(at)),
            Self::Other(area) => area.isr(0),
        }
    }
}

/// The registers of a structure, wherever it was found; without any, of none.
pub(super) struct Somewhere<'a, A, S>(pub(super) &'a A, pub(super) Option<&'a Place<S>>);

impl<A: RegisterAccess, S: Area> Space for Somewhere<'_, A, S> {
    fn len(&self) -> usize {
        self.1.map_or(0, Place::size)
    }
    fn load(&self, at: usize, width: usize) -> Option<u32> {
        match self.1? {
            Place::Memory(registers) => Mapped(self.0, registers).load(at, width),
            Place::Other(area) => Elsewhere(area).load(at, width),
        }
    }
    fn store(&self, at: usize, width: usize, value: u32) -> Option<()> {
        match self.1? {
            Place::Memory(registers) => Mapped(self.0, registers).store(at, width, value),
            Place::Other(area) => Elsewhere(area).store(at, width, value),
        }
    }
}

/// Whether a register of `width` bytes, a power of two, is wholly inside and aligned.
pub(super) fn is_register<S: Area>(area: &S, offset: usize, width: usize) -> bool {
    let end = offset.checked_add(width);
    let aligned = area.is_aligned_to(width) && offset.is_multiple_of(width);
    aligned && end.is_some_and(|end| end <= area.size())
}
