//! Frames in bursts, and queues that are published without a kick: on every ring, and on every kind
//! of platform; in pages of 1024 bytes a frame may take several descriptors.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use vring::buffer::Window;
use vring::device::net::{F, RECEIVE_QUEUE, RefillFailure, TRANSMIT_QUEUE};
use vring::features::Features;
use vring::platform::Platform;
use vring::testing::{Bouncing, Discontiguous, Fake, FakeDevice, InPlace, Kind};
use vring::virtqueue::{Fault, Reject};

use crate::support::{Naming, Ring};
use crate::wire::{
    Buffer, HEADER, Net, buffer, deliver, deliver_raw, device, driver, refill, scaled, take,
};

/// Runs a generic function on each kind of ring and of platform; where Miri does it, each ring has
/// one platform.
macro_rules! every_ring {
    ($f:ident) => {
        for (i, ring) in Ring::ALL.into_iter().enumerate() {
            let _naming = Naming(ring);
            if !cfg!(miri) || i % 2 == 0 {
                $f(&InPlace::new(), ring);
            }
            if !cfg!(miri) || i % 2 == 1 {
                $f(&Bouncing::new(), ring);
            }
            if !cfg!(miri) {
                $f(&Discontiguous::new(1024), ring);
            }
        }
    };
}

// Behind the macro, which it uses.
mod transmit;

/// A device with this ring and a driver with queues of these sizes.
fn start<K: Kind>(
    platform: &Fake<K>,
    ring: Ring,
    receive: u16,
    transmit: u16,
) -> (FakeDevice, Net<K>) {
    let features = ring.features | Features::of(&[F::MAC, F::STATUS, F::MTU]);
    let device = device(platform, features, 1500);
    let driver = driver(platform, &device, receive, transmit);
    (device, driver)
}

fn finish<K: Kind>(driver: Net<K>, platform: &Fake<K>, device: &FakeDevice, left: usize) {
    let mut back = 0;
    driver.shutdown(|_, _| back += 1).unwrap();
    assert_eq!(back, left);
    device.assert_clean();
    platform.assert_no_leaks();
}

/// A frame of 60 bytes in dirty memory.
fn frame(headroom: usize, byte: u8) -> Window<Buffer> {
    let mut memory = buffer(headroom + 60 + 7);
    memory.fill(0xee);
    let mut frame = Window::new(memory, headroom, 60);
    frame.as_mut_slice().fill(byte);
    frame
}

/// Bytes of headroom of frame number `i`: enough for a header, exactly enough, too few, none.
fn headroom(i: usize) -> usize {
    [HEADER + 9, 0, HEADER, HEADER - 1, HEADER, HEADER + 1, 1][i % 7]
}

fn frames(n: usize) -> impl Iterator<Item = Window<Buffer>> {
    (0..n).map(|i| frame(headroom(i), i as u8))
}

fn address(memory: &Buffer) -> usize {
    memory.as_ptr().addr()
}

fn is_direct<K: Kind>(_: &Fake<K>) -> bool {
    <Fake<K> as Platform>::DIRECT
}

/// Ends in a panic of the caller's, and of nobody else.
fn interrupted<R>(f: impl FnOnce() -> R) {
    let payload = catch_unwind(AssertUnwindSafe(f)).err().expect("a panic");
    assert!(payload.is::<Interrupted>(), "another panic");
}

/// What the caller panics with; quiet.
struct Interrupted;

fn interrupt() -> ! {
    resume_unwind(Box::new(Interrupted))
}

#[test]
fn a_receive_buffer_that_cannot_be_mapped_comes_back_with_how_many_went_before_it() {
    for ring in Ring::ALL {
        let _naming = Naming(ring);
        let platform = Bouncing::new();
        let (device, mut driver) = start(&platform, ring, 8, 8);
        let rx = driver.rx();
        let len = rx.buffer_len();
        platform.fail_nth_map(3);
        let mut blocks = (0..4).map(|i| buffer(len + i));
        let error = rx.refill(&mut blocks).unwrap_err();
        assert!(matches!(error.why, RefillFailure::Queue(Reject::Map(_))));
        assert_eq!((error.taken, error.buffer.len()), (2, len + 2));
        assert_eq!((blocks.len(), rx.counters().kicks), (1, 1));
        assert!(deliver(&device, b"one") && deliver(&device, b"two"));
        assert!(!deliver(&device, b"three"));
        finish(driver, &platform, &device, 2);
    }
}

