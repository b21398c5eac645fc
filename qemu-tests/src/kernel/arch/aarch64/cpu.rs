//! The processor's interrupt mask.

use core::sync::atomic::{Ordering, compiler_fence};

use aarch64_cpu::asm::wfi;
use aarch64_cpu::registers::{DAIF, Readable, Writeable};

/// Whether it takes interrupts.
pub(crate) fn interrupts_enabled() -> bool {
    !DAIF.is_set(DAIF::I)
}

/// This processor's number: there is one that runs.
pub(crate) fn index() -> usize {
    0
}

/// Takes no interrupts from here on.
pub(crate) fn disable_interrupts() {
    DAIF.write(DAIF::D::Masked + DAIF::A::Masked + DAIF::I::Masked + DAIF::F::Masked);
    // What a handler notes is looked at after this, not before.
    compiler_fence(Ordering::SeqCst);
}

/// Takes interrupts from here on.
pub(crate) fn enable_interrupts() {
    compiler_fence(Ordering::SeqCst);
    DAIF.write(DAIF::D::Masked + DAIF::A::Masked + DAIF::I::Unmasked + DAIF::F::Masked);
    // And what it notes from here on is not known yet.
    compiler_fence(Ordering::SeqCst);
}

/// Runs `work` without interrupts, and leaves the mask as it was.
pub(super) fn without_interrupts<R>(work: impl FnOnce() -> R) -> R {
    let before = DAIF.get();
    disable_interrupts();
    let result = work();
    compiler_fence(Ordering::SeqCst);
    DAIF.set(before);
    result
}

/// Waits for an interrupt to be pending, which ends the wait although it is masked, and takes it.
pub(crate) fn enable_interrupts_and_wait() {
    wfi();
    enable_interrupts();
}
