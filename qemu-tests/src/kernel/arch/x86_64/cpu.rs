//! The processor's interrupt flag.

use x86_64::instructions::interrupts as flag;

/// Whether it takes interrupts.
pub(crate) fn interrupts_enabled() -> bool {
    flag::are_enabled()
}

/// Takes no interrupts from here on.
pub(crate) fn disable_interrupts() {
    flag::disable();
}

/// Takes interrupts from here on.
pub(crate) fn enable_interrupts() {
    flag::enable();
}

/// Turns interrupts on and halts in one step: one that is pending is taken first, and ends it.
pub(crate) fn enable_interrupts_and_wait() {
    flag::enable_and_hlt();
}
