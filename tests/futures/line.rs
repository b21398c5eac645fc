//! Waiting for room: who goes first, and who is not in the way.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use vring::adapter::futures::Unclaimed;
use vring::testing::{Fake, Kind};
use vring::virtqueue::Reject;

use super::rig::{R, W, config, scaled};
use super::support::Ring;
use super::tasks::Task;
use super::{Q, Rig};

#[test]
fn who_waits_for_room_is_served_in_order() {
    rings!(in_order);
}

fn in_order<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let rig = Rig::new(platform, ring.features, &config(2, 65_535));
    let mut tasks: Vec<_> = (0..8)
        .map(|_| Some(rig.round(rig.chunks(&[(W, 1)]))))
        .collect();
    for task in tasks.iter_mut().flatten() {
        // Who comes when others wait has one turn to wait, and then gets in line.
        if task.poll().is_pending() && task.is_woken() {
            task.sleeps();
        }
    }
    let mut done = Vec::new();
    for _ in 0..4 {
        assert_eq!(rig.serve(), 2);
        let mut any = true;
        while std::mem::take(&mut any) {
            for place in &mut tasks {
                let Some(task) = place.as_mut().filter(|task| task.is_woken()) else {
                    continue;
                };
                any = true;
                if let Poll::Ready(finished) = task.poll() {
                    done.push(finished.buf().number);
                    *place = None;
                }
            }
        }
    }
    assert_eq!(done, [1, 2, 3, 4, 5, 6, 7, 8]);
    drop(tasks);
    rig.finish(0, 0);
}

/// Defends: SP-020, SP-022.
#[test]
fn who_waits_for_room_tells_the_device_first() {
    rings!(kicks_first);
}

fn kicks_first<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let rig = Rig::new(platform, ring.features, &config(2, 65_535));
    let both = [(); 2].map(|()| rig.submit(rig.chunks(&[(W, 1)])));
    assert_eq!(rig.device.kicks(Q), 0);
    let mut third = rig.round(rig.chunks(&[(W, 1)]));
    third.sleeps();
    rig.device.assert_kicked(Q);
    assert_eq!(rig.serve(), 2);
    assert!(third.is_woken());
    third.sleeps();
    assert_eq!(rig.serve(), 1);
    let _ = third.wakes_up();
    drop(third);
    drop(both);
    assert_eq!(rig.unclaimed(), [1, 2]);
    rig.finish(0, 0);
}

#[test]
fn who_comes_when_others_wait_lets_them_go_first() {
    rings!(newcomer);
}

fn newcomer<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let rig = Rig::new(platform, ring.features, &config(1, 65_535));
    let mut out = rig.round(rig.chunks(&[(W, 1)]));
    out.sleeps();
    let mut first = rig.round(rig.chunks(&[(W, 1)]));
    first.sleeps();
    assert_eq!(rig.serve(), 1);
    let _ = out.wakes_up();
    assert_eq!(rig.free(), 1);
    // The newcomer is polled before the one who waits.
    let mut newcomer = rig.round(rig.chunks(&[(W, 1)]));
    assert!(newcomer.poll().is_pending());
    assert!(newcomer.is_woken(), "it is polled again at once");
    assert_eq!(rig.free(), 1, "and has taken nothing");
    assert!(first.is_woken());
    first.sleeps();
    newcomer.sleeps();
    assert_eq!(rig.serve(), 1);
    assert_eq!(first.wakes_up().buf().number, 2);
    newcomer.sleeps();
    assert_eq!(rig.serve(), 1);
    assert_eq!(newcomer.wakes_up().buf().number, 3);
    drop((out, first, newcomer));
    rig.finish(0, 0);
}

#[test]
fn bug_class_49_who_is_gone_from_the_line_holds_nobody_up() {
    rings!(gone_from_the_line);
}

fn gone_from_the_line<K: Kind>(platform: &Fake<K>, ring: Ring) {
    // Gone while asleep or awake, dropped or forgotten.
    for awake in [false, true] {
        for forget in [false, true] {
            let rig = Rig::new(platform, ring.features, &config(1, 65_535));
            let mut out = rig.round(rig.chunks(&[(W, 1)]));
            out.sleeps();
            let mut gone = rig.round(rig.chunks(&[(W, 1)]));
            gone.sleeps();
            let mut next = rig.round(rig.chunks(&[(W, 1)]));
            assert!(next.poll().is_pending());
            next.sleeps();
            let end = |task: Task<'_, _>| match forget {
                true => task.forget(),
                false => drop(task),
            };
            let mut gone = Some(gone);
            if !awake {
                gone.take().into_iter().for_each(end);
            }
            assert_eq!(rig.serve(), 1);
            if awake {
                assert!(gone.as_ref().unwrap().is_woken());
                gone.take().into_iter().for_each(end);
            }
            assert!(next.is_woken());
            next.sleeps();
            assert_eq!(rig.serve(), 1);
            let _ = out.wakes_up();
            assert_eq!(next.wakes_up().buf().number, 3);
            // Newcomers get through, too.
            for _ in 0..3 {
                let mut task = rig.round(rig.chunks(&[(W, 1)]));
                if task.poll().is_pending() && task.is_woken() {
                    task.sleeps();
                }
                assert_eq!(rig.serve(), 1);
                let _ = task.wakes_up();
            }
            match rig.queue.next_unclaimed() {
                Some(Unclaimed::NotSubmitted(buf)) if !forget => assert_eq!(buf.number, 2),
                None if forget => {}
                other => panic!("{other:?}"),
            }
            drop((out, next, gone));
            // What is forgotten is with its future.
            assert_eq!(rig.alive(), usize::from(forget));
            if forget {
                let (queue, _) = rig.queue.into_inner();
                super::stop(rig.live.into_inner(), queue.unwrap());
                rig.platform.assert_no_leaks();
            } else {
                rig.finish(0, 0);
            }
        }
    }
}

