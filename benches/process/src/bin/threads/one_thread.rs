//! One thread plays driver and device in turn; the device's part is not counted.

use std::time::Instant;

use anyhow::Result;
use bench_process::device::Device;
use bench_process::driver::{Driver, Site};
use bench_process::line::{Line, Subject};
use bench_process::machine::{Clock, stolen_ticks, thread_cpu, ticks};
use bench_process::roster::{Chain, Contender, Visit};
use bench_process::verdict::{Rejection, Share, alone};

use crate::watchdog::Watchdog;
use crate::{Effort, Filter, TRIES, skip};

/// Chains of a burst.
const BATCH: usize = 32;
/// Bursts between two looks at the clock.
const BURSTS: u64 = 256;

/// The group.
#[derive(Debug)]
pub(crate) struct OneThread {
    pub(crate) clock: Clock,
    pub(crate) cpu: usize,
}

fn subject(chain: Chain, contender: Contender) -> Subject {
    Subject {
        group: "one-thread",
        case: format!("{chain}, batch {BATCH}"),
        contender: contender.to_string(),
    }
}

impl OneThread {
    /// Prints who cannot take part.
    pub(crate) fn skip_some(&self, filter: &Filter) -> Result<()> {
        for chain in Chain::ALL {
            for contender in Contender::all(chain) {
                if let Some(why) = contender.cannot(chain) {
                    skip(filter, subject(chain, contender), why)?;
                }
            }
        }
        Ok(())
    }

    /// One sample of each contender in each case; false when time is up.
    pub(crate) fn round(
        &self,
        effort: &Effort,
        filter: &Filter,
        watchdog: &Watchdog,
    ) -> Result<bool> {
        for chain in Chain::ALL {
            for contender in Contender::all(chain) {
                let subject = subject(chain, contender);
                if contender.cannot(chain).is_some() || !filter.takes(&subject) {
                    continue;
                }
                for _ in 0..TRIES {
                    if Instant::now() > effort.end {
                        return Ok(false);
                    }
                    watchdog.feed();
                    let bursts = Bursts {
                        effort: *effort,
                        cpu: self.cpu,
                        clock: self.clock,
                    };
                    let outcome = contender.meet(chain, false, BATCH * 2, bursts)?;
                    print(subject.clone(), outcome)?;
                    if outcome.is_ok() {
                        break;
                    }
                }
            }
        }
        Ok(true)
    }
}

fn print(subject: Subject, outcome: Result<f64, Rejection>) -> Result<()> {
    match outcome {
        Ok(value) => Line::Sample {
            subject,
            class: "any",
            value,
            unit: "ns/chain",
        },
        Err(why) => Line::Rejected {
            rejected: why.name(),
            subject,
        },
    }
    .print()?;
    Ok(())
}

/// Bursts of a driver, timed, as a visit.
#[derive(Clone, Copy, Debug)]
struct Bursts {
    effort: Effort,
    cpu: usize,
    clock: Clock,
}

impl Site for Bursts {}

impl Visit for Bursts {
    type Site = Self;
    /// Nanoseconds of a chain.
    type Out = Result<Result<f64, Rejection>>;

    fn visit<D: Driver + Send>(self, mut driver: D, mut device: Device) -> Self::Out {
        let cpus = [self.cpu];
        let stolen = stolen_ticks(&cpus)?;
        let (start, cpu) = (Instant::now(), thread_cpu());
        let (mut spent, mut bursts) = (0, 0);
        while start.elapsed() < self.effort.length {
            spent += timed_bursts(&mut driver, &mut device);
            bursts += BURSTS;
        }
        let share = Share {
            wall: start.elapsed(),
            cpu: thread_cpu() - cpu,
        };
        let judged = alone(&[share], stolen_ticks(&cpus)? - stolen);
        let chains = (bursts * BATCH as u64) as f64;
        // Two spans a burst: before the device and after it.
        Ok(judged.map(|()| self.clock.nanoseconds(spent, bursts * 2) / chains))
    }
}

/// Ticks that the driver took of some bursts.
#[inline(never)] // one copy for each driver
fn timed_bursts<D: Driver>(driver: &mut D, device: &mut Device) -> u64 {
    let mut spent = 0;
    for _ in 0..BURSTS {
        let start = ticks();
        driver.submit(BATCH);
        driver.publish();
        spent += ticks() - start;
        device.run();
        let start = ticks();
        let reaped = driver.reap();
        spent += ticks() - start;
        assert_eq!(reaped, BATCH, "all came back");
    }
    spent
}
