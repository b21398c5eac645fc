//! Whatever the device does, nothing panics, nothing hangs, nothing is lost.
//!
//! The named tests replay bugs that real drivers shipped; the seeded ones look for new ones. A
//! failing seed is printed with the moves that led to it: make it a named test.

mod support;

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

use vring::buffer::{Readable, Writable};
use vring::features::{Feature, Features, Wish};
use vring::init::{self, Live, QueueConfig};
use vring::platform::Platform;
use vring::testing::{
    Bounce, Bouncing, Bus, Discontiguous, Fake, FakeDevice, FakeTransport, HostileDevice, InPlace,
    Kind, Move, Rng,
};
use vring::transport::{DeviceId, QueueIndex};
use vring::virtqueue::{Fault, Virtqueue};

use support::{FEATURES, Q, start, stop};

const RING_PACKED: Feature = Feature::RING_PACKED;
const INDIRECT_DESC: Feature = Feature::INDIRECT_DESC;
const IN_ORDER: Feature = Feature::IN_ORDER;

type Request = (Readable<Vec<u8>>, Writable<Vec<u8>>);

fn request(i: u8, readable: usize, writable: usize) -> Request {
    (Readable(vec![i; readable]), Writable(vec![i; writable]))
}

/// A queue of 8 descriptors, so of four requests, with a device that does as the test says.
struct Rig<K: Kind> {
    platform: Fake<K>,
    live: Live<Fake<K>, FakeTransport>,
    queue: Virtqueue<Fake<K>, Request>,
    hostile: HostileDevice,
}

impl Rig<Bounce> {
    fn new() -> Self {
        Self::with(FEATURES[0])
    }

    fn packed() -> Self {
        Self::with(FEATURES[0].with(RING_PACKED))
    }

    fn with(features: Features) -> Self {
        Self::on(Bouncing::new(), features)
    }
}

impl<K: Kind> Rig<K> {
    fn on(platform: Fake<K>, features: Features) -> Self {
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(features);
        device.violations().set_lenient();
        let (live, queue) = start(&platform, &device, &QueueConfig::new(8));
        let hostile = HostileDevice::new(device.take_queue(Q).unwrap(), 1);
        Self {
            platform,
            live,
            queue,
            hostile,
        }
    }

    /// Submits a request of two descriptors and publishes it; its head.
    fn request(&mut self) -> u32 {
        let ticket = self.queue.submit(request(7, 4, 16)).unwrap();
        self.queue.publish();
        u32::from(ticket.slot())
    }

    fn play(&mut self, moves: &[Move]) -> &mut Self {
        moves.iter().for_each(|&next| self.hostile.play(next));
        self
    }

    /// The fault that is seen next. It stays, nothing goes in any more, and after a reset all
    /// buffers but `returned` come back.
    fn faults(mut self, returned: usize) -> Fault {
        let fault = self.queue.next_completion().unwrap_err();
        assert_eq!(self.queue.next_completion().unwrap_err(), fault);
        assert_eq!(self.queue.fault(), Some(fault));
        assert_eq!(self.queue.free(), 0);
        let rejected = self.queue.submit(request(9, 4, 16)).unwrap_err();
        assert_eq!(rejected.buf, request(9, 4, 16), "it is given back");
        self.queue.kick();
        assert!(self.queue.arm(), "nobody sleeps on a broken queue");
        let submitted = self.queue.counters().submitted;
        drop(self.hostile);
        assert_eq!(
            stop(self.live, self.queue).len() + returned,
            submitted as usize
        );
        self.platform.assert_no_leaks();
        fault
    }
}

#[test]
fn bug_class_37_used_id_out_of_range() {
    for id in [8, 9, 0xffff, 0x1_0000, 0x8000_0000, u32::MAX] {
        let mut rig = Rig::new();
        rig.request();
        rig.play(&[Move::Forge { id, len: 0 }]);
        assert_eq!(rig.faults(0), Fault::UsedIdOutOfRange { id, size: 8 });
    }
}

