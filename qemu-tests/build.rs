//! Links the guest kernel as a plain static ELF at a fixed address.
//!
//! A bare-metal target may build position-independent executables, whose vtables and string tables
//! hold addresses that somebody has to relocate at boot. Nobody does that for a kernel, so this
//! asks the linker for a fixed-position image; position-independent code inside it does no harm.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo names the package's folder");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo names the architecture");
    let script = format!("{folder}/src/kernel/arch/{arch}/linker.ld");
    println!("cargo:rerun-if-changed={script}");
    println!("cargo:rustc-link-arg-bins=-T{script}");
    println!("cargo:rustc-link-arg-bins=--no-pie");
    println!("cargo:rustc-link-arg-bins=--no-dynamic-linker");
    println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
    println!("cargo:rustc-link-arg-bins=-znorelro");
}
