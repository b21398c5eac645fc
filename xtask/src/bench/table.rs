//! From lines to figures: medians by case, contender and placement, and ratios where they hold.

use std::collections::BTreeMap;

use serde::Serialize;

use super::cli::Group;
use super::sample::{Class, Key, Unit, What};
use super::stats::{Spread, Summary};

/// Samples of either side, at least, before a ratio is printed of times.
const ENOUGH: usize = 5;

/// What `ratio_vs` says: how many times better, whether the unit is a rate or a cost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Ratio {
    /// The best of the incumbents.
    pub(crate) contender: String,
    pub(crate) ratio: f64,
    /// Incumbents that may be better: they have too few samples here.
    pub(crate) without: Vec<String>,
    /// The figure of the incumbent is not to be trusted.
    pub(crate) noisy: bool,
}

/// A contender's figure of a case, in one placement of the cores.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Contender {
    pub(crate) name: String,
    /// That of its case, but for a floor's.
    pub(crate) unit: Option<Unit>,
    pub(crate) class: Class,
    pub(crate) median: Option<f64>,
    pub(crate) spread: Option<Spread>,
    pub(crate) samples: usize,
    /// The spread is wide: the figure is not to be trusted.
    pub(crate) noisy: bool,
    /// Samples thrown away, by reason. A sample has no class then, so the first entry has them.
    pub(crate) rejected: BTreeMap<String, u64>,
    pub(crate) ratio_vs: Option<Ratio>,
    /// Why it did not run.
    pub(crate) skipped: Option<String>,
}

/// Contenders that may be compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) unit: Option<Unit>,
    pub(crate) contenders: Vec<Contender>,
}

/// All that was said, in the order in which it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    key: Key,
    unit: Option<Unit>,
    samples: BTreeMap<Class, Vec<f64>>,
    rejected: BTreeMap<String, u64>,
    skipped: Option<String>,
}

impl Table {
    /// Takes a line in; the error is that it contradicts an earlier one.
    pub(crate) fn add(&mut self, key: Key, what: What) -> Result<(), String> {
        // A floor stands beside what it is the floor of, in a unit of its own.
        let same_case = |entry: &&Entry| {
            let same = entry.key.group == key.group && entry.key.case == key.case;
            same && !is_floor(&entry.key.contender)
        };
        if !is_floor(&key.contender)
            && let What::Sample { unit, .. } = &what
            && let Some(other) = self.entries.iter().filter(same_case).find_map(|e| e.unit)
            && other != *unit
        {
            let (case, other, unit) = (&key.case, other.name(), unit.name());
            return Err(format!("{case}: {unit} beside {other} in one case"));
        }
        let at = match self.entries.iter().position(|entry| entry.key == key) {
            Some(at) => at,
            None => {
                self.entries.push(Entry {
                    key,
                    unit: None,
                    samples: BTreeMap::new(),
                    rejected: BTreeMap::new(),
                    skipped: None,
                });
                self.entries.len() - 1
            }
        };
        let entry = &mut self.entries[at];
        match what {
            What::Sample { class, value, unit } => {
                entry.unit = Some(unit);
                entry.samples.entry(class).or_default().push(value);
            }
            What::Rejected(why) => *entry.rejected.entry(why).or_default() += 1,
            What::Skipped(why) => entry.skipped = Some(why),
        }
        Ok(())
    }

    /// Samples of a group so far.
    pub(crate) fn samples(&self, group: Group) -> usize {
        let entries = self.entries.iter().filter(|entry| entry.key.group == group);
        entries
            .flat_map(|entry| entry.samples.values())
            .map(Vec::len)
            .sum()
    }

    /// The figures of a group.
    pub(crate) fn cases(&self, group: Group) -> Vec<Case> {
        let mut cases: Vec<Case> = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.key.group == group) {
            let at = match cases.iter().position(|case| case.name == entry.key.case) {
                Some(at) => at,
                None => {
                    cases.push(Case {
                        name: entry.key.case.clone(),
                        unit: None,
                        contenders: Vec::new(),
                    });
                    cases.len() - 1
                }
            };
            let case = &mut cases[at];
            let unit = entry.unit.filter(|_| !is_floor(&entry.key.contender));
            case.unit = case.unit.or(unit);
            case.contenders.extend(entry.contenders());
        }
        for case in &mut cases {
            // Who has no figure comes last.
            case.contenders
                .sort_by_key(|contender| contender.median.is_none());
            compare(group, case);
        }
        cases
    }
}

