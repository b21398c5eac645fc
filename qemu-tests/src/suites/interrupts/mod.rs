//! Interrupts, tried one property after the other: what they are told by, what they share, and what
//! becomes of them when they are late, held back, lost in a race, or nobody's.
//!
//! The card is the network's, as the harness has a gateway there that answers. Nobody else talks to
//! it: each question is followed by what the driver under test does about the answer. The harness is
//! asked for one thing, to take the link down and up.

mod card;
mod config;
mod lost;
mod shared;
mod vectors;
mod waiting;

use alloc::string::String;
use alloc::vec::Vec;

use vring::transport::DeviceId;
use vring::transport::pci::Address;
use vring_protocol::Options;

use self::card::How;
use super::net::facts;
use crate::kernel::Machine;
use crate::kernel::device_interrupts::Sharing;
use crate::report::Report;

/// What an exercise works with.
struct Bench<'a> {
    machine: &'a Machine,
    options: &'a Options,
    /// The network cards: the first one is the harness's to take the link from.
    cards: Vec<Address>,
    how: How,
}

/// Runs the suite.
pub(crate) fn run(machine: &Machine, options: &Options, report: &mut Report) {
    let functions = machine.pci.functions();
    let cards = functions.filter(|function| function.virtio() == Some(DeviceId::NETWORK));
    let mut bench = Bench {
        machine,
        options,
        cards: cards.map(|function| function.address).collect(),
        how: match options.interrupts.as_str() {
            "msix" => How::Messages(Sharing::Each),
            _ => How::Line,
        },
    };
    let count = bench.cards.len();
    let seen = alloc::format!("{count} cards");
    let hint = "the harness: --suite interrupts";
    report.check("interrupts_cards", count == 2, "two cards", &seen, hint);
    if count == 0 {
        return;
    }
    judge(
        report,
        "interrupts_features",
        features(&bench),
        "a card that works",
        "qemu-tests/src/suites/interrupts/mod.rs",
    );
    if let How::Messages(_) = bench.how {
        vectors::run(&mut bench, report);
    } else {
        shared::run(&bench, report);
    }
    config::run(&bench, report);
    lost::run(&bench, report);
    waiting::run(&bench, report);
}

impl Bench<'_> {
    /// Drives the first card, interrupts or not.
    fn any(&self) -> Result<card::Card, String> {
        card::Card::start(self.machine, self.cards[0], How::Poll, self.options)
    }

    /// Drives the first card.
    fn first(&self) -> Result<card::Card, String> {
        card::Card::start(self.machine, self.cards[0], self.how, self.options)
    }
}

/// Tells the harness what is negotiated with the first card.
fn features(bench: &Bench<'_>) -> Result<String, String> {
    let mut card = bench.any()?;
    let control = card.driver().control();
    facts::features(control.offered(), control.features());
    card.stop()?;
    Ok("told".into())
}

/// A check that passes without an error; what an exercise found goes to the log.
fn judge(
    report: &mut Report,
    check: &str,
    outcome: Result<String, String>,
    must: &str,
    hint: &str,
) {
    match outcome {
        Ok(found) => {
            log::info!("{check}: {found}");
            report.pass(check);
        }
        Err(seen) => report.fail(check, must, &seen, hint),
    }
}
