//! The network driver on legacy devices: a header of 10 bytes, in a descriptor of its own where the
//! device does not offer `VIRTIO_F_ANY_LAYOUT`. Big-endian guests refuse such devices.
#![cfg(target_endian = "little")]

#[path = "support/net.rs"]
mod wire;

use vring::buffer::Window;
use vring::device::net::{
    self, Driver, F, Options, RECEIVE_QUEUE, RefillError, RefillFailure, Storage, TRANSMIT_QUEUE,
    TransmitFailure,
};
use vring::features::{Feature, Features, NegotiateError};
use vring::init::{InitError, InitFailure, QueueError};
use vring::ring::Slot;
use vring::testing::{
    Bouncing, Discontiguous, Fake, FakeDevice, Generation, HostileDevice, InPlace, Kind, Legacy,
    ResetAnswer, Rng,
};
use vring::transport::{DeviceId, QueueIndex};
use vring::virtqueue::{Fault, QueueStorage, Reject};

use wire::{Buffer, MAC, Net, buffer, configuration, deliver_raw, options, refill};

/// Bytes of the header.
const HEADER: usize = 10;
const SIZE: u16 = 16;
/// What the driver takes of what a legacy device can offer.
const OFFERED: Features = Features::of(&[
    Feature::EVENT_IDX,
    Feature::INDIRECT_DESC,
    F::MAC,
    F::STATUS,
    F::MTU,
]);

/// A kind of legacy device.
#[derive(Clone, Copy, Debug)]
struct Sort {
    legacy: Legacy,
    any_layout: bool,
}

const SORTS: [Sort; 3] = [
    Sort {
        legacy: Legacy::FixedSizes,
        any_layout: false,
    },
    Sort {
        legacy: Legacy::ChosenSizes,
        any_layout: false,
    },
    Sort {
        legacy: Legacy::FixedSizes,
        any_layout: true,
    },
];

impl Sort {
    /// Descriptors of a frame that has headroom.
    fn pieces(self) -> usize {
        if self.any_layout { 1 } else { 2 }
    }

    /// Lengths of the descriptors of a frame of so many bytes.
    fn cut(self, frame: usize) -> Vec<u32> {
        match self.any_layout {
            true => vec![(HEADER + frame) as u32],
            false => vec![HEADER as u32, frame as u32],
        }
    }
}

fn device<K: Kind>(platform: &Fake<K>, sort: Sort) -> FakeDevice {
    let features = match sort.any_layout {
        true => OFFERED.with(Feature::ANY_LAYOUT),
        false => OFFERED,
    };
    FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .legacy(sort.legacy)
        .offer(features)
        .queues(&[SIZE, SIZE])
        .header(RECEIVE_QUEUE, HEADER as u16)
        .header(TRANSMIT_QUEUE, HEADER as u16)
        .config(&configuration(1, 1500))
}

fn driver<K: Kind>(platform: &Fake<K>, device: &FakeDevice) -> Net<K> {
    let options = options(SIZE, SIZE);
    Driver::new(platform.clone(), device.transport(), options).unwrap()
}

fn frame(n: u8, len: usize) -> Vec<u8> {
    vec![n; len]
}

/// Delivers a frame behind a header that asks for something.
fn deliver(device: &FakeDevice, frame: &[u8]) -> bool {
    let mut bytes = vec![0xee; HEADER];
    bytes.extend(frame);
    deliver_raw(device, &bytes, bytes.len() as u32)
}

/// Takes the next frame that was transmitted: its header, the rest, and its descriptors. The device
/// says that it wrote all of it, as some do.
fn take(device: &FakeDevice) -> Option<(Vec<u8>, Vec<u8>, Vec<u32>)> {
    device.with_queue(TRANSMIT_QUEUE, |queue| {
        let chain = queue.pop()?;
        let mut header = queue.read(&chain);
        let frame = header.split_off(HEADER);
        let lens = chain.segments().iter().map(|segment| segment.len).collect();
        let all = chain.readable() as u32;
        queue.complete(chain, all);
        Some((header, frame, lens))
    })?
}

