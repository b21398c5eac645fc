//! QEMU's command line for the guest under test.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use anyhow::Context as _;
use command_fds::{CommandFdExt as _, FdMapping};
use vring_protocol::{Transport, port};

use crate::qemu::cli::Suite;
use crate::qemu::job::{GUEST, Job, Link, PEER};
use crate::qemu::process::Guarded;
use crate::qemu::tap::Tap;

/// Names of the files that strace and QEMU write into the job's directory.
pub(crate) const STRACE_LOG: &str = "strace.log";
/// See [`STRACE_LOG`].
pub(crate) const TRACE_LOG: &str = "qemu-trace.log";
/// See [`STRACE_LOG`].
pub(crate) const STDERR_LOG: &str = "qemu-stderr.log";

/// The trace events that QEMU logs. The first one shows that tracing works at all; only then does
/// the silence of the others mean something: they tell of doorbell stores that QEMU handled itself.
/// Some of them tell much, and are of use for the steps of vhost only.
fn trace_events(job: &Job) -> &'static [&'static str] {
    match job.transport {
        Transport::Mmio | Transport::MmioLegacy if job.strace.is_some() => {
            &["virtio_set_status", "virtio_mmio_write_offset"]
        }
        Transport::PciLegacy if job.strace.is_some() => {
            &["virtio_set_status", "virtio_queue_notify"]
        }
        Transport::Mmio | Transport::MmioLegacy | Transport::PciLegacy => &["virtio_set_status"],
        Transport::PciModern | Transport::PciPorts | Transport::PciWindow => &[
            "virtio_set_status",
            "virtio_pci_notify_write",
            "virtio_pci_notify_write_pio",
        ],
    }
}

const QMP_FD: i32 = 10;
const SERIAL_FD: i32 = 11;
const TAP_FD: i32 = 12;

/// Frames for the guest of the interrupts suite leave in bunches, every so many microseconds.
const LATE_US: u32 = 500;

/// QEMU under test, running.
#[derive(Debug)]
pub(crate) struct Qemu {
    pub(crate) process: Guarded,
    pub(crate) qmp: UnixStream,
    pub(crate) serial: UnixStream,
    /// For the record.
    pub(crate) command: String,
}

/// Escapes a value of QEMU's `key=value,...` syntax.
fn value(text: &str) -> String {
    text.replace(',', ",,")
}

/// QEMU's numbers for the queues of the tap.
fn tap_fds(job: &Job) -> std::ops::Range<i32> {
    TAP_FD..TAP_FD + i32::from(job.queue_pairs)
}

fn arguments(job: &Job) -> anyhow::Result<Vec<String>> {
    let mut args: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(ToString::to_string));
    // -S: nothing runs before the harness is ready to watch.
    add(&["-nodefaults", "-no-user-config", "-no-reboot", "-S"]);
    add(&["-display", "none", "-m", "256"]);
    // Room for a second CPU also where there is one, or emulation leaves the guest's fences out, and
    // the devices, which run on threads of their own, miss kicks: see docs/decisions/006-mfence.md.
    add(&["-smp", &format!("{},maxcpus=2", job.cpus)]);
    let accel = match job.accel.as_str() {
        "tcg" => "tcg,thread=multi",
        other => other,
    };
    add(&["-machine", &job.machine, "-accel", accel]);
    add(&["-chardev", &format!("socket,id=qmp,fd={QMP_FD}")]);
    add(&["-mon", "chardev=qmp,mode=control"]);
    add(&["-chardev", &format!("socket,id=serial,fd={SERIAL_FD}")]);
    add(&["-serial", "chardev:serial"]);
    let own = job.arch.arguments();
    add(&own.iter().map(String::as_str).collect::<Vec<_>>());
    let guest = job.guest.to_str().context("the guest's path is no UTF-8")?;
    add(&["-kernel", guest, "-append", &job.command_line]);
    let netdev = match job.link {
        Link::VhostTap if job.queue_pairs > 1 => {
            let fds: Vec<_> = tap_fds(job).map(|fd| fd.to_string()).collect();
            format!("tap,id=n0,fds={},vhost=on", fds.join(":"))
        }
        Link::VhostTap => format!("tap,id=n0,fd={TAP_FD},vhost=on"),
        // Port 0: the host chooses one, and QEMU tells which.
        Link::User => {
            let mut netdev = format!("user,id=n0,host={PEER},dhcpstart={GUEST}");
            for (kind, port) in [
                ("tcp", port::CONTROL),
                ("tcp", port::SINK),
                ("tcp", port::SOURCE),
                ("udp", port::PACED),
                ("udp", port::BURST),
            ] {
                netdev += &format!(",hostfwd={kind}:127.0.0.1:0-{GUEST}:{port}");
            }
            // Router advertisements come by themselves, and each interrupt there is to be an answer's.
            if job.suite == Suite::Interrupts {
                netdev += ",ipv6=off";
            }
            netdev
        }
    };
    add(&["-netdev", &netdev]);
    add(&job.arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let device = format!("{},id=net0,netdev=n0,{}", job.model, job.nic);
    let device = device.trim_end_matches(',');
    match job.suite {
        Suite::Net => add(&["-device", device]),
        Suite::Interrupts => {
            // Pins of devices go round the four lines of a bus: every fourth has the same one.
            add(&["-device", &format!("{device},addr=4")]);
            let netdev = format!("user,id=n1,host={PEER},dhcpstart={GUEST},ipv6=off");
            let second = device.replace("net0,netdev=n0", "net1,netdev=n1");
            add(&["-netdev", &netdev, "-device", &format!("{second},addr=8")]);
            // Answers of the user-mode network come before the doorbell's store is over. What waits
            // for them is to be awake by then, asleep, or in between. A tap takes no filter: the
            // command line refuses vhost.
            for netdev in ["n0", "n1"] {
                let filter = format!("filter-buffer,id=late-{netdev},netdev={netdev}");
                add(&["-object", &format!("{filter},queue=tx,interval={LATE_US}")]);
            }
        }
    }
    let trace = job.dir.join(TRACE_LOG);
    let trace = trace.to_str().context("the log directory is no UTF-8")?;
    add(&["-D", trace]);
    for event in trace_events(job) {
        add(&["-trace", &format!("enable={}", value(event))]);
    }
    Ok(args)
}

