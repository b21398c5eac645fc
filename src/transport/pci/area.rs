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
use crate::transport::{Doorbell, Isr, TransportError};

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

#[allow(unsafe_code)] // signs the contract of who reaches registers
// SAFETY: there is none.
unsafe impl Area for Nowhere {
    fn size(&self) -> usize {
        match *self {}
    }
    fn is_aligned_to(&self, _: usize) -> bool {
        match *self {}
    }
    fn read8(&self, _: usize) -> u8 {
        match *self {}
    }
    fn read16(&self, _: usize) -> u16 {
        match *self {}
    }
    fn read32(&self, _: usize) -> u32 {
        match *self {}
    }
    fn write8(&self, _: usize, _: u8) {
        match *self {}
    }
    fn write16(&self, _: usize, _: u16) {
        match *self {}
    }
    fn write32(&self, _: usize, _: u32) {
        match *self {}
    }
    fn doorbell(&self, _: usize, _: u16) -> Option<Doorbell> {
        match *self {}
    }
    fn doorbell_with_data(&self, _: usize, _: u16) -> Option<Doorbell> {
        match *self {}
    }
    fn isr(&self, _: usize) -> Option<Isr> {
        match *self {}
    }
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
    fn read8(&self, offset: usize) -> u8 {
        self.load8(offset)
    }
    fn read16(&self, offset: usize) -> u16 {
        self.load16(offset)
    }
    fn read32(&self, offset: usize) -> u32 {
        self.load32(offset)
    }
    fn write8(&self, offset: usize, value: u8) {
        self.store8(offset, value);
    }
    fn write16(&self, offset: usize, value: u16) {
        self.store16(offset, value);
    }
    fn write32(&self, offset: usize, value: u32) {
        self.store32(offset, value);
    }
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

    /// Reads a field of device configuration, which is inside.
    pub(super) fn read_field<A: RegisterAccess>(&self, access: &A, offset: usize, dst: &mut [u8]) {
        match self {
            Self::Memory(registers) => {
                read_field(offset, dst, |at, width| match width {
                    4 => registers.register(at).map(|at| access.read32(at)),
                    2 => registers.register(at).map(|at| access.read16(at).into()),
                    _ => registers.register(at).map(|at| access.read8(at).into()),
                });
            }
            Self::Other(area) => read_area(area, 0, offset, dst),
        }
    }

    /// Writes a field of device configuration, which is inside.
    pub(super) fn write_field<A: RegisterAccess>(&self, access: &A, offset: usize, src: &[u8]) {
        match self {
            Self::Memory(registers) => write_field(offset, src, |at, piece| match *piece {
                [a, b, c, d] => {
                    if let Some(at) = registers.register(at) {
                        access.write32(at, u32::from_le_bytes([a, b, c, d]));
                    }
                }
                [a, b] => {
                    if let Some(at) = registers.register(at) {
                        access.write16(at, u16::from_le_bytes([a, b]));
                    }
                }
                [value] => {
                    if let Some(at) = registers.register(at) {
                        access.write8(at, value);
                    }
                }
                _ => {}
            }),
            Self::Other(area) => write_area(area, 0, offset, src),
        }
    }
}

/// Whether a register of `width` bytes, a power of two, is wholly inside and aligned.
pub(super) fn is_register<S: Area>(area: &S, offset: usize, width: usize) -> bool {
    let end = offset.checked_add(width);
    let aligned = area.is_aligned_to(width) && offset.is_multiple_of(width);
    aligned && end.is_some_and(|end| end <= area.size())
}

/// Refuses a range that is not inside a configuration space of `size` bytes.
pub(super) fn check_range(offset: usize, len: usize, size: usize) -> Result<(), TransportError> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(TransportError::ConfigOutOfRange { offset, len, size }),
    }
}

/// Reads a field `offset` bytes into the device configuration that begins at `base` of an area.
pub(super) fn read_area<S: Area>(area: &S, base: usize, offset: usize, dst: &mut [u8]) {
    read_field(offset, dst, |at, width| {
        let at = base.wrapping_add(at);
        Some(match width {
            4 => area.read32(at),
            2 => area.read16(at).into(),
            _ => area.read8(at).into(),
        })
    });
}

/// Writes a field `offset` bytes into the device configuration that begins at `base` of an area.
pub(super) fn write_area<S: Area>(area: &S, base: usize, offset: usize, src: &[u8]) {
    write_field(offset, src, |at, piece| {
        let at = base.wrapping_add(at);
        match *piece {
            [a, b, c, d] => area.write32(at, u32::from_le_bytes([a, b, c, d])),
            [a, b] => area.write16(at, u16::from_le_bytes([a, b])),
            [value] => area.write8(at, value),
            _ => {}
        }
    });
}

fn read_field(offset: usize, dst: &mut [u8], read: impl Fn(usize, usize) -> Option<u32>) {
    let width = width(offset, dst.len());
    for (at, piece) in (offset..).step_by(width).zip(dst.chunks_mut(width)) {
        // In range by the caller's check, and aligned by `width`.
        let value = read(at, width).unwrap_or(0);
        for (to, from) in piece.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }
}

fn write_field(offset: usize, src: &[u8], write: impl Fn(usize, &[u8])) {
    let width = width(offset, src.len());
    for (at, piece) in (offset..).step_by(width).zip(src.chunks(width)) {
        write(at, piece);
    }
}

/// The width of the accesses to a configuration field (4.1.3.1): that of the field, but 4 bytes for
/// a field of 8, and single bytes for what is no aligned integer.
const fn width(offset: usize, len: usize) -> usize {
    match len {
        4 | 8 if offset.is_multiple_of(4) => 4,
        2 if offset.is_multiple_of(2) => 2,
        _ => 1,
    }
}
