//! The hart's interrupt flag.

use riscv::asm::wfi;
use riscv::register::sstatus;

/// Whether it takes interrupts.
pub(crate) fn interrupts_enabled() -> bool {
    sstatus::read().sie()
}

/// This processor's number: there is one that runs.
pub(crate) fn index() -> usize {
    0
}

/// Takes no interrupts from here on.
pub(crate) fn disable_interrupts() {
    // SAFETY: the flag is this module's, and whoever asks for this wants it.
    unsafe { sstatus::clear_sie() };
}

/// Takes interrupts from here on.
pub(crate) fn enable_interrupts() {
    // SAFETY: the handlers are in place, and take no lock that the code around this may hold.
    unsafe { sstatus::set_sie() };
}

/// Waits for an interrupt to be pending, which ends the wait although it is off, and takes it.
pub(crate) fn enable_interrupts_and_wait() {
    wfi();
    enable_interrupts();
}
