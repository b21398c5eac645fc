//! What a queue's futures share: the queue, who waits in which slot, and what has come back.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::task::{Poll, Waker};

use super::finished::{Finished, Unclaimed};
use super::later::Later;
use crate::buffer::DmaBuf;
use crate::platform::Platform;
use crate::virtqueue::{Fault, Reject, Rejected, Virtqueue};

/// How often a call looks again when work races in, before it leaves that to the next.
pub(super) const ROUNDS: u32 = 3;

/// Futures that are ready one after the other before another task is due.
pub(super) const IN_A_ROW: u32 = 64;

/// A submission: its slot, and a number that no other has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    slot: usize,
    number: u64,
}

/// Behind a queue's lock.
pub(super) struct State<P: Platform, B: DmaBuf> {
    /// `None` when it was taken.
    pub(super) queue: Option<Virtqueue<P, B>>,
    /// By slot.
    seats: Vec<Seat<B>>,
    /// What came back, was not fetched yet, and whose slot is another's by now.
    late: BTreeMap<u64, Finished<B>>,
    pub(super) unclaimed: VecDeque<Unclaimed<B>>,
    /// The next submission's number.
    next: u64,
    /// The next turn in line.
    turn: u64,
    /// Futures that wait for room.
    in_line: usize,
    /// Seats whose futures rely on being woken.
    asleep: usize,
    /// An interrupt will come for the next completion.
    armed: bool,
    /// None will come for any.
    parked: bool,
    /// Something was submitted, and the device was not told.
    unkicked: bool,
    /// The fault is known to all who wait.
    told: bool,
    /// Futures that were ready since one was not.
    in_a_row: u32,
}

/// What is known of a slot.
enum Seat<B> {
    /// Nothing is in it that a future waits for.
    Free,
    /// It is with the device.
    Waiting { number: u64, asleep: bool },
    /// It is with the device, and its future is gone.
    Abandoned,
    /// It has come back. The slot may be another's any time.
    Done(u64, Finished<B>),
}

impl<P: Platform, B: DmaBuf> State<P, B> {
    pub(super) fn new(queue: Virtqueue<P, B>) -> Self {
        Self {
            queue: Some(queue),
            seats: Vec::new(),
            late: BTreeMap::new(),
            unclaimed: VecDeque::new(),
            next: 0,
            turn: 0,
            in_line: 0,
            asleep: 0,
            armed: false,
            parked: false,
            unkicked: false,
            told: false,
            in_a_row: 0,
        }
    }

    /// Why the queue does not work, if it does not.
    pub(super) fn fault(&self) -> Option<Fault> {
        match &self.queue {
            Some(queue) => queue.fault(),
            None => Some(Fault::Stopped),
        }
    }

    /// Submits, and takes a seat. The device sees nothing yet.
    fn submit(&mut self, header: Option<&[u8]>, buf: B) -> Result<Key, Rejected<B>> {
        let Some(queue) = &mut self.queue else {
            let why = Reject::Broken(Fault::Stopped);
            return Err(Rejected { buf, why });
        };
        let ticket = match header {
            None => queue.submit(buf)?,
            Some(header) => queue.submit_with(header, buf)?,
        };
        self.unkicked = true;
        let slot = usize::from(ticket.slot());
        let number = self.next;
        self.next = number.wrapping_add(1);
        if slot >= self.seats.len() {
            self.seats
                .resize_with(slot.saturating_add(1), || Seat::Free);
        }
        if let Some(seat) = self.seats.get_mut(slot) {
            let asleep = false;
            let before = core::mem::replace(seat, Seat::Waiting { number, asleep });
            if let Seat::Done(number, finished) = before {
                self.late.insert(number, finished);
            }
        }
        Ok(Key { slot, number })
    }

    /// Submits, after a look for what has come back when there is no room.
    pub(super) fn try_submit(
        &mut self,
        header: Option<&[u8]>,
        buf: B,
        later: &mut Later<'_>,
    ) -> Result<Key, Rejected<B>> {
        let submitted = match self.submit(header, buf) {
            Err(Rejected {
                buf,
                why: Reject::Full { .. },
            }) => {
                // A fault is found again, and said.
                let _ = self.reap(later);
                self.submit(header, buf)
            }
            submitted => submitted,
        };
        self.settle(later);
        submitted
    }

    /// Takes what has come back, and has those woken who wait for it; how much.
    pub(super) fn reap(&mut self, later: &mut Later<'_>) -> Result<usize, Fault> {
        let mut reaped = 0usize;
        // No more than what is with the device: nothing is submitted meanwhile.
        let ended = loop {
            let Some(queue) = &mut self.queue else {
                return Err(Fault::Stopped);
            };
            let done = match queue.next_completion() {
                Ok(Some(done)) => done,
                Ok(None) => break Ok(reaped),
                Err(fault) => break Err(fault),
            };
            reaped = reaped.wrapping_add(1);
            // At once: the next one may panic in code of the platform's.
            self.armed = false;
            later.call_line |= self.in_line != 0;
            let slot = usize::from(done.ticket().slot());
            let finished = Finished::new(done);
            self.put_by(slot, finished, later);
        };
        if ended.is_err() && !core::mem::replace(&mut self.told, true) {
            later.ring();
        }
        ended
    }

