//! The fake platforms do what they say, and notice a driver that does not.

use std::alloc::Layout;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use vring::platform::{Access, Direction, DmaAddr, DmaError, Mapping, Platform, RawRegion, Wait};
use vring::testing::{Bouncing, BusFault, Discontiguous, InPlace, POISON};

const LAYOUT: Layout = match Layout::from_size_align(64, 16) {
    Ok(layout) => layout,
    Err(_) => panic!(),
};

fn map<P: Platform>(
    platform: &P,
    buf: NonNull<[u8]>,
    direction: Direction,
) -> Result<Mapping, DmaError> {
    // SAFETY: every test keeps its buffers until the end, and touches them through no other
    // pointer while they are mapped.
    unsafe { platform.map(buf, direction) }
}

fn unmap<P: Platform>(platform: &P, mapping: Mapping, direction: Direction, used: u32) {
    // SAFETY: the mapping is of this platform. The tests that end it twice or wrongly do so to
    // see that the fake panics before it touches anything.
    unsafe { platform.unmap(mapping, direction, used) }
}

fn dealloc<P: Platform>(platform: &P, region: RawRegion) {
    // SAFETY: as for `unmap`.
    unsafe { platform.dealloc(region) }
}

/// The message of the panic that this ends in.
fn panics<R>(f: impl FnOnce() -> R) -> String {
    let error = catch_unwind(AssertUnwindSafe(f))
        .err()
        .expect("it should panic");
    match error.downcast::<String>() {
        Ok(text) => *text,
        Err(error) => (*error.downcast::<&str>().expect("text")).into(),
    }
}

#[test]
fn allocated_memory_is_shared_zeroed_and_counted() {
    let platform = InPlace::new();
    let region = platform.alloc(LAYOUT).unwrap();
    assert!(
        region.addr.0 > u64::from(u32::MAX),
        "a truncated address must not work"
    );
    assert!(region.addr.0.is_multiple_of(16) && !region.addr.0.is_multiple_of(32));
    let mut bytes = [1; 64];
    platform.bus().read(region.addr, &mut bytes);
    assert_eq!(bytes, [0; 64]);
    // SAFETY: the region holds 64 bytes.
    let word = unsafe { region.ptr.cast::<u16>().add(3) };
    // SAFETY: it is in the region, which is aligned to 16.
    unsafe { word.write(0x1234_u16.to_le()) };
    let at = region.addr.checked_add(6).unwrap();
    assert_eq!(platform.bus().load_u16(at, Ordering::Acquire), 0x1234);
    assert_eq!(
        (platform.counts().regions, platform.counts().region_bytes),
        (1, 64)
    );
    assert!(panics(|| platform.assert_no_leaks()).contains("leaked"));
    dealloc(&platform, region);
    platform.assert_no_leaks();
}

#[test]
fn a_device_that_uses_freed_memory_is_trapped() {
    let platform = Bouncing::new();
    let region = platform.alloc(LAYOUT).unwrap();
    platform.bus().write(region.addr, &[1]);
    dealloc(&platform, region);
    let freed = BusFault::Freed {
        addr: region.addr,
        len: 1,
    };
    assert_eq!(platform.bus().try_write(region.addr, &[1]), Err(freed));
    assert!(panics(|| platform.bus().read(region.addr, &mut [0])).contains("freed"));
    assert!(panics(|| platform.bus().load_u16(region.addr, Ordering::Relaxed)).contains("freed"));
    let wild = BusFault::Wild {
        addr: DmaAddr(16),
        len: 1,
    };
    assert_eq!(platform.bus().try_read(DmaAddr(16), &mut [0]), Err(wild));
}

#[test]
fn words_are_little_endian_bounded_and_aligned() {
    let platform = Bouncing::new();
    let region = platform.alloc(LAYOUT).unwrap();
    let at = |offset| region.addr.checked_add(offset).unwrap();
    let bus = platform.bus();
    // Every word at a place of its own: mixing the sizes of atomics is nothing to rely on.
    bus.store_u64(at(8), 0x0807_0605_0403_0201, Ordering::Release);
    bus.store_u32(at(20), 0x0403_0201, Ordering::Release);
    bus.store_u16(at(26), 0x0201, Ordering::Release);
    let mut bytes = [0; 20];
    bus.read(at(8), &mut bytes);
    assert_eq!(
        bytes,
        [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 1, 2, 3, 4, 0, 0, 1, 2]
    );
    assert_eq!(
        bus.load_u64(at(8), Ordering::Acquire),
        0x0807_0605_0403_0201
    );
    assert_eq!(bus.load_u32(at(20), Ordering::Acquire), 0x0403_0201);
    assert_eq!(bus.load_u16(at(26), Ordering::Acquire), 0x0201);
    assert!(panics(|| bus.load_u32(at(2), Ordering::Relaxed)).contains("a word of 4 bytes"));
    assert!(panics(|| bus.load_u16(at(64), Ordering::Relaxed)).contains("freed"));
    let overrun = BusFault::Overrun {
        addr: at(60),
        len: 5,
        room: 4,
    };
    assert_eq!(bus.try_write(at(60), &[0; 5]), Err(overrun));
    dealloc(&platform, region);
}

