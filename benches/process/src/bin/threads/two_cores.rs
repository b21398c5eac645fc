//! A driver on one core, the smallest device on the other, both polling.

use std::time::{Duration, Instant};

use anyhow::Result;
use bench_process::court::{Court, Sample};
use bench_process::device::Device;
use bench_process::driver::{Driver, Site};
use bench_process::line::{Line, Subject};
use bench_process::roster::{Call, Chain, Contender, Visit};
use bench_process::verdict::Rejection;

use crate::ringtest::{self, Ringtest};
use crate::watchdog::Watchdog;
use crate::{Effort, Filter, TRIES, skip};

const GROUP: &str = "two-cores";
/// The floor of every case.
const FLOOR: &str = "floor: ping-pong";

/// The group.
#[derive(Debug)]
pub(crate) struct TwoCores {
    pub(crate) court: Court,
    /// Or why it does not take part.
    pub(crate) ringtest: Result<Ringtest, String>,
}

/// Chains in flight: alone, a burst, and as many as a ring of 256 holds.
const fn windows(chain: Chain) -> [usize; 3] {
    [1, 32, 256 / chain.len()]
}

/// Who takes part. Tuples lay out what bursts do, and are left to the other groups.
fn contenders(chain: Chain) -> impl Iterator<Item = Contender> {
    let tuple = |contender: &Contender| {
        matches!(
            contender,
            Contender::Vring {
                call: Call::Tuple,
                ..
            }
        )
    };
    Contender::all(chain).into_iter().filter(move |c| !tuple(c))
}

fn subject(chain: Chain, window: usize, contender: &str) -> Subject {
    Subject {
        group: GROUP,
        case: format!("{chain}, {window} in flight"),
        contender: contender.into(),
    }
}

/// Prints why nobody takes part.
pub(crate) fn skip_all(why: &str, filter: &Filter) -> Result<()> {
    for chain in Chain::ALL {
        for window in windows(chain) {
            skip(filter, subject(chain, window, FLOOR), why)?;
            for contender in contenders(chain) {
                skip(filter, subject(chain, window, &contender.to_string()), why)?;
            }
        }
    }
    Ok(())
}

impl TwoCores {
    /// Prints who cannot take part.
    pub(crate) fn skip_some(&self, filter: &Filter) -> Result<()> {
        for chain in Chain::ALL {
            for window in windows(chain) {
                for contender in contenders(chain) {
                    if let Some(why) = contender.cannot(chain) {
                        skip(filter, subject(chain, window, &contender.to_string()), why)?;
                    }
                }
                if let (Chain::One, Err(why)) = (chain, &self.ringtest) {
                    skip(filter, subject(chain, window, ringtest::NAME), why)?;
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
            for window in windows(chain) {
                // The floor is taken with each sample, and printed once a round.
                let mut floor = None;
                for contender in contenders(chain) {
                    let subject = subject(chain, window, &contender.to_string());
                    if contender.cannot(chain).is_some() || !filter.takes(&subject) {
                        continue;
                    }
                    for _ in 0..TRIES {
                        if Instant::now() > effort.end {
                            return Ok(false);
                        }
                        watchdog.feed();
                        let play = Play {
                            court: &self.court,
                            window,
                            length: effort.length,
                        };
                        let outcome = contender.meet(chain, false, window, play)?;
                        print(subject.clone(), outcome)?;
                        if let Ok(sample) = outcome {
                            floor = Some(sample);
                            break;
                        }
                    }
                }
                if let (Chain::One, Ok(ringtest)) = (chain, &self.ringtest) {
                    let subject = subject(chain, window, ringtest::NAME);
                    if filter.takes(&subject) {
                        watchdog.feed();
                        print(subject, ringtest.sample(&self.court, window)?)?;
                    }
                }
                if let Some(floor) = floor {
                    Line::Sample {
                        subject: subject(chain, window, FLOOR),
                        class: floor.class.name(),
                        value: floor.round_trip,
                        unit: "ns/round trip",
                    }
                    .print()?;
                }
            }
        }
        Ok(true)
    }
}

fn print(subject: Subject, outcome: Result<Sample, Rejection>) -> Result<()> {
    match outcome {
        Ok(sample) => Line::Sample {
            subject,
            class: sample.class.name(),
            value: sample.chain,
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

/// A sample of a driver, as a visit.
struct Play<'a> {
    court: &'a Court,
    window: usize,
    length: Duration,
}

/// Where it is used.
#[derive(Clone, Copy, Debug)]
struct Here;

impl Site for Here {}

impl Visit for Play<'_> {
    type Site = Here;
    type Out = Result<Result<Sample, Rejection>>;

    fn visit<D: Driver + Send>(self, mut driver: D, device: Device) -> Self::Out {
        self.court
            .play(&mut driver, device, self.window, self.length)
    }
}