/// Runs a generic function on each kind of platform and each sort of device.
macro_rules! everywhere {
    ($f:ident) => {
        for sort in SORTS {
            $f(&InPlace::new(), sort);
            $f(&Bouncing::new(), sort);
            $f(&Discontiguous::new(4096), sort);
        }
    };
}

/// Defends: NET-L01, NET-L02.
#[test]
fn bug_class_75_facts_of_a_legacy_device() {
    for sort in SORTS {
        for up in [0, 1, 0x100, 0x101] {
            let platform = InPlace::new();
            let device = device(&platform, sort).config(&configuration(up, 1400));
            let mut driver = driver(&platform, &device);
            assert_eq!(driver.control().mac(), Some(MAC));
            assert_eq!(driver.control().mtu(), Some(1400));
            assert_eq!(driver.control().link_up(), Ok(up & 1 != 0));
            let layout = Feature::ANY_LAYOUT;
            assert_eq!(driver.control().features().has(layout), sort.any_layout);
            assert!(OFFERED.with(layout).contains(driver.control().features()));
            assert_eq!(driver.rx().header_len(), HEADER);
            assert_eq!(driver.tx().header_len(), HEADER);
            assert_eq!(driver.rx().buffer_len(), HEADER + 1514);
            drop(driver);
            device.assert_clean();
            platform.assert_no_leaks();
        }
    }
}

/// Defends: CF-L01.
#[test]
fn bug_class_40_without_a_generation_a_legacy_address_is_read_until_two_reads_agree() {
    for reads in 0..20 {
        let platform = InPlace::new();
        // A legacy device has no generation, whatever this one would do with it.
        let device = device(&platform, SORTS[0]).generation(Generation::NeverSettles);
        let mut other = configuration(1, 9000);
        other[..6].copy_from_slice(&[0xa2; 6]);
        for _ in 0..reads {
            device.change_config_under_read(&configuration(1, 1500));
        }
        device.change_config_under_read(&other);
        let mut driver = driver(&platform, &device);
        let facts = (driver.control().mac(), driver.control().mtu());
        let (old, new) = ((Some(MAC), Some(1500)), (Some([0xa2; 6]), Some(9000)));
        assert!(
            facts == old || facts == new,
            "{facts:?} after {reads} reads"
        );
        // Until the first read is over, it is the second that counts.
        assert!(reads >= 7 || facts == new, "{facts:?} after {reads} reads");
    }
}

fn receives<K: Kind>(platform: &Fake<K>, sort: Sort) {
    let device = device(platform, sort);
    let mut driver = driver(platform, &device);
    let room = SIZE as usize / sort.pieces();
    assert_eq!(usize::from(driver.rx().room()), room);
    assert_eq!((driver.rx().size(), driver.rx().outstanding()), (SIZE, 0));
    let given = refill(&mut driver);
    assert!(
        given == room || !K::DIRECT && given > 0,
        "{given} of {room}"
    );
    assert_eq!(usize::from(driver.rx().outstanding()), given);
    for n in 0..100_u8 {
        let len = [14, 60, 1514, 1][usize::from(n) % 4];
        assert!(deliver(&device, &frame(n, len)));
        let got = driver.rx().receive().unwrap().unwrap();
        assert_eq!(got.as_slice(), frame(n, len));
        assert_eq!(got.headroom(), HEADER);
        let memory = got.into_memory();
        if K::DIRECT {
            assert_eq!(memory[..HEADER], [0xee; HEADER], "the header lies in front");
        }
        driver.rx().give(memory).unwrap();
        driver.rx().kick();
        assert!(driver.rx().receive().unwrap().is_none());
    }
    // Too short for a header.
    for len in [0, 1, HEADER as u32] {
        assert!(deliver_raw(&device, &[1; HEADER], len));
        assert_eq!(driver.rx().receive().unwrap().unwrap().as_slice(), []);
    }
    assert_eq!(driver.rx().runts(), 2);
    let mut back = 0;
    driver
        .shutdown(|queue, _| back += usize::from(queue == RECEIVE_QUEUE))
        .unwrap();
    assert_eq!(back, given - 3);
    device.assert_clean();
    platform.assert_no_leaks();
}

