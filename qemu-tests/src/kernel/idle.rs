//! Doing nothing until an interrupt or a deadline.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use spin::Once;

use super::arch::{cpu, timer};
use super::clock;
use super::interrupts::{self, Vector};

static HALTS: AtomicU64 = AtomicU64::new(0);
static TIMER: Once<Vector> = Once::new();

/// Takes the processor's timer for deadlines. Others that are started give theirs the same vector.
pub(super) fn init() {
    TIMER.call_once(|| {
        // The interrupt ends the halt: there is nothing else to do.
        let vector = interrupts::allocate(timer::silence).expect("the first of many vectors");
        timer::start(vector);
        vector
    });
}

/// The vector of the deadline timer, on every processor its own timer's.
pub(crate) fn timer_vector() -> Option<Vector> {
    TIMER.get().copied()
}

/// How often a processor was halted.
pub(crate) fn halts() -> u64 {
    HALTS.load(Ordering::Relaxed)
}

/// Halts until `ready` or until the clock reads `deadline`, whichever is first.
///
/// `ready` has to become true by an interrupt of this processor: it is looked at with interrupts off, and the
/// processor waits for one that is pending or to come, so that none gets lost in between.
///
/// False at the deadline, whatever `ready` says then: an interrupt that ended no halt was slept
/// through. The timer may be a little early, so a halt that lasted nearly until the deadline was
/// ended by it. Interrupts are on afterwards, also where they were off.
pub(crate) fn wait(deadline: Duration, mut ready: impl FnMut() -> bool) -> bool {
    let mut slept_through = false;
    let in_time = loop {
        cpu::disable_interrupts();
        let left = deadline.saturating_sub(clock::now());
        if left.is_zero() {
            break false;
        }
        if ready() {
            break !slept_through;
        }
        timer::set(left);
        HALTS.fetch_add(1, Ordering::Relaxed);
        cpu::enable_interrupts_and_wait();
        slept_through = deadline.saturating_sub(clock::now()) < left / 64;
    };
    cpu::enable_interrupts();
    in_time
}
