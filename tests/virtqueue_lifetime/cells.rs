//! Headers and replies in cells of the queue: bug class 56.

use vring::init::QueueConfig;
use vring::testing::{Bouncing, Fake, Kind};
use vring::virtqueue::Reject;

use crate::rig::{R, Rig, W, config, descriptors, few, scaled};
use crate::support::{FEATURES, Q, Ring, every_ring};

#[test]
fn bug_class_56_headers_and_replies_have_cells_of_their_own() {
    every_ring!(cells);
}

fn cells<K: Kind>(platform: &Fake<K>, ring: Ring) {
    // Odd sizes, so that nothing is aligned by luck (class 58).
    let mut rig = Rig::new(platform, ring.features, &config(16, 65_530).cells(13, 5));
    for round in 0..scaled(60, 3) as u8 {
        // The reply that is left is all ones where the device wrote nothing.
        let written = round % 6;
        for i in 0..3_u8 {
            let buf = rig.maker.chunks(&[(R, 1), (W, 1)]);
            rig.queue.submit_with(&[round ^ i; 13], buf).unwrap();
        }
        let each = descriptors(ring, 16, 4);
        assert_eq!(rig.queue.free(), 16 - 3 * each);
        rig.queue.kick();
        rig.device.with_queue(Q, |queue| {
            let mut chains: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
            assert_eq!(chains.len(), 3);
            if !ring.is_in_order() {
                chains.rotate_left(usize::from(round % 3));
            }
            for chain in chains {
                let lens: Vec<_> = chain
                    .segments()
                    .iter()
                    .map(|s| (s.direction, s.len))
                    .collect();
                assert_eq!(lens, [(R, 13), (R, 1), (W, 1), (W, 5)]);
                let read = queue.read(&chain);
                let i = read[0] ^ round;
                assert_eq!(read[..13], [round ^ i; 13]);
                let mut bytes = vec![i; 1 + usize::from(written)];
                bytes[0] = 0x42;
                let len = queue.write(&chain, &bytes);
                queue.push(chain, len);
            }
            queue.publish();
        });
        let count = rig.queue.drain(|done| {
            let i = (done.buf().number as u8 + 2) % 3;
            let mut expected = [0xff; 5];
            expected[..usize::from(written.min(5))].fill(i);
            assert_eq!(done.reply::<[u8; 5]>(), Some(expected));
            assert_eq!(
                done.reply::<[u8; 2]>().as_ref(),
                Some(expected[..2].try_into().unwrap())
            );
            assert_eq!(done.reply::<[u8; 6]>(), None, "larger than the cell");
            assert_eq!(done.written(), 1 + u32::from(written.min(5)));
            assert_eq!(done.buf().bytes(W), [0x42]);
        });
        assert_eq!(count.unwrap(), 3);
    }
    rig.full_round();
    rig.finish(0);
}

#[test]
fn a_reply_is_a_copy_that_the_device_cannot_change_afterwards() {
    let platform = Bouncing::new();
    let mut rig = Rig::new(&platform, FEATURES[0], &QueueConfig::new(4).cells(0, 4));
    let buf = rig.maker.chunks(&[(R, 1)]);
    rig.queue.submit_with(&[0_u8; 0], buf).unwrap();
    rig.queue.kick();
    let mut remote = rig.device.take_queue(Q).unwrap();
    let chain = remote.pop().unwrap();
    assert_eq!(chain.segments().len(), 2);
    let cell = chain.segments()[1].addr;
    remote.write(&chain, &[1, 2, 3, 4]);
    remote.complete(chain, 4);
    let done = rig.queue.next_completion().unwrap().unwrap();
    let reply = done.reply::<[u8; 4]>().unwrap();
    platform.bus().write(cell, &[9; 4]);
    assert_eq!(reply, [1, 2, 3, 4]);
    assert_eq!(
        done.reply::<[u8; 4]>(),
        Some([9; 4]),
        "each call is a new copy"
    );
    drop((done, remote));
    rig.finish(0);
}

