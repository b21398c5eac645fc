//! What a live device lets be done: features that need the transport's help, a queue reset on its
//! own, suspend and resume, doorbells that tell the position.

#[path = "support/queue.rs"]
mod rig;
mod support;

use std::sync::{Arc, Mutex};

use vring::features::{Feature, Features, NegotiateError, Wish};
use vring::init::{self, InitFailure, Live, QueueConfig, QueueError, SuspendFailure, Unsuspended};
use vring::platform::Wait;
use vring::ring::Slot;
use vring::testing::{
    Bouncing, Event, Fake, FakeDevice, FakeTransport, InPlace, Kind, ResetAnswer, SuspendAnswer,
};
use vring::transport::{
    DeviceId, Doorbell, Isr, QueueAreas, QueueIndex, Status, Transport, TransportError,
};
use vring::virtqueue::{Fault, MappingSlot, QueueStorage, Reject, Virtqueue};

use rig::{Chunks, Maker, R, W, every_platform, reply};
use support::{Q, stop};

const Q1: QueueIndex = QueueIndex(1);

/// A driver with two queues.
struct Two<K: Kind> {
    platform: Fake<K>,
    device: FakeDevice,
    live: Live<Fake<K>, FakeTransport>,
    queues: [Virtqueue<Fake<K>, Chunks>; 2],
    maker: Maker,
}

fn two<K: Kind>(platform: &Fake<K>, features: impl Into<Features>, config: &QueueConfig) -> Two<K> {
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(Feature::VERSION_1 | features.into())
        .queues(&[256, 64]);
    on(platform, device, config)
}

fn on<K: Kind>(platform: &Fake<K>, device: FakeDevice, config: &QueueConfig) -> Two<K> {
    let reset = init::reset(device.transport(), platform).unwrap();
    let mut negotiated = reset.negotiate(&Wish::ring()).unwrap();
    let pending = [Q, Q1].map(|queue| negotiated.queue(queue, config).unwrap());
    let live = negotiated.finish().unwrap();
    let queues = pending.map(|pending| pending.start(&live).unwrap());
    Two {
        platform: platform.clone(),
        device,
        live,
        queues,
        maker: Maker::new(),
    }
}

impl<K: Kind> Two<K> {
    fn submit(&mut self, queue: usize, n: usize) {
        for _ in 0..n {
            let buf = self.maker.chunks(&[(R, 3), (W, 5)]);
            self.queues[queue].submit(buf).unwrap();
        }
    }

    /// Serves all, and takes all back.
    fn round(&mut self, queue: usize) -> usize {
        let index = [Q, Q1][queue];
        self.device
            .serve(index, |queue, chain| reply(queue, chain, usize::MAX));
        self.queues[queue]
            .drain(|done| {
                let written = done.written() as usize;
                done.into_buf().check(written);
            })
            .unwrap()
    }

    fn finish(self) {
        let (_, proof) = self.live.reset().unwrap();
        for queue in self.queues {
            drop(queue.close(&proof).unwrap());
        }
        assert_eq!(self.maker.alive(), 0);
        self.device.assert_clean();
        self.platform.assert_no_leaks();
    }
}

const EVERYTHING: Features = Features(!0);

/// The formats, and whether chains come back in order.
const RINGS: [Features; 4] = [
    Features::EMPTY,
    Features::of(&[Feature::RING_PACKED]),
    Features::of(&[Feature::IN_ORDER]),
    Features::of(&[Feature::RING_PACKED, Feature::IN_ORDER]),
];

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

/// Defends: PK-004.
#[test]
fn bug_class_28_each_kick_tells_the_position_behind_what_was_published() {
    for ring in RINGS {
        every_platform!(kicks_tell_the_position, ring);
    }
}

fn kicks_tell_the_position<K: Kind>(platform: &Fake<K>, ring: Features) {
    let data = Features::from(Feature::NOTIFICATION_DATA);
    let config = Features::from(Feature::NOTIF_CONFIG_DATA);
    for (features, id) in [
        (Features::EMPTY, 1),
        (config, 0x77),
        (data, 1),
        (data | config, 0x77),
    ] {
        for start in [0, 65_530] {
            let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
                .offer(ring | features.with(Feature::VERSION_1))
                .queues(&[256, 64])
                .start_index(Q, start)
                .start_index(Q1, start)
                .notify_data(Q1, 0x77);
            let mut two = on(platform, device, &rig::config(16, start));
            assert_eq!(
                two.live.features(),
                ring | features.with(Feature::VERSION_1)
            );
            let mut position = u32::from(start);
            for chains in [1, 3, 7, 2, 5] {
                two.submit(1, chains);
                two.queues[1].kick();
                // Two descriptors each, of 16; the wrap counter is 1 in the first lap.
                let high = if !features.has(Feature::NOTIFICATION_DATA) {
                    0
                } else if ring.has(Feature::RING_PACKED) {
                    position += 2 * chains as u32;
                    (position % 16) | u32::from((position / 16).is_multiple_of(2)) << 15
                } else {
                    position += chains as u32;
                    position & 0xffff
                };
                assert_eq!(two.device.rung(Q1), Some(high << 16 | id));
                assert_eq!(two.round(1), chains);
            }
            assert_eq!(two.device.rung(Q), None);
            two.finish();
        }
    }
}

