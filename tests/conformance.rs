//! Statements of the specification that no class of bugs stands for: the sequence of
//! initialization step by step, what suppresses a kick, what a device that fails is owed.

#[path = "support/net.rs"]
mod net_rig;
#[path = "support/queue.rs"]
mod rig;
mod support;

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use vring::device::net::{Driver, RECEIVE_QUEUE, SUPPORTED, TRANSMIT_QUEUE};
use vring::features::{Feature, Features, Wish, negotiate};
use vring::init::{self, QueueConfig};
use vring::platform::Access;
use vring::testing::{Bouncing, Fake, FakeDevice, FakeTransport, InPlace, Kind, ResetAnswer};
use vring::transport::{
    DeviceId, Doorbell, Isr, QueueAreas, QueueIndex, Status, Transport, TransportError,
};
use vring::virtqueue::Virtqueue;

use rig::{Chunks, Maker, R, Rig, W, config, every_platform, reply};
use support::{FEATURES, Q};

/// What a driver asks of a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    ReadStatus(Status),
    WriteStatus(Status),
    ReadFeatures,
    WriteFeatures(Features),
    Enable(QueueIndex),
    ReadConfig,
    WriteConfig,
}

/// A transport that keeps a log.
#[derive(Debug)]
struct Recorder(FakeTransport, Arc<Mutex<Vec<Op>>>);

impl Recorder {
    fn new(device: &FakeDevice) -> (Self, Arc<Mutex<Vec<Op>>>) {
        let log = Arc::default();
        (Self(device.transport(), Arc::clone(&log)), log)
    }

    fn note(&self, op: Op) {
        self.1.lock().unwrap().push(op);
    }
}

// SAFETY: it is the one within.
unsafe impl Transport for Recorder {
    fn device_id(&self) -> DeviceId {
        self.0.device_id()
    }
    fn num_queues(&self) -> Option<u16> {
        self.0.num_queues()
    }
    fn status(&self) -> Status {
        let status = self.0.status();
        self.note(Op::ReadStatus(status));
        status
    }
    fn set_status(&mut self, status: Status) {
        self.note(Op::WriteStatus(status));
        self.0.set_status(status);
    }
    fn device_features(&mut self) -> Features {
        self.note(Op::ReadFeatures);
        self.0.device_features()
    }
    fn set_driver_features(&mut self, features: Features) {
        self.note(Op::WriteFeatures(features));
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
        self.note(Op::Enable(queue));
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
        self.note(Op::ReadConfig);
        self.0.read_config(offset, dst)
    }
    fn write_config(&mut self, offset: usize, src: &[u8]) -> Result<(), TransportError> {
        self.note(Op::WriteConfig);
        self.0.write_config(offset, src)
    }
    fn take_isr(&mut self) -> Option<Isr> {
        self.0.take_isr()
    }
}

const DRIVER: Status = Status::ACKNOWLEDGE.union(Status::DRIVER);
const AGREED: Status = DRIVER.union(Status::FEATURES_OK);
const RUNNING: Status = AGREED.union(Status::DRIVER_OK);

