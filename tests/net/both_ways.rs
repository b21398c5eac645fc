//! What both directions have in common, and how one goes on without the other: bug classes 75, 80,
//! 82 and 88.

use vring::buffer::Window;
use vring::device::net::{
    self, F, RECEIVE_QUEUE, RefillFailure, TRANSMIT_QUEUE, TransmitFailure, header_len,
};
use vring::features::{Feature, Features};
use vring::testing::{Fake, InPlace, Kind};
use vring::virtqueue::{Fault, Reject};

use super::frame;
use crate::wire::{
    Buffer, HEADER, Net, OFFERED, buffer, deliver, device, driver, refill, scaled, take,
};

#[test]
fn bug_class_75_the_header_has_12_bytes_exactly_with_version_1_or_mrg_rxbuf() {
    let bits = [
        Feature::VERSION_1,
        F::MRG_RXBUF,
        Feature::EVENT_IDX,
        F::MAC,
        Feature::RING_PACKED,
    ];
    for set in 0..1_u32 << bits.len() {
        let chosen = |i: &usize| set >> i & 1 == 1;
        let features = (0..bits.len())
            .filter(chosen)
            .fold(Features::EMPTY, |all, i| all.with(bits[i]));
        let expected = if set & 3 == 0 { 10 } else { 12 };
        assert_eq!(header_len(features), expected, "{features}");
    }
    assert_eq!(size_of::<net::Header>(), 12);
}

#[test]
fn bug_class_82_frames_and_buffers_return_in_any_order() {
    every_platform!(any_order);
}

fn any_order<K: Kind>(platform: &Fake<K>) {
    let device = device(platform, OFFERED, 1500);
    let mut driver = driver(platform, &device, 256, 8);
    let len = driver.rx().buffer_len();
    for round in 0..scaled(40, 4) {
        for i in 0..4 {
            driver.tx().transmit(frame(14, HEADER, i)).unwrap();
            driver.rx().give(buffer(len)).unwrap();
        }
        driver.tx().kick();
        driver.rx().kick();
        for (queue, len) in [(TRANSMIT_QUEUE, 0), (RECEIVE_QUEUE, 12 + 2)] {
            device.with_queue(queue, |queue| {
                let mut chains: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
                assert_eq!(chains.len(), 4);
                for (i, chain) in chains.iter().enumerate() {
                    queue.write(chain, &[i as u8; 14]);
                }
                chains.rotate_left(round % 4);
                chains.swap(0, 2);
                for chain in chains {
                    queue.push(chain, len);
                }
                queue.publish();
            });
        }
        let mut back = Vec::new();
        assert_eq!(
            driver
                .tx()
                .reclaim(|memory| back.push(memory[HEADER]))
                .unwrap(),
            4
        );
        let mut came = Vec::new();
        while let Some(frame) = driver.rx().receive().unwrap() {
            assert_eq!(frame.as_slice().len(), 2);
            came.push(frame.as_slice()[0]);
        }
        let mut expected = [0, 1, 2, 3];
        expected.rotate_left(round % 4);
        expected.swap(0, 2);
        assert_eq!((back, came), (expected.into(), expected.into()));
    }
}

#[test]
fn bug_class_80_one_direction_that_is_stuck_or_broken_leaves_the_other_alone() {
    every_platform!(one_direction_broken);
}

