//! Two cards on one line. The line is level-triggered: it stays up until the handler of each device
//! that raised it has read that device's interrupt status, and reading the other one's says "not
//! mine" and changes nothing.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use vring::transport::pci::ConfigAccess as _;

use super::card::{Card, How, PATIENCE};
use super::{Bench, judge};
use crate::kernel::arch::{self, cpu};
use crate::kernel::clock;
use crate::kernel::interrupts::{self, Vector};
use crate::report::Report;

const HERE: &str = "qemu-tests/src/suites/interrupts/shared.rs";

/// Questions of each card.
const ROUNDS: u32 = 30;

/// Interrupts of the line for each question at most: the answer, and a frame that went out.
const MOST: u64 = 4;

/// Times that a device is overlooked: more than QEMU takes for edges, for which it is enough that one
/// of two devices lets go of the line or takes hold of it.
const OVERLOOKED: u64 = 4;

/// A function's status register, and the bit that says that it holds its line (PCI 3.0, 6.2.3).
const PCI_STATUS: u16 = 0x06;
/// See [`PCI_STATUS`].
const INTERRUPT_STATUS: u16 = 1 << 3;

/// Runs the exercises.
pub(super) fn run(bench: &Bench<'_>, report: &mut Report) {
    let [first, second] = bench.cards[..] else {
        return;
    };
    let lines = [first, second].map(|address| arch::line_of(bench.machine, address));
    let same = matches!(lines, [Ok(a), Ok(b)] if a == b);
    let seen = format!("{lines:?}");
    let hint = "the harness places them: xtask/src/qemu/inner/command.rs";
    report.check("shared_line_same", same, "one line", &seen, hint);
    judge(
        report,
        "bug_class_71_two_devices_on_one_line",
        both(bench),
        "each device's interrupts are its own, and the line comes down",
        HERE,
    );
    judge(
        report,
        "bug_class_71_a_device_leaves_the_line",
        one_leaves(bench),
        "a device goes on when the other one is reset and has no handler any more",
        HERE,
    );
    let check = "bug_class_71_a_line_that_stays_up_interrupts_again";
    if arch::LINES_ARE_LEVELS {
        let must = "interrupts until the last of two devices that hold the line has been looked at";
        judge(report, check, stays_up(bench), must, HERE);
    } else {
        log::warn!(
            "{check}: left out: this controller, as QEMU has it, forgets a line that stays up"
        );
    }
}

fn start(bench: &Bench<'_>) -> Result<[Card; 2], String> {
    let card = |at: usize| Card::start(bench.machine, bench.cards[at], How::Line, bench.options);
    Ok([card(0)?, card(1)?])
}

/// Both at once, then one alone and the other alone.
fn both(bench: &Bench<'_>) -> Result<String, String> {
    let [mut a, mut b] = start(bench)?;
    let vector = *a.interrupts.vectors().first().ok_or("no vector")?;
    let before = (vector.count(), vector.unclaimed());
    for _ in 0..ROUNDS {
        a.ask(1)?;
        b.ask(1)?;
        a.sleep_for(1)?;
        b.sleep_for(1)?;
    }
    let own = |card: &Card| {
        (
            card.interrupts.queue_count(),
            card.interrupts.config_count(),
            card.interrupts.foreign_count(),
        )
    };
    let alone = |asked: &mut Card, quiet: &mut Card| {
        quiet.settle()?;
        let (queues, _, foreign) = own(quiet);
        let mine = own(asked).0;
        asked.converse(ROUNDS)?;
        let (after, rose) = (own(quiet), own(asked).0 - mine);
        if after.0 != queues || after.2 == foreign || rose == 0 {
            return Err(format!(
                "of {} alone: {rose} interrupts of its own; the other one counted {} as its own and \
                 {} as foreign",
                asked.address,
                after.0 - queues,
                after.2 - foreign
            ));
        }
        Ok(())
    };
    alone(&mut a, &mut b)?;
    alone(&mut b, &mut a)?;
    // Or one comes between one count and the next.
    a.settle()?;
    b.settle()?;
    let raised = vector.count() - before.0;
    let unclaimed = vector.unclaimed() - before.1;
    a.tell("shared line");
    b.tell("shared line");
    let (of_a, of_b) = (own(&a), own(&b));
    let seen = format!("{raised} interrupts, {unclaimed} nobody's; counted {of_a:?} and {of_b:?}");
    // Each handler is called for each interrupt, and says of each whether it was its device.
    let told = |(queues, config, foreign): (u64, u64, u64)| {
        (queues.max(config) + foreign..=queues + config + foreign).contains(&raised)
    };
    let storm = raised > MOST * u64::from(4 * ROUNDS);
    a.stop()?;
    b.stop()?;
    if storm || !told(of_a) || !told(of_b) {
        return Err(seen);
    }
    Ok(seen)
}

