//! Which devices, queues, vectors and features the driver starts with, and what a failure leaves.

use vring::buffer::Window;
use vring::device::net::{Driver, F, Options, RECEIVE_QUEUE, TRANSMIT_QUEUE};
use vring::features::{Feature, Features, NegotiateError};
use vring::init::{InitFailure, QueueError};
use vring::platform::DmaError;
use vring::testing::{FakeDevice, InPlace};
use vring::transport::{DeviceId, QueueIndex, TransportError};

use super::refused;
use crate::wire::{Buffer, HEADER, OFFERED, buffer, device, driver, options};

#[test]
fn a_device_of_another_type_is_refused_untouched() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::BLOCK);
    let error =
        Driver::<_, _, Buffer>::new(platform.clone(), device.transport(), Options::default())
            .unwrap_err();
    assert_eq!(
        error.why,
        InitFailure::WrongDevice {
            expected: 1,
            found: 2
        }
    );
    assert!(device.events().is_empty());
}

#[test]
fn a_device_with_too_few_queues_or_vectors_is_refused() {
    let platform = InPlace::new();
    let cases: [(&[u16], QueueIndex); 4] = [
        (&[], RECEIVE_QUEUE),
        (&[8], TRANSMIT_QUEUE),
        (&[0, 8], RECEIVE_QUEUE),
        (&[8, 0], TRANSMIT_QUEUE),
    ];
    for (sizes, queue) in cases {
        let device = device(&platform, OFFERED, 1500).queues(sizes);
        let why = refused(&platform, &device, Options::default());
        assert_eq!(why, InitFailure::Queue(QueueError::Unavailable { queue }));
    }
    for (receive, transmit, config) in [(3, 0, 0), (0, 3, 0), (0, 0, 3)] {
        let device = device(&platform, OFFERED, 1500).vectors(Some(3));
        let mut options = options(8, 8);
        options.receive_vector = Some(receive);
        options.transmit_vector = Some(transmit);
        options.config_vector = Some(config);
        let error = TransportError::VectorRefused {
            vector: 3,
            got: 0xffff,
        };
        let expected = match config {
            0 => InitFailure::Queue(QueueError::Transport(error)),
            _ => InitFailure::Transport(error),
        };
        assert_eq!(refused(&platform, &device, options), expected);
    }
    let device = device(&platform, OFFERED, 1500).vectors(Some(3));
    let mut options = options(8, 8);
    options.receive_vector = Some(1);
    options.transmit_vector = Some(2);
    options.config_vector = Some(0);
    let driver = Driver::<_, _, Buffer>::new(platform.clone(), device.transport(), options);
    assert!(driver.is_ok());
    assert_eq!(device.vector(RECEIVE_QUEUE), Some(1));
    assert_eq!(device.vector(TRANSMIT_QUEUE), Some(2));
    assert_eq!(device.config_vector(), Some(0));
}

#[test]
fn bug_class_54_when_any_allocation_fails_the_driver_leaves_nothing_behind() {
    let platform = InPlace::new();
    // Two rings, and the cells of one.
    for nth in 1..=3 {
        let device = device(&platform, OFFERED, 1500);
        platform.fail_nth_alloc(nth);
        let why = refused(&platform, &device, Options::default());
        assert!(
            matches!(
                why,
                InitFailure::Queue(QueueError::Memory(DmaError::OutOfMemory { .. }))
            ),
            "{why:?}"
        );
        drop(driver(&platform, &device, 8, 8));
        platform.assert_no_leaks();
    }
    let before = platform.counts().allocs;
    let device = device(&platform, OFFERED, 1500);
    drop(driver(&platform, &device, 8, 8));
    assert_eq!(
        platform.counts().allocs - before,
        3,
        "one more has to be failed above"
    );
}

/// Negotiates under a wish; what was accepted, or why nothing was.
fn wished(offered: Features, wish: impl FnOnce(&mut Options)) -> Result<Features, InitFailure> {
    let platform = InPlace::new();
    let device = device(&platform, offered, 1500);
    let mut options = options(8, 8);
    wish(&mut options);
    let driver = Driver::<_, _, Buffer>::new(platform.clone(), device.transport(), options);
    let accepted = driver.map(|mut driver| driver.control().features());
    device.assert_clean();
    platform.assert_no_leaks();
    accepted.map_err(|error| error.why)
}

#[test]
fn a_user_wants_requires_and_refuses_features() {
    let error = |error| Err(InitFailure::Features(error));
    let feature = Feature::EVENT_IDX;
    let without = OFFERED.without(feature);
    assert_eq!(wished(OFFERED, |_| {}), Ok(OFFERED));
    assert_eq!(wished(OFFERED, |o| o.refuse = feature.into()), Ok(without));
    let wants_little = |o: &mut Options| o.want = F::MAC.into();
    let little = Feature::VERSION_1 | F::MAC;
    assert_eq!(wished(OFFERED, wants_little), Ok(little));
    let wants_all = |o: &mut Options| o.want = Features(u128::MAX);
    let all = OFFERED | F::CTRL_VQ;
    assert_eq!(wished(all, wants_all), Ok(OFFERED), "only what it knows");

    let requires = |o: &mut Options| (o.want, o.require) = (Features::EMPTY, feature.into());
    assert_eq!(wished(OFFERED, requires), Ok(Feature::VERSION_1 | feature));
    let not_offered = NegotiateError::NotOffered { feature };
    assert_eq!(wished(without, requires), error(not_offered));
    let torn = |o: &mut Options| (o.require, o.refuse) = (feature.into(), feature.into());
    let refused = NegotiateError::Refused { feature };
    assert_eq!(wished(OFFERED, torn), error(refused));
    let feature = F::CTRL_VQ;
    let unknown = |o: &mut Options| o.require = feature.into();
    let unimplemented = NegotiateError::Unimplemented { feature };
    assert_eq!(wished(all, unknown), error(unimplemented));
    let platform_access = |o: &mut Options| o.require = Feature::ACCESS_PLATFORM.into();
    let all = OFFERED.with(Feature::ACCESS_PLATFORM);
    assert_eq!(wished(all, platform_access), Ok(all));
}

#[test]
fn indirect_tables_are_there_only_where_they_are_accepted_and_asked_for() {
    let offered = OFFERED.with(Feature::INDIRECT_DESC);
    for (refuse, indirect, frames) in [
        (Features::EMPTY, true, 5),
        (Features::EMPTY, false, 4),
        (Feature::INDIRECT_DESC.into(), true, 4),
    ] {
        let platform = InPlace::new();
        let device = device(&platform, offered, 1500);
        let mut options = options(8, 8);
        (options.refuse, options.indirect) = (refuse, indirect);
        let mut driver =
            Driver::<_, _, Buffer>::new(platform.clone(), device.transport(), options).unwrap();
        // One descriptor, then two for each: the last one is alone, unless it leads to a table.
        let headroom = core::iter::once(HEADER).chain(core::iter::repeat(0));
        let taken = headroom.take(9).take_while(|&headroom| {
            let frame = Window::new(buffer(1536), headroom, 1400);
            driver.tx().transmit(frame).is_ok()
        });
        assert_eq!(taken.count(), frames, "{refuse}, {indirect}");
        drop(driver);
        device.assert_clean();
        platform.assert_no_leaks();
    }
}
