//! Where a burst and a drain end.

use vring::testing::{Bouncing, Fake, Kind};
use vring::virtqueue::Reject;

use crate::rig::{R, Rig, config};
use crate::support::{FEATURES, Q, Ring, every_ring};

#[test]
fn a_burst_stops_where_the_room_ends_and_takes_nothing_more_from_the_iterator() {
    every_ring!(burst_stops);
}

fn burst_stops<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(8, 65_532));
    let mut bufs: Vec<_> = (0..20).map(|_| rig.maker.chunks(&[(R, 1)])).collect();
    let mut source = bufs.drain(..);
    assert_eq!(rig.queue.submit_burst(&mut source).unwrap(), 8);
    assert_eq!(source.len(), 12, "nothing is taken that is not submitted");
    assert_eq!(rig.queue.submit_burst(&mut source).unwrap(), 0);
    assert_eq!(source.len(), 12);
    rig.queue.kick();
    assert_eq!(rig.serve_and_drain(), 8);
    assert_eq!(rig.queue.submit_burst(&mut source).unwrap(), 8);
    rig.queue.kick();
    assert_eq!(rig.serve_and_drain(), 8);
    assert_eq!(rig.queue.submit_burst(&mut source).unwrap(), 4);
    drop(source);
    rig.finish(4);
}

#[test]
fn a_burst_of_chains_gives_back_the_one_that_does_not_fit() {
    every_ring!(burst_of_chains);
}

fn burst_of_chains<K: Kind>(platform: &Fake<K>, ring: Ring) {
    if ring.is_indirect() {
        return;
    }
    let mut rig = Rig::new(platform, ring.features, &config(8, 65_532));
    // 1 + 2 + 1 + 3 = 7, and 2 more do not fit.
    let bufs: Vec<_> = [1, 2, 1, 3, 2, 1].map(|n| rig.maker.chain(n)).into();
    let fifth = bufs[4].number;
    let mut source = bufs.into_iter();
    let error = rig.queue.submit_burst(&mut source).unwrap_err();
    assert_eq!(error.submitted, 4);
    assert_eq!(error.rejected.buf.number, fifth);
    assert_eq!(error.rejected.why, Reject::Full { needed: 2, free: 1 });
    assert_eq!(source.len(), 1);
    assert_eq!(rig.queue.submit_burst(&mut source).unwrap(), 1);
    rig.queue.kick();
    assert_eq!(rig.serve_and_drain(), 5);
    drop(error);
    rig.full_round();
    rig.finish(0);
}

#[test]
fn drain_ends_though_the_device_goes_on() {
    // The device returns one more chain each time that the closure runs.
    let platform = Bouncing::new();
    let mut rig = Rig::new(&platform, FEATURES[0], &config(16, 65_530));
    for _ in 0..16 {
        let buf = rig.maker.chunks(&[(R, 1)]);
        rig.queue.submit(buf).unwrap();
    }
    rig.queue.kick();
    let mut remote = rig.device.take_queue(Q).unwrap();
    let mut one = || {
        if let Some(chain) = remote.pop() {
            remote.complete(chain, 0);
        }
    };
    one();
    one();
    assert_eq!(rig.queue.drain(|_| one()).unwrap(), 2);
    assert_eq!(rig.queue.drain(|_| one()).unwrap(), 2);
    drop(remote);
    rig.finish(12);
}

#[test]
fn drain_of_a_packed_ring_ends_with_what_was_out_when_it_began() {
    let platform = Bouncing::new();
    let mut rig = Rig::new(&platform, Ring::PACKED.features, &config(7, 65_530));
    for _ in 0..5 {
        let buf = rig.maker.chunks(&[(R, 1)]);
        rig.queue.submit(buf).unwrap();
    }
    rig.queue.kick();
    let mut remote = rig.device.take_queue(Q).unwrap();
    let mut one = || {
        if let Some(chain) = remote.pop() {
            remote.complete(chain, 0);
        }
    };
    one();
    one();
    assert_eq!(rig.queue.drain(|_| one()).unwrap(), 5);
    drop(remote);
    rig.finish(0);
}