#[test]
fn a_frame_that_was_received_goes_out_of_the_same_block_with_a_header_of_its_own() {
    every_ring!(echoed);
}

fn echoed<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let (device, mut driver) = start(platform, ring, 64, 64);
    let (rx, tx, _) = driver.parts();
    let len = rx.buffer_len();
    let given = rx.refill(&mut (0..6).map(|_| buffer(len))).unwrap();
    assert_eq!(given, 6);
    for round in 0..5_u8 {
        for i in 0..6 {
            // A header that says a lot, and none of it is to be said back.
            let mut bytes = vec![0xff; HEADER];
            bytes.extend([round ^ i; 70]);
            assert!(deliver_raw(&device, &bytes, bytes.len() as u32));
        }
        let mut came = Vec::new();
        assert_eq!(rx.receive_burst(|frame| came.push(frame)), Ok(6));
        assert_eq!(tx.transmit_burst(&mut came.into_iter()).unwrap(), 6);
        tx.kick();
        for i in 0..6 {
            let (header, bytes, _) = take(&device).unwrap();
            assert_eq!((header, bytes), (vec![0; HEADER], vec![round ^ i; 70]));
        }
        let mut done = Vec::new();
        assert_eq!(tx.reclaim(|memory| done.push(memory)), Ok(6));
        assert_eq!(rx.refill(&mut done.into_iter()).unwrap(), 6);
    }
    finish(driver, platform, &device, 6);
}

#[test]
fn an_iterator_that_panics_leaves_what_it_gave_on_its_way() {
    every_ring!(panicking_iterators);
}

fn panicking_iterators<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for good in (0..5).step_by(scaled(1, 3)) {
        let (device, mut driver) = start(platform, ring, 32, 32);
        let (rx, tx, _) = driver.parts();
        let len = rx.buffer_len();
        interrupted(|| {
            let fresh = (0..).map(|i| if i < good { buffer(len) } else { interrupt() });
            rx.refill(&mut { fresh }).map(drop)
        });
        interrupted(|| {
            let fresh = (0..).map(|i| match i < good {
                true => frame(headroom(i), i as u8),
                false => interrupt(),
            });
            tx.transmit_burst(&mut { fresh }).map(drop)
        });
        assert_eq!(usize::from(tx.outstanding()), good);
        assert_eq!(rx.counters().submitted, good as u64);
        rx.kick();
        tx.kick();
        for i in 0..good as u8 {
            assert!(deliver(&device, &[i; 20]));
            assert_eq!(take(&device).unwrap().1, [i; 60]);
        }
        assert!(!deliver(&device, &[9; 20]) && take(&device).is_none());
        assert_eq!(rx.receive_burst(drop), Ok(good));
        assert_eq!(tx.reclaim(drop), Ok(good));
        finish(driver, platform, &device, 0);
    }
}

#[test]
fn a_closure_that_panics_loses_only_the_frame_that_it_was_given() {
    every_ring!(panicking_closure);
}

fn panicking_closure<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for good in (0..4_usize).step_by(scaled(1, 2)) {
        let (device, mut driver) = start(platform, ring, 32, 8);
        let given = refill(&mut driver);
        // A runt is among them, and is counted once.
        for i in 0..4 {
            let len = [HEADER + 20, 5, HEADER + 20, HEADER + 20][usize::from(i)];
            assert!(deliver_raw(&device, &[i; HEADER + 20], len as u32));
        }
        let rx = driver.rx();
        let mut came = Vec::new();
        interrupted(|| {
            rx.receive_burst(|frame| {
                if came.len() == good {
                    interrupt();
                }
                came.push(frame);
            })
        });
        let after = rx.receive_burst(|frame| came.push(frame));
        assert_eq!(after, Ok(3 - good));
        assert_eq!((rx.runts(), rx.counters().completed), (1, 4));
        let expected = (0..4).filter(|&i| usize::from(i) != good);
        for (i, frame) in expected.zip(&came) {
            assert_eq!(frame.as_slice(), vec![i; if i == 1 { 0 } else { 20 }]);
        }
        // The blocks go back, and work.
        let mut blocks = came.into_iter().map(Window::into_memory);
        assert_eq!(rx.refill(&mut blocks).unwrap(), 3);
        assert!(deliver(&device, b"on and on"));
        let frame = rx.receive().unwrap().unwrap();
        assert_eq!(frame.as_slice(), b"on and on");
        finish(driver, platform, &device, given - 2);
    }
}

