//! When a packed ring's sides want to be told (VIRTIO 1.4, 2.8.10): an event structure says.

use alloc::format;
use core::sync::atomic::Ordering;

use super::Packed;
use crate::testing::queue::View;

/// Flags of an event structure: always.
pub(super) const ENABLE: u16 = 0;
/// Never.
pub(super) const DISABLE: u16 = 1;
/// At the descriptor that is named.
pub(super) const DESC: u16 = 2;

impl Packed {
    /// Whether the event structure `word` asks to be told of going from `old` to `new`.
    pub(super) fn due(&self, word: u32, old: u64, new: u64) -> bool {
        match (word >> 16) as u16 & 3 {
            DISABLE => false,
            DESC => passes(word as u16, old, new, self.size),
            _ => old != new,
        }
    }

    /// The driver's event structure is one that there can be.
    pub(super) fn check_event(&self, view: &View) {
        let word = self.driver.load_u32(0, Ordering::Relaxed);
        let flags = (word >> 16) as u16;
        let event = word as u16 & 0x7fff;
        let wrong = match flags {
            ENABLE | DISABLE => return,
            DESC if !view.options.event_idx => "names a descriptor without EVENT_IDX",
            DESC if event >= self.size => "names a descriptor beyond the ring",
            DESC => return,
            _ => "has flags that are reserved",
        };
        let what = format!("the driver's event structure {word:#010x} {wrong}");
        view.report("bug-24", what);
    }
}

/// Whether the descriptor `event`, offset and wrap counter, is among those from `old` to `new`.
fn passes(event: u16, old: u64, new: u64, size: u16) -> bool {
    let laps = 2 * u64::from(size);
    let lap = match event >> 15 {
        1 => 0,
        _ => u64::from(size),
    };
    let event = lap + u64::from(event & 0x7fff);
    // How many it is from `old` to the next descriptor of this name.
    let ahead = (event % laps + laps - old % laps) % laps;
    ahead < new.saturating_sub(old)
}

#[cfg(test)]
mod tests {
    use super::passes;

    #[test]
    fn passes_is_the_walk_from_old_to_new() {
        // Few sizes where Miri tries them.
        let sizes: &[u16] = if cfg!(miri) {
            &[1, 3]
        } else {
            &[1, 2, 3, 7, 8]
        };
        for &size in sizes {
            let name = |number: u64| {
                let (n, wrap) = (
                    u64::from(size),
                    (number / u64::from(size)).is_multiple_of(2),
                );
                (number % n) as u16 | u16::from(wrap) << 15
            };
            for old in 0..4 * u64::from(size) {
                for new in old..old + 3 * u64::from(size) {
                    for event in (0..size).flat_map(|at| [at, at | 1 << 15]) {
                        let walked = (old..new).any(|number| name(number) == event);
                        assert_eq!(
                            passes(event, old, new, size),
                            walked,
                            "{event:#x} {old} {new}"
                        );
                    }
                }
            }
        }
    }
}
