//! What a queue's futures share: the queue, who waits in which slot, and what has come back.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::task::{Poll, Waker};

use super::bell::{Bell, Busy};
use super::finished::{Finished, Unclaimed};
use crate::buffer::DmaBuf;
use crate::platform::Platform;
use crate::virtqueue::{Fault, Notification, Reject, Rejected, Virtqueue};

/// How often a call looks again when work races in, before it leaves that to the next.
const ROUNDS: u32 = 3;

/// Futures that are ready one after the other before another task is due.
pub(super) const IN_A_ROW: u32 = 64;

/// Wakers that a call takes with it; when it has more, it rings.
const WAKERS: usize = 8;

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

/// What a call does when the lock is open again: it may run into code of anybody's.
#[derive(Default)]
pub(super) struct Later {
    notification: Option<Notification>,
    wakers: [Option<Waker>; WAKERS],
    /// The caller is to be polled again.
    own: Option<Waker>,
    /// Only to be dropped.
    replaced: Option<Waker>,
    call_line: bool,
    ring: bool,
}

impl Later {
    pub(super) fn run(self, bell: &Bell) {
        if let Some(notification) = self.notification {
            notification.send();
        }
        self.wakers.into_iter().flatten().for_each(Waker::wake);
        if self.call_line {
            bell.call_line();
        }
        if self.ring {
            bell.ring();
        }
        if let Some(own) = self.own {
            own.wake();
        }
    }

    /// Has who sits there woken.
    fn wake_seat(&mut self, bell: &Bell, seat: usize) {
        match self.wakers.iter_mut().find(|place| place.is_none()) {
            Some(place) => match bell.rise(seat) {
                Ok(waker) => *place = waker,
                Err(Busy) => self.ring = true,
            },
            None => self.ring = true,
        }
    }

