//! Everything a person runs.
mod qemu;
fn main() {
    if qemu::init::is_init() { qemu::init::main(); }
    qemu::rig();
}
