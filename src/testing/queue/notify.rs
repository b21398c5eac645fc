//! Notifications, both ways, from the device's side.
//!
//! Written from the specification, apart from the driver's own rules, so that one checks the other.

use alloc::format;
use core::sync::atomic::{Ordering, fence};

use super::{QueueDevice, Side};

/// What the device knows about notifications.
pub(super) struct Tally {
    /// How far the driver saw used elements when it was last considered for an interrupt.
    signalled: u64,
    /// From where a kick is owed: available at the last kick, or when they were enabled.
    since: u64,
    /// The device wants to be kicked: it moves its event along as it goes.
    wanted: bool,
    kicks: usize,
    needless: usize,
}

impl Tally {
    pub(super) fn new(side: &dyn Side) -> Self {
        Self {
            signalled: side.used(),
            since: side.looked(),
            wanted: true,
            kicks: 0,
            needless: 0,
        }
    }
}

impl QueueDevice {
    /// Whether the driver wants an interrupt for what was published since this was last asked.
    pub fn should_interrupt(&mut self) -> bool {
        if self.halted {
            return false;
        }
        // The used position is stored before the driver's suppression word is read. The driver
        // stores its word, fences, and looks at what is used: one of the two sees the other.
        fence(Ordering::SeqCst);
        let new = self.side.used();
        let old = core::mem::replace(&mut self.tally.signalled, new);
        self.side.wants_interrupt(&self.view, old, new)
    }

    /// Asks for kicks from now on. Returns whether buffers are waiting already: the driver may
    /// have published them before it could see this.
    pub fn enable_notifications(&mut self) -> bool {
        self.tally.since = self.side.looked();
        self.tally.wanted = true;
        self.side.ask_kick(&self.view, self.tally.since);
        self.rearm()
    }

    /// Before the device rests: moves its event along, if kicks are wanted. Returns whether
    /// buffers are waiting already.
    pub(super) fn rearm(&mut self) -> bool {
        if self.tally.wanted && self.view.options.event_idx && !self.halted {
            self.side.ask_kick(&self.view, self.side.looked());
        }
        // As in `should_interrupt`, the other way round.
        fence(Ordering::SeqCst);
        self.refresh() != 0
    }

    /// Asks for no kicks.
    pub fn disable_notifications(&mut self) {
        self.tally.wanted = false;
        self.side.ask_no_kick(&self.view);
    }

    /// Asks for a kick when the driver has made available what comes `ahead` behind what it has
    /// made available by now: chains of a split ring, descriptors of a packed one. The device
    /// leaves it at that, until notifications are enabled. With `VIRTIO_F_EVENT_IDX`.
    pub fn kick_after(&mut self, ahead: u16) {
        let at = self.side.available() + u64::from(ahead);
        let event = self.side.spot(at);
        self.set_avail_event(event);
    }

    /// Stores the event that the driver kicks at: `avail_event`, the index of an entry; or of a
    /// packed ring's device area, offset and wrap counter of a descriptor. The device leaves it
    /// there, until notifications are enabled.
    pub fn set_avail_event(&mut self, event: u16) {
        self.tally.wanted = false;
        self.side.store_event(event);
    }

    /// Stores `used.flags`, or the flags of a packed ring's device area.
    pub fn set_used_flags(&mut self, flags: u16) {
        self.side.store_flags(flags);
    }

    /// Loads `used_event`, or offset and wrap counter of a packed ring's driver area: the driver's
    /// word.
    #[must_use]
    pub fn used_event(&self) -> u16 {
        self.side.driver_event()
    }

    /// What a doorbell has to say under `VIRTIO_F_NOTIFICATION_DATA` (VIRTIO 1.4, 2.9): where the
    /// driver will make the next buffer available.
    #[must_use]
    pub fn next_available(&self) -> u16 {
        self.side.spot(self.side.available())
    }

    /// Takes note of a kick. A [`FakeDevice`](super::super::FakeDevice) calls it.
    pub fn kicked(&mut self) {
        if !self.owes_kick() {
            self.tally.needless += 1;
        }
        self.tally.since = self.side.available();
        self.tally.kicks += 1;
    }

    /// Whether the driver has published buffers that it had to kick for, and has not kicked. To be
    /// asked when the driver is at rest.
    #[must_use]
    pub fn owes_kick(&self) -> bool {
        let (old, new) = (self.tally.since, self.side.available());
        self.side.wants_kick(&self.view, old, new)
    }

    /// Checks that the driver, which is at rest, has kicked for all that it had to.
    pub fn check_kicked(&self) {
        if !self.owes_kick() {
            return;
        }
        let options = self.view.options;
        let id = match (options.packed, options.event_idx) {
            (true, _) => "PK-016",
            (false, true) => "SP-022",
            (false, false) => "SP-020",
        };
        let (old, new) = (self.tally.since, self.side.available());
        let what = format!("a kick was asked for and is missing: {old} to {new}");
        self.view.log.report(id, what);
    }

    /// Kicks so far.
    #[must_use]
    pub fn kicks(&self) -> usize {
        self.tally.kicks
    }

    /// Kicks that the device had asked not to get (SP-019, SP-023). A driver that shares a core
    /// with nobody sends none.
    #[must_use]
    pub fn needless_kicks(&self) -> usize {
        self.tally.needless
    }
}
