//! Test doubles, for this crate's tests and for yours: platforms that keep books, a device that
//! checks the driver, and one that lies to it. Feature `test-util`; `no_std` with a heap.
//!
//! ```text
//!   driver under test                                     the test
//!   ┌──────────────┐  FakeTransport    ┌────────────┐   status, features, configuration, resets
//!   │ init, device │ ────────────────▶ │ FakeDevice │ ◀── scripted and recorded
//!   ├──────────────┤  ring memory      ├────────────┤
//!   │  Virtqueue   │ ◀───────────────▶ │QueueDevice │ ◀── pop, read, write, push in any order
//!   ├──────────────┤  alloc, map       ├────────────┤     (or HostileDevice: lies by seed)
//!   │   Platform   │ ────────────────▶ │    Bus     │ ◀── leaks, faults, bounce space
//!   └──────────────┘                   └────────────┘
//! ```
//!
//! # Which platform
//!
//! | | buffers | unmapped | catches |
//! |---|---|---|---|
//! | [`InPlace`] | where they are | never (`DIRECT`) | what needs no map, and must not need one |
//! | [`Bouncing`] | copied | yes | wrong directions, bytes taken beyond what was used, late writes |
//! | [`Discontiguous`] | where they are, in pieces | yes | buffers that cross a page |
//!
//! Run each test on all three. They hand out bus addresses that are not pointers, above 4 GiB,
//! never twice, with gaps between them; a truncated, stale or overrun address is a trap. Whatever
//! breaks the contract of [`Platform`](crate::platform::Platform) panics where it happens, and
//! [`assert_no_leaks`](Fake::assert_no_leaks) ends a test. To fail the `n`th map or
//! allocation, or to cut waiting short, is one call: [`fail_nth_map`](Fake::fail_nth_map),
//! [`fail_nth_alloc`](Fake::fail_nth_alloc), [`set_patience`](Fake::set_patience).
//!
//! # A test for a driver of your own
//!
//! A driver takes a [`Transport`](crate::transport::Transport) and a platform; a test gives it
//! [`FakeDevice::transport`] and one of these. The device answers when the test calls it, or by
//! itself at each kick ([`FakeDevice::on_kick`]), or while the driver waits ([`Fake::on_wait`]), or
//! from a thread ([`FakeDevice::take_queue`]).
//!
//! ```
//! use vring::buffer::Writable;
//! use vring::features::{Feature, Wish};
//! use vring::init::{self, QueueConfig};
//! use vring::platform::Platform;
//! use vring::testing::{Bouncing, Bus, Discontiguous, FakeDevice, InPlace};
//! use vring::transport::{DeviceId, QueueIndex};
//!
//! const REQUESTS: QueueIndex = QueueIndex(0);
//!
//! /// The driver under test: asks an entropy device for eight bytes.
//! fn eight_bytes<P: Platform>(device: &FakeDevice, platform: &P) -> Option<Vec<u8>> {
//!     let mut negotiated =
//!         init::reset(device.transport(), platform).ok()?.negotiate(&Wish::default()).ok()?;
//!     let pending = negotiated.queue(REQUESTS, &QueueConfig::new(4)).ok()?;
//!     let live = negotiated.finish().ok()?;
//!     let mut queue = pending.start(&live).ok()?;
//!     queue.submit(Writable(vec![0; 8])).ok()?;
//!     queue.kick();
//!     let done = queue.next_completion().ok()??;
//!     let len = done.written() as usize;
//!     let mut bytes = done.into_buf().0;
//!     bytes.truncate(len);
//!     let (_, proof) = live.reset().ok()?;
//!     drop(queue.close(&proof).ok()?);
//!     Some(bytes)
//! }
//!
//! fn test<P: Platform>(platform: &P, bus: &Bus) {
//!     let device = FakeDevice::new(bus, DeviceId::ENTROPY)
//!         .offer(Feature::VERSION_1 | Feature::EVENT_IDX);
//!     // It is asked for eight bytes, and has five.
//!     device.on_kick(|device, queue| {
//!         device.serve(queue, |queue, chain| queue.write(chain, b"noise"));
//!     });
//!     assert_eq!(eight_bytes(&device, platform).unwrap(), b"noise");
//!     device.assert_clean();
//! }
//!
//! let platform = InPlace::new();
//! test(&platform, platform.bus());
//! platform.assert_no_leaks();
//! let platform = Bouncing::new();
//! test(&platform, platform.bus());
//! platform.assert_no_leaks();
//! let platform = Discontiguous::new(4096);
//! test(&platform, platform.bus());
//! platform.assert_no_leaks();
//! ```
//!
//! # What is checked
//!
//! A [`Violation`] has an id. `ST`, `FE`, `LC`, `CF`, `SP` and `PK` are the driver requirements of
//! VIRTIO 1.4 on status (2.1), features (2.2, 6), the life of a device (2.4, 3), the reset of a queue
//! (2.6), the split ring (2.7) and the packed ring (2.8); `PCI` those on what a doorbell carries
//! (4.1.5.2); with an `L` in the number they are those of the legacy interface, which a
//! [`FakeDevice::legacy`] has; `bug-` is what other drivers got wrong. A log is strict: it panics in the driver's call.
//! [`Violations::set_lenient`] makes it collect instead, which suits tests of a driver that has to
//! survive rather than to please.
//!
//! # Registers
//!
//! [`FakeMmio`] puts the registers of MMIO in front of a [`FakeDevice`]: a driver then reaches it
//! through the crate's own [`MmioTransport`](crate::transport::mmio::MmioTransport), and each access
//! is checked (`MM`: 4.2) and recorded.
//!
//! # A device that lies
//!
//! [`HostileDevice`] plays a script of [`Move`]s, or makes them up from a seed, always the same.
//! [`FakeDevice::hostile`] does that to registers and configuration. After a lie the promises to
//! test for are: no panic, no endless loop, each buffer comes back once, nothing leaks after a
//! confirmed reset. On [`InPlace`], a device that has lied touches no buffers any more: there, only
//! the device's honesty says when a buffer is the driver's again.
//!
//! What this module does not do: what a particular type of device does with its requests.

mod books;
mod bus;
mod device;
mod hostile;
#[allow(unsafe_code)] // memory that driver and device share, and the platforms' contract
mod memory;
#[allow(unsafe_code)] // addresses that stand for registers, and the contract of a transport
mod mmio;
mod packed;
mod platform;
mod queue;
mod registers;
mod split;
mod table;
#[allow(unsafe_code)] // signs the contract of a transport
mod transport;
mod violation;

pub use books::{Counts, POISON};
pub use bus::{Bus, BusFault};
pub use device::{Event, FakeDevice, Generation, Legacy, ResetAnswer, SuspendAnswer};
pub use hostile::{HostileDevice, Move, Rng};
pub use mmio::{FakeMmio, MmioAccess};
pub use platform::{Bounce, Bouncing, Direct, Discontiguous, Fake, InPlace, Kind, Pages};
pub use queue::{Chain, QueueDevice, QueueOptions, Segment};
pub use transport::FakeTransport;
pub use violation::{Violation, Violations};
