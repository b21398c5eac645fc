//! Other targets than this machine, and every combination of features: what compiles, and tests
//! that run where pointers have 32 bits or the first byte is the most significant.
//!
//! Tests for another target are linked with the C library that rustup brings for musl, by the
//! linker that comes with the compiler, so that no other tool is needed. What they run on, besides
//! this machine's kernel, is QEMU's user mode: some ten times slower than the machine, where Miri is
//! a thousand times slower.

use super::context::{Context, LIBRARY};
use super::needs::{Need, crate_program};
use super::run::{Cmd, Run};
use super::section::{Check, Outcome};
use super::sections::{command, library_tests};
use super::suites;
use super::tally::Tally;
use crate::qemu::default_out;
use crate::qemu::provision::rust::TARGET as BARE_METAL;
use crate::qemu::provision::tools::emulator_at_hand;

/// What tries every combination of features.
const HACK: &str = "cargo-hack";
const HACK_VERSION: &str = "0.6.46";

/// Targets that the library is compiled for, besides this machine and [`BARE_METAL`].
const COMPILED: [&str; 7] = [
    "aarch64-unknown-none",
    "riscv64gc-unknown-none-elf",
    // 32 bits: with atomics of 64 bits and without them.
    I686,
    "armv7-unknown-linux-gnueabihf",
    "thumbv7em-none-eabi",
    "riscv32imac-unknown-none-elf",
    BIG_ENDIAN,
];

const I686: &str = "i686-unknown-linux-musl";
const BIG_ENDIAN: &str = "powerpc64-unknown-linux-musl";
/// Nothing that programs for [`I686`] and [`BIG_ENDIAN`] would load is on this machine.
const STATIC: [&str; 1] = ["-Ctarget-feature=+crt-static"];
/// What is run on 32 bits only: a panic that passes frames of optimized code ends a program for
/// [`BIG_ENDIAN`], whose unwinder does not find its way.
const UNWINDS: [&str; 1] = ["virtqueue_bookkeeping"];
/// What runs programs for [`BIG_ENDIAN`].
const BIG_ENDIAN_RUNNER: &str = "qemu-ppc64";

/// The section `build`.
pub(super) fn build(context: &Context) -> Vec<Check> {
    let mut checks: Vec<Check> = ["--no-default-features", "--all-features"]
        .map(|features| {
            let words = ["build", "--package", LIBRARY, "--target", BARE_METAL];
            let cmd = Cmd::cargo(words).args([features]);
            command(named(BARE_METAL, features), cmd, Tally::Command)
                .needs(Need::Target(BARE_METAL))
        })
        .into();
    checks.push(every_combination());
    for target in COMPILED {
        for features in ["--no-default-features", "--all-features"] {
            let cmd = Cmd::cargo(["clippy", "--package", LIBRARY, "--lib", features]).args([
                "--target",
                target,
                "--",
                "-Dwarnings",
            ]);
            let check = command(named(target, features), cmd, Tally::Command);
            checks.push(
                check
                    .needs(Need::CLIPPY)
                    .needs(Need::Target(target))
                    .optional(),
            );
        }
    }
    checks.push(oldest_compiler(context));
    checks
}

fn named(target: &str, features: &str) -> String {
    let features = features.trim_start_matches("--").replace('-', " ");
    format!("{target}, {features}")
}

/// Every combination of the library's features that is not the same as another one.
fn every_combination() -> Check {
    let work = |run: &mut Run<'_>| {
        let program = crate_program(HACK, HACK_VERSION).unwrap_or_else(|| HACK.into());
        // Which package it is has to be said twice: to cargo, it is an alias that says it.
        let cmd = Cmd::new(program, ["hack", "lint-library", "--package", LIBRARY])
            .args(["--feature-powerset", "--exclude-features=default"])
            .args(["--target", BARE_METAL, "--", "-Dwarnings"]);
        let printed = run.command(&cmd)?;
        let mut outcome = Tally::Command.outcome(&printed);
        outcome.notes.extend(combinations(&printed.text));
        Ok(outcome)
    };
    let name = format!("every combination of features, {BARE_METAL}");
    Check::new(name, work)
        .needs(Need::CLIPPY)
        .needs(Need::Target(BARE_METAL))
        .needs(Need::Crate {
            name: HACK,
            version: HACK_VERSION,
        })
        .optional()
}

