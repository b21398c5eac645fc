//! The network driver when something goes wrong, and when its device rests.

#[path = "support/net.rs"]
mod wire;

use vring::buffer::Window;
use vring::device::net::{
    self, Driver, RECEIVE_QUEUE, RecoverError, Recovery, SUPPORTED, SuspendError, TRANSMIT_QUEUE,
};
use vring::features::{Feature, Features, NegotiateError};
use vring::init::{InitFailure, QueueError, SuspendFailure};
use vring::platform::Platform;
use vring::ring::Slot;
use vring::testing::{
    Bouncing, Discontiguous, Event, Fake, FakeDevice, InPlace, Kind, ResetAnswer, SuspendAnswer,
};
use vring::transport::{QueueIndex, Status, TransportError};
use vring::virtqueue::{Fault, MappingSlot, QueueStorage};

use wire::{Buffer, HEADER, Net, OFFERED, buffer, deliver, device, driver, options, refill, take};

/// What the devices of these tests offer, on each format of a ring.
const RINGS: [Features; 2] = [
    OFFERED
        .with(Feature::RING_RESET)
        .with(Feature::SUSPEND)
        .with(Feature::INDIRECT_DESC),
    OFFERED
        .with(Feature::RING_RESET)
        .with(Feature::SUSPEND)
        .with(Feature::RING_PACKED)
        .with(Feature::NOTIFICATION_DATA),
];

/// Runs a generic function on each kind of platform and each format of a ring.
macro_rules! everywhere {
    ($f:ident) => {{
        for ring in RINGS {
            $f(&InPlace::new(), ring);
            $f(&Bouncing::new(), ring);
            $f(&Discontiguous::new(1024), ring);
        }
    }};
}

/// Frame number `i`: with headroom for the header, or without, turn by turn.
fn frame(i: u8) -> Window<Buffer> {
    let headroom = if i.is_multiple_of(2) { HEADER + 4 } else { 3 };
    let len = 60 + usize::from(i);
    let mut memory = buffer(headroom + len + 5);
    memory[headroom..headroom + len].fill(i);
    Window::new(memory, headroom, len)
}

/// That a frame is as it was.
fn check(i: u8, frame: &Window<Buffer>) {
    let same = self::frame(i);
    assert_eq!(frame.as_slice(), same.as_slice());
    assert_eq!(frame.headroom(), same.headroom(), "frame {i}");
}

fn transmit<K: Kind>(driver: &mut Net<K>, frames: impl IntoIterator<Item = u8>) {
    for i in frames {
        driver.tx().transmit(frame(i)).unwrap();
    }
    driver.tx().kick();
}

/// That these frames come out, and no others.
fn expect(device: &FakeDevice, frames: impl IntoIterator<Item = u8>) {
    for i in frames {
        let (header, bytes, _) = take(device).unwrap();
        assert_eq!(header, [0; HEADER]);
        assert_eq!(bytes, frame(i).as_slice());
    }
    assert!(take(device).is_none());
}

/// That the driver works, both ways.
fn works<K: Kind>(driver: &mut Net<K>, device: &FakeDevice) {
    for i in 100..110 {
        assert!(deliver(device, &[i; 70]));
        let frame = driver.rx().receive().unwrap().unwrap();
        assert_eq!(frame.as_slice(), [i; 70]);
        driver.rx().give(frame.into_memory()).unwrap();
        driver.rx().kick();
        transmit(driver, [i]);
        expect(device, [i]);
        assert_eq!(driver.tx().reclaim(|_| ()).unwrap(), 1);
    }
}

fn finish<K: Kind>(driver: Net<K>, platform: &Fake<K>, device: &FakeDevice) {
    driver.shutdown(|_, _| ()).unwrap();
    device.assert_clean();
    platform.assert_no_leaks();
}

