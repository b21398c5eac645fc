//! Whichever interface a device has: the modern one, else the legacy one (VIRTIO 1.4, 4.1.5.1.1.1).

use super::PciError;
use core::fmt;

use super::access::{Address, ConfigAccess};
use super::area::{Area, Nowhere};
use super::legacy::LegacyTransport;
use super::modern::PciTransport;
use super::msix::{MsixError, MsixTable};
use crate::features::Features;
use crate::mmio::{Native, RegisterAccess, Registers};
use crate::transport::{
    DeviceId, Doorbell, Isr, QueueAreas, QueueIndex, ShmRegion, Status, Transport, TransportError,
};

/// A device on PCI by its modern interface if it has one, else by its legacy one.
///
/// For a transitional device by its legacy interface, make a [`LegacyTransport`] yourself.
pub enum AnyTransport<A = Native, S = Nowhere> {
    /// The modern interface.
    Modern(PciTransport<A, S>),
    /// The legacy one, of a device without virtio capabilities.
    Legacy(LegacyTransport<S>),
}

impl<A: RegisterAccess, S: Area> AnyTransport<A, S> {
    /// Takes over the function at `address`. The arguments are those of
    /// [`PciTransport::with_ports`]; a legacy device needs `ports`.
    ///
    /// # Errors
    /// Those of [`PciTransport::with_ports`] for a device with virtio capabilities, else those of
    /// [`LegacyTransport::new`].
    pub fn new(
        config: &impl ConfigAccess,
        address: Address,
        access: A,
        map: impl FnMut(u64, usize) -> Option<Registers>,
        mut ports: impl FnMut(u32, usize) -> Option<S>,
    ) -> Result<Self, PciError> {
        match PciTransport::with_ports(config, address, access, map, &mut ports) {
            Err(PciError::LegacyOnly { .. }) => {
                LegacyTransport::new(config, address, ports).map(Self::Legacy)
            }
            modern => modern.map(Self::Modern),
        }
    }

    /// Where the function is.
    #[must_use]
    pub const fn address(&self) -> Address {
        match self {
            Self::Modern(transport) => transport.address(),
            Self::Legacy(transport) => transport.address(),
        }
    }

    /// Turns MSI-X on and INTx off: see [`PciTransport::enable_msix`]. `access` is how the table is
    /// reached, which is in memory for either interface.
    ///
    /// # Errors
    /// Any [`MsixError`]; the transport then works with INTx, or polled.
    pub fn enable_msix(
        &mut self,
        config: &impl ConfigAccess,
        access: A,
        map: impl FnMut(u64, usize) -> Option<Registers>,
    ) -> Result<MsixTable<A>, MsixError> {
        match self {
            Self::Modern(transport) => transport.enable_msix(config, map),
            Self::Legacy(transport) => transport.enable_msix(config, access, map),
        }
    }

    /// Turns MSI-X off and INTx on: see [`PciTransport::disable_msix`].
    pub fn disable_msix(&mut self, config: &impl ConfigAccess) {
        match self {
            Self::Modern(transport) => transport.disable_msix(config),
            Self::Legacy(transport) => transport.disable_msix(config),
        }
    }
}

/// Hands a call to the one that is there.
macro_rules! either {
    ($self:ident.$call:ident($($arg:expr),*)) => {
        match $self {
            Self::Modern(transport) => transport.$call($($arg),*),
            Self::Legacy(transport) => transport.$call($($arg),*),
        }
    };
}

#[allow(unsafe_code)] // signs the contract that a transport signs
// SAFETY: one of two transports, each of which signed it.
unsafe impl<A: RegisterAccess, S: Area> Transport for AnyTransport<A, S> {
    fn device_id(&self) -> DeviceId {
        either!(self.device_id())
    }
    fn is_legacy(&self) -> bool {
        either!(self.is_legacy())
    }
    fn is_queue_size_fixed(&self) -> bool {
        either!(self.is_queue_size_fixed())
    }
    fn num_queues(&self) -> Option<u16> {
        either!(self.num_queues())
    }
    fn status(&self) -> Status {
        either!(self.status())
    }
    fn set_status(&mut self, status: Status) {
        either!(self.set_status(status))
    }
    fn device_features(&mut self) -> Features {
        either!(self.device_features())
    }
    fn transport_features(&self) -> Features {
        either!(self.transport_features())
    }
    fn set_driver_features(&mut self, features: Features) {
        either!(self.set_driver_features(features))
    }
    fn max_queue_size(&mut self, queue: QueueIndex) -> u16 {
        either!(self.max_queue_size(queue))
    }
    unsafe fn enable_queue(
        &mut self,
        queue: QueueIndex,
        size: u16,
        areas: &QueueAreas,
        vector: Option<u16>,
    ) -> Result<Doorbell, TransportError> {
        match self {
            // SAFETY: the caller's promise.
            Self::Modern(transport) => unsafe {
                transport.enable_queue(queue, size, areas, vector)
            },
            // SAFETY: the caller's promise.
            Self::Legacy(transport) => unsafe {
                transport.enable_queue(queue, size, areas, vector)
            },
        }
    }
    fn reset_queue(&mut self, queue: QueueIndex) -> Result<(), TransportError> {
        either!(self.reset_queue(queue))
    }
    fn is_queue_reset(&mut self, queue: QueueIndex) -> bool {
        either!(self.is_queue_reset(queue))
    }
    fn set_config_vector(&mut self, vector: Option<u16>) -> Result<(), TransportError> {
        either!(self.set_config_vector(vector))
    }
    fn config_generation(&self) -> Option<u32> {
        either!(self.config_generation())
    }
    fn config_size(&self) -> usize {
        either!(self.config_size())
    }
    fn read_config(&self, offset: usize, dst: &mut [u8]) -> Result<(), TransportError> {
        either!(self.read_config(offset, dst))
    }
    fn write_config(&mut self, offset: usize, src: &[u8]) -> Result<(), TransportError> {
        either!(self.write_config(offset, src))
    }
    fn shm_region(&mut self, id: u8) -> Option<ShmRegion> {
        either!(self.shm_region(id))
    }
    fn take_isr(&mut self) -> Option<Isr> {
        either!(self.take_isr())
    }
}

impl<A, S> fmt::Debug for AnyTransport<A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Modern(transport) => transport.fmt(f),
            Self::Legacy(transport) => transport.fmt(f),
        }
    }
}
