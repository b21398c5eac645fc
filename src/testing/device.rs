//! A device from the status field to the queues, as a test holds it.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};

use spin::{Mutex, MutexGuard};

use super::bus::Bus;
use super::queue::QueueDevice;
use super::registers::{Queue, Registers};
use super::transport::FakeTransport;
use super::violation::Violations;
use crate::features::{Features, Requirement};
use crate::transport::{DeviceId, QueueIndex, ShmRegion, Status};

/// How a device answers a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetAnswer {
    /// The status reads 0 after so many reads that do not. Until then the queues stay live.
    After(u32),
    /// The status never reads 0, and the queues stay live.
    Never,
}

/// How a device answers when it is told to suspend itself, and to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspendAnswer {
    /// It has done so after so many reads of the status.
    After(u32),
    /// It never does.
    Never,
    /// It cannot, and asks for a reset.
    Fail,
}

/// How the configuration behaves while it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// The transport has no generation.
    Absent,
    /// It changes when the configuration does.
    Steady,
    /// It is another one each time that it is read.
    NeverSettles,
}

/// What a legacy device lets its driver choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Legacy {
    /// Not the sizes of queues, as over PCI (VIRTIO 1.4, 4.1.5.1.3.1).
    FixedSizes,
    /// The sizes of queues, up to the device's maximum, as over MMIO (VIRTIO 1.4, 4.2.4).
    ChosenSizes,
}

/// What a device did or was told, in order. Kicks are counted instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The driver wrote the status.
    Status(Status),
    /// The driver wrote its features.
    Features(Features),
    /// The driver enabled a queue of that size.
    Enabled(QueueIndex, u16),
    /// The device finished a reset.
    Reset,
    /// The driver began to reset a queue.
    QueueResetBegun(QueueIndex),
    /// The device finished the reset of a queue.
    QueueReset(QueueIndex),
}

type KickHook = Arc<dyn Fn(&FakeDevice, QueueIndex) + Send + Sync>;

/// A device of any type: the test's end of it. Clones are the same device.
///
/// It is strict: a driver that leaves the initialization sequence, rings a doorbell early or
/// breaks a rule of the ring is caught where it does so. And it is obliging: queues, features,
/// configuration and refusals are as the test sets them.
#[derive(Clone)]
pub struct FakeDevice {
    shared: Arc<Shared>,
}

struct Shared {
    registers: Mutex<Registers>,
    on_kick: Mutex<Option<KickHook>>,
    log: Violations,
}

impl FakeDevice {
    /// A device that offers `VIRTIO_F_VERSION_1`, one queue of at most 256 descriptors and no
    /// configuration, and reaches memory by `bus`.
    #[must_use]
    pub fn new(bus: &Bus, id: DeviceId) -> Self {
        let log = Violations::new();
        let registers = Registers::new(bus.clone(), id, log.clone());
        Self {
            shared: Arc::new(Shared {
                registers: Mutex::new(registers),
                on_kick: Mutex::new(None),
                log,
            }),
        }
    }

    /// The driver's end of it.
    #[must_use]
    pub fn transport(&self) -> FakeTransport {
        FakeTransport::new(self.clone())
    }

