//! The registers of a fake device, and the state machine behind them.
//!
//! Each method is one access of the driver. The order of initialisation is VIRTIO 1.4, 3.1.1; the
//! ids of violations are those of the statements there (LC-002a to LC-002h are its eight steps).

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::vec::Vec;
use core::fmt;

use super::bus::Bus;
use super::device::{Event, Generation, ResetAnswer};
use super::split::{Leash, SplitDevice, SplitOptions};
use super::violation::Violations;
use crate::features::{Feature, Features, Requirement};
use crate::transport::{DeviceId, QueueAreas, QueueIndex, Status, TransportError};

/// One queue.
pub(super) struct Queue {
    pub(super) max: u16,
    pub(super) start: u16,
    pub(super) vector: Option<u16>,
    pub(super) device: Option<SplitDevice>,
    pub(super) leash: Option<Leash>,
    enabled: bool,
}

impl Queue {
    pub(super) fn new(max: u16) -> Self {
        Self {
            max,
            start: 0,
            vector: None,
            device: None,
            leash: None,
            enabled: false,
        }
    }
}

pub(super) struct Registers {
    bus: Bus,
    log: Violations,
    pub(super) id: DeviceId,
    pub(super) offered: Features,
    pub(super) accepted: Features,
    pub(super) requirements: Vec<Requirement>,
    pub(super) status: Status,
    pub(super) queues: Vec<Queue>,
    pub(super) config: Vec<u8>,
    pub(super) config_changes: VecDeque<Vec<u8>>,
    pub(super) generation_kind: Generation,
    generation: u32,
    pub(super) vectors: Option<u16>,
    pub(super) config_vector: Option<u16>,
    pub(super) reset_answer: ResetAnswer,
    pub(super) refuses_features: bool,
    pub(super) refuses_vectors: bool,
    /// A reset was asked for; so many reads of the status until it is confirmed.
    resetting: Option<ResetAnswer>,
    /// A reset was asked for and confirmed at least once.
    was_reset: bool,
    features_written: bool,
    /// The status was read after `FEATURES_OK` was written.
    features_ok_read: bool,
    /// Counts resets, so that doorbells know which one they are from.
    pub(super) epoch: usize,
    isr: u8,
    pub(super) isr_taken: bool,
    pub(super) interrupts: usize,
    pub(super) kicks: BTreeMap<u16, usize>,
    pub(super) stale_kicks: usize,
    pub(super) events: Vec<Event>,
}

impl Registers {
    pub(super) fn new(bus: Bus, id: DeviceId, log: Violations) -> Self {
        Self {
            bus,
            log,
            id,
            offered: Feature::VERSION_1.into(),
            accepted: Features::EMPTY,
            requirements: Vec::new(),
            status: Status::empty(),
            queues: alloc::vec![Queue::new(256)],
            config: Vec::new(),
            config_changes: VecDeque::new(),
            generation_kind: Generation::Steady,
            generation: 0,
            vectors: None,
            config_vector: None,
            reset_answer: ResetAnswer::After(0),
            refuses_features: false,
            refuses_vectors: false,
            resetting: None,
            was_reset: false,
            features_written: false,
            features_ok_read: false,
            epoch: 0,
            isr: 0,
            isr_taken: false,
            interrupts: 0,
            kicks: BTreeMap::new(),
            stale_kicks: 0,
            events: Vec::new(),
        }
    }

    fn violation(&self, id: &'static str, what: alloc::string::String) {
        self.log.report(id, what);
    }

    /// The driver reads the status.
    pub(super) fn read_status(&mut self) -> Status {
        self.features_ok_read |= self.status.contains(Status::FEATURES_OK);
        match &mut self.resetting {
            None => {}
            Some(ResetAnswer::Never) => {}
            Some(ResetAnswer::After(0)) => {
                if self.queues_stopped() {
                    self.finish_reset();
                }
            }
            Some(ResetAnswer::After(reads)) => *reads -= 1,
        }
        self.status
    }

