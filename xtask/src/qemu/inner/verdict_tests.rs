//! Tests of the verdict: a good run passes, and each thing that can be wrong is named.

use vring_protocol::Transport;

use super::*;
use crate::qemu::arch::Arch;
use crate::qemu::features::Steer;
use crate::qemu::job::{Load, Tool};
use crate::qemu::report::{Both, Flow, Tests};
use vring_protocol::PairCounters;

pub(crate) fn job() -> Job {
    Job {
        cell: String::new(),
        mode: "off".into(),
        qemu: Tool::installed("qemu".into()),
        strace: None,
        arch: Arch::X86_64,
        machine: "q35".into(),
        accel: "tcg".into(),
        suite: Suite::Net,
        cpus: 1,
        queue_pairs: 1,
        model: "virtio-net-pci".into(),
        nic: String::new(),
        arguments: Vec::new(),
        transport: Transport::PciModern,
        counted: false,
        guest: "guest".into(),
        command_line: String::new(),
        steer: Steer::default(),
        queue_size: 256,
        device_sizes: (256, 256),
        guest_pings: 100,
        awaited: 0,
        link: Link::User,
        load: Load {
            pings: 100,
            tcp_bytes: 1,
            datagrams: 70_000,
            burst: 10,
        },
        brief: false,
        dir: "nowhere".into(),
        boot_seconds: 1,
        exercise_seconds: 0,
        total_seconds: 1,
    }
}

fn good() -> Findings {
    let flow = Flow {
        sent: 70_000,
        received: 70_000,
        ..Flow::default()
    };
    let flows = Both {
        up: Some(flow),
        down: Some(flow),
    };
    let queue = |index: u16, name: &str| QueueCounters {
        index,
        name: name.into(),
        submitted: 70_100,
        completed: 70_000,
        returned_by_reset: 100,
        kicks: 5,
        ..QueueCounters::default()
    };
    let events = [
        Event::Ping {
            sent: 100,
            received: 100,
        },
        Event::Counters {
            queues: vec![queue(0, "rx"), queue(1, "tx")],
            interrupts: 9,
            spurious_interrupts: 0,
        },
        Event::Queue {
            index: 0,
            name: "rx".into(),
            ring: "split".into(),
            num: 256,
            desc: 1,
            avail: 2,
            used: 3,
        },
    ];
    let mut findings = Findings {
        udp: flows,
        burst: flows,
        ..Findings::default()
    };
    take_announcements(&job(), &mut findings, &events);
    take_results(&mut findings, &events);
    findings.queues[0].matches_driver = true;
    findings
}

fn checks(findings: &Findings) -> Vec<String> {
    let mut failures = Vec::new();
    links(&mut failures, &job(), findings);
    for queue in findings.counters.iter().flat_map(|c| &c.queues) {
        failures.extend(buffers_came_back(queue));
        failures.extend(index_wraps(queue, &job()));
    }
    failures.into_iter().map(|failure| failure.check).collect()
}

#[test]
fn a_good_run_passes() {
    let findings = good();
    assert_eq!(checks(&findings), [""; 0]);
    assert_eq!(findings.counters.unwrap().kicks, 10);
    assert_eq!(findings.ring.as_deref(), Some("split"));
}

#[test]
fn each_flaw_is_named() {
    type Spoil = fn(&mut Findings);
    let cases: [(&str, Spoil); 8] = [
        ("vhost started", |f| f.vhost.started = true),
        ("queues match", |f| f.queues[0].matches_driver = false),
        ("ping", |f| {
            f.ping = Some(Ping {
                sent: 100,
                received: 99,
            })
        }),
        ("udp_down", |f| f.udp.down = None),
        ("burst_up", |f| f.burst.up = None),
        ("buffers of queue 0 (rx)", |f| counters(f)[0].completed -= 1),
        ("faults of queue 1 (tx)", |f| counters(f)[1].faults = 1),
        ("index of queue 1 (tx) wraps", |f| {
            counters(f)[1].submitted = 100;
            counters(f)[1].completed = 0;
        }),
    ];
    for (check, spoil) in cases {
        let mut findings = good();
        spoil(&mut findings);
        assert!(
            checks(&findings).contains(&check.into()),
            "{check}: {:?}",
            checks(&findings)
        );
    }
}

fn counters(findings: &mut Findings) -> &mut Vec<QueueCounters> {
    &mut findings.counters.as_mut().unwrap().queues
}

