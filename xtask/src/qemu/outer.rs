//! The outer machine: a stock Linux with vhost, where this machine has none.
//!
//! It boots a distribution kernel with an initramfs made on the spot, whose `/init` is this very
//! program (see [`super::init`]), and speaks over a virtio-serial port.

use std::ffi::CStr;
use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::Sender;

use anyhow::Context as _;
use command_fds::{CommandFdExt as _, FdMapping};

use super::arch::Arch;
use super::channel::{self, Frame};
use super::initramfs::Initramfs;
use super::job::{Job, Tool};
use super::kmod::ModuleTree;
use super::limits::Deadline;
use super::process::{self, Guarded};
use super::stop::Stop;

/// Where the jobs lie in the outer machine.
pub(crate) const JOB: &str = "/job.json";
/// Where the modules lie, and the file that gives their order.
pub(crate) const MODULES: &str = "/modules";
/// What the outer machine mounts, and where: what was packed below would be hidden.
pub(crate) const MOUNTS: [(&CStr, &CStr); 3] = [
    (c"proc", c"/proc"),
    (c"sysfs", c"/sys"),
    (c"devtmpfs", c"/dev"),
];
/// Name of the virtio-serial port.
pub(crate) const PORT: &str = "org.vring.agent";
/// Where the outer machine's run keeps its logs before they travel home.
pub(crate) const RUN_DIR: &str = "/run/vring";
/// Name of the outer machine's console log among the artifacts.
pub(crate) const CONSOLE_LOG: &str = "outer-console.log";

/// Name of the log of the outer QEMU itself.
pub(crate) const STDERR_LOG: &str = "outer-stderr.log";

const GUEST: &str = "/guest";
const CHANNEL_FD: i32 = 10;

/// What the outer kernel must load: the channel home, the tap, vhost.
const WANTED: [&str; 4] = ["virtio_pci", "virtio_console", "tun", "vhost_net"];

/// Firmware that QEMU may want for a guest given by `-kernel`.
const FIRMWARE: [&str; 10] = [
    "bios-256k.bin",
    // Of a microvm without ACPI.
    "qboot.rom",
    "bios.bin",
    "pvh.bin",
    "linuxboot.bin",
    "linuxboot_dma.bin",
    "multiboot.bin",
    "multiboot_dma.bin",
    "kvmvapic.bin",
    "opensbi-riscv64-generic-fw_dynamic.bin",
];

/// A kernel that was unpacked.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    /// `lib/modules/<release>`.
    pub(crate) modules: PathBuf,
    pub(crate) release: String,
}

/// The outer machine, running.
#[derive(Debug)]
pub(crate) struct Outer {
    process: Guarded,
}

/// The directories in which this QEMU looks for firmware.
fn firmware_dirs(qemu: &Tool) -> Result<Vec<PathBuf>, Stop> {
    let mut command = qemu.command();
    command.args(["-L", "help"]);
    let output = process::run_ok(&mut command, Deadline::seconds(20))?;
    Ok(output.stdout.lines().map(PathBuf::from).collect())
}

/// QEMU's own loadable parts that the inner QEMU needs: the TCG accelerator, where it is one.
fn qemu_modules(qemu: &Tool, arch: Arch) -> Vec<PathBuf> {
    let name = format!("accel-tcg-{}.so", arch.name());
    let Some(prefix) = qemu.path.parent().and_then(Path::parent) else {
        return Vec::new();
    };
    [
        "lib/x86_64-linux-gnu/qemu",
        "lib64/qemu",
        "lib/qemu",
        "lib/qemu-kvm",
    ]
    .iter()
    .map(|dir| prefix.join(dir).join(&name))
    .filter(|path| path.exists())
    .collect()
}

/// Packs this program, QEMU, strace, the guest and the jobs.
///
/// The jobs share their programs and their guest.
pub(crate) fn pack(jobs: &[Job], kernel: &Kernel, target: &Path) -> Result<(), Stop> {
    let job = jobs.first().context("no job for the outer machine")?;
    let mut archive = Initramfs::default();
    for dir in ["/proc", "/sys", "/dev", "/tmp", "/run", RUN_DIR] {
        archive.dir(Path::new(dir));
    }
    let me = std::env::current_exe().context("cannot tell where this program lies")?;
    archive.program(Path::new("/init"), &stripped(&me, target), None)?;
    let qemu = &job.qemu;
    archive.program(&qemu.path, &qemu.path, qemu.library_path.as_deref())?;
    for module in qemu_modules(qemu, job.arch) {
        archive.program(&module, &module, qemu.library_path.as_deref())?;
    }
    for dir in firmware_dirs(qemu)? {
        for name in FIRMWARE {
            let path = dir.join(name);
            if path.exists() {
                archive.file(&path, &path);
            }
        }
    }
    if let Some(strace) = &job.strace {
        archive.program(&strace.path, &strace.path, strace.library_path.as_deref())?;
    }
    let mut order = Vec::new();
    for module in ModuleTree::read(&kernel.modules)?.closure(&WANTED)? {
        let path = Path::new(MODULES).join(format!("{}.ko", module.name));
        archive.bytes(&path, module.bytes);
        order.push(module.name);
    }
    archive.bytes(
        &Path::new(MODULES).join("order"),
        order.join("\n").into_bytes(),
    );
    let inside = jobs.iter().map(|job| Job {
        guest: GUEST.into(),
        dir: Path::new(RUN_DIR).join(&job.cell),
        ..job.clone()
    });
    let inside: Vec<Job> = inside.collect();
    archive.file(Path::new(GUEST), &job.guest);
    let json = serde_json::to_vec(&inside).context("the jobs have no JSON form")?;
    archive.bytes(Path::new(JOB), json);
    refuse_hidden(&archive)?;
    let file = std::fs::File::create(target)
        .with_context(|| format!("cannot write {}", target.display()))?;
    let mut out = std::io::BufWriter::new(file);
    archive.write(&mut out)?;
    std::io::Write::flush(&mut out).context("cannot write the initramfs")?;
    Ok(())
}

