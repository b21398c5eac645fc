//! From reset to live and back: bug classes 33, 34 and 59 to 66, as far as they are not PCI's.

#[path = "support/queue.rs"]
mod rig;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use vring::features::{Feature, Features, NegotiateError, Requirement, Wish, negotiate};
use vring::init::{self, InitFailure, QueueConfig};
use vring::platform::{Access, Wait};
use vring::testing::{Bouncing, Event, FakeDevice, FakeTransport, InPlace, ResetAnswer};
use vring::transport::{
    DeviceId, Doorbell, Isr, QueueAreas, QueueIndex, Status, Transport, TransportError,
};

use rig::{Chunks, Maker};
use support::{FEATURES, Q};

fn device(platform: &InPlace) -> FakeDevice {
    FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(FEATURES[0])
}

/// Defends: ST-002, ST-003, FE-007, LC-002f, LC-005.
#[test]
fn bug_class_59_every_failed_step_sets_failed_and_gives_the_transport_back() {
    let platform = InPlace::new();
    let driver = Status::ACKNOWLEDGE | Status::DRIVER;
    let absent = Feature::RING_PACKED;
    let wish = Wish {
        require: absent.into(),
        ..Wish::default()
    };
    for _ in 0..2 {
        let device = device(&platform);
        let reset = init::reset(device.transport(), &platform).unwrap();
        let error = reset.negotiate(&wish).unwrap_err();
        let expected = NegotiateError::NotOffered { feature: absent };
        assert_eq!(error.why, InitFailure::Features(expected));
        assert_eq!(device.status(), driver | Status::FAILED);
        // The same transport starts again, from a reset.
        let reset = init::reset(error.transport, &platform).unwrap();
        assert!(device.status().is_empty());
        let negotiated = reset.negotiate(&Wish::default()).unwrap();
        assert_eq!(device.status(), driver | Status::FEATURES_OK);
        let (transport, proof) = negotiated.abort();
        assert!(proof.is_ok() && transport.device().status().is_empty());
        let failed = driver | Status::FEATURES_OK | Status::FAILED;
        assert!(device.events().contains(&Event::Status(failed)));

        device.refuse_features();
        let reset = init::reset(transport, &platform).unwrap();
        let error = reset.negotiate(&Wish::default()).unwrap_err();
        let InitFailure::FeaturesRefused { features, status } = error.why else {
            panic!("{error}");
        };
        assert_eq!(features, Feature::VERSION_1.into());
        assert!(!status.contains(Status::FEATURES_OK));
        assert!(device.status().contains(Status::FAILED));
        device.assert_clean();
    }
}

/// Defends: LC-001, LC-002a, PCI-016.
#[test]
fn bug_class_60_a_reset_is_awaited_and_bounded() {
    let platform = InPlace::new();
    platform.set_patience(50);
    for polls in [0, 1, 7, 50] {
        // Firmware has used it.
        let device = device(&platform);
        device.set_reset(ResetAnswer::After(polls));
        let reset = init::reset(device.transport(), &platform).unwrap();
        assert!(device.status().is_empty());
        drop(reset.negotiate(&Wish::default()).unwrap());
        device.assert_clean();
    }
    let waited = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = std::sync::Arc::clone(&waited);
    platform.on_wait(move |what, polls| log.lock().unwrap().push((what, polls)));
    for answer in [ResetAnswer::Never, ResetAnswer::After(1000)] {
        waited.lock().unwrap().clear();
        let device = device(&platform);
        device.set_reset(answer);
        let error = init::reset(device.transport(), &platform).unwrap_err();
        let InitFailure::ResetNotConfirmed { status } = error.why else {
            panic!("{error}");
        };
        assert_eq!(status, Status::ACKNOWLEDGE | Status::DRIVER);
        let expected: Vec<_> = (0..=50).map(|n| (Wait::Reset, n)).collect();
        assert_eq!(*waited.lock().unwrap(), expected);
        // Nothing else was written to a device that does not answer.
        assert_eq!(device.events(), [Event::Status(Status::empty())]);
        device.set_reset(ResetAnswer::After(0));
        assert!(init::reset(error.transport, &platform).is_ok());
    }
}

