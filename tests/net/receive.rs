//! Buffers that frames are received in: bug classes 33, 38, 76 and 79.

use vring::device::net::{RECEIVE_QUEUE, RefillFailure};
use vring::testing::{Bouncing, Event, Fake, InPlace, Kind};
use vring::transport::Status;
use vring::virtqueue::Reject;

use crate::wire::{Buffer, HEADER, OFFERED, buffer, deliver, deliver_raw, device, driver, refill};

#[test]
fn bug_class_33_receive_buffers_are_announced_after_driver_ok() {
    every_platform!(announced_after_driver_ok);
}

fn announced_after_driver_ok<K: Kind>(platform: &Fake<K>) {
    let device = device(platform, OFFERED, 1500);
    let mut driver = driver(platform, &device, 8, 8);
    let last = *device.events().last().unwrap();
    assert!(matches!(last, Event::Status(status) if status.contains(Status::DRIVER_OK)));
    assert_eq!(device.kicks(RECEIVE_QUEUE), 0);
    assert!(refill(&mut driver) >= 1);
    assert_eq!(
        device.kicks(RECEIVE_QUEUE),
        1,
        "once, and not before DRIVER_OK"
    );
    assert!(deliver(&device, b"hello"));
    let frame = driver.rx().receive().unwrap().unwrap();
    assert_eq!(frame.as_slice(), b"hello");
    drop((frame, driver));
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn bug_class_79_refilling_does_not_wait_for_receive() {
    let platform = Bouncing::new();
    let device = device(&platform, OFFERED, 1500);
    let mut driver = driver(&platform, &device, 8, 8);
    assert_eq!(refill(&mut driver), 8);
    // The device uses all of them while nobody receives.
    for i in 0..8 {
        assert!(deliver(&device, &[i; 60]));
    }
    assert!(!deliver(&device, &[9; 60]), "it has none left");
    // Others are given at once as the first are taken, before those are handled.
    let first = driver.rx().receive().unwrap().unwrap();
    device.with_queue(RECEIVE_QUEUE, |queue| {
        assert!(!queue.enable_notifications())
    });
    assert_eq!((driver.rx().room(), refill(&mut driver)), (1, 1));
    assert_eq!(device.kicks(RECEIVE_QUEUE), 2);
    assert!(deliver(&device, &[10; 60]));
    assert_eq!(first.as_slice(), [0; 60]);
    for i in [1, 2, 3, 4, 5, 6, 7, 10] {
        assert_eq!(driver.rx().receive().unwrap().unwrap().as_slice(), [i; 60]);
    }
    assert!(driver.rx().receive().unwrap().is_none());
    assert_eq!(driver.rx().runts(), 0);
}

#[test]
fn a_buffer_that_is_too_small_is_refused() {
    let platform = InPlace::new();
    let device = device(&platform, OFFERED, 1500);
    let mut driver = driver(&platform, &device, 8, 8);
    let needed = driver.rx().buffer_len();
    assert_eq!(needed, 12 + 1514);
    let (back, why) = driver.rx().give(buffer(needed - 1)).unwrap_err();
    assert_eq!(back.len(), needed - 1);
    assert_eq!(
        why,
        RefillFailure::TooSmall {
            len: needed - 1,
            needed
        }
    );
    let mut mixed = [needed, needed + 7, 0, needed].map(buffer).into_iter();
    let error = driver.rx().refill(&mut mixed).unwrap_err();
    assert_eq!((error.taken, error.buffer.len()), (2, 0));
    assert_eq!(error.why, RefillFailure::TooSmall { len: 0, needed });
    assert_eq!(
        device.kicks(RECEIVE_QUEUE),
        1,
        "those before it are announced"
    );
    assert_eq!(mixed.len(), 1);
    assert!(deliver(&device, b"x") && deliver(&device, b"y") && !deliver(&device, b"z"));
}

#[test]
fn a_refill_stops_where_the_queue_is_full_and_takes_nothing_more() {
    let platform = InPlace::new();
    let device = device(&platform, OFFERED, 1500);
    let mut driver = driver(&platform, &device, 8, 8);
    let len = driver.rx().buffer_len();
    let mut many: std::vec::IntoIter<Buffer> =
        (0..20).map(|_| buffer(len)).collect::<Vec<_>>().into_iter();
    assert_eq!(driver.rx().refill(&mut many).unwrap(), 8);
    assert_eq!(many.len(), 12);
    assert_eq!(driver.rx().refill(&mut many).unwrap(), 0);
    assert_eq!(many.len(), 12);
    let (_, why) = driver.rx().give(buffer(len)).unwrap_err();
    assert_eq!(
        why,
        RefillFailure::Queue(Reject::Full { needed: 1, free: 0 })
    );
}

#[test]
fn bug_class_38_runts_and_lies_about_the_length_are_counted_and_lose_nothing() {
    every_platform!(odd_lengths);
}

fn odd_lengths<K: Kind>(platform: &Fake<K>) {
    let device = device(platform, OFFERED, 1500);
    let mut driver = driver(platform, &device, 8, 8);
    let len = driver.rx().buffer_len();
    let (mut runts, mut overruns) = (0, 0);
    for claimed in [0, 1, 9, 11, 12, 13, 1525, 1526, 1527, 65_535, u32::MAX] {
        refill(&mut driver);
        assert!(deliver_raw(&device, &vec![0x33; len], claimed));
        let frame = driver.rx().receive().unwrap().unwrap();
        let expected = (claimed as usize).min(len).saturating_sub(HEADER);
        assert_eq!(frame.as_slice(), vec![0x33; expected], "{claimed}");
        runts += u64::from(claimed < 12);
        overruns += u64::from(claimed as usize > len);
        assert_eq!(driver.rx().runts(), runts);
        assert_eq!(driver.rx().counters().overruns, overruns);
        // It goes back as it came.
        let memory = frame.into_memory();
        assert_eq!(memory.len(), len);
        driver.rx().give(memory).unwrap();
    }
    assert_eq!((runts, overruns), (4, 3));
    drop(driver);
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn bug_class_76_nothing_in_the_device_s_header_is_believed() {
    let platform = Bouncing::new();
    let device = device(&platform, OFFERED, 1500);
    let mut driver = driver(&platform, &device, 8, 8);
    for poison in [0x00, 0x01, 0x7f, 0x80, 0xff] {
        refill(&mut driver);
        let mut bytes = [poison; HEADER + 60];
        bytes[HEADER..].fill(0x44);
        assert!(deliver_raw(&device, &bytes, bytes.len() as u32));
        let frame = driver.rx().receive().unwrap().unwrap();
        assert_eq!(
            (frame.as_slice(), frame.headroom()),
            ([0x44; 60].as_slice(), HEADER)
        );
        assert!(driver.rx().receive().unwrap().is_none());
    }
}
