//! vring: its `Virtqueue` over a platform where physical is virtual, in three kinds of calls.

use std::alloc::Layout;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use vring::Platform;
use vring::buffer::DmaBuf;
use vring::features::{Feature, Features, Wish};
use vring::init::{self, Live, QueueConfig};
use vring::platform::{Direction, DmaAddr, DmaError, Mapping, RawRegion};
use vring::transport::{
    DeviceId, Doorbell, Isr, QueueAreas, QueueIndex, Registers, Status, Transport, TransportError,
};
use vring::virtqueue::{Completion, Virtqueue};

use super::memory::{Pages, Register};
use super::{Driver, Owned, QUEUE, Site, give_back, items, owned};
use crate::device::Areas;
use crate::item::{Celled, Item, Piece};

/// Features of the ring, in words of the roster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// `VIRTIO_F_RING_PACKED`.
    pub packed: bool,
    /// `VIRTIO_F_EVENT_IDX`.
    pub event_idx: bool,
    /// `VIRTIO_F_IN_ORDER`.
    pub in_order: bool,
    /// `VIRTIO_F_INDIRECT_DESC`.
    pub indirect: bool,
}

impl Wants {
    fn features(self) -> Features {
        [
            (self.packed, Feature::RING_PACKED),
            (self.event_idx, Feature::EVENT_IDX),
            (self.in_order, Feature::IN_ORDER),
            (self.indirect, Feature::INDIRECT_DESC),
        ]
        .into_iter()
        .filter(|(wanted, _)| *wanted)
        .fold(Features::from(Feature::VERSION_1), |all, (_, feature)| {
            all.with(feature)
        })
    }
}

/// Physical is virtual. A type of its own for each place where a queue is used.
#[derive(Clone, Copy, Debug)]
pub struct Identity<S>(PhantomData<S>);

// SAFETY: the global allocator gives memory that is ours alone; the "device" is in this process,
// and an address is a pointer.
unsafe impl<S: Site> Platform for Identity<S> {
    const DIRECT: bool = true;

    fn alloc(&self, layout: Layout) -> Result<RawRegion, DmaError> {
        let (size, align) = (layout.size(), layout.align());
        if align > super::memory::PAGE {
            return Err(DmaError::OutOfMemory { size, align });
        }
        let pages = Pages::new(size);
        let ptr = pages.ptr();
        // `dealloc` frees it.
        std::mem::forget(pages);
        let addr = DmaAddr(ptr.as_ptr().expose_provenance() as u64);
        Ok(RawRegion { ptr, addr, layout })
    }

    unsafe fn dealloc(&self, region: RawRegion) {
        // SAFETY: it came from `alloc`, with as many bytes.
        drop(unsafe { Pages::from_raw(region.ptr, region.layout.size()) });
    }

    #[inline]
    unsafe fn map(&self, buf: NonNull<[u8]>, _: Direction) -> Result<Mapping, DmaError> {
        let ptr = buf.cast::<u8>();
        let addr = DmaAddr(ptr.as_ptr().expose_provenance() as u64);
        let len = buf.len() as u32;
        let token = 0;
        Ok(Mapping {
            addr,
            len,
            ptr,
            token,
        })
    }

    unsafe fn unmap(&self, _: Mapping, _: Direction, _: u32) {}
}

/// A device that accepts everything.
#[derive(Debug)]
struct Board {
    features: Features,
    status: Status,
    register: Box<Register>,
}

