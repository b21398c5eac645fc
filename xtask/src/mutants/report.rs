//! `target/mutants/report.json`. Field names are a contract with scripts.

use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

use super::list::{Mutant, Program};
use super::verdict::Verdict;
use crate::qemu::report::write_atomically;
use crate::qemu::stop::{EXIT_FAILED, EXIT_OK, EXIT_TIME};

/// Version of the report's form.
const SCHEMA: &str = "vring-mutants-report/1";

/// What came of a mutant.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) breaks: String,
    pub(crate) statements: Vec<String>,
    pub(crate) file: String,
    pub(crate) run: Program,
    /// The tests that must fail.
    pub(crate) fails: Vec<String>,
    #[serde(flatten)]
    pub(crate) verdict: Verdict,
    pub(crate) duration_s: f64,
}

impl Row {
    pub(crate) fn new(mutant: Mutant, verdict: Verdict, duration_s: f64) -> Self {
        Self {
            name: mutant.name,
            breaks: mutant.breaks,
            statements: mutant.statements,
            file: mutant.file,
            run: mutant.run,
            fails: mutant.fails,
            verdict,
            duration_s,
        }
    }

    pub(crate) fn caught(&self) -> bool {
        self.verdict == Verdict::Caught
    }

    /// One line for a person.
    pub(crate) fn line(&self) -> String {
        format!(
            "{:<8} {}: {} ({:.1} s)",
            self.verdict.shown(),
            self.name,
            self.verdict.why(&self.fails),
            self.duration_s
        )
    }
}

/// The whole run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    pub(crate) ok: bool,
    pub(crate) exit_code: u8,
    command: Vec<String>,
    /// Why there are no mutants, or not all.
    pub(crate) error: Option<String>,
    pub(crate) caught: usize,
    pub(crate) not_caught: usize,
    pub(crate) duration_s: f64,
    pub(crate) mutants: Vec<Row>,
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
            caught: 0,
            not_caught: 0,
            duration_s: 0.0,
            mutants: Vec::new(),
        }
    }

    pub(crate) fn push(&mut self, row: Row) {
        if row.caught() {
            self.caught += 1;
        } else {
            self.not_caught += 1;
        }
        self.duration_s += row.duration_s;
        self.mutants.push(row);
    }

    /// The verdict.
    pub(crate) fn finish(&mut self) {
        let mut not_caught = self.mutants.iter().filter(|row| !row.caught()).peekable();
        self.exit_code = if not_caught.peek().is_none() {
            EXIT_OK
        } else if not_caught.all(|row| row.verdict == Verdict::TimeLimit) {
            EXIT_TIME
        } else {
            EXIT_FAILED
        };
        self.error = None;
        self.ok = self.exit_code == EXIT_OK;
    }

    pub(crate) fn stopped(&mut self, exit_code: u8, why: String) {
        self.exit_code = exit_code;
        self.ok = false;
        self.error = Some(why);
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        write_atomically(path, (self.json()? + "\n").as_bytes())
    }

    pub(crate) fn json(&self) -> anyhow::Result<String> {
        serde_json::to_string_pretty(self).context("the report has no JSON form")
    }

    /// The line that closes a run.
    pub(crate) fn totals(&self) -> String {
        format!("{} caught, {} not", self.caught, self.not_caught)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(verdicts: &[Verdict]) -> Report {
        let mut report = Report::unfinished(vec!["mutants".into()]);
        for verdict in verdicts {
            report.push(Row {
                name: "m".into(),
                breaks: "b".into(),
                statements: Vec::new(),
                file: "f".into(),
                run: Program::Lib,
                fails: vec!["t".into()],
                verdict: verdict.clone(),
                duration_s: 1.0,
            });
        }
        report.finish();
        report
    }

    #[test]
    fn every_end_has_its_exit_code() {
        let survived = Verdict::Survived(vec!["t".into()]);
        assert_eq!(of(&[Verdict::Caught]).exit_code, EXIT_OK);
        assert_eq!(
            of(&[Verdict::Caught, survived.clone()]).exit_code,
            EXIT_FAILED
        );
        assert_eq!(of(&[Verdict::TimeLimit]).exit_code, EXIT_TIME);
        assert_eq!(of(&[Verdict::TimeLimit, survived]).exit_code, EXIT_FAILED);
    }

    #[test]
    fn the_names_that_scripts_rely_on() {
        let json = of(&[Verdict::Survived(vec!["t".into()])]).json().unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["mutants"][0]["verdict"], "survived", "{json}");
        assert_eq!(json["mutants"][0]["why"][0], "t");
        for pointer in [
            "/schema",
            "/ok",
            "/exit_code",
            "/command",
            "/error",
            "/caught",
            "/not_caught",
            "/mutants/0/name",
            "/mutants/0/run",
            "/mutants/0/fails",
            "/mutants/0/statements",
        ] {
            assert!(json.pointer(pointer).is_some(), "{pointer} is gone: {json}");
        }
    }
}
