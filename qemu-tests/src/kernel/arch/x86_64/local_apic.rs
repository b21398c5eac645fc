//! The processor's own interrupt controller: end of interrupt, the timer, where an MSI goes, and
//! interrupts from one processor to another.
//!
//! It is used the way the firmware left it: through memory (xAPIC), or through model-specific
//! registers where x2APIC is already on. A register has the same number in both; only the way there
//! differs.

use spin::Once;
use vring::transport::pci::Message;
use x86_64::instructions::interrupts::without_interrupts;
use x86_64::registers::model_specific::Msr;

use super::{SPURIOUS_VECTOR, clock, memory};
use crate::kernel::interrupts::Vector;

/// IA32_APIC_BASE: address, bit 11 enables, bit 10 is x2APIC.
const BASE: Msr = Msr::new(0x1b);
const BASE_ENABLED: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ADDRESS: u64 = 0xf_ffff_ffff_f000;

// Registers by their number in the manual: the offset in memory divided by 16.
const ID: u32 = 0x02;
const TASK_PRIORITY: u32 = 0x08;
const END_OF_INTERRUPT: u32 = 0x0b;
const SPURIOUS: u32 = 0x0f;
const COMMAND: u32 = 0x30;
const COMMAND_TARGET: u32 = 0x31;
const TIMER_ENTRY: u32 = 0x32;
const TIMER_INITIAL: u32 = 0x38;
const TIMER_CURRENT: u32 = 0x39;
const TIMER_DIVIDE: u32 = 0x3e;

/// Of an interrupt that is sent: to this processor, no other's number needed.
const TO_SELF: u32 = 1 << 18;
/// Of [`COMMAND`]: on its way still. Registers in memory only.
const COMMAND_PENDING: u32 = 1 << 12;
/// Of [`COMMAND`]: the first step of a start, and the second, whose low byte is the page to start in.
const COMMAND_INIT: u32 = 0x4500;
const COMMAND_STARTUP: u32 = 0x4600;
/// Of [`COMMAND`]: an ordinary interrupt, whose low byte is the vector.
const COMMAND_FIXED: u32 = 0x4000;

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

impl Registers {
    /// Sends an interrupt to the processor of that number.
    fn command(&self, id: u32, command: u32) {
        match *self {
            Self::Memory(_) => {
                // Two registers: an interrupt that itself sends one must not come between.
                without_interrupts(|| {
                    while self.read(COMMAND) & COMMAND_PENDING != 0 {
                        core::hint::spin_loop();
                    }
                    self.write(COMMAND_TARGET, id << 24);
                    self.write(COMMAND, command);
                });
            }
            Self::ModelSpecific => {
                // What this processor wrote to memory is to be seen by the one that is told: a
                // write to the register orders nothing by itself.
                // SAFETY: the instruction is on every x86_64 processor.
                unsafe { core::arch::x86_64::_mm_mfence() };
                // SAFETY: as above.
                unsafe { core::arch::x86_64::_mm_lfence() };
                let mut register = Msr::new(0x800 + COMMAND);
                // SAFETY: x2APIC is on, so the register exists; it has the target above.
                unsafe { register.write(u64::from(id) << 32 | u64::from(command)) };
            }
        }
    }
}

static REGISTERS: Once<Registers> = Once::new();

/// Where the processor says that the registers are.
pub(super) fn address() -> u64 {
    // SAFETY: every x86_64 processor with an APIC has the register.
    let base = unsafe { BASE.read() };
    base & BASE_ADDRESS
}

/// Enables the controller of the processor that boots, whose registers ACPI places at `address`.
/// Those of every processor are there: each reaches its own.
pub(super) fn init(address: u64) {
    // SAFETY: every x86_64 processor with an APIC has the register; ACPI says there is one.
    let base = unsafe { BASE.read() };
    let registers = if base & BASE_X2APIC == 0 {
        memory::map_device(address, 4096);
        Registers::Memory(address as usize)
    } else {
        Registers::ModelSpecific
    };
    REGISTERS.call_once(|| registers);
    enable();
}

/// Enables the controller of this processor, in the way that the first one has its own.
pub(super) fn enable() {
    let registers = registers();
    let way = match registers {
        Registers::Memory(_) => BASE_ENABLED,
        Registers::ModelSpecific => BASE_ENABLED | BASE_X2APIC,
    };
    let mut register = BASE;
    // SAFETY: every x86_64 processor with an APIC has the register; ACPI says there is one.
    let base = unsafe { register.read() };
    // SAFETY: sets nothing but the bits that enable the controller where it is.
    unsafe { register.write(base | way) };
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
    // The processor that boots has a low number.
    Message::x86(id() as u8, vector.number())
}

/// Raises `vector` on this processor.
pub(super) fn raise(vector: Vector) {
    registers().write(COMMAND, TO_SELF | u32::from(vector.number()));
}

/// Resets the processor of that number, which then waits for [`send_startup`].
pub(super) fn send_init(id: u32) {
    registers().command(id, COMMAND_INIT);
}

/// Has a processor that was reset begin in the 4 KiB page of that number.
pub(super) fn send_startup(id: u32, page: u8) {
    registers().command(id, COMMAND_STARTUP | u32::from(page));
}

/// Raises `vector` on the processor of that number.
pub(super) fn send(id: u32, vector: Vector) {
    registers().command(id, COMMAND_FIXED | u32::from(vector.number()));
}

/// Gives the controller's timer `vector`, and measures it against the clock for some 10 ms: ticks a
/// second.
pub(super) fn start_timer(vector: Vector) -> u64 {
    let registers = registers();
    registers.write(TIMER_ENTRY, MASKED);
    registers.write(TIMER_DIVIDE, DIVIDE_BY_16);
    registers.write(TIMER_INITIAL, u32::MAX);
    let frequency = clock::frequency_of(|| u32::MAX - registers.read(TIMER_CURRENT));
    join_timer(vector);
    frequency
}

/// Gives the timer of this processor `vector`. Those of all processors run at one pace.
pub(super) fn join_timer(vector: Vector) {
    let registers = registers();
    registers.write(TIMER_DIVIDE, DIVIDE_BY_16);
    registers.write(TIMER_INITIAL, 0);
    registers.write(TIMER_ENTRY, u32::from(vector.number()));
}

/// Raises the timer's vector after so many ticks.
pub(super) fn set_timer(ticks: u32) {
    registers().write(TIMER_INITIAL, ticks);
}
