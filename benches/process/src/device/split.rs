//! The device's side of a split ring.

use std::sync::atomic::Ordering;

use super::{Areas, BURST, INDIRECT, NEXT, Rules, Shared, WRITE, Watch};

#[derive(Debug)]
pub(super) struct Split {
    desc: Shared,
    avail: Shared,
    used: Shared,
    mask: u16,
    /// Chains that were returned.
    at: u16,
    event_idx: bool,
    one_used: bool,
}

/// Length, flags and next of a descriptor's second word.
#[inline(always)] // shifts
fn parts(rest: u64) -> (u32, u16, u16) {
    (rest as u32, (rest >> 32) as u16, (rest >> 48) as u16)
}

impl Split {
    pub(super) fn new(areas: &Areas, rules: Rules) -> Self {
        Self {
            desc: Shared::at(areas.desc),
            avail: Shared::at(areas.driver),
            used: Shared::at(areas.device),
            mask: areas.num - 1,
            at: 0,
            event_idx: rules.event_idx,
            one_used: rules.one_used_a_burst,
        }
    }

    #[inline(always)] // with and without a watch
    pub(super) fn burst(&mut self, watch: &mut impl Watch) -> usize {
        let idx = self.avail.word16(2).load(Ordering::Acquire);
        let ready = usize::from(idx.wrapping_sub(self.at)).min(BURST);
        if ready == 0 {
            return 0;
        }
        let first = self.at;
        for left in (0..ready).rev() {
            let slot = usize::from(self.at & self.mask);
            let head = self.avail.word16(4 + slot * 2).load(Ordering::Relaxed);
            let written = self.walk(head, watch);
            watch.end();
            self.at = self.at.wrapping_add(1);
            if !self.one_used {
                self.put(slot, head, written);
            } else if left == 0 {
                // In the place of the first of the batch (VIRTIO 1.4, 2.7.9).
                self.put(usize::from(first & self.mask), head, written);
            }
        }
        self.used.word16(2).store(self.at, Ordering::Release);
        if self.event_idx {
            let event = 4 + (usize::from(self.mask) + 1) * 8;
            self.used.word16(event).store(self.at, Ordering::Relaxed);
        }
        ready
    }

    #[inline(always)] // two stores
    fn put(&self, slot: usize, head: u16, written: u32) {
        let element = 4 + slot * 8;
        self.used
            .word32(element)
            .store(head.into(), Ordering::Relaxed);
        self.used
            .word32(element + 4)
            .store(written, Ordering::Relaxed);
    }

    /// Bytes of the chain that are writable.
    #[inline(always)] // the loop of the device
    fn walk(&self, head: u16, watch: &mut impl Watch) -> u32 {
        let mut table = self.desc;
        let mut index = usize::from(head);
        let mut written = 0u32;
        // An honest chain is no longer than the queue, plus the descriptor that names a table.
        for _ in 0..=usize::from(self.mask) + 1 {
            let (addr, rest) = table.descriptor(index);
            let (len, flags, next) = parts(rest);
            if flags & INDIRECT != 0 {
                table = Shared::at(addr);
                index = 0;
                continue;
            }
            watch.piece(addr, len, flags & WRITE != 0);
            if flags & WRITE != 0 {
                written = written.wrapping_add(len);
            }
            if flags & NEXT == 0 {
                break;
            }
            index = usize::from(next);
        }
        written
    }
}