    /// Keeps what has come back, for who waits for it.
    fn put_by(&mut self, slot: usize, finished: Finished<B>, later: &mut Later<'_>) {
        let nobodys = match self.seats.get_mut(slot) {
            Some(seat) => match *seat {
                Seat::Waiting { number, asleep } => {
                    if asleep {
                        self.asleep = self.asleep.saturating_sub(1);
                        later.wake_seat(slot);
                    }
                    *seat = Seat::Done(number, finished);
                    return;
                }
                Seat::Free | Seat::Abandoned => {
                    *seat = Seat::Free;
                    finished
                }
                // Submitting to a slot takes what is done out of it.
                Seat::Done(..) => finished,
            },
            // Submitted before the queue came here.
            None => finished,
        };
        self.unclaimed.push_back(Unclaimed::Finished(nobodys));
    }

    /// The same for who waits for nothing itself.
    pub(super) fn reap_and_settle(&mut self, later: &mut Later<'_>) -> Result<usize, Fault> {
        let reaped = self.reap(later);
        self.settle(later);
        reaped
    }

    /// Sees that who waits is woken when something comes back: by an interrupt, or now. When nobody
    /// waits there is none.
    fn settle(&mut self, later: &mut Later<'_>) {
        for _ in 0..ROUNDS {
            if self.asleep == 0 && self.in_line == 0 {
                self.park();
                return;
            }
            if self.armed {
                return;
            }
            match &mut self.queue {
                Some(queue) if queue.fault().is_none() => self.armed = !queue.arm(),
                // All have been told.
                _ => return,
            }
            self.parked = false;
            if !self.armed && self.reap(later).is_err() {
                return;
            }
        }
        if !self.armed {
            // The device is faster than this. All look again, one after the other.
            later.ring();
        }
    }

    /// Asks for no interrupts, if some may come.
    fn park(&mut self) {
        if !core::mem::replace(&mut self.parked, true)
            && let Some(queue) = &mut self.queue
        {
            self.armed = false;
            queue.disarm();
        }
    }

    /// Tells the device what was submitted.
    pub(super) fn kick(&mut self, later: &mut Later<'_>) {
        if core::mem::replace(&mut self.unkicked, false)
            && let Some(queue) = &mut self.queue
        {
            later.notification = queue.kick_prepare();
        }
    }

    /// Whether so many futures were ready one after the other that another task is due.
    fn is_tired(&mut self) -> bool {
        let tired = self.in_a_row >= IN_A_ROW;
        if tired {
            self.in_a_row = 0;
        }
        tired
    }

    /// Counts a future that is ready.
    fn ready<T>(&mut self, value: T) -> Poll<T> {
        self.in_a_row = self.in_a_row.saturating_add(1);
        Poll::Ready(value)
    }

    /// What has come back of a submission; an error when nothing will.
    fn claim(&mut self, key: Key) -> Option<Result<Finished<B>, Fault>> {
        match self.seats.get_mut(key.slot) {
            Some(Seat::Waiting { number, .. }) if *number == key.number => return None,
            Some(seat @ Seat::Done(..)) => match core::mem::replace(seat, Seat::Free) {
                Seat::Done(number, finished) if number == key.number => return Some(Ok(finished)),
                other => *seat = other,
            },
            _ => {}
        }
        // Without a seat and not among the late, it went with its queue.
        let late = self.late.remove(&key.number);
        Some(late.ok_or_else(|| self.fault().unwrap_or(Fault::Stopped)))
    }

    /// A look at a submission, by a task that sleeps if it has not come back.
    pub(super) fn poll(
        &mut self,
        key: Key,
        waker: &Waker,
        later: &mut Later<'_>,
    ) -> Poll<Result<Finished<B>, Fault>> {
        if self.is_tired() {
            later.own = Some(waker.clone());
            return Poll::Pending;
        }
        if let Some(claimed) = self.claim(key) {
            return self.ready(claimed);
        }
        let fault = self.reap(later).err();
        if let Some(claimed) = self.claim(key) {
            self.settle(later);
            return self.ready(claimed);
        }
        if let Some(fault) = fault {
            // Its buffer comes back with the queue.
            self.abandon(key, later);
            return self.ready(Err(fault));
        }
        self.kick(later);
        // Put the waker down first, then look once more: `arm` does.
        later.sit(key.slot, waker);
        if let Some(Seat::Waiting { asleep, .. }) = self.seats.get_mut(key.slot)
            && !core::mem::replace(asleep, true)
        {
            self.asleep = self.asleep.saturating_add(1);
        }
        self.armed = false;
        self.settle(later);
        match self.claim(key) {
            Some(claimed) => self.ready(claimed),
            None => {
                self.in_a_row = 0;
                Poll::Pending
            }
        }
    }