// SAFETY: there is no device behind it but `crate::device::Device`, which is dropped, or runs no
// more, before the queue is.
unsafe impl Transport for Board {
    fn device_id(&self) -> DeviceId {
        DeviceId::NETWORK
    }
    fn num_queues(&self) -> Option<u16> {
        Some(1)
    }
    fn status(&self) -> Status {
        self.status
    }
    fn set_status(&mut self, status: Status) {
        self.status = status;
    }
    fn device_features(&mut self) -> Features {
        self.features
    }
    fn set_driver_features(&mut self, _: Features) {}
    fn max_queue_size(&mut self, _: QueueIndex) -> u16 {
        QUEUE
    }
    unsafe fn enable_queue(
        &mut self,
        queue: QueueIndex,
        _: u16,
        _: &QueueAreas,
        _: Option<u16>,
    ) -> Result<Doorbell, TransportError> {
        // SAFETY: two bytes that nobody else uses stand in for a register; the board outlives the
        // doorbell.
        let registers = unsafe { Registers::new(self.register.ptr().cast(), size_of::<u16>()) };
        let register = registers
            .register(0)
            .ok_or(TransportError::QueueUnavailable { queue })?;
        Ok(Doorbell::register(register, queue.0))
    }
    fn set_config_vector(&mut self, _: Option<u16>) -> Result<(), TransportError> {
        Ok(())
    }
    fn config_generation(&self) -> Option<u32> {
        None
    }
    fn config_size(&self) -> usize {
        0
    }
    fn read_config(&self, _: usize, _: &mut [u8]) -> Result<(), TransportError> {
        let what = "configuration";
        Err(TransportError::Unsupported { what })
    }
    fn write_config(&mut self, _: usize, _: &[u8]) -> Result<(), TransportError> {
        let what = "configuration";
        Err(TransportError::Unsupported { what })
    }
    fn take_isr(&mut self) -> Option<Isr> {
        None
    }
}

/// How a caller submits and reaps.
pub trait Calls<B: DmaBuf, S: Site> {
    /// Bytes of the header cell and of the reply cell.
    const CELLS: (u16, u16) = (0, 0);

    /// Submits `n` buffers of the pool.
    fn submit(queue: &mut Virtqueue<Identity<S>, B>, pool: &mut Vec<B>, n: usize);

    /// Takes back what has come back.
    fn reap(queue: &mut Virtqueue<Identity<S>, B>, pool: &mut Vec<B>) -> usize;
}

/// `submit_burst` and `drain`.
#[derive(Clone, Copy, Debug)]
pub struct Burst;

/// `submit` and `next_completion`.
#[derive(Clone, Copy, Debug)]
pub struct Single;

/// `submit_with` and `drain`: header and reply in the queue's cells.
#[derive(Clone, Copy, Debug)]
pub struct Cells;

const ROOM: &str = "no more is submitted than fits";
const ITEM: &str = "an item in the pool";
const HONEST: &str = "the device is honest";

impl<B: DmaBuf, S: Site> Calls<B, S> for Burst {
    #[inline(always)] // is the caller's code
    fn submit(queue: &mut Virtqueue<Identity<S>, B>, pool: &mut Vec<B>, n: usize) {
        let left = pool.len() - n;
        let mut bufs = pool.drain(left..);
        queue
            .submit_burst(&mut bufs)
            .map_err(|e| e.rejected.why)
            .expect(ROOM);
    }

    #[inline(always)] // is the caller's code
    fn reap(queue: &mut Virtqueue<Identity<S>, B>, pool: &mut Vec<B>) -> usize {
        queue
            .drain(|done| give_back(pool, done.into_buf()))
            .expect(HONEST)
    }
}

impl<B: DmaBuf, S: Site> Calls<B, S> for Single {
    #[inline(always)] // is the caller's code
    fn submit(queue: &mut Virtqueue<Identity<S>, B>, pool: &mut Vec<B>, n: usize) {
        for _ in 0..n {
            let buf = pool.pop().expect(ITEM);
            queue.submit(buf).map_err(|e| e.why).expect(ROOM);
        }
    }

    #[inline(always)] // is the caller's code
    fn reap(queue: &mut Virtqueue<Identity<S>, B>, pool: &mut Vec<B>) -> usize {
        let mut reaped = 0;
        while let Some(done) = queue.next_completion().expect(HONEST) {
            give_back(pool, done.into_buf());
            reaped += 1;
        }
        reaped
    }
}

impl<B: Celled, S: Site> Calls<B, S> for Cells {
    const CELLS: (u16, u16) = (size_of::<B::Header>() as u16, B::REPLY);

    #[inline(always)] // is the caller's code
    fn submit(queue: &mut Virtqueue<Identity<S>, B>, pool: &mut Vec<B>, n: usize) {
        for _ in 0..n {
            let buf = pool.pop().expect(ITEM);
            let header = buf.header();
            queue
                .submit_with(&header, buf)
                .map_err(|e| e.why)
                .expect(ROOM);
        }
    }

