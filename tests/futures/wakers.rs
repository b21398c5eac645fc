//! Wakers as executors have them, and as nobody would write them: that use the queue, that panic, that
//! have their task polled there and then; and what keeps them when what awaited is gone.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, RawWaker, RawWakerVTable, Wake, Waker};
use std::thread;
use std::time::Duration;

use vring::adapter::futures::{AsyncReceiver, ConfigChanges, Notifier, Queue};
use vring::buffer::Writable;
use vring::features::{Feature, Wish};
use vring::init::{self, Live, QueueConfig};
use vring::testing::{FakeDevice, FakeMmio, FakeTransport, InPlace};
use vring::transport::mmio::MmioTransport;
use vring::transport::{DeviceId, Doorbell, Isr, Register, RegisterAccess};
use vring::virtqueue::Fault;

use super::rig::{self, Chunks, Maker, W, config, reply};
use super::support::{Q, Ring, stop};
use super::tasks::Task;
use super::wire;

type Tasks = Queue<InPlace, Chunks>;

/// A queue that wakers have a reference to.
struct Shared {
    device: FakeDevice,
    live: Live<InPlace, FakeTransport>,
    queue: Arc<Tasks>,
    maker: Maker,
}

impl Shared {
    fn new(size: u16) -> Self {
        let rig = rig::Rig::new(&InPlace::new(), Ring::SPLIT.features, &config(size, 0));
        Self {
            device: rig.device,
            live: rig.live,
            queue: Arc::new(Queue::new(rig.queue)),
            maker: rig.maker,
        }
    }

    fn buf(&mut self) -> Chunks {
        self.maker.chunks(&[(W, 1)])
    }

    /// The device returns all that it has; nobody is told.
    fn complete_all(&self) {
        self.device.with_queue(Q, |queue| {
            while let Some(chain) = queue.pop() {
                let len = reply(queue, &chain, usize::MAX);
                queue.complete(chain, len);
            }
        });
    }
}

/// Runs `f` in a thread of its own; false when it does not come back.
fn comes_back(f: impl FnOnce() + Send + 'static) -> bool {
    let (done, wait) = mpsc::channel();
    thread::spawn(move || {
        f();
        let _ = done.send(());
    });
    wait.recv_timeout(Duration::from_secs(60)).is_ok()
}

/// A waker in the middle of whose `clone` an interrupt comes, once, and which asks the queue something
/// when it is called. `clone` stands for any two instructions while a waker is put down.
struct Interrupted {
    queue: Arc<Tasks>,
    handler: Notifier,
    due: AtomicBool,
    woken: AtomicUsize,
}

fn interrupted(state: &Arc<Interrupted>) -> Waker {
    unsafe fn clone(data: *const ()) -> RawWaker {
        // SAFETY: it came from `into_raw`.
        unsafe { Arc::increment_strong_count(data.cast::<Interrupted>()) };
        // SAFETY: as above.
        let state = unsafe { &*data.cast::<Interrupted>() };
        if state.due.swap(false, Ordering::SeqCst) {
            state.handler.wake();
        }
        RawWaker::new(data, &TABLE)
    }
    unsafe fn wake(data: *const ()) {
        // SAFETY: by contract of wakers.
        unsafe { wake_by_ref(data) };
        // SAFETY: as above.
        unsafe { drop(data) };
    }
    unsafe fn wake_by_ref(data: *const ()) {
        // SAFETY: it came from `into_raw`.
        let state = unsafe { &*data.cast::<Interrupted>() };
        state.woken.fetch_add(1, Ordering::SeqCst);
        let _ = state.queue.fault();
    }
    unsafe fn drop(data: *const ()) {
        // SAFETY: it came from `into_raw`.
        unsafe { Arc::decrement_strong_count(data.cast::<Interrupted>()) };
    }
    static TABLE: RawWakerVTable = RawWakerVTable::new(clone, wake, wake_by_ref, drop);
    let data = Arc::into_raw(Arc::clone(state)).cast();
    // SAFETY: the table keeps the contract: an `Arc` of something that is `Send + Sync`.
    unsafe { Waker::from_raw(RawWaker::new(data, &TABLE)) }
}

