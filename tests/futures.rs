//! Awaiting: who is woken when, and what becomes of futures that are dropped or forgotten.

/// Runs a generic function on each kind of platform and each kind of ring, with arguments behind; where
/// Miri does it, on two of them.
macro_rules! rings {
    ($f:ident $(, $arg:expr)*) => {
        if cfg!(miri) {
            $f(&vring::testing::InPlace::new(), $crate::support::Ring::SPLIT $(, $arg)*);
            $f(&vring::testing::Bouncing::new(), $crate::support::Ring::PACKED $(, $arg)*);
        } else {
            $crate::support::every_ring!($f $(, $arg)*);
        }
    };
}

#[path = "futures/config.rs"]
mod config_changes;
#[path = "futures/gone.rs"]
mod gone;
#[path = "futures/line.rs"]
mod line;
#[path = "futures/net.rs"]
mod net;
#[path = "futures/parked.rs"]
mod parked;
#[path = "futures/points.rs"]
mod points;
#[path = "support/queue.rs"]
mod rig;
mod support;
#[path = "support/tasks.rs"]
mod tasks;
#[path = "futures/threads.rs"]
mod threads;
#[path = "futures/wakers.rs"]
mod wakers;
#[path = "support/net.rs"]
mod wire;

use std::cell::{Cell, RefCell};

use vring::adapter::futures::{ConfigChanges, Finished, InFlight, Notifier, Queue, Unclaimed};
use vring::features::{Feature, Features};
use vring::init::{Live, QueueConfig};
use vring::platform::Direction;
use vring::testing::{Bouncing, Chain, Fake, FakeDevice, FakeTransport, InPlace, Kind};
use vring::virtqueue::{Fault, Reject};

use rig::{Chunks, Maker, R, W, config, reply, scaled};
use support::{Q, Ring, stop};
use tasks::Task;

/// A queue that is awaited, and its device.
struct Rig<K: Kind> {
    platform: Fake<K>,
    device: FakeDevice,
    live: RefCell<Live<Fake<K>, FakeTransport>>,
    queue: Queue<Fake<K>, Chunks>,
    handler: Notifier,
    maker: RefCell<Maker>,
    /// Interrupts that the handler has seen.
    seen: Cell<usize>,
}

impl<K: Kind> Rig<K> {
    fn new(platform: &Fake<K>, features: Features, config: &QueueConfig) -> Self {
        let rig = rig::Rig::new(platform, features, config);
        let queue = Queue::new(rig.queue);
        Self {
            platform: rig.platform,
            device: rig.device,
            live: RefCell::new(rig.live),
            handler: queue.notifier(),
            queue,
            maker: RefCell::new(rig.maker),
            seen: Cell::new(0),
        }
    }

    fn chunks(&self, shape: &[(Direction, usize)]) -> Chunks {
        self.maker.borrow_mut().chunks(shape)
    }

    fn chain(&self, pieces: usize) -> Chunks {
        self.maker.borrow_mut().chain(pieces)
    }

    /// Buffers that are somewhere.
    fn alive(&self) -> usize {
        self.maker.borrow().alive()
    }

