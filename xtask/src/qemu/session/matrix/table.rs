//! The table: a line for a person, an entry of `matrix.json` for a script.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::plan::{BackEnd, Cell};
use crate::qemu::cli::Format;
use crate::qemu::report::{
    Awaited, Counters, Failure, Features, Findings, InterruptCounts, NotOffered, Pieces, Queue,
    Registers, Report, Waiting, write_atomically,
};
use crate::qemu::stop::Stop;
use crate::qemu::ui::Ui;

/// Version of the table's form.
const SCHEMA: &str = "vring-qemu-matrix/1";

/// How a cell ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Outcome {
    Ok,
    Failed,
    /// Something is missing on this machine.
    Skipped,
    /// The back end does not have it.
    NotOffered,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
            Self::NotOffered => "not offered",
        }
    }
}

/// A cell and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) name: String,
    /// `qemu`, `vhost` or `fake`.
    pub(super) back_end: String,
    pub(super) arch: String,
    pub(super) machine: String,
    pub(super) transport: String,
    /// `msix`, `intx` or `poll`.
    pub(super) interrupts: String,
    pub(super) suite: String,
    /// What was on and off, as a person reads it.
    pub(super) what: String,
    pub(super) result: Outcome,
    pub(super) seconds: f64,
    /// Of each phase.
    pub(super) duration_s: BTreeMap<String, f64>,
    /// Why it was skipped or is not offered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// What to do about a skip.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix: Option<String>,
    pub(super) failures: Vec<Failure>,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub(super) timed_out: bool,
    /// QEMU's command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) command: Option<String>,
    pub(super) ring: Option<String>,
    pub(super) features: Option<Features>,
    pub(super) queues: Vec<Queue>,
    pub(super) vhost_started: Option<bool>,
    pub(super) vhost_worker: Option<String>,
    pub(super) counters: Option<Counters>,
    pub(super) pieces: Option<Pieces>,
    /// See [`Findings`], as the three after it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) registers: Option<Registers>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(super) awaited: Vec<Awaited>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(super) interrupt_counts: Vec<InterruptCounts>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(super) waiting: Vec<Waiting>,
    /// Checks that passed in the guest.
    pub(super) guest_tests: usize,
}

/// `matrix.json`.
#[derive(Clone, Debug, Serialize)]
struct File<'a> {
    schema: &'static str,
    ok: bool,
    passed: usize,
    failed: usize,
    skipped: usize,
    not_offered: usize,
    versions: &'a BTreeMap<String, String>,
    seconds: f64,
    cells: &'a [Row],
}

/// The table in the making.
pub(super) struct Table<'a> {
    pub(super) rows: Vec<Row>,
    versions: BTreeMap<String, String>,
    started: std::time::Instant,
    ended: bool,
    format: Format,
    ui: &'a Ui,
    width: usize,
}

impl<'a> Table<'a> {
    /// A table in which nothing has been run. Left behind, it says that it was not finished.
    pub(super) fn new(cells: &[Cell], format: Format, ui: &'a Ui) -> Self {
        let unfinished = || {
            Failure::new(
                "cell",
                "a run of this cell that reaches its end",
                "it was not run",
                "the failures before it and the artifacts say why",
            )
        };
        let rows = cells.iter().map(|cell| Row {
            name: cell.name.clone(),
            back_end: cell.back_end.name().into(),
            arch: cell.attach.arch.name().into(),
            machine: cell.attach.machine.name().into(),
            transport: cell.attach.transport.name().into(),
            interrupts: cell.attach.interrupts.name().into(),
            suite: cell.suite.name().into(),
            what: cell.shown(),
            result: match cell.fact {
                Some(_) => Outcome::NotOffered,
                None => Outcome::Failed,
            },
            seconds: 0.0,
            duration_s: BTreeMap::new(),
            reason: cell.fact.map(Into::into),
            fix: None,
            failures: Vec::from_iter(cell.fact.is_none().then(unfinished)),
            timed_out: false,
            command: None,
            ring: None,
            features: None,
            queues: Vec::new(),
            vhost_started: None,
            vhost_worker: None,
            counters: None,
            pieces: None,
            registers: None,
            awaited: Vec::new(),
            interrupt_counts: Vec::new(),
            waiting: Vec::new(),
            guest_tests: 0,
        });
        Self {
            rows: rows.collect(),
            versions: BTreeMap::new(),
            started: std::time::Instant::now(),
            ended: false,
            format,
            ui,
            width: cells.iter().map(|cell| cell.name.len()).max().unwrap_or(0),
        }
    }

