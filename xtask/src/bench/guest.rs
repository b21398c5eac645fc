//! What a guest's packets cost at the border of its virtual machine: `cargo xtask qemu --batches`,
//! for each path in a process and a directory of its own, and what its report says.

use std::path::Path;

use anyhow::Context as _;

use super::cli::Group;
use super::groups::{Bench, Found};
use super::sample::{Class, Key, Unit, What};
use crate::qemu::report::{Batch, Report};
use crate::qemu::stop::{EXIT_MISSING, Stop};
use crate::test::run::{Cmd, Run};

/// A path that packets take.
struct Way {
    contender: &'static str,
    words: &'static [&'static str],
    /// Part of a short run: no Linux is booted for it.
    quick: bool,
}

const PATHS: [Way; 3] = [
    Way {
        contender: "vring split, vhost off",
        words: &["--vhost", "off", "--ring", "split"],
        quick: true,
    },
    Way {
        contender: "vring packed, vhost off",
        words: &["--vhost", "off", "--ring", "packed"],
        quick: true,
    },
    Way {
        contender: "vring split, vhost on",
        words: &["--vhost", "auto", "--ring", "split"],
        quick: false,
    },
];

/// Ways to wait for an answer, side by side in one guest.
const WAITING: [&str; 4] = ["--vhost", "off", "--suite", "interrupts"];

/// The rest of a run, as short as it goes: it is judged elsewhere.
const SHORT: [&str; 8] = [
    "--pings",
    "1",
    "--tcp-mib",
    "1",
    "--datagrams",
    "100",
    "--burst",
    "100",
];
/// How long a guest may take, packages that are fetched included.
const SECONDS: u64 = 900;

pub(super) fn measure(
    bench: &mut Bench<'_>,
    run: &mut Run<'_>,
    found: &mut Found,
) -> Result<(), Stop> {
    for path in &PATHS {
        if bench.is_quick() && !path.quick {
            let who = path.contender;
            let note = format!("{who}: a short run boots no Linux for the kernel's vhost.");
            found.notes.push(note);
            continue;
        }
        bench.doing(path.contender);
        let out = run
            .context
            .out
            .join("guest")
            .join(path.words.join("").replace("--", "-"));
        let packets = if bench.is_quick() { "512" } else { "4096" };
        let words = [path.words, &["--batches", packets], &SHORT].concat();
        let report = xtask_qemu(bench, run, &words, &out)?;
        if report.exit_code == EXIT_MISSING {
            let skipped = report.findings.skipped.first();
            let why =
                skipped.map_or_else(String::new, |skip| format!("{}: {}", skip.what, skip.why));
            found.skip(
                format!("{}: {why}", path.contender),
                skipped.map_or("", |skip| &skip.fix),
            );
            continue;
        }
        if !report.ok || report.findings.batches.is_empty() {
            let failure = report.findings.failures.first();
            let seen = failure.map_or("no batches in its report", |failure| failure.seen.as_str());
            found.failures.push(format!("{}: {seen}", path.contender));
            continue;
        }
        for batch in &report.findings.batches {
            take(bench, batch, path.contender, found);
        }
        let accel = report.accel.unwrap_or_default();
        let mode = &report.findings.vhost.mode;
        found
            .notes
            .push(format!("{}: {accel}, vhost {mode}.", path.contender));
    }
    measure_waiting(bench, run, found)
}

/// What it costs to wait for the answer to one question.
fn measure_waiting(
    bench: &mut Bench<'_>,
    run: &mut Run<'_>,
    found: &mut Found,
) -> Result<(), Stop> {
    bench.doing("ways to wait");
    let out = run.context.out.join("guest").join("waiting");
    let report = xtask_qemu(bench, run, &WAITING, &out)?;
    if report.exit_code == EXIT_MISSING {
        let skipped = report.findings.skipped.first();
        let why = skipped.map_or("", |skip| &skip.why);
        let fix = skipped.map_or("", |skip| &skip.fix);
        found.skip(format!("ways to wait: {why}"), fix);
        return Ok(());
    }
    if !report.ok || report.findings.waiting.is_empty() {
        let failure = report.findings.failures.first();
        let seen = failure.map_or("none in its report", |failure| failure.seen.as_str());
        found.failures.push(format!("ways to wait: {seen}"));
        return Ok(());
    }
    for way in &report.findings.waiting {
        let each = |count: u64| count as f64 / f64::from(way.packets.max(1));
        for (what, value, unit) in [
            ("median from question to answer", way.median_us, Unit::Us),
            ("interrupts", each(way.interrupts), Unit::PerPacket),
            ("doorbell stores", each(way.doorbells), Unit::PerPacket),
            ("halts", each(way.halts), Unit::PerPacket),
        ] {
            let key = Key {
                group: Group::Guest,
                case: format!("{what}, waiting"),
                contender: format!("vring, {}", way.mode),
            };
            let class = Class::Any;
            bench.add(key, What::Sample { class, value, unit }, found);
        }
    }
    let accel = report.accel.unwrap_or_default();
    found.notes.push(format!(
        "waiting: {accel}; answers leave the user-mode network in bunches, 500 us apart."
    ));
    Ok(())
}

fn key(what: &str, batch: u32, contender: &str) -> Key {
    Key {
        group: Group::Guest,
        case: format!("{what}, batch {batch}"),
        contender: contender.into(),
    }
}

fn take(bench: &mut Bench<'_>, batch: &Batch, contender: &str, found: &mut Found) {
    for (what, count) in [
        ("doorbell stores to transmit", batch.transmit_kicks),
        (
            "doorbell stores to give receive buffers back",
            batch.receive_kicks,
        ),
        ("other register accesses", batch.register_accesses),
        ("interrupts", batch.interrupts),
    ] {
        let value = count as f64 / f64::from(batch.packets.max(1));
        let (class, unit) = (Class::Any, Unit::PerPacket);
        let sample = What::Sample { class, value, unit };
        bench.add(key(what, batch.batch, contender), sample, found);
    }
}

/// Runs the guest; its report, whatever came of it.
fn xtask_qemu(
    bench: &Bench<'_>,
    run: &mut Run<'_>,
    words: &[&str],
    out: &Path,
) -> Result<Report, Stop> {
    let myself = std::env::current_exe().context("cannot find this program")?;
    let cmd = Cmd::new(myself, ["qemu", "--quiet", "--out"])
        .args([out])
        .args(words)
        .args(bench.may_install().then_some("--yes"));
    let workspace = run.context.workspace.clone();
    if run.command_within(&cmd, &workspace, SECONDS)?.is_none() {
        let waiting_for = format!("`{}`", cmd.shown());
        return Err(Stop::TimeLimit {
            waiting_for,
            seconds: SECONDS,
        });
    }
    let path = out.join("report.json");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let report = serde_json::from_str(&text);
    Ok(report.with_context(|| format!("{} is no report", path.display()))?)
}
