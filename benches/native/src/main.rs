//! The crate against other drivers on devices that others wrote, without a virtual machine: the
//! driver side of a vhost-user socket is in this process.
//!
//! - [`net`]: 64-byte frames to and from `dpdk-testpmd`, against DPDK's own driver for virtio
//!   devices and other drivers.
//! - [`block`]: reads of 512 bytes from `qemu-storage-daemon`, against libblkio's driver and
//!   another.
//!
//! Each contender gets sessions of its own with a fresh device, in turn with the others, and takes
//! few short samples in each: see [`bench_sampling`] for which of them count. The driver polls on
//! one core and the device on another. Samples go to standard output as lines of JSON, progress to
//! standard error.
#![deny(unsafe_code)]

mod block;
#[allow(unsafe_code)] // frames of a pool are pointers
mod frames;
mod host;
mod hugepages;
#[allow(unsafe_code)] // what stands for a platform there is
mod incumbent;
mod net;
mod plan;
#[allow(unsafe_code)] // rings that others lay out
mod raw;

use std::process::ExitCode;

use bench_sampling::run::{Bounds, Run};
use clap::Parser;

/// Compares drivers on real devices, natively: lines of JSON on standard output.
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    bounds: Bounds,
    /// How often each contender gets a session.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Only contenders whose group, case and name, as one text, have this in them.
    #[arg(long, default_value = "")]
    only: String,
    /// Ordinary pages, even where huge ones can be had.
    #[arg(long)]
    plain_pages: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let run = Run::start(&args.bounds);
    match plan::carry_out(&args, &run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-native: {error:#}");
            ExitCode::FAILURE
        }
    }
}
