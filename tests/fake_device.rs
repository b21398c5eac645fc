//! The fake device serves a driver that keeps the rules, and catches one that does not.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vring::buffer::{Readable, Writable};
use vring::features::{Feature, Features, Requirement, Wish};
use vring::init::{self, InitFailure, QueueConfig};
use vring::platform::{DmaAddr, Platform, Wait};
use vring::testing::{
    Bouncing, Bus, BusFault, Discontiguous, Event, FakeDevice, FakeTransport, Generation, InPlace,
    ResetAnswer,
};
use vring::transport::{DeviceId, QueueAreas, QueueIndex, Status, Transport, TransportError};

use support::{FEATURES, Q, start, stop};

const RING: Features = FEATURES[0];

/// Requests that are echoed; the index wraps meanwhile.
const ROUNDS: u8 = if cfg!(miri) { 10 } else { 40 };

type Request = (Readable<Vec<u8>>, Writable<Vec<u8>>);

fn request(i: u8, len: usize) -> Request {
    (Readable(vec![i; len]), Writable(vec![0; len]))
}

fn echoes<P: Platform + std::fmt::Debug>(platform: &P, bus: &Bus, features: Features) {
    let device = FakeDevice::new(bus, DeviceId::NETWORK)
        .offer(features)
        .start_index(Q, 65_530);
    let mut config = QueueConfig::new(8);
    config.start_index = 65_530;
    let (live, mut queue) = start::<_, Request>(platform, &device, &config);
    device.on_kick(|device, queue| {
        device.echo(queue);
    });
    let mut came = 0;
    for round in 0..ROUNDS {
        let len = 1 + usize::from(round % 7);
        if queue.submit(request(round, len)).is_ok() {
            queue.kick();
        }
        while let Some(done) = queue.next_completion().unwrap() {
            assert_eq!(done.written() as usize, done.buf().0.0.len());
            let (Readable(sent), Writable(got)) = done.into_buf();
            assert_eq!(sent, got);
            came += 1;
        }
    }
    assert_eq!(came, ROUNDS);
    assert_eq!(device.kicks(Q), ROUNDS.into());
    queue.submit(request(1, 1)).unwrap();
    assert_eq!(
        stop(live, queue).len(),
        1,
        "the last one was never published"
    );
    device.assert_clean();
}

#[test]
fn a_virtqueue_echoes_on_every_platform() {
    let plain = Features::EMPTY;
    let packed = Feature::RING_PACKED.into();
    let in_order = Feature::IN_ORDER.into();
    let more = [plain, packed, in_order, packed | in_order];
    let rings = FEATURES.into_iter().flat_map(|f| more.map(|more| f | more));
    for (i, features) in rings.enumerate() {
        // Where Miri does it, each has one platform.
        let turn = |platform| !cfg!(miri) || i % 3 == platform;
        if turn(0) {
            let platform = InPlace::new();
            echoes(&platform, platform.bus(), features);
            platform.assert_no_leaks();
        }
        if turn(1) {
            let platform = Bouncing::new();
            echoes(&platform, platform.bus(), features);
            platform.assert_no_leaks();
        }
        if turn(2) {
            let platform = Discontiguous::new(4);
            echoes(&platform, platform.bus(), features);
            platform.assert_no_leaks();
        }
    }
}

