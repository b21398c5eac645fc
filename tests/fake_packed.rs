//! The fake queue catches every broken rule of the packed ring.
//!
//! The driver here is a hand that writes ring memory, right or wrong.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use vring::platform::{Direction, DmaAddr, Mapping, Platform};
use vring::testing::{Bouncing, QueueDevice, QueueOptions, Violations};
use vring::transport::QueueAreas;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const AVAIL: u16 = 1 << 7;
const USED: u16 = 1 << 15;
const SIZE: u16 = 7;

const PACKED: QueueOptions = {
    QueueOptions {
        packed: true,
        event_idx: false,
        indirect: false,
        in_order: false,
        start: 0,
        most_segments: 0,
        header: None,
    }
};

/// A driver's hand on a queue of 7 descriptors, with one readable and one writable buffer of 64
/// bytes mapped, and a table for indirect descriptors.
struct Hand {
    platform: Bouncing,
    areas: QueueAreas,
    readable: u64,
    writable: u64,
    table: DmaAddr,
    log: Violations,
    device: QueueDevice,
    /// Running number of the next descriptor.
    next: u32,
    lent: [NonNull<[u8]>; 2],
}

fn alloc(platform: &Bouncing, size: usize) -> DmaAddr {
    platform
        .alloc(Layout::from_size_align(size, 16).unwrap())
        .unwrap()
        .addr
}

fn map(platform: &Bouncing, buf: NonNull<[u8]>, direction: Direction) -> Mapping {
    // SAFETY: the buffer lives as long as the `Hand`, and nobody else uses it.
    unsafe { platform.map(buf, direction) }.unwrap()
}

impl Drop for Hand {
    fn drop(&mut self) {
        for buf in self.lent {
            // SAFETY: it came from a box, in `Hand::with`.
            drop(unsafe { Box::from_raw(buf.as_ptr()) });
        }
    }
}

const fn word(len: u32, id: u16, flags: u16) -> u64 {
    len as u64 | (id as u64) << 32 | (flags as u64) << 48
}

impl Hand {
    fn new() -> Self {
        Self::with(PACKED)
    }

    fn with(options: QueueOptions) -> Self {
        let platform = Bouncing::new();
        let areas = QueueAreas {
            desc: alloc(&platform, 16 * usize::from(SIZE)),
            driver: alloc(&platform, 4),
            device: alloc(&platform, 4),
        };
        let log = Violations::new();
        log.set_lenient();
        let lend = || NonNull::from(Box::leak(Box::<[u8]>::from([3; 64])));
        let lent = [lend(), lend()];
        Self {
            readable: map(&platform, lent[0], Direction::Readable).addr.0,
            writable: map(&platform, lent[1], Direction::Writable).addr.0,
            lent,
            table: alloc(&platform, 16 * 16),
            device: QueueDevice::new(platform.bus(), SIZE, &areas, options, &log),
            next: options.start.into(),
            areas,
            log,
            platform,
        }
    }

    fn store(&self, table: DmaAddr, index: u16, addr: u64, rest: u64) {
        let at = table.checked_add(16 * u64::from(index)).unwrap();
        self.platform.bus().store_u64(at, addr, Ordering::Relaxed);
        let at = at.checked_add(8).unwrap();
        self.platform.bus().store_u64(at, rest, Ordering::Release);
    }

    /// The flags that make the descriptor of this running number available.
    fn available(number: u32) -> u16 {
        if (number / u32::from(SIZE)).is_multiple_of(2) {
            AVAIL
        } else {
            USED
        }
    }

    fn at(number: u32) -> u16 {
        (number % u32::from(SIZE)) as u16
    }

    /// Writes the descriptor of a running number, available in its lap.
    fn write(&self, number: u32, addr: u64, len: u32, id: u16, flags: u16) {
        let flags = flags ^ Self::available(number);
        let rest = word(len, id, flags);
        self.store(self.areas.desc, Self::at(number), addr, rest);
    }

    /// Makes a list available, the head last: address, length and flags of each; id of the last.
    fn list(&mut self, id: u16, parts: &[(u64, u32, u16)]) -> &mut Self {
        for (k, &(addr, len, flags)) in parts.iter().enumerate().rev() {
            let next = if k + 1 < parts.len() { NEXT } else { 0 };
            let id = if k + 1 < parts.len() { 0x5555 } else { id };
            self.write(self.next + k as u32, addr, len, id, flags ^ next);
        }
        self.next += parts.len() as u32;
        self
    }

    /// Makes a readable buffer available.
    fn one(&mut self, id: u16) -> &mut Self {
        let readable = self.readable;
        self.list(id, &[(readable, 4, 0)])
    }

