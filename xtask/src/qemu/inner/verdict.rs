//! What the guest announced, and the checks on all that was found.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use vring_protocol::{EXIT_FAILED, EXIT_OK, Event, QueueCounters, VERSION, exit_status};

use super::awaited;
use super::command::{STRACE_LOG, TRACE_LOG};
use super::exercises;
use super::serial::Serial;
use super::wish;
use crate::qemu::channel::Outlet;
use crate::qemu::cli::Suite;
use crate::qemu::job::{Job, Link};
use crate::qemu::limits::Deadline;
use crate::qemu::proof::{steps, strace};
use crate::qemu::report::{
    Addresses, Batch, Counters, Device, Failure, Features, Findings, InterruptCounts, Pairs,
    Pieces, Ping, Queue, Registers, Skipped, StepStatus, Tests, Waiting,
};
use crate::qemu::stop::Stop;

/// An available index wraps after so many buffers.
const WRAP: u64 = 1 << 16;

/// Whether the guest is ready.
pub(super) fn ready(events: &[Event]) -> Option<()> {
    events
        .iter()
        .any(|event| matches!(event, Event::Ready { .. }))
        .then_some(())
}

/// Whether the guest has said its last word.
pub(super) fn done(events: &[Event]) -> Option<(u32, u32)> {
    events.iter().find_map(|event| match event {
        Event::Done { passed, failed } => Some((*passed, *failed)),
        _ => None,
    })
}

/// The first event, whose version must be ours, of a guest for the architecture that was asked for.
pub(super) fn wait_hello(
    job: &Job,
    serial: &mut Serial,
    deadline: Deadline,
    outlet: &mut dyn Outlet,
) -> Result<(), Stop> {
    let find = |events: &[Event]| {
        events.iter().find_map(|event| match event {
            Event::Hello { version, arch, .. } => Some((*version, arch.clone())),
            _ => None,
        })
    };
    let (version, arch) = serial.wait("the guest's first word", deadline, outlet, find)?;
    if version != VERSION {
        return Err(Stop::Broken(anyhow::anyhow!(
            "the guest speaks version {version} of the protocol, the harness {VERSION}: \
             build both from one tree"
        )));
    }
    if arch != job.arch.name() {
        return Err(Stop::Broken(anyhow::anyhow!(
            "the guest is one for {arch}, and one for {} was asked for",
            job.arch.name()
        )));
    }
    Ok(())
}

/// Takes over what the guest said before it was ready.
pub(super) fn take_announcements(job: &Job, findings: &mut Findings, events: &[Event]) {
    let mut device = Device::default();
    for event in events {
        match event.clone() {
            Event::Hello { pci_access, .. } => device.pci_access = pci_access,
            Event::Device {
                address,
                device_type,
                transport,
                mac,
                mtu,
                interrupts,
            } => {
                device = Device {
                    address,
                    device_type,
                    transport: transport.name().into(),
                    pci_access: device.pci_access.clone(),
                    mac,
                    mtu,
                    interrupts,
                };
                findings.device = Some(device.clone());
            }
            Event::Features {
                offered,
                acked,
                refused,
            } => {
                findings.features = Some(Features {
                    offered,
                    acked,
                    refused,
                    required: job.steer.require.clone(),
                    forbidden: job.steer.refuse.clone(),
                });
            }
            Event::Queue {
                index,
                name,
                ring,
                num,
                desc,
                avail,
                used,
            } => {
                findings.ring = Some(ring);
                findings.queues.push(Queue {
                    index,
                    name,
                    num,
                    driver: Addresses { desc, avail, used },
                    host: None,
                    host_sizes: None,
                    host_num: None,
                    matches_driver: false,
                });
            }
            _ => {}
        }
    }
}