/// Defends: ST-001, ST-002.
/// Defends: LC-001, LC-002, LC-002a, LC-002b, LC-002c, LC-002d, LC-002e, LC-002f, LC-002g, LC-002h.
/// Defends: LC-004.
#[test]
fn the_steps_of_initialization_are_taken_one_by_one_and_in_their_order() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(FEATURES[0])
        .queues(&[8, 8]);
    let (transport, log) = Recorder::new(&device);
    device.set_reset(ResetAnswer::After(1));
    let reset = init::reset(transport, &platform).unwrap();
    let wish = Wish {
        want: FEATURES[0],
        ..Wish::default()
    };
    let mut negotiated = reset.negotiate(&wish).unwrap();
    let queues = [0, 1].map(|i| {
        negotiated
            .queue::<Chunks>(QueueIndex(i), &QueueConfig::new(8))
            .unwrap()
    });
    let live = negotiated.finish().unwrap();
    let queues = queues.map(|queue| queue.start(&live).unwrap());
    let expected = [
        Op::WriteStatus(Status::empty()),
        Op::ReadStatus(DRIVER), // the fake's, of firmware
        Op::ReadStatus(Status::empty()),
        Op::WriteStatus(Status::ACKNOWLEDGE),
        Op::WriteStatus(DRIVER),
        Op::ReadFeatures,
        Op::WriteFeatures(FEATURES[0]),
        Op::WriteStatus(AGREED),
        Op::ReadStatus(AGREED),
        Op::Enable(QueueIndex(0)),
        Op::Enable(QueueIndex(1)),
        Op::WriteStatus(RUNNING),
        Op::ReadStatus(RUNNING), // whether it failed at once
    ];
    assert_eq!(*log.lock().unwrap(), expected);
    let (_, proof) = live.reset().unwrap();
    for queue in queues {
        assert_eq!(queue.close(&proof).unwrap().count(), 0);
    }
    device.assert_clean();
    platform.assert_no_leaks();
}

/// Defends: ST-001, LC-002, LC-002g, LC-003, LC-004, LC-007.
#[test]
fn a_network_driver_reads_configuration_between_features_and_queues_and_writes_none() {
    let platform = InPlace::new();
    let device = net_rig::device(&platform, net_rig::OFFERED, 1500);
    let (transport, log) = Recorder::new(&device);
    let mut driver =
        Driver::<_, _, net_rig::Buffer>::new(platform.clone(), transport, net_rig::options(8, 8))
            .unwrap();
    let mut ops = log.lock().unwrap().clone();
    assert!(!ops.contains(&Op::WriteConfig));
    assert!(ops.contains(&Op::ReadConfig));
    // Every read of configuration stands in one place.
    ops.dedup();
    let expected = [
        Op::WriteStatus(Status::empty()),
        Op::ReadStatus(Status::empty()),
        Op::WriteStatus(Status::ACKNOWLEDGE),
        Op::WriteStatus(DRIVER),
        Op::ReadFeatures,
        Op::WriteFeatures(net_rig::OFFERED),
        Op::WriteStatus(AGREED),
        Op::ReadStatus(AGREED),
        Op::ReadConfig,
        Op::Enable(RECEIVE_QUEUE),
        Op::Enable(TRANSMIT_QUEUE),
        Op::WriteStatus(RUNNING),
        Op::ReadStatus(RUNNING),
    ];
    assert_eq!(ops, expected);
    // The first kick is the first that can be: the strict device has the driver running.
    assert_eq!(device.kicks(RECEIVE_QUEUE), 0);
    let buffer = net_rig::buffer(driver.rx().buffer_len());
    driver.rx().give(buffer).unwrap();
    driver.rx().kick();
    assert_eq!(device.kicks(RECEIVE_QUEUE), 1);
    drop(driver);
    device.assert_clean();
    platform.assert_no_leaks();
}

/// Defends: ST-004, LC-009.
#[test]
fn what_a_failed_device_has_comes_back_from_the_reset_and_not_before() {
    every_platform!(failed_device);
}