    fn entry(&mut self, index: u16, addr: u64, len: u32, flags: u16) -> &mut Self {
        self.store(self.table, index, addr, word(len, 0, flags));
        self
    }

    fn driver_event(&self, off_wrap: u16, flags: u16) {
        let word = u32::from(off_wrap) | u32::from(flags) << 16;
        let at = self.areas.driver;
        self.platform.bus().store_u32(at, word, Ordering::Relaxed);
    }

    fn device_event(&self) -> (u16, u16) {
        let word = self
            .platform
            .bus()
            .load_u32(self.areas.device, Ordering::Relaxed);
        (word as u16, (word >> 16) as u16)
    }

    /// What the device finds wrong when it looks.
    fn found(&mut self) -> Vec<&'static str> {
        self.device.refresh();
        self.taken()
    }

    fn taken(&self) -> Vec<&'static str> {
        self.log
            .take()
            .iter()
            .map(|violation| violation.id)
            .collect()
    }

    /// Length, id and flags of a descriptor.
    fn read(&self, at: u16) -> (u32, u16, u16) {
        let at = self.areas.desc.checked_add(16 * u64::from(at) + 8).unwrap();
        let word = self.platform.bus().load_u64(at, Ordering::Acquire);
        (word as u32, (word >> 32) as u16, (word >> 48) as u16)
    }

    fn is_used(&self, number: u32) -> bool {
        let flags = self.read(Self::at(number)).2;
        let both = flags & (AVAIL | USED);
        both == if Self::available(number) == AVAIL {
            AVAIL | USED
        } else {
            0
        }
    }
}

#[test]
fn a_proper_list_is_read_written_and_returned() {
    for start in [0, 4, 5, 6, 7, 12, 13, 65_535] {
        let mut hand = Hand::with(QueueOptions { start, ..PACKED });
        let (r, w) = (hand.readable, hand.writable);
        for round in 0..if cfg!(miri) { 6 } else { 40 } {
            let first = hand.next;
            hand.list(3, &[(r, 10, 0), (r, 4, 0), (w, 64, WRITE)]);
            let chain = hand.device.pop().unwrap();
            assert_eq!((chain.head(), chain.descriptors()), (3, 3), "the last id");
            assert_eq!((chain.readable(), chain.writable()), (14, 64));
            assert_eq!(hand.device.read(&chain), [3; 14]);
            assert_eq!(hand.device.write(&chain, &[1; 100]), 64);
            assert!(!hand.is_used(first), "round {round}");
            hand.device.push(chain, 64);
            assert!(!hand.is_used(first), "not yet published");
            hand.device.publish();
            assert!(hand.is_used(first));
            let (len, id, flags) = hand.read(Hand::at(first));
            assert_eq!((len, id, flags & WRITE), (64, 3, WRITE));
            assert!(hand.device.pop().is_none());
        }
        hand.device.assert_clean();
    }
}

#[test]
fn buffers_return_in_any_order_and_in_batches() {
    let mut hand = Hand::with(QueueOptions { start: 5, ..PACKED });
    let readable = hand.readable;
    hand.one(0)
        .list(1, &[(readable, 1, 0), (readable, 1, 0)])
        .one(2);
    let mut chains: Vec<_> = std::iter::from_fn(|| hand.device.pop()).collect();
    chains.rotate_left(1);
    for chain in chains {
        hand.device.push(chain, 0);
    }
    assert!(!hand.is_used(5), "the first is written last");
    assert!(hand.is_used(7) && hand.is_used(8));
    hand.device.publish();
    // Two descriptors are passed for 1, one each for the others.
    assert_eq!([5, 0, 1].map(|at| hand.read(at).1), [1, 2, 0]);
    assert!(hand.is_used(5));
    hand.device.assert_clean();
}

#[test]
fn in_order_a_batch_is_one_element_with_the_last_id() {
    let mut hand = Hand::with(QueueOptions {
        in_order: true,
        start: 6,
        ..PACKED
    });
    let readable = hand.readable;
    hand.one(0)
        .list(1, &[(readable, 1, 0), (readable, 1, 0)])
        .one(2)
        .one(3);
    let mut chains: Vec<_> = std::iter::from_fn(|| hand.device.pop()).collect();
    let last = chains.pop().unwrap();
    hand.device.push_batch(chains, 0);
    hand.device.push(last, 0);
    hand.device.publish();
    assert_eq!([6, 3].map(|at| hand.read(at).1), [2, 3]);
    assert!(hand.is_used(6) && !hand.is_used(7) && hand.is_used(10));
    hand.device.assert_clean();
}