#[test]
fn bug_class_37_used_id_truncated_to_16_bits_is_not_a_head() {
    let mut rig = Rig::new();
    let id = rig.request() + 0x1_0000;
    rig.play(&[Move::Forge { id, len: 0 }]);
    assert_eq!(rig.faults(0), Fault::UsedIdOutOfRange { id, size: 8 });
}

#[test]
fn bug_class_37_used_id_idle() {
    let mut rig = Rig::new();
    rig.request();
    rig.play(&[Move::Forge { id: 6, len: 0 }]);
    assert_eq!(rig.faults(0), Fault::UsedIdNotInFlight { id: 6 });
}

#[test]
fn bug_class_37_used_id_in_the_middle_of_a_chain() {
    let mut rig = Rig::new();
    let id = rig.request() + 1;
    rig.play(&[Move::Forge { id, len: 0 }]);
    assert_eq!(rig.faults(0), Fault::UsedIdNotInFlight { id });
}

#[test]
fn bug_class_37_used_id_repeated() {
    let mut rig = Rig::new();
    let id = rig.request();
    rig.request();
    rig.play(&[Move::Look, Move::Return { nth: 0 }, Move::Repeat]);
    assert!(rig.queue.next_completion().unwrap().is_some());
    assert_eq!(rig.faults(1), Fault::UsedIdNotInFlight { id });
}

#[test]
fn bug_class_37_used_id_never_published() {
    let mut rig = Rig::new();
    rig.request();
    let id = u32::from(rig.queue.submit(request(7, 4, 16)).unwrap().slot());
    rig.play(&[Move::Forge { id, len: 0 }]);
    assert_eq!(rig.faults(0), Fault::UsedIdNotInFlight { id });
}

#[test]
fn bug_class_38_length_beyond_the_chain_is_cut_and_told() {
    for len in [17, 0xffff, 0x1_0000, u32::MAX] {
        let mut rig = Rig::new();
        rig.request();
        rig.play(&[Move::Look, Move::ReturnWithLen { nth: 0, len }]);
        let done = rig.queue.next_completion().unwrap().unwrap();
        assert_eq!((done.written(), done.claimed()), (16, len));
        assert_eq!(done.into_buf().1.0.len(), 16);
        assert_eq!(rig.queue.counters().overruns, 1);
        rig.request();
        rig.play(&[Move::Look, Move::Return { nth: 0 }]);
        assert!(
            rig.queue.next_completion().unwrap().is_some(),
            "the queue goes on"
        );
        drop(rig.hostile);
        stop(rig.live, rig.queue);
        rig.platform.assert_no_leaks();
    }
}

#[test]
fn bug_class_38_length_on_a_chain_that_is_only_read() {
    let platform = Bouncing::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(FEATURES[0]);
    let (live, mut queue) = start::<_, Readable<Vec<u8>>>(&platform, &device, &QueueConfig::new(8));
    queue.submit(Readable(vec![3; 20])).unwrap();
    queue.kick();
    device.serve(Q, |_, _| 20);
    let done = queue.next_completion().unwrap().unwrap();
    assert_eq!((done.written(), done.claimed()), (0, 20));
    assert_eq!(done.into_buf().0, [3; 20]);
    stop(live, queue);
    platform.assert_no_leaks();
}

#[test]
fn bug_class_39_used_index_jumps_or_goes_back() {
    for by in [2, 9, 0x7fff, i16::MIN, -1, -2] {
        let mut rig = Rig::new();
        rig.request();
        rig.play(&[Move::MoveIdx { by }]);
        let seen = 0_u16.wrapping_add_signed(by);
        let fault = Fault::UsedIndex {
            seen,
            last: 0,
            outstanding: 1,
        };
        assert_eq!(rig.faults(0), fault);
    }
    let mut rig = Rig::new();
    rig.request();
    rig.play(&[Move::Look, Move::Return { nth: 0 }]);
    assert!(rig.queue.next_completion().unwrap().is_some());
    rig.request();
    rig.play(&[Move::MoveIdx { by: -1 }]);
    assert_eq!(
        rig.faults(1),
        Fault::UsedIndex {
            seen: 0,
            last: 1,
            outstanding: 1
        }
    );
}

