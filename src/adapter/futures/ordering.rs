//! No wake-up is lost: under a model checker, with every interleaving of a task, a handler and a
//! device (`cargo xtask test --only loom`).
//!
//! The first models are of the gate alone. What a ring is about is a plain number in the models of
//! the gate, and the words of a real ring, with a device written by the book, in the others. Wakers
//! set a flag; a task is polled while its flag is set, as an executor does, and then sleeps. A task
//! that sleeps while there is something for it, with its flag not set, has lost a wake-up.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool as Seen, Ordering as Std};
use std::task::{Context, Poll, Wake, Waker};
use std::vec::Vec;

use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use loom::thread;

use super::bell::{Bell, Busy, Notifier};
use super::later::Later;
use super::sleeper::Sleeper;
use super::{ConfigChanges, Queue};
use crate::ring::ordering::device::Device;
use crate::ring::ordering::world::{Chain, Flat, NUM, Setup};

/// Whether a task is to be polled. All that happens to it are read-modify-writes: loom lets a load
/// that comes after a store and a swap return either.
struct Flag(AtomicBool);

impl Flag {
    fn new() -> (Arc<Self>, Waker) {
        let flag = Arc::new(Self(AtomicBool::new(false)));
        (flag.clone(), flag.into())
    }

    fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.swap(true, Ordering::AcqRel);
    }
}

/// Plays a model in every interleaving in which threads are preempted as often at most, if there is
/// such a bound: with several threads, or several chains, there are too many otherwise. Where one of
/// them waits, it makes way for others any number of times.
fn check(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.check(model);
}

