//! The `qemu` section: the guest on its host paths, by the command that people use.
//!
//! Each run is `cargo xtask qemu` in a process and a directory of its own, and its `report.json`
//! is judged here as a script would: what the report must say is listed below, once more and
//! independently of the harness that wrote it. One run asks for what the machine does not have, and
//! must be refused at once.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::Value;

use super::run::{Cmd, Run};
use super::section::{Check, Counts, Outcome, Skip};
use crate::qemu::stop::{EXIT_MISSING, Stop};

/// The least that passes for a transfer.
const PINGS: u64 = 100;
const TCP_BYTES: u64 = 8 << 20;
const DATAGRAMS: u64 = 70_000;
/// How long a refusal may take: nothing is compiled for it.
const REFUSAL_SECONDS: f64 = 10.0;
/// Two queue pairs, with little of the traffic that other runs have.
const PAIRS: [&str; 10] = [
    "--queue-pairs",
    "2",
    "--pings",
    "10",
    "--tcp-mib",
    "1",
    "--datagrams",
    "1000",
    "--burst",
    "100",
];
/// The least that passes for a queue pair's traffic.
const PAIR_PINGS: u64 = 1000;
/// What the native mode needs.
const VHOST_NET: &str = "/dev/vhost-net";

pub(crate) fn checks() -> Vec<Check> {
    let guest = |name: &'static str, words: &'static [&'static str], vhost: bool| {
        Check::new(format!("xtask qemu {name}").trim_end(), move |run| {
            let (report, ending) = xtask_qemu(run, name, words)?;
            let mut outcome = judge(&report, vhost);
            let code = &report["exit_code"];
            outcome.judge(code == 0, || format!("the run ended with {ending}"));
            Ok(outcome)
        })
    };
    vec![
        Check::new("a refusal is quick", refusal),
        guest("--vhost off", &["--vhost", "off"], false),
        guest(
            "--machine pc",
            &["--machine", "pc", "--vhost", "off"],
            false,
        ),
        guest(
            "--arch aarch64",
            &["--arch", "aarch64", "--vhost", "off"],
            false,
        ),
        guest(
            "--arch riscv64",
            &["--arch", "riscv64", "--vhost", "off"],
            false,
        ),
        guest("", &[], true),
        Check::new("xtask qemu --queue-pairs 2", |run| {
            let (report, ending) = xtask_qemu(run, "--queue-pairs 2", &PAIRS)?;
            let mut outcome = judge_pairs(&report);
            let code = &report["exit_code"];
            outcome.judge(code == 0, || format!("the run ended with {ending}"));
            Ok(outcome)
        }),
        Check::new("xtask qemu --matrix", |run| {
            let (report, ending) = xtask_qemu(run, "--matrix", &["--matrix"])?;
            let table = run.context.out.join("qemu/matrix/matrix.json");
            let mut outcome = judge_matrix(&read_report(&table)?);
            let code = &report["exit_code"];
            outcome.judge(code == 0, || format!("the run ended with {ending}"));
            Ok(outcome)
        }),
    ]
}

/// Counts the cells: those that ran as tests. That a back end does not have something is a fact of
/// the table; that something is missing on this machine is a skip.
fn judge_matrix(table: &Value) -> Outcome {
    let mut outcome = Outcome::default();
    let cells = table["cells"].as_array().map(Vec::as_slice);
    let mut facts = 0;
    for cell in cells.unwrap_or_default() {
        let text = |field: &str| cell[field].as_str().unwrap_or_default().to_owned();
        let (name, reason) = (text("name"), text("reason"));
        match cell["result"].as_str() {
            Some("ok") => outcome.judge(shows(cell), || {
                format!("{name} is called ok, and its entry does not show it")
            }),
            Some("not_offered") if !reason.is_empty() => facts += 1,
            Some("skipped") => {
                outcome.counts.add(Counts::SKIPPED);
                outcome.lacks = true;
                let reason = format!("{name}: {reason}");
                outcome.skip.get_or_insert(Skip {
                    reason,
                    fix: text("fix"),
                });
            }
            _ => {
                let seen = &cell["failures"][0]["seen"];
                outcome.judge(false, || format!("{name}: {seen}"));
            }
        }
    }
    let counts = outcome.counts;
    outcome.judge(counts.passed + counts.skipped > 0, || "no cell".into());
    outcome.notes.push(format!(
        "{} cells ok, {} failed, {} skipped, {facts} not offered by their back end, {:.0} s",
        counts.passed,
        counts.failed,
        counts.skipped,
        table["seconds"].as_f64().unwrap_or_default()
    ));
    outcome
}