#[test]
#[should_panic(expected = "not the oldest")]
fn in_order_the_oldest_is_returned_first() {
    let mut hand = Hand::with(QueueOptions {
        in_order: true,
        ..PACKED
    });
    hand.one(0).one(1);
    let _first = hand.device.pop().unwrap();
    let second = hand.device.pop().unwrap();
    hand.device.push(second, 0);
}

/// Defends: PK-001.
#[test]
fn areas_are_aligned_and_whole() {
    let hand = Hand::new();
    let shifted = |addr: DmaAddr, by| addr.checked_add(by).unwrap();
    let refused = |size, areas: QueueAreas| {
        QueueDevice::try_new(hand.platform.bus(), size, &areas, PACKED, &hand.log)
            .unwrap_err()
            .id
    };
    let areas = hand.areas;
    let desc = shifted(areas.desc, 8);
    let driver = shifted(areas.driver, 2);
    let device = shifted(areas.device, 1);
    assert_eq!(refused(SIZE, QueueAreas { desc, ..areas }), "PK-001");
    assert_eq!(refused(SIZE, QueueAreas { driver, ..areas }), "PK-001");
    assert_eq!(refused(SIZE, QueueAreas { device, ..areas }), "PK-001");
    assert_eq!(refused(SIZE + 1, areas), "bug-7");
    assert_eq!(refused(0, areas), "bug-8");
    assert_eq!(refused(32_769, areas), "bug-8");
}

#[test]
fn rings_are_zero_at_the_start() {
    let hand = Hand::new();
    hand.write(3, 0, 0, 0, 0);
    let bus = hand.platform.bus();
    bus.store_u32(hand.areas.device, 1 << 16, Ordering::Relaxed);
    let _device = QueueDevice::new(bus, SIZE, &hand.areas, PACKED, &hand.log);
    assert_eq!(hand.taken(), ["bug-25", "bug-25"]);
}

/// Defends: PK-006, PK-007, PK-009, PK-010.
#[test]
fn lists_are_well_formed() {
    type Write = fn(&mut Hand, u64, u64);
    let cases: [(&[&str], Write); 14] = [
        (&[], |hand, r, w| {
            hand.list(0, &[(r, 4, 0), (w, 4, WRITE)]);
        }),
        (&["PK-007"], |hand, r, w| {
            hand.list(0, &[(w, 4, WRITE), (r, 4, 0)]);
        }),
        (&["PK-006"], |hand, r, _| {
            // The list goes round and into itself.
            hand.list(0, &[(r, 4, 0); 7]);
            hand.write(6, r, 4, 0, NEXT);
        }),
        (&["PK-009"], |hand, r, _| {
            hand.one(0);
            hand.device.refresh();
            hand.list(1, &[(r, 4, 0); 6]);
            hand.write(6, r, 4, 1, NEXT);
        }),
        (&["PK-010"], |hand, r, _| hand.write(0, r, 4, 0, NEXT)),
        (&["PK-010"], |hand, r, _| {
            hand.list(0, &[(r, 4, 0), (r, 4, 0), (r, 4, 0)]);
            hand.store(hand.areas.desc, 2, r, word(4, 0, 0));
        }),
        (&["bug-11"], |hand, r, _| {
            hand.list(0, &[(r, 4, 8)]);
        }),
        (&["bug-12"], |hand, r, _| {
            hand.list(0, &[(r, 0, 0)]);
        }),
        (&["bug-52"], |hand, r, _| {
            hand.list(0, &[(r, 4, WRITE)]);
        }),
        (&["bug-52"], |hand, _, w| {
            hand.list(0, &[(w, 4, 0)]);
        }),
        (&["bug-52"], |hand, _, _| {
            hand.list(0, &[(0x1000, 4, 0)]);
        }),
        (&["bug-52", "bug-52", "bug-13"], |hand, r, _| {
            hand.list(0, &[(r, 0x8000_0001, 0), (r, 0x8000_0001, 0)]);
        }),
        (&["bug-23"], |hand, _, _| {
            hand.one(7);
        }),
        (&["bug-23"], |hand, _, _| {
            hand.one(2).one(2);
        }),
    ];
    for (i, (expected, write)) in cases.iter().enumerate() {
        let mut hand = Hand::new();
        let (readable, writable) = (hand.readable, hand.writable);
        write(&mut hand, readable, writable);
        assert_eq!(hand.found(), *expected, "case {i}");
    }
}

/// Defends: PK-005.
#[test]
fn lists_are_as_short_as_the_device_wants_them() {
    let mut hand = Hand::with(QueueOptions {
        most_segments: 2,
        ..PACKED
    });
    let readable = hand.readable;
    hand.list(0, &[(readable, 1, 0); 2]);
    assert!(hand.found().is_empty());
    hand.list(1, &[(readable, 1, 0); 3]);
    assert_eq!(hand.found(), ["PK-005"]);
}