    /// The driver writes the status.
    pub(super) fn write_status(&mut self, new: Status) {
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
        let order = [
            (Status::DRIVER, Status::ACKNOWLEDGE, "LC-002b"),
            (Status::FEATURES_OK, Status::DRIVER, "LC-002c"),
            (Status::DRIVER_OK, Status::FEATURES_OK, "LC-002e"),
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

    /// The driver has agreed on features, and has seen that the device did.
    fn features_ok(&self) -> bool {
        self.status.contains(Status::FEATURES_OK) && self.features_ok_read
    }

    fn judge_features(&self) {
        let (offered, accepted) = (self.offered, self.accepted);
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
    pub(super) fn write_features(&mut self, features: Features) {
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
        let foreign = features - self.offered;
        if !foreign.is_empty() {
            self.violation("FE-001", format!("{foreign:?} was not offered"));
        }
        self.accepted = features;
        self.features_written = true;
    }

    pub(super) fn max_queue_size(&self, queue: QueueIndex) -> u16 {
        self.queues
            .get(usize::from(queue.0))
            .map_or(0, |queue| queue.max)
    }

    /// The driver programmes a queue.
    pub(super) fn enable_queue(
        &mut self,
        index: QueueIndex,
        size: u16,
        areas: &QueueAreas,
        vector: Option<u16>,
    ) -> Result<(), TransportError> {
        if !self.features_ok() {
            let what = format!("{index} is set up in status {:?}", self.status);
            self.violation("LC-002f", what);
        }
        if self.status.contains(Status::DRIVER_OK) {
            self.violation("LC-002g", format!("{index} is set up after DRIVER_OK"));
        }
        let max = self.max_queue_size(index);
        if max == 0 {
            return Err(TransportError::QueueUnavailable { queue: index });
        }
        if size == 0 || size > max || !size.is_power_of_two() {
            self.violation("bug-8", format!("{index}: a size of {size}, at most {max}"));
            let queue = index;
            return Err(TransportError::QueueSize { queue, size, max });
        }
        self.check_vector(vector)?;
        let options = SplitOptions {
            event_idx: self.accepted.has(Feature::EVENT_IDX),
            indirect: self.accepted.has(Feature::INDIRECT_DESC),
            in_order: self.accepted.has(Feature::IN_ORDER),
            start: self.queues[usize::from(index.0)].start,
        };
        let queue = &mut self.queues[usize::from(index.0)];
        if queue.enabled {
            self.log
                .report("bug-66", format!("{index} is enabled twice"));
            return Err(TransportError::QueueInUse { queue: index });
        }
        match SplitDevice::try_new(&self.bus, size, areas, options, &self.log) {
            Ok(device) => queue.device = Some(device),
            Err(violation) => self.log.report(violation.id, violation.what),
        }
        queue.enabled = true;
        queue.vector = vector;
        self.events.push(Event::Enabled(index, size));
        Ok(())
    }

    pub(super) fn set_config_vector(&mut self, vector: Option<u16>) -> Result<(), TransportError> {
        self.check_vector(vector)?;
        self.config_vector = vector;
        Ok(())
    }

    fn check_vector(&self, vector: Option<u16>) -> Result<(), TransportError> {
        match (vector, self.vectors) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(TransportError::NoVectors),
            (Some(vector), Some(count)) if self.refuses_vectors || vector >= count => {
                let got = 0xffff;
                Err(TransportError::VectorRefused { vector, got })
            }
            (Some(_), Some(_)) => Ok(()),
        }
    }

    /// The driver rings a doorbell. Whether the device heeds it.
    pub(super) fn kick(&mut self, index: QueueIndex, epoch: usize, value: u16) -> bool {
        if epoch != self.epoch {
            self.stale_kicks += 1;
            return false;
        }
        *self.kicks.entry(index.0).or_default() += 1;
        if value != index.0 {
            self.violation("bug-28", format!("the doorbell of {index} took {value}"));
        }
        if !self.status.contains(Status::DRIVER_OK) {
            let what = format!("{index} is notified in status {:?}", self.status);
            self.violation("LC-007", what);
            return false;
        }
        if self.status.contains(Status::SUSPEND) {
            self.violation("LC-013", format!("{index} is notified while suspended"));
        }
        if let Some(device) = &mut self.queues[usize::from(index.0)].device {
            device.kicked();
        }
        true
    }

    pub(super) fn read_generation(&mut self) -> Option<u32> {
        match self.generation_kind {
            Generation::Absent => return None,
            Generation::Steady => {}
            Generation::NeverSettles => self.generation = self.generation.wrapping_add(1),
        }
        Some(self.generation)
    }

    pub(super) fn read_config(&mut self, at: usize, dst: &mut [u8]) -> Result<(), TransportError> {
        self.check_config(at, dst.len())?;
        let half = match dst.len() {
            8 => 4,
            len => len,
        };
        let (first, second) = dst.split_at_mut(half);
        first.copy_from_slice(&self.config[at..at + half]);
        if let Some(bytes) = self.config_changes.pop_front() {
            self.change_config(bytes);
        }
        for (i, byte) in second.iter_mut().enumerate() {
            // A change may have made the configuration shorter.
            *byte = self.config.get(at + half + i).copied().unwrap_or(0xff);
        }
        Ok(())
    }

    pub(super) fn write_config(&mut self, at: usize, src: &[u8]) -> Result<(), TransportError> {
        if !self.features_ok() {
            let what = format!("configuration is written in status {:?}", self.status);
            self.violation("LC-003", what);
        }
        if self.status.contains(Status::SUSPEND) {
            self.violation("LC-014", "configuration is written while suspended".into());
        }
        self.check_config(at, src.len())?;
        self.config[at..at + src.len()].copy_from_slice(src);
        Ok(())
    }

    fn check_config(&self, offset: usize, len: usize) -> Result<(), TransportError> {
        let size = self.config.len();
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => Err(TransportError::ConfigOutOfRange { offset, len, size }),
        }
    }

    pub(super) fn change_config(&mut self, bytes: Vec<u8>) {
        self.config = bytes;
        self.generation = self.generation.wrapping_add(1);
        self.raise(2);
    }

    pub(super) fn fail(&mut self) {
        self.status |= Status::NEEDS_RESET;
        self.raise(2);
    }

    /// Sets a bit of the interrupt status; before DRIVER_OK a device does not interrupt.
    pub(super) fn raise(&mut self, bit: u8) {
        if self.status.contains(Status::DRIVER_OK) {
            self.isr |= bit;
            self.interrupts += 1;
        }
    }

    pub(super) fn acknowledge(&mut self) -> u8 {
        core::mem::take(&mut self.isr)
    }

    /// The answer to resets was changed: it goes for one that is under way as well.
    pub(super) fn rearm_reset(&mut self) {
        if self.resetting.is_some() {
            self.resetting = Some(self.reset_answer);
        }
    }

    /// Stops the queues that run in threads; true when all have.
    fn queues_stopped(&self) -> bool {
        let leashes = self.queues.iter().filter_map(|queue| queue.leash.as_ref());
        leashes.fold(true, |all, leash| leash.stop() && all)
    }

    fn finish_reset(&mut self) {
        self.resetting = None;
        self.was_reset = true;
        self.status = Status::empty();
        self.accepted = Features::EMPTY;
        self.features_written = false;
        self.features_ok_read = false;
        self.epoch += 1;
        self.isr = 0;
        self.config_vector = None;
        for queue in &mut self.queues {
            queue.device = None;
            queue.leash = None;
            queue.enabled = false;
            queue.vector = None;
        }
        self.events.push(Event::Reset);
    }
}

impl fmt::Debug for Registers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeDevice")
            .field("id", &self.id)
            .field("status", &self.status)
            .field("accepted", &self.accepted)
            .field("kicks", &self.kicks)
            .field("violations", &self.log)
            .finish_non_exhaustive()
    }
}