/// Defends: FE-010, FE-013, FE-014, FE-018.
#[test]
fn bug_class_62_the_driver_accepts_what_it_implements_as_its_user_wishes() {
    let platform = InPlace::new();
    let everything = Features(!0);
    let accepted = |change: &dyn Fn(&mut net::Options)| {
        let device = device(&platform, everything, 1500);
        let mut options = options(8, 8);
        change(&mut options);
        let mut driver: Net<_> =
            Driver::new(platform.clone(), device.transport(), options).unwrap();
        let control = driver.control();
        assert_eq!(control.features(), device.accepted());
        assert_eq!(control.refused(), everything - control.features());
        control.features()
    };
    assert_eq!(accepted(&|_| ()), SUPPORTED);
    assert!(SUPPORTED.contains(Features::RING));
    let packed = Features::from(Feature::RING_PACKED);
    assert_eq!(accepted(&|o| o.refuse = packed), SUPPORTED - packed);
    // What is not implemented cannot be wished.
    assert_eq!(accepted(&|o| o.want = everything), SUPPORTED);
    let always = Feature::VERSION_1 | Feature::ACCESS_PLATFORM;
    assert_eq!(accepted(&|o| o.want = packed), always | packed);
    let require = |o: &mut net::Options| {
        o.want = Features::EMPTY;
        o.require = net::F::MAC.into();
    };
    assert_eq!(accepted(&require), always | net::F::MAC);

    for (feature, offered, why) in [
        (
            Feature::SR_IOV,
            everything,
            NegotiateError::Unimplemented {
                feature: Feature::SR_IOV,
            },
        ),
        (
            net::F::CTRL_VQ,
            everything,
            NegotiateError::Unimplemented {
                feature: net::F::CTRL_VQ,
            },
        ),
        (
            Feature::IN_ORDER,
            OFFERED,
            NegotiateError::NotOffered {
                feature: Feature::IN_ORDER,
            },
        ),
    ] {
        let device = device(&platform, offered, 1500);
        let mut options = options(8, 8);
        options.require = feature.into();
        let outcome = Driver::<_, _, Buffer>::new(platform.clone(), device.transport(), options);
        assert_eq!(outcome.unwrap_err().why, InitFailure::Features(why));
        device.assert_clean();
    }
    platform.assert_no_leaks();
}

#[test]
fn each_half_has_its_queue_reset_and_its_buffers_handed_back() {
    everywhere!(halves_restarted);
}

fn halves_restarted<K: Kind>(platform: &Fake<K>, ring: Features) {
    let device = device(platform, ring, 1500);
    let mut driver = driver(platform, &device, 16, 16);
    let given = refill(&mut driver);
    transmit(&mut driver, 0..3);
    driver.tx().transmit(frame(3)).unwrap();
    let (mut rx, mut tx, mut control) = driver.split();

    let mut back = Vec::new();
    control
        .restart_transmit(&mut tx, 64, |frame| back.push(frame))
        .unwrap();
    assert_eq!(back.len(), 4);
    for (i, frame) in (0..).zip(&back) {
        check(i, frame);
    }
    assert_eq!((tx.size(), tx.outstanding(), tx.fault()), (64, 0, None));
    assert_eq!(control.options().transmit_size, 64);
    for frame in back {
        tx.transmit(frame).unwrap();
    }
    tx.kick();
    expect(&device, 0..4);
    assert_eq!(tx.reclaim(|_| ()).unwrap(), 4);

    let mut back = Vec::new();
    control
        .restart_receive(&mut rx, 64, |memory| back.push(memory))
        .unwrap();
    assert_eq!((back.len(), rx.size()), (given, 64));
    assert!(!deliver(&device, &[0; 60]), "the new queue has no buffers");
    assert_eq!(rx.refill(&mut back.into_iter()).unwrap(), given);
    let mut driver = Driver::join(rx, tx, control).unwrap();
    works(&mut driver, &device);
    finish(driver, platform, &device);
}

/// Defends: CF-007.
#[test]
fn a_queue_that_is_restarted_has_its_interrupt_vector_again() {
    let platform = InPlace::new();
    let device = device(&platform, RINGS[0], 1500).vectors(Some(4));
    let mut options = options(8, 8);
    (options.receive_vector, options.transmit_vector) = (Some(1), Some(2));
    let mut driver: Net<_> = Driver::new(platform.clone(), device.transport(), options).unwrap();
    for _ in 0..2 {
        let vectors = [RECEIVE_QUEUE, TRANSMIT_QUEUE].map(|queue| device.vector(queue));
        assert_eq!(vectors, [Some(1), Some(2)]);
        let (rx, tx, control) = driver.parts();
        control.restart_receive(rx, 4, |_| ()).unwrap();
        control.restart_transmit(tx, 4, |_| ()).unwrap();
    }
    let (mut driver, _) = driver.recover(Some, |_, _| ()).unwrap();
    let vectors = [RECEIVE_QUEUE, TRANSMIT_QUEUE].map(|queue| device.vector(queue));
    assert_eq!(vectors, [Some(1), Some(2)]);
    assert_eq!(
        (driver.rx().size(), driver.tx().size()),
        (4, 4),
        "as they were"
    );
    finish(driver, &platform, &device);
}

