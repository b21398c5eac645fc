//! How the driver reaches the registers of its device: by loads and stores, or by functions that
//! count.
//!
//! [`Access::Counted`] is what a confidential guest does, whose hypervisor may not be relied on to
//! trap: there each of these functions is a hypercall. The registers are mapped where they are, for
//! the functions; the driver is given addresses that are mapped nowhere. So an access that went
//! past the functions would be a fault, and end the run: what is counted is everything.
//!
//! ```text
//!   Registers at UNMAPPED + physical ──▶ crate ──▶ Access::Counted ──▶ load or store at physical
//! ```
//!
//! Registers that are no memory, as I/O ports, are an [`Io`].

use alloc::boxed::Box;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU64, Ordering};

use vring::transport::pci::Area;
use vring::transport::{Doorbell, Isr, Native, Register, RegisterAccess, Registers};
use vring_protocol::Options;

use super::Machine;
use super::arch::{IoRegisters, memory};

/// How registers are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// By loads and stores.
    Plain,
    /// By functions that count.
    Counted,
}

/// What was counted since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Loads and stores other than the two below.
    pub(crate) accesses: u64,
    /// Doorbell stores.
    pub(crate) doorbells: u64,
    /// Interrupts that were acknowledged.
    pub(crate) acknowledged: u64,
}

static ACCESSES: AtomicU64 = AtomicU64::new(0);
static DOORBELLS: AtomicU64 = AtomicU64::new(0);
static ACKNOWLEDGED: AtomicU64 = AtomicU64::new(0);

fn count(which: &AtomicU64) {
    which.fetch_add(1, Ordering::Relaxed);
}

impl Counts {
    /// Of [`Access::Counted`], so far.
    pub(crate) fn now() -> Self {
        let [accesses, doorbells, acknowledged] =
            [&ACCESSES, &DOORBELLS, &ACKNOWLEDGED].map(|count| count.load(Ordering::Relaxed));
        Self {
            accesses,
            doorbells,
            acknowledged,
        }
    }
}

impl Access {
    /// As the command line says.
    pub(crate) fn of(options: &Options) -> Self {
        if options.counted_registers {
            Self::Counted
        } else {
            Self::Plain
        }
    }

    /// Device registers for a transport; `None` for addresses that are memory, or out of reach.
    pub(crate) fn map(self, machine: &Machine, address: u64, len: usize) -> Option<Registers> {
        let end = address.checked_add(len as u64)?;
        let is_memory = |ram: &core::ops::Range<u64>| address < ram.end && ram.start < end;
        if end > memory::HIGHEST || machine.ram.iter().any(is_memory) {
            return None;
        }
        memory::map_device(address, len as u64);
        let base = match self {
            Self::Plain => address as usize,
            Self::Counted => memory::UNMAPPED + address as usize,
        };
        let base = NonNull::new(ptr::without_provenance_mut(base))?;
        // SAFETY: mapped for good, not memory, and asked for by the one transport of the device. Of
        // the addresses that are not mapped only the functions below make any use.
        Some(unsafe { Registers::new(base, len) })
    }
}

/// Where the register of so many bytes is that the driver has an unmapped address of.
fn place(unmapped: usize, width: usize) -> Registers {
    let place = NonNull::new((unmapped - memory::UNMAPPED) as *mut u8);
    let place = place.expect("no register is at address 0");
    // SAFETY: `Access::map` mapped it there for the transport that asks.
    unsafe { Registers::new(place, width) }
}

macro_rules! access {
    ($($read:ident $write:ident $word:ty),*) => {$(
        fn $read(&self, at: Register<$word>) -> $word {
            match self {
                Self::Plain => Native.$read(at),
                Self::Counted => {
                    count(&ACCESSES);
                    place(at.address(), size_of::<$word>()).$read(0)
                }
            }
        }
        fn $write(&self, at: Register<$word>, value: $word) {
            match self {
                Self::Plain => Native.$write(at, value),
                Self::Counted => {
                    count(&ACCESSES);
                    place(at.address(), size_of::<$word>()).$write(0, value);
                }
            }
        }
    )*};
}

// SAFETY: each call is one access of the register that the address stands for, of which there is one
// to each address, by `Native` or by the area of registers that it is; both signed it.
unsafe impl RegisterAccess for Access {
    access!(read8 write8 u8, read16 write16 u16, read32 write32 u32);

