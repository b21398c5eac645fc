//! The network driver's halves on embassy's executor: a task receives, one sends, one watches the
//! configuration, and one the clock.

use alloc::boxed::Box;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use alloc::{format, vec};
use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};
use core::time::Duration;

use guest_services::Config;
use vring::adapter::futures::{AsyncControl, AsyncReceiver, AsyncTransmitter};
use vring::buffer::Window;
use vring::device::net::{
    ControlHalf, Driver, F, Options as DriverOptions, RECEIVE_QUEUE, ReceiverHalf, TransmitFailure,
    TransmitterHalf,
};
use vring::transport::Transport;
use vring::virtqueue::{Counters, Reject};
use vring_protocol::{Event, Options};

use super::super::super::arp::{FRAME, is_answer};
use super::super::{HEADER, LOCAL_MAC, facts};
use super::{End, Outcome, bytes, deadline, once};
use crate::kernel::clock;
use crate::kernel::device_interrupts::{DeviceInterrupts, Wakes};
use crate::kernel::executor::{self, Alarms, Job};
use crate::kernel::platform::Identity;
use crate::report::event;

type Memory = Box<[u8]>;
type Card<T> = Driver<Identity, T, Memory>;
type Receiver<T> = AsyncReceiver<ReceiverHalf<Identity, T, Memory>>;
type Transmitter<T> =
    AsyncTransmitter<TransmitterHalf<Identity, T, Memory>, Box<dyn FnMut(Memory)>>;
type Control<T> = AsyncControl<ControlHalf<Identity, T, Memory>>;

/// Frames that the transmit queue has room for: few, so that it is full now and then.
const ROOM: u16 = 8;

/// How often the clock wakes its task.
const TICK: Duration = Duration::from_millis(2);

/// How long the device may take to return the last frames, whose answers are here.
const LAST_FRAMES: Duration = Duration::from_secs(10);

/// A count that tasks wait for.
#[derive(Default)]
struct Level {
    value: Cell<u32>,
    waiting: RefCell<Vec<(u32, Waker)>>,
}

impl Level {
    fn raise(&self) {
        let value = self.value.get() + 1;
        self.value.set(value);
        let mut waiting = self.waiting.borrow_mut();
        let reached = waiting.extract_if(.., |(wanted, _)| *wanted <= value);
        reached.for_each(|(_, waker)| waker.wake());
    }

