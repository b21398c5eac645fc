//! strace beside QEMU, for as long as the steps of vhost can be seen and no longer.
//!
//! It attaches to the virtual processor's thread, which takes every step when the driver sets
//! `DRIVER_OK`, before the guest runs, and leaves when the guest is ready. A traced thread stops
//! twice at every system call, and QEMU's monitor reads its commands byte by byte: tracing all
//! threads made a query take seconds, nested. (`--seccomp-bpf` does not help: strace 6.1 stops the
//! threads of a traced process all the same, and the filter outlives strace.)

use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};

use crate::qemu::job::Tool;
use crate::qemu::limits::Deadline;
use crate::qemu::process::Guarded;
use crate::qemu::stop::Stop;

/// How long strace may take to let go.
const DETACH_SECONDS: u64 = 15;

/// strace, attached.
#[derive(Debug)]
pub(crate) struct Tracer {
    process: Guarded,
}

impl Tracer {
    /// Attaches to a thread.
    pub(crate) fn attach(
        strace: &Tool,
        thread: u32,
        log: &Path,
        deadline: Deadline,
    ) -> Result<Self, Stop> {
        let errors = log.with_extension("stderr.log");
        let stderr = std::fs::File::create(&errors)
            .with_context(|| format!("cannot write {}", errors.display()))?;
        let mut command = strace.command();
        command.args(["-ttt", "-e", "trace=ioctl,eventfd2", "-e", "signal=none"]);
        command.arg("-o").arg(log).arg("-p").arg(thread.to_string());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr);
        let mut process = Guarded::spawn(&mut command)?;
        let tracer = process.id();
        deadline.poll("strace to attach to QEMU", || {
            if let Some(status) = process.try_wait()? {
                let said = std::fs::read_to_string(&errors).unwrap_or_default();
                return Err(Stop::Broken(anyhow::anyhow!(
                    "strace cannot attach to QEMU ({status}): {}",
                    said.trim()
                )));
            }
            Ok(is_traced(thread, tracer).then_some(()))
        })?;
        Ok(Self { process })
    }

    /// Lets go; the log is complete afterwards.
    pub(crate) fn detach(mut self) -> Result<(), Stop> {
        if let Some(pid) = i32::try_from(self.process.id())
            .ok()
            .and_then(Pid::from_raw)
        {
            // It fails only when strace has ended by itself.
            let _ = kill_process(pid, Signal::TERM);
        }
        self.process.wait(Deadline::seconds(DETACH_SECONDS))?;
        Ok(())
    }
}

/// Whether the thread has this tracer.
fn is_traced(thread: u32, tracer: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status"));
    status.is_ok_and(|status| tracer_of(&status) == Some(tracer))
}

fn tracer_of(status: &str) -> Option<u32> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tracer_is_read() {
        assert_eq!(tracer_of("Name:\tx\nTracerPid:\t97\nUid:\t0\n"), Some(97));
        assert_eq!(tracer_of("Name:\tx\n"), None);
        assert!(
            !is_traced(std::process::id(), 1),
            "the first process traces nobody"
        );
    }

    #[test]
    fn a_tracer_that_ends_at_once_is_an_error_that_shows_why() {
        let dir = tempfile::tempdir().unwrap();
        let not_strace = Tool::installed("/bin/false".into());
        let log = dir.path().join("strace.log");
        let stop = Tracer::attach(&not_strace, 1, &log, Deadline::seconds(10)).unwrap_err();
        assert!(stop.to_string().contains("cannot attach"), "{stop}");
    }
}
