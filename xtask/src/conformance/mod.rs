//! `cargo xtask conformance`: what VIRTIO asks of a driver, and the tests that defend it.
//!
//! [`data`] reads the lists in `docs/conformance`, [`scan`] the tests in the sources, [`index`]
//! joins them. Nothing is compiled and no test is run: that the tests pass is for `cargo xtask
//! test`, which runs this, too.

mod data;
mod index;
mod scan;

use std::io::Write as _;

use anyhow::Context as _;
use clap::{Args, ValueEnum};

use self::data::{Data, Texts};
use self::index::Index;
use self::scan::Found;
use crate::qemu::report::write_atomically;
use crate::qemu::stop::{EXIT_FAILED, EXIT_USAGE, Stop};
use crate::qemu::{target_dir, workspace};

/// The directories with tests that defend statements, relative to the workspace.
const SOURCES: [&str; 3] = ["qemu-tests", "src", "tests"];

/// Joins what VIRTIO asks of a driver with the tests that defend it.
///
/// A closed area in which a statement is open, a closed bug class without a test, and a claim that
/// cannot be right are failures. How a test says what it defends is in docs/conformance/README.md.
/// Exit codes: 0 ok, 1 a failure, 2 usage. `target/conformance/report.json` is written on every
/// exit. The last line is the verdict.
#[derive(Args, Clone, Debug)]
pub(crate) struct ConformanceArgs {
    /// Only this area, each statement with its tests.
    #[arg(long)]
    area: Option<String>,
    /// What is printed on standard output.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,
}

/// See [`ConformanceArgs::format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Human,
    Json,
}

/// Runs the command; the exit code.
pub(crate) fn main(args: &ConformanceArgs, command: Vec<String>) -> u8 {
    let index = read(args.area.as_deref());
    let mut index = index.unwrap_or_else(|stop| Index::stopped(stop.exit_code(), stop.to_string()));
    index.command = command;
    let json = write(&mut index);
    let (printed, told) = match args.format {
        Format::Human => {
            let rows = index.human(args.area.is_some());
            let path = path();
            let text = format!("{rows}report: {}\n{}\n", path.display(), index.verdict());
            (text, String::new())
        }
        Format::Json => (json + "\n", index.verdict() + "\n"),
    };
    // A stream that is closed hears nothing.
    drop(std::io::stdout().write_all(printed.as_bytes()));
    drop(std::io::stderr().write_all(told.as_bytes()));
    index.exit_code
}

/// Writes the report of a command line that cannot be understood.
pub(crate) fn usage_error(command: Vec<String>, message: &str) {
    let mut index = Index::stopped(EXIT_USAGE, message.trim().into());
    index.command = command;
    write(&mut index);
}

/// The index of this workspace, of one area or of all.
pub(crate) fn read(area: Option<&str>) -> Result<Index, Stop> {
    let workspace = workspace();
    let data = Data::parse(&Texts::read(&workspace)?)?;
    if let Some(area) = area {
        let areas = data.areas();
        if !areas.contains(&area) {
            let known = areas.join(", ");
            return Err(Stop::Usage(format!("no area {area:?}; there are: {known}")));
        }
    }
    let mut found = Found::default();
    for dir in SOURCES {
        scan::directory(&workspace, dir, &mut found)?;
    }
    Ok(Index::of(&data, &found, area))
}

fn path() -> std::path::PathBuf {
    target_dir().join("conformance").join("report.json")
}

/// Writes the report; its text.
fn write(index: &mut Index) -> String {
    let text = serde_json::to_string_pretty(index).context("the report has no JSON form");
    let written = text.and_then(|text| {
        write_atomically(&path(), (text.clone() + "\n").as_bytes())?;
        Ok(text)
    });
    written.unwrap_or_else(|error| {
        *index = Index::stopped(EXIT_FAILED, format!("{error:#}"));
        String::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_that_does_not_exist_is_a_usage_error_that_names_those_that_do() {
        let stop = read(Some("splitt")).unwrap_err();
        assert_eq!(stop.exit_code(), EXIT_USAGE);
        assert!(stop.to_string().contains("core-status, "), "{stop}");
    }

    #[test]
    fn the_sources_hold_tests_and_no_claim_that_cannot_be_right() {
        let index = read(None).unwrap();
        assert!(index.problems.is_empty(), "{:#?}", index.problems);
        assert!(
            index
                .bug_classes
                .iter()
                .any(|class| !class.tests.is_empty())
        );
    }
}
