//! `cargo xtask bench`: the crate beside its competitors, all in one run.
//!
//! ```text
//!   needs ─▶ prepare ─▶ groups: a program each, lines of JSON ─▶ table ─▶ report.json
//!   (valgrind, DPDK, ...)  (copy, build)                          │          report.md, plots
//!                                              goals.toml, budget ┘
//! ```
//!
//! Programs take samples, and say what they saw line by line ([`sample`]); what is made of it is
//! made here: medians and spreads, ratios where there are samples enough ([`table`]), how far the
//! goals are reached ([`goals`]). Each group has a share of the time ([`cli::Group::seconds`]); one
//! that cannot run is skipped, with its reason, and the others go on.

mod cli;
mod goals;
mod groups;
mod guest;
mod instructions;
mod machine;
mod markdown;
mod plot;
mod prepare;
mod report;
mod ringtest;
mod sample;
mod size;
mod stats;
mod table;

use std::path::Path;
use std::time::{Instant, SystemTime};

use anyhow::Context as _;
use clap::ValueEnum as _;

pub(crate) use self::cli::BenchArgs;

use self::cli::Group;
use self::goals::Goals;
use self::groups::{Bench, Plan};
use self::machine::Machine as Facts;
use self::report::{BudgetReport, Report};
use crate::qemu::provision::Provision;
use crate::qemu::report::write_atomically;
use crate::qemu::stop::{EXIT_FAILED, Stop};
use crate::qemu::ui::Ui;
use crate::qemu::{default_out, limits, session, target_dir};
use crate::test::budget;
use crate::test::context::Context;
use crate::test::needs::{Machine, Need};
use crate::test::progress::Progress;
use crate::test::report::Status;
use crate::test::run::Run;
use crate::told::{told, told_whole};

/// Where it all goes, under cargo's target directory.
pub(crate) const OUT: &str = "bench";
/// Names of the reports there.
pub(crate) const REPORT: &str = "report.json";
/// See [`REPORT`].
pub(crate) const PAGE: &str = "report.md";
/// Seconds that the instruction budget may take, builds included.
const BUDGET_SECONDS: u64 = 600;

/// Names of the groups, in their order.
pub(crate) fn group_names() -> impl Iterator<Item = &'static str> {
    Group::value_variants().iter().map(|group| group.name())
}

/// What all groups together need.
pub(crate) fn needs() -> Vec<Need> {
    let groups = Group::value_variants().iter();
    groups.flat_map(|group| groups::needs(*group)).collect()
}

/// Runs the command; the exit code.
pub(crate) fn main(args: &BenchArgs, command: Vec<String>) -> u8 {
    limits::catch_signals();
    let out = target_dir().join(OUT);
    // Two runs at a time would disturb each other in more than their files.
    let _lock = match session::lock(&out) {
        Ok(lock) => lock,
        Err(stop) => {
            eprintln!("another run writes to {}: wait for it", out.display());
            return stop.exit_code();
        }
    };
    let path = out.join(REPORT);
    let mut report = Report::unfinished(command);
    if let Err(error) = report.write(&path) {
        eprintln!("{error:#}");
        return EXIT_FAILED;
    }
    let run = std::panic::AssertUnwindSafe(|| run(args, &out, &mut report));
    let result = std::panic::catch_unwind(run).unwrap_or_else(|_| {
        Err(Stop::Broken(anyhow::anyhow!(
            "the harness panicked; its message is above, and it is a bug"
        )))
    });
    match result {
        Ok(()) => report.finish(),
        Err(stop) => report.stopped(stop.exit_code(), stop.to_string()),
    }
    let page = || write_atomically(&out.join(PAGE), markdown::page(&report).as_bytes());
    if let Err(error) = page().and_then(|()| report.write(&path)) {
        eprintln!("{error:#}");
        report.stopped(EXIT_FAILED, format!("{error:#}"));
    }
    told_whole(&markdown::summary(&report));
    told(format_args!("report: {}", out.join(PAGE).display()));
    told(format_args!("report: {}", path.display()));
    report.exit_code
}

