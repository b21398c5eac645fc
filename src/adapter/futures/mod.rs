//! Awaiting a device, on any executor: `core::future` and `core::task`, and no other crate.
//!
//! | awaited | with |
//! |---|---|
//! | a buffer's return, out of many in flight, by many tasks | [`Queue::submit`], [`InFlight`] |
//! | room in a queue | [`Queue::submit`], [`AsyncTransmitter::room`] |
//! | a received frame | [`AsyncReceiver::receive`] |
//! | that a frame is taken | [`AsyncTransmitter::transmit`] |
//! | a change of the configuration | [`ConfigChanges`], [`AsyncControl::config_change`] |
//!
//! ```text
//!    task ──poll──▶ look what came back ──nothing──▶ put waker down ──▶ arm ──▶ pending
//!     ▲                                                                 │ raced in: look again
//!     └──waker──── Notifier::wake ◀── interrupt handler ◀── device ◀────┘ or interrupt
//! ```
//!
//! # The handler
//!
//! A [`Notifier`] is all that an interrupt handler needs: [`wake`](Notifier::wake) is `Send + Sync`,
//! never waits, allocates or frees, and may come in between any two instructions. Each
//! thing that is awaited has one of its own. Where several share a vector or a line, the handler calls
//! them all: a call for nothing costs time only. A kernel without interrupts calls them from its
//! loop. `docs/async.md` has handlers at length.
//!
//! A wake-up is not lost: a task puts its waker down before it arms the queue, and arming tells
//! whether something came back meanwhile. So either the device sees that an interrupt is wanted, or
//! the task sees what the device did.
//!
//! # Who is woken
//!
//! The handler wakes all tasks that wait for the queue. The first that is polled takes back all
//! that has come, and has those polled whose buffers came back; the others go to sleep again.
//! That no single task is in charge is on purpose: one that was in charge and is slow, or whose
//! future is dropped, forgotten, or kept and not polled, would keep the others asleep.
//!
//! A device that is always ready keeps no executor busy: after 64 futures in a row that were, one lets
//! other tasks go first.
//!
//! # Drop and forget
//!
//! Every future may be dropped or forgotten at any time. Buffers are the queue's while they are with
//! the device, not the future's. A buffer whose [`InFlight`] is gone frees its slot when it comes
//! back, and is then [unclaimed](Queue::next_unclaimed). The futures of [`net`](crate::device::net)
//! hold nothing but a frame that was not taken, which goes [back](AsyncTransmitter::transmit).
//!
//! A queue that breaks ends all waiting with its [`Fault`](crate::virtqueue::Fault). Buffers that are
//! in it come back as ever, from a reset: see [`Queue::take`].
//!
//! # On several cores
//!
//! Everything is `Send` where buffers and platform are. A [`Queue`] is for tasks on any core; see
//! there for its lock. The parts of a split network driver share nothing: each goes into an
//! [`AsyncReceiver`], an [`AsyncTransmitter`] and an [`AsyncControl`] of a task of its own.
//!
//! # Example
//!
//! Two requests at once, answered in any order. The executor is one line: any will do.
//!
#![cfg_attr(feature = "test-util", doc = "```")]
#![cfg_attr(not(feature = "test-util"), doc = "```ignore")]
//! use core::future::Future;
//! use core::pin::pin;
//! use core::task::{Context, Poll, Waker};
//! use vring::adapter::futures::Queue;
//! use vring::buffer::Writable;
//! # use vring::features::{Feature, Wish};
//! # use vring::init::{self, QueueConfig};
//! # use vring::testing::{FakeDevice, InPlace};
//! # use vring::transport::{DeviceId, QueueIndex};
//! # use vring::virtqueue::Virtqueue;
//!
//! # const REQUESTS: QueueIndex = QueueIndex(0);
//! # let platform = InPlace::new();
//! # let device = FakeDevice::new(platform.bus(), DeviceId::ENTROPY)
//! #     .offer(Feature::VERSION_1 | Feature::EVENT_IDX);
//! # let mut negotiated =
//! #     init::reset(device.transport(), &platform).unwrap().negotiate(&Wish::default()).unwrap();
//! # let pending = negotiated.queue(REQUESTS, &QueueConfig::new(8)).unwrap();
//! # let live = negotiated.finish().unwrap();
//! # let virtqueue: Virtqueue<_, Writable<Vec<u8>>> = pending.start(&live).unwrap();
//! let queue = Queue::new(virtqueue);
//!
//! // What a kernel's interrupt handler does.
//! let notifier = queue.notifier();
//! let handler = move || notifier.wake();
//! # let served = std::cell::Cell::new(0);
//! # let run_device = || {
//! #     let before = device.interrupts();
//! #     served.set(served.get() + device.serve(REQUESTS, |queue, chain| queue.write(chain, b"noise")));
//! #     if device.interrupts() != before { handler() }
//! # };
//!
//! let work = async {
//!     // One notification for both, when this task goes to sleep.
//!     let first = queue.submit(Writable(vec![0; 8])).await.unwrap();
//!     let second = queue.submit(Writable(vec![0; 8])).await.unwrap();
//!     let second = second.await.unwrap();
//!     assert_eq!(second.written(), 5);
//!     first.await.unwrap().into_buf()
//! };
//! let mut work = pin!(work);
//! let mut cx = Context::from_waker(Waker::noop());
//! let Writable(bytes) = loop {
//!     match work.as_mut().poll(&mut cx) {
//!         Poll::Ready(buffer) => break buffer,
//!         Poll::Pending => run_device(),
//!     }
//! };
//! assert_eq!(bytes, b"noise\0\0\0");
//! # assert_eq!((served.get(), device.kicks(REQUESTS)), (2, 1));
//!
//! let (_, proof) = live.reset().unwrap();
//! let queue = queue.take().unwrap();
//! assert_eq!(queue.close(&proof).unwrap().count(), 0);
//! # platform.assert_no_leaks();
//! ```
//!
//! # What this does not do
//!
//! There is no executor, no timer, and no `Stream`: `poll_receive` makes one with the `poll_fn` of
//! any stream library (`docs/decisions/014-futures-without-a-crate.md` says why).

mod bell;
mod config;
mod finished;
mod later;
mod net;
#[cfg(all(test, vring_loom))]
mod ordering;
mod queue;
mod sleeper;
mod state;

pub use bell::Notifier;
pub use config::ConfigChanges;
pub use finished::{Finished, Unclaimed};
pub use net::{AsyncControl, AsyncReceiver, AsyncTransmitter, ReceiveError, Transmit};
pub use queue::{InFlight, Queue, Submit};
