//! MSI-X: a message to an interrupt controller for each vector (VIRTIO 1.4, 4.1.5.1.2).
//!
//! Two tables must agree. This one, which every PCI function may have, says what message each
//! vector sends; the device's vector registers, written when a queue is enabled, say which vector a
//! queue uses. A function with the capability present but not enabled sends none: then INTx and
//! the [`Isr`](crate::transport::Isr) are what there is.

use core::fmt;

use super::access::{Address, ConfigAccess};
use super::bar::{BarError, Bars};
use super::capability::{Capabilities, MSIX};
use super::{COMMAND, COMMAND_INTX_DISABLE, COMMAND_MEMORY};
use crate::mmio::{Register, RegisterAccess, Registers};
use crate::transport::TransportError;

const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
const TABLE_SIZE: u16 = 0x7ff;
const VECTOR_MASKED: u32 = 1;
/// No vector (4.1.5.1.2).
#[doc(alias = "VIRTIO_MSI_NO_VECTOR")]
const NO_VECTOR: u16 = 0xffff;

/// What a vector sends: a 32-bit write to the interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    address: u64,
    data: u32,
}

impl Message {
    /// A write of `data` to `address`, a multiple of 4.
    ///
    /// # Safety
    /// The address is one of an interrupt controller, never memory: the device writes there
    /// whenever it likes.
    #[must_use]
    pub const unsafe fn new(address: u64, data: u32) -> Self {
        Self { address, data }
    }

    /// The message that raises `vector` on the processor whose local APIC has this number. Its
    /// addresses are interrupts on every x86, and memory on none.
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    #[must_use]
    pub const fn x86(apic_id: u8, vector: u8) -> Self {
        Self {
            address: 0xfee0_0000 | (apic_id as u64) << 12,
            data: vector as u32,
        }
    }

    /// Where to.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.address
    }

    /// What.
    #[must_use]
    pub const fn data(self) -> u32 {
        self.data
    }
}

/// Why MSI-X cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MsixError {
    /// The function has no MSI-X capability.
    Absent,
    /// The BAR that holds the table cannot be used.
    Bar(BarError),
    /// The kernel did not map the table, or mapped less of it, or without its alignment.
    MapFailed {
        /// Physical address.
        address: u64,
        /// Bytes.
        length: usize,
    },
    /// The function did not turn it on: the control register read back without the bit.
    NotEnabled {
        /// What was read back.
        control: u16,
    },
    /// The vector was not told what to send. Its entry holds what somebody left there.
    NoMessage {
        /// The vector.
        vector: u16,
    },
    /// There is no such vector.
    NoSuchVector {
        /// The vector.
        vector: u16,
        /// How many there are.
        vectors: u16,
    },
}

impl fmt::Display for MsixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Absent => f.write_str("the function has no MSI-X: use INTx, or poll"),
            Self::Bar(error) => write!(f, "the MSI-X table: {error}"),
            Self::MapFailed { address, length } => write!(
                f,
                "the MSI-X table: {length} bytes at {address:#x} were not mapped, or not wholly, or \
                 not with their alignment"
            ),
            Self::NotEnabled { control } => {
                write!(
                    f,
                    "MSI-X does not turn on: its control register reads {control:#06x}"
                )
            }
            Self::NoMessage { vector } => {
                write!(
                    f,
                    "vector {vector} has no message: call `set` before `unmask`"
                )
            }
            Self::NoSuchVector { vector, vectors } => {
                write!(f, "vector {vector} is not one of the function's {vectors}")
            }
        }
    }
}

impl core::error::Error for MsixError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Bar(error) => Some(error),
            _ => None,
        }
    }
}

/// The vectors of a function, 1 to 2048. All masked at first: [`set`](Self::set), then
/// [`unmask`](Self::unmask).
pub struct MsixTable<A> {
    registers: Registers,
    vectors: u16,
    access: A,
    /// Which vectors have a message, a bit each. Others are never unmasked: in their entries is what
    /// a previous owner left, an address of this one's memory perhaps, or nothing, address 0.
    told: [u32; 64],
}

/// Turns MSI-X off, where there is any.
pub(super) fn turn_off(config: &impl ConfigAccess, address: Address) {
    if let Some(msix) = Capabilities::new(config, address).find(|c| c.id == MSIX)
        && msix.header & ENABLE != 0
    {
        config.write16(address, msix.register + 2, msix.header & !ENABLE);
    }
}

/// Turns MSI-X off and INTx on.
pub(super) fn disable(config: &impl ConfigAccess, address: Address) {
    turn_off(config, address);
    let command = config.read16(address, COMMAND);
    config.write16(address, COMMAND, command & !COMMAND_INTX_DISABLE);
}

/// Gives a vector to one of the device's registers and reads it back (4.1.5.1.2.2). One of more than
/// `vectors` is refused before anything is written; without any, the register has no meaning.
pub(super) fn give_vector(
    vector: Option<u16>,
    vectors: u16,
    write: impl FnOnce(u16),
    read: impl FnOnce() -> u16,
) -> Result<(), TransportError> {
    let vector = match vector {
        None if vectors == 0 => return Ok(()),
        None => NO_VECTOR,
        Some(_) if vectors == 0 => return Err(TransportError::NoVectors),
        Some(vector) if vector >= vectors => {
            return Err(TransportError::VectorOutOfRange { vector, vectors });
        }
        Some(vector) => vector,
    };
    write(vector);
    match read() {
        got if got == vector => Ok(()),
        got => Err(TransportError::VectorRefused { vector, got }),
    }
}