/// Defends: CF-006, CF-007, LC-008, LC-009.
#[test]
fn a_queue_is_reset_and_set_up_anew_with_another_size() {
    for ring in RINGS {
        every_platform!(restarted, ring);
    }
}

fn restarted<K: Kind>(platform: &Fake<K>, ring: Features) {
    let features = Feature::RING_RESET | Feature::EVENT_IDX | ring;
    let mut two = two(platform, features, &QueueConfig::new(16));
    let packed = ring.has(Feature::RING_PACKED);
    let regions = platform.counts().regions;
    for (size, split) in [(64, 64), (8, 8), (1000, 256), (100, 64), (16, 16)] {
        let got = if packed { size.min(256) } else { split };
        two.submit(0, 3);
        two.submit(1, 1);
        two.queues[0].kick();
        // One more that was never published.
        two.submit(0, 1);
        let alive = two.maker.alive();
        let polls = 5;
        two.device.set_queue_reset(ResetAnswer::After(polls));
        let mut back = Vec::new();
        two.live
            .restart_queue(&mut two.queues[0], &QueueConfig::new(size), |withdrawn| {
                assert!(!withdrawn.header);
                back.push(withdrawn.buf);
            })
            .unwrap();
        let numbers: Vec<u64> = back.iter().map(|buf| buf.number).collect();
        assert_eq!(numbers.len(), 4);
        assert!(
            numbers.is_sorted(),
            "in the order of submission: {numbers:?}"
        );
        drop(back);
        assert_eq!(two.maker.alive(), alive - 4);
        let queue = &two.queues[0];
        assert_eq!(
            (queue.size(), queue.free(), queue.outstanding()),
            (got, got, 0)
        );
        assert_eq!((queue.fault(), platform.counts().regions), (None, regions));
        // It works, and the other one never stopped.
        for _ in 0..3 {
            two.submit(0, 4);
            two.queues[0].kick();
            assert_eq!(two.round(0), 4);
        }
        two.queues[1].kick();
        assert_eq!(two.round(1), 1);
    }
    two.finish();
}

#[test]
fn a_broken_queue_works_again_after_its_reset() {
    let platform = Bouncing::new();
    let mut two = two(&platform, Feature::RING_RESET, &QueueConfig::new(8));
    two.device.violations().set_lenient();
    two.submit(0, 2);
    two.queues[0].kick();
    two.device.with_queue(Q, |queue| queue.forge_used(77, 0));
    let fault = two.queues[0].next_completion().unwrap_err();
    assert_eq!(fault, Fault::UsedIdOutOfRange { id: 77, size: 8 });
    let mut back = 0;
    two.live
        .restart_queue(&mut two.queues[0], &QueueConfig::new(8), |_| back += 1)
        .unwrap();
    assert_eq!(back, 2);
    two.submit(0, 2);
    two.queues[0].kick();
    assert_eq!(two.round(0), 2);
    let (_, proof) = two.live.reset().unwrap();
    for queue in two.queues {
        drop(queue.close(&proof).unwrap());
    }
    assert_eq!(two.maker.alive(), 0);
    platform.assert_no_leaks();
}

/// Defends: CF-006.
#[test]
fn a_queue_reset_that_is_not_confirmed_parks_the_queue() {
    for ring in RINGS {
        every_platform!(queue_reset_not_confirmed, ring);
    }
}

