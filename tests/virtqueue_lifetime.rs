//! Who owns what until when: bug classes 48 to 58, cells, proofs, drops and leaks.

#[path = "support/queue.rs"]
mod rig;
mod support;

use std::alloc::Layout;
use std::mem::forget;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vring::buffer::{DmaBuf, RawBuf, Readable, Segment, Window, Writable};
use vring::init::{self, InitFailure, Negotiated, PendingQueue, QueueConfig, QueueError};
use vring::platform::{Access, Direction, DmaError, Mapping, Platform, RawRegion, Wait};
use vring::ring::layout::vring_size;
use vring::testing::{
    Bouncing, Discontiguous, Event, Fake, FakeDevice, FakeTransport, InPlace, Kind, POISON,
    ResetAnswer,
};
use vring::transport::{DeviceId, QueueIndex, Status};
use vring::virtqueue::{Fault, Reject, Virtqueue};

use rig::{
    Chunks, Maker, Part, R, Rig, W, config, descriptors, device, every_platform, few, maps, reply,
    scaled,
};
use support::{FEATURES, Q, Ring, every_ring, start, stop};

// Class 48 is of blocking calls, which there are none of: `submit` takes the buffer, so that no borrow
// can end while the device has it. Futures have tests of their own, in `futures`.

#[test]
fn bug_class_49_whatever_is_forgotten_the_device_goes_on_safely() {
    every_ring!(forgotten);
}

fn forgotten<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(8, 65_533));
    for _ in 0..4 {
        let buf = rig.maker.chain(2);
        rig.queue.submit(buf).unwrap();
    }
    let _never_sent = rig.queue.kick_prepare();
    assert_eq!(
        rig.device.serve(Q, |queue, chain| reply(queue, chain, 1)),
        4
    );
    forget(rig.queue.next_completion());
    assert_eq!(rig.queue.free(), 2, "the slot is free all the same");
    let device = rig.device.clone();
    forget(rig.queue);
    forget(rig.live);
    // The device finds everything where it was, buffers too.
    assert_eq!(device.serve(Q, |queue, chain| reply(queue, chain, 1)), 0);
    device.with_queue(Q, |queue| queue.should_interrupt());
    device.assert_clean();
    assert_eq!(rig.maker.alive(), 4, "not one was dropped");
}

#[test]
fn bug_class_50_a_ticket_or_notification_dropped_unused_keeps_no_slot() {
    let platform = InPlace::new();
    let mut rig = Rig::new(&platform, FEATURES[0], &config(4, 0));
    for _ in 0..scaled(20, 4) {
        let buf = rig.maker.chain(4);
        let _ = rig.queue.submit(buf).unwrap();
        let _ = rig.queue.kick_prepare();
        assert_eq!(rig.serve_and_drain(), 1);
    }
    rig.full_round();
    rig.finish(0);
}

#[test]
fn bug_class_51_when_the_nth_map_fails_the_queue_is_as_it_was() {
    every_ring!(nth_map_fails);
}

fn nth_map_fails<K: Kind>(platform: &Fake<K>, ring: Ring) {
    // Five segments; in pages of 16 bytes the middle one takes at least three mappings.
    let shape = [(R, 3), (R, 1), (W, 48), (W, 2), (W, 1)];
    for busy in few(&[2, 0], 1) {
        for nth in (1..=5).step_by(scaled(1, 2)) {
            let mut rig = Rig::new(platform, ring.features, &config(16, 65_534));
            for _ in 0..busy {
                let buf = rig.maker.chain(1);
                rig.queue.submit(buf).unwrap();
            }
            rig.queue.publish();
            let before = rig.snapshot();
            platform.fail_nth_map(nth);
            let buf = rig.maker.chunks(&shape);
            let number = buf.number;
            let rejected = rig.queue.submit(buf).unwrap_err();
            assert!(matches!(
                rejected.why,
                Reject::Map(DmaError::OutOfMemory { .. })
            ));
            assert_eq!(rejected.buf.number, number);
            assert_eq!(rig.snapshot(), before, "map {nth}");
            rejected.buf.check(0);
            // And now it works.
            let burst = rig.queue.submit_burst(&mut std::iter::once(rejected.buf));
            assert_eq!(burst.unwrap(), 1);
            rig.queue.kick();
            assert_eq!(rig.serve_and_drain(), busy + 1);
            rig.full_round();
            rig.finish(0);
        }
    }
}

#[test]
fn bug_class_51_when_there_is_no_bounce_space_nothing_is_kept() {
    let platform = Bouncing::with_space(100);
    let mut rig = Rig::new(&platform, FEATURES[0], &config(16, 0));
    let before = rig.snapshot();
    for shape in [vec![(R, 101)], vec![(R, 60), (W, 41)], vec![(R, 1); 16]] {
        let fits = shape.iter().map(|&(_, len)| len).sum::<usize>() <= 100;
        let buf = rig.maker.chunks(&shape);
        assert_eq!(rig.queue.submit(buf).is_ok(), fits);
        if fits {
            rig.queue.kick();
            assert_eq!(rig.serve_and_drain(), 1);
        } else {
            assert_eq!(rig.snapshot(), before);
        }
    }
    rig.finish(0);
}

/// A platform that panics in the `n`th map from now.
#[derive(Clone, Debug)]
struct Panics<P>(P, Arc<AtomicU32>);

// SAFETY: it is the one within, or panics.
unsafe impl<P: Platform> Platform for Panics<P> {
    const DIRECT: bool = P::DIRECT;

    fn access(&self) -> Access {
        self.0.access()
    }
    fn alloc(&self, layout: Layout) -> Result<RawRegion, DmaError> {
        self.0.alloc(layout)
    }
    unsafe fn dealloc(&self, region: RawRegion) {
        // SAFETY: as for us.
        unsafe { self.0.dealloc(region) }
    }
    unsafe fn map(&self, buf: NonNull<[u8]>, direction: Direction) -> Result<Mapping, DmaError> {
        let left = self.1.load(Ordering::Relaxed);
        assert_ne!(left, 1, "the platform panics");
        self.1.store(left.saturating_sub(1), Ordering::Relaxed);
        // SAFETY: as for us.
        unsafe { self.0.map(buf, direction) }
    }
    unsafe fn unmap(&self, mapping: Mapping, direction: Direction, used: u32) {
        // SAFETY: as for us.
        unsafe { self.0.unmap(mapping, direction, used) }
    }
    fn wait(&self, what: Wait, polls: u32) -> bool {
        self.0.wait(what, polls)
    }
    fn leaked(&self, bytes: usize, buffers: usize) {
        self.0.leaked(bytes, buffers);
    }
}

