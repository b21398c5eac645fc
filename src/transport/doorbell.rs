//! The value that tells a device of new buffers.

use core::fmt;

use crate::mmio::Register;

/// Rings one queue of one device: a place, and the value that belongs there.
///
/// It is computed once, when the queue is enabled, and never reads a register: one ring is one
/// store (VIRTIO 1.4, 4.1.5.2). It holds a raw address: the transport's constructor made it the
/// caller's contract that the address stays mapped. After a reset of the device it is inert.
#[derive(Clone, Copy)]
pub struct Doorbell {
    place: Place,
    value: u16,
}

#[derive(Clone, Copy)]
enum Place {
    Register(Register<u16>),
    Function(fn(usize, u16), usize),
}

impl Doorbell {
    /// A 16-bit little-endian register that takes `value`.
    pub(crate) const fn register(register: Register<u16>, value: u16) -> Self {
        Self {
            place: Place::Register(register),
            value,
        }
    }

    /// A function that is given `context` and `value`: a hypercall, or a fake device.
    #[must_use]
    pub const fn function(function: fn(usize, u16), context: usize, value: u16) -> Self {
        Self {
            place: Place::Function(function, context),
            value,
        }
    }

    /// Tells the device that the queue has new buffers. The store comes after every earlier write
    /// to the ring, on the bus as well as in the CPU.
    #[inline]
    pub fn ring(&self) {
        match self.place {
            Place::Register(register) => register.store(self.value),
            Place::Function(function, context) => function(context, self.value),
        }
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Register(at) => write!(f, "Doorbell({at:?} <- {})", self.value),
            Place::Function(_, context) => write!(f, "Doorbell(f({context:#x}, {}))", self.value),
        }
    }
}
