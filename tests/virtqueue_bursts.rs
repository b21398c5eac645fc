//! Bursts and drains: the loops that the data path has for buffers of one segment, for those of a
//! few, and for both in one iterator.

#[path = "support/queue.rs"]
mod rig;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vring::buffer::{DmaBuf, Segment};
use vring::features::Feature;
use vring::testing::{Chain, Fake, InPlace, Kind, QueueDevice};
use vring::virtqueue::{Fault, Reject};

use rig::{Chunks, Maker, R, Rig, W, config, device, few, reply, scaled};
use support::{Naming, Q, Ring, every_ring, start, stop};

/// Numbers of segments: of one loop after the other, and of no loop.
const SHAPES: [&[usize]; 8] = [
    &[1, 1, 3, 3, 1, 4],
    &[2],
    &[1],
    &[3],
    &[4],
    &[5],
    &[1, 2],
    &[2, 1, 5, 2, 4],
];

fn shapes() -> impl Iterator<Item = &'static [usize]> {
    few(&SHAPES, 2)
}

/// Without tables: every piece takes a descriptor.
fn plain(ring: Ring) -> bool {
    !ring.is_indirect()
}

/// Buffers of these numbers of segments, round and round.
fn bufs<'a>(maker: &'a mut Maker, shape: &'a [usize]) -> impl Iterator<Item = Chunks> + 'a {
    shape.iter().cycle().map(|&n| maker.chain(n))
}

/// All chains that are available, each answered, and none returned.
fn pop_all(queue: &mut QueueDevice) -> Vec<(Chain, u32)> {
    let pop = || {
        let chain = queue.pop()?;
        let len = reply(queue, &chain, usize::MAX);
        Some((chain, len))
    };
    std::iter::from_fn(pop).collect()
}

#[test]
fn a_burst_goes_on_while_there_is_room_for_one_more_descriptor() {
    every_ring!(goes_on);
}

fn goes_on<K: Kind>(platform: &Fake<K>, ring: Ring) {
    if !plain(ring) {
        return;
    }
    for size in ring.sizes(&[16, 8, 13]).into_iter().take(scaled(3, 1)) {
        for shape in shapes() {
            let mut rig = Rig::new(platform, ring.features, &config(size, 65_530));
            for round in 0..scaled(3, 1) {
                // One by one, until a buffer does not fit, or nothing would.
                let (mut expected, mut left) = (0, usize::from(size));
                let mut wants = shape.iter().cycle().copied();
                let odd = loop {
                    if left == 0 {
                        break None;
                    }
                    let needed = wants.next().unwrap();
                    if needed > left {
                        break Some(needed);
                    }
                    (expected, left) = (expected + 1, left - needed);
                };
                let mut given = 0;
                let Rig { queue, maker, .. } = &mut rig;
                let mut source = bufs(maker, shape).inspect(|_| given += 1);
                let submitted = match (queue.submit_burst(&mut source), odd) {
                    (Ok(submitted), None) => submitted,
                    (Err(error), Some(needed)) => {
                        let free = left as u16;
                        assert_eq!(error.rejected.why, Reject::Full { needed, free });
                        assert_eq!(error.rejected.buf.parts.len(), needed);
                        error.submitted
                    }
                    (ended, odd) => panic!("{shape:?}: {ended:?}, and not {odd:?}"),
                };
                drop(source);
                assert_eq!(submitted, expected, "{shape:?} in {size}, round {round}");
                let last = usize::from(odd.is_some());
                assert_eq!(given, expected + last, "no more is taken than is needed");
                assert_eq!(rig.queue.free(), left as u16);
                assert_eq!(usize::from(rig.queue.outstanding()), expected);
                rig.queue.kick();
                rig.device.assert_kicked(Q);
                assert_eq!(rig.serve_and_drain(), expected);
                assert_eq!(rig.queue.free(), size);
            }
            rig.full_round();
            rig.finish(0);
        }
    }
}

#[test]
fn a_burst_whose_first_chain_fills_the_ring_takes_that_one_only() {
    every_ring!(first_fills);
}

