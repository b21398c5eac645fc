//! Guest-side virtio for kernels, unikernels and firmware: rings, transports, drivers.
//!
//! # The promise
//!
//! 1. **Whatever the device does, the crate does not panic, does not run for ever, and does not
//!    cause undefined behavior.** The worst a device can do is cause an error, lost data, or memory
//!    that is leaked on purpose. A device that writes memory it was not lent, or that it has
//!    already returned, is beyond this, unless the [`Platform`] bounces or an IOMMU unmaps.
//! 2. **Every safe function is sound** under drop, [`mem::forget`](core::mem::forget), and any mix
//!    of calls.
//! 3. **Nothing is lost silently.** A buffer that was handed in comes back: with the completion,
//!    with the error, or from the reset.
//! 4. **The data path is bare.** No heap, no lock, no search; one release store publishes a batch,
//!    one full fence decides whether to kick, one kick is one store; no register is read.
//! 5. **Trusted are the [`Platform`], the [`DmaBuf`](buffer::DmaBuf) and
//!    [`Transport`](transport::Transport) implementations, and the registers that a transport is
//!    given, with the way they are reached.** Nothing else is, and all of it takes `unsafe`.
//!
//! # Sixty seconds
//!
//! A device is reached through a [`transport`], brought up by [`init`] (or by a driver, which
//! calls it), and moves buffers through [`virtqueue`]s, whose private bookkeeping and shared
//! memory are the [`ring`]'s. Drivers are in [`device`], bridges to other crates in [`adapter`].
//!
//! ```text
//!  adapter ──▶ device ──▶ init ──▶ transport (trait) ◀── transport::{pci, mmio}
//!                │          │
//!                ▼          ▼
//!            virtqueue ──▶ ring ──▶ memory that the device shares
//!                │
//!                ▼
//!          buffer, platform
//! ```
//!
//! A kernel brings three things: a [`Platform`] (memory and addresses), a
//! [way to read PCI configuration](transport::pci::ConfigAccess) with a closure that maps device
//! registers (or, [over MMIO](transport::mmio), the registers themselves), and a call from its main
//! loop or interrupt handler. The README has them on a page.
//!
//! # A queue
//!
//! A buffer goes in by value and comes out with the number of bytes that the device wrote. The
//! device here is [`testing::FakeDevice`](crate::testing), which checks the driver's every move.
//!
#![cfg_attr(feature = "test-util", doc = "```")]
#![cfg_attr(not(feature = "test-util"), doc = "```ignore")]
//! use vring::buffer::{Readable, Writable};
//! use vring::features::{Feature, Wish};
//! use vring::init::{self, QueueConfig};
//! use vring::testing::{FakeDevice, InPlace};
//! use vring::transport::{DeviceId, QueueIndex};
//! use vring::virtqueue::Virtqueue;
//!
//! let platform = InPlace::new();
//! let device = FakeDevice::new(platform.bus(), DeviceId::ENTROPY).offer(Feature::VERSION_1);
//!
//! let reset = init::reset(device.transport(), &platform).unwrap();
//! let mut negotiated = reset.negotiate(&Wish::default()).unwrap();
//! let pending = negotiated.queue(QueueIndex(0), &QueueConfig::new(64)).unwrap();
//! let live = negotiated.finish().unwrap();
//! let mut queue: Virtqueue<_, (Readable<Vec<u8>>, Writable<Vec<u8>>)> =
//!     pending.start(&live).unwrap();
//!
//! queue.submit((Readable(b"hello".to_vec()), Writable(vec![0; 16]))).unwrap();
//! queue.kick();
//! device.echo(QueueIndex(0)); // what a real device does on its own
//!
//! let done = queue.next_completion().unwrap().unwrap();
//! assert_eq!(done.written(), 5);
//! let (Readable(_), Writable(answer)) = done.into_buf();
//! assert_eq!(&answer[..5], b"hello");
//!
//! let (_transport, proof) = live.reset().unwrap();
//! assert_eq!(queue.close(&proof).unwrap().count(), 0); // nothing was left in it
//! device.assert_clean();
//! ```
//!
//! # A network card
//!
#![cfg_attr(feature = "test-util", doc = "```")]
#![cfg_attr(not(feature = "test-util"), doc = "```ignore")]
//! use vring::buffer::Window;
//! use vring::device::net;
//! use vring::features::Feature;
//! use vring::testing::{FakeDevice, InPlace};
//! use vring::transport::DeviceId;
//!
//! let platform = InPlace::new();
//! let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
//!     .offer(Feature::VERSION_1 | net::F::MAC)
//!     .queues(&[256, 256])
//!     .config(&[0x52, 0x54, 0, 1, 2, 3]);
//!
//! let options = net::Options::default();
//! let mut driver = net::Driver::new(platform.clone(), device.transport(), options).unwrap();
//! assert_eq!(driver.control().mac(), Some([0x52, 0x54, 0, 1, 2, 3]));
//!
//! let (rx, tx, _) = driver.parts();
//! let len = rx.buffer_len();
//! rx.refill(&mut core::iter::repeat_with(|| vec![0; len].into_boxed_slice())).unwrap();
//!
//! // 60 bytes of frame behind 12 of headroom: one descriptor.
//! let frame = Window::new(vec![0u8; 72].into_boxed_slice(), tx.header_len(), 60);
//! tx.transmit(frame).unwrap();
//! tx.kick();
//! device.echo(net::TRANSMIT_QUEUE);
//! assert_eq!(tx.reclaim(|buffer| assert_eq!(buffer.len(), 72)).unwrap(), 1);
//! assert!(rx.receive().unwrap().is_none());
//!
//! let mut back = 0;
//! driver.shutdown(|_, _| back += 1).unwrap();
//! assert_eq!(back, 256);
//! platform.assert_no_leaks();
//! ```
//!
//! # A device that lies
//!
#![cfg_attr(feature = "test-util", doc = "```")]
#![cfg_attr(not(feature = "test-util"), doc = "```ignore")]
//! # use vring::buffer::Writable;
//! # use vring::features::{Feature, Wish};
//! # use vring::init::{self, QueueConfig};
//! # use vring::testing::{FakeDevice, InPlace};
//! # use vring::transport::{DeviceId, QueueIndex};
//! # use vring::virtqueue::{Fault, Virtqueue};
//! # let platform = InPlace::new();
//! # let device = FakeDevice::new(platform.bus(), DeviceId::ENTROPY).offer(Feature::VERSION_1);
//! # let reset = init::reset(device.transport(), &platform).unwrap();
//! # let mut negotiated = reset.negotiate(&Wish::default()).unwrap();
//! # let pending = negotiated.queue(QueueIndex(0), &QueueConfig::new(64)).unwrap();
//! # let live = negotiated.finish().unwrap();
//! # let mut queue: Virtqueue<_, Writable<Vec<u8>>> = pending.start(&live).unwrap();
//! queue.submit(Writable(vec![0; 16])).unwrap();
//! queue.kick();
//! device.with_queue(QueueIndex(0), |queue| queue.forge_used(7, 0)); // nobody sent it 7
//!
//! assert_eq!(queue.next_completion().unwrap_err(), Fault::UsedIdNotInFlight { id: 7 });
//! assert!(queue.submit(Writable(vec![0; 16])).is_err()); // broken until a reset
//! let (_transport, proof) = live.reset().unwrap();
//! assert_eq!(queue.close(&proof).unwrap().count(), 1); // the buffer is back
//! ```
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `alloc` | private state on the heap, `Driver::split`; without it the caller lends storage |
//! | `futures` | [awaiting](adapter) queues, frames, room and configuration changes, on any executor |
//! | `pci_types` | [`pci_types::ConfigRegionAccess`](adapter) as access to PCI configuration |
//! | `smoltcp` | [`smoltcp::phy::Device`](adapter) for the network driver |
//! | `test-util` | fake platforms and devices, for this crate's tests and for yours |
//!
//! None is on by default. The crate never uses `std`.
#![no_std]
#![deny(unsafe_code)]
// One ring of two is left out, and with it what only that one uses: see `ring::core::AnyFormat`.
#![cfg_attr(
    any(vring_ring = "split", vring_ring = "packed"),
    allow(unused_imports, dead_code)
)]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::panic,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::unreachable
    )
)]

