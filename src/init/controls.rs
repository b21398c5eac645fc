//! What a driver may do to its device beside the initialization.

use core::fmt;
use core::ops::Deref;

use crate::transport::{Isr, ShmRegion, Transport, TransportError};

/// A device's transport without what the initialization does with it.
///
/// It [derefs](Deref) to the transport, of which everything that only reads is there: status,
/// configuration, number of queues. Writing the status, the features or a queue is not: whoever
/// resets a device and accepts other features by hand has it read a ring of one format as one of
/// the other, and so write where it may only read.
///
/// ```compile_fail
/// # fn renegotiate<P: vring::Platform, T: vring::transport::Transport>(
/// #     live: &mut vring::init::Live<P, T>,
/// # ) {
/// live.transport_mut().set_status(vring::transport::Status::empty());
/// # }
/// ```
pub struct Controls<'a>(pub(super) &'a mut (dyn Transport + 'a));

impl Controls<'_> {
    /// Sets the interrupt vector for configuration changes, and reads it back.
    ///
    /// # Errors
    /// As [`Transport::set_config_vector`].
    pub fn set_config_vector(&mut self, vector: Option<u16>) -> Result<(), TransportError> {
        self.0.set_config_vector(vector)
    }

    /// Writes device configuration.
    ///
    /// # Errors
    /// As [`Transport::write_config`].
    pub fn write_config(&mut self, offset: usize, src: &[u8]) -> Result<(), TransportError> {
        self.0.write_config(offset, src)
    }

    /// Where a shared memory region of the device is, as [`Transport::shm_region`].
    #[must_use]
    pub fn shm_region(&mut self, id: u8) -> Option<ShmRegion> {
        self.0.shm_region(id)
    }

    /// Takes the handle for the interrupt handler, once.
    #[must_use]
    pub fn take_isr(&mut self) -> Option<Isr> {
        self.0.take_isr()
    }
}

impl<'a> Deref for Controls<'a> {
    type Target = dyn Transport + 'a;

    fn deref(&self) -> &(dyn Transport + 'a) {
        &*self.0
    }
}

impl fmt::Debug for Controls<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Controls(device {})", self.0.device_id().0)
    }
}
