//! Indirect descriptors: bug classes 15, 16 and 18.

#[path = "support/queue.rs"]
mod rig;
mod support;

use vring::features::{Feature, Features, Wish};
use vring::init::{self, Live, QueueConfig};
use vring::platform::DmaError;
use vring::ring::Slot;
use vring::testing::{Discontiguous, Fake, FakeDevice, FakeTransport, Kind};
use vring::transport::DeviceId;
use vring::virtqueue::{MappingSlot, QueueStorage, Reject, Virtqueue};

use rig::{Chunks, Maker, R, W, config, every_platform, few, maps, reply, scaled};
use support::Q;

/// The rings of these tests.
const RINGS: [Features; 4] = [
    Features::of(&[Feature::VERSION_1]),
    Features::of(&[Feature::VERSION_1, Feature::RING_PACKED, Feature::EVENT_IDX]),
    Features::of(&[Feature::VERSION_1, Feature::EVENT_IDX]),
    Features::of(&[Feature::VERSION_1, Feature::RING_PACKED]),
];

struct Indirect<K: Kind> {
    platform: Fake<K>,
    device: FakeDevice,
    live: Live<Fake<K>, FakeTransport>,
    queue: Virtqueue<Fake<K>, Chunks>,
    maker: Maker,
}

impl<K: Kind> Indirect<K> {
    /// A queue whose indirect tables are accepted, or not.
    fn new(platform: &Fake<K>, ring: Features, accepted: bool, config: &QueueConfig) -> Self {
        let start = |negotiated: &mut init::Negotiated<_, _>| negotiated.queue(Q, config).unwrap();
        Self::with(platform, ring, accepted, config, start)
    }

    fn with(
        platform: &Fake<K>,
        ring: Features,
        accepted: bool,
        config: &QueueConfig,
        make: impl FnOnce(
            &mut init::Negotiated<Fake<K>, FakeTransport>,
        ) -> init::PendingQueue<Fake<K>, Chunks>,
    ) -> Self {
        let offered = match accepted {
            true => ring | Feature::INDIRECT_DESC,
            false => ring,
        };
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
            .offer(offered)
            .start_index(Q, config.start_index)
            .most_segments(Q, config.longest);
        let wish = Wish {
            want: !Features::EMPTY,
            ..Wish::default()
        };
        let reset = init::reset(device.transport(), platform).unwrap();
        let mut negotiated = reset.negotiate(&wish).unwrap();
        let pending = make(&mut negotiated);
        let live = negotiated.finish().unwrap();
        let queue = pending.start(&live).unwrap();
        Self {
            platform: platform.clone(),
            device,
            live,
            queue,
            maker: Maker::new(),
        }
    }

    /// Descriptors of the ring that a chain of `n` takes.
    fn cost(&mut self, n: usize) -> u16 {
        let before = self.queue.free();
        let buf = self.maker.chain(n);
        self.queue.submit(buf).unwrap();
        before - self.queue.free()
    }

    /// The device serves all; how many segments each had. Everything is taken back and checked.
    fn serve(&mut self) -> Vec<usize> {
        self.queue.kick();
        let mut segments = Vec::new();
        self.device.serve(Q, |queue, chain| {
            segments.push(chain.segments().len());
            reply(queue, chain, usize::MAX)
        });
        let drained = self.queue.drain(|done| {
            let written = done.written() as usize;
            done.into_buf().check(written);
        });
        assert_eq!(drained, Ok(segments.len()));
        segments
    }

    fn finish(self, left: usize) {
        let buffers = support::stop(self.live, self.queue);
        assert_eq!((buffers.len(), self.maker.alive()), (left, left));
        drop(buffers);
        self.device.assert_clean();
        self.platform.assert_no_leaks();
    }
}

/// Defends: SP-003, SP-007, SP-009, PK-012, PK-014.
#[test]
fn bug_class_16_a_chain_in_a_table_counts_as_one_descriptor_and_another_as_its_pieces() {
    every_platform!(counts);
}

