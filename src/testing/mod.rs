//! Test doubles: platforms that keep books, and a device that checks the driver.

mod bus;
#[allow(unsafe_code)] // memory that driver and device share, and the platforms' contract
mod memory;
mod platform;
mod table;
mod violation;

pub use bus::{Bus, BusFault, Counts, POISON};
pub use platform::{Bounce, Bouncing, Direct, Discontiguous, Fake, InPlace, Kind, Pages};
pub use violation::{Violation, Violations};
