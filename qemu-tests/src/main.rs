//! The guest kernel: boots on QEMU's q35 and pc (x86_64) and virt (aarch64, riscv64), brings up what
//! a small kernel has (heap, clock, interrupts, PCI), and drives a device through `vring`.
//!
//! It is also the answer to "what does a kernel have to give the crate?": `kernel/platform.rs` is
//! all of the memory side, `kernel/pci.rs` all of the configuration side, and `suites/net/mod.rs`
//! the loop. Each folder of `kernel/arch` is what is needed to get there.
//!
//! Built for a hosted target it is a program that says how to run it.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod kernel;
#[cfg(target_os = "none")]
mod report;
#[cfg(target_os = "none")]
mod suites;

#[cfg(not(target_os = "none"))]
fn main() {
    println!("This is a guest kernel. `cargo xtask qemu` builds and boots it.");
}