/// Defends: FE-001, FE-002.
#[test]
fn bug_class_62_no_feature_is_accepted_without_what_it_needs() {
    let bits: Vec<Feature> = (0..7).map(|bit| Feature::new(bit).unwrap()).collect();
    let rows = [
        Requirement::all(bits[1], &[bits[0]]),
        Requirement::all(bits[2], &[bits[1], bits[3]]),
        Requirement::any(bits[4], &[bits[2], bits[5]]),
        Requirement::all(bits[6], &[bits[4]]),
    ];
    let set = |mask: u32| {
        let chosen = bits.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1);
        chosen.fold(Features::EMPTY, |all, (_, &bit)| all.with(bit))
    };
    for offered in 0..128 {
        for want in [0, 0b101_0101, 0b111_1111] {
            let wish = Wish {
                want: set(want),
                requirements: &rows,
                ..Wish::default()
            };
            let all = set(offered).with(Feature::VERSION_1);
            let negotiation = negotiate(all, &wish, Access::Physical).unwrap();
            let accepted = negotiation.accepted;
            assert!(all.contains(accepted), "nothing that was not offered");
            assert!(
                wish.want.with(Feature::VERSION_1).contains(accepted),
                "nor wanted"
            );
            assert!(rows.iter().all(|row| row.is_met_by(accepted)), "{accepted}");
            assert_eq!(negotiation.refused, all - accepted);
            // And no more was dropped than had to be: any other that is added breaks a rule.
            for &bit in &bits {
                let more = accepted.with(bit);
                let could = all.has(bit) && wish.want.has(bit) && !accepted.has(bit);
                assert!(!could || !rows.iter().all(|row| row.is_met_by(more)));
            }
        }
    }
}

/// Defends: FE-010, FE-012.
#[test]
fn bug_class_63_translated_addresses_need_a_device_that_takes_part() {
    let platform = Bouncing::new();
    platform.set_access(Access::Translated);
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(FEATURES[0]);
    let reset = init::reset(device.transport(), &platform).unwrap();
    let error = reset.negotiate(&Wish::default()).unwrap_err();
    let offered = FEATURES[0];
    let expected = NegotiateError::NoAccessPlatform { offered };
    assert_eq!(error.why, InitFailure::Features(expected));
    assert!(device.status().contains(Status::FAILED));
    for access in [Access::Translated, Access::Physical] {
        platform.set_access(access);
        let offered = offered.with(Feature::ACCESS_PLATFORM);
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(offered);
        let reset = init::reset(device.transport(), &platform).unwrap();
        let negotiated = reset.negotiate(&Wish::default()).unwrap();
        assert!(
            negotiated.features().has(Feature::ACCESS_PLATFORM),
            "offered, so accepted"
        );
    }
}

/// Defends: FE-003.
#[test]
fn bug_class_63_and_64_a_legacy_device_is_refused_by_name() {
    let platform = InPlace::new();
    let device = device(&platform).offer(Feature::EVENT_IDX);
    let reset = init::reset(device.transport(), &platform).unwrap();
    let error = reset.negotiate(&Wish::default()).unwrap_err();
    let offered = Feature::EVENT_IDX.into();
    assert_eq!(
        error.why,
        InitFailure::Features(NegotiateError::NoVersion1 { offered })
    );
    let text = error.to_string();
    assert!(
        text.contains("legacy") && text.contains("VERSION_1"),
        "{text}"
    );
    assert_eq!(device.accepted(), Features::EMPTY);
}

/// When a transport fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fails {
    /// Its device does, when the driver says `DRIVER_OK`.
    AtTheEnd,
    /// It panics when the device has taken a queue.
    EnablingAQueue,
    /// It refuses a queue that the device has taken, and panics when the driver says `FAILED`.
    GivingUp,
}

/// A transport that fails.
#[derive(Debug)]
struct Failing(FakeTransport, Fails);

