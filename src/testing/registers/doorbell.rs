//! What a doorbell carries, and when it may be rung (VIRTIO 1.4, 2.9, 3.4 and 4.1.5.2).

use alloc::format;

use super::Registers;
use crate::features::Feature;
use crate::transport::{QueueIndex, Status};

impl Registers {
    /// The driver rings a doorbell. Whether the device heeds it.
    pub(in crate::testing) fn kick(&mut self, index: QueueIndex, epoch: usize, value: u32) -> bool {
        if epoch != self.queue_epoch(index) {
            self.stale_kicks += 1;
            return false;
        }
        *self.kicks.entry(index.0).or_default() += 1;
        self.judge_value(index, value);
        self.queues[usize::from(index.0)].rung = Some(value);
        if self.status.contains(Status::SUSPEND) {
            let (id, what) = match self.is_resuming() {
                true => ("LC-015", "before the device says that it goes on"),
                false => ("LC-013", "while suspended"),
            };
            self.violation(id, format!("{index} is notified {what}"));
            return false;
        }
        if !self.status.contains(Status::DRIVER_OK) {
            let what = format!("{index} is notified in status {:?}", self.status);
            self.violation("LC-007", what);
            return false;
        }
        if let Some(device) = &mut self.queues[usize::from(index.0)].device {
            device.kicked();
        }
        true
    }

    /// The value: the queue's number or what the device chose for it, and the position or nothing.
    /// A queue that runs in a thread may have moved on: its position is not checked.
    fn judge_value(&self, index: QueueIndex, value: u32) {
        let (low, high) = (value as u16, (value >> 16) as u16);
        let chosen = self.accepted.has(Feature::NOTIF_CONFIG_DATA);
        let with_data = self.accepted.has(Feature::NOTIFICATION_DATA);
        let expected = self.notify_value(index);
        if low != expected {
            let id = match (chosen, with_data) {
                (false, false) => "PCI-031",
                (false, true) => "PCI-032",
                (true, false) => "PCI-033",
                (true, true) => "PCI-034",
            };
            let what = format!("the doorbell of {index} took {low:#x}, not {expected:#x}");
            self.violation(id, what);
        }
        if !with_data && high != 0 {
            let what = format!("the doorbell of {index} took {value:#x}: more than 16 bits");
            self.violation("PCI-029", what);
        }
        let device = self.queues[usize::from(index.0)].device.as_ref();
        if let Some(device) = device.filter(|_| with_data) {
            let next = device.next_available();
            if high != next && !device.is_tainted() {
                let id = match device.options().packed {
                    true => "PK-004",
                    false => "bug-28",
                };
                let what = format!("the doorbell of {index} says {high:#x}, next is {next:#x}");
                self.violation(id, what);
            }
        }
    }
}
