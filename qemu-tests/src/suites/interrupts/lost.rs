//! Interrupts that come too early, too late, for nothing, or not at all: no answer is lost by any of
//! it, and the driver goes on.

use alloc::format;
use alloc::string::{String, ToString};
use core::time::Duration;

use vring::features::Feature;

use super::card::{Card, PATIENCE};
use super::{Bench, judge};
use crate::kernel::arch::{self, cpu};
use crate::kernel::clock;
use crate::report::Report;

const HERE: &str = "qemu-tests/src/suites/interrupts/lost.rs";

/// Questions of each exercise.
const ROUNDS: u32 = 100;

/// Runs the exercises.
pub(super) fn run(bench: &Bench<'_>, report: &mut Report) {
    type Exercise = fn(&Bench<'_>, Card) -> Result<String, String>;
    let exercises: [(&str, Exercise, &str); 5] = [
        (
            "interrupt_or_arm_tells_of_every_answer",
            race,
            "whenever an answer comes, `arm` says so or an interrupt does",
        ),
        (
            "interrupt_masked_by_the_processor_ends_the_halt",
            masked,
            "what comes between `arm` and the halt is not slept through",
        ),
        (
            "interrupt_held_back_is_not_lost",
            held,
            "none while held, one afterwards, and the answer is there",
        ),
        (
            "bug_class_73_an_interrupt_after_its_work",
            late,
            "one interrupt without work, and traffic goes on",
        ),
        (
            "disabled_interrupts_stay_away",
            disabled,
            "none without VIRTIO_F_EVENT_IDX, at most one a queue with it",
        ),
    ];
    for (check, exercise, must) in exercises {
        let outcome = bench.first().and_then(|mut card| {
            card.settle()?;
            exercise(bench, card)
        });
        judge(report, check, outcome, must, HERE);
    }
    let check = "bug_class_73_spurious_interrupts_are_counted";
    let outcome = bench.first().and_then(spurious).transpose();
    match outcome {
        Some(outcome) => {
            let must = "taken, counted as nobody's or as without work, and traffic goes on";
            judge(report, check, outcome, must, HERE);
        }
        None => log::warn!("{check}: left out: no software raises a line of this controller"),
    }
}

/// Arms at ever another moment after the question. Every sixteenth time it is so late that the
/// answer has come, and as much later the next time as a host that is busy needs.
fn race(_: &Bench<'_>, mut card: Card) -> Result<String, String> {
    let (mut raced_in, mut interrupted, mut late) = (0, 0, 0);
    let mut long = Duration::from_millis(30);
    for round in 0..ROUNDS {
        card.ask(1)?;
        clock::pause(match round % 16 {
            15 => long,
            short => Duration::from_micros(u64::from(short) * 40),
        });
        let until = clock::now() + PATIENCE;
        loop {
            card.interrupts.take();
            let told = card.arm();
            if !told {
                let slept = card.sleep(until);
                slept.map_err(|why| format!("`arm` saw nothing in round {round}, and {why}"))?;
            }
            card.disarm();
            match (card.poll()?, told) {
                (1, true) => raced_in += 1,
                (1, false) => {
                    interrupted += 1;
                    if round % 16 == 15 {
                        long = PATIENCE.min(long * 4);
                    }
                }
                // Of the last answer, which was taken between the two things that the device does.
                (0, false) => {
                    late += 1;
                    continue;
                }
                (answers, _) => {
                    return Err(format!("{answers} answers in round {round}, `arm`: {told}"));
                }
            }
            break;
        }
    }
    card.stop()?;
    if raced_in == 0 || interrupted == 0 {
        return Err(format!(
            "{raced_in} answers before `arm` and {interrupted} after it: both have to occur"
        ));
    }
    Ok(format!(
        "{raced_in} raced in, {interrupted} interrupted, {late} interrupts late"
    ))
}

/// The interrupt is pending when the processor halts with interrupts masked.
fn masked(_: &Bench<'_>, mut card: Card) -> Result<String, String> {
    for _ in 0..ROUNDS / 10 {
        card.arm_at_rest()?;
        let before = card.interrupts.queue_count();
        cpu::disable_interrupts();
        let asked = card.ask(1);
        // `arm` takes nothing: it only looks.
        let until = clock::now() + PATIENCE;
        while !card.arm() && clock::now() < until {
            core::hint::spin_loop();
        }
        let taken = card.interrupts.queue_count() - before;
        // It looks once more, and halts: they are off until then.
        let slept = card.sleep(until);
        asked?;
        slept?;
        let after = card.interrupts.queue_count() - before;
        card.disarm();
        if taken != 0 || after == 0 {
            return Err(format!(
                "{taken} interrupts while masked, {after} afterwards"
            ));
        }
        card.spin_for(1)?;
    }
    card.stop()?;
    Ok("each was taken afterwards".to_string())
}

/// The table's entry is masked, or the function's line disabled, while the device signals.
fn held(bench: &Bench<'_>, mut card: Card) -> Result<String, String> {
    let hold = |card: &mut Card, held: bool| {
        let done = card.interrupts.hold(bench.machine, held);
        done.map_err(|why| why.to_string())
    };
    for _ in 0..ROUNDS / 10 {
        card.arm_at_rest()?;
        let before = card.interrupts.queue_count();
        hold(&mut card, true)?;
        card.ask(1)?;
        let until = clock::now() + PATIENCE;
        while !card.arm() && clock::now() < until {
            core::hint::spin_loop();
        }
        // Time for an interrupt that should not come.
        clock::pause(Duration::from_millis(5));
        let while_held = card.interrupts.queue_count() - before;
        hold(&mut card, false)?;
        card.sleep(until)?;
        let after = card.interrupts.queue_count() - before;
        card.disarm();
        if while_held != 0 || after == 0 {
            return Err(format!(
                "{while_held} interrupts while held back, {after} afterwards"
            ));
        }
        card.spin_for(1)?;
    }
    card.converse(ROUNDS / 10)?;
    card.stop()?;
    Ok("each came afterwards".to_string())
}

/// The kernel raises the device's vectors itself; nothing where it cannot.
fn spurious(mut card: Card) -> Result<Option<String>, String> {
    const TIMES: u64 = 5;
    card.converse(ROUNDS / 10)?;
    // Or one that is late is counted with those that are raised.
    card.settle()?;
    let (mut raised, mut empty) = (0, 0);
    for vector in card.interrupts.vectors() {
        for _ in 0..TIMES {
            card.interrupts.take();
            let before = vector.count();
            if !arch::raise(vector) {
                // A PLIC's lines are the devices' alone.
                return card.stop().map(|()| None);
            }
            let until = clock::now() + PATIENCE;
            while vector.count() == before && clock::now() < until {
                core::hint::spin_loop();
            }
            if vector.count() != before + 1 || !card.interrupts.take() {
                let count = vector.count() - before;
                return Err(format!("{count} interrupts of vector {}", vector.number()));
            }
            raised += 1;
            empty += u64::from(card.poll()? == 0);
        }
    }
    if raised == 0 || empty != raised {
        return Err(format!("{raised} interrupts, {empty} without work"));
    }
    let lines = card.interrupts.vectors().into_iter();
    let unclaimed: u64 = lines.map(|vector| vector.unclaimed()).sum();
    let foreign = card.interrupts.foreign_count();
    if card.interrupts.name() == "intx" && foreign.min(unclaimed) < raised {
        return Err(format!(
            "{raised} raised, {unclaimed} nobody's, {foreign} foreign"
        ));
    }
    card.converse(ROUNDS / 10)?;
    card.tell("spurious");
    card.stop()?;
    Ok(Some(format!(
        "{raised} raised by the kernel, {empty} without work"
    )))
}

/// The work is done before the interrupt for it is taken.
fn late(_: &Bench<'_>, mut card: Card) -> Result<String, String> {
    let mut found_nothing = 0;
    for round in 0..ROUNDS / 10 {
        card.arm_at_rest()?;
        cpu::disable_interrupts();
        let answered = card.ask(1).and_then(|()| card.spin_for(1));
        cpu::enable_interrupts();
        answered?;
        let slept = card.sleep(clock::now() + PATIENCE);
        slept.map_err(|why| format!("{why}, in round {round}"))?;
        card.disarm();
        found_nothing += u32::from(card.poll()? == 0);
    }
    card.converse(ROUNDS / 10)?;
    card.stop()?;
    if found_nothing != ROUNDS / 10 {
        return Err(format!("{found_nothing} of {} without work", ROUNDS / 10));
    }
    Ok(format!("{found_nothing} without work"))
}

/// Traffic with interrupts off, which with `VIRTIO_F_EVENT_IDX` has no flag of its own in a split
/// ring: the event index stays behind (VIRTIO 1.4, 2.7.7.2).
fn disabled(_: &Bench<'_>, mut card: Card) -> Result<String, String> {
    const BATCH: u32 = 16;
    let event_idx = card.driver().control().features().has(Feature::EVENT_IDX);
    let before = card.interrupts.queue_count();
    let batch = BATCH.min(u32::from(card.driver().tx().size()) / 4).max(1);
    for _ in 0..ROUNDS.div_ceil(batch) {
        // What was asked for has to be taken back each time.
        card.arm_at_rest()?;
        card.disarm();
        card.ask(batch)?;
        card.spin_for(batch)?;
    }
    card.settle()?;
    let count = card.interrupts.queue_count() - before;
    let most = if event_idx { 2 } else { 0 };
    let answers = card.answers;
    card.stop()?;
    if count > most {
        return Err(format!("{count} interrupts for {answers} answers"));
    }
    Ok(format!("{count} interrupts for {answers} answers"))
}