// SAFETY: it is the one within.
unsafe impl Transport for Failing {
    fn device_id(&self) -> DeviceId {
        self.0.device_id()
    }
    fn num_queues(&self) -> Option<u16> {
        self.0.num_queues()
    }
    fn status(&self) -> Status {
        self.0.status()
    }
    fn set_status(&mut self, status: Status) {
        self.0.set_status(status);
        if status.contains(Status::DRIVER_OK) && self.1 == Fails::AtTheEnd {
            self.0.device().fail();
        }
        let panics = status.contains(Status::FAILED) && self.1 == Fails::GivingUp;
        assert!(!panics, "the transport panics");
    }
    fn device_features(&mut self) -> Features {
        self.0.device_features()
    }
    fn set_driver_features(&mut self, features: Features) {
        self.0.set_driver_features(features);
    }
    fn max_queue_size(&mut self, queue: QueueIndex) -> u16 {
        self.0.max_queue_size(queue)
    }
    unsafe fn enable_queue(
        &mut self,
        queue: QueueIndex,
        size: u16,
        areas: &QueueAreas,
        vector: Option<u16>,
    ) -> Result<Doorbell, TransportError> {
        // SAFETY: as for us.
        let doorbell = unsafe { self.0.enable_queue(queue, size, areas, vector) };
        assert_ne!(self.1, Fails::EnablingAQueue, "the transport panics");
        if self.1 == Fails::GivingUp {
            return Err(TransportError::QueueNotEnabled { queue });
        }
        doorbell
    }
    fn set_config_vector(&mut self, vector: Option<u16>) -> Result<(), TransportError> {
        self.0.set_config_vector(vector)
    }
    fn config_generation(&self) -> Option<u32> {
        self.0.config_generation()
    }
    fn config_size(&self) -> usize {
        self.0.config_size()
    }
    fn read_config(&self, offset: usize, dst: &mut [u8]) -> Result<(), TransportError> {
        self.0.read_config(offset, dst)
    }
    fn write_config(&mut self, offset: usize, src: &[u8]) -> Result<(), TransportError> {
        self.0.write_config(offset, src)
    }
    fn take_isr(&mut self) -> Option<Isr> {
        self.0.take_isr()
    }
}

/// Defends: LC-005.
#[test]
fn a_device_that_fails_at_the_last_step_is_reset_and_its_queues_are_freed() {
    let platform = InPlace::new();
    for confirmed in [true, false] {
        let device = device(&platform);
        let transport = Failing(device.transport(), Fails::AtTheEnd);
        let reset = init::reset(transport, &platform).unwrap();
        let mut negotiated = reset.negotiate(&Wish::default()).unwrap();
        let pending = negotiated.queue::<Chunks>(Q, &QueueConfig::new(8)).unwrap();
        if !confirmed {
            device.set_reset(ResetAnswer::Never);
        }
        let aborted = negotiated.finish().unwrap_err();
        assert_eq!(aborted.why, InitFailure::NeedsReset);
        assert_eq!(platform.counts().regions, 1);
        match aborted.proof {
            Ok(proof) => {
                assert!(confirmed);
                drop(pending.close(&proof).unwrap());
                platform.assert_no_leaks();
            }
            Err(why) => {
                assert!(!confirmed && matches!(why, InitFailure::ResetNotConfirmed { .. }));
                drop(pending);
                assert_eq!(platform.counts().regions, 1);
                assert_ne!(platform.counts().leaked_bytes, 0);
            }
        }
        let failed = |event: &Event| {
            matches!(event, Event::Status(status)
                if status.contains(Status::FAILED | Status::DRIVER_OK))
        };
        assert!(device.events().iter().any(failed));
        device.assert_clean();
    }
}

/// Defends: LC-002h, LC-007.
#[test]
fn bug_class_54_a_transport_that_panics_leaves_the_ring_to_the_device() {
    for fails in [Fails::EnablingAQueue, Fails::GivingUp] {
        let platform = InPlace::new();
        let device = device(&platform);
        let transport = Failing(device.transport(), fails);
        let reset = init::reset(transport, &platform).unwrap();
        let mut negotiated = reset.negotiate(&Wish::default()).unwrap();
        let config = QueueConfig::new(8).cells(16, 1);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            negotiated.queue::<Chunks>(Q, &config).map(drop)
        }));
        assert!(outcome.is_err());
        // The device has the addresses: nothing of it is freed, and that is said.
        let counts = platform.counts();
        assert_eq!(counts.regions, 2, "{fails:?}");
        assert_eq!(counts.leaked_bytes, counts.region_bytes, "{fails:?}");
        device.assert_clean();
    }
}

