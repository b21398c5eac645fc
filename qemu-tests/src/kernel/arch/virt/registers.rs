//! Registers of the machine's own devices.

use crate::kernel::arch::memory;

/// A block of 32-bit registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers(usize);

impl Registers {
    /// The registers at `address`, `len` bytes of them.
    ///
    /// # Safety
    /// A device's registers are there, and reading or writing them is up to whoever has this value.
    pub(crate) unsafe fn new(address: u64, len: u64) -> Self {
        memory::map_device(address, len);
        Self(address as usize)
    }

    /// Reads the register at a byte offset.
    pub(crate) fn read(self, offset: usize) -> u32 {
        let register = (self.0 + offset) as *const u32;
        // SAFETY: a register, by the word given to `new`.
        unsafe { register.read_volatile() }
    }

    /// Writes the register at a byte offset.
    pub(crate) fn write(self, offset: usize, value: u32) {
        let register = (self.0 + offset) as *mut u32;
        // SAFETY: a register, by the word given to `new`.
        unsafe { register.write_volatile(value) };
    }
}
