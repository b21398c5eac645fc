//! What a call of a queue does when its lock is open again: it may run into code of anybody's.

use core::task::Waker;

use super::bell::{Bell, Busy, Each, Visit};
use crate::virtqueue::Notification;

/// Wakers that a call takes with it; when it has more, it rings.
const WAKERS: usize = 8;

/// What is done when it is dropped, also when something has panicked: to be dropped with nothing
/// locked.
pub(super) struct Later<'a> {
    pub(super) notification: Option<Notification>,
    wakers: [Option<Waker>; WAKERS],
    /// The caller is to be polled again.
    pub(super) own: Option<Waker>,
    /// Only to be dropped.
    pub(super) replaced: Option<Waker>,
    /// Whoever waits for room is to be woken.
    pub(super) call_line: bool,
    /// Everybody is to be woken, and need not be called again.
    pub(super) end: bool,
    visit: Visit<'a>,
}

impl<'a> Later<'a> {
    pub(super) fn new(bell: &'a Bell) -> Self {
        Self {
            notification: None,
            wakers: Default::default(),
            own: None,
            replaced: None,
            call_line: false,
            end: false,
            visit: bell.visit(),
        }
    }

    /// Has everybody woken.
    pub(super) fn ring(&mut self) {
        self.visit.rang = true;
    }

    /// Has who sits there woken.
    pub(super) fn wake_seat(&mut self, seat: usize) {
        match self.wakers.iter_mut().find(|place| place.is_none()) {
            Some(place) => match self.visit.rise(seat) {
                Ok(waker) => *place = waker,
                Err(Busy) => self.ring(),
            },
            None => self.ring(),
        }
    }

    /// The caller waits on a seat.
    pub(super) fn sit(&mut self, seat: usize, waker: &Waker) {
        let put_down = self.visit.sit(seat, waker);
        self.wait(put_down, waker);
    }

    /// The caller waits in line.
    pub(super) fn line_up(&mut self, turn: u64, waker: &Waker) {
        let put_down = self.visit.line_up(turn, waker);
        self.wait(put_down, waker);
    }

    /// The waker is there, unless somebody else was at it.
    fn wait(&mut self, put_down: Result<Option<Waker>, Busy>, waker: &Waker) {
        match put_down {
            Ok(replaced) => self.replaced = replaced,
            Err(Busy) => self.own = Some(waker.clone()),
        }
    }

    /// Nobody waits on a seat any more. When somebody is at it, the waker stays until the seat is
    /// taken again, and is called for nothing.
    pub(super) fn rise(&mut self, seat: usize) {
        self.replaced = self.visit.rise(seat).unwrap_or_default();
    }

    /// Nobody waits in line any more. When somebody is at it, the waker stays until the line is
    /// called.
    pub(super) fn leave_line(&mut self, turn: u64) {
        self.replaced = self.visit.leave_line(turn).unwrap_or_default();
    }
}

impl Drop for Later<'_> {
    fn drop(&mut self) {
        // The bell is rung behind them, by the visit. When the doorbell panics, or one of them, the
        // others are woken all the same: they are nowhere else any more.
        let seats = self.end.then(|| self.visit.take_seats());
        let line = (self.call_line || self.end).then(|| self.visit.take_line());
        let named = core::mem::take(&mut self.wakers).into_iter().flatten();
        let others = seats
            .into_iter()
            .flatten()
            .chain(line.into_iter().flatten());
        let mut woken = Each(named.chain(others).chain(self.own.take()));
        if let Some(notification) = self.notification.take() {
            notification.send();
        }
        woken.wake();
    }
}
