//! The registers of a fake device, and the state machine behind them.
//!
//! Each method is one access of the driver. The order of initialization is VIRTIO 1.4, 3.1.1; the
//! ids of violations are those of the statements there (LC-002a to LC-002h are its eight steps).

mod config;
mod doorbell;
mod legacy;
mod status;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::vec::Vec;
use core::fmt;

use crate::features::{Feature, Features, Requirement};
use crate::testing::bus::Bus;
use crate::testing::device::{Event, Generation, Legacy, ResetAnswer, SuspendAnswer};
use crate::testing::queue::{Leash, QueueDevice, QueueOptions};
use crate::testing::violation::Violations;
use crate::transport::{DeviceId, QueueAreas, QueueIndex, ShmRegion, Status, TransportError};

/// One queue.
pub(in crate::testing) struct Queue {
    pub(in crate::testing) max: u16,
    pub(in crate::testing) start: u16,
    pub(in crate::testing) most_segments: u16,
    /// Bytes of the header that a legacy device without `VIRTIO_F_ANY_LAYOUT` expects.
    pub(in crate::testing) header: Option<u16>,
    pub(in crate::testing) vector: Option<u16>,
    pub(in crate::testing) device: Option<QueueDevice>,
    pub(in crate::testing) leash: Option<Leash>,
    /// What doorbells carry under `VIRTIO_F_NOTIF_CONFIG_DATA`.
    pub(in crate::testing) notify_data: Option<u16>,
    /// What the last ring of the doorbell carried.
    pub(in crate::testing) rung: Option<u32>,
    /// It was reset after `DRIVER_OK`, and may be set up again.
    vacant: bool,
    /// A reset of the queue is under way; so many reads until it is confirmed.
    resetting: Option<ResetAnswer>,
    /// It had an interrupt vector when it was set up before.
    had_vector: bool,
    /// Doorbells of before the queue's own resets are stale, too.
    epoch: usize,
    enabled: bool,
}

impl Queue {
    pub(in crate::testing) fn new(max: u16) -> Self {
        Self {
            max,
            start: 0,
            most_segments: 0,
            header: None,
            vector: None,
            device: None,
            leash: None,
            notify_data: None,
            rung: None,
            vacant: false,
            resetting: None,
            had_vector: false,
            epoch: 0,
            enabled: false,
        }
    }

    /// The queue stops. Until now the driver had to leave it alone; `id` is the statement that
    /// says so.
    fn reset(&mut self, id: &'static str) {
        if let Some(mut device) = self.device.take() {
            device.judge_reset(id);
        }
        self.had_vector |= self.vector.is_some();
        self.leash = None;
        self.enabled = false;
        self.vector = None;
        self.resetting = None;
    }
}

pub(in crate::testing) struct Registers {
    bus: Bus,
    log: Violations,
    pub(in crate::testing) id: DeviceId,
    pub(in crate::testing) legacy: Option<Legacy>,
    pub(in crate::testing) offered: Features,
    pub(in crate::testing) accepted: Features,
    pub(in crate::testing) requirements: Vec<Requirement>,
    pub(in crate::testing) status: Status,
    pub(in crate::testing) queues: Vec<Queue>,
    pub(in crate::testing) config: Vec<u8>,
    pub(in crate::testing) config_changes: VecDeque<Vec<u8>>,
    pub(in crate::testing) generation_kind: Generation,
    generation: u32,
    pub(in crate::testing) shm_regions: BTreeMap<u8, ShmRegion>,
    pub(in crate::testing) vectors: Option<u16>,
    pub(in crate::testing) config_vector: Option<u16>,
    pub(in crate::testing) reset_answer: ResetAnswer,
    pub(in crate::testing) queue_reset_answer: ResetAnswer,
    pub(in crate::testing) suspend_answer: SuspendAnswer,
    /// What the driver asked for by `SUSPEND` or `DRIVER_OK`, and is not done.
    suspending: Option<SuspendAnswer>,
    suspended: bool,
    pub(in crate::testing) refuses_features: bool,
    pub(in crate::testing) refuses_vectors: bool,
    /// A reset was asked for; so many reads of the status until it is confirmed.
    resetting: Option<ResetAnswer>,
    /// A reset was asked for and confirmed at least once.
    was_reset: bool,
    features_written: bool,
    /// The status was read after `FEATURES_OK` was written.
    features_ok_read: bool,
    /// Counts resets, so that doorbells know which one they are from.
    pub(in crate::testing) epoch: usize,
    isr: u8,
    pub(in crate::testing) isr_taken: bool,
    pub(in crate::testing) interrupts: usize,
    pub(in crate::testing) kicks: BTreeMap<u16, usize>,
    pub(in crate::testing) stale_kicks: usize,
    pub(in crate::testing) events: Vec<Event>,
}

