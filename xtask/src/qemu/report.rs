//! The report: what a run found, for scripts (`report.json`) and for people.
//!
//! Field names are a contract with scripts; [`SCHEMA`] changes when one of them changes meaning.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use vring_protocol::QueueCounters;

/// Version of the report's form.
pub(crate) const SCHEMA: &str = "vring-qemu-report/1";

/// A check that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// Name of the check.
    pub(crate) check: String,
    /// What had to be.
    pub(crate) expected: String,
    /// What was.
    pub(crate) seen: String,
    /// Where to look, what to do.
    pub(crate) hint: String,
}

impl Failure {
    pub(crate) fn new(
        check: impl Into<String>,
        expected: impl ToString,
        seen: impl ToString,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            check: check.into(),
            expected: expected.to_string(),
            seen: seen.to_string(),
            hint: hint.into(),
        }
    }
}

/// Something that was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Skipped {
    pub(crate) what: String,
    pub(crate) why: String,
    pub(crate) fix: String,
}

/// What was negotiated, by the specification's names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Features {
    pub(crate) offered: Vec<String>,
    pub(crate) acked: Vec<String>,
    pub(crate) refused: Vec<String>,
    /// What the command line required of the driver.
    #[serde(default)]
    pub(crate) required: Vec<String>,
    /// What it told the driver to refuse.
    #[serde(default)]
    pub(crate) forbidden: Vec<String>,
}

/// What came of the exercise over queues of its own, with frames in pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pieces {
    pub(crate) acked: Vec<String>,
    pub(crate) sent: u32,
    pub(crate) received: u32,
    /// Descriptors of the ring that a chain took.
    pub(crate) descriptors: u16,
    /// Sizes of the receive and the transmit queue, one after the other.
    pub(crate) sizes: Vec<(u16, u16)>,
    /// Queues that were reset while the device ran.
    pub(crate) queue_resets: u32,
    /// Buffers that those resets gave back.
    pub(crate) returned: u64,
}

/// What came of two queue pairs, each driven by a processor of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pairs {
    pub(crate) acked: Vec<String>,
    /// Pairs that the device has.
    pub(crate) max_pairs: u16,
    pub(crate) pairs: Vec<vring_protocol::PairCounters>,
}

/// How often registers were reached, from finding the card to its reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registers {
    /// Loads and stores other than the two below.
    pub(crate) accesses: u64,
    pub(crate) doorbells: u64,
    /// Interrupts that were acknowledged.
    pub(crate) acknowledged: u64,
}

/// What packets took that were sent in batches of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Batch {
    /// Packets that were sent with one kick.
    pub(crate) batch: u32,
    /// Packets sent, each answered.
    pub(crate) packets: u32,
    /// Doorbell stores.
    pub(crate) transmit_kicks: u64,
    pub(crate) receive_kicks: u64,
    /// Doorbell stores that the device had asked to leave out.
    pub(crate) suppressed_kicks: u64,
    pub(crate) interrupts: u64,
    /// Accesses of the card's registers other than the doorbells.
    pub(crate) register_accesses: u64,
}

/// What the interrupts of a device came to in an exercise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InterruptCounts {
    pub(crate) exercise: String,
    pub(crate) device: String,
    /// Questions that were answered.
    pub(crate) answers: u32,
    /// Interrupts for queues, and for the configuration.
    pub(crate) queues: u64,
    pub(crate) config: u64,
    /// Interrupts of the device's line that were another device's, and that were nobody's.
    pub(crate) foreign: u64,
    pub(crate) unclaimed: u64,
}

/// What a way to wait for an answer cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    /// `poll`, `interrupt` or `hybrid`.
    pub(crate) mode: String,
    /// Questions, each sent when the last one was answered.
    pub(crate) packets: u32,
    /// Microseconds of the guest's clock from a question to its answer.
    pub(crate) median_us: f64,
    pub(crate) interrupts: u64,
    /// Doorbell stores.
    pub(crate) doorbells: u64,
    /// Times that the processor was halted.
    pub(crate) halts: u64,
}

