//! The command line of `cargo xtask qemu`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

use vring_protocol::{Options, Transport};

use super::arch::Arch;
use super::attach::{self, Attach, Bars, PciStack, Registers};
use super::features::{Ring, Steer};
use super::stop::Stop;

/// The net suite's traffic, unless it is said.
const PINGS: u32 = 100;
/// See [`PINGS`].
const TCP_MIB: u64 = 8;
/// See [`PINGS`].
const DATAGRAMS: u32 = 70_000;
/// See [`PINGS`].
const BURST: u32 = 20_000;
/// See [`PINGS`].
const BATCHES: u32 = 0;

/// Boots the guest in QEMU against a real host path, and proves which one ran.
///
/// Exit codes: 0 ok, 1 a check failed, 2 usage, 3 something is missing, 4 a time limit ran out,
/// 130 interrupted. `target/qemu/report.json` is written on every exit.
#[derive(Args, Clone, Debug)]
pub(crate) struct QemuArgs {
    /// Where the kernel's vhost comes from.
    #[arg(long, value_enum, default_value_t = VhostMode::Auto)]
    pub(crate) vhost: VhostMode,
    /// What the guest is compiled for. Others than x86_64 are emulated, on QEMU's `virt`.
    #[arg(long, value_enum, default_value_t = Arch::X86_64)]
    pub(crate) arch: Arch,
    /// QEMU's machine for the guest; q35, or microvm where the transport is one over MMIO, or for
    /// other architectures virt.
    #[arg(long, value_enum)]
    pub(crate) machine: Option<Machine>,
    /// How the guest drives the network card; pci-modern, or on microvm mmio.
    #[arg(long, value_parser = attach::transports())]
    pub(crate) transport: Option<Transport>,
    /// Which interfaces a network card on PCI has; the one that is driven.
    #[arg(long, value_enum)]
    pub(crate) nic: Option<Nic>,
    /// How the driver reaches the card's registers. Counted, every access is a call of a function,
    /// as a hypercall would be, and what goes past them is a fault.
    #[arg(long, value_enum, default_value_t = Registers::Plain)]
    pub(crate) registers: Registers,
    /// By what the driver reaches PCI configuration space.
    #[arg(long, value_enum, default_value_t = PciStack::Crate)]
    pub(crate) pci_stack: PciStack,
    /// Who gives the card its addresses: those in memory are taken away and assigned anew.
    #[arg(long, value_enum, default_value_t = Bars::Firmware)]
    pub(crate) bars: Bars,
    /// What runs the guest; auto tries KVM by booting the guest under it.
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub(crate) accel: Accel,
    /// Runs the table of rings, features, sizes, architectures, transports and interrupts, a short
    /// check of each, instead of one run.
    #[arg(long, conflicts_with_all = ["ring", "features", "queue_size", "interrupts", "suite", "vectors", "arch", "machine",
        "transport", "nic", "registers", "pci_stack", "bars",
        "pings", "tcp_mib", "datagrams", "burst", "batches", "cpus", "queue_pairs", "guest"])]
    pub(crate) matrix: bool,
    /// Of the matrix, only cells whose name contains this; may be given more than once.
    #[arg(long, value_name = "PART", requires = "matrix")]
    pub(crate) cell: Vec<String>,
    /// The ring that QEMU offers and the driver insists on. The kernel's vhost has no packed ring:
    /// `--vhost off` for that.
    #[arg(long, value_enum)]
    pub(crate) ring: Option<Ring>,
    /// Features: +x is offered and required, -x is not offered, ~x is offered and refused. Names as
    /// in the specification or QEMU, separated by commas.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        allow_hyphen_values = true,
        value_name = "+x,-y,~z"
    )]
    pub(crate) features: String,
    /// Size of the queues that the driver asks for. QEMU allows 1024 for receiving and 256 for
    /// sending; a split ring is a power of two.
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=32768))]
    pub(crate) queue_size: u16,
    /// How the guest learns of completions: it insists. msix, or over MMIO, where there is only a
    /// line, intx. On riscv64 msix also chooses the interrupt controller that takes messages.
    #[arg(long, value_enum)]
    pub(crate) interrupts: Option<Interrupts>,
    /// What the guest does. The interrupts suite tries them one property after the other, and its
    /// traffic is its own: two cards share a line, the link goes down and up, interrupts are late,
    /// held back and nobody's; at the end the ways to wait are measured. It takes `--vhost off`, as
    /// only QEMU's user-mode network answers late enough.
    #[arg(long, value_enum, default_value_t = Suite::Net)]
    pub(crate) suite: Suite,
    /// Vectors of the card's MSI-X table; 0 leaves the table out. QEMU's choice otherwise.
    #[arg(long)]
    pub(crate) vectors: Option<u16>,
    /// Pings each way.
    #[arg(long, default_value_t = PINGS, value_parser = clap::value_parser!(u32).range(1..=60_000))]
    pub(crate) pings: u32,
    /// MiB of TCP each way.
    #[arg(long, default_value_t = TCP_MIB, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub(crate) tcp_mib: u64,
    /// Paced UDP datagrams each way; 70000 wrap both available indices.
    #[arg(long, default_value_t = DATAGRAMS, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) datagrams: u32,
    /// Unpaced UDP datagrams each way.
    #[arg(long, default_value_t = BURST, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) burst: u32,
    /// Packets that the guest sends at the end in batches of 1 and of 64, counting doorbell stores,
    /// interrupts and register accesses. Queues have to have room for 64.
    #[arg(long, default_value_t = BATCHES, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub(crate) batches: u32,
    /// Processors of the guest. Those beside the first are checked, and the second drives a queue pair
    /// of its own with `--queue-pairs 2`.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=2))]
    pub(crate) cpus: Option<u16>,
    /// Queue pairs of the network card. With two, the guest drives each from a processor of its own at
    /// the end; the back end is a tap, as QEMU's user-mode network has one pair.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=2))]
    pub(crate) queue_pairs: u16,
    /// Seconds that the run itself may take, building and fetching aside; 600, for a matrix 2400.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub(crate) time_limit: Option<u64>,
    /// A guest that is built already, instead of building it.
    #[arg(long, value_name = "ELF")]
    pub(crate) guest: Option<PathBuf>,
    /// Where report.json and the artifacts go, instead of target/qemu.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Install missing system packages without asking (also with CI=true).
    #[arg(long)]
    pub(crate) yes: bool,
    /// What is printed on standard output.
    #[arg(long, value_enum, default_value_t = Format::Human)]
    pub(crate) format: Format,
    /// Print nothing but the verdict.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

