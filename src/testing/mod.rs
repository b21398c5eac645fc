//! Test doubles: platforms that keep books, and a device that checks the driver.

mod books;
mod bus;
mod device;
mod hostile;
#[allow(unsafe_code)] // memory that driver and device share, and the platforms' contract
mod memory;
mod platform;
mod registers;
mod split;
mod table;
#[allow(unsafe_code)] // signs the contract of a transport
mod transport;
mod violation;

pub use books::{Counts, POISON};
pub use bus::{Bus, BusFault};
pub use device::{Event, FakeDevice, Generation, ResetAnswer};
pub use hostile::{HostileDevice, Move, Rng};
pub use platform::{Bounce, Bouncing, Direct, Discontiguous, Fake, InPlace, Kind, Pages};
pub use split::{Chain, Segment, SplitDevice, SplitOptions};
pub use transport::FakeTransport;
pub use violation::{Violation, Violations};
