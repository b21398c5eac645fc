//! Slots and descriptors, the free list, the room that is left: bug classes 4, 5, 9, 10 and 11.

use vring::testing::{Fake, InPlace, Kind};
use vring::virtqueue::{Reject, Ticket};

use super::on_every_ring_in_place;
use crate::rig::{R, Rig, W, config, descriptors, few, reply, scaled};
use crate::support::{Q, Ring, every_ring};

#[test]
fn bug_class_04_the_right_head_after_a_chain_was_recycled() {
    every_ring!(right_head_after_recycle);
}

fn right_head_after_recycle<K: Kind>(platform: &Fake<K>, ring: Ring) {
    // Chains of 1 to 4, returned in every rotation, over and over in the same eight descriptors.
    let mut rig = Rig::new(platform, ring.features, &config(8, 65_529));
    for round in 0..scaled(60, 4) {
        let turn = if ring.is_in_order() { 0 } else { round % 3 };
        let lens = [[1, 3, 4], [2, 2, 4], [4, 1, 2], [3, 4, 1]][round % 4];
        let mut sent: Vec<(Ticket, u64, usize)> = Vec::new();
        for len in lens {
            let buf = rig.maker.chain(len);
            let number = buf.number;
            sent.push((rig.queue.submit(buf).unwrap(), number, len));
        }
        let taken: u16 = lens.iter().map(|&len| descriptors(ring, 8, len)).sum();
        assert_eq!(rig.queue.free(), 8 - taken);
        rig.queue.kick();
        rig.device.with_queue(Q, |queue| {
            let mut chains: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
            for (chain, &(ticket, _, len)) in chains.iter().zip(&sent) {
                assert_eq!(chain.head(), ticket.slot());
                assert_eq!(chain.segments().len(), len);
                assert_eq!(chain.descriptors(), descriptors(ring, 8, len));
            }
            chains.rotate_left(turn);
            sent.rotate_left(turn);
            for chain in chains {
                let len = reply(queue, &chain, usize::MAX);
                queue.push(chain, len);
            }
            queue.publish();
        });
        for (ticket, number, _) in sent {
            let done = rig.queue.next_completion().unwrap().unwrap();
            assert_eq!(done.ticket(), ticket);
            let written = done.written() as usize;
            let buf = done.into_buf();
            assert_eq!(buf.number, number);
            buf.check(written);
        }
        assert_eq!(rig.queue.free(), 8);
    }
    rig.finish(0);
}

#[test]
fn bug_class_05_the_free_list_survives_every_order_of_return() {
    assert_eq!(permutations(4).len(), 24);
    on_every_ring_in_place(every_order_of_return);
}

fn every_order_of_return(platform: &InPlace, ring: Ring) {
    let mut orders: Vec<Vec<usize>> = permutations(4);
    orders = orders.into_iter().step_by(scaled(1, 8)).collect();
    if ring.is_in_order() {
        orders = vec![vec![0, 1, 2, 3]; 3];
    }
    let mut rig = Rig::new(platform, ring.features, &config(8, 65_500));
    for order in orders {
        let mut slots = Vec::new();
        for len in [1, 2, 3, 2] {
            let buf = rig.maker.chain(len);
            slots.push(rig.queue.submit(buf).unwrap().slot());
        }
        let free = if ring.is_indirect() { 2 } else { 0 };
        assert_eq!(rig.queue.free(), free);
        rig.queue.kick();
        rig.device.with_queue(Q, |queue| {
            let mut chains: Vec<_> = std::iter::from_fn(|| queue.pop().map(Some)).collect();
            for &i in &order {
                let chain = chains[i].take().unwrap();
                let len = reply(queue, &chain, usize::MAX);
                queue.push(chain, len);
            }
            queue.publish();
        });
        let mut came = Vec::new();
        rig.queue
            .drain(|done| came.push(done.ticket().slot()))
            .unwrap();
        assert_eq!(came, order.iter().map(|&i| slots[i]).collect::<Vec<_>>());
        // All ids are there once: eight chains of one, and no ninth.
        rig.full_round();
    }
    rig.finish(0);
}

fn permutations(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let insert = |rest: Vec<usize>| {
        (0..n).map(move |at| {
            let mut all = rest.clone();
            all.insert(at, n - 1);
            all
        })
    };
    permutations(n - 1).into_iter().flat_map(insert).collect()
}

#[test]
fn bug_class_05_exhaustion_is_an_answer_not_a_panic() {
    every_ring!(exhaustion);
}

fn exhaustion<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for size in [1, 2, 4] {
        let mut rig = Rig::new(platform, ring.features, &config(size, 65_534));
        for _ in 0..size {
            let buf = rig.maker.chunks(&[(R, 1)]);
            rig.queue.submit(buf).unwrap();
        }
        for _ in 0..3 {
            let buf = rig.maker.chunks(&[(R, 1)]);
            let rejected = rig.queue.submit(buf).unwrap_err();
            assert_eq!(rejected.why, Reject::Full { needed: 1, free: 0 });
            let buf = rig.maker.parts(Vec::new());
            assert!(rig.queue.submit(buf).is_err(), "no segments, no room");
        }
        rig.finish(usize::from(size));
    }
}

/// In order, the head of an empty free list is the slot of the oldest chain.
#[test]
fn bug_class_05_a_buffer_of_no_segments_displaces_nothing_on_a_full_queue() {
    every_ring!(displaces_nothing);
}