#[test]
fn bug_class_39_an_index_without_elements_is_not_believed() {
    let mut rig = Rig::new();
    let first = rig.request();
    let second = rig.request();
    assert_eq!((first, second), (0, 2));
    // Both elements are still zero: descriptor 0 twice.
    rig.play(&[Move::MoveIdx { by: 2 }]);
    assert!(
        rig.queue.next_completion().unwrap().is_some(),
        "a device may return it unread"
    );
    assert_eq!(rig.faults(1), Fault::UsedIdNotInFlight { id: 0 });
}

#[test]
fn bug_class_40_an_element_that_changes_afterwards_changes_nothing() {
    let mut rig = Rig::new();
    rig.request();
    rig.request();
    rig.play(&[Move::Look, Move::Return { nth: 0 }]);
    let done = rig.queue.next_completion().unwrap().unwrap();
    let ticket = done.ticket();
    rig.play(&[
        Move::Rewrite {
            slot: 0,
            id: 99,
            len: 99,
        },
        Move::Return { nth: 0 },
    ]);
    let done = rig.queue.next_completion().unwrap().unwrap();
    assert_ne!(done.ticket(), ticket);
    assert!(rig.queue.next_completion().unwrap().is_none());
    drop(rig.hostile);
    stop(rig.live, rig.queue);
    rig.platform.assert_no_leaks();
}

/// Position and lap of a packed ring's used descriptor are what the flags say, and nothing else.
#[test]
fn bug_class_37_packed_used_id_out_of_range_or_idle_or_repeated() {
    for id in [8, 9, 0x7fff, 0xffff] {
        let mut rig = Rig::packed();
        rig.request();
        rig.play(&[Move::Forge { id, len: 0 }]);
        assert_eq!(rig.faults(0), Fault::UsedIdOutOfRange { id, size: 8 });
    }
    // Idle; the middle of a chain.
    for id in [6, 1] {
        let mut rig = Rig::packed();
        assert_eq!(rig.request(), 0);
        rig.play(&[Move::Forge { id, len: 0 }]);
        assert_eq!(rig.faults(0), Fault::UsedIdNotInFlight { id });
    }
    // Never published.
    let mut rig = Rig::packed();
    rig.request();
    let id = u32::from(rig.queue.submit(request(7, 4, 16)).unwrap().slot());
    rig.play(&[Move::Forge { id, len: 0 }]);
    assert_eq!(rig.faults(0), Fault::UsedIdNotInFlight { id });
    // Repeated.
    let mut rig = Rig::packed();
    let id = rig.request();
    rig.request();
    rig.play(&[Move::Look, Move::Return { nth: 0 }, Move::Repeat]);
    assert!(rig.queue.next_completion().unwrap().is_some());
    assert_eq!(rig.faults(1), Fault::UsedIdNotInFlight { id });
}

#[test]
fn bug_class_38_packed_length_beyond_the_chain_is_cut_and_told() {
    for len in [17, 0xffff, 0x1_0000, u32::MAX] {
        let mut rig = Rig::packed();
        rig.request();
        rig.play(&[Move::Look, Move::ReturnWithLen { nth: 0, len }]);
        let done = rig.queue.next_completion().unwrap().unwrap();
        assert_eq!((done.written(), done.claimed()), (16, len));
        drop(done);
        rig.request();
        rig.play(&[Move::Look, Move::Return { nth: 0 }]);
        assert!(
            rig.queue.next_completion().unwrap().is_some(),
            "the queue goes on"
        );
        drop(rig.hostile);
        stop(rig.live, rig.queue);
        rig.platform.assert_no_leaks();
    }
}

