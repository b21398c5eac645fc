//! Base address registers: where a function's registers are in memory.
//!
//! A BAR tells its address at once, and its size only when all-ones are written to it. Meanwhile
//! it decodes nonsense, so the function's decoding is off during the probe, and both the BAR and
//! the command register are put back as they were.

use core::fmt;

use super::access::{Address, ConfigAccess};
use super::scan::HEADER_TYPE;
use super::{COMMAND, COMMAND_IO, COMMAND_MEMORY};

/// What a base address register describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// A window of memory addresses.
    Memory {
        /// First physical address; above 4 GiB where the BAR has 64 bits.
        address: u64,
        /// Bytes: a power of two.
        size: u64,
        /// Whether reads have no side effect.
        prefetchable: bool,
    },
    /// A window of I/O ports.
    Io {
        /// First port.
        port: u32,
        /// Ports: a power of two.
        size: u32,
    },
}

/// Why a base address register cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BarError {
    /// A function has BARs 0 to 5 only, and a bridge 0 and 1.
    Reserved {
        /// The number.
        bar: u8,
    },
    /// The register is the upper half of the 64-bit BAR before it.
    UpperHalf {
        /// The number.
        bar: u8,
    },
    /// A 64-bit BAR in the last place, where its upper half has none.
    NoUpperHalf {
        /// The number.
        bar: u8,
    },
    /// A memory type that PCI does not define.
    MemoryType {
        /// The number.
        bar: u8,
        /// The register.
        value: u32,
    },
    /// The function does not implement this BAR: its size is 0.
    Unimplemented {
        /// The number.
        bar: u8,
    },
    /// Firmware gave the BAR no address.
    Unassigned {
        /// The number.
        bar: u8,
        /// Bytes that it needs.
        size: u64,
    },
    /// The BAR is in I/O space, where memory is needed, or nobody gave the ports.
    Io {
        /// The number.
        bar: u8,
        /// First port.
        port: u32,
    },
    /// Address and size run beyond the end of the address space.
    Wraps {
        /// The number.
        bar: u8,
        /// First physical address.
        address: u64,
        /// Bytes.
        size: u64,
    },
    /// A range that does not lie in the BAR.
    Outside {
        /// The number.
        bar: u8,
        /// First byte of the range.
        offset: u64,
        /// Bytes of the range.
        length: u64,
        /// Bytes of the BAR.
        size: u64,
    },
}

impl fmt::Display for BarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Reserved { bar } => write!(f, "there is no BAR {bar}"),
            Self::UpperHalf { bar } => write!(f, "BAR {bar} is the upper half of another"),
            Self::NoUpperHalf { bar } => write!(f, "BAR {bar} has 64 bits and no upper half"),
            Self::MemoryType { bar, value } => {
                write!(f, "BAR {bar} has a reserved memory type: {value:#010x}")
            }
            Self::Unimplemented { bar } => write!(f, "BAR {bar} has size 0"),
            Self::Unassigned { bar, size } => write!(
                f,
                "BAR {bar} has no address: firmware, or the kernel before this call, must assign \
                 {size:#x} bytes (`pci::assign_bars` does)"
            ),
            Self::Io { bar, port } => {
                write!(
                    f,
                    "BAR {bar} is in I/O space, at port {port:#x}, and these ports were not given: \
                     structures of registers can be in ports (`with_ports`), tables and shared \
                     memory cannot"
                )
            }
            Self::Wraps { bar, address, size } => write!(
                f,
                "BAR {bar}: {size:#x} bytes at {address:#x} leave the address space"
            ),
            Self::Outside {
                bar,
                offset,
                length,
                size,
            } => write!(
                f,
                "{length:#x} bytes at {offset:#x} are outside BAR {bar} of {size:#x} bytes"
            ),
        }
    }
}

impl core::error::Error for BarError {}

impl Bar {
    /// Reads and sizes a base address register: of a bridge only the first two are any.
    ///
    /// For the time of the probe the function decodes neither memory nor I/O: nothing may use its
    /// registers meanwhile.
    ///
    /// # Errors
    /// Any [`BarError`] but `Io` and `Outside`.
    pub fn read(config: &impl ConfigAccess, address: Address, bar: u8) -> Result<Self, BarError> {
        Shape::read(config, address, bar)?.resolve()
    }

    /// Where `length` bytes at `offset` are, wholly inside the BAR.
    fn place(self, bar: u8, offset: u64, length: u64) -> Result<Spot, BarError> {
        let size = match self {
            Self::Io { size, .. } => size.into(),
            Self::Memory { size, .. } => size,
        };
        let inside = offset.checked_add(length).is_some_and(|end| end <= size);
        let spot = match self {
            Self::Memory { address, .. } => address.checked_add(offset).map(Spot::Memory),
            // Below the size of the BAR it fits.
            Self::Io { port, .. } => port.checked_add(offset as u32).map(Spot::Ports),
        };
        spot.filter(|_| inside).ok_or(BarError::Outside {
            bar,
            offset,
            length,
            size,
        })
    }
}

/// What a BAR asks for, whether or not it has an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) bar: u8,
    /// The address or port that it has; 0 for none.
    pub(super) base: u64,
    /// Bytes, or ports; a power of two.
    pub(super) size: u64,
    pub(super) kind: Kind,
}

/// Which addresses a BAR can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Io {
        /// It has no more than 16 bits.
        short: bool,
    },
    Memory {
        /// It has 64 bits.
        wide: bool,
        prefetchable: bool,
    },
}

impl Kind {
    /// The last address or port of all that can be told.
    const fn limit(self) -> u64 {
        match self {
            Self::Memory { wide: true, .. } => u64::MAX,
            Self::Memory { wide: false, .. } | Self::Io { .. } => u32::MAX as u64,
        }
    }
}