impl Entry {
    /// One for each placement, near first; one without figures where there is none.
    fn contenders(&self) -> Vec<Contender> {
        let of = |class, summary: Option<Summary>| Contender {
            name: self.key.contender.clone(),
            unit: self.unit,
            class,
            median: summary.map(|s| s.median),
            spread: summary.map(|s| s.spread),
            samples: summary.map_or(0, |s| s.samples),
            noisy: summary.is_some_and(|s| s.is_noisy()),
            rejected: BTreeMap::new(),
            ratio_vs: None,
            skipped: None,
        };
        let classes = self.samples.iter();
        let mut all: Vec<Contender> = classes
            .map(|(class, samples)| of(*class, Summary::of(samples)))
            .collect();
        if all.is_empty() {
            all.push(of(Class::Any, None));
        }
        if let Some(first) = all.first_mut() {
            first.rejected = self.rejected.clone();
            first.skipped = self.skipped.clone();
        }
        all
    }
}

/// What the hardware does at best, beside the contenders.
pub(crate) fn is_floor(contender: &str) -> bool {
    contender.starts_with("floor")
}

/// Who is to be beaten in a group: every name that begins so.
fn incumbent(group: Group) -> &'static str {
    match group {
        Group::NativeNet => "DPDK virtio-user",
        Group::NativeBlock => "virtio-driver 0.6.1 (libblkio)",
        _ => "virtio-drivers 0.13",
    }
}

/// Whether a contender has samples enough for a ratio.
pub(crate) fn has_enough(group: Group, contender: &Contender) -> bool {
    contender.samples >= if group.is_exact() { 1 } else { ENOUGH }
}

/// Adds the ratios to the best of the incumbents in the same placement of the cores.
fn compare(group: Group, case: &mut Case) {
    let Some(unit) = case.unit else { return };
    let enough = |c: &Contender| has_enough(group, c);
    let all = case.contenders.clone();
    let held = |c: &&Contender| c.name.starts_with(incumbent(group)) && enough(c);
    // Those that take part, whether or not they have a figure in each placement.
    let mut incumbents: Vec<&str> = all
        .iter()
        .filter(|c| c.name.starts_with(incumbent(group)) && c.skipped.is_none())
        .map(|c| c.name.as_str())
        .collect();
    incumbents.dedup();
    for contender in &mut case.contenders {
        let best = all
            .iter()
            .filter(|other| other.class == contender.class)
            .filter(held)
            .filter_map(|other| Some((other, other.median?)))
            .reduce(|best, other| match (other.1 < best.1) == unit.is_rate() {
                true => best,
                false => other,
            });
        let is_one = contender.name.starts_with(incumbent(group));
        let (Some((best, theirs)), Some(ours)) = (best, contender.median) else {
            continue;
        };
        if is_one || !enough(contender) || is_floor(&contender.name) {
            continue;
        }
        let has = |name: &str| {
            let of = |c: &&Contender| c.name == name && c.class == contender.class;
            all.iter().filter(of).any(enough)
        };
        let without = incumbents.iter().filter(|name| !has(name));
        let without = without.map(|name| (*name).to_owned()).collect();
        contender.ratio_vs = times_better(unit, ours, theirs).map(|ratio| Ratio {
            contender: best.name.clone(),
            ratio,
            without,
            noisy: best.noisy,
        });
    }
}

