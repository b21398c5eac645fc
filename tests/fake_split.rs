//! The fake queue catches every broken rule of the split ring.
//!
//! The driver here is a hand that writes ring memory, right or wrong.

use std::alloc::Layout;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use vring::platform::{Direction, DmaAddr, Mapping, Platform};
use vring::testing::{Bouncing, QueueDevice, QueueOptions, Violations};
use vring::transport::QueueAreas;

const NEXT: u64 = 1 << 32;
const WRITE: u64 = 2 << 32;
const INDIRECT: u64 = 4 << 32;
const SIZE: u16 = 8;

/// A driver's hand on a queue of 8 descriptors, with one readable and one writable buffer of 64
/// bytes mapped, and a table for indirect descriptors.
struct Hand {
    platform: Bouncing,
    areas: QueueAreas,
    readable: u64,
    writable: u64,
    table: DmaAddr,
    log: Violations,
    device: QueueDevice,
    exposed: u16,
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

impl Hand {
    fn new() -> Self {
        Self::with(QueueOptions::default())
    }

    fn with(options: QueueOptions) -> Self {
        let platform = Bouncing::new();
        let areas = QueueAreas {
            desc: alloc(&platform, 128),
            driver: alloc(&platform, 22),
            device: alloc(&platform, 70),
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
            exposed: options.start,
            areas,
            log,
            platform,
        }
    }

    fn store_u16(&self, area: DmaAddr, offset: u64, value: u16) {
        let at = area.checked_add(offset).unwrap();
        self.platform.bus().store_u16(at, value, Ordering::Release);
    }

    fn entry(&self, table: DmaAddr, index: u16, addr: u64, rest: u64) {
        let at = table.checked_add(16 * u64::from(index)).unwrap();
        self.platform.bus().store_u64(at, addr, Ordering::Relaxed);
        let at = at.checked_add(8).unwrap();
        self.platform.bus().store_u64(at, rest, Ordering::Relaxed);
    }

    /// Writes a descriptor: address; length, flags and next as one word.
    fn desc(&mut self, index: u16, addr: u64, rest: u64) -> &mut Self {
        self.entry(self.areas.desc, index, addr, rest);
        self
    }

    fn indirect(&mut self, index: u16, addr: u64, rest: u64) -> &mut Self {
        self.entry(self.table, index, addr, rest);
        self
    }

    /// Makes the chain at `head` available.
    fn expose(&mut self, head: u16) -> &mut Self {
        self.store_u16(
            self.areas.driver,
            4 + 2 * u64::from(self.exposed % SIZE),
            head,
        );
        self.exposed = self.exposed.wrapping_add(1);
        self.store_u16(self.areas.driver, 2, self.exposed);
        self
    }

    /// What the device finds wrong when it looks.
    fn found(&mut self) -> Vec<&'static str> {
        self.device.refresh();
        self.log
            .take()
            .iter()
            .map(|violation| violation.id)
            .collect()
    }

    fn used(&self, slot: u64) -> (u32, u32) {
        let at = |offset| {
            self.areas
                .device
                .checked_add(4 + 8 * slot + offset)
                .unwrap()
        };
        let load = |offset| self.platform.bus().load_u32(at(offset), Ordering::Relaxed);
        (load(0), load(4))
    }

    fn used_idx(&self) -> u16 {
        let at = self.areas.device.checked_add(2).unwrap();
        self.platform.bus().load_u16(at, Ordering::Acquire)
    }
}

fn next(index: u64) -> u64 {
    NEXT | index << 48
}

#[test]
fn a_proper_chain_is_read_written_and_returned() {
    let mut hand = Hand::new();
    let (readable, writable) = (hand.readable, hand.writable);
    hand.desc(5, readable, 10 | next(2))
        .desc(2, writable, 64 | WRITE)
        .expose(5);
    let chain = hand.device.pop().unwrap();
    assert_eq!(
        (chain.head(), chain.readable(), chain.writable()),
        (5, 10, 64)
    );
    assert_eq!(hand.device.read(&chain), [3; 10]);
    assert_eq!(hand.device.write(&chain, &[1; 100]), 64);
    assert_eq!((hand.device.outstanding(), hand.used_idx()), (1, 0));
    hand.device.push(chain, 64);
    assert_eq!(
        (hand.used(0), hand.used_idx()),
        ((5, 64), 0),
        "not yet published"
    );
    hand.device.publish();
    assert_eq!((hand.device.outstanding(), hand.used_idx()), (0, 1));
    assert!(hand.device.pop().is_none());
    hand.device.assert_clean();
}

