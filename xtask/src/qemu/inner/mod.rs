//! One run of the guest, on whatever Linux has the link: the same code natively, nested and off.
//!
//! It starts QEMU, looks at the live device over QMP, drives the traffic, ends the guest and judges
//! what it saw. Everything found goes home through an [`Outlet`], piece by piece, so that a run
//! that is cut off still tells how far it came.

mod awaited;
mod capture;
mod command;
mod exercises;
mod live;
mod qmp;
mod serial;
mod tracer;
mod traffic;
mod verdict;
mod wish;
mod wishes;

use std::net::Ipv4Addr;
use std::time::Instant;

use serde_json::json;

use self::live::Live;
use self::serial::Serial;
use self::tracer::Tracer;
use super::channel::{Frame, Outlet};
use super::cli::Suite;
use super::job::{Job, Link, PEER, PREFIX};
use super::limits::Deadline;
use super::report::{Failure, Findings, Vhost};
use super::stop::Stop;
use super::tap::Tap;

/// Name of the guest's serial log among the artifacts.
pub(crate) const SERIAL_LOG: &str = "serial.log";
/// Name of the log of QMP commands and answers.
pub(crate) const QMP_LOG: &str = "qmp.log";

/// How long QEMU may take to answer anything.
const QMP_SECONDS: u64 = 30;
/// How long the guest may take to end after its goodbye, beside its exercises.
const END_SECONDS: u64 = 90;

/// A run under way.
struct Run<'a> {
    job: &'a Job,
    outlet: &'a mut dyn Outlet,
    findings: Findings,
    phase: Option<(String, Instant)>,
    deadline: Deadline,
}

/// Runs the jobs one after the other.
pub(crate) fn run_all(jobs: &[Job], outlet: &mut dyn Outlet) {
    for job in jobs {
        if !job.cell.is_empty() {
            let name = job.cell.clone();
            outlet.send(Frame::Cell { name });
        }
        // Whoever interrupts means the whole.
        if crate::qemu::limits::interrupted() {
            return;
        }
        run(job, outlet);
    }
}

/// Runs the job to its end, whatever that is.
fn run(job: &Job, outlet: &mut dyn Outlet) {
    let mut run = Run {
        job,
        outlet,
        findings: Findings {
            vhost: Vhost {
                mode: job.mode.clone(),
                ..Vhost::default()
            },
            ..Findings::default()
        },
        phase: None,
        deadline: Deadline::seconds(job.total_seconds),
    };
    if let Err(stop) = run.all() {
        let phase = run
            .phase
            .as_ref()
            .map_or("start", |(name, _)| name)
            .to_owned();
        run.fail(&phase, stop, "");
    }
    run.end_phase();
    run.send_files();
    run.send_findings();
}