#[test]
fn bug_class_33_no_kick_before_driver_ok_and_none_is_forgotten() {
    // A pending queue has no way to kick, which is the point; the first kick comes through.
    let platform = InPlace::new();
    let device = device(&platform);
    let reset = init::reset(device.transport(), &platform).unwrap();
    let mut negotiated = reset.negotiate(&Wish::default()).unwrap();
    let pending = negotiated.queue::<Chunks>(Q, &QueueConfig::new(8)).unwrap();
    assert_eq!(device.kicks(Q), 0);
    let live = negotiated.finish().unwrap();
    assert_eq!(device.kicks(Q), 0);
    let mut queue = pending.start(&live).unwrap();
    let mut maker = Maker::new();
    for _ in 0..3 {
        queue.submit(maker.chain(2)).unwrap();
    }
    queue.kick();
    assert_eq!(device.kicks(Q), 1);
    assert_eq!(support::stop(live, queue).len(), 3);
    device.assert_clean();
}

/// Defends: SP-014.
#[test]
fn bug_class_34_interrupts_before_and_after_the_device_runs_do_nothing() {
    let platform = InPlace::new();
    let device = device(&platform);
    let reset = init::reset(device.transport(), &platform).unwrap();
    let mut negotiated = reset.negotiate(&Wish::default()).unwrap();
    let isr = negotiated.transport_mut().take_isr().unwrap();
    let pending = negotiated.queue::<Chunks>(Q, &QueueConfig::new(8)).unwrap();
    assert!(isr.ack().is_empty(), "the line may be shared");
    let live = negotiated.finish().unwrap();
    let mut queue = pending.start(&live).unwrap();
    device.interrupt();
    assert_eq!(isr.ack().bits(), 1);
    assert!(queue.next_completion().unwrap().is_none(), "spurious");
    let mut maker = Maker::new();
    queue.submit(maker.chain(2)).unwrap();
    queue.kick();
    let notification = {
        queue.submit(maker.chain(2)).unwrap();
        device.with_queue(Q, |queue| queue.enable_notifications());
        queue.kick_prepare().unwrap()
    };
    assert_eq!(support::stop(live, queue).len(), 2);
    // Handles outlive the device's run, and are inert.
    assert!(isr.ack().is_empty());
    let kicks = device.kicks(Q);
    notification.send();
    assert_eq!((device.kicks(Q), device.stale_kicks()), (kicks, 1));
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn an_initialization_may_be_dropped_at_any_step() {
    let platform = InPlace::new();
    let device = device(&platform);
    for step in 0..4 {
        let reset = init::reset(device.transport(), &platform).unwrap();
        if step == 0 {
            continue;
        }
        let mut negotiated = reset.negotiate(&Wish::default()).unwrap();
        if step == 1 {
            continue;
        }
        let pending = negotiated.queue::<Chunks>(Q, &QueueConfig::new(8)).unwrap();
        if step == 2 {
            drop(negotiated);
            drop(pending);
            continue;
        }
        let live = negotiated.finish().unwrap();
        let queue = pending.start(&live).unwrap();
        drop(live);
        assert!(!device.status().is_empty(), "dropping it resets nothing");
        drop(queue);
    }
    assert_eq!(
        platform.counts().regions,
        2,
        "two queues were left to a device"
    );
    // And it starts again.
    let (live, queue) = support::start::<_, Chunks>(&platform, &device, &QueueConfig::new(8));
    assert!(!live.needs_reset());
    device.fail();
    assert!(live.needs_reset());
    assert_eq!(support::stop(live, queue).len(), 0);
    assert_eq!(platform.counts().regions, 2);
    device.assert_clean();
}