#[test]
fn buffers_return_in_any_order_and_in_batches() {
    let mut hand = Hand::new();
    let readable = hand.readable;
    for head in 0..3 {
        hand.desc(head, readable, 1).expose(head);
    }
    let chains: Vec<_> = std::iter::from_fn(|| hand.device.pop()).collect();
    for chain in chains.into_iter().rev() {
        hand.device.push(chain, 0);
    }
    hand.device.publish();
    assert_eq!([hand.used(0).0, hand.used(1).0, hand.used(2).0], [2, 1, 0]);
    assert_eq!(hand.used_idx(), 3);
    hand.device.assert_clean();
}

#[test]
fn areas_are_aligned_and_whole() {
    let hand = Hand::new();
    let shifted = |addr: DmaAddr, by| addr.checked_add(by).unwrap();
    let refused = |size, areas: QueueAreas| {
        let options = QueueOptions::default();
        QueueDevice::try_new(hand.platform.bus(), size, &areas, options, &hand.log)
            .unwrap_err()
            .id
    };
    let areas = hand.areas;
    assert_eq!(
        refused(
            SIZE,
            QueueAreas {
                desc: shifted(areas.desc, 8),
                ..areas
            }
        ),
        "SP-001"
    );
    assert_eq!(
        refused(
            SIZE,
            QueueAreas {
                driver: shifted(areas.driver, 1),
                ..areas
            }
        ),
        "SP-001"
    );
    assert_eq!(
        refused(
            SIZE,
            QueueAreas {
                device: shifted(areas.device, 2),
                ..areas
            }
        ),
        "SP-001"
    );
    assert_eq!(
        refused(16, areas),
        "bug-7",
        "the areas are for 8 descriptors"
    );
    assert_eq!(
        refused(
            SIZE,
            QueueAreas {
                device: DmaAddr(hand.writable & !3),
                ..areas
            }
        ),
        "bug-7"
    );
    assert_eq!(refused(6, areas), "bug-8");
    assert_eq!(refused(0, areas), "bug-8");
}

#[test]
fn rings_are_zero_at_the_start() {
    let hand = Hand::new();
    hand.store_u16(hand.areas.device, 0, 1);
    hand.store_u16(hand.areas.device, 2, 4);
    let options = QueueOptions::default();
    let _device = QueueDevice::new(hand.platform.bus(), SIZE, &hand.areas, options, &hand.log);
    let found: Vec<_> = hand
        .log
        .take()
        .iter()
        .map(|violation| violation.id)
        .collect();
    assert_eq!(found, ["SP-017", "bug-25"]);
}

#[test]
fn chains_are_well_formed() {
    type Write = fn(&mut Hand, u64, u64);
    let cases: [(&[&str], Write); 12] = [
        (&[], |hand, r, w| {
            hand.desc(0, r, 4 | next(1)).desc(1, w, 4 | WRITE).expose(0);
        }),
        (&["SP-002"], |hand, r, w| {
            hand.desc(0, w, 4 | WRITE | next(1)).desc(1, r, 4).expose(0);
        }),
        (&["SP-004"], |hand, r, _| {
            hand.desc(0, r, 4 | next(1))
                .desc(1, r, 4 | next(0))
                .expose(0);
        }),
        (&["SP-004"], |hand, r, _| {
            hand.desc(0, r, 4 | next(8)).expose(0);
        }),
        (&["bug-11"], |hand, r, _| {
            hand.desc(0, r, 4 | 8 << 32).expose(0);
        }),
        (&["bug-12"], |hand, r, _| {
            hand.desc(0, r, 0).expose(0);
        }),
        (&["bug-52"], |hand, r, _| {
            hand.desc(0, r, 4 | WRITE).expose(0);
        }),
        (&["bug-52"], |hand, _, w| {
            hand.desc(0, w, 4).expose(0);
        }),
        (&["bug-52"], |hand, r, _| {
            hand.desc(0, r, 65).expose(0);
        }),
        (&["bug-52"], |hand, _, _| {
            hand.desc(0, 0x1000, 4).expose(0);
        }),
        (&["bug-52", "bug-52", "SP-004"], |hand, r, _| {
            let half = 0x8000_0001;
            hand.desc(0, r, half | next(1)).desc(1, r, half).expose(0);
        }),
        (&["bug-4"], |hand, _, _| {
            hand.expose(8);
        }),
    ];
    for (i, (expected, write)) in cases.iter().enumerate() {
        let mut hand = Hand::new();
        let (readable, writable) = (hand.readable, hand.writable);
        write(&mut hand, readable, writable);
        assert_eq!(hand.found(), *expected, "case {i}");
    }
}

