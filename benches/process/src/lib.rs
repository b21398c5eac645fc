//! Benchmarks of vring and its peers in one process: what is common to the programs.
//!
//! Two programs print one JSON object a line (see [`line`](crate::line)), for `cargo xtask bench`:
//!
//! - `rounds` runs one driver's rounds, submit, kick, used by the device, reap, for callgrind to
//!   count; `rounds --list` says which there are and how they are run.
//! - `threads` takes times: of one thread, and of two, with the device on the other core.
//!
//! From the bottom up: [`item`] is the memory that is handed in, [`driver`] the drivers behind one
//! trait, [`device`] the smallest device that works, [`roster`] who takes part in which case,
//! [`check`] shows that a driver's chains are right before it is timed, [`machine`] and
//! [`verdict`] say which samples count, and [`court`] is where two threads meet.

pub mod check;
pub mod court;
pub mod device;
pub mod driver;
pub mod item;
pub mod line;
pub mod machine;
pub mod roster;
pub mod verdict;
