//! What must be reached, and what is aimed at: `benches/goals.toml`, judged by the figures.
//!
//! A goal names a contender of a case and says what of it counts: its median, how many times better
//! it is than the incumbent (`ratio_vs`), or its median as a multiple of another figure's. Several
//! figures of a row of the issue are several goals.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::cli::Group;
use super::sample::Class;
use super::table::{Case, Contender, has_enough};

/// `goals.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Goals {
    goal: Vec<Goal>,
    /// Who cannot take part anywhere, or need not: they are not missing on this machine.
    #[serde(default)]
    excused: Vec<Excused>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Excused {
    contender: String,
    /// In cases whose name begins so.
    #[serde(default)]
    case: String,
}

/// One figure that must be so large, or so small.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Goal {
    what: String,
    /// Where another command shows it: nothing of this run is judged.
    shown_by: Option<String>,
    group: Option<Group>,
    #[serde(default)]
    case: String,
    /// Whose figure; of several, the best counts.
    #[serde(default)]
    contenders: Vec<String>,
    #[serde(default)]
    measure: Measure,
    /// For [`Measure::Over`]: whose median it is a multiple of.
    base: Option<Base>,
    #[serde(default)]
    sense: Sense,
    must: Option<f64>,
    aim: Option<f64>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Base {
    case: String,
    contender: String,
}

/// What of the figure counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Measure {
    #[default]
    Median,
    /// How many times better than the incumbent.
    Ratio,
    /// The median as a multiple of another's.
    Over,
}

/// On which side of the goal to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Sense {
    #[default]
    AtMost,
    AtLeast,
}

impl Sense {
    fn holds(self, figure: f64, goal: f64) -> bool {
        match self {
            Self::AtMost => figure <= goal,
            Self::AtLeast => figure >= goal,
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::AtMost => "≤",
            Self::AtLeast => "≥",
        }
    }
}

/// How far a goal is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reached {
    Aim,
    Must,
    /// Measured, and short of what must be.
    No,
    NotMeasured,
    /// Another command shows it.
    Elsewhere,
}

impl Reached {
    pub(crate) fn shown(self) -> &'static str {
        match self {
            Self::Aim => "aim",
            Self::Must => "must",
            Self::No => "**no**",
            Self::NotMeasured => "not measured",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// A goal and what came of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Outcome {
    pub(crate) what: String,
    pub(crate) must: Option<String>,
    pub(crate) aim: Option<String>,
    pub(crate) measured: Option<f64>,
    /// Whose figure it is, and in which placement of the cores.
    pub(crate) by: Option<String>,
    pub(crate) reached: Reached,
    /// The figure's samples lie far apart.
    pub(crate) noisy: bool,
    /// Why nothing is measured, or where it is shown.
    pub(crate) note: Option<String>,
}

impl Goals {
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let goals: Self = toml::from_str(text).context("goals.toml cannot be read")?;
        for goal in &goals.goal {
            goal.check()
                .with_context(|| format!("goals.toml: {}", goal.what))?;
        }
        Ok(goals)
    }

    /// Whether nothing is missing where that contender does not take part in that case.
    pub(crate) fn excused(&self, case: &str, contender: &str) -> bool {
        let is = |one: &Excused| one.contender == contender && case.starts_with(&one.case);
        self.excused.iter().any(is)
    }

    /// Judges by the figures of these groups: what is about others is left out.
    pub(crate) fn judge(
        &self,
        groups: &[Group],
        cases: &dyn Fn(Group) -> Vec<Case>,
    ) -> Vec<Outcome> {
        let asked = |goal: &&Goal| goal.group.is_none_or(|group| groups.contains(&group));
        self.goal
            .iter()
            .filter(asked)
            .map(|goal| goal.judge(cases))
            .collect()
    }
}

/// A figure that a goal is about.
struct Figure {
    value: f64,
    by: String,
    /// It, or what it is compared with, is not to be trusted.
    noisy: bool,
    /// Incumbents that may be better, and have too few samples.
    without: Vec<String>,
}

impl Goal {
    fn check(&self) -> anyhow::Result<()> {
        if self.shown_by.is_some() {
            return Ok(());
        }
        anyhow::ensure!(self.group.is_some(), "no group, and no shown_by");
        anyhow::ensure!(!self.contenders.is_empty(), "whose figure counts?");
        anyhow::ensure!(self.must.is_some() || self.aim.is_some(), "no figure");
        let over = self.measure == Measure::Over;
        anyhow::ensure!(
            over == self.base.is_some(),
            "`over` has a base, and nothing else"
        );
        if let (Some(must), Some(aim)) = (self.must, self.aim) {
            anyhow::ensure!(self.sense.holds(aim, must), "the aim is below what must be");
        }
        Ok(())
    }

