//! The fake device catches a driver that errs after its start: doorbells, the reset of a queue,
//! suspension.
//!
//! The driver here is the crate's own until it is live; then each test goes on by hand.

mod support;

use std::alloc::Layout;
use std::mem::ManuallyDrop;

use vring::buffer::Readable;
use vring::features::{Feature, Features, Wish};
use vring::init::{self, Live, QueueConfig};
use vring::platform::{DmaAddr, Platform};
use vring::testing::{Bouncing, Event, FakeDevice, FakeTransport, ResetAnswer, SuspendAnswer};
use vring::transport::{DeviceId, Doorbell, QueueAreas, Status, Transport, TransportError};
use vring::virtqueue::Virtqueue;

use support::{FEATURES, Q, RINGS, stop};

struct Rogue {
    platform: Bouncing,
    device: FakeDevice,
    live: ManuallyDrop<Live<Bouncing, FakeTransport>>,
    /// A second end of the device, which nothing holds back.
    hand: FakeTransport,
    queue: ManuallyDrop<Virtqueue<Bouncing, Readable<Vec<u8>>>>,
}

/// Whatever the rogue did, the crate's part ends well: a live queue that is dropped is leaked.
impl Drop for Rogue {
    fn drop(&mut self) {
        self.device.set_reset(ResetAnswer::After(0));
        // SAFETY: taken once, here.
        let live = unsafe { ManuallyDrop::take(&mut self.live) };
        // SAFETY: as above.
        let queue = unsafe { ManuallyDrop::take(&mut self.queue) };
        stop(live, queue);
    }
}

impl Rogue {
    fn new(features: impl Into<Features>) -> Self {
        Self::with(features, |device| device)
    }

    fn with(features: impl Into<Features>, adjust: fn(FakeDevice) -> FakeDevice) -> Self {
        let platform = Bouncing::new();
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
            .offer(FEATURES[1] | features.into())
            .vectors(Some(1));
        let device = adjust(device);
        device.violations().set_lenient();
        let wish = Wish {
            want: RINGS | Feature::SUSPEND,
            ..Wish::default()
        };
        let reset = init::reset(device.transport(), &platform).unwrap();
        let mut negotiated = reset.negotiate(&wish).unwrap();
        let config = QueueConfig::new(4).vector(Some(0));
        let pending = negotiated.queue(Q, &config).unwrap();
        let live = negotiated.finish().unwrap();
        let queue = pending.start(&live).unwrap();
        Self {
            hand: device.transport(),
            platform,
            device,
            live: ManuallyDrop::new(live),
            queue: ManuallyDrop::new(queue),
        }
    }

    fn submit(&mut self) {
        self.queue.submit(Readable(vec![1; 4])).unwrap();
    }

    fn status(&mut self, bits: u8) -> &mut Self {
        let status = Status::from_bits_retain(bits);
        self.hand.set_status(status);
        self
    }

    fn read(&mut self) -> u8 {
        self.hand.status().bits()
    }

    fn found(&self) -> Vec<&'static str> {
        self.device
            .violations()
            .take()
            .iter()
            .map(|violation| violation.id)
            .collect()
    }

    /// Enables the queue anew, in memory of its own that is never freed.
    fn enable(&mut self, vector: Option<u16>) -> Result<Doorbell, TransportError> {
        let layout = Layout::from_size_align(4096, 16).unwrap();
        let region = self.platform.alloc(layout).unwrap();
        let at = |offset| DmaAddr(region.addr.0 + offset);
        let areas = QueueAreas {
            desc: at(0),
            driver: at(1024),
            device: at(2048),
        };
        // SAFETY: the region is never freed.
        unsafe { self.hand.enable_queue(Q, 4, &areas, vector) }
    }

    /// Has the queue reset, and waits for it.
    fn reset_queue(&mut self) {
        let transport = &mut self.hand;
        transport.reset_queue(Q).unwrap();
        assert!(transport.is_queue_reset(Q));
    }
}

const RING_RESET: Feature = Feature::RING_RESET;
const DATA: Feature = Feature::NOTIFICATION_DATA;
const CHOSEN: Feature = Feature::NOTIF_CONFIG_DATA;