#[test]
fn a_half_that_broke_works_again_and_the_other_one_never_stopped() {
    let platform = Bouncing::new();
    let device = device(&platform, RINGS[0], 1500);
    device.violations().set_lenient();
    let mut driver = driver(&platform, &device, 8, 8);
    refill(&mut driver);
    transmit(&mut driver, 0..2);
    device.with_queue(TRANSMIT_QUEUE, |queue| queue.forge_used(99, 0));
    let fault = driver.tx().reclaim(|_| ()).unwrap_err();
    assert!(matches!(fault, Fault::UsedIdOutOfRange { .. }));
    let (_, tx, control) = driver.parts();
    let mut back = 0;
    control.restart_transmit(tx, 8, |_| back += 1).unwrap();
    assert_eq!(back, 2);
    works(&mut driver, &device);
    driver.shutdown(|_, _| ()).unwrap();
    platform.assert_no_leaks();
}

#[test]
fn a_queue_of_another_driver_or_without_the_feature_is_left_alone() {
    let (platform, other_platform) = (InPlace::new(), InPlace::new());
    let without = device(&platform, OFFERED, 1500);
    let with = device(&other_platform, RINGS[0], 1500);
    let mut first = driver(&platform, &without, 8, 8);
    let mut second = driver(&other_platform, &with, 8, 8);
    let (rx, tx, control) = first.parts();
    for why in [
        control.restart_receive(rx, 16, |_| panic!()).unwrap_err(),
        control.restart_transmit(tx, 16, |_| panic!()).unwrap_err(),
    ] {
        let unsupported = |why| matches!(why, TransportError::Unsupported { .. });
        assert!(matches!(why, InitFailure::Transport(why) if unsupported(why)));
    }
    assert_eq!(control.options().receive_size, 8);
    let why = second.control().restart_receive(rx, 16, |_| panic!());
    let queue = RECEIVE_QUEUE;
    let foreign = InitFailure::Queue(QueueError::Unavailable { queue });
    assert_eq!(why, Err(foreign));
    refill(&mut first);
    works(&mut first, &without);
    finish(first, &platform, &without);
    finish(second, &other_platform, &with);
}

#[test]
fn a_device_that_asks_for_a_reset_is_recovered_and_frames_are_sent_again() {
    everywhere!(recovered);
}

fn recovered<K: Kind>(platform: &Fake<K>, ring: Features) {
    let device = device(platform, ring, 1500);
    let mut driver = driver(platform, &device, 16, 16);
    let given = refill(&mut driver);
    transmit(&mut driver, 0..4);
    driver.tx().transmit(frame(4)).unwrap();
    assert_eq!(driver.control().check(), Ok(()));
    device.fail();
    assert!(driver.control().needs_reset());
    assert_eq!(driver.control().check(), Err(InitFailure::NeedsReset));
    let polls = 3;
    device.set_reset(ResetAnswer::After(polls));

    // One in two is sent again.
    let mut seen = 0;
    let replay = |frame| {
        check(seen, &frame);
        seen += 1;
        (seen % 2 == 1).then_some(frame)
    };
    let (mut driver, recovery) = driver
        .recover(replay, |_, _| panic!("all has room"))
        .unwrap();
    assert_eq!(seen, 5);
    assert!(!recovery.features_changed());
    let Recovery {
        before,
        after,
        replayed,
        refilled,
        ..
    } = recovery;
    assert_eq!((before, after), (ring, ring));
    assert_eq!((replayed, refilled), (3, given));
    assert_eq!(driver.control().check(), Ok(()));
    // Both queues are announced.
    assert!(device.kicks(RECEIVE_QUEUE) >= 2 && device.kicks(TRANSMIT_QUEUE) >= 2);
    expect(&device, [0, 2, 4]);
    assert_eq!(driver.tx().reclaim(|_| ()).unwrap(), 3);
    works(&mut driver, &device);
    finish(driver, platform, &device);
}

#[test]
fn frames_of_a_burst_are_replayed_as_they_were_and_in_their_order() {
    everywhere!(recovered_burst);
}