#[test]
fn a_waker_that_calls_back_never_finds_the_queue_locked() {
    for in_line in [false, true] {
        let mut shared = Shared::new(1);
        let queue = shared.queue.clone();
        let bufs = [shared.buf(), shared.buf()];
        let came = comes_back(move || {
            let [first, second] = bufs;
            let state = Arc::new(Interrupted {
                handler: queue.notifier(),
                queue,
                due: AtomicBool::new(true),
                woken: AtomicUsize::new(0),
            });
            let waker = interrupted(&state);
            let mut cx = Context::from_waker(&waker);
            let mut first = state.queue.try_submit(first).unwrap();
            let mut second = state.queue.submit(second);
            let pending = match in_line {
                true => Pin::new(&mut second).poll(&mut cx).is_pending(),
                false => Pin::new(&mut first).poll(&mut cx).is_pending(),
            };
            assert!(pending);
            assert_eq!(state.woken.load(Ordering::SeqCst), 1, "the ring is lost");
        });
        assert!(came, "the waker waits for a lock that its own caller holds");
    }
}

/// Counts, and panics once if it is to.
struct Counts {
    panics: AtomicBool,
    woken: AtomicUsize,
}

impl Counts {
    fn new(panics: bool) -> (Arc<Self>, Waker) {
        let counts = Arc::new(Self {
            panics: AtomicBool::new(panics),
            woken: AtomicUsize::new(0),
        });
        (counts.clone(), Waker::from(counts))
    }

    fn get(&self) -> usize {
        self.woken.load(Ordering::SeqCst)
    }
}

impl Wake for Counts {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.fetch_add(1, Ordering::SeqCst);
        let panics = self.panics.swap(false, Ordering::SeqCst);
        assert!(!panics, "this waker panics");
    }
}

#[track_caller]
fn sleeps<T>(future: &mut (impl Future<Output = T> + Unpin), waker: &Waker) {
    let mut cx = Context::from_waker(waker);
    assert!(Pin::new(future).poll(&mut cx).is_pending());
}

/// Two tasks wait for their buffers, which have come back; the first has a waker that panics.
fn with_one_that_panics(wake: fn(&Tasks)) {
    let mut shared = Shared::new(4);
    let queue = shared.queue.clone();
    let mut first = queue.try_submit(shared.buf()).unwrap();
    let mut second = queue.try_submit(shared.buf()).unwrap();
    let (sleeper, waker) = Counts::new(false);
    sleeps(&mut first, &Counts::new(true).1);
    sleeps(&mut second, &waker);
    shared.complete_all();
    assert!(catch_unwind(AssertUnwindSafe(|| wake(&queue))).is_err());
    assert!(sleeper.get() > 0, "the other task sleeps for ever");
    // Nothing of what has come back is lost.
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut first).poll(&mut cx).is_ready());
    assert!(Pin::new(&mut second).poll(&mut cx).is_ready());
}

#[test]
fn a_waker_that_panics_in_the_handler_costs_no_other_task_its_wake_up() {
    with_one_that_panics(|queue| queue.notifier().wake());
}

#[test]
fn a_waker_that_panics_in_a_loop_that_polls_costs_no_other_task_its_wake_up() {
    with_one_that_panics(|queue| assert!(queue.reap().is_ok()));
}

#[test]
fn a_waker_that_panics_when_the_queue_is_taken_costs_no_other_task_its_wake_up() {
    with_one_that_panics(|queue| std::mem::forget(queue.take()));
}

