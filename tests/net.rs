//! The network driver: facts, buffers, frames, halves.

#[path = "net/burst.rs"]
mod burst;
#[path = "net/cores.rs"]
mod cores;
mod support;
#[path = "support/net.rs"]
mod wire;

use vring::buffer::Window;
use vring::device::net::{
    self, Driver, F, Options, RECEIVE_QUEUE, RefillFailure, TRANSMIT_QUEUE, TransmitFailure,
    header_len,
};
use vring::features::{Feature, Features, NegotiateError};
use vring::init::{InitError, InitFailure, QueueError};
use vring::platform::DmaError;
use vring::testing::{
    Bouncing, Discontiguous, Event, Fake, FakeDevice, FakeTransport, Generation, InPlace, Kind,
    ResetAnswer,
};
use vring::transport::{DeviceId, QueueIndex, Status, TransportError};
use vring::virtqueue::{Fault, Reject};

use wire::{
    Buffer, HEADER, MAC, Net, OFFERED, buffer, configuration, deliver, deliver_raw, device, driver,
    options, refill, scaled, take,
};

/// Runs a generic function on each kind of platform; in pages of 1024 bytes a receive buffer takes
/// two or three descriptors.
macro_rules! every_platform {
    ($f:ident) => {{
        $f(&InPlace::new());
        $f(&Bouncing::new());
        $f(&Discontiguous::new(1024));
    }};
}

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

