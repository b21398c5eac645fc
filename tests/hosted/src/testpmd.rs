//! DPDK's vhost library, and its driver for virtio devices, both served by `dpdk-testpmd` (Debian:
//! package `dpdk-dev`).
//!
//! As a device it polls its queues, and offers what no other back end here does: packed rings and
//! `IN_ORDER`. Plain pages do: nothing on the machine has to be set up, and no privilege is needed.
//! As a driver ([`Device::VirtioUser`]) it is there to be compared with.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::memory::Pages;
use crate::process::BackEnd;

/// How long a command may take.
const ANSWER: Duration = Duration::from_secs(10);

/// What it does with frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forward {
    /// Sends each back as it is.
    Io,
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
            Self::Io => "io",
            Self::MacSwap => "macswap",
            Self::TransmitOnly => "txonly",
            Self::ReceiveOnly => "rxonly",
        }
    }
}

/// Which end of the socket it is, and how.
#[derive(Clone, Debug)]
pub enum Device {
    /// A virtio device that listens at this path.
    Vhost(PathBuf),
    /// A driver that connects to this path.
    VirtioUser {
        /// Where the device listens.
        socket: PathBuf,
        /// More of the driver's arguments, each `,name=value`.
        options: String,
    },
}

/// How it is started.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The device.
    pub device: Device,
    /// What it forwards.
    pub forward: Forward,
    /// It forwards at once, rather than when it is [told to](Testpmd::forward).
    pub auto_start: bool,
    /// The core of the thread that takes commands and sleeps, and the core of the one that polls;
    /// `None`: wherever the system places them.
    pub cores: Option<(usize, usize)>,
    /// Its memory.
    pub pages: Pages,
}

impl Setup {
    fn command(&self) -> anyhow::Result<Command> {
        // Its output would come in blocks through a pipe.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "dpdk-testpmd", "--lcores"]);
        command.arg(match self.cores {
            Some((main, worker)) => format!("0@{main},1@{worker}"),
            None => {
                let cpus = allowed_cpus().context("cannot read which CPUs this process may use")?;
                format!("0@({cpus}),1@({cpus})")
            }
        });
        command.args(["--no-pci", "--no-shconf", "--no-telemetry"]);
        command.args(match self.pages {
            Pages::Plain => &["--no-huge", "-m", "256"][..],
            Pages::Huge => &["--in-memory", "--single-file-segments", "-m", "320"],
        });
        let path = |path: &Path| {
            path.to_str()
                .map(str::to_owned)
                .context("a path is not text")
        };
        let (vdev, descriptors) = match &self.device {
            Device::Vhost(socket) => {
                let vdev = format!("net_vhost0,iface={},queues=1", path(socket)?);
                (vdev, "1024")
            }
            Device::VirtioUser { socket, options } => {
                let socket = path(socket)?;
                let vdev = format!("net_virtio_user0,path={socket},queues=1{options}");
                // Says which of its ways it takes.
                command.arg("--log-level=pmd.net.virtio.init:debug");
                command.arg("--force-max-simd-bitwidth=512");
                (vdev, "256")
            }
        };
        command.arg("--vdev").arg(vdev);
        command.args(["--", "-i", "--nb-cores=1", "--total-num-mbufs=4096"]);
        command.arg(format!("--txd={descriptors}"));
        command.arg(format!("--rxd={descriptors}"));
        command.arg("--disable-link-check");
        if self.auto_start {
            command.arg("--auto-start");
        }
        command.arg("--forward-mode").arg(self.forward.name());
        Ok(command)
    }
}

/// What it has counted on its one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Frames it got.
    pub received: u64,
    /// Frames it sent.
    pub sent: u64,
    /// Frames it got a second, since this was asked last.
    pub received_rate: u64,
    /// Frames it sent a second, since this was asked last.
    pub sent_rate: u64,
}

