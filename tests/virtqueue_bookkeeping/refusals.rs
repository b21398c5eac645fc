//! Chains that the specification rules out are refused, and nothing changes: bug classes 12 to 14.

use vring::testing::{Fake, FakeDevice, InPlace, Kind};
use vring::transport::DeviceId;
use vring::virtqueue::Reject;

#[cfg(all(target_pointer_width = "64", not(miri)))]
use super::on_every_ring_in_place;
use crate::rig::{Part, R, Rig, W, config, few, scaled};
#[cfg(all(target_pointer_width = "64", not(miri)))]
use crate::support::Q;
use crate::support::{self, FEATURES, Ring, every_ring};

/// Submits a buffer that must be refused for `why`, on an empty and on a half full queue; nothing
/// changes, the buffer is the one that was given, and the queue works.
fn refused<K: Kind>(platform: &Fake<K>, ring: Ring, parts: fn() -> Vec<Part>, why: Reject) {
    for busy in few(&[3, 0], 1) {
        let mut rig = Rig::new(platform, ring.features, &config(8, 65_533));
        for _ in 0..busy {
            let buf = rig.maker.chain(1);
            rig.queue.submit(buf).unwrap();
            rig.queue.publish();
        }
        let before = rig.snapshot();
        for _ in 0..scaled(3, 1) {
            let buf = rig.maker.parts(parts());
            let (number, count) = (buf.number, buf.parts.len());
            let rejected = rig.queue.submit(buf).unwrap_err();
            assert_eq!(rejected.why, why);
            assert_eq!(rejected.buf.number, number);
            assert_eq!(rejected.buf.parts.len(), count);
            assert_eq!(rig.snapshot(), before);
            drop(rejected);
            assert_eq!(rig.maker.alive(), busy);

            let buf = rig.maker.parts(parts());
            let error = rig
                .queue
                .submit_burst(&mut std::iter::once(buf))
                .unwrap_err();
            assert_eq!((error.submitted, error.rejected.why), (0, why));
            assert_eq!(rig.snapshot(), before);
        }
        // The snapshots say it already; Miri takes a second for this.
        if !cfg!(miri) {
            rig.full_round();
        } else {
            assert_eq!(rig.serve_and_drain(), busy);
        }
        rig.finish(0);
    }
}

fn bytes(direction: vring::platform::Direction, len: usize) -> Part {
    Part::Bytes(direction, vec![7; len].into())
}

#[test]
fn bug_class_12_a_segment_of_no_bytes_is_refused() {
    fn first() -> Vec<Part> {
        vec![bytes(R, 0)]
    }
    fn second() -> Vec<Part> {
        vec![bytes(R, 1), bytes(W, 0), bytes(W, 1)]
    }
    fn last() -> Vec<Part> {
        vec![bytes(R, 9), bytes(R, 1), bytes(W, 0)]
    }
    fn none() -> Vec<Part> {
        Vec::new()
    }
    every_ring!(refused, first, Reject::Empty { index: 0 });
    every_ring!(refused, second, Reject::Empty { index: 1 });
    every_ring!(refused, last, Reject::Empty { index: 2 });
    every_ring!(refused, none, Reject::Empty { index: 0 });
}

#[test]
#[cfg(target_pointer_width = "64")]
fn bug_class_13_a_segment_of_4_gib_is_refused_and_not_touched() {
    fn only() -> Vec<Part> {
        vec![Part::Phantom(W, 1 << 32)]
    }
    fn behind() -> Vec<Part> {
        vec![bytes(R, 3), Part::Phantom(W, (1 << 32) + 5)]
    }
    fn endless() -> Vec<Part> {
        vec![Part::Phantom(R, isize::MAX as usize)]
    }
    every_ring!(refused, only, Reject::TooLong { bytes: 1 << 32 });
    every_ring!(
        refused,
        behind,
        Reject::TooLong {
            bytes: (1 << 32) + 5
        }
    );
    let bytes = isize::MAX as u64;
    every_ring!(refused, endless, Reject::TooLong { bytes });
}

