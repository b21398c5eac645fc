//! Time since boot, from the architecture's counter.

use core::time::Duration;

use log::info;
use spin::Once;

use super::arch;

struct Clock {
    /// Counter at boot.
    start: u64,
    /// Counts a second.
    frequency: u64,
    /// Nanoseconds per count, times 2^32.
    scale: u64,
}

static CLOCK: Once<Clock> = Once::new();

/// Starts the clock, whose counter counts so often a second.
pub(super) fn init(frequency: u64) {
    let frequency = frequency.max(1);
    let scale = (u128::from(1_000_000_000u64) << 32) / u128::from(frequency);
    CLOCK.call_once(|| Clock {
        start: arch::clock::counter(),
        frequency,
        scale: scale as u64,
    });
    info!("clock: {} MHz", frequency / 1_000_000);
}

/// Counts a second; 0 before [`init`].
pub(super) fn frequency() -> u64 {
    CLOCK.get().map_or(0, |clock| clock.frequency)
}

/// Time since [`init`], which never goes back; zero before.
pub(crate) fn now() -> Duration {
    let Some(clock) = CLOCK.get() else {
        return Duration::ZERO;
    };
    let counts = arch::clock::counter().saturating_sub(clock.start);
    let nanos = (u128::from(counts) * u128::from(clock.scale)) >> 32;
    Duration::from_nanos(nanos as u64)
}

/// Looks at the clock for so long.
pub(crate) fn pause(time: Duration) {
    let until = now() + time;
    while now() < until {
        core::hint::spin_loop();
    }
}
