//! The timer that OpenSBI keeps for the hart, once a deadline.

use core::sync::atomic::{AtomicU8, Ordering};
use core::time::Duration;

use riscv::register::sie;

use super::clock;
use crate::kernel::clock::frequency;
use crate::kernel::interrupts::{self, Vector};

/// The timer's vector; 0 is none.
static VECTOR: AtomicU8 = AtomicU8::new(0);

/// Gives the timer `vector`.
pub(crate) fn start(vector: Vector) {
    silence();
    VECTOR.store(vector.number(), Ordering::Relaxed);
    // SAFETY: the handler is in place.
    unsafe { sie::set_stimer() };
}

/// Raises the vector once `after` has passed.
pub(crate) fn set(after: Duration) {
    let ticks = after.as_nanos() * u128::from(frequency()) / 1_000_000_000;
    let ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
    set_at(clock::counter().saturating_add(ticks));
}

/// Called when it has raised the vector, which it goes on to do until it is set anew.
pub(crate) fn silence() {
    set_at(u64::MAX);
}

fn set_at(time: u64) {
    let result = sbi_rt::set_timer(time);
    assert!(result.is_ok(), "OpenSBI does not set the timer: {result:?}");
}

/// The timer interrupts.
pub(super) fn handle() {
    interrupts::dispatch(VECTOR.load(Ordering::Relaxed));
}