fn queue_reset_not_confirmed<K: Kind>(platform: &Fake<K>, ring: Features) {
    platform.set_patience(20);
    let waited = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&waited);
    platform.on_wait(move |what, polls| log.lock().unwrap().push((what, polls)));
    for way in 0..3 {
        let features = Feature::RING_RESET | ring;
        let mut two = two(platform, features, &QueueConfig::new(8));
        two.device.set_queue_reset(ResetAnswer::Never);
        two.submit(0, 2);
        two.queues[0].kick();
        two.submit(0, 1);
        let (kicks, idx) = (
            two.device.kicks(Q),
            two.device.with_queue(Q, |queue| queue.refresh()),
        );
        for _ in 0..3 {
            waited.lock().unwrap().clear();
            let why = two
                .live
                .restart_queue(&mut two.queues[0], &QueueConfig::new(8), |_| {
                    panic!("a buffer that the device may have")
                })
                .unwrap_err();
            assert_eq!(why, InitFailure::QueueResetNotConfirmed { queue: Q });
            let expected: Vec<_> = (0..=20).map(|n| (Wait::QueueReset, n)).collect();
            assert_eq!(*waited.lock().unwrap(), expected);
        }
        let begun = |event: &&Event| **event == Event::QueueResetBegun(Q);
        let events = two.device.events();
        assert_eq!(
            events.iter().filter(begun).count(),
            1,
            "the device is told once"
        );
        // Nothing goes in, and nothing more is made available or told.
        let queue = &mut two.queues[0];
        assert_eq!(queue.fault(), Some(Fault::ResetUnconfirmed));
        assert_eq!((queue.free(), queue.outstanding()), (0, 3));
        let rejected = queue.submit(two.maker.chain(1)).unwrap_err();
        assert_eq!(rejected.why, Reject::Broken(Fault::ResetUnconfirmed));
        drop(rejected);
        queue.publish();
        queue.kick();
        assert_eq!(
            queue.next_completion().unwrap_err(),
            Fault::ResetUnconfirmed
        );
        assert_eq!(two.device.kicks(Q), kicks);
        assert_eq!(two.device.with_queue(Q, |queue| queue.refresh()), idx);
        let before = platform.counts();
        match way {
            // The device comes to its senses.
            0 => {
                two.device.set_queue_reset(ResetAnswer::After(0));
                let mut back = 0;
                two.live
                    .restart_queue(&mut two.queues[0], &QueueConfig::new(8), |_| back += 1)
                    .unwrap();
                assert_eq!(back, 3);
                two.submit(0, 3);
                two.queues[0].kick();
                assert_eq!(two.round(0), 3);
                two.finish();
            }
            // A reset of the device takes it apart.
            1 => two.finish(),
            // It is left to the device, and counted.
            _ => {
                let [first, second] = two.queues;
                drop(first);
                let counts = platform.counts();
                assert_eq!(counts.leaked_buffers - before.leaked_buffers, 3);
                assert_ne!(counts.leaked_bytes, before.leaked_bytes);
                assert_eq!(counts.regions, before.regions);
                assert_eq!(two.maker.alive(), 3);
                drop(stop(two.live, second));
            }
        }
    }
}

#[test]
fn a_queue_that_is_parked_kicks_for_nothing_that_it_published() {
    for ring in RINGS {
        let platform = InPlace::new();
        platform.set_patience(5);
        let mut two = two(&platform, Feature::RING_RESET | ring, &QueueConfig::new(8));
        two.device.set_queue_reset(ResetAnswer::Never);
        two.submit(0, 2);
        two.queues[0].publish();
        let config = QueueConfig::new(8);
        let restarted = two.live.restart_queue(&mut two.queues[0], &config, |_| ());
        assert!(restarted.is_err());
        two.queues[0].kick();
        assert_eq!(two.device.kicks(Q), 0);
        two.finish();
    }
}

#[test]
fn a_queue_that_cannot_be_reset_is_as_it_was() {
    let platform = InPlace::new();
    let platform_2 = InPlace::new();
    let mut without = two(&platform, Features::EMPTY, &QueueConfig::new(8));
    let mut other = two(&platform_2, Feature::RING_RESET, &QueueConfig::new(8));
    for round in 1..3 {
        without.submit(0, 1);
        let unsupported = without
            .live
            .restart_queue(&mut without.queues[0], &QueueConfig::new(8), |_| panic!())
            .unwrap_err();
        assert!(matches!(
            unsupported,
            InitFailure::Transport(TransportError::Unsupported { .. })
        ));
        let foreign = other
            .live
            .restart_queue(&mut without.queues[0], &QueueConfig::new(8), |_| panic!())
            .unwrap_err();
        let unavailable = QueueError::Unavailable { queue: Q };
        assert_eq!(foreign, InitFailure::Queue(unavailable));
        without.queues[0].kick();
        assert_eq!(without.round(0), 1);
        assert_eq!(without.queues[0].counters().completed, round);
    }
    let queue = without.queues.into_iter().next().unwrap();
    let error = other.live.reset_queue(queue).unwrap_err();
    assert_eq!(
        error.why,
        InitFailure::Queue(QueueError::Unavailable { queue: Q })
    );
    drop(stop(without.live, error.queue));
    other.submit(1, 2);
    other.queues[1].kick();
    assert_eq!(other.round(1), 2);
    other.finish();
}

#[test]
fn bug_class_54_when_a_restart_fails_half_way_nothing_is_lost() {
    for ring in RINGS {
        every_platform!(restart_fails, ring);
    }
}

fn restart_fails<K: Kind>(platform: &Fake<K>, ring: Features) {
    // Memory that runs out, the first, the second and the third time.
    let config = QueueConfig::new(8).cells(4, 4).indirect(4);
    let mut two = two(
        platform,
        Feature::RING_RESET | Feature::INDIRECT_DESC | ring,
        &config,
    );
    for nth in 0..3 {
        two.submit(0, 2);
        two.queues[0].kick();
        platform.fail_nth_alloc(nth);
        let mut back = 0;
        let why = two
            .live
            .restart_queue(&mut two.queues[0], &config, |_| back += 1)
            .unwrap_err();
        assert!(
            matches!(why, InitFailure::Queue(QueueError::Memory(_))),
            "{why}"
        );
        assert_eq!(back, 2, "the device was done with them");
        let queue = &mut two.queues[0];
        assert_eq!(
            (queue.fault(), queue.outstanding()),
            (Some(Fault::Stopped), 0)
        );
        let rejected = queue.submit(two.maker.chain(1)).unwrap_err();
        assert_eq!(rejected.why, Reject::Broken(Fault::Stopped));
        drop(rejected);
        let events = two.device.events().len();
        two.live
            .restart_queue(&mut two.queues[0], &config, |_| panic!("twice"))
            .unwrap();
        let events = &two.device.events()[events..];
        assert_eq!(events, [Event::Enabled(Q, 8)], "it need not be reset again");
        two.submit(0, 2);
        two.queues[0].kick();
        assert_eq!(two.round(0), 2);
    }
    // A vector that the device cannot assign: the new ring was perhaps taken, and is reset.
    let with_vector = config.vector(Some(9));
    let why = two
        .live
        .restart_queue(&mut two.queues[0], &with_vector, |_| ())
        .unwrap_err();
    assert_eq!(
        why,
        InitFailure::Queue(QueueError::Transport(TransportError::NoVectors))
    );
    two.live
        .restart_queue(&mut two.queues[0], &config, |_| ())
        .unwrap();
    two.submit(0, 2);
    two.queues[0].kick();
    assert_eq!(two.round(0), 2);
    two.finish();
}

