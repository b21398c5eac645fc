#![cfg(feature = "test-util")]

use std::boxed::Box;
use std::time::{Duration, Instant};
use std::vec;

use super::{Reject, Virtqueue};
use crate::buffer::Writable;
use crate::features::{Feature, Features, Wish};
use crate::init::{self, Live, QueueConfig};
use crate::mmio::strong_fences;
use crate::testing::{FakeDevice, FakeTransport, InPlace};
use crate::transport::{DeviceId, QueueIndex};

const Q: QueueIndex = QueueIndex(0);

type Buffer = Writable<Box<[u8]>>;
type Started = (
    FakeDevice,
    Live<InPlace, FakeTransport>,
    Virtqueue<InPlace, Buffer>,
);

fn start(platform: &InPlace, features: Features) -> Started {
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(features);
    let wish = Wish {
        want: features,
        ..Wish::default()
    };
    let reset = init::reset(device.transport(), platform).unwrap();
    let mut negotiated = reset.negotiate(&wish).unwrap();
    let pending = negotiated.queue(Q, &QueueConfig::new(4)).unwrap();
    let live = negotiated.finish().unwrap();
    let queue = pending.start(&live).unwrap();
    (device, live, queue)
}

fn buffer() -> Buffer {
    Writable(vec![0; 8].into_boxed_slice())
}