#[test]
fn a_waker_that_panics_in_line_costs_no_other_task_its_wake_up() {
    let mut shared = Shared::new(1);
    let queue = shared.queue.clone();
    let _out = queue.try_submit(shared.buf()).unwrap();
    let mut first = queue.submit(shared.buf());
    let mut second = queue.submit(shared.buf());
    let (sleeper, waker) = Counts::new(false);
    sleeps(&mut first, &Counts::new(true).1);
    // A newcomer lets those go first who wait.
    sleeps(&mut second, &waker);
    sleeps(&mut second, &waker);
    let before = sleeper.get();
    shared.complete_all();
    assert!(catch_unwind(AssertUnwindSafe(|| queue.reap())).is_err());
    assert!(sleeper.get() > before, "who waits for room sleeps for ever");
}

static RINGS: AtomicUsize = AtomicUsize::new(0);

/// The first ring is heard.
fn bell(_: usize, _: u32) {
    let before = RINGS.fetch_add(1, Ordering::SeqCst);
    assert!(before == 0, "this hypercall panics");
}

/// Registers that are reached as the fake says, and doorbells that panic.
#[derive(Clone)]
struct Panics(FakeMmio);

// SAFETY: the fake keeps the promises; a doorbell that is not rung loses time only.
unsafe impl RegisterAccess for Panics {
    fn read8(&self, at: Register<u8>) -> u8 {
        self.0.read8(at)
    }
    fn read16(&self, at: Register<u16>) -> u16 {
        self.0.read16(at)
    }
    fn read32(&self, at: Register<u32>) -> u32 {
        self.0.read32(at)
    }
    fn write8(&self, at: Register<u8>, value: u8) {
        self.0.write8(at, value);
    }
    fn write16(&self, at: Register<u16>, value: u16) {
        self.0.write16(at, value);
    }
    fn write32(&self, at: Register<u32>, value: u32) {
        self.0.write32(at, value);
    }
    fn doorbell(&self, at: Register<u16>, value: u16) -> Doorbell {
        self.0.doorbell(at, value)
    }
    fn doorbell_with_data(&self, at: Register<u32>, value: u16) -> Doorbell {
        self.0.doorbell_with_data(at, value)
    }
    fn doorbell32(&self, _: Register<u32>, value: u16) -> Doorbell {
        Doorbell::function(bell, 0, value)
    }
    fn isr(&self, at: Register<u8>) -> Isr {
        self.0.isr(at)
    }
    fn isr_pair(&self, status: Register<u32>, ack: Register<u32>) -> Isr {
        self.0.isr_pair(status, ack)
    }
}

#[test]
fn a_doorbell_that_panics_costs_no_task_its_wake_up() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::ENTROPY).offer(Feature::VERSION_1);
    let fake = FakeMmio::new(&device);
    // SAFETY: through the fake alone.
    let registers = unsafe { fake.registers() };
    let transport = MmioTransport::with_access(registers, Panics(fake.clone()));
    let reset = init::reset(transport.unwrap().unwrap(), &platform).unwrap();
    let mut negotiated = reset.negotiate(&Wish::default()).unwrap();
    let pending = negotiated.queue(Q, &QueueConfig::new(8)).unwrap();
    let live = negotiated.finish().unwrap();
    let queue = Queue::new(pending.start(&live).unwrap());
    let mut first = queue.try_submit(Writable(vec![0; 8])).unwrap();
    let second = queue.try_submit(Writable(vec![0; 8])).unwrap();
    let (sleeper, waker) = Counts::new(false);
    sleeps(&mut first, &waker);
    device.serve(Q, |queue, chain| queue.write(chain, b"x"));
    let mut third = queue.try_submit(Writable(vec![0; 8])).unwrap();
    let polled = catch_unwind(AssertUnwindSafe(|| {
        Pin::new(&mut third).poll(&mut Context::from_waker(Waker::noop()))
    }));
    assert!(polled.is_err());
    assert!(
        sleeper.get() > 0,
        "its buffer is back, and it sleeps for ever"
    );
    drop((first, second, third));
    std::mem::forget((queue, live));
}

thread_local! {
    /// The executor polls already.
    static RUNNING: Cell<bool> = const { Cell::new(false) };
}

