//! The card's queues, bare: every request is a future, and one `block_on` runs them all.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::Cell;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::Poll;

use guest_services::Config;
use vring::adapter::futures::{ConfigChanges, InFlight, Queue, Unclaimed};
use vring::buffer::{DmaBuf, Readable, Writable};
use vring::device::net::{F, RECEIVE_QUEUE, TRANSMIT_QUEUE};
use vring::features::{Feature, Features, Wish};
use vring::init::{self, Live, QueueConfig, Quiesced};
use vring::transport::Transport;
use vring::virtqueue::{Fault, Virtqueue};
use vring_protocol::{Event, Options};

use super::super::super::arp::is_answer;
use super::super::super::link::{LINK_UP, STATUS};
use super::super::{HEADER, LEGACY_HEADER, LOCAL_MAC, LONGEST, facts};
use super::{Outcome, bytes, deadline};
use crate::kernel::device_interrupts::{DeviceInterrupts, Wakes};
use crate::kernel::executor;
use crate::kernel::platform::Identity;
use crate::report::event;

type Memory = Box<[u8]>;
type Received = Queue<Identity, Writable<Memory>>;
type Sent = Queue<Identity, Readable<Memory>>;

/// Descriptors of a queue.
const SIZE: u16 = 16;

/// Questions that are asked at once.
const WAVE: u32 = 8;

/// What this page is able to use.
const WANTED: Features = Features::of(&[
    F::MAC,
    F::STATUS,
    Feature::EVENT_IDX,
    Feature::RING_PACKED,
    Feature::IN_ORDER,
]);

/// Drives a card that is in no use, and leaves it reset.
pub(super) fn run<T: Transport>(
    transport: T,
    interrupts: &DeviceInterrupts,
    config: &Config,
    options: &Options,
    packets: u32,
) -> Result<Outcome, String> {
    let (live, rx, tx) = start(transport, interrupts, options)?;
    let (rx, tx) = (Queue::new(rx), Queue::new(tx));
    let mut changes = ConfigChanges::new();
    interrupts.wake(Wakes {
        queues: [rx.notifier(), tx.notifier()],
        config: changes.notifier(),
    });
    let made = Cell::new(0);
    let back = Cell::new(0);
    let talk = Talk {
        rx: &rx,
        tx: &tx,
        config,
        header: if live.features().has(Feature::VERSION_1) {
            HEADER
        } else {
            LEGACY_HEADER
        },
        made: &made,
        back: &back,
        outcome: Outcome::default(),
    };
    let work = async {
        let mut outcome = talk.run(packets).await?;
        for up in [false, true, false, true] {
            event(&Event::SetLink { up });
            changes.changed().await;
            // What came before the link changed is not the change.
            while is_up(&live)?.is_some_and(|is_up| is_up != up) {
                changes.changed().await;
            }
            outcome.config_changes += 1;
        }
        Ok(outcome)
    };
    let ended = executor::block_on(work, deadline());
    let (outcome, effort) = ended.ok_or("not every packet is answered in time")?;
    let mut outcome: Outcome = outcome.map_err(|why: String| why)?;
    outcome.effort = effort;
    outcome.interrupts = interrupts.queue_count();
    let slots = tx.look(|queue| (queue.free(), queue.size()));
    if slots.is_none_or(|(free, size)| free != size) {
        outcome.unsound = Some(format!("slots of the transmit queue: {slots:?}"));
    }
    let reset = live.reset().map(|(_, proof)| proof);
    let proof = reset.map_err(|_| "the card does not confirm its reset")?;
    outcome.made = made.get();
    outcome.back = back.get();
    for left in [settle(rx, &proof), settle(tx, &proof)] {
        outcome.back += left?;
    }
    Ok(outcome)
}

type Started<T> = (
    Live<Identity, T>,
    Virtqueue<Identity, Writable<Memory>>,
    Virtqueue<Identity, Readable<Memory>>,
);

fn start<T: Transport>(
    transport: T,
    interrupts: &DeviceInterrupts,
    options: &Options,
) -> Result<Started<T>, String> {
    let wish = Wish {
        want: WANTED,
        refuse: facts::by_name(&options.refuse)?,
        legacy: true,
        ..Wish::default()
    };
    let reset = init::reset(transport, &Identity).map_err(|error| error.why.to_string())?;
    let negotiated = reset.negotiate(&wish);
    let mut negotiated = negotiated.map_err(|error| error.why.to_string())?;
    if let Some(vector) = interrupts.config_vector() {
        let set = negotiated.transport_mut().set_config_vector(Some(vector));
        set.map_err(|why| why.to_string())?;
    }
    let config = QueueConfig::new(options.queue_size.min(SIZE));
    let rx = config.vector(interrupts.queue_vector(0));
    let rx = negotiated.queue(RECEIVE_QUEUE, &rx);
    let tx = config.vector(interrupts.queue_vector(1));
    let tx = negotiated.queue(TRANSMIT_QUEUE, &tx);
    let live = negotiated.finish();
    let live = live.map_err(|aborted| aborted.why.to_string())?;
    let rx = rx.map_err(|why| why.to_string())?.start(&live);
    let tx = tx.map_err(|why| why.to_string())?.start(&live);
    match (rx, tx) {
        (Ok(rx), Ok(tx)) => Ok((live, rx, tx)),
        _ => Err("a queue of another device".into()),
    }
}