/// What the entry of a good cell shows: its features, its rings where the host has them, and vhost
/// where it is vhost's.
fn shows(cell: &Value) -> bool {
    let list = |pointer: &str| {
        let list = cell.pointer(pointer).and_then(Value::as_array);
        list.map(Vec::as_slice).unwrap_or_default()
    };
    let acked = [list("/features/acked"), list("/pieces/acked")].concat();
    let required = list("/features/required");
    let queues = list("/queues");
    let moved = match cell["suite"].as_str() {
        // It says which way to wait took what, and that a change of the configuration interrupted,
        // where there are interrupts; of its queues it counts nothing.
        Some("interrupts") => {
            let ways = list("/waiting").iter().map(|way| &way["mode"]);
            let counts = list("/interrupt_counts");
            ways.eq(["poll", "interrupt", "hybrid"])
                && counts.iter().any(|row| row["answers"].as_u64() > Some(0))
                && counts.iter().any(|row| row["config"].as_u64() >= Some(2))
                && cell["guest_tests"].as_u64() > Some(0)
        }
        _ => {
            queues.len() >= 2
                && queues.iter().all(|queue| queue["matches_driver"] == true)
                && cell.pointer("/counters/faults") == Some(&Value::from(0))
        }
    };
    moved
        && required.iter().all(|name| acked.contains(name))
        && list("/features/forbidden")
            .iter()
            .all(|name| !acked.contains(name))
        && cell["vhost_started"] == (cell["back_end"] == "vhost")
}

/// Runs the guest; its report, and how the process ended.
fn xtask_qemu(run: &mut Run<'_>, name: &str, words: &[&str]) -> Result<(Value, String), Stop> {
    let dir = name.replace("--", "").replace(' ', "-");
    let out = run
        .context
        .out
        .join("qemu")
        .join(if dir.is_empty() { "default" } else { &dir });
    let myself = std::env::current_exe().context("cannot find this program")?;
    let cmd = Cmd::new(myself, ["qemu", "--yes", "--out"])
        .args([&out])
        .args(words);
    let printed = run.command(&cmd)?;
    Ok((read_report(&out.join("report.json"))?, printed.ending()))
}

fn read_report(path: &PathBuf) -> anyhow::Result<Value> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))
}

/// What a report of a good run says.
fn judge(report: &Value, vhost: bool) -> Outcome {
    let mut outcome = Outcome::default();
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64);
    let list = |pointer: &str| {
        let list = report.pointer(pointer).and_then(Value::as_array);
        list.map(Vec::as_slice).unwrap_or_default()
    };
    for failure in list("/failures") {
        let text = |field: &str| failure[field].as_str().unwrap_or_default().to_owned();
        outcome.judge(false, || {
            let (check, expected, seen) = (text("check"), text("expected"), text("seen"));
            format!("{check}: expected {expected}; seen {seen}")
        });
    }
    outcome.judge(report["ok"] == true, || "ok is not true".into());
    let started = &report["vhost"]["started"];
    outcome.judge(*started == vhost, || format!("vhost.started is {started}"));
    let mode = report["vhost"]["mode"].as_str().unwrap_or_default();
    let modes: &[&str] = if vhost {
        &["native", "nested"]
    } else {
        &["off"]
    };
    outcome.judge(modes.contains(&mode), || format!("vhost.mode is {mode:?}"));

    let queues = list("/queues");
    outcome.judge(queues.len() >= 2, || format!("{} queues", queues.len()));
    for queue in queues {
        outcome.judge(queue["matches_driver"] == true, || {
            format!("the host has queue {} elsewhere", queue["index"])
        });
    }
    for step in list("/vhost/steps") {
        let status = &step["status"];
        outcome.judge(*status == "observed" || *status == "not_taken", || {
            format!("step {}: {status}", step["step"])
        });
    }
    outcome.judge(!vhost || !list("/vhost/steps").is_empty(), || {
        "no step of vhost is told".into()
    });

    let (sent, received) = (number("/ping/sent"), number("/ping/received"));
    outcome.judge(sent >= Some(PINGS) && sent == received, || {
        format!("ping: {sent:?} sent, {received:?} answered")
    });
    for way in ["up", "down"] {
        let bytes = number(&format!("/tcp/{way}/bytes"));
        let sha256 = &report["tcp"][way]["sha256_ok"];
        outcome.judge(bytes >= Some(TCP_BYTES) && *sha256 == true, || {
            format!("tcp {way}: {bytes:?} bytes, sha256_ok {sha256}")
        });
        let received = number(&format!("/udp/{way}/received"));
        outcome.judge(received >= Some(DATAGRAMS), || {
            format!("udp {way}: {received:?} datagrams")
        });
    }
    let (kicks, faults) = (number("/counters/kicks"), number("/counters/faults"));
    outcome.judge(kicks > Some(0) && faults == Some(0), || {
        format!("counters: {kicks:?} kicks, {faults:?} faults")
    });
    let guests = list("/tests/passed");
    outcome.judge(!guests.is_empty(), || "the guest ran no test".into());
    for _ in guests {
        outcome.judge(true, String::new);
    }
    let seconds = report.pointer("/duration_s/total").and_then(Value::as_f64);
    let accel = report["accel"].as_str().unwrap_or("nothing");
    outcome.notes.push(format!(
        "vhost {mode}, {accel}: {} tests in the guest, {} queues, {:.0} s",
        guests.len(),
        queues.len(),
        seconds.unwrap_or_default()
    ));
    outcome
}

