//! `virtio-driver` 0.6.1, the driver of libblkio: its `Virtqueue`, split or packed.

use std::io;

use virtio_driver::virtqueue::{Virtqueue, VirtqueueLayout};
use virtio_driver::{Iova, IovaTranslator, VirtioFeatureFlags};

use super::memory::{Pages, Register};
use super::{Driver, Owned, QUEUE, give_back, items, owned};
use crate::device::Areas;
use crate::item::{Piece, Request};

/// Physical is virtual.
struct Identity;

impl IovaTranslator for Identity {
    #[inline(always)] // as cheap as it can be
    fn translate_addr(&self, addr: usize, _: usize) -> io::Result<Iova> {
        Ok(Iova(addr as u64))
    }
}

/// A queue of `virtio-driver`, its items, which of them are in the pool, and which are with the
/// device, by id.
#[repr(align(128))]
pub struct Libblkio<I: Request> {
    /// Borrows from `_memory`, which is dropped after it.
    queue: Virtqueue<'static, I::Shared>,
    items: Vec<I>,
    pool: Vec<u16>,
    lent: [u16; QUEUE as usize],
    register: Box<Register>,
    _memory: Pages,
}

const QUEUE_WORKS: &str = "a queue with room, and an honest device";

impl<I: Request> Libblkio<I> {
    /// A queue with these features, and a pool of so many items.
    #[must_use]
    pub fn new(packed: bool, event_idx: bool, items: usize) -> Self {
        let mut features = VirtioFeatureFlags::VERSION_1;
        features.set(VirtioFeatureFlags::RING_PACKED, packed);
        features.set(VirtioFeatureFlags::RING_EVENT_IDX, event_idx);
        let layout = VirtqueueLayout::new::<I::Shared>(1, QUEUE.into(), features);
        let memory = Pages::new(layout.expect(QUEUE_WORKS).end_offset);
        memory.ptr().as_ptr().expose_provenance();
        // SAFETY: the pages are initialized, used by the queue alone, and outlive it: fields are
        // dropped in their order.
        let bytes = unsafe { std::slice::from_raw_parts_mut(memory.ptr().as_ptr(), memory.len()) };
        let queue = Virtqueue::new(Box::new(Identity), bytes, QUEUE, features);
        let mut queue = queue.expect(QUEUE_WORKS);
        queue.set_used_notif_enabled(false);
        Self {
            queue,
            items: self::items(items),
            pool: (0..items as u16).collect(),
            lent: [0; QUEUE as usize],
            register: Register::new(),
            _memory: memory,
        }
    }
}

impl<I: Request> Driver for Libblkio<I> {
    #[inline(always)] // is the caller's code
    fn submit(&mut self, n: usize) {
        for _ in 0..n {
            let index = self.pool.pop().expect(QUEUE_WORKS);
            let item = &mut self.items[usize::from(index)];
            let id = self
                .queue
                .add_request(|shared, add| item.request(shared, add));
            self.lent[usize::from(id.expect(QUEUE_WORKS))] = index;
        }
    }

    /// `add_request` has published.
    #[inline(always)] // nothing
    fn publish(&mut self) {}

    #[inline(always)] // is the caller's code
    fn kick(&mut self) {
        if self.queue.avail_notif_needed() {
            self.register.ring(0);
        }
    }

    #[inline(always)] // is the caller's code
    fn reap(&mut self) -> usize {
        let mut reaped = 0;
        for done in self.queue.completions() {
            give_back(&mut self.pool, self.lent[usize::from(done.id)]);
            reaped += 1;
        }
        reaped
    }

    fn areas(&self) -> Areas {
        Areas {
            desc: self.queue.desc_table_ptr() as u64,
            driver: self.queue.driver_area_ptr() as u64,
            device: self.queue.device_area_ptr() as u64,
            num: QUEUE,
        }
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
