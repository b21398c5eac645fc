//! `virtio-drivers` 0.13: its `VirtQueue` over a HAL where physical is virtual.
//!
//! One type of queue for each kind of item and each place where it is used, so that
//! everything can be inlined where it is called.

use std::marker::PhantomData;
use std::ptr::NonNull;

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::memory::{Pages, Register};
use super::{Driver, Owned, QUEUE, Site, give_back, items, owned};
use crate::device::Areas;
use crate::item::{Piece, Slices};

/// Physical is virtual. A type of its own for each kind of item and place.
struct Identity<I, S>(PhantomData<(I, S)>);

// SAFETY: the allocator gives memory that is ours alone; the "device" is in this process, and an
// address is a pointer.
unsafe impl<I, S> Hal for Identity<I, S> {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let memory = Pages::new(pages * PAGE_SIZE);
        let ptr = memory.ptr();
        // `dma_dealloc` frees it.
        std::mem::forget(memory);
        (ptr.as_ptr().expose_provenance() as PhysAddr, ptr)
    }

    unsafe fn dma_dealloc(_: PhysAddr, ptr: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: it came from `dma_alloc`, with as many pages.
        drop(unsafe { Pages::from_raw(ptr, pages * PAGE_SIZE) });
        0
    }

    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("there are no registers")
    }

    #[inline(always)] // as cheap as it can be
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.cast::<u8>().as_ptr().expose_provenance() as PhysAddr
    }

    #[inline(always)] // nothing
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// A transport that remembers where its queue is.
struct Board {
    areas: Areas,
    register: Box<Register>,
}

impl Transport for Board {
    fn device_type(&self) -> DeviceType {
        DeviceType::Network
    }
    fn read_device_features(&mut self) -> u64 {
        0
    }
    fn write_driver_features(&mut self, _: u64) {}
    fn max_queue_size(&mut self, _: u16) -> u32 {
        QUEUE.into()
    }
    #[inline(always)] // one store
    fn notify(&mut self, queue: u16) {
        self.register.ring(queue);
    }
    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::empty()
    }
    fn set_status(&mut self, _: DeviceStatus) {}
    fn set_guest_page_size(&mut self, _: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, _: u16, size: u32, desc: u64, driver: u64, device: u64) {
        self.areas = Areas {
            desc,
            driver,
            device,
            num: size as u16,
        };
    }
    fn queue_unset(&mut self, _: u16) {}
    fn queue_used(&mut self, _: u16) -> bool {
        false
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::empty()
    }
    fn read_config_generation(&self) -> u32 {
        0
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, _: usize) -> virtio_drivers::Result<T> {
        Err(virtio_drivers::Error::ConfigSpaceMissing)
    }
    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        _: usize,
        _: T,
    ) -> virtio_drivers::Result<()> {
        Err(virtio_drivers::Error::ConfigSpaceMissing)
    }
}

/// A queue of `virtio-drivers`, its items, which of them are in the pool, and which are with the
/// device, by token.
#[repr(align(128))]
pub struct VirtioDrivers<I: Slices, S: Site> {
    queue: VirtQueue<Identity<I, S>, { QUEUE as usize }>,
    items: Vec<I>,
    pool: Vec<u16>,
    lent: [u16; QUEUE as usize],
    board: Board,
}

const QUEUE_WORKS: &str = "a queue with room, and an honest device";

impl<I: Slices, S: Site> VirtioDrivers<I, S> {
    /// A queue with these features, and a pool of so many items.
    #[must_use]
    pub fn new(indirect: bool, event_idx: bool, items: usize) -> Self {
        let areas = Areas {
            desc: 0,
            driver: 0,
            device: 0,
            num: 0,
        };
        let mut board = Board {
            areas,
            register: Register::new(),
        };
        let mut queue = VirtQueue::new(&mut board, 0, indirect, event_idx).expect(QUEUE_WORKS);
        queue.set_dev_notify(false);
        Self {
            queue,
            items: self::items(items),
            pool: (0..items as u16).collect(),
            lent: [0; QUEUE as usize],
            board,
        }
    }
}

impl<I: Slices, S: Site> Driver for VirtioDrivers<I, S> {
    #[inline(always)] // is the caller's code
    fn submit(&mut self, n: usize) {
        for _ in 0..n {
            let index = self.pool.pop().expect(QUEUE_WORKS);
            let (queue, item) = (&mut self.queue, &mut self.items[usize::from(index)]);
            // SAFETY: nobody uses the item before its index is in the pool again.
            let token = item.slices(|inputs, outputs| unsafe { queue.add(inputs, outputs) });
            let token = token.expect(QUEUE_WORKS);
            self.lent[usize::from(token)] = index;
        }
    }

    /// `add` has published.
    #[inline(always)] // nothing
    fn publish(&mut self) {}

    #[inline(always)] // is the caller's code
    fn kick(&mut self) {
        if self.queue.should_notify() {
            self.board.notify(0);
        }
    }

    #[inline(always)] // is the caller's code
    fn reap(&mut self) -> usize {
        let mut reaped = 0;
        while let Some(token) = self.queue.peek_used() {
            let index = self.lent[usize::from(token)];
            let (queue, item) = (&mut self.queue, &mut self.items[usize::from(index)]);
            // SAFETY: the item is the one that was handed in for this token.
            let used =
                item.slices(|inputs, outputs| unsafe { queue.pop_used(token, inputs, outputs) });
            used.expect(QUEUE_WORKS);
            give_back(&mut self.pool, index);
            reaped += 1;
        }
        reaped
    }

    fn areas(&self) -> Areas {
        self.board.areas
    }

    fn pieces(&self) -> &'static [Piece] {
        I::PIECES
    }

    fn data_piece(&self) -> usize {
        I::DATA
    }

    fn owned(&self) -> Vec<Owned> {
        owned(
            self.pool
                .iter()
                .map(|index| &self.items[usize::from(*index)]),
        )
    }
}
