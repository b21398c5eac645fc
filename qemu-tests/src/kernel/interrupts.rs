//! Interrupt vectors: who handles which, and how often each was raised.
//!
//! A vector is this kernel's number for a source of interrupts. The architecture knows which of the
//! interrupt controller's numbers it goes by.
//!
//! A vector has a chain of handlers. A message has one; a line has one for each device that shares
//! it, and every one is called each time, as the line stays up until the last device that raised it
//! is silent. A handler says whether it was its device. An interrupt that is nobody's is counted;
//! so many of them on end that nothing else would ever run end the run instead.
//!
//! A handler runs with interrupts off and must neither allocate nor print: it reads or writes what
//! its device needs to fall silent, notes that there is work, and returns.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::iter;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU64, Ordering};

use spin::Mutex;

use super::arch::VECTORS;
use super::exit;

type Handler = dyn Fn() -> bool + Send + Sync;

/// Interrupts on end that are nobody's: a line that no handler takes down.
const STORM: u64 = 100_000;

/// A handler in its chain, which it stays in: a handler may be on its way along it.
struct Link {
    handler: Box<Handler>,
    /// Not taken off again.
    hooked: AtomicBool,
    next: Option<&'static Link>,
}

struct Slot {
    /// The handler that came last. Null, or leaked by [`hook`].
    first: AtomicPtr<Link>,
    count: AtomicU64,
    unclaimed: AtomicU64,
    /// [`Self::unclaimed`] since somebody claimed one.
    on_end: AtomicU64,
}

static SLOTS: [Slot; 256] = [const {
    Slot {
        first: AtomicPtr::new(core::ptr::null_mut()),
        count: AtomicU64::new(0),
        unclaimed: AtomicU64::new(0),
        on_end: AtomicU64::new(0),
    }
}; 256];
static NEXT: AtomicU8 = AtomicU8::new(*VECTORS.start());

/// The lines that are in use, and their vectors. Handlers do not look at it.
static LINES: Mutex<Vec<(u32, Vector)>> = Mutex::new(Vec::new());

/// An interrupt vector, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vector(u8);

impl Vector {
    /// The vector's number.
    pub(crate) fn number(self) -> u8 {
        self.0
    }

    /// How often it was raised.
    pub(crate) fn count(self) -> u64 {
        self.slot().count.load(Ordering::Relaxed)
    }

    /// How often it was raised and no handler's device had done so.
    pub(crate) fn unclaimed(self) -> u64 {
        self.slot().unclaimed.load(Ordering::Relaxed)
    }

    fn slot(self) -> &'static Slot {
        &SLOTS[usize::from(self.0)]
    }
}

/// A handler on a line. Dropping it takes the handler off.
pub(crate) struct Hook {
    link: &'static Link,
    vector: Vector,
}

impl Hook {
    /// The vector of the line.
    pub(crate) fn vector(&self) -> Vector {
        self.vector
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.link.hooked.store(false, Ordering::Release);
    }
}

/// Gives `handler` a vector of its own; `None` when there is none left.
pub(crate) fn allocate(handler: impl Fn() + Send + Sync + 'static) -> Option<Vector> {
    let vector = take_vector()?;
    hook(vector, move || {
        handler();
        true
    });
    Some(vector)
}

/// Adds `handler` to those of an input of the interrupt controllers; it returns whether its device
/// had interrupted. The first one has `route` connect the line to a vector.
///
/// # Errors
/// Those of `route`; and `exhausted` when there is no vector left.
pub(crate) fn share<E>(
    line: u32,
    handler: impl Fn() -> bool + Send + Sync + 'static,
    exhausted: E,
    route: impl FnOnce(Vector) -> Result<(), E>,
) -> Result<Hook, E> {
    let mut lines = LINES.lock();
    let known = lines.iter().find(|(known, _)| *known == line);
    let known = known.map(|(_, vector)| *vector);
    let vector = known.or_else(take_vector).ok_or(exhausted)?;
    // The handler is there before the line can interrupt.
    let link = hook(vector, handler);
    let hook = Hook { link, vector };
    if known.is_none() {
        route(vector)?;
        lines.push((line, vector));
    }
    Ok(hook)
}

fn take_vector() -> Option<Vector> {
    let next = |vector: u8| VECTORS.contains(&vector).then(|| vector.wrapping_add(1));
    let taken = NEXT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
    taken.ok().map(Vector)
}

/// Puts `handler` in front of the vector's chain.
fn hook(vector: Vector, handler: impl Fn() -> bool + Send + Sync + 'static) -> &'static Link {
    let first = &vector.slot().first;
    let link = Box::leak(Box::new(Link {
        handler: Box::new(handler),
        hooked: AtomicBool::new(true),
        next: None,
    }));
    let mut seen = first.load(Ordering::Acquire);
    loop {
        // SAFETY: null, or leaked by this function and never changed after it was published.
        link.next = unsafe { seen.as_ref() };
        let link: *mut Link = link;
        match first.compare_exchange(seen, link, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: leaked above, and from here on only shared.
            Ok(_) => return unsafe { &*link },
            Err(now) => seen = now,
        }
    }
}

/// Calls every handler, and counts. The architecture signals the end of the interrupt after it, so
/// that a level-triggered line has been taken down by then.
pub(super) fn dispatch(vector: u8) {
    let slot = &SLOTS[usize::from(vector)];
    slot.count.fetch_add(1, Ordering::Relaxed);
    // SAFETY: null, or leaked by `hook`.
    let first: Option<&'static Link> = unsafe { slot.first.load(Ordering::Acquire).as_ref() };
    let mut claimed = false;
    for link in iter::successors(first, |link| link.next) {
        if link.hooked.load(Ordering::Acquire) {
            claimed |= (link.handler)();
        }
    }
    if claimed {
        slot.on_end.store(0, Ordering::Relaxed);
        return;
    }
    slot.unclaimed.fetch_add(1, Ordering::Relaxed);
    if slot.on_end.fetch_add(1, Ordering::Relaxed) >= STORM {
        exit::failed(
            "interrupt_storm",
            format_args!("{STORM} interrupts on end of vector {vector} were no device's"),
        );
    }
}