#[test]
fn indirect_tables_are_negotiated_single_and_short() {
    let negotiated = QueueOptions {
        indirect: true,
        ..QueueOptions::default()
    };
    let run = |options, write: &dyn Fn(&mut Hand, u64)| {
        let mut hand = Hand::with(options);
        let (readable, table) = (hand.readable, hand.table.0);
        hand.indirect(0, readable, 4 | next(1))
            .indirect(1, readable, 4);
        hand.desc(0, table, 32 | INDIRECT);
        write(&mut hand, table);
        hand.expose(0).found()
    };
    assert!(run(negotiated, &|_, _| {}).is_empty());
    assert_eq!(run(QueueOptions::default(), &|_, _| {}), ["SP-006"]);
    let head = |rest: u64| {
        run(negotiated, &|hand, table| {
            hand.desc(0, table, rest);
        })
    };
    assert_eq!(head(32 | INDIRECT | NEXT), ["SP-009"]);
    assert_eq!(head(INDIRECT), ["SP-008"], "an empty table");
    assert_eq!(head(33 | INDIRECT), ["SP-008"], "half a descriptor");
    assert_eq!(head(16 | INDIRECT), ["SP-004"], "next is beyond the table");
    let second = |addr: fn(&Hand) -> u64, rest: u64| {
        run(negotiated, &|hand, _| {
            hand.indirect(1, addr(hand), rest);
        })
    };
    assert_eq!(second(|hand| hand.table.0, 16 | INDIRECT), ["SP-007"]);
    assert_eq!(second(|hand| hand.readable, 4 | NEXT), ["SP-004"], "a loop");
    let lost = run(negotiated, &|hand, _| {
        let readable = hand.readable;
        hand.desc(0, readable, 32 | INDIRECT);
    });
    assert_eq!(lost, ["bug-15"], "tables are memory from the platform");
    let long = run(negotiated, &|hand, table| {
        let readable = hand.readable;
        for i in 0..9 {
            let more = if i < 8 { next(u64::from(i) + 1) } else { 0 };
            hand.indirect(i, readable, 4 | more);
        }
        hand.desc(0, table, (16 * 9) | INDIRECT);
    });
    assert_eq!(long, ["SP-008"], "nine segments in a queue of eight");
}

#[test]
fn in_order_chains_are_consecutive() {
    let options = QueueOptions {
        in_order: true,
        indirect: true,
        ..QueueOptions::default()
    };
    let mut hand = Hand::with(options);
    let (readable, table) = (hand.readable, hand.table.0);
    for head in 0..7 {
        hand.desc(head, readable, 4).expose(head);
    }
    hand.device.serve(|_, _| 0);
    hand.desc(7, readable, 4 | next(0))
        .desc(0, readable, 4)
        .expose(7);
    assert!(hand.found().is_empty());
    hand.desc(1, readable, 4 | next(3))
        .desc(3, readable, 4)
        .expose(1);
    assert_eq!(hand.found(), ["SP-005"]);
    hand.indirect(0, readable, 4 | next(2))
        .indirect(2, readable, 4);
    hand.desc(4, table, 48 | INDIRECT).expose(4);
    assert_eq!(hand.found(), ["SP-010"]);
    hand.desc(6, readable, 4).expose(6);
    assert_eq!(hand.found(), ["SP-005"], "it leaves 5 out");
}

#[test]
fn the_available_index_only_goes_forward_and_never_too_far() {
    let mut hand = Hand::new();
    let readable = hand.readable;
    hand.desc(0, readable, 4).expose(0);
    assert!(hand.found().is_empty());
    hand.store_u16(hand.areas.driver, 2, 0);
    assert_eq!(hand.found(), ["SP-011"], "back");
    hand.store_u16(hand.areas.driver, 2, 9);
    assert_eq!(hand.found(), ["SP-011"], "eight more, and one is out");
    hand.store_u16(hand.areas.driver, 2, 1);
    assert!(hand.found().is_empty());
}

#[test]
fn exposed_buffers_stay_as_they_are() {
    let mut hand = Hand::new();
    let readable = hand.readable;
    hand.desc(0, readable, 4 | next(1))
        .desc(1, readable, 4)
        .expose(0)
        .expose(0);
    assert_eq!(hand.found(), ["LC-008"], "the same head twice");
    hand.desc(2, readable, 4 | next(1)).expose(2);
    assert_eq!(hand.found(), ["LC-008"], "a descriptor of another chain");

    let mut hand = Hand::with(QueueOptions {
        indirect: true,
        ..QueueOptions::default()
    });
    let readable = hand.readable;
    hand.desc(0, readable, 4).expose(0);
    let chain = hand.device.pop().unwrap();
    hand.desc(0, readable, 5);
    hand.device.push(chain, 0);
    assert_eq!(hand.found(), ["LC-008"], "it changed while exposed");
    let table = hand.table.0;
    hand.indirect(0, readable, 4)
        .desc(1, table, 16 | INDIRECT)
        .expose(1);
    let chain = hand.device.pop().unwrap();
    hand.indirect(0, readable, 3);
    hand.device.push(chain, 0);
    assert_eq!(hand.found(), ["LC-008"], "its table changed while exposed");
}

