//! How far apart two cores are: a cache line goes there and back.
//!
//! A thread waits on the other core until it is asked; then both spin on one line. Few round trips
//! are a batch, and the median of many batches is the answer: a batch in which one side lost its
//! core is an outlier, and does no harm. So the other core may be in use by somebody who polls.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// A round trip is shorter than this when both cores sit in one complex, in nanoseconds.
const NEAR: f64 = 110.0;
/// A round trip is longer than this when they do not.
const FAR: f64 = 250.0;
/// Batches of one answer.
const BATCHES: usize = 31;
/// Round trips of a batch.
const TRIPS: u64 = 100;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Looks at the line between two at the clock.
const LOOKS: u32 = 4096;

/// Where two cores are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// In one core complex.
    Near,
    /// In two.
    Far,
    /// It does not matter: one thread alone, or none.
    Any,
}

impl Class {
    /// By the nanoseconds of a round trip; `None` between the two.
    #[must_use]
    pub fn of(round_trip: f64) -> Option<Self> {
        if round_trip < NEAR {
            Some(Self::Near)
        } else if round_trip > FAR {
            Some(Self::Far)
        } else {
            None
        }
    }

    /// In a word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
            Self::Any => "any",
        }
    }
}

/// The first two cores that this process may use, of those of the machine.
///
/// # Errors
/// When there is one only, or the system does not say.
pub fn two_cores() -> io::Result<(usize, usize)> {
    let set = sched_getaffinity(None)?;
    let mut cores = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu));
    match (cores.next(), cores.next()) {
        (Some(here), Some(there)) => Ok((here, there)),
        _ => Err(io::Error::other("this process may use one core only")),
    }
}

/// Binds the calling thread to a core. Threads that it starts are bound to it too, unless they say
/// otherwise.
///
/// # Errors
/// When the process may not use that core.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Alone on its line, and on the one that is fetched with it.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Line(AtomicU64);

/// A thread on another core that answers.
#[derive(Debug)]
pub struct Placement {
    line: Arc<Line>,
    ask: Option<Sender<u64>>,
    other: Option<JoinHandle<()>>,
    next: AtomicU64,
}

impl Placement {
    /// One that answers on that core.
    ///
    /// # Errors
    /// When the process may not use it.
    pub fn new(cpu: usize) -> io::Result<Self> {
        let line = Arc::new(Line::default());
        let (ask, asked) = channel::<u64>();
        let (tell, told) = channel();
        let shared = line.clone();
        let other = std::thread::Builder::new()
            .name("ping-pong".into())
            .spawn(move || {
                let pinned = pin(cpu);
                let go_on = pinned.is_ok();
                // Its owner waits for it.
                let _ = tell.send(pinned);
                while let (true, Ok(first)) = (go_on, asked.recv()) {
                    answer(&shared.0, first);
                }
            })?;
        told.recv().map_err(io::Error::other)??;
        Ok(Self {
            line,
            ask: Some(ask),
            other: Some(other),
            next: AtomicU64::new(0),
        })
    }

    /// Nanoseconds of a round trip between the core of the caller and the other one; `None` when
    /// there was no answer within a second.
    #[must_use]
    pub fn round_trip(&self) -> Option<f64> {
        const ALL: u64 = 2 * TRIPS * (BATCHES as u64 + 1);
        let first = self.next.fetch_add(ALL, Ordering::Relaxed);
        self.line.0.store(first, Ordering::Release);
        self.ask.as_ref()?.send(first).ok()?;
        let end = Instant::now() + PATIENCE;
        let mut at = first;
        let mut batch = || {
            let start = Instant::now();
            for _ in 0..TRIPS {
                self.line.0.store(at + 1, Ordering::Release);
                at += 2;
                wait(&self.line.0, at, end)?;
            }
            Some(start.elapsed().as_nanos() as f64 / TRIPS as f64)
        };
        // It wakes up in the first one.
        batch()?;
        let mut batches = [0.0; BATCHES];
        for slot in &mut batches {
            *slot = batch()?;
        }
        batches.sort_by(f64::total_cmp);
        Some(batches[BATCHES / 2])
    }
}

impl Drop for Placement {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(other) = self.other.take() {
            // It does not panic.
            let _ = other.join();
        }
    }
}

/// Waits until the line says that; `None` when it does not until `end`.
fn wait(line: &AtomicU64, value: u64, end: Instant) -> Option<()> {
    loop {
        for _ in 0..LOOKS {
            if line.load(Ordering::Acquire) == value {
                return Some(());
            }
            std::hint::spin_loop();
        }
        if Instant::now() > end {
            return None;
        }
    }
}

/// The other side of as many round trips as are asked for at once.
fn answer(line: &AtomicU64, first: u64) {
    let end = Instant::now() + PATIENCE;
    for trip in 0..TRIPS * (BATCHES as u64 + 1) {
        let at = first + 2 * trip + 1;
        if wait(line, at, end).is_none() {
            return;
        }
        line.store(at + 1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_have_a_gap_between_them() {
        assert_eq!(Class::of(60.0), Some(Class::Near));
        assert_eq!(Class::of(110.0), None);
        assert_eq!(Class::of(250.0), None);
        assert_eq!(Class::of(320.0), Some(Class::Far));
    }

    #[test]
    fn a_round_trip_takes_the_time_that_light_needs_at_least() {
        let Ok((here, there)) = two_cores() else {
            return;
        };
        let placement = Placement::new(there).unwrap();
        std::thread::spawn(move || {
            pin(here).unwrap();
            for _ in 0..3 {
                // Somebody else may have the other core for longer than a second.
                if let Some(ns) = placement.round_trip() {
                    assert!(ns > 5.0, "{ns}");
                }
            }
        })
        .join()
        .unwrap();
    }
}
