//! Ends the program when nothing gets done any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

/// Seconds without a sample.
const LIMIT: u32 = 60;

/// Is told of every sample.
#[derive(Debug)]
pub(crate) struct Watchdog(Arc<AtomicU64>);

impl Watchdog {
    /// Starts to watch. To be made before this thread is kept on a CPU.
    pub(crate) fn start() -> Result<Self> {
        let samples = Arc::new(AtomicU64::new(0));
        let theirs = Arc::clone(&samples);
        let watch = std::thread::Builder::new().name("watchdog".into());
        watch
            .spawn(move || watch_over(&theirs))
            .context("cannot make a thread")?;
        Ok(Self(samples))
    }

    /// Something got done.
    pub(crate) fn feed(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

fn watch_over(samples: &AtomicU64) {
    let mut idle = Idle::default();
    loop {
        std::thread::sleep(Duration::from_secs(1));
        if idle.second(samples.load(Ordering::Relaxed)) >= LIMIT {
            eprintln!("no sample for {LIMIT} seconds: giving up");
            std::process::exit(3);
        }
    }
}

/// Counts seconds without a sample.
#[derive(Clone, Copy, Debug, Default)]
struct Idle {
    last: u64,
    seconds: u32,
}

impl Idle {
    /// A second later there have been so many samples: for how many there was none.
    fn second(&mut self, samples: u64) -> u32 {
        let idle = samples == self.last;
        self.seconds = if idle { self.seconds + 1 } else { 0 };
        self.last = samples;
        self.seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_without_a_sample_are_counted_and_a_sample_ends_the_count() {
        let mut idle = Idle::default();
        let seconds = [5, 5, 5, 6, 6].map(|samples| idle.second(samples));
        assert_eq!(seconds, [0, 1, 2, 0, 1]);
    }
}
