//! Legacy devices below any driver: initialization, features, rings, lies. Big-endian guests refuse
//! them, which the library's own tests see to.
#![cfg(target_endian = "little")]

#[path = "support/queue.rs"]
mod rig;
mod support;

use std::alloc::Layout;
use std::fmt::Debug;
use std::ptr::NonNull;

use vring::buffer::{Readable, Writable};
use vring::features::{
    Feature, Features, NegotiateError, Negotiation, Requirement, Wish, negotiate_legacy,
};
use vring::init::{
    self, InitFailure, Live, PendingQueue, QueueConfig, QueueError, SuspendFailure, Unsuspended,
};
use vring::platform::{Access, Direction, DmaAddr, DmaError, Mapping, Platform, RawRegion};
use vring::ring::Slot;
use vring::ring::layout::vring_init;
use vring::testing::{
    Bouncing, Discontiguous, Event, FakeDevice, FakeTransport, HostileDevice, InPlace, Legacy,
    ResetAnswer, Rng,
};
use vring::transport::{
    DeviceId, LEGACY_PAGE_SIZE, QueueAreas, QueueIndex, Status, Transport, TransportError,
};
use vring::virtqueue::{Fault, MappingSlot, QueueStorage, Virtqueue};

use rig::{Chunks, Maker};
use support::{Q, stop};

const BOTH: [Legacy; 2] = [Legacy::FixedSizes, Legacy::ChosenSizes];
const OFFERED: Features = Features::of(&[Feature::EVENT_IDX, Feature::INDIRECT_DESC]);
const PAGE: usize = LEGACY_PAGE_SIZE as usize;

type Request = (Readable<Vec<u8>>, Writable<Vec<u8>>);

fn wish() -> Wish<'static> {
    Wish {
        want: Features::RING,
        legacy: true,
        ..Wish::default()
    }
}

fn device(platform: &InPlace, legacy: Legacy) -> FakeDevice {
    FakeDevice::new(platform.bus(), DeviceId::ENTROPY)
        .legacy(legacy)
        .offer(OFFERED)
}

/// Initializes the device and its first queue.
fn start<P: Platform + Debug>(
    platform: &P,
    device: &FakeDevice,
    config: &QueueConfig,
) -> (Live<P, FakeTransport>, Virtqueue<P, Request>) {
    let reset = init::reset(device.transport(), platform).unwrap();
    let mut negotiated = reset.negotiate(&wish()).unwrap();
    let pending = negotiated.queue(Q, config).unwrap();
    let live = negotiated.finish().unwrap();
    let queue = pending.start(&live).unwrap();
    (live, queue)
}

