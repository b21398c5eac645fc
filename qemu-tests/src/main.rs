//! The guest kernel.
fn main() {}
