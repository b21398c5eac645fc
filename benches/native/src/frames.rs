//! Frames in memory that the device reaches, each a pointer and a length: what a driver's pool of
//! packet buffers hands out.

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;

use anyhow::ensure;
use vring::buffer::{DmaBuf, Segment, StableBytes, StableBytesMut};
use vring::device::net::Header;
use vring::platform::Direction;
use vring_hosted::memory::{PoolBuf, Region};

/// Bytes of a block: one takes a header and the longest frame.
pub(crate) const BLOCK: usize = 2048;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Bytes from a block to the next: an odd number of lines. Blocks a power of two apart would compete
/// for few sets of a cache.
const STRIDE: usize = BLOCK + 3 * LINE;
/// Where a block begins in its place: behind its header the frame begins with a line of its own, as
/// in DPDK's buffers. So the driver that clears the header takes no line of the frame away from the
/// device.
const OFFSET: usize = LINE - HEADER;
/// Bytes of the header in front of a frame.
pub(crate) const HEADER: usize = size_of::<Header>();
/// Bytes of a frame.
pub(crate) const FRAME: usize = 64;

/// A block, with a header and a frame in it.
#[derive(Debug)]
pub(crate) struct Frame {
    block: NonNull<u8>,
    /// Bytes of header and frame.
    len: u32,
}

// SAFETY: a frame is the only one of its block: whoever has it has the memory for himself.
unsafe impl Send for Frame {}

// SAFETY: a shared reference to a frame gives no access to its block but for reading.
unsafe impl Sync for Frame {}

impl Frame {
    /// Header and frame.
    #[inline]
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8; BLOCK] {
        let mut block = self.block.cast();
        // SAFETY: the block has as many bytes, they are initialized, and nobody else uses them
        // while this frame is in the hands of its owner.
        unsafe { block.as_mut() }
    }

    /// How many buffers the device says that this frame is in.
    #[inline]
    pub(crate) fn num_buffers(&mut self) -> u16 {
        let [.., low, high] = *self
            .bytes_mut()
            .first_chunk::<HEADER>()
            .expect("a block is longer");
        u16::from_le_bytes([low, high])
    }

    /// Clears the header, unless it is: no offload.
    #[inline]
    pub(crate) fn clear_header(&mut self) {
        let header = &mut self.bytes_mut()[..HEADER];
        if header.iter().fold(0, |all, byte| all | byte) != 0 {
            header.fill(0);
        }
    }

    /// Writes header and frame.
    #[inline]
    pub(crate) fn write(&mut self, frame: &[u8; FRAME]) {
        self.clear_header();
        self.bytes_mut()[HEADER..][..FRAME].copy_from_slice(frame);
        self.set_len((HEADER + FRAME) as u32);
    }

    /// Says how many bytes of header and frame there are.
    #[inline]
    pub(crate) fn set_len(&mut self, len: u32) {
        self.len = len.clamp(1, BLOCK as u32);
    }
}

// SAFETY: the block is initialized, stays where it is, and is the frame's alone.
unsafe impl StableBytes for Frame {
    #[inline]
    fn bytes(&self) -> (NonNull<u8>, usize) {
        (self.block, BLOCK)
    }
}

// SAFETY: as above; the pointer is that of the shared mapping, and may be written through.
unsafe impl StableBytesMut for Frame {
    #[inline]
    fn bytes_mut(&mut self) -> (NonNull<u8>, usize) {
        (self.block, BLOCK)
    }
}

/// A frame for the device to read.
#[derive(Debug)]
pub(crate) struct Outgoing(pub(crate) Frame);

// SAFETY: header and frame lie in the block, which obeys the contract: see `StableBytes`.
unsafe impl DmaBuf for Outgoing {
    #[inline]
    fn count(&self) -> usize {
        1
    }