fn one_direction_broken<K: Kind>(platform: &Fake<K>) {
    for broken in [RECEIVE_QUEUE, TRANSMIT_QUEUE] {
        let device = device(platform, OFFERED, 1500);
        let mut driver = driver(platform, &device, 8, 8);
        refill(&mut driver);
        device.with_queue(broken, |queue| queue.forge_used(7777, 0));
        let fault = if broken == RECEIVE_QUEUE {
            let fault = driver.rx().receive().unwrap_err();
            assert_eq!(
                (driver.rx().fault(), driver.tx().fault()),
                (Some(fault), None)
            );
            driver.tx().transmit(frame(60, HEADER, 3)).unwrap();
            driver.tx().kick();
            assert_eq!(take(&device).unwrap().1, [3; 60]);
            assert_eq!(driver.tx().reclaim(drop).unwrap(), 1);
            let len = driver.rx().buffer_len();
            let (_, why) = driver.rx().give(buffer(len)).unwrap_err();
            assert_eq!(why, RefillFailure::Queue(Reject::Broken(fault)));
            fault
        } else {
            let fault = driver.tx().reclaim(drop).unwrap_err();
            assert_eq!(
                (driver.rx().fault(), driver.tx().fault()),
                (None, Some(fault))
            );
            assert!(deliver(&device, b"abc"));
            assert_eq!(driver.rx().receive().unwrap().unwrap().as_slice(), b"abc");
            let error = driver.tx().transmit(frame(60, HEADER, 3)).unwrap_err();
            assert_eq!(error.why, TransmitFailure::Queue(Reject::Broken(fault)));
            assert_eq!(error.frame.as_slice(), [3; 60]);
            assert!(!driver.tx().has_room());
            fault
        };
        match broken {
            RECEIVE_QUEUE => assert!(matches!(fault, Fault::UsedIdOutOfRange { id: 7777, .. })),
            _ => assert!(matches!(fault, Fault::UsedIndex { outstanding: 0, .. })),
        }
        drop(driver);
        platform.assert_no_leaks();
    }
}

#[test]
fn interrupts_are_armed_for_each_direction_on_its_own() {
    let platform = InPlace::new();
    let device = device(&platform, OFFERED, 1500);
    let mut driver = driver(&platform, &device, 8, 8);
    let isr = driver.control().take_isr().unwrap();
    assert!(driver.control().take_isr().is_none());
    refill(&mut driver);
    assert!(deliver(&device, b"polled"));
    assert!(isr.ack().is_empty(), "nobody asked for it");
    assert!(driver.rx().arm(), "it is there already");
    drop(driver.rx().receive().unwrap());
    assert!(!driver.rx().arm());
    assert!(deliver(&device, b"told"));
    assert_eq!(isr.ack().bits(), 1);
    driver.tx().transmit(frame(60, HEADER, 0)).unwrap();
    driver.tx().kick();
    assert!(!driver.tx().arm());
    let told = device.with_queue(TRANSMIT_QUEUE, |queue| {
        let chain = queue.pop().unwrap();
        queue.complete(chain, 0)
    });
    assert_eq!(told, Some(true));
    driver.tx().disarm();
    assert!(driver.tx().arm());
}

#[test]
#[cfg_attr(miri, ignore = "70000 frames each way")]
fn bug_class_88_frames_beyond_the_wrap_of_both_indices() {
    let platform = InPlace::new();
    let device = device(&platform, OFFERED, 1500);
    let mut driver = driver(&platform, &device, 16, 16);
    refill(&mut driver);
    let mut spare: Vec<Buffer> = (0..8).map(|_| buffer(HEADER + 64)).collect();
    for i in 0..140_000_u32 {
        let bytes = i.to_le_bytes();
        assert!(deliver(&device, &bytes));
        let got = driver.rx().receive().unwrap().unwrap();
        assert_eq!(got.as_slice(), bytes);
        driver.rx().give(got.into_memory()).unwrap();
        driver.rx().kick();
        let mut frame = Window::new(spare.pop().unwrap(), HEADER, 64);
        frame.as_mut_slice()[..4].copy_from_slice(&bytes);
        driver.tx().transmit(frame).unwrap();
        driver.tx().kick();
        assert_eq!(take(&device).unwrap().1[..4], bytes);
        assert_eq!(driver.tx().reclaim(|memory| spare.push(memory)).unwrap(), 1);
    }
    assert_eq!(driver.rx().counters().completed, 140_000);
    assert_eq!(driver.tx().counters().completed, 140_000);
    assert_eq!(spare.len(), 8);
    drop(driver);
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn everything_has_a_debug_form_and_every_error_a_sentence() {
    fn says(error: &impl std::error::Error) {
        assert!(!error.to_string().is_empty() && !format!("{error:?}").is_empty());
    }
    let platform = InPlace::new();
    let device = device(&platform, OFFERED, 1500);
    let mut driver: Net<_> = driver(&platform, &device, 8, 8);
    let error = driver.tx().transmit(frame(2000, 0, 0)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a frame of 2000 bytes, where the device takes 1514"
    );
    says(&error);
    let error = driver
        .rx()
        .refill(&mut std::iter::once(buffer(4)))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "a receive buffer of 4 bytes, where frames take 1526"
    );
    says(&error);
    assert!(format!("{driver:?}").contains("mac"));
}