/// The first chain of a packed batch is taken out of the loop, and must end the burst as any other.
fn first_fills<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for (size, n) in [(4, 4), (5, 4), (7, 4), (8, 4), (4, 2), (4, 3), (5, 3)] {
        if !plain(ring) || ring.sizes(&[size]).is_empty() {
            continue;
        }
        let (fit, left) = (usize::from(size) / n, usize::from(size) % n);
        let mut rig = Rig::new(platform, ring.features, &config(size, 65_530));
        for _ in 0..scaled(8, 2) {
            let mut asked = 0;
            let Rig { queue, maker, .. } = &mut rig;
            let mut chains = std::iter::from_fn(|| {
                asked += 1;
                Some(maker.chain(n))
            });
            match queue.submit_burst(&mut chains) {
                Ok(submitted) => assert_eq!((left, submitted, asked), (0, fit, fit)),
                Err(error) => {
                    assert_eq!((error.submitted, asked), (fit, fit + 1));
                    assert_ne!(left, 0, "{size} by {n}");
                }
            }
            queue.kick();
            rig.device.assert_kicked(Q);
            assert_eq!(rig.serve_and_drain(), fit);
            assert_eq!(rig.queue.free(), size);
        }
        rig.finish(0);
    }
}

#[test]
fn a_burst_asks_nothing_of_an_iterator_that_has_ended() {
    every_ring!(asks_nothing_more);
}

/// Chains that are free as a whole are room, too, and none is looked for once there is no buffer.
fn asks_nothing_more<K: Kind>(platform: &Fake<K>, ring: Ring) {
    if !plain(ring) {
        return;
    }
    let mut rig = Rig::new(platform, ring.features, &config(8, 65_530));
    let Rig { queue, maker, .. } = &mut rig;
    assert_eq!(
        queue.submit_burst(&mut bufs(maker, &[2]).take(2)).unwrap(),
        2
    );
    queue.kick();
    assert_eq!(rig.serve_and_drain(), 2);
    let Rig { queue, maker, .. } = &mut rig;
    queue.submit(maker.chain(2)).unwrap();
    // The list has four descriptors then, and where chains are kept whole one is free besides.
    for numbers in [&[][..], &[4], &[1], &[4, 1], &[2]] {
        let mut items = numbers.iter().map(|&n| maker.chain(n));
        let mut ended = false;
        let source = || {
            assert!(!ended, "it has ended");
            let item = items.next();
            ended = item.is_none();
            item
        };
        let before = queue.free();
        match queue.submit_burst(&mut std::iter::from_fn(source)) {
            Ok(submitted) => assert!(submitted <= 2),
            Err(error) => assert!(matches!(error.rejected.why, Reject::Full { .. })),
        }
        assert!(queue.free() <= before);
    }
    rig.queue.kick();
    rig.serve_and_drain();
    assert_eq!(rig.queue.free(), 8);
    rig.finish(0);
}

#[test]
fn chains_that_stay_whole_make_room_for_any_other() {
    every_ring!(whole_for_others);
}

/// Bursts of chains of one length, which fill the ring or do not, and then of another: whatever the
/// chains are kept as, there is room for as many as fit.
fn whole_for_others<K: Kind>(platform: &Fake<K>, ring: Ring) {
    if !plain(ring) {
        return;
    }
    for size in ring.sizes(&[16, 13]).into_iter().take(scaled(2, 1)) {
        let mut rig = Rig::new(platform, ring.features, &config(size, 65_527));
        for (lengths, times) in [
            (2, 3),
            (3, 4),
            (1, 2),
            (4, 3),
            (2, 1),
            (3, 3),
            (5, 2),
            (2, 2),
        ] {
            for most in [2, usize::from(size) / lengths] {
                for _ in 0..scaled(times, 1) {
                    let Rig { queue, maker, .. } = &mut rig;
                    let shape = [lengths];
                    let mut source = bufs(maker, &shape).take(most);
                    assert_eq!(queue.submit_burst(&mut source).unwrap(), most);
                    drop(source);
                    queue.kick();
                    assert_eq!(rig.serve_and_drain(), most);
                    assert_eq!((rig.queue.free(), rig.queue.outstanding()), (size, 0));
                }
            }
        }
        rig.full_round();
        rig.finish(0);
    }
}

#[test]
fn a_drain_takes_single_buffers_and_chains_in_every_order() {
    every_ring!(drained_in_every_order);
}

