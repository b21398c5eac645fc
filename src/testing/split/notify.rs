//! When a split ring's sides want to be told (VIRTIO 1.4, 2.7.7, 2.7.10).

use core::sync::atomic::Ordering;

use super::{RING, Split};
use crate::testing::queue::Side;

const NO_INTERRUPT: u16 = 1;
pub(super) const NO_NOTIFY: u16 = 1;

/// Whether going from `old` to `new` passes `event`: one more than `event` is reached.
fn passes(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event.wrapping_add(1)) < new.wrapping_sub(old)
}

impl Split {
    pub(super) fn interrupt_due(&self, event_idx: bool, old: u64, new: u64) -> bool {
        match event_idx {
            true => {
                new.saturating_sub(old) > 0xffff
                    || passes(self.driver_event(), old as u16, new as u16)
            }
            false => new != old && self.avail.load_u16(0, Ordering::Relaxed) & NO_INTERRUPT == 0,
        }
    }

    pub(super) fn kick_due(&self, event_idx: bool, old: u64, new: u64) -> bool {
        let at = RING + 8 * usize::from(self.size);
        let event = self.used.load_u16(at, Ordering::Relaxed);
        match event_idx {
            true => new.saturating_sub(old) > 0xffff || passes(event, old as u16, new as u16),
            false => new != old && self.used.load_u16(0, Ordering::Relaxed) & NO_NOTIFY == 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::passes;

    #[test]
    fn passes_is_the_walk_from_old_to_new() {
        // Every so manieth distance where Miri walks it.
        let by = if cfg!(miri) { 13 } else { 1 };
        for old in [0, 1, 7, 0x7fff, 0xfffe, 0xffff_u16] {
            for step in (0..40).step_by(by) {
                let new = old.wrapping_add(step);
                for off in (0..60).step_by(by) {
                    let event = old.wrapping_sub(10).wrapping_add(off);
                    let walked = (0..step).any(|i| old.wrapping_add(i) == event);
                    assert_eq!(passes(event, old, new), walked, "{event} {old} {new}");
                }
            }
        }
    }
}
