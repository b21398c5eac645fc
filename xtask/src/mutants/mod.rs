//! `cargo xtask mutants`: the library is broken on purpose, and a named test must say so.
//!
//! A mutant is data, in [`list::FILE`]: a text in a file, what takes its place, and the tests that
//! must fail. The tests first pass on the copy of the workspace as it is; then, one mutant at a
//! time, the copy is changed, exactly those tests are run, and the copy is changed back. A mutant
//! that does not compile, or whose test is not there, is not caught.
//!
//! Two lanes go side by side, each with a copy of its own, as the compiler has little for a second
//! core in a small change. The mutants of one test program are in one lane.

pub(crate) mod cli;
mod list;
mod report;
mod tree;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc;
use std::time::Instant;

use anyhow::Context as _;

use self::cli::MutantsArgs;
use self::list::{Mutant, Program};
use self::report::{Report, Row};
use self::tree::{Broken, Tree};
use self::verdict::Verdict;
use crate::qemu::stop::{EXIT_FAILED, EXIT_OK, Stop};
use crate::qemu::{limits, session, target_dir};
use crate::test::cli::Format;
use crate::test::context::{Context, LIBRARY};
use crate::test::needs::Need;
use crate::test::run::{Cmd, Run};
use crate::test::section::{Check, Outcome};
use crate::test::sections::{needs_miri, under_loom, under_miri};
use crate::test::suites::{LIBRARY_TESTS, ON_32_BITS};
use crate::told::told;

/// For the tests of one mutant, compiling them included.
const SECONDS: u64 = 300;
/// For all of a run.
const ALL_SECONDS: u64 = 3600;

/// Runs the command; the exit code.
pub(crate) fn main(args: &MutantsArgs, command: Vec<String>) -> u8 {
    limits::catch_signals();
    if args.list {
        return show_list(args);
    }
    let out = target_dir().join("mutants");
    let _lock = match session::lock(&out) {
        Ok(lock) => lock,
        Err(stop) => {
            eprintln!("another run writes to {}: wait for it", out.display());
            return stop.exit_code();
        }
    };
    let path = out.join("report.json");
    let mut report = Report::unfinished(command);
    if let Err(error) = report.write(&path) {
        eprintln!("{error:#}");
        return EXIT_FAILED;
    }
    match run(args, &out, &mut report) {
        Ok(()) => report.finish(),
        Err(stop) => report.stopped(stop.exit_code(), stop.to_string()),
    }
    if let Err(error) = report.write(&path) {
        eprintln!("{error:#}");
        report.stopped(EXIT_FAILED, format!("{error:#}"));
    }
    if let Some(error) = &report.error {
        eprintln!("{error}");
    }
    match args.format {
        Format::Human => told(format_args!(
            "report: {}\n{}",
            path.display(),
            report.totals()
        )),
        Format::Json => told(format_args!("{}", report.json().unwrap_or_default())),
    }
    report.exit_code
}

/// Writes the report of a command line that cannot be understood, where a run's would have been.
pub(crate) fn usage_error(command: Vec<String>, message: &str) {
    let out = target_dir().join("mutants");
    // A run that holds the place keeps its report.
    let Ok(_lock) = session::lock(&out) else {
        return;
    };
    let mut report = Report::unfinished(command);
    let stop = Stop::Usage(message.trim().into());
    report.stopped(stop.exit_code(), stop.to_string());
    if let Err(error) = report.write(&out.join("report.json")) {
        eprintln!("{error:#}");
    }
}

fn run(args: &MutantsArgs, out: &Path, report: &mut Report) -> Result<(), Stop> {
    let context = Context::read()?;
    let mutants = selected(args, &context.workspace)?;
    let mut run = Run::new(&context, &out.join("mutants.log"), ALL_SECONDS)?;
    play(&mut run, mutants, |row| {
        match args.format {
            Format::Human => told(format_args!("{}", row.line())),
            Format::Json => eprintln!("{}", row.line()),
        }
        report.push(row);
    })
}

/// The section of `cargo xtask test`.
pub(crate) fn checks() -> Vec<Check> {
    let check = Check::new("mutants", |run| {
        let out = run.context.target.join("mutants");
        let _lock = session::lock(&out)?;
        let mutants = read(&run.context.workspace)?;
        let mut report = Report::unfinished(vec!["test".into()]);
        let mut outcome = Outcome::default();
        let played = play(run, mutants, |row| {
            outcome.judge(row.caught(), || row.line());
            report.push(row);
        });
        match &played {
            Ok(()) => report.finish(),
            Err(stop) => report.stopped(stop.exit_code(), stop.to_string()),
        }
        report.write(&out.join("report.json"))?;
        played.map(|()| outcome)
    });
    let git = Need::Program {
        program: "git",
        package: "git",
    };
    vec![check.needs(git).needs(needs_miri())]
}

