//! [`pci_types::ConfigRegionAccess`] as configuration access: for a kernel whose PCI stack is built
//! on the `pci_types` crate.
//!
//! That trait reads and writes 32 bits. A narrower write is made of a read and a write of the word
//! around it, which is right where the neighbors take back what they read as. One does not, beside
//! the command register: the status register clears bits that are written as ones, so it is written
//! as zeros, which change nothing.
//!
//! The [window](crate::transport::pci::Window) in configuration space works with this, on devices
//! that go by the length in the capability, as QEMU's do; some go by the width of the access. There
//! a narrow write, each doorbell too, reads the device's register before it writes it. Reading any
//! that the crate writes so changes nothing.

use pci_types::{ConfigRegionAccess, PciAddress};

use crate::transport::pci::{Address, ConfigAccess};

const COMMAND: u16 = 0x04;
const COMMAND_MASK: u32 = 0xffff;
/// Registers that every function has, in configuration space of either kind.
const END: u16 = 256;

/// Configuration space as a [`ConfigRegionAccess`] sees it.
#[derive(Clone, Copy, Debug)]
pub struct Config<C>(C);

impl<C: ConfigRegionAccess> Config<C> {
    /// Over the kernel's access.
    ///
    /// # Safety
    /// The access may be asked for any function of the segments and buses that will be looked at,
    /// present or not, and for any of its first 256 bytes: that is "valid" for it. A function that
    /// is not there reads as all-ones. And it does what [`ConfigAccess`] promises of accesses of 32
    /// bits, and whoever makes this value of it answers for what it is used for.
    #[must_use]
    #[allow(unsafe_code)] // what the foreign trait demands, the kernel has to promise
    pub const unsafe fn new(access: C) -> Self {
        Self(access)
    }

    fn read(&self, address: Address, register: u16) -> u32 {
        if register >= END || !register.is_multiple_of(4) {
            return !0;
        }
        #[allow(unsafe_code)] // a function of the foreign trait
        // SAFETY: valid, by the promise at `new`.
        unsafe {
            self.0.read(address.into(), register)
        }
    }

    fn write(&self, address: Address, register: u16, value: u32) {
        if register >= END || !register.is_multiple_of(4) {
            return;
        }
        #[allow(unsafe_code)] // a function of the foreign trait
        // SAFETY: valid, by the promise at `new`.
        unsafe {
            self.0.write(address.into(), register, value);
        }
    }

    /// Writes the bits of `mask` in the word at `register & !3`.
    fn merge(&self, address: Address, register: u16, mask: u32, value: u32) {
        let shift = 8 * u32::from(register & 3);
        let (register, mask, value) = (register & !3, mask << shift, value << shift);
        let mut word = self.read(address, register);
        if register == COMMAND {
            word &= COMMAND_MASK;
        }
        self.write(address, register, word & !mask | value);
    }
}

#[allow(unsafe_code)] // signs the contract of who reaches configuration space
// SAFETY: 1. By the promise at `new`; of the registers in a word that is written for a part of it,
// the others are given what they hold, or the zeros that change nothing: beside those that this
// crate writes, there is none whose bits a write of what they hold clears but the status register.
// Through the window a register of the device is read before it is written, and none that is written
// narrowly is changed by that: common configuration, doorbells.
// 2. By the same promise.
unsafe impl<C: ConfigRegionAccess> ConfigAccess for Config<C> {
    fn read32(&self, address: Address, register: u16) -> u32 {
        self.read(address, register)
    }
    fn write32(&self, address: Address, register: u16, value: u32) {
        self.write(address, register, value);
    }
    fn write16(&self, address: Address, register: u16, value: u16) {
        self.merge(address, register, 0xffff, value.into());
    }
    fn write8(&self, address: Address, register: u16, value: u8) {
        self.merge(address, register, 0xff, value.into());
    }
}

impl From<Address> for PciAddress {
    fn from(at: Address) -> Self {
        Self::new(at.segment(), at.bus(), at.device(), at.function())
    }
}

impl From<PciAddress> for Address {
    fn from(at: PciAddress) -> Self {
        Self::of_parts(at.segment(), at.bus(), at.device(), at.function())
    }
}