#[test]
fn a_region_is_freed_once_and_as_it_was_allocated() {
    let platform = InPlace::new();
    let region = platform.alloc(LAYOUT).unwrap();
    let other = RawRegion {
        layout: Layout::new::<u64>(),
        ..region
    };
    assert!(panics(|| dealloc(&platform, other)).contains("it is"));
    dealloc(&platform, region);
    assert!(panics(|| dealloc(&platform, region)).contains("twice"));
    assert!(panics(|| platform.alloc(Layout::new::<()>())).contains("no bytes"));
}

#[test]
fn bouncing_copies_in_and_only_used_bytes_out() {
    let platform = Bouncing::new();
    let (mut out, mut reply) = ([7_u8; 8], [0_u8; 8]);
    let readable = map(&platform, NonNull::from(&mut out), Direction::Readable).unwrap();
    let writable = map(&platform, NonNull::from(&mut reply), Direction::Writable).unwrap();
    assert_eq!(platform.counts().bounced_bytes, 16);

    let mut seen = [0; 8];
    platform.bus().read(readable.addr, &mut seen);
    assert_eq!(seen, [7; 8]);
    platform.bus().write(writable.addr, &[1, 2, 3, 4, 5]);
    unmap(&platform, readable, Direction::Readable, 0);
    unmap(&platform, writable, Direction::Writable, 3);
    assert_eq!(reply, [1, 2, 3, 0, 0, 0, 0, 0], "3 bytes were used");
    assert_eq!(out, [7; 8]);
    platform.assert_no_leaks();
    assert!(
        platform.bus().try_write(writable.addr, &[9]).is_err(),
        "it was unmapped"
    );
}

#[test]
fn a_writable_bounce_buffer_is_poisoned() {
    let platform = Bouncing::new();
    let mut reply = [0_u8; 4];
    let mapping = map(&platform, NonNull::from(&mut reply), Direction::Writable).unwrap();
    unmap(&platform, mapping, Direction::Writable, 4);
    assert_eq!(
        reply, [POISON; 4],
        "the device wrote nothing, and the driver took all of it"
    );
}

#[test]
fn the_device_keeps_to_the_direction() {
    let platform = Discontiguous::new(4096);
    let (mut out, mut reply) = ([7_u8; 8], [0_u8; 8]);
    let readable = map(&platform, NonNull::from(&mut out), Direction::Readable).unwrap();
    let writable = map(&platform, NonNull::from(&mut reply), Direction::Writable).unwrap();
    let bus = platform.bus();
    assert!(matches!(
        bus.try_write(readable.addr, &[0]),
        Err(BusFault::Direction { .. })
    ));
    assert!(matches!(
        bus.try_read(writable.addr, &mut [0]),
        Err(BusFault::Direction { .. })
    ));
    let len = writable.len as usize;
    assert_eq!(bus.check(writable.addr, len, Direction::Writable), Ok(()));
    unmap(&platform, readable, Direction::Readable, 0);
    unmap(&platform, writable, Direction::Writable, 0);
}

#[test]
fn unmapping_twice_or_wrongly_is_noticed() {
    let platform = Bouncing::new();
    let mut reply = [0_u8; 8];
    let mapping = map(&platform, NonNull::from(&mut reply), Direction::Writable).unwrap();
    let writable = Direction::Writable;
    assert!(panics(|| unmap(&platform, mapping, Direction::Readable, 0)).contains("Readable"));
    assert!(panics(|| unmap(&platform, mapping, writable, 9)).contains("9 bytes used of 8"));
    let short = Mapping { len: 4, ..mapping };
    assert!(panics(|| unmap(&platform, short, writable, 0)).contains("length"));
    let other = Mapping {
        token: mapping.token + 1,
        ..mapping
    };
    assert!(panics(|| unmap(&platform, other, writable, 0)).contains("token"));
    let moved = Mapping {
        ptr: NonNull::dangling(),
        ..mapping
    };
    assert!(panics(|| unmap(&platform, moved, writable, 0)).contains("another pointer"));
    assert_eq!(platform.counts().mappings, 1, "none of these ended it");
    unmap(&platform, mapping, writable, 8);
    assert!(panics(|| unmap(&platform, mapping, writable, 8)).contains("twice"));
}

