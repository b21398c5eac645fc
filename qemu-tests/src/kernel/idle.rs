//! Doing nothing until an interrupt or a deadline.

use core::time::Duration;

use spin::Once;
use x86_64::instructions::interrupts as flag;

use super::clock;
use super::interrupts::{self, Vector};
use super::local_apic::Timer;

static TIMER: Once<Timer> = Once::new();

/// Takes the local APIC's timer for deadlines.
pub(super) fn init() {
    TIMER.call_once(|| {
        // The interrupt ends the halt: there is nothing else to do.
        let vector = interrupts::allocate(|| {}).expect("the first of many vectors");
        Timer::new(vector)
    });
}

/// The vector of the deadline timer.
pub(crate) fn timer_vector() -> Option<Vector> {
    TIMER.get().map(Timer::vector)
}

/// Halts until `ready` or until the clock reads `deadline`, whichever is first.
///
/// `ready` has to become true by an interrupt: it is looked at with interrupts off, and the
/// processor turns them on and halts in one step, so that none gets lost in between.
pub(crate) fn wait(deadline: Duration, mut ready: impl FnMut() -> bool) {
    let timer = TIMER.get().expect("idle::init comes first");
    loop {
        flag::disable();
        let left = deadline.saturating_sub(clock::now());
        if left.is_zero() || ready() {
            break;
        }
        timer.set(left);
        flag::enable_and_hlt();
    }
    flag::enable();
}
