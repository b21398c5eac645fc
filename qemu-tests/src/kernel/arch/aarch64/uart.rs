//! The PL011 of QEMU's `virt`: where it is has to be known before anything can be said.

use core::fmt;

use crate::kernel::arch::virt::registers::Registers;

const ADDRESS: u64 = 0x0900_0000;

const DATA: usize = 0x00;
const FLAGS: usize = 0x18;
const LINE_CONTROL: usize = 0x2c;
const CONTROL: usize = 0x30;

const TRANSMIT_FULL: u32 = 1 << 5;
/// 8 bits a character, with queues.
const EIGHT_BITS: u32 = 0b11 << 5 | 1 << 4;
/// On, in both directions.
const ENABLE: u32 = 1 | 0b11 << 8;

/// The port.
pub(crate) struct Console(Registers);

/// Opens the port.
pub(crate) fn console() -> Option<Console> {
    // SAFETY: on this machine the port is there.
    let registers = unsafe { Registers::new(ADDRESS, 4096) };
    registers.write(LINE_CONTROL, EIGHT_BITS);
    registers.write(CONTROL, ENABLE);
    Some(Console(registers))
}

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            while self.0.read(FLAGS) & TRANSMIT_FULL != 0 {
                core::hint::spin_loop();
            }
            self.0.write(DATA, byte.into());
        }
        Ok(())
    }
}
