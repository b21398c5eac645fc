//! The time stamp counter.
//!
//! Its frequency is measured once against the 8254 timer. Under emulation a reading may be delayed
//! by any amount, when the host runs something else; so a reading of the timer counts only together
//! with the two counter values around it, and of several the tightest is taken.

use core::arch::x86_64::_rdtsc;
use core::time::Duration;

use super::Firmware;
use super::pit::{self, Pit};
use crate::kernel::clock;

/// Attempts at a measurement.
const ATTEMPTS: usize = 100;

/// Attempts at a tight reading.
const READINGS: usize = 4;

/// Ticks of the timer between the two readings: 20 ms, of the 54.9 ms that it runs.
const SPAN: u16 = (pit::FREQUENCY / 50) as u16;

/// What the counter reads.
pub(crate) fn counter() -> u64 {
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

/// Measures how often the counter counts a second.
pub(crate) fn frequency(_: &Firmware) -> u64 {
    let mut measured = (0..ATTEMPTS).filter_map(|_| measure());
    measured.next().expect("the 8254 timer runs")
}

/// Ticks a second of another timer that runs, measured for some 10 ms.
pub(super) fn frequency_of(ticks: impl Fn() -> u32) -> u64 {
    let read = || Some(ticks());
    let start = timed(read);
    let until = clock::now() + Duration::from_millis(10);
    while clock::now() < until {}
    let (Some((count_1, ticks_1)), Some((count_2, ticks_2))) = (start, timed(read)) else {
        return 0;
    };
    let ticks = u64::from(ticks_2.wrapping_sub(ticks_1));
    ticks.saturating_mul(clock::frequency()) / (count_2 - count_1).max(1)
}