#[test]
fn what_a_queue_reset_withdraws_is_counted_as_no_completion() {
    for ring in RINGS {
        let platform = InPlace::new();
        let config = QueueConfig::new(8);
        let mut two = two(&platform, Feature::RING_RESET | ring, &config);
        two.submit(0, 3);
        two.queues[0].kick();
        assert_eq!(two.round(0), 3);
        two.submit(0, 2);
        platform.fail_nth_alloc(0);
        let restarted = two.live.restart_queue(&mut two.queues[0], &config, |_| ());
        assert!(restarted.is_err());
        let (queue, counters) = (&two.queues[0], two.queues[0].counters());
        assert_eq!(
            (queue.fault(), queue.outstanding()),
            (Some(Fault::Stopped), 0)
        );
        assert_eq!((counters.submitted, counters.completed), (5, 3));
        two.live
            .restart_queue(&mut two.queues[0], &config, |_| panic!("twice"))
            .unwrap();
        two.finish();
    }
}

fn storage(slots: usize, mappings: usize) -> QueueStorage<Chunks> {
    QueueStorage {
        slots: Vec::leak((0..slots).map(|_| Slot::new()).collect()),
        mappings: Vec::leak((0..mappings).map(|_| MappingSlot::new()).collect()),
    }
}

#[test]
fn a_queue_in_lent_storage_shrinks_and_grows_up_to_it() {
    every_platform!(lent_storage);
}

fn lent_storage<K: Kind>(platform: &Fake<K>) {
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(Feature::VERSION_1 | Feature::RING_RESET);
    let reset = init::reset(device.transport(), platform).unwrap();
    let mut negotiated = reset.negotiate(&Wish::ring()).unwrap();
    let pending = negotiated
        .queue_in(Q, &QueueConfig::new(4), storage(40, 40))
        .unwrap();
    let mut live = negotiated.finish().unwrap();
    let mut queue = pending.start(&live).unwrap();
    let mut maker = Maker::new();
    assert_eq!(queue.size(), 4);
    for (size, got) in [(256, 32), (2, 2), (33, 32), (1, 1), (8, 8)] {
        queue.submit(maker.chain(1)).unwrap();
        queue.kick();
        let mut back = 0;
        live.restart_queue(&mut queue, &QueueConfig::new(size), |_| back += 1)
            .unwrap();
        assert_eq!((queue.size(), back), (got, 1));
        while queue.free() != 0 {
            queue.submit(maker.chain(1)).unwrap();
        }
        queue.kick();
        device.serve(Q, |queue, chain| reply(queue, chain, 9));
        assert_eq!(queue.drain(|_| ()).unwrap(), usize::from(got));
    }
    // By value, too: the storage comes back, and is lent again.
    queue.submit(maker.chain(1)).unwrap();
    let (closed, proof) = live.reset_queue(queue).unwrap();
    assert_eq!(proof.index(), Q);
    let storage = closed.into_storage().unwrap();
    assert_eq!((maker.alive(), storage.slots.len()), (0, 40));
    let error = live
        .queue_in(proof, &QueueConfig::new(0), storage)
        .unwrap_err();
    assert_eq!(error.why, QueueError::ZeroSize { queue: Q });
    let mut queue = live
        .queue(error.proof.unwrap(), &QueueConfig::new(256))
        .unwrap();
    assert_eq!(queue.size(), 256);
    queue.submit(maker.chain(1)).unwrap();
    drop(stop(live, queue));
    assert_eq!(maker.alive(), 0);
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn a_stale_id_in_longer_storage_is_out_of_range() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK);
    device.violations().set_lenient();
    let reset = init::reset(device.transport(), &platform).unwrap();
    let mut negotiated = reset.negotiate(&Wish::ring()).unwrap();
    let pending = negotiated
        .queue_in(Q, &QueueConfig::new(4), storage(40, 40))
        .unwrap();
    let live = negotiated.finish().unwrap();
    let mut queue = pending.start(&live).unwrap();
    queue.submit(Maker::new().chain(1)).unwrap();
    queue.kick();
    device.with_queue(Q, |queue| queue.forge_used(4, 0));
    let fault = queue.next_completion().unwrap_err();
    assert_eq!(fault, Fault::UsedIdOutOfRange { id: 4, size: 4 });
    drop(stop(live, queue));
}

