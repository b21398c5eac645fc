//! Links a plain static ELF at a fixed address, which firmware enters by its PVH note.

fn main() {
    println!("cargo:rerun-if-changed=../linker.ld");
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo names the package's folder");
    println!("cargo:rustc-link-arg-bins=-T{folder}/../linker.ld");
    println!("cargo:rustc-link-arg-bins=--no-pie");
    println!("cargo:rustc-link-arg-bins=--no-dynamic-linker");
    println!("cargo:rustc-link-arg-bins=-zmax-page-size=4096");
    println!("cargo:rustc-link-arg-bins=-znorelro");
}
