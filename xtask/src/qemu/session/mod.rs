//! A run from the command line's point of view: probe, provide, build, run.

pub(crate) mod matrix;
mod prepare;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use vring_protocol::Options;

use self::prepare::{
    Mode, build, choose_accel, choose_mode, look_for_guest, provide_outer, provision,
};
use super::arch::Arch;
use super::attach::{Attach, Bars, PciStack, Registers};
use super::channel::{Frame, LocalOutlet};
use super::cli::{Lanes, QemuArgs, Suite};
use super::features::{self, Steer};
use super::job::{GUEST, Job, Link, Load, PEER, PREFIX, Tool};
use super::limits::{Deadline, TICK};
use super::outer::{self, Kernel, Outer};
use super::provision::UNPACKING;
use super::report::{Failure, PARTIAL, Report};
use super::stop::Stop;
use super::ui::Ui;
use super::{inner, native, process};

/// Name of the directory of logs, captures and dumps.
pub(crate) const ARTIFACTS: &str = "artifacts";
/// Until the guest is ready, under emulation within emulation on a busy machine.
const BOOT_SECONDS: u64 = 90;
/// What the outer machine takes to boot, at most, beyond the run's own limit.
const OUTER_SECONDS: u64 = 120;
/// How the directory begins that is gone after the run.
const WORK: &str = ".work-";
/// How long another run may fetch packages.
const CACHE_SECONDS: u64 = 900;
/// The guest gives up after so long without a request.
const IDLE_SECONDS: u32 = 60;

/// Pings of each queue pair, where there are several.
const PAIR_PINGS: u16 = 4000;

fn lock_file(dir: &Path) -> anyhow::Result<File> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join(".lock");
    File::create(&path).with_context(|| format!("cannot write {}", path.display()))
}

/// Removes the directories and files that a killed run left half done.
fn clear(dir: &Path, prefix: &str) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            let path = entry.path();
            let removed = if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Keeps other runs out of a directory; the lock goes with the process.
pub(crate) fn lock(out: &Path) -> Result<File, Stop> {
    let file = lock_file(out)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            clear(out, WORK)?;
            clear(out, PARTIAL)?;
            Ok(file)
        }
        Err(_) => Err(Stop::missing(
            format!("{} to itself", out.display()),
            "another run is writing there, and its report is left alone",
            "wait for it, or give this one a place of its own with --out",
        )),
    }
}

/// Waits until no other run provides things in the cache, and clears what a killed one left.
pub(crate) fn lock_cache(cache: &Path) -> Result<File, Stop> {
    let file = lock_file(cache)?;
    Deadline::seconds(CACHE_SECONDS).poll("another run to finish fetching", || {
        Ok(flock(&file, FlockOperation::NonBlockingLockExclusive).ok())
    })?;
    for dir in [cache, &cache.join("tools")] {
        clear(dir, UNPACKING)?;
    }
    Ok(file)
}

/// Measures the phases on this side.
struct Phases<'a> {
    ui: &'a Ui,
    current: Option<(&'static str, Instant)>,
}

impl Phases<'_> {
    fn next(&mut self, report: &mut Report, name: &'static str) {
        self.end(report);
        self.ui.phase(name);
        self.current = Some((name, Instant::now()));
    }

    fn end(&mut self, report: &mut Report) {
        if let Some((name, start)) = self.current.take() {
            let seconds = start.elapsed().as_secs_f64();
            report.findings.duration_s.insert(name.into(), seconds);
        }
    }
}

/// Empties the directory of artifacts: what is there afterwards is this run's.
fn fresh_dir(dir: &Path) -> anyhow::Result<()> {
    if dir.exists() {
        std::fs::remove_dir_all(dir).with_context(|| format!("cannot empty {}", dir.display()))?;
    }
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}

