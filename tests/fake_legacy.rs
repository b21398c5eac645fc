//! The fake legacy device serves a driver that keeps the rules, and catches one that does not.

use std::alloc::Layout;

use vring::features::{Feature, Features};
use vring::platform::{DmaAddr, Platform, RawRegion};
use vring::ring::layout::vring_init;
use vring::testing::{Bouncing, FakeDevice, FakeTransport, Legacy};
use vring::transport::{
    DeviceId, Doorbell, QueueAreas, QueueIndex, Status, Transport, TransportError,
};

const Q: QueueIndex = QueueIndex(0);
const PAGE: usize = 4096;
const OFFERED: Features = Features::of(&[Feature::EVENT_IDX, Feature::ANY_LAYOUT]);

/// A driver that does as each test says, on a device that collects violations.
struct Rogue {
    platform: Bouncing,
    device: FakeDevice,
    transport: FakeTransport,
}

impl Rogue {
    fn new(legacy: Legacy) -> Self {
        let platform = Bouncing::new();
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
            .legacy(legacy)
            .offer(OFFERED.with(Feature::of::<30>()).with(Feature::VERSION_1))
            .queues(&[16])
            .header(Q, 10);
        device.violations().set_lenient();
        let transport = device.transport();
        Self {
            platform,
            device,
            transport,
        }
    }

    fn status(&mut self, values: &[u8]) -> &mut Self {
        for &value in values {
            self.transport.set_status(Status::from_bits_retain(value));
            if value == 0 {
                let _ = self.transport.status();
            }
        }
        self
    }

    fn features(&mut self, features: Features) -> &mut Self {
        self.transport.set_driver_features(features);
        self
    }

    /// A driver that is ready to set queues up.
    fn ready(legacy: Legacy, features: Features) -> Self {
        let mut rogue = Self::new(legacy);
        rogue.status(&[0, 1, 3]).features(features);
        rogue
    }

    fn region(&self, bytes: usize) -> RawRegion {
        let layout = Layout::from_size_align(bytes, PAGE).unwrap();
        self.platform.alloc(layout).unwrap()
    }

    fn enable(&mut self, size: u16, areas: QueueAreas) -> Result<Doorbell, TransportError> {
        // SAFETY: the region is never freed.
        unsafe { self.transport.enable_queue(Q, size, &areas, None) }
    }

    fn found(&self) -> Vec<&'static str> {
        let taken = self.device.violations().take();
        taken.iter().map(|violation| violation.id).collect()
    }
}

/// Where a ring of that size has its areas.
fn areas(base: DmaAddr, size: u16, align: usize) -> QueueAreas {
    let layout = vring_init(size, align).unwrap();
    let at = |offset: usize| DmaAddr(base.0 + offset as u64);
    QueueAreas {
        desc: at(layout.desc),
        driver: at(layout.avail),
        device: at(layout.used),
    }
}

#[test]
fn a_legacy_device_has_registers_of_its_kind() {
    for legacy in [Legacy::FixedSizes, Legacy::ChosenSizes] {
        let mut rogue = Rogue::new(legacy);
        let transport = &mut rogue.transport;
        assert!(transport.is_legacy());
        assert_eq!(
            transport.is_queue_size_fixed(),
            legacy == Legacy::FixedSizes
        );
        let offered = transport.device_features();
        assert_eq!(offered, OFFERED.with(Feature::of::<30>()));
        assert_eq!(transport.transport_features(), Features::EMPTY);
        assert_eq!(transport.config_generation(), None);
        let modern = FakeDevice::new(rogue.platform.bus(), DeviceId::NETWORK).transport();
        assert!(!modern.is_legacy() && !modern.is_queue_size_fixed());
    }
}

#[test]
fn a_legacy_device_knows_no_features_ok_and_needs_none() {
    let mut rogue = Rogue::ready(Legacy::FixedSizes, OFFERED);
    assert!(rogue.status(&[7]).found().is_empty());
    let mut rogue = Rogue::ready(Legacy::FixedSizes, OFFERED);
    assert_eq!(rogue.status(&[11]).found(), ["LC-L01"]);
    // Features come before all that needs them.
    let mut rogue = Rogue::new(Legacy::FixedSizes);
    assert_eq!(rogue.status(&[0, 1, 3, 7]).found(), ["LC-002f"]);
    let mut rogue = Rogue::new(Legacy::FixedSizes);
    assert_eq!(rogue.status(&[0, 1, 5]).found(), ["LC-002e", "LC-002f"]);
}

