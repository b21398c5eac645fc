//! Tasks that a test polls itself, and that tell who was woken; and the smallest executor.

// Each test program uses its part.
#![allow(dead_code)]

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long somebody may sleep who ought to be woken.
const LIMIT: Duration = Duration::from_secs(60);

/// Counts how often a task was woken.
#[derive(Default)]
pub(crate) struct Woken(AtomicUsize);

impl Woken {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A future, and how often it was woken since it was last polled.
pub(crate) struct Task<'a, T> {
    future: Pin<Box<dyn Future<Output = T> + 'a>>,
    woken: Arc<Woken>,
    known: usize,
}

impl<'a, T> Task<'a, T> {
    pub(crate) fn new(future: impl Future<Output = T> + 'a) -> Self {
        Self {
            future: Box::pin(future),
            woken: Arc::default(),
            known: 0,
        }
    }

    pub(crate) fn poll(&mut self) -> Poll<T> {
        self.known = self.woken.count();
        let waker = Waker::from(Arc::clone(&self.woken));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    /// Polls, where nothing has happened that it waits for.
    #[track_caller]
    pub(crate) fn sleeps(&mut self) {
        assert!(self.poll().is_pending(), "it is ready");
        assert!(!self.is_woken(), "it was woken by itself");
    }

    /// Polls, where what it waits for has happened.
    #[track_caller]
    pub(crate) fn ready(&mut self) -> T {
        for _ in 0..3 {
            match self.poll() {
                Poll::Ready(value) => return value,
                Poll::Pending => assert!(self.is_woken(), "it sleeps"),
            }
        }
        panic!("it yields and yields");
    }

    /// As [`ready`](Self::ready), of a task that slept.
    #[track_caller]
    pub(crate) fn wakes_up(&mut self) -> T {
        assert!(self.is_woken(), "it was not woken");
        self.ready()
    }

    pub(crate) fn is_woken(&self) -> bool {
        self.woken.count() != self.known
    }

    /// References to its waker that somebody keeps.
    pub(crate) fn wakers(&self) -> usize {
        Arc::strong_count(&self.woken) - 1
    }

    pub(crate) fn woken(&self) -> Arc<Woken> {
        Arc::clone(&self.woken)
    }

    /// Forgets the future where it is.
    pub(crate) fn forget(self) {
        std::mem::forget(self.future);
    }
}

/// Wakes a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor: one future, and this thread sleeps in between.
///
/// # Panics
/// When it sleeps for too long.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut cx = Context::from_waker(&waker);
    let start = Instant::now();
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park_timeout(LIMIT),
        }
        assert!(start.elapsed() < LIMIT, "it is not woken any more");
    }
}
