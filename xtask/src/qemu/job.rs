//! What the part beside QEMU has to do: a job travels to it as JSON.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

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
}

impl Tool {
    /// The program as a command.
    pub(crate) fn command(&self) -> std::process::Command {
        let mut command = std::process::Command::new(&self.path);
        if let Some(path) = &self.library_path {
            command.env("LD_LIBRARY_PATH", path);
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
    /// `native`, `nested` or `off`.
    pub(crate) mode: String,
    pub(crate) qemu: Tool,
    /// Shows the system calls, where vhost is on.
    pub(crate) strace: Option<Tool>,
    /// `q35` or `pc`.
    pub(crate) machine: String,
    /// `tcg` or `kvm`.
    pub(crate) accel: String,
    /// QEMU's properties of the network card, after the name of the model.
    pub(crate) nic: String,
    pub(crate) guest: PathBuf,
    /// The guest's kernel command line.
    pub(crate) command_line: String,
    /// How many pings the command line asks for.
    pub(crate) guest_pings: u32,
    pub(crate) link: Link,
    pub(crate) load: Load,
    /// Where the logs go.
    pub(crate) dir: PathBuf,
    /// Until the guest is ready.
    pub(crate) boot_seconds: u64,
    /// Until everything is over.
    pub(crate) total_seconds: u64,
}
