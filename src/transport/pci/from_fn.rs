//! Configuration access from two closures: for a kernel that has a PCI stack already.

use core::fmt;

use super::access::{Address, ConfigAccess};

/// The width of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Dword,
}

impl Width {
    /// 1, 2 or 4.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
        }
    }
}

/// Configuration space as two closures see it: made by [`from_fn`].
#[derive(Clone, Copy)]
pub struct FromFn<R, W> {
    read: R,
    write: W,
}

/// Reads and writes configuration space by a kernel's own functions.
///
/// `read` and `write` are given a function, a register below 4096 and a width. Of what `read`
/// returns the low bits count. An access must have the width that is asked for, a write above all:
/// see [`ConfigAccess`].
///
/// # Safety
/// The two closures do what [`ConfigAccess`] promises, and whoever makes this value of them answers
/// for what it is used for.
///
/// ```
/// use vring::transport::pci::{self, Width};
/// # struct Stack;
/// # impl Stack {
/// #     fn read(&self, _: u16, _: [u8; 3], _: u16, _: usize) -> u32 { !0 }
/// #     fn write(&self, _: u16, _: [u8; 3], _: u16, _: usize, _: u32) {}
/// # }
/// # let stack = Stack;
/// let bdf = |at: pci::Address| [at.bus(), at.device(), at.function()];
/// let read = |at: pci::Address, register, width: Width| {
///     stack.read(at.segment(), bdf(at), register, width.bytes())
/// };
/// let write = |at: pci::Address, register, width: Width, value| {
///     stack.write(at.segment(), bdf(at), register, width.bytes(), value);
/// };
/// // SAFETY: the stack's functions are single accesses, and only this driver is given them.
/// let config = unsafe { pci::from_fn(read, write) };
/// assert_eq!(pci::scan(&config).count(), 0);
/// ```
#[allow(unsafe_code)] // what the closures do, the kernel has to promise
pub const unsafe fn from_fn<R, W>(read: R, write: W) -> FromFn<R, W>
where
    R: Fn(Address, u16, Width) -> u32,
    W: Fn(Address, u16, Width, u32),
{
    FromFn { read, write }
}

#[allow(unsafe_code)] // signs the contract of who reaches configuration space
// SAFETY: the closures were promised to keep it, by the maker, who answers for the value's use.
unsafe impl<R, W> ConfigAccess for FromFn<R, W>
where
    R: Fn(Address, u16, Width) -> u32,
    W: Fn(Address, u16, Width, u32),
{
    fn read32(&self, address: Address, register: u16) -> u32 {
        (self.read)(address, register, Width::Dword)
    }
    fn read16(&self, address: Address, register: u16) -> u16 {
        (self.read)(address, register, Width::Word) as u16
    }
    fn read8(&self, address: Address, register: u16) -> u8 {
        (self.read)(address, register, Width::Byte) as u8
    }
    fn write32(&self, address: Address, register: u16, value: u32) {
        (self.write)(address, register, Width::Dword, value);
    }
    fn write16(&self, address: Address, register: u16, value: u16) {
        (self.write)(address, register, Width::Word, value.into());
    }
    fn write8(&self, address: Address, register: u16, value: u8) {
        (self.write)(address, register, Width::Byte, value.into());
    }
}

impl<R, W> fmt::Debug for FromFn<R, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromFn").finish_non_exhaustive()
    }
}