fn counts<K: Kind>(platform: &Fake<K>) {
    for ring in few(&RINGS, 2) {
        let mut rig = Indirect::new(platform, ring, true, &config(16, 65_530).indirect(8));
        for _ in 0..scaled(100, 1) {
            // Two pieces do not pay; more than the table holds do not fit in it.
            for (n, cost) in [(1, 1), (2, 2), (3, 1), (8, 1), (9, 9)] {
                assert_eq!(rig.cost(n), cost, "a chain of {n}");
            }
            assert_eq!((rig.queue.free(), rig.queue.outstanding()), (2, 5));
            assert_eq!(rig.serve(), [1, 2, 3, 8, 9]);
            assert_eq!((rig.queue.free(), rig.queue.outstanding()), (16, 0));
        }
        // Where the ring is short, two pieces pay as well; and when it is full, it is full.
        for _ in 0..15 {
            assert_eq!(rig.cost(3), 1);
        }
        assert_eq!(rig.cost(2), 1);
        let buf = rig.maker.chain(3);
        let rejected = rig.queue.submit(buf).unwrap_err();
        assert_eq!(rejected.why, Reject::Full { needed: 3, free: 0 });
        drop(rejected);
        assert_eq!(rig.serve().len(), 16);
        rig.finish(0);
    }
}

/// Defends: SP-008, PK-013.
#[test]
fn bug_class_16_no_table_is_longer_than_the_queue() {
    every_platform!(no_longer_than_the_queue);
}

fn no_longer_than_the_queue<K: Kind>(platform: &Fake<K>) {
    for ring in few(&RINGS, 2) {
        for size in [2_u16, 8] {
            let n = usize::from(size);
            let mut rig = Indirect::new(platform, ring, true, &config(size, 0).indirect(64));
            for too_long in [n + 1, 3 * n, 64] {
                let buf = rig.maker.chain(too_long);
                let rejected = rig.queue.submit(buf).unwrap_err();
                let needed = too_long;
                assert_eq!(rejected.why, Reject::TooManySegments { needed, most: size });
            }
            rig.cost(n);
            assert_eq!(rig.serve(), [n]);
            rig.finish(0);
        }
    }
}

/// Defends: SP-003, PK-005, PK-013.
#[test]
fn no_chain_is_longer_than_the_device_takes() {
    every_platform!(no_longer_than_the_device_takes);
}

fn no_longer_than_the_device_takes<K: Kind>(platform: &Fake<K>) {
    for ring in few(&RINGS, 2) {
        for tables in [0, 16] {
            // The strict device counts what it gets.
            let config = config(16, 65_530).indirect(tables).longest(3);
            let mut rig = Indirect::new(platform, ring, true, &config);
            for too_long in [4, 16, 17] {
                let buf = rig.maker.chain(too_long);
                let rejected = rig.queue.submit(buf).unwrap_err();
                let (needed, most) = (too_long, 3);
                assert_eq!(rejected.why, Reject::TooManySegments { needed, most });
            }
            rig.cost(3);
            rig.cost(1);
            assert_eq!(rig.serve(), [3, 1]);
            rig.finish(0);
        }
    }
}

#[test]
fn one_segment_in_many_pieces_takes_a_table_where_the_ring_is_short() {
    // Pages of 16 bytes that are no neighbors: one segment of 49 bytes is four pieces or five. Those
    // that are in the ring when it is found to be short are taken back.
    let platform = Discontiguous::new(16);
    for ring in few(&RINGS, 2) {
        let config = config(8, 65_530).indirect(8);
        let mut rig = Indirect::new(&platform, ring, true, &config);
        for _ in 0..5 {
            rig.cost(1);
        }
        let buf = rig.maker.chunks(&[(W, 49)]);
        rig.queue.submit(buf).unwrap();
        assert_eq!(rig.queue.free(), 2);
        let served = rig.serve();
        assert_eq!(served[..5], [1; 5]);
        assert!(served.len() == 6 && served[5] >= 4, "{served:?}");
        rig.finish(0);
    }
}

