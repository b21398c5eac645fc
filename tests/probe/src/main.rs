//! The data path alone, linked for bare metal, to see what it drags along.
//!
//! Each function named `vring_*` is a root that `_start` keeps alive; the linker throws away
//! everything that no root reaches. `cargo xtask test --only probe` builds this in release mode and
//! reads the symbols of what is left: a panic that the optimiser could not rule out, on whatever
//! path, shows as the panic handler and the functions of `core::panicking` that call it.
//!
//! Queues come from the caller, as in a kernel that has started them: starting, closing and
//! dropping a queue is not the data path and is not looked at. With the feature `provoke` there
//! is one root more, which does panic, to prove that the search would find one.

#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod bare;
#[cfg(target_os = "none")]
mod roots;

#[cfg(not(target_os = "none"))]
fn main() {
    println!("this program is built for bare metal, and looked at: cargo xtask test --only probe");
}
