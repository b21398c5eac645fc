//! `cargo xtask qemu`.
mod channel;
pub(crate) mod init;
mod initramfs;
mod inner;
mod job;
mod kmod;
mod limits;
mod outer;
mod peer;
mod process;
mod proof;
mod report;
mod stop;
mod tap;

pub(crate) fn rig() {
    use std::path::Path;
    let t0 = std::time::Instant::now();
    let root = Path::new("/tmp/xt/root");
    let release = "6.1.0-56-cloud-amd64";
    let kernel = outer::Kernel { image: root.join("boot").join(format!("vmlinuz-{release}")), modules: root.join("lib/modules").join(release), release: release.into() };
    let qemu = job::Tool { path: "/usr/bin/qemu-system-x86_64".into(), library_path: None };
    let dir = Path::new("/tmp/xt/run");
    std::fs::create_dir_all(dir).unwrap();
    let job = job::Job { mode: "nested".into(), qemu: qemu.clone(), strace: Some(job::Tool { path: "/usr/bin/strace".into(), library_path: None }), machine: "q35".into(), accel: "tcg".into(), nic: "disable-legacy=on".into(), guest: "/usr/lib/ipxe/qemu/efi-virtio.rom".into(), command_line: String::new(), guest_pings: 0, link: job::Link::VhostTap, load: job::Load { pings: 0, tcp_bytes: 0, datagrams: 0, burst: 0 }, dir: "/x".into(), boot_seconds: 60, total_seconds: 120 };
    let initramfs = dir.join("initramfs.cpio");
    outer::pack(&job, &kernel, &initramfs).unwrap();
    println!("packed {} at {:?}", initramfs.metadata().unwrap().len(), t0.elapsed());
    let (tx, rx) = std::sync::mpsc::channel();
    let mut outer = outer::Outer::start(&qemu, "tcg", &kernel, &initramfs, dir, tx).unwrap();
    for frame in rx.iter() { println!("{:?} {frame:?}", t0.elapsed()); }
    println!("{:?}", outer.process().wait(limits::Deadline::seconds(20)));
}
