//! The value that an interrupt handler holds.

use core::fmt;

use crate::mmio::Register;

bitflags::bitflags! {
    /// Why a device interrupted (VIRTIO 1.4, 4.1.4.5 and 4.2.2). Empty: it was another device on the line.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Interrupt: u8 {
        /// A queue has used buffers: any of them, so look at each.
        const QUEUE = 1;
        /// The configuration changed.
        const CONFIG = 2;
        /// A device may set bits that this version of the specification does not name.
        const _ = !0;
    }
}

/// Acknowledges a level-triggered interrupt: INTx on PCI, or the one interrupt of a device over
/// MMIO. Lock-free, allocation-free, `Send + Sync`.
///
/// With MSI-X it is not needed: the vector says which queue it is (VIRTIO 1.4, 4.1.4.5.2).
pub struct Isr {
    source: Source,
}

enum Source {
    Register(Register<u8>),
    Pair {
        status: Register<u32>,
        ack: Register<u32>,
    },
    Function(fn(usize) -> u8, usize),
    Functions {
        read: fn(usize) -> u32,
        write: fn(usize, u32),
        status: usize,
        ack: usize,
    },
}

impl Isr {
    /// An 8-bit register whose reading acknowledges, as on PCI.
    pub(crate) const fn register(register: Register<u8>) -> Self {
        Self {
            source: Source::Register(register),
        }
    }

    /// A 32-bit register that tells of events, and one that takes back those that were seen, as
    /// over MMIO.
    pub(crate) const fn pair(status: Register<u32>, ack: Register<u32>) -> Self {
        Self {
            source: Source::Pair { status, ack },
        }
    }

    /// A function that is given `context` and returns the bits: a hypercall, or a fake device.
    #[must_use]
    pub const fn function(function: fn(usize) -> u8, context: usize) -> Self {
        Self {
            source: Source::Function(function, context),
        }
    }

    /// The two registers of an MMIO device, by functions: `read` is given `status`, and `write` is
    /// given `ack` and what was seen. The numbers are theirs; the registers' addresses will do.
    #[must_use]
    pub const fn functions(
        read: fn(usize) -> u32,
        write: fn(usize, u32),
        status: usize,
        ack: usize,
    ) -> Self {
        Self {
            source: Source::Functions {
                read,
                write,
                status,
                ack,
            },
        }
    }

    /// Reads and clears the interrupt status. Must be called for every interrupt of a shared line,
    /// also when the driver is busy: the line stays asserted until then.
    ///
    /// Look at the queues after it, not before: what the device uses in between would raise no
    /// interrupt of its own.
    #[inline]
    pub fn ack(&self) -> Interrupt {
        Interrupt::from_bits_retain(match self.source {
            Source::Register(register) => register.load(),
            Source::Pair { status, ack } => take(|| status.load(), |seen| ack.store(seen)),
            Source::Function(function, context) => function(context),
            Source::Functions {
                read,
                write,
                status,
                ack,
            } => take(|| read(status), |seen| write(ack, seen)),
        })
    }
}

/// Acknowledges the events that are seen, of those that have a name: bits without one are nobody's
/// to take back (VIRTIO 1.4, 4.2.2.2). Without an event nothing is written.
#[inline]
fn take(read: impl FnOnce() -> u32, write: impl FnOnce(u32)) -> u8 {
    let named = Interrupt::QUEUE.union(Interrupt::CONFIG).bits();
    let seen = read() & u32::from(named);
    if seen != 0 {
        write(seen);
    }
    seen as u8
}

impl fmt::Debug for Isr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Isr").finish_non_exhaustive()
    }
}
