//! The `bench` section: a short run of `cargo xtask bench`, by the command that people use.
//!
//! No time is judged: a machine that runs tests is not at rest. What is looked at is that every group
//! has figures, or says why it has none, and that the reports can be read. The programs' own tests
//! and lints come after it, as it makes what they are built with.

use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

use super::needs::Need;
use super::run::{Cmd, Run};
use super::section::{Check, Outcome};
use super::tally::Tally;
use crate::bench::{self, PAGE, REPORT};
use crate::qemu::provision::rust::TARGET as BARE_METAL;
use crate::qemu::stop::Stop;

/// Workspaces of their own.
pub(crate) const PROGRAMS: &str = "benches/Cargo.toml";
/// See [`PROGRAMS`].
pub(crate) const FOR_SIZE: &str = "benches/size/Cargo.toml";

/// Those of the programs that have tests.
const TESTS: [&str; 6] = [
    "test",
    "--release",
    "--workspace",
    "--lib",
    "--bin=threads",
    "--bin=bench-native",
];

pub(crate) fn checks() -> Vec<Check> {
    let check = Check::new("xtask bench --quick", work);
    vec![
        bench::needs().into_iter().fold(check, Check::needs),
        // Optimized, as the run before has built what they depend on.
        of_programs("tests of the programs", &TESTS, &[], Tally::Tests),
        of_programs(
            "lints of the programs",
            &["clippy", "--release", "--all-targets"],
            &["--", "-Dwarnings"],
            Tally::Command,
        )
        .needs(Need::CLIPPY),
        Check::new("lints of the programs for size", |run| {
            let clippy = Cmd::cargo(["clippy", "--release", "--locked", "--target", BARE_METAL])
                .args(["--manifest-path", FOR_SIZE, "--target-dir"])
                .args([run.context.target.join(bench::OUT).join("size")])
                .args(["--", "-Dwarnings"]);
            Ok(Tally::Command.outcome(&run.command(&clippy)?))
        })
        .needs(Need::CLIPPY)
        .needs(Need::Target(BARE_METAL)),
    ]
}

fn of_programs(
    name: &str,
    words: &'static [&'static str],
    last: &'static [&'static str],
    tally: Tally,
) -> Check {
    Check::new(name, move |run| {
        let cmd = Cmd::cargo(words)
            .args(["--locked", "--manifest-path", PROGRAMS, "--target-dir"])
            .args([run.context.target.join(bench::OUT).join("build")])
            .args(last);
        Ok(tally.outcome(&run.command(&cmd)?))
    })
}

fn work(run: &mut Run<'_>) -> Result<Outcome, Stop> {
    let myself = std::env::current_exe().context("cannot find this program")?;
    let cmd = Cmd::new(myself, ["bench", "--quick", "--require", "all", "--yes"]);
    let printed = run.command(&cmd)?;
    let out = run.context.target.join(bench::OUT);
    let report = read(&out.join(REPORT))?;
    let report: Value = serde_json::from_str(&report).context("report.json is no JSON")?;
    let mut outcome = judge(&report, &read(&out.join(PAGE))?);
    for group in list(&report, "/groups") {
        if let Some(plot) = group["plot"].as_str() {
            let svg = read(&out.join(plot))?;
            outcome.judge(svg.trim_end().ends_with("</svg>"), || {
                format!("{plot} is not whole")
            });
        }
    }
    outcome.judge(printed.ok(), || {
        format!("the run ended with {}", printed.ending())
    });
    Ok(outcome)
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    let list = value.pointer(pointer).and_then(Value::as_array);
    list.map(Vec::as_slice).unwrap_or_default()
}

/// What the reports of a good run say.
fn judge(report: &Value, page: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let groups = list(report, "/groups");
    for name in bench::group_names() {
        let group = groups.iter().find(|group| group["name"] == name);
        outcome.judge(group.is_some_and(has_figures_or_a_reason), || {
            let failure = group.map_or(&Value::Null, |group| &group["failures"][0]);
            format!("{name}: no figures, and no reason: {failure}")
        });
        let head = format!("## {name}");
        let named = page.lines().any(|line| line == head);
        outcome.judge(named, || format!("{name} is not in {PAGE}"));
    }
    outcome.judge(!list(report, "/goals").is_empty(), || "no goals".into());
    let figures: usize = groups.iter().map(figures).sum();
    let seconds = report["duration_s"].as_f64().unwrap_or_default();
    let note = format!(
        "{figures} figures of {} groups, {seconds:.0} s",
        groups.len()
    );
    outcome.notes.push(note);
    outcome
}

/// Contenders of a group that have a median, a spread and samples.
fn figures(group: &Value) -> usize {
    let contenders = list(group, "/cases")
        .iter()
        .flat_map(|case| list(case, "/contenders"));
    let whole = |one: &&Value| {
        one["median"].is_number() && one["spread"]["p25"].is_number() && one["samples"] != 0
    };
    contenders.filter(whole).count()
}

fn has_figures_or_a_reason(group: &Value) -> bool {
    let reasons = list(group, "/skips").iter().all(|skip| {
        let says = |field: &str| skip[field].as_str().is_some_and(|text| !text.is_empty());
        says("reason")
    });
    match group["status"].as_str() {
        Some("passed") => figures(group) > 0,
        Some("skipped" | "missing") => reasons && !list(group, "/skips").is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn good() -> (Value, String) {
        let contender = json!({
            "name": "vring", "median": 1.0, "spread": {"p25": 1.0, "p75": 1.0}, "samples": 1,
        });
        let group = |name: &str| {
            json!({
                "name": name, "status": "passed", "failures": [], "skips": [],
                "cases": [{"name": "c", "contenders": [contender.clone()]}],
            })
        };
        let groups: Vec<Value> = bench::group_names().map(group).collect();
        let page = bench::group_names()
            .map(|name| format!("## {name}\n"))
            .collect();
        (
            json!({"groups": groups, "goals": [{}], "duration_s": 1.0}),
            page,
        )
    }

    #[test]
    fn a_good_report_passes_and_a_group_may_be_skipped_with_a_reason() {
        let (mut report, page) = good();
        assert_eq!(judge(&report, &page).failures, Vec::<String>::new());
        report["groups"][0] = json!({
            "name": "instructions", "status": "skipped", "cases": [],
            "skips": [{"reason": "no valgrind", "fix": "install it"}],
        });
        assert_eq!(judge(&report, &page).counts.failed, 0);
    }

    #[test]
    fn everything_that_must_be_shown_is_looked_at() {
        let lies = [
            ("/groups/0/status", json!("failed")),
            ("/groups/1/cases", json!([])),
            ("/groups/2/cases/0/contenders/0/median", json!(null)),
            ("/groups/3/cases/0/contenders/0/samples", json!(0)),
            ("/groups/4/cases/0/contenders/0/spread", json!(null)),
            ("/groups/5/status", json!("skipped")),
            ("/groups/6", json!(null)),
            ("/goals", json!([])),
        ];
        for (pointer, lie) in lies {
            let (mut report, page) = good();
            *report.pointer_mut(pointer).unwrap() = lie;
            assert!(judge(&report, &page).counts.failed > 0, "{pointer}");
        }
        let (report, _) = good();
        assert!(judge(&report, "").counts.failed > 0, "an empty page");
    }
}