#[test]
fn a_queue_that_was_reset_is_set_up_by_its_proof_only() {
    let platform = InPlace::new();
    let platform_2 = InPlace::new();
    let features = Feature::RING_RESET | Feature::SUSPEND;
    let mut one = two(&platform, features, &QueueConfig::new(8));
    let mut other = two(&platform_2, Feature::RING_RESET, &QueueConfig::new(8));
    let [queue, second] = one.queues;
    let (closed, proof) = one.live.reset_queue(queue).unwrap();
    assert_eq!(closed.count(), 0);
    // The device has one queue now, and can be suspended with that.
    let (live, [second]) = one.live.suspend([second]).unwrap().resume().unwrap();
    one.live = live;
    let error = other
        .live
        .queue::<Chunks>(proof, &QueueConfig::new(8))
        .unwrap_err();
    assert_eq!(error.why, QueueError::Unavailable { queue: Q });
    // A transport that fails: the queue is reset again, and the proof holds again.
    let proof = error.proof.unwrap();
    let with_vector = QueueConfig::new(8).vector(Some(1));
    let regions = platform.counts().regions;
    let error = one.live.queue::<Chunks>(proof, &with_vector).unwrap_err();
    assert!(matches!(error.why, QueueError::Transport(_)), "{error}");
    assert_eq!(platform.counts().regions, regions, "nothing is left behind");
    let queue = one
        .live
        .queue(error.proof.unwrap(), &QueueConfig::new(4))
        .unwrap();
    // And now it has two again.
    (one.live, one.queues) = one.live.suspend([queue, second]).unwrap().resume().unwrap();
    one.submit(0, 2);
    one.queues[0].kick();
    assert_eq!(one.round(0), 2);
    one.finish();
    other.finish();
}

#[test]
fn a_doorbell_from_before_a_queue_reset_is_stale() {
    let platform = InPlace::new();
    let mut two = two(&platform, Feature::RING_RESET, &QueueConfig::new(8));
    two.submit(0, 1);
    let notification = two.queues[0].kick_prepare().unwrap();
    two.live
        .restart_queue(&mut two.queues[0], &QueueConfig::new(8), |_| ())
        .unwrap();
    notification.send();
    assert_eq!((two.device.kicks(Q), two.device.stale_kicks()), (0, 1));
    two.submit(0, 1);
    two.queues[0].kick();
    assert_eq!((two.device.kicks(Q), two.device.stale_kicks()), (1, 1));
    assert_eq!(two.round(0), 1);
    two.finish();
}

#[test]
fn of_a_device_that_was_told_to_reset_nothing_else_can_be_asked() {
    let platform = InPlace::new();
    platform.set_patience(5);
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(Feature::VERSION_1 | Feature::RING_RESET | Feature::SUSPEND)
        .queues(&[8, 8, 8]);
    let reset = init::reset(device.transport(), &platform).unwrap();
    let mut negotiated = reset.negotiate(&Wish::ring()).unwrap();
    let config = QueueConfig::new(8);
    let [first, second, third] = [0, 1, 2]
        .map(QueueIndex)
        .map(|queue| negotiated.queue::<Chunks>(queue, &config).unwrap());
    let mut live = negotiated.finish().unwrap();
    let [mut first, second] = [first, second].map(|pending| pending.start(&live).unwrap());
    let (closed, vacant) = live.reset_queue(second).unwrap();
    drop(closed);
    device.set_reset(ResetAnswer::Never);
    let events = device.events().len();
    let mut live = live.reset().unwrap_err().live;
    assert_eq!(live.check(), Err(InitFailure::NeedsReset));
    let why = live.restart_queue(&mut first, &config, |_| panic!());
    assert_eq!(why, Err(InitFailure::NeedsReset));
    assert!(
        live.queue::<Chunks>(vacant, &config)
            .unwrap_err()
            .proof
            .is_some()
    );
    let third = third.start(&live).unwrap_err();
    let error = live.suspend((first, third)).unwrap_err();
    assert_eq!(error.why, SuspendFailure::NeedsReset);
    assert_eq!(device.events()[events..], [Event::Status(Status::empty())]);
    let Unsuspended::Running(live, (first, third)) = error.state else {
        panic!("it was not told to suspend itself");
    };
    device.set_reset(ResetAnswer::After(0));
    let (_, proof) = live.reset().unwrap();
    drop((first.close(&proof).unwrap(), third.close(&proof).unwrap()));
    device.assert_clean();
    platform.assert_no_leaks();
}

/// Defends: LC-010, LC-011, LC-012, LC-013, LC-014, LC-015.
#[test]
fn a_device_is_suspended_with_all_its_queues_and_goes_on_where_it_was() {
    for ring in RINGS {
        every_platform!(suspended, ring);
    }
}

