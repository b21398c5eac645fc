//! Frames that go out in bursts, and what comes of those that do not.

use vring::buffer::Window;
use vring::device::net::{TRANSMIT_QUEUE, TransmitFailure};
use vring::testing::{Bouncing, Discontiguous, Fake, InPlace, Kind};
use vring::virtqueue::Reject;

use super::{address, finish, frame, frames, headroom, is_direct, start};
use crate::support::{Naming, Ring};
use crate::wire::{HEADER, buffer, scaled, take};

#[test]
fn a_burst_of_frames_with_and_without_headroom_goes_out_in_order_with_one_kick() {
    every_ring!(mixed_burst);
}

fn mixed_burst<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let (device, mut driver) = start(platform, ring, 8, 64);
    let tx = driver.tx();
    let all: Vec<_> = frames(14).collect();
    let mut mine: Vec<_> = all
        .iter()
        .map(|frame| frame.as_slice().as_ptr().addr() - frame.headroom())
        .collect();
    assert_eq!(tx.transmit_burst(&mut all.into_iter()).unwrap(), 14);
    assert_eq!(tx.outstanding(), 14);
    assert!(take(&device).is_none(), "nothing is published");
    tx.kick();
    assert_eq!(device.kicks(TRANSMIT_QUEUE), 1);
    device.assert_kicked(TRANSMIT_QUEUE);
    for i in 0..14 {
        let (header, bytes, descriptors) = take(&device).unwrap();
        assert_eq!(header, [0; HEADER], "no offload is asked for");
        assert_eq!(bytes, [i as u8; 60]);
        if is_direct(platform) {
            assert_eq!(descriptors, if headroom(i) >= HEADER { 1 } else { 2 });
        }
    }
    let mut back = Vec::new();
    assert_eq!(tx.reclaim(|memory| back.push(address(&memory))), Ok(14));
    mine.sort_unstable();
    back.sort_unstable();
    assert_eq!(back, mine);
    assert_eq!(tx.room(), tx.size());
    finish(driver, platform, &device, 0);
}

#[test]
fn a_full_queue_ends_a_burst_and_the_other_frames_stay_in_the_iterator() {
    for ring in Ring::ALL {
        let _naming = Naming(ring);
        let platform = InPlace::new();
        let (device, mut driver) = start(&platform, ring, 8, 8);
        let mut many = (0..20).map(|i| frame(HEADER, i));
        for sent in [8, 8, 4] {
            let tx = driver.tx();
            let first = 20 - many.len() as u8;
            assert_eq!(tx.transmit_burst(&mut many).unwrap(), sent);
            let left = many.len();
            assert_eq!(tx.transmit_burst(&mut many).unwrap(), 0);
            assert_eq!(many.len(), left, "none is taken that does not go out");
            tx.kick();
            for i in first..first + sent as u8 {
                assert_eq!(take(&device).unwrap().1, [i; 60]);
            }
            assert_eq!(tx.reclaim(drop), Ok(sent));
        }
        assert_eq!(many.len(), 0);
        finish(driver, &platform, &device, 0);
    }
}

#[test]
fn nothing_is_lost_by_bursts_into_a_queue_that_is_full_again_and_again() {
    every_ring!(crowded);
}

fn crowded<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let (device, mut driver) = start(platform, ring, 8, 8);
    let n = scaled(120, 20);
    // The next frame is the last one here.
    let mut waiting: Vec<_> = frames(n).collect();
    waiting.reverse();
    let tx = driver.tx();
    let (mut out, mut back, mut seen) = (0, 0, 0);
    for round in 0.. {
        if seen == n {
            break;
        }
        assert!(round < 10 * n, "it goes on");
        match tx.transmit_burst(&mut std::iter::from_fn(|| waiting.pop())) {
            Ok(taken) => out += taken,
            Err(error) => {
                let full = matches!(
                    error.rejected.why,
                    TransmitFailure::Queue(Reject::Full { .. })
                );
                assert!(full, "{error}");
                out += error.taken;
                assert_eq!(error.rejected.frame.headroom(), headroom(out));
                assert_eq!(error.rejected.frame.as_slice(), [out as u8; 60]);
                waiting.push(error.rejected.frame);
            }
        }
        assert_eq!(out + waiting.len(), n);
        tx.kick();
        // The device is done with some of them.
        for _ in 0..1 + round % 5 {
            if let Some((header, bytes, _)) = take(&device) {
                assert_eq!(header, [0; HEADER]);
                assert_eq!(bytes, [seen as u8; 60], "in order");
                seen += 1;
            }
        }
        back += tx.reclaim(|memory| assert!(memory.len() >= 67)).unwrap();
        assert_eq!(back, seen);
    }
    finish(driver, platform, &device, 0);
}

#[test]
fn a_frame_without_headroom_that_finds_one_descriptor_comes_back_from_a_burst() {
    for ring in Ring::ALL {
        let _naming = Naming(ring);
        let platform = InPlace::new();
        let (device, mut driver) = start(&platform, ring, 8, 8);
        let tx = driver.tx();
        let room = [HEADER; 7].into_iter().chain([3, HEADER, HEADER]);
        let mut many = (0..).zip(room).map(|(i, headroom)| frame(headroom, i));
        let outcome = tx.transmit_burst(&mut many);
        if ring.is_indirect() {
            // A table takes both pieces.
            assert_eq!(outcome.unwrap(), 8);
        } else {
            let error = outcome.unwrap_err();
            assert_eq!(
                error.to_string(),
                "after 7 frames: the queue is full: 2 descriptors are needed, 1 are free"
            );
            let why = Reject::Full { needed: 2, free: 1 };
            assert_eq!(error.rejected.why, TransmitFailure::Queue(why));
            let back = error.rejected.frame;
            assert_eq!((back.headroom(), back.as_slice()), (3, &[7; 60][..]));
            // One with headroom still finds room.
            assert_eq!((tx.room(), tx.transmit_burst(&mut many).unwrap()), (1, 1));
        }
        let left = 10 - 8 - usize::from(!ring.is_indirect());
        assert_eq!(many.count(), left);
        finish(driver, &platform, &device, 8);
    }
}