/// Adds every check on what was found. Of a run that broke off, only what says why is checked:
/// that the rest is missing follows from it, and is listed as skipped.
pub(super) fn judge(
    job: &Job,
    findings: &mut Findings,
    serial: &Serial,
    status: Option<ExitStatus>,
    whole: bool,
) {
    take_results(findings, &serial.events);
    findings.tests = serial.tests.clone();
    let mut failures = serial.damaged.clone();
    failed_tests(&mut failures, serial);
    // A guest that the harness ended could not say goodbye.
    if whole || status.is_some() {
        last_words(&mut failures, serial, status);
    }
    // Of a guest that never came to its queues there is no start to look for.
    let traced = job.strace.is_some() && job.suite == Suite::Net;
    if traced && (whole || !findings.queues.is_empty()) {
        vhost_steps(job, findings);
    }
    if whole && job.suite == Suite::Interrupts {
        failures.extend(exercises::told(job, findings));
    } else if whole {
        links(&mut failures, job, findings);
        failures.extend(transport(job, findings));
        failures.extend(registers(job, findings));
        failures.extend(wish::sizes(job, findings));
        failures.extend(awaited::judge(job, findings));
        failures.extend(processors(job, &findings.tests));
        failures.extend(lanes(job, findings));
        steps_taken(&mut failures, findings);
    } else if job.suite == Suite::Net {
        findings.skipped.extend(not_reached(findings));
    }
    if findings.features.is_some() {
        failures.extend(wish::features(job, findings));
    }
    for queue in findings
        .counters
        .iter()
        .flat_map(|counters| &counters.queues)
    {
        failures.extend(buffers_came_back(queue));
        if whole {
            failures.extend(index_wraps(queue, job));
        }
    }
    findings.failures.extend(failures);
    findings.judged = true;
}

/// Whether the second processor that was asked for worked. A guest that does not find it does not
/// miss it.
fn processors(job: &Job, tests: &Tests) -> Option<Failure> {
    const WORKED: &str = "processor_works";
    let worked = tests.passed.iter().any(|name| name == WORKED);
    (job.cpus > 1 && !worked).then(|| {
        Failure::new(
            "processors",
            format!("{} at work: the guest's test {WORKED} passes", job.cpus),
            "it did not run, or failed",
            "the serial log says how many the firmware describes",
        )
    })
}

/// Whether each processor that was asked for drove a queue pair.
fn lanes(job: &Job, findings: &Findings) -> Option<Failure> {
    let (wanted, pairs) = (job.queue_pairs, findings.pairs.as_ref());
    if wanted < 2 || job.cpus < wanted {
        return None;
    }
    let driven = pairs.map_or(&[][..], |pairs| &pairs.pairs);
    let good = driven.iter().map(|pair| pair.cpu).eq(0..wanted)
        && driven.iter().all(|pair| {
            pair.sent > 0
                && pair.received > 0
                && pair.interrupts > 0
                && pair.interrupts_elsewhere == 0
        });
    (!good).then(|| {
        Failure::new(
            "queue pairs",
            format!("{wanted} driven, each by its own processor, which it interrupts"),
            format!("{driven:?}"),
            "the tests of the guest whose names begin with pairs_",
        )
    })
}

/// What a run that broke off did not come to.
fn not_reached(findings: &Findings) -> Vec<Skipped> {
    let found = [
        (
            "vhost proof",
            findings.queues.iter().any(|queue| queue.host.is_some()),
        ),
        ("ping", findings.ping.is_some()),
        ("tcp_up", findings.tcp.up.is_some()),
        ("tcp_down", findings.tcp.down.is_some()),
        ("udp_up", findings.udp.up.is_some()),
        ("udp_down", findings.udp.down.is_some()),
        ("burst_up", findings.burst.up.is_some()),
        ("burst_down", findings.burst.down.is_some()),
        ("counters", findings.counters.is_some()),
    ];
    let missing = found.iter().filter(|(_, reached)| !reached);
    missing
        .map(|(what, _)| Skipped {
            what: (*what).into(),
            why: "the run broke off before it".into(),
            fix: "see the failures".into(),
        })
        .collect()
}

fn steps_taken(failures: &mut Vec<Failure>, findings: &Findings) {
    for step in &findings.vhost.steps {
        if step.status == StepStatus::Missing {
            failures.push(Failure::new(
                format!("vhost step {}", step.step),
                "observed",
                step.reason.clone().unwrap_or_default(),
                format!("{STRACE_LOG} and {TRACE_LOG} hold what was seen"),
            ));
        }
    }
}

