//! When buffers are mapped and unmapped, and which bytes are copied: bug classes 51 to 53.

use vring::platform::DmaError;
use vring::testing::{Bouncing, Fake, Kind, POISON};
use vring::virtqueue::Reject;

use crate::rig::{self, R, Rig, W, config, few, reply, scaled};
use crate::support::{FEATURES, Q, Ring, every_ring};

#[test]
fn bug_class_51_when_the_nth_map_fails_the_queue_is_as_it_was() {
    every_ring!(nth_map_fails);
}

fn nth_map_fails<K: Kind>(platform: &Fake<K>, ring: Ring) {
    // Five segments; in pages of 16 bytes the middle one takes at least three mappings.
    let shape = [(R, 3), (R, 1), (W, 48), (W, 2), (W, 1)];
    for busy in few(&[2, 0], 1) {
        for nth in (1..=5).step_by(scaled(1, 2)) {
            let mut rig = Rig::new(platform, ring.features, &config(16, 65_534));
            for _ in 0..busy {
                let buf = rig.maker.chain(1);
                rig.queue.submit(buf).unwrap();
            }
            rig.queue.publish();
            let before = rig.snapshot();
            platform.fail_nth_map(nth);
            let buf = rig.maker.chunks(&shape);
            let number = buf.number;
            let rejected = rig.queue.submit(buf).unwrap_err();
            assert!(matches!(
                rejected.why,
                Reject::Map(DmaError::OutOfMemory { .. })
            ));
            assert_eq!(rejected.buf.number, number);
            assert_eq!(rig.snapshot(), before, "map {nth}");
            rejected.buf.check(0);
            // And now it works.
            let burst = rig.queue.submit_burst(&mut std::iter::once(rejected.buf));
            assert_eq!(burst.unwrap(), 1);
            rig.queue.kick();
            assert_eq!(rig.serve_and_drain(), busy + 1);
            rig.full_round();
            rig.finish(0);
        }
    }
}

#[test]
fn bug_class_51_when_there_is_no_bounce_space_nothing_is_kept() {
    let platform = Bouncing::with_space(100);
    let mut rig = Rig::new(&platform, FEATURES[0], &config(16, 0));
    let before = rig.snapshot();
    for shape in [vec![(R, 101)], vec![(R, 60), (W, 41)], vec![(R, 1); 16]] {
        let fits = shape.iter().map(|&(_, len)| len).sum::<usize>() <= 100;
        let buf = rig.maker.chunks(&shape);
        assert_eq!(rig.queue.submit(buf).is_ok(), fits);
        if fits {
            rig.queue.kick();
            assert_eq!(rig.serve_and_drain(), 1);
        } else {
            assert_eq!(rig.snapshot(), before);
        }
    }
    rig.finish(0);
}

#[test]
fn bug_class_52_bytes_go_the_way_that_the_direction_says() {
    let platform = Bouncing::new();
    let mut rig = Rig::new(&platform, FEATURES[0], &config(8, 65_533));
    for used in (0..=12).step_by(scaled(1, 4)) {
        let buf = rig.maker.chunks(&[(R, 7), (W, 5), (W, 7)]);
        rig.queue.submit(buf).unwrap();
        rig.queue.kick();
        rig.device.with_queue(Q, |queue| {
            let chain = queue.pop().unwrap();
            assert_eq!(queue.write(&chain, &[0x11; 12]), 12);
            queue.complete(chain, used);
        });
        let done = rig.queue.next_completion().unwrap().unwrap();
        assert_eq!(done.written(), used);
        let buf = done.into_buf();
        // What is beyond `used` was never copied: neither the device's bytes nor the poison.
        let mut expected = vec![0x11; used as usize];
        expected.resize(12, 0xee);
        assert_eq!(buf.bytes(W), expected, "{used}");
        assert!(!expected.contains(&POISON));
        let sent: Vec<u8> = rig::pattern(buf.number).take(7).collect();
        assert_eq!(buf.bytes(R), sent, "what is read is not written");
    }
    rig.finish(0);
}

#[test]
fn bug_class_53_mappings_end_with_the_completion_not_before_and_not_after() {
    let platform = Bouncing::new();
    let mut rig = Rig::new(&platform, FEATURES[0], &config(8, 65_533));
    for _ in 0..3 {
        let buf = rig.maker.chain(2);
        rig.queue.submit(buf).unwrap();
    }
    assert_eq!(platform.counts().mappings, 6);
    rig.queue.kick();
    rig.device.serve(Q, |queue, chain| reply(queue, chain, 9));
    assert_eq!(platform.counts().mappings, 6, "the driver has not looked");
    for left in [4, 2, 0] {
        let done = rig.queue.next_completion().unwrap().unwrap();
        let written = done.written() as usize;
        done.into_buf().check(written);
        assert_eq!(platform.counts().mappings, left);
    }
    rig.finish(0);
}