#[test]
fn a_segment_in_more_pieces_than_the_queue_ever_holds_is_not_to_be_tried_again() {
    // One segment of nine pieces or ten: for the ring, and before or after that for a table.
    let platform = Discontiguous::new(16);
    for ring in RINGS {
        for entries in [2, 4, 8] {
            let config = config(8, 65_530).indirect(entries);
            let mut rig = Indirect::new(&platform, ring, true, &config);
            for shape in [&[(W, 129)][..], &[(W, 1), (W, 1), (W, 129)]] {
                let buf = rig.maker.chunks(shape);
                let rejected = rig.queue.submit(buf).unwrap_err();
                let (needed, most) = (9, 8);
                assert_eq!(rejected.why, Reject::TooManySegments { needed, most });
            }
            // What may fit later says how much it takes at least, and that is not there.
            for _ in 0..3 {
                rig.cost(1);
            }
            let buf = rig.maker.chunks(&[(W, 81)]);
            let why = rig.queue.submit(buf).map_err(|rejected| rejected.why);
            let full = Reject::Full { needed: 6, free: 5 };
            assert_eq!(why.err(), (entries < 8).then_some(full));
            rig.serve();
            rig.finish(0);
        }
    }
}

/// Defends: SP-006, PK-011.
#[test]
fn bug_class_18_no_table_where_it_was_not_negotiated() {
    every_platform!(not_negotiated);
}

fn not_negotiated<K: Kind>(platform: &Fake<K>) {
    for ring in few(&RINGS, 2) {
        let before = platform.counts().region_bytes;
        // The strict device knows that no table was agreed on.
        let mut rig = Indirect::new(platform, ring, false, &config(16, 65_530).indirect(8));
        let plain = platform.counts().region_bytes - before;
        for n in [1, 2, 3, 5] {
            assert_eq!(usize::from(rig.cost(n)), n);
        }
        assert_eq!(rig.serve(), [1, 2, 3, 5]);
        rig.finish(0);
        let rig = Indirect::new(platform, ring, true, &config(16, 0).indirect(8));
        let with_tables = platform.counts().region_bytes - before;
        assert!(with_tables >= plain + 16 * 8 * 16, "a table a slot");
        rig.finish(0);
    }
}

/// Defends: SP-005, SP-010.
#[test]
fn in_order_lists_and_tables_follow_each_other() {
    every_platform!(in_order);
}

fn in_order<K: Kind>(platform: &Fake<K>) {
    for ring in few(&RINGS, 2) {
        let ring = ring | Feature::IN_ORDER;
        for accepted in [true, false] {
            // The strict device checks every link, of lists over the end of the ring as well.
            let mut rig = Indirect::new(platform, ring, accepted, &config(8, 3).indirect(5));
            for _ in 0..scaled(20, 2) {
                for n in [2, 5, 1, 7, 3] {
                    rig.cost(n);
                    assert_eq!(rig.serve(), [n]);
                }
            }
            rig.finish(0);
        }
    }
}

#[test]
fn bug_class_18_tables_work_without_a_heap() {
    every_platform!(lent);
}

fn lent<K: Kind>(platform: &Fake<K>) {
    for ring in few(&RINGS, 2) {
        let config = config(8, 65_534).indirect(4);
        let storage = QueueStorage {
            slots: Vec::leak((0..8).map(|_| Slot::new()).collect()),
            mappings: Vec::leak((0..32).map(|_| MappingSlot::new()).collect()),
        };
        let mut rig = Indirect::with(platform, ring, true, &config, |negotiated| {
            negotiated.queue_in(Q, &config, storage).unwrap()
        });
        assert_eq!(rig.queue.size(), 8);
        for _ in 0..scaled(20, 2) {
            for _ in 0..8 {
                assert_eq!(rig.cost(4), 1);
            }
            assert_eq!(rig.serve(), [4; 8]);
        }
        rig.finish(0);
    }
}