fn displaces_nothing<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(4, 65_534));
    for _ in 0..4 {
        let buf = rig.maker.chunks(&[(W, 2)]);
        rig.queue.submit(buf).unwrap();
    }
    for _ in 0..3 {
        let buf = rig.maker.parts(Vec::new());
        let number = buf.number;
        let rejected = rig.queue.submit(buf).unwrap_err();
        assert_eq!(rejected.why, Reject::Full { needed: 0, free: 0 });
        assert_eq!(rejected.buf.number, number);
    }
    rig.queue.kick();
    assert_eq!(rig.serve_and_drain(), 4);
    assert_eq!(rig.maker.alive(), 0);
    rig.full_round();
    rig.finish(0);
}

#[test]
fn bug_class_09_full_is_not_empty() {
    every_ring!(full_is_not_empty);
}

fn full_is_not_empty<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let sizes = ring.sizes(&[1, 2, 3, 7, 8]);
    for size in few(&sizes, 3) {
        // Full exactly at the wrap, and everywhere near it.
        for start in (65_536 - 2 * i32::from(size)..=65_536).step_by(scaled(1, 5)) {
            let mut rig = Rig::new(platform, ring.features, &config(size, start as u16));
            for _ in 0..scaled(3, 2) {
                rig.full_round();
                assert!(rig.queue.next_completion().unwrap().is_none());
            }
            rig.finish(0);
        }
    }
}

/// Defends: SP-008, PK-005, PK-006.
#[test]
fn bug_class_10_a_chain_longer_than_the_queue_never_fits() {
    every_ring!(longer_than_the_queue);
}

fn longer_than_the_queue<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let sizes = ring.sizes(&[1_u16, 2, 3, 8, 64]);
    for size in few(&sizes, 3) {
        let mut rig = Rig::new(platform, ring.features, &config(size, 65_535));
        let n = usize::from(size);
        let before = rig.snapshot();
        for too_long in [n + 1, n + 7, 3 * n + 1] {
            let buf = rig.maker.chain(too_long);
            let rejected = rig.queue.submit(buf).unwrap_err();
            let expected = Reject::TooManySegments {
                needed: too_long,
                most: size,
            };
            assert_eq!(rejected.why, expected);
            assert_eq!(rejected.buf.parts.len(), too_long);
            assert_eq!(rig.snapshot(), before);
        }
        let buf = rig.maker.chain(n);
        rig.queue.submit(buf).unwrap();
        rig.queue.kick();
        assert_eq!(rig.serve_and_drain(), 1);
        rig.full_round();
        rig.finish(0);
    }
}

/// Defends: PK-008, PK-009.
#[test]
fn bug_class_10_a_chain_waits_for_room_and_says_how_much() {
    on_every_ring_in_place(|platform, ring| {
        if !ring.is_indirect() {
            waits_for_room(platform, ring);
        }
    });
}

fn waits_for_room(platform: &InPlace, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(8, 0));
    let buf = rig.maker.chain(5);
    rig.queue.submit(buf).unwrap();
    let before = rig.snapshot();
    let buf = rig.maker.chain(4);
    let rejected = rig.queue.submit(buf).unwrap_err();
    assert_eq!(rejected.why, Reject::Full { needed: 4, free: 3 });
    assert_eq!(rig.snapshot(), before);
    let buf = rig.maker.chain(3);
    rig.queue.submit(buf).unwrap();
    rig.queue.kick();
    assert_eq!(rig.serve_and_drain(), 2);
    rig.queue.submit(rejected.buf).unwrap();
    rig.finish(1);
}

#[test]
fn bug_class_11_flags_and_links_of_earlier_chains_leave_no_trace() {
    every_ring!(no_stale_flags);
}

fn no_stale_flags<K: Kind>(platform: &Fake<K>, ring: Ring) {
    // The same descriptors serve as middle, end, only one; readable, then writable.
    let mut rig = Rig::new(platform, ring.features, &config(4, 65_530));
    for round in 0..scaled(40, 6) {
        let shapes: [&[_]; 5] = [
            &[(R, 1), (R, 1), (R, 1), (W, 1)],
            &[(W, 1)],
            &[(R, 1), (W, 1)],
            &[(R, 1)],
            &[(W, 1), (W, 1), (W, 1)],
        ];
        let shape = shapes[round % 5];
        let buf = rig.maker.chunks(shape);
        rig.queue.submit(buf).unwrap();
        rig.queue.kick();
        let seen = rig.device.with_queue(Q, |queue| {
            let chain = queue.pop().unwrap();
            let seen: Vec<_> = chain.segments().iter().map(|s| (s.direction, 1)).collect();
            let len = reply(queue, &chain, usize::MAX);
            queue.complete(chain, len);
            seen
        });
        assert_eq!(seen.as_deref(), Some(shape));
        assert_eq!(rig.serve_and_drain(), 1);
    }
    rig.finish(0);
}

#[test]
fn tickets_of_what_is_in_the_queue_are_distinct_and_dense() {
    on_every_ring_in_place(distinct_tickets);
}

fn distinct_tickets(platform: &InPlace, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(16, 65_530));
    let mut table: Vec<Option<Ticket>> = vec![None; 16];
    for round in 0..scaled(300, 12) {
        let buf = rig.maker.chain(1 + round % 3);
        if let Ok(ticket) = rig.queue.submit(buf) {
            let old = table[usize::from(ticket.slot())].replace(ticket);
            assert_eq!(old, None, "two in one slot");
            rig.queue.kick();
        }
        if round % 2 == 0 {
            rig.device.with_queue(Q, |queue| {
                if let Some(chain) = queue.pop() {
                    queue.complete(chain, 0);
                }
            });
        }
        if let Some(done) = rig.queue.next_completion().unwrap() {
            let old = table[usize::from(done.ticket().slot())].take();
            assert_eq!(old, Some(done.ticket()));
        }
    }
    let left = table.iter().flatten().count();
    rig.finish(left);
}
