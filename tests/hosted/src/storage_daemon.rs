//! QEMU's block layer behind a vhost-user socket, served by `qemu-storage-daemon` (Debian: package
//! `qemu-utils`).
//!
//! Its disk reads as zeroes and takes no time. It sleeps until it is kicked, and offers `EVENT_IDX`
//! and `INDIRECT_DESC`.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use crate::process::BackEnd;

/// Bytes of the disk.
pub const DISK: u64 = 1 << 30;

/// A running `qemu-storage-daemon` with one disk of one queue.
#[derive(Debug)]
pub struct StorageDaemon {
    process: BackEnd,
    socket: PathBuf,
}

impl StorageDaemon {
    /// Starts it on one core, its socket in `dir`, for `limit` at most; it ends with the calling
    /// thread.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(dir: &Path, core: usize, limit: Duration) -> anyhow::Result<Self> {
        let socket = dir.join("blk.sock");
        let path = socket.to_str().context("the path is not text")?;
        // It does not end with its standard input, so it has to be killed when this process is.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "taskset", "-c"]);
        command.args([&core.to_string(), "qemu-storage-daemon"]);
        command.arg("--blockdev").arg(format!(
            "driver=null-co,node-name=n0,read-zeroes=on,size={DISK}"
        ));
        command.arg("--export").arg(format!(
            "type=vhost-user-blk,id=e0,node-name=n0,addr.type=unix,addr.path={path},writable=on"
        ));
        let process = BackEnd::spawn(command, limit)
            .context("qemu-storage-daemon is needed: apt-get install qemu-utils")?;
        Ok(Self { process, socket })
    }

    /// The process.
    #[must_use]
    pub fn process(&self) -> &BackEnd {
        &self.process
    }

    /// Where it listens, once it does.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
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
