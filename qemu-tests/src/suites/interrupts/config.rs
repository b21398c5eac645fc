//! A change of the configuration is an event: the harness takes the link down and up again, and the
//! driver hears of it by an interrupt, reads the new state, and goes on.

use alloc::format;
use alloc::string::{String, ToString};

use vring_protocol::Event;

use super::super::link;
use super::card::{Card, How, PATIENCE, transport};
use super::{Bench, judge};
use crate::kernel::clock;
use crate::kernel::device_interrupts::Sharing;
use crate::report::{Report, event};

const HERE: &str = "qemu-tests/src/suites/interrupts/config.rs";

/// Questions before and after.
const ROUNDS: u32 = 10;

/// Runs the exercises.
pub(super) fn run(bench: &Bench<'_>, report: &mut Report) {
    let outcome = bench
        .first()
        .and_then(|card| change(bench, card, "config change"));
    judge(
        report,
        "bug_class_72_a_configuration_change_is_an_event",
        outcome,
        "an interrupt for the configuration, the link's new state, and traffic afterwards",
        HERE,
    );
    if let How::Messages(_) = bench.how {
        let how = How::Messages(Sharing::ConfigOnly);
        let card = Card::start(bench.machine, bench.cards[0], how, bench.options);
        let outcome = card.and_then(|mut card| {
            poll(&mut card)?;
            let queues = card.interrupts.queue_count();
            if queues != 0 {
                return Err(format!(
                    "{queues} interrupts for queues that have no vector"
                ));
            }
            change(bench, card, "config change, configuration only")
        });
        judge(
            report,
            "bug_class_70_and_72_configuration_only",
            outcome,
            "with queues that are polled, interrupts for the configuration alone",
            HERE,
        );
    }
}

/// So many questions whose answers are polled for, one after the other: a queue may be small.
fn poll(card: &mut Card) -> Result<(), String> {
    for _ in 0..ROUNDS {
        card.ask(1)?;
        card.spin_for(1)?;
    }
    Ok(())
}

/// Has the link taken down and up, and leaves it up.
fn change(bench: &Bench<'_>, card: Card, exercise: &str) -> Result<String, String> {
    let told = down_and_up(card, exercise);
    if told.is_err() {
        let transport = transport(bench.machine, bench.cards[0])?;
        link::back_up(&transport);
    }
    told
}

fn down_and_up(mut card: Card, exercise: &str) -> Result<String, String> {
    let polled = card.interrupts.queue_vector(0).is_none() && card.interrupts.name() == "msix";
    let converse = |card: &mut Card| match polled {
        true => poll(card),
        false => card.converse(ROUNDS),
    };
    converse(&mut card)?;
    // With one vector for all, a late interrupt of the last answer looks like one for the link.
    card.settle()?;
    let mut told = [0; 2];
    for (up, told) in [false, true].into_iter().zip(&mut told) {
        let before = card.interrupts.config_count();
        card.interrupts.take();
        event(&Event::SetLink { up });
        let until = clock::now() + PATIENCE;
        loop {
            *told = card.interrupts.config_count() - before;
            let control = card.driver().control();
            control.check().map_err(|why| why.to_string())?;
            let state = control.link_up().map_err(|why| why.to_string())?;
            if *told > 0 && state == up {
                break;
            }
            if !card.interrupts.wait(until) {
                return Err(format!(
                    "{told} interrupts in {PATIENCE:?} before the last halt; the link is up: \
                     {state}, where it is to be: {up}"
                ));
            }
            card.interrupts.take();
        }
    }
    converse(&mut card)?;
    card.tell(exercise);
    card.stop()?;
    Ok(format!(
        "{} interrupts for down, {} for up",
        told[0], told[1]
    ))
}
