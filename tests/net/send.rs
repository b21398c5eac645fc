//! Frames that are sent one by one, and given back where they cannot be.

use vring::buffer::Window;
use vring::device::net::{F, TransmitFailure};
use vring::testing::{Bouncing, Fake, InPlace, Kind};
use vring::virtqueue::Reject;

use super::frame;
use crate::wire::{HEADER, OFFERED, buffer, device, driver, take};

/// Defends: SP-003.
#[test]
fn a_frame_with_headroom_takes_one_descriptor_and_one_without_takes_two() {
    let platform = InPlace::new();
    let device = device(&platform, OFFERED, 1500);
    let mut driver = driver(&platform, &device, 8, 8);
    for headroom in [0, 1, 11, 12, 13, 100] {
        let mut memory = buffer(200);
        memory.fill(0xee);
        let mut frame = Window::new(memory, headroom, 60);
        frame.as_mut_slice().fill(0x55);
        driver.tx().transmit(frame).unwrap();
        driver.tx().kick();
        let (header, bytes, descriptors) = take(&device).unwrap();
        assert_eq!(header, [0; HEADER], "no offload is asked for");
        assert_eq!(bytes, [0x55; 60]);
        assert_eq!(descriptors, if headroom >= HEADER { 1 } else { 2 });
        let mut back = Vec::new();
        assert_eq!(driver.tx().reclaim(|memory| back.push(memory)).unwrap(), 1);
        assert_eq!(back[0].len(), 200);
    }
}

#[test]
fn bug_class_80_a_full_queue_gives_the_frame_back_as_it_was() {
    every_platform!(full_queue);
}

fn full_queue<K: Kind>(platform: &Fake<K>) {
    for headroom in [0, HEADER] {
        let device = device(platform, OFFERED, 1500);
        let mut driver = driver(platform, &device, 8, 8);
        let mut sent = 0_u8;
        let mut back = loop {
            match driver.tx().transmit(frame(14, headroom, sent)) {
                Ok(()) => sent += 1,
                Err(error) => break error,
            }
        };
        assert!(sent >= 2);
        for _ in 0..3 {
            assert!(matches!(
                back.why,
                TransmitFailure::Queue(Reject::Full { .. })
            ));
            assert_eq!(back.frame.headroom(), headroom);
            assert_eq!(back.frame.as_slice(), vec![sent; 14]);
            back = driver.tx().transmit(back.frame).unwrap_err();
        }
        assert_eq!(usize::from(driver.tx().outstanding()), usize::from(sent));
        driver.tx().kick();
        let mut frames = Vec::new();
        while let Some((_, bytes, _)) = take(&device) {
            frames.push(bytes[0]);
        }
        assert_eq!(frames, (0..sent).collect::<Vec<_>>(), "in order");
        assert_eq!(driver.tx().reclaim(drop).unwrap(), usize::from(sent));
        assert!(driver.tx().has_room());
        driver.tx().transmit(back.frame).unwrap();
        drop(driver);
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

#[test]
fn a_frame_that_cannot_be_mapped_is_given_back_as_it_was() {
    let platform = Bouncing::with_space(100);
    let device = device(&platform, OFFERED, 1500);
    let mut driver = driver(&platform, &device, 8, 8);
    for headroom in [0, HEADER] {
        driver.tx().transmit(frame(50, headroom, 1)).unwrap();
        let error = driver.tx().transmit(frame(60, headroom, 2)).unwrap_err();
        assert!(matches!(error.why, TransmitFailure::Queue(Reject::Map(_))));
        assert_eq!(error.frame.headroom(), headroom);
        assert_eq!(error.frame.as_slice(), [2; 60]);
        driver.tx().kick();
        assert_eq!(take(&device).unwrap().1, [1; 50]);
        assert_eq!(driver.tx().reclaim(drop).unwrap(), 1);
        driver.tx().transmit(error.frame).unwrap();
        driver.tx().kick();
        assert_eq!(take(&device).unwrap().1, [2; 60]);
        assert_eq!(driver.tx().reclaim(drop).unwrap(), 1);
    }
}

#[test]
fn frames_beyond_the_mtu_are_refused_and_a_vlan_tag_is_not_counted() {
    let platform = InPlace::new();
    for mtu in [68, 1500] {
        let device = device(&platform, OFFERED, mtu);
        let mut driver = driver(&platform, &device, 8, 8);
        let max = usize::from(mtu) + 14;
        driver.tx().transmit(frame(max, HEADER, 0)).unwrap();
        let error = driver.tx().transmit(frame(max + 1, HEADER, 0)).unwrap_err();
        assert_eq!(error.why, TransmitFailure::TooLong { len: max + 1, max });
        assert_eq!(error.frame.as_slice().len(), max + 1);
        let tagged = |len| {
            let mut frame = frame(len, HEADER, 0);
            frame.as_mut_slice()[12..14].copy_from_slice(&[0x81, 0x00]);
            frame
        };
        driver.tx().transmit(tagged(max + 4)).unwrap();
        let error = driver.tx().transmit(tagged(max + 5)).unwrap_err();
        assert_eq!(
            error.why,
            TransmitFailure::TooLong {
                len: max + 5,
                max: max + 4
            }
        );
    }
    // A device that gives no MTU gives no limit.
    let device = device(&platform, OFFERED.without(F::MTU), 0);
    let mut driver = driver(&platform, &device, 8, 8);
    driver.tx().transmit(frame(65_000, HEADER, 0)).unwrap();
}

#[test]
fn a_frame_of_no_bytes_is_refused() {
    let platform = InPlace::new();
    let device = device(&platform, OFFERED, 1500);
    let mut driver = driver(&platform, &device, 8, 8);
    for headroom in [0, 12] {
        let error = driver.tx().transmit(frame(0, headroom, 0)).unwrap_err();
        assert_eq!(
            error.why,
            TransmitFailure::Queue(Reject::Empty { index: 0 })
        );
        assert_eq!(error.frame.headroom(), headroom);
    }
    assert_eq!(driver.tx().outstanding(), 0);
}
