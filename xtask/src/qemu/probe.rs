//! What this machine can do, found out by trying.

use std::path::Path;
use std::process::Stdio;

use vring_protocol::{EXIT_OK, Options, exit_status};

use super::arch::Arch;
use super::job::Tool;
use super::limits::Deadline;
use super::native;
use super::process::{self, Guarded};
use super::report::AccelTrial;
use super::stop::Stop;

/// KVM that works boots the guest in a fraction of this; one that is itself emulated takes longer,
/// and then TCG is the faster one.
const KVM_SECONDS: u64 = 3;

/// Whether vhost can be used on this machine itself; if not, why, as a [`Stop::Missing`].
pub(crate) fn native_vhost() -> Result<(), Stop> {
    const WHAT: &str = "vhost on this machine (--vhost native)";
    const NESTED: &str = "or use --vhost nested, which brings a kernel of its own";
    let device = Path::new("/dev/vhost-net");
    if !device.exists() {
        return Err(Stop::missing(
            WHAT,
            "there is no /dev/vhost-net: the kernel has no vhost_net, or this is a container \
             that does not pass it on",
            format!(
                "as root run `modprobe vhost_net` (in a container: add `--device /dev/vhost-net`), {NESTED}"
            ),
        ));
    }
    for (path, fix) in [
        (
            "/dev/vhost-net",
            "add yourself to the group that owns it (`ls -l /dev/vhost-net`)",
        ),
        (
            "/dev/net/tun",
            "as root run `modprobe tun` (in a container: add `--device /dev/net/tun`)",
        ),
    ] {
        if let Err(error) = std::fs::File::options().read(true).write(true).open(path) {
            return Err(Stop::missing(
                WHAT,
                format!("{path} cannot be opened: {error}"),
                format!("{fix}, {NESTED}"),
            ));
        }
    }
    native::probe().map_err(|why| {
        Stop::missing(
            WHAT,
            format!("no tap in a network namespace of its own: {why}"),
            format!("run as root, or allow unprivileged user namespaces, {NESTED}"),
        )
    })
}

/// Whether the outer machine of the nested mode can be made here.
pub(crate) fn nested() -> Result<(), Stop> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    if (os, arch) == ("linux", "x86_64") {
        return Ok(());
    }
    Err(Stop::missing(
        "a Linux on x86-64 (--vhost nested)",
        format!("the outer machine runs this machine's own programs, and this is {os} on {arch}"),
        "use --vhost off",
    ))
}

/// Boots the guest to its first checks under KVM.
pub(crate) fn try_kvm(qemu: &Tool, guest: &Path, machine: &str) -> Result<AccelTrial, Stop> {
    let trial = |works, why: String| AccelTrial {
        accel: "kvm".into(),
        works,
        why,
    };
    if let Err(error) = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        return Ok(trial(false, format!("/dev/kvm cannot be opened: {error}")));
    }
    let options = Options {
        suite: "boot".into(),
        ..Options::default()
    };
    let mut command = qemu.command();
    command.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
    ]);
    command.args(["-machine", machine, "-accel", "kvm", "-m", "256"]);
    command.args(["-serial", "null"]);
    command.args(Arch::X86_64.arguments());
    command.arg("-kernel").arg(guest);
    command.args(["-append", &options.to_command_line()]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::piped());
    let mut child = Guarded::spawn(&mut command)?;
    let stderr = child.child().stderr.take();
    let result = child.wait(Deadline::seconds(KVM_SECONDS));
    child.kill();
    let said = stderr
        .and_then(|pipe| std::io::read_to_string(pipe).ok())
        .unwrap_or_default();
    let said = said.lines().next().unwrap_or_default();
    let expected = exit_status(EXIT_OK);
    match result {
        Ok(status) if status.code() == Some(expected) => {
            Ok(trial(true, "the guest booted under it".into()))
        }
        Ok(status) => Ok(trial(
            false,
            format!("the guest did not boot under it ({status}) {said}")
                .trim()
                .into(),
        )),
        Err(Stop::TimeLimit { seconds, .. }) => Ok(trial(
            false,
            format!("the guest did not boot under it within {seconds} s {said}")
                .trim()
                .into(),
        )),
        Err(stop) => Err(stop),
    }
}

/// The version of the compiler, for the record.
pub(crate) fn rustc_version() -> Option<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = std::process::Command::new(rustc);
    command.arg("--version");
    let output = process::run_ok(&mut command, Deadline::seconds(30)).ok()?;
    Some(output.stdout.trim().into())
}