/// Starts QEMU; the guest does not run yet.
pub(crate) fn start(job: &Job, tap: Option<&mut Tap>) -> anyhow::Result<Qemu> {
    let mut command = job.qemu.command();
    command.args(arguments(job)?);
    let shown = crate::qemu::process::shell_words(&command);

    let (qmp, qmp_far) = UnixStream::pair().context("cannot make a socket pair")?;
    let (serial, serial_far) = UnixStream::pair().context("cannot make a socket pair")?;
    let mut descriptors: Vec<(OwnedFd, i32)> =
        vec![(qmp_far.into(), QMP_FD), (serial_far.into(), SERIAL_FD)];
    if let Some(tap) = tap {
        descriptors.extend(tap.take_fds().into_iter().zip(tap_fds(job)));
    }
    command.fd_mappings(
        descriptors
            .into_iter()
            .map(|(parent_fd, child_fd)| FdMapping {
                parent_fd,
                child_fd,
            })
            .collect(),
    )?;
    let stderr = job.dir.join(STDERR_LOG);
    let stderr = std::fs::File::create(&stderr)
        .with_context(|| format!("cannot write {}", stderr.display()))?;
    command
        .stdin(Stdio::null())
        .stdout(stderr.try_clone()?)
        .stderr(stderr);
    let process = Guarded::spawn(&mut command)?;
    // The descriptors of the far ends must close here, or the near ends never see an end.
    drop(command);
    Ok(Qemu {
        process,
        qmp,
        serial,
        command: shown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::arch::Arch;

    #[test]
    fn bug_class_29_an_emulated_machine_keeps_the_fences_of_its_guest() {
        let job = super::super::verdict::tests::job();
        let arguments = arguments(&job).unwrap();
        let smp = arguments.iter().position(|word| word == "-smp").unwrap();
        assert_eq!(arguments[smp + 1], "1,maxcpus=2");
    }

    #[test]
    fn two_queue_pairs_are_two_queues_of_the_tap() {
        let mut job = super::super::verdict::tests::job();
        job.link = Link::VhostTap;
        let one = arguments(&job).unwrap();
        assert!(one.contains(&"tap,id=n0,fd=12,vhost=on".into()), "{one:?}");
        job.queue_pairs = 2;
        job.cpus = 2;
        let two = arguments(&job).unwrap();
        for word in ["tap,id=n0,fds=12:13,vhost=on", "2,maxcpus=2"] {
            assert!(two.contains(&word.into()), "{two:?}");
        }
    }

    #[test]
    fn what_comes_to_the_interrupts_suite_is_an_answer_and_comes_late() {
        let mut job = super::super::verdict::tests::job();
        job.suite = Suite::Interrupts;
        job.link = Link::User;
        let arguments = arguments(&job).unwrap();
        for netdev in ["n0", "n1"] {
            let user = format!("user,id={netdev},");
            let quiet = |word: &String| word.starts_with(&user) && word.ends_with(",ipv6=off");
            let late = format!("netdev={netdev},queue=tx");
            let late = |word: &String| word.starts_with("filter-buffer") && word.contains(&late);
            assert!(arguments.iter().any(quiet), "{arguments:?}");
            assert!(arguments.iter().any(late), "{arguments:?}");
        }
    }

    #[test]
    fn a_guest_of_every_architecture_can_end_qemu_with_a_status() {
        for arch in Arch::ALL {
            let mut job = super::super::verdict::tests::job();
            job.arch = arch;
            let arguments = arguments(&job).unwrap();
            let has = |part: &str| arguments.iter().any(|word| word.contains(part));
            assert!(
                has("isa-debug-exit") != has("enable=on,target=native"),
                "{arguments:?}"
            );
            assert!(has("-cpu"), "{arguments:?}");
        }
    }
}