/// Refuses files that the outer machine's own mounts would cover: a checkout in `/dev/shm`.
fn refuse_hidden(archive: &Initramfs) -> Result<(), Stop> {
    for (_, place) in MOUNTS {
        let place = place.to_str().context("a mount point in UTF-8")?;
        if let Some(path) = archive.files().find(|path| path.starts_with(place)) {
            return Err(Stop::missing(
                "a place outside /dev, /proc and /sys for the files of the run",
                format!("{} is hidden inside the outer machine", path.display()),
                "move the checkout (or CARGO_TARGET_DIR) elsewhere, or use --vhost off",
            ));
        }
    }
    Ok(())
}

/// This program without its debug information, where `strip` is at hand: it shrinks tenfold.
fn stripped(me: &Path, target: &Path) -> PathBuf {
    let Some(strip) = process::find_program("strip") else {
        return me.into();
    };
    let out = target.with_file_name("init.stripped");
    let mut command = std::process::Command::new(strip);
    command.arg("-o").arg(&out).arg(me);
    match process::run_ok(&mut command, Deadline::seconds(30)) {
        Ok(_) => out,
        Err(_) => me.into(),
    }
}

impl Outer {
    /// Starts the machine; its frames arrive in `frames`, its files in `dir`.
    pub(crate) fn start(
        qemu: &Tool,
        accel: &str,
        kernel: &Kernel,
        initramfs: &Path,
        dir: &Path,
        frames: Sender<Frame>,
    ) -> Result<Self, Stop> {
        let (near, far) = UnixStream::pair().context("cannot make a socket pair")?;
        let console = dir.join(CONSOLE_LOG);
        let console = console
            .to_str()
            .context("the path of the logs is no UTF-8")?;
        let accel = match accel {
            "tcg" => "tcg,thread=multi",
            other => other,
        };
        let mut command = qemu.command();
        command.args(["-nodefaults", "-no-user-config", "-no-reboot"]);
        command.args(["-display", "none", "-machine", "q35", "-accel", accel]);
        command.args(["-cpu", "max", "-smp", "2", "-m", "1500"]);
        command.arg("-kernel").arg(&kernel.image);
        command.arg("-initrd").arg(initramfs);
        // The time stamp counter as the clock: any other one is a device of the outer machine, and
        // every look at it then a system call, also for the inner QEMU's own devices.
        command.args([
            "-append",
            "console=ttyS0 loglevel=4 panic=-1 mitigations=off random.trust_cpu=on tsc=reliable clocksource=tsc",
        ]);
        command.args([
            "-chardev",
            &format!("file,id=console,path={}", console.replace(',', ",,")),
        ]);
        command.args(["-serial", "chardev:console"]);
        command.args(["-device", "virtio-serial-pci"]);
        command.args(["-chardev", &format!("socket,id=agent,fd={CHANNEL_FD}")]);
        command.args([
            "-device",
            &format!("virtserialport,chardev=agent,name={PORT}"),
        ]);
        command
            .fd_mappings(vec![FdMapping {
                parent_fd: far.into(),
                child_fd: CHANNEL_FD,
            }])
            .context("cannot pass the channel")?;
        let stderr = dir.join(STDERR_LOG);
        let stderr = std::fs::File::create(&stderr)
            .with_context(|| format!("cannot write {}", stderr.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(stderr.try_clone().context("cannot copy a descriptor")?)
            .stderr(stderr);
        let process = Guarded::spawn(&mut command)?;
        let dir = dir.to_path_buf();
        std::thread::spawn(move || {
            if let Err(error) = channel::receive(BufReader::new(near), &dir, &frames) {
                let message = format!("the outer machine's channel: {error:#}");
                drop(frames.send(Frame::Broken { message }));
            }
        });
        Ok(Self { process })
    }

    /// The process, to see whether it ended.
    pub(crate) fn process(&mut self) -> &mut Guarded {
        &mut self.process
    }
}