    fn submit(&self, buf: Chunks) -> InFlight<'_, Fake<K>, Chunks> {
        self.queue.try_submit(buf).unwrap()
    }

    /// A task that submits and waits.
    fn round(&self, buf: Chunks) -> Task<'_, Finished<Chunks>> {
        Task::new(async { self.queue.submit(buf).await.unwrap().await.unwrap() })
    }

    /// The chains that the device finds.
    fn take(&self) -> Vec<Chain> {
        self.device
            .with_queue(Q, |queue| std::iter::from_fn(|| queue.pop()).collect())
            .unwrap()
    }

    /// The device answers and returns a chain, and interrupts if it is to.
    fn complete(&self, chain: Chain) {
        let interrupt = self.device.with_queue(Q, |queue| {
            let len = reply(queue, &chain, usize::MAX);
            queue.complete(chain, len)
        });
        if interrupt.unwrap() {
            self.device.interrupt();
        }
        self.interrupts();
    }

    /// The device does all that there is to do; how much.
    fn serve(&self) -> usize {
        let chains = self.take();
        let count = chains.len();
        chains.into_iter().for_each(|chain| self.complete(chain));
        count
    }

    /// The handler runs if there was an interrupt.
    fn interrupts(&self) -> bool {
        let raised = self.device.interrupts();
        let any = self.seen.replace(raised) != raised;
        if any {
            self.handler.wake();
        }
        any
    }

    fn free(&self) -> u16 {
        self.queue.look(|queue| queue.free()).unwrap()
    }

    fn unclaimed(&self) -> Vec<u64> {
        std::iter::from_fn(|| self.queue.next_unclaimed())
            .map(|unclaimed| unclaimed.into_buf().number)
            .collect()
    }

    /// Resets the device: so many buffers were in the queue, and so many nobody fetched; none is
    /// lost, nothing is leaked.
    fn finish(self, in_queue: usize, not_fetched: usize) {
        let maker = self.maker.into_inner();
        let (queue, unclaimed) = self.queue.into_inner();
        let unclaimed: Vec<_> = unclaimed.collect();
        assert_eq!(unclaimed.len(), not_fetched);
        let left = stop(self.live.into_inner(), queue.unwrap());
        assert_eq!(left.len(), in_queue);
        assert_eq!(
            maker.alive(),
            in_queue + not_fetched,
            "some buffers are lost"
        );
        drop((unclaimed, left));
        assert_eq!(maker.alive(), 0);
        self.device.assert_clean();
        self.platform.assert_no_leaks();
    }
}

/// Defends: SP-014.
#[test]
fn a_future_is_ready_with_its_own_buffer_in_whatever_order_they_come() {
    rings!(own_buffer);
}

fn own_buffer<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let rig = Rig::new(platform, ring.features, &config(16, 65_530));
    for round in 0..scaled(20, 2) {
        let mut tasks: Vec<_> = (0..5)
            .map(|i| {
                let buf = rig.chunks(&[(R, 3 + i), (W, 9)]);
                (buf.number, rig.round(buf))
            })
            .collect();
        tasks.iter_mut().for_each(|(_, task)| task.sleeps());
        let mut chains = rig.take();
        if !ring.is_in_order() {
            chains.rotate_left(round % 5);
            chains.swap(0, 2);
        }
        chains.into_iter().for_each(|chain| rig.complete(chain));
        for (number, task) in tasks.iter_mut().rev() {
            let done = task.wakes_up();
            assert_eq!(done.buf().number, *number);
            assert_eq!(
                done.claimed(),
                if done.is_assumed() {
                    9.max(done.claimed())
                } else {
                    9
                }
            );
            done.buf().check(9);
        }
    }
    assert_eq!(rig.alive(), 0);
    assert!(rig.unclaimed().is_empty());
    rig.finish(0, 0);
}

#[test]
fn futures_that_are_awaited_together_cost_one_notification() {
    rings!(one_notification);
}

fn one_notification<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let rig = Rig::new(platform, ring.features, &config(8, 65_533));
    let mut tasks: Vec<_> = (0..4)
        .map(|_| Task::new(rig.submit(rig.chunks(&[(W, 4)]))))
        .collect();
    assert_eq!(rig.device.kicks(Q), 0, "nobody sleeps yet");
    assert_eq!(rig.take().len(), 0, "nothing is published yet");
    tasks.iter_mut().for_each(Task::sleeps);
    assert_eq!(rig.device.kicks(Q), 1);
    rig.device.assert_kicked(Q);
    assert_eq!(rig.serve(), 4);
    for task in &mut tasks {
        let _ = task.wakes_up();
    }
    // Who waits for something else kicks first.
    let last = rig.submit(rig.chunks(&[(W, 4)]));
    rig.queue.kick();
    rig.device.assert_kicked(Q);
    let kicks = rig.device.kicks(Q);
    rig.queue.kick();
    assert_eq!(rig.device.kicks(Q), kicks, "there is nothing new");
    assert_eq!(rig.serve(), 1);
    let _ = Task::new(last).ready();
    drop(tasks);
    rig.finish(0, 0);
}