/// An executor in an interrupt of high priority, as embassy's `InterruptExecutor`: waking a task
/// pends the interrupt, which preempts whoever woke it, there and then, until no task is awake.
struct Preempts {
    changes: Mutex<ConfigChanges>,
    awake: AtomicBool,
    polls: AtomicUsize,
    seen: AtomicUsize,
}

impl Preempts {
    fn run(self: &Arc<Self>) {
        if RUNNING.replace(true) {
            return;
        }
        let waker = Waker::from(self.clone());
        while self.awake.swap(false, Ordering::SeqCst) {
            if self.polls.fetch_add(1, Ordering::SeqCst) > 100 {
                break;
            }
            let mut changes = self.changes.lock().unwrap();
            let mut cx = Context::from_waker(&waker);
            while changes.poll_changed(&mut cx).is_ready() {
                self.seen.fetch_add(1, Ordering::SeqCst);
            }
        }
        RUNNING.set(false);
    }
}

impl Wake for Preempts {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.awake.store(true, Ordering::SeqCst);
        self.run();
    }
}

#[test]
#[cfg_attr(miri, ignore = "there no waker is known to be its clone")]
fn a_task_may_preempt_the_call_that_wakes_it() {
    let changes = ConfigChanges::new();
    let handler = changes.notifier();
    let task = Arc::new(Preempts {
        changes: Mutex::new(changes),
        awake: AtomicBool::new(true),
        polls: AtomicUsize::new(0),
        seen: AtomicUsize::new(0),
    });
    task.run();
    assert_eq!(task.polls.load(Ordering::SeqCst), 1, "it sleeps");
    for rings in 1..4 {
        handler.wake();
        assert_eq!(task.seen.load(Ordering::SeqCst), rings);
        assert_eq!(task.polls.load(Ordering::SeqCst), 1 + rings);
    }
    // The task is in the waker, and the waker in the task.
    *task.changes.lock().unwrap() = ConfigChanges::new();
}

/// A waker may be the last reference to a task, and handlers keep their notifiers for ever.
#[test]
fn a_part_that_is_gone_leaves_no_waker() {
    let platform = InPlace::new();
    let device = wire::device(&platform, wire::OFFERED, 1500);
    let mut net = wire::driver(&platform, &device, 16, 16);
    wire::refill(&mut net);
    let (task, waker) = Counts::new(false);
    let mut cx = Context::from_waker(&waker);
    let mut rx = AsyncReceiver::new(net.rx());
    let _handler = rx.notifier();
    assert!(rx.poll_receive(&mut cx).is_pending());
    drop(rx);
    assert_eq!(
        Arc::strong_count(&task),
        2,
        "the receiver's handler has one"
    );
    let mut rx = AsyncReceiver::new(net.rx());
    let _handler = rx.notifier();
    assert!(rx.poll_receive(&mut cx).is_pending());
    let _ = rx.into_inner();
    assert_eq!(Arc::strong_count(&task), 2, "a receiver was taken out");
    let mut changes = ConfigChanges::new();
    let _handler = changes.notifier();
    assert!(changes.poll_changed(&mut cx).is_pending());
    drop(changes);
    assert_eq!(
        Arc::strong_count(&task),
        2,
        "the handler of changes has one"
    );
}

#[test]
fn a_future_that_was_told_of_the_end_leaves_no_waker() {
    let mut shared = Shared::new(4);
    let queue = shared.queue.clone();
    let _handler = queue.notifier();
    let mut tasks: Vec<_> = (0..4)
        .map(|_| Task::new(queue.try_submit(shared.buf()).unwrap()))
        .collect();
    tasks.iter_mut().for_each(Task::sleeps);
    let mut for_room = Task::new(queue.submit(shared.buf()));
    for_room.sleeps();
    let taken = queue.take().unwrap();
    for task in &mut tasks {
        assert_eq!(task.wakes_up().unwrap_err(), Fault::Stopped);
        assert_eq!(task.wakers(), 0);
    }
    assert!(for_room.wakes_up().is_err());
    assert_eq!(for_room.wakers(), 0);
    drop((tasks, for_room));
    assert_eq!(stop(shared.live, taken).len(), 4);
}
