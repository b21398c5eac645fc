//! Instructions of a round: every measurable function of the program `rounds`, under callgrind.
//!
//! `rounds --list` says what there is, one JSON object a line: whose figure of which case, the
//! arguments that run it, the function that holds the rounds, and the one below it that plays the
//! device, whose part is subtracted.

use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;

use super::cli::Group;
use super::groups::{Bench, Found};
use super::sample::{self, Class, Key, Line, Unit, What};
use crate::qemu::stop::Stop;
use crate::test::budget::callgrind;
use crate::test::run::{Cmd, Run};

/// How long the program may take to list what there is.
const SECONDS: u64 = 60;

/// What can be measured.
#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Measurable {
    group: Group,
    case: String,
    contender: String,
    args: Vec<String>,
    function: String,
    /// Of that, what is not counted.
    apart: String,
    unit: Unit,
}

/// Measures all that the program lists; of a short run, each case and each contender once.
pub(super) fn measure(
    bench: &mut Bench<'_>,
    run: &mut Run<'_>,
    program: &Path,
    found: &mut Found,
) -> Result<(), Stop> {
    let seconds = Group::Instructions.seconds(bench.is_quick());
    let until = crate::qemu::limits::Deadline::seconds(seconds);
    let mut listed: Vec<Measurable> = Vec::new();
    let list = Cmd::new(program, ["--list"]);
    let status = run.follow(&list, SECONDS, &mut |line| {
        match serde_json::from_str::<Measurable>(line) {
            Ok(measurable) => listed.push(measurable),
            // What cannot be measured says why in the form of all programs.
            Err(error) => match sample::parse(line) {
                Some(Ok(Line::Figure(key, what @ What::Skipped(_)))) => bench.add(key, what, found),
                None => {}
                _ => found
                    .failures
                    .push(format!("a line cannot be read: {error}: {line}")),
            },
        }
    })?;
    if !status.success() || listed.is_empty() {
        found
            .failures
            .push(format!("`{}` ended with {status}", list.shown()));
        return Ok(());
    }
    if bench.is_quick() {
        listed = once_each(listed);
        found
            .notes
            .push("A short run: each case and each contender once.".into());
    }
    let all = listed.len();
    // Instructions are the same, however many are counted at a time.
    let at_a_time = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(4);
    for (at, some) in listed.chunks(at_a_time).enumerate() {
        let done = at * at_a_time;
        bench.doing(&format!("{done} of {all}"));
        if until.left().is_zero() {
            return Err(Stop::TimeLimit {
                waiting_for: format!("{} of {all} measurements", all - done),
                seconds,
            });
        }
        for (what, counted) in some.iter().zip(count(run, program, some)?) {
            let Measurable { group, unit, .. } = *what;
            let (case, contender) = (what.case.clone(), what.contender.clone());
            match counted {
                Ok(value) => {
                    let key = Key {
                        group,
                        case,
                        contender,
                    };
                    let class = Class::Any;
                    bench.add(key, What::Sample { class, value, unit }, found);
                }
                Err(why) => found.failures.push(format!("{contender}, {case}: {why}")),
            }
        }
    }
    Ok(())
}

/// Those whose case or contender has not come yet.
fn once_each(all: Vec<Measurable>) -> Vec<Measurable> {
    let mut kept: Vec<Measurable> = Vec::new();
    for one in all {
        let case = kept.iter().any(|other| other.case == one.case);
        let contender = kept.iter().any(|other| other.contender == one.contender);
        if !(case && contender) {
            kept.push(one);
        }
    }
    kept
}

/// Instructions of a round of each of these, side by side, or why they cannot be told.
fn count(
    run: &mut Run<'_>,
    program: &Path,
    some: &[Measurable],
) -> Result<Vec<Result<f64, String>>, Stop> {
    let dir = tempfile::Builder::new()
        .prefix("callgrind-")
        .tempdir_in(&run.context.out)
        .context("cannot make a directory for callgrind")?;
    let profile = |at: usize| dir.path().join(at.to_string());
    let cmd = |(at, what): (usize, &Measurable)| {
        Cmd::new("valgrind", callgrind::words(&profile(at), &what.function))
            .args([program])
            .args(&what.args)
    };
    let cmds: Vec<Cmd> = some.iter().enumerate().map(cmd).collect();
    let printed = run.each(&cmds)?;
    let each = some.iter().zip(printed).enumerate();
    let counted = each.map(|(at, (what, printed))| {
        if !printed.ok() {
            return Err(printed.ending());
        }
        let text = std::fs::read_to_string(profile(at)).map_err(|error| error.to_string())?;
        callgrind::per_round(&printed.text, &text, &what.apart)
    });
    Ok(counted.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(case: &str, contender: &str) -> Measurable {
        let line = serde_json::json!({
            "group": "instructions", "case": case, "contender": contender, "args": ["--x"],
            "function": "rounds::counted_rounds", "apart": "Device::run",
            "unit": "instructions/chain",
        });
        serde_json::from_value(line).unwrap()
    }

    #[test]
    fn a_short_run_leaves_out_nothing_but_repetition() {
        let all = ["a", "b", "c"]
            .iter()
            .flat_map(|case| ["v", "w"].map(|contender| listed(case, contender)));
        let kept = once_each(all.collect());
        let names: Vec<String> = kept.iter().map(|m| m.case.clone() + &m.contender).collect();
        assert_eq!(names, ["av", "aw", "bv", "cv"]);
    }
}