fn recovered_burst<K: Kind>(platform: &Fake<K>, ring: Features) {
    let device = device(platform, ring, 1500);
    let mut driver = driver(platform, &device, 16, 32);
    let given = refill(&mut driver);
    let tx = driver.tx();
    // One has gone out, some are with the device, and the last ones were not shown to it.
    tx.transmit_burst(&mut (0..4).map(frame)).unwrap();
    tx.publish();
    assert!(take(&device).is_some());
    assert_eq!(tx.reclaim(|_| ()).unwrap(), 1);
    tx.transmit_burst(&mut (4..8).map(frame)).unwrap();
    device.fail();
    let mut seen = 1;
    let replay = |frame| {
        check(seen, &frame);
        seen += 1;
        Some(frame)
    };
    let (mut driver, recovery) = driver
        .recover(replay, |_, _| panic!("all has room"))
        .unwrap();
    assert_eq!(seen, 8);
    assert_eq!((recovery.replayed, recovery.refilled), (7, given));
    expect(&device, 1..8);
    assert_eq!(driver.tx().reclaim(|_| ()).unwrap(), 7);

    // The same of a queue that is restarted alone.
    let (_, tx, control) = driver.parts();
    tx.transmit_burst(&mut (0..6).map(frame)).unwrap();
    tx.publish();
    let mut back = Vec::new();
    control
        .restart_transmit(tx, 32, |frame| back.push(frame))
        .unwrap();
    assert_eq!(back.len(), 6);
    for (i, frame) in (0..).zip(&back) {
        check(i, frame);
    }
    tx.transmit_burst(&mut back.into_iter()).unwrap();
    tx.kick();
    expect(&device, 0..6);
    assert_eq!(driver.tx().reclaim(|_| ()).unwrap(), 6);
    works(&mut driver, &device);
    finish(driver, platform, &device);
}

#[test]
fn what_the_new_queues_do_not_take_is_given_back() {
    let platform = InPlace::new();
    let device = device(&platform, RINGS[0], 1500);
    let mut driver = driver(&platform, &device, 16, 16);
    let given = refill(&mut driver);
    transmit(&mut driver, (0..6).map(|i| 2 * i));
    // The device has become smaller.
    let device = device.queues(&[4, 4]);
    let mut back = [0, 0];
    let (mut driver, recovery) = driver
        .recover(Some, |queue, _| back[usize::from(queue.0)] += 1)
        .unwrap();
    assert_eq!((recovery.replayed, recovery.refilled), (4, 4));
    assert_eq!(back, [given - 4, 2]);
    expect(&device, [0, 2, 4, 6]);
    driver.tx().reclaim(|_| ()).unwrap();
    works(&mut driver, &device);
    finish(driver, &platform, &device);
}

#[test]
fn features_that_change_over_a_recovery_are_reported() {
    let platform = InPlace::new();
    let device = device(&platform, RINGS[0], 1500);
    let mut driver = driver(&platform, &device, 8, 8);
    refill(&mut driver);
    let device = device.offer(RINGS[0].without(Feature::EVENT_IDX) | Feature::IN_ORDER);
    let (mut driver, recovery) = driver.recover(Some, |_, _| panic!()).unwrap();
    assert!(recovery.features_changed());
    assert_eq!(recovery.before, RINGS[0]);
    assert_eq!(recovery.after, driver.control().features());
    assert_eq!(recovery.after, device.accepted());
    // A user who depends on one says so.
    let platform = InPlace::new();
    let device = wire::device(&platform, RINGS[0], 1500);
    let mut options = options(8, 8);
    options.require = Feature::EVENT_IDX.into();
    let mut driver: Net<_> = Driver::new(platform.clone(), device.transport(), options).unwrap();
    refill(&mut driver);
    transmit(&mut driver, 0..2);
    let device = device.offer(RINGS[0].without(Feature::EVENT_IDX));
    let mut back = [0, 0];
    let error = driver
        .recover(
            |_| panic!("nothing is sent by a device that did not start"),
            |queue, _| back[usize::from(queue.0)] += 1,
        )
        .unwrap_err();
    let feature = Feature::EVENT_IDX;
    let why = InitFailure::Features(NegotiateError::NotOffered { feature });
    assert_eq!(error.why(), why);
    assert_eq!(back, [8, 2], "nothing is lost");
    let RecoverError::NotStarted(error) = error else {
        panic!("it was reset");
    };
    assert!(device.status().contains(Status::FAILED));
    platform.assert_no_leaks();
    // The transport starts another driver.
    options.require = Features::EMPTY;
    let mut driver: Net<_> = Driver::new(platform.clone(), error.transport, options).unwrap();
    refill(&mut driver);
    works(&mut driver, &device);
    finish(driver, &platform, &device);
}