/// Chains come back in other orders than they went where they may, and the next burst is laid over
/// what that makes of the free list.
fn drained_in_every_order<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let sizes = ring.sizes(&[16, 11]);
    for size in sizes.into_iter().take(scaled(2, 1)) {
        for turn in 0..scaled(5, 1) {
            let mut rig = Rig::new(platform, ring.features, &config(size, 65_529));
            for (round, shape) in
                (0..scaled(6, 1)).flat_map(|i| shapes().map(move |shape| (i, shape)))
            {
                let Rig { queue, maker, .. } = &mut rig;
                let n = 1 + (round * 3 + turn) % 5;
                let submitted = match queue.submit_burst(&mut bufs(maker, shape).take(n)) {
                    Ok(submitted) => submitted,
                    Err(error) => error.submitted,
                };
                rig.queue.kick();
                let back = rig.device.with_queue(Q, |queue| {
                    let mut chains = pop_all(queue);
                    if !ring.is_in_order() && !chains.is_empty() {
                        let by = turn % chains.len();
                        chains.rotate_left(by);
                        if round % 2 == 1 {
                            chains.reverse();
                        }
                    }
                    let back = chains.len();
                    for (chain, len) in chains {
                        queue.push(chain, len);
                    }
                    queue.publish();
                    back
                });
                assert_eq!(back, Some(submitted));
                let mut numbers = Vec::new();
                let drained = rig.queue.drain(|done| {
                    let written = done.written() as usize;
                    let buf = done.into_buf();
                    buf.check(written);
                    numbers.push(buf.number);
                });
                assert_eq!(drained, Ok(submitted), "{shape:?}");
                numbers.sort_unstable();
                numbers.dedup();
                assert_eq!(numbers.len(), submitted, "each once");
                assert_eq!((rig.queue.free(), rig.queue.outstanding()), (size, 0));
            }
            rig.full_round();
            rig.finish(0);
        }
    }
}

#[test]
fn bursts_and_single_calls_go_on_from_where_the_others_stopped() {
    every_ring!(mixed_calls);
}

/// What a burst or a drain leaves is what a single call finds, at the ends of rings too.
fn mixed_calls<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let sizes = ring.sizes(&[8, 7]);
    for size in sizes.into_iter().take(scaled(2, 1)) {
        for shape in shapes() {
            let mut rig = Rig::new(platform, ring.features, &config(size, 65_531));
            for round in 0..scaled(40, 5) {
                let n = 1 + round % 3;
                let mut submitted = 0;
                let Rig { queue, maker, .. } = &mut rig;
                let mut source = bufs(maker, shape).take(n);
                if round % 4 < 2 {
                    submitted = match queue.submit_burst(&mut source) {
                        Ok(submitted) => submitted,
                        Err(error) => error.submitted,
                    };
                } else {
                    while let Some(Ok(_)) = source.next().map(|buf| queue.submit(buf)) {
                        submitted += 1;
                    }
                }
                drop(source);
                rig.queue.kick();
                rig.device
                    .serve(Q, |queue, chain| reply(queue, chain, usize::MAX));
                let mut came = 0;
                if round % 2 == 0 {
                    came = rig.queue.drain(|done| done.into_buf().check(1)).unwrap();
                } else {
                    while let Some(done) = rig.queue.next_completion().unwrap() {
                        done.into_buf().check(1);
                        came += 1;
                    }
                }
                assert_eq!(came, submitted, "{shape:?} in {size}, round {round}");
                assert!(!rig.queue.arm(), "nothing is left");
                assert_eq!(rig.queue.free(), size);
            }
            rig.full_round();
            rig.finish(0);
        }
    }
}

#[test]
fn a_kick_looks_at_every_descriptor_of_a_burst() {
    for ring in Ring::ALL {
        let _naming = Naming(ring);
        if plain(ring) && ring.has_events() {
            looks_at_every_descriptor(&InPlace::new(), ring);
        }
    }
}