impl QemuArgs {
    /// What the ring and the features ask for, and whether the size goes with it.
    ///
    /// # Errors
    /// [`Stop::Usage`], and [`Stop::Missing`] for what QEMU, or the kernel's vhost, cannot offer.
    pub(crate) fn steer(&self) -> Result<Steer, Stop> {
        let steer = Steer::new(self.ring, &self.features)?;
        if steer.ring() == Some("packed") && self.vhost != VhostMode::Off {
            return Err(Stop::missing(
                "a vhost that offers VIRTIO_F_RING_PACKED",
                "the kernel's vhost has no packed ring in any version",
                "QEMU's own device has: --vhost off",
            ));
        }
        if steer.ring() == Some("split") && !self.queue_size.is_power_of_two() {
            return Err(Stop::Usage(format!(
                "--queue-size {}: the size of a split ring is a power of two",
                self.queue_size
            )));
        }
        Ok(steer)
    }

    /// Whether the suite can do with such interrupts, and such a card.
    ///
    /// # Errors
    /// [`Stop::Usage`].
    pub(crate) fn check_suite(&self, attach: &Attach) -> Result<(), Stop> {
        let usual = attach.transport == Transport::PciModern
            && (attach.registers, attach.pci_stack, attach.bars)
                == (Registers::Plain, PciStack::Crate, Bars::Firmware);
        if self.suite == Suite::Interrupts && !usual {
            return Err(Stop::Usage(
                "--suite interrupts: it drives cards of its own by --transport pci-modern, and \
                 nothing else"
                    .into(),
            ));
        }
        if self.vectors.is_some() && !attach.transport.is_pci() {
            return Err(Stop::Usage(
                "--vectors: a device over MMIO has no table of messages: leave it out".into(),
            ));
        }
        if self.suite == Suite::Interrupts && attach.interrupts == Interrupts::Poll {
            return Err(Stop::Usage(
                "--suite interrupts --interrupts poll: it tries interrupts, msix or intx".into(),
            ));
        }
        if self.suite == Suite::Interrupts && self.vhost != VhostMode::Off {
            return Err(Stop::Usage(
                "--suite interrupts: its answers have to come late, as those of QEMU's user-mode \
                 network are made to: add --vhost off"
                    .into(),
            ));
        }
        let [.., largest] = Options::BATCHES;
        if self.batches > 0 && u32::from(self.queue_size) < largest {
            return Err(Stop::Usage(format!(
                "--batches with --queue-size {}: a batch of {largest} packets has to have room in \
                 the queue: --queue-size {largest} or more",
                self.queue_size
            )));
        }
        let traffic = [
            ("--pings", self.pings != PINGS),
            ("--tcp-mib", self.tcp_mib != TCP_MIB),
            ("--datagrams", self.datagrams != DATAGRAMS),
            ("--burst", self.burst != BURST),
            ("--batches", self.batches != BATCHES),
        ];
        let said = traffic.iter().find(|(_, said)| *said);
        if let (Suite::Interrupts, Some((option, _))) = (self.suite, said) {
            return Err(Stop::Usage(format!(
                "--suite interrupts {option}: its traffic is its own: leave it out"
            )));
        }
        Ok(())
    }