    /// How many cells ended so.
    pub(super) fn count(&self, outcome: Outcome) -> usize {
        self.rows.iter().filter(|row| row.result == outcome).count()
    }

    fn say(&self, row: &Row) {
        let what = row.reason.as_deref().unwrap_or(&row.what);
        let line = format!(
            "{:<width$}  {:<11} {:>5.1} s  {what}",
            row.name,
            row.result.name(),
            row.seconds,
            width = self.width
        );
        self.print(line.trim_end());
        for failure in &row.failures {
            let Failure {
                check,
                expected,
                seen,
                ..
            } = failure;
            self.print(&format!("  {check}: expected {expected}; seen {seen}"));
        }
    }

    fn print(&self, line: &str) {
        match self.format {
            Format::Human => self.ui.line(line),
            // Standard output is for the one object.
            Format::Json => self.ui.note(line),
        }
    }

    /// A cell is over.
    pub(super) fn close(&mut self, name: &str, took: Duration, findings: Findings) {
        let Some(row) = self.rows.iter_mut().find(|row| row.name == name) else {
            return;
        };
        row.seconds = took.as_secs_f64();
        row.duration_s = findings.duration_s;
        row.failures = findings.failures;
        row.timed_out = findings.timed_out;
        if !findings.judged && row.failures.is_empty() {
            row.failures.push(Failure::new(
                "cell",
                "a verdict",
                "none",
                "a bug of the harness, or its machine broke off",
            ));
        }
        row.result = if !row.failures.is_empty() {
            Outcome::Failed
        } else if findings.not_offered.is_some() {
            Outcome::NotOffered
        } else {
            Outcome::Ok
        };
        if let Some(NotOffered { by, features }) = findings.not_offered {
            row.reason = Some(format!("{by} does not offer {}", features.join(", ")));
        }
        row.command = findings.versions.get(super::COMMAND).cloned();
        row.ring = findings.ring;
        row.features = findings.features;
        row.queues = findings.queues;
        row.vhost_started = Some(findings.vhost.started);
        row.vhost_worker = findings.vhost.worker;
        row.counters = findings.counters;
        row.pieces = findings.pieces;
        row.registers = findings.registers;
        row.awaited = findings.awaited;
        row.interrupt_counts = findings.interrupts;
        row.waiting = findings.waiting;
        row.guest_tests = findings.tests.passed.len();
        let row = row.clone();
        self.say(&row);
    }

    /// A cell cannot be run for want of something.
    pub(super) fn skip(&mut self, name: &str, stop: &Stop) {
        let Some(row) = self.rows.iter_mut().find(|row| row.name == name) else {
            return;
        };
        row.result = Outcome::Skipped;
        row.failures.clear();
        match stop {
            Stop::Missing { what, why, fix } => {
                row.reason = Some(format!("{what} is missing: {why}"));
                row.fix = Some(fix.clone());
            }
            stop => row.reason = Some(stop.to_string()),
        }
        let row = row.clone();
        self.say(&row);
    }

    /// No cell of a back end can be run.
    pub(super) fn skip_all(&mut self, back_end: BackEnd, stop: &Stop) {
        let waiting = |row: &&Row| row.back_end == back_end.name() && row.result == Outcome::Failed;
        let names: Vec<String> = self
            .rows
            .iter()
            .filter(waiting)
            .map(|row| row.name.clone())
            .collect();
        for name in names {
            self.skip(&name, stop);
        }
    }