#[test]
fn bug_class_38_hostile_lengths_in_a_burst_are_cut_and_counted_and_lose_nothing() {
    every_ring!(odd_lengths);
}

/// Lengths that are too short for a header, right, and beyond the buffer of 1526 bytes.
const LENGTHS: [u32; 11] = [0, 1, 9, 11, 12, 13, 1525, 1526, 1527, 65_535, u32::MAX];

fn odd_lengths<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let (device, mut driver) = start(platform, ring, 64, 8);
    let given = refill(&mut driver);
    assert!(given >= LENGTHS.len());
    let rx = driver.rx();
    let len = rx.buffer_len();
    for claimed in LENGTHS {
        assert!(deliver_raw(&device, &vec![0x33; len], claimed));
    }
    let mut came = Vec::new();
    let burst = rx.receive_burst(|frame| came.push(frame));
    assert_eq!(burst, Ok(LENGTHS.len()));
    for (claimed, frame) in LENGTHS.into_iter().zip(&came) {
        let expected = (claimed as usize).min(len).saturating_sub(HEADER);
        assert_eq!(frame.as_slice(), vec![0x33; expected], "{claimed}");
        assert_eq!(frame.headroom(), HEADER);
    }
    assert_eq!((rx.runts(), rx.counters().overruns), (4, 3));
    // They go back as they came.
    let mut blocks = came.into_iter().map(Window::into_memory);
    assert_eq!(rx.refill(&mut blocks).unwrap(), LENGTHS.len());
    finish(driver, platform, &device, given);
}

#[test]
fn a_burst_gives_what_single_calls_would() {
    every_ring!(same_as_single_calls);
}

fn same_as_single_calls<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let run = |burst: bool| {
        let (device, mut driver) = start(platform, ring, 64, 8);
        refill(&mut driver);
        let mut came = Vec::new();
        for (round, claimed) in [20, 3, 5000, 1526, 12].into_iter().enumerate() {
            let mut n = 0;
            device.with_queue(RECEIVE_QUEUE, |queue| {
                let popped = std::iter::from_fn(|| queue.pop());
                let chains: Vec<_> = popped.take(1 + round % 3).collect();
                n = chains.len();
                for (chain, byte) in chains.iter().zip(1..) {
                    queue.write(chain, &[byte; 1526]);
                }
                // In order, only the last one of them is named.
                if ring.is_in_order() {
                    queue.push_batch(chains, claimed);
                } else {
                    chains
                        .into_iter()
                        .for_each(|chain| queue.push(chain, claimed));
                }
                queue.publish();
            });
            let rx = driver.rx();
            let before = came.len();
            let mut note = |frame: Window<Buffer>| {
                came.push((frame.headroom(), frame.as_slice().to_vec()));
                frame.into_memory()
            };
            let mut blocks = Vec::new();
            if burst {
                let count = rx.receive_burst(|frame| blocks.push(note(frame)));
                assert_eq!(count, Ok(n));
            } else {
                while let Some(frame) = rx.receive().unwrap() {
                    blocks.push(note(frame));
                }
            }
            assert_eq!(came.len() - before, n);
            assert_eq!(rx.refill(&mut blocks.into_iter()).unwrap(), n);
        }
        let rx = driver.rx();
        (came, rx.runts(), rx.counters().overruns)
    };
    assert_eq!(run(true), run(false));
    platform.assert_no_leaks();
}

#[test]
fn a_burst_gives_what_came_before_a_fault_and_then_says_it() {
    every_ring!(faults);
}