fn read(workspace: &Path) -> anyhow::Result<Vec<Mutant>> {
    let path = workspace.join(list::FILE);
    let read = || -> anyhow::Result<_> { list::parse(&std::fs::read_to_string(&path)?) };
    read().with_context(|| path.display().to_string())
}

/// The mutants that the command line asks for.
fn selected(args: &MutantsArgs, workspace: &Path) -> Result<Vec<Mutant>, Stop> {
    let mut mutants = read(workspace)?;
    for name in &args.only {
        if !mutants.iter().any(|mutant| &mutant.name == name) {
            let list = "cargo xtask mutants --list";
            return Err(Stop::Usage(format!("no mutant is named {name}: {list}")));
        }
    }
    mutants.retain(|mutant| args.only.is_empty() || args.only.contains(&mutant.name));
    Ok(mutants)
}

fn show_list(args: &MutantsArgs) -> u8 {
    let mutants = match selected(args, &crate::qemu::workspace()) {
        Ok(mutants) => mutants,
        Err(stop) => {
            eprintln!("{stop}");
            return stop.exit_code();
        }
    };
    if args.format == Format::Json {
        let rows: Vec<serde_json::Value> = mutants
            .iter()
            .map(|mutant| {
                serde_json::json!({
                    "name": mutant.name,
                    "breaks": mutant.breaks,
                    "statements": mutant.statements,
                    "file": mutant.file,
                    "run": mutant.run,
                    "fails": mutant.fails,
                })
            })
            .collect();
        told(format_args!("{:#}", serde_json::Value::Array(rows)));
        return EXIT_OK;
    }
    for mutant in mutants {
        told(format_args!(
            "{} ({}): {}",
            mutant.name, mutant.file, mutant.breaks
        ));
        for test in &mutant.fails {
            told(format_args!(
                "  {}: {test}",
                String::from(mutant.run.clone())
            ));
        }
    }
    EXIT_OK
}

/// Plays the mutants, and tells of each as it ends.
fn play(run: &mut Run<'_>, mutants: Vec<Mutant>, mut tell: impl FnMut(Row)) -> Result<(), Stop> {
    let (context, seconds) = (run.context, run.left());
    let (sender, rows) = mpsc::channel();
    std::thread::scope(|scope| {
        let lanes: Vec<_> = deal(mutants)
            .into_iter()
            .enumerate()
            .map(|(number, mutants)| {
                let (number, sender) = (number + 1, sender.clone());
                let out = context.target.join(format!("mutants/lane-{number}"));
                scope.spawn(move || -> Result<(), Stop> {
                    std::fs::create_dir_all(&out)
                        .with_context(|| format!("cannot make {}", out.display()))?;
                    let mut run = Run::new(context, &out.join("mutants.log"), seconds)?;
                    // Who listens does so to the end.
                    play_lane(&mut run, mutants, &out, |row| drop(sender.send(row)))
                })
            })
            .collect();
        drop(sender);
        let mut said = Ok(());
        for row in rows {
            said = said.and(run.say(&row.line()));
            tell(row);
        }
        let panicked = || Err(Stop::Broken(anyhow::anyhow!("a lane panicked")));
        let ends = lanes
            .into_iter()
            .map(|lane| lane.join().unwrap_or_else(|_| panicked()));
        // All are waited for before the first that went wrong is told.
        ends.fold(said, Result::and)
    })
}

/// Deals mutants to two lanes, those of a test program to one of them, and so that neither has much
/// more than the other; an empty lane is none.
fn deal(mutants: Vec<Mutant>) -> Vec<Vec<Mutant>> {
    let mut groups: BTreeMap<Program, Vec<Mutant>> = BTreeMap::new();
    for mutant in mutants {
        groups.entry(mutant.run.clone()).or_default().push(mutant);
    }
    let mut groups: Vec<Vec<Mutant>> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
    let mut lanes = [Vec::new(), Vec::new()];
    for group in groups {
        let [first, second] = &mut lanes;
        let lane = if second.len() < first.len() {
            second
        } else {
            first
        };
        lane.extend(group);
    }
    lanes.into_iter().filter(|lane| !lane.is_empty()).collect()
}

