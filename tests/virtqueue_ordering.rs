//! Two sides at once: bug classes 29, 30, 33 and 36 as far as threads can show them.
//!
//! Driver and device run in threads of their own, and each sleeps whenever the rules allow it. A
//! kick or an interrupt that is lost leaves both asleep, which a time limit finds.

#[path = "support/queue.rs"]
mod rig;
mod support;

use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use vring::features::Features;
use vring::init::{self, QueueConfig};
use vring::testing::{Bouncing, Discontiguous, Fake, FakeDevice, InPlace, Kind, QueueDevice, Rng};
use vring::transport::{DeviceId, QueueIndex};
use vring::virtqueue::Virtqueue;

use rig::{Chunks, Maker, R, Rig, W, answer, config, reply, scaled};
use support::{FEATURES, Naming, Q, Ring};

/// How long somebody may sleep who ought to be woken.
const LIMIT: Duration = Duration::from_secs(60);

/// What one side sleeps on. A signal that comes before the sleep ends it at once.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    wake: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.wake.notify_one();
    }

    /// Forgets signals that came before, as one does who is awake.
    fn clear(&self) {
        *self.rung.lock().unwrap() = false;
    }

    /// Sleeps until it is rung; false when nobody does.
    fn sleep(&self) -> bool {
        let rung = self.rung.lock().unwrap();
        let (mut rung, timeout) = self
            .wake
            .wait_timeout_while(rung, LIMIT, |rung| !*rung)
            .unwrap();
        *rung = false;
        !timeout.timed_out()
    }
}

/// What the two sides share besides the queue.
#[derive(Default)]
struct Bells {
    kick: Bell,
    interrupt: Bell,
}

/// The device's thread: serves until `count` chains have gone through it, and rests when it may.
fn serve(mut queue: QueueDevice, bells: &Bells, count: usize, seed: u64) -> QueueDevice {
    let mut rng = Rng::new(seed);
    let (mut served, mut slept) = (0, 0);
    let mut held = Vec::new();
    while served < count {
        if rng.below(4) == 0 {
            queue.disable_notifications();
        }
        while let Some(chain) = queue.pop() {
            held.push(chain);
            if rng.below(8) == 0 {
                break;
            }
        }
        while !held.is_empty() {
            let which = match queue.options().in_order {
                true => 0,
                false => rng.below(held.len() as u32) as usize,
            };
            let chain = held.remove(which);
            let len = reply(&queue, &chain, 4);
            queue.push(chain, len);
            served += 1;
            if held.is_empty() || rng.below(3) == 0 {
                queue.publish();
                if queue.should_interrupt() {
                    bells.interrupt.ring();
                }
            }
        }
        bells.kick.clear();
        if served < count && !queue.enable_notifications() {
            slept += 1;
            if !bells.kick.sleep() {
                // Without this the driver would wait as long, and say as much.
                bells.interrupt.ring();
                panic!("the device sleeps, served {served}, slept {slept}: {queue:?}");
            }
        }
    }
    queue
}

