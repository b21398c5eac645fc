//! A minimal network driver on vring: finds the card, sends a frame, and receives one.
#![no_std]
#![no_main]

use core::alloc::Layout;
use core::iter;
use core::ptr::NonNull;

use size_rt as rt;
use vring::Platform;
use vring::buffer::{Readable, Window, Writable};
use vring::device::net;
use vring::platform::{Direction, DmaAddr, DmaError, Mapping, RawRegion};
use vring::ring::Slot;
use vring::transport::{DeviceId, Registers, pci};
use vring::virtqueue::QueueStorage;

/// Descriptors of each queue.
const N: usize = 64;
type Memory = &'static mut [u8];

static mut RECEIVE: [Slot<Writable<Memory>>; N] = [const { Slot::new() }; N];
static mut TRANSMIT: [Slot<Readable<Window<Memory>>>; N] = [const { Slot::new() }; N];
static mut BUFFERS: [[u8; 2048]; 2] = [[0; 2048]; 2];

/// Physical is virtual.
#[derive(Clone, Copy, Debug)]
struct Identity;

// SAFETY: the arena gives zeroed memory once and never again, at its physical address.
unsafe impl Platform for Identity {
    const DIRECT: bool = true;

    fn alloc(&self, layout: Layout) -> Result<RawRegion, DmaError> {
        let (size, align) = (layout.size(), layout.align());
        let ptr = rt::alloc(size, align).ok_or(DmaError::OutOfMemory { size, align })?;
        let addr = DmaAddr(ptr.addr().get() as u64);
        Ok(RawRegion { ptr, addr, layout })
    }

    unsafe fn dealloc(&self, _: RawRegion) {}

    #[inline]
    unsafe fn map(&self, buf: NonNull<[u8]>, _: Direction) -> Result<Mapping, DmaError> {
        let ptr = buf.cast::<u8>();
        Ok(Mapping {
            addr: DmaAddr(ptr.addr().get() as u64),
            len: buf.len() as u32,
            ptr,
            token: 0,
        })
    }

    unsafe fn unmap(&self, _: Mapping, _: Direction, _: u32) {}
}

fn registers(physical: u64, len: usize) -> Option<Registers> {
    let base = NonNull::new(physical as *mut u8)?;
    // SAFETY: the low 4 GiB are mapped for ever, and QEMU put its devices there; nothing else uses
    // them.
    Some(unsafe { Registers::new(base, len) })
}

/// Whether the answer came.
fn exchange() -> Option<()> {
    let config = pci::Ecam::new(registers(rt::ECAM as u64, rt::ECAM_LEN)?, 0, 0..=0);
    let card = pci::scan(&config).find(|found| found.virtio() == Some(DeviceId::NETWORK))?;
    let transport = pci::PciTransport::new(&config, card.address, registers).ok()?;
    let mut options = net::Options::default();
    (options.receive_size, options.transmit_size) = (N as u16, N as u16);
    // A frame with its headroom is one descriptor.
    options.indirect = false;
    let (receive, transmit, buffers) = (&raw mut RECEIVE, &raw mut TRANSMIT, &raw mut BUFFERS);
    // SAFETY: this runs once, and nobody else names it.
    let receive = unsafe { &mut *receive };
    // SAFETY: as above.
    let transmit = unsafe { &mut *transmit };
    // SAFETY: as above.
    let [incoming, outgoing] = unsafe { &mut *buffers };
    let mappings = || -> &'static mut [_] { &mut [] };
    let storage = net::Storage {
        receive: QueueStorage {
            slots: receive,
            mappings: mappings(),
        },
        transmit: QueueStorage {
            slots: transmit,
            mappings: mappings(),
        },
    };
    let mut driver = net::Driver::new_in(Identity, transport, options, storage).ok()?;
    let (rx, tx, _) = driver.parts();
    rx.refill(&mut iter::once(&mut incoming[..])).ok()?;

    let start = tx.header_len();
    outgoing
        .get_mut(start..start + rt::QUESTION.len())?
        .copy_from_slice(&rt::QUESTION);
    tx.transmit(Window::new(&mut outgoing[..], start, rt::QUESTION.len()))
        .ok()?;
    tx.kick();
    let mut answered = false;
    let mut sent = false;
    while !(answered && sent) {
        sent |= tx.reclaim(|_| {}).ok()? > 0;
        if let Some(frame) = rx.receive().ok()? {
            answered = rt::is_answer(frame.as_slice());
            rx.give(frame.into_memory()).ok()?;
            rx.kick();
        }
    }
    // The machine ends here; a driver that is dropped would reset the card.
    core::mem::forget(driver);
    Some(())
}

#[unsafe(no_mangle)]
extern "C" fn run() -> bool {
    exchange().is_some()
}