/// Defends: PCI-029, PCI-031, PCI-032, PCI-033, PCI-034.
#[test]
fn a_doorbell_carries_the_number_or_what_the_device_chose() {
    for (features, id) in [
        (Features::EMPTY, "PCI-031"),
        (DATA.into(), "PCI-032"),
        (CHOSEN.into(), "PCI-033"),
        (DATA | CHOSEN, "PCI-034"),
    ] {
        let mut rogue = Rogue::with(features | RING_RESET, |device| {
            device.notify_data(Q, 0x1234)
        });
        rogue.submit();
        rogue.queue.kick();
        assert!(rogue.found().is_empty(), "{id}");
        let chosen = features.has(CHOSEN);
        let with_data = features.has(DATA);
        let low = if chosen { 0x1234 } else { Q.0 };
        let high = if with_data { 1 } else { 0 };
        assert_eq!(rogue.device.rung(Q), Some(u32::from(low) | high << 16));

        // The rogue rings another value, and then the right one with something on top.
        let wrong = u32::from(low ^ 1) | high << 16;
        rogue.device.ring_doorbell(Q, wrong);
        assert_eq!(rogue.found(), [id]);
        rogue.device.ring_doorbell(Q, u32::from(low) | 7 << 16);
        let on_top = if with_data { "bug-28" } else { "PCI-029" };
        assert_eq!(rogue.found(), [on_top]);
    }
}

/// Defends: PK-004.
#[test]
fn a_doorbell_tells_where_the_next_buffer_will_be() {
    for packed in [Features::EMPTY, Feature::RING_PACKED.into()] {
        let mut rogue = Rogue::new(packed | DATA);
        let id = if packed.is_empty() {
            "bug-28"
        } else {
            "PK-004"
        };
        for round in 0..9_u16 {
            rogue.submit();
            rogue.queue.kick();
            assert!(rogue.found().is_empty());
            let next = match packed.is_empty() {
                true => round + 1,
                false => ((round + 1) % 4) | (u16::from((round + 1) / 4 % 2 == 0) << 15),
            };
            assert_eq!(rogue.device.rung(Q), Some(u32::from(next) << 16));
            for wrong in [next ^ 0x8000, next.wrapping_sub(1), next.wrapping_add(1)] {
                rogue.device.ring_doorbell(Q, u32::from(wrong) << 16);
                assert_eq!(rogue.found(), [id], "round {round}: {wrong:#x}");
            }
            assert_eq!(rogue.device.echo(Q), 1);
            assert_eq!(rogue.queue.drain(|_| ()).unwrap(), 1);
        }
    }
}

/// Defends: SP-020, SP-022, PK-016.
#[test]
fn a_kick_that_is_due_and_missing_is_found_when_the_test_asks() {
    let packed = Features::from(Feature::RING_PACKED);
    let event_idx = Features::from(Feature::EVENT_IDX);
    for (features, id) in [
        (Features::EMPTY, "SP-020"),
        (event_idx, "SP-022"),
        (packed, "PK-016"),
        (packed | event_idx, "PK-016"),
    ] {
        let mut rogue = Rogue::new(features);
        rogue.device.assert_kicked(Q);
        rogue.submit();
        rogue.device.assert_kicked(Q);
        assert!(rogue.found().is_empty(), "nothing was published");
        rogue.queue.publish();
        rogue.device.assert_kicked(Q);
        assert_eq!(rogue.found(), [id]);
        rogue.queue.kick();
        rogue.device.assert_kicked(Q);
        rogue
            .device
            .with_queue(Q, |queue| queue.disable_notifications());
        rogue.submit();
        rogue.queue.publish();
        rogue.device.assert_kicked(Q);
        assert!(rogue.found().is_empty(), "the device wants none");
    }
}

