//! The transmitting half.

use core::fmt;

use crate::buffer::{Readable, StableBytesMut, Window};
use crate::device::net::wire::{ETHERNET_HEADER, Header, VLAN_TAG};
use crate::platform::Platform;
use crate::transport::QueueAreas;
use crate::virtqueue::{BurstError, Counters, Fault, Reject, Rejected, Virtqueue, Withdrawn};

/// Transmits frames, and gives their buffers back later.
///
/// A frame with [`header_len`](Self::header_len) bytes of headroom takes one descriptor; the
/// header is written in front of it. Another one takes two, as does every one on a legacy device
/// without `VIRTIO_F_ANY_LAYOUT` (VIRTIO 1.4, 5.1.9.8). Nothing here waits: when the queue is full,
/// the frame is given back, to be tried again after [`reclaim`](Self::reclaim).
///
/// Several frames at once cost least with [`transmit_burst`](Self::transmit_burst), behind a
/// [`make_room`](Self::make_room), which looks for buffers that came back only when the queue is
/// short of room.
pub struct Transmitter<P: Platform, M: StableBytesMut> {
    pub(super) queue: Virtqueue<P, Readable<Window<M>>>,
    pub(super) header_len: usize,
    pub(super) mtu: Option<u16>,
    /// Bytes of a frame that [`Plain`] takes, at most.
    plain: usize,
    /// The header is a descriptor of its own: a legacy device wants it so.
    cut: bool,
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

/// A burst of frames that ended with one that was not taken.
pub struct TransmitBurstError<M> {
    /// Frames of the burst that were taken before it.
    pub taken: usize,
    /// The frame that was not taken, and why.
    pub rejected: TransmitError<M>,
}

impl<M> fmt::Debug for TransmitBurstError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransmitBurstError")
            .field("taken", &self.taken)
            .field("why", &self.rejected.why)
            .finish_non_exhaustive()
    }
}

impl<M> fmt::Display for TransmitBurstError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} frames: {}", self.taken, self.rejected)
    }
}

impl<M> core::error::Error for TransmitBurstError<M> {}

impl<P: Platform, M: StableBytesMut> Transmitter<P, M> {
    pub(super) fn new(
        queue: Virtqueue<P, Readable<Window<M>>>,
        header_len: usize,
        mtu: Option<u16>,
        cut: bool,
    ) -> Self {
        // Where the header is a short one, or a descriptor of its own, no frame is plain.
        let longest = longest_untagged(mtu).unwrap_or(usize::MAX);
        let plain = if header_len == LONG && !cut {
            longest
        } else {
            0
        };
        Self {
            queue,
            header_len,
            mtu,
            plain,
            cut,
        }
    }