    #[inline(always)] // is the caller's code
    fn reap(queue: &mut Virtqueue<Identity<S>, B>, pool: &mut Vec<B>) -> usize {
        let take = |done: Completion<'_, B>| {
            if B::REPLY != 0 {
                // The device writes no status; that it is read is what counts.
                std::hint::black_box(done.reply::<u8>());
            }
            give_back(pool, done.into_buf());
        };
        queue.drain(take).expect(HONEST)
    }
}

/// A live queue and its pool. Both handles are taken when it is dropped: the device is reset, and
/// the queue is closed with the proof of it.
#[repr(align(128))]
pub struct Vring<B: DmaBuf, C, S: Site> {
    queue: ManuallyDrop<Virtqueue<Identity<S>, B>>,
    pool: Vec<B>,
    live: ManuallyDrop<Live<Identity<S>, Board>>,
    calls: PhantomData<C>,
}

impl<B: DmaBuf + Item, C: Calls<B, S>, S: Site> Vring<B, C, S> {
    /// A queue with these features, and a pool of so many items.
    #[must_use]
    pub fn new(wants: Wants, items: usize) -> Self {
        let offered = wants.features();
        let wish = Wish {
            want: offered,
            ..Wish::default()
        };
        let board = Board {
            features: offered,
            status: Status::empty(),
            register: Register::new(),
        };
        let Ok(reset) = init::reset(board, &Identity(PhantomData::<S>)) else {
            unreachable!("the board confirms a reset")
        };
        let Ok(mut negotiated) = reset.negotiate(&wish) else {
            unreachable!("the board takes all features")
        };
        assert_eq!(negotiated.features(), offered, "all is negotiated");
        let (header, reply) = C::CELLS;
        let mut config = QueueConfig::new(QUEUE).cells(header, reply);
        if wants.indirect {
            config = config.indirect(4);
        }
        let Ok(pending) = negotiated.queue(QueueIndex(0), &config) else {
            unreachable!("the board has a queue")
        };
        let Ok(live) = negotiated.finish() else {
            unreachable!("the board starts")
        };
        let Ok(queue) = pending.start::<Board>(&live) else {
            unreachable!("it is the queue's device")
        };
        assert_eq!(queue.size(), QUEUE, "as large as the others");
        Self {
            queue: ManuallyDrop::new(queue),
            pool: self::items(items),
            live: ManuallyDrop::new(live),
            calls: PhantomData,
        }
    }
}

impl<B: DmaBuf, C, S: Site> Drop for Vring<B, C, S> {
    fn drop(&mut self) {
        // SAFETY: it is taken here only, and not used after.
        let queue = unsafe { ManuallyDrop::take(&mut self.queue) };
        // SAFETY: it is taken here only, and not used after.
        let live = unsafe { ManuallyDrop::take(&mut self.live) };
        match live.reset() {
            // What was in flight is dropped with what the queue closes to.
            Ok((_, proof)) => drop(queue.close(&proof)),
            // The board confirms every reset; without the proof the queue leaks by itself.
            Err(leaked) => drop(leaked),
        }
    }
}

impl<B: DmaBuf + Item, C: Calls<B, S>, S: Site> Driver for Vring<B, C, S> {
    #[inline(always)] // is the caller's code
    fn submit(&mut self, n: usize) {
        C::submit(&mut self.queue, &mut self.pool, n);
    }

    #[inline(always)] // is the caller's code
    fn publish(&mut self) {
        self.queue.publish();
    }

    #[inline(always)] // is the caller's code
    fn kick(&mut self) {
        self.queue.kick();
    }

    #[inline(always)] // is the caller's code
    fn reap(&mut self) -> usize {
        C::reap(&mut self.queue, &mut self.pool)
    }

    fn areas(&self) -> Areas {
        let areas = self.queue.areas();
        Areas {
            desc: areas.desc.0,
            driver: areas.driver.0,
            device: areas.device.0,
            num: self.queue.size(),
        }
    }

    fn pieces(&self) -> &'static [Piece] {
        B::PIECES
    }

    fn data_piece(&self) -> usize {
        B::DATA
    }

    fn owned(&self) -> Vec<Owned> {
        owned(&self.pool)
    }
}
