//! A guest whose memory is a `GuestMemoryMmap`, as a virtual machine monitor sees it, and a
//! transport that hands a queue to whoever plays the device.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vring::features::Features;
use vring::platform::{Direction, DmaAddr, DmaError, Mapping, Platform, RawRegion};
use vring::transport::{
    DeviceId, Doorbell, Isr, QueueAreas, QueueIndex, Status, Transport, TransportError,
};

/// Where the guest's memory begins: above 4 GiB, and no pointer.
const BASE: u64 = 0x5_0000_0000;
const SIZE: usize = 8 << 20;

/// A platform in guest memory. With `DIRECT`, buffers have to lie in it; otherwise they are
/// copied into it and back.
#[derive(Clone, Debug)]
pub(crate) struct Guest<const DIRECT: bool> {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    memory: GuestMemoryMmap,
    /// What is in use: offset and length.
    used: Mutex<BTreeMap<usize, usize>>,
}

impl<const DIRECT: bool> Guest<DIRECT> {
    pub(crate) fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(BASE), SIZE)]).unwrap();
        let used = Mutex::new(BTreeMap::new());
        Self {
            shared: Arc::new(Shared { memory, used }),
        }
    }

    pub(crate) fn memory(&self) -> &GuestMemoryMmap {
        &self.shared.memory
    }

    pub(crate) fn assert_no_leaks(&self) {
        let used = self.shared.used.lock().unwrap();
        assert!(used.is_empty(), "left in guest memory: {used:?}");
    }

    /// Takes the first gap that is large enough.
    pub(crate) fn take(&self, size: usize, align: usize) -> Option<(NonNull<u8>, DmaAddr)> {
        let mut used = self.shared.used.lock().unwrap();
        let mut at = 0_usize;
        for (&start, &len) in used.iter() {
            if at.next_multiple_of(align) + size <= start {
                break;
            }
            at = start + len;
        }
        let at = at.next_multiple_of(align);
        if at + size > SIZE {
            return None;
        }
        used.insert(at, size);
        let addr = GuestAddress(BASE).unchecked_add(at as u64);
        let ptr = self.memory().get_host_address(addr).unwrap();
        Some((NonNull::new(ptr).unwrap(), DmaAddr(addr.0)))
    }

    pub(crate) fn free(&self, addr: DmaAddr) {
        let removed = self
            .shared
            .used
            .lock()
            .unwrap()
            .remove(&((addr.0 - BASE) as usize));
        assert!(removed.is_some(), "{addr} was freed twice");
    }

    fn address(&self, ptr: NonNull<u8>, len: usize) -> Option<DmaAddr> {
        let base = self.memory().get_host_address(GuestAddress(BASE)).unwrap();
        let offset = ptr.as_ptr().addr().checked_sub(base.addr())?;
        (offset + len <= SIZE).then_some(DmaAddr(BASE + offset as u64))
    }
}

// SAFETY: 1. `take` gives memory out once, until it is freed; it is zeroed here. 2. A direct
// address is the buffer's own, another one that of a copy with its length. 3. Clones share it all.
unsafe impl<const DIRECT: bool> Platform for Guest<DIRECT> {
    const DIRECT: bool = DIRECT;

    fn alloc(&self, layout: Layout) -> Result<RawRegion, DmaError> {
        let (size, align) = (layout.size(), layout.align());
        let none = DmaError::OutOfMemory { size, align };
        let (ptr, addr) = self.take(size, align).ok_or(none)?;
        self.memory()
            .write_slice(&vec![0; size], GuestAddress(addr.0))
            .unwrap();
        Ok(RawRegion { ptr, addr, layout })
    }

    unsafe fn dealloc(&self, region: RawRegion) {
        self.free(region.addr);
    }

    unsafe fn map(&self, buf: NonNull<[u8]>, direction: Direction) -> Result<Mapping, DmaError> {
        let (ptr, len) = (buf.cast::<u8>(), buf.len());
        if DIRECT {
            let address = ptr.as_ptr().addr();
            let addr = self
                .address(ptr, len)
                .ok_or(DmaError::Unmappable { address })?;
            return Ok(Mapping {
                addr,
                len: len as u32,
                ptr,
                token: 0,
            });
        }
        let none = DmaError::OutOfMemory {
            size: len,
            align: 1,
        };
        let (_, addr) = self.take(len, 1).ok_or(none)?;
        if direction == Direction::Readable {
            // SAFETY: the caller vouches for the buffer, which nobody writes while it is lent.
            let bytes = unsafe { buf.as_ref() };
            self.memory()
                .write_slice(bytes, GuestAddress(addr.0))
                .unwrap();
        }
        Ok(Mapping {
            addr,
            len: len as u32,
            ptr,
            token: 0,
        })
    }