#[test]
fn a_platform_that_panics_leaves_the_queue_whole() {
    every_ring!(panicking_platform);
}

fn panicking_platform<K: Kind>(fake: &Fake<K>, ring: Ring) {
    for (nth, shape) in [
        (1, vec![(W, 1)]),
        (1, vec![(R, 1), (W, 1)]),
        (2, vec![(R, 1), (W, 1)]),
        (3, vec![(R, 1), (R, 1), (W, 1)]),
    ] {
        for burst in [false, true] {
            let platform = Panics(fake.clone(), Arc::default());
            let config = config(8, 65_535);
            let device = device(fake, ring.features, &config);
            let (live, mut queue) = start::<_, Chunks>(&platform, &device, &config);
            let mut maker = Maker::new();
            queue.submit(maker.chain(2)).unwrap();
            queue.kick();
            let next = queue.submit(maker.chain(1)).unwrap();
            platform.1.store(nth, Ordering::Relaxed);
            let bad = maker.chunks(&shape);
            let outcome = catch_unwind(AssertUnwindSafe(|| match burst {
                true => queue
                    .submit_burst(&mut std::iter::once(bad))
                    .map(drop)
                    .is_ok(),
                false => queue.submit(bad).is_ok(),
            }));
            assert!(outcome.is_err());
            platform.1.store(0, Ordering::Relaxed);
            assert_eq!(
                maker.alive(),
                2,
                "the buffer went down with the call that had it"
            );
            assert_eq!(fake.counts().mappings, if maps(fake) { 3 } else { 0 });
            assert_eq!((queue.free(), queue.outstanding()), (5, 2));
            // The slot is idle: a device that names it is caught.
            queue.publish();
            let mut sent = 2;
            while queue.free() != 0 {
                queue.submit(maker.chain(1)).unwrap();
                sent += 1;
            }
            assert_eq!(sent, 7);
            queue.kick();
            device.serve(Q, |queue, chain| reply(queue, chain, 9));
            assert_eq!(queue.drain(|_| ()).unwrap(), sent);
            assert_eq!(maker.alive(), 0);
            let _ = next;
            assert_eq!(stop(live, queue).len(), 0);
            device.assert_clean();
            fake.assert_no_leaks();
        }
    }
}

#[test]
fn a_device_that_names_the_slot_of_a_submission_that_panicked_is_caught() {
    let platform = Panics(InPlace::new(), Arc::default());
    let config = config(4, 0);
    let device = device(&platform.0, FEATURES[0], &config);
    let (live, mut queue) = start::<_, Chunks>(&platform, &device, &config);
    let mut maker = Maker::new();
    queue.submit(maker.chain(1)).unwrap();
    queue.submit(maker.chain(1)).unwrap();
    queue.kick();
    platform.1.store(1, Ordering::Relaxed);
    let outcome = catch_unwind(AssertUnwindSafe(|| queue.submit(maker.chain(1)).is_ok()));
    assert!(outcome.is_err());
    device.with_queue(Q, |queue| queue.forge_used(2, 0));
    let fault = queue.next_completion().map(drop).unwrap_err();
    assert_eq!(fault, Fault::UsedIdNotInFlight { id: 2 });
    assert_eq!(stop(live, queue).len(), 2);
}

/// A platform that panics once in `unmap`, when it is done.
#[derive(Clone, Debug)]
struct PanicsInUnmap(Bouncing, Arc<AtomicU32>);

// SAFETY: it is the one within, or panics.
unsafe impl Platform for PanicsInUnmap {
    const DIRECT: bool = false;

    fn alloc(&self, layout: Layout) -> Result<RawRegion, DmaError> {
        self.0.alloc(layout)
    }
    unsafe fn dealloc(&self, region: RawRegion) {
        // SAFETY: as for us.
        unsafe { self.0.dealloc(region) }
    }
    unsafe fn map(&self, buf: NonNull<[u8]>, direction: Direction) -> Result<Mapping, DmaError> {
        // SAFETY: as for us.
        unsafe { self.0.map(buf, direction) }
    }
    unsafe fn unmap(&self, mapping: Mapping, direction: Direction, used: u32) {
        // SAFETY: as for us.
        unsafe { self.0.unmap(mapping, direction, used) };
        assert_eq!(self.1.swap(0, Ordering::Relaxed), 0, "the platform panics");
    }
}

#[test]
fn bug_class_51_a_platform_that_panics_while_a_failure_is_undone_leaves_the_queue_whole() {
    let platform = PanicsInUnmap(Bouncing::new(), Arc::default());
    let config = config(4, 65_535);
    let device = device(&platform.0, FEATURES[0], &config);
    let (live, mut queue) = start::<_, Chunks>(&platform, &device, &config);
    let mut maker = Maker::new();
    // Every slot has had a chain: their records are of chains that were published.
    for _ in 0..4 {
        queue.submit(maker.chain(1)).unwrap();
    }
    queue.kick();
    device.serve(Q, |queue, chain| reply(queue, chain, 1));
    assert_eq!(queue.drain(|_| ()).unwrap(), 4);

    platform.0.fail_nth_map(3);
    platform.1.store(1, Ordering::Relaxed);
    let bad = maker.chunks(&[(R, 1), (R, 1), (W, 1)]);
    let outcome = catch_unwind(AssertUnwindSafe(|| queue.submit(bad).is_ok()));
    assert!(outcome.is_err());
    assert_eq!(platform.0.counts().mappings, 0);
    assert_eq!(maker.alive(), 0, "the buffer went down with the call");
    assert_eq!((queue.free(), queue.outstanding()), (4, 0));
    // The slot is idle: the device cannot return what it was never given.
    device.violations().set_lenient();
    let idle = queue.submit(maker.chain(1)).unwrap().slot();
    queue.kick();
    device.with_queue(Q, |queue| queue.forge_used((idle ^ 1).into(), 0));
    let fault = queue.next_completion().map(drop).unwrap_err();
    let id = u32::from(idle ^ 1);
    assert_eq!(fault, Fault::UsedIdNotInFlight { id });
    assert_eq!(stop(live, queue).len(), 1);
    platform.0.assert_no_leaks();
}

/// A buffer that panics when it is dropped, once.
#[derive(Debug)]
struct Bomb(Box<[u8]>, Arc<AtomicU32>);

