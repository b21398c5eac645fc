//! How the network card is attached to which machine, and how the guest drives it: what goes
//! together, and the words of QEMU's command line for it.
//!
//! What QEMU or the specification does not have is refused here, before anything is fetched or
//! compiled, in words that say what to do instead.

use clap::ValueEnum;
use vring_protocol::Transport;

use super::arch::Arch;
use super::cli::{Interrupts, Machine, Nic, QemuArgs};
use super::features::{self, Steer};
use super::stop::Stop;

/// How registers are reached: see [`QemuArgs::registers`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Registers {
    /// Loads and stores.
    #[default]
    Plain,
    /// Functions that count, as a confidential guest's hypercalls.
    Counted,
}

/// Whose PCI configuration access: see [`QemuArgs::pci_stack`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum PciStack {
    /// The crate's.
    #[default]
    Crate,
    /// The kernel's own, as two functions.
    Own,
}

/// Who gives the card its addresses: see [`QemuArgs::bars`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bars {
    /// The firmware; on virt the kernel, at boot.
    #[default]
    Firmware,
    /// The kernel, after it has taken away what was there.
    Kernel,
}

/// The whole of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attach {
    pub(crate) arch: Arch,
    pub(crate) machine: Machine,
    pub(crate) transport: Transport,
    /// Which interfaces a PCI card has; `None`: the one that is driven.
    pub(crate) nic: Option<Nic>,
    pub(crate) interrupts: Interrupts,
    pub(crate) registers: Registers,
    pub(crate) pci_stack: PciStack,
    pub(crate) bars: Bars,
}

/// Every transport's name and what it is, for `--transport`.
pub(crate) fn transports() -> impl clap::builder::TypedValueParser<Value = Transport> {
    use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser as _};
    let values = Transport::ALL.map(|transport| {
        let help = match transport {
            Transport::PciModern => "The modern interface, in memory BARs",
            Transport::PciPorts => "The modern interface, doorbells in an I/O BAR",
            Transport::PciWindow => "The modern interface, through configuration space",
            Transport::PciLegacy => "The legacy interface, in an I/O BAR",
            Transport::Mmio => "Version 2; of x86_64 microvm has it",
            Transport::MmioLegacy => "Version 1, the legacy interface; of x86_64 microvm has it",
        };
        PossibleValue::new(transport.name()).help(help)
    });
    PossibleValuesParser::new(values)
        .try_map(|name| Transport::from_name(&name).ok_or("no such transport"))
}

fn usage<T>(text: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Usage(text.into()))
}

impl Attach {
    /// The usual card on the usual machine of an architecture.
    pub(crate) fn usual(arch: Arch) -> Self {
        Self {
            arch,
            machine: arch.usual_machine(),
            transport: Transport::PciModern,
            nic: None,
            interrupts: Interrupts::Msix,
            registers: Registers::Plain,
            pci_stack: PciStack::Crate,
            bars: Bars::Firmware,
        }
    }

    /// What the command line asks for; of what it leaves open, what goes with the rest.
    ///
    /// # Errors
    /// [`Stop::Usage`] for what does not go together.
    pub(crate) fn new(args: &QemuArgs) -> Result<Self, Stop> {
        let arch = args.arch;
        let wants_mmio = args.transport.is_some_and(|transport| !transport.is_pci());
        let machine = match args.machine {
            Some(machine) => machine,
            None if wants_mmio && arch == Arch::X86_64 => Machine::Microvm,
            None => arch.usual_machine(),
        };
        let transport = args.transport.unwrap_or(match machine {
            Machine::Microvm => Transport::Mmio,
            Machine::Q35 | Machine::Pc | Machine::Virt => Transport::PciModern,
        });
        let interrupts = args.interrupts.unwrap_or(if transport.is_pci() {
            Interrupts::Msix
        } else {
            Interrupts::Intx
        });
        let attach = Self {
            arch,
            machine,
            transport,
            nic: args.nic,
            interrupts,
            registers: args.registers,
            pci_stack: args.pci_stack,
            bars: args.bars,
        };
        attach.check(args.batches)?;
        Ok(attach)
    }

    /// # Errors
    /// [`Stop::Usage`] for what does not go together.
    pub(crate) fn check(&self, batches: u32) -> Result<(), Stop> {
        self.check_machine()?;
        self.check_transport()?;
        let window = self.transport == Transport::PciWindow;
        match self.interrupts {
            Interrupts::Msix if !self.transport.is_pci() => usage(
                "--interrupts msix: a device over MMIO has one interrupt line and no messages: \
                 --interrupts intx, or poll",
            ),
            Interrupts::Intx if window => usage(
                "--interrupts intx: behind the window in configuration space there is nothing \
                 that an interrupt handler could read: --interrupts msix, or poll",
            ),
            _ if window && (self.registers == Registers::Counted || batches > 0) => usage(
                "--registers counted and --batches: behind the window registers are reached by \
                 configuration space, which nobody counts: another --transport",
            ),
            _ => Ok(()),
        }
    }

