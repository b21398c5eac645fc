//! Features that need the code of a transport, and those that nobody has code for: bug class 62.

use vring::features::{Feature, Features, NegotiateError, Wish};
use vring::init::{self, InitFailure};
use vring::testing::{FakeDevice, FakeTransport, InPlace};
use vring::transport::{
    DeviceId, Doorbell, Isr, QueueAreas, QueueIndex, Status, Transport, TransportError,
};

const EVERYTHING: Features = Features(!0);

/// A transport without code of its own for any feature.
#[derive(Debug)]
struct Plain(FakeTransport);

// SAFETY: it is the one within.
unsafe impl Transport for Plain {
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
        unsafe { self.0.enable_queue(queue, size, areas, vector) }
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

/// Defends: FE-004, FE-005, FE-008, FE-010, FE-013, FE-014, FE-016, FE-018.
#[test]
fn bug_class_62_all_that_is_implemented_is_accepted_and_nothing_else() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(EVERYTHING);
    let device_bits = Features(0xff_ffff | 1 << 42 | !0 << 50);
    for want in [Features::RING, EVERYTHING] {
        let wish = Wish {
            want,
            ..Wish::ring()
        };
        let reset = init::reset(device.transport(), &platform).unwrap();
        let negotiated = reset.negotiate(&wish).unwrap();
        let accepted = negotiated.features();
        assert_eq!(accepted & !device_bits, Features::RING);
        assert_eq!(device.accepted(), accepted);
        assert_eq!(negotiated.refused(), EVERYTHING - accepted);

        let reset = init::reset(Plain(device.transport()), &platform).unwrap();
        let negotiated = reset.negotiate(&wish).unwrap();
        let accepted = negotiated.features();
        assert_eq!(
            accepted & !device_bits,
            Features::RING - Features::TRANSPORT,
            "a transport that says nothing has no code for any"
        );
    }
    for feature in [
        Feature::RING_PACKED,
        Feature::ORDER_PLATFORM,
        Feature::ACCESS_PLATFORM,
        Feature::NOTIF_CONFIG_DATA,
        Feature::NOTIFICATION_DATA,
        Feature::RING_RESET,
        Feature::SUSPEND,
    ] {
        assert!(Features::RING.has(feature), "{feature}");
    }
    for feature in [Feature::SR_IOV, Feature::ADMIN_VQ] {
        assert!(Features::FOREIGN.has(feature), "{feature}");
    }
    device.assert_clean();
}

/// Defends: FE-007.
#[test]
fn what_is_required_and_not_implemented_is_refused_by_name() {
    let platform = InPlace::new();
    for (feature, plain) in [
        (Feature::SR_IOV, false),
        (Feature::ADMIN_VQ, false),
        (Feature::new(44).unwrap(), false),
        (Feature::NOTIFICATION_DATA, true),
        (Feature::RING_RESET, true),
    ] {
        for offered in [EVERYTHING, EVERYTHING.without(feature)] {
            let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(offered);
            let wish = Wish {
                require: feature.into(),
                ..Wish::ring()
            };
            let why = if plain {
                let reset = init::reset(Plain(device.transport()), &platform).unwrap();
                reset.negotiate(&wish).unwrap_err().why
            } else {
                let reset = init::reset(device.transport(), &platform).unwrap();
                reset.negotiate(&wish).unwrap_err().why
            };
            let expected = match offered.has(feature) {
                true => NegotiateError::Unimplemented { feature },
                false => NegotiateError::NotOffered { feature },
            };
            assert_eq!(why, InitFailure::Features(expected));
            assert!(why.to_string().contains(&feature.to_string()), "{why}");
            assert!(device.status().contains(Status::FAILED));
        }
    }
}

#[test]
fn each_feature_can_be_refused_and_is_reported() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(Features::RING);
    for feature in Features::RING.without(Feature::VERSION_1) {
        let wish = Wish {
            refuse: feature.into(),
            ..Wish::ring()
        };
        let reset = init::reset(device.transport(), &platform).unwrap();
        let negotiated = reset.negotiate(&wish).unwrap();
        assert_eq!(negotiated.features(), Features::RING.without(feature));
        assert_eq!(negotiated.refused(), feature.into());
        let live = negotiated.finish().unwrap();
        assert_eq!(live.refused(), feature.into());
        drop(live.reset().unwrap());
    }
    device.assert_clean();
}