impl Drop for Bomb {
    fn drop(&mut self) {
        assert_eq!(self.1.swap(0, Ordering::Relaxed), 0, "the buffer panics");
    }
}

// SAFETY: the bytes are behind a box.
unsafe impl DmaBuf for Bomb {
    fn count(&self) -> usize {
        1
    }
    fn segment(&mut self, _: usize) -> Segment {
        let (ptr, len) = (NonNull::from(&mut self.0[..]).cast(), self.0.len());
        // SAFETY: as above.
        unsafe { Segment::new(ptr, len, W) }
    }
}

#[test]
fn bug_class_51_no_buffer_is_dropped_mapped_when_another_one_panics() {
    every_platform!(panicking_buffer);
}

fn panicking_buffer<K: Kind>(platform: &Fake<K>) {
    let config = config(8, 0);
    let device = device(platform, FEATURES[0], &config);
    let (live, mut queue) = start::<_, Bomb>(platform, &device, &config);
    let fuse = Arc::<AtomicU32>::default();
    for _ in 0..8 {
        let bomb = Bomb(vec![0; 4].into(), fuse.clone());
        queue.submit(bomb).unwrap();
    }
    queue.kick();
    let (_, proof) = live.reset().unwrap();
    let mut closed = queue.close(&proof).unwrap();
    drop(closed.next());
    fuse.store(1, Ordering::Relaxed);
    assert!(catch_unwind(AssertUnwindSafe(|| drop(closed))).is_err());
    assert_eq!(Arc::strong_count(&fuse), 1, "all are dropped");
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn bug_class_52_bytes_go_the_way_that_the_direction_says() {
    let platform = Bouncing::new();
    let mut rig = Rig::new(&platform, FEATURES[0], &config(8, 65_533));
    for used in (0..=12).step_by(scaled(1, 4)) {
        let buf = rig.maker.chunks(&[(R, 7), (W, 5), (W, 7)]);
        rig.queue.submit(buf).unwrap();
        rig.queue.kick();
        rig.device.with_queue(Q, |queue| {
            let chain = queue.pop().unwrap();
            assert_eq!(queue.write(&chain, &[0x11; 12]), 12);
            queue.complete(chain, used);
        });
        let done = rig.queue.next_completion().unwrap().unwrap();
        assert_eq!(done.written(), used);
        let buf = done.into_buf();
        // What is beyond `used` was never copied: neither the device's bytes nor the poison.
        let mut expected = vec![0x11; used as usize];
        expected.resize(12, 0xee);
        assert_eq!(buf.bytes(W), expected, "{used}");
        assert!(!expected.contains(&POISON));
        let sent: Vec<u8> = rig::pattern(buf.number).take(7).collect();
        assert_eq!(buf.bytes(R), sent, "what is read is not written");
    }
    rig.finish(0);
}

#[test]
fn bug_class_53_mappings_end_with_the_completion_not_before_and_not_after() {
    let platform = Bouncing::new();
    let mut rig = Rig::new(&platform, FEATURES[0], &config(8, 65_533));
    for _ in 0..3 {
        let buf = rig.maker.chain(2);
        rig.queue.submit(buf).unwrap();
    }
    assert_eq!(platform.counts().mappings, 6);
    rig.queue.kick();
    rig.device.serve(Q, |queue, chain| reply(queue, chain, 9));
    assert_eq!(platform.counts().mappings, 6, "the driver has not looked");
    for left in [4, 2, 0] {
        let done = rig.queue.next_completion().unwrap().unwrap();
        let written = done.written() as usize;
        done.into_buf().check(written);
        assert_eq!(platform.counts().mappings, left);
    }
    rig.finish(0);
}

#[test]
fn bug_class_54_a_queue_that_is_dropped_leaves_its_memory_to_the_device() {
    every_ring!(dropped_queue);
}

fn dropped_queue<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let before = platform.counts();
    let rig = Rig::new(platform, ring.features, &QueueConfig::new(8).cells(4, 3));
    let Rig {
        mut queue,
        mut maker,
        live,
        device,
        ..
    } = rig;
    for _ in 0..3 {
        queue.submit_with(&[1_u8, 2, 3], maker.chain(1)).ok();
    }
    let outstanding = usize::from(queue.outstanding());
    let expected = if ring.is_indirect() { 3 } else { 2 };
    assert_eq!(outstanding, expected, "three descriptors each, or one");
    queue.kick();
    drop(queue);
    let counts = platform.counts();
    let bytes = counts.region_bytes - before.region_bytes;
    assert!(bytes >= 8 * 16 + 8 * 32);
    assert_eq!(counts.leaked_bytes - before.leaked_bytes, bytes);
    assert_eq!(counts.leaked_buffers - before.leaked_buffers, outstanding);
    assert_eq!(maker.alive(), outstanding);
    // The device goes on: nothing that it reaches was freed.
    let served = device.serve(Q, |queue, chain| reply(queue, chain, 9));
    assert_eq!(served, outstanding);
    let (_, _proof) = live.reset().unwrap();
    let regions = if ring.is_indirect() { 3 } else { 2 };
    assert_eq!(
        platform.counts().regions,
        before.regions + regions,
        "never freed"
    );
    device.assert_clean();
}

fn negotiated<P: Platform + std::fmt::Debug>(
    platform: &P,
    device: &FakeDevice,
) -> Negotiated<P, FakeTransport> {
    let reset = init::reset(device.transport(), platform).unwrap();
    reset.negotiate(&Default::default()).unwrap()
}

#[test]
fn bug_class_54_a_pending_queue_that_is_dropped_leaks_and_says_so() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK);
    let mut negotiated = negotiated(&platform, &device);
    drop(negotiated.queue::<Chunks>(Q, &QueueConfig::new(8)).unwrap());
    let counts = platform.counts();
    assert_eq!(
        (counts.leaked_bytes, counts.leaked_buffers),
        (vring_size(8, 4).unwrap(), 0)
    );
    assert_eq!(counts.regions, 1);
    let live = negotiated.finish().unwrap();
    assert_eq!(
        device.with_queue(Q, |queue| queue.refresh()),
        Some(0),
        "it is there"
    );
    let _ = live.reset().unwrap();
}

/// Defends: LC-005, LC-006.
#[test]
fn bug_class_54_when_queue_k_fails_the_others_are_freed_by_the_proof() {
    every_platform!(queue_k_fails);
}