#[test]
fn the_guest_must_have_driven_the_card_as_it_was_told() {
    let mut findings = good();
    let device = |transport: Transport| Device {
        transport: transport.name().into(),
        ..Device::default()
    };
    assert!(transport(&job(), &findings).is_some());
    findings.device = Some(device(Transport::PciModern));
    assert!(transport(&job(), &findings).is_none());
    findings.device = Some(device(Transport::PciLegacy));
    assert!(transport(&job(), &findings).is_some());
}

#[test]
fn counted_registers_are_all_of_them() {
    let plain = job();
    let counted = Job {
        counted: true,
        ..job()
    };
    let mut findings = good();
    assert!(registers(&plain, &findings).is_none());
    assert!(registers(&counted, &findings).is_some());
    let all = Registers {
        accesses: 1,
        doorbells: 10,
        acknowledged: 0,
    };
    for (seen, interrupts, ok) in [
        (all, "msix", true),
        (Registers { accesses: 0, ..all }, "msix", false),
        (
            Registers {
                doorbells: 9,
                ..all
            },
            "msix",
            false,
        ),
        (
            Registers {
                acknowledged: 9,
                ..all
            },
            "intx",
            true,
        ),
        (
            Registers {
                acknowledged: 8,
                ..all
            },
            "intx",
            false,
        ),
        (
            Registers {
                acknowledged: 1,
                ..all
            },
            "poll",
            false,
        ),
    ] {
        findings.registers = Some(seen);
        findings.device = Some(Device {
            interrupts: interrupts.into(),
            ..Device::default()
        });
        let failed = registers(&counted, &findings).is_some();
        assert_eq!(failed, !ok, "{seen:?} {interrupts}");
        assert!(registers(&plain, &findings).is_some());
    }
}

#[test]
fn vhost_must_have_run_where_it_was_asked_for() {
    let mut failures = Vec::new();
    let vhost = Job {
        link: Link::VhostTap,
        ..job()
    };
    links(&mut failures, &vhost, &good());
    let names: Vec<_> = failures
        .iter()
        .map(|failure| failure.check.as_str())
        .collect();
    assert_eq!(
        names,
        [
            "vhost started",
            "vhost still started after the traffic",
            "vhost worker"
        ]
    );
}

#[test]
fn every_processor_that_was_asked_for_drives_a_queue_pair() {
    let pair = |cpu: u16| PairCounters {
        cpu,
        sent: 9,
        received: 9,
        interrupts: 3,
        ..PairCounters::default()
    };
    let two = Job {
        cpus: 2,
        queue_pairs: 2,
        ..job()
    };
    let failed = |job: &Job, pairs: &[PairCounters]| {
        let findings = Findings {
            pairs: Some(Pairs {
                pairs: pairs.to_vec(),
                ..Pairs::default()
            }),
            ..Findings::default()
        };
        lanes(job, &findings).is_some()
    };
    assert!(!failed(&two, &[pair(0), pair(1)]));
    assert!(failed(&two, &[pair(0)]));
    assert!(failed(&two, &[pair(0), pair(0)]));
    for spoil in [
        (|pair: &mut PairCounters| pair.received = 0) as fn(&mut PairCounters),
        |pair| pair.interrupts = 0,
        |pair| pair.interrupts_elsewhere = 1,
    ] {
        let mut bad = pair(1);
        spoil(&mut bad);
        assert!(failed(&two, &[pair(0), bad]));
    }
    assert!(lanes(&two, &Findings::default()).is_some());
    // With one processor the guest says that it left it out; with one pair nothing is asked for.
    let one = Job { cpus: 1, ..two };
    assert!(lanes(&one, &Findings::default()).is_none());
    assert!(lanes(&job(), &Findings::default()).is_none());
}

#[test]
fn a_second_processor_that_did_not_work_is_a_failure() {
    let tests = |names: &[&str]| Tests {
        passed: names.iter().map(|name| (*name).into()).collect(),
        ..Tests::default()
    };
    let (one, two) = (job(), Job { cpus: 2, ..job() });
    assert!(processors(&one, &tests(&["boot_processors"])).is_none());
    assert!(processors(&two, &tests(&["boot_processors"])).is_some());
    assert!(processors(&two, &tests(&["boot_processors", "processor_works"])).is_none());
}

#[test]
fn what_the_guest_left_out_is_listed_as_skipped() {
    let mut findings = Findings::default();
    let left_out = Event::Skipped {
        what: "a".into(),
        why: "b".into(),
        fix: "c".into(),
    };
    take_results(&mut findings, &[left_out]);
    assert_eq!(findings.skipped[0].what, "a");
    assert_eq!(findings.skipped[0].fix, "c");
}