/// The whole run; what was found is in the report, whatever the result.
pub(crate) fn run(args: &QemuArgs, out: &Path, ui: &Ui, report: &mut Report) -> Result<(), Stop> {
    let start = Instant::now();
    let mut phases = Phases { ui, current: None };
    let result = if args.matrix {
        matrix::run(args, out, ui, report, &mut phases)
    } else {
        run_phases(args, out, ui, report, &mut phases)
    };
    phases.end(report);
    let total = start.elapsed().as_secs_f64();
    report.findings.duration_s.insert("total".into(), total);
    result
}

fn run_phases(
    args: &QemuArgs,
    out: &Path,
    ui: &Ui,
    report: &mut Report,
    phases: &mut Phases<'_>,
) -> Result<(), Stop> {
    // First of all: what an earlier run left there is not of this one.
    let dir = out.join(ARTIFACTS);
    fresh_dir(&dir)?;
    let mut steer = args.steer()?;
    let attach = Attach::new(args)?;
    attach.check_steer(&mut steer, args.queue_size)?;
    args.check_suite(&attach)?;
    let lanes = args.lanes(&attach)?;
    report.arch = args.arch.name().into();
    report.machine = attach.machine.name().into();

    phases.next(report, "probe");
    look_for_guest(args)?;
    let mode = choose_mode(args.vhost, report)?;
    report.findings.vhost.mode = mode.name().into();

    phases.next(report, "provide");
    let (provision, providing) = provision(args, ui)?;
    let qemu = provision.qemu_since(args.arch, steer.since)?;
    let outer = provide_outer(mode, args.arch, &qemu, &provision)?;
    let strace = match mode {
        Mode::Off => None,
        Mode::Native | Mode::Nested => Some(provision.strace()?),
    };
    let kernel = match mode {
        Mode::Nested if steer.needs_new_vhost() => Some(provision.newest_kernel()?),
        Mode::Nested => Some(provision.kernel()?),
        Mode::Native | Mode::Off => None,
    };
    drop(providing);

    phases.next(report, "build");
    let guest = build(args, args.arch, &provision, report)?;

    phases.next(report, "accel");
    let accel = choose_accel(
        args,
        args.arch,
        attach.qemu_machine(),
        &qemu,
        &guest,
        report,
    )?;
    let site = Site {
        mode,
        arch: args.arch,
        qemu,
        outer,
        strace,
        kernel,
        guest,
        accel,
    };
    if mode == Mode::Nested {
        report.accel_outer = Some(accel.into());
    }
    report.accel = Some(site.inner_accel().into());

    let how = How {
        steer,
        queue_size: args.queue_size,
        attach,
        suite: args.suite,
        vectors: args.vectors,
        load: Load {
            pings: args.pings,
            tcp_bytes: args.tcp_mib << 20,
            datagrams: args.datagrams,
            burst: args.burst,
        },
        batches: args.batches,
        lanes,
    };
    let job = Job {
        total_seconds: args.time_limit(),
        ..site.job(&how, &dir)
    };
    let limit = Deadline::seconds(args.time_limit() + 15);
    let mut run = SingleRun { ui, report };
    site.launch(vec![job], out, &dir, limit, phases, &mut run)
}

/// What a run has to go by, once everything is provided.
#[derive(Clone, Debug)]
struct Site {
    mode: Mode,
    arch: Arch,
    qemu: Tool,
    /// Of the outer machine, where there is one.
    outer: Option<Tool>,
    strace: Option<Tool>,
    kernel: Option<Kernel>,
    guest: PathBuf,
    /// Of this machine.
    accel: &'static str,
}

/// What one run of the guest is to be.
#[derive(Clone, Debug)]
struct How {
    steer: Steer,
    queue_size: u16,
    attach: Attach,
    suite: Suite,
    vectors: Option<u16>,
    load: Load,
    batches: u32,
    lanes: Lanes,
}

/// Who hears what happens beside QEMU.
trait Listener {
    /// Takes in a frame that is not the last.
    fn frame(&mut self, frame: Frame);
    /// The last frame has come: whether all was said.
    fn is_whole(&self) -> bool;
    /// The report, for the phases on this side.
    fn report(&mut self) -> &mut Report;
}

