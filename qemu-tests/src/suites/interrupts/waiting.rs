//! Three ways to wait for an answer, side by side on one card: poll, be interrupted, or poll for a
//! while and then be interrupted. What each costs is told, and judged by nobody: the time is that of
//! an emulation, or of a host that does other things.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use vring_protocol::Event;

use super::card::{Card, PATIENCE};
use super::{Bench, judge};
use crate::kernel::{clock, idle};
use crate::report::{Report, event};

const HERE: &str = "qemu-tests/src/suites/interrupts/waiting.rs";

/// Questions of each way, and in how many turns.
const QUESTIONS: u32 = 300;
const TURNS: u32 = 10;

/// The longest thought before a question is nine of these.
const THOUGHT: Duration = Duration::from_micros(60);

/// How long the hybrid polls before it sleeps.
const POLL: Duration = Duration::from_micros(200);

#[derive(Clone, Copy)]
enum Mode {
    Poll,
    Interrupt,
    Hybrid,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Poll, Self::Interrupt, Self::Hybrid];

    fn name(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Interrupt => "interrupt",
            Self::Hybrid => "hybrid",
        }
    }
}

#[derive(Default)]
struct Cost {
    latencies: Vec<Duration>,
    interrupts: u64,
    doorbells: u64,
    halts: u64,
}

/// Runs the exercise.
pub(super) fn run(bench: &Bench<'_>, report: &mut Report) {
    judge(
        report,
        "every_way_to_wait_gets_its_answers",
        bench.first().and_then(measure),
        "each question is answered; interrupts and halts only where there are to be some",
        HERE,
    );
}

/// In turns, so that what the host does meanwhile is shared by all.
fn measure(mut card: Card) -> Result<String, String> {
    let mut costs = Mode::ALL.map(|mode| (mode, Cost::default()));
    for _ in 0..TURNS {
        for (mode, cost) in &mut costs {
            turn(&mut card, *mode, cost)?;
        }
    }
    card.stop()?;
    let mut found = String::new();
    for (mode, mut cost) in costs {
        let middle = cost.latencies.len() / 2;
        let (_, median, _) = cost.latencies.select_nth_unstable(middle);
        let Cost {
            interrupts, halts, ..
        } = cost;
        found = format!(
            "{found} {}: {median:?}, {interrupts} interrupts;",
            mode.name()
        );
        event(&Event::Waiting {
            mode: mode.name().into(),
            packets: QUESTIONS,
            median_ns: u64::try_from(median.as_nanos()).unwrap_or(u64::MAX),
            interrupts,
            doorbells: cost.doorbells,
            halts,
        });
        let fits = match mode {
            // An event index that is behind lets one through now and then.
            Mode::Poll => halts == 0 && interrupts <= 2 * u64::from(TURNS),
            Mode::Interrupt => halts > 0 && interrupts > 0,
            Mode::Hybrid => true,
        };
        if !fits {
            return Err(format!(
                "{}: {interrupts} interrupts, {halts} halts",
                mode.name()
            ));
        }
    }
    Ok(found)
}

fn turn(card: &mut Card, mode: Mode, cost: &mut Cost) -> Result<(), String> {
    let before = (card.interrupts.queue_count(), card.kicks(), idle::halts());
    for round in 0..QUESTIONS / TURNS {
        // Or every question would meet the gateway in the same mood.
        clock::pause(THOUGHT * (round * 7 % 10));
        let start = clock::now();
        let raced_in = match mode {
            Mode::Interrupt => {
                card.interrupts.take();
                card.arm()
            }
            Mode::Poll | Mode::Hybrid => false,
        };
        card.ask(1)?;
        match mode {
            Mode::Poll => card.spin_for(1)?,
            Mode::Interrupt if raced_in => card.sleep_for(1)?,
            Mode::Interrupt => interrupted(card)?,
            Mode::Hybrid => hybrid(card)?,
        }
        cost.latencies.push(clock::now() - start);
    }
    cost.interrupts += card.interrupts.queue_count() - before.0;
    cost.doorbells += card.kicks() - before.1;
    cost.halts += idle::halts() - before.2;
    Ok(())
}

/// Sleeps at once: it was armed before the question.
fn interrupted(card: &mut Card) -> Result<(), String> {
    card.sleep(clock::now() + PATIENCE)?;
    card.disarm();
    card.sleep_for(1)
}

/// Polls for a while; then it is arm, look again, sleep.
fn hybrid(card: &mut Card) -> Result<(), String> {
    let start = clock::now();
    while clock::now() - start < POLL {
        if card.poll()? > 0 {
            return Ok(());
        }
    }
    card.sleep_for(1)
}
