//! The report: for scripts (`report.json`) and for people (a table).
//!
//! Field names are a contract with scripts; [`SCHEMA`] changes when one of them changes meaning.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use super::section::{Counts, Skip};
use crate::qemu::report::write_atomically;
use crate::qemu::stop::{
    EXIT_FAILED, EXIT_INTERRUPTED, EXIT_MISSING, EXIT_OK, EXIT_TIME, EXIT_USAGE,
};

/// Version of the report's form.
const SCHEMA: &str = "vring-test-report/1";

/// How a check or a section ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Passed,
    Skipped,
    /// Required, and something that it needs is not on this machine.
    Missing,
    TimeLimit,
    Failed,
    Interrupted,
}

impl Status {
    pub(crate) fn shown(self) -> &'static str {
        match self {
            Self::Passed => "ok",
            Self::Skipped => "skipped",
            Self::Missing => "MISSING",
            Self::TimeLimit => "TIME LIMIT",
            Self::Failed => "FAILED",
            Self::Interrupted => "interrupted",
        }
    }

    fn exit_code(self) -> u8 {
        match self {
            Self::Passed | Self::Skipped => EXIT_OK,
            Self::Missing => EXIT_MISSING,
            Self::TimeLimit => EXIT_TIME,
            Self::Failed => EXIT_FAILED,
            Self::Interrupted => EXIT_INTERRUPTED,
        }
    }
}

/// What came of a check.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CheckReport {
    pub(crate) name: String,
    pub(crate) status: Status,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    pub(crate) duration_s: f64,
    pub(crate) commands: Vec<String>,
    pub(crate) failures: Vec<String>,
    pub(crate) notes: Vec<String>,
    /// Why it was skipped, or is missing.
    #[serde(flatten)]
    pub(crate) skip: Option<Skip>,
}

/// What came of a section.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SectionReport {
    pub(crate) name: String,
    pub(crate) status: Status,
    #[serde(flatten)]
    pub(crate) counts: Counts,
    pub(crate) duration_s: f64,
    /// Why it is not `passed`.
    pub(crate) reason: Option<String>,
    pub(crate) log: PathBuf,
    pub(crate) checks: Vec<CheckReport>,
}

impl SectionReport {
    /// The section as its checks have it.
    pub(crate) fn of(name: &str, log: PathBuf, checks: Vec<CheckReport>) -> Self {
        let mut counts = Counts::default();
        for check in &checks {
            counts.add(check.counts);
        }
        let worst = worst(checks.iter().map(|check| check.status));
        // One part that could not run does not make a section skipped.
        let all_skipped = checks.iter().all(|check| check.status == Status::Skipped);
        let status = match worst {
            Status::Skipped if !all_skipped => Status::Passed,
            worst => worst,
        };
        let reason = checks
            .iter()
            .filter(|check| check.status == worst)
            .find_map(|check| {
                let why = check.failures.first();
                let why = why.or(check.skip.as_ref().map(|skip| &skip.reason))?;
                Some(format!("{}: {why}", check.name))
            });
        Self {
            name: name.into(),
            status,
            counts,
            duration_s: checks.iter().map(|check| check.duration_s).sum(),
            reason,
            log,
            checks,
        }
    }
}

/// The status that decides: a failure hides a missing tool, an interruption hides all.
fn worst(all: impl Iterator<Item = Status>) -> Status {
    const ORDER: [Status; 6] = [
        Status::Interrupted,
        Status::Failed,
        Status::TimeLimit,
        Status::Missing,
        Status::Skipped,
        Status::Passed,
    ];
    let all: Vec<Status> = all.collect();
    let found = ORDER.into_iter().find(|status| all.contains(status));
    found.unwrap_or(Status::Passed)
}

/// `report.json`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    pub(crate) ok: bool,
    pub(crate) exit_code: u8,
    /// What was asked for.
    command: Vec<String>,
    /// Why there are no sections, or not all.
    pub(crate) error: Option<String>,
    #[serde(flatten)]
    pub(crate) totals: Counts,
    pub(crate) duration_s: f64,
    pub(crate) sections: Vec<SectionReport>,
}

