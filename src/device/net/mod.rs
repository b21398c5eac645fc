//! The network driver (VIRTIO 1.4, 5.1).
//!
//! ```text
//!              ┌─ Receiver      refill ─▶ device ─▶ receive     frames in their buffers
//!   Driver ────┼─ Transmitter   transmit ─▶ device ─▶ reclaim   buffers, when the device is done
//!              └─ Control       MAC, MTU, link state, interrupts, reset
//! ```
//!
//! The driver owns no packet memory: receive buffers are given to it, transmit buffers pass through
//! it, and all that has not come back comes back from [`shutdown`](Driver::shutdown). Any memory
//! does that is [`StableBytesMut`]: `Box<[u8]>`, `&'static mut [u8]`, a kernel's own page type.
//!
//! It offloads nothing: the header in front of each frame is all zero. It never waits but for a
//! reset, and kicks only when it is told to. [`Driver::split`] makes three parts of it that share
//! nothing on the data path, one for each core that wants one.
//!
//! # In bursts
//!
//! Frames that come and go several at a time cost least with
//! [`receive_burst`](Receiver::receive_burst), [`transmit_burst`](Transmitter::transmit_burst) and
//! [`give_burst`](Receiver::give_burst). A burst takes what there is room for and leaves the rest
//! in the iterator. Buffers of frames that went out are taken back by
//! [`make_room`](Transmitter::make_room), when the queue is short of room and not before: on most
//! rounds nothing that the device wrote is read.
//!
#![cfg_attr(feature = "test-util", doc = "```")]
#![cfg_attr(not(feature = "test-util"), doc = "```ignore")]
//! # use std::collections::VecDeque;
//! # use vring::device::net;
//! # use vring::features::Feature;
//! # use vring::testing::{FakeDevice, InPlace};
//! # use vring::transport::DeviceId;
//! # let platform = InPlace::new();
//! # let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
//! #     .offer(Feature::VERSION_1).queues(&[256, 256]);
//! # let options = net::Options::default();
//! # let mut driver = net::Driver::new(platform.clone(), device.transport(), options).unwrap();
//! # let (rx, tx, _) = driver.parts();
//! # let len = rx.buffer_len();
//! # let mut blocks: Vec<Box<[u8]>> = (0..256).map(|_| vec![0; len].into()).collect();
//! # rx.refill(&mut core::iter::from_fn(|| blocks.pop())).unwrap();
//! # device.serve(net::RECEIVE_QUEUE, |queue, chain| queue.write(chain, &[0; 72]));
//! # let mut out = VecDeque::new();
//! // Everything that came goes back to where it came from.
//! let came = rx.receive_burst(|frame| out.push_back(frame)).unwrap();
//! tx.make_room(came as u16, |block| blocks.push(block)).unwrap();
//! tx.transmit_burst(&mut core::iter::from_fn(|| out.pop_front())).unwrap();
//! tx.kick();
//! rx.refill(&mut core::iter::from_fn(|| blocks.pop())).unwrap();
//! # assert_eq!((came, device.echo(net::TRANSMIT_QUEUE)), (256, 256));
//! # assert_eq!(tx.make_room(256, |block| blocks.push(block)), Ok(256));
//! # assert_eq!(blocks.len(), 256);
//! ```
//!
//! Buffers whose place is yours to choose begin best [`header_len`] bytes before a cache line and an
//! odd number of lines apart: then the frame has lines of its own, which stay with the device when
//! the driver looks at the header, and buffers do not compete for few sets of the cache. A loop over
//! DPDK's vhost port became a quarter faster with a packed ring, and a twentieth with a split one.
//!
//! A device that is known to poll, such as DPDK's, has to be told nothing: with
//! [`give_burst`](Receiver::give_burst) and `publish` in place of `refill` and `kick` a round has
//! no fence and no doorbell. Any other device may sleep, and only a `kick` asks whether it does.
//! The two mix: a kick makes up for all that was only published before.
//!
//! # Legacy devices
//!
//! The driver takes them, too. Their header has 10 bytes, and where they do not offer
//! `VIRTIO_F_ANY_LAYOUT`, it is a descriptor of its own, so that queues hold half as many frames.
//! Both cost time: frames go one by one, also in bursts.
//!
//! # When something goes wrong
//!
//! A queue that the device breaks says so with a [`Fault`], and leaves the
//! other one alone. [`Control::restart_receive`] and [`Control::restart_transmit`] set it up anew, of
//! any size, where the device offers `VIRTIO_F_RING_RESET`. A device that asks for a reset
//! ([`Control::check`]) may keep its buffers for ever: [`Driver::recover`] resets it, starts it again
//! with the same options, and lets you send again what was on its way. Where the device offers
//! `VIRTIO_F_SUSPEND`, [`Driver::suspend`] has it rest.