fn queue_k_fails<K: Kind>(platform: &Fake<K>) {
    for k in 0..4 {
        let mut sizes = [8; 5];
        sizes[k] = 0;
        // By a queue that the device does not have: the others may go on.
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).queues(&sizes);
        let mut half = negotiated(platform, &device);
        let mut pending = Vec::new();
        for index in 0..5 {
            match half.queue::<Chunks>(QueueIndex(index), &QueueConfig::new(8)) {
                Ok(queue) => pending.push(queue),
                Err(why) => assert_eq!(
                    why,
                    QueueError::Unavailable {
                        queue: QueueIndex(index)
                    }
                ),
            }
        }
        assert_eq!(pending.len(), 4);
        close_all(half, pending);

        // By a vector that the device does not have: it has been reset.
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
            .queues(&[8; 5])
            .vectors(Some(1));
        let mut half = negotiated(platform, &device);
        let mut pending = Vec::new();
        for index in 0..5 {
            let vector = u16::from(usize::from(index) == k);
            let config = QueueConfig::new(8).vector(Some(vector));
            let outcome = half.queue::<Chunks>(QueueIndex(index), &config);
            match (usize::from(index)).cmp(&k) {
                std::cmp::Ordering::Less => pending.push(outcome.unwrap()),
                std::cmp::Ordering::Equal => {
                    assert!(matches!(outcome, Err(QueueError::Transport(_))));
                    assert!(device.status().is_empty(), "it was reset");
                    let failed = |event: &Event| matches!(event, Event::Status(s) if s.contains(Status::FAILED));
                    assert!(device.events().iter().any(failed), "and told why");
                }
                std::cmp::Ordering::Greater => {
                    assert_eq!(outcome.unwrap_err(), QueueError::Failed);
                }
            }
        }
        assert_eq!(pending.len(), k);
        match k % 2 {
            0 => close_all(half, pending),
            _ => {
                let aborted = half.finish().unwrap_err();
                assert_eq!(aborted.why, InitFailure::Queue(QueueError::Failed));
                let proof = aborted.proof.unwrap();
                for queue in pending {
                    drop(queue.close(&proof).unwrap());
                }
            }
        }
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

fn close_all<P: Platform + std::fmt::Debug>(
    negotiated: Negotiated<P, FakeTransport>,
    pending: Vec<PendingQueue<P, Chunks>>,
) {
    let (_, proof) = negotiated.abort();
    let proof = proof.unwrap();
    for queue in pending {
        assert_eq!(queue.close(&proof).unwrap().count(), 0);
    }
}

#[test]
fn bug_class_54_when_any_allocation_fails_nothing_is_left_and_it_can_be_tried_again() {
    every_platform!(nth_alloc_fails);
}

fn nth_alloc_fails<K: Kind>(platform: &Fake<K>) {
    for nth in 1..=2 {
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK);
        let mut half = negotiated(platform, &device);
        let config = QueueConfig::new(8).cells(12, 1);
        platform.fail_nth_alloc(nth);
        let failed = half.queue::<Chunks>(Q, &config).unwrap_err();
        assert!(matches!(
            failed,
            QueueError::Memory(DmaError::OutOfMemory { .. })
        ));
        assert_eq!(platform.counts().regions, 0);
        let pending = half.queue::<Chunks>(Q, &config).unwrap();
        let live = half.finish().unwrap();
        let queue = pending.start(&live).unwrap();
        assert_eq!(stop(live, queue).len(), 0);
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

#[test]
fn bug_class_54_a_failed_queue_whose_reset_is_not_confirmed_is_leaked() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .queues(&[8, 8])
        .vectors(Some(1));
    let mut half = negotiated(&platform, &device);
    let first = half.queue::<Chunks>(Q, &QueueConfig::new(8)).unwrap();
    device.set_reset(ResetAnswer::Never);
    let config = QueueConfig::new(8).vector(Some(1));
    assert!(half.queue::<Chunks>(QueueIndex(1), &config).is_err());
    let size = vring_size(8, 4).unwrap();
    assert_eq!(platform.counts().leaked_bytes, size);
    let aborted = half.finish().unwrap_err();
    assert!(matches!(
        aborted.proof,
        Err(InitFailure::ResetNotConfirmed { .. })
    ));
    drop(first);
    assert_eq!(platform.counts().leaked_bytes, 2 * size);
    assert_eq!(platform.counts().regions, 2);
    // The transport is there to try again, and a new start is a new start.
    device.set_reset(ResetAnswer::After(2));
    let mut again = match init::reset(aborted.transport, &platform) {
        Ok(reset) => reset.negotiate(&Default::default()).unwrap(),
        Err(error) => panic!("{error}"),
    };
    let pending = again.queue::<Chunks>(Q, &QueueConfig::new(8)).unwrap();
    let live = again.finish().unwrap();
    let queue = pending.start(&live).unwrap();
    assert_eq!(stop(live, queue).len(), 0);
    assert_eq!(platform.counts().regions, 2);
}

/// Defends: LC-009.
#[test]
fn bug_class_55_no_memory_is_freed_before_the_device_has_stopped() {
    every_ring!(reset_before_free);
}

fn reset_before_free<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(8, 65_534));
    for _ in 0..3 {
        let buf = rig.maker.chain(2);
        rig.queue.submit(buf).unwrap();
    }
    rig.queue.kick();
    // The device works on while the driver waits for the reset.
    rig.device.set_reset(ResetAnswer::After(3));
    let device = rig.device.clone();
    let working = device.clone();
    platform.on_wait(move |what, _| {
        assert_eq!(what, Wait::Reset);
        working.with_queue(Q, |queue| {
            if let Some(chain) = queue.pop() {
                let len = reply(queue, &chain, 9);
                queue.complete(chain, len);
            }
        });
    });
    rig.finish(3);
    assert!(device.status().is_empty(), "it was waited for");
    assert!(device.with_queue(Q, |_| ()).is_none());
}

/// Defends: LC-001, LC-009.
#[test]
fn a_reset_that_is_not_confirmed_opens_nothing_and_can_be_tried_again() {
    every_ring!(reset_not_confirmed);
}

