//! The virtual counter of the generic timer.

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTVCT_EL0, Readable};

use super::Firmware;

/// What the counter reads.
pub(crate) fn counter() -> u64 {
    CNTVCT_EL0.get()
}

/// Counts a second, as the firmware, here QEMU, has set it down.
pub(crate) fn frequency(_: &Firmware) -> u64 {
    CNTFRQ_EL0.get()
}
