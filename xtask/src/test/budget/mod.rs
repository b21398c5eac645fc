//! The `budget` section: instructions of a round on the data path.
//!
//! Instructions, not seconds: the same program gives the same count on a busy machine. They depend
//! on the compiler, so that `tests/budget/budget.toml` keeps figures by compiler version; with
//! another compiler the figures are printed, and nothing is judged.
//!
//! The program is built three times: with both rings, as everybody has it, and with one of them
//! only, which tells what choosing the ring at run time costs a call.

pub(crate) mod callgrind;
mod figures;

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use self::figures::{Budget, Compiler, Measured};
use super::needs::Need;
use super::run::{Cmd, Run};
use super::section::{Check, Outcome};
use crate::qemu::limits::Deadline;
use crate::qemu::process;
use crate::qemu::stop::Stop;

/// The package that holds the rounds, and its binary.
const PACKAGE: &str = "budget";
/// The function of it that plays the device, whose instructions are not the driver's.
const DEVICE: &str = "Device::run";

pub(crate) fn checks() -> Vec<Check> {
    vec![
        Check::new("instructions per round", work).needs(Need::Program {
            program: "valgrind",
            package: "valgrind",
        }),
    ]
}

/// Measures every round, and judges it.
pub(crate) fn work(run: &mut Run<'_>) -> Result<Outcome, Stop> {
    let dir = run.context.workspace.join("tests/budget");
    let path = dir.join("budget.toml");
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let budget = Budget::parse(&text)?;
    let target = run.context.target.clone();
    let measured = match measure_all(run, &budget, &target, "", &budget.modes)? {
        Ok(figures) => figures,
        Err(why) => return Ok(Outcome::failed(why)),
    };
    let mut alone = Vec::new();
    for (ring, modes) in budget.modes_by_ring() {
        match measure_all(
            run,
            &budget,
            &target.join("one-ring").join(ring),
            ring,
            &modes,
        )? {
            Ok(figures) => alone.extend(figures),
            Err(why) => return Ok(Outcome::failed(why)),
        }
    }
    let outcome = budget.judge(&compiler()?, &measured, &alone);
    for note in &outcome.notes {
        run.say(note)?;
    }
    Ok(outcome)
}

/// Builds the rounds, with one ring only if it is named, and measures every function in these
/// modes.
fn measure_all(
    run: &mut Run<'_>,
    budget: &Budget,
    target: &Path,
    ring: &str,
    modes: &[String],
) -> Result<Result<Vec<Measured>, String>, Stop> {
    let build = Cmd::cargo(["build", "--release", "--package", PACKAGE, "--target-dir"]);
    let mut build = build.args([target]);
    if !ring.is_empty() {
        build = build.env("RUSTFLAGS", format!("--cfg vring_ring=\"{ring}\""));
    }
    if !run.command(&build)?.ok() {
        return Ok(Err("the rounds do not build".into()));
    }
    let program = target.join("release").join(PACKAGE);
    let mut measured = Vec::new();
    for mode in modes {
        for function in &budget.functions {
            match measure(run, &program, mode, function)? {
                Ok(figure) => measured.push((mode.clone(), function.clone(), figure)),
                Err(why) => return Ok(Err(format!("{function}, {mode}: {why}"))),
            }
        }
    }
    Ok(Ok(measured))
}

/// Instructions of a round of one function, or why they cannot be told.
fn measure(
    run: &mut Run<'_>,
    program: &Path,
    mode: &str,
    function: &str,
) -> Result<Result<f64, String>, Stop> {
    let profile = tempfile::Builder::new()
        .prefix("callgrind-")
        .tempfile_in(&run.context.out)
        .context("cannot make a file for callgrind")?;
    let function = format!("::{function}");
    let cmd = Cmd::new("valgrind", callgrind::words(profile.path(), &function))
        .args([program])
        .args([mode]);
    let printed = run.command(&cmd)?;
    if !printed.ok() {
        return Ok(Err(printed.ending()));
    }
    let text = std::fs::read_to_string(profile.path()).context("cannot read the profile")?;
    Ok(callgrind::per_round(&printed.text, &text, DEVICE))
}

/// The compiler at hand.
fn compiler() -> Result<Compiler, Stop> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.arg("-vV");
    let output = process::run_ok(&mut command, Deadline::seconds(60))?;
    Ok(Compiler::parse(&output.stdout).context("rustc does not tell its version")?)
}