#[test]
fn a_device_in_a_thread_serves_and_stops_at_the_reset() {
    let platform = Bouncing::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(RING);
    let (live, mut queue) = start::<_, Request>(&platform, &device, &QueueConfig::new(4));
    let mut remote = device.take_queue(Q).unwrap();
    let thread = std::thread::spawn(move || {
        while !remote.is_halted() {
            remote.echo();
            std::thread::yield_now();
        }
        remote.outstanding()
    });
    let (mut sent, mut came) = (0, 0);
    while came < ROUNDS {
        if sent < ROUNDS && queue.submit(request(sent, 3)).is_ok() {
            sent += 1;
        }
        queue.kick();
        while let Some(done) = queue.next_completion().unwrap() {
            assert_eq!(done.buf().0.0, done.buf().1.0);
            came += 1;
        }
        std::thread::yield_now();
    }
    platform.set_patience(u32::MAX);
    platform.on_wait(|_, _| std::thread::yield_now());
    assert_eq!(stop(live, queue).len(), 0);
    assert_eq!(thread.join().unwrap(), 0);
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn a_reset_takes_its_time_and_the_queues_live_until_then() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(RING);
    let (live, mut queue) = start::<_, Request>(&platform, &device, &QueueConfig::new(4));
    queue.submit(request(1, 4)).unwrap();
    queue.kick();
    device.set_reset(ResetAnswer::After(3));
    let polls = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (seen, remote) = (Arc::clone(&polls), device.clone());
    platform.on_wait(move |what, n| {
        assert_eq!(what, Wait::Reset);
        let served = remote.echo(Q);
        seen.lock().unwrap().push((n, served));
    });
    assert_eq!(stop(live, queue).len(), 1);
    assert_eq!(*polls.lock().unwrap(), [(0, 1), (1, 0), (2, 0)]);
    assert_eq!(device.with_queue(Q, |_| ()), None);
    platform.assert_no_leaks();
}

#[test]
fn a_reset_that_is_never_confirmed_keeps_the_queues() {
    let platform = Bouncing::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(RING);
    let (live, mut queue) = start::<_, Request>(&platform, &device, &QueueConfig::new(4));
    queue.submit(request(1, 4)).unwrap();
    queue.kick();
    device.set_reset(ResetAnswer::Never);
    let leaked = live.reset().unwrap_err();
    assert!(matches!(leaked.why, InitFailure::ResetNotConfirmed { .. }));
    assert_eq!(device.echo(Q), 1, "it still runs");
    device.set_reset(ResetAnswer::After(0));
    let (_, proof) = leaked.live.reset().unwrap();
    drop(queue.close(&proof).unwrap());
    platform.assert_no_leaks();

    device.set_reset(ResetAnswer::Never);
    let error = init::reset(device.transport(), &platform).unwrap_err();
    assert!(matches!(error.why, InitFailure::ResetNotConfirmed { .. }));
    device.assert_clean();
}

#[test]
fn the_sequence_is_recorded_and_a_refusal_is_obeyed() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::BLOCK)
        .offer(RING)
        .queues(&[0, 48]);
    let wish = Wish {
        want: RING,
        ..Wish::default()
    };
    let reset = init::reset(device.transport(), &platform).unwrap();
    let mut negotiated = reset.negotiate(&wish).unwrap();
    assert!(
        negotiated
            .queue::<Request>(Q, &QueueConfig::new(8))
            .is_err(),
        "its size is 0"
    );
    let second = negotiated
        .queue::<Request>(QueueIndex(1), &QueueConfig::new(100))
        .unwrap();
    let live = negotiated.finish().unwrap();
    let mut queue = second.start(&live).unwrap();
    assert_eq!(queue.size(), 32, "48 is no power of two");
    queue.submit(request(1, 4)).unwrap();
    queue.kick();
    stop(live, queue);
    let (ack, driver) = (Status::ACKNOWLEDGE, Status::ACKNOWLEDGE | Status::DRIVER);
    let agreed = driver | Status::FEATURES_OK;
    let expected = [
        Event::Status(Status::empty()),
        Event::Reset,
        Event::Status(ack),
        Event::Status(driver),
        Event::Features(RING),
        Event::Status(agreed),
        Event::Enabled(QueueIndex(1), 32),
        Event::Status(agreed | Status::DRIVER_OK),
        Event::Status(Status::empty()),
        Event::Reset,
    ];
    assert_eq!(device.events(), expected);

    device.refuse_features();
    let reset = init::reset(device.transport(), &platform).unwrap();
    let error = reset.negotiate(&wish).unwrap_err();
    assert!(matches!(error.why, InitFailure::FeaturesRefused { .. }));
    assert_eq!(device.status(), driver | Status::FAILED);
    device.assert_clean();
    platform.assert_no_leaks();
}

