//! Who waits, and the call that wakes them from anywhere.
//!
//! ```text
//!   gate:  open ──go in──▶ ALONE ──leave──▶ open       a task: puts its waker down, or takes one
//!                            │ ring
//!                            ▼
//!                       ALONE + CALL ──leave──▶ open   it calls all wakers, with nothing locked
//!
//!   gate:  open ──ring──▶ CALL ──ring──▶ CALL + CALL   handlers, side by side: each calls all wakers
//! ```
//!
//! Nobody waits at the gate. A handler that finds a task inside leaves word with it, and a task that
//! finds the gate shut has itself polled again. So a handler may come in between any two
//! instructions, on any core. Waking may do what it likes, short of sleeping: nobody is alone inside
//! then, and no lock is held.
//!
//! A handler calls wakers where they lie and drops none: the last reference to a task may be a waker,
//! and freeing memory is not for handlers. Only tasks drop wakers, with nothing locked.
//!
//! Why no ring is lost: all steps at the gate that succeed are read-modify-writes of one word, so
//! there is one order of them, and each sees all that came before those that it follows. A ring comes
//! before a waker was put down (and who put it down sees, when it looks again, what the ring was
//! about), while that is done (and is heard on the way out), or after it (and the waker is called).
//! `ordering.rs` has a model checker try every case.
//!
//! A waker that panics costs no other its call: the rest are called while the panic unwinds. (A second
//! panic among them aborts, as in every destructor.)

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::borrow::Borrow;
use core::fmt;
use core::sync::atomic::Ordering;
use core::task::Waker;

use crate::sync::AtomicUsize;

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
    ///
    /// A task that it wakes may interrupt it at once, on the same core, as those of an executor of
    /// higher priority do. It must then be polled with the waker that it slept with, as
    /// [`Waker::will_wake`] tells, which it does for certain where all have one table, as embassy's: one
    /// that comes with a new waker is polled again until this call is over, which it holds up. That goes
    /// for the network driver's parts and [`ConfigChanges`](super::ConfigChanges). Those who share a [`Queue`](super::Queue) must not
    /// interrupt it: call it with a priority that is theirs at least.
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

/// A task is inside, and nobody else.
const ALONE: usize = 1;
/// One more calls the wakers; where a task is inside, one more left word that it is to do so. Half a
/// word has room for all that can come while a few instructions are executed.
const CALL: usize = 2;

/// The gate, and what is behind it.
pub(super) struct Bell {
    /// How often it rang.
    rings: AtomicUsize,
    gate: AtomicUsize,
    /// Never contended behind the gate: a cell, for code without `unsafe`.
    waiters: spin::RwLock<Waiters>,
}

/// The wakers of tasks that wait.
#[derive(Default)]
pub(super) struct Waiters {
    /// By number.
    seats: Vec<Option<Waker>>,
    /// For room, in the order of their turns.
    line: Vec<(u64, Waker)>,
}

impl Waiters {
    fn iter(&self) -> impl Iterator<Item = &Waker> {
        let line = self.line.iter().map(|(_, waker)| waker);
        self.seats.iter().flatten().chain(line)
    }
}

/// Somebody is inside, and nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

impl Bell {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            rings: AtomicUsize::new(0),
            gate: AtomicUsize::new(0),
            waiters: spin::RwLock::default(),
        })
    }

    /// Wakes everybody, now or by who is inside.
    fn ring(&self) {
        // The release is for who sees the number before the gate tells of the ring: it sees what the
        // ring is about, too, or it would miss that for ever.
        self.rings.fetch_add(1, Ordering::Release);
        self.call();
    }

    /// The same, not counted.
    fn call(&self) {
        // The release is for who comes there later, and sees what the ring is about. The acquire is
        // for wakers that were put down.
        if self.gate.fetch_add(CALL, Ordering::AcqRel) & ALONE == 0 {
            let _calling = Calling(&self.gate);
            if let Some(waiters) = self.waiters.try_read() {
                wake_each(waiters.iter());
            }
        }
    }

    /// How often it rang: to be asked after a waker was put down.
    pub(super) fn rings(&self) -> usize {
        self.rings.load(Ordering::Acquire)
    }

    /// For a task that has something to do inside.
    pub(super) fn visit(&self) -> Visit<'_> {
        Visit {
            bell: self,
            rang: false,
        }
    }
}