fn suspended<K: Kind>(platform: &Fake<K>, ring: Features) {
    let features = Feature::SUSPEND | Feature::EVENT_IDX | ring;
    let mut two = two(platform, features, &QueueConfig::new(8));
    let running = two.device.status();
    for polls in [0, 1, 7] {
        two.device.set_suspend(SuspendAnswer::After(polls));
        // With the device: two chains; on their way: one.
        two.submit(0, 2);
        two.queues[0].kick();
        two.submit(0, 1);
        let suspended = two.live.suspend(two.queues).unwrap();
        assert_eq!(
            two.device.status(),
            (running - Status::DRIVER_OK) | Status::SUSPEND
        );
        let (live, queues) = suspended.resume().unwrap();
        assert_eq!(two.device.status(), running);
        two = Two {
            live,
            queues,
            ..two
        };
        let kicks = two.device.kicks(Q);
        two.queues[0].kick();
        assert_eq!(two.device.kicks(Q), kicks + 1);
        assert_eq!(two.round(0), 3);
    }
    let written: Vec<Status> = two
        .device
        .events()
        .into_iter()
        .filter_map(|event| match event {
            Event::Status(status) => Some(status),
            _ => None,
        })
        .collect();
    let both = running | Status::SUSPEND;
    assert_eq!(
        written[written.len() - 6..],
        [both; 6],
        "no bit is ever cleared"
    );
    two.finish();
}

#[test]
fn a_device_that_missed_a_kick_is_told_again_when_it_goes_on() {
    let platform = InPlace::new();
    let with_and_without = |ring| [ring, ring | Feature::EVENT_IDX];
    for features in RINGS.into_iter().flat_map(with_and_without) {
        let features = features | Feature::SUSPEND;
        let mut two = two(&platform, features, &QueueConfig::new(8));
        two.submit(0, 2);
        two.queues[0].kick();
        two.submit(1, 1);
        two.queues[1].kick();
        assert_eq!(two.round(1), 1);
        let (live, queues) = two.live.suspend(two.queues).unwrap().resume().unwrap();
        // Nothing is left in the second queue, nothing to be told.
        assert_eq!((two.device.kicks(Q), two.device.kicks(Q1)), (2, 1));
        two = Two {
            live,
            queues,
            ..two
        };
        assert_eq!(two.round(0), 2);
        two.finish();
    }
}

/// Defends: LC-010, LC-012.
#[test]
fn a_device_with_a_queue_in_use_is_not_suspended() {
    let platform = InPlace::new();
    let [platform_2, platform_3] = [InPlace::new(), InPlace::new()];
    let why = |error: &init::SuspendError<_, _, _>| error.why;
    let mut one = two(&platform, Feature::SUSPEND, &QueueConfig::new(8));
    let other = two(&platform_2, Feature::SUSPEND, &QueueConfig::new(8));
    let without = two(&platform_3, Features::EMPTY, &QueueConfig::new(8));

    let events = one.device.events();
    let [first, second] = one.queues;
    let error = one.live.suspend(first).unwrap_err();
    let missing = SuspendFailure::QueuesMissing {
        given: 1,
        set_up: 2,
    };
    assert_eq!(error.why, missing);
    let Unsuspended::Running(live, first) = error.state else {
        panic!("it was not told anything");
    };
    let [foreign, third] = other.queues;
    let error = live.suspend((first, foreign)).unwrap_err();
    assert_eq!(error.why, SuspendFailure::ForeignQueue);
    let Unsuspended::Running(live, (first, foreign)) = error.state else {
        panic!("it was not told anything");
    };
    // A queue that was dropped is missing for ever.
    let error = live.suspend(vec![first]).unwrap_err();
    assert_eq!(error.why, missing);
    let Unsuspended::Running(live, mut first) = error.state else {
        panic!("it was not told anything");
    };
    one.queues = [first.remove(0), second];
    one.live = live;
    assert_eq!(one.device.events(), events, "no status was written");
    one.submit(0, 1);
    one.queues[0].kick();
    assert_eq!(one.round(0), 1);

    let error = without.live.suspend(without.queues).unwrap_err();
    assert_eq!(why(&error), SuspendFailure::NotNegotiated);
    let Unsuspended::Running(live, queues) = error.state else {
        panic!("it was not told anything");
    };
    Two {
        live,
        queues,
        ..without
    }
    .finish();
    let queues = [foreign, third];
    Two { queues, ..other }.finish();

    one.device.fail();
    assert_eq!(one.live.check(), Err(InitFailure::NeedsReset));
    let error = one.live.suspend(one.queues).unwrap_err();
    assert_eq!(error.why, SuspendFailure::NeedsReset);
    let Unsuspended::Running(live, queues) = error.state else {
        panic!("it was not told anything");
    };
    Two {
        live,
        queues,
        ..one
    }
    .finish();
}