/// Defends: CF-006, PCI-018.
#[test]
fn the_reset_of_a_queue_is_awaited() {
    for packed in [Features::EMPTY, Feature::RING_PACKED.into()] {
        let mut rogue = Rogue::new(packed | RING_RESET);
        rogue.hand.reset_queue(Q).unwrap();
        assert!(rogue.enable(Some(0)).is_err());
        assert_eq!(rogue.found(), ["LC-002g", "CF-006", "bug-66"]);
        rogue.device.set_queue_reset(ResetAnswer::Never);
        assert!(!rogue.hand.is_queue_reset(Q));
        rogue.device.set_queue_reset(ResetAnswer::After(2));
        let seen = [0; 4].map(|_| rogue.hand.is_queue_reset(Q));
        assert_eq!(seen, [false, false, true, true]);
        assert!(rogue.enable(Some(0)).is_ok());
        assert!(rogue.found().is_empty());
        let events = rogue.device.events();
        let [.., begun, done, enabled] = events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(begun, Event::QueueResetBegun(Q));
        assert_eq!(done, Event::QueueReset(Q));
        assert_eq!(enabled, Event::Enabled(Q, 4));

        // A queue that was not enabled, and one that is being reset.
        let _ = rogue.hand.reset_queue(Q);
        let _ = rogue.hand.reset_queue(Q);
        assert_eq!(rogue.found(), ["CF-006"]);
    }
}

/// Defends: CF-006, LC-008, PK-003.
#[test]
fn what_is_exposed_stays_until_a_reset_is_confirmed() {
    for packed in [Features::EMPTY, Feature::RING_PACKED.into()] {
        for whole in [false, true] {
            let mut rogue = Rogue::new(packed | RING_RESET);
            rogue.submit();
            rogue.queue.kick();
            rogue.device.with_queue(Q, |queue| queue.refresh());
            let transport = &mut rogue.hand;
            match whole {
                true => transport.set_status(Status::empty()),
                false => transport.reset_queue(Q).unwrap(),
            }
            // The rogue takes the descriptor back too soon.
            let at = rogue.queue.areas().desc.checked_add(8).unwrap();
            let bus = rogue.platform.bus();
            let rest = bus.load_u64(at, std::sync::atomic::Ordering::Relaxed);
            bus.store_u64(at, rest ^ 1, std::sync::atomic::Ordering::Relaxed);
            let transport = &mut rogue.hand;
            match whole {
                true => assert!(transport.status().is_empty()),
                false => assert!(transport.is_queue_reset(Q)),
            }
            let id = if packed.is_empty() {
                "LC-008"
            } else {
                "PK-003"
            };
            assert_eq!(rogue.found(), [id]);
        }
    }
}

/// Defends: CF-006, LC-009.
#[test]
fn a_ring_is_not_freed_before_its_reset_is_confirmed() {
    for packed in [Features::EMPTY, Feature::RING_PACKED.into()] {
        for whole in [false, true] {
            let mut rogue = Rogue::new(packed | RING_RESET);
            rogue.reset_queue();
            let layout = Layout::from_size_align(4096, 16).unwrap();
            let region = rogue.platform.alloc(layout).unwrap();
            let at = |offset| DmaAddr(region.addr.0 + offset);
            let areas = QueueAreas {
                desc: at(0),
                driver: at(1024),
                device: at(2048),
            };
            let transport = &mut rogue.hand;
            // SAFETY: the device touches freed memory of a fake only to be trapped.
            unsafe { transport.enable_queue(Q, 4, &areas, Some(0)) }.unwrap();
            assert!(rogue.found().is_empty());
            let transport = &mut rogue.hand;
            match whole {
                true => transport.set_status(Status::empty()),
                false => transport.reset_queue(Q).unwrap(),
            }
            // SAFETY: it was allocated here, and is freed once.
            unsafe { rogue.platform.dealloc(region) };
            let transport = &mut rogue.hand;
            match whole {
                true => assert!(transport.status().is_empty()),
                false => assert!(transport.is_queue_reset(Q)),
            }
            let id = if whole { "LC-009" } else { "CF-006" };
            assert_eq!(rogue.found(), [id]);
        }
    }
}

/// Defends: CF-007.
#[test]
fn a_queue_is_set_up_again_with_all_that_it_had() {
    let mut rogue = Rogue::new(RING_RESET);
    rogue.reset_queue();
    assert!(rogue.enable(None).is_ok());
    assert_eq!(rogue.found(), ["CF-007"]);
}

