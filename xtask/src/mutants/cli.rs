//! The command line of `cargo xtask mutants`.

use clap::Args;

use crate::test::cli::Format;

/// Breaks the library on purpose, one change at a time, and demands that a named test fails.
///
/// The changes are in `tests/mutants.toml`. They are made in a copy of the workspace, in
/// `target/mutants/tree`. Exit codes: 0 all are caught, 1 one is not, 2 usage, 3 something that is
/// needed is not here, 4 a time limit ran out, 130 interrupted. `target/mutants/report.json` is
/// written on every exit, and `target/mutants/mutants.log` holds what the tests printed. The last
/// line is `N caught, N not`.
#[derive(Args, Clone, Debug)]
pub(crate) struct MutantsArgs {
    /// Only these mutants.
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "NAME")]
    pub(crate) only: Vec<String>,
    /// List the mutants, and run nothing.
    #[arg(long)]
    pub(crate) list: bool,
    /// What is printed on standard output.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
}
