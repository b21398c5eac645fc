//! The first process of the outer machine: this program as `/init`.
//!
//! It makes the place habitable, runs the job as on any other Linux, sends home what was found and
//! restarts the machine, which ends it (`-no-reboot`).

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};

use super::channel::{Frame, Outlet, StreamOutlet};
use super::inner;
use super::job::Job;
use super::limits::Deadline;
use super::outer::{JOB, MODULES, MOUNTS, PORT};
use super::stop::Stop;
use super::tap;

/// Whether this process is the first one of an outer machine.
pub(crate) fn is_init() -> bool {
    std::process::id() == 1 && Path::new(JOB).exists()
}

/// Runs the job and ends the machine.
pub(crate) fn main() -> ! {
    if let Err(error) = live() {
        // The console is all there is when the channel cannot be had.
        eprintln!("vring init: {error:#}");
    }
    // What was sent must leave the machine before it goes down.
    rustix::fs::sync();
    std::thread::sleep(std::time::Duration::from_millis(200));
    let refused = reboot(RebootCommand::Restart);
    eprintln!("vring init: the machine does not restart: {refused:?}");
    std::process::exit(1);
}

fn live() -> anyhow::Result<()> {
    // Nothing over `/tmp` or `/run`: the root is in memory, and they may hold what was packed.
    for (kind, place) in MOUNTS {
        place_filesystem(kind, place)?;
    }
    load_modules()?;
    let port = open_port()?;
    let mut outlet = StreamOutlet::new(port);
    let result = work(&mut outlet);
    if let Err(error) = &result {
        outlet.send(Frame::Broken {
            message: format!("{error:#}"),
        });
    }
    outlet.send(Frame::Bye);
    result
}

fn work(outlet: &mut dyn Outlet) -> anyhow::Result<()> {
    tap::set_up("lo")?;
    let json = std::fs::read(JOB).with_context(|| format!("cannot read {JOB}"))?;
    let jobs: Vec<Job> =
        serde_json::from_slice(&json).with_context(|| format!("{JOB} is damaged"))?;
    inner::run_all(&jobs, outlet);
    Ok(())
}

fn place_filesystem(kind: &CStr, place: &CStr) -> anyhow::Result<()> {
    match mount(kind, place, kind, MountFlags::empty(), None::<&CStr>) {
        // The kernel mounts devtmpfs itself where it is configured to.
        Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot mount {kind:?}")),
    }
}

fn load_modules() -> anyhow::Result<()> {
    let order = Path::new(MODULES).join("order");
    let order = std::fs::read_to_string(order).context("cannot read the order of modules")?;
    for name in order.lines() {
        let path = Path::new(MODULES).join(format!("{name}.ko"));
        let file = File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        match finit_module(&file, c"", 0) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot load {name}")),
        }
    }
    Ok(())
}

/// The virtio-serial port of our name, which appears some time after its driver.
fn open_port() -> anyhow::Result<File> {
    let find = || -> Option<PathBuf> {
        let ports = std::fs::read_dir("/sys/class/virtio-ports").ok()?;
        ports.flatten().find_map(|entry| {
            let name = std::fs::read_to_string(entry.path().join("name")).ok()?;
            (name.trim() == PORT).then(|| Path::new("/dev").join(entry.file_name()))
        })
    };
    let path = Deadline::seconds(20)
        .poll("the virtio-serial port", || Ok(find()))
        .map_err(Stop::into_anyhow)?;
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))
}
