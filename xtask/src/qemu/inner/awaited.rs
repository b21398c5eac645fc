//! What the guest's tasks have to come to, of each executor: a report that leaves one out, or in
//! which nothing moved or nobody slept, is a failure.

use vring_protocol::{Event, Transport};

use crate::qemu::job::Job;
use crate::qemu::report::{Awaited, Failure, Findings};

/// The guest's executors.
const EXECUTORS: [&str; 2] = ["embassy", "block_on"];

/// Polls of a packet at most, those for the clock aside. An interrupt wakes two tasks where queues
/// share a line; a packet has two interrupts, and its answer wakes who sends.
const POLLS: u64 = 8;

/// Polls beside those for packets: beginnings, ends, futures that are let go of.
const MORE_POLLS: u64 = 256;

/// Takes over what the guest said.
pub(super) fn take(event: &Event) -> Option<Awaited> {
    let Event::Awaited {
        executor,
        packets,
        polls,
        halts,
        interrupts,
        waits_for_room,
        ticks,
        config_changes,
        dropped,
        forgotten,
    } = event
    else {
        return None;
    };
    Some(Awaited {
        executor: executor.clone(),
        packets: *packets,
        polls: *polls,
        halts: *halts,
        interrupts: *interrupts,
        waits_for_room: *waits_for_room,
        ticks: *ticks,
        config_changes: *config_changes,
        dropped: *dropped,
        forgotten: *forgotten,
    })
}

/// Whether tasks were woken by interrupts and moved packets, where the guest was to have some.
pub(super) fn judge(job: &Job, findings: &Findings) -> Vec<Failure> {
    let driven = findings
        .device
        .as_ref()
        .is_some_and(|device| device.interrupts != "poll");
    if job.awaited == 0 || !driven {
        return Vec::new();
    }
    let seen = |executor| findings.awaited.iter().find(|row| row.executor == executor);
    // The guest asks for a short transmit queue, to fill it. Of a legacy device on PCI it has the size
    // that it has, and there is room.
    let fills = job.transport != Transport::PciLegacy;
    let bad = EXECUTORS.iter().filter(|&&executor| {
        seen(executor).is_none_or(|row| !is_moved(row, job.awaited, executor == "embassy", fills))
    });
    bad.map(|executor| {
        Failure::new(
            format!("awaited by {executor}"),
            format!(
                "{} packets and more, by interrupts: halts in between, at most {POLLS} polls a \
                 packet, futures dropped and forgotten, two changes of the configuration; with embassy \
                 waits for room, and ticks of the clock",
                job.awaited
            ),
            seen(executor).map_or("nothing".into(), |row| format!("{row:?}")),
            "the serial log has the checks named awaited_...",
        )
    })
    .collect()
}

fn is_moved(row: &Awaited, packets: u32, with_clock: bool, fills: bool) -> bool {
    let most = POLLS * u64::from(row.packets) + u64::from(row.ticks) + MORE_POLLS;
    row.packets >= packets
        && row.polls <= most
        && row.halts > 0
        && row.interrupts > 0
        && row.dropped > 0
        && row.forgotten > 0
        && row.config_changes >= 2
        && (!with_clock || ((!fills || row.waits_for_room > 0) && row.ticks > 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::report::Device;

    fn row(executor: &str) -> Awaited {
        Awaited {
            executor: executor.into(),
            packets: 100,
            polls: 500,
            halts: 20,
            interrupts: 60,
            waits_for_room: 3,
            ticks: 5,
            config_changes: 2,
            dropped: 2,
            forgotten: 2,
        }
    }

    fn found(interrupts: &str, awaited: Vec<Awaited>) -> Findings {
        let device = Device {
            interrupts: interrupts.into(),
            ..Device::default()
        };
        Findings {
            device: Some(device),
            awaited,
            ..Findings::default()
        }
    }

    #[test]
    fn tasks_that_moved_nothing_or_never_slept_are_failures() {
        let mut job = super::super::verdict::tests::job();
        job.awaited = 100;
        let failures = |awaited| judge(&job, &found("msix", awaited)).len();
        let good = || EXECUTORS.map(row).to_vec();
        assert_eq!(failures(good()), 0);
        assert_eq!(failures(Vec::new()), 2);
        assert_eq!(failures(vec![row("embassy")]), 1);
        let spoil: [fn(&mut Awaited); 9] = [
            |row| row.packets = 99,
            |row| row.polls = 2000,
            |row| row.halts = 0,
            |row| row.interrupts = 0,
            |row| row.waits_for_room = 0,
            |row| row.ticks = 0,
            |row| row.config_changes = 1,
            |row| row.dropped = 0,
            |row| row.forgotten = 0,
        ];
        for spoil in spoil {
            let mut rows = good();
            spoil(&mut rows[0]);
            assert_eq!(failures(rows), 1);
        }
    }

    #[test]
    fn a_queue_of_a_fixed_size_need_not_fill() {
        let mut job = super::super::verdict::tests::job();
        job.awaited = 100;
        let mut rows = EXECUTORS.map(row).to_vec();
        rows[0].waits_for_room = 0;
        assert_eq!(judge(&job, &found("msix", rows.clone())).len(), 1);
        job.transport = Transport::PciLegacy;
        assert!(judge(&job, &found("msix", rows.clone())).is_empty());
        rows[0].ticks = 0;
        assert_eq!(judge(&job, &found("msix", rows)).len(), 1);
    }

    #[test]
    fn who_polls_has_nothing_to_await() {
        let mut job = super::super::verdict::tests::job();
        job.awaited = 100;
        assert!(judge(&job, &found("poll", Vec::new())).is_empty());
        job.awaited = 0;
        assert!(judge(&job, &found("msix", Vec::new())).is_empty());
    }
}