/// How many times better `ours` is; none where one of them is nothing.
pub(crate) fn times_better(unit: Unit, ours: f64, theirs: f64) -> Option<f64> {
    let ratio = match unit.is_rate() {
        true => ours / theirs,
        false => theirs / ours,
    };
    (ratio.is_finite() && ratio > 0.0).then_some(ratio)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(group: Group, contender: &str) -> Key {
        Key {
            group,
            case: "c".into(),
            contender: contender.into(),
        }
    }

    fn table(group: Group, unit: Unit, said: &[(&str, Class, f64, usize)]) -> Vec<Contender> {
        let mut table = Table::default();
        for (contender, class, value, times) in said {
            for _ in 0..*times {
                let (class, value) = (*class, *value);
                let sample = What::Sample { class, value, unit };
                table.add(key(group, contender), sample).unwrap();
            }
        }
        table.cases(group).remove(0).contenders
    }

    fn ratio(contenders: &[Contender], name: &str, class: Class) -> Option<f64> {
        let found = contenders
            .iter()
            .find(|c| c.name == name && c.class == class);
        Some(found.unwrap().ratio_vs.as_ref()?.ratio)
    }

    #[test]
    fn a_ratio_needs_five_samples_of_one_class_on_both_sides() {
        use Class::{Far, Near};
        let said = [
            ("vring", Near, 20.0, 5),
            ("vring", Far, 40.0, 5),
            ("virtio-drivers 0.13", Near, 80.0, 5),
            ("virtio-drivers 0.13", Far, 200.0, 4),
        ];
        let all = table(Group::TwoCores, Unit::NsPerChain, &said);
        assert_eq!(ratio(&all, "vring", Near), Some(4.0));
        assert_eq!(ratio(&all, "vring", Far), None, "four of the incumbent");
        assert_eq!(
            ratio(&all, "virtio-drivers 0.13", Near),
            None,
            "it is the one"
        );
        let few = [
            ("vring", Near, 20.0, 4),
            ("virtio-drivers 0.13", Near, 80.0, 9),
        ];
        let all = table(Group::TwoCores, Unit::NsPerChain, &few);
        assert_eq!(ratio(&all, "vring", Near), None, "four of ours");
        let apart = [
            ("vring", Near, 20.0, 9),
            ("virtio-drivers 0.13", Far, 80.0, 9),
        ];
        let all = table(Group::TwoCores, Unit::NsPerChain, &apart);
        assert_eq!(ratio(&all, "vring", Near), None, "another class");
    }

    #[test]
    fn a_ratio_names_the_incumbents_that_it_leaves_out() {
        use Class::{Far, Near};
        let said = [
            ("vring", Near, 20.0, 5),
            ("vring", Far, 40.0, 5),
            ("DPDK virtio-user", Near, 10.0, 5),
            ("DPDK virtio-user", Far, 10.0, 5),
            ("DPDK virtio-user vectorized", Near, 30.0, 4),
            ("DPDK virtio-user vectorized", Far, 30.0, 5),
        ];
        let all = table(Group::NativeNet, Unit::Mpps, &said);
        let ratio = |class| {
            let ours = all.iter().find(|c| c.name == "vring" && c.class == class);
            ours.unwrap().ratio_vs.clone().unwrap()
        };
        assert_eq!(ratio(Near).without, ["DPDK virtio-user vectorized"]);
        assert_eq!(ratio(Near).ratio, 2.0);
        assert!(ratio(Far).without.is_empty());
    }

    #[test]
    fn what_is_counted_needs_one_sample() {
        let said = [
            ("vring", Class::Any, 70.0, 1),
            ("virtio-drivers 0.13", Class::Any, 140.0, 1),
        ];
        let all = table(Group::Instructions, Unit::Instructions, &said);
        assert_eq!(ratio(&all, "vring", Class::Any), Some(2.0));
    }

    #[test]
    fn the_best_incumbent_is_the_one_and_more_is_better_of_a_rate() {
        let near = Class::Near;
        let said = [
            ("vring", near, 30.0, 5),
            ("DPDK virtio-user in-order", near, 20.0, 5),
            ("DPDK virtio-user", near, 15.0, 5),
        ];
        let all = table(Group::NativeNet, Unit::Mpps, &said);
        assert_eq!(ratio(&all, "vring", near), Some(1.5));
        let said = [
            ("vring", near, 10.0, 5),
            ("virtio-drivers 0.13 indirect", near, 30.0, 5),
            ("virtio-drivers 0.13", near, 40.0, 5),
            ("floor: ping-pong", near, 5.0, 5),
        ];
        let all = table(Group::OneThread, Unit::NsPerChain, &said);
        assert_eq!(ratio(&all, "vring", near), Some(3.0));
        assert_eq!(
            ratio(&all, "floor: ping-pong", near),
            None,
            "a floor does not race"
        );
    }

    #[test]
    fn what_was_thrown_away_and_what_did_not_run_is_kept() {
        let mut table = Table::default();
        let group = Group::TwoCores;
        for why in ["not alone", "not alone", "between classes"] {
            table
                .add(key(group, "a"), What::Rejected(why.into()))
                .unwrap();
        }
        table
            .add(key(group, "b"), What::Skipped("no tool".into()))
            .unwrap();
        let all = table.cases(group).remove(0).contenders;
        assert_eq!(all[0].rejected["not alone"], 2);
        assert_eq!((all[0].samples, all[0].median), (0, None));
        assert_eq!(all[1].skipped.as_deref(), Some("no tool"));
    }

    #[test]
    fn a_case_has_one_unit() {
        let mut table = Table::default();
        let sample = |unit| What::Sample {
            class: Class::Any,
            value: 1.0,
            unit,
        };
        table
            .add(key(Group::Size, "a"), sample(Unit::Bytes))
            .unwrap();
        let floor = sample(Unit::NsPerRoundTrip);
        table.add(key(Group::Size, "floor: x"), floor).unwrap();
        let cases = table.cases(Group::Size);
        assert_eq!(cases[0].unit, Some(Unit::Bytes));
        assert_eq!(cases[0].contenders[1].unit, Some(Unit::NsPerRoundTrip));
        assert!(table.add(key(Group::Size, "b"), sample(Unit::Us)).is_err());
    }
}
