//! Interrupt vectors: who handles which, and how often each was raised.
//!
//! A vector is this kernel's number for a source of interrupts. The architecture knows which of the
//! interrupt controller's numbers it goes by.
//!
//! A handler runs with interrupts off and must neither allocate nor print: it reads or writes what
//! its device needs to fall silent, notes that there is work, and returns.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use spin::Once;

use super::arch::VECTORS;

type Handler = dyn Fn() + Send + Sync;

struct Slot {
    handler: Once<Box<Handler>>,
    count: AtomicU64,
}

static SLOTS: [Slot; 256] = [const {
    Slot {
        handler: Once::new(),
        count: AtomicU64::new(0),
    }
}; 256];
static NEXT: AtomicU8 = AtomicU8::new(*VECTORS.start());

/// An interrupt vector with a handler, for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Vector(u8);

impl Vector {
    /// The vector's number.
    pub(crate) fn number(self) -> u8 {
        self.0
    }

    /// How often it was raised.
    pub(crate) fn count(self) -> u64 {
        SLOTS[usize::from(self.0)].count.load(Ordering::Relaxed)
    }
}

/// Gives `handler` a vector; `None` when there is none left.
pub(crate) fn allocate(handler: impl Fn() + Send + Sync + 'static) -> Option<Vector> {
    let next = |vector: u8| VECTORS.contains(&vector).then(|| vector.wrapping_add(1));
    let vector = NEXT
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
        .ok()?;
    SLOTS[usize::from(vector)]
        .handler
        .call_once(|| Box::new(handler));
    Some(Vector(vector))
}

/// Calls the handler, and counts. The architecture signals the end of the interrupt after it, so
/// that a level-triggered line has been taken down by then.
pub(super) fn dispatch(vector: u8) {
    let slot = &SLOTS[usize::from(vector)];
    slot.count.fetch_add(1, Ordering::Relaxed);
    if let Some(handler) = slot.handler.get() {
        handler();
    }
}