    pub(super) fn registers(&self) -> MutexGuard<'_, Registers> {
        self.shared.registers.lock()
    }

    /// Where the violations go, also those of the queues.
    #[must_use]
    pub fn violations(&self) -> &Violations {
        &self.shared.log
    }

    /// Checks that the driver violated nothing so far.
    ///
    /// # Panics
    /// With the violations.
    pub fn assert_clean(&self) {
        self.shared.log.assert_clean();
    }

    /// Is a legacy device. Of the features that it is made to offer, it has bits 0 to 31; it has no
    /// `FEATURES_OK` and no configuration generation, and is told each ring as the number of the
    /// page at which it starts.
    #[must_use]
    pub fn legacy(self, legacy: Legacy) -> Self {
        self.registers().legacy = Some(legacy);
        self
    }

    /// Expects, as a legacy device without `VIRTIO_F_ANY_LAYOUT`, that the first descriptor of each
    /// chain of a queue is a header of so many bytes.
    #[must_use]
    pub fn header(self, queue: QueueIndex, bytes: u16) -> Self {
        if let Some(queue) = self.registers().queues.get_mut(usize::from(queue.0)) {
            queue.header = Some(bytes);
        }
        self
    }

    /// Offers these features, and no others.
    #[must_use]
    pub fn offer(self, features: impl Into<Features>) -> Self {
        self.registers().offered = features.into();
        self
    }

    /// Expects the driver to keep these prerequisites between features (FE-002).
    #[must_use]
    pub fn require(self, requirements: &[Requirement]) -> Self {
        self.registers().requirements = requirements.to_vec();
        self
    }

    /// Has queues of these maximum sizes, from queue 0 on; 0 is a queue that does not exist.
    #[must_use]
    pub fn queues(self, max_sizes: &[u16]) -> Self {
        self.registers().queues = max_sizes.iter().map(|&max| Queue::new(max)).collect();
        self
    }

    /// Has this configuration space.
    #[must_use]
    pub fn config(self, bytes: &[u8]) -> Self {
        self.registers().config = bytes.to_vec();
        self
    }

    /// Has a configuration generation that behaves so; [`Generation::Steady`] at first.
    #[must_use]
    pub fn generation(self, generation: Generation) -> Self {
        self.registers().generation_kind = generation;
        self
    }

    /// Has this shared memory region, which only stands for addresses.
    #[must_use]
    pub fn shm_region(self, id: u8, region: ShmRegion) -> Self {
        self.registers().shm_regions.insert(id, region);
        self
    }

    /// Has so many interrupt vectors; `None`, as at first, for a transport that has none.
    #[must_use]
    pub fn vectors(self, count: Option<u16>) -> Self {
        self.registers().vectors = count;
        self
    }

    /// Starts the indices of a queue at `index`, as the driver does by
    /// [`QueueConfig::start_index`](crate::init::QueueConfig::start_index).
    #[must_use]
    pub fn start_index(self, queue: QueueIndex, index: u16) -> Self {
        if let Some(queue) = self.registers().queues.get_mut(usize::from(queue.0)) {
            queue.start = index;
        }
        self
    }

    /// Takes so many segments in one chain of a queue, at most (PK-005).
    #[must_use]
    pub fn most_segments(self, queue: QueueIndex, most: u16) -> Self {
        if let Some(queue) = self.registers().queues.get_mut(usize::from(queue.0)) {
            queue.most_segments = most;
        }
        self
    }

    /// Answers resets so from now on; at first the status reads 0 at once.
    pub fn set_reset(&self, answer: ResetAnswer) {
        let mut registers = self.registers();
        registers.reset_answer = answer;
        registers.rearm_reset();
    }

    /// Answers resets of queues so from now on; at first they are done when first asked for.
    pub fn set_queue_reset(&self, answer: ResetAnswer) {
        let mut registers = self.registers();
        registers.queue_reset_answer = answer;
        registers.rearm_reset();
    }

    /// Suspends itself so from now on, and goes on so; at first it has done so when first asked.
    pub fn set_suspend(&self, answer: SuspendAnswer) {
        let mut registers = self.registers();
        registers.suspend_answer = answer;
        registers.rearm_reset();
    }

    /// Expects this value from the doorbell of a queue under `VIRTIO_F_NOTIF_CONFIG_DATA`; at first
    /// it is one that is not the queue's number.
    #[must_use]
    pub fn notify_data(self, queue: QueueIndex, data: u16) -> Self {
        if let Some(queue) = self.registers().queues.get_mut(usize::from(queue.0)) {
            queue.notify_data = Some(data);
        }
        self
    }

    /// What the last ring of a queue's doorbell carried.
    #[must_use]
    pub fn rung(&self, queue: QueueIndex) -> Option<u32> {
        self.registers().queues.get(usize::from(queue.0))?.rung
    }

    /// Does not keep `FEATURES_OK` from now on.
    pub fn refuse_features(&self) {
        self.registers().refuses_features = true;
    }

    /// Refuses interrupt vectors from now on: they read back as none.
    pub fn refuse_vectors(&self) {
        self.registers().refuses_vectors = true;
    }

    /// Fails: sets `DEVICE_NEEDS_RESET` (VIRTIO 1.4, 2.1.2).
    pub fn fail(&self) {
        self.registers().fail();
    }

    /// Queues a change of configuration, which happens *during* the next read: a field of 8 bytes
    /// that is read then gets its first half from before and its second half from after.
    pub fn change_config_under_read(&self, bytes: &[u8]) {
        self.registers().config_changes.push_back(bytes.to_vec());
    }

    /// Changes the configuration now.
    pub fn change_config(&self, bytes: &[u8]) {
        self.registers().change_config(bytes.to_vec());
    }

    /// The configuration as it is, with what the driver wrote.
    #[must_use]
    pub fn config_bytes(&self) -> Vec<u8> {
        self.registers().config.clone()
    }

    /// The status, without the driver's read being counted.
    #[must_use]
    pub fn status(&self) -> Status {
        self.registers().status
    }

    /// The features that the driver wrote.
    #[must_use]
    pub fn accepted(&self) -> Features {
        self.registers().accepted
    }

    /// What happened so far, in order.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.registers().events.clone()
    }

    /// Doorbell rings of a queue so far, over all resets.
    #[must_use]
    pub fn kicks(&self, queue: QueueIndex) -> usize {
        self.registers().kicks.get(&queue.0).copied().unwrap_or(0)
    }

    /// Rings of doorbells from before a reset.
    #[must_use]
    pub fn stale_kicks(&self) -> usize {
        self.registers().stale_kicks
    }

    /// The interrupt vector that the driver gave a queue that is enabled.
    #[must_use]
    pub fn vector(&self, queue: QueueIndex) -> Option<u16> {
        self.registers().queues.get(usize::from(queue.0))?.vector
    }

    /// The vector for configuration changes.
    #[must_use]
    pub fn config_vector(&self) -> Option<u16> {
        self.registers().config_vector
    }

    /// Works on a queue. `None` when the driver has not enabled it, or has reset the device.
    ///
    /// The device is locked meanwhile: the closure must not call the driver.
    pub fn with_queue<R>(
        &self,
        queue: QueueIndex,
        f: impl FnOnce(&mut QueueDevice) -> R,
    ) -> Option<R> {
        let mut registers = self.registers();
        registers.judge_buffers();
        let queue = registers.queues.get_mut(usize::from(queue.0))?;
        queue.device.as_mut().map(f)
    }

    /// Takes a queue's device side out, for a thread of its own: it goes on without the device's
    /// lock, and its kicks are counted here only. A reset is not confirmed before the thread has
    /// seen it, at its next [`QueueDevice::pop`], or has dropped its queue.
    pub fn take_queue(&self, queue: QueueIndex) -> Option<QueueDevice> {
        let mut registers = self.registers();
        let queue = registers.queues.get_mut(usize::from(queue.0))?;
        let mut device = queue.device.take()?;
        queue.leash = Some(device.leash());
        Some(device)
    }

    /// Checks that the driver, which is at rest, has kicked a queue for all that it had to
    /// (SP-020, SP-022, PK-016).
    pub fn assert_kicked(&self, queue: QueueIndex) {
        self.with_queue(queue, |queue| queue.check_kicked());
    }

    /// Serves all available buffers of a queue ([`QueueDevice::serve`]), and raises the interrupt
    /// if the driver wants one. Returns how many were served.
    pub fn serve(
        &self,
        queue: QueueIndex,
        device: impl FnMut(&QueueDevice, &super::Chain) -> u32,
    ) -> usize {
        let served = self.with_queue(queue, |queue| {
            let served = queue.serve(device);
            (served, served != 0 && queue.should_interrupt())
        });
        let (served, interrupt) = served.unwrap_or_default();
        if interrupt {
            self.interrupt();
        }
        served
    }

    /// Serves a queue by copying what is to be read into what is to be written.
    pub fn echo(&self, queue: QueueIndex) -> usize {
        self.serve(queue, |queue, chain| queue.write(chain, &queue.read(chain)))
    }

    /// Rings the doorbell of a queue with any value, as a driver may that errs.
    pub fn ring_doorbell(&self, queue: QueueIndex, value: u32) {
        let epoch = self.registers().queue_epoch(queue);
        self.rung_by(queue, epoch, value);
    }

    fn rung_by(&self, queue: QueueIndex, epoch: usize, value: u32) {
        if self.registers().kick(queue, epoch, value) {
            let hook = self.shared.on_kick.lock().clone();
            if let Some(hook) = hook {
                hook(self, queue);
            }
        }
    }

    /// Sets the queue bit of the interrupt status.
    pub fn interrupt(&self) {
        self.registers().raise(1);
    }

    /// Interrupts raised so far, of queues and for the configuration.
    #[must_use]
    pub fn interrupts(&self) -> usize {
        self.registers().interrupts
    }

    /// Has `hook` called at every doorbell ring that the device heeds, with the device unlocked:
    /// where a device without a thread serves its queue.
    pub fn on_kick(&self, hook: impl Fn(&Self, QueueIndex) + Send + Sync + 'static) {
        *self.shared.on_kick.lock() = Some(Arc::new(hook));
    }
}