fn take_results(findings: &mut Findings, events: &[Event]) {
    for event in events {
        match event {
            Event::Ping { sent, received } => {
                let ping = Ping {
                    sent: *sent,
                    received: *received,
                };
                findings.ping_by_guest = Some(ping);
            }
            Event::Pieces {
                acked,
                sent,
                received,
                descriptors,
                sizes,
                queue_resets,
                returned,
            } => {
                findings.pieces = Some(Pieces {
                    acked: acked.clone(),
                    sent: *sent,
                    received: *received,
                    descriptors: *descriptors,
                    sizes: sizes.clone(),
                    queue_resets: *queue_resets,
                    returned: *returned,
                });
            }
            Event::Batches {
                batch,
                packets,
                transmit_kicks,
                receive_kicks,
                suppressed_kicks,
                interrupts,
                register_accesses,
            } => findings.batches.push(Batch {
                batch: *batch,
                packets: *packets,
                transmit_kicks: *transmit_kicks,
                receive_kicks: *receive_kicks,
                suppressed_kicks: *suppressed_kicks,
                interrupts: *interrupts,
                register_accesses: *register_accesses,
            }),
            Event::Interrupts {
                exercise,
                device,
                answers,
                queues,
                config,
                foreign,
                unclaimed,
            } => findings.interrupts.push(InterruptCounts {
                exercise: exercise.clone(),
                device: device.clone(),
                answers: *answers,
                queues: *queues,
                config: *config,
                foreign: *foreign,
                unclaimed: *unclaimed,
            }),
            Event::Waiting {
                mode,
                packets,
                median_ns,
                interrupts,
                doorbells,
                halts,
            } => findings.waiting.push(Waiting {
                mode: mode.clone(),
                packets: *packets,
                median_us: *median_ns as f64 / 1000.0,
                interrupts: *interrupts,
                doorbells: *doorbells,
                halts: *halts,
            }),
            Event::Pairs {
                acked,
                max_pairs,
                pairs,
            } => {
                findings.pairs = Some(Pairs {
                    acked: acked.clone(),
                    max_pairs: *max_pairs,
                    pairs: pairs.clone(),
                });
            }
            Event::Skipped { what, why, fix } => findings.skipped.push(Skipped {
                what: what.clone(),
                why: why.clone(),
                fix: fix.clone(),
            }),
            Event::Registers {
                accesses,
                doorbells,
                acknowledged,
            } => {
                findings.registers = Some(Registers {
                    accesses: *accesses,
                    doorbells: *doorbells,
                    acknowledged: *acknowledged,
                });
            }
            Event::Counters {
                queues,
                interrupts,
                spurious_interrupts,
            } => {
                let sum = |get: fn(&QueueCounters) -> u64| queues.iter().map(get).sum();
                findings.counters = Some(Counters {
                    kicks: sum(|q| q.kicks),
                    suppressed_kicks: sum(|q| q.suppressed_kicks),
                    faults: sum(|q| q.faults),
                    interrupts: *interrupts,
                    spurious_interrupts: *spurious_interrupts,
                    queues: queues.clone(),
                });
            }
            other => findings.awaited.extend(awaited::take(other)),
        }
    }
    // Where only the guest can ping, its pings are the ones that count.
    if findings.ping.is_none() {
        findings.ping = findings.ping_by_guest.take();
    }
}

fn failed_tests(failures: &mut Vec<Failure>, serial: &Serial) {
    let mut explained = Vec::new();
    for event in &serial.events {
        if let Event::Failure {
            check,
            expected,
            seen,
            hint,
        } = event
        {
            failures.push(Failure::new(check.clone(), expected, seen, hint.clone()));
            explained.push(check.clone());
        }
    }
    for name in &serial.tests.failed {
        if !explained.contains(name) {
            failures.push(Failure::new(
                name.clone(),
                "the guest's test passes",
                "FAILED",
                "the lines before it in the serial log say more",
            ));
        }
    }
}

