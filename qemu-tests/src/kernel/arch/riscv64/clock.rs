//! The `time` register.

use riscv::register::time;

use super::Firmware;

/// What the counter reads.
pub(crate) fn counter() -> u64 {
    time::read64()
}

/// Counts a second.
pub(crate) fn frequency(firmware: &Firmware) -> u64 {
    firmware.controllers.timebase
}