/// The driver's side: sends `count` buffers through, at most `burst` at once, and rests when it
/// may. Returns how often it rested.
fn drive<K: Kind>(
    queue: &mut Virtqueue<Fake<K>, Chunks>,
    bells: &Bells,
    count: usize,
    burst: usize,
    seed: u64,
) -> usize {
    let mut rng = Rng::new(seed);
    let mut maker = Maker::new();
    let mut spare = Vec::new();
    let (mut sent, mut came, mut slept) = (0, 0, 0);
    let began = Instant::now();
    while came < count {
        let room = 1 + rng.below(burst as u32) as usize;
        for _ in 0..room.min(count - sent) {
            if queue.free() == 0 {
                break;
            }
            let buf = spare
                .pop()
                .unwrap_or_else(|| maker.chunks(&[(R, 3), (W, 4)]));
            let rejected = match rng.below(3) {
                0 => match queue.submit_burst(&mut std::iter::once(buf)) {
                    Ok(submitted) => {
                        assert_eq!(submitted, 1, "there was room for a descriptor");
                        None
                    }
                    Err(error) => Some(error.rejected),
                },
                _ => queue.submit(buf).err(),
            };
            if let Some(rejected) = rejected {
                spare.push(rejected.buf);
                break;
            }
            sent += 1;
        }
        queue.kick();
        if rng.below(4) == 0 {
            queue.disarm();
        }
        let mut take = |buf: Chunks, written: u32| {
            assert_eq!(written, 4);
            let read = buf.bytes(R);
            assert!(
                answer(&read).take(4).eq(buf.bytes(W)),
                "buffer {}",
                buf.number
            );
            spare.push(buf);
            came += 1;
        };
        let drained = queue.drain(|done| {
            let written = done.written();
            take(done.into_buf(), written);
        });
        if drained.unwrap() == 0
            && let Some(done) = queue.next_completion().unwrap()
        {
            let written = done.written();
            take(done.into_buf(), written);
        }
        bells.interrupt.clear();
        let idle = queue.outstanding() != 0 && (queue.free() < 2 || sent == count);
        if (idle || rng.below(16) == 0) && queue.outstanding() != 0 && !queue.arm() {
            slept += 1;
            if !bells.interrupt.sleep() {
                let seconds = began.elapsed().as_secs();
                panic!("the driver sleeps after {seconds} s: {came} of {count} came; {queue:?}");
            }
        }
    }
    assert_eq!(maker.alive(), spare.len(), "some buffers are lost");
    slept
}

fn stress<K: Kind>(platform: &Fake<K>, features: Features, size: u16, burst: usize, count: usize) {
    let config = config(size, 65_000);
    let Rig {
        device,
        live,
        mut queue,
        ..
    } = Rig::new(platform, features, &config);
    let bells = Arc::new(Bells::default());
    let kick = Arc::clone(&bells);
    device.on_kick(move |_, _| kick.kick.ring());
    let remote = device.take_queue(Q).unwrap();
    let theirs = Arc::clone(&bells);
    let seed = u64::from(size) + burst as u64;
    let thread = thread::spawn(move || serve(remote, &theirs, count, seed));
    let slept = drive(&mut queue, &bells, count, burst, seed + 1);
    let remote = thread.join().unwrap();
    assert_eq!(remote.outstanding(), 0);
    drop(remote);
    let counters = queue.counters();
    assert_eq!(
        (counters.submitted, counters.completed),
        (count as u64, count as u64)
    );
    assert_eq!(counters.kicks as usize, device.kicks(Q));
    assert!(slept > 0, "it never slept: nothing was shown");
    assert!(counters.kicks > 0);
    assert_eq!(support::stop(live, queue).len(), 0);
    device.assert_clean();
    platform.assert_no_leaks();
}

const MANY: usize = scaled(100_000, 24);
const SOME: usize = scaled(30_000, 12);

/// For each ring of [`Ring::EVERY`], a test of its own: one that sleeps does not hide the others.
macro_rules! bug_class_29_and_30_nobody_sleeps_for_ever {
    ($($ring:ident: $number:literal, $size:literal, $count:expr;)*) => {$(
        #[test]
        fn $ring() {
            stress(&InPlace::new(), Ring::EVERY[$number].features, $size, 20, $count);
        }
    )*};
}

mod bug_class_29_and_30_nobody_sleeps_for_ever {
    use super::*;

    bug_class_29_and_30_nobody_sleeps_for_ever! {
        split_with_events: 0, 64, MANY;
        split_with_flags: 1, 64, MANY;
        split_indirect_with_events: 2, 64, SOME;
        split_indirect_with_flags: 3, 64, SOME;
        split_in_order_with_events: 4, 64, SOME;
        split_in_order_with_flags: 5, 64, SOME;
        packed_with_events: 6, 61, MANY;
        packed_with_flags: 7, 61, MANY;
        packed_indirect_with_events: 8, 61, SOME;
        packed_indirect_with_flags: 9, 61, SOME;
        packed_in_order_with_events: 10, 61, SOME;
        packed_in_order_with_flags: 11, 61, SOME;
    }
}