#[test]
fn who_does_not_sleep_asks_for_no_interrupt() {
    rings!(no_interrupt);
}

fn no_interrupt<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let rig = Rig::new(platform, ring.features, &config(8, 0));
    for _ in 0..scaled(20, 4) {
        let future = rig.submit(rig.chunks(&[(W, 4)]));
        rig.queue.kick();
        rig.serve();
        let _ = Task::new(future).ready();
    }
    assert_eq!(rig.device.interrupts(), 0);
    rig.finish(0, 0);
}

#[test]
fn a_reply_is_kept_for_as_long_as_its_future() {
    rings!(replies);
}

fn replies<K: Kind>(platform: &Fake<K>, ring: Ring) {
    // Kept in the value, just so, and on the heap; odd, so that nothing is aligned by luck.
    for size in [1, 16, 17, 39] {
        let rig = Rig::new(platform, ring.features, &config(16, 65_530).cells(5, size));
        let mut tasks = Vec::new();
        // Slots are used again while their last replies are still there.
        for i in 0..scaled(12, 3) as u8 {
            let buf = rig.chunks(&[(R, 1)]);
            let future = rig.queue.try_submit_with(&[i; 5], buf).unwrap();
            let mut task = Task::new(future);
            task.sleeps();
            let chain = rig.take().pop().unwrap();
            let interrupt = rig.device.with_queue(Q, |queue| {
                assert_eq!(queue.read(&chain)[..5], [i; 5]);
                let len = queue.write(&chain, &vec![i; usize::from(size)]);
                queue.complete(chain, len)
            });
            assert!(interrupt.unwrap());
            rig.handler.wake();
            tasks.push(task);
            // Somebody else takes it back.
            assert_eq!(rig.queue.reap(), Ok(1));
        }
        for (i, task) in tasks.iter_mut().enumerate() {
            let done = task.wakes_up().unwrap();
            assert_eq!(done.reply::<u8>(), Some(i as u8));
            assert_eq!(done.written(), size.into());
            let whole = done.reply::<[u8; 39]>();
            assert_eq!(whole, (size == 39).then_some([i as u8; 39]));
        }
        drop(tasks);
        // Through a line, and without a header.
        let buf = rig.chunks(&[(R, 1)]);
        let mut task = Task::new(async { rig.queue.submit_with((), buf).await.unwrap().await });
        task.sleeps();
        rig.serve();
        assert!(task.wakes_up().unwrap().reply::<u8>().is_some());
        drop(task);
        // A chain without cells has none.
        let mut task = Task::new(rig.submit(rig.chunks(&[(W, 1)])));
        task.sleeps();
        rig.serve();
        assert_eq!(task.wakes_up().unwrap().reply::<u8>(), None);
        drop(task);
        rig.finish(0, 0);
    }
}

#[test]
fn what_is_not_fetched_yet_survives_that_its_slot_is_used_again() {
    rings!(late);
}

fn late<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let rig = Rig::new(platform, ring.features, &config(4, 65_534));
    let mut slow = Vec::new();
    for _ in 0..scaled(40, 9) {
        let buf = rig.chunks(&[(R, 2), (W, 6)]);
        slow.push((buf.number, Task::new(rig.submit(buf))));
        rig.queue.kick();
        rig.serve();
        assert_eq!(rig.queue.reap(), Ok(1));
        assert_eq!(rig.free(), 4, "the slot is free");
    }
    let kept = slow.split_off(slow.len() / 2);
    for (number, mut task) in slow {
        let done = task.ready().unwrap();
        assert_eq!(done.buf().number, number);
        done.buf().check(6);
    }
    // Dropped late, they are nobody's.
    let numbers: Vec<_> = kept.iter().map(|(number, _)| *number).collect();
    drop(kept);
    assert_eq!(rig.unclaimed(), numbers);
    rig.finish(0, 0);
}

