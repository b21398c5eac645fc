//! A transport without registers: the driver's end of a [`FakeDevice`].

use super::device::FakeDevice;
use crate::features::{Feature, Features};
use crate::transport::{
    DeviceId, Doorbell, Isr, QueueAreas, QueueIndex, ShmRegion, Status, Transport, TransportError,
};

/// The driver's end of a [`FakeDevice`].
#[derive(Debug)]
pub struct FakeTransport {
    device: FakeDevice,
}

impl FakeTransport {
    pub(super) fn new(device: FakeDevice) -> Self {
        Self { device }
    }

    /// The test's end.
    #[must_use]
    pub fn device(&self) -> &FakeDevice {
        &self.device
    }
}

// SAFETY: 1. `Registers::enable_queue` gives the areas to the one `QueueDevice` of that queue.
// 2. The status reads 0 only when `Registers::finish_reset` has dropped every `QueueDevice`, and
// those that were taken out have stopped. 3. So does `Registers::is_queue_reset` for one queue.
unsafe impl Transport for FakeTransport {
    fn device_id(&self) -> DeviceId {
        self.device.registers().id
    }

    fn is_legacy(&self) -> bool {
        self.device.registers().is_legacy()
    }

    fn is_queue_size_fixed(&self) -> bool {
        self.device.registers().has_fixed_sizes()
    }

    fn num_queues(&self) -> Option<u16> {
        Some(self.device.registers().queues.len() as u16)
    }

    fn status(&self) -> Status {
        self.device.registers().read_status()
    }

    fn set_status(&mut self, status: Status) {
        self.device.registers().write_status(status);
    }

    fn device_features(&mut self) -> Features {
        self.device.registers().read_features()
    }

    fn transport_features(&self) -> Features {
        match self.is_legacy() {
            true => Features::EMPTY,
            false => Features::TRANSPORT,
        }
    }

    fn set_driver_features(&mut self, features: Features) {
        self.device.registers().write_features(features);
    }

    fn max_queue_size(&mut self, queue: QueueIndex) -> u16 {
        self.device.registers().max_queue_size(queue)
    }

    unsafe fn enable_queue(
        &mut self,
        queue: QueueIndex,
        size: u16,
        areas: &QueueAreas,
        vector: Option<u16>,
    ) -> Result<Doorbell, TransportError> {
        let (epoch, value, with_data) = {
            let mut registers = self.device.registers();
            registers.enable_queue(queue, size, areas, vector)?;
            let with_data = registers.accepted.has(Feature::NOTIFICATION_DATA);
            let value = registers.notify_value(queue);
            (registers.queue_epoch(queue), value, with_data)
        };
        let context = self.device.endpoint(queue, epoch);
        let doorbell = Doorbell::function(FakeDevice::ring, context, value);
        Ok(match with_data {
            true => doorbell.with_data(),
            false => doorbell,
        })
    }

    fn reset_queue(&mut self, queue: QueueIndex) -> Result<(), TransportError> {
        self.device.registers().reset_queue(queue)
    }

    fn is_queue_reset(&mut self, queue: QueueIndex) -> bool {
        self.device.registers().is_queue_reset(queue)
    }

    fn set_config_vector(&mut self, vector: Option<u16>) -> Result<(), TransportError> {
        self.device.registers().set_config_vector(vector)
    }

    fn config_generation(&self) -> Option<u32> {
        self.device.registers().read_generation()
    }

    fn config_size(&self) -> usize {
        self.device.registers().config.len()
    }

    fn read_config(&self, offset: usize, dst: &mut [u8]) -> Result<(), TransportError> {
        self.device.registers().read_config(offset, dst)
    }

    fn write_config(&mut self, offset: usize, src: &[u8]) -> Result<(), TransportError> {
        self.device.registers().write_config(offset, src)
    }

    fn shm_region(&mut self, id: u8) -> Option<ShmRegion> {
        self.device.registers().shm_regions.get(&id).copied()
    }

    fn take_isr(&mut self) -> Option<Isr> {
        let taken = core::mem::replace(&mut self.device.registers().isr_taken, true);
        if taken {
            return None;
        }
        let context = self.device.endpoint(QueueIndex(0), 0);
        Some(Isr::function(FakeDevice::ack, context))
    }
}