#[test]
fn features_of_a_legacy_device_are_judged_when_they_are_written() {
    let found = |features| Rogue::ready(Legacy::FixedSizes, features).found();
    assert!(found(OFFERED).is_empty());
    assert_eq!(found(Feature::EVENT_IDX.into()), ["FE-L03"]);
    assert_eq!(found(OFFERED.with(Feature::of::<30>())), ["FE-L04"]);
    let beyond = OFFERED.with(Feature::VERSION_1);
    assert_eq!(found(beyond), ["FE-001", "FE-L02"]);
}

#[test]
fn a_legacy_ring_is_one_block_from_a_page_on() {
    for legacy in [Legacy::FixedSizes, Legacy::ChosenSizes] {
        let ready = || Rogue::ready(legacy, OFFERED);
        let mut rogue = ready();
        let base = rogue.region(2 * PAGE).addr;
        rogue.enable(16, areas(base, 16, PAGE)).unwrap();
        assert!(rogue.found().is_empty());

        // The used ring where a modern one may have it.
        let mut rogue = ready();
        let base = rogue.region(2 * PAGE).addr;
        let id = match legacy {
            Legacy::FixedSizes => "SP-L01",
            Legacy::ChosenSizes => "SP-L03",
        };
        let _ = rogue.enable(16, areas(base, 16, 4));
        assert_eq!(rogue.found(), [id]);

        // Behind the start of a page.
        let mut rogue = ready();
        let base = DmaAddr(rogue.region(3 * PAGE).addr.0 + 64);
        let refused = rogue.enable(16, areas(base, 16, PAGE));
        assert!(matches!(refused, Err(TransportError::QueueAddress { .. })));
        assert_eq!(rogue.found(), ["SP-L03"]);

        // Less memory than pages.
        let mut rogue = ready();
        let base = rogue.region(PAGE + 200).addr;
        let _ = rogue.enable(16, areas(base, 16, PAGE));
        assert_eq!(rogue.found(), ["SP-L02"]);
    }
}

#[test]
fn a_device_that_fixes_its_sizes_takes_no_other() {
    let mut rogue = Rogue::ready(Legacy::FixedSizes, OFFERED);
    let base = rogue.region(2 * PAGE).addr;
    let _ = rogue.enable(8, areas(base, 8, PAGE));
    assert_eq!(rogue.found(), ["SP-L01"]);
    // It goes on with its own.
    assert_eq!(rogue.device.with_queue(Q, |queue| queue.size()), Some(16));
    let mut rogue = Rogue::ready(Legacy::ChosenSizes, OFFERED);
    let base = rogue.region(2 * PAGE).addr;
    rogue.enable(8, areas(base, 8, PAGE)).unwrap();
    assert!(rogue.found().is_empty());
    assert_eq!(rogue.device.with_queue(Q, |queue| queue.size()), Some(8));
}

/// Makes one chain of these pieces available by hand; what the device says of it.
fn framed(features: Features, lens: &[u32]) -> Vec<&'static str> {
    let mut rogue = Rogue::new(Legacy::FixedSizes);
    rogue.device = rogue.device.offer(features);
    rogue.status(&[0, 1, 3]).features(features);
    let region = rogue.region(2 * PAGE);
    let areas = areas(region.addr, 16, PAGE);
    rogue.enable(16, areas).unwrap();
    rogue.status(&[7]);
    let bus = rogue.platform.bus().clone();
    for (i, &len) in lens.iter().enumerate() {
        let piece = rogue.region(len as usize).addr;
        let at = areas.desc.0 + 16 * i as u64;
        let last = i + 1 == lens.len();
        bus.write(DmaAddr(at), &piece.0.to_le_bytes());
        bus.write(DmaAddr(at + 8), &len.to_le_bytes());
        bus.write(DmaAddr(at + 12), &[if last { 2 } else { 3 }, 0]);
        bus.write(DmaAddr(at + 14), &(i as u16 + 1).to_le_bytes());
    }
    bus.write(DmaAddr(areas.driver.0 + 2), &[1, 0]);
    rogue.device.with_queue(Q, |queue| queue.refresh());
    rogue.found()
}

#[test]
fn without_any_layout_the_first_descriptor_is_the_header() {
    let without = Feature::EVENT_IDX.into();
    assert!(framed(without, &[10, 100]).is_empty());
    assert!(framed(without, &[10, 60, 40]).is_empty());
    for lens in [&[110][..], &[10], &[12, 98], &[9, 1, 100], &[100, 10]] {
        assert_eq!(framed(without, lens), ["NET-L08"], "{lens:?}");
        assert!(framed(OFFERED, lens).is_empty(), "{lens:?}");
    }
}