#[test]
fn doorbells_from_before_the_reset_of_a_queue_reach_nobody() {
    let mut rogue = Rogue::new(RING_RESET);
    rogue.submit();
    let late = rogue.queue.kick_prepare().unwrap();
    rogue.reset_queue();
    let doorbell = rogue.enable(Some(0)).unwrap();
    late.send();
    assert_eq!((rogue.device.kicks(Q), rogue.device.stale_kicks()), (0, 1));
    doorbell.ring(0);
    assert_eq!(rogue.device.kicks(Q), 1);
    assert!(rogue.found().is_empty());
}

/// Status bits: up to `DRIVER_OK`, up to `FEATURES_OK`, `SUSPEND`, `DEVICE_NEEDS_RESET`.
const RUNS: u8 = 15;
const STOPS: u8 = 11;
const SUSPEND: u8 = 16;
const NEEDS_RESET: u8 = 64;

/// Defends: LC-010, LC-011, LC-015.
#[test]
fn suspension_is_negotiated_and_awaited() {
    let mut rogue = Rogue::new(Features::EMPTY);
    assert_eq!(rogue.status(RUNS | SUSPEND).found(), ["LC-010"]);

    let mut rogue = Rogue::new(Feature::SUSPEND);
    rogue.device.set_suspend(SuspendAnswer::After(1));
    assert!(rogue.status(RUNS | SUSPEND).found().is_empty());
    assert_eq!(
        rogue.status(RUNS | SUSPEND).found(),
        ["LC-011"],
        "it went on"
    );
    assert_eq!(rogue.read(), RUNS | SUSPEND);
    assert_eq!(rogue.read(), STOPS | SUSPEND);
    assert!(rogue.status(RUNS | SUSPEND).found().is_empty());
    rogue.device.ring_doorbell(Q, 0);
    assert_eq!(rogue.found(), ["LC-015"]);
    assert_eq!(rogue.status(RUNS | SUSPEND).found(), ["LC-015"]);
    assert_eq!(rogue.read(), RUNS | SUSPEND);
    assert_eq!(rogue.read(), RUNS);
    rogue.device.ring_doorbell(Q, 0);
    assert!(rogue.found().is_empty());

    rogue.device.set_suspend(SuspendAnswer::Never);
    rogue.status(RUNS | SUSPEND);
    assert_eq!([0; 9].map(|_| rogue.read()), [RUNS | SUSPEND; 9]);
    rogue.device.set_suspend(SuspendAnswer::Fail);
    assert_eq!(rogue.read(), RUNS | SUSPEND | NEEDS_RESET);
    assert!(rogue.found().is_empty());
}

/// Defends: LC-012, LC-013, LC-014, LC-015.
#[test]
fn a_suspended_device_is_left_alone() {
    for packed in [Features::EMPTY, Feature::RING_PACKED.into()] {
        let mut rogue = Rogue::with(packed | Feature::SUSPEND, |device| device.config(&[0; 4]));
        rogue.submit();
        rogue.queue.kick();
        rogue.device.set_suspend(SuspendAnswer::After(1));
        rogue.status(RUNS | SUSPEND);
        // It may still use what it has.
        assert_eq!(rogue.device.echo(Q), 1);
        assert!(rogue.found().is_empty());

        rogue.submit();
        assert_eq!(rogue.read(), RUNS | SUSPEND);
        assert!(rogue.found().is_empty(), "not published");
        rogue.queue.publish();
        assert_eq!(rogue.read(), STOPS | SUSPEND);
        assert_eq!(rogue.found(), ["LC-012"]);
        assert_eq!(rogue.device.echo(Q), 0, "it is suspended");
        rogue.submit();
        rogue.queue.kick();
        assert_eq!(rogue.found(), ["LC-013"]);
        rogue.device.with_queue(Q, |_| ());
        assert_eq!(rogue.found(), ["LC-012"]);
        let _ = rogue.hand.write_config(0, &[1]);
        assert_eq!(rogue.found(), ["LC-014"]);

        rogue.status(RUNS | SUSPEND);
        rogue.submit();
        rogue.queue.publish();
        assert_eq!(rogue.read(), RUNS | SUSPEND);
        assert_eq!(rogue.found(), ["LC-015"]);
        assert_eq!(rogue.read(), RUNS);
        assert_eq!(rogue.device.echo(Q), 3);
        assert!(rogue.found().is_empty());
    }
}
