//! Platforms and buffers that panic in the middle of a call: bug class 51.

use std::alloc::Layout;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vring::buffer::{DmaBuf, Segment};
use vring::platform::{Access, Direction, DmaError, Mapping, Platform, RawRegion, Wait};
use vring::testing::{Bouncing, Fake, InPlace, Kind};
use vring::virtqueue::Fault;

use crate::rig::{Chunks, Maker, R, W, config, device, every_platform, maps, reply};
use crate::support::{FEATURES, Q, Ring, every_ring, start, stop};

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
