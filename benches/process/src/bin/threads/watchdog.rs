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
    let (mut last, mut idle) = (0, 0);
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = samples.load(Ordering::Relaxed);
        idle = if now == last { idle + 1 } else { 0 };
        last = now;
        if idle >= LIMIT {
            eprintln!("no sample for {LIMIT} seconds: giving up");
            std::process::exit(3);
        }
    }
}
