//! What the part beside QEMU has to do: a job travels to it as JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vring_protocol::Transport;

use super::arch::Arch;
use super::cli::Suite;
use super::features::Steer;

/// The guest's address and the address at the other end of the link, with their prefix length.
///
/// The same numbers serve a tap and QEMU's user-mode network, whose gateway they are.
pub(crate) const GUEST: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 0, 2, 15);
/// See [`GUEST`].
pub(crate) const PEER: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 0, 2, 2);
/// See [`GUEST`].
pub(crate) const PREFIX: u8 = 24;

/// A program with the libraries that it needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tool {
    pub(crate) path: PathBuf,
    /// `LD_LIBRARY_PATH`, for a program that was unpacked and not installed.
    pub(crate) library_path: Option<String>,
    /// Where an unpacked QEMU has its firmware; not every build looks beside itself.
    #[serde(default)]
    pub(crate) data: Vec<PathBuf>,
    /// Where it has its loadable parts.
    #[serde(default)]
    pub(crate) modules: Option<PathBuf>,
}

impl Tool {
    /// A program that is installed.
    pub(crate) fn installed(path: PathBuf) -> Self {
        Self {
            path,
            library_path: None,
            data: Vec::new(),
            modules: None,
        }
    }

    /// The program as a command.
    pub(crate) fn command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.path);
        if let Some(path) = &self.library_path {
            command.env("LD_LIBRARY_PATH", path);
        }
        if let Some(modules) = &self.modules {
            command.env("QEMU_MODULE_DIR", modules);
        }
        for dir in &self.data {
            command.arg("-L").arg(dir);
        }
        command
    }
}

/// What the network card is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Link {
    /// A tap with vhost in the kernel: this Linux is the peer.
    VhostTap,
    /// QEMU's user-mode network: the harness is the peer, through forwarded ports.
    User,
}

/// How much traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) pings: u32,
    pub(crate) tcp_bytes: u64,
    pub(crate) datagrams: u32,
    pub(crate) burst: u32,
}

/// Everything about one run of the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Job {
    /// The cell of a matrix; empty for a run on its own.
    pub(crate) cell: String,
    /// `native`, `nested` or `off`.
    pub(crate) mode: String,
    pub(crate) qemu: Tool,
    /// Shows the system calls, where vhost is on.
    pub(crate) strace: Option<Tool>,
    pub(crate) arch: Arch,
    /// QEMU's word for the machine, with its properties.
    pub(crate) machine: String,
    /// `tcg` or `kvm`.
    pub(crate) accel: String,
    /// What the guest does.
    pub(crate) suite: Suite,
    /// Processors, and queue pairs of the network card and its back end.
    pub(crate) cpus: u16,
    pub(crate) queue_pairs: u16,
    /// QEMU's model of the network card, and its properties.
    pub(crate) model: String,
    /// See `model`.
    pub(crate) nic: String,
    /// Words for QEMU beside those.
    pub(crate) arguments: Vec<String>,
    /// How the guest is to drive the card.
    pub(crate) transport: Transport,
    /// Whether the guest is to count how often it reaches registers.
    pub(crate) counted: bool,
    pub(crate) guest: PathBuf,
    /// The guest's kernel command line.
    pub(crate) command_line: String,
    /// What the command line steers the driver to.
    pub(crate) steer: Steer,
    /// Descriptors that the driver asks for, and those that QEMU's queues have: receive, transmit.
    pub(crate) queue_size: u16,
    pub(crate) device_sizes: (u16, u16),
    /// How many pings the command line asks for.
    pub(crate) guest_pings: u32,
    /// Packets that the guest sends with each of its executors, where the device interrupts.
    pub(crate) awaited: u32,
    pub(crate) link: Link,
    pub(crate) load: Load,
    /// Of a run without a failure only the serial log is brought home.
    pub(crate) brief: bool,
    /// Where the logs go.
    pub(crate) dir: PathBuf,
    /// Until the guest is ready.
    pub(crate) boot_seconds: u64,
    /// What the guest's exercises may take after its services, each of which ends by itself.
    pub(crate) exercise_seconds: u64,
    /// Until everything is over.
    pub(crate) total_seconds: u64,
}
