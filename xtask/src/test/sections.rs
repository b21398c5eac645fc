//! The sections: what is run, in which order, with which needs and limits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::context::{Context, LIBRARY};
use super::needs::Need;
use super::run::{Cmd, Run};
use super::section::{Check, Counts, Outcome, Section};
use super::suites::{self, MiriRun};
use super::tally::Tally;
use super::{bench, budget, probe, qemu, targets};
use crate::qemu::arch::Arch;
use crate::qemu::provision::rust::TARGET as BARE_METAL;

/// Every section, in the order in which they run: what fails soonest comes first.
pub(crate) const NAMES: [&str; 18] = [
    "format",
    "conformance",
    "lints",
    "unit",
    "oracle",
    "docs",
    "build",
    "targets",
    "model",
    "hostile",
    "loom",
    "miri",
    "probe",
    "budget",
    "mutants",
    "hosted",
    "bench",
    "qemu",
];

/// The tests that are models: of the rings, and of what awaits them.
const ORDERING: &str = "ordering::";

/// What Miri is told: pointers that are made of integers are errors.
const MIRI: &str = "-Zmiri-strict-provenance";

/// The sections, made for this workspace.
pub(crate) fn all(context: &Context) -> Vec<Section> {
    NAMES.iter().map(|name| section(name, context)).collect()
}

fn section(name: &'static str, context: &Context) -> Section {
    let (about, minutes, checks) = match name {
        "format" => ("rustfmt, the guest included", 5, format()),
        "conformance" => ("statements of VIRTIO have tests", 5, conformance()),
        "lints" => ("clippy, warnings denied", 30, lints(context)),
        "unit" => ("unit tests of every package", 20, unit(context)),
        "oracle" => (
            "ring and layout against independent implementations",
            15,
            vec![
                suite("oracle", context)
                    .quick()
                    .needs(Need::Program {
                        program: "cc",
                        package: "gcc",
                    })
                    .needs(Need::Header {
                        header: "linux/virtio_ring.h",
                        package: "linux-libc-dev",
                    }),
            ],
        ),
        "docs" => ("documentation and its examples", 20, docs()),
        "build" => (
            "every combination of features, other targets, oldest compiler",
            30,
            targets::build(context),
        ),
        "targets" => (
            "tests where pointers have 32 bits, and big-endian",
            30,
            targets::tests(context),
        ),
        "model" => ("property tests", 20, vec![suite("model", context)]),
        "hostile" => ("devices that lie", 20, vec![suite("hostile", context)]),
        "loom" => ("the rings under a model checker", 20, loom(context)),
        "miri" => (
            "undefined behavior: both aliasing models, and 32 bits",
            45,
            miri(context),
        ),
        "probe" => ("no panic on the data path", 15, probe::checks()),
        "budget" => ("instructions of a round", 15, budget::checks()),
        "mutants" => (
            "what is broken on purpose is caught",
            45,
            crate::mutants::checks(),
        ),
        "hosted" => ("real back ends, from a Linux process", 20, hosted()),
        "bench" => (
            "every benchmark works; no time is judged",
            30,
            bench::checks(),
        ),
        _ => (
            "the guest in QEMU, one by one and the matrix",
            60,
            qemu::checks(),
        ),
    };
    Section {
        name,
        about,
        limit: minutes * 60,
        checks,
    }
}

/// A check that is a command.
pub(crate) fn command(name: impl Into<String>, cmd: Cmd, tally: Tally) -> Check {
    Check::new(name, move |run| {
        let printed = run.command(&cmd)?;
        Ok(tally.outcome(&printed))
    })
}

fn format() -> Vec<Check> {
    let check = |name: &str, manifest: Option<&str>| {
        let cmd = Cmd::cargo(["fmt", "--all", "--check"]);
        let cmd = cmd.args(manifest.map(|path| format!("--manifest-path={path}")));
        command(name, cmd, Tally::Command)
            .quick()
            .needs(Need::RUSTFMT)
    };
    vec![
        check("rustfmt", None),
        check("rustfmt, bench programs", Some(bench::PROGRAMS)),
        check("rustfmt, bench programs for size", Some(bench::FOR_SIZE)),
    ]
}