impl fmt::Debug for FakeDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.registers().fmt(f)
    }
}

/// Doorbells and interrupt status handles are plain values: a function and a number. The number
/// is looked up here. It is given out once, so that handles of a device that is gone find nobody.
static NUMBERS: AtomicUsize = AtomicUsize::new(1);
static ENDPOINTS: Mutex<BTreeMap<usize, Endpoint>> = Mutex::new(BTreeMap::new());

struct Endpoint {
    device: Weak<Shared>,
    queue: QueueIndex,
    epoch: usize,
}

impl FakeDevice {
    /// A number that `ring` and `ack` know the device by.
    pub(super) fn endpoint(&self, queue: QueueIndex, epoch: usize) -> usize {
        let mut endpoints = ENDPOINTS.lock();
        endpoints.retain(|_, endpoint| endpoint.device.strong_count() != 0);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let device = Arc::downgrade(&self.shared);
        endpoints.insert(
            number,
            Endpoint {
                device,
                queue,
                epoch,
            },
        );
        number
    }

    fn find(context: usize) -> Option<(Self, QueueIndex, usize)> {
        let endpoints = ENDPOINTS.lock();
        let endpoint = endpoints.get(&context)?;
        let shared = endpoint.device.upgrade()?;
        Some((Self { shared }, endpoint.queue, endpoint.epoch))
    }

    /// The function of a doorbell.
    pub(super) fn ring(context: usize, value: u32) {
        if let Some((device, queue, epoch)) = Self::find(context) {
            device.rung_by(queue, epoch, value);
        }
    }

    /// The function of an interrupt status handle.
    pub(super) fn ack(context: usize) -> u8 {
        match Self::find(context) {
            Some((device, ..)) => device.registers().acknowledge(),
            None => 0,
        }
    }
}