    fn doorbell(&self, at: Register<u16>, value: u16) -> Doorbell {
        match self {
            Self::Plain => Native.doorbell(at, value),
            Self::Counted => Doorbell::function(ring16, at.address(), value),
        }
    }
    fn doorbell_with_data(&self, at: Register<u32>, value: u16) -> Doorbell {
        match self {
            Self::Plain => Native.doorbell_with_data(at, value),
            Self::Counted => Doorbell::function(ring32, at.address(), value).with_data(),
        }
    }
    fn doorbell32(&self, at: Register<u32>, value: u16) -> Doorbell {
        match self {
            Self::Plain => Native.doorbell32(at, value),
            Self::Counted => Doorbell::function(ring32, at.address(), value),
        }
    }
    fn isr(&self, at: Register<u8>) -> Isr {
        match self {
            Self::Plain => Native.isr(at),
            Self::Counted => Isr::function(acknowledge, at.address()),
        }
    }
    fn isr_pair(&self, status: Register<u32>, ack: Register<u32>) -> Isr {
        match self {
            Self::Plain => Native.isr_pair(status, ack),
            Self::Counted => {
                Isr::functions(read_status, write_ack, status.address(), ack.address())
            }
        }
    }
}

fn ring16(at: usize, value: u32) {
    count(&DOORBELLS);
    place(at, 2).write16(0, value as u16);
}

fn ring32(at: usize, value: u32) {
    count(&DOORBELLS);
    place(at, 4).write32(0, value);
}

fn acknowledge(at: usize) -> u8 {
    count(&ACKNOWLEDGED);
    place(at, 1).read8(0)
}

fn read_status(at: usize) -> u32 {
    count(&ACKNOWLEDGED);
    place(at, 4).read32(0)
}

/// The second half of an acknowledgement, which is counted already.
fn write_ack(at: usize, seen: u32) {
    place(at, 4).write32(0, seen);
}

/// The registers of an I/O BAR. The crate reaches them by the calls below only: it does not know
/// where they are.
pub(crate) struct Io {
    registers: IoRegisters,
    access: Access,
}

impl Io {
    /// So many registers of an I/O BAR; `None` where the machine has no such ports.
    pub(crate) fn new(machine: &Machine, access: Access, port: u32, len: usize) -> Option<Self> {
        let registers = super::arch::io_registers(&machine.firmware, port, len)?;
        Some(Self { registers, access })
    }

    fn count(&self) {
        if self.access == Access::Counted {
            count(&ACCESSES);
        }
    }

    /// The same doorbell behind a function that counts. It is never given back, as doorbells are
    /// copied without a trace.
    fn bell(&self, native: Doorbell, value: u16, with_data: bool) -> Doorbell {
        if self.access == Access::Plain {
            return native;
        }
        let native: &'static Doorbell = Box::leak(Box::new(native));
        let bell = Doorbell::function(
            ring_native,
            ptr::from_ref(native).expose_provenance(),
            value,
        );
        if with_data { bell.with_data() } else { bell }
    }
}

fn ring_native(native: usize, value: u32) {
    count(&DOORBELLS);
    let native = ptr::with_exposed_provenance::<Doorbell>(native);
    // SAFETY: `Io::bell` leaked it.
    unsafe { &*native }.ring((value >> 16) as u16);
}

fn acknowledge_native(native: usize) -> u8 {
    count(&ACKNOWLEDGED);
    let native = ptr::with_exposed_provenance::<Isr>(native);
    // SAFETY: `Io::isr` leaked it.
    unsafe { &*native }.ack().bits()
}

macro_rules! io {
    ($($read:ident $write:ident $word:ty),*) => {$(
        fn $read(&self, offset: usize) -> $word {
            self.count();
            self.registers.$read(offset)
        }
        fn $write(&self, offset: usize, value: $word) {
            self.count();
            self.registers.$write(offset, value);
        }
    )*};
}

// SAFETY: each call is one of the same of registers that signed it.
unsafe impl Area for Io {
    io!(read8 write8 u8, read16 write16 u16, read32 write32 u32);

    fn size(&self) -> usize {
        self.registers.size()
    }
    fn is_aligned_to(&self, alignment: usize) -> bool {
        Area::is_aligned_to(&self.registers, alignment)
    }
    fn doorbell(&self, offset: usize, value: u16) -> Option<Doorbell> {
        let native = Area::doorbell(&self.registers, offset, value)?;
        Some(self.bell(native, value, false))
    }
    fn doorbell_with_data(&self, offset: usize, value: u16) -> Option<Doorbell> {
        let native = Area::doorbell_with_data(&self.registers, offset, value)?;
        Some(self.bell(native, value, true))
    }
    fn isr(&self, offset: usize) -> Option<Isr> {
        let native = Area::isr(&self.registers, offset)?;
        if self.access == Access::Plain {
            return Some(native);
        }
        let native: &'static Isr = Box::leak(Box::new(native));
        let context = ptr::from_ref(native).expose_provenance();
        Some(Isr::function(acknowledge_native, context))
    }
}