#[test]
fn bug_class_39_packed_used_descriptors_where_none_is_due() {
    // Elsewhere in the ring, or in the other lap: nothing is seen. Where nothing is out: a fault.
    for by in [1, 2, 7, 8, -1, -8] {
        let mut rig = Rig::packed();
        let id = rig.request();
        rig.play(&[Move::MoveIdx { by }, Move::Forge { id, len: 0 }]);
        assert!(rig.queue.next_completion().unwrap().is_none(), "{by}");
        assert_eq!(rig.queue.drain(|_| panic!("nothing is there")), Ok(0));
        drop(rig.hostile);
        assert_eq!(stop(rig.live, rig.queue).len(), 1);
        rig.platform.assert_no_leaks();
    }
    let mut rig = Rig::packed();
    rig.play(&[Move::Forge { id: 0, len: 0 }]);
    assert_eq!(rig.faults(0), Fault::UsedIdNotInFlight { id: 0 });
}

#[test]
fn bug_class_39_packed_wrap_counters_that_lie_are_not_believed() {
    let mut rig = Rig::packed();
    for round in 0..9 {
        rig.request();
        rig.play(&[Move::Look]);
        let index = round * 2 % 8;
        // Of the other lap, then again of this one.
        let flip = Move::Flip {
            index,
            flags: 0x8080,
        };
        rig.play(&[Move::Return { nth: 0 }, flip]);
        assert!(rig.queue.next_completion().unwrap().is_none(), "{round}");
        rig.play(&[flip]);
        assert!(rig.queue.next_completion().unwrap().is_some(), "{round}");
        assert_eq!(rig.queue.free(), 8);
    }
    drop(rig.hostile);
    stop(rig.live, rig.queue);
    rig.platform.assert_no_leaks();
}

#[test]
fn bug_class_40_packed_flags_that_flip_between_two_reads() {
    let mut rig = Rig::packed();
    let first = rig.request();
    rig.request();
    rig.play(&[Move::Look]);
    // An available descriptor that looks used names the chain that is in it.
    rig.play(&[Move::Flip {
        index: 0,
        flags: 1 << 15,
    }]);
    let done = rig.queue.next_completion().unwrap().unwrap();
    assert_eq!(u32::from(done.ticket().slot()), first);
    drop(done);
    // What was taken is not looked at again, however it flips.
    for flags in [1 << 7, 1 << 15, 0x8080, 1 << 7] {
        rig.play(&[Move::Flip { index: 0, flags }]);
        assert!(rig.queue.next_completion().unwrap().is_none());
    }
    drop(rig.hostile);
    assert_eq!(stop(rig.live, rig.queue).len(), 1);
    rig.platform.assert_no_leaks();
}

#[test]
fn bug_class_40_packed_an_element_that_changes_afterwards_changes_nothing() {
    let mut rig = Rig::packed();
    rig.request();
    rig.request();
    rig.play(&[Move::Look, Move::Return { nth: 0 }]);
    let done = rig.queue.next_completion().unwrap().unwrap();
    let ticket = done.ticket();
    rig.play(&[
        Move::Rewrite {
            slot: 0,
            id: 99,
            len: 99,
        },
        Move::Return { nth: 0 },
    ]);
    let done = rig.queue.next_completion().unwrap().unwrap();
    assert_ne!(done.ticket(), ticket);
    assert!(rig.queue.next_completion().unwrap().is_none());
    drop(rig.hostile);
    stop(rig.live, rig.queue);
    rig.platform.assert_no_leaks();
}

/// A batch whose end names a chain that is not there is a fault; one that ends early leaves the
/// rest with the device.
#[test]
fn bug_class_27_in_order_batches_are_checked_on_either_ring() {
    for packed in [Features::EMPTY, RING_PACKED.into()] {
        let features = FEATURES[0].with(IN_ORDER) | packed;
        batches_are_checked(Bouncing::new, features);
        batches_are_checked(InPlace::new, features);
    }
}