fn failed_device<K: Kind>(platform: &Fake<K>) {
    let mut rig = Rig::new(platform, FEATURES[0], &config(8, 65_534));
    for _ in 0..4 {
        let buf = rig.maker.chain(2);
        rig.queue.submit(buf).unwrap();
    }
    rig.queue.kick();
    assert!(!rig.live.needs_reset());
    // It returns one, and fails over the next.
    rig.device.with_queue(Q, |queue| {
        let chain = queue.pop().unwrap();
        let len = reply(queue, &chain, 9);
        queue.complete(chain, len);
    });
    rig.device.fail();
    assert!(rig.live.needs_reset());
    // One came back and nothing else is believed to, either way.
    let done = rig.queue.next_completion().unwrap().unwrap().into_buf();
    assert!(rig.queue.next_completion().unwrap().is_none());
    assert_eq!(rig.queue.outstanding(), 3);
    let Rig {
        live, queue, maker, ..
    } = rig;
    drop(done);
    // No other proof opens the queue, and the device may take its time.
    rig.device.set_reset(ResetAnswer::After(3));
    assert_eq!(maker.alive(), 3);
    let (transport, proof) = live.reset().unwrap();
    assert!(rig.device.status().is_empty(), "it has stopped");
    let buffers: Vec<_> = queue.close(&proof).unwrap().collect();
    assert_eq!((buffers.len(), maker.alive()), (3, 3));
    drop(buffers);
    // And the device is as good as new.
    drop(transport);
    rig.device.assert_clean();
    platform.assert_no_leaks();
    let mut rig = Rig::new(platform, FEATURES[0], &config(8, 0));
    rig.full_round();
    rig.finish(0);
}

/// Defends: FE-004, FE-005, FE-008, FE-016, FE-L04.
#[test]
fn of_everything_that_may_be_offered_a_driver_accepts_what_it_implements() {
    let wish = Wish {
        want: SUPPORTED,
        ..Wish::default()
    };
    let accepted = negotiate(!Features::EMPTY, &wish, Access::Physical)
        .unwrap()
        .accepted;
    // Reserved, legacy, of another transport, or not implemented.
    let reserved = (25..=26).chain([30, 31]).chain(44..50);
    let never = [
        Feature::NOTIFY_ON_EMPTY,
        Feature::ANY_LAYOUT,
        Feature::SR_IOV,
        Feature::ADMIN_VQ,
    ];
    let reserved = reserved.filter_map(Feature::new);
    for bit in reserved.chain(never) {
        assert!(!accepted.has(bit), "{bit}");
    }
    assert!((SUPPORTED | Feature::ACCESS_PLATFORM).contains(accepted));

    // A device that offers all of them, and some that nobody has heard of, is driven all the same.
    let platform = InPlace::new();
    let device = net_rig::device(&platform, !Features::EMPTY, 1500);
    let mut driver = net_rig::driver(&platform, &device, 8, 8);
    let accepted = device.accepted();
    assert!((SUPPORTED | Feature::ACCESS_PLATFORM).contains(accepted));
    assert!(accepted.contains(net_rig::OFFERED), "and no less");
    assert_eq!(net_rig::refill(&mut driver), 8);
    assert!(net_rig::deliver(&device, &[7; 60]));
    let frame = driver.rx().receive().unwrap().unwrap();
    assert_eq!(frame.as_slice(), [7; 60]);
    drop((frame, driver));
    device.assert_clean();
}

