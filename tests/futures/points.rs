//! A device and a handler at every point of a poll: bug class 30, for tasks.
//!
//! The points are those at which code of others runs: before and after a poll, when a waker is
//! cloned (the queue was looked at, and is not armed yet), and when the doorbell is rung. At some of
//! them the device returns a buffer; where the driver wants an interrupt, the handler runs at that
//! point or at one of the next. `adapter/futures/ordering.rs` has a model checker do the same with
//! threads.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};

use std::future::Future;
use std::pin::Pin;

use vring::testing::{Fake, Kind};

use super::rig::{W, config, reply};
use super::support::{Q, Ring};
use super::tasks::Woken;
use super::{Rig, scaled};

type Hook = Rc<dyn Fn()>;

thread_local! {
    /// What happens at a point.
    static HOOK: RefCell<Option<Hook>> = const { RefCell::new(None) };
}

fn point() {
    let hook = HOOK.with_borrow(Clone::clone);
    if let Some(hook) = hook {
        hook();
    }
}

/// A waker that is like no other, and whose cloning is a point.
fn waker(woken: &Arc<Woken>) -> Waker {
    let data = Arc::into_raw(Arc::new(Arc::clone(woken)));
    // SAFETY: the functions of `VTABLE` keep the contract of `RawWaker`, with a counted reference
    // to an `Arc<Woken>`, which is `Send + Sync`.
    unsafe { Waker::from_raw(RawWaker::new(data.cast(), &VTABLE)) }
}

type Data = Arc<Woken>;

static VTABLE: RawWakerVTable = RawWakerVTable::new(
    |data| {
        point();
        // SAFETY: it came from `Arc::into_raw`, and the waker that is cloned has a reference.
        unsafe { Arc::increment_strong_count(data.cast::<Data>()) };
        RawWaker::new(data, &VTABLE)
    },
    |data| {
        // SAFETY: it came from `Arc::into_raw`, and the waker's reference ends here.
        let woken = unsafe { Arc::from_raw(data.cast::<Data>()) };
        std::task::Wake::wake_by_ref(&*woken);
    },
    |data| {
        // SAFETY: it came from `Arc::into_raw`, and the waker keeps its reference.
        let woken = unsafe { &*data.cast::<Data>() };
        std::task::Wake::wake_by_ref(woken);
    },
    |data| {
        // SAFETY: it came from `Arc::into_raw`, and the waker's reference ends here.
        drop(unsafe { Arc::from_raw(data.cast::<Data>()) });
    },
);

/// What the device and the handler do at which point.
struct Script<K: Kind> {
    rig: Rc<Rig<K>>,
    now: Cell<usize>,
    /// Points at which the device returns a buffer.
    at: u32,
    /// Points from an interrupt to its handler.
    delay: usize,
    due: RefCell<VecDeque<usize>>,
}

impl<K: Kind> Script<K> {
    fn point(&self) {
        let now = self.now.get();
        self.now.set(now + 1);
        if now < 32 && self.at >> now & 1 != 0 {
            self.return_one();
        }
        while self.due.borrow().front().is_some_and(|due| *due <= now) {
            self.due.borrow_mut().pop_front();
            self.rig.handler.wake();
        }
    }

    fn return_one(&self) -> bool {
        let interrupt = self.rig.device.with_queue(Q, |queue| {
            let chain = queue.pop()?;
            let len = reply(queue, &chain, usize::MAX);
            Some(queue.complete(chain, len))
        });
        if interrupt.flatten() == Some(true) {
            let due = self.now.get() + self.delay;
            self.due.borrow_mut().push_back(due);
        }
        interrupt.flatten().is_some()
    }
}

type Job = Pin<Box<dyn Future<Output = usize>>>;

struct Task {
    job: Option<Job>,
    woken: Arc<Woken>,
    known: Option<usize>,
}

/// Polls those who were woken, until none was.
fn execute(tasks: &mut [Task]) {
    loop {
        let mut any = false;
        for task in &mut *tasks {
            let count = Some(task.woken.count());
            let Some(job) = task.job.as_mut().filter(|_| count != task.known) else {
                continue;
            };
            any = true;
            task.known = count;
            point();
            let waker = waker(&task.woken);
            if let Poll::Ready(written) = job.as_mut().poll(&mut Context::from_waker(&waker)) {
                assert_eq!(written, 3);
                task.job = None;
            }
            point();
        }
        if !any {
            return;
        }
    }
}

#[test]
fn bug_class_30_a_task_is_woken_at_whatever_point_its_buffer_comes_back() {
    rings!(at_any_point);
}

/// Up to three tasks on two slots, so that one waits for room.
fn at_any_point<K: Kind + 'static>(platform: &Fake<K>, ring: Ring) {
    const POINTS: u32 = if cfg!(miri) { 4 } else { 9 };
    let points = 1..1_u32 << POINTS;
    // What Miri can see is memory, which is used in the same way whenever the device comes: one
    // return at each of a few points has every call at work. In which order tasks, device and
    // handler come is tried in full without it, and by loom.
    for at in points.filter(|at| at.count_ones() <= scaled(3, 1) as u32) {
        for delay in 0..scaled(3, 2) {
            for tasks in scaled(1, 3)..=3 {
                run(platform, ring, tasks, at, delay);
            }
        }
    }
}

fn run<K: Kind + 'static>(platform: &Fake<K>, ring: Ring, count: usize, at: u32, delay: usize) {
    let rig = Rc::new(Rig::new(platform, ring.features, &config(2, 65_535)));
    let script = Rc::new(Script {
        rig: Rc::clone(&rig),
        now: Cell::new(0),
        at,
        delay,
        due: RefCell::default(),
    });
    let hook = {
        let script = Rc::clone(&script);
        move || script.point()
    };
    HOOK.set(Some(Rc::new(hook)));
    rig.device.on_kick(|_, _| point());
    let mut tasks: Vec<_> = (0..count)
        .map(|_| {
            let (rig, buf) = (Rc::clone(&rig), rig.chunks(&[(W, 3)]));
            let job: Job = Box::pin(async move {
                let done = rig.queue.submit(buf).await.unwrap().await.unwrap();
                done.buf().check(3);
                done.written() as usize
            });
            Task {
                job: Some(job),
                woken: Arc::default(),
                known: None,
            }
        })
        .collect();
    execute(&mut tasks);
    // Whatever is out comes back at last, one after the other.
    for _ in 0..16 {
        point();
        script.return_one();
        execute(&mut tasks);
    }
    let asleep = tasks.iter().filter(|task| task.job.is_some()).count();
    assert_eq!(asleep, 0, "of {count} tasks; {at:b} {delay}");
    HOOK.set(None);
    rig.device.on_kick(|_, _| {});
    drop((tasks, script));
    Rc::into_inner(rig).unwrap().finish(0, 0);
}
