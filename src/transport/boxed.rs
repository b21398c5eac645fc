//! A transport in a box is a transport: one type for a kernel that learns only at run time how its
//! devices are reached.
//!
//! ```
//! use vring::device::net;
//! use vring::testing::{FakeDevice, InPlace};
//! use vring::transport::{DeviceId, Transport};
//!
//! // Over PCI on one machine, over MMIO on another: the driver has one type.
//! type AnyCard = Box<dyn Transport + Send>;
//!
//! let platform = InPlace::new();
//! let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).queues(&[256, 256]);
//! # let device = device.offer(vring::features::Feature::VERSION_1);
//! let card: AnyCard = Box::new(device.transport());
//! let driver: net::Driver<_, AnyCard, Box<[u8]>> =
//!     net::Driver::new(platform.clone(), card, net::Options::default()).unwrap();
//! # driver.shutdown(|_, _| {}).unwrap();
//! ```
//!
//! A call of a transport is then one through a table. The data path makes none: a
//! [`Doorbell`] is a value, whatever it came from.

use alloc::boxed::Box;

use super::{
    DeviceId, Doorbell, Isr, QueueAreas, QueueIndex, ShmRegion, Status, Transport, TransportError,
};
use crate::features::Features;

#[allow(unsafe_code)] // signs the contract that a transport signs
// SAFETY: the transport in the box signed it, and each call, those with a default too, is its own.
unsafe impl<T: Transport + ?Sized> Transport for Box<T> {
    fn device_id(&self) -> DeviceId {
        (**self).device_id()
    }
    fn is_legacy(&self) -> bool {
        (**self).is_legacy()
    }
    fn is_queue_size_fixed(&self) -> bool {
        (**self).is_queue_size_fixed()
    }
    fn num_queues(&self) -> Option<u16> {
        (**self).num_queues()
    }
    fn status(&self) -> Status {
        (**self).status()
    }
    fn set_status(&mut self, status: Status) {
        (**self).set_status(status);
    }
    fn device_features(&mut self) -> Features {
        (**self).device_features()
    }
    fn transport_features(&self) -> Features {
        (**self).transport_features()
    }
    fn set_driver_features(&mut self, features: Features) {
        (**self).set_driver_features(features);
    }
    fn max_queue_size(&mut self, queue: QueueIndex) -> u16 {
        (**self).max_queue_size(queue)
    }
    unsafe fn enable_queue(
        &mut self,
        queue: QueueIndex,
        size: u16,
        areas: &QueueAreas,
        vector: Option<u16>,
    ) -> Result<Doorbell, TransportError> {
        // SAFETY: the caller's promise.
        unsafe { (**self).enable_queue(queue, size, areas, vector) }
    }
    fn reset_queue(&mut self, queue: QueueIndex) -> Result<(), TransportError> {
        (**self).reset_queue(queue)
    }
    fn is_queue_reset(&mut self, queue: QueueIndex) -> bool {
        (**self).is_queue_reset(queue)
    }
    fn set_config_vector(&mut self, vector: Option<u16>) -> Result<(), TransportError> {
        (**self).set_config_vector(vector)
    }
    fn config_generation(&self) -> Option<u32> {
        (**self).config_generation()
    }
    fn config_size(&self) -> usize {
        (**self).config_size()
    }
    fn read_config(&self, offset: usize, dst: &mut [u8]) -> Result<(), TransportError> {
        (**self).read_config(offset, dst)
    }
    fn write_config(&mut self, offset: usize, src: &[u8]) -> Result<(), TransportError> {
        (**self).write_config(offset, src)
    }
    fn shm_region(&mut self, id: u8) -> Option<ShmRegion> {
        (**self).shm_region(id)
    }
    fn take_isr(&mut self) -> Option<Isr> {
        (**self).take_isr()
    }
}

#[cfg(all(test, feature = "test-util"))]
mod tests;
