use alloc::rc::Rc;
use alloc::vec::Vec;
use core::alloc::Layout;

use super::core::{AnyFormat, ChainInfo, Memory, Ring as AnyRing, RingOptions};
use super::format::{Format, Formatted, Piece};
use super::payload::Payload;
use super::take::pop;
use crate::dma::DmaRegion;
use crate::platform::{DmaAddr, Platform};
use crate::ring::layout::{DescriptorFlags, USED_ALIGN_SIZE, packed_init, vring_init};
use crate::ring::storage::{Slot, Storage};
use crate::shared::{PackedMemory, Place, SplitMemory};
use crate::testing::{Bouncing, InPlace, QueueDevice, QueueOptions, Violations};
use crate::virtqueue::Fault;

const SIZE: u16 = 8;

type Ring = AnyRing<InPlace, u32>;

fn split_memory<P: Platform>(platform: &P) -> SplitMemory<P> {
    let layout = vring_init(SIZE, USED_ALIGN_SIZE).unwrap();
    let layout = Layout::from_size_align(layout.size(), layout.alignment()).unwrap();
    let region = DmaRegion::alloc(platform, layout).unwrap();
    SplitMemory::new(region, SIZE, USED_ALIGN_SIZE).unwrap()
}

fn packed_memory(platform: &InPlace) -> PackedMemory<InPlace> {
    let layout = packed_init(SIZE).unwrap();
    let layout = Layout::from_size_align(layout.size(), layout.alignment()).unwrap();
    let region = DmaRegion::alloc(platform, layout).unwrap();
    PackedMemory::new(region, SIZE).unwrap()
}

fn ring(platform: &InPlace) -> Ring {
    let memory = split_memory(platform);
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
    let memory = Memory::Packed(packed_memory(&platform));
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

/// From every index, also where the count of chains is beyond 16 bits.
fn starts() -> impl Iterator<Item = u32> {
    (0..2 * u32::from(SIZE)).flat_map(|at| [at, at + 65_536 * 7 - 8, at.wrapping_sub(9)])
}

/// Entries or elements from an index on that come before the end of a split ring.
fn before_the_end(start: u32, most: u32) -> u32 {
    most.min(u32::from(SIZE) - start % u32::from(SIZE))
}

#[test]
fn a_run_of_entries_ends_where_it_is_full_or_the_available_ring_ends() {
    let platform = InPlace::new();
    let memory = split_memory(&platform);
    let words = memory.words();
    for start in starts() {
        for most in [0, 1, 3, 8, 100, u32::MAX] {
            let mut run = words.avail_run(start, most);
            for _ in 0..before_the_end(start, most) {
                assert!(!run.is_empty(), "{most} from {start}");
                run.push(7);
            }
            assert!(run.is_empty(), "{most} from {start}");
            // Not even one who does not ask writes behind it.
            words.set_used_event(99);
            run.push(7);
            let avail = memory.areas().driver.0 + 4 + 2 * u64::from(SIZE);
            let mut event = [0; 2];
            platform.bus().read(DmaAddr(avail), &mut event);
            assert_eq!(u16::from_le_bytes(event), 99);
        }
    }
}

#[test]
fn a_run_of_elements_ends_where_it_is_read_or_the_used_ring_ends() {
    let platform = Bouncing::new();
    let memory = split_memory(&platform);
    let words = memory.words();
    for id in 0..SIZE {
        let used = memory.areas().device.0 + 4 + 8 * u64::from(id);
        platform
            .bus()
            .write(DmaAddr(used), &u32::from(id).to_le_bytes());
    }
    for start in starts() {
        for most in [0, 1, 3, 8, 100, u32::MAX] {
            let mut run = words.used_run(start, most);
            let first = start % u32::from(SIZE);
            for id in first..first + before_the_end(start, most) {
                assert_eq!(run.next(), Some((id, 0)), "{most} from {start}");
            }
            assert_eq!(run.next(), None, "{most} from {start}");
        }
    }
}

#[test]
fn a_run_of_descriptors_ends_where_it_is_full_or_the_table_ends() {
    let platform = InPlace::new();
    let memory = packed_memory(&platform);
    let words = memory.words();
    let num = u32::from(SIZE);
    // From places beyond the end, too, in any lap.
    for start in 0..3 * num {
        for most in [0, 1, 3, 8, 100, u32::MAX] {
            let run = words.run(Place::new(start), most);
            for at in start..4 * num {
                let is_in = at - start < most && at < num;
                assert_eq!(
                    run.has(Place::new(at)),
                    is_in,
                    "{at} of {most} from {start}"
                );
            }
            assert!(!run.has(Place::new(num)) && !run.has(Place::new(u32::MAX)));
        }
    }
}

#[test]
fn descriptors_that_go_over_the_end_of_the_table_are_not_had_in_one_go() {
    let platform = InPlace::new();
    let memory = packed_memory(&platform);
    let words = memory.words();
    let num = u32::from(SIZE);
    for at in 0..3 * num {
        let place = Place::new(at);
        // All that are had in one go are looked for as if they were four.
        let four = at + 3 < num;
        assert_eq!(words.descriptors::<1>(place).is_some(), four);
        assert_eq!(words.descriptors::<2>(place).is_some(), four);
        assert_eq!(words.descriptors::<4>(place).is_some(), four);
        assert!(words.descriptors::<5>(place).is_none());
        // One by one, it is said that they do.
        let mut place = place;
        let (descriptor, wraps) = words.descriptor(&mut place);
        descriptor.set_word(u64::from(at) + 1);
        assert_eq!((place, wraps), (Place::new(at % num), at >= num));
        let (descriptor, wraps) = words.descriptor(&mut place);
        assert_eq!(
            (descriptor.word_acquire(), wraps),
            (u64::from(at) + 1, false)
        );
    }
}

#[test]
fn a_buffer_is_there_from_when_it_is_parked_until_it_is_taken() {
    let mut payload = Payload::empty();
    for number in [0, 1, 1 << 40, u64::MAX - 1] {
        assert!(!payload.is_some() && payload.get_mut().is_none());
        assert_eq!(
            (payload.take_before(u64::MAX), payload.take()),
            (None, None)
        );
        *payload.park(7, number) += 1;
        assert!(payload.is_some() && payload.number() == number);
        // Only below the next number to be published.
        assert_eq!(payload.take_before(0), None);
        assert_eq!(payload.take_before(number), None);
        assert_eq!(payload.get_mut(), Some(&mut 8));
        assert_eq!(payload.take_before(number + 1), Some(8));
        assert_eq!(
            (payload.take_before(u64::MAX), payload.take()),
            (None, None)
        );
        assert_eq!(payload.number(), u64::MAX);
    }
}

#[test]
fn a_buffer_is_dropped_once_wherever_its_place_goes() {
    let buffer = Rc::new(());
    let mut payload = Payload::empty();
    payload.park(buffer.clone(), 3);
    let moved = payload;
    assert_eq!(Rc::strong_count(&buffer), 2);
    drop(moved);
    assert_eq!(Rc::strong_count(&buffer), 1);
    let mut payload = Payload::empty();
    payload.park(buffer.clone(), 3);
    let taken = payload.take_before(4);
    drop(payload);
    assert_eq!(Rc::strong_count(&buffer), 2);
    drop(taken);
    assert_eq!(Rc::strong_count(&buffer), 1);
}