    unsafe fn unmap(&self, mapping: Mapping, direction: Direction, used: u32) {
        if direction == Direction::Writable {
            let mut bytes = vec![0; used as usize];
            self.memory()
                .read_slice(&mut bytes, GuestAddress(mapping.addr.0))
                .unwrap();
            // SAFETY: the buffer is still valid, at least `used` bytes long, and not borrowed.
            unsafe {
                mapping
                    .ptr
                    .copy_from_nonoverlapping(NonNull::from(&bytes[..]).cast(), bytes.len())
            };
        }
        self.free(mapping.addr);
    }
}

/// A transport with one queue, which it turns into rust-vmm's.
#[derive(Debug)]
pub(crate) struct OneQueue<const DIRECT: bool> {
    guest: Guest<DIRECT>,
    offered: Features,
    start: u16,
    doorbell: fn(usize, u32),
    context: usize,
    status: Status,
    /// The device's side, once the driver has enabled the queue.
    pub(crate) queue: Mutex<Option<Queue>>,
}

impl<const DIRECT: bool> OneQueue<DIRECT> {
    pub(crate) fn new(guest: &Guest<DIRECT>, offered: Features, start: u16) -> Self {
        Self {
            guest: guest.clone(),
            offered,
            start,
            doorbell: |_, _| {},
            context: 0,
            status: Status::empty(),
            queue: Mutex::new(None),
        }
    }

    /// Has `function` called with `context` for each doorbell.
    pub(crate) fn doorbell(mut self, function: fn(usize, u32), context: usize) -> Self {
        (self.doorbell, self.context) = (function, context);
        self
    }
}

// SAFETY: 1. The areas go to the one `queue`. 2. The tests reset the device when they have dropped
// the queue that they took out.
unsafe impl<const DIRECT: bool> Transport for OneQueue<DIRECT> {
    fn device_id(&self) -> DeviceId {
        DeviceId::ENTROPY
    }
    fn num_queues(&self) -> Option<u16> {
        Some(1)
    }
    fn status(&self) -> Status {
        self.status
    }
    fn set_status(&mut self, status: Status) {
        self.status = status;
        if status.is_empty() {
            self.queue = Mutex::new(None);
        }
    }
    fn device_features(&mut self) -> Features {
        self.offered
    }
    fn set_driver_features(&mut self, features: Features) {
        self.offered = features;
    }
    fn max_queue_size(&mut self, _: QueueIndex) -> u16 {
        32768
    }
    unsafe fn enable_queue(
        &mut self,
        _: QueueIndex,
        size: u16,
        areas: &QueueAreas,
        _: Option<u16>,
    ) -> Result<Doorbell, TransportError> {
        let mut queue = Queue::new(32768).unwrap();
        queue.try_set_size(size).unwrap();
        queue
            .try_set_desc_table_address(GuestAddress(areas.desc.0))
            .unwrap();
        queue
            .try_set_avail_ring_address(GuestAddress(areas.driver.0))
            .unwrap();
        queue
            .try_set_used_ring_address(GuestAddress(areas.device.0))
            .unwrap();
        queue.set_event_idx(self.offered.has(vring::features::Feature::EVENT_IDX));
        queue.set_next_avail(self.start);
        queue.set_next_used(self.start);
        queue.set_ready(true);
        assert!(queue.is_valid(self.guest.memory()), "{areas:?}");
        let memory = self.guest.memory();
        let avail_event = 4 + 8 * u64::from(size);
        for (area, offset) in [
            (areas.driver, 2),
            (areas.device, 2),
            (areas.device, avail_event),
        ] {
            memory
                .write_obj(self.start.to_le(), GuestAddress(area.0 + offset))
                .unwrap();
        }
        self.queue = Mutex::new(Some(queue));
        Ok(Doorbell::function(self.doorbell, self.context, 0))
    }
    fn set_config_vector(&mut self, _: Option<u16>) -> Result<(), TransportError> {
        Err(TransportError::NoVectors)
    }
    fn config_generation(&self) -> Option<u32> {
        None
    }
    fn config_size(&self) -> usize {
        0
    }
    fn read_config(&self, offset: usize, dst: &mut [u8]) -> Result<(), TransportError> {
        Err(TransportError::ConfigOutOfRange {
            offset,
            len: dst.len(),
            size: 0,
        })
    }
    fn write_config(&mut self, offset: usize, src: &[u8]) -> Result<(), TransportError> {
        Err(TransportError::ConfigOutOfRange {
            offset,
            len: src.len(),
            size: 0,
        })
    }
    fn take_isr(&mut self) -> Option<Isr> {
        None
    }
}