#[test]
fn available_flags_are_what_was_agreed() {
    let mut hand = Hand::new();
    hand.store_u16(hand.areas.driver, 0, 1);
    assert!(hand.found().is_empty());
    hand.store_u16(hand.areas.driver, 0, 2);
    assert_eq!(hand.found(), ["SP-012"]);
    let mut hand = Hand::with(QueueOptions {
        event_idx: true,
        ..QueueOptions::default()
    });
    hand.store_u16(hand.areas.driver, 0, 1);
    assert_eq!(hand.found(), ["SP-013"]);
}

#[test]
fn interrupts_follow_the_flags() {
    let mut hand = Hand::new();
    let readable = hand.readable;
    for (flag, wanted) in [(0, true), (1, false)] {
        hand.store_u16(hand.areas.driver, 0, flag);
        hand.desc(0, readable, 4).expose(0);
        let chain = hand.device.pop().unwrap();
        assert_eq!(hand.device.complete(chain, 0), wanted);
        assert!(!hand.device.should_interrupt(), "nothing new");
    }
}

#[test]
fn interrupts_follow_used_event_across_the_wrap() {
    let options = QueueOptions {
        event_idx: true,
        start: 65_534,
        ..QueueOptions::default()
    };
    let mut hand = Hand::with(options);
    let readable = hand.readable;
    hand.store_u16(hand.areas.driver, 4 + 16, 0);
    let mut raised = Vec::new();
    for _ in 0..4 {
        hand.desc(0, readable, 4).expose(0);
        let chain = hand.device.pop().unwrap();
        raised.push(hand.device.complete(chain, 0));
    }
    assert_eq!(raised, [false, false, true, false]);
    assert_eq!((hand.device.used_event(), hand.used_idx()), (0, 2));
    hand.device.assert_clean();
}

#[test]
fn owed_and_needless_kicks_are_told_apart() {
    for event_idx in [false, true] {
        let start = 65_535;
        let mut hand = Hand::with(QueueOptions {
            event_idx,
            start,
            ..QueueOptions::default()
        });
        let readable = hand.readable;
        let expose = |hand: &mut Hand, head: u16| {
            hand.desc(head, readable, 4).expose(head);
        };
        expose(&mut hand, 0);
        assert!(hand.device.owes_kick());
        hand.device.kicked();
        assert!(!hand.device.owes_kick());
        hand.device.kicked();
        assert_eq!((hand.device.kicks(), hand.device.needless_kicks()), (2, 1));

        hand.device.disable_notifications();
        expose(&mut hand, 1);
        assert!(!hand.device.owes_kick());
        assert!(hand.device.enable_notifications(), "work raced in");
        assert_eq!(std::iter::from_fn(|| hand.device.pop()).count(), 2);
        assert!(!hand.device.enable_notifications());
        expose(&mut hand, 2);
        assert!(hand.device.owes_kick());
        hand.device.kicked();
        assert_eq!((hand.device.kicks(), hand.device.needless_kicks()), (3, 1));
        hand.device.assert_clean();
    }
}

#[test]
#[should_panic(expected = "SP-012")]
fn a_strict_queue_panics_at_once() {
    let hand = Hand::new();
    let log = Violations::new();
    let options = QueueOptions::default();
    let mut device = QueueDevice::new(hand.platform.bus(), SIZE, &hand.areas, options, &log);
    hand.store_u16(hand.areas.driver, 0, 7);
    device.refresh();
}

#[test]
#[should_panic(expected = "does not have the chain")]
fn a_chain_is_returned_once() {
    let mut hand = Hand::new();
    let readable = hand.readable;
    hand.desc(0, readable, 4).expose(0);
    let chain = hand.device.pop().unwrap();
    hand.device.push(chain.clone(), 0);
    hand.device.push(chain, 0);
}

#[test]
#[should_panic(expected = "bug-54")]
fn a_ring_that_is_freed_under_a_live_device_is_a_trap() {
    let platform = Bouncing::new();
    let region = platform
        .alloc(Layout::from_size_align(512, 16).unwrap())
        .unwrap();
    let at = |offset| region.addr.checked_add(offset).unwrap();
    let areas = QueueAreas {
        desc: at(0),
        driver: at(128),
        device: at(256),
    };
    let (options, log) = (QueueOptions::default(), Violations::new());
    let mut device = QueueDevice::new(platform.bus(), SIZE, &areas, options, &log);
    device.refresh();
    // SAFETY: the region came from this platform and is freed once. That a device still uses it
    // is what the fake has to notice.
    unsafe { platform.dealloc(region) };
    device.refresh();
}
