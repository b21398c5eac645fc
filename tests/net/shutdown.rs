//! A driver that is shut down or dropped.

use vring::device::net::{Driver, Options, RECEIVE_QUEUE, TRANSMIT_QUEUE};
use vring::init::InitFailure;
use vring::testing::{Fake, Kind, ResetAnswer};

use super::{frame, resets};
use crate::wire::{Buffer, HEADER, OFFERED, buffer, deliver, device, driver, refill, take};

#[test]
fn shutdown_gives_every_buffer_back_with_its_queue() {
    every_platform!(shutdown);
}

fn shutdown<K: Kind>(platform: &Fake<K>) {
    let device = device(platform, OFFERED, 1500);
    let mut driver = driver(platform, &device, 256, 256);
    let len = driver.rx().buffer_len();
    let mut mine = Vec::new();
    for i in 0..6 {
        let buffer = buffer(len + i);
        mine.push((RECEIVE_QUEUE, buffer.as_ptr().addr()));
        driver.rx().give(buffer).unwrap();
        let frame = frame(60 + i, HEADER * (i % 2), 1);
        mine.push((
            TRANSMIT_QUEUE,
            frame.as_slice().as_ptr().addr() - HEADER * (i % 2),
        ));
        driver.tx().transmit(frame).unwrap();
    }
    // Some published, some not, one of each with the device and one returned unseen.
    driver.rx().kick();
    driver.tx().kick();
    assert!(deliver(&device, b"unseen"));
    assert!(take(&device).is_some());
    device.with_queue(RECEIVE_QUEUE, |queue| queue.pop());

    device.set_reset(ResetAnswer::Never);
    let (driver, why) = driver
        .shutdown(|_, _| panic!("nothing is back"))
        .unwrap_err();
    assert!(matches!(why, InitFailure::ResetNotConfirmed { .. }));
    device.set_reset(ResetAnswer::After(1));
    let mut came = Vec::new();
    let transport = driver
        .shutdown(|queue, buffer: Buffer| came.push((queue, buffer.as_ptr().addr())))
        .unwrap();
    assert!(transport.device().status().is_empty());
    mine.sort_unstable();
    came.sort_unstable();
    assert_eq!(came, mine);
    platform.assert_no_leaks();
    device.assert_clean();
    // The transport starts again.
    drop(Driver::<_, _, Buffer>::new(platform.clone(), transport, Options::default()).unwrap());
    platform.assert_no_leaks();
}

#[test]
fn a_driver_that_is_dropped_resets_its_device_and_then_frees() {
    every_platform!(dropped_driver);
}

fn dropped_driver<K: Kind>(platform: &Fake<K>) {
    let device = device(platform, OFFERED, 1500);
    let mut one = driver(platform, &device, 8, 8);
    refill(&mut one);
    one.tx().transmit(frame(60, 0, 1)).unwrap();
    one.tx().kick();
    let before = resets(&device);
    // It is confirmed late, and until then the rings are there.
    device.set_reset(ResetAnswer::After(3));
    let remote = device.clone();
    platform.on_wait(move |_, _| {
        take(&remote);
        deliver(&remote, b"late");
    });
    drop(one);
    assert_eq!(resets(&device), before + 1);
    platform.assert_no_leaks();
    platform.on_wait(|_, _| {});

    let mut one = driver(platform, &device, 8, 8);
    let given = refill(&mut one);
    device.set_reset(ResetAnswer::Never);
    drop(one);
    let counts = platform.counts();
    assert_eq!(counts.regions, 3, "left to the device");
    assert!(counts.leaked_bytes > 0);
    assert_eq!(counts.leaked_buffers, given);
    assert!(deliver(&device, b"still there"));
    device.assert_clean();
}