/// The index counts statements of closed areas and closed bug classes.
fn conformance() -> Vec<Check> {
    let work = |run: &mut Run<'_>| {
        let index = crate::conformance::read(None)?;
        run.say(&index.human(false))?;
        let failures = index.failures();
        Ok(Outcome {
            counts: Counts {
                passed: index.held(),
                failed: failures.len() as u64,
                skipped: 0,
            },
            failures,
            ..Outcome::default()
        })
    };
    vec![Check::new("index", work).quick()]
}

fn lints(context: &Context) -> Vec<Check> {
    let clippy = |name: String, words: &[&str]| {
        let cmd = Cmd::cargo(["clippy"])
            .args(words)
            .args(["--", "-Dwarnings"]);
        command(name, cmd, Tally::Command).needs(Need::CLIPPY)
    };
    let mut checks: Vec<Check> = context
        .feature_sets()
        .into_iter()
        .map(|(name, features)| {
            let mut words = vec!["--package", LIBRARY, "--all-targets"];
            words.extend(features.iter().map(String::as_str));
            clippy(format!("{LIBRARY}, {name}"), &words).quick()
        })
        .collect();
    let others = ["--workspace", "--exclude", LIBRARY, "--all-targets"];
    checks.push(clippy("other packages".into(), &others).quick());
    // One at a time: together they would share features, and the probe has no heap.
    for package in ["qemu-tests", "probe"] {
        let bare = ["--package", package, "--target", BARE_METAL];
        let name = format!("{package}, bare metal");
        checks.push(clippy(name, &bare).needs(Need::Target(BARE_METAL)));
    }
    for arch in Arch::ALL.into_iter().filter(|arch| *arch != Arch::X86_64) {
        let target = arch.target();
        let bare = ["--package", "qemu-tests", "--target", target];
        let name = format!("qemu-tests, {}", arch.name());
        checks.push(clippy(name, &bare).needs(Need::Target(target)).optional());
    }
    checks
}

fn docs() -> Vec<Check> {
    let doc = Cmd::cargo(["doc", "--workspace", "--all-features", "--no-deps"])
        .env("RUSTDOCFLAGS", "-Dwarnings");
    let examples = Cmd::cargo(["test", "--doc", "--package", LIBRARY, "--all-features"]);
    vec![
        command("documentation", doc, Tally::Command),
        command("examples", examples, Tally::Tests),
    ]
}

fn unit(context: &Context) -> Vec<Check> {
    let of_package = |package: &str, what: &[&str]| {
        let cmd = Cmd::cargo(["test", "--no-fail-fast", "--package", package]).args(what);
        command(package, cmd, Tally::Tests).quick()
    };
    let words = library_tests(&suites::of_section("unit", &context.suites), true);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    vec![
        of_package(LIBRARY, &words),
        of_package("vring-protocol", &["--lib"]),
        of_package("qemu-tests", &["--lib"]),
        of_package("xtask", &["--bins"]),
    ]
}

/// The driver side of vhost-user. What has to keep up with a device that polls is optimized.
fn hosted() -> Vec<Check> {
    let words = ["test", "--no-fail-fast", "--release", "--tests"];
    let cmd = Cmd::cargo(words).args(["--package", "vring-hosted"]);
    vec![
        command("DPDK's vhost library", cmd, Tally::Tests).needs(Need::Program {
            program: "dpdk-testpmd",
            package: "dpdk-dev",
        }),
    ]
}

/// The test programs of a section.
fn suite(section: &'static str, context: &Context) -> Check {
    let names = suites::of_section(section, &context.suites);
    let cmd = Cmd::cargo(["test", "--no-fail-fast", "--package", LIBRARY])
        .args(library_tests(&names, false));
    let check_name = names.join(", ");
    let none = names.is_empty();
    Check::new(check_name, move |run| {
        if none {
            return Ok(Outcome::failed("no test program belongs to this section"));
        }
        let printed = run.command(&cmd)?;
        Ok(Tally::Tests.outcome(&printed))
    })
}

/// Words that select test programs of the library.
pub(crate) fn library_tests(names: &[&str], with_lib: bool) -> Vec<String> {
    let mut words = vec!["--all-features".to_owned()];
    words.extend(with_lib.then(|| "--lib".to_owned()));
    words.extend(names.iter().map(|name| format!("--test={name}")));
    words
}