#[cfg(feature = "alloc")]
mod halves;
mod recover;
mod rx;
mod start;
mod suspend;
mod tx;
mod wire;

#[cfg(test)]
mod tests;

use core::fmt;

use crate::buffer::{DmaBuf, Readable, StableBytesMut, Window, Writable};
use crate::dma::{Home, Lent};
use crate::features::Features;
use crate::init::{InitFailure, Leaked, Live};
use crate::platform::Platform;
use crate::transport::{Isr, QueueIndex, Transport, TransportError, config};
use crate::virtqueue::{Closed, Fault, QueueStorage, Withdrawn};

#[cfg(feature = "alloc")]
pub use halves::{ControlHalf, ReceiverHalf, TransmitterHalf};
pub use recover::{RecoverError, Recovery};
pub use rx::{Receiver, RefillError, RefillFailure};
pub use suspend::{SuspendError, Suspended};
pub use tx::{TransmitBurstError, TransmitError, TransmitFailure, Transmitter};
pub use wire::{F, Header, SUPPORTED, header_len};

use start::queue_configs;

/// `receiveq1` (VIRTIO 1.4, 5.1.2).
pub const RECEIVE_QUEUE: QueueIndex = QueueIndex(0);
/// `transmitq1` (VIRTIO 1.4, 5.1.2).
pub const TRANSMIT_QUEUE: QueueIndex = QueueIndex(1);

/// Descriptors of an indirect table for a frame.
const FRAME_PIECES: u16 = 8;

/// What a driver is to be.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Options {
    /// Descriptors of the receive queue, at most; where the device
    /// [fixes](Transport::is_queue_size_fixed) the size, the queue has that one.
    pub receive_size: u16,
    /// Descriptors of the transmit queue, at most; the same holds.
    pub transmit_size: u16,
    /// Features to accept where they are offered. Of those that are not in [`SUPPORTED`], none is.
    pub want: Features,
    /// Features without which not to start.
    pub require: Features,
    /// Features not to accept.
    pub refuse: Features,
    /// Whether the transmit queue has indirect tables, where `VIRTIO_F_INDIRECT_DESC` is accepted:
    /// a frame in several pieces then takes one descriptor of the ring (VIRTIO 1.4, 2.7.5.3).
    pub indirect: bool,
    /// Interrupt vector of the receive queue.
    pub receive_vector: Option<u16>,
    /// Interrupt vector of the transmit queue.
    pub transmit_vector: Option<u16>,
    /// Interrupt vector of configuration changes.
    pub config_vector: Option<u16>,
}

impl Default for Options {
    /// Queues of 256, every feature that the driver implements, indirect tables, no interrupt
    /// vectors.
    fn default() -> Self {
        Self {
            receive_size: 256,
            transmit_size: 256,
            want: SUPPORTED,
            require: Features::EMPTY,
            refuse: Features::EMPTY,
            indirect: true,
            receive_vector: None,
            transmit_vector: None,
            config_vector: None,
        }
    }
}

/// Private state that the caller lends to a driver, for kernels without a heap.
#[derive(Debug)]
pub struct Storage<M: 'static> {
    /// For the receive queue.
    pub receive: QueueStorage<Writable<M>>,
    /// For the transmit queue: eight mappings per slot, where there are any.
    pub transmit: QueueStorage<Readable<Window<M>>>,
}

/// Facts about the device and the way to reset it.
pub struct Control<P: Platform, T: Transport> {
    live: Live<P, T>,
    facts: Facts,
}

/// What a driver was told, by its user and by the device.
#[derive(Clone, Copy, Debug)]
struct Facts {
    options: Options,
    mac: Option<[u8; 6]>,
    mtu: Option<u16>,
}

impl<P: Platform, T: Transport> Control<P, T> {
    /// The device's MAC address; `None` when it has none, and the kernel has to choose a locally
    /// administered one (VIRTIO 1.4, 5.1.4.2).
    #[must_use]
    pub fn mac(&self) -> Option<[u8; 6]> {
        self.facts.mac
    }

    /// The longest packet in bytes, without its Ethernet header, where the device says.
    #[must_use]
    pub fn mtu(&self) -> Option<u16> {
        self.facts.mtu
    }