/// Of a packed ring, the event may be any descriptor of the burst; of a split one, any chain.
fn looks_at_every_descriptor(platform: &InPlace, ring: Ring) {
    for shape in shapes() {
        let taken = 8 / shape.iter().max().unwrap();
        let descriptors: usize = shape.iter().cycle().take(taken).sum();
        let spots = if ring.is_packed() { descriptors } else { taken };
        // One behind the burst is not in it.
        for at in 0..=spots as u64 {
            let mut rig = Rig::new(platform, ring.features, &config(16, 13));
            let event = ring.spot(16, 13 + at);
            rig.device
                .with_queue(Q, |queue| queue.set_avail_event(event));
            let Rig { queue, maker, .. } = &mut rig;
            let mut source = bufs(maker, shape).take(taken);
            assert_eq!(queue.submit_burst(&mut source).unwrap(), taken);
            drop(source);
            rig.queue.kick();
            let due = usize::from(at < spots as u64);
            assert_eq!(rig.device.kicks(Q), due, "{shape:?} at {at}");
            rig.finish(taken);
        }
    }
}

#[test]
fn bug_class_37_a_drain_believes_no_id_that_is_not_with_the_device() {
    every_ring!(no_such_id);
}

/// What a device says of a chain that it has not got.
#[derive(Clone, Copy, Debug)]
enum Lie {
    /// No such slot.
    Beyond,
    /// One that nothing was submitted in.
    Idle,
    /// One that has come back.
    Again,
    /// One that is not published.
    Unpublished,
}

fn no_such_id<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for n in 1..=scaled(5, 2) {
        for lie in [Lie::Beyond, Lie::Idle, Lie::Again, Lie::Unpublished] {
            // Behind one of its own kind, so that a loop is in the middle; or first.
            for good in few(&[2, 0], 1) {
                if good == 0 && matches!(lie, Lie::Again) {
                    continue;
                }
                let size = 32;
                let mut rig = Rig::new(platform, ring.features, &config(size, 65_532));
                let tickets: Vec<_> = (0..4)
                    .map(|i| {
                        let buf = rig.maker.chain(n);
                        let ticket = rig.queue.submit(buf).unwrap();
                        if i == 2 {
                            rig.queue.kick();
                        }
                        ticket
                    })
                    .collect();
                let id = match lie {
                    Lie::Beyond => size.into(),
                    Lie::Idle => 31,
                    Lie::Again => u32::from(tickets[1].slot()),
                    Lie::Unpublished => u32::from(tickets[3].slot()),
                };
                rig.device.with_queue(Q, |queue| {
                    let mut chains = pop_all(queue).into_iter();
                    for (chain, len) in chains.by_ref().take(good) {
                        queue.push(chain, len);
                    }
                    queue.forge_used(id, 0);
                });
                let mut came = 0;
                let fault = rig.queue.drain(|done| {
                    let written = done.written() as usize;
                    done.into_buf().check(written);
                    came += 1;
                });
                let expected = match lie {
                    Lie::Beyond => Fault::UsedIdOutOfRange { id, size },
                    _ => Fault::UsedIdNotInFlight { id },
                };
                assert_eq!(fault, Err(expected), "{lie:?} behind {good} of {n}");
                assert_eq!(came, good);
                assert_eq!(rig.maker.alive(), 4 - good);
                assert_eq!(usize::from(rig.queue.outstanding()), 4 - good);
                rig.finish(4 - good);
            }
        }
    }
}

#[test]
fn bug_class_38_a_drain_cuts_lengths_beyond_what_chains_hold_and_counts_them() {
    every_ring!(lengths_beyond);
}

fn lengths_beyond<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for n in 1..=scaled(5, 2) {
        let mut rig = Rig::new(platform, ring.features, &config(32, 65_532));
        let mut shape = vec![(R, 2); n - 1];
        shape.push((W, 3));
        for round in 1..=scaled(4, 2) as u64 {
            for _ in 0..4 {
                let buf = rig.maker.chunks(&shape);
                rig.queue.submit(buf).unwrap();
            }
            rig.queue.kick();
            rig.device.with_queue(Q, |queue| {
                // Every other one.
                for (i, (chain, len)) in pop_all(queue).into_iter().enumerate() {
                    queue.push(chain, if i % 2 == 1 { len + 1 } else { len });
                }
                queue.publish();
            });
            let mut lengths = Vec::new();
            let drained = rig.queue.drain(|done| {
                lengths.push((done.written(), done.claimed()));
                done.into_buf().check(3);
            });
            assert_eq!(drained, Ok(4));
            assert_eq!(lengths, [(3, 3), (3, 4), (3, 3), (3, 4)], "of {n}");
            assert_eq!(rig.queue.counters().overruns, 2 * round);
            assert_eq!(rig.queue.free(), 32);
        }
        rig.full_round();
        rig.device.violations().set_lenient();
        let (live, queue) = (rig.live, rig.queue);
        assert_eq!(stop(live, queue).len(), 0);
        rig.platform.assert_no_leaks();
    }
}