/// Defends: LC-011, LC-015.
#[test]
fn a_device_that_does_not_follow_is_waited_for_and_can_be_reset() {
    let platform = InPlace::new();
    platform.set_patience(10);
    let waited = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&waited);
    platform.on_wait(move |what, _| log.lock().unwrap().push(what));
    for answer in [
        SuspendAnswer::Never,
        SuspendAnswer::After(25),
        SuspendAnswer::Fail,
    ] {
        for resuming in [false, true] {
            let mut two = two(&platform, Feature::SUSPEND, &QueueConfig::new(8));
            two.submit(0, 2);
            two.queues[0].kick();
            let (live, queues) = (two.live, two.queues);
            waited.lock().unwrap().clear();
            let (error, wait) = if resuming {
                let suspended = live.suspend(queues).unwrap();
                two.device.set_suspend(answer);
                (suspended.resume().unwrap_err(), Wait::Resume)
            } else {
                two.device.set_suspend(answer);
                (live.suspend(queues).unwrap_err(), Wait::Suspend)
            };
            let Unsuspended::Undecided(suspended) = error.state else {
                panic!("it was told");
            };
            if answer == SuspendAnswer::Fail {
                assert_eq!(error.why, SuspendFailure::NeedsReset);
            } else {
                let status = two.device.status();
                assert_eq!(error.why, SuspendFailure::NotConfirmed { status });
                assert_eq!(*waited.lock().unwrap(), [wait; 11]);
            }
            let written = |device: &FakeDevice| {
                let events = device.events();
                events
                    .iter()
                    .filter(|event| matches!(event, Event::Status(_)))
                    .count()
            };
            let before = written(&two.device);
            if answer == SuspendAnswer::After(25) {
                // It was slow; one more wait is too short, too.
                let Unsuspended::Undecided(suspended) = suspended.resume().unwrap_err().state
                else {
                    panic!("it was told");
                };
                assert_eq!(written(&two.device), before, "and need not be told again");
                let (live, queues) = match suspended.resume() {
                    Ok(both) => both,
                    Err(error) => {
                        // It stopped at last, and is slow again.
                        assert!(!resuming);
                        two.device.set_suspend(SuspendAnswer::After(0));
                        let Unsuspended::Undecided(suspended) = error.state else {
                            panic!("it was told");
                        };
                        suspended.resume().unwrap()
                    }
                };
                two = Two {
                    live,
                    queues,
                    ..two
                };
                assert_eq!(two.round(0), 2);
                two.finish();
            } else {
                let (_, proof, queues) = suspended.reset().unwrap();
                let buffers = queues.map(|queue| queue.close(&proof).unwrap().count());
                assert_eq!(buffers, [2, 0]);
                two.device.assert_clean();
                platform.assert_no_leaks();
            }
        }
    }
}

#[test]
fn a_suspended_device_that_is_dropped_keeps_its_memory() {
    let platform = InPlace::new();
    platform.set_patience(10);
    for forget in [false, true] {
        let mut two = two(&platform, Feature::SUSPEND, &QueueConfig::new(8));
        two.submit(0, 2);
        let before = platform.counts();
        let suspended = two.live.suspend(two.queues).unwrap();
        if forget {
            std::mem::forget(suspended);
        } else {
            two.device.set_reset(ResetAnswer::Never);
            let (suspended, why) = suspended.reset().unwrap_err();
            assert!(matches!(why, InitFailure::ResetNotConfirmed { .. }));
            let error = suspended.resume().unwrap_err();
            assert_eq!(error.why, SuspendFailure::NeedsReset);
            drop(error);
            let leaked = platform.counts().leaked_buffers - before.leaked_buffers;
            assert_eq!(leaked, 2);
        }
        assert_eq!(platform.counts().regions, before.regions);
        assert_eq!(two.maker.alive(), 2);
        two.device.assert_clean();
    }
}

/// Every value of an initialization, and of what comes after it, dropped or forgotten.
#[test]
fn bug_class_54_nothing_that_is_dropped_or_forgotten_frees_what_a_device_has() {
    every_platform!(dropped_anywhere);
}

fn dropped_anywhere<K: Kind>(platform: &Fake<K>) {
    const STEPS: usize = 8;
    for step in 0..STEPS {
        for forget in [false, true] {
            let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
                .offer(Feature::VERSION_1 | Feature::RING_RESET | Feature::SUSPEND)
                .queues(&[8, 8]);
            let before = platform.counts();
            let maker = &mut Maker::new();
            let left = run_until(step, forget, platform, &device, maker);
            let after = platform.counts();
            assert_eq!(after.regions - before.regions, left, "step {step}");
            // What the device was given is still there: it serves, and nothing traps.
            for queue in [Q, Q1] {
                device.serve(queue, |queue, chain| reply(queue, chain, usize::MAX));
            }
            if !forget {
                let leaked = after.leaked_bytes - before.leaked_bytes;
                assert_eq!(leaked != 0, left != 0, "step {step}: said");
            }
            // And it starts again, from whatever state it was left in.
            let (live, queue) =
                support::start::<_, Chunks>(platform, &device, &QueueConfig::new(4));
            drop(stop(live, queue));
            assert_eq!(platform.counts().regions, after.regions);
            device.assert_clean();
        }
    }
}

fn leave<T>(value: T, forget: bool) {
    if forget {
        std::mem::forget(value);
    } else {
        drop(value);
    }
}

