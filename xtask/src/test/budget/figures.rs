//! The budget file, and judging figures by it.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::Deserialize;

use crate::test::section::Outcome;

/// Figures by function.
type Figures = BTreeMap<String, f64>;

/// Instructions of a round: mode, function, figure.
pub(super) type Measured = (String, String, f64);

/// `tests/budget/budget.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Budget {
    /// What is measured.
    pub(super) functions: Vec<String>,
    /// Words that the program takes, one a run.
    pub(super) modes: Vec<String>,
    tolerance_percent: f64,
    /// Never more than this, by mode and function.
    limit: BTreeMap<String, Figures>,
    /// What choosing the ring at run time may cost, by function.
    choice: BTreeMap<String, Choice>,
    #[serde(default)]
    recorded: Vec<Recorded>,
}

/// What choosing the ring at run time may cost.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Choice {
    /// Calls of a queue in a round.
    calls: f64,
    /// Instructions of a call.
    limit: f64,
}

/// What one compiler made of it, by mode and function.
#[derive(Clone, Debug, Deserialize)]
struct Recorded {
    #[serde(flatten)]
    compiler: Compiler,
    rounds: BTreeMap<String, Figures>,
}

/// Which compiler, for which machine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Compiler {
    rustc: String,
    host: String,
}

impl Compiler {
    /// Reads what `rustc -vV` prints.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = text.lines();
            lines.find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
        };
        Some(Self {
            rustc: field("release:")?,
            host: field("host:")?,
        })
    }
}

impl Budget {
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let budget: Self = toml::from_str(text).context("budget.toml cannot be read")?;
        let known = budget.limit.values().flat_map(BTreeMap::keys);
        for name in known.chain(budget.choice.keys()) {
            let known = budget.functions.contains(name);
            anyhow::ensure!(known, "budget.toml limits {name}, which is not measured");
        }
        for mode in budget.limit.keys() {
            let known = budget.modes.contains(mode);
            anyhow::ensure!(known, "budget.toml limits {mode}, which is not measured");
        }
        Ok(budget)
    }

    /// The modes of each ring.
    pub(super) fn modes_by_ring(&self) -> [(&'static str, Vec<String>); 2] {
        let (packed, split) = self.modes.iter().cloned().partition(|mode| is_packed(mode));
        [("split", split), ("packed", packed)]
    }

    /// Compares figures with what was recorded for the compiler, and with those of a build that has
    /// one ring only.
    pub(super) fn judge(
        &self,
        compiler: &Compiler,
        measured: &[Measured],
        alone: &[Measured],
    ) -> Outcome {
        let recorded = self.recorded.iter().find(|r| r.compiler == *compiler);
        let Some(recorded) = recorded else {
            let judged: Vec<String> = self
                .recorded
                .iter()
                .map(|r| format!("{} on {}", r.compiler.rustc, r.compiler.host))
                .collect();
            let reason = format!(
                "nothing is recorded for rustc {} on {}, only for {}",
                compiler.rustc,
                compiler.host,
                judged.join(", ")
            );
            let fix = "compare the figures, and add them to tests/budget/budget.toml";
            let mut outcome = Outcome::skipped(reason, fix);
            outcome.notes = notes(measured);
            outcome.notes.push("for tests/budget/budget.toml:".into());
            outcome.notes.extend(block(compiler, measured));
            return outcome;
        };
        let mut outcome = Outcome {
            notes: notes(measured),
            ..Outcome::default()
        };
        let factor = 1.0 + self.tolerance_percent / 100.0;
        let mut better = false;
        for (mode, function, figure) in measured {
            let figures = recorded.rounds.get(mode);
            let Some(before) = figures.and_then(|figures| figures.get(function)) else {
                outcome.judge(false, || format!("{function}, {mode}: nothing is recorded"));
                continue;
            };
            better |= *figure < before / factor;
            outcome.judge(*figure <= before * factor, || {
                format!("{function}, {mode}: {figure:.1} instructions, {before:.1} recorded")
            });
            let limit = self.limit.get(mode).and_then(|limit| limit.get(function));
            if let Some(limit) = limit {
                outcome.judge(figure <= limit, || {
                    format!("{function}, {mode}: {figure:.1} instructions, {limit:.1} allowed")
                });
            }
        }
        self.judge_choice(&mut outcome, measured, alone);
        if better {
            outcome
                .notes
                .push("better than recorded; for tests/budget/budget.toml:".into());
            outcome.notes.extend(block(compiler, measured));
        }
        outcome
    }
}

impl Budget {
    /// Compares with a build that has one ring only. Over the modes of a ring: a compiler lays a
    /// single function out a little better in one program than in another.
    fn judge_choice(&self, outcome: &mut Outcome, measured: &[Measured], alone: &[Measured]) {
        for (function, choice) in &self.choice {
            for (ring, packed) in [("split", false), ("packed", true)] {
                let of = |figures: &[Measured]| -> Vec<f64> {
                    let of_ring = |f: &&Measured| f.1 == *function && is_packed(&f.0) == packed;
                    figures.iter().filter(of_ring).map(|f| f.2).collect()
                };
                let (chosen, alone) = (of(measured), of(alone));
                if alone.is_empty() || chosen.len() != alone.len() {
                    continue;
                }
                let more: f64 = chosen.iter().sum::<f64>() - alone.iter().sum::<f64>();
                let cost = more / alone.len() as f64 / choice.calls;
                let limit = choice.limit;
                outcome.notes.push(format!(
                    "{cost:>6.1} instructions a call for choosing the ring  {function}, {ring}"
                ));
                outcome.judge(cost <= limit, || {
                    format!(
                        "{function}, {ring}: choosing the ring costs {cost:.1} a call, \
                         {limit:.1} allowed"
                    )
                });
            }
        }
    }
}

