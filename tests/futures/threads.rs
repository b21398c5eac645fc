//! Tasks on two cores, a device on a third, and the handler wherever the device runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use vring::adapter::futures::Notifier;
use vring::testing::{Fake, Kind, QueueDevice, Rng};

use super::Rig;
use super::rig::{Maker, R, W, config, reply, scaled};
use super::support::{Q, Ring};
use super::tasks::block_on;

/// Serves until it is told to stop, in any order, and calls the handler where one is due.
fn device(mut queue: QueueDevice, handler: &Notifier, in_order: bool, stop: &AtomicBool) {
    let mut rng = Rng::new(7);
    while !stop.load(Ordering::Relaxed) {
        let mut chains: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        if chains.is_empty() {
            thread::yield_now();
        }
        if !in_order && chains.len() > 1 {
            let by = rng.below(chains.len() as u32) as usize;
            chains.rotate_left(by);
        }
        for chain in chains {
            let len = reply(&queue, &chain, usize::MAX);
            if queue.complete(chain, len) {
                handler.wake();
            }
        }
    }
}

#[test]
fn nobody_sleeps_for_ever_on_two_cores() {
    rings!(two_cores);
}

fn two_cores<K: Kind + Sync>(platform: &Fake<K>, ring: Ring) {
    let rig = Rig::new(platform, ring.features, &config(4, 65_000));
    let queue = rig.device.take_queue(Q).unwrap();
    let (stop, finished) = (AtomicBool::new(false), AtomicUsize::new(0));
    let rounds = scaled(40, 3);
    let makers = thread::scope(|scope| {
        let handler = &rig.handler;
        let device = scope.spawn(|| device(queue, handler, ring.is_in_order(), &stop));
        let workers = [0, 1].map(|_| {
            let (tasks, finished) = (&rig.queue, &finished);
            scope.spawn(move || {
                let mut maker = Maker::new();
                for round in 0..rounds {
                    let bufs = [(); 3].map(|()| maker.chunks(&[(R, 1), (W, 5)]));
                    block_on(async {
                        // Two at once, and one that is dropped on its way.
                        let [a, b, c] = bufs;
                        let (a_number, b_number) = (a.number, b.number);
                        let a = tasks.submit(a).await.unwrap();
                        let c = tasks.submit(c).await.unwrap();
                        if round % 2 == 0 {
                            drop(c);
                        } else {
                            let _ = c.await.unwrap();
                        }
                        let b = tasks.submit(b).await.unwrap().await.unwrap();
                        let a = a.await.unwrap();
                        assert_eq!((a.buf().number, b.buf().number), (a_number, b_number));
                        a.buf().check(5);
                        b.buf().check(5);
                    });
                    finished.fetch_add(1, Ordering::Relaxed);
                    while tasks.next_unclaimed().is_some() {}
                }
                maker
            })
        });
        let makers = workers.map(|worker| worker.join());
        stop.store(true, Ordering::Relaxed);
        device.join().unwrap();
        makers.map(Result::unwrap)
    });
    assert_eq!(finished.into_inner(), 2 * rounds);
    let handler = Arc::new(rig.handler.clone());
    let (queue, unclaimed) = rig.queue.into_inner();
    drop(unclaimed);
    super::stop(rig.live.into_inner(), queue.unwrap());
    drop(handler);
    for maker in &makers {
        assert_eq!(maker.alive(), 0, "some buffers are lost");
    }
    rig.device.assert_clean();
    rig.platform.assert_no_leaks();
}