fn faults<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let (device, mut driver) = start(platform, ring, 16, 8);
    device.violations().set_lenient();
    let given = refill(&mut driver);
    assert!(deliver(&device, b"one") && deliver(&device, b"two"));
    device.with_queue(RECEIVE_QUEUE, |queue| queue.forge_used(7777, 0));
    let rx = driver.rx();
    let mut came = Vec::new();
    let fault = rx.receive_burst(|frame| came.push(frame)).unwrap_err();
    assert!(matches!(fault, Fault::UsedIdOutOfRange { id: 7777, .. }));
    assert_eq!(
        (came[0].as_slice(), came[1].as_slice()),
        (&b"one"[..], &b"two"[..])
    );
    assert_eq!(rx.receive_burst(drop), Err(fault));
    // It takes nothing, and says so where it is asked.
    let mut blocks = came.into_iter().map(Window::into_memory);
    assert_eq!(rx.refill(&mut blocks).unwrap(), 0);
    assert_eq!(blocks.len(), 2);
    rx.publish();

    let tx = driver.tx();
    tx.transmit(frame(HEADER, 1)).unwrap();
    tx.kick();
    device.with_queue(TRANSMIT_QUEUE, |queue| queue.forge_used(7777, 0));
    let fault = tx.reclaim(drop).unwrap_err();
    let mut burst = frames(3);
    assert_eq!(tx.transmit_burst(&mut burst).unwrap(), 0);
    assert_eq!(burst.count(), 3);
    assert_eq!(tx.make_room(1, drop), Err(fault));
    tx.publish();
    let mut back = 0;
    driver.shutdown(|_, _| back += 1).unwrap();
    assert_eq!(back, given - 2 + 1);
    platform.assert_no_leaks();
}

#[test]
fn what_is_published_is_seen_by_a_device_that_polls_and_no_doorbell_rings() {
    every_ring!(published);
}

fn published<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let (device, mut driver) = start(platform, ring, 32, 32);
    let (rx, tx, _) = driver.parts();
    let len = rx.buffer_len();
    for round in 0..20 {
        let mut blocks = (0..3).map(|_| buffer(len));
        assert_eq!(rx.give_burst(&mut blocks).unwrap(), 3);
        assert!(!deliver(&device, b"too early"));
        assert_eq!(tx.transmit_burst(&mut frames(3)).unwrap(), 3);
        assert!(take(&device).is_none(), "not published");
        rx.publish();
        tx.publish();
        for i in 0..3 {
            assert!(deliver(&device, &[i ^ round; 30]));
            assert_eq!(take(&device).unwrap().1, [i; 60]);
        }
        assert_eq!(rx.receive_burst(drop), Ok(3));
        assert_eq!(tx.reclaim(drop), Ok(3));
    }
    assert_eq!((rx.counters().kicks, tx.counters().kicks), (0, 0));
    let kicks = || [RECEIVE_QUEUE, TRANSMIT_QUEUE].map(|queue| device.kicks(queue));
    assert_eq!(kicks(), [0, 0]);
    // A device that stops polling says so, and a kick makes up for what was only published.
    for queue in [RECEIVE_QUEUE, TRANSMIT_QUEUE] {
        device.with_queue(queue, |queue| assert!(!queue.enable_notifications()));
    }
    rx.give_burst(&mut std::iter::once(buffer(len))).unwrap();
    tx.transmit_burst(&mut frames(1)).unwrap();
    rx.publish();
    tx.publish();
    assert_eq!(kicks(), [0, 0]);
    rx.kick();
    tx.kick();
    assert_eq!(kicks(), [1, 1]);
    device.assert_kicked(RECEIVE_QUEUE);
    device.assert_kicked(TRANSMIT_QUEUE);
    finish(driver, platform, &device, 2);
}

#[test]
fn a_refill_is_one_burst_and_one_kick_also_when_a_buffer_is_too_small() {
    every_ring!(refills);
}

fn refills<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for (sizes, taken, left) in [
        (&[0, 5, 0, 900][..], 4, 0),
        (&[0, 3, -1, 0, 0], 2, 2),
        (&[-1, 0], 0, 1),
    ] {
        let (device, mut driver) = start(platform, ring, 64, 8);
        let rx = driver.rx();
        let needed = rx.buffer_len();
        let len = |more: isize| needed.checked_add_signed(more).unwrap();
        let mut blocks = sizes.iter().map(|&more| buffer(len(more)));
        match rx.refill(&mut blocks) {
            Ok(given) => assert_eq!((given, sizes.contains(&-1)), (taken, false)),
            Err(error) => {
                let len = needed - 1;
                let why = RefillFailure::TooSmall { len, needed };
                assert_eq!((error.taken, error.why), (taken, why));
                assert_eq!(error.buffer.len(), len);
            }
        }
        assert_eq!(blocks.len(), left);
        let counters = rx.counters();
        assert_eq!(counters.submitted, taken as u64);
        assert_eq!(
            counters.kicks + counters.suppressed_kicks,
            u64::from(taken != 0)
        );
        device.assert_kicked(RECEIVE_QUEUE);
        finish(driver, platform, &device, taken);
    }
}

