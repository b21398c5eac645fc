//! `report.md`, and what a person reads at the end of a run.

use std::fmt::{Result, Write};

use super::report::{GroupReport, Report};
use super::table::{Case, Contender};
use crate::test::report::Status;

/// The report as a page.
pub(crate) fn page(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    write_page(&mut out, report).unwrap_or_default();
    out
}

fn write_page(out: &mut String, report: &Report) -> Result {
    let machine = &report.machine;
    writeln!(out, "# vring beside its competitors\n")?;
    if report.quick {
        writeln!(
            out,
            "**A short run (`--quick`): it shows that everything works. Do not quote a figure.**\n"
        )?;
    }
    let guest = if machine.virtual_machine {
        ", itself a virtual machine"
    } else {
        ""
    };
    writeln!(out, "| | |\n|---|---|")?;
    writeln!(
        out,
        "| machine | {}, {} CPUs{guest} |",
        machine.cpu, machine.cpus
    )?;
    writeln!(out, "| kernel | {} |", machine.kernel)?;
    writeln!(out, "| compiler | {} |", machine.rustc)?;
    writeln!(out, "| date | {} |", report.date)?;
    writeln!(out, "| duration | {} |", minutes(report.duration_s))?;
    writeln!(out, "| load before it | {:.2} |\n", machine.load)?;
    writeln!(out, "{HOW_TO_READ}\n")?;
    if let Some(error) = &report.error {
        writeln!(out, "**This run did not reach its end: {error}**\n")?;
    }
    goals(out, report)?;
    for group in &report.groups {
        write_group(out, group)?;
    }
    budget(out, report)
}

const HOW_TO_READ: &str = "\
**How to read it.** A figure is the median of its samples, the spread their middle half (25 % to \
75 %). *Near* and *far* are the two ways in which a host places two cores: in one core complex or in \
two. They differ by up to eight times and change within a run, so that each sample is sorted by a \
ping-pong right before and after it, and only figures of one column are compared. *Times better* \
compares with the incumbent of the same case and placement: above 1 is better, for a cost as for a \
rate. It is there only where both sides have five samples (one, of what is counted and not timed). \
`~` marks a figure whose middle half spans more than a fifth of the median: too noisy to be trusted.";

fn goals(out: &mut String, report: &Report) -> Result {
    if report.goals.is_empty() {
        return Ok(());
    }
    writeln!(out, "## What must be reached, and what is aimed at\n")?;
    writeln!(out, "| what | must | aim | measured | reached |")?;
    writeln!(out, "|---|---:|---:|---:|---|")?;
    for goal in &report.goals {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let measured = match (goal.measured, &goal.by) {
            (Some(figure), by) => {
                let noisy = if goal.noisy { "~" } else { "" };
                format!("{noisy}{} ({})", short(figure), text(by))
            }
            (None, _) => "-".into(),
        };
        let reached = match &goal.note {
            Some(note) => format!("{}: {note}", goal.reached.shown()),
            None => goal.reached.shown().to_owned(),
        };
        let (what, must, aim) = (&goal.what, text(&goal.must), text(&goal.aim));
        writeln!(out, "| {what} | {must} | {aim} | {measured} | {reached} |")?;
    }
    writeln!(out)
}

fn write_group(out: &mut String, group: &GroupReport) -> Result {
    writeln!(out, "## {}\n\n{}\n", group.name, group.name.about())?;
    for skip in &group.skips {
        writeln!(
            out,
            "*Skipped*: {}. *What to do*: {}.\n",
            skip.reason, skip.fix
        )?;
    }
    for failure in &group.failures {
        writeln!(out, "**Failed**: {failure}\n")?;
    }
    for note in &group.notes {
        writeln!(out, "{note}\n")?;
    }
    if let Some(plot) = &group.plot {
        writeln!(out, "![{}]({plot})\n", group.name)?;
    }
    for case in &group.cases {
        write_case(out, case)?;
    }
    Ok(())
}

