//! A run that ends: after so many seconds, or when a person says so.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How much a run takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Bounds {
    /// Few samples, to see that all of it works.
    #[arg(long)]
    pub quick: bool,
    /// Seconds after which no further sample is begun.
    #[arg(long)]
    pub seconds: Option<u64>,
}

/// Says when it is time to end.
#[derive(Clone, Debug)]
pub struct Run {
    end: Option<Instant>,
    stop: Arc<AtomicBool>,
}

impl Run {
    /// Starts the clock; and from here on, Ctrl-C asks for an end rather than making one, so that
    /// what was set up is undone.
    #[must_use]
    pub fn start(bounds: &Bounds) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let handler = stop.clone();
        // Where it cannot be had, Ctrl-C ends the process.
        let _ = ctrlc::set_handler(move || handler.store(true, Ordering::Relaxed));
        let bound = bounds.seconds.map(Duration::from_secs);
        Self {
            end: bound.map(|bound| Instant::now() + bound),
            stop,
        }
    }

    /// Whether there is time for something that takes so long.
    #[must_use]
    pub fn has_time_for(&self, what: Duration) -> bool {
        let in_time = self.end.is_none_or(|end| Instant::now() + what <= end);
        in_time && !self.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_ends_in_time() {
        let bounds = Bounds {
            quick: false,
            seconds: Some(5),
        };
        let run = Run::start(&bounds);
        assert!(run.has_time_for(Duration::from_secs(1)));
        assert!(!run.has_time_for(Duration::from_secs(6)));
        run.stop.store(true, Ordering::Relaxed);
        assert!(!run.has_time_for(Duration::ZERO));
    }
}