    /// The caller waits, with its waker put down unless somebody else was at it.
    fn wait(&mut self, put_down: Result<Option<Waker>, Busy>, waker: &Waker) {
        match put_down {
            Ok(replaced) => self.replaced = replaced,
            Err(Busy) => self.own = Some(waker.clone()),
        }
    }
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
        bell: &Bell,
        later: &mut Later,
    ) -> Result<Key, Rejected<B>> {
        let submitted = match self.submit(header, buf) {
            Err(Rejected {
                buf,
                why: Reject::Full { .. },
            }) => {
                // A fault is found again, and said.
                let _ = self.reap(bell, later);
                self.submit(header, buf)
            }
            submitted => submitted,
        };
        self.settle(bell, later);
        submitted
    }

    /// Takes what has come back, and has those woken who wait for it; how much.
    pub(super) fn reap(&mut self, bell: &Bell, later: &mut Later) -> Result<usize, Fault> {
        let Some(queue) = &mut self.queue else {
            return Err(Fault::Stopped);
        };
        let mut reaped = 0usize;
        // No more than what is with the device: nothing is submitted meanwhile.
        let ended = loop {
            let done = match queue.next_completion() {
                Ok(Some(done)) => done,
                Ok(None) => break Ok(()),
                Err(fault) => break Err(fault),
            };
            reaped = reaped.wrapping_add(1);
            let slot = usize::from(done.ticket().slot());
            let finished = Finished::new(done);
            match self.seats.get_mut(slot) {
                Some(seat) => match *seat {
                    Seat::Waiting { number, asleep } => {
                        if asleep {
                            self.asleep = self.asleep.saturating_sub(1);
                            later.wake_seat(bell, slot);
                        }
                        *seat = Seat::Done(number, finished);
                    }
                    Seat::Free | Seat::Abandoned => {
                        *seat = Seat::Free;
                        self.unclaimed.push_back(Unclaimed::Finished(finished));
                    }
                    // Submitting to a slot takes what is done out of it.
                    Seat::Done(..) => self.unclaimed.push_back(Unclaimed::Finished(finished)),
                },
                // Submitted before the queue came here.
                None => self.unclaimed.push_back(Unclaimed::Finished(finished)),
            }
        };
        if reaped != 0 {
            self.armed = false;
            later.call_line |= self.in_line != 0;
        }
        match ended {
            Ok(()) => Ok(reaped),
            Err(fault) => {
                later.ring |= !core::mem::replace(&mut self.told, true);
                Err(fault)
            }
        }
    }

    /// The same for who waits for nothing itself.
    pub(super) fn reap_and_settle(
        &mut self,
        bell: &Bell,
        later: &mut Later,
    ) -> Result<usize, Fault> {
        let reaped = self.reap(bell, later);
        self.settle(bell, later);
        reaped
    }

    /// Sees that who waits is woken when something comes back: by an interrupt, or now.
    fn settle(&mut self, bell: &Bell, later: &mut Later) {
        for _ in 0..ROUNDS {
            if self.armed || (self.asleep == 0 && self.in_line == 0) {
                return;
            }
            match &mut self.queue {
                Some(queue) if queue.fault().is_none() => self.armed = !queue.arm(),
                // All have been told.
                _ => return,
            }
            if !self.armed && self.reap(bell, later).is_err() {
                return;
            }
        }
        if !self.armed {
            // The device is faster than this. All look again, one after the other.
            later.ring = true;
        }
    }

    /// Tells the device what was submitted.
    pub(super) fn kick(&mut self, later: &mut Later) {
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
        bell: &Bell,
        later: &mut Later,
    ) -> Poll<Result<Finished<B>, Fault>> {
        if self.is_tired() {
            later.own = Some(waker.clone());
            return Poll::Pending;
        }
        if let Some(claimed) = self.claim(key) {
            return self.ready(claimed);
        }
        let fault = self.reap(bell, later).err();
        if let Some(claimed) = self.claim(key) {
            self.settle(bell, later);
            return self.ready(claimed);
        }
        if let Some(fault) = fault {
            // Its buffer comes back with the queue.
            later.replaced = self.abandon(key, bell);
            return self.ready(Err(fault));
        }
        self.kick(later);
        // Put the waker down first, then look once more: `arm` does.
        later.wait(bell.sit(key.slot, waker), waker);
        if let Some(Seat::Waiting { asleep, .. }) = self.seats.get_mut(key.slot)
            && !core::mem::replace(asleep, true)
        {
            self.asleep = self.asleep.saturating_add(1);
        }
        self.armed = false;
        self.settle(bell, later);
        match self.claim(key) {
            Some(claimed) => self.ready(claimed),
            None => {
                self.in_a_row = 0;
                Poll::Pending
            }
        }
    }

    /// Nobody waits for a submission any more. Returns a waker to be dropped.
    pub(super) fn abandon(&mut self, key: Key, bell: &Bell) -> Option<Waker> {
        match self.seats.get_mut(key.slot) {
            Some(seat @ Seat::Waiting { .. }) => match *seat {
                Seat::Waiting { number, asleep } if number == key.number => {
                    *seat = Seat::Abandoned;
                    if !asleep {
                        return None;
                    }
                    self.asleep = self.asleep.saturating_sub(1);
                    // When somebody is at it, the waker stays until the seat is taken again, and
                    // is called for nothing.
                    return bell.rise(key.slot).unwrap_or_default();
                }
                _ => {}
            },
            Some(seat @ Seat::Done(..)) => match core::mem::replace(seat, Seat::Free) {
                Seat::Done(number, finished) if number == key.number => {
                    self.unclaimed.push_back(Unclaimed::Finished(finished));
                    return None;
                }
                other => *seat = other,
            },
            _ => {}
        }
        if let Some(finished) = self.late.remove(&key.number) {
            self.unclaimed.push_back(Unclaimed::Finished(finished));
        }
        None
    }

    /// An attempt to submit `buf`, by a task that waits for room if there is none: then `buf` is
    /// there again, and the task has a turn.
    pub(super) fn poll_submit(
        &mut self,
        turn: &mut Option<u64>,
        header: Option<&[u8]>,
        buf: &mut Option<B>,
        (waker, bell, later): (&Waker, &Bell, &mut Later),
    ) -> Poll<Result<Key, Rejected<B>>> {
        let Some(mut taken) = buf.take() else {
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
        let mut rounds = 0;
        let ended = loop {
            let why = match self.submit(header, taken) {
                Err(Rejected {
                    buf,
                    why: why @ Reject::Full { .. },
                }) => {
                    taken = buf;
                    why
                }
                ended => break ended,
            };
            match self.reap(bell, later) {
                Ok(0) => {}
                Ok(_) if rounds < ROUNDS => {
                    rounds = rounds.wrapping_add(1);
                    continue;
                }
                Ok(_) => later.call_line = true,
                Err(fault) => {
                    let (buf, why) = (taken, Reject::Broken(fault));
                    break Err(Rejected { buf, why });
                }
            }
            if self
                .queue
                .as_ref()
                .is_none_or(|queue| queue.outstanding() == 0)
            {
                // Nothing will come back that could make room.
                break Err(Rejected { buf: taken, why });
            }
            *buf = Some(taken);
            let turn = self.take_turn(turn);
            self.kick(later);
            later.wait(bell.line_up(turn, waker), waker);
            self.in_a_row = 0;
            self.armed = false;
            // What races in has the line called.
            self.settle(bell, later);
            return Poll::Pending;
        };
        later.replaced = self.leave_line(turn, bell);
        self.settle(bell, later);
        self.ready(ended)
    }

    fn take_turn(&mut self, turn: &mut Option<u64>) -> u64 {
        *turn.get_or_insert_with(|| {
            let turn = self.turn;
            self.turn = turn.wrapping_add(1);
            self.in_line = self.in_line.saturating_add(1);
            turn
        })
    }

    /// Gives a turn up. Returns a waker to be dropped.
    pub(super) fn leave_line(&mut self, turn: &mut Option<u64>, bell: &Bell) -> Option<Waker> {
        let turn = turn.take()?;
        self.in_line = self.in_line.saturating_sub(1);
        bell.leave_line(turn).unwrap_or_default()
    }

    /// Takes the queue, and tells all who wait.
    pub(super) fn take(&mut self, later: &mut Later) -> Option<Virtqueue<P, B>> {
        let queue = self.queue.take()?;
        for seat in &mut self.seats {
            if matches!(seat, Seat::Waiting { .. } | Seat::Abandoned) {
                *seat = Seat::Free;
            }
        }
        self.asleep = 0;
        self.armed = false;
        self.unkicked = false;
        self.told = false;
        later.ring = true;
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
