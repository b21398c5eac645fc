//! The processor's number and its interrupt flag.

use x86_64::VirtAddr;
use x86_64::instructions::interrupts as flag;
use x86_64::registers::model_specific::GsBase;

/// Gives this processor its number, for [`index`]. Loading a segment register may undo it, so the
/// segments come first.
pub(super) fn set_index(cpu: usize) {
    // A register that a kernel without thread-local variables has no other use for.
    GsBase::write(VirtAddr::new(cpu as u64));
}

/// This processor's number: 0 for the one that booted, before as well as after it is told so.
pub(crate) fn index() -> usize {
    GsBase::read().as_u64() as usize
}

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