/// A driver that does as each test says, on a device that collects violations.
struct Rogue {
    platform: Bouncing,
    device: FakeDevice,
    transport: FakeTransport,
}

impl Rogue {
    fn new() -> Self {
        let platform = Bouncing::new();
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(RING);
        device.violations().set_lenient();
        let transport = device.transport();
        Self {
            platform,
            device,
            transport,
        }
    }

    /// Writes these status values, reading back after each if it is told to.
    fn status(&mut self, values: &[u8]) -> &mut Self {
        for &value in values {
            self.transport.set_status(Status::from_bits_retain(value));
            if value == 0 || value == 11 {
                let _ = self.transport.status();
            }
        }
        self
    }

    fn features(&mut self, features: Features) -> &mut Self {
        self.transport.set_driver_features(features);
        self
    }

    fn enable(&mut self, size: u16) -> Result<vring::transport::Doorbell, TransportError> {
        let layout = std::alloc::Layout::from_size_align(8192, 16).unwrap();
        let region = self.platform.alloc(layout).unwrap();
        let at = |offset| DmaAddr(region.addr.0 + offset);
        let areas = QueueAreas {
            desc: at(0),
            driver: at(4096),
            device: at(6144),
        };
        // SAFETY: the region is never freed.
        unsafe { self.transport.enable_queue(Q, size, &areas, None) }
    }

    fn found(&self) -> Vec<&'static str> {
        self.device
            .violations()
            .take()
            .iter()
            .map(|violation| violation.id)
            .collect()
    }
}

#[test]
fn status_steps_come_in_order_and_one_at_a_time() {
    let run = |values: &[u8]| {
        let mut rogue = Rogue::new();
        rogue.status(values).found()
    };
    assert!(run(&[0, 1, 3]).is_empty());
    assert_eq!(run(&[1]), ["LC-002a"]);
    assert_eq!(run(&[0, 3]), ["ST-001"]);
    assert_eq!(run(&[0, 2]), ["LC-002b"]);
    assert_eq!(run(&[0, 1, 9]), ["LC-002c", "LC-002d", "FE-009"]);
    assert_eq!(run(&[0, 1, 3, 11]), ["LC-002d", "FE-009"]);
    assert_eq!(run(&[0, 1, 3, 7]), ["LC-002e", "LC-002f"]);
    assert_eq!(run(&[0, 1, 2]), ["ST-002", "LC-002b"]);
    assert_eq!(run(&[0, 1, 129, 131]), ["ST-003"]);
    assert_eq!(run(&[0, 1, 17]), ["LC-010"]);
    assert!(
        run(&[0, 1, 129, 0, 1]).is_empty(),
        "a reset mends everything"
    );
}

#[test]
fn a_reset_is_awaited() {
    let mut rogue = Rogue::new();
    rogue.transport.set_status(Status::empty());
    rogue.transport.set_status(Status::ACKNOWLEDGE);
    assert!(rogue.found().contains(&"LC-001"));
}

#[test]
fn features_are_offered_agreed_and_read_back() {
    let event = Feature::EVENT_IDX;
    assert_eq!(
        Rogue::new().status(&[0, 1]).features(RING).found(),
        ["LC-002c"]
    );
    let mut rogue = Rogue::new();
    assert!(
        rogue
            .status(&[0, 1, 3])
            .features(RING)
            .status(&[11, 15])
            .found()
            .is_empty()
    );
    assert_eq!(rogue.features(RING).found(), ["LC-004"]);

    let foreign = RING | Feature::RING_PACKED;
    assert_eq!(
        Rogue::new().status(&[0, 1, 3]).features(foreign).found(),
        ["FE-001"]
    );
    let mut rogue = Rogue::new();
    assert_eq!(
        rogue
            .status(&[0, 1, 3])
            .features(event.into())
            .status(&[11])
            .found(),
        ["FE-009"]
    );

    let mut rogue = Rogue::new();
    rogue.device = rogue
        .device
        .clone()
        .require(&[Requirement::all(event, &[Feature::IN_ORDER])]);
    assert_eq!(
        rogue
            .status(&[0, 1, 3])
            .features(RING)
            .status(&[11])
            .found(),
        ["FE-002"]
    );

    let mut rogue = Rogue::new();
    rogue.status(&[0, 1, 3]).features(RING);
    rogue.transport.set_status(Status::from_bits_retain(11));
    rogue.transport.set_status(Status::from_bits_retain(15));
    assert_eq!(rogue.found(), ["LC-002f"], "FEATURES_OK was not read back");

    let mut rogue = Rogue::new();
    rogue.device.refuse_features();
    rogue.status(&[0, 1, 3]).features(RING).status(&[11, 15]);
    assert_eq!(rogue.found(), ["ST-001", "LC-002f"], "the device refused");
}

