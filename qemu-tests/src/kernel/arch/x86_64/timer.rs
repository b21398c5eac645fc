//! The local APIC's timer, once a deadline.

use core::time::Duration;

use log::info;
use spin::Once;

use super::local_apic;
use crate::kernel::interrupts::Vector;

/// Ticks a nanosecond, times 2^32.
static SCALE: Once<u64> = Once::new();

/// Measures the timer against the clock and gives it `vector`.
pub(crate) fn start(vector: Vector) {
    SCALE.call_once(|| {
        let frequency = local_apic::start_timer(vector);
        info!("APIC timer: {} kHz", frequency / 1000);
        (frequency << 32) / 1_000_000_000
    });
}

/// Gives `vector` to the timer of a processor that is not the first one.
pub(super) fn join(vector: Vector) {
    local_apic::join_timer(vector);
}

/// Raises the vector once `after` has passed, or some time before when that is long.
pub(crate) fn set(after: Duration) {
    let scale = SCALE.get().copied().unwrap_or(0);
    let ticks = (after.as_nanos() * u128::from(scale)) >> 32;
    local_apic::set_timer(u32::try_from(ticks).unwrap_or(u32::MAX).max(1));
}

/// Called when it has raised the vector, which it does once: there is nothing to silence.
pub(crate) fn silence() {}
