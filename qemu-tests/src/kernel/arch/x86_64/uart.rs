//! The first serial port of a PC.

use uart_16550::backend::PioBackend;
use uart_16550::{BaudRate, Config, Uart16550Tty};

const COM1: u16 = 0x3f8;

/// The port.
pub(crate) type Console = Uart16550Tty<PioBackend>;

/// Opens the port; `None` when there is none.
pub(crate) fn console() -> Option<Console> {
    let config = Config {
        baud_rate: BaudRate::Baud115200,
        ..Config::DEFAULT
    };
    // SAFETY: COM1 is a serial port or nothing on every PC, and this kernel has it to itself.
    unsafe { Uart16550Tty::new_port(COM1, config) }.ok()
}