fn last_words(failures: &mut Vec<Failure>, serial: &Serial, status: Option<ExitStatus>) {
    match done(&serial.events) {
        None => failures.push(Failure::new(
            "guest",
            "the guest says how its tests went before it ends",
            format!("no such line; its last ones:\n{}", serial.tail()),
            "a panic or a triple fault of the guest; the serial log has everything",
        )),
        Some((passed, failed)) => {
            let seen = (serial.tests.passed.len(), serial.tests.failed.len());
            if seen != (passed as usize, failed as usize) {
                failures.push(Failure::new(
                    "guest",
                    format!("lines for {passed} passed and {failed} failed tests"),
                    format!("{} and {}", seen.0, seen.1),
                    "a serial line was lost or broken",
                ));
            }
        }
    }
    let expected = exit_status(EXIT_OK);
    let seen = match status {
        Some(status) => match (status.code(), status.signal()) {
            (Some(seen), _) if seen == expected => return,
            (Some(seen), _) if seen == exit_status(EXIT_FAILED) && !failures.is_empty() => return,
            (Some(seen), _) => format!("{seen}"),
            (None, signal) => format!("killed by signal {}", signal.unwrap_or(0)),
        },
        None => "QEMU was still running and was ended by the harness".into(),
    };
    failures.push(Failure::new(
        "exit status",
        expected,
        seen,
        "33: all tests passed, 35: some failed, 0: the guest was reset, others: QEMU itself",
    ));
}

fn links(failures: &mut Vec<Failure>, job: &Job, findings: &Findings) {
    let vhost = job.link == Link::VhostTap;
    let mut want = |ok: bool, check: &str, expected: String, seen: String, hint: &str| {
        if !ok {
            failures.push(Failure::new(check, expected, seen, hint));
        }
    };
    let seen = &findings.vhost;
    want(
        seen.started == vhost,
        "vhost started",
        vhost.to_string(),
        seen.started.to_string(),
        "the QMP log has x-query-virtio-status",
    );
    if vhost {
        want(
            seen.started_after_traffic,
            "vhost still started after the traffic",
            "true".into(),
            "false".into(),
            "QEMU fell back to its own device, or the guest reset it",
        );
        want(
            seen.worker.is_some(),
            "vhost worker",
            "a thread named vhost-<pid of QEMU>".into(),
            "none".into(),
            "the kernel did not start a worker for this QEMU",
        );
    }
    want(
        !findings.queues.is_empty(),
        "queues",
        "the guest announces its virtqueues".into(),
        "none".into(),
        "the guest did not get as far as the device: see the serial log",
    );
    want(
        findings.queues.iter().all(|queue| queue.matches_driver),
        "queues match",
        "every queue compared with the host and equal".into(),
        "at least one not compared or different".into(),
        "queues[] in the report has both sides",
    );
    let guest = (job.guest_pings, findings.ping_by_guest.or(findings.ping));
    for (name, wanted, ping) in [
        ("ping", job.load.pings, findings.ping),
        ("ping by the guest", guest.0, guest.1),
    ] {
        let ping = ping.unwrap_or_default();
        want(
            ping.sent >= wanted && ping.received == ping.sent,
            name,
            format!("{wanted} sent and answered"),
            format!("{} sent, {} answered", ping.sent, ping.received),
            "ping.pcap has the first frames",
        );
    }
    for (name, flow) in [("udp_up", findings.udp.up), ("udp_down", findings.udp.down)] {
        let received = flow.map_or(0, |flow| flow.received);
        want(
            received >= u64::from(job.load.datagrams),
            name,
            format!("at least {} datagrams received", job.load.datagrams),
            received.to_string(),
            "paced datagrams that are lost are sent again, so this means that the flow stopped",
        );
    }
    for (name, flow) in [
        ("burst_up", findings.burst.up),
        ("burst_down", findings.burst.down),
    ] {
        want(
            flow.is_some_and(|flow| flow.received > 0) || job.load.burst == 0,
            name,
            "some datagrams of the burst arrive".into(),
            "none".into(),
            "the counters tell whether buffers were lost",
        );
    }
    want(
        findings.counters.is_some(),
        "counters",
        "the guest's last counts".into(),
        "none".into(),
        "the guest did not reach its end",
    );
    let interrupts = findings.counters.as_ref().map_or(0, |c| c.interrupts);
    let driven = findings
        .device
        .as_ref()
        .is_some_and(|d| d.interrupts != "poll");
    want(
        !driven || interrupts > 0,
        "interrupts",
        "more than 0 with interrupts in use".into(),
        interrupts.to_string(),
        "the guest polled although it said otherwise, or the vectors never fired",
    );
}

