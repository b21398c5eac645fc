//! The value that tells a device of new buffers.

use core::fmt;

use crate::mmio::Register;

/// Rings one queue of one device: a place, and the value that belongs there.
///
/// It is computed once, when the queue is enabled, and never reads a register: one ring is one
/// store (VIRTIO 1.4, 4.1.5.2 and 4.2.3.3), or one call where registers are not reached by stores.
/// It holds a raw address: the transport's constructor made it the caller's contract that the
/// address stays mapped. After a reset of the device it is inert.
#[derive(Clone, Copy)]
pub struct Doorbell {
    place: Place,
    value: u16,
    /// What of the position is told: all of it with `VIRTIO_F_NOTIFICATION_DATA`, or nothing.
    mask: u32,
}

#[derive(Clone, Copy)]
enum Place {
    Register(Register<u16>),
    /// Over MMIO, and with `VIRTIO_F_NOTIFICATION_DATA`.
    Wide(Register<u32>),
    Function(fn(usize, u32), usize),
    /// Through the window of a PCI device.
    Remote {
        remote: &'static dyn Remote,
        which: [u8; 2],
        offset: u32,
    },
}

/// Registers that are written by a call: which structure of them, and where in it, are the
/// implementation's own numbers.
pub(crate) trait Remote: Sync {
    /// Writes `width` bytes, 2 or 4, after every earlier store to memory.
    fn store(&self, which: [u8; 2], offset: u32, width: u8, value: u32);
}

impl Doorbell {
    /// A 16-bit little-endian register that takes `value`.
    #[must_use]
    pub const fn register(register: Register<u16>, value: u16) -> Self {
        Self {
            place: Place::Register(register),
            value,
            mask: 0,
        }
    }

    /// A 32-bit little-endian register that takes `value`, as over MMIO.
    #[must_use]
    pub const fn register32(register: Register<u32>, value: u16) -> Self {
        Self {
            place: Place::Wide(register),
            value,
            mask: 0,
        }
    }

    /// A 32-bit little-endian register that takes `value` and, in its high half, the position of
    /// the queue (`VIRTIO_F_NOTIFICATION_DATA`: VIRTIO 1.4, 2.9).
    #[must_use]
    pub const fn register_with_data(register: Register<u32>, value: u16) -> Self {
        Self {
            place: Place::Wide(register),
            value,
            mask: !0,
        }
    }

    /// A function that is given `context` and `value`: a hypercall, or a fake device.
    #[must_use]
    pub const fn function(function: fn(usize, u32), context: usize, value: u16) -> Self {
        Self {
            place: Place::Function(function, context),
            value,
            mask: 0,
        }
    }

    /// A register of 16 bits, or of 32 for a device that is told the queue's position.
    pub(crate) const fn remote(
        remote: &'static dyn Remote,
        which: [u8; 2],
        offset: u32,
        value: u16,
        with_data: bool,
    ) -> Self {
        let place = Place::Remote {
            remote,
            which,
            offset,
        };
        let mask = if with_data { !0 } else { 0 };
        Self { place, value, mask }
    }

    /// The same function, told the queue's position too, in the high half of the value
    /// (`VIRTIO_F_NOTIFICATION_DATA`: VIRTIO 1.4, 2.9). A register stays as it is.
    #[must_use]
    pub const fn with_data(mut self) -> Self {
        if let Place::Function(..) = self.place {
            self.mask = !0;
        }
        self
    }

    /// Tells the device that the queue has new buffers. The store comes after every earlier write
    /// to the ring, on the bus as well as in the CPU.
    ///
    /// `position` is where the queue will make the next buffer available: the index of a split
    /// ring, offset and wrap counter of a packed one. It matters under
    /// `VIRTIO_F_NOTIFICATION_DATA` only.
    #[inline]
    pub fn ring(&self, position: u16) {
        self.ring_at(|| position);
    }

    /// The same, with a position that is worked out when it matters.
    #[inline(always)] // a store
    pub(crate) fn ring_at(&self, position: impl FnOnce() -> u16) {
        if let Place::Register(register) = self.place {
            return register.store(self.value);
        }
        let value = u32::from(self.value) | (u32::from(position()) << 16 & self.mask);
        match self.place {
            Place::Function(function, context) => function(context, value),
            Place::Wide(register) => register.store(value),
            Place::Remote { .. } => self.ring_remote(value),
            Place::Register(_) => {}
        }
    }

    /// Slow as it is, it is kept out of those that ring.
    #[cold]
    #[inline(never)]
    fn ring_remote(&self, value: u32) {
        if let Place::Remote {
            remote,
            which,
            offset,
        } = self.place
        {
            let width = if self.mask == 0 { 2 } else { 4 };
            remote.store(which, offset, width, value);
        }
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value;
        let data = if self.mask == 0 { "" } else { " and position" };
        match self.place {
            Place::Register(at) => write!(f, "Doorbell({at:?} <- {value})"),
            Place::Wide(at) => write!(f, "Doorbell({at:?} <- {value}{data})"),
            Place::Function(_, context) => write!(f, "Doorbell(f({context:#x}, {value}{data}))"),
            Place::Remote { offset, which, .. } => {
                let [_, bar] = which;
                write!(f, "Doorbell(BAR {bar} at {offset:#x} <- {value}{data})")
            }
        }
    }
}
