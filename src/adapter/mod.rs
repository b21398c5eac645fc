//! Other crates' traits, each behind a feature of its own. There is no logic here that is not
//! theirs.

#[cfg(feature = "futures")]
pub mod futures;
#[cfg(feature = "pci_types")]
pub mod pci_types;
#[cfg(feature = "smoltcp")]
pub mod smoltcp;