/// Defends: NET-L02, NET-L08.
#[test]
fn bug_class_75_frames_of_a_legacy_device_are_received() {
    everywhere!(receives);
}

fn transmits<K: Kind>(platform: &Fake<K>, sort: Sort) {
    let device = device(platform, sort);
    let mut driver = driver(platform, &device);
    for n in 0..100_u8 {
        let len = [14, 60, 1514, 1][usize::from(n) % 4];
        for headroom in [HEADER, 32, HEADER - 1, 0] {
            let mut memory = buffer(headroom + len);
            memory.fill(0xdd);
            memory[headroom..].fill(n);
            driver
                .tx()
                .transmit(Window::new(memory, headroom, len))
                .unwrap();
            driver.tx().kick();
            let (header, got, lens) = take(&device).unwrap();
            assert_eq!((header, got), (vec![0; HEADER], frame(n, len)));
            if K::DIRECT {
                let expected = match headroom {
                    HEADER.. => sort.cut(len),
                    _ => vec![HEADER as u32, len as u32],
                };
                assert_eq!(lens, expected, "headroom {headroom}");
            }
            let mut back = 0;
            driver
                .tx()
                .reclaim(|memory| {
                    assert!(memory[headroom..].iter().all(|&byte| byte == n));
                    back += 1;
                })
                .unwrap();
            assert_eq!((back, driver.tx().outstanding()), (1, 0));
        }
    }
    // What the device says that it wrote is of no interest.
    assert_eq!(driver.tx().fault(), None);
    assert_eq!(driver.tx().room(), SIZE);
    driver.shutdown(|_, _| panic!("it has none")).unwrap();
    device.assert_clean();
    platform.assert_no_leaks();
}

/// Defends: NET-L02, NET-L03, NET-L08.
#[test]
fn bug_class_75_frames_of_a_legacy_driver_are_transmitted() {
    everywhere!(transmits);
}