/// What packets took that one of the guest's executors sent and awaited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Awaited {
    pub(crate) executor: String,
    pub(crate) packets: u32,
    /// Polls of futures.
    pub(crate) polls: u64,
    /// Halts of the processor.
    pub(crate) halts: u64,
    /// Interrupts for queues.
    pub(crate) interrupts: u64,
    /// Times that a task awaited room in a queue that was full.
    pub(crate) waits_for_room: u32,
    /// Times that the clock woke a task.
    pub(crate) ticks: u32,
    /// Changes of the configuration.
    pub(crate) config_changes: u32,
    /// Futures that were dropped in flight, and forgotten.
    pub(crate) dropped: u32,
    pub(crate) forgotten: u32,
}

/// Features that are asked for and that the back end does not have: a fact, and no failure.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NotOffered {
    pub(crate) by: String,
    pub(crate) features: Vec<String>,
}

/// The three addresses of a vring, guest-physical.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Addresses {
    pub(crate) desc: u64,
    pub(crate) avail: u64,
    pub(crate) used: u64,
}

/// A virtqueue as the driver laid it out and as the host was given it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Queue {
    pub(crate) index: u16,
    pub(crate) name: String,
    pub(crate) num: u16,
    pub(crate) driver: Addresses,
    /// What vhost holds, or QEMU where there is no vhost; absent if it was never asked.
    pub(crate) host: Option<Addresses>,
    /// The host's sizes of the three areas, in bytes.
    pub(crate) host_sizes: Option<Addresses>,
    pub(crate) host_num: Option<u16>,
    /// Addresses, sizes and `num` are equal.
    pub(crate) matches_driver: bool,
}

/// Whether a step of `vhost_net_start` was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StepStatus {
    /// Seen, with evidence.
    Observed,
    /// Not taken on this host, for a reason.
    NotTaken,
    /// Expected and not seen.
    Missing,
}

/// A step of `vhost_net_start`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) step: String,
    pub(crate) status: StepStatus,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) evidence: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) reason: Option<String>,
}

/// How the kernel's vhost took part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Vhost {
    /// `native`, `nested` or `off`.
    pub(crate) mode: String,
    /// QEMU said so while the driver was live.
    pub(crate) started: bool,
    /// And again after the traffic.
    pub(crate) started_after_traffic: bool,
    /// The kernel's worker thread, for example `vhost-123`.
    pub(crate) worker: Option<String>,
    pub(crate) steps: Vec<Step>,
}

/// Echo requests and replies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ping {
    pub(crate) sent: u32,
    pub(crate) received: u32,
}

/// Bulk data one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Bulk {
    pub(crate) bytes: u64,
    pub(crate) sha256_ok: bool,
    pub(crate) seconds: f64,
}

/// Datagrams one way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Flow {
    /// Sent by the one end, those sent again after a loss included.
    pub(crate) sent: u64,
    /// Distinct ones that the other end received.
    pub(crate) received: u64,
    /// What the tap dropped meanwhile; absent where there is no tap.
    pub(crate) dropped_by_tap: Option<u64>,
    pub(crate) seconds: f64,
}

/// The two ways: `up` leaves the guest, `down` enters it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Both<T> {
    pub(crate) up: Option<T>,
    pub(crate) down: Option<T>,
}

/// The guest's last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counters {
    pub(crate) kicks: u64,
    pub(crate) suppressed_kicks: u64,
    pub(crate) interrupts: u64,
    pub(crate) spurious_interrupts: u64,
    pub(crate) faults: u64,
    pub(crate) queues: Vec<QueueCounters>,
}

/// The guest's own tests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tests {
    pub(crate) passed: Vec<String>,
    pub(crate) failed: Vec<String>,
}

/// The device as the guest found it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    pub(crate) address: String,
    pub(crate) device_type: u16,
    pub(crate) transport: String,
    pub(crate) pci_access: String,
    pub(crate) mac: Option<String>,
    pub(crate) mtu: Option<u16>,
    pub(crate) interrupts: String,
}

