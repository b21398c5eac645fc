//! What all sessions share: two cores, a kind of memory, how long samples are.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bench_sampling::Outcome;
use bench_sampling::placement::{Placement, pin};
use bench_sampling::report::Subject;
use bench_sampling::run::Run;
use bench_sampling::share::{Clock, Ended, Watch};
use vring_hosted::memory::Pages;

/// Longest time that a device may run.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);
/// Length of a sample.
pub(crate) const SAMPLE: Duration = Duration::from_millis(150);
/// Traffic in front of a sample, after others had the cores.
pub(crate) const SETTLE: Duration = Duration::from_millis(10);
/// Samples that are tried, at most, for each that is to count.
const TRIES: u32 = 2;
/// How long a device may do nothing before a session has failed.
const STALL: Duration = Duration::from_secs(5);

/// Where and how sessions run.
#[derive(Debug)]
pub(crate) struct Host {
    /// Core of the driver.
    pub(crate) here: usize,
    /// Core of the device.
    pub(crate) there: usize,
    /// The device's memory, and the driver's.
    pub(crate) pages: Pages,
    /// Samples of a session that are to count.
    pub(crate) samples: u32,
    pub(crate) run: Run,
    pub(crate) placement: Placement,
}

/// A driver at work.
pub(crate) trait Driver: Send {
    /// Does what there is to do, once, and returns how many frames or requests that finished.
    ///
    /// # Errors
    /// When the device, or the driver, did something wrong.
    fn step(&mut self) -> anyhow::Result<u64>;

    /// Ends the session: everything comes back.
    ///
    /// # Errors
    /// When something does not.
    fn finish(self: Box<Self>) -> anyhow::Result<()>;
}

/// Steps for a while, and returns how many finished, and what was seen of the clocks.
fn steps(
    driver: &mut dyn Driver,
    length: Duration,
    clocks: &[Clock],
) -> anyhow::Result<(u64, Ended)> {
    let watch = Watch::start(clocks);
    let mut finished = 0;
    loop {
        for _ in 0..32 {
            finished += driver.step()?;
        }
        if watch.elapsed() >= length {
            return Ok((finished, watch.end()));
        }
    }
}

/// Steps until something is finished.
fn see_life(driver: &mut dyn Driver) -> anyhow::Result<()> {
    let end = Instant::now() + STALL;
    while steps(driver, SETTLE, &[])?.0 == 0 {
        anyhow::ensure!(
            Instant::now() < end,
            "the device has done nothing for {STALL:?}"
        );
    }
    Ok(())
}

impl Host {
    /// Takes the samples of one session with a driver in this process, on its core, as so many
    /// `unit`s each.
    ///
    /// # Errors
    /// When the driver or the device fails, or nothing happens.
    pub(crate) fn measure(
        &self,
        subject: &Subject,
        driver: &mut dyn Driver,
        clocks: &[Clock],
        unit: Unit,
    ) -> anyhow::Result<()> {
        self.on_core(|| {
            see_life(driver)?;
            self.repeat(SAMPLE, || {
                let outcome = bench_sampling::sample(&self.placement, || {
                    steps(driver, SETTLE, &[])?;
                    let (finished, mut ended) = steps(driver, SAMPLE, clocks)?;
                    if finished == 0 {
                        // Somebody else has the device's core, or it has stopped for good.
                        ended.alone = false;
                        see_life(driver)?;
                    }
                    let rate = finished as f64 / ended.elapsed.as_secs_f64();
                    anyhow::Ok((rate / unit.scale(), ended))
                })?;
                subject.outcome(outcome, unit.name());
                Ok(outcome)
            })
        })
    }

    /// Takes samples that last so long each, until there are enough that count; but not for ever.
    ///
    /// # Errors
    /// What `sample` says.
    pub(crate) fn repeat(
        &self,
        length: Duration,
        mut sample: impl FnMut() -> anyhow::Result<Outcome>,
    ) -> anyhow::Result<()> {
        let mut kept = 0;
        for _ in 0..self.samples * TRIES {
            if kept == self.samples || !self.run.has_time_for(length) {
                break;
            }
            kept += u32::from(matches!(sample()?, Outcome::Kept(..)));
        }
        Ok(())
    }

    /// Runs something on the driver's core, while this thread stays where it may be: processes
    /// that it starts are bound to no core.
    ///
    /// # Errors
    /// What it says.
    pub(crate) fn on_core<T: Send>(
        &self,
        what: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let here = self.here;
        let pinned = || {
            pin(here).context("cannot use a core")?;
            what()
        };
        std::thread::scope(|scope| match scope.spawn(pinned).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

/// What a rate is said in.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unit {
    /// Millions of packets a second.
    Mpps,
    /// Thousands of requests a second.
    Kiops,
}

impl Unit {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Mpps => "Mpps",
            Self::Kiops => "kIOPS",
        }
    }

    pub(crate) const fn scale(self) -> f64 {
        match self {
            Self::Mpps => 1e6,
            Self::Kiops => 1e3,
        }
    }
}

/// Where a program is, of those that a shell finds.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut candidates = std::env::split_paths(&path).map(|dir| dir.join(name));
    candidates.find(|candidate| candidate.is_file())
}