fn full<K: Kind>(platform: &Fake<K>, sort: Sort) {
    let device = device(platform, sort);
    let mut driver = driver(platform, &device);
    let (room, pieces) = (SIZE as usize / sort.pieces(), sort.pieces());
    // Bursts take what there is room for, and no more out of the iterator.
    let mut out: Vec<_> = (0..40_u8)
        .map(|n| Window::new(vec![n; HEADER + 60].into_boxed_slice(), HEADER, 60))
        .rev()
        .collect();
    let (_, tx, _) = driver.parts();
    let taken = tx
        .transmit_burst(&mut std::iter::from_fn(|| out.pop()))
        .unwrap_or_else(|error| {
            let TransmitFailure::Queue(Reject::Full { needed, .. }) = error.rejected.why else {
                panic!("{error}");
            };
            assert!(needed > 1 && !K::DIRECT);
            error.taken
        });
    assert!(
        taken == room || !K::DIRECT && taken > 0,
        "{taken} of {room}"
    );
    assert!(out.len() >= 39 - taken);
    assert!(!tx.has_room() || pieces == 1 || !K::DIRECT);
    let refused = tx
        .transmit(Window::new(vec![1; 64].into_boxed_slice(), HEADER, 50))
        .unwrap_err();
    assert!(matches!(
        refused.why,
        TransmitFailure::Queue(Reject::Full { .. })
    ));
    assert_eq!(
        (refused.frame.headroom(), refused.frame.as_slice().len()),
        (HEADER, 50)
    );
    tx.kick();
    for n in 0..taken {
        assert_eq!(take(&device).unwrap().1, frame(n as u8, 60), "in order");
    }
    assert!(take(&device).is_none());
    let (_, tx, _) = driver.parts();
    assert_eq!(tx.make_room(SIZE, drop), Ok(SIZE));

    // The same for receiving.
    let len = driver.rx().buffer_len();
    let mut idle: Vec<Buffer> = (0..40).map(|_| buffer(len)).collect();
    let rx = driver.rx();
    let given = match rx.refill(&mut std::iter::from_fn(|| idle.pop())) {
        Ok(given) => given,
        Err(RefillError { taken, why, .. }) => {
            assert!(!K::DIRECT && matches!(why, RefillFailure::Queue(Reject::Full { .. })));
            taken
        }
    };
    assert!(given == room || !K::DIRECT && given > 0);
    assert!(idle.len() >= 39 - given);
    // And once more for a queue that is full.
    if K::DIRECT {
        assert_eq!(
            rx.give_burst(&mut std::iter::from_fn(|| idle.pop()))
                .unwrap(),
            0
        );
        assert_eq!(idle.len(), 40 - given);
        let (_, why) = rx.give(buffer(len)).unwrap_err();
        assert!(matches!(why, RefillFailure::Queue(Reject::Full { .. })));
    }
    for n in 0..given {
        assert!(deliver(&device, &frame(n as u8, 60)));
    }
    assert!(!deliver(&device, &[1]), "it has no other buffer");
    let mut came = 0;
    let burst = driver.rx().receive_burst(|got| {
        assert_eq!(got.as_slice(), frame(came, 60));
        came += 1;
    });
    assert_eq!((burst, usize::from(came)), (Ok(given), given));
    // A buffer that is too short ends a burst, and is given back.
    let mut few = [len, len, len - 1, len].map(buffer).into_iter();
    let error = driver.rx().refill(&mut few).unwrap_err();
    let needed = len;
    let expected = RefillFailure::TooSmall {
        len: len - 1,
        needed,
    };
    assert_eq!((error.taken, error.why, few.len()), (2, expected, 1));
    let mut back = 0;
    driver.shutdown(|_, _| back += 1).unwrap();
    assert_eq!(back, 2);
    device.assert_clean();
    platform.assert_no_leaks();
}

/// Defends: NET-L08.
#[test]
fn bug_class_80_queues_of_a_legacy_device_fill_and_empty() {
    everywhere!(full);
}