#[test]
fn a_recovery_whose_reset_is_not_confirmed_gives_the_driver_back() {
    everywhere!(not_reset);
}

fn not_reset<K: Kind>(platform: &Fake<K>, ring: Features) {
    platform.set_patience(10);
    let device = device(platform, ring, 1500);
    let mut driver = driver(platform, &device, 8, 8);
    let given = refill(&mut driver);
    transmit(&mut driver, 0..2);
    device.set_reset(ResetAnswer::Never);
    let before = platform.counts();
    let error = driver.recover(|_| panic!(), |_, _| panic!()).unwrap_err();
    let RecoverError::NotReset(mut driver, why) = error else {
        panic!("it is not reset");
    };
    // The device gets nothing, and is told of nothing.
    let kicks = [RECEIVE_QUEUE, TRANSMIT_QUEUE].map(|queue| device.kicks(queue));
    let rejected = driver.tx().transmit(frame(9)).unwrap_err();
    check(9, &rejected.frame);
    driver.tx().kick();
    driver.rx().kick();
    let unconfirmed = Fault::ResetUnconfirmed;
    assert_eq!(driver.rx().receive().unwrap_err(), unconfirmed);
    assert_eq!(driver.tx().reclaim(|_| ()).unwrap_err(), unconfirmed);
    let again = [RECEIVE_QUEUE, TRANSMIT_QUEUE].map(|queue| device.kicks(queue));
    assert_eq!(again, kicks);
    assert_eq!(driver.control().check(), Err(InitFailure::NeedsReset));
    let (rx, tx, control) = driver.parts();
    let restarted = control.restart_receive(rx, 8, |_| panic!());
    assert_eq!(restarted, Err(InitFailure::NeedsReset));
    let restarted = control.restart_transmit(tx, 8, |_| panic!());
    assert_eq!(restarted, Err(InitFailure::NeedsReset));
    let SuspendError::Running(driver, why_not) = driver.suspend().unwrap_err() else {
        panic!("it is told nothing but to reset");
    };
    assert_eq!(why_not, SuspendFailure::NeedsReset);
    assert!(matches!(why, InitFailure::ResetNotConfirmed { .. }));
    assert_eq!(platform.counts().regions, before.regions);
    device.set_reset(ResetAnswer::After(0));
    let (mut driver, recovery) = driver.recover(Some, |_, _| panic!()).unwrap();
    assert_eq!((recovery.replayed, recovery.refilled), (2, given));
    expect(&device, 0..2);
    driver.tx().reclaim(|_| ()).unwrap();
    works(&mut driver, &device);
    finish(driver, platform, &device);
}

fn storage<B>(slots: usize, mappings: usize) -> QueueStorage<B> {
    QueueStorage {
        slots: Vec::leak((0..slots).map(|_| Slot::new()).collect()),
        mappings: Vec::leak((0..mappings).map(|_| MappingSlot::new()).collect()),
    }
}

#[test]
fn a_driver_on_lent_storage_is_recovered_in_it() {
    let platform = InPlace::new();
    lent_recovery(&platform);
    let platform = Bouncing::new();
    lent_recovery(&platform);
}

fn lent_recovery<K: Kind>(platform: &Fake<K>) {
    let device = device(platform, RINGS[0], 1500);
    let mappings = if <Fake<K> as Platform>::DIRECT { 0 } else { 64 };
    let storage = net::Storage {
        receive: storage(8, mappings),
        transmit: storage(8, mappings),
    };
    let transport = device.transport();
    let mut driver: Net<K> =
        Driver::new_in(platform.clone(), transport, options(8, 8), storage).unwrap();
    let given = refill(&mut driver);
    transmit(&mut driver, 0..2);
    let mut back: Vec<(QueueIndex, Buffer)> = Vec::new();
    let (mut driver, recovery) = driver
        .recover(
            |_| panic!("there is no place"),
            |queue, memory| back.push((queue, memory)),
        )
        .unwrap();
    assert_eq!((recovery.replayed, recovery.refilled), (0, 0));
    assert_eq!(back.len(), given + 2);
    assert_eq!((driver.rx().size(), driver.tx().size()), (8, 8));
    let receive = back
        .into_iter()
        .filter(|(queue, _)| *queue == RECEIVE_QUEUE);
    let receive = &mut receive.map(|(_, memory)| memory);
    assert_eq!(driver.rx().refill(receive).unwrap(), given);
    works(&mut driver, &device);
    finish(driver, platform, &device);
}