/// How many there are, from `info: running ... (18/18)`.
fn combinations(text: &str) -> Option<String> {
    let last = text
        .lines()
        .rfind(|line| line.starts_with("info: running"))?;
    let (_, number) = last.trim_end().strip_suffix(')')?.rsplit_once('/')?;
    Some(format!("{number} combinations"))
}

fn oldest_compiler(context: &Context) -> Check {
    // A toolchain is named by all three numbers.
    let oldest = match context.rust_version.matches('.').count() {
        1 => format!("{}.0", context.rust_version),
        _ => context.rust_version.clone(),
    };
    let cmd = Cmd::cargo_of(&oldest, ["check", "--workspace", "--all-targets"]);
    command(format!("oldest compiler, {oldest}"), cmd, Tally::Command)
        .needs(Need::Toolchain {
            name: oldest,
            components: &[],
        })
        .optional()
}

/// The section `targets`.
pub(super) fn tests(context: &Context) -> Vec<Check> {
    vec![
        tests_on("32 bits", I686, None, context)
            .needs(Need::Target(I686))
            .needs(Need::Programs32)
            .optional(),
        tests_on("big-endian", BIG_ENDIAN, Some(BIG_ENDIAN_RUNNER), context)
            .needs(Need::Target(BIG_ENDIAN))
            .needs(Need::Emulator(BIG_ENDIAN_RUNNER))
            .optional(),
    ]
}

fn tests_on(
    what: &str,
    target: &'static str,
    runner: Option<&'static str>,
    context: &Context,
) -> Check {
    let programs = suites::in_order(suites::ON_OTHER_TARGETS, &context.suites);
    let names: Vec<&str> = programs
        .into_iter()
        .filter(|name| *name != suites::LIBRARY_TESTS)
        .filter(|name| target != BIG_ENDIAN || !UNWINDS.contains(name))
        .collect();
    let cmd = Cmd::cargo(["test", "--no-fail-fast", "--package", LIBRARY])
        .args(["--target", target])
        .args(library_tests(&names, true))
        .args(["--config", &format!("target.{target}.linker = 'rust-lld'")])
        .args([
            "--config",
            &format!("target.{target}.rustflags = {STATIC:?}"),
        ])
        // They are compiled for this run alone, and links are faster without.
        .env("CARGO_PROFILE_DEV_DEBUG", "none");
    Check::new(format!("{what}, {target}"), move |run| {
        let mut cmd = cmd.clone();
        if let Some(program) = runner {
            let Some(tool) = emulator_at_hand(&default_out().join("cache"), program) else {
                return Ok(Outcome::failed(format!("{program} was there, and is gone")));
            };
            // Its libraries are for it alone.
            let libraries = tool
                .library_path
                .map(|path| format!("LD_LIBRARY_PATH={path}"));
            let words = ["env".to_owned()].into_iter().chain(libraries);
            let words: Vec<String> = words.chain([tool.path.display().to_string()]).collect();
            cmd = cmd
                .args(["--config", &format!("target.{target}.runner = {words:?}")])
                // Where each instruction costs ten, fewer of them are worth compiling for.
                .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
        }
        let printed = run.command(&cmd)?;
        Ok(Tally::Tests.outcome(&printed))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_are_counted_by_who_tries_them() {
        let text = "info: running `cargo lint-library` on vring (1/2)\n    Checking vring\n\
            info: running `cargo lint-library --features alloc` on vring (2/2)\n    Finished";
        assert_eq!(combinations(text).as_deref(), Some("2 combinations"));
        assert_eq!(combinations("error: no such command"), None);
    }
}