fn reset_not_confirmed<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let Rig {
        mut queue,
        mut maker,
        live,
        device,
        ..
    } = Rig::new(platform, ring.features, &config(8, 65_534));
    for _ in 0..3 {
        queue.submit(maker.chain(2)).unwrap();
    }
    queue.kick();
    device.set_reset(ResetAnswer::Never);
    platform.set_patience(10);
    let mut live = live;
    for _ in 0..3 {
        let leaked = live.reset().unwrap_err();
        assert!(matches!(leaked.why, InitFailure::ResetNotConfirmed { .. }));
        live = leaked.live;
    }
    assert_eq!(device.serve(Q, |queue, chain| reply(queue, chain, 9)), 3);
    device.set_reset(ResetAnswer::After(5));
    assert_eq!(stop(live, queue).len(), 3);
    assert_eq!(maker.alive(), 0);
    platform.assert_no_leaks();
}

/// Defends: LC-009.
#[test]
fn the_wrong_proof_opens_nothing_and_gives_the_queue_back() {
    every_ring!(wrong_proof);
}

fn wrong_proof<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let mut one = Rig::new(platform, ring.features, &config(8, 0));
    let other = Rig::new(platform, ring.features, &config(8, 0));
    let buf = one.maker.chain(3);
    one.queue.submit(buf).unwrap();
    one.queue.kick();

    // Of another device.
    let (_, proof) = other.live.reset().unwrap();
    let queue = one.queue.close(&proof).unwrap_err();
    assert_eq!(queue.outstanding(), 1);
    drop(other.queue.close(&proof).unwrap());

    // Of an earlier and of a later time of the same device.
    let (transport, proof) = one.live.reset().unwrap();
    let again = init::reset(transport, platform).unwrap();
    let mut again = again.negotiate(&Default::default()).unwrap();
    let pending = again.queue::<Chunks>(Q, &QueueConfig::new(4)).unwrap();
    let pending = pending.close(&proof).unwrap_err();
    let live = again.finish().unwrap();
    let later = pending.start(&live).unwrap();
    let later = later.close(&proof).unwrap_err();
    let (_, later_proof) = live.reset().unwrap();
    let queue = queue.close(&later_proof).unwrap_err();
    assert_eq!(queue.close(&proof).unwrap().count(), 1);
    assert_eq!(later.close(&later_proof).unwrap().count(), 0);
    assert_eq!(one.maker.alive(), 0);
    platform.assert_no_leaks();
}

#[test]
fn a_pending_queue_starts_with_its_own_device_only() {
    let platform = InPlace::new();
    let device = |n| FakeDevice::new(platform.bus(), DeviceId::NETWORK).queues(&[n]);
    let (one, other) = (device(8), device(16));
    let (mut a, mut b) = (negotiated(&platform, &one), negotiated(&platform, &other));
    let of_a = a.queue::<Chunks>(Q, &QueueConfig::new(64)).unwrap();
    let of_b = b.queue::<Chunks>(Q, &QueueConfig::new(64)).unwrap();
    let (a, b) = (a.finish().unwrap(), b.finish().unwrap());
    let of_a = of_a.start(&b).unwrap_err();
    let of_b = of_b.start(&a).unwrap_err();
    let (of_a, of_b) = (of_a.start(&a).unwrap(), of_b.start(&b).unwrap());
    assert_eq!((of_a.size(), of_b.size()), (8, 16));
    stop(a, of_a);
    stop(b, of_b);
    platform.assert_no_leaks();
}

#[test]
fn the_transports_of_two_devices_cannot_be_exchanged() {
    // The reset of one would then free the rings of the other. `Live::transport_mut` has the
    // example that must not compile; here is why it does not: what is behind has no size to swap.
    let platform = InPlace::new();
    let mut rig = Rig::new(&platform, FEATURES[0], &config(4, 0));
    fn size<T>(_: T) -> usize {
        size_of::<T>()
    }
    let two_words = 2 * size_of::<usize>();
    assert_eq!(size(rig.live.transport_mut()), two_words);
    rig.finish(0);
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK);
    let mut reset = init::reset(device.transport(), &platform).unwrap();
    assert_eq!(size(reset.transport_mut()), two_words);
    let mut half = reset.negotiate(&Default::default()).unwrap();
    assert_eq!(size(half.transport_mut()), two_words);
}

#[test]
fn closing_and_dropping_half_way_frees_the_rest() {
    every_ring!(closed_half_way);
}

fn closed_half_way<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for taken in 0..4 {
        let Rig {
            mut queue,
            mut maker,
            live,
            ..
        } = Rig::new(platform, ring.features, &config(8, 65_534));
        for n in [1, 2, 3] {
            queue.submit(maker.chain(n)).unwrap();
        }
        queue.kick();
        let (_, proof) = live.reset().unwrap();
        let mut closed = queue.close(&proof).unwrap();
        let kept: Vec<_> = closed.by_ref().take(taken).collect();
        assert_eq!(kept.len(), taken.min(3));
        assert_eq!(maker.alive(), 3);
        drop(closed);
        assert_eq!(maker.alive(), kept.len());
        platform.assert_no_leaks();
    }
}

#[test]
fn a_broken_queue_gives_its_buffers_back_after_the_reset() {
    every_ring!(broken_queue);
}

fn broken_queue<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for unpublished in [false, true] {
        let mut rig = Rig::new(platform, ring.features, &config(8, 65_534));
        for n in [2, 1, 2] {
            let buf = rig.maker.chain(n);
            rig.queue.submit(buf).unwrap();
        }
        rig.queue.kick();
        if unpublished {
            let buf = rig.maker.chain(2);
            rig.queue.submit(buf).unwrap();
        }
        rig.device.with_queue(Q, |queue| match ring.is_packed() {
            true => queue.forge_used(9, 0),
            false => queue.forge_used_idx(9),
        });
        let fault = rig
            .queue
            .drain(|_| panic!("nothing came back"))
            .unwrap_err();
        let expected = match ring.is_packed() {
            true => Fault::UsedIdOutOfRange { id: 9, size: 8 },
            false => Fault::UsedIndex {
                seen: 9,
                last: 65_534,
                outstanding: 3,
            },
        };
        assert_eq!(fault, expected);
        let buf = rig.maker.parts(Vec::new());
        let rejected = rig.queue.submit(buf).unwrap_err();
        assert_eq!(
            rejected.why,
            Reject::Broken(fault),
            "no segments, and broken"
        );
        drop(rejected);
        let buf = rig.maker.chain(1);
        assert_eq!(
            rig.queue.submit(buf).unwrap_err().why,
            Reject::Broken(fault)
        );
        let buf = rig.maker.chain(1);
        let rejected = rig.queue.submit_with(&[1_u8], buf).unwrap_err();
        assert_eq!(rejected.why, Reject::Broken(fault));
        drop(rejected);
        let mut none_taken = std::iter::from_fn(|| -> Option<Chunks> { panic!("no room") });
        assert_eq!(rig.queue.submit_burst(&mut none_taken).unwrap(), 0);
        assert_eq!(rig.queue.counters().faults, 1);
        assert_eq!(rig.queue.free(), 0);
        let left = 3 + usize::from(unpublished);
        assert_eq!(usize::from(rig.queue.outstanding()), left);
        rig.queue.kick();
        assert!(rig.queue.arm());
        rig.queue.disarm();
        assert_eq!(rig.queue.next_completion().map(drop), Err(fault));
        rig.finish(left);
    }
}