#[test]
fn a_driver_is_suspended_and_resumed_with_what_its_device_has() {
    everywhere!(rests);
}

fn rests<K: Kind>(platform: &Fake<K>, ring: Features) {
    let device = device(platform, ring, 1500);
    let mut driver = driver(platform, &device, 8, 8);
    refill(&mut driver);
    for polls in [0, 5] {
        transmit(&mut driver, 0..2);
        device.set_suspend(SuspendAnswer::After(polls));
        let suspended = driver.suspend().unwrap();
        assert!(device.status().contains(Status::SUSPEND));
        driver = suspended.resume().unwrap();
        expect(&device, 0..2);
        assert_eq!(driver.tx().reclaim(|_| ()).unwrap(), 2);
        works(&mut driver, &device);
    }
    finish(driver, platform, &device);
}

#[test]
fn a_driver_whose_device_does_not_rest_or_wake_loses_nothing() {
    let platform = InPlace::new();
    platform.set_patience(10);
    let device = device(&platform, RINGS[0], 1500);
    let mut driver = driver(&platform, &device, 8, 8);
    refill(&mut driver);
    device.set_suspend(SuspendAnswer::Never);
    let error = driver.suspend().unwrap_err();
    assert!(matches!(error.why(), SuspendFailure::NotConfirmed { .. }));
    let SuspendError::Undecided(suspended, _) = error else {
        panic!("it was told");
    };
    device.set_suspend(SuspendAnswer::After(0));
    driver = suspended.resume().unwrap();
    works(&mut driver, &device);

    let suspended = driver.suspend().unwrap();
    device.set_suspend(SuspendAnswer::Fail);
    let error = suspended.resume().unwrap_err();
    assert_eq!(error.why(), SuspendFailure::NeedsReset);
    // Dropping it resets the device, and frees everything.
    drop(error);
    assert!(device.status().is_empty());
    device.assert_clean();
    platform.assert_no_leaks();

    let without = wire::device(&platform, OFFERED, 1500);
    let mut driver = wire::driver(&platform, &without, 8, 8);
    let events = without.events();
    refill(&mut driver);
    let SuspendError::Running(mut driver, why) = driver.suspend().unwrap_err() else {
        panic!("it was not told");
    };
    assert_eq!(why, SuspendFailure::NotNegotiated);
    assert_eq!(without.events(), events);
    works(&mut driver, &without);
    finish(driver, &platform, &without);
}

#[test]
fn bug_class_55_a_suspended_driver_that_is_dropped_resets_its_device_and_then_frees() {
    let platform = Bouncing::new();
    platform.set_patience(10);
    for confirmed in [true, false] {
        let device = device(&platform, RINGS[0], 1500);
        let mut driver = driver(&platform, &device, 8, 8);
        refill(&mut driver);
        transmit(&mut driver, 0..2);
        let before = platform.counts();
        let suspended = driver.suspend().unwrap();
        if !confirmed {
            device.set_reset(ResetAnswer::Never);
        }
        drop(suspended);
        let after = platform.counts();
        if confirmed {
            assert_eq!(device.events().last(), Some(&Event::Reset));
            platform.assert_no_leaks();
        } else {
            assert_eq!(after.regions, before.regions);
            assert_eq!(after.leaked_buffers - before.leaked_buffers, 8 + 2);
        }
        device.assert_clean();
    }
}

#[test]
fn bug_class_33_nothing_is_kicked_between_reset_and_driver_ok_of_a_recovery() {
    let platform = InPlace::new();
    let device = device(&platform, RINGS[0], 1500);
    let mut driver = driver(&platform, &device, 8, 8);
    refill(&mut driver);
    transmit(&mut driver, 0..2);
    let ok = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&ok);
    device.on_kick(move |device, _| {
        assert!(device.status().contains(Status::DRIVER_OK));
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    });
    let (driver, _) = driver.recover(Some, |_, _| panic!()).unwrap();
    assert_eq!(ok.load(std::sync::atomic::Ordering::Relaxed), 2);
    assert_eq!(device.stale_kicks(), 0);
    finish(driver, &platform, &device);
}
