//! Futures that are dropped, forgotten, or kept and not polled: bug classes 49 and 50.

use vring::adapter::futures::Unclaimed;
use vring::testing::{Fake, InPlace, Kind};

use super::Rig;
use super::rig::{R, W, config, scaled};
use super::support::Ring;
use super::tasks::Task;

/// What becomes of a future.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Drop,
    Forget,
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// The device was not told.
    Submitted,
    /// Its task sleeps.
    Asleep,
    /// The device has returned the buffer, and nobody has looked.
    Returned,
    /// Somebody else has taken the buffer back.
    Reaped,
    /// And the slot is another's.
    Late,
}

const WHEN: [When; 5] = [
    When::Submitted,
    When::Asleep,
    When::Returned,
    When::Reaped,
    When::Late,
];

#[test]
fn bug_class_49_a_future_that_is_dropped_at_any_time_leaves_its_buffer_and_its_slot() {
    rings!(ended, End::Drop);
}

#[test]
fn bug_class_49_a_future_that_is_forgotten_at_any_time_leaves_its_buffer_and_its_slot() {
    rings!(ended, End::Forget);
}

fn ended<K: Kind>(platform: &Fake<K>, ring: Ring, end: End) {
    for when in WHEN {
        let rig = Rig::new(platform, ring.features, &config(2, 65_535));
        let buf = rig.chunks(&[(R, 2), (W, 3)]);
        let number = buf.number;
        let mut task = Task::new(rig.submit(buf));
        let woken = match when {
            When::Submitted => false,
            When::Asleep => {
                task.sleeps();
                false
            }
            When::Returned => {
                task.sleeps();
                assert_eq!(rig.serve(), 1);
                true
            }
            When::Reaped | When::Late => {
                task.sleeps();
                assert_eq!(rig.serve(), 1);
                assert_eq!(rig.queue.reap(), Ok(1));
                true
            }
        };
        assert_eq!(task.is_woken(), woken, "{when:?}");
        let mut next = (when == When::Late).then(|| rig.round(rig.chunks(&[(W, 1)])));
        next.iter_mut().for_each(Task::sleeps);
        match end {
            End::Drop => drop(task),
            End::Forget => task.forget(),
        }
        rig.queue.kick();
        rig.serve();
        if let Some(mut next) = next.take() {
            assert_eq!(next.wakes_up().buf().number, number + 1);
        }
        // Dropped, it is nobody's now; forgotten, it is kept for who may still ask.
        let mut kept = 0;
        match end {
            End::Drop => match rig.queue.next_unclaimed().unwrap() {
                Unclaimed::Finished(done) => {
                    assert_eq!((done.buf().number, done.written()), (number, 3));
                    done.buf().check(3);
                }
                Unclaimed::NotSubmitted(_) => panic!("it was submitted"),
            },
            End::Forget => kept = 1,
        }
        assert!(rig.queue.next_unclaimed().is_none());
        assert_eq!(rig.free(), 2, "{when:?}");
        // All slots work as before.
        for _ in 0..scaled(4, 1) {
            let mut both = [(); 2].map(|()| rig.round(rig.chunks(&[(W, 1)])));
            both.iter_mut().for_each(Task::sleeps);
            assert_eq!(rig.serve(), 2);
            both.iter_mut().for_each(|task| drop(task.wakes_up()));
        }
        drop(next);
        rig.finish(0, kept);
    }
}

#[test]
fn bug_class_49_what_a_gone_future_left_with_the_device_comes_back_from_the_reset() {
    rings!(left_with_the_device);
}

fn left_with_the_device<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let rig = Rig::new(platform, ring.features, &config(4, 65_534));
    for i in 0..4 {
        let mut task = Task::new(rig.submit(rig.chunks(&[(W, 1)])));
        if i % 2 == 0 {
            task.sleeps();
        }
        if i < 2 {
            drop(task);
        } else {
            task.forget();
        }
    }
    rig.device.assert_kicked(super::Q);
    rig.finish(4, 0);
}

#[test]
fn bug_class_50_no_number_of_dropped_or_forgotten_futures_takes_a_slot_away() {
    rings!(many_gone);
}

fn many_gone<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let rig = Rig::new(platform, ring.features, &config(4, 65_500));
    let mut forgotten = 0;
    for i in 0..scaled(300, 4) {
        // One slot is left to who waits.
        for _ in 0..3 {
            let mut task = Task::new(rig.submit(rig.chunks(&[(W, 1)])));
            match i % 4 {
                0 => drop(task),
                1 => {
                    task.sleeps();
                    drop(task);
                }
                2 => {
                    forgotten += 1;
                    task.forget();
                }
                _ => {
                    forgotten += 1;
                    task.sleeps();
                    task.forget();
                }
            }
        }
        let mut task = rig.round(rig.chunks(&[(W, 2)]));
        task.sleeps();
        assert_eq!(rig.serve(), 4);
        assert_eq!(task.wakes_up().written(), 2);
        let unclaimed = if i % 4 < 2 { 3 } else { 0 };
        assert_eq!(rig.unclaimed().len(), unclaimed);
    }
    assert_eq!(rig.alive(), forgotten);
    rig.finish(0, forgotten);
}

