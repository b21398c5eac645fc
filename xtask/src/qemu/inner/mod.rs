//! One run of the guest, on whatever Linux has the link: the same code natively, nested and off.

pub(crate) mod command;
pub(crate) mod qmp;

use serde_json::json;

use super::channel::{Frame, Outlet};
use super::job::{Job, PEER};
use super::limits::Deadline;
use super::stop::Stop;
use super::tap::Tap;

pub(crate) fn run(job: &Job, outlet: &mut dyn Outlet) {
    if let Err(stop) = rig(job, outlet) {
        outlet.send(Frame::Broken {
            message: stop.to_string(),
        });
    }
    for name in ["strace.log", "qemu-trace.log", "qemu-stderr.log", "qmp.log"] {
        drop(outlet.file(name, &job.dir.join(name)));
    }
}

fn rig(job: &Job, outlet: &mut dyn Outlet) -> Result<(), Stop> {
    let deadline = Deadline::seconds(job.total_seconds);
    outlet.send(Frame::Phase { name: "tap".into() });
    let mut tap = Tap::new("tap0", PEER, std::net::Ipv4Addr::new(255, 255, 255, 0))?;
    outlet.send(Frame::Phase { name: "qemu".into() });
    let qemu = command::start(job, Some(&mut tap))?;
    outlet.send(Frame::Serial { line: qemu.command.clone() });
    let (mut qmp, version) = qmp::Qmp::connect(qemu.qmp.try_clone().unwrap(), &job.dir.join("qmp.log"), deadline.within(60))?;
    outlet.send(Frame::Serial { line: version });
    deadline.within(90).poll("vhost", || {
        let v = qmp.execute("x-query-virtio-status", json!({"path": "/machine/peripheral/net0/virtio-backend"}), deadline)?;
        std::thread::sleep(std::time::Duration::from_millis(500));
        Ok((v["vhost-started"] == true).then_some(()))
    })?;
    outlet.send(Frame::Serial { line: "vhost started".into() });
    for q in 0..2 {
        let v = qmp.execute("x-query-virtio-vhost-queue-status", json!({"path": "/machine/peripheral/net0/virtio-backend", "queue": q}), deadline)?;
        outlet.send(Frame::Serial { line: v.to_string() });
    }
    outlet.send(Frame::Serial { line: format!("pid {} {:?}", qemu.process.id(), tap.counters()) });
    for e in std::fs::read_dir("/proc").unwrap().flatten() {
        if let Ok(c) = std::fs::read_to_string(e.path().join("comm")) && c.contains("vhost") {
            outlet.send(Frame::Serial { line: format!("{:?} {c}", e.path()) });
        }
    }
    if let Ok(t) = std::fs::read_dir(format!("/proc/{}/task", qemu.process.id())) {
        for e in t.flatten() { outlet.send(Frame::Serial { line: std::fs::read_to_string(e.path().join("comm")).unwrap() }); }
    }
    std::thread::sleep(std::time::Duration::from_secs(3));
    drop(qemu);
    Ok(())
}
