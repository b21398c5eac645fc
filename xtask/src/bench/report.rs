//! `report.json`: what was measured, judged by what must be reached.
//!
//! Field names are a contract with scripts; [`SCHEMA`] changes when one of them changes meaning.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

use super::cli::Group;
use super::goals;
use super::machine::Machine;
use super::table::Case;
use crate::qemu::report::write_atomically;
use crate::qemu::stop::{EXIT_FAILED, EXIT_INTERRUPTED, EXIT_MISSING, EXIT_OK, EXIT_TIME};
use crate::test::report::Status;
use crate::test::section::Skip;

/// Version of the report's form.
const SCHEMA: &str = "vring-bench-report/1";

/// What came of a group.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct GroupReport {
    pub(crate) name: Group,
    pub(crate) status: Status,
    pub(crate) duration_s: f64,
    /// Why it is not `passed`.
    pub(crate) failures: Vec<String>,
    /// Why it, or a part of it, was skipped.
    pub(crate) skips: Vec<Skip>,
    /// What a reader has to know.
    pub(crate) notes: Vec<String>,
    pub(crate) cases: Vec<Case>,
    /// A file beside the report.
    pub(crate) plot: Option<String>,
    pub(crate) log: PathBuf,
}

/// What is asked of a group.
pub(crate) struct Demand<'a> {
    pub(crate) required: bool,
    /// It shows that everything works, and a machine that is busy is no reason to fail.
    pub(crate) quick: bool,
    /// Whether a contender of a case need not take part.
    pub(crate) excused: &'a dyn Fn(&str, &str) -> bool,
}

impl GroupReport {
    /// Figures that are there.
    pub(crate) fn figures(&self) -> usize {
        let contenders = self.cases.iter().flat_map(|case| &case.contenders);
        contenders
            .filter(|contender| contender.median.is_some())
            .count()
    }

    /// What the run makes of how it went: nothing measured is skipped, or missing where it is
    /// required, and so is a part that is, but for who is excused.
    pub(crate) fn settle(&mut self, demand: &Demand<'_>) {
        if self.status != Status::Passed {
            return;
        }
        let skipped = |case: &Case| {
            let out = case.contenders.iter().filter(|one| one.skipped.is_some());
            out.filter(|one| !(demand.excused)(&case.name, &one.name))
                .count()
        };
        let lacks = !self.skips.is_empty() || self.cases.iter().map(skipped).sum::<usize>() > 0;
        let thrown_away = self.rejected();
        let noise = self.figures() == 0 && thrown_away > 0;
        // One that was measured, and has no figure, is missing as one that was skipped is.
        let silenced: Vec<String> = self
            .cases
            .iter()
            .flat_map(|case| case.contenders.iter().map(move |one| (case, one)))
            .filter(|(_, one)| one.median.is_none() && one.skipped.is_none())
            .map(|(case, one)| format!("{}, {}", case.name, one.name))
            .collect();
        if !noise && demand.required && !demand.quick && !silenced.is_empty() {
            self.skips.push(Skip {
                reason: format!("all samples were thrown away of: {}", silenced.join("; ")),
                fix: "run it on a machine that does nothing else".into(),
            });
        }
        let lacks = lacks || !self.skips.is_empty();
        if noise {
            self.skips.push(Skip {
                reason: format!(
                    "the machine was not at rest: all {thrown_away} samples were thrown away"
                ),
                fix: "run it on a machine that does nothing else".into(),
            });
        }
        if self.figures() == 0 && !noise && !lacks {
            self.status = Status::Failed;
            let why = "no figure at all, and nobody says why";
            self.failures.push(why.into());
        } else if demand.required && (lacks || noise && !demand.quick) {
            self.status = Status::Missing;
        } else if self.figures() == 0 {
            self.status = Status::Skipped;
        }
    }

    /// Samples that were thrown away.
    fn rejected(&self) -> u64 {
        let contenders = self.cases.iter().flat_map(|case| &case.contenders);
        contenders
            .flat_map(|contender| contender.rejected.values())
            .sum()
    }
}

/// The instruction budget, as `cargo xtask test` judges it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct BudgetReport {
    pub(crate) status: Status,
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) failures: Vec<String>,
    /// The figures, a line each.
    pub(crate) notes: Vec<String>,
    #[serde(flatten)]
    pub(crate) skip: Option<Skip>,
}

