//! CPUs, clocks, and what others did meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;

/// This thread.
const SELF: Pid = Pid::from_raw(0);

/// The CPUs on which this thread may run.
///
/// # Errors
/// When the kernel does not say.
pub fn allowed_cpus() -> Result<Vec<usize>> {
    let set = sched_getaffinity(SELF).context("cannot tell the allowed CPUs")?;
    let allowed = |cpu: &usize| set.is_set(*cpu).unwrap_or(false);
    Ok((0..CpuSet::count()).filter(allowed).collect())
}

/// Keeps this thread on one CPU. Threads are made before: they inherit it.
///
/// # Errors
/// When the kernel refuses.
pub fn pin(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)
        .and_then(|()| sched_setaffinity(SELF, &set))
        .with_context(|| format!("cannot keep a thread on CPU {cpu}"))
}

/// Time that this thread ran on a CPU.
#[must_use]
pub fn thread_cpu() -> Duration {
    // Every Linux has this clock; without it, no sample is taken as good.
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Time that child processes that have ended ran on CPUs.
#[must_use]
pub fn children_cpu() -> Duration {
    getrusage(UsageWho::RUSAGE_CHILDREN).map_or(Duration::ZERO, |usage| {
        let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
        Duration::from_micros(micros.unsigned_abs())
    })
}

/// Ticks that the host took from these CPUs since the system started.
///
/// # Errors
/// When `/proc/stat` cannot be read.
pub fn stolen_ticks(cpus: &[usize]) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    Ok(cpus.iter().map(|cpu| stolen(&text, *cpu)).sum())
}

/// The eighth figure of a CPU's line.
fn stolen(stat: &str, cpu: usize) -> u64 {
    let name = format!("cpu{cpu}");
    let line = stat
        .lines()
        .find(|line| line.split(' ').next() == Some(&name));
    let figure = line.and_then(|line| line.split_whitespace().nth(8));
    figure.and_then(|figure| figure.parse().ok()).unwrap_or(0)
}

/// A clock for spans of tens of nanoseconds; what reading it twice takes is known.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    ns_per_tick: f64,
    overhead: f64,
}

impl Clock {
    /// Compares the ticks with the system's clock, for 50 ms.
    #[must_use]
    pub fn calibrated() -> Self {
        let (start, ticks) = (Instant::now(), ticks());
        let span = Duration::from_millis(50);
        while start.elapsed() < span {
            std::hint::spin_loop();
        }
        let passed = self::ticks().wrapping_sub(ticks) as f64;
        let ns_per_tick = start.elapsed().as_nanos() as f64 / passed;
        let twice = |_| {
            let first = self::ticks();
            self::ticks().wrapping_sub(first) as f64
        };
        let overhead = crate::verdict::median((0..1001).map(twice).collect()).unwrap_or(0.0);
        Self {
            ns_per_tick,
            overhead,
        }
    }

    /// Nanoseconds of some ticks, which are of so many spans.
    #[must_use]
    pub fn nanoseconds(&self, ticks: u64, spans: u64) -> f64 {
        (ticks as f64 - self.overhead * spans as f64) * self.ns_per_tick
    }
}

/// The time, in ticks; what is before it has been done, and what is behind it has not begun.
#[cfg(target_arch = "x86_64")]
#[inline(always)] // is what overhead there is
#[must_use]
pub fn ticks() -> u64 {
    use std::arch::x86_64::{_mm_lfence, _rdtsc};
    // SAFETY: every x86-64 processor has it.
    unsafe { _mm_lfence() };
    // SAFETY: every x86-64 processor has it, and Linux lets programs use it.
    let ticks = unsafe { _rdtsc() };
    // SAFETY: every x86-64 processor has it.
    unsafe { _mm_lfence() };
    ticks
}

/// The time, in nanoseconds.
#[cfg(not(target_arch = "x86_64"))]
#[must_use]
pub fn ticks() -> u64 {
    use std::sync::OnceLock;
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  1 2 3 4 5 6 7 80 9 10\ncpu0 1 2 3 4 5 6 7 30 9 10\n\
                        cpu1 1 2 3 4 5 6 7 50 9 10\ncpu11 1 2 3 4 5 6 7 7 9 10\nintr 5\n";

    #[test]
    fn stolen_ticks_are_those_of_the_cpu() {
        assert_eq!([0, 1, 11].map(|cpu| stolen(STAT, cpu)), [30, 50, 7]);
        assert_eq!(stolen(STAT, 2), 0, "no such CPU");
        assert_eq!(stolen("cpu0 1 2", 0), 0, "an old kernel");
    }

    #[test]
    fn there_is_a_cpu_and_it_does_some_work() {
        let cpus = allowed_cpus().unwrap();
        assert!(!cpus.is_empty());
        let before = thread_cpu();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(5) {
            std::hint::spin_loop();
        }
        assert!(thread_cpu() > before);
    }

    #[test]
    fn the_clock_agrees_with_the_systems() {
        let clock = Clock::calibrated();
        let (start, from) = (Instant::now(), ticks());
        std::thread::sleep(Duration::from_millis(20));
        let ns = clock.nanoseconds(ticks() - from, 1);
        let passed = start.elapsed().as_nanos() as f64;
        assert!((0.95..1.05).contains(&(ns / passed)), "{ns} of {passed}");
    }
}
