//! [`smoltcp::phy::Device`] for the network driver.
//!
//! ```text
//!   receive() ─▶ (RxToken, TxToken)   the frame in its buffer, and a buffer for an answer
//!   transmit() ─▶ TxToken             a buffer
//! ```
//!
//! A token holds a buffer from the start, and one that is dropped unused puts it back. Buffers are
//! allocated once, and there is one more for transmission than the queue takes.
//!
//! `transmit()` gives a token only when there is room in the queue. `receive()` does not wait for
//! room: two hosts that received only while they can transmit could wait for each other for ever.
//! An answer that finds no room is dropped and [counted](Device::dropped), as it could be on any
//! wire.
//!
//! Receive buffers return to the device when their token is consumed, and the device is told when
//! [`BATCH`] have gathered, when there is nothing to receive, or when interrupts are armed. Frames
//! are announced one by one; with `VIRTIO_F_EVENT_IDX` the device says that most need not be.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use crate::buffer::Window;
use crate::device::net::{Control, Driver, Receiver, RefillError, RefillFailure, Transmitter};
use crate::platform::Platform;
use crate::transport::Transport;
use crate::virtqueue::{Fault, Reject};

/// Receive buffers that are given back to the device at once; half of a queue, if that is less.
pub const BATCH: u16 = 16;

type Memory = Box<[u8]>;

/// A network driver as smoltcp drives it.
#[derive(Debug)]
pub struct Device<P: Platform, T: Transport> {
    driver: Driver<P, T, Memory>,
    /// Receive buffers that the queue did not take; tried again.
    spare: Vec<Memory>,
    /// Receive buffers given back and not announced.
    unannounced: u16,
    /// Transmit buffers that are not with the device.
    pool: Vec<Memory>,
    frame_len: usize,
    dropped: u64,
    fault: Option<Fault>,
}

impl<P: Platform, T: Transport> Device<P, T> {
    /// Allocates buffers for both queues, and gives the receive buffers to the device.
    ///
    /// # Errors
    /// [`RefillError`], with one of the receive buffers, when the queue does not take it. The
    /// device has been reset then.
    pub fn new(mut driver: Driver<P, T, Memory>) -> Result<Self, RefillError<Memory>> {
        let (rx, tx, control) = driver.parts();
        let len = rx.buffer_len();
        // What is received may be longer than what the device's MTU lets go out.
        let longest = len.saturating_sub(rx.header_len());
        let frame_len = control.mtu().map_or(longest, |mtu| {
            longest.min(usize::from(mtu).saturating_add(14))
        });
        let fresh = || vec![0u8; len].into_boxed_slice();
        match rx.refill(&mut core::iter::repeat_with(fresh)) {
            Ok(_) => {}
            // A buffer that takes several descriptors finds too few at the end.
            Err(RefillError {
                taken: 1..,
                why: RefillFailure::Queue(Reject::Full { .. }),
                ..
            }) => {}
            Err(error) => return Err(error),
        }
        let pool = (0..=tx.size()).map(|_| fresh()).collect();
        let spare = Vec::with_capacity(usize::from(rx.size()));
        Ok(Self {
            driver,
            spare,
            unannounced: 0,
            pool,
            frame_len,
            dropped: 0,
            fault: None,
        })
    }

    /// The driver.
    #[must_use]
    pub fn driver(&mut self) -> &mut Driver<P, T, Memory> {
        &mut self.driver
    }

    /// Facts and interrupts.
    #[must_use]
    pub fn control(&mut self) -> &mut Control<P, T> {
        self.driver.control()
    }

    /// Takes the driver back; transmit buffers that are not with the device are dropped.
    #[must_use]
    pub fn into_driver(self) -> Driver<P, T, Memory> {
        self.driver
    }

    /// What the device did wrong, if it did: nothing is received or transmitted any more.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Frames that were not transmitted: answers that found no room in the queue, and what it
    /// refused.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Asks for interrupts; true when there is work already.
    #[must_use = "when work raced in, no interrupt may come"]
    pub fn arm(&mut self) -> bool {
        self.refill();
        self.announce();
        let (rx, tx, _) = self.driver.parts();
        // Frames that went out are of interest only to who waits for room.
        let reclaim = !tx.has_room() && tx.arm();
        // When the device has no receive buffer at all, nothing would come.
        rx.arm() || reclaim || rx.outstanding() == 0
    }

    /// Asks for no interrupts.
    pub fn disarm(&mut self) {
        let (rx, tx, _) = self.driver.parts();
        rx.disarm();
        tx.disarm();
    }

