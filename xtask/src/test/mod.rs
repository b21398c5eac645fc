//! `cargo xtask test`: what must hold before a change is taken, for a person and for CI.
//!
//! A run is a list of [`sections`]. For each, the machine is looked at first, and what is
//! missing is provided where that is agreed to; then its checks run one after the other, into one
//! log and within one time limit. Everything that failed is counted, nothing stops at the first
//! failure. [`report`] turns what happened into a verdict, a table and `report.json`.

mod bench;
pub(crate) mod budget;
pub(crate) mod cli;
pub(crate) mod context;
pub(crate) mod needs;
mod probe;
pub(crate) mod progress;
mod qemu;
pub(crate) mod report;
pub(crate) mod run;
pub(crate) mod section;
pub(crate) mod sections;
pub(crate) mod suites;
mod tally;
mod targets;

use std::path::Path;
use std::time::Instant;

pub(crate) use cli::TestArgs;

use self::cli::Format;
use self::context::Context;
use self::needs::Machine;
use self::progress::Progress;
use self::report::{CheckReport, Report, SectionReport, Status};
use self::run::Run;
use self::section::{Check, Counts, Outcome, Section, Skip};
use crate::qemu::provision::Provision;
use crate::qemu::stop::{EXIT_FAILED, EXIT_OK, Stop};
use crate::qemu::ui::Ui;
use crate::qemu::{default_out, limits, process, session, target_dir};
use crate::told::{told, told_whole};

/// Lines of a failed check's output that are shown.
const TAIL: usize = 40;

/// Runs the command; the exit code.
pub(crate) fn main(args: &TestArgs, command: Vec<String>) -> u8 {
    limits::catch_signals();
    let out = target_dir().join("test");
    if args.list {
        return list(args);
    }
    // Two runs in one place would mix their logs; the first one keeps the place.
    let _lock = match session::lock(&out) {
        Ok(lock) => lock,
        Err(stop) => {
            eprintln!("another run writes to {}: wait for it", out.display());
            return stop.exit_code();
        }
    };
    let path = out.join("report.json");
    let mut report = Report::unfinished(command);
    if let Err(error) = report.write(&path) {
        eprintln!("{error:#}");
        return EXIT_FAILED;
    }
    let run = std::panic::AssertUnwindSafe(|| run(args, &mut report));
    let result = std::panic::catch_unwind(run).unwrap_or_else(|_| {
        Err(Stop::Broken(anyhow::anyhow!(
            "the harness panicked; its message is above, and it is a bug"
        )))
    });
    match result {
        Ok(()) => report.finish(),
        Err(stop) => report.stopped(stop.exit_code(), stop.to_string()),
    }
    if let Err(error) = report.write(&path) {
        eprintln!("{error:#}");
        report.stopped(EXIT_FAILED, format!("{error:#}"));
    }
    show(&report, &path, args.format);
    report.exit_code
}

/// Writes the report of a command line that cannot be understood, where a run's would have been.
pub(crate) fn usage_error(command: Vec<String>, message: &str) {
    let out = target_dir().join("test");
    // A run that holds the place keeps its report.
    let Ok(_lock) = session::lock(&out) else {
        return;
    };
    let mut report = Report::unfinished(command);
    let stop = Stop::Usage(message.trim().into());
    report.stopped(stop.exit_code(), stop.to_string());
    if let Err(error) = report.write(&out.join("report.json")) {
        eprintln!("{error:#}");
    }
}

fn show(report: &Report, path: &Path, format: Format) {
    match format {
        Format::Human => {
            told_whole(&report.human());
            told(format_args!("report: {}", path.display()));
            told(format_args!("{}", report.totals()));
        }
        Format::Json => {
            told(format_args!("{}", report.json().unwrap_or_default()));
            eprintln!("{}", report.totals());
        }
    }
}

/// The sections and checks that the command line asks for.
fn selected(args: &TestArgs, context: &Context) -> Vec<Section> {
    let wanted = |mut section: Section| {
        section.checks.retain(|check| check.quick || !args.quick);
        (args.selects(section.name) && !section.checks.is_empty()).then_some(section)
    };
    sections::all(context)
        .into_iter()
        .filter_map(wanted)
        .collect()
}

fn list(args: &TestArgs) -> u8 {
    let context = match Context::read() {
        Ok(context) => context,
        Err(stop) => {
            eprintln!("{stop}");
            return stop.exit_code();
        }
    };
    let sections = selected(args, &context);
    if args.format == Format::Json {
        let names = |section: &Section| -> Vec<String> {
            section
                .checks
                .iter()
                .map(|check| check.name.clone())
                .collect()
        };
        let rows: Vec<serde_json::Value> = sections
            .iter()
            .map(|section| {
                serde_json::json!({
                    "name": section.name,
                    "about": section.about,
                    "limit_s": section.limit,
                    "checks": names(section),
                })
            })
            .collect();
        told(format_args!("{:#}", serde_json::Value::Array(rows)));
        return EXIT_OK;
    }
    for section in sections {
        let minutes = section.limit / 60;
        told(format_args!(
            "{:<11} {} (at most {minutes} min)",
            section.name, section.about
        ));
        for check in section.checks {
            let mark = match (check.quick, check.optional) {
                (true, _) => " [quick]",
                (_, true) => " [where it can be had]",
                _ => "",
            };
            told(format_args!("  {}{mark}", check.name));
        }
    }
    EXIT_OK
}