#[test]
fn shutdown_gives_back_all_that_bursts_took() {
    every_ring!(shut_down);
}

fn shut_down<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let (device, mut driver) = start(platform, ring, 64, 64);
    let (rx, tx, _) = driver.parts();
    let len = rx.buffer_len();
    let mut mine = Vec::new();
    for publish in [true, false] {
        let mut blocks = (0..5).map(|_| {
            let block = buffer(len);
            mine.push((RECEIVE_QUEUE, address(&block)));
            block
        });
        assert_eq!(rx.give_burst(&mut blocks).unwrap(), 5);
        let mut burst = frames(7).inspect(|frame| {
            let start = frame.as_slice().as_ptr().addr() - frame.headroom();
            mine.push((TRANSMIT_QUEUE, start));
        });
        assert_eq!(tx.transmit_burst(&mut burst).unwrap(), 7);
        if publish {
            rx.publish();
            tx.kick();
        }
    }
    // Some came back and were not seen, others are with the device or were never shown to it.
    assert!(deliver(&device, b"unseen"));
    assert!(take(&device).is_some());
    device.with_queue(TRANSMIT_QUEUE, |queue| queue.pop());
    let mut came = Vec::new();
    driver
        .shutdown(|queue, memory| came.push((queue, address(&memory))))
        .unwrap();
    mine.sort_unstable();
    came.sort_unstable();
    assert_eq!(came, mine);
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn a_device_on_another_core_that_polls_gets_and_gives_all_without_a_kick() {
    for ring in Ring::ALL {
        let _naming = Naming(ring);
        polled(ring);
    }
}

/// Something that is waited for, at most a minute.
fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let began = Instant::now();
    while !ready() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::yield_now();
    }
}

fn polled(ring: Ring) {
    let n = scaled(400, 12);
    let platform = InPlace::new();
    let (device, mut driver) = start(&platform, ring, 16, 16);
    let mut outbound = device.take_queue(TRANSMIT_QUEUE).unwrap();
    let mut inbound = device.take_queue(RECEIVE_QUEUE).unwrap();
    // What goes out comes back in.
    let remote = std::thread::spawn(move || {
        for i in 0..n {
            let mut sent = None;
            wait_for("a frame", || {
                sent = outbound.pop();
                sent.is_some()
            });
            let chain = sent.unwrap();
            let bytes = outbound.read(&chain);
            assert_eq!(bytes[..HEADER], [0; HEADER], "frame {i}");
            outbound.complete(chain, 0);
            let mut room = None;
            wait_for("a receive buffer", || {
                room = inbound.pop();
                room.is_some()
            });
            let chain = room.unwrap();
            let len = inbound.write(&chain, &bytes);
            inbound.complete(chain, len);
        }
    });
    let (rx, tx, _) = driver.parts();
    let len = rx.buffer_len();
    let mut blocks: Vec<_> = (0..16).map(|_| buffer(len)).collect();
    let mut spare: Vec<_> = (0..20).map(|_| buffer(HEADER + 60)).collect();
    let (mut sent, mut came) = (0, 0);
    wait_for("all of them", || {
        let give = rx.give_burst(&mut std::iter::from_fn(|| blocks.pop()));
        assert!(give.is_ok());
        rx.publish();
        tx.make_room(5, |block| spare.push(block)).unwrap();
        let mut next = std::iter::from_fn(|| {
            let block = if sent < n { spare.pop()? } else { return None };
            let mut frame = Window::new(block, HEADER, 60);
            frame.as_mut_slice().fill(sent as u8);
            sent += 1;
            Some(frame)
        });
        tx.transmit_burst(&mut next).unwrap();
        tx.publish();
        let burst = rx.receive_burst(|frame| {
            assert_eq!(frame.as_slice(), [came as u8; 60], "frame {came}");
            came += 1;
            blocks.push(frame.into_memory());
        });
        assert!(burst.unwrap() <= 16);
        came == n
    });
    remote.join().unwrap();
    assert_eq!((rx.counters().kicks, tx.counters().kicks), (0, 0));
    tx.reclaim(|block| spare.push(block)).unwrap();
    assert_eq!(spare.len(), 20);
    drop(driver);
    device.assert_clean();
    platform.assert_no_leaks();
}
