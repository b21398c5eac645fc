//! Whether threads had their cores for themselves.

use std::fs;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// Least part of the time that a thread which never waits gets when it is alone.
const ALONE: f64 = 0.92;

/// The clock of a thread that never waits.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The caller.
    ThisThread,
    /// A thread of another process: its `schedstat`, which the kernel brings up to date with each
    /// tick, a few milliseconds apart.
    Other(String),
}

impl Clock {
    /// Of the thread in that process whose name has this in it, once it is there.
    #[must_use]
    pub fn of_thread(process: u32, name: &str) -> Option<Self> {
        let tasks = fs::read_dir(format!("/proc/{process}/task")).ok()?;
        let is_it = |path: &std::path::PathBuf| {
            fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.contains(name))
        };
        let path = tasks.flatten().map(|task| task.path()).find(is_it)?;
        Some(Self::Other(path.join("schedstat").to_str()?.to_owned()))
    }

    /// How long it has run; `None` when it is no more.
    fn read(&self) -> Option<Duration> {
        match self {
            Self::ThisThread => {
                let now = clock_gettime(ClockId::ThreadCPUTime);
                Some(Duration::new(now.tv_sec as u64, now.tv_nsec as u32))
            }
            Self::Other(path) => {
                let text = fs::read_to_string(path).ok()?;
                let nanos = text.split_whitespace().next()?.parse().ok()?;
                Some(Duration::from_nanos(nanos))
            }
        }
    }
}

/// Ticks that the hypervisor kept for itself, of all cores.
fn stolen() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    // "cpu  user nice system idle iowait irq softirq steal ..."
    text.lines().next()?.split_whitespace().nth(8)?.parse().ok()
}

/// A look at clocks, and a second one later.
#[derive(Debug)]
pub struct Watch<'a> {
    clocks: &'a [Clock],
    before: Vec<Option<Duration>>,
    stolen: Option<u64>,
    start: Instant,
}

/// What was seen between the two.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// Wall time.
    pub elapsed: Duration,
    /// All threads had their cores for themselves.
    pub alone: bool,
}

impl<'a> Watch<'a> {
    /// Starts to watch these.
    #[must_use]
    pub fn start(clocks: &'a [Clock]) -> Self {
        let stolen = stolen();
        let before = clocks.iter().map(Clock::read).collect();
        Self {
            clocks,
            before,
            stolen,
            start: Instant::now(),
        }
    }

    /// Wall time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Ends it.
    #[must_use]
    pub fn end(self) -> Ended {
        let elapsed = self.start.elapsed();
        let busy = |(clock, before): (&Clock, &Option<Duration>)| {
            let (Some(after), Some(before)) = (clock.read(), *before) else {
                return false;
            };
            after.saturating_sub(before).as_secs_f64() >= ALONE * elapsed.as_secs_f64()
        };
        let busy = self.clocks.iter().zip(&self.before).all(busy);
        Ended {
            elapsed,
            alone: busy && stolen() == self.stolen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_sleeps_is_not_alone() {
        let clocks = [Clock::ThisThread];
        let watch = Watch::start(&clocks);
        std::thread::sleep(Duration::from_millis(30));
        let ended = watch.end();
        assert!(!ended.alone);
        assert!(ended.elapsed >= Duration::from_millis(30));
    }

    #[test]
    fn a_thread_is_found_by_its_name() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("somebody-7".into());
        let thread = thread.spawn(move || {
            tell.send(()).unwrap();
            let _ = wait.recv();
        });
        told.recv().unwrap();
        let clock = Clock::of_thread(std::process::id(), "body-7").unwrap();
        assert!(clock.read().is_some());
        assert!(Clock::of_thread(std::process::id(), "nobody").is_none());
        drop(go);
        thread.unwrap().join().unwrap();
        assert!(clock.read().is_none(), "it is no more");
    }
}