fn write_case(out: &mut String, case: &Case) -> Result {
    let unit = case.unit.map_or("", |unit| unit.name());
    writeln!(out, "**{}**\n", case.name)?;
    let placed = case
        .contenders
        .iter()
        .any(|c| c.class != super::sample::Class::Any);
    let (head, line) = if placed {
        (" cores |", "---|")
    } else {
        ("", "")
    };
    writeln!(
        out,
        "| contender |{head} {unit} | spread | samples | times better | |"
    )?;
    writeln!(out, "|---|{line}---:|---:|---:|---:|---|")?;
    for contender in &case.contenders {
        let cores = match placed {
            true if contender.median.is_some() => format!(" {} |", contender.class.name()),
            true => " |".into(),
            false => String::new(),
        };
        let (median, spread) = figures(contender);
        let ratio = match &contender.ratio_vs {
            Some(ratio) => format!("{:.2}", ratio.ratio),
            None => String::new(),
        };
        let remarks = remarks(case, contender);
        let (name, samples) = (&contender.name, contender.samples);
        writeln!(
            out,
            "| {name} |{cores} {median} | {spread} | {samples} | {ratio} | {remarks} |"
        )?;
    }
    writeln!(out)
}

fn figures(contender: &Contender) -> (String, String) {
    let (Some(unit), Some(median), Some(spread)) =
        (contender.unit, contender.median, contender.spread)
    else {
        return ("-".into(), String::new());
    };
    let noisy = if contender.noisy { "~" } else { "" };
    let spread = if contender.samples > 1 {
        format!("{} to {}", unit.shown(spread.p25), unit.shown(spread.p75))
    } else {
        String::new()
    };
    (format!("{noisy}{}", unit.shown(median)), spread)
}

fn remarks(case: &Case, contender: &Contender) -> String {
    let unit = contender.unit.filter(|unit| case.unit != Some(*unit));
    let unit = unit.iter().map(|unit| unit.name().to_owned());
    let skipped = contender.skipped.iter();
    let skipped = skipped.map(|why| format!("skipped: {why}"));
    let rejected = contender.rejected.iter();
    let rejected = rejected.map(|(why, count)| format!("{count} thrown away: {why}"));
    let without = contender.ratio_vs.iter().flat_map(|ratio| &ratio.without);
    let without = without.map(|name| format!("not against {name}: too few samples"));
    let all: Vec<String> = unit.chain(skipped).chain(rejected).chain(without).collect();
    // A bar would end the cell.
    all.join("; ").replace('|', "/").replace('\n', " ")
}

fn budget(out: &mut String, report: &Report) -> Result {
    let Some(budget) = &report.budget else {
        return Ok(());
    };
    writeln!(out, "## Instruction budget\n")?;
    writeln!(
        out,
        "`tests/budget/budget.toml` records what the compiler makes of every round, and what a round \
         may take at most. {} of its figures hold, {} do not.\n",
        budget.passed, budget.failed
    )?;
    if let Some(skip) = &budget.skip {
        writeln!(
            out,
            "*Not judged*: {}. *What to do*: {}.\n",
            skip.reason, skip.fix
        )?;
    }
    for failure in &budget.failures {
        writeln!(out, "- **{failure}**")?;
    }
    if !budget.notes.is_empty() {
        writeln!(out, "\n```text\n{}\n```", budget.notes.join("\n"))?;
    }
    Ok(())
}

/// The end of a run, on a terminal.
pub(crate) fn summary(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    write_summary(&mut out, report).unwrap_or_default();
    out
}