    /// The features that both sides use.
    #[must_use]
    pub fn features(&self) -> Features {
        self.live.features()
    }

    /// The features that the device offered.
    #[must_use]
    pub fn offered(&self) -> Features {
        self.live.offered()
    }

    /// The features that the device offered and that are not used.
    #[must_use]
    pub fn refused(&self) -> Features {
        self.live.refused()
    }

    /// What the driver was made with, but for sizes that were changed since.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.facts.options
    }

    /// The device.
    #[must_use]
    pub fn live(&self) -> &Live<P, T> {
        &self.live
    }

    /// Whether the link is up; a device that does not say has it up.
    ///
    /// # Errors
    /// [`TransportError`], when the configuration cannot be read.
    pub fn link_up(&self) -> Result<bool, TransportError> {
        if !self.features().has(F::STATUS) {
            return Ok(true);
        }
        let live = &self.live;
        config::read(
            live.transport(),
            live.platform(),
            live.features(),
            wire::STATUS,
        )
        .map(|status| status & wire::LINK_UP != 0)
    }

    /// Whether the device met an error from which only a reset recovers it.
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        self.live.needs_reset()
    }

    /// Whether the device works: to be asked when the interrupt for configuration changes comes, or
    /// when it makes no progress.
    ///
    /// # Errors
    /// [`InitFailure::NeedsReset`]: what the device has may never come back; see
    /// [`Driver::recover`].
    pub fn check(&self) -> Result<(), InitFailure> {
        self.live.check()
    }

    /// Resets the receive queue alone, and sets it up anew with at most `size` descriptors
    /// (`VIRTIO_F_RING_RESET`). Buffers that were with the device go to `f`; the new queue has none.
    /// It need not be broken.
    ///
    /// # Errors
    /// As [`Live::restart_queue`]. The receiver does not work then, and it can be tried again.
    pub fn restart_receive<M: StableBytesMut>(
        &mut self,
        rx: &mut Receiver<P, M>,
        size: u16,
        mut f: impl FnMut(M),
    ) -> Result<(), InitFailure> {
        let mut options = self.facts.options;
        options.receive_size = size;
        let (config, _) = queue_configs(&options, rx.header_len);
        self.live
            .restart_queue(&mut rx.queue, &config, |withdrawn| {
                f(Receiver::<P, M>::memory(withdrawn));
            })?;
        self.facts.options = options;
        Ok(())
    }

    /// Resets the transmit queue alone, and sets it up anew with at most `size` descriptors
    /// (`VIRTIO_F_RING_RESET`). Frames that were with the device go to `f`, in the order in which
    /// they were transmitted and as they were: the device may have sent them, or not.
    ///
    /// # Errors
    /// As [`Live::restart_queue`]. The transmitter does not work then, and it can be tried again.
    pub fn restart_transmit<M: StableBytesMut>(
        &mut self,
        tx: &mut Transmitter<P, M>,
        size: u16,
        mut f: impl FnMut(Window<M>),
    ) -> Result<(), InitFailure> {
        let mut options = self.facts.options;
        options.transmit_size = size;
        let header_len = tx.header_len;
        let (_, config) = queue_configs(&options, header_len);
        self.live
            .restart_queue(&mut tx.queue, &config, |withdrawn| {
                f(Transmitter::<P, M>::frame(header_len, withdrawn));
            })?;
        self.facts.options = options;
        Ok(())
    }

    /// Takes the handle for the interrupt handler, once.
    #[must_use]
    pub fn take_isr(&mut self) -> Option<Isr> {
        self.live.transport_mut().take_isr()
    }
}

impl<P: Platform, T: Transport> fmt::Debug for Control<P, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("mac", &self.facts.mac)
            .field("mtu", &self.facts.mtu)
            .field("features", &self.features())
            .finish_non_exhaustive()
    }
}

/// The three parts of a driver.
struct Parts<P: Platform, T: Transport, M: StableBytesMut> {
    rx: Receiver<P, M>,
    tx: Transmitter<P, M>,
    control: Control<P, T>,
}

/// Resets a device whose driver is dropped.
struct ResetOnDrop;

impl<P: Platform, T: Transport, M: StableBytesMut> Home<Parts<P, T, M>> for ResetOnDrop {
    fn take_back(self, parts: Parts<P, T, M>) {
        // When the reset is not confirmed, the queues report what they leak.
        drop(parts.reset(|_, _| {}));
    }
}

