//! Buffers that become available: what is checked when the device first sees them.

use alloc::format;
use core::sync::atomic::Ordering;

use super::chain::Walker;
use super::{IDX, RING, SplitDevice};

impl SplitDevice {
    /// Looks for newly available buffers and checks them. Returns how many wait to be popped.
    pub fn refresh(&mut self) -> usize {
        if self.is_halted() {
            return 0;
        }
        self.check_flags();
        let idx = self.avail.load_u16(IDX, Ordering::Acquire);
        let new = idx.wrapping_sub(self.seen);
        if usize::from(new) > usize::from(self.size) - self.records.len() {
            let (seen, live) = (self.seen, self.records.len());
            let what = format!("avail.idx went from {seen} to {idx} with {live} buffers out");
            self.log.report("SP-011", what);
            return self.pending.len();
        }
        while self.seen != idx {
            let head = self.entry(self.seen);
            self.seen = self.seen.wrapping_add(1);
            self.expose(head);
        }
        self.pending.len()
    }

    fn entry(&self, at: u16) -> u16 {
        self.avail
            .load_u16(RING + 2 * usize::from(at % self.size), Ordering::Relaxed)
    }

    /// Enters the chain at `head`, unless it is unusable.
    fn expose(&mut self, head: u16) {
        if head >= self.size {
            self.log
                .report("bug-4", format!("available head {head} of {}", self.size));
            return;
        }
        if let Some(owner) = self.owner[usize::from(head)] {
            let what = format!("head {head} is available again, the chain at {owner} has it");
            self.log.report("LC-008", what);
            return;
        }
        let walker = Walker {
            bus: &self.bus,
            table: &self.desc,
            size: self.size,
            options: self.options,
            log: &self.log,
        };
        let Some((chain, record)) = walker.walk(head) else {
            return;
        };
        for &(index, _) in &record.direct {
            if let Some(owner) = self.owner[usize::from(index)].replace(head) {
                let what = format!("descriptor {index} is in the chains at {owner} and {head}");
                self.log.report("LC-008", what);
            }
        }
        self.records.insert(head, record);
        self.pending.push_back(chain);
    }

    fn check_flags(&self) {
        let flags = self.avail.load_u16(0, Ordering::Relaxed);
        match self.options.event_idx {
            true if flags != 0 => {
                self.log
                    .report("SP-013", format!("avail.flags is {flags} under EVENT_IDX"));
            }
            false if flags > 1 => {
                self.log.report("SP-012", format!("avail.flags is {flags}"));
            }
            _ => {}
        }
    }
}
