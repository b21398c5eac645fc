//! How PCI configuration space is read and written.
//!
//! [`ConfigAccess`] is what a kernel with a PCI stack of its own implements. The two ways that
//! machines have are here: [`Ecam`], where each register has an address, and [`PortIo`], the pair
//! of ports at `0xcf8` and `0xcfc`, of which the first selects and the second transfers.
//!
//! Writing configuration space moves address windows and turns devices on. Whoever holds an
//! access holds that power: hand it out as you would hand out raw memory. So making one is unsafe,
//! and its methods are not.

use core::fmt;
use core::ops::RangeInclusive;

use crate::mmio::{Native, RegisterAccess, Registers};

pub use crate::mmio::ConfigPorts;
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
pub use crate::mmio::NativePorts;

/// A PCI function: segment, bus, device, function. Written `0000:00:1f.7`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    segment: u16,
    bus: u8,
    device: u8,
    function: u8,
}

impl Address {
    /// A function of segment 0; `None` when `device` is above 31 or `function` above 7.
    #[must_use]
    pub const fn new(bus: u8, device: u8, function: u8) -> Option<Self> {
        if device < 32 && function < 8 {
            Some(Self {
                segment: 0,
                bus,
                device,
                function,
            })
        } else {
            None
        }
    }

    /// Of numbers that are in range, or are cut down to it.
    #[cfg(feature = "pci_types")]
    pub(crate) const fn of_parts(segment: u16, bus: u8, device: u8, function: u8) -> Self {
        Self {
            segment,
            bus,
            device: device & 31,
            function: function & 7,
        }
    }

    /// The same function of another segment (of another host bridge).
    #[must_use]
    pub const fn with_segment(self, segment: u16) -> Self {
        Self { segment, ..self }
    }

    /// Segment, also called domain.
    #[must_use]
    pub const fn segment(self) -> u16 {
        self.segment
    }