/// What becomes of the task that was there first.
#[derive(Clone, Copy, Debug)]
enum Other {
    Dropped,
    Forgotten,
    /// It is woken, and does something else.
    Slow,
    /// It is woken, and is dropped without having been polled.
    DroppedAwake,
}

#[test]
fn no_task_relies_on_another_to_be_woken() {
    rings!(relies);
}

fn relies<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let others = [
        Other::Dropped,
        Other::Forgotten,
        Other::Slow,
        Other::DroppedAwake,
    ];
    for other in others {
        // The other one sleeps last, so that it armed the queue, or first.
        for first in [true, false] {
            let rig = Rig::new(platform, ring.features, &config(4, 65_534));
            let mut a = Task::new(rig.submit(rig.chunks(&[(W, 1)])));
            let mut b = Task::new(rig.submit(rig.chunks(&[(W, 1)])));
            if first {
                a.sleeps();
            }
            b.sleeps();
            if !first {
                a.sleeps();
            }
            let mut a = Some(a);
            match other {
                Other::Dropped => drop(a.take()),
                Other::Forgotten => a.take().into_iter().for_each(Task::forget),
                Other::Slow | Other::DroppedAwake => {}
            }
            let mut chains = rig.take();
            let last = chains.pop().unwrap();
            chains.into_iter().for_each(|chain| rig.complete(chain));
            if let Other::DroppedAwake = other {
                assert!(a.as_ref().unwrap().is_woken(), "{other:?}");
                drop(a.take());
            }
            // It is woken for the first buffer, which is not its own, and goes to sleep again.
            assert!(b.is_woken(), "{other:?}");
            b.sleeps();
            rig.complete(last);
            assert_eq!(b.wakes_up().unwrap().buf().number, 2);
            drop((a, b));
            rig.finish(0, 1);
        }
    }
}

/// A task takes back what others wait for, and is ready: they are woken, and an interrupt comes for
/// what is still out.
#[test]
fn who_takes_back_for_others_sees_that_they_are_woken() {
    rings!(for_others);
}

fn for_others<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let rig = Rig::new(platform, ring.features, &config(4, 65_534));
    let mut tasks = [(); 3].map(|()| Task::new(rig.submit(rig.chunks(&[(W, 1)]))));
    tasks.iter_mut().for_each(Task::sleeps);
    let mut chains = rig.take().into_iter();
    // Two come back, without a word: the interrupt is on its way.
    let interrupt = rig.device.with_queue(super::Q, |queue| {
        queue.complete(chains.next().unwrap(), 1) | queue.complete(chains.next().unwrap(), 1)
    });
    assert!(interrupt.unwrap());
    let _ = tasks[0].poll();
    assert!(tasks[1].is_woken(), "by the first task");
    assert!(!tasks[2].is_woken());
    // The third one sleeps on, and its interrupt comes: the first has asked for it.
    rig.complete(chains.next().unwrap());
    assert!(tasks[2].is_woken());
    let _ = tasks[1].wakes_up();
    let _ = tasks[2].wakes_up();
    drop(tasks);
    rig.finish(0, 0);
}

#[test]
fn a_waker_is_kept_no_longer_than_somebody_waits() {
    let platform = InPlace::new();
    let rig = Rig::new(&platform, Ring::SPLIT.features, &config(2, 0));
    let mut ready = Task::new(rig.submit(rig.chunks(&[(W, 1)])));
    ready.sleeps();
    ready.sleeps();
    assert_eq!(ready.wakers(), 1, "one, however often it is polled");
    rig.serve();
    let _ = ready.wakes_up();
    assert_eq!(ready.wakers(), 0);
    drop(ready);
    let mut gone = Task::new(rig.submit(rig.chunks(&[(W, 1)])));
    gone.sleeps();
    let wakers = gone.woken();
    drop(gone);
    assert_eq!(std::sync::Arc::strong_count(&wakers), 1);
    // In line, too.
    let both = [(); 2].map(|()| {
        rig.serve();
        rig.queue.reap().unwrap();
        rig.submit(rig.chunks(&[(W, 1)]))
    });
    let mut in_line = Task::new(rig.queue.submit(rig.chunks(&[(W, 1)])));
    in_line.sleeps();
    in_line.sleeps();
    assert_eq!(in_line.wakers(), 1);
    let wakers = in_line.woken();
    drop(in_line);
    assert_eq!(std::sync::Arc::strong_count(&wakers), 1);
    drop(both);
    rig.serve();
    assert_eq!(rig.unclaimed().len(), 4);
    rig.finish(0, 0);
}