impl Shape {
    /// Reads and sizes a BAR, with the function's decoding off; puts everything back.
    pub(super) fn read(
        config: &impl ConfigAccess,
        address: Address,
        bar: u8,
    ) -> Result<Self, BarError> {
        let low = first_half(config, address, bar)?;
        let shape = with_decoding_off(config, address, || Self::probe(config, address, bar, low));
        match shape.size {
            0 => Err(BarError::Unimplemented { bar }),
            _ => Ok(shape),
        }
    }

    /// With decoding off.
    fn probe(config: &impl ConfigAccess, address: Address, bar: u8, low: u32) -> Self {
        let at = register(bar);
        let low_mask = mask(config, address, at, low);
        if low & 1 != 0 {
            return Self {
                bar,
                base: (low & !3).into(),
                size: lowest_bit((low_mask & !3).into()),
                kind: Kind::Io {
                    short: low_mask >> 16 == 0,
                },
            };
        }
        let wide = is_wide(low);
        let (high, high_mask) = if wide {
            let high = config.read32(address, at + 4);
            (high, mask(config, address, at + 4, high))
        } else {
            (0, 0)
        };
        Self {
            bar,
            base: u64::from(high) << 32 | u64::from(low & !0xf),
            size: lowest_bit(u64::from(high_mask) << 32 | u64::from(low_mask & !0xf)),
            kind: Kind::Memory {
                wide,
                prefetchable: low & 8 != 0,
            },
        }
    }

    /// The BAR with its address, if it has one.
    pub(super) fn resolve(self) -> Result<Bar, BarError> {
        let Self {
            bar,
            base,
            size,
            kind,
        } = self;
        match kind {
            _ if base == 0 => Err(BarError::Unassigned { bar, size }),
            _ if base
                .checked_add(size - 1)
                .is_none_or(|end| end > kind.limit()) =>
            {
                let address = base;
                Err(BarError::Wraps { bar, address, size })
            }
            // Both fit the register's 32 bits.
            Kind::Io { .. } => Ok(Bar::Io {
                port: base as u32,
                size: size as u32,
            }),
            Kind::Memory { prefetchable, .. } => Ok(Bar::Memory {
                address: base,
                size,
                prefetchable,
            }),
        }
    }
}

/// Calls `f` while the function decodes neither memory nor I/O, and puts the command register back.
pub(super) fn with_decoding_off<R>(
    config: &impl ConfigAccess,
    address: Address,
    f: impl FnOnce() -> R,
) -> R {
    let command = config.read16(address, COMMAND);
    config.write16(address, COMMAND, command & !(COMMAND_IO | COMMAND_MEMORY));
    let result = f();
    config.write16(address, COMMAND, command);
    result
}

/// Where something in a BAR is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spot {
    /// At a physical address.
    Memory(u64),
    /// At a port.
    Ports(u32),
}

pub(super) const fn register(bar: u8) -> u16 {
    0x10 + 4 * bar as u16
}

const fn is_wide(low: u32) -> bool {
    low & 1 == 0 && (low >> 1) & 3 == 2
}

/// The size that a mask of writable address bits stands for: the lowest of them; 0 without any.
const fn lowest_bit(mask: u64) -> u64 {
    mask & mask.wrapping_neg()
}

/// The register itself, or why it is not the first half of a BAR.
fn first_half(config: &impl ConfigAccess, address: Address, bar: u8) -> Result<u32, BarError> {
    let bars = match config.read8(address, HEADER_TYPE) & 0x7f {
        0 => 6,
        // Behind them a bridge has the numbers of its buses, which no probe may touch.
        1 => 2,
        _ => 0,
    };
    if bar >= bars {
        return Err(BarError::Reserved { bar });
    }
    let mut upper_half = false;
    for before in 0..bar {
        upper_half = !upper_half && is_wide(config.read32(address, register(before)));
    }
    if upper_half {
        return Err(BarError::UpperHalf { bar });
    }
    let low = config.read32(address, register(bar));
    if low & 1 == 0 && !matches!(low >> 1 & 3, 0 | 2) {
        return Err(BarError::MemoryType { bar, value: low });
    }
    if is_wide(low) && bar + 1 == bars {
        return Err(BarError::NoUpperHalf { bar });
    }
    Ok(low)
}

/// Which bits of the register can be written. Puts `value` back.
fn mask(config: &impl ConfigAccess, address: Address, at: u16, value: u32) -> u32 {
    config.write32(address, at, !0);
    let mask = config.read32(address, at);
    config.write32(address, at, value);
    mask
}

/// The BARs of a function, each probed once at most.
pub(super) struct Bars<'a, C> {
    config: &'a C,
    address: Address,
    known: [Option<Result<Bar, BarError>>; 6],
}

impl<'a, C: ConfigAccess> Bars<'a, C> {
    pub(super) fn new(config: &'a C, address: Address) -> Self {
        let known = [None; 6];
        Self {
            config,
            address,
            known,
        }
    }

    /// Where `length` bytes at `offset` of a BAR are.
    pub(super) fn place(&mut self, bar: u8, offset: u64, length: u64) -> Result<Spot, BarError> {
        let known = self.known.get_mut(usize::from(bar));
        let known = known.ok_or(BarError::Reserved { bar })?;
        let read = || Bar::read(self.config, self.address, bar);
        (*known.get_or_insert_with(read))?.place(bar, offset, length)
    }

    /// The physical address of `length` bytes at `offset` of a memory BAR.
    pub(super) fn memory(&mut self, bar: u8, offset: u64, length: u64) -> Result<u64, BarError> {
        match self.place(bar, offset, length)? {
            Spot::Memory(address) => Ok(address),
            Spot::Ports(port) => Err(BarError::Io { bar, port }),
        }
    }
}
