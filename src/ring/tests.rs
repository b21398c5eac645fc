use alloc::vec::Vec;
use core::alloc::Layout;

use super::core::{AnyFormat, ChainInfo, Memory, Ring as AnyRing, RingOptions};
use super::format::{Format, Formatted, Piece};
use super::take::pop;
use crate::dma::DmaRegion;
use crate::ring::layout::{DescriptorFlags, USED_ALIGN_SIZE, packed_init, vring_init};
use crate::ring::storage::{Slot, Storage};
use crate::shared::{PackedMemory, Place, SplitMemory};
use crate::testing::{InPlace, QueueDevice, QueueOptions, Violations};
use crate::virtqueue::Fault;

const SIZE: u16 = 8;

type Ring = AnyRing<InPlace, u32>;

fn ring(platform: &InPlace) -> Ring {
    let layout = vring_init(SIZE, USED_ALIGN_SIZE).unwrap();
    let layout = Layout::from_size_align(layout.size(), layout.alignment()).unwrap();
    let region = DmaRegion::alloc(platform, layout).unwrap();
    let memory = SplitMemory::new(region, SIZE, USED_ALIGN_SIZE).unwrap();
    let slots = Storage::heap(SIZE.into(), Slot::new);
    Ring::new(Memory::Split(memory), slots, RingOptions::default())
}

fn device(platform: &InPlace, ring: &Ring) -> QueueDevice {
    let log = Violations::new();
    log.set_lenient(); // the buffers are nowhere
    let options = QueueOptions::default();
    QueueDevice::new(platform.bus(), SIZE, &ring.areas(), options, &log)
}

/// Submits a chain of one descriptor.
fn submit(ring: &mut Ring, payload: u32) -> u16 {
    let head = ring.counts.head();
    let next = ring.counts.next();
    ring.slots[usize::from(head)].payload.park(payload, next);
    let behind = ring.next(head);
    let AnyFormat::Split(memory) = &ring.format else {
        unreachable!("a split ring")
    };
    let piece = Piece {
        addr: 0,
        len: 1,
        flags: 2,
    };
    let format = memory.format();
    format.describe(&mut ring.counts, head.into(), head.into(), 0, piece, 0);
    let (len, pieces, writable) = (1, 1, 1);
    let (table, header, reply) = (false, false, false);
    ring.commit(&ChainInfo {
        tail: head,
        behind,
        len,
        pieces,
        table,
        writable,
        header,
        reply,
    });
    head
}

/// The payload that came back.
fn come_back(ring: &mut Ring) -> Result<u32, Fault> {
    let AnyFormat::Split(memory) = &ring.format else {
        unreachable!("a split ring")
    };
    let format = memory.format();
    match pop(&format, &mut ring.slots, &mut ring.counts, &ring.in_order) {
        Ok(used) => Ok(used.unwrap().payload),
        Err(trouble) => Err(ring.trouble(trouble)),
    }
}

/// Makes it so that `others` more chains came and went, a multiple of 65536.
fn pass(ring: &mut Ring, others: u64) {
    assert_eq!(others % 65_536, 0);
    let counts = &mut ring.counts;
    for count in [
        &mut counts.next,
        &mut counts.published,
        &mut counts.completed,
        &mut counts.seen,
        &mut counts.ready,
    ] {
        *count += others;
    }
}

#[test]
fn bug_class_37_a_chain_may_stay_while_thousands_of_millions_of_others_come_and_go() {
    for others in [1 << 16, (1 << 31) - (1 << 16), 1 << 31, 3 << 30, 1 << 33] {
        let platform = InPlace::new();
        let mut ring = ring(&platform);
        let mut device = device(&platform, &ring);
        submit(&mut ring, 7);
        ring.publish();
        submit(&mut ring, 8);
        ring.publish();
        let chains: Vec<_> = core::iter::from_fn(|| device.pop()).collect();
        let [first, second] = chains.try_into().unwrap();
        device.complete(second, 0);
        assert_eq!(come_back(&mut ring).unwrap(), 8);
        pass(&mut ring, others);
        // One that is not published does not hide it.
        let unpublished = submit(&mut ring, 9);
        device.complete(first, 0);
        assert_eq!(come_back(&mut ring).unwrap(), 7, "after {others}");
        ring.publish();
        submit(&mut ring, 10);
        let chain = device.pop().unwrap();
        assert_eq!(chain.head(), unpublished);
        device.complete(chain, 0);
        assert_eq!(come_back(&mut ring).unwrap(), 9);
    }
}

#[test]
fn bug_class_37_what_is_not_published_cannot_be_returned() {
    for others in [0, 1 << 31, 1 << 32, 1 << 33] {
        for published in 0..3 {
            let platform = InPlace::new();
            let mut ring = ring(&platform);
            let mut device = device(&platform, &ring);
            pass(&mut ring, others);
            for payload in 0..=published {
                submit(&mut ring, payload);
                ring.publish();
            }
            let id = submit(&mut ring, 99).into();
            submit(&mut ring, 100);
            device.forge_used(id, 0);
            let fault = come_back(&mut ring).unwrap_err();
            assert_eq!(fault, Fault::UsedIdNotInFlight { id });
        }
    }
}

/// One chain of a packed ring, of `writable` bytes to write, as it came back with a length and
/// flags: bytes written, bytes claimed.
fn packed_length(writable: u32, len: u32, flags: u16) -> (u32, u32) {
    let platform = InPlace::new();
    let layout = packed_init(SIZE).unwrap();
    let layout = Layout::from_size_align(layout.size(), layout.alignment()).unwrap();
    let region = DmaRegion::alloc(&platform, layout).unwrap();
    let memory = Memory::Packed(PackedMemory::new(region, SIZE).unwrap());
    let slots = Storage::heap(SIZE.into(), Slot::new);
    let mut ring: Ring = Ring::new(memory, slots, RingOptions::default());
    ring.slots[0].payload.park(7, 0);
    let behind = ring.next(0);
    ring.commit(&ChainInfo {
        tail: 0,
        behind,
        len: 1,
        pieces: 1,
        table: false,
        writable,
        header: false,
        reply: false,
    });
    ring.publish();
    let AnyFormat::Packed(memory) = &ring.format else {
        unreachable!("a packed ring")
    };
    let format = memory.format();
    // Used in the first lap: both flags are set.
    let used = u64::from(len) | u64::from(flags | 0x8080) << 48;
    let (descriptor, _) = format.memory.descriptor(&mut Place::new(0));
    descriptor.set_word(used);
    let used = pop(&format, &mut ring.slots, &mut ring.counts, &ring.in_order);
    let Ok(Some(used)) = used else {
        unreachable!("it came back")
    };
    (used.written, used.claimed)
}

/// DPDK leaves the length of a transmitted frame as the driver wrote it.
#[test]
fn a_length_that_a_packed_ring_reserves_is_no_claim() {
    let write = DescriptorFlags::WRITE.bits();
    assert_eq!(packed_length(0, 1434, 0), (0, 0));
    assert_eq!(packed_length(0, 1434, write), (0, 1434));
    // QEMU never says that it wrote.
    assert_eq!(packed_length(2048, 1434, 0), (1434, 1434));
    assert_eq!(packed_length(1000, 1434, 0), (1000, 1434));
    assert_eq!(packed_length(1000, 1434, write), (1000, 1434));
}
