//! Guest-side virtio for kernels, unikernels and firmware.
#![no_std]
#![deny(unsafe_code)]

#[cfg(any(feature = "alloc", test))]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod features;
#[allow(unsafe_code)] // declares the contract that a platform signs
pub mod platform;
pub mod ring;
#[cfg(any(feature = "test-util", test))]
pub mod testing;
pub mod transport;

#[allow(unsafe_code)] // the registers' address: every load and store of a device register is here
mod mmio;