impl Stats {
    fn parse(lines: &[String]) -> Option<Self> {
        let number = |name: &str| {
            let rest = lines.iter().find_map(|line| line.split_once(name))?.1;
            rest.split_whitespace().next()?.parse().ok()
        };
        Some(Self {
            received: number("RX-packets:")?,
            sent: number("TX-packets:")?,
            received_rate: number("Rx-pps:")?,
            sent_rate: number("Tx-pps:")?,
        })
    }
}

/// A running `dpdk-testpmd` with one network device of one pair of queues.
#[derive(Debug)]
pub struct Testpmd {
    process: BackEnd,
    socket: PathBuf,
}

impl Testpmd {
    /// Starts it as a device, its socket in `dir`, for `limit` at most.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(dir: &Path, forward: Forward, limit: Duration) -> anyhow::Result<Self> {
        let setup = Setup {
            device: Device::Vhost(dir.join("vhost.sock")),
            forward,
            auto_start: true,
            cores: None,
            pages: Pages::Plain,
        };
        Self::launch(&setup, limit)
    }

    /// Starts it, for `limit` at most.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(setup: &Setup, limit: Duration) -> anyhow::Result<Self> {
        let process = BackEnd::spawn(setup.command()?, limit)
            .context("dpdk-testpmd is needed: apt-get install dpdk-dev")?;
        let (Device::Vhost(socket) | Device::VirtioUser { socket, .. }) = &setup.device;
        Ok(Self {
            process,
            socket: socket.clone(),
        })
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

    /// Waits until it takes commands; as a device, it listens then, and as a driver, it has agreed
    /// with its device.
    ///
    /// # Errors
    /// When it ends, or does not get so far.
    pub fn ready(&self) -> anyhow::Result<()> {
        // Answered like every command, once the ones that come with the start are done.
        self.stats().map(drop)
    }

    fn command(&self, line: &str, is_last: impl Fn(&str) -> bool) -> anyhow::Result<Vec<String>> {
        let from = self.process.line_count();
        self.process.say(line)?;
        let answer = self.process.wait_for_line(from, ANSWER, is_last);
        answer.with_context(|| format!("dpdk-testpmd does not answer to \"{line}\""))
    }

    /// Begins to forward, with so many bursts of frames of its own at first.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn forward(&self, first: u32) -> anyhow::Result<()> {
        let command = match first {
            0 => "start".to_owned(),
            bursts => format!("start tx_first {bursts}"),
        };
        self.command(&command, |line| line.contains("packets/burst="))
            .map(drop)
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it does not answer, or did not forward.
    pub fn halt(&self) -> anyhow::Result<()> {
        self.command("stop", |line| line.trim_end() == "Done.")
            .map(drop)
    }

    /// What it has counted.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn stats(&self) -> anyhow::Result<Stats> {
        let last = |line: &str| line.contains("######") && !line.contains("NIC");
        let lines = self.command("show port stats 0", last)?;
        Stats::parse(&lines).context("dpdk-testpmd shows no statistics")
    }
}

/// As the system lists them: `0-1`, `0,2-3`.
fn allowed_cpus() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = |line: &str| Some(line.strip_prefix("Cpus_allowed_list:")?.trim().to_owned());
    status.lines().find_map(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_as_they_are_shown() {
        let shown = "\
testpmd> show port stats 0

  ######################## NIC statistics for port 0  ########################
  RX-packets: 44430576   RX-missed: 0          RX-bytes:  2843556864
  RX-errors: 0
  RX-nombuf:  0         
  TX-packets: 44430577   TX-errors: 0          TX-bytes:  2843556864

  Throughput (since last show)
  Rx-pps:     12790274          Rx-bps:   6548620744
  Tx-pps:     12790338          Tx-bps:   6548653240
  ############################################################################";
        let lines: Vec<_> = shown.lines().map(str::to_owned).collect();
        let expected = Stats {
            received: 44_430_576,
            sent: 44_430_577,
            received_rate: 12_790_274,
            sent_rate: 12_790_338,
        };
        assert_eq!(Stats::parse(&lines), Some(expected));
        assert_eq!(Stats::parse(&lines[..8]), None);
    }
}