/// What a report says of two processors that drive a queue pair each, through vhost.
fn judge_pairs(report: &Value) -> Outcome {
    let mut outcome = Outcome::default();
    for failure in report["failures"].as_array().into_iter().flatten() {
        outcome.judge(false, || {
            format!("{}: {}", failure["check"], failure["seen"])
        });
    }
    outcome.judge(report["ok"] == true, || "ok is not true".into());
    let started = &report["vhost"]["started"];
    outcome.judge(*started == true, || format!("vhost.started is {started}"));
    let acked = report["pairs"]["acked"].as_array();
    for feature in ["VIRTIO_NET_F_CTRL_VQ", "VIRTIO_NET_F_MQ"] {
        let has = acked.is_some_and(|acked| acked.iter().any(|name| name == feature));
        outcome.judge(has, || format!("{feature} is not in use"));
    }
    let pairs = report["pairs"]["pairs"].as_array();
    let pairs = pairs.map(Vec::as_slice).unwrap_or_default();
    outcome.judge(pairs.len() == 2, || format!("{} queue pairs", pairs.len()));
    for (number, pair) in (0..).zip(pairs) {
        let count = |field: &str| pair[field].as_u64();
        let (sent, received) = (count("sent"), count("received"));
        outcome.judge(count("cpu") == Some(number), || {
            format!("pair {number} was driven by processor {}", pair["cpu"])
        });
        let answered = received
            .zip(count("astray"))
            .map(|(here, there)| here + there);
        outcome.judge(sent >= Some(PAIR_PINGS) && sent == answered, || {
            format!("pair {number}: {sent:?} pings sent, {answered:?} answered")
        });
        outcome.judge(received >= sent.map(|sent| sent - sent / 100), || {
            format!("pair {number}: {received:?} answers by its own queue, of {sent:?}")
        });
        let interrupts = [count("interrupts"), count("interrupts_elsewhere")];
        outcome.judge(interrupts[0] > Some(0) && interrupts[1] == Some(0), || {
            format!("pair {number}: {interrupts:?} interrupts on its processor, and elsewhere")
        });
        let back = received.zip(count("receive_used"));
        outcome.judge(
            back.is_some_and(|(received, used)| used >= received),
            || format!("pair {number}: {} used by the device", pair["receive_used"]),
        );
        outcome.judge(count("faults") == Some(0), || {
            format!("pair {number}: {} faults", pair["faults"])
        });
    }
    let guests = report["tests"]["passed"].as_array().map_or(0, Vec::len);
    outcome.judge(guests > 0, || "the guest ran no test".into());
    outcome.notes.push(format!(
        "vhost {}: {guests} tests in the guest, {} queue pairs",
        report["vhost"]["mode"].as_str().unwrap_or_default(),
        pairs.len()
    ));
    outcome
}