/// The library with the words of its rings replaced by loom's, compiled apart: the cfg is everybody's
/// in one build.
pub(crate) fn under_loom(word: &str, target: &Path) -> Cmd {
    Cmd::cargo([word, "--profile=loom", "--package", LIBRARY])
        .args(["--all-features", "--lib", "--target-dir"])
        .args([target])
        .env("RUSTFLAGS", "--cfg vring_loom")
}

fn loom(context: &Context) -> Vec<Check> {
    let target = context.target.join("loom");
    let models = under_loom("test", &target).args([ORDERING]);
    let lints = under_loom("clippy", &target).args(["--tests", "--", "-Dwarnings"]);
    vec![
        command("models", models, Tally::Tests),
        command("lints", lints, Tally::Command).needs(Need::CLIPPY),
    ]
}

/// All of what Miri does in one check: as many test programs at a time as there are cores, until
/// none is left.
fn miri(context: &Context) -> Vec<Check> {
    let mut jobs: Vec<(String, Cmd)> = Vec::new();
    // By target, as each is compiled on its own.
    let mut all: BTreeMap<Option<&str>, (&MiriRun, BTreeSet<&str>)> = BTreeMap::new();
    for run in suites::UNDER_MIRI {
        for name in suites::in_order(run.programs, &context.suites) {
            let shown = match name {
                suites::LIBRARY_TESTS => "the library's own",
                name => name,
            };
            jobs.push((format!("{}, {shown}", run.name), under_miri(&[name], run)));
            let (_, names) = all.entry(run.target).or_insert((run, BTreeSet::new()));
            names.insert(name);
        }
    }
    // Compiled first, and together: of those that run side by side, one would wait for the other.
    let compile: Vec<Cmd> = all
        .into_values()
        .map(|(run, names)| under_miri(&Vec::from_iter(names), run).args(["--no-run"]))
        .collect();
    let (names, cmds): (Vec<String>, Vec<Cmd>) = jobs.into_iter().unzip();
    let check = Check::new("both aliasing models, and 32 bits", move |run| {
        for compile in &compile {
            let printed = run.command(compile)?;
            if !printed.ok() {
                return Ok(Tally::Command.outcome(&printed));
            }
        }
        let mut all = Outcome::default();
        for (name, (printed, seconds)) in names.iter().zip(run.pool(&cmds)?) {
            let one = Tally::Tests.outcome(&printed);
            all.counts.add(one.counts);
            let failures = one.failures.iter();
            all.failures
                .extend(failures.map(|failure| format!("{name}: {failure}")));
            all.notes.push(format!(
                "{name}: {} tests, {seconds:.0} s",
                one.counts.passed
            ));
        }
        Ok(all)
    });
    vec![check.needs(needs_miri())]
}

/// What [`under_miri`] runs with.
pub(crate) fn needs_miri() -> Need {
    Need::Toolchain {
        name: "nightly".into(),
        components: &["miri", "rust-src"],
    }
}

/// Test programs, interpreted.
pub(crate) fn under_miri(programs: &[&str], run: &MiriRun) -> Cmd {
    let words = ["miri", "test", "--no-fail-fast", "--package", LIBRARY];
    let (libraries, names): (Vec<&str>, Vec<&str>) = programs
        .iter()
        .partition(|&&name| name == suites::LIBRARY_TESTS);
    let flags = [MIRI, run.flags];
    let target = run.target.map(|target| format!("--target={target}"));
    Cmd::cargo_of("nightly", words)
        .args(target)
        .args(library_tests(&names, !libraries.is_empty()))
        .env("MIRIFLAGS", flags.join(" ").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_has_checks_of_different_names_and_a_limit() {
        let context = Context::read().unwrap();
        let sections = all(&context);
        for section in &sections {
            assert!(!section.checks.is_empty(), "{}", section.name);
            assert!(section.limit > 0, "{}", section.name);
            for check in &section.checks {
                let same = section.checks.iter().filter(|c| c.name == check.name);
                assert_eq!(same.count(), 1, "{}: {}", section.name, check.name);
            }
        }
        assert!(sections.iter().any(|s| s.checks.iter().any(|c| c.quick)));
    }
}