/// What a task does inside. All are woken when it is dropped, if it rang meanwhile: to be dropped with
/// nothing locked.
pub(super) struct Visit<'a> {
    bell: &'a Bell,
    /// Everybody is to be woken.
    pub(super) rang: bool,
}

impl Visit<'_> {
    /// Does something inside, unless somebody is there.
    fn inside<R>(&mut self, f: impl FnOnce(&mut Waiters) -> R) -> Result<R, Busy> {
        let Bell { gate, waiters, .. } = self.bell;
        // The acquire is for what rings before were about.
        gate.compare_exchange(0, ALONE, Ordering::Acquire, Ordering::Relaxed)
            .map_err(|_| Busy)?;
        let rang = &mut self.rang;
        let _leaving = Leaving { gate, rang };
        let mut waiters = waiters.try_write().ok_or(Busy)?;
        Ok(f(&mut waiters))
    }

    /// Puts a waker down on a seat; what was there before is to be dropped with nothing locked.
    pub(super) fn sit(&mut self, seat: usize, waker: &Waker) -> Result<Option<Waker>, Busy> {
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
    pub(super) fn rise(&mut self, seat: usize) -> Result<Option<Waker>, Busy> {
        self.inside(|waiters| waiters.seats.get_mut(seat)?.take())
    }

    /// Puts a waker down in line; what was there before is to be dropped with nothing locked.
    pub(super) fn line_up(&mut self, turn: u64, waker: &Waker) -> Result<Option<Waker>, Busy> {
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
    pub(super) fn leave_line(&mut self, turn: u64) -> Result<Option<Waker>, Busy> {
        self.inside(|waiters| {
            let at = waiters.line.iter().position(|(other, _)| *other == turn)?;
            Some(waiters.line.remove(at).1)
        })
    }

    /// Takes all that are in line, to be woken: first come, first woken.
    pub(super) fn take_line(&mut self) -> impl Iterator<Item = Waker> + use<> {
        let line = match self.inside(|waiters| core::mem::take(&mut waiters.line)) {
            Ok(line) => line,
            Err(Busy) => {
                self.rang = true;
                Vec::new()
            }
        };
        line.into_iter().map(|(_, waker)| waker)
    }

    /// Takes all from their seats, to be woken.
    pub(super) fn take_seats(&mut self) -> impl Iterator<Item = Waker> + use<> {
        let seats = match self.inside(|waiters| core::mem::take(&mut waiters.seats)) {
            Ok(seats) => seats,
            Err(Busy) => {
                self.rang = true;
                Vec::new()
            }
        };
        seats.into_iter().flatten()
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        if self.rang {
            self.bell.call();
        }
    }
}

/// Opens the gate when it is dropped, and listens whether it rang.
struct Leaving<'a> {
    gate: &'a AtomicUsize,
    rang: &'a mut bool,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        // Not a store: what it rang about is passed on to who comes next. The release is for wakers
        // that were put down.
        *self.rang |= self.gate.swap(0, Ordering::Release) != ALONE;
    }
}

/// Ends a call when it is dropped, also when a waker panicked.
struct Calling<'a>(&'a AtomicUsize);

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(CALL, Ordering::Release);
    }
}

/// Wakes each of them; when one panics, the rest all the same.
fn wake_each<W: Borrow<Waker>>(wakers: impl Iterator<Item = W>) {
    Each(wakers).wake();
}

/// Wakers that are woken in the end.
pub(super) struct Each<I: Iterator<Item: Borrow<Waker>>>(pub(super) I);

impl<I: Iterator<Item: Borrow<Waker>>> Each<I> {
    pub(super) fn wake(&mut self) {
        for waker in &mut self.0 {
            waker.borrow().wake_by_ref();
        }
    }
}

impl<I: Iterator<Item: Borrow<Waker>>> Drop for Each<I> {
    fn drop(&mut self) {
        // There are some left only while a panic unwinds.
        self.wake();
    }
}