/// Defends: FE-006.
#[test]
fn whatever_is_not_offered_a_network_driver_does_without() {
    let optional: Vec<Feature> = (net_rig::OFFERED - Feature::VERSION_1).iter().collect();
    for set in 0..1_u32 << optional.len() {
        let chosen = optional.iter().enumerate();
        let chosen = chosen.filter(|(i, _)| set >> i & 1 == 1);
        let offered = chosen.fold(Feature::VERSION_1.into(), |all: Features, (_, &bit)| {
            all.with(bit)
        });
        let platform = InPlace::new();
        let device = net_rig::device(&platform, offered, 1500);
        let mut driver = net_rig::driver(&platform, &device, 8, 8);
        assert_eq!(device.accepted(), offered);
        net_rig::refill(&mut driver);
        assert!(net_rig::deliver(&device, &[7; 60]), "{offered}");
        let frame = driver.rx().receive().unwrap().unwrap();
        assert_eq!(frame.as_slice(), [7; 60], "{offered}");
        drop((frame, driver));
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

/// Defends: FE-014.
#[test]
fn a_network_driver_accepts_the_order_of_the_platform() {
    let platform = InPlace::new();
    let offered = net_rig::OFFERED | Feature::ORDER_PLATFORM;
    let device = net_rig::device(&platform, offered, 1500);
    let driver = net_rig::driver(&platform, &device, 8, 8);
    assert_eq!(device.accepted(), offered);
    drop(driver);
    device.assert_clean();
}

/// Defends: CF-004, CF-005.
#[test]
fn a_configuration_space_may_be_longer_than_what_is_known_of_it() {
    for padding in [0, 1, 52, 4096, 70_000] {
        let platform = InPlace::new();
        let mut bytes = net_rig::configuration(1, 1400);
        bytes.resize(bytes.len() + padding, 0xee);
        let device = net_rig::device(&platform, net_rig::OFFERED, 0).config(&bytes);
        let mut driver = net_rig::driver(&platform, &device, 8, 8);
        assert_eq!(driver.control().mac(), Some(net_rig::MAC));
        assert_eq!(driver.control().mtu(), Some(1400));
        assert_eq!(driver.control().link_up(), Ok(true));
        drop(driver);
        device.assert_clean();
    }
}

/// Defends: FE-011.
#[test]
fn a_device_that_takes_part_in_translation_is_given_translated_addresses() {
    let platform = Bouncing::new();
    platform.set_access(Access::Translated);
    let offered = FEATURES[0] | Feature::ACCESS_PLATFORM;
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(offered);
    let (live, mut queue) = begin(
        &platform,
        &device,
        offered,
        &QueueConfig::new(8).cells(4, 4),
    );
    assert!(live.features().has(Feature::ACCESS_PLATFORM));
    let mut maker = Maker::new();
    for _ in 0..20 {
        // Header, two segments and reply: what is mapped, and what is there from the start.
        let buf = maker.chunks(&[(R, 3), (W, 5)]);
        queue.submit_with(&[7_u8; 4], buf).unwrap();
        queue.kick();
        // The fake resolves addresses of its bus only, and none of them is a pointer.
        let served = device.serve(Q, |queue, chain| {
            assert_eq!(queue.read(chain)[..4], [7; 4]);
            queue.write(chain, &[9; 9])
        });
        assert_eq!(served, 1);
        let done = queue.next_completion().unwrap().unwrap();
        assert_eq!(done.reply(), Some([9_u8; 4]));
        assert_eq!(done.into_buf().bytes(W), [9; 5]);
    }
    assert_eq!(support::stop(live, queue).len(), 0);
    device.assert_clean();
    platform.assert_no_leaks();
}

/// Defends: SP-018, SP-019, SP-020.
#[test]
fn without_event_indices_the_flag_alone_decides() {
    let platform = InPlace::new();
    for start in [0, 65_520] {
        let mut rig = Rig::new(&platform, FEATURES[1], &config(8, start));
        let mut kicks = 0;
        for round in 0..rig::scaled(300, 40) as u16 {
            let wanted = round % 3 != 1;
            let at = start.wrapping_add(round);
            // The word behind the ring says now and now not; with event indices it would decide.
            let event = at.wrapping_add(round % 5).wrapping_sub(2);
            rig.device.with_queue(Q, |queue| {
                queue.set_used_flags(u16::from(!wanted));
                queue.set_avail_event(event);
            });
            let buf = rig.maker.chunks(&[(R, 1)]);
            rig.queue.submit(buf).unwrap();
            rig.queue.kick();
            kicks += usize::from(wanted);
            assert_eq!(rig.device.kicks(Q), kicks, "round {round}, event {event}");
            assert_eq!(rig.serve_and_drain(), 1);
        }
        rig.finish(0);
    }
}

/// Defends: SP-021, SP-022, SP-023.
#[test]
fn with_event_indices_the_flag_is_not_looked_at() {
    let platform = InPlace::new();
    for start in [0, 65_520] {
        let mut rig = Rig::new(&platform, FEATURES[0], &config(8, start));
        let mut kicks = 0;
        for round in 0..rig::scaled(300, 40) as u16 {
            let wanted = round % 3 != 1;
            let at = start.wrapping_add(round);
            let event = if wanted {
                at
            } else {
                at.wrapping_sub(1 + round % 4)
            };
            rig.device.with_queue(Q, |queue| {
                queue.set_used_flags(round % 2);
                queue.set_avail_event(event);
            });
            let buf = rig.maker.chunks(&[(R, 1)]);
            rig.queue.submit(buf).unwrap();
            rig.queue.kick();
            kicks += usize::from(wanted);
            assert_eq!(rig.device.kicks(Q), kicks, "round {round}, event {event}");
            assert_eq!(rig.serve_and_drain(), 1);
        }
        rig.finish(0);
    }
}

/// Defends: SP-012, SP-013.
#[test]
fn the_available_flags_are_what_was_agreed_whatever_is_called() {
    let platform = InPlace::new();
    for features in FEATURES {
        let mut rig = Rig::new(&platform, features, &config(8, 65_530));
        let flags = |rig: &Rig<_>| {
            let mut bytes = [0; 2];
            platform.bus().read(rig.queue.areas().driver, &mut bytes);
            u16::from_le_bytes(bytes)
        };
        let event_idx = features.has(Feature::EVENT_IDX);
        for _ in 0..20 {
            assert!(!rig.queue.arm());
            assert_eq!(flags(&rig), 0);
            assert!(!rig.queue.arm_delayed());
            assert_eq!(flags(&rig), 0);
            rig.queue.disarm();
            assert_eq!(flags(&rig), u16::from(!event_idx));
            rig.full_round();
            assert_eq!(flags(&rig), u16::from(!event_idx), "it stays so");
        }
        rig.finish(0);
    }
}

/// Defends: SP-017.
#[test]
fn a_ring_is_zero_when_the_device_gets_it() {
    let platform = InPlace::new();
    for round in 0..4 {
        // Memory comes from where the ring before it lay.
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(FEATURES[0]);
        let reset = init::reset(device.transport(), &platform).unwrap();
        let mut negotiated = reset.negotiate(&Wish::default()).unwrap();
        let pending = negotiated.queue(Q, &QueueConfig::new(64)).unwrap();
        let areas = pending.areas();
        let layout = vring::ring::layout::vring_init(64, 4).unwrap();
        let mut used = vec![0xff; layout.avail_event + 2 - layout.used];
        platform.bus().read(areas.device, &mut used);
        assert!(used.iter().all(|&byte| byte == 0), "round {round}");
        let live = negotiated.finish().unwrap();
        let mut queue: Virtqueue<_, Chunks> = pending.start(&live).unwrap();
        let mut maker = Maker::new();
        for _ in 0..100 {
            queue.submit(maker.chain(5)).unwrap();
            queue.kick();
            device.serve(Q, |queue, chain| reply(queue, chain, 9));
            assert_eq!(queue.drain(|_| ()).unwrap(), 1);
        }
        device.with_queue(Q, |queue| queue.set_used_flags(1));
        assert_eq!(support::stop(live, queue).len(), 0);
        device.assert_clean();
    }
    platform.assert_no_leaks();
}

/// Defends: LC-008, SP-011.
#[test]
fn what_the_device_has_is_left_alone_whatever_happens_around_it() {
    every_platform!(left_alone);
}

fn left_alone<K: Kind>(platform: &Fake<K>) {
    let mut rig = Rig::new(platform, FEATURES[0], &config(16, 65_530).cells(4, 4));
    for n in [2, 1, 3] {
        let buf = rig.maker.chain(n);
        rig.queue.submit(buf).unwrap();
    }
    rig.queue.kick();
    let areas = rig.queue.areas();
    let look = || {
        let mut bytes = vec![0; 16 * 16];
        platform.bus().read(areas.desc, &mut bytes);
        // Six descriptors are out: the first six, as nothing has been recycled.
        bytes.truncate(6 * 16);
        bytes
    };
    let index = || {
        let mut bytes = [0; 2];
        let at = vring::DmaAddr(areas.driver.0 + 2);
        platform.bus().read(at, &mut bytes);
        u16::from_le_bytes(bytes)
    };
    let (before, mut at) = (look(), index());
    for round in 0..40_usize {
        // Rejected, submitted and not published, published, served, taken back.
        let buf = rig.maker.parts(Vec::new());
        assert!(rig.queue.submit(buf).is_err());
        let buf = rig.maker.chain(11);
        assert!(rig.queue.submit(buf).is_err());
        let buf = rig.maker.chain(1 + round % 5);
        rig.queue.submit_with(&[1_u8; 4], buf).unwrap();
        assert_eq!(index(), at, "a rejection takes nothing back");
        rig.queue.disarm();
        rig.queue.kick();
        at = at.wrapping_add(1);
        assert_eq!(index(), at);
        // The device holds the first three, and returns the others.
        rig.device.with_queue(Q, |queue| {
            let all: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
            for chain in all {
                if chain.head() >= 6 {
                    let len = reply(queue, &chain, 1);
                    queue.complete(chain, len);
                }
            }
        });
        rig.queue.drain(|_| ()).unwrap();
        let _raced = rig.queue.arm();
        assert_eq!((look() == before, index()), (true, at), "round {round}");
    }
    assert_eq!(rig.queue.outstanding(), 3);
    rig.finish(3);
}

/// Defends: SP-014.
#[test]
fn interrupts_without_work_change_nothing() {
    for features in FEATURES {
        let platform = InPlace::new();
        let mut rig = Rig::new(&platform, features, &config(8, 65_533));
        let isr = rig.live.transport_mut().take_isr().unwrap();
        let buf = rig.maker.chain(2);
        rig.queue.submit(buf).unwrap();
        rig.queue.kick();
        for _ in 0..10 {
            rig.device.interrupt();
            assert_eq!(isr.ack().bits(), 1);
            assert!(rig.queue.next_completion().unwrap().is_none());
            assert_eq!(rig.queue.drain(|_| panic!("nothing is there")), Ok(0));
            assert!(!rig.queue.arm());
        }
        assert_eq!(rig.queue.counters().faults, 0);
        assert_eq!(rig.serve_and_drain(), 1);
        // And once more for what was taken already.
        rig.device.interrupt();
        assert!(rig.queue.next_completion().unwrap().is_none());
        rig.full_round();
        rig.finish(0);
    }
}

/// Defends: SP-015, SP-016.
#[test]
fn what_lies_beyond_the_length_is_not_given_out() {
    let platform = InPlace::new();
    let device = net_rig::device(&platform, net_rig::OFFERED, 1500);
    let mut driver = net_rig::driver(&platform, &device, 8, 8);
    for len in [60, 61, 100, 1514] {
        net_rig::refill(&mut driver);
        // The device writes all of the buffer, and says that it wrote less.
        let bytes = vec![0x5a; driver.rx().buffer_len()];
        let claimed = (net_rig::HEADER + len) as u32;
        assert!(net_rig::deliver_raw(&device, &bytes, claimed));
        let frame = driver.rx().receive().unwrap().unwrap();
        assert_eq!(frame.as_slice(), vec![0x5a; len], "no byte more");
    }
    drop(driver);
    // Where buffers are bounced, no byte more is even copied.
    let platform = Bouncing::new();
    let mut rig = Rig::new(&platform, FEATURES[0], &config(4, 0));
    let buf = rig.maker.chunks(&[(W, 8), (W, 8)]);
    rig.queue.submit(buf).unwrap();
    rig.queue.kick();
    rig.device.serve(Q, |queue, chain| {
        queue.write(chain, &[0x5a; 16]);
        11
    });
    let done = rig.queue.next_completion().unwrap().unwrap();
    assert_eq!((done.written(), done.claimed()), (11, 11));
    let mut expected = [0x5a; 16];
    expected[11..].fill(0xee);
    assert_eq!(done.into_buf().bytes(W), expected);
    rig.finish(0);
}

#[test]
fn bug_class_35_an_interrupt_is_acknowledged_while_the_driver_is_in_the_middle_of_something() {
    let platform = Bouncing::new();
    let mut rig = Rig::new(&platform, FEATURES[0], &config(8, 0));
    let isr = rig.live.transport_mut().take_isr().unwrap();
    for _ in 0..3 {
        let buf = rig.maker.chain(2);
        rig.queue.submit(buf).unwrap();
    }
    rig.queue.kick();
    rig.device.serve(Q, |queue, chain| reply(queue, chain, 9));
    let Rig {
        device,
        live,
        mut queue,
        ..
    } = rig;
    // The handler runs on another core while the queue is drained, and while it is filled; the
    // channel has a time limit, where a lock would have none.
    let (ask, asked) = mpsc::channel();
    let (tell, told) = mpsc::channel();
    let handler = thread::spawn(move || {
        for () in asked {
            tell.send(isr.ack().bits()).unwrap();
        }
    });
    let acknowledged = || {
        device.interrupt();
        ask.send(()).unwrap();
        told.recv_timeout(Duration::from_secs(60)).unwrap()
    };
    assert_eq!(queue.drain(|_| assert_eq!(acknowledged(), 1)), Ok(3));
    let mut maker = Maker::new();
    let mut source = (0..3).map(|_| {
        assert_eq!(acknowledged(), 1);
        maker.chain(2)
    });
    assert_eq!(queue.submit_burst(&mut source).unwrap(), 3);
    drop(ask);
    handler.join().unwrap();
    assert_eq!(support::stop(live, queue).len(), 3);
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn bug_class_48_a_buffer_comes_back_with_its_own_completion_and_with_no_other() {
    every_platform!(own_completion);
}

fn own_completion<K: Kind>(platform: &Fake<K>) {
    // One caller waits for the first buffer, and polls the queue that another one uses, too.
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let mut rig = Rig::new(platform, FEATURES[0], &config(8, 65_534));
        let sent: Vec<_> = [1, 2, 3]
            .map(|n| {
                let buf = rig.maker.chain(n);
                let number = buf.number;
                (rig.queue.submit(buf).unwrap(), number)
            })
            .into();
        rig.queue.kick();
        let mut chains: Vec<_> = rig
            .device
            .with_queue(Q, |queue| std::iter::from_fn(|| queue.pop()).collect())
            .map(|chains: Vec<_>| chains.into_iter().map(Some).collect())
            .unwrap();
        for (n, which) in order.into_iter().enumerate() {
            // Nothing comes back that the device still has, however often one looks.
            for _ in 0..3 {
                assert!(rig.queue.next_completion().unwrap().is_none());
                assert_eq!(rig.queue.drain(|_| ()), Ok(0));
            }
            assert_eq!(usize::from(rig.queue.outstanding()), 3 - n);
            assert_eq!(rig.maker.alive(), 3 - n);
            let chain: vring::testing::Chain = chains[which].take().unwrap();
            rig.device.with_queue(Q, |queue| {
                let len = reply(queue, &chain, 9);
                queue.complete(chain, len);
            });
            let done = rig.queue.next_completion().unwrap().unwrap();
            let written = done.written() as usize;
            assert_eq!((done.ticket(), done.buf().number), sent[which]);
            done.into_buf().check(written);
        }
        rig.finish(0);
    }
}

/// Initializes the device with whatever it offers, and its first queue.
fn begin<K: Kind>(
    platform: &Fake<K>,
    device: &FakeDevice,
    want: Features,
    config: &QueueConfig,
) -> (
    init::Live<Fake<K>, FakeTransport>,
    Virtqueue<Fake<K>, Chunks>,
) {
    let wish = Wish {
        want,
        ..Wish::default()
    };
    let reset = init::reset(device.transport(), platform).unwrap();
    let mut negotiated = reset.negotiate(&wish).unwrap();
    let pending = negotiated.queue(Q, config).unwrap();
    let live = negotiated.finish().unwrap();
    let queue = pending.start(&live).unwrap();
    (live, queue)
}
