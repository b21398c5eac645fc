//! What `virtio-drivers` 0.13 wants to know of its surroundings, in the way that costs it least.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, anyhow};
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Error, Hal, PAGE_SIZE, PhysAddr, Result};
use vring::platform::{DmaAddr, Platform as _, RawRegion};
use vring::transport::{Doorbell, QueueIndex};
use vring_hosted::memory::{Region, Shared};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::raw::{Raw, distance};

/// Its name among contenders.
pub(crate) const NAME: &str = "virtio-drivers 0.13";

/// The region of the session that runs: the crate has no place for a handle.
static REGION: Mutex<Option<Arc<Region>>> = Mutex::new(None);
/// [`distance`] of that region.
static DISTANCE: AtomicU64 = AtomicU64::new(0);

/// From here on, rings and buffers are in that region.
pub(crate) fn enter(region: &Arc<Region>) {
    DISTANCE.store(distance(region), Ordering::Relaxed);
    *REGION.lock().unwrap_or_else(PoisonError::into_inner) = Some(region.clone());
}

fn platform() -> Option<Shared> {
    let region = REGION.lock().unwrap_or_else(PoisonError::into_inner);
    region.as_ref().map(Shared::new)
}

fn layout(pages: usize) -> Option<Layout> {
    Layout::from_size_align(pages.checked_mul(PAGE_SIZE)?, PAGE_SIZE).ok()
}

/// Memory of the region; an address for the device is a fixed distance away.
#[derive(Debug)]
pub(crate) struct Memory;

// SAFETY: `dma_alloc` gives out pages of the region that are nobody else's, zeroed.
unsafe impl Hal for Memory {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let raw = platform()
            .zip(layout(pages))
            .map(|(platform, layout)| platform.alloc(layout));
        match raw {
            Some(Ok(raw)) => (raw.addr.0, raw.ptr),
            // 0 stands for "none", and the pointer is not looked at.
            _ => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(paddr: PhysAddr, ptr: NonNull<u8>, pages: usize) -> i32 {
        let Some((platform, layout)) = platform().zip(layout(pages)) else {
            return -1;
        };
        let addr = DmaAddr(paddr);
        // SAFETY: it came from `dma_alloc`, in the same session.
        unsafe { platform.dealloc(RawRegion { ptr, addr, layout }) };
        0
    }

    unsafe fn mmio_phys_to_virt(_: PhysAddr, _: usize) -> NonNull<u8> {
        unreachable!("there are no registers")
    }

    #[inline]
    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        let address = buffer.cast::<u8>().addr().get() as u64;
        address.wrapping_add(DISTANCE.load(Ordering::Relaxed))
    }

    #[inline]
    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// A transport that remembers where a queue is.
struct Note(Option<[PhysAddr; 3]>);

impl Transport for Note {
    fn device_type(&self) -> DeviceType {
        DeviceType::Network
    }
    fn read_device_features(&mut self) -> u64 {
        0
    }
    fn write_driver_features(&mut self, _: u64) {}
    fn max_queue_size(&mut self, _: u16) -> u32 {
        1 << 15
    }
    fn notify(&mut self, _: u16) {}
    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::empty()
    }
    fn set_status(&mut self, _: DeviceStatus) {}
    fn set_guest_page_size(&mut self, _: u32) {}
    fn requires_legacy_layout(&self) -> bool {
        false
    }
    fn queue_set(&mut self, _: u16, _: u32, desc: PhysAddr, driver: PhysAddr, device: PhysAddr) {
        self.0 = Some([desc, driver, device]);
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
    fn read_config_space<T: FromBytes + IntoBytes>(&self, _: usize) -> Result<T> {
        Err(Error::ConfigSpaceMissing)
    }
    fn write_config_space<T: IntoBytes + Immutable>(&mut self, _: usize, _: T) -> Result<()> {
        Err(Error::ConfigSpaceMissing)
    }
}

/// A queue of a device, which polls for what comes back.
pub(crate) fn queue<const SIZE: usize>(
    device: &mut Raw,
    index: QueueIndex,
    indirect: bool,
    event_idx: bool,
) -> anyhow::Result<(VirtQueue<Memory, SIZE>, Doorbell)> {
    let mut note = Note(None);
    let queue = VirtQueue::new(&mut note, index.0, indirect, event_idx);
    let mut queue = queue.map_err(|error| anyhow!("{error}"))?;
    queue.set_dev_notify(false);
    let areas = note.0.context("it has set no queue")?;
    let distance = DISTANCE.load(Ordering::Relaxed);
    let areas =
        areas.map(|addr| std::ptr::with_exposed_provenance(addr.wrapping_sub(distance) as usize));
    // SAFETY: they are the areas of this queue, in the region of this session, whose owner resets
    // the device before it drops the queue.
    let doorbell = unsafe { device.queue(index, SIZE as u16, areas)? };
    Ok((queue, doorbell))
}