impl<P: Platform, T: Transport, M: StableBytesMut> Parts<P, T, M> {
    /// Resets the device and gives every buffer that has not come back to `f`.
    fn reset(self, mut f: impl FnMut(QueueIndex, M)) -> Result<T, (Self, InitFailure)> {
        let Stopped {
            transport,
            receive,
            transmit,
            ..
        } = self.stop()?;
        give_all(receive, |done| {
            f(RECEIVE_QUEUE, Receiver::<P, M>::memory(done))
        });
        give_all(transmit, |done| {
            f(TRANSMIT_QUEUE, Transmitter::<P, M>::memory(done));
        });
        Ok(transport)
    }

    /// Resets the device and takes the queues apart.
    fn stop(self) -> Result<Stopped<P, T, M>, (Self, InitFailure)> {
        let Self {
            mut rx,
            mut tx,
            control,
        } = self;
        let Control { live, facts } = control;
        let features = live.features();
        match live.reset() {
            Ok((transport, proof)) => Ok(Stopped {
                transport,
                features,
                facts,
                header_len: tx.header_len,
                // Parts that are not of this device are leaked, and say so.
                receive: rx.queue.close(&proof).ok(),
                transmit: tx.queue.close(&proof).ok(),
            }),
            Err(Leaked { live, why }) => {
                // It is told of nothing any more, and given nothing.
                rx.queue.park(Fault::ResetUnconfirmed);
                tx.queue.park(Fault::ResetUnconfirmed);
                let control = Control { live, facts };
                Err((Self { rx, tx, control }, why))
            }
        }
    }
}

/// A driver whose device was reset.
struct Stopped<P: Platform, T: Transport, M: StableBytesMut> {
    transport: T,
    features: Features,
    facts: Facts,
    header_len: usize,
    receive: Option<Closed<P, Writable<M>>>,
    transmit: Option<Closed<P, Readable<Window<M>>>>,
}

/// Gives all buffers that were in a queue to `f`.
fn give_all<P: Platform, B: DmaBuf>(closed: Option<Closed<P, B>>, f: impl FnMut(Withdrawn<B>)) {
    let mut closed = closed;
    let next = || closed.as_mut()?.next_withdrawn();
    core::iter::from_fn(next).for_each(f);
}

/// A network driver. Dropping it resets the device; buffers that had not come back are dropped then.
pub struct Driver<P: Platform, T: Transport, M: StableBytesMut> {
    parts: Lent<Parts<P, T, M>, ResetOnDrop>,
}

impl<P: Platform, T: Transport, M: StableBytesMut> Driver<P, T, M> {
    /// The receiving part.
    #[inline]
    #[must_use]
    pub fn rx(&mut self) -> &mut Receiver<P, M> {
        &mut self.parts.rx
    }

    /// The transmitting part.
    #[inline]
    #[must_use]
    pub fn tx(&mut self) -> &mut Transmitter<P, M> {
        &mut self.parts.tx
    }

    /// Facts and interrupts.
    #[must_use]
    pub fn control(&mut self) -> &mut Control<P, T> {
        &mut self.parts.control
    }

    /// All three parts at once, borrowed.
    #[inline]
    #[must_use]
    pub fn parts(
        &mut self,
    ) -> (
        &mut Receiver<P, M>,
        &mut Transmitter<P, M>,
        &mut Control<P, T>,
    ) {
        let Parts { rx, tx, control } = &mut *self.parts;
        (rx, tx, control)
    }

    /// Resets the device, and gives every buffer that has not come back to `f`, with the queue
    /// that it was in. Returns the transport.
    ///
    /// # Errors
    /// The driver and the reason, when the device does not confirm the reset: nothing was freed,
    /// nothing works ([`Fault::ResetUnconfirmed`]), and it can be tried again. Dropping the driver
    /// then leaks its queues.
    pub fn shutdown(self, f: impl FnMut(QueueIndex, M)) -> Result<T, (Self, InitFailure)> {
        let (parts, home) = self.parts.into_parts();
        parts.reset(f).map_err(|(parts, why)| {
            (
                Self {
                    parts: Lent::new(parts, home),
                },
                why,
            )
        })
    }
}

impl<P: Platform, T: Transport, M: StableBytesMut> fmt::Debug for Driver<P, T, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { rx, tx, control } = &*self.parts;
        f.debug_struct("Driver")
            .field("rx", rx)
            .field("tx", tx)
            .field("control", control)
            .finish()
    }
}