#[test]
fn a_frame_that_a_burst_refuses_comes_back_as_it_was_and_those_behind_it_stay() {
    every_ring!(refused_frames);
}

fn refused_frames<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let (device, mut driver) = start(platform, ring, 8, 64);
    let of = |headroom: usize, len: usize| {
        let mut frame = Window::new(buffer(headroom + len), headroom, len);
        frame.as_mut_slice().fill(0x77);
        frame
    };
    let too_long = TransmitFailure::TooLong {
        len: 1515,
        max: 1514,
    };
    let empty = TransmitFailure::Queue(Reject::Empty { index: 0 });
    let tx = driver.tx();
    let mut sent = 0;
    for (headroom, len, why) in [
        (HEADER, 1515, too_long),
        (0, 1515, too_long),
        (HEADER, 0, empty),
        (0, 0, empty),
    ] {
        let mut burst = [
            frame(HEADER, 1),
            frame(0, 2),
            of(headroom, len),
            frame(HEADER, 3),
        ]
        .into_iter();
        let error = tx.transmit_burst(&mut burst).unwrap_err();
        assert_eq!((error.taken, error.rejected.why), (2, why));
        assert!(format!("{error:?}").contains("taken: 2"));
        let back = error.rejected.frame;
        assert_eq!(back.headroom(), headroom);
        assert_eq!(back.as_slice(), vec![0x77; len]);
        assert_eq!(burst.len(), 1);
        assert_eq!(tx.transmit_burst(&mut burst).unwrap(), 1);
        sent += 3;
    }
    // A tag is not counted, with headroom or without.
    for headroom in [HEADER, 0] {
        let mut tagged = of(headroom, 1518);
        tagged.as_mut_slice()[12..14].copy_from_slice(&[0x81, 0x00]);
        let mut burst = [tagged, frame(HEADER, 4)].into_iter();
        assert_eq!(tx.transmit_burst(&mut burst).unwrap(), 2);
        sent += 2;
    }
    tx.kick();
    let mut lengths = std::iter::from_fn(|| take(&device).map(|(_, bytes, _)| bytes.len()));
    assert!(lengths.by_ref().take(12).all(|len| len == 60));
    assert!(lengths.eq([1518, 60, 1518, 60]));
    assert_eq!(tx.reclaim(drop), Ok(sent));
    finish(driver, platform, &device, 0);
}

#[test]
fn a_frame_of_a_burst_that_cannot_be_mapped_comes_back_as_it_was() {
    for ring in Ring::ALL {
        let _naming = Naming(ring);
        for headroom in [0, HEADER] {
            let platform = Bouncing::new();
            let (device, mut driver) = start(&platform, ring, 8, 8);
            platform.fail_nth_map(3);
            let mut burst = (0..4).map(|i| frame(headroom, i));
            let error = driver.tx().transmit_burst(&mut burst).unwrap_err();
            let why = error.rejected.why;
            assert!(matches!(why, TransmitFailure::Queue(Reject::Map(_))));
            assert_eq!(error.taken, 2);
            let back = error.rejected.frame;
            assert_eq!((back.headroom(), back.as_slice()), (headroom, &[2; 60][..]));
            assert_eq!(driver.tx().transmit_burst(&mut burst).unwrap(), 1);
            assert_eq!(burst.len(), 0);
            finish(driver, &platform, &device, 3);
        }
    }
}

#[test]
fn the_transmit_queue_is_looked_at_only_when_it_is_short_of_room() {
    for ring in Ring::ALL {
        let _naming = Naming(ring);
        let platform = InPlace::new();
        let (device, mut driver) = start(&platform, ring, 8, 8);
        device.violations().set_lenient();
        let tx = driver.tx();
        assert_eq!(tx.make_room(100, |_| panic!("all is free")), Ok(8));
        let four = || (0..4).map(|i| frame(HEADER, i));
        tx.transmit_burst(&mut four()).unwrap();
        tx.kick();
        assert_eq!(tx.make_room(5, |_| panic!("none is back")), Ok(4));
        (0..4).for_each(|_| drop(take(&device).unwrap()));
        for wanted in 0..=4 {
            assert_eq!(tx.make_room(wanted, |_| panic!("room enough")), Ok(4));
        }
        assert_eq!(tx.outstanding(), 4);
        let mut back = 0;
        assert_eq!(tx.make_room(5, |_| back += 1), Ok(8));
        assert_eq!((back, tx.outstanding()), (4, 0));

        // What a device does meanwhile is not even seen, until there is a need to look.
        tx.transmit_burst(&mut four()).unwrap();
        tx.kick();
        device.with_queue(TRANSMIT_QUEUE, |queue| queue.forge_used(7777, 0));
        assert_eq!(tx.make_room(4, |_| panic!("room enough")), Ok(4));
        assert_eq!(tx.fault(), None);
        let fault = tx.make_room(5, |_| panic!("none is back")).unwrap_err();
        assert_eq!(tx.fault(), Some(fault));
    }
}
