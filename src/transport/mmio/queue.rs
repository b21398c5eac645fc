//! How a queue is enabled: version 2 (VIRTIO 1.4, 4.2.3.2), and version 1 (4.2.4).
//!
//! Both work on the queue that is selected, and write nothing before they know that it is free and
//! that the size is possible. `QueueSize` cannot be read back: whether a device took it shows when
//! it is used.

use super::transport::{MmioTransport, control};
use crate::mmio::RegisterAccess;
use crate::transport::{
    LEGACY_PAGE_SIZE, QueueAreas, QueueIndex, Transport, TransportError, check_queue_size,
};

impl<A: RegisterAccess> MmioTransport<A> {
    /// Three addresses of 64 bits, each by two accesses, and the ready bit after them.
    pub(super) fn enable_modern(
        &self,
        queue: QueueIndex,
        size: u16,
        areas: &QueueAreas,
    ) -> Result<(), TransportError> {
        if self.selected_is_used() {
            return Err(TransportError::QueueInUse { queue });
        }
        self.check_size(queue, size)?;

        self.access.write32(control!(self.queue_size), size.into());
        let (low, high) = (
            control!(self.queue_desc_low),
            control!(self.queue_desc_high),
        );
        self.write64(low, high, areas.desc.0);
        let (low, high) = (
            control!(self.queue_driver_low),
            control!(self.queue_driver_high),
        );
        self.write64(low, high, areas.driver.0);
        let (low, high) = (
            control!(self.queue_device_low),
            control!(self.queue_device_high),
        );
        self.write64(low, high, areas.device.0);

        self.access.write32(control!(self.queue_ready), 1);
        if self.access.read32(control!(self.queue_ready)) == 1 {
            Ok(())
        } else {
            Err(TransportError::QueueNotEnabled { queue })
        }
    }

    /// One page frame number: a legacy device knows where the other areas are from the size and the
    /// alignment, which it is told before. 0 is never written: QEMU resets the device then.
    pub(super) fn enable_legacy(
        &self,
        queue: QueueIndex,
        size: u16,
        areas: &QueueAreas,
    ) -> Result<(), TransportError> {
        if self.selected_is_used() {
            return Err(TransportError::QueueInUse { queue });
        }
        self.check_size(queue, size)?;
        let frame = areas.page_frame(queue)?;

        self.access.write32(control!(self.queue_size), size.into());
        self.access
            .write32(control!(self.queue_align), LEGACY_PAGE_SIZE);
        self.access.write32(control!(self.queue_pfn), frame);
        if self.access.read32(control!(self.queue_pfn)) == frame {
            Ok(())
        } else {
            Err(TransportError::QueueNotEnabled { queue })
        }
    }

    /// Whether the device has the queue's addresses.
    pub(super) fn selected_is_used(&self) -> bool {
        let sign = if self.is_legacy() {
            control!(self.queue_pfn)
        } else {
            control!(self.queue_ready)
        };
        self.access.read32(sign) != 0
    }

    fn check_size(&self, queue: QueueIndex, size: u16) -> Result<(), TransportError> {
        check_queue_size(queue, size, self.selected_max(), self.accepted)
    }
}