impl Report {
    /// A report of a run that has not ended: left behind, it says that the run was killed.
    pub(crate) fn unfinished(command: Vec<String>) -> Self {
        Self {
            schema: SCHEMA,
            ok: false,
            exit_code: EXIT_FAILED,
            command,
            error: Some("no end: the run is still going on, or was killed".into()),
            totals: Counts::default(),
            duration_s: 0.0,
            sections: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, section: SectionReport) {
        self.totals.add(section.counts);
        self.duration_s += section.duration_s;
        self.sections.push(section);
    }

    /// The verdict.
    pub(crate) fn finish(&mut self) {
        self.error = None;
        let status = worst(self.sections.iter().map(|section| section.status));
        self.exit_code = status.exit_code();
        if self.exit_code == EXIT_OK && self.totals.passed == 0 {
            self.exit_code = EXIT_MISSING;
            self.error = Some("nothing was checked: nothing of it can run here".into());
        }
        self.ok = self.exit_code == EXIT_OK;
    }

    /// An end before the first section, or between two.
    pub(crate) fn stopped(&mut self, exit_code: u8, why: String) {
        self.exit_code = exit_code;
        self.ok = false;
        self.error = Some(why);
        if !matches!(exit_code, EXIT_USAGE) {
            self.totals.add(Counts::FAILED);
        }
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        write_atomically(path, (self.json()? + "\n").as_bytes())
    }

    pub(crate) fn json(&self) -> anyhow::Result<String> {
        serde_json::to_string_pretty(self).context("the report has no JSON form")
    }

    /// The line that closes a run.
    pub(crate) fn totals(&self) -> String {
        let Counts {
            passed,
            failed,
            skipped,
        } = self.totals;
        format!("{passed} passed, {failed} failed, {skipped} skipped")
    }

    /// The report as text, without the line of totals.
    pub(crate) fn human(&self) -> String {
        let mut out = String::new();
        self.write_human(&mut out).unwrap_or_default();
        out
    }

    fn write_human(&self, out: &mut String) -> std::fmt::Result {
        if !self.sections.is_empty() {
            writeln!(
                out,
                "section     status       passed failed skipped    time"
            )?;
        }
        for section in &self.sections {
            let Counts {
                passed,
                failed,
                skipped,
            } = section.counts;
            writeln!(
                out,
                "{:<11} {:<11} {passed:>7} {failed:>6} {skipped:>7} {:>6.1}s",
                section.name,
                section.status.shown(),
                section.duration_s
            )?;
        }
        let of_all = |wanted: fn(&CheckReport) -> bool| {
            self.sections.iter().flat_map(move |section| {
                let checks = section.checks.iter().filter(move |check| wanted(check));
                checks.map(move |check| (section, check))
            })
        };
        for (section, check) in of_all(|check| !check.notes.is_empty()) {
            writeln!(out, "{}: {}", section.name, check.name)?;
            for note in &check.notes {
                writeln!(out, "  {note}")?;
            }
        }
        for (section, check) in of_all(|check| check.skip.is_some()) {
            let shown = check.status.shown();
            writeln!(out, "{shown}: {}, {}", section.name, check.name)?;
            if let Some(skip) = &check.skip {
                writeln!(out, "  why: {}\n  fix: {}", skip.reason, skip.fix)?;
            }
        }
        for (section, check) in of_all(|check| !check.failures.is_empty()) {
            let shown = check.status.shown();
            writeln!(out, "{shown}: {}, {}", section.name, check.name)?;
            for failure in &check.failures {
                writeln!(out, "  {failure}")?;
            }
            for command in &check.commands {
                writeln!(out, "  ran: {command}")?;
            }
            writeln!(out, "  log: {}", section.log.display())?;
        }
        if let Some(error) = &self.error {
            writeln!(out, "{error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, status: Status, counts: Counts) -> CheckReport {
        let skipped = matches!(status, Status::Skipped | Status::Missing);
        CheckReport {
            name: name.into(),
            status,
            counts,
            duration_s: 1.0,
            commands: vec!["true".into()],
            failures: Vec::from_iter((!skipped && counts.failed > 0).then(|| "why".to_owned())),
            notes: Vec::new(),
            skip: skipped.then(|| Skip {
                reason: "no tool".into(),
                fix: "install it".into(),
            }),
        }
    }

    fn of(checks: &[(Status, Counts)]) -> Report {
        let checks = checks.iter().map(|(s, c)| check("c", *s, *c)).collect();
        let mut report = Report::unfinished(vec!["test".into()]);
        report.push(SectionReport::of("s", "s.log".into(), checks));
        report.finish();
        report
    }

    #[test]
    fn every_end_has_its_exit_code() {
        let passed = (Status::Passed, Counts::PASSED);
        let ends = [
            (Status::Passed, Counts::PASSED, EXIT_OK),
            (Status::Skipped, Counts::SKIPPED, EXIT_OK),
            (Status::Missing, Counts::FAILED, EXIT_MISSING),
            (Status::TimeLimit, Counts::FAILED, EXIT_TIME),
            (Status::Failed, Counts::FAILED, EXIT_FAILED),
            (Status::Interrupted, Counts::FAILED, EXIT_INTERRUPTED),
        ];
        for (status, counts, code) in ends {
            let report = of(&[passed, (status, counts)]);
            assert_eq!((report.exit_code, report.ok), (code, code == EXIT_OK));
        }
        let both = [
            (Status::Missing, Counts::FAILED),
            (Status::Failed, Counts::FAILED),
        ];
        assert_eq!(of(&both).exit_code, EXIT_FAILED, "a failure decides");
    }

    #[test]
    fn a_run_that_checked_nothing_has_not_passed() {
        let report = of(&[(Status::Skipped, Counts::SKIPPED)]);
        assert_eq!(report.exit_code, EXIT_MISSING);
        assert!(!report.ok);
    }

    #[test]
    fn a_section_is_skipped_only_as_a_whole() {
        let part = of(&[
            (Status::Passed, Counts::PASSED),
            (Status::Skipped, Counts::SKIPPED),
        ]);
        assert_eq!(part.sections[0].status, Status::Passed);
        assert_eq!(part.totals(), "1 passed, 0 failed, 1 skipped");
        assert!(part.human().contains("no tool"), "the skip is listed");
        assert!(part.human().contains("install it"), "with what to do");
    }

    #[test]
    fn the_names_that_scripts_rely_on() {
        let json = of(&[(Status::Missing, Counts::FAILED)]).json().unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        for pointer in [
            "/schema",
            "/ok",
            "/exit_code",
            "/command",
            "/passed",
            "/failed",
            "/skipped",
            "/duration_s",
            "/sections/0/name",
            "/sections/0/status",
            "/sections/0/passed",
            "/sections/0/failed",
            "/sections/0/skipped",
            "/sections/0/duration_s",
            "/sections/0/reason",
            "/sections/0/log",
            "/sections/0/checks/0/name",
            "/sections/0/checks/0/status",
            "/sections/0/checks/0/commands",
            "/sections/0/checks/0/reason",
            "/sections/0/checks/0/fix",
        ] {
            assert!(json.pointer(pointer).is_some(), "{pointer} is gone: {json}");
        }
        assert_eq!(json["sections"][0]["status"], "missing");
    }
}
