//! `cargo xtask qemu`: boots the guest on a real host path and proves which one ran.
//!
//! The order is: probe, provide, build, run, judge, report. A refusal comes before anything is
//! compiled; a report is written on every way out. Each mode (native, nested, off) only decides
//! where [`inner::run_all`] runs; what it does there is the same.

pub(crate) mod arch;
mod attach;
mod channel;
pub(crate) mod cli;
mod features;
mod guest;
pub(crate) mod init;
mod initramfs;
mod inner;
mod job;
mod kmod;
pub(crate) mod limits;
pub(crate) mod native;
mod outer;
mod peer;
mod probe;
pub(crate) mod process;
mod proof;
pub(crate) mod provision;
pub(crate) mod report;
pub(crate) mod session;
pub(crate) mod stop;
mod tap;
pub(crate) mod ui;
mod vhost;

use std::path::{Path, PathBuf};

use self::cli::QemuArgs;
use self::report::{Artifact, Failure, Report, Skipped};
use self::stop::{EXIT_FAILED, EXIT_OK, EXIT_TIME, Stop};
use self::ui::Ui;

/// Name of the report.
const REPORT: &str = "report.json";

/// The directory of everything that a run leaves, unless asked otherwise.
pub(crate) fn default_out() -> PathBuf {
    target_dir().join("qemu")
}

/// Cargo's target directory: this program lies in it, and cargo marks it as a cache.
pub(crate) fn target_dir() -> PathBuf {
    let marked = std::env::current_exe().ok().and_then(|me| {
        me.ancestors()
            .find(|dir| dir.join("CACHEDIR.TAG").exists())
            .map(Path::to_path_buf)
    });
    marked.unwrap_or_else(|| workspace().join("target"))
}

/// The workspace that this program was built from.
pub(crate) fn workspace() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest
        .parent()
        .map_or(manifest.clone(), Path::to_path_buf)
}

/// Runs the command; the exit code.
pub(crate) fn main(args: &QemuArgs, command: Vec<String>) -> u8 {
    limits::catch_signals();
    let ui = Ui::new(args.quiet);
    let out = args.out.clone().unwrap_or_else(default_out);
    let out = std::path::absolute(&out).unwrap_or(out);
    let path = out.join(REPORT);
    // Two runs in one place would mix their artifacts; the first one keeps the place.
    let _lock = match session::lock(&out) {
        Ok(lock) => lock,
        Err(stop) => {
            let stop = unusable(stop, args);
            eprintln!("{stop}");
            return stop.exit_code();
        }
    };
    let mut report = Report::unfinished(command);
    if let Err(error) = report.write(&path) {
        eprintln!("{error:#}");
        return EXIT_FAILED;
    }
    report.findings.failures.clear();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        session::run(args, &out, &ui, &mut report)
    }));
    ui.end();
    let result = caught.unwrap_or_else(|_| {
        Err(Stop::Broken(anyhow::anyhow!(
            "the harness panicked; its message is above, and it is a bug"
        )))
    });
    finish(&mut report, result, &out);
    if let Err(error) = report.write(&path) {
        eprintln!("{error:#}");
        if report.ok {
            // What lies there says that there was no end.
            finish(&mut report, Err(Stop::Broken(error)), &out);
        }
    }
    if args.matrix {
        // The table is the result; the report has the same failures.
        ui.matrix(&report, &out.join(session::matrix::MATRIX), args.format);
    } else {
        ui.report(&report, &path, args.format);
    }
    report.exit_code
}

/// A directory that was asked for and cannot be had is the fault of who asked.
fn unusable(stop: Stop, args: &QemuArgs) -> Stop {
    match stop {
        Stop::Broken(error) if args.out.is_some() => Stop::Usage(format!("--out: {error:#}")),
        stop => stop,
    }
}

/// The last `--out` of a command line that cannot be understood.
fn out_of(words: &[String]) -> Option<PathBuf> {
    let value = |(at, word): (usize, &String)| match word.strip_prefix("--out") {
        Some("") => words.get(at + 1).map(PathBuf::from),
        Some(rest) => rest.strip_prefix('=').map(PathBuf::from),
        None => None,
    };
    words.iter().enumerate().filter_map(value).next_back()
}