/// Looks until it sees what it waits for, and at nothing else: a load that the compiler may move
/// out of the loop would be seen by nobody, and Miri sees a load that races.
fn look(what: &str, mut look: impl FnMut() -> bool) {
    let began = Instant::now();
    while !look() {
        assert!(began.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::yield_now();
    }
}

const RINGS: [Features; 4] = [
    Features::of(&[Feature::VERSION_1]),
    Features::of(&[Feature::VERSION_1, Feature::EVENT_IDX]),
    Features::of(&[Feature::VERSION_1, Feature::RING_PACKED]),
    Features::of(&[Feature::VERSION_1, Feature::RING_PACKED, Feature::EVENT_IDX]),
];

#[test]
fn bug_class_31_every_look_is_a_load_of_its_own() {
    for features in RINGS {
        let platform = InPlace::new();
        let (device, live, mut queue) = start(&platform, features);
        for _ in 0..4 {
            queue.submit(buffer()).unwrap();
        }
        queue.publish();
        let mut remote = device.take_queue(Q).unwrap();
        let thread = std::thread::spawn(move || {
            while let Some(chain) = remote.pop() {
                std::thread::yield_now();
                remote.complete(chain, 0);
            }
        });
        look("an interrupt that is armed for", || queue.arm());
        let mut came = 0;
        look("single completions", || {
            came += usize::from(queue.next_completion().unwrap().is_some());
            came >= 2
        });
        look("drained completions", || {
            came += queue.drain(|_| ()).unwrap();
            came == 4
        });
        thread.join().unwrap();
        let (_, proof) = live.reset().unwrap();
        assert_eq!(queue.close(&proof).unwrap().count(), 0);
    }
}

#[test]
fn bug_class_21_and_32_elements_and_buffers_are_read_after_the_index_or_the_flags() {
    for features in RINGS {
        for _ in 0..if cfg!(miri) { 2 } else { 8 } {
            let platform = InPlace::new();
            let (device, live, mut queue) = start(&platform, features);
            for _ in 0..4 {
                queue.submit(buffer()).unwrap();
            }
            queue.publish();
            let mut remote = device.take_queue(Q).unwrap();
            let thread = std::thread::spawn(move || {
                let mut chains = vec![];
                while let Some(chain) = remote.pop() {
                    chains.push(chain);
                }
                // The other way round, so that an old element names the wrong one.
                for (n, chain) in (1..).zip(chains.into_iter().rev()) {
                    let len = remote.write(&chain, &vec![n; usize::from(n)]);
                    remote.complete(chain, len);
                }
            });
            let mut n = 0;
            look("completions", || {
                if let Some(done) = queue.next_completion().unwrap() {
                    n += 1;
                    let slot = done.ticket().slot();
                    assert_eq!((slot, done.written()), (4 - u16::from(n), u32::from(n)));
                    let mut expected = [0; 8];
                    expected[..usize::from(n)].fill(n);
                    assert_eq!(*done.into_buf().0, expected);
                }
                n == 4
            });
            thread.join().unwrap();
            let (_, proof) = live.reset().unwrap();
            assert_eq!(queue.close(&proof).unwrap().count(), 0);
        }
    }
}

/// Defends: FE-015.
#[test]
fn under_order_platform_every_order_is_one_for_hardware_too() {
    for ring in RINGS {
        for strong in [false, true] {
            let features = match strong {
                true => ring | Feature::ORDER_PLATFORM,
                false => ring,
            };
            let platform = InPlace::new();
            let (device, live, mut queue) = start(&platform, features);
            assert_eq!(live.features().has(Feature::ORDER_PLATFORM), strong);
            let n = u32::from(strong);
            let counted = |what: &str, expected: [u32; 3]| {
                assert_eq!(strong_fences(), expected.map(|e| e * n), "{what}: {ring}");
            };
            strong_fences();
            queue.submit(buffer()).unwrap();
            counted("nothing is published", [0, 0, 0]);
            queue.publish();
            counted("ring words, then index", [1, 0, 0]);
            queue.submit(buffer()).unwrap();
            assert!(queue.kick_prepare().is_some());
            counted("ring words, index, suppression word", [1, 0, 1]);
            device.serve(Q, |queue, chain| queue.write(chain, &[1; 8]));
            assert!(queue.next_completion().unwrap().is_some());
            counted("index, then element and buffer", [0, 1, 0]);
            assert_eq!(queue.drain(|_| ()), Ok(1));
            // A packed ring is looked at once more: only its flags say where what came back ends.
            let looks = if ring.has(Feature::RING_PACKED) { 2 } else { 1 };
            counted("index, then element and buffer", [0, looks, 0]);
            assert!(!queue.arm());
            counted("event word, then index", [0, 0, 1]);
            let (_, proof) = live.reset().unwrap();
            assert_eq!(queue.close(&proof).unwrap().count(), 0);
        }
    }
}

/// On any ring, though only legacy ones need it.
#[test]
fn a_buffer_that_is_cut_is_two_descriptors_of_one_memory() {
    for ring in RINGS {
        for features in [
            ring,
            ring | Feature::IN_ORDER,
            ring | Feature::INDIRECT_DESC,
        ] {
            let platform = InPlace::new();
            let (device, live, mut queue) = start(&platform, features);
            for (at, index) in [(0, 0), (8, 1), (9, 1), (usize::MAX, 1)] {
                let rejected = queue.submit_cut(at, buffer()).unwrap_err();
                assert_eq!(rejected.why, Reject::Empty { index });
            }
            for round in 1..=10 {
                // One of another kind between them, so that they start anywhere.
                queue.submit(buffer()).unwrap();
                queue.submit_cut(3, buffer()).unwrap();
                assert_eq!(queue.free(), 1);
                let (needed, free) = (2, 1);
                let rejected = queue.submit_cut(3, buffer()).unwrap_err();
                assert_eq!(rejected.why, Reject::Full { needed, free });
                queue.kick();
                let mut lens = vec![];
                device.serve(Q, |queue, chain| {
                    lens.push(vec![]);
                    let pieces = chain.segments().iter();
                    pieces.for_each(|piece| lens.last_mut().unwrap().push(piece.len));
                    // It writes after the buffer was moved into the queue.
                    queue.write(chain, &[round; 8])
                });
                assert_eq!(lens, [vec![8], vec![3, 5]], "{features}");
                for _ in 0..2 {
                    let done = queue.next_completion().unwrap().unwrap();
                    assert_eq!(done.written(), 8);
                    assert_eq!(*done.into_buf().0, [round; 8]);
                }
            }
            queue.submit_cut(7, buffer()).unwrap();
            let (_, proof) = live.reset().unwrap();
            assert_eq!(queue.close(&proof).unwrap().count(), 1);
            device.assert_clean();
            platform.assert_no_leaks();
        }
    }
}