/// Asks for the native mode where it cannot be.
fn refusal(run: &mut Run<'_>) -> Result<Outcome, Stop> {
    if std::path::Path::new(VHOST_NET).exists() {
        return Ok(Outcome::skipped(
            format!("this machine has {VHOST_NET}: there is nothing to refuse"),
            "run this section on a machine without it as well",
        ));
    }
    let start = Instant::now();
    let (report, ending) = xtask_qemu(run, "--vhost native", &["--vhost", "native"])?;
    let seconds = start.elapsed().as_secs_f64();
    let mut outcome = Outcome::default();
    let code = &report["exit_code"];
    outcome.judge(*code == EXIT_MISSING, || format!("it ended with {ending}"));
    outcome.judge(seconds < REFUSAL_SECONDS, || {
        format!("it took {seconds:.1} s")
    });
    let skipped = &report["skipped"][0];
    let says = |field: &str| skipped[field].as_str().is_some_and(|text| !text.is_empty());
    outcome.judge(says("what") && says("why") && says("fix"), || {
        format!("it does not say what is missing and what to do: {skipped}")
    });
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn good() -> Value {
        json!({
            "ok": true, "exit_code": 0, "failures": [], "accel": "tcg",
            "vhost": {
                "started": true, "mode": "nested",
                "steps": [{"step": "set_vring_num", "status": "observed"}],
            },
            "queues": [{"index": 0, "matches_driver": true}, {"index": 1, "matches_driver": true}],
            "ping": {"sent": 100, "received": 100},
            "tcp": {
                "up": {"bytes": 8 << 20, "sha256_ok": true},
                "down": {"bytes": 8 << 20, "sha256_ok": true},
            },
            "udp": {"up": {"received": 70_000}, "down": {"received": 70_001}},
            "counters": {"kicks": 5, "faults": 0},
            "tests": {"passed": ["boot"], "failed": []},
            "duration_s": {"total": 3.5},
        })
    }

    #[test]
    fn a_good_report_passes() {
        let outcome = judge(&good(), true);
        assert_eq!(outcome.failures, Vec::<String>::new());
        assert!(outcome.counts.passed > 10);
    }

    fn good_cell() -> Value {
        json!({
            "name": "a", "back_end": "vhost", "result": "ok", "failures": [],
            "features": {"acked": ["F"], "required": ["F", "G"], "forbidden": ["H"]},
            "pieces": {"acked": ["G"]},
            "queues": [{"matches_driver": true}, {"matches_driver": true}],
            "vhost_started": true, "counters": {"faults": 0},
        })
    }

    #[test]
    fn cells_are_counted_and_facts_are_not_skips() {
        let fact = json!({"name": "b", "result": "not_offered", "reason": "it has none"});
        let skip = json!({"name": "c", "result": "skipped", "reason": "r", "fix": "f"});
        let failed = json!({"name": "d", "result": "failed", "failures": [{"seen": "s"}]});
        let good = judge_matrix(&json!({"cells": [good_cell(), fact]}));
        assert_eq!((good.counts.failed, good.counts.skipped), (0, 0));
        assert!(good.skip.is_none());
        let all = judge_matrix(&json!({"cells": [good_cell(), fact, skip, failed]}));
        assert_eq!((all.counts.failed, all.counts.skipped), (1, 1));
        assert_eq!(all.skip.unwrap().fix, "f");
        assert!(judge_matrix(&json!({})).counts.failed > 0, "no cell at all");
        let bare = json!({"cells": [{"name": "b", "result": "not_offered"}]});
        assert!(judge_matrix(&bare).counts.failed > 0, "a fact says why");
    }

    #[test]
    fn an_entry_that_does_not_show_what_it_says_is_a_failure() {
        assert!(shows(&good_cell()));
        for (pointer, lie) in [
            ("/features/acked", json!([])),
            ("/pieces/acked", json!(["G", "H"])),
            ("/queues/1/matches_driver", json!(false)),
            ("/queues", json!([])),
            ("/vhost_started", json!(false)),
            ("/counters/faults", json!(1)),
        ] {
            let mut cell = good_cell();
            *cell.pointer_mut(pointer).unwrap() = lie;
            assert!(!shows(&cell), "{pointer}");
        }
    }

    fn good_irq_cell() -> Value {
        let way = |mode: &str| json!({"mode": mode, "packets": 300});
        json!({
            "name": "a", "back_end": "qemu", "suite": "interrupts", "result": "ok", "failures": [],
            "features": {"acked": ["F"], "required": ["F"], "forbidden": ["H"]},
            "queues": [], "vhost_started": false, "guest_tests": 30,
            "waiting": [way("poll"), way("interrupt"), way("hybrid")],
            "interrupt_counts": [{"answers": 8, "config": 0}, {"answers": 0, "config": 2}],
        })
    }

    #[test]
    fn a_cell_of_the_interrupts_suite_shows_its_ways_to_wait_and_its_interrupts() {
        assert!(shows(&good_irq_cell()));
        for (pointer, lie) in [
            ("/waiting/1/mode", json!("poll")),
            ("/waiting", json!([])),
            ("/interrupt_counts/0/answers", json!(0)),
            ("/interrupt_counts/1/config", json!(1)),
            ("/guest_tests", json!(0)),
            ("/features/acked", json!(["F", "H"])),
            ("/vhost_started", json!(true)),
            ("/suite", json!("net")),
        ] {
            let mut cell = good_irq_cell();
            *cell.pointer_mut(pointer).unwrap() = lie;
            assert!(!shows(&cell), "{pointer}");
        }
    }

    fn good_pairs() -> Value {
        let pair = |cpu: u16| {
            json!({
                "cpu": cpu, "sent": 4000, "received": 3999, "astray": 1, "damaged": 0,
                "interrupts": 60, "interrupts_elsewhere": 0, "receive_used": 4010,
                "transmit_used": 4010, "transmit_submitted": 4010, "faults": 0,
            })
        };
        json!({
            "ok": true, "exit_code": 0, "failures": [],
            "vhost": {"started": true, "mode": "nested"},
            "pairs": {
                "acked": ["VIRTIO_NET_F_CTRL_VQ", "VIRTIO_NET_F_MQ"], "max_pairs": 2,
                "pairs": [pair(0), pair(1)],
            },
            "tests": {"passed": ["pairs_set"], "failed": []},
        })
    }

    #[test]
    fn two_queue_pairs_are_judged_by_what_each_processor_did() {
        let outcome = judge_pairs(&good_pairs());
        assert_eq!(outcome.failures, Vec::<String>::new());
        for (pointer, lie) in [
            ("/ok", json!(false)),
            ("/failures", json!([{"check": "a", "seen": "b"}])),
            ("/vhost/started", json!(false)),
            ("/pairs", json!(null)),
            ("/pairs/acked", json!(["VIRTIO_NET_F_CTRL_VQ"])),
            ("/pairs/pairs/1/cpu", json!(0)),
            ("/pairs/pairs/1/sent", json!(1)),
            ("/pairs/pairs/0/astray", json!(0)),
            (
                "/pairs/pairs/1",
                json!({"sent": 4000, "received": 2000, "astray": 2000}),
            ),
            ("/pairs/pairs/0/interrupts", json!(0)),
            ("/pairs/pairs/1/interrupts_elsewhere", json!(1)),
            ("/pairs/pairs/1/receive_used", json!(3998)),
            ("/pairs/pairs/0/faults", json!(1)),
            ("/tests/passed", json!([])),
        ] {
            let mut report = good_pairs();
            *report.pointer_mut(pointer).unwrap() = lie;
            assert!(judge_pairs(&report).counts.failed > 0, "{pointer}");
        }
    }

    #[test]
    fn everything_that_must_be_shown_is_looked_at() {
        let lies = [
            ("/ok", json!(false)),
            ("/vhost/started", json!(false)),
            ("/vhost/mode", json!("off")),
            ("/vhost/steps", json!([])),
            ("/vhost/steps/0/status", json!("missing")),
            ("/queues", json!([])),
            ("/queues/1/matches_driver", json!(false)),
            ("/ping/sent", json!(99)),
            ("/ping/received", json!(99)),
            ("/tcp/up/sha256_ok", json!(false)),
            ("/tcp/down/bytes", json!(1)),
            ("/udp/up/received", json!(69_999)),
            ("/udp/down", json!(null)),
            ("/counters/faults", json!(1)),
            ("/counters", json!(null)),
            ("/tests/passed", json!([])),
            (
                "/failures",
                json!([{"check": "a", "expected": "b", "seen": "c"}]),
            ),
        ];
        for (pointer, lie) in lies {
            let mut report = good();
            *report.pointer_mut(pointer).unwrap() = lie;
            assert!(judge(&report, true).counts.failed > 0, "{pointer}");
        }
        assert!(judge(&good(), false).counts.failed > 0, "vhost that is off");
    }
}
