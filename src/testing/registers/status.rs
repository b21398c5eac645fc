//! The status and the features, step by step (VIRTIO 1.4, 3.1.1).

use alloc::format;

use super::Registers;
use crate::features::{Feature, Features};
use crate::testing::device::{Event, ResetAnswer, SuspendAnswer};
use crate::transport::Status;

impl Registers {
    /// The driver reads the status.
    pub(in crate::testing) fn read_status(&mut self) -> Status {
        self.features_ok_read |= self.status.contains(Status::FEATURES_OK);
        if let Some(ResetAnswer::After(reads)) = &mut self.resetting {
            if let Some(fewer) = reads.checked_sub(1) {
                *reads = fewer;
            } else if self.queues_stopped() {
                self.finish_reset();
            }
        }
        self.judge_buffers();
        match self.suspending {
            None | Some(SuspendAnswer::Never) => {}
            Some(SuspendAnswer::Fail) => {
                self.suspending = None;
                self.status |= Status::NEEDS_RESET;
            }
            Some(SuspendAnswer::After(0)) => self.finish_suspend(),
            Some(SuspendAnswer::After(reads)) => {
                self.suspending = Some(SuspendAnswer::After(reads - 1));
            }
        }
        self.status
    }

    /// Has stopped, or goes on: of `SUSPEND` and `DRIVER_OK`, the older bit goes (VIRTIO 1.4, 3.4).
    fn finish_suspend(&mut self) {
        self.suspending = None;
        self.suspended = !self.suspended;
        for device in self
            .queues
            .iter_mut()
            .filter_map(|queue| queue.device.as_mut())
        {
            device.pause(self.suspended);
        }
        self.status.remove(match self.suspended {
            true => Status::DRIVER_OK,
            false => Status::SUSPEND,
        });
    }

    /// The driver has asked the device to go on, and the device does not yet.
    pub(super) fn is_resuming(&self) -> bool {
        self.suspended && self.suspending.is_some()
    }

    /// No buffers become available while the device is suspended, or about to be.
    pub(in crate::testing) fn judge_buffers(&mut self) {
        let id = match self.is_resuming() {
            true => "LC-015",
            false => "LC-012",
        };
        for device in self
            .queues
            .iter_mut()
            .filter_map(|queue| queue.device.as_mut())
        {
            device.judge_frozen(id);
        }
    }

    /// The driver writes the status.
    pub(in crate::testing) fn write_status(&mut self, new: Status) {
        self.events.push(Event::Status(new));
        if new.is_empty() {
            self.resetting = Some(self.reset_answer);
            if self.status.is_empty() && self.reset_answer != ResetAnswer::After(0) {
                // Something has to be left to wait for: firmware has used this device.
                self.status = Status::ACKNOWLEDGE | Status::DRIVER;
            }
            return;
        }
        self.judge_status(new);
        let asked_for_reset = self.status & Status::NEEDS_RESET;
        let added = new - self.status;
        if added.contains(Status::SUSPEND) || (self.suspended && added.contains(Status::DRIVER_OK))
        {
            self.judge_buffers();
            self.suspending = Some(self.suspend_answer);
        }
        if added.contains(Status::SUSPEND) {
            for device in self
                .queues
                .iter_mut()
                .filter_map(|queue| queue.device.as_mut())
            {
                device.freeze();
            }
        }
        self.status = new | asked_for_reset;
        if new.contains(Status::FEATURES_OK) && !self.features_ok_read {
            self.judge_features();
            if self.refuses_features {
                self.status.remove(Status::FEATURES_OK);
            }
        }
    }