/// `report.json`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    schema: &'static str,
    pub(crate) ok: bool,
    pub(crate) exit_code: u8,
    command: Vec<String>,
    /// Why there are no groups, or not all.
    pub(crate) error: Option<String>,
    /// A short run: not to be quoted.
    pub(crate) quick: bool,
    pub(crate) date: String,
    pub(crate) machine: Machine,
    pub(crate) duration_s: f64,
    pub(crate) groups: Vec<GroupReport>,
    pub(crate) goals: Vec<goals::Outcome>,
    pub(crate) budget: Option<BudgetReport>,
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
            quick: false,
            date: String::new(),
            machine: Machine::default(),
            duration_s: 0.0,
            groups: Vec::new(),
            goals: Vec::new(),
            budget: None,
        }
    }

    fn statuses(&self) -> Vec<Status> {
        let groups = self.groups.iter().map(|group| group.status);
        groups
            .chain(self.budget.iter().map(|budget| budget.status))
            .collect()
    }

    /// The verdict.
    pub(crate) fn finish(&mut self) {
        self.error = None;
        let all = self.statuses();
        let has = |status| all.contains(&status);
        // A failure hides a missing tool, an interruption hides all.
        self.exit_code = if has(Status::Interrupted) {
            EXIT_INTERRUPTED
        } else if has(Status::Failed) {
            EXIT_FAILED
        } else if has(Status::TimeLimit) {
            EXIT_TIME
        } else if has(Status::Missing) {
            EXIT_MISSING
        } else {
            EXIT_OK
        };
        if self.exit_code == EXIT_OK && !has(Status::Passed) {
            self.exit_code = EXIT_MISSING;
            self.error = Some("nothing was measured: nothing of it can run here".into());
        }
        self.ok = self.exit_code == EXIT_OK;
    }

    /// An end before the first group, or between two.
    pub(crate) fn stopped(&mut self, exit_code: u8, why: String) {
        self.exit_code = exit_code;
        self.ok = false;
        self.error = Some(why);
    }

    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(self).context("the report has no JSON form")?;
        write_atomically(path, (json + "\n").as_bytes())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::bench::sample::{Class, Key, Unit, What};
    use crate::bench::table::Table;

    /// A group with a comparison, a figure of few samples, and a contender that did not run.
    pub(crate) fn group() -> GroupReport {
        let mut table = Table::default();
        let mut add = |contender: &str, what: What| {
            let key = Key {
                group: Group::TwoCores,
                case: "1 descriptor, 256 in flight".into(),
                contender: contender.into(),
            };
            table.add(key, what).unwrap();
        };
        for value in [14.0, 14.1, 14.2, 14.3, 30.0, 31.0] {
            let (class, unit) = (Class::Near, Unit::NsPerChain);
            add("vring split burst", What::Sample { class, value, unit });
            let value = value * 5.0;
            add("virtio-drivers 0.13", What::Sample { class, value, unit });
        }
        let (class, value, unit) = (Class::Far, 50.0, Unit::NsPerChain);
        add("vring split burst", What::Sample { class, value, unit });
        add("vring split burst", What::Rejected("not alone".into()));
        add("Linux ring.c", What::Skipped("no source".into()));
        GroupReport {
            name: Group::TwoCores,
            status: Status::Passed,
            duration_s: 1.5,
            failures: Vec::new(),
            skips: Vec::new(),
            notes: vec!["a note".into()],
            cases: table.cases(Group::TwoCores),
            plot: Some("two-cores.svg".into()),
            log: "two-cores.log".into(),
        }
    }

    pub(crate) fn report() -> Report {
        let mut report = Report::unfinished(vec!["bench".into()]);
        report.date = "2026-01-02T03:04:05Z".into();
        report.groups.push(group());
        report.budget = Some(BudgetReport {
            status: Status::Passed,
            passed: 1,
            failed: 0,
            failures: Vec::new(),
            notes: vec!["  70.0 instructions  round_burst_32, flags".into()],
            skip: None,
        });
        report.goals.push(goals::Outcome {
            what: "a goal".into(),
            must: Some("≤ 20".into()),
            aim: None,
            measured: Some(14.3),
            by: Some("vring split burst, near".into()),
            reached: goals::Reached::Must,
            noisy: false,
            note: None,
        });
        report.finish();
        report
    }

    /// The keys of a value, objects and the first element of each list.
    fn keys(value: &serde_json::Value, at: &str, all: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(map) => {
                for (key, value) in map {
                    keys(value, &format!("{at}/{key}"), all);
                }
            }
            serde_json::Value::Array(list) if !list.is_empty() => {
                keys(&list[0], &format!("{at}/0"), all)
            }
            _ => all.push(at.to_owned()),
        }
    }

    #[test]
    fn the_names_that_scripts_rely_on() {
        let json = serde_json::to_value(report()).unwrap();
        let mut all = Vec::new();
        keys(&json, "", &mut all);
        let expected = [
            "/budget/failed",
            "/budget/failures",
            "/budget/notes/0",
            "/budget/passed",
            "/budget/status",
            "/command/0",
            "/date",
            "/duration_s",
            "/error",
            "/exit_code",
            "/goals/0/aim",
            "/goals/0/by",
            "/goals/0/measured",
            "/goals/0/must",
            "/goals/0/noisy",
            "/goals/0/note",
            "/goals/0/reached",
            "/goals/0/what",
            "/groups/0/cases/0/contenders/0/class",
            "/groups/0/cases/0/contenders/0/median",
            "/groups/0/cases/0/contenders/0/name",
            "/groups/0/cases/0/contenders/0/noisy",
            "/groups/0/cases/0/contenders/0/ratio_vs/contender",
            "/groups/0/cases/0/contenders/0/ratio_vs/noisy",
            "/groups/0/cases/0/contenders/0/ratio_vs/ratio",
            "/groups/0/cases/0/contenders/0/ratio_vs/without",
            "/groups/0/cases/0/contenders/0/rejected/not alone",
            "/groups/0/cases/0/contenders/0/samples",
            "/groups/0/cases/0/contenders/0/skipped",
            "/groups/0/cases/0/contenders/0/spread/p25",
            "/groups/0/cases/0/contenders/0/spread/p75",
            "/groups/0/cases/0/contenders/0/unit",
            "/groups/0/cases/0/name",
            "/groups/0/cases/0/unit",
            "/groups/0/duration_s",
            "/groups/0/failures",
            "/groups/0/log",
            "/groups/0/name",
            "/groups/0/notes/0",
            "/groups/0/plot",
            "/groups/0/skips",
            "/groups/0/status",
            "/machine/cpu",
            "/machine/cpus",
            "/machine/kernel",
            "/machine/load",
            "/machine/rustc",
            "/machine/virtual_machine",
            "/ok",
            "/quick",
            "/schema",
        ];
        all.sort_unstable();
        assert_eq!(all, expected);
        assert_eq!(
            json["groups"][0]["cases"][0]["contenders"][0]["ratio_vs"]["ratio"],
            5.0
        );
    }

    #[test]
    fn every_end_has_its_exit_code() {
        for (status, code) in [
            (Status::Passed, EXIT_OK),
            (Status::Skipped, EXIT_OK),
            (Status::Missing, EXIT_MISSING),
            (Status::TimeLimit, EXIT_TIME),
            (Status::Failed, EXIT_FAILED),
            (Status::Interrupted, EXIT_INTERRUPTED),
        ] {
            let mut report = report();
            report.groups.push(GroupReport { status, ..group() });
            report.finish();
            assert_eq!((report.exit_code, report.ok), (code, code == EXIT_OK));
        }
        let mut nothing = Report::unfinished(Vec::new());
        nothing.finish();
        assert_eq!(nothing.exit_code, EXIT_MISSING);
    }

    #[test]
    fn what_lacks_something_is_missing_only_where_it_is_required() {
        let demand = |required, quick| Demand {
            required,
            quick,
            excused: &|_, contender| contender == "never",
        };
        let settled = |mut group: GroupReport, required| {
            group.settle(&demand(required, false));
            group.status
        };
        assert_eq!(settled(group(), false), Status::Passed);
        assert_eq!(
            settled(group(), true),
            Status::Missing,
            "a contender did not run"
        );
        let mut never = group();
        never.cases[0].contenders.retain(|c| c.skipped.is_none());
        never.cases[0].contenders[0].name = "never".into();
        never.cases[0].contenders[0].skipped = Some("it has none".into());
        assert_eq!(settled(never, true), Status::Passed, "nothing is missing");
        let mut whole = group();
        whole.cases[0].contenders.retain(|c| c.skipped.is_none());
        assert_eq!(settled(whole.clone(), true), Status::Passed);
        let contenders = whole.cases[0].contenders.iter_mut();
        contenders.for_each(|one| one.median = None);
        assert_eq!(settled(whole.clone(), true), Status::Missing, "all noise");
        let mut busy = whole.clone();
        busy.settle(&demand(true, true));
        assert_eq!(busy.status, Status::Skipped, "noise, of a short run");
        assert!(busy.skips[0].reason.contains("all 1 samples"), "{busy:?}");
        whole.cases.clear();
        assert_eq!(
            settled(whole.clone(), false),
            Status::Failed,
            "nothing, without a reason"
        );
        whole.skips.push(Skip {
            reason: "no valgrind".into(),
            fix: "install it".into(),
        });
        assert_eq!(settled(whole.clone(), false), Status::Skipped);
        assert_eq!(settled(whole, true), Status::Missing);
    }
}
