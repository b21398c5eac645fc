//! Device configuration space that is registers: which accesses reach a field.
//!
//! The width is that of the field, but 4 bytes for a field of 8, low half first, and single bytes
//! for what is no aligned integer (VIRTIO 1.4, 4.1.3.1 and 4.2.2.2).

use super::TransportError;
use super::pci::Area;
use crate::mmio::{RegisterAccess, Registers};

/// Registers by their offsets, and their width in bytes: 1, 2 or 4. What is not inside, or not
/// aligned to its width, is not reached.
pub(super) trait Space {
    fn len(&self) -> usize;
    fn load(&self, at: usize, width: usize) -> Option<u32>;
    fn store(&self, at: usize, width: usize, value: u32) -> Option<()>;
}

/// Registers in memory, and how they are reached.
pub(super) struct Mapped<'a, A>(pub(super) &'a A, pub(super) &'a Registers);

impl<A: RegisterAccess> Space for Mapped<'_, A> {
    fn len(&self) -> usize {
        self.1.len()
    }
    fn load(&self, at: usize, width: usize) -> Option<u32> {
        let Self(access, registers) = self;
        Some(match width {
            4 => access.read32(registers.register(at)?),
            2 => access.read16(registers.register(at)?).into(),
            _ => access.read8(registers.register(at)?).into(),
        })
    }
    fn store(&self, at: usize, width: usize, value: u32) -> Option<()> {
        let Self(access, registers) = self;
        match width {
            4 => access.write32(registers.register(at)?, value),
            2 => access.write16(registers.register(at)?, value as u16),
            _ => access.write8(registers.register(at)?, value as u8),
        }
        Some(())
    }
}

/// Registers elsewhere.
pub(super) struct Elsewhere<'a, S>(pub(super) &'a S);

impl<S: Area> Space for Elsewhere<'_, S> {
    fn len(&self) -> usize {
        self.0.size()
    }
    fn load(&self, at: usize, width: usize) -> Option<u32> {
        Some(match width {
            4 => self.0.read32(at),
            2 => self.0.read16(at).into(),
            _ => self.0.read8(at).into(),
        })
    }
    fn store(&self, at: usize, width: usize, value: u32) -> Option<()> {
        match width {
            4 => self.0.write32(at, value),
            2 => self.0.write16(at, value as u16),
            _ => self.0.write8(at, value as u8),
        }
        Some(())
    }
}

/// Reads a field of the configuration that begins at `base`, a multiple of 4, and goes to the end.
pub(super) fn read(
    space: &impl Space,
    base: usize,
    offset: usize,
    dst: &mut [u8],
) -> Result<(), TransportError> {
    let (first, width) = place(space, base, offset, dst.len())?;
    for (at, piece) in (first..).step_by(width).zip(dst.chunks_mut(width)) {
        // In range by `place`, and aligned by `width`.
        let value = space.load(at, width).unwrap_or(0);
        for (to, from) in piece.iter_mut().zip(value.to_le_bytes()) {
            *to = from;
        }
    }
    Ok(())
}

/// Writes such a field.
pub(super) fn write(
    space: &impl Space,
    base: usize,
    offset: usize,
    src: &[u8],
) -> Result<(), TransportError> {
    let (first, width) = place(space, base, offset, src.len())?;
    for (at, piece) in (first..).step_by(width).zip(src.chunks(width)) {
        let bytes = piece.iter().rev();
        let value = bytes.fold(0, |value, &byte| value << 8 | u32::from(byte));
        let _ = space.store(at, width, value);
    }
    Ok(())
}

/// Where a field is among the registers, and the width of its accesses.
fn place(
    space: &impl Space,
    base: usize,
    offset: usize,
    len: usize,
) -> Result<(usize, usize), TransportError> {
    let size = space.len().saturating_sub(base);
    match offset.checked_add(len) {
        // No overflow: the sum is at most the length of the registers.
        Some(end) if end <= size => Ok((base.wrapping_add(offset), width(offset, len))),
        _ => Err(TransportError::ConfigOutOfRange { offset, len, size }),
    }
}

const fn width(offset: usize, len: usize) -> usize {
    match len {
        4 | 8 if offset.is_multiple_of(4) => 4,
        2 if offset.is_multiple_of(2) => 2,
        _ => 1,
    }
}