/// What the part of the harness that sits beside QEMU found. It travels home piece by piece.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Findings {
    pub(crate) failures: Vec<Failure>,
    pub(crate) skipped: Vec<Skipped>,
    /// The checks were made. Without that, nothing found wrong means nothing.
    pub(crate) judged: bool,
    /// A wait ran out: the exit code is another one.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub(crate) timed_out: bool,
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) ring: Option<String>,
    pub(crate) device: Option<Device>,
    pub(crate) features: Option<Features>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) not_offered: Option<NotOffered>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) vhost: Vhost,
    pub(crate) ping: Option<Ping>,
    /// The guest's own pings of its gateway, where the peer pinged as well.
    pub(crate) ping_by_guest: Option<Ping>,
    pub(crate) tcp: Both<Bulk>,
    pub(crate) udp: Both<Flow>,
    pub(crate) burst: Both<Flow>,
    pub(crate) counters: Option<Counters>,
    /// The guest's exercise over queues of its own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) pieces: Option<Pieces>,
    /// How often the guest reached registers, where that was counted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) registers: Option<Registers>,
    /// The guest's packets in batches, where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) batches: Vec<Batch>,
    /// The interrupts suite's counts.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) interrupts: Vec<InterruptCounts>,
    /// And its ways to wait.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) waiting: Vec<Waiting>,
    /// The guest's packets that tasks awaited, with each executor.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) awaited: Vec<Awaited>,
    /// The guest's two queue pairs, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) pairs: Option<Pairs>,
    pub(crate) tests: Tests,
    pub(crate) duration_s: BTreeMap<String, f64>,
}

/// A file that the run left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Artifact {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
}

/// Which accelerator ran what, and what was tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccelTrial {
    pub(crate) accel: String,
    pub(crate) works: bool,
    pub(crate) why: String,
}

/// `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) schema: String,
    pub(crate) ok: bool,
    pub(crate) exit_code: u8,
    /// What was asked for.
    pub(crate) command: Vec<String>,
    /// What the guest was compiled for.
    #[serde(default)]
    pub(crate) arch: String,
    pub(crate) machine: String,
    /// What ran the guest under test: `tcg` or `kvm`.
    pub(crate) accel: Option<String>,
    /// What ran the outer machine, where there was one.
    pub(crate) accel_outer: Option<String>,
    pub(crate) accel_trials: Vec<AccelTrial>,
    #[serde(flatten)]
    pub(crate) findings: Findings,
    pub(crate) artifacts: Vec<Artifact>,
}

impl Report {
    /// A report of a run that has not ended: left behind, it says that the run was killed.
    pub(crate) fn unfinished(command: Vec<String>) -> Self {
        let findings = Findings {
            failures: vec![Failure::new(
                "run",
                "a run that reaches its end",
                "no end: the process is still running or was killed",
                "run it again; if it keeps happening, look for what kills it (memory?)",
            )],
            ..Findings::default()
        };
        Self {
            schema: SCHEMA.into(),
            ok: false,
            exit_code: super::stop::EXIT_FAILED,
            command,
            arch: String::new(),
            machine: String::new(),
            accel: None,
            accel_outer: None,
            accel_trials: Vec::new(),
            findings,
            artifacts: Vec::new(),
        }
    }

    /// Writes the file whole or not at all.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut json = serde_json::to_vec_pretty(self).context("the report has no JSON form")?;
        json.push(b'\n');
        write_atomically(path, &json)
    }
}

/// How a file begins that is being written, or was when its run was killed.
pub(crate) const PARTIAL: &str = ".partial-";

