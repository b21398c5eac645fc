//! What the kernel's vhost-net offers, asked of the kernel itself.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd as _;

use anyhow::Context as _;

/// `VHOST_GET_FEATURES` of `<linux/vhost.h>`: `_IOR(0xaf, 0x00, __u64)`.
const GET_FEATURES: libc::Ioctl = 0x8008_af00_u32 as libc::Ioctl;

/// The feature bits.
pub(crate) fn features() -> anyhow::Result<u64> {
    let path = "/dev/vhost-net";
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {path}"))?;
    let mut features = 0u64;
    // SAFETY: the request writes eight bytes to the pointer, and keeps none.
    let result = unsafe {
        libc::ioctl(
            device.as_raw_fd(),
            GET_FEATURES,
            std::ptr::from_mut(&mut features),
        )
    };
    if result < 0 {
        let error = std::io::Error::last_os_error();
        return Err(error).context("vhost-net does not tell its features");
    }
    Ok(features)
}
