//! The cells: which ring, features, size and interrupts each has, and on which back end it runs.
//!
//! The crossing of everything with everything would be hundreds of runs that differ in nothing
//! that matters. Here every pair of values of two of ring, `event_idx`, `indirect_desc`, `in_order`
//! and size occurs in some cell, and so does each feature alone; a unit test holds the plan to that.

use vring_protocol::Transport;

use super::super::super::arch::Arch;
use super::super::super::attach::{Attach, Bars, PciStack, Registers};
use super::super::super::cli::{Interrupts, Machine, Nic, Suite};
use super::super::super::features::{KNOWN, Ring, Steer};
use super::super::super::stop::Stop;

/// Whose device it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BackEnd {
    /// QEMU's own, on its user-mode network.
    Qemu,
    /// The kernel's vhost-net.
    Vhost,
    /// The crate's fake device: nothing is run here.
    Fake,
}

impl BackEnd {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Vhost => "vhost",
            Self::Fake => "fake",
        }
    }
}

/// One cell of the table.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub(super) name: String,
    pub(super) back_end: BackEnd,
    pub(super) ring: Ring,
    pub(super) features: &'static str,
    pub(super) queue_size: u16,
    /// Machine, transport, interrupts.
    pub(super) attach: Attach,
    pub(super) suite: Suite,
    /// Of the card's MSI-X table, where it is not QEMU's choice.
    pub(super) vectors: Option<u16>,
    /// Why it is a fact of the table that it is not run.
    pub(super) fact: Option<&'static str>,
}

impl Cell {
    /// What QEMU and the driver are told.
    pub(super) fn steer(&self) -> Result<Steer, Stop> {
        Steer::new(Some(self.ring), self.features)
    }

    /// What was on, for the table.
    pub(super) fn shown(&self) -> String {
        if self.back_end == BackEnd::Fake || self.fact.is_some() {
            return self.features.into();
        }
        let ring = match self.ring {
            Ring::Split => "split",
            Ring::Packed => "packed",
        };
        let suite = match self.suite {
            Suite::Net => String::new(),
            Suite::Interrupts => "interrupts suite".into(),
        };
        let vectors = self.vectors.map(|vectors| format!("{vectors} vectors"));
        let words = [
            ring.to_owned(),
            self.queue_size.to_string(),
            self.attach.interrupts.name().into(),
            vectors.unwrap_or_default(),
            self.attach.shown(),
            suite,
            self.features.replace(',', " "),
        ];
        let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
        words.join(" ")
    }
}

const ALL: &str = "+event_idx,+indirect,+in_order,+ring_reset";
const NONE: &str = "-event_idx,-indirect,-in_order,-ring_reset";

use Arch::{Aarch64, Riscv64, X86_64};
use BackEnd::{Qemu, Vhost};
use Interrupts::{Intx, Msix, Poll};
use Machine::{Pc, Q35, Virt};
use Ring::{Packed, Split};