    /// Processors and queue pairs; without a word on the processors, one for each pair.
    ///
    /// # Errors
    /// [`Stop::Usage`] for what the guest cannot do, and [`Stop::Missing`] for what QEMU cannot offer.
    pub(crate) fn lanes(&self, attach: &Attach) -> Result<Lanes, Stop> {
        let pairs = self.queue_pairs;
        let cpus = self.cpus.unwrap_or(pairs);
        if cpus > 1 && self.arch != Arch::X86_64 {
            return Err(Stop::Usage(format!(
                "--cpus {cpus}: the guest starts a second processor on x86_64, and on {} it does not",
                self.arch.name()
            )));
        }
        if cpus > 1 && attach.machine == Machine::Microvm {
            return Err(Stop::Usage(format!(
                "--cpus {cpus}: the guest finds a second processor by ACPI, which microvm runs \
                 without: --machine q35 or pc"
            )));
        }
        if pairs > 1 && (self.suite != Suite::Net || self.vectors.is_some()) {
            return Err(Stop::Usage(format!(
                "--queue-pairs {pairs}: the net suite drives them, and with a vector for each queue: \
                 not with --suite interrupts or --vectors"
            )));
        }
        if cpus > 1 && self.suite == Suite::Interrupts {
            return Err(Stop::Usage(format!(
                "--suite interrupts --cpus {cpus}: it counts the halts of one processor: leave \
                 --cpus out"
            )));
        }
        if pairs > 1 && attach.transport != Transport::PciModern {
            return Err(Stop::Usage(format!(
                "--queue-pairs {pairs}: the guest drives them by --transport pci-modern only"
            )));
        }
        let interrupts = attach.interrupts;
        if pairs > 1 && interrupts != Interrupts::Msix {
            return Err(Stop::Usage(format!(
                "--queue-pairs {pairs} --interrupts {}: each queue interrupts its own processor, which \
                 takes msix",
                interrupts.name()
            )));
        }
        if pairs > 1 && self.vhost == VhostMode::Off {
            return Err(Stop::missing(
                format!("a back end with {pairs} queue pairs"),
                "QEMU's user-mode network has one",
                "a tap has more: --vhost auto, native or nested",
            ));
        }
        Ok(Lanes { cpus, pairs })
    }

    /// Seconds.
    pub(crate) fn time_limit(&self) -> u64 {
        let usual = if self.matrix { 2400 } else { 600 };
        self.time_limit.unwrap_or(usual)
    }
}

/// See [`QemuArgs::lanes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lanes {
    pub(crate) cpus: u16,
    pub(crate) pairs: u16,
}

/// See [`QemuArgs::vhost`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum VhostMode {
    /// native where this machine can, else nested.
    Auto,
    /// This machine's /dev/vhost-net, in a network namespace of its own.
    Native,
    /// A stock Linux in an outer QEMU.
    Nested,
    /// No vhost: QEMU's own device and user-mode network.
    Off,
}

/// See [`QemuArgs::machine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Machine {
    Q35,
    Pc,
    Microvm,
    Virt,
}

impl Machine {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Q35 => "q35",
            Self::Pc => "pc",
            Self::Microvm => "microvm",
            Self::Virt => "virt",
        }
    }
}

/// See [`QemuArgs::nic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Nic {
    /// Without the legacy interface.
    Modern,
    /// With both interfaces.
    Transitional,
}

/// See [`QemuArgs::accel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    Auto,
    Kvm,
    Tcg,
}

/// See [`QemuArgs::interrupts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Interrupts {
    Msix,
    Intx,
    Poll,
}

impl Interrupts {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Msix => "msix",
            Self::Intx => "intx",
            Self::Poll => "poll",
        }
    }
}

/// See [`QemuArgs::suite`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Suite {
    /// Services for the peer, driven by traffic of every kind.
    #[default]
    Net,
    /// Interrupts.
    Interrupts,
}

impl Suite {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Net => "net",
            Self::Interrupts => "interrupts",
        }
    }
}

