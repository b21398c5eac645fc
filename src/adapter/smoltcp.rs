//! [`smoltcp::phy::Device`] for the network driver.
//!
//! ```text
//!   receive() ─▶ (RxToken, TxToken)   the frame in its buffer, and a buffer for an answer
//!   transmit() ─▶ TxToken             a buffer
//! ```
//!
//! A token holds what it needs from the start, so that consuming one cannot fail: a buffer, and
//! room in the transmit queue. One that is dropped unused puts its buffer back. Buffers are
//! allocated once.
//!
//! Receive buffers return to the device when their token is consumed, and the device is told when
//! [`BATCH`] have gathered or when there is nothing to receive. Frames are announced one by one;
//! with `VIRTIO_F_EVENT_IDX` the device says that most need not be.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use crate::buffer::Window;
use crate::device::net::{Control, Driver, Receiver, RefillError, Transmitter};
use crate::platform::Platform;
use crate::transport::Transport;
use crate::virtqueue::Fault;

/// Receive buffers that are given back to the device at once.
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
        rx.refill(&mut core::iter::repeat_with(fresh))?;
        let pool = (0..tx.size()).map(|_| fresh()).collect();
        let spare = Vec::with_capacity(usize::from(rx.size()));
        Ok(Self {
            driver,
            spare,
            unannounced: 0,
            pool,
            frame_len,
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

    /// Asks for interrupts; true when there is work already.
    #[must_use = "when work raced in, no interrupt may come"]
    pub fn arm(&mut self) -> bool {
        let starved = self.pool.is_empty();
        let (rx, tx, _) = self.driver.parts();
        // Frames that went out are of interest only to who waits for a buffer.
        let reclaim = starved && tx.arm();
        rx.arm() || reclaim
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

    /// A buffer and room for a frame.
    fn tx_token(&mut self) -> Option<Memory> {
        if self.pool.is_empty() || !self.driver.tx().has_room() {
            self.reclaim();
        }
        if self.driver.tx().has_room() {
            self.pool.pop()
        } else {
            None
        }
    }
}

/// Gives a buffer back to the device, or keeps it for the next time.
fn recycle<P: Platform>(
    rx: &mut Receiver<P, Memory>,
    spare: &mut Vec<Memory>,
    unannounced: &mut u16,
    memory: Memory,
) {
    for memory in core::iter::once(memory).chain(core::mem::take(spare)) {
        match rx.give(memory) {
            Ok(()) => *unannounced = unannounced.saturating_add(1),
            Err((memory, _)) => spare.push(memory),
        }
    }
    if *unannounced >= BATCH {
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
            recycle(self.rx, self.spare, self.unannounced, frame.into_memory());
        }
    }
}

/// The right to transmit one frame.
#[derive(Debug)]
pub struct TxToken<'a, P: Platform> {
    memory: Option<Memory>,
    tx: &'a mut Transmitter<P, Memory>,
    pool: &'a mut Vec<Memory>,
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
        let memory = self.tx_token()?;
        let received = self.driver.rx().receive();
        let frame = match received {
            Ok(Some(frame)) => frame,
            Ok(None) | Err(_) => {
                self.fault = received.err().or(self.fault);
                self.pool.push(memory);
                let rx = self.driver.rx();
                if core::mem::take(&mut self.unannounced) != 0 {
                    rx.kick();
                }
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
        };
        Some((rx, tx))
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_, P>> {
        let memory = self.tx_token()?;
        let tx = self.driver.tx();
        Some(TxToken {
            memory: Some(memory),
            tx,
            pool: &mut self.pool,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.frame_len;
        capabilities
    }
}
