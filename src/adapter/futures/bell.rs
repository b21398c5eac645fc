//! Who waits, and the call that wakes them from anywhere.
//!
//! ```text
//!   gate:  open ──enter──▶ BUSY ──leave──▶ open            a task: puts its waker down, or takes one
//!                           │ ring
//!                           ▼
//!                      BUSY | RUNG ──wake all──▶ open      whoever is inside wakes them on its way out
//!                           ▲
//!   gate:  open ────ring────┘                              a handler that finds it open goes inside
//! ```
//!
//! Nobody waits at the gate: a handler that finds it shut leaves word with whoever is inside, and a
//! task that finds it shut has itself polled again. So a handler may come in between any two
//! instructions, on any core, and wakers may do as they like, short of sleeping.
//!
//! A handler calls wakers where they lie and drops none: the last reference to a task may be a waker,
//! and freeing memory is not for handlers. Only tasks drop wakers, with nothing locked.
//!
//! Why no ring is lost: all steps at the gate are read-modify-writes of one word, so there is one
//! order of them, and each sees all that came before those that it follows. A ring comes before a
//! waker was put down (and who put it down sees, when it looks again, what the ring was about), while
//! that is done (and is heard on the way out), or after it (and the waker is called).
//! `ordering.rs` has a model checker try every case.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::Ordering;
use core::task::Waker;

use crate::sync::{AtomicU8, AtomicUsize};

/// Wakes the tasks that wait: for an interrupt handler, or a loop that polls.
///
/// It is `Send + Sync`, and clones are the same. Keep one where the handler finds it without taking a
/// lock, such as a `static` that is set once.
#[derive(Clone)]
pub struct Notifier(pub(super) Arc<Bell>);

impl Notifier {
    /// Wakes all tasks that wait for what this notifier is of. They look for themselves, so that a
    /// call for nothing costs time only, and none is needed where a task was polled since.
    ///
    /// Never waits, allocates or frees; takes no lock that anybody waits for. It calls each
    /// waker once, at most, and no more is done here than wakers do.
    #[inline]
    pub fn wake(&self) {
        self.0.ring();
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier").finish_non_exhaustive()
    }
}

/// Somebody is inside.
const BUSY: u8 = 1;
/// It rang meanwhile.
const RUNG: u8 = 2;

/// The gate, and what is behind it.
pub(super) struct Bell {
    /// How often it rang.
    rings: AtomicUsize,
    gate: AtomicU8,
    /// Only for who is inside, so that it is never contended: a cell, for code without `unsafe`.
    waiters: spin::Mutex<Waiters>,
}

/// The wakers of tasks that wait.
#[derive(Default)]
struct Waiters {
    /// By number.
    seats: Vec<Option<Waker>>,
    /// For room, in the order of their turns.
    line: Vec<(u64, Waker)>,
}

impl Waiters {
    fn wake_all(&self) {
        let line = self.line.iter().map(|(_, waker)| waker);
        for waker in self.seats.iter().flatten().chain(line) {
            waker.wake_by_ref();
        }
    }
}

/// Somebody is inside, and did nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

impl Bell {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            rings: AtomicUsize::new(0),
            gate: AtomicU8::new(0),
            waiters: spin::Mutex::default(),
        })
    }

    /// Wakes everybody, now or by who is inside.
    pub(super) fn ring(&self) {
        // The release is for who sees the number before the gate tells of the ring: it sees what the
        // ring is about, too, or it would miss that for ever.
        self.rings.fetch_add(1, Ordering::Release);
        // The gate's is for who comes there later.
        if self.gate.fetch_or(BUSY | RUNG, Ordering::AcqRel) & BUSY == 0 {
            drop(Leaving(self));
        }
    }

    /// How often it rang: to be asked after a waker was put down.
    pub(super) fn rings(&self) -> usize {
        self.rings.load(Ordering::Acquire)
    }

    /// Does something inside, unless somebody is there.
    fn inside<R>(&self, f: impl FnOnce(&mut Waiters) -> R) -> Result<R, Busy> {
        // The acquire is for what rings before were about.
        if self.gate.fetch_or(BUSY, Ordering::Acquire) & BUSY != 0 {
            return Err(Busy);
        }
        let _leaving = Leaving(self);
        let mut waiters = self.waiters.try_lock().ok_or(Busy)?;
        Ok(f(&mut waiters))
    }

    /// Puts a waker down on a seat; what was there before is to be dropped with nothing locked.
    pub(super) fn sit(&self, seat: usize, waker: &Waker) -> Result<Option<Waker>, Busy> {
        self.inside(|waiters| {
            if seat >= waiters.seats.len() {
                waiters.seats.resize_with(seat.saturating_add(1), || None);
            }
            let place = waiters.seats.get_mut(seat)?;
            match place {
                Some(there) if there.will_wake(waker) => None,
                _ => place.replace(waker.clone()),
            }
        })
    }

    /// Takes the waker from a seat.
    pub(super) fn rise(&self, seat: usize) -> Result<Option<Waker>, Busy> {
        self.inside(|waiters| waiters.seats.get_mut(seat)?.take())
    }

    /// Puts a waker down in line; what was there before is to be dropped with nothing locked.
    pub(super) fn line_up(&self, turn: u64, waker: &Waker) -> Result<Option<Waker>, Busy> {
        self.inside(|waiters| {
            let line = &mut waiters.line;
            let at = line.partition_point(|(other, _)| *other < turn);
            match line.get_mut(at).filter(|(other, _)| *other == turn) {
                Some((_, there)) if there.will_wake(waker) => None,
                Some((_, there)) => Some(core::mem::replace(there, waker.clone())),
                None => {
                    line.insert(at, (turn, waker.clone()));
                    None
                }
            }
        })
    }

    /// Takes a waker out of the line.
    pub(super) fn leave_line(&self, turn: u64) -> Result<Option<Waker>, Busy> {
        self.inside(|waiters| {
            let at = waiters.line.iter().position(|(other, _)| *other == turn)?;
            Some(waiters.line.remove(at).1)
        })
    }

    /// Wakes all that are in line, first come, first woken.
    pub(super) fn call_line(&self) {
        match self.inside(|waiters| core::mem::take(&mut waiters.line)) {
            Ok(line) => line.into_iter().for_each(|(_, waker)| waker.wake()),
            Err(Busy) => self.ring(),
        }
    }
}

/// Opens the gate when it is dropped; if it rang, after everybody was woken.
struct Leaving<'a>(&'a Bell);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        let gate = &self.0.gate;
        // The release is for wakers that were put down.
        if gate
            .compare_exchange(BUSY, 0, Ordering::Release, Ordering::Relaxed)
            .is_ok()
        {
            return;
        }
        // Once is enough: who has come back since the first ring found the gate shut, and has
        // itself polled again.
        let _open = Open(gate);
        if let Some(waiters) = self.0.waiters.try_lock() {
            waiters.wake_all();
        }
    }
}

/// Opens the gate when it is dropped, also when a waker panicked.
struct Open<'a>(&'a AtomicU8);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        // Not a store: what rings since were about is passed on to who comes next.
        self.0.swap(0, Ordering::AcqRel);
    }
}