    /// Takes back the buffers of frames that went out.
    fn reclaim(&mut self) {
        let pool = &mut self.pool;
        if let Err(fault) = self.driver.tx().reclaim(|memory| pool.push(memory)) {
            self.fault = Some(fault);
        }
    }

    /// Gives the device the receive buffers that its queue did not take before.
    fn refill(&mut self) {
        recycle(self.driver.rx(), &mut self.spare, &mut self.unannounced);
    }

    /// Tells the device of receive buffers that it was given.
    fn announce(&mut self) {
        if core::mem::take(&mut self.unannounced) != 0 {
            self.driver.rx().kick();
        }
    }

    /// A buffer for a frame, which there is always but for those that a panicking user lost.
    fn tx_buffer(&mut self) -> Option<Memory> {
        if self.pool.is_empty() || !self.driver.tx().has_room() {
            self.reclaim();
        }
        self.pool.pop()
    }
}

/// Gives spare buffers back to the device; those that it does not take stay for the next time.
fn recycle<P: Platform>(
    rx: &mut Receiver<P, Memory>,
    spare: &mut Vec<Memory>,
    unannounced: &mut u16,
) {
    let given = match rx.give_burst(&mut core::iter::from_fn(|| spare.pop())) {
        Ok(given) => given,
        Err(error) => {
            spare.push(error.buffer);
            error.taken
        }
    };
    // No queue has more.
    *unannounced = unannounced.saturating_add(given as u16);
    if *unannounced >= BATCH.min(rx.size() / 2) {
        rx.kick();
        *unannounced = 0;
    }
}

/// A received frame.
#[derive(Debug)]
pub struct RxToken<'a, P: Platform> {
    frame: Option<Window<Memory>>,
    rx: &'a mut Receiver<P, Memory>,
    spare: &'a mut Vec<Memory>,
    unannounced: &'a mut u16,
}

impl<P: Platform> phy::RxToken for RxToken<'_, P> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.frame.as_ref().map_or(&[], Window::as_slice))
    }
}

impl<P: Platform> Drop for RxToken<'_, P> {
    fn drop(&mut self) {
        if let Some(frame) = self.frame.take() {
            self.spare.push(frame.into_memory());
            recycle(self.rx, self.spare, self.unannounced);
        }
    }
}

/// The right to transmit one frame.
#[derive(Debug)]
pub struct TxToken<'a, P: Platform> {
    memory: Option<Memory>,
    tx: &'a mut Transmitter<P, Memory>,
    pool: &'a mut Vec<Memory>,
    dropped: &'a mut u64,
}

impl<P: Platform> phy::TxToken for TxToken<'_, P> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(mut self, len: usize, f: F) -> R {
        let memory = self.memory.take().unwrap_or_default();
        let mut frame = Window::new(memory, self.tx.header_len(), len);
        let result = f(frame.as_mut_slice());
        match self.tx.transmit(frame) {
            Ok(()) => self.tx.kick(),
            Err(error) => {
                log::debug!("a frame was dropped: {error}");
                *self.dropped = self.dropped.wrapping_add(1);
                self.memory = Some(error.frame.into_memory());
            }
        }
        result
    }
}

impl<P: Platform> Drop for TxToken<'_, P> {
    fn drop(&mut self) {
        self.pool.extend(self.memory.take());
    }
}

impl<P: Platform, T: Transport> phy::Device for Device<P, T> {
    type RxToken<'a>
        = RxToken<'a, P>
    where
        Self: 'a;
    type TxToken<'a>
        = TxToken<'a, P>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_, P>, TxToken<'_, P>)> {
        self.refill();
        let memory = self.tx_buffer()?;
        let received = self.driver.rx().receive();
        let frame = match received {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(_) => {
                self.fault = received.err().or(self.fault);
                self.pool.push(memory);
                self.announce();
                return None;
            }
        };
        let (rx, tx, _) = self.driver.parts();
        let (spare, unannounced) = (&mut self.spare, &mut self.unannounced);
        let rx = RxToken {
            frame: Some(frame),
            rx,
            spare,
            unannounced,
        };
        let tx = TxToken {
            memory: Some(memory),
            tx,
            pool: &mut self.pool,
            dropped: &mut self.dropped,
        };
        Some((rx, tx))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_, P>> {
        let memory = self.tx_buffer()?;
        let tx = self.driver.tx();
        if !tx.has_room() {
            self.pool.push(memory);
            return None;
        }
        Some(TxToken {
            memory: Some(memory),
            tx,
            pool: &mut self.pool,
            dropped: &mut self.dropped,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.frame_len;
        capabilities
    }
}