/// Writes the report of a command line that cannot be understood, where a run's would have been.
pub(crate) fn usage_error(command: Vec<String>, message: &str) {
    let out = target_dir().join(OUT);
    // A run that holds the place keeps its report.
    let Ok(_lock) = session::lock(&out) else {
        return;
    };
    let mut report = Report::unfinished(command);
    let stop = Stop::Usage(message.trim().into());
    report.stopped(stop.exit_code(), stop.to_string());
    if let Err(error) = report.write(&out.join(REPORT)) {
        eprintln!("{error:#}");
    }
}

fn run(args: &BenchArgs, out: &Path, report: &mut Report) -> Result<(), Stop> {
    let start = Instant::now();
    report.quick = args.quick;
    report.date = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    report.machine = Facts::read();
    let context = Context {
        out: out.into(),
        ..Context::read()?
    };
    let goals = context.workspace.join("benches/goals.toml");
    let goals = std::fs::read_to_string(&goals)
        .with_context(|| format!("cannot read {}", goals.display()))?;
    let goals = Goals::parse(&goals)?;

    // What an earlier run drew is not this one's.
    for name in group_names() {
        drop(std::fs::remove_file(out.join(format!("{name}.svg"))));
    }
    // Whoever has to answer a question answers before the long part.
    let ui = Ui::new(false);
    let mut machine = Machine::new(Provision {
        cache: default_out().join("cache"),
        yes: args.yes,
        ui: &ui,
    });
    let mut plans = Vec::new();
    for group in args.groups() {
        plans.push(Plan::new(group, &mut machine)?);
    }
    ui.end();
    // The budget goes with the instructions; the section of the tests does it for a short run.
    let with_budget = !args.quick && plans.iter().any(Plan::is_instructions);
    let progress = Progress::new(plans.len() + usize::from(with_budget));
    let mut bench = Bench::new(args, &goals, &context, progress);
    for plan in &plans {
        let group = bench.group(plan)?;
        let interrupted = group.status == Status::Interrupted;
        report.groups.push(group);
        report.duration_s = start.elapsed().as_secs_f64();
        if interrupted {
            break;
        }
    }
    if with_budget && !limits::interrupted() {
        let lacks = plans
            .iter()
            .filter(|plan| plan.is_instructions())
            .find_map(Plan::lack);
        report.budget = Some(judge_budget(&context, &mut bench, lacks)?);
    }
    bench.end();
    report.goals = goals.judge(&args.groups(), &|group| bench.cases(group));
    report.duration_s = start.elapsed().as_secs_f64();
    Ok(())
}

/// The instruction budget, judged as the tests do.
fn judge_budget(
    context: &Context,
    bench: &mut Bench<'_>,
    lack: Option<crate::test::section::Skip>,
) -> Result<BudgetReport, Stop> {
    bench.begin("budget");
    let mut report = BudgetReport {
        status: Status::Skipped,
        passed: 0,
        failed: 0,
        failures: Vec::new(),
        notes: Vec::new(),
        skip: lack,
    };
    if report.skip.is_some() {
        return Ok(report);
    }
    let mut run = Run::new(context, &context.out.join("budget.log"), BUDGET_SECONDS)?;
    match budget::work(&mut run) {
        Ok(outcome) => {
            report.passed = outcome.counts.passed;
            report.failed = outcome.counts.failed;
            report.failures = outcome.failures;
            report.notes = outcome.notes;
            report.skip = outcome.skip;
            report.status = match (report.failed, report.passed) {
                (0, 0) => Status::Skipped,
                (0, _) => Status::Passed,
                _ => Status::Failed,
            };
        }
        Err(stop) => {
            report.status = groups::status_of(&stop);
            report.failures.push(stop.to_string());
        }
    }
    Ok(report)
}