#[test]
fn bug_class_29_and_30_nobody_sleeps_for_ever_in_the_smallest_queue() {
    // One chain at a time: each is a kick and an interrupt, and both sides sleep in between.
    for ring in [0, 1, 6, 7].map(|i| Ring::EVERY[i]) {
        let _naming = Naming(ring);
        stress(&InPlace::new(), ring.features, 2, 1, SOME / 2);
        stress(&InPlace::new(), ring.features, 4, 2, SOME / 2);
    }
}

#[test]
fn bug_class_29_and_30_nobody_sleeps_for_ever_where_buffers_are_mapped() {
    for ring in [0, 1, 6, 7].map(|i| Ring::EVERY[i]) {
        let _naming = Naming(ring);
        stress(&Bouncing::new(), ring.features, 16, 8, SOME / 2);
        stress(&Discontiguous::new(64), ring.features, 16, 8, SOME / 2);
    }
}

#[test]
fn bug_class_33_a_notification_that_is_due_may_be_sent_from_elsewhere() {
    let platform = InPlace::new();
    let mut rig = Rig::new(&platform, FEATURES[0], &config(4, 0));
    let buf = rig.maker.chain(2);
    rig.queue.submit(buf).unwrap();
    let due = rig.queue.kick_prepare().unwrap();
    assert_eq!(rig.device.kicks(Q), 0);
    // The queue may be unlocked, and in use again, before it is sent.
    let buf = rig.maker.chain(2);
    rig.queue.submit(buf).unwrap();
    thread::spawn(move || due.send()).join().unwrap();
    assert_eq!(rig.device.kicks(Q), 1);
    rig.queue.kick();
    assert_eq!(rig.serve_and_drain(), 2);
    rig.finish(0);
}

#[test]
fn bug_class_36_queues_of_one_device_run_in_threads_that_share_nothing() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(FEATURES[0])
        .queues(&[8; 3]);
    let mut negotiated = init::reset(device.transport(), &platform)
        .unwrap()
        .negotiate(&Default::default())
        .unwrap();
    let queues: Vec<_> = (0..3)
        .map(|i| {
            negotiated
                .queue::<Chunks>(QueueIndex(i), &QueueConfig::new(8))
                .unwrap()
        })
        .collect();
    let live = negotiated.finish().unwrap();
    let queues: Vec<_> = queues
        .into_iter()
        .map(|queue| queue.start(&live).unwrap())
        .collect();
    // Kicks are told apart; serving happens in the thread that kicks.
    device.on_kick(|device, queue| {
        device.serve(queue, |queue, chain| reply(queue, chain, 4));
    });
    let before = device.events().len();
    let rounds = scaled(3000, 5);
    let threads: Vec<_> = queues
        .into_iter()
        .map(|mut queue| {
            thread::spawn(move || {
                let mut maker = Maker::new();
                let seed = 1000 * u64::from(queue.index().0);
                for _ in 0..seed {
                    drop(maker.parts(Vec::new()));
                }
                for _ in 0..rounds {
                    let buf = maker.chunks(&[(R, 3), (W, 4)]);
                    queue.submit(buf).unwrap();
                    queue.kick();
                    let done = queue.next_completion().unwrap().unwrap();
                    let written = done.written() as usize;
                    let buf = done.into_buf();
                    assert!(buf.number > seed && written == 4);
                    buf.check(written);
                }
                queue
            })
        })
        .collect();
    let queues: Vec<_> = threads
        .into_iter()
        .map(|thread| thread.join().unwrap())
        .collect();
    assert_eq!(device.events().len(), before, "no register was written");
    for i in 0..3 {
        assert_eq!(device.kicks(QueueIndex(i)), rounds);
    }
    let (_, proof) = live.reset().unwrap();
    for queue in queues {
        drop(queue.close(&proof).unwrap());
    }
    device.assert_clean();
    platform.assert_no_leaks();
}
