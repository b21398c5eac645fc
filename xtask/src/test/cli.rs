//! The command line of `cargo xtask test`.

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};

use super::sections;

/// What `--require` takes for every section.
pub(crate) const ALL: &str = "all";

/// Runs what must hold before a change is taken, section by section.
///
/// A section that this machine cannot run is skipped, with the reason and what to do about it.
/// Exit codes: 0 ok, 1 a check failed, 2 usage, 3 a required section cannot run here, 4 a time
/// limit ran out, 130 interrupted. `target/test/report.json` is written on every exit, and each
/// section has a log beside it. The last line is `N passed, N failed, N skipped`.
#[derive(Args, Clone, Debug)]
pub(crate) struct TestArgs {
    /// Only what takes about a minute when everything is compiled.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only these sections.
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "SECTION", value_parser = names(false))]
    pub(crate) only: Vec<String>,
    /// Sections that fail when they cannot run, instead of being skipped.
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "SECTION", value_parser = names(true))]
    pub(crate) require: Vec<String>,
    /// What is printed on standard output.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
    /// Install what is missing without asking (also with CI=true).
    #[arg(long)]
    pub(crate) yes: bool,
    /// List the sections and their checks, and run nothing.
    #[arg(long)]
    pub(crate) list: bool,
}

impl TestArgs {
    /// Whether a section fails when it cannot run.
    pub(crate) fn requires(&self, section: &str) -> bool {
        self.require
            .iter()
            .any(|name| name == ALL || name == section)
    }

    /// Whether a section was asked for.
    pub(crate) fn selects(&self, section: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == section)
    }
}

fn names(with_all: bool) -> PossibleValuesParser {
    let all = with_all.then_some(ALL);
    PossibleValuesParser::new(all.into_iter().chain(sections::NAMES))
}

/// See [`TestArgs::format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Human,
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        test: TestArgs,
    }

    fn parse(words: &[&str]) -> Result<TestArgs, clap::Error> {
        Cli::try_parse_from(["test"].iter().chain(words)).map(|cli| cli.test)
    }

    #[test]
    fn sections_are_named_one_by_one_or_with_commas() {
        let args = parse(&["--only", "unit", "miri", "--require", "unit,probe"]).unwrap();
        assert!(args.selects("unit") && args.selects("miri") && !args.selects("lints"));
        assert!(args.requires("probe") && !args.requires("miri"));
        assert!(parse(&["--require", ALL]).unwrap().requires("miri"));
        assert!(parse(&[]).unwrap().selects("miri"));
    }

    #[test]
    fn a_section_that_does_not_exist_is_a_usage_error() {
        assert!(parse(&["--only", "units"]).is_err());
        assert!(
            parse(&["--only", ALL]).is_err(),
            "everything is the default"
        );
    }
}