/// Defends: PK-011, PK-012, PK-013, PK-014.
#[test]
fn indirect_tables_are_negotiated_flat_and_short() {
    let negotiated = QueueOptions {
        indirect: true,
        ..PACKED
    };
    let run = |options, write: &dyn Fn(&mut Hand, u64, u64)| {
        let mut hand = Hand::with(options);
        let (readable, table) = (hand.readable, hand.table.0);
        hand.entry(0, readable, 4, 0).entry(1, readable, 4, 0);
        write(&mut hand, table, readable);
        hand.found()
    };
    let head = |len, flags| {
        run(negotiated, &|hand, table, _| {
            hand.list(0, &[(table, len, INDIRECT ^ flags)]);
        })
    };
    assert!(head(32, 0).is_empty());
    assert!(head(32, WRITE).is_empty(), "WRITE is ignored beside it");
    assert_eq!(head(0, 0), ["PK-013"], "an empty table");
    assert_eq!(head(33, 0), ["PK-013"], "half a descriptor");
    assert_eq!(
        head(16 * 8, 0)[..7],
        [
            "bug-12", "bug-12", "bug-12", "bug-12", "bug-12", "bug-12", "PK-013"
        ]
    );
    let unasked = run(PACKED, &|hand, table, _| {
        hand.list(0, &[(table, 32, INDIRECT)]);
    });
    assert_eq!(unasked, ["PK-011"]);
    for flags in [NEXT, INDIRECT, AVAIL, USED] {
        let found = run(negotiated, &|hand, table, r| {
            hand.entry(1, r, 4, flags).list(0, &[(table, 32, INDIRECT)]);
        });
        assert_eq!(found, ["PK-012"], "{flags:#x}");
    }
    let first = run(negotiated, &|hand, table, r| {
        hand.list(0, &[(table, 32, INDIRECT), (r, 4, 0)]);
    });
    assert_eq!(first, ["PK-014"]);
    let last = run(negotiated, &|hand, table, r| {
        hand.list(0, &[(r, 4, 0), (table, 32, INDIRECT)]);
    });
    assert_eq!(last, ["PK-014"]);
    let lost = run(negotiated, &|hand, _, r| {
        hand.list(0, &[(r, 32, INDIRECT)]);
    });
    assert_eq!(lost, ["bug-15"], "tables are memory from the platform");
}

/// Defends: PK-002, PK-003.
#[test]
fn descriptors_are_left_alone_while_the_device_has_them() {
    let mut hand = Hand::new();
    let readable = hand.readable;
    hand.one(0).list(1, &[(readable, 4, 0), (readable, 4, 0)]);
    assert!(hand.found().is_empty());
    hand.write(0, readable, 5, 0, 0);
    assert_eq!(hand.found(), ["PK-003"], "another length");
    assert!(hand.found().is_empty(), "said once");
    hand.write(2, readable + 1, 4, 1, 0);
    assert_eq!(hand.found(), ["PK-003"], "another address");
    hand.write(SIZE.into(), readable, 4, 0, 0);
    assert_eq!(hand.found(), ["PK-002"], "the next lap's flags");

    // What was used is the device's until that is visible.
    let mut hand = Hand::new();
    hand.one(0).one(1);
    let [first, second] = [0, 1].map(|_| hand.device.pop().unwrap());
    hand.device.push(second, 0);
    hand.write(0, readable, 9, 0, 0);
    hand.device.publish();
    assert_eq!(hand.taken(), ["PK-003"]);
    hand.write(SIZE.into(), readable, 4, 1, 0);
    assert!(hand.found().is_empty(), "the first is the driver's now");
    hand.device.push(first, 0);
    hand.device.publish();
    assert!(hand.taken().is_empty());
}

/// Defends: LC-008, LC-009.
#[test]
fn tables_and_buffers_stay_while_the_device_has_them() {
    let mut hand = Hand::with(QueueOptions {
        indirect: true,
        ..PACKED
    });
    let (readable, table) = (hand.readable, hand.table.0);
    hand.entry(0, readable, 4, 0)
        .list(0, &[(table, 16, INDIRECT)]);
    let chain = hand.device.pop().unwrap();
    hand.entry(0, readable, 3, 0);
    hand.device.push(chain, 0);
    assert_eq!(hand.taken(), ["LC-008"]);

    let mut hand = Hand::new();
    let buf = NonNull::from(Box::leak(Box::<[u8]>::from([3; 8])));
    let mapping = map(&hand.platform, buf, Direction::Readable);
    hand.list(0, &[(mapping.addr.0, 8, 0)]);
    let chain = hand.device.pop().unwrap();
    // SAFETY: it is mapped, and unmapped once. That the device still has it is what the fake has
    // to notice.
    unsafe { hand.platform.unmap(mapping, Direction::Readable, 0) };
    hand.device.push(chain, 0);
    assert_eq!(hand.taken(), ["LC-009"]);
    // SAFETY: it came from a box.
    drop(unsafe { Box::from_raw(buf.as_ptr()) });
}