/// See [`QemuArgs::format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    Human,
    Json,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        qemu: QemuArgs,
    }

    fn parse(words: &str) -> (QemuArgs, Attach) {
        let words = ["qemu"].into_iter().chain(words.split_ascii_whitespace());
        let args = Cli::try_parse_from(words).unwrap().qemu;
        let attach = Attach::new(&args).unwrap();
        (args, attach)
    }

    fn steer(words: &str) -> Result<Steer, Stop> {
        let words = ["qemu"].into_iter().chain(words.split(' '));
        Cli::try_parse_from(words).unwrap().qemu.steer()
    }

    #[test]
    fn a_second_queue_pair_is_refused_where_there_is_none() {
        let lanes = |words: &str| {
            let (args, attach) = parse(words);
            args.lanes(&attach)
        };
        for (words, cpus, pairs) in [
            ("", 1, 1),
            ("--cpus 2 --vhost off", 2, 1),
            ("--queue-pairs 2", 2, 2),
            ("--queue-pairs 2 --cpus 1 --vhost nested", 1, 2),
            ("--arch riscv64", 1, 1),
            ("--machine microvm", 1, 1),
            ("--machine pc --cpus 2", 2, 1),
        ] {
            assert_eq!(lanes(words).unwrap(), Lanes { cpus, pairs }, "{words}");
        }
        match lanes("--queue-pairs 2 --vhost off") {
            Err(Stop::Missing { what, fix, .. }) => {
                assert!(what.contains("2 queue pairs") && fix.contains("--vhost auto"));
            }
            other => panic!("{other:?}"),
        }
        for words in [
            "--arch aarch64 --cpus 2",
            "--arch riscv64 --queue-pairs 2",
            "--queue-pairs 2 --interrupts intx",
            "--queue-pairs 2 --interrupts poll",
            "--queue-pairs 2 --suite interrupts",
            "--queue-pairs 2 --vectors 3",
            "--queue-pairs 2 --transport mmio",
            "--queue-pairs 2 --machine microvm",
            "--queue-pairs 2 --transport pci-legacy",
            "--cpus 2 --machine microvm",
            "--cpus 2 --transport mmio",
            "--cpus 2 --suite interrupts",
        ] {
            let refused = lanes(words);
            assert!(
                matches!(refused, Err(Stop::Usage(_))),
                "{words}: {refused:?}"
            );
        }
    }

    #[test]
    fn what_the_suite_does_not_do_is_refused_and_not_left_out() {
        let check = |words: &str| {
            let (args, attach) = parse(words);
            args.check_suite(&attach)
        };
        for words in [
            "--vectors 2",
            "--batches 64 --queue-size 64",
            "--queue-size 63",
            "--suite interrupts --vhost off --vectors 2",
            "--suite interrupts --vhost off --queue-size 2",
        ] {
            assert!(check(words).is_ok(), "{words}");
        }
        for words in [
            "--vectors 2 --transport mmio",
            "--vectors 2 --machine microvm",
            "--batches 64 --queue-size 63",
            "--batches 1 --queue-size 2",
            "--suite interrupts --vhost off --machine microvm",
            "--suite interrupts --vhost off --interrupts poll",
            "--suite interrupts --vhost off --batches 64",
        ] {
            let refused = check(words);
            assert!(
                matches!(refused, Err(Stop::Usage(_))),
                "{words}: {refused:?}"
            );
        }
    }

    #[test]
    fn the_interrupts_suite_is_refused_what_it_does_not_do() {
        let check = |words: &str| {
            let all = ["qemu", "--suite", "interrupts"].into_iter();
            let all = all.chain(words.split_ascii_whitespace());
            let args = Cli::try_parse_from(all).unwrap().qemu;
            args.check_suite(&Attach::new(&args)?)
        };
        for words in ["--vhost off", "--vhost off --queue-size 2 --vectors 4"] {
            check(words).unwrap();
        }
        for (words, told) in [
            ("", "--vhost off"),
            ("--vhost native", "--vhost off"),
            ("--vhost nested", "--vhost off"),
            ("--vhost off --interrupts poll", "msix or intx"),
            ("--vhost off --pings 1", "--pings"),
            ("--vhost off --tcp-mib 1", "--tcp-mib"),
            ("--vhost off --datagrams 1", "--datagrams"),
            ("--vhost off --burst 1", "--burst"),
            ("--vhost off --batches 64", "--batches"),
        ] {
            match check(words) {
                Err(Stop::Usage(why)) => assert!(why.contains(told), "{words}: {why}"),
                other => panic!("{words}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_packed_ring_through_vhost_is_refused_before_anything_boots() {
        for words in [
            "--ring packed",
            "--vhost nested --features +ring_packed",
            "--vhost native --ring packed",
        ] {
            match steer(words) {
                Err(Stop::Missing { fix, .. }) => assert!(fix.contains("--vhost off"), "{fix}"),
                other => panic!("{words}: {other:?}"),
            }
        }
        assert_eq!(
            steer("--ring packed --vhost off").unwrap().ring(),
            Some("packed")
        );
        assert_eq!(steer("--features ~packed").unwrap().ring(), Some("split"));
    }
}
