//! The transmitting half.

use core::fmt;

use crate::buffer::{Readable, StableBytesMut, Window};
use crate::device::net::wire::{ETHERNET_HEADER, VLAN_TAG};
use crate::platform::Platform;
use crate::transport::QueueAreas;
use crate::virtqueue::{Counters, Fault, Reject, Virtqueue, Withdrawn};

/// Transmits frames, and gives their buffers back later.
///
/// A frame with [`header_len`](Self::header_len) bytes of headroom takes one descriptor; the
/// header is written in front of it. Another one takes two. Nothing here waits: when the queue is
/// full, the frame is given back, to be tried again after [`reclaim`](Self::reclaim).
pub struct Transmitter<P: Platform, M: StableBytesMut> {
    pub(super) queue: Virtqueue<P, Readable<Window<M>>>,
    pub(super) header_len: usize,
    pub(super) mtu: Option<u16>,
}

/// A frame that was not taken, as it was.
pub struct TransmitError<M> {
    /// The frame.
    pub frame: Window<M>,
    /// Why it was not taken.
    pub why: TransmitFailure,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransmitFailure {
    /// It is longer than the device's MTU allows (VIRTIO 1.4, 5.1.4.2).
    TooLong {
        /// Bytes of the frame.
        len: usize,
        /// Bytes that it may have.
        max: usize,
    },
    /// The queue did not take it. [`Reject::Full`] means: reclaim, and try again.
    Queue(Reject),
}

impl fmt::Display for TransmitFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { len, max } => {
                write!(f, "a frame of {len} bytes, where the device takes {max}")
            }
            Self::Queue(why) => why.fmt(f),
        }
    }
}

impl<M> fmt::Debug for TransmitError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransmitError")
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}

impl<M> fmt::Display for TransmitError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl<M> core::error::Error for TransmitError<M> {}

impl<P: Platform, M: StableBytesMut> Transmitter<P, M> {
    /// Bytes of headroom that spare a descriptor.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Whether a frame that is one piece for the device finds room now, with headroom or without.
    /// (A queue of one descriptor takes frames with headroom only.)
    #[inline]
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.queue.free() >= 2.min(self.queue.size())
    }

    /// Queue size.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// Frames that the device has not given back.
    #[inline]
    #[must_use]
    pub fn outstanding(&self) -> u16 {
        self.queue.outstanding()
    }

    /// Where the device finds the ring.
    #[must_use]
    pub fn areas(&self) -> QueueAreas {
        self.queue.areas()
    }

    /// What happened on the queue.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.queue.counters()
    }

    /// What the device did wrong, when the queue is broken.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.queue.fault()
    }

    /// Takes a frame; it goes out with the next [`kick`](Self::kick).
    ///
    /// # Errors
    /// [`TransmitError`] gives the frame back.
    #[inline]
    pub fn transmit(&mut self, mut frame: Window<M>) -> Result<(), TransmitError<M>> {
        if let Err(why) = self.check_length(frame.as_slice()) {
            return Err(TransmitError { frame, why });
        }
        let zeros = [0u8; 12];
        let header = zeros.get(..self.header_len).unwrap_or(&zeros);
        let in_front = !frame.as_slice().is_empty() && frame.grow_front(header.len());
        let submitted = if in_front {
            if let Some(place) = frame.as_mut_slice().get_mut(..header.len()) {
                place.copy_from_slice(header);
            }
            self.queue.submit(Readable(frame))
        } else {
            self.queue.submit_with(header, Readable(frame))
        };
        match submitted {
            Ok(_) => Ok(()),
            Err(rejected) => {
                let Readable(mut frame) = rejected.buf;
                // It was grown by as much above.
                let _restored = in_front && frame.shrink_front(self.header_len);
                Err(TransmitError {
                    frame,
                    why: TransmitFailure::Queue(rejected.why),
                })
            }
        }
    }

    #[inline]
    fn check_length(&self, frame: &[u8]) -> Result<(), TransmitFailure> {
        let Some(mtu) = self.mtu else { return Ok(()) };
        let mut max = usize::from(mtu).wrapping_add(ETHERNET_HEADER);
        let len = frame.len();
        if len <= max {
            return Ok(());
        }
        // The tag of a VLAN is not part of what the MTU counts.
        if frame.get(12..14) == Some(&[0x81, 0x00]) {
            max = max.wrapping_add(VLAN_TAG);
        }
        if len <= max {
            Ok(())
        } else {
            Err(TransmitFailure::TooLong { len, max })
        }
    }

    /// Makes what was taken visible to the device, and tells it if it wants to be told.
    #[inline]
    pub fn kick(&mut self) {
        self.queue.kick();
    }

    /// Gives the buffers of frames that the device is done with to `f`; how many there were.
    ///
    /// # Errors
    /// [`Fault`]: the queue is broken until the device is reset.
    #[inline]
    pub fn reclaim(&mut self, mut f: impl FnMut(M)) -> Result<usize, Fault> {
        self.queue.drain(|done| f(done.into_buf().0.into_memory()))
    }

    /// Asks for an interrupt when the device is done with a frame. True when it is already.
    #[inline]
    #[must_use = "when a frame is done already, no interrupt may come"]
    pub fn arm(&mut self) -> bool {
        self.queue.arm()
    }

    /// Asks for an interrupt when the device is done with about three quarters of the frames that it
    /// has: fewer interrupts, for who is in no hurry to have their buffers back. True when it is
    /// done with some already.
    #[inline]
    #[must_use = "when frames are done already, no interrupt may come"]
    pub fn arm_delayed(&mut self) -> bool {
        self.queue.arm_delayed()
    }

    /// Asks for no interrupts.
    #[inline]
    pub fn disarm(&mut self) {
        self.queue.disarm();
    }

    /// A frame that the device had not given back, as it was given to [`transmit`](Self::transmit).
    pub(super) fn frame(header_len: usize, withdrawn: Withdrawn<Readable<Window<M>>>) -> Window<M> {
        let Readable(mut frame) = withdrawn.buf;
        // Without a header of its own, it grew by one in front.
        let _restored = withdrawn.header || frame.shrink_front(header_len);
        frame
    }

    pub(super) fn memory(withdrawn: Withdrawn<Readable<Window<M>>>) -> M {
        withdrawn.buf.0.into_memory()
    }
}

impl<P: Platform, M: StableBytesMut> fmt::Debug for Transmitter<P, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transmitter")
            .field("queue", &self.queue)
            .field("header_len", &self.header_len)
            .field("mtu", &self.mtu)
            .finish()
    }
}