fn run(args: &TestArgs, report: &mut Report) -> Result<(), Stop> {
    let context = Context::read()?;
    let sections = selected(args, &context);
    let ui = Ui::new(false);
    let mut machine = Machine::new(Provision {
        cache: default_out().join("cache"),
        yes: args.yes,
        ui: &ui,
    });
    // Whoever has to answer a question answers before the long part.
    let mut plan = Vec::new();
    for section in sections {
        let mut missing = Vec::new();
        for check in &section.checks {
            missing.push(machine.meet(&check.needs)?);
        }
        plan.push((section, missing));
    }
    ui.end();
    let mut progress = Progress::new(plan.len());
    for (section, missing) in plan {
        let done = run_section(&section, missing, args, &context, &mut progress);
        report.push(done?);
        if limits::interrupted() {
            break;
        }
    }
    progress.end();
    Ok(())
}

fn run_section(
    section: &Section,
    missing: Vec<Option<Skip>>,
    args: &TestArgs,
    context: &Context,
    progress: &mut Progress,
) -> Result<SectionReport, Stop> {
    progress.section(section.name);
    let log = context.out.join(format!("{}.log", section.name));
    let mut run = Run::new(context, &log, section.limit)?;
    let mut checks = Vec::new();
    for (check, missing) in section.checks.iter().zip(missing) {
        progress.check(&check.name);
        let start = Instant::now();
        let out_of_time = checks
            .iter()
            .any(|done: &CheckReport| done.status == Status::TimeLimit);
        let required = args.requires(section.name) && !check.optional;
        let (status, outcome) = match missing {
            _ if out_of_time => (Status::TimeLimit, Outcome::failed("not reached")),
            Some(skip) => absent(skip, required),
            None => insist(judged(check, &mut run, section.limit), required),
        };
        let done = CheckReport {
            name: check.name.clone(),
            status,
            counts: outcome.counts,
            duration_s: start.elapsed().as_secs_f64(),
            commands: std::mem::take(&mut run.commands),
            failures: outcome.failures,
            notes: outcome.notes,
            skip: outcome.skip,
        };
        progress.line(&line(section.name, &done));
        if matches!(status, Status::Failed | Status::TimeLimit) && !out_of_time {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            progress.line(&process::tail(&text, TAIL));
        }
        checks.push(done);
        if status == Status::Interrupted {
            break;
        }
    }
    Ok(SectionReport::of(section.name, log, checks))
}

/// What becomes of a check that cannot run here.
fn absent(skip: Skip, required: bool) -> (Status, Outcome) {
    let (status, counts) = if required {
        (Status::Missing, Counts::FAILED)
    } else {
        (Status::Skipped, Counts::SKIPPED)
    };
    let outcome = Outcome {
        counts,
        skip: Some(skip),
        ..Outcome::default()
    };
    (status, outcome)
}

/// A required check that lacked something has not passed.
fn insist((status, outcome): (Status, Outcome), required: bool) -> (Status, Outcome) {
    let passed = matches!(status, Status::Passed | Status::Skipped);
    if !(passed && required && outcome.lacks) {
        return (status, outcome);
    }
    let counts = Counts {
        failed: outcome.counts.failed + outcome.counts.skipped,
        skipped: 0,
        ..outcome.counts
    };
    (Status::Missing, Outcome { counts, ..outcome })
}

/// Does the work.
fn judged(check: &Check, run: &mut Run<'_>, limit: u64) -> (Status, Outcome) {
    match (check.work)(run) {
        Ok(outcome) if outcome.counts.failed > 0 => (Status::Failed, outcome),
        Ok(outcome) if outcome.counts.passed == 0 => (Status::Skipped, outcome),
        Ok(outcome) => (Status::Passed, outcome),
        Err(Stop::TimeLimit { waiting_for, .. }) => {
            let why = format!("the section's {limit} s ran out during {waiting_for}");
            (Status::TimeLimit, Outcome::failed(why))
        }
        Err(Stop::Interrupted) => (Status::Interrupted, Outcome::failed("interrupted")),
        Err(stop) => (Status::Failed, Outcome::failed(stop.to_string())),
    }
}

/// A check as one line.
fn line(section: &str, done: &CheckReport) -> String {
    let Counts {
        passed,
        failed,
        skipped,
    } = done.counts;
    let verdict = match done.status {
        Status::Passed => "ok",
        Status::Skipped => "skipped",
        Status::Missing => "MISSING",
        Status::TimeLimit => "TIME LIMIT",
        Status::Failed => "FAILED",
        Status::Interrupted => "interrupted",
    };
    let counts = if passed + failed + skipped > 1 {
        format!("{passed} passed, {failed} failed, {skipped} skipped, ")
    } else {
        String::new()
    };
    format!(
        "  {section}: {} ... {verdict} ({counts}{:.1} s)",
        done.name, done.duration_s
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_required_check_that_lacks_something_has_not_passed() {
        let counts = Counts {
            passed: 5,
            failed: 0,
            skipped: 2,
        };
        let outcome = |lacks| Outcome {
            counts,
            lacks,
            ..Outcome::default()
        };
        let (status, kept) = insist((Status::Passed, outcome(true)), false);
        assert_eq!((status, kept.counts), (Status::Passed, counts));
        let (status, kept) = insist((Status::Passed, outcome(false)), true);
        assert_eq!((status, kept.counts), (Status::Passed, counts));
        let (status, kept) = insist((Status::Passed, outcome(true)), true);
        assert_eq!((status, kept.counts.failed), (Status::Missing, 2));
        let (status, kept) = insist((Status::Failed, outcome(true)), true);
        assert_eq!((status, kept.counts), (Status::Failed, counts));
    }
}
