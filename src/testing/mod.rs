//! Test doubles: platforms that keep books, and a device that checks the driver.

mod books;
mod bus;
#[allow(unsafe_code)] // memory that driver and device share, and the platforms' contract
mod memory;
mod platform;
mod split;
mod table;
mod violation;

pub use books::{Counts, POISON};
pub use bus::{Bus, BusFault};
pub use platform::{Bounce, Bouncing, Direct, Discontiguous, Fake, InPlace, Kind, Pages};
pub use split::{Chain, Segment, SplitDevice, SplitOptions};
pub use violation::{Violation, Violations};