// Cells.

#[test]
fn bug_class_56_headers_and_replies_have_cells_of_their_own() {
    every_ring!(cells);
}

fn cells<K: Kind>(platform: &Fake<K>, ring: Ring) {
    // Odd sizes, so that nothing is aligned by luck (class 58).
    let mut rig = Rig::new(platform, ring.features, &config(16, 65_530).cells(13, 5));
    for round in 0..scaled(60, 3) as u8 {
        // The reply that is left is all ones where the device wrote nothing.
        let written = round % 6;
        for i in 0..3_u8 {
            let buf = rig.maker.chunks(&[(R, 1), (W, 1)]);
            rig.queue.submit_with(&[round ^ i; 13], buf).unwrap();
        }
        let each = descriptors(ring, 16, 4);
        assert_eq!(rig.queue.free(), 16 - 3 * each);
        rig.queue.kick();
        rig.device.with_queue(Q, |queue| {
            let mut chains: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
            assert_eq!(chains.len(), 3);
            if !ring.is_in_order() {
                chains.rotate_left(usize::from(round % 3));
            }
            for chain in chains {
                let lens: Vec<_> = chain
                    .segments()
                    .iter()
                    .map(|s| (s.direction, s.len))
                    .collect();
                assert_eq!(lens, [(R, 13), (R, 1), (W, 1), (W, 5)]);
                let read = queue.read(&chain);
                let i = read[0] ^ round;
                assert_eq!(read[..13], [round ^ i; 13]);
                let mut bytes = vec![i; 1 + usize::from(written)];
                bytes[0] = 0x42;
                let len = queue.write(&chain, &bytes);
                queue.push(chain, len);
            }
            queue.publish();
        });
        let count = rig.queue.drain(|done| {
            let i = (done.buf().number as u8 + 2) % 3;
            let mut expected = [0xff; 5];
            expected[..usize::from(written.min(5))].fill(i);
            assert_eq!(done.reply::<[u8; 5]>(), Some(expected));
            assert_eq!(
                done.reply::<[u8; 2]>().as_ref(),
                Some(expected[..2].try_into().unwrap())
            );
            assert_eq!(done.reply::<[u8; 6]>(), None, "larger than the cell");
            assert_eq!(done.written(), 1 + u32::from(written.min(5)));
            assert_eq!(done.buf().bytes(W), [0x42]);
        });
        assert_eq!(count.unwrap(), 3);
    }
    rig.full_round();
    rig.finish(0);
}

#[test]
fn a_reply_is_a_copy_that_the_device_cannot_change_afterwards() {
    let platform = Bouncing::new();
    let mut rig = Rig::new(&platform, FEATURES[0], &QueueConfig::new(4).cells(0, 4));
    let buf = rig.maker.chunks(&[(R, 1)]);
    rig.queue.submit_with(&[0_u8; 0], buf).unwrap();
    rig.queue.kick();
    let mut remote = rig.device.take_queue(Q).unwrap();
    let chain = remote.pop().unwrap();
    assert_eq!(chain.segments().len(), 2);
    let cell = chain.segments()[1].addr;
    remote.write(&chain, &[1, 2, 3, 4]);
    remote.complete(chain, 4);
    let done = rig.queue.next_completion().unwrap().unwrap();
    let reply = done.reply::<[u8; 4]>().unwrap();
    platform.bus().write(cell, &[9; 4]);
    assert_eq!(reply, [1, 2, 3, 4]);
    assert_eq!(
        done.reply::<[u8; 4]>(),
        Some([9; 4]),
        "each call is a new copy"
    );
    drop((done, remote));
    rig.finish(0);
}

#[test]
fn a_plain_submission_has_no_cells_and_no_reply() {
    every_ring!(plain_has_no_cells);
}

fn plain_has_no_cells<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &QueueConfig::new(8).cells(4, 4));
    let buf = rig.maker.chunks(&[(R, 1)]);
    rig.queue.submit(buf).unwrap();
    let buf = rig.maker.chunks(&[(R, 1)]);
    rig.queue.submit_with(&[7_u8; 4], buf).unwrap();
    let buf = rig.maker.chunks(&[(R, 1)]);
    rig.queue.submit_with(&[0_u8; 0], buf).unwrap();
    rig.queue.kick();
    let mut segments = Vec::new();
    rig.device.serve(Q, |queue, chain| {
        segments.push(chain.segments().len());
        queue.write(chain, &[1; 4])
    });
    assert_eq!(segments, [1, 3, 2]);
    let mut replies = Vec::new();
    rig.queue
        .drain(|done| replies.push(done.reply::<[u8; 4]>()))
        .unwrap();
    assert_eq!(replies, [None, Some([1; 4]), Some([1; 4])]);
    rig.finish(0);
}

#[test]
fn a_buffer_without_segments_goes_with_a_header_or_a_reply() {
    every_ring!(only_cells);
}

fn only_cells<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for (header, answer) in [(4_usize, 4_u16), (4, 0), (0, 4)] {
        let mut rig = Rig::new(platform, ring.features, &config(4, 65_535).cells(4, answer));
        for _ in 0..scaled(8, 2) {
            let buf = rig.maker.parts(Vec::new());
            rig.queue.submit_with(&[5_u8; 4][..header], buf).unwrap();
            rig.queue.kick();
            rig.device.serve(Q, |queue, chain| {
                assert_eq!(queue.read(chain), vec![5; header]);
                queue.write(chain, &[6; 4])
            });
            let done = rig.queue.next_completion().unwrap().unwrap();
            assert_eq!(done.reply(), (answer == 4).then_some([6_u8; 4]));
            assert_eq!(done.written(), answer.into());
        }
        let buf = rig.maker.parts(Vec::new());
        assert_eq!(
            rig.queue.submit(buf).unwrap_err().why,
            Reject::Empty { index: 0 }
        );
        rig.full_round();
        rig.finish(0);
    }
}

