//! vhost on this machine, in a network namespace of its own.
//!
//! This program starts itself once more; the child moves into a new network namespace (and, without
//! privilege, into a user namespace where it may make a tap), and runs the job there. When it dies,
//! by whatever signal, QEMU dies with it, and the namespace goes with its last process: no tap, no
//! address and no process stays behind.

use std::io::{BufReader, Write as _};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::Sender;

use anyhow::Context as _;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::channel::{self, Frame, Outlet as _, StreamOutlet};
use super::inner;
use super::job::{Job, PEER};
use super::limits::Deadline;
use super::process::{self, Guarded};
use super::stop::Stop;
use super::tap::{self, Tap};

/// Hidden subcommand: reads a job on standard input, writes frames on standard output.
pub(crate) const AGENT: &str = "qemu-agent";
/// Hidden subcommand: makes a namespace and a tap, and says whether that works.
pub(crate) const PROBE: &str = "qemu-native-probe";

fn own_command(subcommand: &str) -> anyhow::Result<Command> {
    let me = std::env::current_exe().context("cannot tell where this program lies")?;
    let mut command = Command::new(me);
    command.arg(subcommand);
    Ok(command)
}

/// Tries what the native mode needs besides the device; if it fails, why.
pub(crate) fn probe() -> Result<(), String> {
    let mut command = own_command(PROBE).map_err(|error| format!("{error:#}"))?;
    let output = process::run(&mut command, Deadline::seconds(20)).map_err(|s| s.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(output.tail())
}

/// Body of the [`PROBE`] subcommand.
pub(crate) fn probe_main() -> anyhow::Result<()> {
    enter_namespace()?;
    Tap::new("tap0", PEER, Ipv4Addr::new(255, 255, 255, 0), 1)?;
    Ok(())
}

/// Body of the [`AGENT`] subcommand.
pub(crate) fn agent_main() -> anyhow::Result<()> {
    let json = std::io::read_to_string(std::io::stdin()).context("cannot read the job")?;
    let jobs: Vec<Job> = serde_json::from_str(&json).context("the job is damaged")?;
    let mut outlet = StreamOutlet::in_place(std::io::stdout());
    match enter_namespace() {
        Ok(()) => inner::run_all(&jobs, &mut outlet),
        Err(error) => outlet.send(Frame::Broken {
            message: format!("{error:#}"),
        }),
    }
    outlet.send(Frame::Bye);
    Ok(())
}

/// Leaves this machine's network. The process must have a single thread.
fn enter_namespace() -> anyhow::Result<()> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let root = uid.is_root();
    let mut flags = UnshareFlags::NEWNET;
    if !root {
        flags |= UnshareFlags::NEWUSER;
    }
    // SAFETY: the file descriptor table is not unshared (no `FILES` flag), which is the only thing
    // that could take a descriptor from code that believes to own it.
    unsafe { unshare_unsafe(flags) }.context("cannot make a network namespace")?;
    if !root {
        let write = |name: &str, text: String| {
            let path = Path::new("/proc/self").join(name);
            std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
        };
        write("setgroups", "deny".into())?;
        write("uid_map", format!("0 {} 1", uid.as_raw()))?;
        write("gid_map", format!("0 {} 1", gid.as_raw()))?;
    }
    tap::set_up("lo")
}

/// Runs the jobs in a child; their frames arrive in `frames`, their files are in place; its own
/// log goes into `dir`.
pub(crate) fn start(jobs: &[Job], dir: &Path, frames: Sender<Frame>) -> Result<Guarded, Stop> {
    let mut command = own_command(AGENT)?;
    let log = dir.join("agent-stderr.log");
    let log =
        std::fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log);
    let mut child = Guarded::spawn(&mut command)?;
    let json = serde_json::to_vec(jobs).context("the job has no JSON form")?;
    let mut stdin = child.child().stdin.take().context("no pipe to the agent")?;
    let stdout = child
        .child()
        .stdout
        .take()
        .context("no pipe from the agent")?;
    stdin.write_all(&json).context("cannot send the job")?;
    drop(stdin);
    let dir = dir.to_path_buf();
    std::thread::spawn(move || {
        if let Err(error) = channel::receive(BufReader::new(stdout), &dir, &frames) {
            let message = format!("the agent's channel: {error:#}");
            drop(frames.send(Frame::Broken { message }));
        }
    });
    Ok(child)
}