fn write_summary(out: &mut String, report: &Report) -> Result {
    if !report.groups.is_empty() {
        writeln!(out, "group         status      figures  noisy    time")?;
    }
    for group in &report.groups {
        let contenders = group.cases.iter().flat_map(|case| &case.contenders);
        let noisy = contenders.filter(|contender| contender.noisy).count();
        let (name, status) = (group.name.name(), group.status.shown());
        let (figures, seconds) = (group.figures(), group.duration_s);
        writeln!(
            out,
            "{name:<13} {status:<11} {figures:>7} {noisy:>6} {seconds:>6.1}s"
        )?;
    }
    for goal in report.goals.iter().filter(|goal| goal.measured.is_some()) {
        let figure = short(goal.measured.unwrap_or_default());
        let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let (must, aim) = (text(&goal.must), text(&goal.aim));
        let reached = goal.reached.shown().replace('*', "");
        writeln!(
            out,
            "{figure:>8}  must {must}, aim {aim}: {reached:<4}  {}",
            goal.what
        )?;
    }
    let mut told: Vec<String> = Vec::new();
    for group in &report.groups {
        let of_contenders = group.cases.iter().flat_map(|case| {
            let skipped = case
                .contenders
                .iter()
                .filter_map(|c| Some((c, c.skipped.as_ref()?)));
            skipped.map(|(c, why)| (format!("{}, {}", case.name, c.name), why.clone(), None))
        });
        let of_group = group.skips.iter();
        let of_group = of_group.map(|s| (String::new(), s.reason.clone(), Some(s.fix.clone())));
        let word = match group.status {
            Status::Missing => "MISSING",
            _ => "skipped",
        };
        for (what, why, fix) in of_group.chain(of_contenders) {
            // What is not there takes many contenders with it: one line says it.
            if told.contains(&why) {
                continue;
            }
            let what = [group.name.name(), &what].join(" ");
            writeln!(out, "{word}: {}\n  why: {why}", what.trim_end())?;
            if let Some(fix) = fix {
                writeln!(out, "  fix: {fix}")?;
            }
            told.push(why);
        }
        for failure in &group.failures {
            writeln!(out, "{}: {}: {failure}", group.status.shown(), group.name)?;
        }
        if !group.failures.is_empty() {
            writeln!(out, "  log: {}", group.log.display())?;
        }
    }
    if let Some(budget) = &report.budget {
        let (status, passed, failed) = (budget.status.shown(), budget.passed, budget.failed);
        writeln!(
            out,
            "instruction budget: {status}, {passed} hold, {failed} do not"
        )?;
        if let Some(skip) = &budget.skip {
            writeln!(out, "  why: {}\n  fix: {}", skip.reason, skip.fix)?;
        }
        for failure in &budget.failures {
            writeln!(out, "  {failure}")?;
        }
    }
    if let Some(error) = &report.error {
        writeln!(out, "{error}")?;
    }
    Ok(())
}

/// A figure of any size, so that its goal can be told from it.
fn short(figure: f64) -> String {
    match figure {
        0.0 => "0".into(),
        _ if figure < 0.1 => format!("{figure:.6}"),
        _ => format!("{figure:.2}"),
    }
}

fn minutes(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    format!("{} min {:02} s", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::report;

    #[test]
    fn the_page_says_what_there_is_and_what_there_is_not() {
        let page = page(&report());
        for line in [
            "| date | 2026-01-02T03:04:05Z |",
            "| a goal | ≤ 20 |  | 14.30 (vring split burst, near) | must |",
            "## two-cores",
            "![two-cores](two-cores.svg)",
            "**1 descriptor, 256 in flight**",
            "| contender | cores | ns/chain | spread | samples | times better | |",
            "| vring split burst | near | ~14.2 | 14.1 to 26.1 | 6 | 5.00 | 1 thrown away: not alone |",
            "| vring split burst | far | 50.0 |  | 1 |  |  |",
            "| Linux ring.c | | - |  | 0 |  | skipped: no source |",
            "  70.0 instructions  round_burst_32, flags",
        ] {
            assert!(page.lines().any(|seen| seen == line), "{line}\n{page}");
        }
    }

    #[test]
    fn every_row_of_a_table_has_its_columns() {
        let page = page(&report());
        let mut columns = 0;
        for line in page.lines() {
            let seen = line.matches('|').count();
            if !line.starts_with('|') {
                columns = 0;
            } else if columns == 0 {
                columns = seen;
            } else {
                assert_eq!(seen, columns, "{line}");
            }
        }
    }

    #[test]
    fn the_end_of_a_run_names_what_was_skipped() {
        let text = summary(&report());
        assert!(text.contains("why: no source"), "{text}");
        assert!(text.contains("14.30  must ≤ 20, aim -: must"), "{text}");
    }

    #[test]
    fn a_duration_is_read_easily() {
        assert_eq!(minutes(125.4), "2 min 05 s");
    }
}