fn batches_are_checked<K: Kind>(platform: fn() -> Fake<K>, features: Features) {
    let three = || {
        let mut rig = Rig::on(platform(), features);
        let ids = [0; 3].map(|_| rig.request());
        rig.play(&[Move::Look]);
        (rig, ids)
    };
    let (mut rig, _) = three();
    rig.play(&[Move::ReturnBatch { count: 2 }]);
    let first = rig.queue.next_completion().unwrap().unwrap();
    assert!(first.is_assumed() && first.written() == 16);
    let second = rig.queue.next_completion().unwrap().unwrap();
    assert!(!second.is_assumed() && second.written() == 16);
    assert!(rig.queue.next_completion().unwrap().is_none());
    rig.play(&[Move::Repeat]);
    let id = 2;
    assert_eq!(rig.faults(2), Fault::UsedIdNotInFlight { id });

    let (mut rig, ids) = three();
    let id = ids[2] + 1;
    rig.play(&[Move::Forge { id, len: 0 }]);
    assert_eq!(rig.faults(0), Fault::UsedIdNotInFlight { id });
    let (mut rig, _) = three();
    rig.play(&[Move::Forge { id: 8, len: 0 }]);
    assert_eq!(rig.faults(0), Fault::UsedIdOutOfRange { id: 8, size: 8 });
}

/// The driver's own rings are never read back, so that nothing a device writes there is believed.
#[test]
fn bug_class_17_forged_descriptors_free_nothing() {
    forged(Bouncing::new());
    forged(InPlace::new());
}

fn forged<K: Kind>(platform: Fake<K>) {
    let mut rig = Rig::on(platform, FEATURES[0]);
    rig.request();
    rig.request();
    rig.play(&[Move::Look]);
    for index in 0..8 {
        rig.play(&[
            Move::Descriptor {
                index,
                addr: 0xdead_0000,
                rest: u64::MAX,
            },
            Move::Available {
                slot: index,
                head: 0xffff,
            },
        ]);
    }
    rig.play(&[
        Move::AvailableIdx(0x8000),
        Move::Flags(u16::MAX),
        Move::Event(7),
    ]);
    // The first first: what follows it in the list of free descriptors is not what followed it.
    rig.play(&[Move::Return { nth: 0 }, Move::Return { nth: 0 }]);
    // In place, the loan of a buffer ends with the first lie.
    let written = if K::DIRECT { 0 } else { 16 };
    let drained = rig.queue.drain(|done| assert_eq!(done.written(), written));
    assert_eq!(drained, Ok(2));
    // Every descriptor is free, and is free once.
    let mut sent = [0; 4].map(|_| rig.request() as u16);
    let mut seen = Vec::new();
    assert_eq!(rig.queue.free(), 0);
    rig.play(&[Move::Look]);
    rig.play(&[Move::Return { nth: 0 }; 4]);
    assert_eq!(
        rig.queue.drain(|done| seen.push(done.ticket().slot())),
        Ok(4)
    );
    seen.sort_unstable();
    sent.sort_unstable();
    assert_eq!(seen, sent);
    rig.queue.submit(request(1, 1, 1)).unwrap();
    rig.queue.kick();
    drop(rig.hostile);
    assert_eq!(stop(rig.live, rig.queue), [request(1, 1, 1)]);
    rig.platform.assert_no_leaks();
}

/// With a platform that bounces, a returned buffer is out of the device's reach.
#[test]
fn a_device_that_writes_after_it_returned_changes_nothing() {
    let mut rig = Rig::new();
    rig.request();
    rig.play(&[Move::Look, Move::Return { nth: 0 }]);
    let (_, Writable(got)) = rig.queue.next_completion().unwrap().unwrap().into_buf();
    let copy = got.clone();
    rig.play(&[Move::WriteAfterReturn]);
    assert_eq!(got, copy);
    drop(rig.hostile);
    stop(rig.live, rig.queue);
    rig.platform.assert_no_leaks();
}

