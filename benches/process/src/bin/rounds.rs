//! Rounds of one driver, for callgrind to count.
//!
//! A round is: a burst of chains submitted, the kick decided, used by a device, reaped. The
//! caller's loop is in it, and is the same for all drivers. `rounds --list` prints what can be
//! measured, one JSON object a line; each says with which arguments this program runs it, which
//! function holds the rounds (for `--toggle-collect`), and which function of it plays the device,
//! whose cost is to be subtracted.

use anyhow::{Context as _, Result};
use bench_process::check::{CHECK_ITEMS, Check};
use bench_process::device::Device;
use bench_process::driver::{Driver, Site};
use bench_process::line::{Line, Subject};
use bench_process::roster::{Chain, Contender, Visit};
use clap::Parser;

/// Chains of a call of [`counted_rounds`].
const ROUNDS: usize = 32 * 64;
/// Calls of it.
const CALLS: usize = 4;

/// Rounds of one driver, for callgrind to count.
#[derive(Debug, Parser)]
struct Cli {
    /// Prints what can be measured, one JSON object a line.
    #[arg(long)]
    list: bool,
    /// With `--list`: bursts of 32 without an event index only.
    #[arg(long, requires = "list")]
    quick: bool,
    /// A case of the list.
    #[arg(long, required_unless_present = "list")]
    case: Option<String>,
    /// A contender of that case.
    #[arg(long, required_unless_present = "list")]
    contender: Option<String>,
}

/// How many chains are submitted at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Batch {
    One = 1,
    Burst = 32,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
struct Measurement {
    chain: Chain,
    batch: Batch,
    event_idx: bool,
    contender: Contender,
}

impl Measurement {
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for chain in Chain::ALL {
            for batch in [Batch::One, Batch::Burst] {
                for event_idx in [false, true] {
                    all.extend(Contender::all(chain).into_iter().map(|contender| Self {
                        chain,
                        batch,
                        event_idx,
                        contender,
                    }));
                }
            }
        }
        all
    }

    fn subject(&self) -> Subject {
        let event_idx = if self.event_idx { ", EVENT_IDX" } else { "" };
        Subject {
            group: "instructions",
            case: format!("{}, batch {}{event_idx}", self.chain, self.batch as usize),
            contender: self.contender.to_string(),
        }
    }

    fn line(&self) -> Line {
        let subject = self.subject();
        if let Some(why) = self.contender.cannot(self.chain) {
            let skipped = why.into();
            return Line::Skipped { skipped, subject };
        }
        let args = ["--case", &subject.case, "--contender", &subject.contender];
        Line::Measurable {
            args: args.map(str::to_owned).to_vec(),
            unit: "instructions/chain",
            function: "rounds::counted_rounds",
            apart: "Device::run",
            subject,
        }
    }
}

/// `ROUNDS` chains in bursts of `BATCH`, kicked, as a caller who does not know what the device
/// does.
#[inline(never)] // callgrind collects in it
fn counted_rounds<D: Driver, const BATCH: usize>(driver: &mut D, device: &mut Device) -> usize {
    let mut reaped = 0;
    for _ in 0..ROUNDS / BATCH {
        driver.submit(BATCH);
        driver.kick();
        device.run();
        reaped += driver.reap();
    }
    reaped
}

/// Rounds in bursts of so many.
#[derive(Clone, Copy, Debug)]
struct Rounds<const BATCH: usize>;

impl<const BATCH: usize> Site for Rounds<BATCH> {}

impl<const BATCH: usize> Visit for Rounds<BATCH> {
    type Site = Self;
    type Out = usize;

    fn visit<D: Driver>(self, mut driver: D, mut device: Device) -> usize {
        (0..CALLS)
            .map(|_| counted_rounds::<D, BATCH>(&mut driver, &mut device))
            .sum()
    }
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if cli.list {
        let quick = |m: &Measurement| m.batch == Batch::Burst && !m.event_idx;
        for measurement in Measurement::all() {
            if !cli.quick || quick(&measurement) {
                measurement.line().print()?;
            }
        }
        return Ok(());
    }
    let wanted = |m: &Measurement| {
        let subject = m.subject();
        cli.case.as_ref() == Some(&subject.case)
            && cli.contender.as_ref() == Some(&subject.contender)
    };
    let measurement = Measurement::all().into_iter().find(wanted);
    let measurement = measurement.context("no such case or contender: see `rounds --list`")?;
    let Measurement {
        chain,
        batch,
        event_idx,
        contender,
    } = measurement;
    if let Some(why) = contender.cannot(chain) {
        measurement.line().print()?;
        anyhow::bail!("{contender}, {chain}: {why}");
    }
    contender
        .meet(chain, event_idx, CHECK_ITEMS, Check)
        .with_context(|| format!("{contender}, {chain}: wrong, and not to be measured"))?;
    let reaped = match batch {
        Batch::One => contender.meet(chain, event_idx, 64, Rounds::<1>),
        Batch::Burst => contender.meet(chain, event_idx, 64, Rounds::<32>),
    };
    anyhow::ensure!(
        reaped == ROUNDS * CALLS,
        "{contender}, {chain}: {reaped} chains came back of {}",
        ROUNDS * CALLS
    );
    println!("{ROUNDS} rounds a call, {CALLS} calls of each");
    Ok(())
}
