//! What differs from one architecture of the guest to another on this side: programs, packages,
//! machines, and the words of QEMU's command line.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use vring_protocol::DEBUG_EXIT_PORT;

use super::cli::{Interrupts, Machine};

/// What the guest is compiled for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub(crate) enum Arch {
    #[default]
    #[value(name = "x86_64")]
    #[serde(rename = "x86_64")]
    X86_64,
    #[serde(rename = "aarch64")]
    Aarch64,
    #[serde(rename = "riscv64")]
    Riscv64,
}

impl Arch {
    /// All of them.
    pub(crate) const ALL: [Self; 3] = [Self::X86_64, Self::Aarch64, Self::Riscv64];

    /// The name on the command line and in the protocol.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
            Self::Riscv64 => "riscv64",
        }
    }

    /// Cargo's target.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::X86_64 => super::provision::rust::TARGET,
            Self::Aarch64 => "aarch64-unknown-none",
            Self::Riscv64 => "riscv64gc-unknown-none-elf",
        }
    }

    /// QEMU's program.
    pub(crate) fn qemu(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86_64",
            Self::Aarch64 => "qemu-system-aarch64",
            Self::Riscv64 => "qemu-system-riscv64",
        }
    }

    /// Debian's package of it.
    pub(crate) fn package(self) -> &'static str {
        match self {
            Self::X86_64 => "qemu-system-x86",
            Self::Aarch64 => "qemu-system-arm",
            Self::Riscv64 => "qemu-system-misc",
        }
    }

    /// The machines that the guest knows.
    pub(crate) fn machines(self) -> &'static [Machine] {
        match self {
            Self::X86_64 => &[Machine::Q35, Machine::Pc, Machine::Microvm],
            Self::Aarch64 | Self::Riscv64 => &[Machine::Virt],
        }
    }

    /// The machine that is taken where none is asked for.
    pub(crate) fn usual_machine(self) -> Machine {
        match self {
            Self::X86_64 => Machine::Q35,
            Self::Aarch64 | Self::Riscv64 => Machine::Virt,
        }
    }

    /// QEMU's word for a machine whose interrupt controller takes such interrupts.
    pub(crate) fn machine(self, machine: Machine, interrupts: Interrupts) -> &'static str {
        match (self, machine, interrupts) {
            // The controller with a frame for messages, which is QEMU's choice as well.
            (Self::Aarch64, Machine::Virt, _) => "virt,gic-version=2",
            // The usual controller takes no messages, and this one no lines that the guest knows.
            (Self::Riscv64, Machine::Virt, Interrupts::Msix) => "virt,aia=aplic-imsic",
            // Without ACPI it tells the kernel of its devices on the command line.
            (_, Machine::Microvm, _) => "microvm,acpi=off,pit=on,pic=on",
            (_, machine, _) => machine.name(),
        }
    }

    /// The processor, and how the guest ends QEMU with an exit status.
    pub(crate) fn arguments(self) -> Vec<String> {
        let semihosting = ["-semihosting-config", "enable=on,target=native"];
        let words: Vec<&str> = match self {
            Self::X86_64 => {
                let exit = format!("isa-debug-exit,iobase={DEBUG_EXIT_PORT:#x},iosize=0x04");
                return ["-cpu", "max", "-device", &exit].map(String::from).to_vec();
            }
            Self::Aarch64 => [["-cpu", "max"], semihosting].concat(),
            // QEMU before 8.1 has no "max" there.
            Self::Riscv64 => [["-cpu", "rv64"], semihosting].concat(),
        };
        words.into_iter().map(String::from).collect()
    }

    /// Whether this machine's KVM could run the guest.
    pub(crate) fn may_have_kvm(self) -> bool {
        // The others end by a semihosting call, which is emulation's, and expect its caches.
        self == Self::X86_64
    }
}