#[cfg(any(feature = "alloc", test, vring_loom))]
extern crate alloc;
#[cfg(test)]
extern crate std;

#[allow(unsafe_code)] // declares the contract that a platform signs
pub mod platform;

#[allow(unsafe_code)] // names memory that is lent to a device
pub mod buffer;

#[allow(unsafe_code)] // everything that a platform is asked to do
mod dma;

#[allow(unsafe_code)] // the only accessors of memory that a device also touches
mod shared;
mod sync;

#[allow(unsafe_code)] // every load and store of a device register
mod mmio;

pub mod adapter;
pub mod device;
pub mod features;
pub mod init;
pub mod ring;
#[cfg(any(feature = "test-util", test))]
// A fake that cannot go on panics, and says what the driver did wrong: that is what it is for.
#[allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::unreachable
)]
pub mod testing;
#[allow(unsafe_code)] // declares the contract that a transport signs
pub mod transport;
pub mod virtqueue;

pub use dma::DmaRegion;
pub use platform::{DmaAddr, Platform};

/// The README's examples compile.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

/// So do those of the guides.
#[cfg(all(doctest, feature = "test-util", feature = "futures"))]
#[doc = include_str!("../docs/async.md")]
mod async_guide {}

/// Likewise.
#[cfg(all(doctest, feature = "test-util"))]
#[doc = include_str!("../docs/porting.md")]
#[doc = include_str!("../docs/drivers.md")]
mod guides {}