impl Registers {
    pub(in crate::testing) fn new(bus: Bus, id: DeviceId, log: Violations) -> Self {
        Self {
            bus,
            log,
            id,
            legacy: None,
            offered: Feature::VERSION_1.into(),
            accepted: Features::EMPTY,
            requirements: Vec::new(),
            status: Status::empty(),
            queues: alloc::vec![Queue::new(256)],
            config: Vec::new(),
            config_changes: VecDeque::new(),
            generation_kind: Generation::Steady,
            generation: 0,
            shm_regions: BTreeMap::new(),
            vectors: None,
            config_vector: None,
            reset_answer: ResetAnswer::After(0),
            queue_reset_answer: ResetAnswer::After(0),
            suspend_answer: SuspendAnswer::After(0),
            suspending: None,
            suspended: false,
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

    pub(in crate::testing) fn max_queue_size(&self, queue: QueueIndex) -> u16 {
        self.queues
            .get(usize::from(queue.0))
            .map_or(0, |queue| queue.max)
    }

    /// The driver programmes a queue.
    pub(in crate::testing) fn enable_queue(
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
        let vacant = self.queues.get(usize::from(index.0));
        if self.status.contains(Status::DRIVER_OK) && !vacant.is_some_and(|queue| queue.vacant) {
            self.violation("LC-002g", format!("{index} is set up after DRIVER_OK"));
        }
        if self.status.contains(Status::SUSPEND) {
            self.violation("LC-014", format!("{index} is set up while suspended"));
        }
        let max = self.max_queue_size(index);
        if max == 0 {
            return Err(TransportError::QueueUnavailable { queue: index });
        }
        let options = QueueOptions {
            start: self.queues[usize::from(index.0)].start,
            most_segments: self.queues[usize::from(index.0)].most_segments,
            header: self.framed_header(index),
            ..QueueOptions::negotiated(self.accepted)
        };
        if size == 0 || size > max || !(options.packed || size.is_power_of_two()) {
            self.violation("bug-8", format!("{index}: a size of {size}, at most {max}"));
            let queue = index;
            return Err(TransportError::QueueSize { queue, size, max });
        }
        let (areas, size) = match self.legacy {
            Some(_) => self.legacy_ring(index, size, areas)?,
            None => (*areas, size),
        };
        self.check_vector(vector)?;
        let queue = &mut self.queues[usize::from(index.0)];
        if queue.resetting.is_some() {
            let what = format!("{index} is enabled before its reset was seen to be done");
            self.log.report("CF-006", what);
        }
        if queue.vacant && queue.had_vector && vector.is_none() {
            let what = format!("{index} had an interrupt vector, and is enabled again without");
            self.log.report("CF-007", what);
        }
        if queue.enabled {
            self.log
                .report("bug-66", format!("{index} is enabled twice"));
            return Err(TransportError::QueueInUse { queue: index });
        }
        match QueueDevice::try_new(&self.bus, size, &areas, options, &self.log) {
            Ok(device) => queue.device = Some(device),
            Err(violation) => self.log.report(violation.id, violation.what),
        }
        queue.enabled = true;
        queue.vacant = false;
        queue.vector = vector;
        self.events.push(Event::Enabled(index, size));
        Ok(())
    }

    /// Whether a queue is enabled.
    pub(in crate::testing) fn is_enabled(&self, index: QueueIndex) -> bool {
        let queue = self.queues.get(usize::from(index.0));
        queue.is_some_and(|queue| queue.enabled)
    }

    /// What the doorbell of a queue carries.
    pub(in crate::testing) fn notify_value(&self, index: QueueIndex) -> u16 {
        let data = self.queues.get(usize::from(index.0));
        let data = data.and_then(|queue| queue.notify_data);
        match self.accepted.has(Feature::NOTIF_CONFIG_DATA) {
            true => data.unwrap_or(!index.0),
            false => index.0,
        }
    }

    /// The epoch of a queue's doorbells.
    pub(in crate::testing) fn queue_epoch(&self, index: QueueIndex) -> usize {
        let queue = self.queues.get(usize::from(index.0));
        queue.map_or(0, |queue| queue.epoch)
    }

    /// The driver begins to reset a queue.
    pub(in crate::testing) fn reset_queue(
        &mut self,
        index: QueueIndex,
    ) -> Result<(), TransportError> {
        if !self.accepted.has(Feature::RING_RESET) {
            self.violation("FE-001", format!("{index} is reset without RING_RESET"));
        }
        let answer = self.queue_reset_answer;
        let unavailable = TransportError::QueueUnavailable { queue: index };
        let queue = self.queues.get_mut(usize::from(index.0));
        let queue = queue.ok_or(unavailable)?;
        if queue.resetting.is_some() || !queue.enabled {
            let what = format!("{index} is reset while it is reset, or was not enabled");
            self.log.report("CF-006", what);
        }
        queue.resetting = Some(answer);
        self.events.push(Event::QueueResetBegun(index));
        Ok(())
    }

    /// The driver asks whether a queue has been reset.
    pub(in crate::testing) fn is_queue_reset(&mut self, index: QueueIndex) -> bool {
        let Some(queue) = self.queues.get_mut(usize::from(index.0)) else {
            return false;
        };
        match &mut queue.resetting {
            None => return !queue.enabled,
            Some(ResetAnswer::Never) => return false,
            Some(ResetAnswer::After(0)) => {}
            Some(ResetAnswer::After(reads)) => {
                *reads -= 1;
                return false;
            }
        }
        if queue.leash.as_ref().is_some_and(|leash| !leash.stop()) {
            return false;
        }
        queue.reset("CF-006");
        queue.vacant = true;
        self.epoch += 1;
        queue.epoch = self.epoch;
        self.events.push(Event::QueueReset(index));
        true
    }

    pub(in crate::testing) fn set_config_vector(
        &mut self,
        vector: Option<u16>,
    ) -> Result<(), TransportError> {
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

    pub(in crate::testing) fn fail(&mut self) {
        self.status |= Status::NEEDS_RESET;
        self.raise(2);
    }

    /// Sets a bit of the interrupt status; before DRIVER_OK a device does not interrupt.
    pub(in crate::testing) fn raise(&mut self, bit: u8) {
        if self.status.contains(Status::DRIVER_OK) {
            self.isr |= bit;
            self.interrupts += 1;
        }
    }

    pub(in crate::testing) fn acknowledge(&mut self) -> u8 {
        core::mem::take(&mut self.isr)
    }

    /// The answers were changed: they go for what is under way as well.
    pub(in crate::testing) fn rearm_reset(&mut self) {
        for queue in &mut self.queues {
            if queue.resetting.is_some() {
                queue.resetting = Some(self.queue_reset_answer);
            }
        }
        if self.suspending.is_some() {
            self.suspending = Some(self.suspend_answer);
        }
        if self.resetting.is_some() {
            self.resetting = Some(self.reset_answer);
        }
    }

    /// Stops the queues that run in threads; true when all have.
    fn queues_stopped(&self) -> bool {
        let leashes = self.queues.iter().filter_map(|queue| queue.leash.as_ref());
        leashes.filter(|leash| !leash.stop()).count() == 0
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
        self.suspending = None;
        self.suspended = false;
        for queue in &mut self.queues {
            let id = match queue.resetting {
                Some(_) => "CF-006",
                None => "LC-009",
            };
            queue.reset(id);
            queue.vacant = false;
            queue.had_vector = false;
            queue.epoch = self.epoch;
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