impl Site {
    /// What runs the guest under test.
    fn inner_accel(&self) -> &'static str {
        match self.mode {
            Mode::Nested => "tcg",
            Mode::Native | Mode::Off => self.accel,
        }
    }

    fn job(&self, how: &How, dir: &Path) -> Job {
        let sizes = features::device_sizes(how.queue_size);
        let attach = &how.attach;
        let mut nic = attach.properties();
        nic.extend(how.steer.properties.iter().cloned());
        // QEMU's own default otherwise.
        if sizes.0 > 256 {
            nic.push(format!("rx_queue_size={}", sizes.0));
        }
        nic.extend(how.vectors.map(|vectors| format!("vectors={vectors}")));
        let Lanes { pairs, .. } = how.lanes;
        if pairs > 1 {
            // A vector for each queue, the control queue, and changes of the configuration.
            nic.push(format!("mq=on,vectors={}", 2 * pairs + 2));
        }
        let options = Options {
            ip: format!("{GUEST}/{PREFIX}"),
            gateway: PEER.to_string(),
            ping: how.load.pings,
            queue_size: how.queue_size,
            interrupts: attach.interrupts.name().into(),
            vectors: how.vectors,
            transport: attach.transport,
            counted_registers: attach.registers == Registers::Counted,
            own_pci_stack: attach.pci_stack == PciStack::Own,
            kernel_assigns_bars: attach.bars == Bars::Kernel,
            idle_seconds: IDLE_SECONDS,
            require: how.steer.require.clone(),
            refuse: how.steer.refuse.clone(),
            batches: how.batches,
            suite: how.suite.name().into(),
            pairs: if pairs > 1 { PAIR_PINGS } else { 0 },
            ..Options::default()
        };
        Job {
            cell: String::new(),
            mode: self.mode.name().into(),
            qemu: self.qemu.clone(),
            strace: self.strace.clone(),
            arch: self.arch,
            machine: attach.qemu_machine().into(),
            accel: self.inner_accel().into(),
            suite: how.suite,
            cpus: how.lanes.cpus,
            queue_pairs: how.lanes.pairs,
            model: attach.model().into(),
            nic: nic.join(","),
            arguments: attach.arguments(),
            transport: attach.transport,
            counted: attach.registers == Registers::Counted,
            guest: self.guest.clone(),
            command_line: options.to_command_line(),
            steer: how.steer.clone(),
            queue_size: how.queue_size,
            device_sizes: sizes,
            guest_pings: options.ping,
            awaited: options.awaited,
            link: match self.mode {
                Mode::Native | Mode::Nested => Link::VhostTap,
                Mode::Off => Link::User,
            },
            load: how.load,
            brief: false,
            dir: dir.into(),
            boot_seconds: BOOT_SECONDS,
            exercise_seconds: options.exercise_seconds(),
            total_seconds: 0,
        }
    }

    /// Runs the jobs where the mode says, and listens until they are over. The limit does not
    /// count the boot of an outer machine.
    fn launch(
        &self,
        jobs: Vec<Job>,
        out: &Path,
        dir: &Path,
        limit: Deadline,
        phases: &mut Phases<'_>,
        listener: &mut dyn Listener,
    ) -> Result<(), Stop> {
        let (sender, frames) = channel();
        match self.mode {
            Mode::Off => {
                let mut outlet = LocalOutlet(sender);
                // The thread that starts QEMU outlives it: the kernel ends the one with the other.
                let thread = std::thread::spawn(move || {
                    inner::run_all(&jobs, &mut outlet);
                    super::channel::Outlet::send(&mut outlet, Frame::Bye);
                });
                phases.end(listener.report());
                let result = follow(&frames, listener, limit, || Ok(None));
                if result.is_ok() && thread.join().is_err() {
                    return Err(Stop::Broken(anyhow::anyhow!("the harness panicked: a bug")));
                }
                result
            }
            Mode::Native => {
                let mut agent = native::start(&jobs, dir, sender)?;
                phases.end(listener.report());
                follow(&frames, listener, limit, || {
                    Ok(agent
                        .try_wait()?
                        .map(|status| format!("the agent ended ({status})")))
                })
            }
            Mode::Nested => {
                let kernel = self.kernel.as_ref();
                let kernel = kernel.context("the nested mode has a kernel")?;
                let qemu = self.outer.as_ref();
                let qemu = qemu.context("the nested mode has a QEMU of its own")?;
                let report = listener.report();
                report
                    .findings
                    .versions
                    .insert("outer_kernel".into(), kernel.release.clone());
                phases.next(report, "pack");
                // In this run's own place, and gone with it: it is large, and no artifact.
                let work = tempfile::Builder::new()
                    .prefix(WORK)
                    .tempdir_in(out)
                    .with_context(|| format!("cannot write into {}", out.display()))?;
                let initramfs = work.path().join("initramfs.cpio");
                outer::pack(&jobs, kernel, &initramfs)?;
                phases.next(report, "outer_boot");
                let mut outer = Outer::start(qemu, self.accel, kernel, &initramfs, dir, sender)?;
                let limit = limit.later(OUTER_SECONDS);
                let first = wait_for_first(&frames, &mut outer, limit, dir)?;
                phases.end(listener.report());
                listener.frame(first);
                let result = follow(&frames, listener, limit, || {
                    Ok(outer
                        .process()
                        .try_wait()?
                        .map(|status| format!("the outer machine ended ({status})")))
                });
                if result.is_ok() {
                    // It ends by itself within moments; if not, it is ended.
                    drop(outer.process().wait(Deadline::seconds(10)));
                }
                result
            }
        }
    }
}