impl<A: RegisterAccess> MsixTable<A> {
    pub(super) fn enable(
        config: &impl ConfigAccess,
        address: Address,
        access: A,
        mut map: impl FnMut(u64, usize) -> Option<Registers>,
    ) -> Result<Self, MsixError> {
        let msix = Capabilities::new(config, address).find(|c| c.id == MSIX);
        // The table's place follows the header: the capability does not fit at the very end.
        let msix = msix.filter(|c| c.register <= 256 - 12);
        let msix = msix.ok_or(MsixError::Absent)?;
        let vectors = (msix.header & TABLE_SIZE) + 1;
        let length = usize::from(vectors) * 16;
        let [bar, offset] = {
            let place = config.read32(address, msix.register + 4);
            [place & 7, place & !7]
        };
        let physical = Bars::new(config, address)
            .memory(bar as u8, offset.into(), length as u64)
            .map_err(MsixError::Bar)?;
        let failed = MsixError::MapFailed {
            address: physical,
            length,
        };
        let registers = map(physical, length).ok_or(failed)?;
        if registers.len() < length || !registers.is_aligned_to(4) {
            return Err(failed);
        }
        let table = Self {
            registers,
            vectors,
            access,
            told: [0; 64],
        };

        // The table is in memory also where all other registers are not.
        let command = config.read16(address, COMMAND);
        if command & COMMAND_MEMORY == 0 {
            config.write16(address, COMMAND, command | COMMAND_MEMORY);
        }
        // Nothing is sent before the table is known to be masked.
        let control = msix.register + 2;
        config.write16(address, control, msix.header | ENABLE | FUNCTION_MASK);
        for vector in 0..vectors {
            table.set_mask(vector, true)?;
        }
        let on = COMMAND_MEMORY | COMMAND_INTX_DISABLE;
        config.write16(address, COMMAND, command | on);
        config.write16(address, control, msix.header & !FUNCTION_MASK | ENABLE);
        let got = config.read16(address, control);
        if got & (ENABLE | FUNCTION_MASK) != ENABLE {
            turn_off(config, address);
            config.write16(address, COMMAND, command);
            return Err(MsixError::NotEnabled { control: got });
        }
        Ok(table)
    }

    /// How many vectors there are, 1 to 2048.
    #[must_use]
    #[expect(clippy::len_without_is_empty)] // there is always one
    pub const fn len(&self) -> u16 {
        self.vectors
    }

    /// Says what a vector sends. It is masked while that changes, and then as it was.
    ///
    /// # Errors
    /// [`MsixError::NoSuchVector`].
    pub fn set(&mut self, vector: u16, message: Message) -> Result<(), MsixError> {
        let control = self.register(vector, 3)?;
        let before = self.access.read32(control);
        self.access.write32(control, before | VECTOR_MASKED);
        let low = self.register(vector, 0)?;
        self.access.write32(low, message.address as u32);
        let high = self.register(vector, 1)?;
        self.access.write32(high, (message.address >> 32) as u32);
        let data = self.register(vector, 2)?;
        self.access.write32(data, message.data);
        if let Some(told) = self.told.get_mut(usize::from(vector / 32)) {
            *told |= 1 << (vector % 32);
        }
        self.access.write32(control, before);
        Ok(())
    }

    /// Lets a vector send nothing; what it would have sent is remembered by the function.
    ///
    /// # Errors
    /// [`MsixError::NoSuchVector`].
    pub fn mask(&mut self, vector: u16) -> Result<(), MsixError> {
        self.set_mask(vector, true)
    }

    /// Lets a vector send, once it is [set](Self::set).
    ///
    /// # Errors
    /// [`MsixError::NoSuchVector`], [`MsixError::NoMessage`].
    pub fn unmask(&mut self, vector: u16) -> Result<(), MsixError> {
        self.register(vector, 3)?;
        let told = self.told.get(usize::from(vector / 32)).copied();
        if told.unwrap_or(0) >> (vector % 32) & 1 == 0 {
            return Err(MsixError::NoMessage { vector });
        }
        self.set_mask(vector, false)
    }

    fn set_mask(&self, vector: u16, masked: bool) -> Result<(), MsixError> {
        let control = self.register(vector, 3)?;
        let others = self.access.read32(control) & !VECTOR_MASKED;
        let value = others | if masked { VECTOR_MASKED } else { 0 };
        self.access.write32(control, value);
        Ok(())
    }

    /// A word of a vector's entry.
    fn register(&self, vector: u16, word: usize) -> Result<Register<u32>, MsixError> {
        let vectors = self.vectors;
        let at = usize::from(vector) * 16 + word * 4;
        let register = self.registers.register(at).filter(|_| vector < vectors);
        register.ok_or(MsixError::NoSuchVector { vector, vectors })
    }
}

impl<A> fmt::Debug for MsixTable<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MsixTable({} vectors)", self.vectors)
    }
}