#[test]
fn the_drivers_event_structure_is_one_that_there_can_be() {
    let event_idx = QueueOptions {
        event_idx: true,
        ..PACKED
    };
    for (options, off_wrap, flags, fine) in [
        (PACKED, 0, 0, true),
        (PACKED, 0x8003, 1, true),
        (PACKED, 0x8000, 2, false),
        (PACKED, 0, 3, false),
        (event_idx, 0x8006, 2, true),
        (event_idx, 6, 2, true),
        (event_idx, 7, 2, false),
        (event_idx, 0x8007, 2, false),
        (event_idx, 0, 4, false),
    ] {
        let mut hand = Hand::with(options);
        hand.driver_event(off_wrap, flags);
        let found = hand.found();
        let expected: &[&str] = if fine { &[] } else { &["bug-24"] };
        assert_eq!(found, expected, "{off_wrap:#x} {flags}");
    }
}

#[test]
fn interrupts_follow_the_flags() {
    let mut hand = Hand::new();
    for (flag, wanted) in [(0, true), (1, false)] {
        hand.driver_event(0, flag);
        hand.one(0);
        let chain = hand.device.pop().unwrap();
        assert_eq!(hand.device.complete(chain, 0), wanted);
        assert!(!hand.device.should_interrupt(), "nothing new");
    }
}

#[test]
fn interrupts_follow_the_event_across_the_wrap() {
    let options = QueueOptions {
        event_idx: true,
        start: 5,
        ..PACKED
    };
    // Descriptor 0 of the second lap, whose wrap counter is 0; then of the first.
    for (off_wrap, expected) in [(0, [false, false, true, false]), (0x8000, [false; 4])] {
        let mut hand = Hand::with(options);
        hand.driver_event(off_wrap, 2);
        let raised = [0; 4].map(|_| {
            let chain = hand.one(0).device.pop().unwrap();
            hand.device.complete(chain, 0)
        });
        assert_eq!(raised, expected);
        assert_eq!(hand.device.used_event(), off_wrap);
        hand.device.assert_clean();
    }
}

/// Defends: PK-016.
#[test]
fn owed_and_needless_kicks_are_told_apart() {
    for event_idx in [false, true] {
        let mut hand = Hand::with(QueueOptions {
            event_idx,
            start: 6,
            ..PACKED
        });
        hand.one(0);
        assert!(hand.device.owes_kick());
        hand.device.check_kicked();
        assert_eq!(hand.taken(), ["PK-016"]);
        hand.device.kicked();
        hand.device.check_kicked();
        assert!(!hand.device.owes_kick());
        hand.device.kicked();
        assert_eq!((hand.device.kicks(), hand.device.needless_kicks()), (2, 1));

        hand.device.disable_notifications();
        assert_eq!(hand.device_event().1, 1);
        hand.one(1);
        assert!(!hand.device.owes_kick());
        assert!(hand.device.enable_notifications(), "work raced in");
        assert_eq!(std::iter::from_fn(|| hand.device.pop()).count(), 2);
        assert!(!hand.device.enable_notifications());
        assert_eq!(hand.device.next_available(), 1, "in the second lap");
        let asked = if event_idx { (1, 2) } else { (0, 0) };
        assert_eq!(hand.device_event().1, asked.1);
        assert!(!event_idx || hand.device_event() == asked);
        hand.one(2);
        assert!(hand.device.owes_kick());
        hand.device.kicked();
        assert_eq!((hand.device.kicks(), hand.device.needless_kicks()), (3, 1));
        hand.device.assert_clean();
    }
}

#[test]
fn a_kick_after_so_many_descriptors_is_asked_for_and_owed() {
    let mut hand = Hand::with(QueueOptions {
        event_idx: true,
        start: 5,
        ..PACKED
    });
    hand.device.kick_after(2);
    assert_eq!(hand.device_event(), (0, 2), "in the second lap");
    hand.one(0).one(1);
    assert!(!hand.device.owes_kick());
    hand.one(2);
    assert!(hand.device.owes_kick());
}