#[test]
fn a_plain_submission_has_no_cells_and_no_reply() {
    every_ring!(plain_has_no_cells);
}

fn plain_has_no_cells<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &QueueConfig::new(8).cells(4, 4));
    let buf = rig.maker.chunks(&[(R, 1)]);
    rig.queue.submit(buf).unwrap();
    let buf = rig.maker.chunks(&[(R, 1)]);
    rig.queue.submit_with(&[7_u8; 4], buf).unwrap();
    let buf = rig.maker.chunks(&[(R, 1)]);
    rig.queue.submit_with(&[0_u8; 0], buf).unwrap();
    rig.queue.kick();
    let mut segments = Vec::new();
    rig.device.serve(Q, |queue, chain| {
        segments.push(chain.segments().len());
        queue.write(chain, &[1; 4])
    });
    assert_eq!(segments, [1, 3, 2]);
    let mut replies = Vec::new();
    rig.queue
        .drain(|done| replies.push(done.reply::<[u8; 4]>()))
        .unwrap();
    assert_eq!(replies, [None, Some([1; 4]), Some([1; 4])]);
    rig.finish(0);
}

#[test]
fn a_buffer_without_segments_goes_with_a_header_or_a_reply() {
    every_ring!(only_cells);
}

fn only_cells<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for (header, answer) in [(4_usize, 4_u16), (4, 0), (0, 4)] {
        let mut rig = Rig::new(platform, ring.features, &config(4, 65_535).cells(4, answer));
        for _ in 0..scaled(8, 2) {
            let buf = rig.maker.parts(Vec::new());
            rig.queue.submit_with(&[5_u8; 4][..header], buf).unwrap();
            rig.queue.kick();
            rig.device.serve(Q, |queue, chain| {
                assert_eq!(queue.read(chain), vec![5; header]);
                queue.write(chain, &[6; 4])
            });
            let done = rig.queue.next_completion().unwrap().unwrap();
            assert_eq!(done.reply(), (answer == 4).then_some([6_u8; 4]));
            assert_eq!(done.written(), answer.into());
        }
        let buf = rig.maker.parts(Vec::new());
        assert_eq!(
            rig.queue.submit(buf).unwrap_err().why,
            Reject::Empty { index: 0 }
        );
        rig.full_round();
        rig.finish(0);
    }
}

#[test]
fn a_header_that_is_too_large_is_refused() {
    every_ring!(header_too_large);
}

fn header_too_large<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for max in few(&[12, 0, 1], 1) {
        for answer in [0, 3] {
            let mut rig = Rig::new(
                platform,
                ring.features,
                &config(8, 65_535).cells(max, answer),
            );
            let before = rig.snapshot();
            let buf = rig.maker.chain(2);
            let rejected = rig.queue.submit_with(&[0_u8; 13], buf).unwrap_err();
            assert_eq!(rejected.why, Reject::Header { size: 13, max });
            assert_eq!(rig.snapshot(), before);
            let buf = rejected.buf;
            rig.queue
                .submit_with(&vec![0_u8; max.into()][..], buf)
                .unwrap();
            rig.queue.kick();
            rig.device.echo(Q);
            assert_eq!(rig.queue.drain(|_| ()).unwrap(), 1);
            rig.full_round();
            rig.finish(0);
        }
    }
}

#[test]
fn cells_count_as_descriptors() {
    every_ring!(cells_need_room);
}

fn cells_need_room<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(4, 65_535).cells(2, 2));
    let before = rig.snapshot();
    let buf = rig.maker.chain(3);
    let rejected = rig.queue.submit_with(&[0_u8; 2], buf).unwrap_err();
    assert_eq!(rejected.why, Reject::TooManySegments { needed: 5, most: 4 });
    assert_eq!(rig.snapshot(), before);
    rig.queue.submit_with(&[0_u8; 0], rejected.buf).unwrap();
    assert_eq!(rig.queue.free(), 4 - descriptors(ring, 4, 4));
    rig.finish(1);
}
