//! A minimal network driver on virtio-drivers: finds the card, sends a frame, and receives one.
#![no_std]
#![no_main]

use core::ptr::NonNull;

use size_rt as rt;
use virtio_drivers::device::net::VirtIONetRaw;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{Cam, Command, MmioCam, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// Descriptors of each queue.
const N: usize = 64;

static mut BUFFERS: [[u8; 2048]; 2] = [[0; 2048]; 2];

/// Physical is virtual.
struct Identity;

// SAFETY: the arena gives zeroed memory once and never again, at its physical address.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        match rt::alloc(pages * PAGE_SIZE, PAGE_SIZE) {
            Some(ptr) => (ptr.addr().get() as PhysAddr, ptr),
            // An address of 0 says that there is none.
            None => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(_: PhysAddr, _: NonNull<u8>, _: usize) -> i32 {
        0
    }

    unsafe fn mmio_phys_to_virt(physical: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(physical as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.addr().get() as PhysAddr
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}

/// Whether the answer came.
fn exchange() -> Option<()> {
    // SAFETY: QEMU's q35 has it there, mapped for ever; nothing else uses it.
    let config = unsafe { MmioCam::new(rt::ECAM as *mut u8, Cam::Ecam) };
    let mut root = PciRoot::new(config);
    let (card, _) = root
        .enumerate_bus(0)
        .find(|(_, info)| virtio_device_type(info) == Some(DeviceType::Network))?;
    root.set_command(card, Command::MEMORY_SPACE | Command::BUS_MASTER);
    let transport = PciTransport::new::<Identity, _>(&mut root, card).ok()?;
    let mut driver = VirtIONetRaw::<Identity, _, N>::new(transport).ok()?;
    let buffers = &raw mut BUFFERS;
    // SAFETY: this runs once, and nobody else names it.
    let [incoming, outgoing] = unsafe { &mut *buffers };
    // SAFETY: the buffer is left alone until it is received.
    let mut receiving = unsafe { driver.receive_begin(incoming) }.ok()?;

    let start = driver.fill_buffer_header(outgoing).ok()?;
    let end = start + rt::QUESTION.len();
    outgoing.get_mut(start..end)?.copy_from_slice(&rt::QUESTION);
    let outgoing = outgoing.get(..end)?;
    // SAFETY: the buffer is left alone until it is sent.
    let sending = unsafe { driver.transmit_begin(outgoing) }.ok()?;
    let mut answered = false;
    let mut sent = false;
    while !(answered && sent) {
        if !sent && driver.poll_transmit() == Some(sending) {
            // SAFETY: the buffer that was begun with.
            unsafe { driver.transmit_complete(sending, outgoing) }.ok()?;
            sent = true;
        }
        if driver.poll_receive() == Some(receiving) {
            // SAFETY: the buffer that was begun with.
            let (at, len) = unsafe { driver.receive_complete(receiving, incoming) }.ok()?;
            answered = rt::is_answer(incoming.get(at..at + len)?);
            // SAFETY: the buffer is left alone until it is received.
            receiving = unsafe { driver.receive_begin(incoming) }.ok()?;
        }
    }
    // The machine ends here; a driver that is dropped would take its queues away.
    core::mem::forget(driver);
    Some(())
}

#[unsafe(no_mangle)]
extern "C" fn run() -> bool {
    exchange().is_some()
}