/// Defends: LC-L01, FE-L02.
#[test]
fn a_legacy_device_is_initialized_without_features_ok() {
    for legacy in BOTH {
        let platform = InPlace::new();
        let device = device(&platform, legacy);
        let (live, queue) = start(&platform, &device, &QueueConfig::new(256));
        assert!(live.transport().is_legacy());
        assert_eq!((live.features(), live.offered()), (OFFERED, OFFERED));
        assert!(stop(live, queue).is_empty());
        let (ack, driver) = (Status::ACKNOWLEDGE, Status::ACKNOWLEDGE | Status::DRIVER);
        let expected = [
            Event::Status(Status::empty()),
            Event::Reset,
            Event::Status(ack),
            Event::Status(driver),
            Event::Features(OFFERED),
            Event::Enabled(Q, 256),
            Event::Status(driver | Status::DRIVER_OK),
            Event::Status(Status::empty()),
            Event::Reset,
        ];
        assert_eq!(device.events(), expected);
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

/// Defends: FE-L01.
#[test]
fn bug_class_64_a_device_without_version_1_is_a_legacy_one() {
    let platform = InPlace::new();
    let driver = Status::ACKNOWLEDGE | Status::DRIVER;
    // By its modern interface it is one that offers the bit, or is refused, whatever is wished.
    for (offered, starts) in [(OFFERED, false), (OFFERED.with(Feature::VERSION_1), true)] {
        let device = FakeDevice::new(platform.bus(), DeviceId::ENTROPY).offer(offered);
        let reset = init::reset(device.transport(), &platform).unwrap();
        let negotiated = reset.negotiate(&wish());
        assert_eq!(device.accepted().has(Feature::VERSION_1), starts);
        match negotiated {
            Ok(negotiated) => assert!(starts && !negotiated.transport().is_legacy()),
            Err(error) => {
                let expected = NegotiateError::NoVersion1 { offered };
                assert_eq!(error.why, InitFailure::Features(expected));
                assert!(!starts);
            }
        }
    }
    // By its legacy interface it is taken, by a driver that takes such devices.
    for legacy in BOTH {
        for takes in [true, false] {
            let device = device(&platform, legacy).offer(OFFERED.with(Feature::VERSION_1));
            let reset = init::reset(device.transport(), &platform).unwrap();
            let wish = Wish {
                legacy: takes,
                ..wish()
            };
            match reset.negotiate(&wish) {
                Ok(negotiated) => {
                    assert!(takes);
                    assert_eq!(negotiated.features(), OFFERED, "VERSION_1 has no register");
                    assert_eq!(device.status(), driver);
                }
                Err(error) => {
                    assert!(!takes);
                    let offered = OFFERED;
                    let expected = NegotiateError::NoVersion1 { offered };
                    assert_eq!(error.why, InitFailure::Features(expected));
                    assert!(
                        error.to_string().contains("takes legacy devices"),
                        "{error}"
                    );
                    assert_eq!(device.status(), driver | Status::FAILED);
                    assert_eq!(device.accepted(), Features::EMPTY);
                }
            }
            device.assert_clean();
        }
    }
}

/// Of every offer, every wish and every refusal.
///
/// Defends: FE-L03, FE-L04, FE-L02.
#[test]
fn bug_class_62_and_63_of_a_legacy_device_every_offer_comes_out_right() {
    const ONE: Feature = Feature::of::<0>();
    const TWO: Feature = Feature::of::<1>();
    const BIT_30: Feature = Feature::of::<30>();
    const FAR: Feature = Feature::of::<127>();
    let bits = [
        ONE,
        TWO,
        Feature::NOTIFY_ON_EMPTY,
        Feature::ANY_LAYOUT,
        BIT_30,
        Feature::EVENT_IDX,
        Feature::VERSION_1,
        Feature::RING_PACKED,
        Feature::IN_ORDER,
        FAR,
    ];
    // The device's own feature 1 needs its feature 0.
    let rows = [Requirement::all(TWO, &[ONE])];
    let set = |mask: u32| {
        let chosen = bits.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1);
        chosen.fold(Features::EMPTY, |all, (_, &bit)| all.with(bit))
    };
    let never = Features::of(&[Feature::NOTIFY_ON_EMPTY, BIT_30]);
    let step = if cfg!(miri) { 37 } else { 1 };
    for offered in (0..1 << bits.len()).step_by(step).map(set) {
        for (want, refuse) in [(0, 0), (0x3ff, 0), (0b10_0010, 0), (0x3ff, 0b10_1001)] {
            let wish = Wish {
                want: set(want),
                refuse: set(refuse),
                requirements: &rows,
                ..wish()
            };
            let mut expected = offered & (wish.want | Feature::ANY_LAYOUT) & Features::LEGACY;
            expected = expected - wish.refuse - never;
            if !expected.has(ONE) {
                expected = expected.without(TWO);
            }
            let got = negotiate_legacy(offered, &wish, Access::Physical);
            let refused = (offered & Features::LEGACY) - expected;
            let accepted = expected;
            assert_eq!(got, Ok(Negotiation { accepted, refused }), "{offered}");
            let layout = offered.has(Feature::ANY_LAYOUT) && !wish.refuse.has(Feature::ANY_LAYOUT);
            assert_eq!(accepted.has(Feature::ANY_LAYOUT), layout);
        }
    }
}

#[test]
fn bug_class_63_what_needs_version_1_is_refused_by_name_on_a_legacy_device() {
    let platform = InPlace::new();
    for bit in 32..128 {
        let feature = Feature::new(bit).unwrap();
        let device = device(&platform, Legacy::FixedSizes).offer(!Features::EMPTY);
        let wish = Wish {
            require: feature.into(),
            ..wish()
        };
        let reset = init::reset(device.transport(), &platform).unwrap();
        let error = reset.negotiate(&wish).unwrap_err();
        let expected = NegotiateError::NeedsVersion1 { feature };
        assert_eq!(error.why, InitFailure::Features(expected));
        let (text, name) = (error.to_string(), feature.to_string());
        assert!(text.contains(&name) && text.contains("legacy"), "{text}");
        assert!(device.status().contains(Status::FAILED));
        device.assert_clean();
    }
    for feature in [Feature::NOTIFY_ON_EMPTY, Feature::of::<30>()] {
        let wish = Wish {
            require: feature.into(),
            ..wish()
        };
        let unimplemented = Err(NegotiateError::Unimplemented { feature });
        let got = negotiate_legacy(!Features::EMPTY, &wish, Access::Physical);
        assert_eq!(got, unimplemented);
        let absent = Err(NegotiateError::NotOffered { feature });
        assert_eq!(negotiate_legacy(OFFERED, &wish, Access::Physical), absent);
    }
}

/// Defends: FE-012.
#[test]
fn bug_class_63_translated_addresses_are_not_given_to_a_legacy_device() {
    for legacy in BOTH {
        let platform = InPlace::new();
        platform.set_access(Access::Translated);
        // The bit is beyond its register.
        let device = device(&platform, legacy).offer(OFFERED.with(Feature::ACCESS_PLATFORM));
        let reset = init::reset(device.transport(), &platform).unwrap();
        let error = reset.negotiate(&wish()).unwrap_err();
        let offered = OFFERED;
        let expected = NegotiateError::NoAccessPlatform { offered };
        assert_eq!(error.why, InitFailure::Features(expected));
        assert!(device.status().contains(Status::FAILED));
        device.assert_clean();
    }
}

/// A queue that is set up, with the device that it is of.
fn pending(
    platform: &InPlace,
    device: &FakeDevice,
    size: u16,
) -> (
    init::Negotiated<InPlace, FakeTransport>,
    Result<PendingQueue<InPlace, Chunks>, QueueError>,
) {
    let reset = init::reset(device.transport(), platform).unwrap();
    let mut negotiated = reset.negotiate(&wish()).unwrap();
    let pending = negotiated.queue(Q, &QueueConfig::new(size));
    (negotiated, pending)
}

/// Defends: SP-L01, SP-L02, SP-L03.
#[test]
fn a_legacy_ring_is_one_block_of_pages_of_the_size_that_the_device_says() {
    let most = if cfg!(miri) { 6 } else { 15 };
    for legacy in BOTH {
        for (log, wanted) in (0..=most).flat_map(|log| [1, 5, 64, 32_768].map(|w| (log, w))) {
            let max = 1_u16 << log;
            let platform = InPlace::new();
            let device = device(&platform, legacy).queues(&[max]);
            let (negotiated, pending) = pending(&platform, &device, wanted);
            let pending = pending.unwrap();
            let size = match legacy {
                Legacy::FixedSizes => max,
                Legacy::ChosenSizes => 1 << wanted.min(max).ilog2(),
            };
            assert_eq!(pending.size(), size, "{legacy:?}, {wanted} of {max}");
            let areas = pending.areas();
            let layout = vring_init(size, PAGE).unwrap();
            let at = |addr: DmaAddr| (addr.0 - areas.desc.0) as usize;
            assert_eq!(areas.desc.0 % PAGE as u64, 0);
            assert_eq!(at(areas.driver), layout.avail);
            assert_eq!(at(areas.device), layout.used);
            assert_eq!(platform.counts().region_bytes, layout.legacy_size());
            // What the device writes is zeroed, to the end of its pages.
            let mut bytes = vec![1; layout.legacy_size() - layout.used];
            platform.bus().read(areas.device, &mut bytes);
            assert!(bytes.iter().all(|&byte| byte == 0));
            let (_, proof) = negotiated.abort();
            drop(pending.close(&proof.unwrap()).unwrap());
            device.assert_clean();
            platform.assert_no_leaks();
        }
    }
}

/// Defends: SP-L01.
#[test]
fn bug_class_41_a_fixed_size_that_no_ring_has_is_a_typed_error() {
    let queue = Q;
    for size in [0, 3, 48, 0x7fff, 0x8001, 0xffff] {
        let platform = InPlace::new();
        let device = device(&platform, Legacy::FixedSizes).queues(&[size]);
        let (mut negotiated, pending) = pending(&platform, &device, 64);
        let expected = match size {
            0 => QueueError::Unavailable { queue },
            _ => QueueError::FixedSize { queue, size },
        };
        let error = pending.unwrap_err();
        assert_eq!(error, expected);
        let said = error.to_string();
        assert!(size == 0 || said.contains(&size.to_string()), "{said}");
        // The device was not told, so that others can be set up.
        let none = negotiated.queue::<Chunks>(QueueIndex(1), &QueueConfig::new(0));
        assert!(matches!(none, Err(QueueError::ZeroSize { .. })));
        assert!(!device.status().contains(Status::FAILED));
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

fn lent<P: Platform + Debug>(
    platform: &P,
    device: &FakeDevice,
    slots: usize,
    mappings: usize,
) -> Result<u16, QueueError> {
    let reset = init::reset(device.transport(), platform).unwrap();
    let mut negotiated = reset.negotiate(&wish()).unwrap();
    let slots: Vec<Slot<Request>> = (0..slots).map(|_| Slot::new()).collect();
    let mappings: Vec<_> = (0..mappings).map(|_| MappingSlot::new()).collect();
    let storage = QueueStorage {
        slots: slots.leak(),
        mappings: mappings.leak(),
    };
    let pending = negotiated.queue_in(Q, &QueueConfig::new(4), storage);
    let (_, proof) = negotiated.abort();
    let pending = pending?;
    let size = pending.size();
    drop(pending.close(&proof.unwrap()).unwrap());
    Ok(size)
}

#[test]
fn storage_that_is_shorter_than_a_fixed_size_is_a_typed_error() {
    let queue = Q;
    let direct = InPlace::new();
    let mapping = Bouncing::new();
    let of = |bus| {
        FakeDevice::new(bus, DeviceId::ENTROPY)
            .legacy(Legacy::FixedSizes)
            .offer(OFFERED)
            .queues(&[16])
    };
    let size = 16;
    let fails = |slots, mappings| {
        Err(QueueError::FixedSizeStorage {
            queue,
            size,
            slots,
            mappings,
        })
    };
    let device = of(direct.bus());
    assert_eq!(lent(&direct, &device, 16, 0), Ok(16));
    assert_eq!(lent(&direct, &device, 40, 0), Ok(16));
    assert_eq!(lent(&direct, &device, 15, 40), fails(15, 40));
    assert_eq!(lent(&direct, &device, 0, 40), fails(0, 40));
    let text = lent(&direct, &device, 15, 40).unwrap_err().to_string();
    assert!(text.contains("16") && text.contains("15"), "{text}");
    device.assert_clean();
    let device = of(mapping.bus());
    assert_eq!(lent(&mapping, &device, 16, 16), Ok(16));
    assert_eq!(lent(&mapping, &device, 16, 15), fails(16, 15));
    device.assert_clean();
    // Where the driver chooses, it takes what there is.
    let device = of(direct.bus()).legacy(Legacy::ChosenSizes);
    assert_eq!(lent(&direct, &device, 3, 0), Ok(2));
    device.assert_clean();
    direct.assert_no_leaks();
    mapping.assert_no_leaks();
}

/// A platform whose memory is so much further up for the device.
#[derive(Clone, Debug)]
struct Elsewhere(InPlace, u64);

// SAFETY: it is the one within; addresses that are moved are refused before a device uses them.
unsafe impl Platform for Elsewhere {
    const DIRECT: bool = true;
    fn alloc(&self, layout: Layout) -> Result<RawRegion, DmaError> {
        let mut region = self.0.alloc(layout)?;
        region.addr.0 += self.1;
        Ok(region)
    }
    unsafe fn dealloc(&self, mut region: RawRegion) {
        region.addr.0 -= self.1;
        // SAFETY: as for us.
        unsafe { self.0.dealloc(region) }
    }
    unsafe fn map(&self, buf: NonNull<[u8]>, direction: Direction) -> Result<Mapping, DmaError> {
        // SAFETY: as for us.
        unsafe { self.0.map(buf, direction) }
    }
    unsafe fn unmap(&self, mapping: Mapping, direction: Direction, used: u32) {
        // SAFETY: as for us.
        unsafe { self.0.unmap(mapping, direction, used) }
    }
    fn leaked(&self, bytes: usize, buffers: usize) {
        self.0.leaked(bytes, buffers);
    }
}

/// Defends: SP-L03.
#[test]
fn bug_class_41_a_ring_that_no_page_frame_number_names_is_a_typed_error() {
    for up in [1 << 44, 1 << 60] {
        let platform = Elsewhere(InPlace::new(), up);
        let device = device(&platform.0, Legacy::FixedSizes);
        let reset = init::reset(device.transport(), &platform).unwrap();
        let mut negotiated = reset.negotiate(&wish()).unwrap();
        let error = negotiated
            .queue::<Chunks>(Q, &QueueConfig::new(4))
            .unwrap_err();
        let QueueError::Transport(TransportError::QueueAddress { queue, addr }) = error else {
            panic!("{error}");
        };
        assert!(queue == Q && addr.0 > up, "{addr}");
        // It may have been told: it was reset, and nothing more is set up.
        assert!(device.status().is_empty());
        let other = negotiated.queue::<Chunks>(Q, &QueueConfig::new(4));
        assert_eq!(other.unwrap_err(), QueueError::Failed);
        platform.0.assert_no_leaks();
        device.assert_clean();
    }
}

#[test]
fn a_page_frame_number_is_an_address_of_32_bits_in_pages() {
    let frame = |addr| {
        let areas = QueueAreas {
            desc: DmaAddr(addr),
            driver: DmaAddr(!0),
            device: DmaAddr(!0),
        };
        areas.page_frame(Q)
    };
    assert_eq!(frame(4096), Ok(1));
    assert_eq!(frame(0xa5_0000_3000), Ok(0xa50_0003));
    assert_eq!(frame((1 << 44) - 4096), Ok(u32::MAX));
    for addr in [
        0,
        1,
        4095,
        4097,
        8192 + 16,
        1 << 44,
        (1 << 44) + 4096,
        !0,
        !0 << 12,
    ] {
        let error = frame(addr).unwrap_err();
        let addr = DmaAddr(addr);
        assert_eq!(error, TransportError::QueueAddress { queue: Q, addr });
        assert!(error.to_string().contains(&addr.to_string()), "{error}");
    }
}

/// Defends: SP-L04.
#[test]
fn bug_class_74_the_words_of_a_legacy_ring_are_the_guests() {
    let platform = InPlace::new();
    let device = device(&platform, Legacy::FixedSizes).queues(&[0x200]);
    let (live, mut queue) = start(&platform, &device, &QueueConfig::new(1));
    queue
        .submit((Readable(vec![7; 0x102]), Writable(vec![0; 3])))
        .unwrap();
    queue.publish();
    let areas = queue.areas();
    let word = |addr: DmaAddr, offset: u64| {
        let mut bytes = [0; 2];
        platform.bus().read(DmaAddr(addr.0 + offset), &mut bytes);
        u16::from_ne_bytes(bytes)
    };
    assert_eq!(word(areas.driver, 2), 1, "idx");
    let head = word(areas.driver, 4);
    let mut len = [0; 4];
    let at = areas.desc.0 + 16 * u64::from(head) + 8;
    platform.bus().read(DmaAddr(at), &mut len);
    assert_eq!(u32::from_ne_bytes(len), 0x102);
    assert_eq!(word(DmaAddr(at), 4), 1, "NEXT");
    assert_eq!(stop(live, queue).len(), 1);
    device.assert_clean();
}

fn echoes<P: Platform + Debug>(platform: &P, bus: &vring::testing::Bus, legacy: Legacy) {
    for offered in [Features::EMPTY, OFFERED, OFFERED.with(Feature::ANY_LAYOUT)] {
        let device = FakeDevice::new(bus, DeviceId::ENTROPY)
            .legacy(legacy)
            .offer(offered)
            .queues(&[16])
            .start_index(Q, 65_530);
        let mut config = QueueConfig::new(16).indirect(8).cells(4, 2);
        config.start_index = 65_530;
        let (live, mut queue) = start(platform, &device, &config);
        device.on_kick(|device, queue| {
            device.echo(queue);
        });
        let mut came = 0;
        for round in 0..40_u8 {
            let len = 1 + usize::from(round % 7);
            let request = (Readable(vec![round; len]), Writable(vec![0; len]));
            queue.submit(request).unwrap();
            queue.kick();
            while let Some(done) = queue.next_completion().unwrap() {
                let (Readable(sent), Writable(got)) = done.into_buf();
                assert_eq!(sent, got);
                came += 1;
            }
        }
        assert_eq!(came, 40);
        device.assert_kicked(Q);
        queue
            .submit((Readable(vec![1]), Writable(vec![1])))
            .unwrap();
        assert_eq!(stop(live, queue).len(), 1, "it comes back from the reset");
        device.assert_clean();
    }
}

/// Defends: FE-L02.
#[test]
fn requests_go_through_a_legacy_ring_as_through_any() {
    for legacy in BOTH {
        let platform = InPlace::new();
        echoes(&platform, platform.bus(), legacy);
        platform.assert_no_leaks();
        let platform = Bouncing::new();
        echoes(&platform, platform.bus(), legacy);
        platform.assert_no_leaks();
        let platform = Discontiguous::new(16);
        echoes(&platform, platform.bus(), legacy);
        platform.assert_no_leaks();
    }
}

#[test]
fn what_legacy_devices_have_not_is_a_typed_error() {
    let platform = InPlace::new();
    let device = device(&platform, Legacy::ChosenSizes);
    let (mut live, mut queue) = start(&platform, &device, &QueueConfig::new(4));
    let restarted = live.restart_queue(&mut queue, &QueueConfig::new(4), |_| {});
    let Err(InitFailure::Transport(TransportError::Unsupported { what })) = restarted else {
        panic!("{restarted:?}");
    };
    assert_eq!(what, "VIRTIO_F_RING_RESET");
    assert_eq!(queue.fault(), None, "it works");
    assert!(matches!(
        live.transport_mut().set_config_vector(Some(0)),
        Err(TransportError::NoVectors)
    ));
    let error = live.suspend(queue).unwrap_err();
    assert_eq!(error.why, SuspendFailure::NotNegotiated);
    let Unsuspended::Running(live, queue) = error.state else {
        panic!("it was told nothing");
    };
    assert!(stop(live, queue).is_empty());
    device.assert_clean();
}

#[test]
fn a_legacy_devices_configuration_may_be_used_before_its_features() {
    for legacy in BOTH {
        let platform = InPlace::new();
        let device = device(&platform, legacy).config(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut reset = init::reset(device.transport(), &platform).unwrap();
        let mut bytes = [0; 4];
        reset.transport().read_config(2, &mut bytes).unwrap();
        assert_eq!(bytes, [3, 4, 5, 6]);
        assert_eq!(reset.transport().config_generation(), None);
        reset.transport_mut().write_config(0, &[9, 9]).unwrap();
        assert_eq!(device.config_bytes()[..3], [9, 9, 3]);
        drop(reset.negotiate(&wish()).unwrap());
        device.assert_clean();
    }
}

/// Defends: LC-009.
#[test]
fn bug_class_54_a_legacy_ring_is_kept_until_the_reset_is_confirmed() {
    for legacy in BOTH {
        let platform = Bouncing::new();
        platform.set_patience(20);
        let device = FakeDevice::new(platform.bus(), DeviceId::ENTROPY)
            .legacy(legacy)
            .offer(OFFERED);
        let (live, mut queue) = start(&platform, &device, &QueueConfig::new(4));
        queue
            .submit((Readable(vec![1; 4]), Writable(vec![0; 4])))
            .unwrap();
        queue.kick();
        device.set_reset(ResetAnswer::Never);
        let leaked = live.reset().unwrap_err();
        assert!(matches!(leaked.why, InitFailure::ResetNotConfirmed { .. }));
        assert_eq!(device.echo(Q), 1, "it still runs");
        device.set_reset(ResetAnswer::After(3));
        let (_, proof) = leaked.live.reset().unwrap();
        drop(queue.close(&proof).unwrap());
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

#[test]
fn bug_class_41_and_43_absurd_registers_of_a_legacy_device() {
    let seeds = if cfg!(miri) { 10 } else { 2000 };
    let (mut started, mut queues) = (0, 0);
    for seed in 0..seeds {
        let platform = Bouncing::new();
        platform.set_patience(20);
        let device = FakeDevice::new(platform.bus(), DeviceId::ENTROPY)
            .legacy(BOTH[(seed % 2) as usize])
            .hostile(seed);
        let mut run = || {
            let reset = init::reset(device.transport(), &platform).ok()?;
            let mut negotiated = reset.negotiate(&wish()).ok()?;
            let pending: Vec<_> = (0..4)
                .filter_map(|i| {
                    let config = QueueConfig::new(64).vector((seed % 3 == 0).then_some(i));
                    negotiated.queue::<Request>(QueueIndex(i), &config).ok()
                })
                .collect();
            let (live, proof) = match negotiated.finish() {
                Err(aborted) => (false, aborted.proof.ok()?),
                Ok(live) => (true, live.reset().ok()?.1),
            };
            queues += pending.len();
            for queue in pending {
                assert!(queue.size().is_power_of_two());
                drop(queue.close(&proof).unwrap());
            }
            Some(live)
        };
        started += usize::from(run() == Some(true));
        if platform.counts().leaked_bytes == 0 {
            platform.assert_no_leaks();
        }
        // What is refused by the platform or the device is nobody's violation.
        device.assert_clean();
    }
    assert!(
        started > 0 && queues > 0,
        "{started} started, {queues} queues"
    );
}

#[test]
fn a_seeded_villain_behind_a_legacy_ring() {
    let (seeds, rounds) = if cfg!(miri) { (4, 40) } else { (200, 300) };
    let mut broken = 0;
    for seed in 0..seeds {
        let platform = Bouncing::new();
        let device = FakeDevice::new(platform.bus(), DeviceId::ENTROPY)
            .legacy(BOTH[(seed % 2) as usize])
            .offer(OFFERED)
            .queues(&[16]);
        device.violations().set_lenient();
        let (live, mut queue) = start(&platform, &device, &QueueConfig::new(16));
        let mut hostile = HostileDevice::new(device.take_queue(Q).unwrap(), seed).honesty(80);
        let mut rng = Rng::new(!seed);
        let mut inside = 0;
        for _ in 0..rounds {
            if rng.below(2) == 0 {
                let len = 1 + rng.below(40) as usize;
                let request = (Readable(vec![1; len]), Writable(vec![0; len]));
                inside += usize::from(queue.submit(request).is_ok());
                queue.kick();
            }
            hostile.step();
            let mut came = 0;
            let drained = queue.drain(|done| {
                came += 1;
                assert!(done.written() <= 40);
            });
            inside -= came;
            if drained.is_err() {
                broken += 1;
                break;
            }
        }
        drop(hostile);
        assert!(!matches!(queue.fault(), Some(Fault::Corrupt { .. })));
        assert_eq!(stop(live, queue).len(), inside, "seed {seed}");
        platform.assert_no_leaks();
    }
    assert!(cfg!(miri) || broken > 10, "{broken} met a fault");
}

/// Chains of any shape.
#[test]
fn chunks_of_any_shape_go_through_a_legacy_ring() {
    let platform = InPlace::new();
    let device = device(&platform, Legacy::FixedSizes).queues(&[8]);
    let (negotiated, pending) = pending(&platform, &device, 8);
    let live = negotiated.finish().unwrap();
    let mut queue = pending.unwrap().start(&live).unwrap();
    let mut maker = Maker::new();
    for n in 1..=8 {
        queue.submit(maker.chain(n)).unwrap();
        queue.kick();
        assert_eq!(device.echo(Q), 1);
        assert_eq!(queue.drain(|done| drop(done)), Ok(1));
    }
    assert!(stop(live, queue).is_empty());
    device.assert_clean();
    platform.assert_no_leaks();
}
