//! Guest-side virtio for kernels, unikernels and firmware.
#![no_std]
#![deny(unsafe_code)]

#[cfg(any(feature = "alloc", test))]
extern crate alloc;
#[cfg(test)]
extern crate std;

#[allow(unsafe_code)] // declares the contract that a platform signs
pub mod platform;

#[allow(unsafe_code)] // names memory that is lent to a device
pub mod buffer;

#[allow(unsafe_code)] // everything that a platform is asked to do
mod dma;

#[allow(unsafe_code)] // the only accessors of memory that a device also touches
mod shared;

#[allow(unsafe_code)] // every load and store of a device register
mod mmio;

pub mod adapter;
pub mod device;
pub mod features;
pub mod init;
pub mod ring;
#[cfg(any(feature = "test-util", test))]
pub mod testing;
#[allow(unsafe_code)] // declares the contract that a transport signs
pub mod transport;
pub mod virtqueue;

pub use dma::DmaRegion;
pub use platform::{DmaAddr, Platform};