/// Whether the link is up; `None` when the card does not say (VIRTIO 1.4, 5.1.4).
fn is_up<T: Transport>(live: &Live<Identity, T>) -> Result<Option<bool>, String> {
    let mut status = [0; 2];
    if !live.features().has(F::STATUS) {
        return Ok(None);
    }
    let read = live.transport().read_config(STATUS, &mut status);
    read.map_err(|why| why.to_string())?;
    Ok(Some(u16::from_le_bytes(status) & LINK_UP != 0))
}

/// Buffers that nobody fetched, and those that the reset gives back.
fn settle<B: DmaBuf>(queue: Queue<Identity, B>, proof: &Quiesced) -> Result<u64, String> {
    let (queue, unclaimed) = queue.into_inner();
    let unclaimed = unclaimed.count();
    let queue = queue.ok_or("a queue is gone")?;
    let counters = queue.counters();
    if counters.faults != 0 || counters.overruns != 0 {
        return Err(format!("{counters:?}"));
    }
    let closed = queue.close(proof);
    let closed = closed.map_err(|_| "the proof is another device's")?.count();
    Ok((unclaimed + closed) as u64)
}

/// A conversation of one future.
struct Talk<'a> {
    rx: &'a Received,
    tx: &'a Sent,
    config: &'a Config,
    /// Bytes of the device's header.
    header: usize,
    /// Buffers that were made, and that are back.
    made: &'a Cell<u64>,
    back: &'a Cell<u64>,
    outcome: Outcome,
}

type Receiving<'a> = Vec<InFlight<'a, Identity, Writable<Memory>>>;

impl<'a> Talk<'a> {
    /// Asks, waits for the answers, and for the questions' buffers. On the way some futures are
    /// dropped, and some forgotten.
    async fn run(mut self, packets: u32) -> Result<Outcome, String> {
        let mut receiving = Vec::new();
        let mut answers = 0;
        // An answer may have gone to a buffer whose future was forgotten.
        let mut missing = 0;
        while self.outcome.packets < packets {
            self.refill(&mut receiving)?;
            let slots = self.tx.look(|queue| queue.size()).unwrap_or(0).into();
            let is_last = packets - self.outcome.packets <= WAVE;
            // Nobody but this future is in the queue: in the end it takes every slot there is.
            let mut out = Vec::new();
            for _ in 0..if is_last { slots } else { WAVE } {
                out.push(self.submit().await?);
            }
            self.tx.kick();
            self.outcome.packets += out.len() as u32;
            if self.outcome.dropped == 0 {
                self.outcome.dropped += 2;
                drop((out.pop(), receiving.pop()));
            } else if self.outcome.forgotten == 0 {
                self.outcome.forgotten += 2;
                missing += 1;
                core::mem::forget((out.pop(), receiving.pop()));
            }
            while answers + missing < self.outcome.packets {
                let frame = self.first(&mut receiving).await;
                let frame = frame.map_err(|fault| fault.to_string())?;
                answers += u32::from(is_answer(&frame, self.config));
                self.refill(&mut receiving)?;
            }
            for question in out {
                let _ = question.await.map_err(|fault| fault.to_string())?;
                count(self.back);
            }
            while self.tx.next_unclaimed().is_some() {
                count(self.back);
            }
        }
        Ok(self.outcome)
    }

    /// Submits a question when there is room.
    async fn submit(&self) -> Result<InFlight<'a, Identity, Readable<Memory>>, String> {
        count(self.made);
        let question = Readable(bytes(self.header, LOCAL_MAC, self.config));
        let submitted = self.tx.submit(question).await;
        submitted.map_err(|error| format!("{:?}", error.why))
    }

    /// Gives the device as many receive buffers as it takes.
    fn refill(&self, receiving: &mut Receiving<'a>) -> Result<(), String> {
        while self
            .rx
            .look(|queue| queue.free())
            .is_some_and(|free| free > 0)
        {
            count(self.made);
            let buffer = Writable(vec![0; self.header + LONGEST].into_boxed_slice());
            let submitted = self.rx.try_submit(buffer);
            receiving.push(submitted.map_err(|error| format!("{:?}", error.why))?);
        }
        Ok(())
    }

    /// The frame that comes first, also one whose future was dropped.
    async fn first(&self, receiving: &mut Receiving<'a>) -> Result<Memory, Fault> {
        let received = poll_fn(|cx| {
            for i in 0..receiving.len() {
                if let Poll::Ready(received) = Pin::new(&mut receiving[i]).poll(cx) {
                    drop(receiving.swap_remove(i));
                    return Poll::Ready(received.map(|done| (done.written(), done.into_buf())));
                }
            }
            match self.rx.next_unclaimed() {
                Some(Unclaimed::Finished(done)) => {
                    Poll::Ready(Ok((done.written(), done.into_buf())))
                }
                _ => Poll::Pending,
            }
        });
        let (written, Writable(frame)) = received.await?;
        count(self.back);
        let frame = frame.get(self.header..written as usize).unwrap_or_default();
        Ok(frame.into())
    }
}

fn count(number: &Cell<u64>) {
    number.set(number.get() + 1);
}