#[test]
fn a_buffer_that_was_not_submitted_is_taken_back_or_unclaimed() {
    rings!(not_submitted);
}

fn not_submitted<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let rig = Rig::new(platform, ring.features, &config(1, 0));
    // Never polled.
    drop(rig.queue.submit(rig.chunks(&[(W, 1)])));
    assert_eq!(rig.unclaimed(), [1]);
    let submit = rig.queue.submit(rig.chunks(&[(W, 1)]));
    assert_eq!(submit.cancel().unwrap().number, 2);
    assert_eq!(rig.unclaimed(), [0; 0]);
    rig.finish(0, 0);
}

#[test]
fn what_never_fits_is_an_error_and_does_not_wait() {
    rings!(never_fits);
}

fn never_fits<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let rig = Rig::new(platform, ring.features, &config(2, 0));
    let mut too_long = Task::new(rig.queue.submit(rig.chain(20)));
    let rejected = too_long.ready().unwrap_err();
    assert!(
        matches!(rejected.why, Reject::TooManySegments { .. }),
        "{rejected:?}"
    );
    assert_eq!(rejected.buf.number, 1);
    let mut empty = Task::new(rig.queue.submit(rig.chunks(&[(W, 0)])));
    let rejected_too = empty.ready().unwrap_err();
    assert_eq!(rejected_too.why, Reject::Empty { index: 0 });
    drop((rejected, rejected_too, too_long, empty));
    // A chain that fits only an empty queue waits for that; a table takes one descriptor.
    let mut one = rig.round(rig.chunks(&[(W, 1)]));
    one.sleeps();
    let mut two = rig.round(rig.chunks(&[(R, 1), (W, 1)]));
    two.sleeps();
    assert_eq!(rig.serve(), if ring.is_indirect() { 2 } else { 1 });
    let _ = one.wakes_up();
    if !ring.is_indirect() {
        two.sleeps();
        assert_eq!(rig.serve(), 1);
    }
    let _ = two.wakes_up();
    drop((one, two));
    rig.finish(0, 0);
}

/// A device that answers before the doorbell is left keeps no task from its turn.
#[test]
fn a_device_that_is_always_ready_leaves_other_tasks_their_turn() {
    rings!(always_ready);
}

fn always_ready<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let rig = Rig::new(platform, ring.features, &config(4, 65_500));
    let rounds = scaled(320, 40);
    let device = rig.device.clone();
    let mut task = Task::new(async {
        for _ in 0..rounds {
            let future = rig.queue.submit(rig.chunks(&[(W, 1)])).await.unwrap();
            rig.queue.kick();
            device.serve(Q, |queue, chain| queue.write(chain, &[0]));
            let _ = future.await.unwrap();
        }
    });
    let mut polls = 1;
    while task.poll().is_pending() {
        assert!(task.is_woken(), "it did not sleep");
        polls += 1;
    }
    // Two futures a round, and a turn for the others after 64.
    assert_eq!(polls, (rounds * 2).div_ceil(64));
    drop(task);
    rig.finish(0, 0);
}

/// Polls tasks in the order in which they were woken.
#[derive(Default)]
struct Fifo(Mutex<VecDeque<usize>>);

impl Fifo {
    fn next(&self) -> Option<usize> {
        self.0.lock().unwrap().pop_front()
    }
}

struct Turn(usize, Arc<Fifo>);

impl Wake for Turn {
    fn wake(self: Arc<Self>) {
        let mut fifo = self.1.0.lock().unwrap();
        if !fifo.contains(&self.0) {
            fifo.push_back(self.0);
        }
    }
}

#[test]
fn among_buffers_of_one_length_none_is_overtaken_more_often_than_there_are_tasks() {
    rings!(overtaken);
}

fn overtaken<K: Kind>(platform: &Fake<K>, ring: Ring) {
    const TASKS: usize = 5;
    let rig = Rig::new(platform, ring.features, &config(2, 65_535));
    let fifo = Arc::new(Fifo::default());
    let (submitted, worst) = (Cell::new(0), Cell::new(0));
    let mut tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            Some(Box::pin(async {
                for _ in 0..scaled(40, 1) {
                    let before = submitted.get();
                    let future = rig.queue.submit(rig.chunks(&[(W, 1)])).await.unwrap();
                    worst.set(worst.get().max(submitted.get() - before));
                    submitted.set(submitted.get() + 1);
                    let _ = future.await.unwrap();
                }
            }))
        })
        .collect();
    let wakers: Vec<_> = (0..TASKS)
        .map(|i| Waker::from(Arc::new(Turn(i, fifo.clone()))))
        .collect();
    wakers.iter().for_each(Waker::wake_by_ref);
    while tasks.iter().any(Option::is_some) {
        while let Some(i) = fifo.next() {
            let Some(task) = &mut tasks[i] else { continue };
            let mut cx = Context::from_waker(&wakers[i]);
            if task.as_mut().poll(&mut cx).is_ready() {
                tasks[i] = None;
            }
        }
        let chain = rig.device.with_queue(Q, |queue| queue.pop()).unwrap();
        if let Some(chain) = chain {
            rig.complete(chain);
        }
    }
    assert!(worst.get() <= TASKS, "overtaken {} times", worst.get());
    drop(tasks);
    rig.finish(0, 0);
}
