//! Times, of one thread and of two.
fn main() {}
