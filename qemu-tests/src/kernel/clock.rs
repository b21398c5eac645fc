//! Time since boot, from the time stamp counter.
//!
//! The counter's frequency is measured once against the 8254 timer. Under emulation a reading may
//! be delayed by any amount, when the host runs something else; so a reading of the timer counts
//! only together with the two counter values around it, and of several the tightest is taken.

use core::arch::x86_64::_rdtsc;
use core::time::Duration;

use log::info;
use spin::Once;

use super::pit::{self, Pit};

struct Clock {
    /// Counter at boot.
    start: u64,
    /// Counts a second.
    frequency: u64,
    /// Nanoseconds per count, times 2^32.
    scale: u64,
}

static CLOCK: Once<Clock> = Once::new();

/// Attempts at a measurement.
const ATTEMPTS: usize = 100;

/// Attempts at a tight reading.
const READINGS: usize = 4;

/// Ticks of the timer between the two readings: 20 ms, of the 54.9 ms that it runs.
const SPAN: u16 = (pit::FREQUENCY / 50) as u16;

fn counter() -> u64 {
    // SAFETY: every x86_64 processor has the counter, and this kernel does not forbid its use.
    unsafe { _rdtsc() }
}

/// What `read` reads, and what the counter was then; of several tries the tightest. `None` when
/// there is nothing to read any more.
fn timed<T>(mut read: impl FnMut() -> Option<T>) -> Option<(u64, T)> {
    let mut tightest = u64::MAX;
    let mut best = None;
    for _ in 0..READINGS {
        let before = counter();
        let value = read()?;
        let width = counter() - before;
        if width < tightest {
            tightest = width;
            best = Some((before + width / 2, value));
        }
    }
    best
}

/// Counts a second; `None` when the machine was held up until the timer had run out.
fn measure() -> Option<u64> {
    let pit = Pit::start();
    let (count_1, ticks_1) = timed(|| pit.elapsed())?;
    while pit.elapsed()? < SPAN {}
    let (count_2, ticks_2) = timed(|| pit.elapsed())?;
    (count_2 - count_1)
        .saturating_mul(pit::FREQUENCY)
        .checked_div(u64::from(ticks_2.checked_sub(ticks_1)?))
}

/// Measures the counter and starts the clock.
pub(super) fn init() {
    let mut measured = (0..ATTEMPTS).filter_map(|_| measure());
    let frequency = measured.next().expect("the 8254 timer runs").max(1);
    let scale = (u128::from(1_000_000_000u64) << 32) / u128::from(frequency);
    CLOCK.call_once(|| Clock {
        start: counter(),
        frequency,
        scale: scale as u64,
    });
    info!("clock: {} MHz", frequency / 1_000_000);
}

/// Ticks a second of another timer that runs, measured for some 10 ms; 0 before [`init`].
pub(super) fn frequency_of(ticks: impl Fn() -> u32) -> u64 {
    let read = || Some(ticks());
    let start = timed(read);
    let until = now() + Duration::from_millis(10);
    while now() < until {}
    let (Some(clock), Some((count_1, ticks_1)), Some((count_2, ticks_2))) =
        (CLOCK.get(), start, timed(read))
    else {
        return 0;
    };
    let ticks = u64::from(ticks_2.wrapping_sub(ticks_1));
    ticks.saturating_mul(clock.frequency) / (count_2 - count_1).max(1)
}

/// Time since [`init`], which never goes back; zero before.
pub(crate) fn now() -> Duration {
    let Some(clock) = CLOCK.get() else {
        return Duration::ZERO;
    };
    let counts = counter().saturating_sub(clock.start);
    let nanos = (u128::from(counts) * u128::from(clock.scale)) >> 32;
    Duration::from_nanos(nanos as u64)
}