/// The guest drove the card as it was told.
fn transport(job: &Job, findings: &Findings) -> Option<Failure> {
    let seen = findings.device.as_ref().map_or("", |d| &d.transport);
    let expected = job.transport.name();
    (seen != expected).then(|| {
        Failure::new(
            "transport",
            expected,
            seen,
            "the guest's command line is in the serial log",
        )
    })
}

/// Where registers were counted, all were: as many doorbells as the queues say that they rang, and
/// an acknowledgement for each interrupt of a line. What goes past the count is a fault of the
/// guest's, as the driver has addresses that are mapped nowhere.
fn registers(job: &Job, findings: &Findings) -> Option<Failure> {
    let counters = findings.counters.clone().unwrap_or_default();
    let line = findings
        .device
        .as_ref()
        .is_some_and(|device| device.interrupts == "intx");
    let (ok, expected) = match (job.counted, &findings.registers) {
        (false, seen) => (seen.is_none(), "no count".into()),
        (true, seen) => {
            let ok = seen.as_ref().is_some_and(|seen| {
                let acknowledged = if line {
                    seen.acknowledged >= counters.interrupts
                } else {
                    seen.acknowledged == 0
                };
                seen.accesses > 0 && seen.doorbells == counters.kicks && acknowledged
            });
            let acknowledged = if line { counters.interrupts } else { 0 };
            let kicks = counters.kicks;
            (
                ok,
                format!("accesses, {kicks} doorbells, {acknowledged} acknowledged"),
            )
        }
    };
    (!ok).then(|| {
        Failure::new(
            "registers",
            expected,
            format!("{:?}", findings.registers),
            "qemu-tests/src/kernel/access.rs counts",
        )
    })
}

/// No buffer may be lost, and an honest host gives no reason for a fault.
fn buffers_came_back(queue: &QueueCounters) -> Vec<Failure> {
    let mut failures = Vec::new();
    let back = queue.completed.saturating_add(queue.returned_by_reset);
    if queue.submitted != back {
        failures.push(Failure::new(
            format!("buffers of queue {} ({})", queue.index, queue.name),
            format!("all {} submitted buffers come back", queue.submitted),
            format!(
                "{} by completion and {} by the reset",
                queue.completed, queue.returned_by_reset
            ),
            "a completion was lost, or a buffer was given back twice",
        ));
    }
    if queue.faults != 0 {
        failures.push(Failure::new(
            format!("faults of queue {} ({})", queue.index, queue.name),
            0,
            queue.faults,
            "an honest host gives no reason for any: the driver misread something",
        ));
    }
    failures
}

/// The paced flows must wrap the available index of both queues.
fn index_wraps(queue: &QueueCounters, job: &Job) -> Option<Failure> {
    let asked = u64::from(job.load.datagrams) >= WRAP;
    let short = matches!(queue.name.as_str(), "rx" | "tx") && queue.submitted <= WRAP;
    (asked && short).then(|| {
        Failure::new(
            format!("index of queue {} ({}) wraps", queue.index, queue.name),
            format!("more than {WRAP} buffers"),
            queue.submitted,
            "the traffic did not go through this queue",
        )
    })
}

fn vhost_steps(job: &Job, findings: &mut Findings) {
    let read = |name| std::fs::read_to_string(job.dir.join(name)).unwrap_or_default();
    // Behind the queues of all pairs.
    let pairs = findings.pairs.as_ref();
    let control = pairs.and_then(|pairs| pairs.max_pairs.checked_mul(2));
    let (traced_status, traced_notify) = steps::count_trace(&read(TRACE_LOG), control);
    let notifications = steps::Notifications {
        traced_status,
        traced_notify,
        kicks: findings.counters.as_ref().map(|counters| counters.kicks),
    };
    // Control queues are QEMU's own; vhost has the receive and transmit queues.
    let queues = findings
        .queues
        .iter()
        .filter(|queue| queue.name != "ctrl")
        .count();
    let calls = strace::parse(&read(STRACE_LOG));
    findings.vhost.steps = steps::steps(&calls, queues, notifications);
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
pub(crate) mod tests;