/// Defends: FE-006, CF-003, CF-005.
#[test]
fn bug_class_42_facts_are_read_only_with_their_feature() {
    let gates = [F::MAC, F::STATUS, F::MTU];
    for set in 0..8 {
        let has = |i: usize| set >> i & 1 == 1;
        let features = (0..3)
            .filter(|&i| has(i))
            .fold(Features::of(&[Feature::VERSION_1]), |all, i| {
                all.with(gates[i])
            });
        // No byte more than the fields that exist, and nonsense in those that do not.
        let len = [0, 6, 8, 12]
            [if has(2) { 3 } else { usize::from(has(1)) * 2 }.max(usize::from(has(0)))];
        let mut config = vec![0; 12];
        if has(0) {
            config[..6].copy_from_slice(&MAC);
        }
        if has(2) {
            config[10..].copy_from_slice(&1400_u16.to_le_bytes());
        }
        config.truncate(len);
        let platform = InPlace::new();
        let device = device(&platform, features, 0).config(&config);
        let mut driver = driver(&platform, &device, 8, 8);
        assert_eq!(driver.control().mac(), has(0).then_some(MAC));
        assert_eq!(driver.control().mtu(), has(2).then_some(1400));
        assert_eq!(
            driver.control().link_up(),
            Ok(!has(1)),
            "the bit is 0, where it is"
        );
        assert_eq!(driver.control().features(), features);
        drop(driver);
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

/// The error of a driver that must not start, with everything cleaned up behind it.
fn refused(platform: &InPlace, device: &FakeDevice, options: Options) -> InitFailure {
    let InitError { transport, why } =
        Driver::<_, _, Buffer>::new(platform.clone(), device.transport(), options).unwrap_err();
    // The transport is there for another try.
    assert!(transport.device().status().is_empty(), "it was reset");
    device.assert_clean();
    platform.assert_no_leaks();
    why
}

#[test]
fn bug_class_41_an_mtu_below_68_is_a_typed_error() {
    let platform = InPlace::new();
    for mtu in [0, 1, 67] {
        let device = device(&platform, OFFERED, mtu);
        let value = u64::from(mtu);
        let expected = InitFailure::Configuration {
            field: "mtu",
            value,
        };
        assert_eq!(refused(&platform, &device, Options::default()), expected);
        let failed =
            |event: &Event| matches!(event, Event::Status(s) if s.contains(Status::FAILED));
        assert!(device.events().iter().any(failed), "the device was told");
        // Who does not ask is not told.
        let mut without = Options::default();
        without.refuse = F::MTU.into();
        let driver = Driver::<_, _, Buffer>::new(platform.clone(), device.transport(), without);
        assert_eq!(driver.unwrap().control().mtu(), None);
    }
    for mtu in [68, 1500, 9000, 65_535] {
        let device = device(&platform, OFFERED, mtu);
        let mut driver = driver(&platform, &device, 8, 8);
        assert_eq!(driver.control().mtu(), Some(mtu));
        assert_eq!(
            driver.rx().buffer_len(),
            HEADER + usize::from(mtu).max(1500) + 14
        );
    }
    platform.assert_no_leaks();
}

#[test]
fn bug_class_42_a_configuration_that_is_too_short_is_a_typed_error() {
    let platform = InPlace::new();
    for len in 0..12 {
        let config = &configuration(1, 1500)[..len];
        let device = device(&platform, OFFERED, 0).config(config);
        let why = refused(&platform, &device, Options::default());
        let expected = match len {
            0..6 => (len, 1),
            _ => (10, 2),
        };
        let InitFailure::Transport(TransportError::ConfigOutOfRange {
            offset,
            len: l,
            size,
        }) = why
        else {
            panic!("{why:?}");
        };
        assert_eq!(((offset, l), size), (expected, len));
    }
}

#[test]
fn bug_class_41_a_generation_that_never_settles_ends_in_an_error() {
    let platform = InPlace::new();
    let device = device(&platform, OFFERED, 1500).generation(Generation::NeverSettles);
    let why = refused(&platform, &device, Options::default());
    assert_eq!(why, InitFailure::Transport(TransportError::ConfigUnstable));
}

/// Defends: CF-001, CF-002.
#[test]
fn bug_class_40_an_address_that_changes_while_it_is_read_is_read_again() {
    for generation in [Generation::Steady, Generation::Absent] {
        for reads in 0..8 {
            let platform = InPlace::new();
            let device = device(&platform, OFFERED, 1500).generation(generation);
            let mut other = configuration(1, 9000);
            other[..6].copy_from_slice(&[0xa2; 6]);
            // So many accesses go by before the change.
            for _ in 0..reads {
                device.change_config_under_read(&configuration(1, 1500));
            }
            device.change_config_under_read(&other);
            let mut driver = driver(&platform, &device, 8, 8);
            let facts = (driver.control().mac(), driver.control().mtu());
            let (old, new) = ((Some(MAC), Some(1500)), (Some([0xa2; 6]), Some(9000)));
            assert!(facts == old || facts == new, "{facts:?}");
            if generation == Generation::Steady {
                assert_eq!(facts, new);
            }
        }
    }
}

#[test]
fn bug_class_41_the_state_of_the_link_is_followed() {
    let platform = InPlace::new();
    let device = device(&platform, OFFERED, 1500);
    let mut driver = driver(&platform, &device, 8, 8);
    for (status, up) in [(1, true), (0, false), (0xffff, true), (0xfffe, false)] {
        device.change_config(&configuration(status, 1500));
        assert_eq!(driver.control().link_up(), Ok(up));
    }
    device.change_config(&[]);
    assert!(driver.control().link_up().is_err());
    platform.set_patience(5);
    let _device = device.clone().generation(Generation::NeverSettles);
    device.change_config(&configuration(1, 1500));
    assert_eq!(
        driver.control().link_up(),
        Err(TransportError::ConfigUnstable)
    );
}

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

fn frame(len: usize, headroom: usize, byte: u8) -> Window<Buffer> {
    let mut frame = Window::new(buffer(headroom + len), headroom, len);
    frame.as_mut_slice().fill(byte);
    frame
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

fn resets(device: &FakeDevice) -> usize {
    let is_reset = |event: &&Event| **event == Event::Reset;
    device.events().iter().filter(is_reset).count()
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