    /// Nobody waits for a submission any more.
    pub(super) fn abandon(&mut self, key: Key, later: &mut Later<'_>) {
        match self.seats.get_mut(key.slot) {
            Some(seat @ Seat::Waiting { .. }) => match *seat {
                Seat::Waiting { number, asleep } if number == key.number => {
                    *seat = Seat::Abandoned;
                    if asleep {
                        self.asleep = self.asleep.saturating_sub(1);
                        later.rise(key.slot);
                    }
                    return;
                }
                _ => {}
            },
            Some(seat @ Seat::Done(..)) => match core::mem::replace(seat, Seat::Free) {
                Seat::Done(number, finished) if number == key.number => {
                    self.unclaimed.push_back(Unclaimed::Finished(finished));
                    return;
                }
                other => *seat = other,
            },
            _ => {}
        }
        if let Some(finished) = self.late.remove(&key.number) {
            self.unclaimed.push_back(Unclaimed::Finished(finished));
        }
    }

    /// An attempt to submit `buf`, by a task that waits for room if there is none: then `buf` is
    /// there again, and the task has a turn.
    pub(super) fn poll_submit(
        &mut self,
        turn: &mut Option<u64>,
        header: Option<&[u8]>,
        buf: &mut Option<B>,
        waker: &Waker,
        later: &mut Later<'_>,
    ) -> Poll<Result<Key, Rejected<B>>> {
        let Some(taken) = buf.take() else {
            return Poll::Pending;
        };
        let newcomer = turn.is_none();
        // Who waits already goes first, if it is there: after one turn of the executor.
        if self.is_tired() || (newcomer && self.in_line != 0) {
            *buf = Some(taken);
            self.take_turn(turn);
            later.own = Some(waker.clone());
            return Poll::Pending;
        }
        match self.submit_or_wait(header, taken, later) {
            Ok(ended) => {
                self.leave_line(turn, later);
                self.settle(later);
                self.ready(ended)
            }
            Err(taken) => {
                *buf = Some(taken);
                let turn = self.take_turn(turn);
                self.kick(later);
                later.line_up(turn, waker);
                self.in_a_row = 0;
                self.armed = false;
                // What races in has the line called.
                self.settle(later);
                Poll::Pending
            }
        }
    }

    /// Submits, if need be after a look for what has come back; an error when there is no room, and
    /// something is still to come back that may make some.
    fn submit_or_wait(
        &mut self,
        header: Option<&[u8]>,
        mut buf: B,
        later: &mut Later<'_>,
    ) -> Result<Result<Key, Rejected<B>>, B> {
        let mut rounds = 0;
        loop {
            let full = match self.submit(header, buf) {
                Err(full) if matches!(full.why, Reject::Full { .. }) => full,
                ended => return Ok(ended),
            };
            match self.reap(later) {
                Ok(0) => {}
                Ok(_) if rounds < ROUNDS => {
                    rounds = rounds.wrapping_add(1);
                    buf = full.buf;
                    continue;
                }
                Ok(_) => later.call_line = true,
                Err(fault) => {
                    let why = Reject::Broken(fault);
                    return Ok(Err(Rejected { why, ..full }));
                }
            }
            let queue = self.queue.as_ref();
            return match queue.is_none_or(|queue| queue.outstanding() == 0) {
                // Nothing will come back that could make room.
                true => Ok(Err(full)),
                false => Err(full.buf),
            };
        }
    }

    fn take_turn(&mut self, turn: &mut Option<u64>) -> u64 {
        *turn.get_or_insert_with(|| {
            let turn = self.turn;
            self.turn = turn.wrapping_add(1);
            self.in_line = self.in_line.saturating_add(1);
            turn
        })
    }

    /// Gives a turn up.
    pub(super) fn leave_line(&mut self, turn: &mut Option<u64>, later: &mut Later<'_>) {
        if let Some(turn) = turn.take() {
            self.in_line = self.in_line.saturating_sub(1);
            later.leave_line(turn);
        }
    }

    /// Takes the queue, and tells all who wait.
    pub(super) fn take(&mut self, later: &mut Later<'_>) -> Option<Virtqueue<P, B>> {
        let queue = self.queue.take()?;
        for seat in &mut self.seats {
            if matches!(seat, Seat::Waiting { .. } | Seat::Abandoned) {
                *seat = Seat::Free;
            }
        }
        self.asleep = 0;
        self.armed = false;
        self.parked = false;
        self.unkicked = false;
        self.told = false;
        later.end = true;
        Some(queue)
    }

    /// All that has come back and was not fetched, and the queue.
    pub(super) fn into_parts(self) -> (Option<Virtqueue<P, B>>, VecDeque<Unclaimed<B>>) {
        let mut all = self.unclaimed;
        let done = self.seats.into_iter().filter_map(|seat| match seat {
            Seat::Done(_, finished) => Some(finished),
            _ => None,
        });
        let finished = self.late.into_values().chain(done);
        all.extend(finished.map(Unclaimed::Finished));
        (self.queue, all)
    }
}