/// Whether a mode is one of the packed ring.
fn is_packed(mode: &str) -> bool {
    mode.split('+').any(|word| word == "packed")
}

/// One line per figure.
fn notes(measured: &[Measured]) -> Vec<String> {
    let line = |(mode, function, figure): &Measured| {
        format!("{figure:>6.1} instructions  {function}, {mode}")
    };
    measured.iter().map(line).collect()
}

/// What the file would have to say.
fn block(compiler: &Compiler, measured: &[Measured]) -> Vec<String> {
    let Compiler { rustc, host } = compiler;
    let mut lines = vec![
        "[[recorded]]".to_owned(),
        format!("rustc = \"{rustc}\""),
        format!("host = \"{host}\""),
    ];
    let mut last = "";
    for (mode, function, figure) in measured {
        if last != mode {
            lines.push(format!("[recorded.rounds.\"{mode}\"]"));
        }
        last = mode;
        lines.push(format!("{function} = {figure:.1}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
functions = ["burst", "single"]
modes = ["flags"]
tolerance_percent = 2.0
[limit.flags]
burst = 100.0
[choice]
single = { calls = 4.0, limit = 2.0 }
[[recorded]]
rustc = "1.2.3"
host = "a-b-c"
[recorded.rounds.flags]
burst = 99.0
single = 160.0
"#;

    fn judge(version: &str, burst: f64, single: f64) -> Outcome {
        let compiler = Compiler::parse(&format!("rustc x\nhost: a-b-c\nrelease: {version}\n"));
        let figure = |name: &str, figure: f64| ("flags".to_owned(), name.to_owned(), figure);
        let measured = [figure("burst", burst), figure("single", single)];
        let budget = Budget::parse(FILE).unwrap();
        budget.judge(&compiler.unwrap(), &measured, &[])
    }

    #[test]
    fn as_recorded_is_good_and_a_little_more_too() {
        let outcome = judge("1.2.3", 99.4, 163.0);
        assert_eq!((outcome.counts.passed, outcome.counts.failed), (3, 0));
    }

    #[test]
    fn more_than_recorded_fails_and_so_does_more_than_is_allowed() {
        let worse = judge("1.2.3", 99.0, 164.0);
        assert_eq!(worse.counts.failed, 1);
        assert!(worse.failures[0].contains("single, flags"), "{worse:?}");
        let over = judge("1.2.3", 100.5, 160.0);
        assert_eq!(
            over.counts.failed, 1,
            "within the tolerance, over the limit"
        );
        assert!(over.failures[0].contains("100.0 allowed"), "{over:?}");
    }

    #[test]
    fn another_compiler_is_not_judged_and_its_figures_can_be_recorded() {
        let other = judge("1.2.4", 400.0, 400.0);
        assert_eq!((other.counts.failed, other.counts.skipped), (0, 1));
        let text = FILE.to_owned() + &block_of(&other);
        let budget = Budget::parse(&text).unwrap();
        assert_eq!(budget.recorded.len(), 2);
        assert_eq!(budget.recorded[1].rounds["flags"]["single"], 400.0);
    }

    fn block_of(outcome: &Outcome) -> String {
        let from = outcome.notes.iter().position(|note| note == "[[recorded]]");
        outcome.notes[from.unwrap()..].join("\n")
    }

    #[test]
    fn an_improvement_says_what_to_record() {
        let better = judge("1.2.3", 80.0, 160.0);
        assert_eq!(better.counts.failed, 0);
        assert!(block_of(&better).contains("burst = 80.0"));
    }

    #[test]
    fn a_function_that_is_not_recorded_fails() {
        let text = FILE.replace("single = 160.0", "");
        let budget = Budget::parse(&text).unwrap();
        let compiler = budget.recorded[0].compiler.clone();
        let outcome = budget.judge(&compiler, &[("flags".into(), "single".into(), 1.0)], &[]);
        assert_eq!(outcome.counts.failed, 1);
    }

    #[test]
    fn choosing_the_ring_may_cost_so_much_a_call_and_no_more() {
        let budget = Budget::parse(FILE).unwrap();
        let compiler = budget.recorded[0].compiler.clone();
        let figure = |figure: f64| vec![("flags".to_owned(), "single".to_owned(), figure)];
        let dear = budget.judge(&compiler, &figure(160.0), &figure(151.9));
        assert!(dear.failures[0].contains("costs 2.0 a call"), "{dear:?}");
        let cheap = budget.judge(&compiler, &figure(160.0), &figure(152.1));
        assert_eq!((cheap.counts.passed, cheap.counts.failed), (2, 0));
    }

    #[test]
    fn every_mode_belongs_to_one_ring() {
        let text = FILE.replace(
            "[\"flags\"]",
            "[\"flags\", \"packed+in-order\", \"in-order\"]",
        );
        let [(_, split), (_, packed)] = Budget::parse(&text).unwrap().modes_by_ring();
        assert_eq!(split, ["flags", "in-order"]);
        assert_eq!(packed, ["packed+in-order"]);
    }

    #[test]
    fn the_projects_own_file_can_be_read() {
        let path = crate::qemu::workspace().join("tests/budget/budget.toml");
        let text = std::fs::read_to_string(path).unwrap();
        let budget = Budget::parse(&text).unwrap();
        assert!(!budget.recorded.is_empty());
    }
}