impl Run<'_> {
    fn phase(&mut self, name: &str) {
        self.end_phase();
        self.outlet.send(Frame::Phase { name: name.into() });
        self.phase = Some((name.into(), Instant::now()));
    }

    fn end_phase(&mut self) {
        if let Some((name, start)) = self.phase.take() {
            self.findings
                .duration_s
                .insert(name, start.elapsed().as_secs_f64());
            self.send_findings();
        }
    }

    fn send_findings(&mut self) {
        let findings = Box::new(self.findings.clone());
        self.outlet.send(Frame::Findings { findings });
    }

    fn send_files(&mut self) {
        let Ok(entries) = std::fs::read_dir(&self.job.dir) else {
            return;
        };
        let brief = self.job.brief && self.findings.failures.is_empty();
        for entry in entries.flatten() {
            let name = entry.file_name();
            if brief && name != SERIAL_LOG {
                continue;
            }
            if entry.path().is_file()
                && let Err(error) = self.outlet.file(&name.to_string_lossy(), &entry.path())
            {
                // The verdict does not hang on an artifact, but its absence is not hidden.
                self.findings.skipped.push(super::report::Skipped {
                    what: format!("artifact {}", name.to_string_lossy()),
                    why: format!("{error:#}"),
                    fix: "run it again".into(),
                });
            }
        }
    }

    /// Records why something ended early.
    fn fail(&mut self, check: &str, stop: Stop, serial_tail: &str) {
        if matches!(stop, Stop::TimeLimit { .. }) {
            self.findings.timed_out = true;
        }
        let mut seen = stop.to_string();
        if !serial_tail.is_empty() {
            seen += &format!("; the guest's last lines:\n{serial_tail}");
        }
        self.findings.failures.push(Failure::new(
            check,
            "this part of the run reaches its end",
            seen,
            self.logs(),
        ));
    }

    /// Where to look on: the logs that exist by now.
    fn logs(&self) -> String {
        let mut logs = [SERIAL_LOG, QMP_LOG].to_vec();
        logs.retain(|name| {
            self.job
                .dir
                .join(name)
                .metadata()
                .is_ok_and(|m| m.len() > 0)
        });
        match logs[..] {
            [] => "nothing was logged before it".into(),
            [one] => format!("{one} shows what went before"),
            _ => format!("{} show what went before", logs.join(" and ")),
        }
    }

    fn all(&mut self) -> Result<(), Stop> {
        self.phase("link");
        if let Some(missing) = wish::not_offered(self.job)? {
            self.findings.not_offered = Some(missing);
            self.findings.judged = true;
            return Ok(());
        }
        std::fs::create_dir_all(&self.job.dir)
            .map_err(|error| anyhow::anyhow!("cannot make {}: {error}", self.job.dir.display()))?;
        let mut tap = match self.job.link {
            Link::VhostTap => {
                let mask = Ipv4Addr::from(u32::MAX << (32 - u32::from(PREFIX)));
                Some(Tap::new("tap0", PEER, mask, self.job.queue_pairs)?)
            }
            Link::User => None,
        };
        self.versions();

        self.phase("guest_boot");
        let qemu = command::start(self.job, tap.as_mut())?;
        self.findings
            .versions
            .insert("qemu_command".into(), qemu.command.clone());
        let log = self.job.dir.join(SERIAL_LOG);
        let mut serial = Serial::watch(qemu.serial, &log)?;
        self.deadline = self.deadline.unless(serial.gone);
        let mut live = Live::connect(
            self.job,
            qemu.qmp,
            self.deadline.within(QMP_SECONDS),
            &self.job.dir.join(command::STDERR_LOG),
        )?;
        self.findings
            .versions
            .insert("qemu".into(), live.version.clone());
        let mut process = qemu.process;

        let result = self.with_guest(&mut live, &mut serial, tap.as_ref(), process.id());
        let whole = result.is_ok();
        if let Err(stop) = result {
            serial.pump(self.outlet);
            let phase = self
                .phase
                .as_ref()
                .map_or("run", |(name, _)| name)
                .to_owned();
            let tail = serial.tail();
            self.fail(&phase, stop, &tail);
            // The rings as they stand, for whoever looks for the cause; QEMU may be gone.
            drop(live.dump_rings(&self.findings, "failure", Deadline::seconds(5)));
        }
        let status = match process.try_wait()? {
            Some(status) => Some(status),
            None => process.wait(Deadline::seconds(2)).ok(),
        };
        process.kill();
        self.phase("judge");
        // A capture by QEMU that nobody ended is cut to size here.
        drop(capture::trim_all(&self.job.dir));
        // What the guest said last is read after its end.
        let silence = Deadline::seconds(5);
        drop(serial.wait::<()>("the end", silence, self.outlet, |_| None));
        verdict::judge(self.job, &mut self.findings, &serial, status, whole);
        Ok(())
    }

    /// Everything that needs the guest alive.
    fn with_guest(
        &mut self,
        live: &mut Live,
        serial: &mut Serial,
        tap: Option<&Tap>,
        pid: u32,
    ) -> Result<(), Stop> {
        let boot = self.deadline.within(self.job.boot_seconds);
        let tracer = match &self.job.strace {
            // What is traced are the steps of one start, and the exercises start many times.
            Some(strace) if self.job.suite == Suite::Net => {
                let log = self.job.dir.join(command::STRACE_LOG);
                let thread = live.vcpu_thread(boot)?;
                Some(Tracer::attach(strace, thread, &log, boot)?)
            }
            _ => None,
        };
        live.qmp.execute("cont", json!({}), boot)?;
        verdict::wait_hello(self.job, serial, boot, self.outlet)?;
        if self.job.suite == Suite::Interrupts {
            return self.exercises(live, serial);
        }
        let ready = serial.wait("the guest to be ready", boot, self.outlet, verdict::ready);
        verdict::take_announcements(self.job, &mut self.findings, &serial.events);
        if let Some(tracer) = tracer {
            tracer.detach()?;
        }
        ready?;

        self.phase("proof");
        let limit = self.deadline.within(QMP_SECONDS);
        live.examine(self.job, &mut self.findings, pid, limit)?;
        live.dump_rings(&self.findings, "live", limit)?;

        self.traffic(live, serial, tap)?;

        self.phase("end");
        let limit = self.deadline.within(QMP_SECONDS);
        self.findings.vhost.started_after_traffic = live.vhost_started(limit)?;
        live.dump_rings(&self.findings, "end", limit)?;
        let endpoints = live.endpoints(self.job, limit)?;
        super::peer::stream::finish(endpoints.control, self.deadline.within(END_SECONDS))?;
        self.grant_until_done(live, serial, END_SECONDS + self.job.exercise_seconds)
    }

    fn versions(&mut self) {
        let uname = rustix::system::uname();
        let kernel = format!(
            "{} {}",
            uname.sysname().to_string_lossy(),
            uname.release().to_string_lossy()
        );
        self.findings.versions.insert("peer_kernel".into(), kernel);
        if self.job.link == Link::VhostTap
            && let Ok(bits) = crate::qemu::vhost::features()
        {
            let names = crate::qemu::features::of_bits(bits);
            let text = format!("{bits:#x}: {}", names.join(" "));
            self.findings
                .versions
                .insert("vhost_net_features".into(), text);
        }
        if let Some(strace) = &self.job.strace {
            let mut command = strace.command();
            command.arg("-V");
            if let Ok(output) = super::process::run(&mut command, Deadline::seconds(10)) {
                let line = output.stdout.lines().next().unwrap_or_default().to_owned();
                self.findings.versions.insert("strace".into(), line);
            }
        }
    }
}