/// Bursts and drains run the caller's code with the queue's counters in registers.
#[test]
fn a_panic_in_the_callers_code_loses_nothing() {
    let mut rig = Rig::new();
    let mut made = 0;
    let mut bufs = std::iter::from_fn(|| {
        made += 1;
        assert!(made < 3, "no more");
        Some(request(made, 4, 16))
    });
    catch_unwind(AssertUnwindSafe(|| rig.queue.submit_burst(&mut bufs))).unwrap_err();
    assert_eq!((rig.queue.outstanding(), rig.queue.free()), (2, 4));
    rig.queue.publish();
    rig.play(&[Move::Look, Move::Return { nth: 1 }, Move::Return { nth: 0 }]);
    let mut seen = Vec::new();
    let drain = AssertUnwindSafe(|| {
        rig.queue.drain(|done| {
            seen.push(done.into_buf().0.0[0]);
            panic!("of the caller");
        })
    });
    catch_unwind(drain).unwrap_err();
    assert_eq!((rig.queue.outstanding(), rig.queue.free()), (1, 6));
    assert_eq!(
        rig.queue
            .drain(|done| seen.push(done.into_buf().0.0[0]))
            .unwrap(),
        1
    );
    assert_eq!(seen, [2, 1]);
    assert_eq!(rig.queue.free(), 8);
    rig.request();
    rig.play(&[Move::Look, Move::Return { nth: 0 }]);
    assert!(rig.queue.next_completion().unwrap().is_some());
    drop(rig.hostile);
    stop(rig.live, rig.queue);
    rig.platform.assert_no_leaks();
}

/// One run of a driver against the lies of a seed.
fn survives<P: Platform + Debug>(platform: &P, bus: &Bus, seed: u64, rounds: usize) -> bool {
    let mut features = FEATURES[(seed % 2) as usize];
    let ring = seed / 8 % 8;
    for (bit, feature) in [RING_PACKED, INDIRECT_DESC, IN_ORDER]
        .into_iter()
        .enumerate()
    {
        if ring >> bit & 1 == 1 {
            features = features.with(feature);
        }
    }
    let start_index = [0, 65_530][(seed / 2 % 2) as usize];
    let device = FakeDevice::new(bus, DeviceId::NETWORK)
        .offer(features)
        .start_index(Q, start_index);
    device.violations().set_lenient();
    let size = match features.has(RING_PACKED) {
        true => [1, 2, 3, 7, 16][(seed % 5) as usize],
        false => 1 << (seed % 5),
    };
    let mut config = QueueConfig::new(size).cells(4, 4).indirect(8);
    config.start_index = start_index;
    let (live, mut queue) = start::<_, Request>(platform, &device, &config);
    let honesty = [95, 70][(seed / 4 % 2) as usize];
    let mut hostile = HostileDevice::new(device.take_queue(Q).unwrap(), seed).honesty(honesty);
    let mut rng = Rng::new(!seed);
    let (mut inside, mut moves) = (0, Vec::new());
    for _ in 0..rounds {
        match rng.below(8) {
            0..=2 => {
                let buf = request(1, 1 + rng.below(40) as usize, 1 + rng.below(40) as usize);
                let copy = buf.clone();
                let submitted = match rng.below(2) {
                    0 => queue.submit(buf),
                    _ => queue.submit_with(&[1_u8; 4], buf),
                };
                match submitted {
                    Ok(_) => inside += 1,
                    Err(rejected) => assert_eq!(rejected.buf, copy),
                }
            }
            3 => {
                let mut bufs = (0..rng.below(4)).map(|_| request(1, 3, 5));
                match queue.submit_burst(&mut bufs) {
                    Ok(submitted) => inside += submitted,
                    Err(error) => {
                        assert_eq!(error.rejected.buf, request(1, 3, 5));
                        inside += error.submitted;
                    }
                }
                queue.publish();
            }
            4 => queue.kick(),
            5 => {
                let outstanding = usize::from(queue.outstanding());
                let mut came = 0;
                let drained = queue.drain(|done| {
                    came += 1;
                    assert!(done.written() <= 44 && done.written() <= done.claimed());
                    assert!(done.buf().0.0.iter().all(|&byte| byte == 1), "read only");
                });
                assert!(
                    came <= outstanding && drained.is_ok_and(|n| n == came)
                        || queue.fault().is_some()
                );
                inside -= came;
            }
            6 => {
                let _ = if rng.below(2) == 0 {
                    queue.arm()
                } else {
                    queue.arm_delayed()
                };
            }
            _ => queue.disarm(),
        }
        for _ in 0..rng.below(3) {
            moves.push(hostile.step());
        }
        if queue.fault().is_some() {
            break;
        }
        assert_eq!(
            usize::from(queue.outstanding()),
            inside,
            "seed {seed}: {moves:?}"
        );
    }
    let broken = queue.fault().is_some();
    drop(hostile);
    assert_eq!(stop(live, queue).len(), inside, "seed {seed}: {moves:?}");
    broken
}