    async fn reaches(&self, wanted: u32) {
        poll_fn(|cx| {
            if self.value.get() >= wanted {
                return Poll::Ready(());
            }
            let mut waiting = self.waiting.borrow_mut();
            waiting.push((wanted, cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

/// What the tasks share, and where they leave their parts at the end.
struct Stage<T: Transport + 'static> {
    packets: u32,
    config: Config,
    mac: [u8; 6],
    /// Questions that were answered.
    answers: Level,
    /// Tasks that are over, but for the clock's.
    over: Level,
    alarms: Alarms,
    /// Frames' memory that came back from the transmit queue.
    frames_back: Rc<Cell<u64>>,
    outcome: RefCell<Outcome>,
    trouble: RefCell<Option<String>>,
    receiver: RefCell<Option<Receiver<T>>>,
    transmitter: RefCell<Option<Transmitter<T>>>,
    control: RefCell<Option<Control<T>>>,
}

/// Drives a card that is in no use, and leaves it reset.
pub(super) fn run<T: Transport + 'static>(
    transport: T,
    interrupts: &DeviceInterrupts,
    config: &Config,
    options: &Options,
    packets: u32,
) -> Result<Outcome, String> {
    let mut card = start(transport, interrupts, options)?;
    let mac = card.control().mac().unwrap_or(LOCAL_MAC);
    let given = u64::from(card.rx().outstanding());
    let (rx, tx, control) = card.split();
    let frames_back = Rc::<Cell<u64>>::default();
    let back = {
        let frames_back = frames_back.clone();
        move |_memory| frames_back.set(frames_back.get() + 1)
    };
    let rx = AsyncReceiver::new(rx);
    let tx: Transmitter<T> = AsyncTransmitter::new(tx, Box::new(back));
    let control = AsyncControl::new(control);
    interrupts.wake(Wakes {
        queues: [rx.notifier(), tx.notifier()],
        config: control.notifier(),
    });
    let stage = Rc::new(Stage {
        packets,
        config: *config,
        mac,
        answers: Level::default(),
        over: Level::default(),
        alarms: Alarms::default(),
        frames_back,
        outcome: RefCell::default(),
        trouble: RefCell::default(),
        receiver: RefCell::default(),
        transmitter: RefCell::default(),
        control: RefCell::default(),
    });
    let jobs: Vec<Job> = vec![
        Box::pin(receive(stage.clone(), rx)),
        Box::pin(transmit(stage.clone(), tx)),
        Box::pin(watch(stage.clone(), control)),
        Box::pin(tick(stage.clone())),
    ];
    let effort = executor::run(jobs, &stage.alarms, deadline());
    let trouble = stage.trouble.take();
    let effort = effort.ok_or_else(|| {
        let answers = stage.answers.value.get();
        format!("{answers} of {packets} packets answered in time, {trouble:?}")
    })?;
    let mut outcome = stage.outcome.take();
    outcome.effort = effort;
    outcome.interrupts = interrupts.queue_count();
    end(&stage, given, &mut outcome)?;
    trouble.map_or(Ok(outcome), Err)
}

fn start<T: Transport>(
    transport: T,
    interrupts: &DeviceInterrupts,
    options: &Options,
) -> Result<Card<T>, String> {
    let mut wanted = DriverOptions::default();
    wanted.receive_size = options.queue_size;
    wanted.transmit_size = options.queue_size.min(ROOM);
    wanted.receive_vector = interrupts.queue_vector(0);
    wanted.transmit_vector = interrupts.queue_vector(1);
    wanted.config_vector = interrupts.config_vector();
    wanted.refuse = facts::by_name(&options.refuse)?;
    let card = Driver::new(Identity, transport, wanted);
    let mut card: Card<T> = card.map_err(|error| error.why.to_string())?;
    let len = card.rx().buffer_len();
    let mut buffers = core::iter::repeat_with(|| vec![0; len].into_boxed_slice());
    let refilled = card.rx().refill(&mut buffers);
    refilled.map_err(|error| format!("{:?}", error.why))?;
    Ok(card)
}

impl<T: Transport> Stage<T> {
    /// A task is over.
    fn end(&self, result: Result<(), String>) {
        if let Err(why) = result {
            self.trouble.borrow_mut().get_or_insert(why);
        }
        self.over.raise();
    }

    fn frame(&self) -> Window<Memory> {
        self.outcome.borrow_mut().made += 1;
        Window::new(bytes(HEADER, self.mac, &self.config), HEADER, FRAME)
    }

    /// Whether the queue has taken one more.
    fn try_transmit(&self, tx: &mut Transmitter<T>) -> Result<bool, String> {
        match tx.get().transmit(self.frame()) {
            Ok(()) => Ok(true),
            Err(error) => {
                self.outcome.borrow_mut().back += 1;
                match error.why {
                    TransmitFailure::Queue(Reject::Full { .. }) => Ok(false),
                    why => Err(format!("{why:?}")),
                }
            }
        }
    }

    /// Polls a future once, and lets go of it if it waits.
    async fn once<U: Future>(&self, future: U, end: End) -> Option<U::Output> {
        let mut seen = Outcome::default();
        let output = once(future, end, &mut seen).await;
        let mut outcome = self.outcome.borrow_mut();
        outcome.dropped += seen.dropped;
        outcome.forgotten += seen.forgotten;
        output
    }
}

async fn receive<T: Transport>(stage: Rc<Stage<T>>, mut rx: Receiver<T>) {
    let result = receive_all(&stage, &mut rx).await;
    stage.receiver.replace(Some(rx));
    stage.end(result);
}

/// Awaits frames until every question is answered. Some futures are let go of on the way, and take
/// no frame with them.
async fn receive_all<T: Transport>(stage: &Stage<T>, rx: &mut Receiver<T>) -> Result<(), String> {
    for turn in 0u32.. {
        let gone = match turn % 8 {
            1 => stage.once(rx.receive(), End::Drop).await,
            2 => stage.once(rx.receive(), End::Forget).await,
            _ => None,
        };
        let frame = match gone {
            Some(frame) => frame,
            None => rx.receive().await,
        };
        let frame = frame.map_err(|why| why.to_string())?;
        if is_answer(frame.as_slice(), &stage.config) {
            stage.answers.raise();
        }
        let given = rx.get().give(frame.into_memory());
        given.map_err(|(_, why)| format!("{why:?}"))?;
        if stage.answers.value.get() >= stage.packets {
            break;
        }
    }
    Ok(())
}

async fn transmit<T: Transport>(stage: Rc<Stage<T>>, mut tx: Transmitter<T>) {
    let result = transmit_all(&stage, &mut tx).await;
    stage.transmitter.replace(Some(tx));
    stage.end(result);
}

/// Sends questions in waves that fill the queue, awaiting room, and the answers to each wave.
async fn transmit_all<T: Transport>(
    stage: &Stage<T>,
    tx: &mut Transmitter<T>,
) -> Result<(), String> {
    let mut sent = 0;
    for wave in 0u32.. {
        stage.answers.reaches(sent).await;
        if sent == stage.packets {
            break;
        }
        // The device is told when somebody sleeps: until then the queue stays full.
        while sent < stage.packets && stage.try_transmit(tx)? {
            sent += 1;
        }
        if sent < stage.packets {
            let gone = match wave % 3 {
                0 => {
                    stage.outcome.borrow_mut().waits_for_room += 1;
                    tx.room().await.map_err(|fault| fault.to_string())?;
                    None
                }
                1 => stage.once(tx.transmit(stage.frame()), End::Drop).await,
                _ => {
                    let before = stage.outcome.borrow().forgotten;
                    let gone = stage.once(tx.transmit(stage.frame()), End::Forget).await;
                    let mut outcome = stage.outcome.borrow_mut();
                    // The frame is with its future, for good.
                    outcome.back += u64::from(outcome.forgotten - before);
                    gone
                }
            };
            if let Some(taken) = gone {
                taken.map_err(|error| format!("{:?}", error.why))?;
                sent += 1;
            }
        }
        if sent < stage.packets {
            let taken = tx.transmit(stage.frame()).await;
            taken.map_err(|error| format!("{:?}", error.why))?;
            sent += 1;
        }
        tx.get().kick();
    }
    stage.outcome.borrow_mut().packets = sent;
    let until = clock::now() + LAST_FRAMES;
    loop {
        let back = tx.get().reclaim(drop).map_err(|fault| fault.to_string())?;
        let counted = &stage.frames_back;
        counted.set(counted.get() + back as u64);
        if tx.get().outstanding() == 0 {
            return Ok(());
        }
        if clock::now() > until {
            return Err(format!(
                "{} frames do not come back",
                tx.get().outstanding()
            ));
        }
        stage.alarms.sleep_until(clock::now() + TICK).await;
    }
}

async fn watch<T: Transport>(stage: Rc<Stage<T>>, mut control: Control<T>) {
    let result = watch_all(&stage, &mut control).await;
    stage.control.replace(Some(control));
    stage.end(result);
}

/// Has the link taken down and up again when the traffic is over, and awaits both.
async fn watch_all<T: Transport>(stage: &Stage<T>, control: &mut Control<T>) -> Result<(), String> {
    // Sent, answered, and received.
    stage.over.reaches(2).await;
    let is_known = control.get().features().has(F::STATUS);
    // Of futures that are gone, none takes a change with it.
    for end in [End::Drop, End::Forget] {
        stage.once(control.config_change(), end).await;
    }
    for up in [false, true] {
        event(&Event::SetLink { up });
        loop {
            let changed = control.config_change().await;
            changed.map_err(|why| why.to_string())?;
            let link = control.get().link_up().map_err(|why| why.to_string())?;
            // What came before the link changed is not the change.
            if !is_known || link == up {
                break;
            }
        }
        stage.outcome.borrow_mut().config_changes += 1;
    }
    Ok(())
}

/// Is woken by the clock, for as long as the others are at it.
async fn tick<T: Transport>(stage: Rc<Stage<T>>) {
    loop {
        stage.alarms.sleep_until(clock::now() + TICK).await;
        stage.outcome.borrow_mut().ticks += 1;
        if stage.over.value.get() == 3 {
            return;
        }
    }
}

/// Puts the card together again, resets it, and accounts for every buffer.
fn end<T: Transport>(stage: &Stage<T>, given: u64, outcome: &mut Outcome) -> Result<(), String> {
    let parts = (
        stage.receiver.take(),
        stage.transmitter.take(),
        stage.control.take(),
    );
    let (Some(rx), Some(tx), Some(control)) = parts else {
        return Err("a task is over and has left no part".into());
    };
    let joined = Driver::join(rx.into_inner(), tx.into_inner(), control.into_inner());
    let mut card = joined.map_err(|_| "the parts are not of one card")?;
    let (rx, tx, _) = card.parts();
    let counters = [rx.counters(), tx.counters()];
    let room = (tx.room(), tx.size());
    let mut returned = [0u64; 2];
    let reset = card.shutdown(|queue, _| returned[usize::from(queue != RECEIVE_QUEUE)] += 1);
    reset.map_err(|(_, why)| why.to_string())?;
    let sound = |(counters, returned): (&Counters, &u64)| {
        counters.submitted == counters.completed + returned
            && counters.faults == 0
            && counters.overruns == 0
    };
    if room.0 != room.1 || !counters.iter().zip(&returned).all(sound) {
        outcome.unsound = Some(format!("{room:?} {counters:?} {returned:?}"));
    }
    outcome.made += given;
    outcome.back += stage.frames_back.get() + returned.iter().sum::<u64>();
    Ok(())
}