    fn judge(&self, cases: &dyn Fn(Group) -> Vec<Case>) -> Outcome {
        let shown = |goal: Option<f64>| goal.map(|goal| format!("{} {goal}", self.sense.sign()));
        let mut outcome = Outcome {
            what: self.what.clone(),
            must: shown(self.must),
            aim: shown(self.aim),
            measured: None,
            by: None,
            reached: Reached::NotMeasured,
            noisy: false,
            note: self.shown_by.as_ref().map(|by| format!("shown by {by}")),
        };
        let Some(group) = self.group.filter(|_| self.shown_by.is_none()) else {
            outcome.reached = Reached::Elsewhere;
            return outcome;
        };
        match self.figure(group, &cases(group)) {
            Ok(figure) => {
                let holds =
                    |goal: Option<f64>| goal.is_some_and(|g| self.sense.holds(figure.value, g));
                outcome.reached = match (holds(self.aim), holds(self.must)) {
                    (true, _) => Reached::Aim,
                    (false, true) => Reached::Must,
                    (false, false) => Reached::No,
                };
                outcome.measured = Some(figure.value);
                outcome.by = Some(figure.by);
                outcome.noisy = figure.noisy;
                if !figure.without.is_empty() {
                    let without = figure.without.join(", ");
                    outcome.note = Some(format!("not against {without}: too few samples"));
                }
            }
            Err(why) => outcome.note = Some(why),
        }
        outcome
    }