#[test]
fn a_seeded_villain_on_every_platform() {
    let (seeds, rounds) = if cfg!(miri) { (4, 60) } else { (400, 400) };
    let mut broken = 0;
    for seed in 0..seeds {
        let platform = Bouncing::new();
        broken += u64::from(survives(&platform, platform.bus(), seed, rounds));
        platform.assert_no_leaks();
        let platform = InPlace::new();
        broken += u64::from(survives(&platform, platform.bus(), seed, rounds));
        platform.assert_no_leaks();
        let platform = Discontiguous::new(32);
        broken += u64::from(survives(&platform, platform.bus(), seed, rounds));
        platform.assert_no_leaks();
    }
    assert!(
        cfg!(miri) || broken > seeds,
        "only {broken} of {} runs met a fault",
        3 * seeds
    );
}

#[test]
fn bug_class_41_and_43_absurd_registers() {
    let seeds = if cfg!(miri) { 20 } else { 3000 };
    let (mut started, mut refused) = (0, 0);
    for seed in 0..seeds {
        let platform = Bouncing::new();
        platform.set_patience(20);
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).hostile(seed);
        device.violations().set_lenient();
        let run = || {
            let reset = init::reset(device.transport(), &platform).ok()?;
            let wish = Wish {
                want: FEATURES[0],
                ..Wish::default()
            };
            let mut negotiated = reset.negotiate(&wish).ok()?;
            let queues: Vec<_> = (0..4)
                .filter_map(|i| {
                    let config = QueueConfig::new(64).vector((seed % 3 == 0).then_some(i));
                    negotiated.queue::<Request>(QueueIndex(i), &config).ok()
                })
                .collect();
            match negotiated.finish() {
                Err(aborted) => {
                    let proof = aborted.proof.ok()?;
                    queues
                        .into_iter()
                        .for_each(|queue| drop(queue.close(&proof).unwrap()));
                    Some(false)
                }
                Ok(live) => {
                    let (_, proof) = live.reset().ok()?;
                    queues
                        .into_iter()
                        .for_each(|queue| drop(queue.close(&proof).unwrap()));
                    Some(true)
                }
            }
        };
        match run() {
            Some(true) => started += 1,
            Some(false) | None => refused += 1,
        }
        if platform.counts().leaked_bytes == 0 {
            platform.assert_no_leaks();
        }
        device.assert_clean();
    }
    assert!(
        started > 0 && refused > 0,
        "{started} started, {refused} refused"
    );
}