/// The outer machine's first frame: until then its console is all there is to see.
fn wait_for_first(
    frames: &Receiver<Frame>,
    outer: &mut Outer,
    limit: Deadline,
    dir: &Path,
) -> Result<Frame, Stop> {
    let limit = limit.within(OUTER_SECONDS);
    let result = limit.poll("the outer machine to boot", || match frames.try_recv() {
        Ok(frame) => Ok(Some(frame)),
        Err(_) => match outer.process().try_wait()? {
            Some(status) => Err(Stop::Broken(anyhow::anyhow!(
                "the outer machine ended while booting ({status})"
            ))),
            None => Ok(None),
        },
    });
    result.map_err(|stop| with_console(stop, dir))
}

/// Adds what the outer machine said last.
fn with_console(stop: Stop, dir: &Path) -> Stop {
    let read = |name: &str| {
        let bytes = std::fs::read(dir.join(name)).unwrap_or_default();
        process::tail(&String::from_utf8_lossy(&bytes), 12)
    };
    match stop {
        Stop::Broken(error) => Stop::Broken(error.context(format!(
            "{}\n{}",
            read(outer::CONSOLE_LOG),
            read(outer::STDERR_LOG)
        ))),
        other => other,
    }
}

fn show(frame: &Frame, ui: &Ui) {
    match frame {
        Frame::Phase { name } => ui.phase(name),
        Frame::Progress { done, total } => ui.progress(*done, *total),
        Frame::Serial { line } if line.starts_with("test ") => ui.note(line),
        _ => {}
    }
}

/// Takes in frames until the last one; the listener has what was said by then in any case.
fn follow(
    frames: &Receiver<Frame>,
    listener: &mut dyn Listener,
    limit: Deadline,
    mut ended: impl FnMut() -> Result<Option<String>, Stop>,
) -> Result<(), Stop> {
    loop {
        limit.check("the run to end")?;
        match frames.recv_timeout(TICK) {
            // Silence is no success: a run that was not judged has failed.
            Ok(Frame::Bye) if listener.is_whole() => return Ok(()),
            Ok(Frame::Bye) => {
                return Err(Stop::Broken(anyhow::anyhow!(
                    "the run ended without a verdict: a bug of the harness"
                )));
            }
            Ok(frame) => listener.frame(frame),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let why = ended()?.unwrap_or_else(|| "its channel closed".into());
                return Err(Stop::Broken(anyhow::anyhow!("the run broke off: {why}")));
            }
        }
    }
}

