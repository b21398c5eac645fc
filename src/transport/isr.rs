//! The value that an interrupt handler holds.

use core::fmt;

use crate::mmio::Register;

bitflags::bitflags! {
    /// Why a device interrupted (VIRTIO 1.4, 4.1.4.5). Empty: it was another device on the line.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Interrupt: u8 {
        /// A queue has used buffers.
        const QUEUE = 1;
        /// The configuration changed.
        const CONFIG = 2;
        /// A device may set bits that this version of the specification does not name.
        const _ = !0;
    }
}

/// Acknowledges a level-triggered (INTx) interrupt. Lock-free, allocation-free, `Send + Sync`.
///
/// With MSI-X it is not needed: the vector says which queue it is (VIRTIO 1.4, 4.1.4.5.2).
pub struct Isr {
    source: Source,
}

enum Source {
    Register(Register<u8>),
    Function(fn(usize) -> u8, usize),
}

impl Isr {
    /// An 8-bit register whose reading acknowledges.
    pub(crate) const fn register(register: Register<u8>) -> Self {
        Self {
            source: Source::Register(register),
        }
    }

    /// A function that is given `context` and returns the bits: a hypercall, or a fake device.
    #[must_use]
    pub const fn function(function: fn(usize) -> u8, context: usize) -> Self {
        Self {
            source: Source::Function(function, context),
        }
    }

    /// Reads and clears the interrupt status. Must be called for every interrupt of a shared line,
    /// also when the driver is busy: the line stays asserted until then.
    #[inline]
    pub fn ack(&self) -> Interrupt {
        Interrupt::from_bits_retain(match self.source {
            Source::Register(register) => register.load(),
            Source::Function(function, context) => function(context),
        })
    }
}

impl fmt::Debug for Isr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Isr").finish_non_exhaustive()
    }
}