    fn check_machine(&self) -> Result<(), Stop> {
        let (machine, known) = (self.machine.name(), self.arch.machines());
        if !known.contains(&self.machine) {
            let known: Vec<&str> = known.iter().map(|machine| machine.name()).collect();
            return usage(format!(
                "--machine {machine}: the guest for {} runs on {}",
                self.arch.name(),
                known.join(" and ")
            ));
        }
        let transport = self.transport.name();
        match (self.machine, self.transport.is_pci()) {
            (Machine::Microvm, true) => usage(format!(
                "--transport {transport}: QEMU's microvm has no PCI that this guest finds: \
                 --machine q35 or pc, or --transport mmio"
            )),
            (Machine::Q35 | Machine::Pc, false) => usage(format!(
                "--transport {transport}: QEMU's {machine} has no virtio over MMIO: --machine \
                 microvm, which is taken where none is named, or --arch aarch64 or riscv64"
            )),
            _ => Ok(()),
        }
    }

    fn check_transport(&self) -> Result<(), Stop> {
        let name = self.transport.name();
        if self.transport.is_pci() {
            return match (self.transport, self.nic) {
                (Transport::PciLegacy, Some(Nic::Modern)) => usage(
                    "--nic modern: such a card has no legacy interface: --nic transitional, or \
                     leave it out for a card that has no other",
                ),
                (Transport::PciLegacy, _) if self.bars == Bars::Kernel => usage(
                    "--bars kernel: the kernel assigns addresses in memory, and the legacy \
                     interface is in I/O: --transport pci-modern, pci-ports or pci-window",
                ),
                _ => Ok(()),
            };
        }
        if self.nic.is_some() {
            return usage(format!(
                "--nic: over {name} a card has one interface: --transport mmio or mmio-legacy"
            ));
        }
        if self.pci_stack == PciStack::Own || self.bars == Bars::Kernel {
            return usage(format!(
                "--pci-stack and --bars: there is no PCI over {name}: --transport pci-modern"
            ));
        }
        Ok(())
    }

    /// Whether features, ring and size go with the transport. Of a device over MMIO the queues are
    /// not reset, which the steering then says.
    ///
    /// # Errors
    /// [`Stop::Usage`], and [`Stop::Missing`] for what QEMU does not have.
    pub(crate) fn check_steer(&self, steer: &mut Steer, queue_size: u16) -> Result<(), Stop> {
        const RING_RESET: &str = "VIRTIO_F_RING_RESET";
        let name = self.transport.name();
        let requires = |name: &str| steer.require.iter().any(|required| required == name);
        if self.transport.is_legacy() {
            let high = |name: &&String| features::bit(name).is_some_and(|bit| bit >= 32);
            if let Some(feature) = steer.require.iter().find(high) {
                return usage(format!(
                    "--features and --ring: {feature} is above bit 31, and {name} has no more: \
                     leave it out, or --transport pci-modern or mmio"
                ));
            }
        }
        if self.transport == Transport::PciLegacy && !matches!(queue_size, 256 | 512 | 1024) {
            return usage(format!(
                "--queue-size {queue_size}: a legacy device on PCI has queues of the size that it \
                 has, which QEMU makes 256, 512 or 1024: one of these, or --transport pci-modern"
            ));
        }
        if self.transport == Transport::Mmio {
            if requires(RING_RESET) {
                return Err(Stop::missing(
                    format!("a QEMU that resets queues over MMIO ({RING_RESET})",),
                    "it offers the feature and has no register for it",
                    "--transport pci-modern",
                ));
            }
            if !steer.refuse.iter().any(|refused| refused == RING_RESET) {
                steer.refuse.push(RING_RESET.into());
            }
        }
        Ok(())
    }

    /// QEMU's model of the card.
    pub(crate) fn model(&self) -> &'static str {
        if self.transport.is_pci() {
            "virtio-net-pci"
        } else {
            "virtio-net-device"
        }
    }

    /// The properties of the card that make it so.
    pub(crate) fn properties(&self) -> Vec<String> {
        let interfaces = match (self.transport, self.nic) {
            (Transport::Mmio | Transport::MmioLegacy, _) => return Vec::new(),
            (Transport::PciLegacy, None) => "disable-legacy=off,disable-modern=on",
            (_, Some(Nic::Transitional)) => "disable-legacy=off,disable-modern=off",
            (_, Some(Nic::Modern) | None) => "disable-legacy=on",
        };
        let mut properties = vec!["romfile=".to_owned(), interfaces.into()];
        if self.transport == Transport::PciPorts {
            properties.push("modern-pio-notify=on".into());
        }
        properties
    }

    /// Words for QEMU beside those of the card.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let legacy = match self.transport {
            Transport::Mmio => "false",
            Transport::MmioLegacy => "true",
            _ => return Vec::new(),
        };
        let property = format!("virtio-mmio.force-legacy={legacy}");
        vec!["-global".into(), property]
    }

    /// QEMU's word for the machine, whose interrupt controller takes such interrupts.
    pub(crate) fn qemu_machine(&self) -> &'static str {
        self.arch.machine(self.machine, self.interrupts)
    }

    /// What is unusual about it, for the table.
    pub(crate) fn shown(&self) -> String {
        let mut words = Vec::new();
        if self.arch != Arch::X86_64 {
            words.push(self.arch.name());
        }
        if self.machine != self.arch.usual_machine() {
            words.push(self.machine.name());
        }
        if self.transport != Transport::PciModern {
            words.push(self.transport.name());
        }
        if self.nic == Some(Nic::Transitional) {
            words.push("transitional");
        }
        if self.registers == Registers::Counted {
            words.push("counted");
        }
        if self.pci_stack == PciStack::Own {
            words.push("own PCI stack");
        }
        if self.bars == Bars::Kernel {
            words.push("BARs by the kernel");
        }
        words.join(" ")
    }
}

#[cfg(test)]
#[path = "attach_tests.rs"]
mod tests;
