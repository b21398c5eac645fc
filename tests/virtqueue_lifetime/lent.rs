//! What can be lent to a queue: arrays, tuples, raw memory, windows, and from which thread.

use std::alloc::Layout;
use std::ptr::NonNull;

use vring::buffer::{RawBuf, Readable, Window, Writable};
use vring::init::{self, PendingQueue};
use vring::platform::DmaError;
use vring::testing::{Bouncing, Fake, InPlace, Kind};
use vring::virtqueue::Virtqueue;

use crate::rig::{Maker, Part, R, W, config, device, scaled};
use crate::support::{Q, Ring, every_ring, start, stop};

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