#[test]
fn queues_are_set_up_between_features_and_driver_ok() {
    let mut rogue = Rogue::new();
    rogue.status(&[0, 1, 3]).features(RING);
    let _ = rogue.enable(8);
    assert_eq!(rogue.found(), ["LC-002f"], "bug class 61");

    let mut rogue = Rogue::new();
    rogue.status(&[0, 1, 3]).features(RING).status(&[11]);
    assert!(matches!(
        rogue.enable(24),
        Err(TransportError::QueueSize { max: 256, .. })
    ));
    assert!(matches!(
        rogue.enable(512),
        Err(TransportError::QueueSize { .. })
    ));
    assert_eq!(rogue.found(), ["bug-8", "bug-8"]);
    let doorbell = rogue.enable(8).unwrap();
    assert!(rogue.found().is_empty());
    assert!(matches!(
        rogue.enable(8),
        Err(TransportError::QueueInUse { .. })
    ));
    assert_eq!(rogue.found(), ["bug-66"]);
    doorbell.ring(0);
    assert_eq!(rogue.found(), ["LC-007"], "bug class 33");
    rogue.status(&[15]);
    doorbell.ring(0);
    assert!(rogue.found().is_empty());
    assert_eq!(rogue.device.kicks(Q), 2);
    let _ = rogue.enable(8);
    assert_eq!(rogue.found(), ["LC-002g", "bug-66"]);

    rogue.status(&[0]);
    doorbell.ring(0);
    assert!(rogue.found().is_empty());
    assert_eq!((rogue.device.kicks(Q), rogue.device.stale_kicks()), (2, 1));
}

#[test]
fn a_strict_device_panics_where_the_driver_errs() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK);
    let mut transport = device.transport();
    let broke = catch_unwind(AssertUnwindSafe(|| transport.set_status(Status::DRIVER)));
    assert!(broke.is_err());
    assert!(catch_unwind(AssertUnwindSafe(|| device.assert_clean())).is_err());
}

#[test]
fn configuration_tears_moves_and_never_settles() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::BLOCK).config(&[1; 12]);
    let mut transport = device.transport();
    let before = transport.config_generation();
    let mut field = [0; 8];
    device.change_config_under_read(&[2; 12]);
    transport.read_config(4, &mut field).unwrap();
    assert_eq!(field, [1, 1, 1, 1, 2, 2, 2, 2]);
    assert_ne!(transport.config_generation(), before);
    transport.read_config(4, &mut field).unwrap();
    assert_eq!(field, [2; 8]);
    let outside = TransportError::ConfigOutOfRange {
        offset: 5,
        len: 8,
        size: 12,
    };
    assert_eq!(transport.read_config(5, &mut field), Err(outside));

    device.violations().set_lenient();
    transport.write_config(0, &[7]).unwrap();
    assert_eq!(device.violations().take()[0].id, "LC-003");
    assert_eq!(device.config_bytes()[0], 7);

    let device = device.generation(Generation::NeverSettles);
    assert_ne!(transport.config_generation(), transport.config_generation());
    let _device = device.generation(Generation::Absent);
    assert_eq!(transport.config_generation(), None);
}