/// Both hold the line at the same time, and one is overlooked a few times: it does not come down in
/// between, and of an edge nothing would be left.
fn stays_up(bench: &Bench<'_>) -> Result<String, String> {
    let mut cards = start(bench)?;
    for card in &mut cards {
        card.settle()?;
    }
    let holds = |card: &Card| {
        let status = bench.machine.pci.read16(card.address, PCI_STATUS);
        status & INTERRUPT_STATUS != 0
    };
    let until = clock::now() + PATIENCE;
    for round in 0..ROUNDS {
        let [a, b] = &mut cards;
        a.arm_at_rest()?;
        b.arm_at_rest()?;
        let before = cards.each_ref().map(|card| card.interrupts.queue_count());
        cpu::disable_interrupts();
        let asked = cards.iter_mut().try_for_each(|card| card.ask(1));
        while !cards.iter().all(holds) && clock::now() < until {
            core::hint::spin_loop();
        }
        let held = cards.each_ref().map(holds);
        let overlooked = &cards[round as usize % 2];
        overlooked.interrupts.overlook(OVERLOOKED);
        cpu::enable_interrupts();
        asked?;
        let counts = || cards.each_ref().map(|card| card.interrupts.queue_count());
        let missing = || counts().iter().zip(before).any(|(now, old)| *now == old);
        while missing() && clock::now() < until {
            core::hint::spin_loop();
        }
        if held != [true; 2] || missing() {
            return Err(format!(
                "in round {round} the devices held the line: {held:?}; {before:?} interrupts \
                 before, {:?} afterwards, with {} overlooked {OVERLOOKED} times",
                counts(),
                overlooked.address
            ));
        }
        for card in &mut cards {
            card.disarm();
            card.spin_for(1)?;
        }
    }
    let [a, b] = cards;
    a.stop()?;
    b.stop()?;
    Ok(format!("{ROUNDS} times"))
}

/// A handler is called as long as it is on the line, and not after.
fn off_the_line(bench: &Bench<'_>, card: &mut Card) -> Result<(), String> {
    let calls = Arc::new(AtomicU64::new(0));
    let line = arch::line_of(bench.machine, card.address).map_err(|why| why.to_string())?;
    let handler = {
        let calls = calls.clone();
        move || {
            calls.fetch_add(1, Ordering::Relaxed);
            false
        }
    };
    let known = |_: Vector| Err("the line has no vector yet");
    let hook = interrupts::share(line, handler, "no vector", known)?;
    card.converse(ROUNDS)?;
    let on = calls.load(Ordering::Relaxed);
    drop(hook);
    card.converse(ROUNDS)?;
    let off = calls.load(Ordering::Relaxed) - on;
    if on == 0 || off != 0 {
        return Err(format!(
            "{on} calls of a handler on the line, {off} once it was off"
        ));
    }
    Ok(())
}

/// One is reset, and the other one goes on; then the line has both again.
fn one_leaves(bench: &Bench<'_>) -> Result<String, String> {
    let [a, mut b] = start(bench)?;
    a.stop()?;
    b.converse(ROUNDS)?;
    let (foreign, count) = (b.interrupts.foreign_count(), b.interrupts.queue_count());
    if foreign > 0 || count == 0 {
        return Err(format!(
            "{count} interrupts, {foreign} foreign ones of a device at rest"
        ));
    }
    off_the_line(bench, &mut b)?;
    let mut again = bench.first()?;
    again.converse(ROUNDS)?;
    b.converse(ROUNDS)?;
    again.stop()?;
    b.stop()?;
    Ok("both ways".to_string())
}