/// Ring, size, interrupts, features.
type Row = (BackEnd, Ring, u16, Interrupts, &'static str);

const ROWS: [Row; 31] = [
    (Qemu, Split, 256, Msix, ALL),
    (Qemu, Split, 256, Poll, NONE),
    (Qemu, Split, 2, Intx, "+event_idx,-indirect,-in_order"),
    (Qemu, Split, 2, Poll, "-event_idx,+indirect,+in_order"),
    (Qemu, Split, 64, Msix, "+event_idx,+indirect,-in_order"),
    (Qemu, Split, 64, Intx, "-event_idx,-indirect,+in_order"),
    (Qemu, Split, 1024, Poll, "+event_idx,-indirect,+in_order"),
    (Qemu, Split, 1024, Msix, "-event_idx,+indirect,-in_order"),
    (
        Qemu,
        Split,
        256,
        Msix,
        "~event_idx,~indirect,~in_order,~ring_reset",
    ),
    (Qemu, Split, 256, Msix, "+access_platform"),
    (
        Qemu,
        Split,
        64,
        Msix,
        "-event_idx,-indirect,-in_order,+ring_reset",
    ),
    (Qemu, Packed, 256, Msix, ALL),
    (Qemu, Packed, 256, Poll, NONE),
    (Qemu, Packed, 2, Msix, "+event_idx,-indirect,-in_order"),
    (Qemu, Packed, 2, Poll, "-event_idx,+indirect,+in_order"),
    (Qemu, Packed, 64, Poll, "+event_idx,+indirect,-in_order"),
    (Qemu, Packed, 64, Msix, "-event_idx,-indirect,+in_order"),
    (Qemu, Packed, 200, Msix, "+event_idx,+indirect,+in_order"),
    (Qemu, Packed, 200, Intx, NONE),
    (Qemu, Packed, 1024, Msix, "+event_idx,-indirect,+in_order"),
    (Qemu, Packed, 1024, Intx, "-event_idx,+indirect,-in_order"),
    (
        Qemu,
        Packed,
        256,
        Msix,
        "~event_idx,~indirect,~in_order,~ring_reset",
    ),
    (Qemu, Packed, 256, Msix, "+access_platform"),
    (
        Qemu,
        Packed,
        200,
        Msix,
        "-event_idx,-indirect,-in_order,+ring_reset",
    ),
    (
        Vhost,
        Split,
        256,
        Msix,
        "+event_idx,+indirect,-mrg_rxbuf,-ring_reset",
    ),
    (
        Vhost,
        Split,
        256,
        Poll,
        "-event_idx,-indirect,-mrg_rxbuf,-ring_reset",
    ),
    (
        Vhost,
        Split,
        64,
        Intx,
        "~event_idx,~indirect,~mrg_rxbuf,~ring_reset",
    ),
    (Vhost, Split, 2, Msix, "+event_idx,-indirect"),
    (
        Vhost,
        Split,
        1024,
        Msix,
        "-event_idx,+indirect,+access_platform",
    ),
    (Vhost, Split, 256, Msix, "+ring_reset"),
    (Vhost, Split, 256, Msix, "+in_order"),
];

/// What is run on other architectures.
const OTHERS: [(Arch, Row); 8] = [
    (Aarch64, (Qemu, Split, 256, Msix, "+event_idx,+indirect")),
    (Aarch64, (Qemu, Packed, 256, Intx, "+event_idx,+indirect")),
    (Aarch64, (Qemu, Packed, 64, Poll, "-event_idx,-indirect")),
    (Aarch64, (Vhost, Split, 256, Msix, "+event_idx,+indirect")),
    (Riscv64, (Qemu, Packed, 256, Msix, "+event_idx,+indirect")),
    (Riscv64, (Qemu, Split, 256, Intx, "+event_idx,+indirect")),
    (Riscv64, (Qemu, Split, 64, Poll, "-event_idx,-indirect")),
    (Riscv64, (Vhost, Split, 256, Msix, "+event_idx,+indirect")),
];

/// The interrupts suite: what it runs on, vectors of the card's table, and the rest.
type Exercises = (Arch, Machine, Option<u16>, Row);

const PLAIN: &str = "+event_idx,+indirect";
const FLAGS: &str = "-event_idx,+indirect";

const EXERCISES: [Exercises; 11] = [
    // The check of NO_VECTOR takes four.
    (X86_64, Q35, Some(4), (Qemu, Split, 256, Msix, PLAIN)),
    (X86_64, Q35, Some(0), (Qemu, Split, 256, Msix, PLAIN)),
    (X86_64, Q35, Some(1), (Qemu, Split, 256, Msix, FLAGS)),
    (X86_64, Q35, Some(2), (Qemu, Packed, 256, Msix, PLAIN)),
    (X86_64, Q35, Some(3), (Qemu, Packed, 256, Msix, FLAGS)),
    (X86_64, Q35, None, (Qemu, Packed, 256, Intx, PLAIN)),
    (X86_64, Pc, None, (Qemu, Split, 256, Intx, FLAGS)),
    (Aarch64, Virt, None, (Qemu, Split, 256, Msix, PLAIN)),
    (Aarch64, Virt, None, (Qemu, Split, 256, Intx, PLAIN)),
    (Riscv64, Virt, None, (Qemu, Split, 256, Msix, PLAIN)),
    (Riscv64, Virt, None, (Qemu, Split, 256, Intx, PLAIN)),
];

fn exercises((arch, machine, vectors, row_of): &Exercises) -> Cell {
    let cell = row(row_of);
    let interrupts = row_of.3.name();
    let vectors_named = vectors.map(|vectors| format!("-{vectors}.vectors"));
    Cell {
        name: format!(
            "{}-irq-{}-{}-{interrupts}{}",
            cell.name,
            arch.name(),
            machine.name(),
            vectors_named.unwrap_or_default()
        ),
        attach: Attach {
            machine: *machine,
            interrupts: row_of.3,
            ..Attach::usual(*arch)
        },
        suite: Suite::Interrupts,
        vectors: *vectors,
        ..cell
    }
}

/// Back end, architecture, transport, interfaces of the card, interrupts, and what else: registers
/// counted, a PCI stack of the kernel's own, BARs assigned by it.
type TransportRow = (
    BackEnd,
    Arch,
    Transport,
    Option<Nic>,
    Interrupts,
    &'static str,
);

/// Every transport that the rows above do not have.
const TRANSPORTS: [TransportRow; 23] = {
    use Transport::{Mmio, MmioLegacy, PciLegacy, PciModern, PciPorts, PciWindow};
    let both = Some(Nic::Transitional);
    [
        (Qemu, X86_64, PciModern, None, Msix, "counted,own,bars"),
        (Qemu, X86_64, PciModern, None, Intx, "counted"),
        (Qemu, X86_64, PciPorts, None, Intx, ""),
        (Qemu, X86_64, PciWindow, None, Msix, "own"),
        (Qemu, X86_64, PciWindow, None, Poll, ""),
        (Qemu, X86_64, PciLegacy, None, Msix, ""),
        (Qemu, X86_64, PciLegacy, both, Intx, "counted"),
        (Qemu, X86_64, Mmio, None, Intx, ""),
        (Qemu, X86_64, Mmio, None, Poll, "counted"),
        (Qemu, X86_64, MmioLegacy, None, Intx, "counted"),
        (Qemu, Aarch64, PciLegacy, None, Msix, ""),
        (Qemu, Aarch64, PciPorts, None, Intx, "counted"),
        (Qemu, Aarch64, Mmio, None, Intx, "counted"),
        (Qemu, Aarch64, MmioLegacy, None, Intx, ""),
        (Qemu, Riscv64, PciLegacy, None, Intx, ""),
        (Qemu, Riscv64, PciWindow, None, Msix, "bars"),
        (Qemu, Riscv64, Mmio, None, Intx, "counted"),
        (Qemu, Riscv64, MmioLegacy, None, Intx, ""),
        (Vhost, X86_64, PciLegacy, both, Intx, "counted"),
        (Vhost, X86_64, PciPorts, None, Msix, "counted"),
        (Vhost, X86_64, PciWindow, None, Msix, ""),
        (Vhost, X86_64, Mmio, None, Intx, "counted"),
        (Vhost, X86_64, MmioLegacy, None, Intx, ""),
    ]
};

/// What vhost has and a modern device has no use for, and what it never has.
const VHOST_FACTS: [(&str, &str); 3] = [
    ("any_layout", "a legacy feature: VERSION_1 includes it"),
    (
        "notify_on_empty",
        "a legacy feature: drivers of modern devices do not accept it",
    ),
    (
        "ring_packed",
        "the kernel's vhost has no packed ring in any version: QEMU's own device has, above",
    ),
];

const FAKE: &str = "no back end of QEMU's network card offers it: driven by the strict fake only, \
                    cargo xtask test";

/// The whole table.
pub(super) fn cells() -> Vec<Cell> {
    let mut cells: Vec<Cell> = ROWS.iter().map(row).collect();
    // One each on the older machine, whose firmware and interrupts are others.
    for (ring, nic) in [(Split, Nic::Transitional), (Packed, Nic::Modern)] {
        let cell = row(&(Qemu, ring, 256, Intx, "+event_idx,+indirect"));
        let attach = Attach {
            machine: Machine::Pc,
            nic: Some(nic),
            ..cell.attach
        };
        cells.push(Cell {
            attach,
            name: format!("{}-pc", cell.name),
            ..cell
        });
    }
    // The rings and the kinds of interrupts on the other architectures.
    for (arch, row_of) in OTHERS {
        let interrupts = row_of.3;
        let cell = row(&row_of);
        let attach = Attach {
            interrupts,
            ..Attach::usual(arch)
        };
        cells.push(Cell {
            attach,
            name: format!("{}-{}-{}", cell.name, arch.name(), interrupts.name()),
            ..cell
        });
    }
    cells.extend(EXERCISES.iter().map(exercises));
    cells.extend(TRANSPORTS.iter().map(transport));
    // The back ends one after the other: a table that can be read.
    cells.sort_by_key(|cell| cell.back_end == Vhost);
    let fact = |back_end, features, why| Cell {
        name: format!("{}-{features}", BackEnd::name(back_end)),
        back_end,
        features,
        fact: Some(why),
        ..row(&ROWS[0])
    };
    cells.extend(VHOST_FACTS.map(|(name, why)| fact(Vhost, name, why)));
    let fake = KNOWN.iter().filter(|known| known.is_driven_by_the_fake());
    cells.extend(fake.map(|known| fact(BackEnd::Fake, known.name, FAKE)));
    cells
}

fn row((back_end, ring, size, interrupts, features): &Row) -> Cell {
    let mut name = format!(
        "{}-{}-{size}",
        back_end.name(),
        match ring {
            Split => "split",
            Packed => "packed",
        }
    );
    for word in features.split(',') {
        let (sign, word) = word.split_at(1);
        let short = match word {
            "event_idx" => "event",
            "in_order" => "order",
            "ring_reset" => "reset",
            "access_platform" => "access",
            "mrg_rxbuf" => "mrg",
            other => other,
        };
        match sign {
            "+" => name += &format!("-{short}"),
            "~" => name += &format!("-no.{short}"),
            _ => {}
        }
    }
    Cell {
        name,
        back_end: *back_end,
        ring: *ring,
        features,
        queue_size: *size,
        attach: Attach {
            interrupts: *interrupts,
            ..Attach::usual(Arch::X86_64)
        },
        suite: Suite::Net,
        vectors: None,
        fact: None,
    }
}

/// A cell of [`TRANSPORTS`], whose name says what is unusual.
fn transport((back_end, arch, transport, nic, interrupts, how): &TransportRow) -> Cell {
    let usual = Attach::usual(*arch);
    let mut attach = Attach {
        transport: *transport,
        nic: *nic,
        interrupts: *interrupts,
        ..usual
    };
    if !transport.is_pci() && *arch == Arch::X86_64 {
        attach.machine = Machine::Microvm;
    }
    for word in how.split(',') {
        match word {
            "counted" => attach.registers = Registers::Counted,
            "own" => attach.pci_stack = PciStack::Own,
            "bars" => attach.bars = Bars::Kernel,
            _ => {}
        }
    }
    let mut words = vec![back_end.name(), transport.name()];
    if *nic == Some(Nic::Transitional) {
        words.push("transitional");
    }
    words.extend(how.split(',').filter(|word| !word.is_empty()));
    if *arch != Arch::X86_64 {
        words.push(arch.name());
    }
    words.push(interrupts.name());
    Cell {
        name: words.join("-"),
        attach,
        ..row(&(*back_end, Split, 256, *interrupts, "+event_idx,+indirect"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn cells_have_names_of_their_own_that_are_directories() {
        let cells = cells();
        let names: BTreeSet<_> = cells.iter().map(|cell| &cell.name).collect();
        assert_eq!(names.len(), cells.len());
        for name in names {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
            assert!(name.bytes().all(plain), "{name}");
        }
    }

    #[test]
    fn every_cell_that_runs_can_be_asked_for_on_the_command_line() {
        for cell in cells().iter().filter(|cell| cell.fact.is_none()) {
            let mut steer = cell.steer().unwrap();
            cell.attach.check(0).unwrap();
            cell.attach
                .check_steer(&mut steer, cell.queue_size)
                .unwrap();
            assert!(steer.ring().is_some(), "{}", cell.name);
            let split = cell.ring == Split;
            assert!(!split || cell.queue_size.is_power_of_two(), "{}", cell.name);
        }
    }

    #[test]
    fn every_architecture_runs_every_ring_and_every_kind_of_interrupt() {
        for arch in Arch::ALL {
            let own: Vec<Cell> = cells()
                .into_iter()
                .filter(|c| c.attach.arch == arch)
                .collect();
            for interrupts in [Msix, Intx, Poll] {
                assert!(own.iter().any(|cell| cell.attach.interrupts == interrupts));
            }
            for ring in [Split, Packed] {
                assert!(own.iter().any(|cell| cell.ring == ring));
            }
            for back_end in [Qemu, Vhost] {
                assert!(own.iter().any(|cell| cell.back_end == back_end));
            }
            for machine in arch.machines() {
                assert!(own.iter().any(|cell| cell.attach.machine == *machine));
            }
        }
    }

    #[test]
    fn every_transport_runs_on_every_architecture_that_has_it() {
        let cells = cells();
        let has = |arch, transport, back_end| {
            let mut runs = cells.iter().filter(|cell| cell.fact.is_none());
            runs.any(|cell| {
                let Attach {
                    arch: a,
                    transport: t,
                    ..
                } = cell.attach;
                (a, t, cell.back_end) == (arch, transport, back_end)
            })
        };
        for transport in Transport::ALL {
            assert!(has(X86_64, transport, Qemu), "{transport:?}");
            let main = !matches!(transport, Transport::PciPorts | Transport::PciWindow);
            for arch in [Aarch64, Riscv64] {
                assert!(
                    !main || has(arch, transport, Qemu),
                    "{arch:?} {transport:?}"
                );
            }
            assert!(has(X86_64, transport, Vhost), "{transport:?}");
        }
    }

    #[test]
    fn the_interrupts_suite_runs_with_every_number_of_vectors_that_matters() {
        let cells = cells();
        let suite = cells.iter().filter(|cell| cell.suite == Suite::Interrupts);
        let (mut vectors, mut back_ends) = (BTreeSet::new(), Vec::new());
        for cell in suite {
            vectors.extend(cell.vectors);
            back_ends.push(cell.back_end);
        }
        // None, one for all, two to share, one for each, and one that nobody has.
        assert_eq!(vectors, BTreeSet::from([0, 1, 2, 3, 4]));
        assert!(back_ends.iter().all(|back_end| *back_end == Qemu));
    }

    #[test]
    fn every_pair_of_values_occurs() {
        let own: Vec<Cell> = cells()
            .into_iter()
            .filter(|cell| cell.back_end == Qemu)
            .collect();
        let states = ["event_idx", "indirect", "in_order"];
        let on = |cell: &Cell, name: &str| {
            let words: Vec<&str> = cell.features.split(',').collect();
            let signed = |sign: &str| words.contains(&format!("{sign}{name}").as_str());
            match (signed("+"), signed("-")) {
                (true, _) => Some(true),
                (_, true) => Some(false),
                _ => None,
            }
        };
        for ring in [Split, Packed] {
            for (i, first) in states.iter().enumerate() {
                for second in &states[i + 1..] {
                    for pair in [(true, true), (true, false), (false, true), (false, false)] {
                        let has = |cell: &Cell| {
                            cell.ring == ring
                                && on(cell, first) == Some(pair.0)
                                && on(cell, second) == Some(pair.1)
                        };
                        assert!(own.iter().any(has), "{ring:?} {first} {second} {pair:?}");
                    }
                }
                for size in [2, 64, 256, 1024] {
                    for state in [true, false] {
                        let has = |cell: &Cell| {
                            cell.ring == ring
                                && cell.queue_size == size
                                && on(cell, first) == Some(state)
                        };
                        assert!(own.iter().any(has), "{ring:?} {first} {size} {state}");
                    }
                }
            }
            assert!(
                own.iter()
                    .any(|cell| cell.ring == ring && on(cell, "access_platform") == Some(true))
            );
            for state in [true, false] {
                let has = |cell: &Cell| cell.ring == ring && on(cell, "ring_reset") == Some(state);
                assert!(own.iter().any(has), "{ring:?} ring_reset {state}");
            }
        }
        assert!(
            own.iter()
                .any(|cell| cell.queue_size == 200 && cell.ring == Packed)
        );
    }
}