#[test]
fn vectors_are_given_refused_and_absent() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::BLOCK);
    let mut transport = device.transport();
    assert_eq!(
        transport.set_config_vector(Some(0)),
        Err(TransportError::NoVectors)
    );
    let device = device.vectors(Some(2));
    assert_eq!(transport.set_config_vector(Some(1)), Ok(()));
    assert_eq!(device.config_vector(), Some(1));
    let refused = TransportError::VectorRefused {
        vector: 2,
        got: 0xffff,
    };
    assert_eq!(transport.set_config_vector(Some(2)), Err(refused));
    device.refuse_vectors();
    assert!(transport.set_config_vector(Some(1)).is_err());
    assert_eq!(transport.set_config_vector(None), Ok(()));
}

#[test]
fn interrupts_reach_the_isr_and_are_acknowledged_once() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(RING);
    let (mut live, mut queue) = start::<_, Request>(&platform, &device, &QueueConfig::new(4));
    let isr = live.transport_mut().take_isr().unwrap();
    assert!(live.transport_mut().take_isr().is_none());
    queue.submit(request(1, 4)).unwrap();
    queue.kick();
    device.echo(Q);
    assert!(isr.ack().is_empty(), "a new queue is disarmed");
    assert!(queue.drain(|_| ()).unwrap() == 1 && !queue.arm());
    queue.submit(request(1, 4)).unwrap();
    queue.kick();
    device.echo(Q);
    assert_eq!(
        (isr.ack().bits(), isr.ack().bits(), device.interrupts()),
        (1, 0, 1)
    );
    device.fail();
    assert!(live.needs_reset());
    assert_eq!(isr.ack().bits(), 2);
    stop(live, queue);
    device.fail();
    assert!(isr.ack().is_empty(), "no interrupt before DRIVER_OK");
}

#[test]
fn handles_of_a_device_that_is_gone_find_nobody() {
    let platform = Bouncing::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(RING);
    let (live, mut queue) = start::<_, Request>(&platform, &device, &QueueConfig::new(4));
    let rung = Arc::new(AtomicBool::new(false));
    let tell = Arc::clone(&rung);
    device.on_kick(move |_, _| tell.store(true, Ordering::Relaxed));
    queue.submit(request(1, 4)).unwrap();
    let notification = queue.kick_prepare().unwrap();
    stop(live, queue);
    drop(device);
    notification.send();
    assert!(!rung.load(Ordering::Relaxed));
}

/// On an in-place platform nothing but the device's return ends its claim on a buffer.
#[test]
fn a_loan_in_place_ends_with_the_return_or_the_first_lie() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(RING);
    let (live, mut queue) = start::<_, Request>(&platform, &device, &QueueConfig::new(8));
    let mut remote = device.take_queue(Q).unwrap();
    for _ in 0..3 {
        queue.submit(request(5, 4)).unwrap();
    }
    queue.kick();
    let first = remote.pop().unwrap();
    let addr = first.segments()[0].addr;
    assert_eq!(
        platform.bus().try_read(addr, &mut [0]),
        Err(BusFault::Direct { addr })
    );
    assert_eq!(remote.try_read(&first).unwrap(), [5; 4]);
    remote.complete(first.clone(), 0);
    assert_eq!(
        remote.try_read(&first),
        Err(BusFault::Freed { addr, len: 4 })
    );

    let second = remote.pop().unwrap();
    let addr = second.segments()[0].addr;
    remote.forge_used(77, 0);
    assert_eq!(remote.try_read(&second), Err(BusFault::Direct { addr }));
    device.set_reset(ResetAnswer::After(0));
    platform.set_patience(3);
    let leaked = live.reset().unwrap_err();
    assert!(remote.is_halted(), "it is told, and the reset goes on");
    assert_eq!(remote.try_read(&second), Err(BusFault::Halted { addr }));
    let (_, proof) = leaked.live.reset().unwrap();
    assert_eq!(queue.close(&proof).unwrap().count(), 3);
    platform.assert_no_leaks();
}
