//! Device configuration space that is registers: which accesses reach a field.
//!
//! The width is that of the field, but 4 bytes for a field of 8, low half first, and single bytes
//! for what is no aligned integer (VIRTIO 1.4, 4.1.3.1 and 4.2.2.2).

use super::TransportError;
use crate::mmio::{RegisterAccess, Registers};

/// Configuration space from `start` of some registers on, a multiple of 4, to their end.
pub(super) struct Space<'a, A> {
    pub(super) access: &'a A,
    pub(super) registers: &'a Registers,
    pub(super) start: usize,
}

impl<A: RegisterAccess> Space<'_, A> {
    pub(super) fn size(&self) -> usize {
        self.registers.len().saturating_sub(self.start)
    }

    pub(super) fn read(&self, offset: usize, dst: &mut [u8]) -> Result<(), TransportError> {
        let (first, width) = self.place(offset, dst.len())?;
        let registers = self.registers;
        for (at, piece) in (first..).step_by(width).zip(dst.chunks_mut(width)) {
            let value = match width {
                4 => registers.register(at).map(|at| self.access.read32(at)),
                2 => registers
                    .register(at)
                    .map(|at| self.access.read16(at).into()),
                _ => registers
                    .register(at)
                    .map(|at| self.access.read8(at).into()),
            };
            // In range by `place`, and aligned by `width`.
            for (to, from) in piece.iter_mut().zip(value.unwrap_or(0).to_le_bytes()) {
                *to = from;
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, offset: usize, src: &[u8]) -> Result<(), TransportError> {
        let (first, width) = self.place(offset, src.len())?;
        let registers = self.registers;
        for (at, piece) in (first..).step_by(width).zip(src.chunks(width)) {
            match *piece {
                [a, b, c, d] => {
                    let value = u32::from_le_bytes([a, b, c, d]);
                    registers
                        .register(at)
                        .map(|at| self.access.write32(at, value))
                }
                [a, b] => {
                    let value = u16::from_le_bytes([a, b]);
                    registers
                        .register(at)
                        .map(|at| self.access.write16(at, value))
                }
                [value] => registers
                    .register(at)
                    .map(|at| self.access.write8(at, value)),
                _ => None,
            };
        }
        Ok(())
    }

    /// Where a range starts among the registers, and the width of its accesses.
    fn place(&self, offset: usize, len: usize) -> Result<(usize, usize), TransportError> {
        let size = self.size();
        match offset.checked_add(len) {
            // No overflow: both are at most the length of the registers.
            Some(end) if end <= size => Ok((self.start.wrapping_add(offset), width(offset, len))),
            _ => Err(TransportError::ConfigOutOfRange { offset, len, size }),
        }
    }
}

const fn width(offset: usize, len: usize) -> usize {
    match len {
        4 | 8 if offset.is_multiple_of(4) => 4,
        2 if offset.is_multiple_of(2) => 2,
        _ => 1,
    }
}