    #[inline]
    fn segment(&mut self, _: usize) -> Segment {
        let (ptr, len) = (self.0.block, self.0.len as usize);
        // SAFETY: `set_len` keeps the length within the block.
        unsafe { Segment::new(ptr, len, Direction::Readable) }
    }
}

/// A block for the device to write to.
#[derive(Debug)]
pub(crate) struct Incoming(pub(crate) Frame);

// SAFETY: as for `Outgoing`.
unsafe impl DmaBuf for Incoming {
    #[inline]
    fn count(&self) -> usize {
        1
    }

    #[inline]
    fn segment(&mut self, _: usize) -> Segment {
        // SAFETY: the block has as many bytes.
        unsafe { Segment::new(self.0.block, BLOCK, Direction::Writable) }
    }
}

/// The memory of frames. They are handed out once, and should come [home](Self::home) in the end.
#[derive(Debug)]
pub(crate) struct Pool {
    memory: ManuallyDrop<PoolBuf>,
    count: usize,
}

impl Pool {
    /// So many frames.
    ///
    /// # Errors
    /// When the region has no room.
    pub(crate) fn new(region: &Arc<Region>, count: usize) -> anyhow::Result<(Self, Vec<Frame>)> {
        let memory = PoolBuf::new(region, count * STRIDE)?;
        let (start, _) = memory.bytes();
        let frame = |index: usize| Frame {
            // SAFETY: the block lies in the memory.
            block: unsafe { start.add(index * STRIDE + OFFSET) },
            len: BLOCK as u32,
        };
        // The memory is freed in `home` only: until then frames may be anywhere.
        let memory = ManuallyDrop::new(memory);
        Ok((Self { memory, count }, (0..count).map(frame).collect()))
    }

    /// Takes all frames back, and frees the memory.
    ///
    /// # Errors
    /// When one is missing: the memory stays for ever, as somebody may still use it.
    pub(crate) fn home(self, frames: Vec<Frame>) -> anyhow::Result<()> {
        let (start, _) = self.memory.bytes();
        let mut found: Vec<_> = frames.iter().map(|frame| frame.block).collect();
        found.sort_unstable();
        // SAFETY: as in `new`.
        let all = (0..self.count).map(|index| unsafe { start.add(index * STRIDE + OFFSET) });
        ensure!(
            all.eq(found.iter().copied()),
            "of {} frames, {} came back",
            self.count,
            found.len()
        );
        drop(ManuallyDrop::into_inner(self.memory));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_freed_when_each_frame_is_back_and_not_before() {
        let region = Region::new(1 << 20).unwrap();
        let free = region.free_bytes();
        let (pool, mut frames) = Pool::new(&region, 8).unwrap();
        frames.swap(0, 5);
        pool.home(frames).unwrap();
        assert_eq!(region.free_bytes(), free);
        let (pool, mut frames) = Pool::new(&region, 8).unwrap();
        let (other, mut others) = Pool::new(&region, 8).unwrap();
        frames[3] = others.pop().unwrap();
        assert!(pool.home(frames).is_err(), "one of the wrong pool");
        assert!(other.home(others).is_err(), "one is missing");
        assert_eq!(region.free_bytes(), free - 2 * 8 * STRIDE);
    }

    #[test]
    fn a_frame_is_written_behind_its_header() {
        let region = Region::new(1 << 20).unwrap();
        let (pool, mut frames) = Pool::new(&region, 1).unwrap();
        let frame = &mut frames[0];
        frame.bytes_mut().fill(0xee);
        assert_eq!(frame.num_buffers(), 0xeeee);
        frame.write(&[7; FRAME]);
        assert_eq!(frame.num_buffers(), 0);
        assert_eq!(frame.bytes_mut()[..HEADER], [0; HEADER]);
        assert_eq!(frame.bytes_mut()[HEADER..HEADER + FRAME], [7; FRAME]);
        assert_eq!(frame.bytes_mut()[HEADER + FRAME], 0xee);
        pool.home(frames).unwrap();
    }
}
