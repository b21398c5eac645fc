//! Time: every wait has a limit, and every wait ends on Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::stop::Stop;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// How often a wait looks again.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// From now on Ctrl-C, SIGTERM and SIGHUP end the waits instead of the process.
pub(crate) fn catch_signals() {
    // It fails only when a handler is set already, and then that one does the same.
    drop(ctrlc::set_handler(|| {
        INTERRUPTED.store(true, Ordering::SeqCst);
    }));
}

/// Whether the run has been told to stop.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// A point in time by which something must have come about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    start: Instant,
    end: Instant,
    gone: Option<&'static AtomicBool>,
}

impl Deadline {
    pub(crate) fn after(limit: Duration) -> Self {
        let start = Instant::now();
        Self {
            start,
            end: start + limit,
            gone: None,
        }
    }

    /// The same deadline for waits that make sense only as long as QEMU lives.
    pub(crate) fn unless(self, gone: &'static AtomicBool) -> Self {
        Self {
            gone: Some(gone),
            ..self
        }
    }

    pub(crate) fn seconds(limit: u64) -> Self {
        Self::after(Duration::from_secs(limit))
    }

    /// A deadline of its own within this one: whichever is earlier.
    pub(crate) fn within(&self, seconds: u64) -> Self {
        let inner = Self::seconds(seconds);
        let gone = self.gone;
        // The one that ends first also tells for how long was waited.
        if inner.end < self.end {
            Self { gone, ..inner }
        } else {
            *self
        }
    }

    /// So many seconds later.
    pub(crate) fn later(self, seconds: u64) -> Self {
        Self {
            end: self.end + Duration::from_secs(seconds),
            ..self
        }
    }

    pub(crate) fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Goes on, or says why not.
    pub(crate) fn check(&self, waiting_for: &str) -> Result<(), Stop> {
        if interrupted() {
            return Err(Stop::Interrupted);
        }
        if self.gone.is_some_and(|gone| gone.load(Ordering::SeqCst)) {
            return Err(Stop::Broken(anyhow::anyhow!(
                "QEMU ended while the harness waited for {waiting_for}"
            )));
        }
        if self.left().is_zero() {
            return Err(Stop::TimeLimit {
                waiting_for: waiting_for.into(),
                seconds: self.start.elapsed().as_secs(),
            });
        }
        Ok(())
    }

    /// Asks again and again until there is an answer.
    pub(crate) fn poll<T>(
        &self,
        waiting_for: &str,
        mut ask: impl FnMut() -> Result<Option<T>, Stop>,
    ) -> Result<T, Stop> {
        loop {
            if let Some(answer) = ask()? {
                return Ok(answer);
            }
            if let Err(stop) = self.check(waiting_for) {
                // The answer may have come between the question and the end.
                return ask()?.ok_or(stop);
            }
            std::thread::sleep(TICK.min(self.left()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends() {
        let deadline = Deadline::after(Duration::from_millis(30));
        let stop = deadline.poll::<()>("rain", || Ok(None)).unwrap_err();
        assert!(stop.to_string().contains("rain"), "{stop}");
        assert_eq!(deadline.poll("sun", || Ok(Some(1))).unwrap(), 1);
    }

    #[test]
    fn an_answer_that_comes_with_the_end_counts() {
        static GONE: AtomicBool = AtomicBool::new(false);
        let deadline = Deadline::seconds(60).unless(&GONE);
        let answer = deadline.poll("the last word", || {
            let is_second = GONE.swap(true, Ordering::SeqCst);
            Ok(is_second.then_some(7))
        });
        assert_eq!(answer.unwrap(), 7);
        assert!(deadline.poll::<()>("more", || Ok(None)).is_err());
    }

    #[test]
    fn an_inner_deadline_is_never_later() {
        let outer = Deadline::after(Duration::from_millis(10));
        assert!(outer.within(1000).left() <= Duration::from_millis(10));
    }
}
