//! What a model is made of: a queue, buffers whose contents loom watches, and a device's words.
//!
//! A piece of a buffer is known by its length, which no other has: the device finds it at address
//! `length << 12`, and its content is the data word of that number. So a device that reads an
//! address or a length too early, or a driver that reads an answer too early, is told so by loom.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;

use super::device::{Device, PackedDevice, SplitDevice};
use crate::buffer::{DmaBuf, Segment};
use crate::dma::DmaRegion;
use crate::init::Epoch;
use crate::platform::{Direction, DmaAddr, DmaError, Mapping, Platform, RawRegion};
use crate::ring::Slot;
use crate::ring::core::{Memory, Ring, RingOptions};
use crate::ring::layout::{USED_ALIGN_SIZE, packed_init, vring_init};
use crate::ring::storage::Storage;
use crate::shared::{Area, PackedMemory, SplitMemory, TableMemory};
use crate::transport::QueueIndex;
use crate::virtqueue::{Completion, Parts, Virtqueue};

/// Descriptors of a model's ring: more than any batch of it has, so that none is a whole lap.
pub(crate) const NUM: u16 = 4;

/// What the driver puts into a piece that the device reads.
const REQUEST: u64 = 1 << 32;
/// What the device puts into a piece that the driver reads.
const ANSWER: u64 = 2 << 32;

/// What is negotiated, and where the ring starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub(crate) packed: bool,
    pub(crate) event_idx: bool,
    pub(crate) in_order: bool,
    pub(crate) tables: bool,
    pub(crate) start: u16,
}

/// Buffers are where they are.
#[derive(Clone, Debug)]
pub(crate) struct Flat;

// SAFETY: the memory comes from the heap, zeroed, and a model's device has no way to use it.
unsafe impl Platform for Flat {
    const DIRECT: bool = true;

    fn alloc(&self, layout: Layout) -> Result<RawRegion, DmaError> {
        // SAFETY: `DmaRegion` asks for at least one byte.
        let ptr = unsafe { alloc::alloc::alloc_zeroed(layout) };
        let (size, align) = (layout.size(), layout.align());
        let ptr = NonNull::new(ptr).ok_or(DmaError::OutOfMemory { size, align })?;
        let addr = DmaAddr(1 << 32);
        Ok(RawRegion { ptr, addr, layout })
    }

    unsafe fn dealloc(&self, region: RawRegion) {
        // SAFETY: it came from `alloc`, with this layout.
        unsafe { alloc::alloc::dealloc(region.ptr.as_ptr(), region.layout) }
    }

    unsafe fn map(&self, buf: NonNull<[u8]>, _: Direction) -> Result<Mapping, DmaError> {
        Ok(Mapping {
            addr: DmaAddr((buf.len() as u64) << 12),
            len: buf.len() as u32,
            ptr: buf.cast(),
            token: 0,
        })
    }

    unsafe fn unmap(&self, _: Mapping, _: Direction, _: u32) {}
}

/// A buffer of several pieces, the last of which the device writes.
pub(crate) struct Chain(Vec<Vec<u8>>);

impl Chain {
    fn direction(&self, index: usize) -> Direction {
        if index + 1 == self.0.len() {
            Direction::Writable
        } else {
            Direction::Readable
        }
    }
}

// SAFETY: the bytes are on the heap, initialized, owned, and named from a mutable borrow.
unsafe impl DmaBuf for Chain {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn segment(&mut self, index: usize) -> Segment {
        let direction = self.direction(index);
        let bytes = NonNull::from(self.0[index].as_mut_slice());
        // SAFETY: the contract of `DmaBuf`, above.
        unsafe { Segment::new(bytes.cast(), bytes.len(), direction) }
    }
}

/// What the device finds in a descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Piece {
    pub(crate) addr: u64,
    pub(crate) len: u32,
    pub(crate) writable: bool,
}

/// The contents of all buffers.
#[derive(Clone)]
pub(crate) struct Contents(Area);

impl Contents {
    /// What the device does with a chain: it reads what it may read and answers. Bytes written.
    pub(crate) fn serve(&self, pieces: &[Piece]) -> u32 {
        let mut written = 0;
        for piece in pieces {
            let len = u64::from(piece.len);
            assert_eq!(piece.addr, len << 12, "address and length belong together");
            let at = piece.len as usize * 8;
            if piece.writable {
                self.0.set(at, ANSWER | len);
                written += piece.len;
            } else {
                assert_eq!(self.0.get(at), REQUEST | len, "the request is whole");
            }
        }
        written
    }
}

