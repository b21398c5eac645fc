//! The host's view of the device while the driver is live, over QMP.

use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Context as _;
use serde_json::json;
use vring_protocol::port;

use super::QMP_LOG;
use super::qmp::Qmp;
use crate::qemu::job::{GUEST, Job, Link};
use crate::qemu::limits::Deadline;
use crate::qemu::peer::Endpoints;
use crate::qemu::process;
use crate::qemu::proof::queues;
use crate::qemu::report::{Failure, Findings};
use crate::qemu::stop::Stop;

/// The most memory that a ring dump takes.
const DUMP_LIMIT: u64 = 4 << 20;

/// QEMU, running.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) qmp: Qmp,
    pub(crate) version: String,
    dir: std::path::PathBuf,
    /// The device's path in QEMU's object tree, once found.
    device: Option<String>,
}

impl Live {
    pub(crate) fn connect(
        job: &Job,
        stream: UnixStream,
        deadline: Deadline,
        stderr: &Path,
    ) -> Result<Self, Stop> {
        match Qmp::connect(stream, &job.dir.join(QMP_LOG), deadline) {
            Ok((qmp, version)) => Ok(Self {
                qmp,
                version,
                dir: job.dir.clone(),
                device: None,
            }),
            // QEMU that does not start says why on its standard error.
            Err(Stop::Broken(error)) => {
                let said = std::fs::read_to_string(stderr).unwrap_or_default();
                Err(Stop::Broken(error.context(format!(
                    "QEMU did not start: {}",
                    process::tail(&said, 8)
                ))))
            }
            Err(stop) => Err(stop),
        }
    }

    /// The thread of the virtual processor.
    pub(crate) fn vcpu_thread(&mut self, deadline: Deadline) -> Result<u32, Stop> {
        let answer = self.qmp.execute("query-cpus-fast", json!({}), deadline)?;
        let thread = answer[0]["thread-id"].as_u64();
        Ok(thread
            .and_then(|thread| u32::try_from(thread).ok())
            .with_context(|| format!("QEMU names no thread of its processor: {answer}"))?)
    }

    fn device(&mut self, deadline: Deadline) -> Result<String, Stop> {
        if let Some(path) = &self.device {
            return Ok(path.clone());
        }
        let devices = self
            .qmp
            .execute("x-query-virtio", json!({}), deadline)
            .map_err(|stop| match stop {
                Stop::Broken(error) => Stop::Broken(
                    error.context("QEMU cannot tell about its virtio devices (7.2 and later can)"),
                ),
                other => other,
            })?;
        let path = devices
            .as_array()
            .into_iter()
            .flatten()
            .find(|device| device["name"] == "virtio-net")
            .and_then(|device| device["path"].as_str())
            .with_context(|| format!("QEMU knows of no virtio-net device: {devices}"))?;
        self.device = Some(path.into());
        Ok(path.into())
    }

    fn status(&mut self, deadline: Deadline) -> Result<serde_json::Value, Stop> {
        let path = self.device(deadline)?;
        let arguments = json!({"path": path});
        self.qmp
            .execute("x-query-virtio-status", arguments, deadline)
    }

    pub(crate) fn vhost_started(&mut self, deadline: Deadline) -> Result<bool, Stop> {
        Ok(self.status(deadline)?["vhost-started"] == true)
    }

    /// Looks at the device and its queues, and compares with what the driver said.
    pub(crate) fn examine(
        &mut self,
        job: &Job,
        findings: &mut Findings,
        pid: u32,
        deadline: Deadline,
    ) -> Result<(), Stop> {
        let vhost = job.link == Link::VhostTap;
        let started = self.vhost_started(deadline)?;
        findings.vhost.started = started;
        findings.vhost.worker = worker(pid);
        let packed = findings.ring.as_deref() == Some("packed");
        let event_idx = findings.features.as_ref().is_some_and(|features| {
            features
                .acked
                .iter()
                .any(|name| name.ends_with("_EVENT_IDX"))
        });
        let path = self.device(deadline)?;
        for queue in &mut findings.queues {
            let arguments = json!({"path": path, "queue": queue.index});
            let host = if vhost && started {
                let command = "x-query-virtio-vhost-queue-status";
                queues::parse_vhost(&self.qmp.execute(command, arguments, deadline)?)?
            } else {
                let command = "x-query-virtio-queue-status";
                queues::parse_virtio(&self.qmp.execute(command, arguments, deadline)?)?
            };
            let (compared, differences) = queues::compare(queue.clone(), host, packed, event_idx);
            *queue = compared;
            if !differences.is_empty() {
                findings.failures.push(Failure::new(
                    format!("queue {} is where the driver laid it out", queue.index),
                    "the same num, addresses and sizes on both sides",
                    differences.join("; "),
                    "compare the driver's ring layout with what it writes to the device",
                ));
            }
        }
        Ok(())
    }