/// Writes a file whole or not at all: beside it first, then renamed over it.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let dir = path.parent().context("a file without a directory")?;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let write = || -> anyhow::Result<()> {
        let mut file = tempfile::Builder::new().prefix(PARTIAL).tempfile_in(dir)?;
        file.write_all(bytes)?;
        file.as_file().sync_all()?;
        // Temporary files are private by default; a report is for everyone.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(mode)?;
        file.persist(path)?;
        Ok(())
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_that_scripts_rely_on() {
        let mut report = Report::unfinished(vec!["qemu".into()]);
        report.findings.queues.push(Queue {
            index: 0,
            name: "rx".into(),
            num: 256,
            driver: Addresses::default(),
            host: Some(Addresses::default()),
            host_sizes: None,
            host_num: Some(256),
            matches_driver: true,
        });
        report.findings.vhost.steps.push(Step {
            step: "set_vring_num".into(),
            status: StepStatus::NotTaken,
            evidence: Vec::new(),
            reason: Some("because".into()),
        });
        report.findings.ping = Some(Ping::default());
        report.findings.tcp.up = Some(Bulk::default());
        report.findings.udp.down = Some(Flow::default());
        report.findings.features = Some(Features::default());
        report.findings.counters = Some(Counters::default());
        report.findings.batches.push(Batch::default());
        report.findings.awaited.push(Awaited::default());
        report.findings.interrupts.push(InterruptCounts::default());
        report.findings.waiting.push(Waiting::default());
        report.findings.pairs = Some(Pairs::default());
        report.findings.registers = Some(Registers::default());
        let json = serde_json::to_value(&report).unwrap();
        for pointer in [
            "/schema",
            "/ok",
            "/failures/0/check",
            "/failures/0/expected",
            "/failures/0/seen",
            "/failures/0/hint",
            "/skipped",
            "/versions",
            "/accel",
            "/ring",
            "/features/offered",
            "/features/acked",
            "/features/refused",
            "/features/required",
            "/features/forbidden",
            "/queues/0/index",
            "/queues/0/num",
            "/queues/0/driver/desc",
            "/queues/0/host/used",
            "/queues/0/matches_driver",
            "/vhost/mode",
            "/vhost/started",
            "/vhost/steps/0/step",
            "/vhost/steps/0/status",
            "/vhost/steps/0/reason",
            "/ping/sent",
            "/ping/received",
            "/tcp/up/bytes",
            "/tcp/up/sha256_ok",
            "/udp/down/sent",
            "/udp/down/received",
            "/udp/down/dropped_by_tap",
            "/counters/kicks",
            "/counters/suppressed_kicks",
            "/counters/interrupts",
            "/counters/faults",
            "/registers/accesses",
            "/registers/doorbells",
            "/registers/acknowledged",
            "/batches/0/batch",
            "/batches/0/packets",
            "/batches/0/transmit_kicks",
            "/batches/0/receive_kicks",
            "/batches/0/suppressed_kicks",
            "/batches/0/interrupts",
            "/batches/0/register_accesses",
            "/awaited/0/executor",
            "/awaited/0/packets",
            "/awaited/0/polls",
            "/awaited/0/halts",
            "/awaited/0/interrupts",
            "/interrupts/0/exercise",
            "/interrupts/0/answers",
            "/interrupts/0/queues",
            "/interrupts/0/config",
            "/interrupts/0/unclaimed",
            "/waiting/0/mode",
            "/waiting/0/median_us",
            "/waiting/0/interrupts",
            "/waiting/0/doorbells",
            "/waiting/0/halts",
            "/pairs/max_pairs",
            "/pairs/pairs",
            "/duration_s",
            "/artifacts",
        ] {
            assert!(json.pointer(pointer).is_some(), "{pointer} is gone");
        }
        assert_eq!(json["vhost"]["steps"][0]["status"], "not_taken");
        let back: Report = serde_json::from_value(json).unwrap();
        assert_eq!(back, report);
    }

    #[test]
    fn a_report_replaces_the_last_one_and_leaves_no_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/report.json");
        for _ in 0..2 {
            Report::unfinished(Vec::new()).write(&path).unwrap();
        }
        let names: Vec<_> = std::fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, ["report.json"]);
    }
}