#[test]
fn a_loop_that_polls_wakes_those_whose_buffers_have_come_and_no_others() {
    rings!(reaped);
}

fn reaped<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let rig = Rig::new(platform, ring.features, &config(32, 65_530));
    let mut tasks: Vec<_> = (0..14).map(|_| rig.round(rig.chunks(&[(W, 1)]))).collect();
    tasks.iter_mut().for_each(Task::sleeps);
    let mut chains = rig.take().into_iter();
    rig.device.with_queue(Q, |queue| {
        for chain in chains.by_ref().take(5) {
            queue.complete(chain, 1);
        }
    });
    assert_eq!(rig.queue.reap(), Ok(5));
    let woken: Vec<_> = tasks.iter().map(Task::is_woken).collect();
    let expected: Vec<_> = (0..14).map(|i| i < 5).collect();
    assert_eq!(woken, expected);
    assert_eq!(rig.queue.reap(), Ok(0));
    rig.device.with_queue(Q, |queue| {
        for chain in chains {
            queue.complete(chain, 1);
        }
    });
    // More than a call can name: then all are woken.
    assert_eq!(rig.queue.reap(), Ok(9));
    for task in &mut tasks {
        let _ = task.wakes_up();
    }
    drop(tasks);
    rig.finish(0, 0);
}

#[test]
fn a_fault_ends_all_waiting_and_buffers_come_back_from_the_reset() {
    rings!(fault);
}

fn fault<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let rig = Rig::new(platform, ring.features, &config(4, 65_534));
    rig.device.violations().set_lenient();
    let mut ready = Task::new(rig.submit(rig.chunks(&[(W, 3)])));
    ready.sleeps();
    rig.serve();
    assert_eq!(rig.queue.reap(), Ok(1));
    let mut waiting: Vec<_> = (0..4)
        .map(|_| Task::new(rig.submit(rig.chunks(&[(W, 1)]))))
        .collect();
    waiting.iter_mut().for_each(Task::sleeps);
    let mut for_room = Task::new(rig.queue.submit(rig.chunks(&[(W, 1)])));
    for_room.sleeps();
    // Nobody sent it 77.
    rig.device.with_queue(Q, |queue| queue.forge_used(77, 0));
    rig.handler.wake();
    let first = waiting[2].wakes_up().unwrap_err();
    assert_eq!(rig.queue.fault(), Some(first));
    for i in [0, 1, 3] {
        assert_eq!(waiting[i].wakes_up().unwrap_err(), first);
    }
    let rejected = for_room.wakes_up().unwrap_err();
    assert_eq!(rejected.why, Reject::Broken(first));
    assert_eq!(rejected.buf.number, 6, "it is given back");
    // What had come back before has come back.
    assert_eq!(ready.ready().unwrap().buf().number, 1);
    let rejected = rig.queue.try_submit(rejected.buf).unwrap_err();
    assert_eq!(rejected.why, Reject::Broken(first));
    drop((ready, waiting, for_room, rejected));
    let (queue, _) = rig.queue.into_inner();
    assert_eq!(stop(rig.live.into_inner(), queue.unwrap()).len(), 4);
    rig.platform.assert_no_leaks();
}

#[test]
fn a_queue_that_is_taken_ends_all_waiting_and_can_be_put_back() {
    rings!(taken, false);
    rings!(taken, true);
}