#[test]
fn a_header_that_is_too_large_is_refused() {
    every_ring!(header_too_large);
}

fn header_too_large<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for max in few(&[12, 0, 1], 1) {
        for answer in [0, 3] {
            let mut rig = Rig::new(
                platform,
                ring.features,
                &config(8, 65_535).cells(max, answer),
            );
            let before = rig.snapshot();
            let buf = rig.maker.chain(2);
            let rejected = rig.queue.submit_with(&[0_u8; 13], buf).unwrap_err();
            assert_eq!(rejected.why, Reject::Header { size: 13, max });
            assert_eq!(rig.snapshot(), before);
            let buf = rejected.buf;
            rig.queue
                .submit_with(&vec![0_u8; max.into()][..], buf)
                .unwrap();
            rig.queue.kick();
            rig.device.echo(Q);
            assert_eq!(rig.queue.drain(|_| ()).unwrap(), 1);
            rig.full_round();
            rig.finish(0);
        }
    }
}

#[test]
fn cells_count_as_descriptors() {
    every_ring!(cells_need_room);
}

fn cells_need_room<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let mut rig = Rig::new(platform, ring.features, &config(4, 65_535).cells(2, 2));
    let before = rig.snapshot();
    let buf = rig.maker.chain(3);
    let rejected = rig.queue.submit_with(&[0_u8; 2], buf).unwrap_err();
    assert_eq!(rejected.why, Reject::TooManySegments { needed: 5, most: 4 });
    assert_eq!(rig.snapshot(), before);
    rig.queue.submit_with(&[0_u8; 0], rejected.buf).unwrap();
    assert_eq!(rig.queue.free(), 4 - descriptors(ring, 4, 4));
    rig.finish(1);
}

// Pieces.

/// A block whose first byte is at a page's boundary, less `before`, and `len` bytes of it.
fn at_page(page: usize, before: usize, len: usize) -> Window<Box<[u8]>> {
    let block = vec![0_u8; len + 2 * page].into_boxed_slice();
    let start = block.as_ptr().addr().next_multiple_of(page) + page - before;
    let start = start - block.as_ptr().addr();
    Window::new(block, start, len)
}

/// Defends: SP-003.
#[test]
fn bug_class_57_a_buffer_that_crosses_pages_takes_a_descriptor_for_each() {
    let page = 16;
    for (before, len, pieces) in [
        (0, 16, 1),
        (0, 17, 2),
        (1, 1, 1),
        (1, 2, 2),
        (1, 17, 2),
        (1, 18, 3),
        (15, 16, 2),
        (0, 64, 4),
        (8, 64, 5),
    ] {
        for size in [4_u16, 8] {
            let platform = Discontiguous::new(page);
            let config = config(size, 65_535);
            let device = device(&platform, FEATURES[0], &config);
            let (live, mut queue) = start(&platform, &device, &config);
            let submitted = queue.submit(Writable(at_page(page, before, len)));
            if pieces > usize::from(size) {
                // One short: all that was mapped is unmapped.
                let rejected = submitted.unwrap_err();
                let needed = usize::from(size) + 1;
                assert_eq!(rejected.why, Reject::TooManySegments { needed, most: size });
                assert_eq!(platform.counts().mappings, 0);
                assert_eq!(queue.free(), size);
                assert_eq!(stop(live, queue).len(), 0);
                continue;
            }
            submitted.unwrap();
            assert_eq!(usize::from(queue.free()), usize::from(size) - pieces);
            queue.kick();
            let bytes: Vec<u8> = (1..=len as u8).collect();
            device.serve(Q, |queue, chain| {
                assert_eq!(chain.segments().len(), pieces);
                queue.write(chain, &bytes)
            });
            let done = queue.next_completion().unwrap().unwrap();
            assert_eq!(done.written() as usize, len);
            assert_eq!(done.into_buf().0.as_slice(), bytes);
            assert_eq!(platform.counts().mappings, 0);
            assert_eq!(stop(live, queue).len(), 0);
            platform.assert_no_leaks();
        }
    }
}

#[test]
fn bug_class_57_a_buffer_in_pieces_waits_for_room() {
    let platform = Discontiguous::new(16);
    let config = config(8, 0);
    let device = device(&platform, FEATURES[0], &config);
    let (live, mut queue) = start(&platform, &device, &config);
    queue.submit(Readable(at_page(16, 0, 80))).unwrap();
    assert_eq!(queue.free(), 3);
    let rejected = queue.submit(Readable(at_page(16, 1, 34))).unwrap_err();
    assert_eq!(rejected.why, Reject::Full { needed: 4, free: 3 });
    assert_eq!(platform.counts().mappings, 5);
    queue.submit(Readable(at_page(16, 0, 48))).unwrap();
    assert_eq!(queue.free(), 0);
    queue.kick();
    device.echo(Q);
    assert_eq!(queue.drain(|_| ()).unwrap(), 2);
    queue.submit(rejected.buf).unwrap();
    assert_eq!(stop(live, queue).len(), 1);
    platform.assert_no_leaks();
}

#[test]
fn bug_class_57_cells_and_pieces_share_a_chain() {
    // A header, three pieces, a reply: five descriptors, and one short of it.
    for size in [4_u16, 8] {
        let platform = Discontiguous::new(16);
        let config = config(size, 0).cells(2, 1);
        let device = device(&platform, FEATURES[0], &config);
        let (live, mut queue) = start(&platform, &device, &config);
        let submitted = queue.submit_with(&[1_u8; 2], Writable(at_page(16, 1, 18)));
        if size == 4 {
            let rejected = submitted.unwrap_err();
            assert_eq!(
                rejected.why,
                Reject::TooManySegments {
                    needed: 5,
                    most: size
                }
            );
            assert_eq!((platform.counts().mappings, queue.free()), (0, 4));
            let buf = rejected.buf;
            queue.submit(buf).unwrap();
            assert_eq!(stop(live, queue).len(), 1);
        } else {
            submitted.unwrap();
            assert_eq!(queue.free(), 3);
            queue.kick();
            let bytes: Vec<u8> = (1..=19).collect();
            device.serve(Q, |queue, chain| {
                assert_eq!(queue.read(chain), [1, 1]);
                queue.write(chain, &bytes)
            });
            let done = queue.next_completion().unwrap().unwrap();
            assert_eq!(done.reply::<u8>(), Some(19));
            assert_eq!(done.into_buf().0.as_slice(), &bytes[..18]);
            assert_eq!(stop(live, queue).len(), 0);
        }
        platform.assert_no_leaks();
    }
}

