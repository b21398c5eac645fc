//! Notifications of a split queue, both ways, from the device's side (VIRTIO 1.4, 2.7.7, 2.7.10).
//!
//! Written from the specification, apart from the driver's own rules, so that one checks the other.

use core::sync::atomic::{Ordering, fence};

use super::{IDX, RING, SplitDevice};

const NO_INTERRUPT: u16 = 1;
const NO_NOTIFY: u16 = 1;

/// What the device knows about notifications.
pub(super) struct Notify {
    /// Used index when the driver was last considered for an interrupt.
    signalled: u16,
    /// Available index from which a kick is owed: at the last kick, or when they were enabled.
    since: u16,
    /// The device wants to be kicked: it moves `avail_event` along as it goes.
    wanted: bool,
    kicks: usize,
    needless: usize,
}

impl Notify {
    pub(super) fn new(start: u16) -> Self {
        Self {
            signalled: start,
            since: start,
            wanted: true,
            kicks: 0,
            needless: 0,
        }
    }
}

/// Whether going from `old` to `new` passes `event`: one more than `event` is reached.
fn passes(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event.wrapping_add(1)) < new.wrapping_sub(old)
}

impl SplitDevice {
    /// Whether the driver wants an interrupt for what was published since this was last asked.
    pub fn should_interrupt(&mut self) -> bool {
        if self.halted {
            return false;
        }
        // The used index is stored before the driver's suppression word is read. The driver
        // stores its word, fences, and looks at the used index: one of the two sees the other.
        fence(Ordering::SeqCst);
        let new = self.used.load_u16(IDX, Ordering::Relaxed);
        let old = core::mem::replace(&mut self.notify.signalled, new);
        match self.options.event_idx {
            true => passes(self.used_event(), old, new),
            false => new != old && self.avail.load_u16(0, Ordering::Relaxed) & NO_INTERRUPT == 0,
        }
    }

    /// Asks for kicks from now on. Returns whether buffers are waiting already: the driver may
    /// have published them before it could see this.
    pub fn enable_notifications(&mut self) -> bool {
        self.notify.since = self.seen;
        self.notify.wanted = true;
        if !self.options.event_idx {
            self.set_used_flags(0);
        }
        self.rearm()
    }

    /// Before the device rests: moves `avail_event` along, if kicks are wanted. Returns whether
    /// buffers are waiting already.
    pub(super) fn rearm(&mut self) -> bool {
        if self.notify.wanted && self.options.event_idx && !self.halted {
            self.store_avail_event(self.seen);
        }
        // As in `should_interrupt`, the other way round.
        fence(Ordering::SeqCst);
        self.refresh() != 0
    }

    /// Asks for no kicks.
    pub fn disable_notifications(&mut self) {
        self.notify.wanted = false;
        match self.options.event_idx {
            // As far away as it can be.
            true => self.set_avail_event(self.seen.wrapping_sub(1)),
            false => self.set_used_flags(NO_NOTIFY),
        }
    }

    /// Stores `avail_event`: the driver kicks when it has published the entry of this index. The
    /// device leaves it there, until notifications are enabled.
    pub fn set_avail_event(&mut self, event: u16) {
        self.notify.wanted = false;
        self.store_avail_event(event);
    }

    fn store_avail_event(&self, event: u16) {
        let at = RING + 8 * usize::from(self.size);
        self.used.store_u16(at, event, Ordering::Relaxed);
    }

    /// Stores `used.flags`.
    pub fn set_used_flags(&mut self, flags: u16) {
        self.used.store_u16(0, flags, Ordering::Relaxed);
    }

    /// Loads `used_event`, the driver's word.
    #[must_use]
    pub fn used_event(&self) -> u16 {
        self.avail
            .load_u16(RING + 2 * usize::from(self.size), Ordering::Relaxed)
    }

    /// Takes note of a kick. A [`FakeDevice`](super::super::FakeDevice) calls it.
    pub fn kicked(&mut self) {
        if !self.owes_kick() {
            self.notify.needless += 1;
        }
        self.notify.since = self.avail.load_u16(IDX, Ordering::Acquire);
        self.notify.kicks += 1;
    }

    /// Whether the driver has published buffers that it had to kick for, and has not kicked
    /// (SP-020, SP-022). To be asked when the driver is at rest.
    #[must_use]
    pub fn owes_kick(&self) -> bool {
        let (old, new) = (
            self.notify.since,
            self.avail.load_u16(IDX, Ordering::Acquire),
        );
        let event = self
            .used
            .load_u16(RING + 8 * usize::from(self.size), Ordering::Relaxed);
        match self.options.event_idx {
            true => passes(event, old, new),
            false => new != old && self.used.load_u16(0, Ordering::Relaxed) & NO_NOTIFY == 0,
        }
    }

    /// Kicks so far.
    #[must_use]
    pub fn kicks(&self) -> usize {
        self.notify.kicks
    }

    /// Kicks that the device had asked not to get (SP-019, SP-023). A driver that shares a core
    /// with nobody sends none.
    #[must_use]
    pub fn needless_kicks(&self) -> usize {
        self.notify.needless
    }
}

#[cfg(test)]
mod tests {
    use super::passes;

    #[test]
    fn passes_is_the_walk_from_old_to_new() {
        for old in [0, 1, 7, 0x7fff, 0xfffe, 0xffff_u16] {
            for step in 0..40 {
                let new = old.wrapping_add(step);
                for off in 0..60 {
                    let event = old.wrapping_sub(10).wrapping_add(off);
                    let walked = (0..step).any(|i| old.wrapping_add(i) == event);
                    assert_eq!(passes(event, old, new), walked, "{event} {old} {new}");
                }
            }
        }
    }
}