/// A buffer that panics when it is asked for a certain segment.
#[derive(Debug)]
struct Shy {
    parts: Vec<Box<[u8]>>,
    panics_at: usize,
    drops: Arc<AtomicU32>,
}

impl Shy {
    fn new(parts: usize, panics_at: usize, drops: &Arc<AtomicU32>) -> Self {
        Self {
            parts: (0..parts).map(|_| vec![0; 2].into()).collect(),
            panics_at,
            drops: Arc::clone(drops),
        }
    }
}

impl Drop for Shy {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: the bytes are behind boxes, and nobody has a reference to them.
unsafe impl DmaBuf for Shy {
    fn count(&self) -> usize {
        self.parts.len()
    }

    fn segment(&mut self, index: usize) -> Segment {
        if index == self.panics_at {
            std::panic::resume_unwind(Box::new("it is shy"));
        }
        let part = &mut self.parts[index];
        let (ptr, len) = (NonNull::from(&mut part[..]).cast(), part.len());
        // SAFETY: as above.
        unsafe { Segment::new(ptr, len, W) }
    }
}

#[test]
fn bug_class_51_a_buffer_that_panics_while_it_is_mapped_is_dropped_once() {
    every_ring!(shy_buffers);
}

fn shy_buffers<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for n in 1..=scaled(5, 3) {
        for (panics_at, burst) in (0..n).flat_map(|at| [(at, false), (at, true)]) {
            let config = config(16, 65_533);
            let device = device(platform, ring.features, &config);
            let (live, mut queue) = start::<_, Shy>(platform, &device, &config);
            let drops = Arc::<AtomicU32>::default();
            let never = usize::MAX;
            queue.submit(Shy::new(n, never, &drops)).unwrap();
            let mut source = [never, panics_at, never]
                .map(|at| Shy::new(n, at, &drops))
                .into_iter();
            let outcome = catch_unwind(AssertUnwindSafe(|| match burst {
                true => queue.submit_burst(&mut source).map(drop).is_ok(),
                false => source.by_ref().all(|buf| queue.submit(buf).is_ok()),
            }));
            assert!(outcome.is_err());
            assert_eq!(source.len(), 1, "the one behind is not taken");
            assert_eq!(
                drops.load(Ordering::Relaxed),
                1,
                "segment {panics_at} of {n}"
            );
            assert_eq!(usize::from(queue.free()), 16 - 2 * n);
            assert_eq!(queue.outstanding(), 2);
            // Its slot is in nobody's way.
            assert_eq!(queue.submit_burst(&mut source).unwrap(), 1);
            queue.kick();
            let served = device.serve(Q, |queue, chain| queue.write(chain, &[1]));
            assert_eq!((served, queue.drain(|_| ())), (3, Ok(3)));
            assert_eq!(drops.load(Ordering::Relaxed), 4);
            assert_eq!((queue.free(), queue.outstanding()), (16, 0));
            assert_eq!(stop(live, queue).len(), 0);
            device.assert_clean();
            platform.assert_no_leaks();
        }
    }
}

#[test]
fn the_head_of_a_burst_is_held_back_until_it_is_published() {
    for ring in Ring::ALL {
        let _naming = Naming(ring);
        if ring.features.has(Feature::INDIRECT_DESC) {
            continue;
        }
        for shape in shapes() {
            let mut rig = Rig::new(&InPlace::new(), ring.features, &config(16, 13));
            for _ in 0..scaled(4, 2) {
                let looked = |rig: &Rig<_>| rig.device.with_queue(Q, |queue| queue.refresh());
                let Rig { queue, maker, .. } = &mut rig;
                let mut source = bufs(maker, shape).take(3);
                assert_eq!(queue.submit_burst(&mut source).unwrap(), 3);
                drop(source);
                assert_eq!(looked(&rig), Some(0), "{shape:?}");
                rig.queue.publish();
                assert_eq!(looked(&rig), Some(3));
                assert_eq!(rig.serve_and_drain(), 3);
            }
            rig.full_round();
            rig.finish(0);
        }
    }
}