fn recovers<K: Kind>(platform: &Fake<K>, sort: Sort) {
    let device = device(platform, sort);
    let mut driver = driver(platform, &device);
    let given = refill(&mut driver);
    for (n, headroom) in [(1, HEADER), (2, 0), (3, 40)] {
        let memory = vec![n; headroom + 20].into_boxed_slice();
        driver
            .tx()
            .transmit(Window::new(memory, headroom, 20))
            .unwrap();
    }
    driver.tx().kick();
    device.fail();
    assert_eq!(driver.control().check(), Err(InitFailure::NeedsReset));
    let mut asked = Vec::new();
    let (driver, recovery) = driver
        .recover(
            |frame| {
                assert_eq!(frame.as_slice().len(), 20, "as it was given");
                asked.push((frame.as_slice()[0], frame.headroom()));
                Some(frame)
            },
            |_, _| panic!("there is room for all"),
        )
        .unwrap();
    assert_eq!(asked, [(1, HEADER), (2, 0), (3, 40)]);
    assert_eq!((recovery.replayed, recovery.refilled), (3, given));
    assert!(!recovery.features_changed());
    for n in 1..=3 {
        assert_eq!(take(&device).unwrap().1, frame(n, 20));
    }
    assert!(deliver(&device, &[5; 60]));
    // Halves are as good as the whole.
    let (mut rx, mut tx, control) = driver.split();
    assert_eq!(rx.receive().unwrap().unwrap().as_slice(), [5; 60]);
    tx.transmit(Window::new(vec![6; 60].into_boxed_slice(), HEADER, 50))
        .unwrap();
    tx.kick();
    assert_eq!(take(&device).unwrap().1, [6; 50]);
    let driver = Driver::join(rx, tx, control).unwrap_or_else(|_| panic!("they belong together"));
    let mut back = [0, 0];
    driver
        .shutdown(|queue, _| back[usize::from(queue.0)] += 1)
        .unwrap();
    assert_eq!(back, [given - 1, 4]);
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn a_legacy_device_that_failed_is_recovered() {
    everywhere!(recovers);
}

/// Defends: SP-L01.
#[test]
fn a_legacy_device_over_pci_has_the_size_that_it_says() {
    let platform = InPlace::new();
    let device = device(&platform, SORTS[0]).queues(&[64, 8]);
    for wanted in [1, 8, 100, 1024] {
        let options = options(wanted, wanted);
        let mut driver =
            Driver::<_, _, Buffer>::new(platform.clone(), device.transport(), options).unwrap();
        assert_eq!((driver.rx().size(), driver.tx().size()), (64, 8));
    }
    let lent = |slots: usize| {
        let receive: Vec<Slot<_>> = (0..slots).map(|_| Slot::new()).collect();
        let transmit: Vec<Slot<_>> = (0..8).map(|_| Slot::new()).collect();
        Storage {
            receive: QueueStorage {
                slots: receive.leak(),
                mappings: &mut [],
            },
            transmit: QueueStorage {
                slots: transmit.leak(),
                mappings: &mut [],
            },
        }
    };
    let make = |slots| {
        let (platform, options) = (platform.clone(), Options::default());
        Driver::<_, _, Buffer>::new_in(platform, device.transport(), options, lent(slots))
    };
    assert_eq!(make(64).unwrap().rx().size(), 64);
    let InitError { why, .. } = make(63).unwrap_err();
    let expected = QueueError::FixedSizeStorage {
        queue: RECEIVE_QUEUE,
        size: 64,
        slots: 63,
        mappings: 0,
    };
    assert_eq!(why, InitFailure::Queue(expected));
    device.assert_clean();
    platform.assert_no_leaks();
}

/// Started, it would have room and take no frame, ever.
#[test]
fn a_queue_that_is_too_short_for_a_header_of_its_own_is_refused() {
    let platform = InPlace::new();
    let make = |sort, sizes: [u16; 2]| {
        let device = device(&platform, sort).queues(&sizes);
        let made =
            Driver::<_, _, Buffer>::new(platform.clone(), device.transport(), Options::default());
        let made = made.map(drop).map_err(|error| error.why);
        device.assert_clean();
        made
    };
    for (sizes, queue) in [([1, 16], RECEIVE_QUEUE), ([16, 1], TRANSMIT_QUEUE)] {
        let why = QueueError::TooShort {
            queue,
            size: 1,
            needed: 2,
        };
        assert_eq!(make(SORTS[0], sizes), Err(InitFailure::Queue(why)));
        let text = why.to_string();
        assert!(text.contains("takes 2") && text.contains("has 1"), "{text}");
    }
    assert_eq!(make(SORTS[0], [2, 2]), Ok(()));
    assert_eq!(make(SORTS[2], [1, 1]), Ok(()));
    platform.assert_no_leaks();
}

#[test]
fn what_is_required_of_a_legacy_device_is_judged_by_name() {
    let platform = InPlace::new();
    let make = |sort: Sort, feature: Feature, refuse: Features| {
        let device = device(&platform, sort);
        device.violations().set_lenient();
        let mut options = Options::default();
        options.require = feature.into();
        options.refuse = refuse;
        let made = Driver::<_, _, Buffer>::new(platform.clone(), device.transport(), options);
        made.map(drop).map_err(|error| error.why)
    };
    let (without, with) = (SORTS[0], SORTS[2]);
    let none = Features::EMPTY;
    let feature = Feature::ANY_LAYOUT;
    let refuses = |error| Err(InitFailure::Features(error));
    assert_eq!(make(with, feature, none), Ok(()));
    let absent = refuses(NegotiateError::NotOffered { feature });
    assert_eq!(make(without, feature, none), absent);
    let refused = refuses(NegotiateError::Refused { feature });
    assert_eq!(make(with, feature, feature.into()), refused);
    let feature = Feature::RING_PACKED;
    let modern = refuses(NegotiateError::NeedsVersion1 { feature });
    assert_eq!(make(with, feature, none), modern);
    // Of a modern device nobody can require it.
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(OFFERED | Feature::VERSION_1 | Feature::ANY_LAYOUT)
        .queues(&[8, 8])
        .config(&configuration(1, 1500));
    let feature = Feature::ANY_LAYOUT;
    let mut options = Options::default();
    options.require = feature.into();
    let made = Driver::<_, _, Buffer>::new(platform.clone(), device.transport(), options);
    let unimplemented = InitFailure::Features(NegotiateError::Unimplemented { feature });
    assert_eq!(
        made.map(drop).map_err(|error| error.why),
        Err(unimplemented)
    );
    let driver = Driver::<_, _, Buffer>::new(platform, device.transport(), Options::default());
    assert!(!driver.unwrap().control().features().has(feature));
}

/// Its user's choice over the driver's.
#[test]
fn a_legacy_driver_told_to_refuse_any_layout_keeps_the_header_apart() {
    let platform = InPlace::new();
    let device = device(&platform, SORTS[2]);
    device.violations().set_lenient();
    let mut options = options(SIZE, SIZE);
    options.refuse = Feature::ANY_LAYOUT.into();
    let mut driver =
        Driver::<_, _, Buffer>::new(platform.clone(), device.transport(), options).unwrap();
    driver
        .tx()
        .transmit(Window::new(vec![1; 64].into_boxed_slice(), HEADER, 50))
        .unwrap();
    driver.tx().kick();
    assert_eq!(take(&device).unwrap().2, SORTS[0].cut(50));
    let said: Vec<_> = device
        .violations()
        .take()
        .iter()
        .map(|said| said.id)
        .collect();
    assert_eq!(said, ["FE-L03"], "and that is all");
}

#[test]
fn bug_class_57_a_header_that_crosses_a_page_is_given_back() {
    for (sort, taken) in [(SORTS[0], false), (SORTS[2], true)] {
        let platform = Discontiguous::new(2048);
        let device = device(&platform, sort);
        let options = options(SIZE, SIZE);
        let mut driver = Driver::new(platform.clone(), device.transport(), options).unwrap();
        let len = driver.rx().buffer_len();
        let memory: &'static mut [u8] = Box::leak(buffer(len + 4096));
        // From the last four bytes of a page on.
        let start = (2044 + 2048 - memory.as_ptr().addr() % 2048) % 2048;
        let memory = &mut memory[start..];
        let given = driver.rx().give(memory);
        match given {
            Ok(()) => assert!(taken),
            Err((memory, why)) => {
                assert!(!taken && memory.len() >= len);
                assert_eq!(why, RefillFailure::Queue(Reject::Cut { at: HEADER }));
                assert!(why.to_string().contains("10 bytes"), "{why}");
                // The queue is as it was, and takes another.
                assert_eq!(driver.rx().room(), SIZE / 2);
                let other = &mut memory[4..];
                driver.rx().give(other).unwrap();
            }
        }
        driver.rx().kick();
        assert!(deliver(&device, &[8; 60]));
        assert_eq!(driver.rx().receive().unwrap().unwrap().as_slice(), [8; 60]);
        driver.shutdown(|_, _| panic!("it has none")).unwrap();
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

#[test]
fn bug_class_51_a_buffer_whose_rest_cannot_be_mapped_is_given_back_whole() {
    for (platform, pages) in [(Bouncing::new(), 1), (Bouncing::new(), 2)] {
        let device = device(&platform, SORTS[0]);
        let mut driver = driver(&platform, &device);
        let len = driver.rx().buffer_len();
        let mut memory = buffer(len);
        memory[3] = 77;
        platform.fail_nth_map(pages);
        let (memory, why) = driver.rx().give(memory).unwrap_err();
        assert!(matches!(why, RefillFailure::Queue(Reject::Map(_))), "{why}");
        assert_eq!((memory.len(), memory[3]), (len, 77));
        assert_eq!(platform.counts().mappings, 0, "nothing of it is mapped");
        assert_eq!(driver.rx().room(), SIZE / 2);
        driver.rx().give(memory).unwrap();
        driver.rx().kick();
        assert!(deliver(&device, &[4; 60]));
        assert_eq!(driver.rx().receive().unwrap().unwrap().as_slice(), [4; 60]);
        drop(driver);
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

fn lies<K: Kind>(platform: &Fake<K>, seed: u64) -> bool {
    let sort = SORTS[(seed % 3) as usize];
    let device = device(platform, sort);
    device.violations().set_lenient();
    let mut driver = driver(platform, &device);
    let mut rng = Rng::new(!seed);
    let queue = [RECEIVE_QUEUE, TRANSMIT_QUEUE][(seed / 3 % 2) as usize];
    let mut hostile = HostileDevice::new(device.take_queue(queue).unwrap(), seed).honesty(80);
    let len = driver.rx().buffer_len();
    let (mut inside, rounds) = (0_usize, if cfg!(miri) { 40 } else { 200 });
    let mut broken = false;
    for _ in 0..rounds {
        let (rx, tx, _) = driver.parts();
        match rng.below(4) {
            0 => inside += usize::from(rx.give(buffer(len)).is_ok()),
            1 => {
                let frame = Window::new(buffer(80), rng.below(20) as usize, 60);
                inside += usize::from(tx.transmit(frame).is_ok());
            }
            2 => {
                rx.kick();
                tx.kick();
            }
            _ => {
                let mut came = 0;
                let received = rx.receive_burst(|got| {
                    came += 1;
                    assert!(got.as_slice().len() <= len - HEADER);
                });
                let reclaimed = tx.reclaim(|_| came += 1);
                inside -= came;
                broken |= received.is_err() || reclaimed.is_err();
            }
        }
        hostile.step();
    }
    drop(hostile);
    assert!(!matches!(driver.rx().fault(), Some(Fault::Corrupt { .. })));
    let mut back = 0;
    driver
        .shutdown(|_, _| back += 1)
        .unwrap_or_else(|(_, why)| panic!("{why}"));
    assert_eq!(back, inside, "seed {seed}");
    broken
}

#[test]
fn a_seeded_villain_behind_a_legacy_network_device() {
    let seeds = if cfg!(miri) { 6 } else { 300 };
    let mut broken = 0;
    for seed in 0..seeds {
        let platform = InPlace::new();
        broken += usize::from(lies(&platform, seed));
        let platform = Bouncing::new();
        broken += usize::from(lies(&platform, seed));
        platform.assert_no_leaks();
    }
    assert!(cfg!(miri) || broken > 30, "{broken} met a fault");
}

#[test]
fn bug_class_54_a_legacy_network_device_that_does_not_reset_keeps_its_buffers() {
    let platform = Bouncing::new();
    platform.set_patience(20);
    let device = device(&platform, SORTS[0]);
    let mut driver = driver(&platform, &device);
    let given = refill(&mut driver);
    device.set_reset(ResetAnswer::Never);
    let (driver, why) = driver
        .shutdown(|_, _| panic!("not yet"))
        .map(drop)
        .unwrap_err();
    assert!(matches!(why, InitFailure::ResetNotConfirmed { .. }));
    device.set_reset(ResetAnswer::After(0));
    let mut back = 0;
    driver
        .shutdown(|queue: QueueIndex, _| back += usize::from(queue == RECEIVE_QUEUE))
        .unwrap();
    assert_eq!(back, given);
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn the_header_of_a_legacy_device_is_two_bytes_shorter() {
    assert_eq!(net::header_len(OFFERED), HEADER);
    assert_eq!(net::header_len(OFFERED.with(Feature::ANY_LAYOUT)), HEADER);
    assert_eq!(net::header_len(OFFERED.with(F::MRG_RXBUF)), 12);
}