/// Plays the mutants of a lane, in a copy of the workspace in its directory.
fn play_lane(
    run: &mut Run<'_>,
    mutants: Vec<Mutant>,
    out: &Path,
    mut tell: impl FnMut(Row),
) -> Result<(), Stop> {
    let tree = Tree::prepare(run, out.join("tree"))?;
    let mut programs: BTreeMap<Program, BTreeSet<String>> = BTreeMap::new();
    for mutant in &mutants {
        let names = programs.entry(mutant.run.clone()).or_default();
        names.extend(mutant.fails.iter().cloned());
    }
    for (program, names) in programs {
        let names: Vec<String> = names.into_iter().collect();
        let cmd = command(&program, &names, out);
        let printed = run.command_in(&cmd, tree.root())?;
        let bad = verdict::not_passed(&printed.text, &names);
        if !bad.is_empty() {
            let text = crate::qemu::process::tail(&printed.text, 40);
            return Err(Stop::Broken(anyhow::anyhow!(
                "without any mutant, these do not pass: {}\n{text}",
                bad.join(", ")
            )));
        }
    }
    for mutant in mutants {
        let start = Instant::now();
        run.say(&format!("mutant {}: {}", mutant.name, mutant.breaks))?;
        let verdict = judge(run, &tree, &mutant, out)?;
        let row = Row::new(mutant, verdict, start.elapsed().as_secs_f64());
        run.say(&row.line())?;
        tell(row);
    }
    Ok(())
}

/// Makes the change, runs the tests, and takes the change back.
fn judge(run: &mut Run<'_>, tree: &Tree, mutant: &Mutant, out: &Path) -> Result<Verdict, Stop> {
    let sound = match tree.read(&mutant.file) {
        Ok(sound) => sound,
        Err(error) => return Ok(Verdict::DoesNotApply(format!("{error:#}"))),
    };
    let mutated = match mutant.apply(&sound) {
        Ok(mutated) => mutated,
        Err(error) => return Ok(Verdict::DoesNotApply(format!("{error:#}"))),
    };
    let _broken = Broken::new(tree, &mutant.file, sound, &mutated)?;
    let cmd = command(&mutant.run, &mutant.fails, out);
    let printed = run.command_within(&cmd, tree.root(), SECONDS)?;
    Ok(printed.map_or(Verdict::TimeLimit, |printed| {
        Verdict::of(&printed, &mutant.fails)
    }))
}

/// Runs the named tests of a program, and no others.
fn command(program: &Program, names: &[String], out: &Path) -> Cmd {
    let plain = || {
        Cmd::cargo([
            "test",
            "--package",
            LIBRARY,
            "--all-features",
            "--target-dir",
        ])
        .args([out.join("target")])
    };
    let cmd = match program {
        Program::Loom => under_loom("test", &out.join("loom")),
        Program::Lib => plain().args(["--lib"]),
        Program::Test(name) => plain().args([format!("--test={name}")]),
        Program::Miri32 => {
            let target = [Path::new("--target-dir"), &out.join("miri")];
            under_miri(&[LIBRARY_TESTS], &ON_32_BITS).args(target)
        }
    };
    // Mutants are small changes to the same program, on machines for CI too; nobody debugs them; and
    // what the tests say is read.
    cmd.env("CARGO_INCREMENTAL", "1")
        .env("CARGO_PROFILE_DEV_DEBUG", "none")
        .env("CARGO_PROFILE_LOOM_DEBUG", "none")
        .env("CARGO_TERM_QUIET", "false")
        .args(["--", "--exact"])
        .args(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mutant_is_in_one_lane_and_those_of_a_program_stay_together() {
        let mutants = read(&crate::qemu::workspace()).unwrap();
        let names = |mutants: &[Mutant]| -> BTreeSet<String> {
            mutants.iter().map(|mutant| mutant.name.clone()).collect()
        };
        let programs = |mutants: &[Mutant]| -> BTreeSet<Program> {
            mutants.iter().map(|mutant| mutant.run.clone()).collect()
        };
        let [first, second] = <[_; 2]>::try_from(deal(mutants.clone())).unwrap();
        assert!(programs(&first).is_disjoint(&programs(&second)));
        assert_eq!(first.len() + second.len(), mutants.len());
        assert_eq!(&names(&first) | &names(&second), names(&mutants));
        let one = mutants.into_iter().take(1).collect();
        assert_eq!(deal(one).len(), 1, "a lane that has nothing to do is none");
    }
}
