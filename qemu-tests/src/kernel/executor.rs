//! Tasks that wait for devices and for the clock: embassy's executor, and one by hand.
//!
//! An interrupt handler calls wakers; a waker leaves word that somebody is to be polled; and where
//! nobody is, the processor halts. Between the last look at that word and the halt no interrupt
//! slips in: [`idle::wait`] looks with interrupts off, and turns them on by halting.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::task::Wake;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::{Pin, pin};
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use embassy_executor::raw;

use super::arch::cpu;
use super::{clock, idle};

/// Something to do, with a beginning and an end.
pub(crate) type Job = Pin<Box<dyn Future<Output = ()>>>;

/// Jobs that embassy has room for at once.
const JOBS: usize = 8;

/// What came of running something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Effort {
    /// Polls of futures.
    pub(crate) polls: u64,
    /// Halts of the processor in between.
    pub(crate) halts: u64,
}

/// Deadlines that tasks wait for.
#[derive(Clone, Default)]
pub(crate) struct Alarms(Rc<RefCell<Vec<(Duration, Waker)>>>);

impl Alarms {
    /// Waits until the clock reads `at`.
    pub(crate) async fn sleep_until(&self, at: Duration) {
        poll_fn(|cx| {
            if clock::now() >= at {
                return Poll::Ready(());
            }
            self.0.borrow_mut().push((at, cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Wakes those whose time has come; when the next one's does.
    fn ring(&self) -> Option<Duration> {
        let now = clock::now();
        let mut alarms = self.0.borrow_mut();
        let due = alarms.extract_if(.., |(at, _)| *at <= now);
        due.for_each(|(_, waker)| waker.wake());
        alarms.iter().map(|(at, _)| *at).min()
    }
}

/// Set when embassy has somebody to poll.
static PENDING: AtomicBool = AtomicBool::new(false);

/// Embassy calls it when a task was woken, also in a handler. The name is embassy's, and nobody
/// else exports it.
#[unsafe(export_name = "__pender")]
fn pend(_executor: *mut ()) {
    PENDING.store(true, Ordering::Release);
}

#[embassy_executor::task(pool_size = JOBS)]
async fn run_job(job: Job) {
    job.await;
}

/// Runs jobs on embassy's executor until all are over, or until the clock reads `deadline`: then
/// those that are left are never run again, nor dropped, and there is nothing to tell.
pub(crate) fn run(jobs: Vec<Job>, alarms: &Alarms, deadline: Duration) -> Option<Effort> {
    // Tasks hold on to it for good.
    let executor: &'static raw::Executor =
        Box::leak(Box::new(raw::Executor::new(core::ptr::null_mut())));
    let left = Rc::new(Cell::new(jobs.len()));
    let polls = Rc::new(Cell::new(0));
    for mut job in jobs {
        let (left, polls) = (left.clone(), polls.clone());
        let counted = poll_fn(move |cx| {
            polls.set(polls.get() + 1);
            let polled = job.as_mut().poll(cx);
            left.set(left.get() - usize::from(polled.is_ready()));
            polled
        });
        executor.spawner().spawn(run_job(Box::pin(counted)).ok()?);
    }
    let before = idle::halts();
    loop {
        PENDING.store(false, Ordering::Relaxed);
        // SAFETY: this is no task: it is not called from within itself.
        unsafe { executor.poll() };
        if left.get() == 0 {
            return Some(Effort {
                polls: polls.get(),
                halts: idle::halts() - before,
            });
        }
        if clock::now() >= deadline {
            return None;
        }
        let next = alarms.ring().map_or(deadline, |next| next.min(deadline));
        idle::wait(next, || PENDING.load(Ordering::Acquire));
    }
}

/// Embassy changes the names of its tasks in a critical section, and wants one.
struct InterruptsOff;
critical_section::set_impl!(InterruptsOff);

// SAFETY: tasks, and the handlers that wake them, run on the first processor, which is checked, and
// embassy is all that asks for it: without interrupts nobody comes in between. What it was before
// is restored, so that sections may be nested.
unsafe impl critical_section::Impl for InterruptsOff {
    unsafe fn acquire() -> bool {
        assert_eq!(cpu::index(), 0, "tasks stay on the first processor");
        let enabled = cpu::interrupts_enabled();
        cpu::disable_interrupts();
        enabled
    }

    unsafe fn release(enabled: bool) {
        if enabled {
            cpu::enable_interrupts();
        }
    }
}

/// Whether a future is to be polled.
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// Runs one future without an executor, until it is ready, or until the clock reads `deadline`: then
/// there is nothing to tell. `docs/async.md` shows the same without a deadline.
pub(crate) fn block_on<T>(
    future: impl Future<Output = T>,
    deadline: Duration,
) -> Option<(T, Effort)> {
    let mut future = pin!(future);
    let woken = Arc::new(Woken(AtomicBool::new(false)));
    let waker = Waker::from(woken.clone());
    let before = idle::halts();
    for polls in 1.. {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            let halts = idle::halts() - before;
            return Some((output, Effort { polls, halts }));
        }
        idle::wait(deadline, || woken.0.load(Ordering::Acquire));
        if !woken.0.swap(false, Ordering::Acquire) || clock::now() >= deadline {
            break;
        }
    }
    None
}
