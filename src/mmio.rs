//! The only register loads and stores.

use core::ptr::NonNull;

pub(crate) fn doorbell(register: NonNull<u16>, value: u16) {
    // SAFETY: the transport's constructor made it the caller's contract that registers stay mapped.
    unsafe { register.write_volatile(value.to_le()) }
}

pub(crate) fn read_isr(register: NonNull<u8>) -> u8 {
    // SAFETY: as above.
    unsafe { register.read_volatile() }
}