/// Defends: SP-004.
#[test]
#[cfg(all(target_pointer_width = "64", not(miri)))] // pointers to memory that is not there
fn bug_class_13_a_chain_of_more_than_4_gib_is_refused() {
    // In place, nobody touches what is only named.
    fn two() -> Vec<Part> {
        vec![Part::Phantom(W, 3 << 30), Part::Phantom(W, 3 << 30)]
    }
    on_every_ring_in_place(|platform, ring| {
        refused(platform, ring, two, Reject::TooLong { bytes: 6 << 30 });
    });
    fn three() -> Vec<Part> {
        vec![
            bytes(R, 1),
            Part::Phantom(W, u32::MAX as usize),
            bytes(W, 1),
        ]
    }
    let bytes = (1 << 32) + 1;
    on_every_ring_in_place(|platform, ring| {
        refused(platform, ring, three, Reject::TooLong { bytes });
    });
}

#[test]
#[cfg(all(target_pointer_width = "64", not(miri)))] // pointers to memory that is not there
fn bug_class_13_lengths_up_to_4_gib_reach_the_device_whole() {
    on_every_ring_in_place(long_lengths);
}

#[cfg(all(target_pointer_width = "64", not(miri)))]
fn long_lengths(platform: &InPlace, ring: Ring) {
    for len in [0x7fff_ffff_u32, 0x8000_0000, 0x8000_0001, u32::MAX] {
        let mut rig = Rig::new(platform, ring.features, &config(4, 0));
        let buf = rig
            .maker
            .parts(vec![bytes(R, 1), Part::Phantom(W, len as usize)]);
        rig.queue.submit(buf).unwrap();
        rig.queue.kick();
        rig.device.with_queue(Q, |queue| {
            let chain = queue.pop().unwrap();
            assert_eq!(chain.segments()[1].len, len);
            assert_eq!(chain.writable(), u64::from(len));
            queue.complete(chain, len);
        });
        let done = rig.queue.next_completion().unwrap().unwrap();
        assert_eq!((done.written(), done.claimed()), (len, len));
        drop(done);
        assert_eq!(rig.queue.counters().overruns, 0);
        rig.finish(0);
    }
}

#[test]
fn bug_class_13_raw_memory_of_4_gib_is_refused() {
    use vring::buffer::RawBuf;
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(FEATURES[0]);
    let (live, mut queue) = support::start(&platform, &device, &config(4, 0));
    let mut byte = 0_u8;
    let ptr = std::ptr::NonNull::from(&mut byte);
    #[cfg(target_pointer_width = "64")]
    for len in [1 << 32, isize::MAX as usize] {
        // SAFETY: it is refused, and nobody looks at the memory, which is not there.
        let buf = unsafe { RawBuf::new(ptr, len, W) };
        let rejected = queue.submit(buf).unwrap_err();
        assert_eq!(rejected.why, Reject::TooLong { bytes: len as u64 });
        assert_eq!(rejected.buf.segment().ptr(), ptr);
        assert_eq!(rejected.buf.segment().len(), len);
    }
    // SAFETY: as above.
    let buf = unsafe { RawBuf::new(ptr, 0, W) };
    let rejected = queue.submit(buf).unwrap_err();
    assert_eq!(rejected.why, Reject::Empty { index: 0 });
    assert_eq!(platform.counts().maps, 0);
    assert_eq!(support::stop(live, queue).len(), 0);
    platform.assert_no_leaks();
}

/// Defends: SP-002, PK-007.
#[test]
fn bug_class_14_readable_behind_writable_is_refused() {
    fn two() -> Vec<Part> {
        vec![bytes(W, 1), bytes(R, 1)]
    }
    fn three() -> Vec<Part> {
        vec![bytes(R, 1), bytes(W, 40), bytes(R, 1)]
    }
    every_ring!(refused, two, Reject::Order { index: 1 });
    every_ring!(refused, three, Reject::Order { index: 2 });
}