/// The driver's side.
pub(crate) struct Driver {
    pub(crate) queue: Virtqueue<Flat, Chain>,
    contents: Contents,
    /// Length of the next piece.
    len: usize,
}

impl Setup {
    /// A queue, and the device at its other end.
    pub(crate) fn make(&self) -> (Driver, Box<dyn Device>) {
        let layout = |size, align| Layout::from_size_align(size, align).unwrap();
        let region = |layout| DmaRegion::alloc(&Flat, layout).unwrap();
        let contents = Contents(Area::data(32));
        let tables = self.tables.then(|| {
            let region = region(TableMemory::<Flat>::layout(NUM, NUM).unwrap());
            TableMemory::new(region, NUM, NUM).unwrap()
        });
        let table_words = tables
            .as_ref()
            .map(|tables| (tables.addr(0), tables.model()));
        let (event_idx, start) = (self.event_idx, self.start);
        let (memory, device): (_, Box<dyn Device>) = if self.packed {
            let shape = packed_init(NUM).unwrap();
            let region = region(layout(shape.size(), shape.alignment()));
            let memory = PackedMemory::new(region, NUM).unwrap();
            let words = memory.model();
            let device = PackedDevice::new(words, table_words, contents.clone(), event_idx, start);
            (Memory::Packed(memory), Box::new(device))
        } else {
            let shape = vring_init(NUM, USED_ALIGN_SIZE).unwrap();
            let region = region(layout(shape.size(), shape.alignment()));
            let memory = SplitMemory::new(region, NUM, USED_ALIGN_SIZE).unwrap();
            let words = memory.model();
            let device = SplitDevice::new(words, table_words, contents.clone(), event_idx, start);
            (Memory::Split(memory), Box::new(device))
        };
        let options = RingOptions {
            event_idx,
            in_order: self.in_order,
            strong: false,
            start,
        };
        let parts = Parts {
            ring: Ring::new(memory, Storage::heap(NUM.into(), Slot::new), options),
            platform: Flat,
            cells: None,
            tables,
            mappings: Storage::heap(0, Default::default),
            longest: NUM,
            index: QueueIndex(0),
            epoch: Epoch::new().unwrap(),
        };
        let driver = Driver {
            queue: Virtqueue::new(parts),
            contents,
            len: 1,
        };
        (driver, device)
    }
}

impl Driver {
    /// A chain of so many pieces, with a request in them.
    pub(crate) fn chain(&mut self, pieces: usize) -> Chain {
        let lens = self.len..self.len + pieces;
        self.len = lens.end;
        let chain = Chain(lens.map(|len| vec![0; len]).collect());
        for piece in &chain.0[..pieces - 1] {
            let len = piece.len();
            self.contents.0.set(len * 8, REQUEST | len as u64);
        }
        chain
    }

    /// Submits a chain of so many pieces.
    pub(crate) fn submit(&mut self, pieces: usize) {
        let chain = self.chain(pieces);
        self.queue.submit(chain).unwrap();
    }

    /// Submits chains of so many pieces each, as a burst.
    pub(crate) fn submit_burst(&mut self, batch: &[usize]) {
        let chains: Vec<_> = batch.iter().map(|&pieces| self.chain(pieces)).collect();
        let submitted = self.queue.submit_burst(&mut chains.into_iter()).unwrap();
        assert_eq!(submitted, batch.len());
    }

    /// Publishes; whether the device is to be told.
    pub(crate) fn kick(&mut self) -> bool {
        self.queue.kick_prepare().is_some()
    }

    /// Takes a chain, if one has come back, and uses its memory.
    pub(crate) fn reap(&mut self) -> bool {
        let Self {
            queue, contents, ..
        } = self;
        match queue.next_completion().unwrap() {
            Some(done) => {
                use_up(contents, &done);
                true
            }
            None => false,
        }
    }

    /// The same for all that have come back, as a burst; how many.
    pub(crate) fn drain(&mut self) -> usize {
        let Self {
            queue, contents, ..
        } = self;
        queue.drain(|done| use_up(contents, &done)).unwrap()
    }

    /// The end of a model: loom's objects do not outlive it.
    pub(crate) fn close(self) {
        drop(self.queue.take_apart());
    }
}

/// The answer is whole, and the memory is the driver's again.
fn use_up(contents: &Contents, done: &Completion<'_, Chain>) {
    let pieces = &done.buf().0;
    let answer = pieces.last().unwrap().len();
    assert_eq!(done.written(), answer as u32);
    assert_eq!(contents.0.get(answer * 8), ANSWER | answer as u64);
    for piece in pieces {
        contents.0.set(piece.len() * 8, 0);
    }
}
