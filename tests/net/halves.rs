//! Halves of a driver: dropped, joined, exchanged, on other threads.

use vring::device::net::{self, Driver};
use vring::testing::{Bouncing, Discontiguous, Fake, FakeTransport, InPlace, Kind, ResetAnswer};

use super::{frame, resets};
use crate::wire::{Buffer, OFFERED, deliver, device, driver, refill, scaled, take};

#[test]
fn halves_dropped_in_any_order_reset_once_and_free_after_the_confirmation() {
    halves_dropped(InPlace::new);
    halves_dropped(Bouncing::new);
    halves_dropped(|| Discontiguous::new(1024));
}

fn halves_dropped<K: Kind>(make: impl Fn() -> Fake<K>) {
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        for confirmed in [true, false] {
            let platform = &make();
            let device = device(platform, OFFERED, 1500);
            // In pages a buffer may take three descriptors, and three of them are used.
            let mut driver = driver(platform, &device, 16, 8);
            refill(&mut driver);
            driver.tx().transmit(frame(60, 0, 1)).unwrap();
            driver.tx().kick();
            let before = resets(&device);
            let (rx, tx, control) = driver.split();
            let (mut rx, mut tx, mut control) = (Some(rx), Some(tx), Some(control));
            for (step, part) in order.into_iter().enumerate() {
                assert_eq!(resets(&device), before, "not before the last one goes");
                assert_eq!(platform.counts().regions, 3);
                // What is left works on.
                if let Some(rx) = &mut rx {
                    assert!(deliver(&device, &[1; 20]));
                    assert_eq!(rx.receive().unwrap().unwrap().as_slice(), [1; 20]);
                }
                if let Some(tx) = &mut tx {
                    assert!(take(&device).is_some());
                    assert_eq!(tx.reclaim(drop).unwrap(), 1);
                    tx.transmit(frame(60, 0, 1)).unwrap();
                    tx.kick();
                }
                if let Some(control) = &mut control {
                    assert_eq!(control.link_up(), Ok(true));
                }
                if step == 2 && !confirmed {
                    device.set_reset(ResetAnswer::Never);
                }
                match part {
                    0 => drop(rx.take()),
                    1 => drop(tx.take()),
                    _ => drop(control.take()),
                }
            }
            if confirmed {
                assert_eq!(resets(&device), before + 1);
                platform.assert_no_leaks();
            } else {
                assert_eq!(platform.counts().regions, 3);
                assert_ne!(platform.counts().leaked_bytes, 0);
            }
            device.assert_clean();
        }
    }
}

#[test]
fn halves_join_again_and_only_with_their_own() {
    let platform = InPlace::new();
    let (d1, d2) = (
        device(&platform, OFFERED, 1500),
        device(&platform, OFFERED, 1500),
    );
    let (one, two) = (driver(&platform, &d1, 8, 8), driver(&platform, &d2, 16, 16));
    let before = (resets(&d1), resets(&d2));
    let (rx1, tx1, c1) = one.split();
    let (rx2, tx2, c2) = two.split();
    let (rx1, tx2, c1) = Driver::join(rx1, tx2, c1).unwrap_err();
    let (rx2, tx2, c1) = Driver::join(rx2, tx2, c1).unwrap_err();
    let (rx2, tx1, c1) = Driver::join(rx2, tx1, c1).unwrap_err();
    assert_eq!(
        (resets(&d1), resets(&d2)),
        before,
        "a wrong join does nothing"
    );
    let mut one = Driver::join(rx1, tx1, c1).unwrap();
    let mut two = Driver::join(rx2, tx2, c2).unwrap();
    assert_eq!((one.rx().size(), two.rx().size()), (8, 16));
    // Split and joined over and over, it is the same driver.
    refill(&mut one);
    for _ in 0..3 {
        let (rx, tx, control) = one.split();
        one = Driver::join(rx, tx, control).unwrap();
        assert!(deliver(&d1, b"joined"));
        assert_eq!(one.rx().receive().unwrap().unwrap().as_slice(), b"joined");
    }
    assert_eq!((resets(&d1), resets(&d2)), before);
    let mut back = 0;
    one.shutdown(|_, _| back += 1).unwrap();
    assert_eq!(back, 5);
    drop(two);
    assert_eq!((resets(&d1), resets(&d2)), (before.0 + 1, before.1 + 1));
    platform.assert_no_leaks();
}

#[test]
fn parts_that_were_exchanged_free_nothing_that_their_device_still_has() {
    // Safe code can swap what halves and drivers lend: the proof of one then fits no queue of the
    // other, which is leaked, and said to be.
    every_platform!(exchanged_parts);
}

fn exchanged_parts<K: Kind>(platform: &Fake<K>) {
    let (d1, d2) = (
        device(platform, OFFERED, 1500),
        device(platform, OFFERED, 1500),
    );
    let (mut one, mut two) = (driver(platform, &d1, 8, 8), driver(platform, &d2, 8, 8));
    refill(&mut one);
    refill(&mut two);
    std::mem::swap(one.rx(), two.rx());
    std::mem::swap(one.control(), two.control());
    drop(one);
    // `one` had the second device's control and receiver, and the first one's transmitter.
    assert!(d2.status().is_empty() && !d1.status().is_empty());
    assert!(deliver(&d1, b"on and on"));
    let counts = platform.counts();
    assert_ne!(counts.leaked_bytes, 0, "the transmitter of the first");
    drop(two);
    assert!(d1.status().is_empty());
    d1.assert_clean();
    d2.assert_clean();
}

#[test]
fn halves_may_go_to_other_threads() {
    fn sends<T: Send>() {}
    sends::<net::ReceiverHalf<InPlace, FakeTransport, Buffer>>();
    sends::<net::TransmitterHalf<InPlace, FakeTransport, Buffer>>();
    sends::<net::ControlHalf<InPlace, FakeTransport, Buffer>>();
    for _ in 0..scaled(50, 4) {
        let platform = InPlace::new();
        let device = device(&platform, OFFERED, 1500);
        let mut driver = driver(&platform, &device, 8, 8);
        refill(&mut driver);
        let before = resets(&device);
        let (rx, tx, control) = driver.split();
        let threads = [
            std::thread::spawn(move || drop(rx)),
            std::thread::spawn(move || drop(tx)),
            std::thread::spawn(move || drop(control)),
        ];
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
        assert_eq!(resets(&device), before + 1);
        platform.assert_no_leaks();
    }
}