    /// The best figure among the contenders', cores near each other where they matter.
    fn figure(&self, group: Group, cases: &[Case]) -> Result<Figure, String> {
        let contenders = |name: &str| -> &[Contender] {
            let case = cases.iter().find(|case| case.name == name);
            case.map_or(&[], |case| &case.contenders)
        };
        let here = contenders(&self.case);
        if here.is_empty() {
            return Err(format!("no case \"{}\" in this run", self.case));
        }
        let near = |c: &&Contender| c.class != Class::Far;
        let mut why = format!("none of {} in this run", self.contenders.join(", "));
        let mut best: Option<Figure> = None;
        let mine = here.iter().filter(near);
        for contender in mine.filter(|c| self.contenders.contains(&c.name)) {
            let mut noisy = contender.noisy;
            let ratio = contender.ratio_vs.as_ref();
            let ratio = ratio.filter(|_| self.measure == Measure::Ratio);
            let value = match self.measure {
                Measure::Median => contender.median,
                Measure::Ratio => {
                    noisy |= ratio.is_some_and(|ratio| ratio.noisy);
                    ratio.map(|ratio| ratio.ratio)
                }
                Measure::Over => contender.median.and_then(|ours| {
                    let base = self.base.as_ref()?;
                    let of_base =
                        |c: &&Contender| c.name == base.contender && c.class == contender.class;
                    let base = contenders(&base.case).iter().find(of_base)?;
                    let enough = has_enough(group, contender) && has_enough(group, base);
                    noisy |= base.noisy;
                    Some(ours / base.median?).filter(|_| enough)
                }),
            };
            let Some(value) = value else {
                why = match &contender.skipped {
                    Some(skipped) => skipped.clone(),
                    None => "too few samples of one placement of the cores".into(),
                };
                continue;
            };
            if best
                .as_ref()
                .is_none_or(|best| !self.sense.holds(best.value, value))
            {
                best = Some(Figure {
                    value,
                    by: match contender.class {
                        Class::Any => contender.name.clone(),
                        class => format!("{}, {}", contender.name, class.name()),
                    },
                    noisy,
                    without: ratio.map_or_else(Vec::new, |ratio| ratio.without.clone()),
                });
            }
        }
        best.ok_or(why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sample::{Key, Unit, What};
    use crate::bench::table::Table;

    const FILE: &str = r#"
[[goal]]
what = "cost"
group = "two-cores"
case = "c"
contenders = ["vring burst", "vring single"]
must = 20.0
aim = 10.0
[[goal]]
what = "rate against the incumbent"
group = "two-cores"
case = "c"
contenders = ["vring burst"]
measure = "ratio"
sense = "at-least"
must = 4.0
aim = 5.5
[[goal]]
what = "against the floor"
group = "two-cores"
case = "c"
contenders = ["vring burst"]
measure = "over"
base = { case = "p", contender = "floor: ping-pong" }
must = 0.2
[[goal]]
what = "elsewhere"
shown_by = "tests/no_alloc.rs"
[[excused]]
contender = "a"
case = "1 descriptor"
"#;

    fn figures(burst: f64, samples: usize) -> Table {
        let mut table = Table::default();
        let mut add = |case: &str, contender: &str, value: f64, times: usize| {
            for _ in 0..times {
                let key = Key {
                    group: Group::TwoCores,
                    case: case.into(),
                    contender: contender.into(),
                };
                let (class, unit) = (Class::Near, Unit::NsPerChain);
                table.add(key, What::Sample { class, value, unit }).unwrap();
            }
        };
        add("c", "vring burst", burst, samples);
        add("c", "vring single", 18.0, samples);
        add("c", "virtio-drivers 0.13", 80.0, 5);
        add("p", "floor: ping-pong", 60.0, 5);
        table
    }

    fn judge(burst: f64, samples: usize) -> Vec<Outcome> {
        let table = figures(burst, samples);
        Goals::parse(FILE)
            .unwrap()
            .judge(&[Group::TwoCores], &|group| table.cases(group))
    }

    #[test]
    fn the_best_contender_is_judged_and_each_measure_is_its_own() {
        let [cost, rate, floor, elsewhere] = &judge(10.0, 5)[..] else {
            panic!()
        };
        assert_eq!((cost.measured, cost.reached), (Some(10.0), Reached::Aim));
        assert_eq!(cost.by.as_deref(), Some("vring burst, near"));
        assert_eq!((rate.measured, rate.reached), (Some(8.0), Reached::Aim));
        assert_eq!(
            (floor.measured, floor.reached),
            (Some(10.0 / 60.0), Reached::Must)
        );
        assert_eq!(elsewhere.reached, Reached::Elsewhere);
        assert_eq!(
            elsewhere.note.as_deref(),
            Some("shown by tests/no_alloc.rs")
        );
        let slow = judge(25.0, 5);
        assert_eq!(
            (slow[0].measured, slow[0].reached),
            (Some(18.0), Reached::Must)
        );
        assert_eq!(
            (slow[1].measured, slow[1].reached),
            (Some(3.2), Reached::No)
        );
    }

    #[test]
    fn an_incumbent_with_too_few_samples_is_named_beside_the_verdict() {
        let mut table = figures(10.0, 5);
        let key = Key {
            group: Group::TwoCores,
            case: "c".into(),
            contender: "virtio-drivers 0.13 indirect".into(),
        };
        table.add(key, What::Rejected("not alone".into())).unwrap();
        let goals = Goals::parse(FILE).unwrap();
        let outcomes = goals.judge(&[Group::TwoCores], &|group| table.cases(group));
        let note = outcomes[1].note.as_deref().unwrap();
        assert!(note.contains("virtio-drivers 0.13 indirect"), "{note}");
        assert_eq!(
            (outcomes[0].note.as_ref(), outcomes[1].reached),
            (None, Reached::Aim)
        );
    }

    #[test]
    fn what_was_not_measured_is_not_judged() {
        let few = judge(10.0, 4);
        assert_eq!(few[1].reached, Reached::NotMeasured);
        assert_eq!(few[2].reached, Reached::NotMeasured);
        assert!(few[1].note.as_ref().unwrap().contains("too few"));
        let none = Goals::parse(FILE).unwrap();
        let none = none.judge(&[Group::TwoCores], &|_| Vec::new());
        let measured = |goal: &Outcome| goal.measured.is_some();
        assert!(!none.iter().any(measured));
        assert_eq!(none[0].reached, Reached::NotMeasured);
        assert!(none[0].note.as_ref().unwrap().contains("no case"));
    }

    #[test]
    fn what_is_about_other_groups_is_left_out() {
        let goals = Goals::parse(FILE).unwrap();
        let rest = goals.judge(&[Group::Size], &|_| Vec::new());
        assert_eq!(rest.len(), 1);
        assert_eq!(rest[0].what, "elsewhere");
    }

    #[test]
    fn who_is_excused_is_told_from_who_is_missing() {
        let goals = Goals::parse(FILE).unwrap();
        assert!(goals.excused("1 descriptor, batch 32", "a"));
        assert!(!goals.excused("2 descriptors, batch 32", "a"));
        assert!(!goals.excused("1 descriptor, batch 32", "b"));
    }

    #[test]
    fn a_file_that_makes_no_sense_is_refused() {
        for (from, to) in [
            ("aim = 10.0", "aim = 30.0"),
            ("base = ", "basis = "),
            ("measure = \"ratio\"", "measure = \"over\""),
            (
                "contenders = [\"vring burst\", \"vring single\"]",
                "contenders = []",
            ),
            ("shown_by = \"tests/no_alloc.rs\"", ""),
            ("group = \"two-cores\"", "group = \"three-cores\""),
        ] {
            assert!(FILE.contains(from));
            assert!(Goals::parse(&FILE.replacen(from, to, 1)).is_err(), "{to}");
        }
    }

    #[test]
    fn the_projects_own_file_can_be_read() {
        let path = crate::qemu::workspace().join("benches/goals.toml");
        let goals = Goals::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        assert!(goals.goal.len() > 20);
    }
}
