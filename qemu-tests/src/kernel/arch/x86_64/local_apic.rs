//! The processor's own interrupt controller: end of interrupt, the timer, and where an MSI goes.
//!
//! It is used the way the firmware left it: through memory (xAPIC), or through model-specific
//! registers where x2APIC is already on. A register has the same number in both; only the way there
//! differs.

use spin::Once;
use vring::transport::pci::Message;
use x86_64::registers::model_specific::Msr;

use super::{SPURIOUS_VECTOR, clock, memory};
use crate::kernel::interrupts::Vector;

/// IA32_APIC_BASE: address, bit 11 enables, bit 10 is x2APIC.
const BASE: Msr = Msr::new(0x1b);
const BASE_ENABLED: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;

// Registers by their number in the manual: the offset in memory divided by 16.
const ID: u32 = 0x02;
const TASK_PRIORITY: u32 = 0x08;
const END_OF_INTERRUPT: u32 = 0x0b;
const SPURIOUS: u32 = 0x0f;
const COMMAND: u32 = 0x30;
const TIMER_ENTRY: u32 = 0x32;
const TIMER_INITIAL: u32 = 0x38;
const TIMER_CURRENT: u32 = 0x39;
const TIMER_DIVIDE: u32 = 0x3e;

/// Of an interrupt that is sent: to this processor, no other's number needed.
const TO_SELF: u32 = 1 << 18;
const SPURIOUS_ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const DIVIDE_BY_16: u32 = 0b0011;

/// How a register is reached.
enum Registers {
    /// The address of the first one.
    Memory(usize),
    /// As x2APIC has it.
    ModelSpecific,
}

impl Registers {
    fn read(&self, register: u32) -> u32 {
        match *self {
            Self::Memory(base) => {
                let address = (base + (register as usize) * 16) as *const u32;
                // SAFETY: `init` mapped the registers, and reading this one changes nothing.
                unsafe { address.read_volatile() }
            }
            Self::ModelSpecific => {
                // SAFETY: x2APIC is on, so the register exists.
                unsafe { Msr::new(0x800 + register).read() as u32 }
            }
        }
    }

    fn write(&self, register: u32, value: u32) {
        match *self {
            Self::Memory(base) => {
                let address = (base + (register as usize) * 16) as *mut u32;
                // SAFETY: `init` mapped the registers, and this module knows what they do.
                unsafe { address.write_volatile(value) };
            }
            Self::ModelSpecific => {
                let mut register = Msr::new(0x800 + register);
                // SAFETY: x2APIC is on, so the register exists.
                unsafe { register.write(u64::from(value)) };
            }
        }
    }
}

static REGISTERS: Once<Registers> = Once::new();

/// Enables the controller, whose registers ACPI places at `address`.
pub(super) fn init(address: u64) {
    // SAFETY: every x86_64 processor with an APIC has the register; ACPI says there is one.
    let base = unsafe { BASE.read() };
    let registers = if base & BASE_X2APIC == 0 {
        memory::map_device(address, 4096);
        let mut register = BASE;
        // SAFETY: sets nothing but the bit that enables the controller where it is.
        unsafe { register.write(base | BASE_ENABLED) };
        Registers::Memory(address as usize)
    } else {
        Registers::ModelSpecific
    };
    let registers = REGISTERS.call_once(|| registers);
    registers.write(TASK_PRIORITY, 0);
    registers.write(SPURIOUS, SPURIOUS_ENABLE | u32::from(SPURIOUS_VECTOR));
}

fn registers() -> &'static Registers {
    REGISTERS
        .get()
        .expect("the local APIC is initialized first")
}

/// Tells the controller that an interrupt has been handled.
pub(super) fn end_of_interrupt() {
    registers().write(END_OF_INTERRUPT, 0);
}

/// This processor's number, as interrupts are addressed to it.
pub(super) fn id() -> u32 {
    match registers() {
        registers @ Registers::Memory(_) => registers.read(ID) >> 24,
        registers @ Registers::ModelSpecific => registers.read(ID),
    }
}

/// The message that raises `vector` on this processor: what goes into an entry of an MSI-X table.
pub(super) fn message(vector: Vector) -> Message {
    // The processor that boots has a low number, and there is no other one.
    Message::x86(id() as u8, vector.number())
}

/// Raises `vector` on this processor.
pub(super) fn raise(vector: Vector) {
    registers().write(COMMAND, TO_SELF | u32::from(vector.number()));
}

/// Gives the controller's timer `vector`, and measures it against the clock for some 10 ms: ticks a
/// second.
pub(super) fn start_timer(vector: Vector) -> u64 {
    let registers = registers();
    registers.write(TIMER_ENTRY, MASKED);
    registers.write(TIMER_DIVIDE, DIVIDE_BY_16);
    registers.write(TIMER_INITIAL, u32::MAX);
    let frequency = clock::frequency_of(|| u32::MAX - registers.read(TIMER_CURRENT));
    registers.write(TIMER_INITIAL, 0);
    registers.write(TIMER_ENTRY, u32::from(vector.number()));
    frequency
}

/// Raises the timer's vector after so many ticks.
pub(super) fn set_timer(ticks: u32) {
    registers().write(TIMER_INITIAL, ticks);
}