    fn judge_status(&self, new: Status) {
        let old = self.status;
        if self.resetting.is_some() {
            let what = format!("status {new:?} is written before the reset is confirmed");
            self.violation("LC-001", what);
        }
        if self.suspending.is_some() && !new.contains(Status::FAILED) {
            let id = match self.is_resuming() {
                true => "LC-015",
                false => "LC-011",
            };
            self.violation(
                id,
                format!("status {new:?} before {old:?} was seen to change"),
            );
        }
        if !self.was_reset {
            self.violation("LC-002a", format!("status {new:?} without a reset first"));
        }
        if old.contains(Status::FAILED) && new != old {
            self.violation("ST-003", format!("status {new:?} after FAILED"));
        }
        let device_owned = Status::NEEDS_RESET | self.refused();
        let cleared = old - new - device_owned;
        if !cleared.is_empty() {
            self.violation(
                "ST-002",
                format!("status {old:?} -> {new:?} clears {cleared:?}"),
            );
        }
        let added = new - old - Status::FAILED;
        if added.bits().count_ones() > 1 {
            self.violation(
                "ST-001",
                format!("status {old:?} -> {new:?}: one step at a time"),
            );
        }
        let before_ok = match self.is_legacy() {
            true => Status::DRIVER,
            false => Status::FEATURES_OK,
        };
        if self.is_legacy() && added.contains(Status::FEATURES_OK) {
            let what = format!("status {new:?}: a legacy device has no FEATURES_OK");
            self.violation("LC-L01", what);
        }
        let order = [
            (Status::DRIVER, Status::ACKNOWLEDGE, "LC-002b"),
            (Status::FEATURES_OK, Status::DRIVER, "LC-002c"),
            (Status::DRIVER_OK, before_ok, "LC-002e"),
        ];
        for (step, before, id) in order {
            if added.contains(step) && !new.contains(before) {
                self.violation(
                    id,
                    format!("status {new:?}: {before:?} comes before {step:?}"),
                );
            }
        }
        if added.contains(Status::FEATURES_OK) && !self.features_written {
            self.violation(
                "LC-002d",
                format!("status {new:?} before any feature was written"),
            );
        }
        if added.contains(Status::DRIVER_OK) && !self.features_ok() {
            self.violation(
                "LC-002f",
                "DRIVER_OK before FEATURES_OK was read back".into(),
            );
        }
        if added.contains(Status::SUSPEND)
            && !(old.contains(Status::DRIVER_OK) && self.accepted.has(Feature::SUSPEND))
        {
            self.violation("LC-010", format!("status {old:?} -> {new:?}: SUSPEND"));
        }
    }

    /// `FEATURES_OK`, when the device does not keep it: the driver may go on writing it.
    fn refused(&self) -> Status {
        match self.refuses_features {
            true => Status::FEATURES_OK,
            false => Status::empty(),
        }
    }

    /// The driver has agreed on features, and has seen that the device did, where it says so.
    pub(super) fn features_ok(&self) -> bool {
        if self.is_legacy() {
            return self.features_written;
        }
        self.status.contains(Status::FEATURES_OK) && self.features_ok_read
    }

    fn judge_features(&self) {
        let (offered, accepted) = (self.read_features(), self.accepted);
        if offered.has(Feature::VERSION_1) && !accepted.has(Feature::VERSION_1) {
            self.violation("FE-009", format!("{accepted:?} without VIRTIO_F_VERSION_1"));
        }
        for row in &self.requirements {
            if !row.is_met_by(accepted) {
                let what = format!("{accepted:?}: {} without {:?}", row.feature, row.needs);
                self.violation("FE-002", what);
            }
        }
    }

    /// The driver writes its features.
    pub(in crate::testing) fn write_features(&mut self, features: Features) {
        self.events.push(Event::Features(features));
        if !self.status.contains(Status::DRIVER) {
            self.violation(
                "LC-002c",
                format!("features written in status {:?}", self.status),
            );
        }
        if self.status.contains(Status::FEATURES_OK) {
            self.violation("LC-004", format!("{features:?} written after FEATURES_OK"));
        }
        let foreign = features - self.read_features();
        if !foreign.is_empty() {
            self.violation("FE-001", format!("{foreign:?} was not offered"));
        }
        self.accepted = features;
        self.features_written = true;
        if self.is_legacy() {
            // Nothing else ends the negotiation.
            self.judge_features();
            self.judge_legacy_features();
        }
    }
}
