//! DPDK's vhost library, served by `dpdk-testpmd` (Debian: package `dpdk-dev`).
//!
//! It polls its queues, and offers what no other back end here does: packed rings and `IN_ORDER`.
//! Plain pages do: nothing on the machine has to be set up, and no privilege is needed.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::process::BackEnd;

/// What it does with frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Sends each back, source and destination address exchanged.
    MacSwap,
    /// Sends as fast as it can.
    TransmitOnly,
    /// Counts and drops what it gets.
    ReceiveOnly,
}

impl Forward {
    fn name(self) -> &'static str {
        match self {
            Self::MacSwap => "macswap",
            Self::TransmitOnly => "txonly",
            Self::ReceiveOnly => "rxonly",
        }
    }
}

/// A running `dpdk-testpmd` with one network device of one pair of queues.
#[derive(Debug)]
pub struct Testpmd {
    process: BackEnd,
    socket: PathBuf,
}

impl Testpmd {
    /// Starts it, its socket in `dir`, for `limit` at most.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(dir: &Path, forward: Forward, limit: Duration) -> anyhow::Result<Self> {
        let socket = dir.join("vhost.sock");
        let cpus = allowed_cpus().context("cannot read which CPUs this process may use")?;
        // Its output would come in blocks through a pipe.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "dpdk-testpmd", "--lcores"]);
        // One thread for commands, which sleeps, and one that polls; the system places both.
        command.arg(format!("0@({cpus}),1@({cpus})"));
        command.args(["--no-pci", "--no-huge", "-m", "256"]);
        command.args(["--no-shconf", "--no-telemetry"]);
        command.arg("--vdev").arg(format!(
            "net_vhost0,iface={},queues=1",
            socket.to_str().context("the path is not text")?
        ));
        command.args(["--", "-i", "--nb-cores=1", "--total-num-mbufs=4096"]);
        command.args(["--disable-link-check", "--auto-start", "--forward-mode"]);
        command.arg(forward.name());
        let process = BackEnd::spawn(command, limit)
            .context("dpdk-testpmd is needed: apt-get install dpdk-dev")?;
        Ok(Self { process, socket })
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &BackEnd {
        &self.process
    }

    /// Connects to it, once it listens.
    ///
    /// # Errors
    /// When it ends, or does not listen for a long time.
    pub fn connect(&self) -> anyhow::Result<UnixStream> {
        self.process
            .wait_for(&self.socket, |path| UnixStream::connect(path))
    }
}

/// As the system lists them: `0-1`, `0,2-3`.
fn allowed_cpus() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = |line: &str| Some(line.strip_prefix("Cpus_allowed_list:")?.trim().to_owned());
    status.lines().find_map(line)
}