    /// The machine of a back end is gone: its cells that did not come to their end say why.
    pub(super) fn break_off(&mut self, back_end: BackEnd, stop: &Stop, report: &mut Report) {
        let time = matches!(stop, Stop::TimeLimit { .. });
        let mut hit = false;
        for row in &mut self.rows {
            let unfinished = row.failures.iter().any(|failure| failure.check == "cell");
            if row.back_end == back_end.name() && unfinished {
                row.timed_out = time;
                hit = true;
                for failure in &mut row.failures {
                    failure.seen = stop.to_string();
                }
            }
        }
        if !hit {
            report
                .findings
                .failures
                .push(super::broken(stop.to_string()));
        }
    }

    /// Nothing more comes: the facts, what was not reached, and the sum.
    pub(super) fn end(&mut self, report: &Report) {
        self.ended = true;
        self.versions = report.findings.versions.clone();
        let unsaid = |row: &&Row| {
            row.result == Outcome::NotOffered && row.vhost_started.is_none()
                || row.failures.iter().any(|failure| failure.check == "cell")
        };
        for row in self.rows.iter().filter(unsaid) {
            self.say(row);
        }
        self.print(&format!(
            "cells      {} ok, {} failed, {} skipped, {} not offered, in {:.0} s",
            self.count(Outcome::Ok),
            self.count(Outcome::Failed),
            self.count(Outcome::Skipped),
            self.count(Outcome::NotOffered),
            self.started.elapsed().as_secs_f64()
        ));
    }

    /// Writes `matrix.json`.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let file = File {
            schema: SCHEMA,
            ok: self.ended && self.count(Outcome::Failed) == 0,
            passed: self.count(Outcome::Ok),
            failed: self.count(Outcome::Failed),
            skipped: self.count(Outcome::Skipped),
            not_offered: self.count(Outcome::NotOffered),
            versions: &self.versions,
            seconds: self.started.elapsed().as_secs_f64(),
            cells: &self.rows,
        };
        let mut json = serde_json::to_vec_pretty(&file)?;
        json.push(b'\n');
        write_atomically(path, &json)
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan;
    use super::*;

    fn table(ui: &Ui) -> Table<'_> {
        Table::new(&plan::cells(), Format::Human, ui)
    }

    #[test]
    fn a_cell_that_was_not_run_has_failed_and_a_fact_has_not() {
        let ui = Ui::new(true);
        let table = table(&ui);
        assert_eq!(table.count(Outcome::Ok), 0);
        assert!(table.count(Outcome::Failed) > 30);
        assert!(table.count(Outcome::NotOffered) >= 6);
        for row in table
            .rows
            .iter()
            .filter(|row| row.result == Outcome::NotOffered)
        {
            assert!(row.reason.is_some(), "{}", row.name);
        }
    }

    #[test]
    fn results_are_told_apart() {
        let ui = Ui::new(true);
        let mut table = table(&ui);
        let names: Vec<String> = table.rows.iter().map(|row| row.name.clone()).collect();
        let judged = Findings {
            judged: true,
            ..Findings::default()
        };
        let took = Duration::from_secs(1);
        table.close(&names[0], took, judged.clone());
        table.close(&names[1], took, Findings::default());
        let not_offered = Some(NotOffered {
            by: "x".into(),
            features: vec!["F".into()],
        });
        let findings = Findings {
            not_offered,
            ..judged
        };
        table.close(&names[2], took, findings);
        table.skip(&names[3], &Stop::missing("a", "b", "c"));
        let results: Vec<Outcome> = table.rows.iter().map(|row| row.result).collect();
        let expected = [
            Outcome::Ok,
            Outcome::Failed,
            Outcome::NotOffered,
            Outcome::Skipped,
        ];
        assert_eq!(results[..4], expected);
        assert_eq!(table.rows[2].reason.as_deref(), Some("x does not offer F"));
        assert_eq!(table.rows[3].fix.as_deref(), Some("c"));

        let skipped = table.count(Outcome::Skipped);
        table.skip_all(BackEnd::Vhost, &Stop::missing("a", "b", "c"));
        assert!(table.count(Outcome::Skipped) > skipped);
        let mut report = Report::unfinished(Vec::new());
        table.break_off(BackEnd::Qemu, &Stop::Interrupted, &mut report);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("matrix.json");
        table.end(&report);
        table.write(&path).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["cells"].as_array().unwrap().len(), names.len());
        assert_eq!(json["cells"][2]["result"], "not_offered");
    }
}