/// Polls while the flag is set; false when the task sleeps.
fn run<T>(flag: &Flag, waker: &Waker, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> bool {
    let mut cx = Context::from_waker(waker);
    loop {
        if poll(&mut cx).is_ready() {
            return true;
        }
        if !flag.take() {
            return false;
        }
        thread::yield_now();
    }
}

/// `handlers` ring once each, while a task waits for all of them.
fn no_ring_is_lost_of<B: Puts>(handlers: usize) {
    let asleep = Arc::new(Seen::new(false));
    let seen = asleep.clone();
    check((handlers > 1).then_some(5), move || {
        let mut bell = B::make();
        let about = Arc::new(AtomicUsize::new(0));
        let handlers: Vec<_> = (0..handlers)
            .map(|_| {
                let (handler, about) = (bell.handler(), about.clone());
                thread::spawn(move || {
                    about.fetch_add(1, Ordering::Relaxed);
                    handler.wake();
                })
            })
            .collect();
        let all = handlers.len();
        let (flag, waker) = Flag::new();
        let poll = |cx: &mut Context<'_>| {
            let put_down = bell.put_down(cx.waker());
            // The number has no order of its own.
            if about.load(Ordering::Relaxed) == all {
                return Poll::Ready(());
            }
            if let Err(Busy) = put_down {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        };
        let done = run(&flag, &waker, poll);
        handlers.into_iter().for_each(|h| h.join().unwrap());
        if !done {
            asleep.store(true, Std::Relaxed);
            assert!(flag.take(), "the task sleeps on a ring");
        }
    });
    assert!(seen.load(Std::Relaxed), "the task never slept");
}

/// Where a task puts its waker down.
trait Puts {
    fn make() -> Self;
    fn handler(&self) -> Notifier;
    fn put_down(&mut self, waker: &Waker) -> Result<(), Busy>;
}

/// One of several: it goes inside each time.
impl Puts for Arc<Bell> {
    fn make() -> Self {
        Bell::new()
    }

    fn handler(&self) -> Notifier {
        Notifier(self.clone())
    }

    fn put_down(&mut self, waker: &Waker) -> Result<(), Busy> {
        self.visit().sit(0, waker).map(drop)
    }
}

/// One for itself: it leaves the waker alone that is there.
impl Puts for Sleeper {
    fn make() -> Self {
        Self::new()
    }

    fn handler(&self) -> Notifier {
        self.notifier()
    }

    fn put_down(&mut self, waker: &Waker) -> Result<(), Busy> {
        self.sit(waker)
    }
}

#[test]
fn no_ring_is_lost() {
    no_ring_is_lost_of::<Arc<Bell>>(1);
}

#[test]
fn no_ring_of_two_is_lost() {
    no_ring_is_lost_of::<Arc<Bell>>(2);
}

#[test]
fn no_ring_of_two_is_lost_on_a_waker_that_is_left_alone() {
    no_ring_is_lost_of::<Sleeper>(2);
}

#[test]
fn no_change_of_the_configuration_is_missed() {
    check(Some(4), || {
        let mut changes = ConfigChanges::new();
        let handlers = [changes.notifier(), changes.notifier()];
        let values = Arc::new(AtomicUsize::new(0));
        let handlers = handlers.map(|notifier| {
            let values = values.clone();
            thread::spawn(move || {
                values.fetch_add(1, Ordering::Relaxed);
                notifier.wake();
            })
        });
        let (flag, waker) = Flag::new();
        // Two changes may be one.
        let known = |changes: &mut ConfigChanges| {
            run(&flag, &waker, |cx| match changes.poll_changed(cx) {
                Poll::Ready(()) if values.load(Ordering::Relaxed) == 2 => Poll::Ready(()),
                Poll::Ready(()) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Poll::Pending => Poll::Pending,
            })
        };
        let done = known(&mut changes);
        handlers.into_iter().for_each(|h| h.join().unwrap());
        assert!(done || flag.take(), "the task sleeps on a change");
        assert!(done || known(&mut changes));
    });
}

/// A task takes another's waker, to wake it and nobody else, while a handler rings for the third.
#[test]
fn no_wake_up_of_one_task_by_another_is_lost() {
    check(None, || {
        let bell = Bell::new();
        let (first, waker) = Flag::new();
        assert!(bell.visit().sit(0, &waker).is_ok());
        let (second, waker) = Flag::new();
        assert!(bell.visit().sit(1, &waker).is_ok());
        let handler = {
            let handler = Notifier(bell.clone());
            thread::spawn(move || handler.wake())
        };
        Later::new(&bell).wake_seat(0);
        handler.join().unwrap();
        assert!(first.take(), "the first sleeps");
        assert!(second.take(), "the second sleeps");
    });
}

/// Somebody gets in line while the line is called.
#[test]
fn no_call_of_the_line_is_lost() {
    check(None, || {
        let bell = Bell::new();
        let room = Arc::new(AtomicUsize::new(0));
        let caller = {
            let (bell, room) = (bell.clone(), room.clone());
            thread::spawn(move || {
                room.store(1, Ordering::Relaxed);
                Later::new(&bell).call_line = true;
            })
        };
        let (flag, waker) = Flag::new();
        let done = run(&flag, &waker, |cx| {
            let put_down = bell.visit().line_up(0, cx.waker());
            if room.load(Ordering::Relaxed) == 1 {
                return Poll::Ready(());
            }
            if let Err(Busy) = put_down {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        });
        caller.join().unwrap();
        assert!(done || flag.take(), "the task sleeps in line");
    });
}

type Tasks = Queue<Flat, Chain>;

/// A queue with chains of one piece, `chains` of them to be submitted, and the device.
fn start(setup: Setup, chains: usize) -> (Arc<Tasks>, Vec<Chain>, std::boxed::Box<dyn Device>) {
    let (mut driver, device) = setup.make();
    let chains = (0..chains).map(|_| driver.chain(1)).collect();
    (Arc::new(Queue::new(driver.queue)), chains, device)
}

/// Takes what was submitted, and returns it in a thread of its own, one by one: the handler is
/// called for each interrupt that the driver wants.
fn device(
    queue: &Tasks,
    mut device: std::boxed::Box<dyn Device>,
    chains: usize,
) -> thread::JoinHandle<()> {
    queue.kick();
    let taken: Vec<_> = std::iter::from_fn(|| device.pop()).collect();
    assert_eq!(taken.len(), chains);
    let notifier = queue.notifier();
    thread::spawn(move || {
        for chain in taken {
            device.complete(&[chain]);
            if device.wants_interrupt() {
                notifier.wake();
            }
        }
    })
}

/// The end of a model: loom's objects do not outlive it.
fn close(queue: &Tasks) {
    drop(queue.take().unwrap().take_apart());
}

/// One executor, a task for each chain.
fn no_task_sleeps_on_what_has_come_back(setup: Setup, chains: usize) {
    let asleep = Arc::new(Seen::new(false));
    let seen = asleep.clone();
    model(setup, (chains > 1).then_some(4), move |setup| {
        let (queue, bufs, end) = start(setup, chains);
        let mut futures: Vec<_> = bufs
            .into_iter()
            .map(|buf| {
                let (flag, waker) = Flag::new();
                waker.wake_by_ref();
                (Some(queue.try_submit(buf).unwrap()), flag, waker)
            })
            .collect();
        let device = device(&queue, end, chains);
        let mut execute = || {
            loop {
                let mut any = false;
                for (future, flag, waker) in &mut futures {
                    let Some(task) = future.as_mut().filter(|_| flag.take()) else {
                        continue;
                    };
                    any = true;
                    match Pin::new(task).poll(&mut Context::from_waker(waker)) {
                        Poll::Ready(done) => {
                            drop(done.unwrap());
                            *future = None;
                        }
                        Poll::Pending => {}
                    }
                }
                if !any {
                    return futures
                        .iter()
                        .filter(|(future, ..)| future.is_some())
                        .count();
                }
                thread::yield_now();
            }
        };
        if execute() != 0 {
            asleep.store(true, Std::Relaxed);
        }
        device.join().unwrap();
        assert_eq!(execute(), 0, "tasks sleep on what has come back");
        drop(futures);
        close(&queue);
    });
    assert!(seen.load(Std::Relaxed), "nobody ever slept");
}

/// A task that was there first is dropped, or forgotten, or never polled again, while it waits.
fn no_task_relies_on_another(setup: Setup, gone: fn(super::InFlight<'_, Flat, Chain>)) {
    model(setup, Some(4), move |setup| {
        let (queue, bufs, end) = start(setup, 2);
        let [a, b] = <[Chain; 2]>::try_from(bufs).ok().unwrap();
        let mut a = queue.try_submit(a).unwrap();
        let b = queue.try_submit(b).unwrap();
        let device = device(&queue, end, 2);
        let (flag, waker) = Flag::new();
        let mut b = pin!(b);
        let mut poll_b = |cx: &mut Context<'_>| b.as_mut().poll(cx).map(drop);
        let mut done = run(&flag, &waker, &mut poll_b);
        let (other, other_waker) = Flag::new();
        let _ = Pin::new(&mut a).poll(&mut Context::from_waker(&other_waker));
        gone(a);
        drop(other);
        if !done && flag.take() {
            done = run(&flag, &waker, &mut poll_b);
        }
        device.join().unwrap();
        assert!(done || flag.take(), "the task sleeps on its buffer");
        assert!(done || run(&flag, &waker, &mut poll_b));
        close(&queue);
    });
}

/// Two executors.
fn no_task_of_two_cores_sleeps(setup: Setup) {
    model(setup, None, |setup| {
        let (queue, bufs, end) = start(setup, 2);
        let [a, b] = <[Chain; 2]>::try_from(bufs).ok().unwrap();
        let a = queue.try_submit(a).unwrap();
        // The other core submits and tells the device.
        let other = {
            let queue = queue.clone();
            thread::spawn(move || {
                let mut b = pin!(queue.try_submit(b).unwrap());
                let (flag, waker) = Flag::new();
                run(&flag, &waker, |cx| b.as_mut().poll(cx).map(drop))
            })
        };
        let mut end = end;
        let (flag, waker) = Flag::new();
        let mut a = pin!(a);
        let mut poll = |cx: &mut Context<'_>| a.as_mut().poll(cx).map(drop);
        let mut done = run(&flag, &waker, &mut poll);
        other.join().unwrap();
        while let Some(chain) = end.pop() {
            end.complete(&[chain]);
            if end.wants_interrupt() {
                queue.notifier().wake();
            }
        }
        if !done {
            assert!(flag.take(), "the task sleeps on its buffer");
            done = run(&flag, &waker, &mut poll);
        }
        assert!(done);
        close(&queue);
    });
}

/// Plays a model from the beginning of a ring, and from just before its end.
fn model(setup: Setup, preemptions: Option<usize>, model: impl Fn(Setup) + Send + Sync + 'static) {
    let end = if setup.packed { NUM - 1 } else { u16::MAX };
    let model = Arc::new(model);
    for start in [0, end] {
        let model = Arc::clone(&model);
        check(preemptions, move || model(Setup { start, ..setup }));
    }
}

macro_rules! models {
    ($($name:ident: $packed:literal, $event_idx:literal;)*) => {$(
        mod $name {
            use super::*;

            const SETUP: Setup = Setup {
                packed: $packed,
                event_idx: $event_idx,
                in_order: false,
                tables: false,
                start: 0,
            };

            #[test]
            fn a_task_does_not_sleep_on_what_has_come_back() {
                no_task_sleeps_on_what_has_come_back(SETUP, 1);
            }

            #[test]
            fn two_tasks_do_not_sleep_on_what_has_come_back() {
                no_task_sleeps_on_what_has_come_back(SETUP, 2);
            }

            #[test]
            fn no_task_relies_on_one_that_is_dropped() {
                no_task_relies_on_another(SETUP, |future| drop(future));
            }

            #[test]
            fn no_task_relies_on_one_that_is_forgotten() {
                no_task_relies_on_another(SETUP, |future| std::mem::forget(future));
            }

            #[test]
            fn tasks_of_two_cores_do_not_sleep_on_what_has_come_back() {
                no_task_of_two_cores_sleeps(SETUP);
            }
        }
    )*};
}

models! {
    split_flags: false, false;
    split_events: false, true;
    packed_flags: true, false;
    packed_events: true, true;
}
