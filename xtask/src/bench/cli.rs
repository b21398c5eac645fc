//! The command line of `cargo xtask bench`.

use std::fmt;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

/// What `--require` takes for every group.
const ALL: &str = "all";

/// Measures the crate beside its competitors, all in one run, and writes what it saw.
///
/// A competitor or a tool that this machine cannot have is skipped, with the reason and what to do
/// about it. Exit codes: 0 ok, 1 a group failed or an instruction budget is exceeded, 2 usage, 3 a
/// required group cannot run here, 4 a time limit ran out, 130 interrupted. `report.json`,
/// `report.md` and the plots are in `target/bench`; a full run takes less than 30 minutes, builds
/// aside, and `--quick` less than 4.
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArgs {
    /// Only these groups.
    #[arg(long, value_enum, num_args = 1.., value_delimiter = ',', value_name = "GROUP")]
    pub(crate) only: Vec<Group>,
    /// A few samples of everything: shows that it works, and gives no figure to quote.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Groups that fail when they, or one of their contenders, cannot run; or all.
    #[arg(long, num_args = 1.., value_delimiter = ',', value_name = "GROUP", value_parser = required())]
    pub(crate) require: Vec<String>,
    /// Install what is missing without asking (also with CI=true).
    #[arg(long)]
    pub(crate) yes: bool,
    /// Draw nothing.
    #[arg(long)]
    pub(crate) no_plots: bool,
}

impl BenchArgs {
    /// The groups that were asked for, in their order.
    pub(crate) fn groups(&self) -> Vec<Group> {
        let mut groups = Group::value_variants().to_vec();
        groups.retain(|group| self.only.is_empty() || self.only.contains(group));
        groups
    }

    /// Whether a group fails when something of it cannot run.
    pub(crate) fn requires(&self, group: Group) -> bool {
        let name = group.name();
        self.require.iter().any(|word| word == ALL || word == name)
    }
}

fn required() -> PossibleValuesParser {
    let names = Group::value_variants().iter().map(|group| group.name());
    PossibleValuesParser::new(std::iter::once(ALL).chain(names))
}

/// What is measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Group {
    /// Instructions of a round, counted by callgrind.
    Instructions,
    /// Time of a round, driver and device in one thread.
    OneThread,
    /// Driver and a minimal device on two cores.
    TwoCores,
    /// The driver side of DPDK's vhost port.
    NativeNet,
    /// The driver side of QEMU's block export.
    NativeBlock,
    /// Kicks, interrupts and register accesses of a guest in QEMU.
    Guest,
    /// Bytes of code and of memory of a minimal network driver.
    Size,
}

impl Group {
    /// As it is written everywhere.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::OneThread => "one-thread",
            Self::TwoCores => "two-cores",
            Self::NativeNet => "native-net",
            Self::NativeBlock => "native-block",
            Self::Guest => "guest",
            Self::Size => "size",
        }
    }

    /// What a person reads above its tables.
    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Instructions => {
                "Instructions of a round: add, publish, decide the kick, reap. Counted by \
                 callgrind, the caller's loop included and the device's part left out; the same in \
                 every run."
            }
            Self::OneThread => "Time of a round with driver and device in one thread.",
            Self::TwoCores => {
                "Driver and a minimal device in one process, a core each, both polling."
            }
            Self::NativeNet => {
                "The driver side of a vhost-user socket, dpdk-testpmd's vhost port behind it; \
                 frames of 64 bytes. DPDK's own driver on the same port, in turn."
            }
            Self::NativeBlock => {
                "The driver side of a vhost-user socket, qemu-storage-daemon's block export behind \
                 it; reads of 512 bytes."
            }
            Self::Guest => {
                "A guest in QEMU, each packet answered by its peer. Doorbell stores and register \
                 accesses are what leaves a virtual machine, counted in the driver; interrupts are \
                 what enters it."
            }
            Self::Size => {
                "A minimal network driver on bare metal that sends a frame and receives one, \
                 optimized for size: code, and the memory that it takes."
            }
        }
    }

    /// Seconds that its measurement may take, builds aside; they sum up to less than a run may.
    pub(crate) fn seconds(self, quick: bool) -> u64 {
        match (self, quick) {
            (Self::Instructions, false) => 240,
            (Self::OneThread, false) => 60,
            (Self::TwoCores, false) => 360,
            (Self::NativeNet, false) => 420,
            (Self::NativeBlock, false) => 240,
            (Self::Guest, false) => 300,
            (Self::Size, false) => 30,
            (Self::Instructions, true) => 60,
            (Self::OneThread, true) => 10,
            (Self::TwoCores, true) => 20,
            (Self::NativeNet, true) => 40,
            (Self::NativeBlock, true) => 20,
            (Self::Guest, true) => 60,
            (Self::Size, true) => 20,
        }
    }

    /// Figures that are counted, and the same each time: one is enough.
    pub(crate) fn is_exact(self) -> bool {
        matches!(self, Self::Instructions | Self::Guest | Self::Size)
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn parse(words: &[&str]) -> Result<BenchArgs, clap::Error> {
        Cli::try_parse_from(["bench"].iter().chain(words)).map(|cli| cli.bench)
    }

    #[test]
    fn groups_keep_their_order_and_are_all_by_default() {
        let some = parse(&["--only", "size,guest", "--require", "size"]).unwrap();
        assert_eq!(some.groups(), [Group::Guest, Group::Size]);
        assert!(some.requires(Group::Size) && !some.requires(Group::Guest));
        let all = parse(&["--require", "all"]).unwrap();
        assert_eq!(all.groups(), Group::value_variants());
        assert!(all.requires(Group::NativeNet));
    }

    #[test]
    fn a_group_that_does_not_exist_is_a_usage_error() {
        assert!(parse(&["--only", "sizes"]).is_err());
        assert!(
            parse(&["--only", "all"]).is_err(),
            "everything is the default"
        );
        assert!(parse(&["--require", "sizes"]).is_err());
    }

    #[test]
    fn a_run_ends_in_time_and_names_are_the_same_everywhere() {
        let sum = |quick| -> u64 {
            let all = Group::value_variants().iter();
            all.map(|group| group.seconds(quick)).sum()
        };
        assert!(sum(false) < 28 * 60 && sum(true) <= 4 * 60);
        for group in Group::value_variants() {
            let name = group.name();
            assert_eq!(Group::from_str(name, false), Ok(*group));
            assert_eq!(serde_json::to_value(group).unwrap(), name);
        }
    }
}