    /// Saves the memory of each vring.
    pub(crate) fn dump_rings(
        &mut self,
        findings: &Findings,
        when: &str,
        deadline: Deadline,
    ) -> Result<(), Stop> {
        let packed = findings.ring.as_deref() == Some("packed");
        for queue in &findings.queues {
            let sizes = queue
                .host_sizes
                .unwrap_or_else(|| queues::expected_sizes(queue.num, packed, true));
            let at = queue.driver;
            let start = at.desc.min(at.avail).min(at.used);
            let end = [
                at.desc.saturating_add(sizes.desc),
                at.avail.saturating_add(sizes.avail),
                at.used.saturating_add(sizes.used),
            ];
            let size = end.iter().max().map_or(0, |end| end - start);
            // Areas far apart are not one dump; the descriptor table tells most.
            let (start, size) = if size <= DUMP_LIMIT {
                (start, size)
            } else {
                (at.desc, sizes.desc)
            };
            let file = self.dir.join(format!("ring-{}-{when}.bin", queue.index));
            let arguments = json!({"val": start, "size": size, "filename": file});
            self.qmp.execute("pmemsave", arguments, deadline)?;
        }
        Ok(())
    }

    /// Where the guest's services are reached from here.
    pub(crate) fn endpoints(&mut self, job: &Job, deadline: Deadline) -> Result<Endpoints, Stop> {
        let forwards = match job.link {
            Link::VhostTap => None,
            Link::User => Some(self.qmp.human("info usernet", deadline)?),
        };
        let place = |port: u16| -> Result<std::net::SocketAddr, Stop> {
            match &forwards {
                None => Ok((GUEST, port).into()),
                Some(text) => {
                    let here = forwarded(text, port)
                        .with_context(|| format!("QEMU does not forward port {port}:\n{text}"))?;
                    Ok(([127, 0, 0, 1], here).into())
                }
            }
        };
        Ok(Endpoints {
            control: place(port::CONTROL)?,
            sink: place(port::SINK)?,
            source: place(port::SOURCE)?,
            paced: place(port::PACED)?,
            burst: place(port::BURST)?,
        })
    }
}

/// The local port that QEMU forwards to this port of the guest, from `info usernet`.
fn forwarded(text: &str, guest_port: u16) -> Option<u16> {
    text.lines().find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [state, _fd, _from, here, _to, there, ..] = words[..] else {
            return None;
        };
        let matches = state.ends_with("[HOST_FORWARD]") && there.parse() == Ok(guest_port);
        matches.then(|| here.parse().ok()).flatten()
    })
}

/// The kernel's vhost worker of a QEMU: a kernel thread before Linux 6.4, a thread of QEMU since.
fn worker(pid: u32) -> Option<String> {
    let wanted = format!("vhost-{pid}");
    let named = |dir: &str| -> Option<String> {
        std::fs::read_dir(dir).ok()?.flatten().find_map(|entry| {
            let comm = std::fs::read_to_string(entry.path().join("comm")).ok()?;
            (comm.trim() == wanted).then(|| wanted.clone())
        })
    };
    named(&format!("/proc/{pid}/task")).or_else(|| named("/proc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwarded_ports_are_found() {
        let text = "\
Hub -1 (n0):
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ
  TCP[HOST_FORWARD]  13       127.0.0.1 40001       10.0.2.15  7001     0     0
  TCP[ESTABLISHED]   15       127.0.0.1 50000       10.0.2.15  7000     0     0
  UDP[HOST_FORWARD]  12       127.0.0.1 40003       10.0.2.15  7003     0     0
";
        assert_eq!(forwarded(text, 7001), Some(40001));
        assert_eq!(forwarded(text, 7003), Some(40003));
        assert_eq!(forwarded(text, 7000), None);
    }
}
