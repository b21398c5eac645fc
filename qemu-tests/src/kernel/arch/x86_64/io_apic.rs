//! The I/O APICs: interrupt lines to vectors.
//!
//! Which line a PCI function's INTx pin drives is written in AML, which this kernel does not
//! interpret. It takes the *interrupt line* register instead, where the firmware has written the
//! ISA interrupt that the pin reaches: on pc and q35 alike the chipset then raises the I/O APIC
//! input of the same number as well as the 8259's. Machines with a routing of their own need AML.

use alloc::vec::Vec;

use spin::{Mutex, Once};

use super::acpi::{self, Firmware};
use super::{local_apic, memory};
use crate::kernel::interrupts::Vector;

/// Offsets of the index and the data register.
const SELECT: usize = 0x00;
const WINDOW: usize = 0x10;

const VERSION: u32 = 0x01;
const REDIRECTION: u32 = 0x10;

const ACTIVE_LOW: u32 = 1 << 13;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;

struct IoApic {
    registers: usize,
    first: u32,
    inputs: u32,
}

static IO_APICS: Once<Mutex<Vec<IoApic>>> = Once::new();

/// Maps the controllers and masks every input.
pub(super) fn init(described: &[acpi::IoApic]) {
    IO_APICS.call_once(|| {
        let found = described.iter().map(|described| {
            memory::map_device(described.address, 4096);
            let mut io_apic = IoApic {
                registers: described.address as usize,
                first: described.first,
                inputs: 0,
            };
            io_apic.inputs = (io_apic.read(VERSION) >> 16 & 0xff) + 1;
            for input in 0..io_apic.inputs {
                io_apic.write(REDIRECTION + 2 * input, MASKED);
            }
            io_apic
        });
        Mutex::new(found.collect())
    });
}

/// Routes a line that PCI functions share, or one of a device over MMIO (so: level-triggered), to `vector` on this
/// processor. False when no controller has the line.
#[must_use]
pub(super) fn route(firmware: &Firmware, line: u32, vector: Vector) -> bool {
    let input = firmware.isa_input(line);
    let Some(io_apics) = IO_APICS.get() else {
        return false;
    };
    for io_apic in io_apics.lock().iter_mut() {
        let range = io_apic.first..io_apic.first + io_apic.inputs;
        if range.contains(&input.number) {
            let register = REDIRECTION + 2 * (input.number - io_apic.first);
            let polarity = if input.active_low { ACTIVE_LOW } else { 0 };
            io_apic.write(register + 1, local_apic::id() << 24);
            io_apic.write(register, LEVEL | polarity | u32::from(vector.number()));
            return true;
        }
    }
    false
}

impl IoApic {
    fn select(&mut self, register: u32) -> *mut u32 {
        let select = (self.registers + SELECT) as *mut u32;
        // SAFETY: `init` mapped the registers; this one only selects another.
        unsafe { select.write_volatile(register) };
        (self.registers + WINDOW) as *mut u32
    }

    fn read(&mut self, register: u32) -> u32 {
        let window = self.select(register);
        // SAFETY: `init` mapped the registers, and reading changes nothing.
        unsafe { window.read_volatile() }
    }

    fn write(&mut self, register: u32, value: u32) {
        let window = self.select(register);
        // SAFETY: `init` mapped the registers, and this module knows what they do.
        unsafe { window.write_volatile(value) };
    }
}