#[test]
fn bug_class_58_odd_addresses_and_lengths_are_no_trouble() {
    every_ring!(odd_addresses);
}

fn odd_addresses<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let config = config(8, 65_533);
    let device = device(platform, ring.features, &config);
    let (live, mut queue) = start(platform, &device, &config);
    for offset in (0..8).step_by(scaled(1, 3)) {
        for len in (1..8).step_by(scaled(1, 3)) {
            let block = |byte: u8| Window::new(vec![byte; 16], offset, len);
            queue
                .submit((Readable(block(3)), Writable(block(4))))
                .unwrap();
            queue.kick();
            device.echo(Q);
            let (read, written) = queue.next_completion().unwrap().unwrap().into_buf();
            assert_eq!(read.0.as_slice(), written.0.as_slice());
            let whole = written.0.into_memory();
            assert_eq!(whole.iter().filter(|&&b| b == 4).count(), 16 - len);
        }
    }
    assert_eq!(stop(live, queue).len(), 0);
    platform.assert_no_leaks();
}

// What can be lent.

#[test]
fn raw_memory_arrays_and_tuples_make_chains() {
    every_ring!(shapes);
}

fn shapes<K: Kind>(platform: &Fake<K>, ring: Ring) {
    type Shape = (
        Readable<&'static [u8]>,
        [Readable<Vec<u8>>; 3],
        (Writable<Box<[u8; 2]>>, [Writable<&'static mut [u8; 1]>; 2]),
    );
    let config = config(16, 65_533);
    let device = device(platform, ring.features, &config);
    let (live, mut queue) = start::<_, Shape>(platform, &device, &config);
    let leak = |byte: u8| Writable(&mut *Box::leak(Box::new([byte])));
    for _ in 0..scaled(8, 3) {
        let buf = (
            Readable(b"ab".as_slice()),
            [vec![b'c'], vec![b'd'], vec![b'e']].map(Readable),
            (Writable(Box::new([0; 2])), [leak(0), leak(0)]),
        );
        queue.submit(buf).unwrap();
        assert!(
            queue.free() <= 9,
            "a descriptor for each, or more across pages"
        );
        queue.kick();
        assert_eq!(device.echo(Q), 1);
        let done = queue.next_completion().unwrap().unwrap();
        assert_eq!(done.written(), 4);
        let (_, _, (Writable(two), ones)) = done.into_buf();
        assert_eq!((*two, *ones[0].0, *ones[1].0), (*b"ab", *b"c", *b"d"));
    }
    assert_eq!(stop(live, queue).len(), 0);
    platform.assert_no_leaks();
}

#[test]
fn raw_memory_is_lent_and_comes_back() {
    every_ring!(raw_memory);
}

fn raw_memory<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let config = config(4, 65_535);
    let device = device(platform, ring.features, &config);
    let (live, mut queue) = start::<_, (RawBuf, RawBuf)>(platform, &device, &config);
    let ask = NonNull::from(Box::leak(Box::new([7_u8; 3])));
    let answer = NonNull::from(Box::leak(Box::new([0_u8; 3])));
    // SAFETY: the block is leaked here, and looked at only while it is not in the queue.
    let ask_buf = unsafe { RawBuf::new(ask.cast(), 3, R) };
    // SAFETY: as above.
    let answer_buf = unsafe { RawBuf::new(answer.cast(), 3, W) };
    queue.submit((ask_buf, answer_buf)).unwrap();
    queue.kick();
    assert_eq!(device.echo(Q), 1);
    let (ask_buf, answer_buf) = queue.next_completion().unwrap().unwrap().into_buf();
    assert_eq!(
        (ask_buf.segment().ptr(), ask_buf.segment().len()),
        (ask.cast(), 3)
    );
    assert_eq!(answer_buf.segment().direction(), W);
    // SAFETY: it came back.
    assert_eq!(unsafe { answer.read() }, [7; 3]);
    // SAFETY: it was leaked above, and is in no queue.
    drop(unsafe { Box::from_raw(ask.as_ptr()) });
    // SAFETY: as above.
    drop(unsafe { Box::from_raw(answer.as_ptr()) });
    assert_eq!(stop(live, queue).len(), 0);
    platform.assert_no_leaks();
}

#[test]
fn a_window_of_memory_whose_clone_is_shorter_stays_within_it() {
    // A type may be cloned to something smaller: nothing in `StableBytes` speaks of clones.
    #[derive(Debug)]
    struct Shrinks(Vec<u8>);
    impl Clone for Shrinks {
        fn clone(&self) -> Self {
            Self(self.0[..self.0.len() / 2].to_vec())
        }
    }
    // SAFETY: as for `Vec<u8>`.
    unsafe impl vring::buffer::StableBytes for Shrinks {
        fn bytes(&self) -> (NonNull<u8>, usize) {
            vring::buffer::StableBytes::bytes(&self.0)
        }
    }
    let window = Window::new(Shrinks((0..16).collect()), 4, 12);
    assert_eq!(window.as_slice().len(), 12);
    let clone = window.clone();
    assert_eq!(clone.as_slice(), [4, 5, 6, 7]);
    assert_eq!(clone.clone().as_slice(), []);
}

#[test]
fn a_region_of_no_bytes_is_refused() {
    let platform = InPlace::new();
    let layout = Layout::from_size_align(0, 16).unwrap();
    let error = vring::DmaRegion::alloc(&platform, layout)
        .map(drop)
        .unwrap_err();
    assert_eq!(error, DmaError::OutOfMemory { size: 0, align: 16 });
}

#[test]
fn queues_and_what_they_hand_out_may_change_threads() {
    fn sends<T: Send>() {}
    sends::<Virtqueue<InPlace, Writable<Vec<u8>>>>();
    sends::<Virtqueue<Bouncing, RawBuf>>();
    sends::<PendingQueue<InPlace, Writable<Vec<u8>>>>();
    sends::<vring::virtqueue::Closed<InPlace, Writable<Vec<u8>>>>();
    sends::<vring::virtqueue::Notification>();
    sends::<init::Quiesced>();
}

#[test]
fn phantom_parts_are_only_for_what_is_refused() {
    // Guards the guard: were a phantom ever touched, this would be an access to nothing.
    let mut maker = Maker::new();
    let buf = maker.parts(vec![Part::Phantom(W, 1)]);
    assert_eq!(buf.bytes(W), [0_u8; 0]);
}