fn taken<K: Kind>(platform: &Fake<K>, ring: Ring, restarts: bool) {
    let mut features = ring.features;
    if restarts {
        features |= Feature::RING_RESET;
    }
    let rig = Rig::new(platform, features, &config(4, 0));
    let mut waiting: Vec<_> = (0..4)
        .map(|_| Task::new(rig.submit(rig.chunks(&[(W, 1)]))))
        .collect();
    waiting.iter_mut().for_each(Task::sleeps);
    let mut for_room = Task::new(rig.queue.submit(rig.chunks(&[(W, 1)])));
    for_room.sleeps();
    let mut old = waiting.remove(0);
    let mut queue = rig.queue.take().unwrap();
    assert!(rig.queue.take().is_none());
    assert_eq!(rig.queue.fault(), Some(Fault::Stopped));
    assert_eq!(rig.queue.reap(), Err(Fault::Stopped));
    assert_eq!(rig.queue.look(|_| ()), None);
    for task in &mut waiting {
        assert_eq!(task.wakes_up().unwrap_err(), Fault::Stopped);
    }
    let stopped = Reject::Broken(Fault::Stopped);
    assert_eq!(for_room.wakes_up().unwrap_err().why, stopped);
    drop((waiting, for_room));
    // Where the device can, the queue alone starts again.
    let mut back = Vec::new();
    if restarts {
        rig.live
            .borrow_mut()
            .restart_queue(&mut queue, &config(4, 0), |withdrawn| {
                back.push(withdrawn.buf)
            })
            .unwrap();
        assert_eq!(back.len(), 4);
        drop(back);
    }
    assert!(rig.queue.put(queue).is_ok());
    // A future from before is not taken for one of now, in the same slot.
    if restarts {
        let mut new = rig.round(rig.chunks(&[(W, 2)]));
        new.sleeps();
        assert_eq!(old.wakes_up().unwrap_err(), Fault::Stopped);
        rig.serve();
        let _ = new.wakes_up();
        drop((old, new));
        rig.finish(0, 0);
    } else {
        drop(old);
        // What was in it comes back, and is nobody's.
        assert_eq!(rig.serve(), 4);
        assert_eq!(rig.unclaimed().len(), 4);
        rig.finish(0, 0);
    }
}

/// One that is there already is not lost.
#[test]
fn a_queue_is_put_only_where_none_is() {
    let platform = InPlace::new();
    let ring = Ring::SPLIT;
    let rig = Rig::new(&platform, ring.features, &config(4, 0));
    let other = rig::Rig::new(&platform, ring.features, &config(4, 0));
    let other_queue = rig.queue.put(other.queue).unwrap_err();
    assert_eq!(stop(other.live, other_queue).len(), 0);
    rig.finish(0, 0);
}

#[test]
fn bug_class_73_a_wake_up_for_nothing_does_nothing() {
    rings!(spurious);
}

fn spurious<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let rig = Rig::new(platform, ring.features, &config(4, 0));
    rig.handler.wake();
    let mut task = rig.round(rig.chunks(&[(W, 1)]));
    rig.handler.wake();
    task.sleeps();
    for _ in 0..3 {
        rig.handler.wake();
        assert!(task.is_woken());
        task.sleeps();
    }
    rig.serve();
    let _ = task.wakes_up();
    drop(task);
    // The queue may be gone.
    let handler = rig.handler.clone();
    rig.finish(0, 0);
    handler.wake();
}

#[test]
fn what_crosses_cores_may_cross_cores() {
    fn sent<T: Send>() {}
    fn shared<T: Send + Sync>() {}
    fn sent_value<T: Send>(_: &T) {}
    type P = Fake<vring::testing::Direct>;
    shared::<Notifier>();
    shared::<Queue<P, Chunks>>();
    sent::<InFlight<'static, P, Chunks>>();
    sent::<Finished<Chunks>>();
    sent::<Unclaimed<Chunks>>();
    shared::<ConfigChanges>();
    let platform = InPlace::new();
    let rig = Rig::new(&platform, Ring::SPLIT.features, &config(4, 0));
    let (queue, buf) = (&rig.queue, rig.chunks(&[(W, 1)]));
    let future = async move { queue.submit(buf).await.unwrap().await };
    sent_value(&future);
    drop(future);
    rig.finish(0, 0);
    let _ = Bouncing::new();
}