    /// Bytes of headroom that spare a descriptor, save where every frame takes two.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.header_len
    }

    /// Descriptors that are free: so many frames with headroom find room now, or half as many where
    /// each takes two. 0 when the queue is broken.
    #[inline]
    #[must_use]
    pub fn room(&self) -> u16 {
        self.queue.free()
    }

    /// Whether a frame that is one piece for the device finds room now, with headroom or without.
    /// (A queue of one descriptor takes frames with headroom only, and exists only where these take
    /// one.)
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

    /// Takes a frame; it goes out with the next [`kick`](Self::kick) or
    /// [`publish`](Self::publish).
    ///
    /// # Errors
    /// [`TransmitError`] gives the frame back.
    #[inline]
    pub fn transmit(&mut self, mut frame: Window<M>) -> Result<(), TransmitError<M>> {
        if !make_plain(&mut frame, self.plain) {
            return self.transmit_odd(frame);
        }
        match self.queue.submit(Readable(frame)) {
            Ok(_) => Ok(()),
            Err(rejected) => Err(give_back(rejected, true, LONG)),
        }
    }

    /// Takes any frame: a tag may make it longer than others, a header may have to go into a cell,
    /// and there may be something wrong with it.
    #[inline(never)]
    fn transmit_odd(&mut self, mut frame: Window<M>) -> Result<(), TransmitError<M>> {
        if let Err(why) = self.check_length(frame.as_slice()) {
            return Err(TransmitError { frame, why });
        }
        let in_front =
            !self.cut && !frame.as_slice().is_empty() && put_header(&mut frame, self.header_len);
        let submitted = if in_front {
            self.queue.submit(Readable(frame))
        } else {
            let zeros = [0u8; size_of::<Header>()];
            let header = zeros.get(..self.header_len).unwrap_or(&zeros);
            self.queue.submit_with(header, Readable(frame))
        };
        match submitted {
            Ok(_) => Ok(()),
            Err(rejected) => Err(give_back(rejected, in_front, self.header_len)),
        }
    }

    /// Takes frames from `frames` while a descriptor is free and there is a frame to take; they go
    /// out with the next [`kick`](Self::kick) or [`publish`](Self::publish). Returns how many were
    /// taken. None is taken from the iterator that is not on its way, but for the one that an error
    /// gives back.
    ///
    /// A full queue, as a broken one, takes no frame, which is no error: the frames stay in the
    /// iterator, and [`make_room`](Self::make_room) says which of the two it is.
    ///
    /// # Errors
    /// [`TransmitBurstError`] says how many were taken before one was rejected, and gives that one
    /// back. A frame without headroom that finds one free descriptor, where it needs two, is
    /// rejected as [full](Reject::Full).
    #[inline]
    pub fn transmit_burst(
        &mut self,
        frames: &mut impl Iterator<Item = Window<M>>,
    ) -> Result<usize, TransmitBurstError<M>> {
        let mut taken = 0usize;
        loop {
            let mut plain = Plain {
                frames: &mut *frames,
                longest: self.plain,
                odd: None,
            };
            let burst = self.queue.submit_burst(&mut plain);
            // The burst ends with an odd frame, so that there is one at most, and no other error.
            let odd = plain.odd;
            match burst {
                Ok(submitted) => taken = taken.wrapping_add(submitted),
                Err(BurstError {
                    submitted,
                    rejected,
                }) => {
                    return Err(TransmitBurstError {
                        taken: taken.wrapping_add(submitted),
                        rejected: give_back(rejected, true, LONG),
                    });
                }
            }
            let Some(frame) = odd else { return Ok(taken) };
            match self.transmit_odd(frame) {
                Ok(()) => taken = taken.wrapping_add(1),
                Err(rejected) => return Err(TransmitBurstError { taken, rejected }),
            }
        }
    }

    fn check_length(&self, frame: &[u8]) -> Result<(), TransmitFailure> {
        let Some(mut max) = longest_untagged(self.mtu) else {
            return Ok(());
        };
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

    /// Makes what was taken visible to the device, without a word: no fence, no doorbell. Enough
    /// for a device that is known to poll; any other may never look, so [`kick`](Self::kick) it.
    #[inline]
    pub fn publish(&mut self) {
        self.queue.publish();
    }

    /// Sees that `wanted` descriptors are free, or as many as can be: only when they are not, the
    /// buffers of frames that the device is done with are given to `f`, as by
    /// [`reclaim`](Self::reclaim). Returns how many are free then.
    ///
    /// A queue with room enough is not looked at, so that a queue of 256 in bursts of 32 is looked
    /// at once in eight bursts. In return up to a whole queue of buffers is out at any time:
    /// [`reclaim`](Self::reclaim) has back what there is.
    ///
    /// # Errors
    /// [`Fault`]: the queue is broken until the device is reset.
    #[inline]
    pub fn make_room(&mut self, wanted: u16, f: impl FnMut(M)) -> Result<u16, Fault> {
        if self.queue.free() < wanted {
            self.reclaim(f)?;
        }
        Ok(self.queue.free())
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

/// Bytes of the header in front of a plain frame.
const LONG: usize = size_of::<Header>();

/// Bytes of a frame without a VLAN tag, at most, where there is a limit.
fn longest_untagged(mtu: Option<u16>) -> Option<usize> {
    mtu.map(|mtu| usize::from(mtu).wrapping_add(ETHERNET_HEADER))
}

/// Frames as a burst takes them, with a header in front, until one comes that is not of this kind:
/// it is kept aside, as it was.
struct Plain<'a, I, M> {
    frames: &'a mut I,
    longest: usize,
    odd: Option<Window<M>>,
}

impl<M: StableBytesMut, I: Iterator<Item = Window<M>>> Iterator for Plain<'_, I, M> {
    type Item = Readable<Window<M>>;

    #[inline(always)] // or frames go through memory once more
    fn next(&mut self) -> Option<Self::Item> {
        let mut frame = self.frames.next()?;
        if make_plain(&mut frame, self.longest) {
            Some(Readable(frame))
        } else {
            self.odd = Some(frame);
            None
        }
    }
}

/// Puts a header in front of a frame of 1 to `longest` bytes that has room for one; otherwise false,
/// and no change.
#[inline(always)] // a few comparisons
fn make_plain<M: StableBytesMut>(frame: &mut Window<M>, longest: usize) -> bool {
    frame.as_slice().len().wrapping_sub(1) < longest && put_header(frame, LONG)
}

/// Puts a header that asks for nothing in front of a frame; false, and no change, where there is no
/// room for one.
///
/// It is looked at each time: between two uses the block is the caller's, headroom and all. It is
/// written when it is not all zero already. In a block that comes from the receiver the device's own
/// header is there, and where that is zero, as DPDK leaves it, its line of cache stays with the
/// device, which reads it next.
#[inline(always)] // a load and a comparison, where the length is known
pub(super) fn put_header<M: StableBytesMut>(frame: &mut Window<M>, header_len: usize) -> bool {
    if !frame.grow_front(header_len) {
        return false;
    }
    let header = frame.as_mut_slice().get_mut(..header_len);
    let header = header.unwrap_or_default();
    if header.iter().fold(0, |all, byte| all | byte) != 0 {
        header.fill(0);
    }
    true
}

/// A frame that the queue did not take, as it was.
#[cold]
fn give_back<M: StableBytesMut>(
    rejected: Rejected<Readable<Window<M>>>,
    in_front: bool,
    header_len: usize,
) -> TransmitError<M> {
    let Readable(mut frame) = rejected.buf;
    // With the header in front it was grown by as much.
    let _restored = in_front && frame.shrink_front(header_len);
    TransmitError {
        frame,
        why: TransmitFailure::Queue(rejected.why),
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