/// Reports a command line that cannot be understood, where the report would have been.
pub(crate) fn usage_error(command: Vec<String>, message: &str) {
    let out = out_of(&command).unwrap_or_else(default_out);
    let mut report = Report::unfinished(command);
    report.findings.failures.clear();
    let stop = Stop::Usage(message.trim().into());
    // A run that holds the place keeps its report.
    let Ok(_lock) = session::lock(&out) else {
        return;
    };
    finish(&mut report, Err(stop), &out);
    // What lies there is another run's.
    report.artifacts.clear();
    if let Err(error) = report.write(&out.join(REPORT)) {
        eprintln!("{error:#}");
    }
}

/// Turns what happened into a verdict and lists what the run left.
fn finish(report: &mut Report, result: Result<(), Stop>, out: &Path) {
    let code = match &result {
        Ok(()) if report.findings.failures.is_empty() => EXIT_OK,
        Ok(()) if report.findings.timed_out => EXIT_TIME,
        Ok(()) => EXIT_FAILED,
        Err(stop) => stop.exit_code(),
    };
    if let Err(stop) = result {
        report.findings.failures.push(failure(&stop));
        if let Stop::Missing { what, why, fix } = stop {
            report.findings.skipped.push(Skipped { what, why, fix });
        }
    }
    report.exit_code = code;
    report.ok = code == EXIT_OK;
    report.artifacts = artifacts(&out.join(session::ARTIFACTS));
}

fn failure(stop: &Stop) -> Failure {
    match stop {
        Stop::Usage(text) => Failure::new(
            "usage",
            "a command line that can be understood",
            text,
            "cargo xtask qemu --help",
        ),
        Stop::Missing { what, why, fix } => Failure::new("prerequisites", what, why, fix.clone()),
        Stop::TimeLimit {
            waiting_for,
            seconds,
        } => Failure::new(
            "time limit",
            waiting_for,
            format!("not within {seconds} s"),
            "the artifacts show how far the run came; --time-limit gives it more",
        ),
        Stop::Interrupted => Failure::new(
            "run",
            "a run that reaches its end",
            "interrupted by a signal",
            "run it again",
        ),
        Stop::Broken(error) => Failure::new(
            "run",
            "a run that reaches its end",
            format!("{error:#}"),
            "the artifacts show how far the run came",
        ),
    }
}

fn artifacts(dir: &Path) -> Vec<Artifact> {
    let mut found: Vec<Artifact> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let bytes = entry.metadata().ok().filter(|m| m.is_file())?.len();
            Some(Artifact {
                name: entry.file_name().to_string_lossy().into_owned(),
                path: entry.path(),
                bytes,
            })
        })
        .filter(|artifact| artifact.bytes > 0)
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_code_and_its_failure() {
        let dir = tempfile::tempdir().unwrap();
        let ends: [(Result<(), Stop>, u8); 6] = [
            (Ok(()), 0),
            (Err(Stop::Broken(anyhow::anyhow!("x"))), 1),
            (Err(Stop::Usage("x".into())), 2),
            (Err(Stop::missing("x", "y", "z")), 3),
            (
                Err(Stop::TimeLimit {
                    waiting_for: "x".into(),
                    seconds: 1,
                }),
                4,
            ),
            (Err(Stop::Interrupted), 130),
        ];
        for (result, code) in ends {
            let mut report = Report::unfinished(Vec::new());
            report.findings.failures.clear();
            finish(&mut report, result, dir.path());
            assert_eq!(report.exit_code, code);
            assert_eq!(report.ok, code == 0);
            assert_eq!(report.findings.failures.is_empty(), code == 0);
            assert_eq!(report.findings.skipped.len(), usize::from(code == 3));
        }
    }

    #[test]
    fn a_report_of_bad_usage_goes_where_it_was_asked_for() {
        let out = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(ToString::to_string).collect();
            out_of(&words)
        };
        assert_eq!(out(&["qemu", "--bogus"]), None);
        assert_eq!(out(&["qemu", "--out"]), None);
        assert_eq!(out(&["qemu", "--outer", "x"]), None);
        assert_eq!(out(&["qemu", "--out", "a", "--bogus"]), Some("a".into()));
        assert_eq!(out(&["--out=b", "qemu", "--bogus"]), Some("b".into()));
    }

    #[test]
    fn a_wait_inside_that_ran_out_is_a_time_limit_too() {
        let mut report = Report::unfinished(Vec::new());
        report.findings.timed_out = true;
        finish(&mut report, Ok(()), Path::new("/nowhere"));
        assert_eq!(report.exit_code, EXIT_TIME);
    }
}