#[test]
fn bounce_space_runs_out_and_comes_back() {
    let platform = Bouncing::with_space(10);
    let (mut a, mut b) = ([0_u8; 8], [0_u8; 4]);
    let first = map(&platform, NonNull::from(&mut a), Direction::Writable).unwrap();
    let full = DmaError::OutOfMemory { size: 4, align: 1 };
    let second = map(&platform, NonNull::from(&mut b), Direction::Writable);
    assert_eq!(second.err(), Some(full));
    unmap(&platform, first, Direction::Writable, 0);
    let second = map(&platform, NonNull::from(&mut b), Direction::Writable).unwrap();
    unmap(&platform, second, Direction::Writable, 0);
    platform.assert_no_leaks();
}

#[test]
fn discontiguous_memory_maps_up_to_the_end_of_a_page() {
    #[repr(align(16))]
    struct Pages([u8; 48]);
    let platform = Discontiguous::new(16);
    let mut pages = Pages([0; 48]);
    let base = NonNull::from(&mut pages.0).cast::<u8>();
    let (mut done, mut pieces) = (5, Vec::new());
    while done < 48 {
        // SAFETY: `done` is below the length of the buffer.
        let rest = NonNull::slice_from_raw_parts(unsafe { base.add(done) }, 48 - done);
        let mapping = map(&platform, rest, Direction::Writable).unwrap();
        done += mapping.len as usize;
        pieces.push(mapping);
    }
    assert_eq!(
        pieces.iter().map(|piece| piece.len).collect::<Vec<_>>(),
        [11, 16, 16]
    );
    for (i, piece) in pieces.iter().enumerate() {
        platform.bus().write(piece.addr, &[i as u8 + 1]);
        let past = BusFault::Overrun {
            addr: piece.addr,
            len: 17,
            room: piece.len as usize,
        };
        assert_eq!(platform.bus().try_write(piece.addr, &[0; 17]), Err(past));
    }
    pieces
        .into_iter()
        .for_each(|piece| unmap(&platform, piece, Direction::Writable, 0));
    assert_eq!([pages.0[5], pages.0[16], pages.0[32]], [1, 2, 3]);
    platform.assert_no_leaks();
}

#[test]
fn an_in_place_platform_lends_without_unmapping() {
    const { assert!(InPlace::DIRECT && !Bouncing::DIRECT && !Discontiguous::DIRECT) };
    let platform = InPlace::new();
    let mut buf = [3_u8; 8];
    let mapping = map(&platform, NonNull::from(&mut buf), Direction::Readable).unwrap();
    assert_eq!((mapping.len, platform.counts().mappings), (8, 0));
    let direct = BusFault::Direct { addr: mapping.addr };
    assert_eq!(platform.bus().try_read(mapping.addr, &mut [0]), Err(direct));
    assert!(panics(|| unmap(&platform, mapping, Direction::Readable, 0)).contains("DIRECT"));
    let region = platform.alloc(LAYOUT).unwrap();
    let direct = BusFault::Direct { addr: region.addr };
    assert_eq!(platform.bus().try_write(region.addr, &[0]), Err(direct));
    dealloc(&platform, region);
    platform.assert_no_leaks();
}

#[test]
fn the_nth_map_or_alloc_fails_once() {
    let platform = Discontiguous::new(4096);
    platform.fail_nth_alloc(2);
    let region = platform.alloc(LAYOUT).unwrap();
    let none = DmaError::OutOfMemory {
        size: 64,
        align: 16,
    };
    assert_eq!(platform.alloc(LAYOUT).err(), Some(none));
    dealloc(&platform, region);
    let again = platform.alloc(LAYOUT).expect("it fails once");
    dealloc(&platform, again);

    let mut byte = [0_u8];
    platform.fail_nth_map(1);
    assert!(map(&platform, NonNull::from(&mut byte), Direction::Writable).is_err());
    let mapping = map(&platform, NonNull::from(&mut byte), Direction::Writable).unwrap();
    unmap(&platform, mapping, Direction::Writable, 0);
    let counts = platform.counts();
    assert_eq!((counts.allocs, counts.maps, counts.unmaps), (2, 1, 1));
}

#[test]
fn waits_are_bounded_and_let_the_device_run() {
    let platform = InPlace::new();
    assert_eq!(platform.access(), Access::Physical);
    platform.set_access(Access::Translated);
    assert_eq!(platform.clone().access(), Access::Translated);
    platform.set_patience(3);
    let (tell, told) = std::sync::mpsc::channel();
    let tell = std::sync::Mutex::new(tell);
    platform.on_wait(move |what, polls| {
        assert_eq!(what, Wait::Reset);
        tell.lock().unwrap().send(polls).unwrap();
    });
    let waits = (0..)
        .take_while(|&polls| platform.wait(Wait::Reset, polls))
        .count();
    assert_eq!(waits, 3);
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [0, 1, 2, 3]);
}

#[test]
fn reported_leaks_are_leaks() {
    let platform = InPlace::new();
    platform.leaked(100, 2);
    let text = panics(|| platform.assert_no_leaks());
    assert!(
        text.contains("leaked_bytes: 100") && text.contains("leaked_buffers: 2"),
        "{text}"
    );
}
