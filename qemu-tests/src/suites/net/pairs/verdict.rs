//! What has to hold of both pairs, and of the card after the reset.

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::Ordering;
use core::time::Duration;

use vring::buffer::DmaBuf;
use vring::init::Quiesced;
use vring::virtqueue::Virtqueue;
use vring_protocol::{Event, PairCounters};

use super::worker::{Tally, Worker};
use super::{After, PAIRS};
use crate::kernel::platform::Identity;
use crate::report::{Report, event};
use crate::suites::net::facts;

const HERE: &str = "qemu-tests/src/suites/net/pairs/verdict.rs";

/// Answers by the other pair's queue for each hundred pings, at most: the peer may forget which
/// queue a flow came from, when the machine was held up.
const ASTRAY_PERCENT: u64 = 1;

/// A check of one pair: its counts, and the pings that were asked for.
type Rule = fn(&PairCounters, u64) -> bool;

/// The check, what it expects, and when it holds of a pair.
const RULES: [(&str, &str, Rule); 6] = [
    (
        "pairs_every_ping_answered",
        "as many answers as pings, on each processor",
        |pair, wanted| {
            u64::from(pair.sent) == wanted && u64::from(pair.received) + pair.astray == wanted
        },
    ),
    (
        "pairs_answers_are_intact",
        "every answer once, with the bytes of its question",
        |pair, _| pair.damaged == 0,
    ),
    (
        "pairs_answers_find_their_processor",
        "answers come by the queue pair of the question",
        |pair, wanted| pair.astray * 100 <= wanted * ASTRAY_PERCENT,
    ),
    (
        "pairs_interrupts_find_their_processor",
        "each receive queue interrupts its own processor, and no queue another one",
        |pair, _| pair.interrupts > 0 && pair.interrupts_elsewhere == 0,
    ),
    (
        "pairs_both_were_used",
        "the device used buffers of both pairs, and every frame went out",
        |pair, wanted| {
            pair.receive_used >= u64::from(pair.received)
                && pair.transmit_used >= wanted
                && pair.transmit_used == pair.transmit_submitted
        },
    ),
    (
        "pairs_no_faults",
        "a device that keeps to the specification",
        |pair, _| pair.faults == 0,
    ),
];

/// Resets the card, counts, and judges.
pub(super) fn judge(after: After, wanted: u16, report: &mut Report) {
    let After {
        live,
        max_pairs,
        ctrl,
        done,
        table: _table, // it had to be there as long as the device ran
    } = after;
    let acked = facts::names(live.features());
    let reset = live.reset();
    let proof = reset.as_ref().ok().map(|(_, proof)| proof);
    let mut kept = close(ctrl, proof);
    let (mut pairs, mut troubles, mut busy) = (Vec::new(), Vec::new(), Vec::new());
    for (worker, tally) in done {
        pairs.push(counters(&worker, &tally));
        kept &= close(worker.rx, proof) && close(worker.tx, proof);
        troubles.extend(tally.trouble);
        busy.push(tally.busy);
    }

    let seen = format!("{pairs:?}");
    let mut check = |check: &str, ok: bool, expected: &str, seen: &str| {
        report.check(check, ok, expected, seen, HERE);
    };
    check(
        "pairs_no_trouble",
        troubles.is_empty(),
        "two processors that come to their ends",
        &troubles.join("; "),
    );
    let cpus = pairs.iter().map(|pair| usize::from(pair.cpu));
    check(
        "pairs_on_their_processors",
        cpus.eq(0..PAIRS),
        "each pair on the processor of its number",
        &seen,
    );
    for (name, expected, holds) in RULES {
        let ok = pairs.iter().all(|pair| holds(pair, wanted.into()));
        check(name, ok, expected, &seen);
    }
    check(
        "pairs_at_the_same_time",
        overlap(&busy),
        "both processors at work together",
        &format!("{busy:?}"),
    );
    check(
        "pairs_every_buffer_came_back",
        kept && Identity::leaks() == 0,
        "submitted = completed + returned by a reset that the device confirms",
        &seen,
    );
    event(&Event::Pairs {
        acked,
        max_pairs,
        pairs,
    });
}

fn counters(worker: &Worker, tally: &Tally) -> PairCounters {
    let (received, sent) = (worker.rx.counters(), worker.tx.counters());
    PairCounters {
        cpu: tally.cpu as u16,
        sent: tally.sent,
        received: tally.received,
        damaged: tally.damaged,
        astray: worker.shared.astray(worker.cpu),
        interrupts: worker.alarm.receive.load(Ordering::Relaxed),
        transmit_interrupts: worker.alarm.transmit.load(Ordering::Relaxed),
        interrupts_elsewhere: worker.alarm.elsewhere.load(Ordering::Relaxed),
        receive_used: received.completed,
        transmit_used: sent.completed,
        transmit_submitted: sent.submitted,
        faults: received.faults + received.overruns + sent.faults + sent.overruns,
    }
}

/// Whether there was a time in all of the ranges.
fn overlap(busy: &[Range<Duration>]) -> bool {
    let last_start = busy.iter().map(|range| range.start).max();
    let first_end = busy.iter().map(|range| range.end).min();
    last_start < first_end
}

/// Closes a queue after the reset; whether every buffer that was with the device came back.
fn close<B: DmaBuf>(queue: Virtqueue<Identity, B>, proof: Option<&Quiesced>) -> bool {
    let counters = queue.counters();
    let closed = proof.and_then(|proof| queue.close(proof).ok());
    closed.is_some_and(|closed| closed.count() as u64 == counters.submitted - counters.completed)
}