#[test]
fn bug_class_15_what_is_behind_a_table_is_unmapped_once_and_when_it_comes_back() {
    every_platform!(unmapped_once);
}

fn unmapped_once<K: Kind>(platform: &Fake<K>) {
    for ring in few(&RINGS, 2) {
        let mut rig = Indirect::new(platform, ring, true, &config(8, 65_530).indirect(8));
        let shape = [(R, 3), (R, 1), (W, 2), (W, 5)];
        for _ in 0..scaled(20, 1) {
            // Every mapping of the chain fails once; nothing is kept of the others.
            for nth in 1..=4 {
                platform.fail_nth_map(nth);
                let buf = rig.maker.chunks(&shape);
                match rig.queue.submit(buf) {
                    Err(rejected) => {
                        let no_memory = Reject::Map(DmaError::OutOfMemory { size: 0, align: 0 });
                        assert_eq!(
                            std::mem::discriminant(&rejected.why),
                            std::mem::discriminant(&no_memory)
                        );
                        assert_eq!(platform.counts().mappings, 0);
                        assert_eq!((rig.queue.free(), rig.queue.outstanding()), (8, 0));
                    }
                    Ok(_) => panic!("map {nth} did not fail"),
                }
            }
            for _ in 0..8 {
                let buf = rig.maker.chunks(&shape);
                rig.queue.submit(buf).unwrap();
            }
            let mapped = platform.counts().mappings;
            assert!(!maps(platform) || mapped >= 8 * 4, "{mapped}");
            rig.queue.kick();
            // They come back in another order, and each takes its own mappings along.
            rig.device.with_queue(Q, |queue| {
                let mut chains: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
                chains.rotate_left(3);
                for chain in chains {
                    let len = reply(queue, &chain, 7);
                    queue.push(chain, len);
                }
                queue.publish();
            });
            for left in (0..8).rev() {
                let done = rig.queue.next_completion().unwrap().unwrap();
                let written = done.written() as usize;
                done.into_buf().check(written);
                let mappings = platform.counts().mappings;
                assert_eq!(mappings, mapped / 8 * left, "{left} are left");
            }
        }
        // And what does not come back is unmapped by the reset.
        for n in [3, 8, 2] {
            rig.cost(n);
        }
        rig.queue.kick();
        rig.finish(3);
    }
}

#[test]
fn bug_class_15_a_table_stays_while_its_chain_is_out_and_is_used_again_after() {
    every_platform!(table_stays);
}

fn table_stays<K: Kind>(platform: &Fake<K>) {
    for ring in few(&RINGS, 2) {
        let mut rig = Indirect::new(platform, ring, true, &config(8, 65_530).indirect(8));
        let regions = platform.counts().regions;
        for round in 0..scaled(100, 1) {
            // The first chain stays out; the strict device looks at its table when it returns it.
            rig.cost(4);
            rig.queue.kick();
            let first = rig.device.with_queue(Q, |queue| queue.pop().unwrap());
            for n in [3, 5, 8, 4, 3, 6, 7] {
                assert_eq!(rig.cost(n), 1);
            }
            assert_eq!(rig.serve(), [3, 5, 8, 4, 3, 6, 7]);
            rig.device.with_queue(Q, |queue| {
                let chain = first.unwrap();
                let len = reply(queue, &chain, 9);
                queue.complete(chain, len);
            });
            let done = rig.queue.next_completion().unwrap().unwrap();
            let written = done.written() as usize;
            done.into_buf().check(written);
            let counts = platform.counts();
            assert_eq!(
                counts.regions, regions,
                "round {round}: nothing is allocated"
            );
        }
        rig.finish(0);
    }
}
