//! The 16550 of QEMU's `virt`: where it is has to be known before anything can be said.

use core::ptr::NonNull;

use uart_16550::backend::MmioBackend;
use uart_16550::{BaudRate, Config, Uart16550Tty};

const ADDRESS: *mut u8 = 0x1000_0000 as *mut u8;

/// The port.
pub(crate) type Console = Uart16550Tty<MmioBackend>;

/// Opens the port; `None` when there is none.
pub(crate) fn console() -> Option<Console> {
    let config = Config {
        baud_rate: BaudRate::Baud115200,
        ..Config::DEFAULT
    };
    let address = NonNull::new(ADDRESS)?;
    // SAFETY: on this machine the port is there, a byte for each register, and ours alone.
    unsafe { Uart16550Tty::new_mmio(address, 1, config) }.ok()
}