/// A run on its own: its findings are the report's.
struct SingleRun<'a> {
    ui: &'a Ui,
    report: &'a mut Report,
}

impl Listener for SingleRun<'_> {
    fn frame(&mut self, frame: Frame) {
        match frame {
            Frame::Findings { findings } => merge(self.report, *findings),
            Frame::Broken { message } => self.report.findings.failures.push(broken(message)),
            frame => show(&frame, self.ui),
        }
    }

    fn is_whole(&self) -> bool {
        let findings = &self.report.findings;
        findings.judged || !findings.failures.is_empty()
    }

    fn report(&mut self) -> &mut Report {
        self.report
    }
}

fn broken(message: String) -> Failure {
    Failure::new(
        "run",
        "a run that reaches its end",
        message,
        "the artifacts show how far the run came",
    )
}

/// Takes over what was found beside QEMU, and keeps what was found here.
fn merge(report: &mut Report, mut found: super::report::Findings) {
    let here = &mut report.findings;
    found.versions.append(&mut here.versions);
    for (phase, seconds) in std::mem::take(&mut here.duration_s) {
        found.duration_s.entry(phase).or_insert(seconds);
    }
    for skipped in std::mem::take(&mut here.skipped) {
        if !found.skipped.contains(&skipped) {
            found.skipped.push(skipped);
        }
    }
    *here = found;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::report::{Findings, Skipped};

    #[test]
    fn a_place_is_for_one_run() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".work-of-a-killed-run")).unwrap();
        let first = lock(dir.path()).unwrap();
        assert!(!dir.path().join(".work-of-a-killed-run").exists());
        assert_eq!(lock(dir.path()).unwrap_err().exit_code(), 3);
        drop(first);
        lock(dir.path()).unwrap();
    }

    #[test]
    fn findings_replace_findings_and_keep_what_is_known_here() {
        let mut report = Report::unfinished(Vec::new());
        report.findings.versions.insert("rustc".into(), "1".into());
        report.findings.duration_s.insert("build".into(), 2.0);
        let skipped = Skipped {
            what: "native".into(),
            why: "no".into(),
            fix: "yes".into(),
        };
        report.findings.skipped.push(skipped);
        for _ in 0..2 {
            let mut found = Findings::default();
            found.versions.insert("qemu".into(), "7".into());
            found.duration_s.insert("ping".into(), 1.0);
            merge(&mut report, found);
        }
        assert_eq!(report.findings.versions.len(), 2);
        assert_eq!(report.findings.duration_s.len(), 2);
        assert_eq!(report.findings.skipped.len(), 1);
        assert!(report.findings.failures.is_empty());
    }

    #[test]
    fn a_run_without_a_verdict_is_an_error() {
        let end = |findings: Findings| {
            let (sender, frames) = channel::<Frame>();
            let findings = Box::new(findings);
            sender.send(Frame::Findings { findings }).unwrap();
            sender.send(Frame::Bye).unwrap();
            let mut report = Report::unfinished(Vec::new());
            report.findings.failures.clear();
            let limit = Deadline::seconds(5);
            let ui = &Ui::new(true);
            let report = &mut report;
            follow(&frames, &mut SingleRun { ui, report }, limit, || Ok(None))
        };
        assert!(end(Findings::default()).is_err());
        let judged = Findings {
            judged: true,
            ..Findings::default()
        };
        assert!(end(judged).is_ok());
    }

    #[test]
    fn a_run_that_breaks_off_is_an_error() {
        let (sender, frames) = channel::<Frame>();
        drop(sender);
        let ui = &Ui::new(true);
        let report = &mut Report::unfinished(Vec::new());
        let limit = Deadline::seconds(5);
        let mut run = SingleRun { ui, report };
        let result = follow(&frames, &mut run, limit, || Ok(Some("gone".into())));
        assert!(result.unwrap_err().to_string().contains("gone"));
    }
}