/// As [`survives`], with buffers of one segment, which go and come by the shortest way.
fn survives_singles<P: Platform + Debug>(
    platform: &P,
    bus: &Bus,
    seed: u64,
    rounds: usize,
) -> bool {
    let mut features = FEATURES[(seed % 2) as usize];
    for (bit, feature) in [RING_PACKED, IN_ORDER].into_iter().enumerate() {
        if (seed / 8) >> bit & 1 == 1 {
            features = features.with(feature);
        }
    }
    let start_index = [0, 65_530][(seed / 2 % 2) as usize];
    let device = FakeDevice::new(bus, DeviceId::NETWORK)
        .offer(features)
        .start_index(Q, start_index);
    device.violations().set_lenient();
    let size = match features.has(RING_PACKED) {
        true => [1, 2, 3, 7, 16][(seed % 5) as usize],
        false => 1 << (seed % 5),
    };
    let mut config = QueueConfig::new(size);
    config.start_index = start_index;
    let (live, mut queue) = start::<_, Writable<Box<[u8]>>>(platform, &device, &config);
    let honesty = [97, 70][(seed / 4 % 2) as usize];
    let mut hostile = HostileDevice::new(device.take_queue(Q).unwrap(), seed).honesty(honesty);
    let mut rng = Rng::new(!seed);
    let (mut made, mut out) = (0_u64, BTreeSet::new());
    let mut moves = Vec::new();
    for _ in 0..rounds {
        // A buffer's length is its name.
        let mut bufs = std::iter::from_fn(|| {
            made += 1;
            out.insert(made as usize);
            Some(Writable(vec![0; made as usize].into()))
        });
        let before = queue.outstanding();
        match rng.below(8) {
            0 | 1 => match queue.submit(bufs.next().unwrap()) {
                Ok(_) => (),
                Err(rejected) => assert!(out.remove(&rejected.buf.0.len())),
            },
            2 => {
                let some = rng.below(5) as usize;
                let submitted = queue.submit_burst(&mut bufs.by_ref().take(some)).unwrap();
                assert_eq!(usize::from(queue.outstanding() - before), submitted);
            }
            3 => queue.publish(),
            4 => queue.kick(),
            5 => {
                let mut came = 0;
                let drained = queue.drain(|done| {
                    came += 1;
                    assert!(done.written() <= done.claimed());
                    let len = done.buf().0.len();
                    assert!(done.written() as usize <= len && out.remove(&len), "{len}");
                });
                assert!(drained.is_err() || drained == Ok(came));
                assert_eq!(usize::from(before - queue.outstanding()), came);
            }
            6 => match queue.next_completion() {
                Ok(Some(done)) => assert!(out.remove(&done.into_buf().0.len())),
                Ok(None) => (),
                Err(fault) => assert_eq!(queue.fault(), Some(fault)),
            },
            _ => {
                let _ = (queue.arm_delayed(), queue.arm());
                queue.disarm();
            }
        }
        moves.extend((0..rng.below(3)).map(|_| hostile.step()));
        let (inside, free) = (queue.outstanding(), queue.free());
        assert_eq!(usize::from(inside), out.len(), "seed {seed}: {moves:?}");
        if queue.fault().is_none() {
            assert_eq!(inside + free, size, "seed {seed}: {moves:?}");
        }
    }
    let broken = queue.fault().is_some();
    drop(hostile);
    let left: BTreeSet<_> = stop(live, queue).iter().map(|buf| buf.0.len()).collect();
    assert_eq!(left, out, "seed {seed}: {moves:?}");
    broken
}

#[test]
fn a_seeded_villain_meets_buffers_of_one_segment() {
    let (seeds, rounds) = if cfg!(miri) { (4, 60) } else { (400, 200) };
    let mut broken = 0;
    for seed in 0..seeds {
        let platform = Bouncing::new();
        broken += u64::from(survives_singles(&platform, platform.bus(), seed, rounds));
        platform.assert_no_leaks();
        let platform = InPlace::new();
        broken += u64::from(survives_singles(&platform, platform.bus(), seed, rounds));
        platform.assert_no_leaks();
    }
    assert!(
        cfg!(miri) || broken > seeds,
        "only {broken} runs met a fault"
    );
}