    /// Bus.
    #[must_use]
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// Device (slot), 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.device
    }

    /// Function, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.function
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            segment,
            bus,
            device,
            function,
        } = self;
        write!(f, "{segment:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads and writes configuration space.
///
/// `register` is a byte offset below 4096, aligned to the width: the crate asks for nothing else.
/// What does not exist reads as all-ones and takes no writes, as on the bus. An access has the
/// width of its name: a 16-bit write must not be made of a 32-bit one, because the neighbors of
/// the command register are cleared by writing ones.
///
/// # Safety
/// BARs say which registers are the device's, and registers may be reached through a
/// [`Window`](super::Window): memory is freed on what they say. And a write may move registers to
/// where memory is, or other registers to where these were. An implementation promises:
///
/// 1. A read returns what that register of that function answers. A write stores that value there,
///    once, and changes no other register. Both happen in the order of the calls, and a write after
///    every earlier store to memory.
/// 2. A value is made by unsafe code only, and whoever makes one answers for what it is used for,
///    by all whom it is given to. While anybody uses registers of a function, nobody changes the
///    BARs, the command register or the window capability of that function, or the windows of a
///    bridge before it, save the transport that drives the function. And no BAR is given addresses
///    that memory or somebody else's registers have: [`assign_bars`](super::assign_bars) takes
///    them from windows that its caller vouches for. What this crate changes, and when, is written
///    where a function takes an access.
///
/// It does not promise that the device tells the truth.
#[allow(unsafe_code)] // declares the contract of who reaches configuration space
pub unsafe trait ConfigAccess {
    /// Reads 32 bits.
    fn read32(&self, address: Address, register: u16) -> u32;

    /// Reads 16 bits. By default a half of the 32 bits around it.
    fn read16(&self, address: Address, register: u16) -> u16 {
        (self.read32(address, register & !3) >> (8 * u32::from(register & 2))) as u16
    }

    /// Reads 8 bits. By default a quarter of the 32 bits around it.
    fn read8(&self, address: Address, register: u16) -> u8 {
        (self.read32(address, register & !3) >> (8 * u32::from(register & 3))) as u8
    }

    /// Writes 32 bits.
    fn write32(&self, address: Address, register: u16, value: u32);

    /// Writes 16 bits.
    fn write16(&self, address: Address, register: u16, value: u16);

    /// Writes 8 bits.
    fn write8(&self, address: Address, register: u16, value: u8);
}

#[allow(unsafe_code)] // signs the contract of who reaches configuration space
// SAFETY: that of what is borrowed.
unsafe impl<C: ConfigAccess + ?Sized> ConfigAccess for &C {
    fn read32(&self, address: Address, register: u16) -> u32 {
        (**self).read32(address, register)
    }
    fn read16(&self, address: Address, register: u16) -> u16 {
        (**self).read16(address, register)
    }
    fn read8(&self, address: Address, register: u16) -> u8 {
        (**self).read8(address, register)
    }
    fn write32(&self, address: Address, register: u16, value: u32) {
        (**self).write32(address, register, value);
    }
    fn write16(&self, address: Address, register: u16, value: u16) {
        (**self).write16(address, register, value);
    }
    fn write8(&self, address: Address, register: u16, value: u8) {
        (**self).write8(address, register, value);
    }
}

macro_rules! several {
    ($($read:ident $write:ident $word:ty),*) => {$(
        fn $read(&self, address: Address, register: u16) -> $word {
            let mut each = self.iter().map(|one| one.$read(address, register));
            each.find(|&one| one != <$word>::MAX).unwrap_or(<$word>::MAX)
        }

        fn $write(&self, address: Address, register: u16, value: $word) {
            self.iter().for_each(|one| one.$write(address, register, value));
        }
    )*};
}

/// Several ways that each reach functions of their own, as the ECAM windows of several host bridges
/// do. What is not behind one of them reads as all-ones there, and takes no writes.
#[allow(unsafe_code)] // signs the contract of who reaches configuration space
// SAFETY: 1. What is read is what one of them read, and of those that a write is given to the one
// that reaches the function does it. 2. Their makers answered for each.
unsafe impl<C: ConfigAccess> ConfigAccess for [C] {
    several!(read32 write32 u32, read16 write16 u16, read8 write8 u8);
}

/// The enhanced configuration access mechanism (PCI Express): 4 KiB of registers a function, 1 MiB
/// a bus. ACPI's `MCFG` table or a device tree says where it is.
#[derive(Debug)]
pub struct Ecam<A = Native> {
    registers: Registers,
    segment: u16,
    buses: RangeInclusive<u8>,
    access: A,
}

impl Ecam {
    /// `registers` begins with the first of `buses` and holds 1 MiB for each; buses that it is too
    /// short for read as empty.
    ///
    /// An `MCFG` entry gives the address of *bus 0* also when its first bus is another: add
    /// `first << 20` to it. A device tree's `reg` begins with the first bus.
    #[must_use]
    pub const fn new(registers: Registers, segment: u16, buses: RangeInclusive<u8>) -> Self {
        Self::with_access(registers, segment, buses, Native)
    }
}

impl<A: RegisterAccess> Ecam<A> {
    /// As [`new`](Ecam::new), with registers that are reached in another way.
    #[must_use]
    pub const fn with_access(
        registers: Registers,
        segment: u16,
        buses: RangeInclusive<u8>,
        access: A,
    ) -> Self {
        Self {
            registers,
            segment,
            buses,
            access,
        }
    }

    /// Bytes from the start of the registers; `None` when the function has none here.
    fn offset(&self, address: Address, register: u16) -> Option<usize> {
        if address.segment != self.segment || register >= 4096 || !self.buses.contains(&address.bus)
        {
            return None;
        }
        let bus = usize::from(address.bus) - usize::from(*self.buses.start());
        let function = usize::from(address.device) << 3 | usize::from(address.function);
        Some(bus << 20 | function << 12 | usize::from(register))
    }
}

macro_rules! ecam {
    ($($read:ident $write:ident $word:ty),*) => {$(
        fn $read(&self, address: Address, register: u16) -> $word {
            let place = self.offset(address, register).and_then(|at| self.registers.register(at));
            place.map_or(<$word>::MAX, |place| self.access.$read(place))
        }

        fn $write(&self, address: Address, register: u16, value: $word) {
            let place = self.offset(address, register).and_then(|at| self.registers.register(at));
            if let Some(place) = place {
                self.access.$write(place, value);
            }
        }
    )*};
}

#[allow(unsafe_code)] // signs the contract of who reaches configuration space
// SAFETY: 1. One access of that width, at the function's own page. 2. It is made of `Registers`,
// whose maker answers for what they are used for.
unsafe impl<A: RegisterAccess> ConfigAccess for Ecam<A> {
    ecam!(read32 write32 u32, read16 write16 u16, read8 write8 u8);
}

/// Configuration mechanism #1: the ports `0xcf8` and `0xcfc`. Segment 0, registers below 256.
///
/// The two ports are one resource of the machine, so the lock around the pair is one for all
/// values of this type. It spins: do not use it in an interrupt handler.
#[derive(Debug)]
pub struct PortIo<P> {
    ports: P,
}

static PORT_PAIR: spin::Mutex<()> = spin::Mutex::new(());

const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;

impl<P: ConfigPorts> PortIo<P> {
    /// Over [`NativePorts`], or over ports that are reached in another way.
    #[must_use]
    pub const fn new(ports: P) -> Self {
        Self { ports }
    }

    /// Selects the register and transfers, with the pair held. `None`: not reachable this way.
    fn with<R>(
        &self,
        address: Address,
        register: u16,
        width: u16,
        transfer: impl FnOnce(&P, u16) -> R,
    ) -> Option<R> {
        if address.segment != 0 || register >= 256 || !register.is_multiple_of(width) {
            return None;
        }
        let select = 1 << 31
            | u32::from(address.bus) << 16
            | u32::from(address.device) << 11
            | u32::from(address.function) << 8
            | u32::from(register & !3);
        let _pair = PORT_PAIR.lock();
        self.ports.write32(CONFIG_ADDRESS, select);
        Some(transfer(&self.ports, CONFIG_DATA + (register & 3)))
    }
}

macro_rules! ports {
    ($($read:ident $write:ident $word:ty),*) => {$(
        fn $read(&self, address: Address, register: u16) -> $word {
            self.with(address, register, size_of::<$word>() as u16, P::$read)
                .unwrap_or(<$word>::MAX)
        }

        fn $write(&self, address: Address, register: u16, value: $word) {
            self.with(address, register, size_of::<$word>() as u16, |ports, port| {
                ports.$write(port, value);
            });
        }
    )*};
}

#[allow(unsafe_code)] // signs the contract of who reaches configuration space
// SAFETY: 1. One access of that width, after the register was selected, with the pair held. `out`
// waits for earlier stores. 2. It is made of ports, whose maker answers for what they are used for.
unsafe impl<P: ConfigPorts> ConfigAccess for PortIo<P> {
    ports!(read32 write32 u32, read16 write16 u16, read8 write8 u8);
}