/// Goes through an initialization as far as `step`, and drops or forgets everything. How many rings
/// are the device's then.
fn run_until<K: Kind>(
    step: usize,
    forget: bool,
    platform: &Fake<K>,
    device: &FakeDevice,
    maker: &mut Maker,
) -> usize {
    let reset = init::reset(device.transport(), platform).unwrap();
    if step == 0 {
        leave(reset, forget);
        return 0;
    }
    let mut negotiated = reset.negotiate(&Wish::ring()).unwrap();
    if step == 1 {
        leave(negotiated, forget);
        return 0;
    }
    let config = QueueConfig::new(8);
    let first = negotiated.queue::<Chunks>(Q, &config).unwrap();
    if step == 2 {
        leave(negotiated, forget);
        leave(first, forget);
        return 1;
    }
    let second = negotiated.queue::<Chunks>(Q1, &config).unwrap();
    if step == 3 {
        // In the other order.
        leave(second, forget);
        leave(first, forget);
        leave(negotiated, forget);
        return 2;
    }
    let mut live = negotiated.finish().unwrap();
    if step == 4 {
        leave((live, first, second), forget);
        return 2;
    }
    let mut first = first.start(&live).unwrap();
    first.submit(maker.chain(2)).unwrap();
    first.kick();
    if step == 5 {
        leave((first, live, second), forget);
        return 2;
    }
    let mut second = second.start(&live).unwrap();
    second.submit(maker.chain(2)).unwrap();
    second.kick();
    if step == 6 {
        // One queue was reset on its own: it is free, and the other one is not.
        let (closed, proof) = live.reset_queue(first).unwrap();
        drop(closed);
        leave((live, proof, second), forget);
        return 1;
    }
    leave(live.suspend((first, second)).unwrap(), forget);
    2
}

/// Defends: LC-007.
#[test]
fn bug_class_34_an_interrupt_before_driver_ok_or_during_teardown_finds_nothing() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(Feature::VERSION_1 | Feature::RING_RESET)
        .queues(&[8, 8]);
    let reset = init::reset(device.transport(), &platform).unwrap();
    let mut negotiated = reset.negotiate(&Wish::ring()).unwrap();
    let isr = negotiated.transport_mut().take_isr().unwrap();
    let pending = negotiated.queue(Q, &QueueConfig::new(8)).unwrap();
    device.interrupt();
    assert!(isr.ack().is_empty());
    assert_eq!(device.kicks(Q), 0);
    let mut live = negotiated.finish().unwrap();
    let mut queue = pending.start(&live).unwrap();
    let mut maker = Maker::new();
    // The handler runs while a queue is being reset, and while the device is.
    let acked = Arc::new(Mutex::new(Vec::new()));
    let (log, line) = (Arc::clone(&acked), device.clone());
    platform.on_wait(move |what, _| {
        line.interrupt();
        log.lock().unwrap().push((what, isr.ack().bits()));
    });
    device.set_queue_reset(ResetAnswer::After(1));
    device.set_reset(ResetAnswer::After(1));
    queue.submit(maker.chain(2)).unwrap();
    queue.kick();
    live.restart_queue(&mut queue, &QueueConfig::new(8), |_| ())
        .unwrap();
    queue.submit(maker.chain(2)).unwrap();
    queue.kick();
    assert!(queue.next_completion().unwrap().is_none());
    assert_eq!(stop(live, queue).len(), 1);
    let acked = acked.lock().unwrap();
    assert_eq!(acked.first(), Some(&(Wait::QueueReset, 1)));
    assert_eq!(acked.last().map(|(what, _)| *what), Some(Wait::Reset));
    device.assert_clean();
}

#[test]
fn a_delayed_interrupt_comes_when_three_quarters_are_back() {
    for ring in RINGS {
        delayed(ring);
    }
}

fn delayed(ring: Features) {
    let platform = InPlace::new();
    for start in [0, 65_531] {
        for unpublished in [0_usize, 4] {
            // Two descriptors each, of 32: all of them, where nothing else is there.
            let most = 16 - unpublished;
            for with_device in [1, 2, 3, 4, 5, 7, 8, most] {
                let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
                    .offer(Feature::VERSION_1 | Feature::EVENT_IDX | ring)
                    .queues(&[256, 64])
                    .start_index(Q, start)
                    .start_index(Q1, start);
                let mut two = on(&platform, device, &rig::config(32, start));
                two.submit(0, with_device);
                two.queues[0].kick();
                two.submit(0, unpublished);
                assert!(!two.queues[0].arm_delayed());
                let due = with_device * 3 / 4 + 1;
                for done in 1..=with_device {
                    let interrupt = two.device.with_queue(Q, |queue| {
                        let chain = queue.pop().unwrap();
                        queue.complete(chain, 0)
                    });
                    assert_eq!(interrupt, Some(done == due), "{done} of {with_device}");
                }
                // As many are there: no interrupt would come.
                assert!(two.queues[0].arm_delayed());
                assert_eq!(two.queues[0].drain(|_| ()).unwrap(), with_device);
                assert!(!two.queues[0].arm_delayed());
                two.queues[0].kick();
                assert_eq!(two.round(0), unpublished);
                two.finish();
            }
        }
    }
}
