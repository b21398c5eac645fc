//! Iterators and closures of the caller's that panic in a burst or a drain.

use std::panic::{AssertUnwindSafe, catch_unwind};

use vring::testing::{Fake, Kind};

use crate::rig::{Rig, config, every_platform, maps, reply, scaled};
use crate::support::{Naming, Q, Ring, every_ring};

#[test]
fn an_iterator_that_panics_leaves_the_queue_whole() {
    every_ring!(panicking_iterator);
}

fn panicking_iterator<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for good in (0..6).step_by(scaled(1, 3)) {
        let mut rig = Rig::new(platform, ring.features, &config(8, 65_533));
        let Rig { queue, maker, .. } = &mut rig;
        let mut left = good;
        let mut source = std::iter::from_fn(|| {
            assert!(left > 0, "the iterator stops here");
            left -= 1;
            Some(maker.chain(1 + left % 2))
        });
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            queue.submit_burst(&mut source).map(drop)
        }));
        assert!(outcome.is_err());
        assert_eq!(usize::from(rig.queue.outstanding()), good);
        assert_eq!(rig.queue.counters().submitted, good as u64);
        assert_eq!(rig.maker.alive(), good, "nothing is lost, nothing dropped");
        rig.queue.kick();
        assert_eq!(rig.serve_and_drain(), good);
        rig.full_round();
        rig.finish(0);
    }
}

#[test]
fn a_closure_that_panics_loses_only_the_buffer_that_it_was_given() {
    every_ring!(panicking_closure);
}

fn panicking_closure<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for good in (0..4_usize).step_by(scaled(1, 2)) {
        let mut rig = Rig::new(platform, ring.features, &config(8, 65_533));
        for n in [2, 1, 3, 2] {
            let buf = rig.maker.chain(n);
            rig.queue.submit(buf).unwrap();
        }
        rig.queue.kick();
        rig.device
            .serve(Q, |queue, chain| reply(queue, chain, usize::MAX));
        let mut came = Vec::new();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            rig.queue.drain(|done| {
                assert!(came.len() < good, "the closure stops here");
                came.push(done.into_buf());
            })
        }));
        assert!(outcome.is_err());
        // The one that it held when it panicked was dropped with it.
        assert_eq!(rig.maker.alive(), 3);
        assert_eq!(rig.queue.counters().completed, good as u64 + 1);
        assert_eq!(usize::from(rig.queue.outstanding()), 3 - good);
        if maps(platform) {
            assert_eq!(platform.counts().mappings, [6, 5, 2, 0][good]);
        }
        assert_eq!(rig.queue.drain(|_| ()).unwrap(), 3 - good);
        drop(came);
        rig.full_round();
        rig.finish(0);
    }
}

/// Ends in a panic of the caller's, and of nobody else.
fn interrupted<R>(f: impl FnOnce() -> R) {
    let payload = catch_unwind(AssertUnwindSafe(f)).err().expect("a panic");
    assert!(payload.is::<Interrupted>(), "another panic");
}

/// What the caller panics with; quiet.
struct Interrupted;

fn interrupt() -> ! {
    std::panic::resume_unwind(Box::new(Interrupted))
}

#[test]
fn bursts_and_drains_that_panic_leave_every_count_as_it_is() {
    every_platform!(interrupted_bursts);
}

fn interrupted_bursts<K: Kind>(platform: &Fake<K>) {
    for ring in Ring::ALL {
        let _naming = Naming(ring);
        for size in ring
            .sizes(&[1, 2, 3, 8, 7, 16])
            .into_iter()
            .take(scaled(6, 3))
        {
            let mut rig = Rig::new(platform, ring.features, &config(size, 65_531));
            let mut seed = u32::from(size);
            let mut below = |bound: usize| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 16) as usize % bound
            };
            let mut inside = 0;
            for _ in 0..scaled(60, 4) {
                // Buffers of one segment and of several; then the iterator panics, if the queue
                // asks for as many.
                let mut lengths: Vec<_> = (0..=below(5)).map(|_| 1 + below(4) * below(2)).collect();
                let (mut given, mut ended) = (0, false);
                let submitted = catch_unwind(AssertUnwindSafe(|| {
                    let mut bufs = std::iter::from_fn(|| match lengths.pop() {
                        Some(n) => {
                            given += 1;
                            Some(rig.maker.chain(n))
                        }
                        None => {
                            ended = true;
                            interrupt()
                        }
                    });
                    rig.queue.submit_burst(&mut bufs)
                }));
                inside += match submitted {
                    Ok(Ok(submitted)) => submitted,
                    Ok(Err(error)) => error.submitted,
                    Err(_) => given,
                };
                assert_eq!(usize::from(rig.queue.outstanding()), inside, "{ended}");
                match below(3) {
                    0 => rig.queue.publish(),
                    1 => rig.queue.kick(),
                    _ => (),
                }
                // Some come back, in order by one element each time.
                let batch = 1 + below(3);
                let back = rig.device.with_queue(Q, |queue| {
                    let chains: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
                    let back = chains.len();
                    let mut chains = chains.into_iter().peekable();
                    while chains.peek().is_some() {
                        let several = if ring.is_in_order() { batch } else { 1 };
                        let several: Vec<_> = chains.by_ref().take(several).collect();
                        let mut last = 0;
                        for chain in &several {
                            last = reply(queue, chain, usize::MAX);
                        }
                        queue.push_batch(several, last);
                    }
                    queue.publish();
                    back
                });
                let mut left = back.unwrap();
                while left != 0 {
                    let stop = 1 + below(left);
                    let mut came = 0;
                    interrupted(|| {
                        rig.queue.drain(|done| {
                            let written = done.written() as usize;
                            done.into_buf().check(written);
                            came += 1;
                            if came == stop {
                                interrupt();
                            }
                        })
                    });
                    assert_eq!(came, stop);
                    (left, inside) = (left - came, inside - came);
                    assert_eq!(usize::from(rig.queue.outstanding()), inside);
                    assert_eq!(rig.queue.arm(), left != 0, "{left} are left");
                }
                if inside == 0 {
                    assert_eq!(rig.queue.free(), size);
                }
            }
            rig.queue.kick();
            assert_eq!(rig.serve_and_drain(), inside);
            rig.full_round();
            rig.finish(0);
        }
    }
}
