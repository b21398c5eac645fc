//! Times: of one thread that plays driver and device in turn, and of two, with the device on the
//! other core.
//!
//! Prints one JSON object a line on standard output (see `bench_process::line`), and what goes on
//! on standard error. Contenders of a case take turns, sample by sample, so that whatever changes
//! meanwhile changes for all of them; each sample has a driver, a device and memory of its own.

mod one_thread;
mod ringtest;
mod two_cores;
mod watchdog;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bench_process::check::{CHECK_ITEMS, Check};
use bench_process::court::Court;
use bench_process::line::{Line, Subject};
use bench_process::machine::{Clock, allowed_cpus, pin};
use bench_process::roster::{Chain, Contender};
use clap::Parser;

use one_thread::OneThread;
use ringtest::Ringtest;
use two_cores::TwoCores;
use watchdog::Watchdog;

/// Times of vring and its peers, of one thread and of two.
#[derive(Debug, Parser)]
struct Cli {
    /// Few short samples, of every contender.
    #[arg(long)]
    quick: bool,
    /// The whole run takes about so long, at most.
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// A directory with Linux's ringtest, built: its `ring` takes part.
    #[arg(long, value_name = "DIR")]
    ringtest: Option<PathBuf>,
    /// Only cases whose name has this in it.
    #[arg(long, value_name = "TEXT")]
    case: Option<String>,
    /// Only contenders whose name has this in it.
    #[arg(long, value_name = "TEXT")]
    contender: Option<String>,
}

/// How much is done.
#[derive(Clone, Copy, Debug)]
struct Effort {
    /// Of one sample.
    length: Duration,
    /// Samples of each contender in each case.
    rounds: usize,
    /// No sample begins after it.
    end: Instant,
}

impl Effort {
    fn new(cli: &Cli) -> Self {
        let (length, rounds, seconds) = if cli.quick { (4, 3, 15) } else { (25, 40, 300) };
        let seconds = cli.seconds.unwrap_or(seconds);
        Self {
            length: Duration::from_millis(length),
            rounds,
            end: Instant::now() + Duration::from_secs(seconds),
        }
    }
}

/// Samples that are tried in a round, until one counts.
const TRIES: usize = 3;

/// What is asked for on the command line, and only that.
#[derive(Clone, Debug)]
struct Filter {
    case: String,
    contender: String,
}

impl Filter {
    fn takes(&self, subject: &Subject) -> bool {
        subject.case.contains(&self.case) && subject.contender.contains(&self.contender)
    }
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let effort = Effort::new(&cli);
    let filter = Filter {
        case: cli.case.clone().unwrap_or_default(),
        contender: cli.contender.clone().unwrap_or_default(),
    };
    check_all()?;
    let watchdog = Watchdog::start()?;
    let cpus = allowed_cpus()?;
    // Linux's ring is measured between ping-pongs, which need the court.
    let court = match cpus[..] {
        [first, second, ..] => Some(Court::open([first, second])?),
        [only] => {
            pin(only)?;
            None
        }
        [] => anyhow::bail!("no CPU is allowed"),
    };
    let one_thread = OneThread {
        clock: Clock::calibrated(),
        cpu: cpus[0],
    };
    let two_cores = match court {
        Some(court) => {
            let ringtest = match &cli.ringtest {
                Some(dir) => Ringtest::find(dir, court.cpus()).map_err(|why| why.to_string()),
                None => Err("no --ringtest directory was given: see --help".into()),
            };
            let two_cores = TwoCores { court, ringtest };
            two_cores.skip_some(&filter)?;
            Some(two_cores)
        }
        None => {
            two_cores::skip_all("one CPU is allowed, and two are needed", &filter)?;
            None
        }
    };
    one_thread.skip_some(&filter)?;
    for round in 0..effort.rounds {
        let left = effort.end.saturating_duration_since(Instant::now());
        eprintln!(
            "round {} of {}, {} s left",
            round + 1,
            effort.rounds,
            left.as_secs()
        );
        let more = one_thread.round(&effort, &filter, &watchdog)?
            && match &two_cores {
                Some(two_cores) => two_cores.round(&effort, &filter, &watchdog)?,
                None => true,
            };
        if !more {
            eprintln!("time is up");
            break;
        }
    }
    Ok(())
}

/// Shows that every contender is right, before any is timed.
fn check_all() -> Result<()> {
    for chain in Chain::ALL {
        for contender in Contender::all(chain) {
            if contender.cannot(chain).is_none() {
                contender
                    .meet(chain, false, CHECK_ITEMS, Check)
                    .with_context(|| format!("{contender}, {chain}: wrong, and not to be timed"))?;
            }
        }
    }
    eprintln!("all contenders lay out what they are given, and give it back");
    Ok(())
}

/// Prints why a contender does not take part, if it was asked for.
fn skip(filter: &Filter, subject: Subject, why: &str) -> Result<()> {
    if filter.takes(&subject) {
        let skipped = why.into();
        Line::Skipped { skipped, subject }.print()?;
    }
    Ok(())
}
