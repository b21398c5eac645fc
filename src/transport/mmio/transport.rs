//! The transport (VIRTIO 1.4, 4.2.2 and 4.2.3; legacy: 4.2.4).
//!
//! One window of registers serves the whole device: `QueueSel` says which queue the others mean. So
//! whatever selects takes `&mut self`, and what is shared, status, generation and configuration,
//! does not select.

use core::fmt;

use super::MmioError;
use super::layout::{CONFIG, Control, MAGIC};
use crate::features::{Feature, Features};
use crate::mmio::{Block, Native, Register, RegisterAccess, Registers};
use crate::transport::space::{self, Mapped};
use crate::transport::{
    DeviceId, Doorbell, Isr, LEGACY_PAGE_SIZE, QueueAreas, QueueIndex, ShmRegion, Status,
    Transport, TransportError, driver_words,
};

/// The place of a control register.
macro_rules! control {
    ($transport:ident.$field:ident) => {
        $crate::mmio::field!(
            $transport.control,
            $crate::transport::mmio::layout::Control,
            $field
        )
    };
}
pub(super) use control;

/// A virtio device over MMIO.
///
/// `A` is how registers are reached: [`Native`] unless the guest may not rely on traps. Everything
/// goes through it, the doorbells and the interrupt handler's [`Isr`] included.
pub struct MmioTransport<A = Native> {
    pub(super) access: A,
    pub(super) control: Block<Control>,
    /// The same registers, and the configuration space behind them.
    registers: Registers,
    id: DeviceId,
    vendor: u32,
    legacy: bool,
    pub(super) accepted: Features,
    isr_taken: bool,
}

impl MmioTransport {
    /// Takes over the device in a window of registers; `None` where nothing is plugged in, of which
    /// nothing more than that is read. A device that firmware left running is told to reset.
    ///
    /// # Errors
    /// Any [`MmioError`].
    pub fn new(registers: Registers) -> Result<Option<Self>, MmioError> {
        Self::with_access(registers, Native)
    }
}

impl<A: RegisterAccess> MmioTransport<A> {
    /// As [`new`](MmioTransport::new), with registers that are reached in another way.
    ///
    /// # Errors
    /// As `new`.
    pub fn with_access(registers: Registers, access: A) -> Result<Option<Self>, MmioError> {
        let length = registers.len();
        if length < CONFIG {
            return Err(MmioError::TooShort { length });
        }
        let control: Block<Control> = registers.block().ok_or(MmioError::Misaligned)?;
        let mut transport = Self {
            access,
            control,
            registers,
            id: DeviceId(0),
            vendor: 0,
            legacy: false,
            accepted: Features::EMPTY,
            isr_taken: false,
        };
        Ok(transport.identify()?.then_some(transport))
    }

    /// Whether there is a device, and what it is: in the order of 4.2.3.1.1.
    fn identify(&mut self) -> Result<bool, MmioError> {
        let magic = self.access.read32(control!(self.magic_value));
        if magic != MAGIC {
            return Err(MmioError::NotVirtio { magic });
        }
        self.legacy = match self.access.read32(control!(self.version)) {
            1 => true,
            2 => false,
            version => return Err(MmioError::Version { version }),
        };
        let id = self.access.read32(control!(self.device_id));
        if id == 0 {
            return Ok(false);
        }
        self.id = DeviceId(u16::try_from(id).map_err(|_| MmioError::DeviceId { id })?);
        self.vendor = self.access.read32(control!(self.vendor_id));
        // Rings of a previous owner are memory of this one.
        if !self.status().is_empty() {
            log::debug!("virtio device {id} over MMIO was left running: reset");
            self.set_status(Status::empty());
        }
        Ok(true)
    }

    /// Who made the device; QEMU's say `0x554d4551`, "QEMU".
    #[must_use]
    pub const fn vendor(&self) -> u32 {
        self.vendor
    }

    /// Selects the queue that the registers mean from here on.
    fn select(&mut self, queue: QueueIndex) {
        self.access
            .write32(control!(self.queue_sel), queue.0.into());
    }

    /// The largest size of the queue that is selected.
    pub(super) fn selected_max(&self) -> u16 {
        let max = self.access.read32(control!(self.queue_size_max));
        u16::try_from(max).unwrap_or(u16::MAX)
    }

    pub(super) fn write64(&self, low: Register<u32>, high: Register<u32>, value: u64) {
        self.access.write32(low, value as u32);
        self.access.write32(high, (value >> 32) as u32);
    }

    fn read64(&self, low: Register<u32>, high: Register<u32>) -> u64 {
        let low = self.access.read32(low);
        u64::from(self.access.read32(high)) << 32 | u64::from(low)
    }

    /// The doorbell, which all queues share: the value tells them apart (4.2.3.3).
    fn doorbell(&self, queue: QueueIndex) -> Doorbell {
        let at = control!(self.queue_notify);
        if self.accepted.has(Feature::NOTIFICATION_DATA) {
            self.access.doorbell_with_data(at, queue.0)
        } else {
            self.access.doorbell32(at, queue.0)
        }
    }

    /// Without the words beyond the second when they repeat it: there is no such device, but there
    /// are those that take every selection above 1 for 1, as QEMU's (version 10 still).
    const fn without_repeats(features: Features) -> Features {
        let second = features.word(1);
        if features.word(2) == second && features.word(3) == second {
            Features(features.0 & u64::MAX as u128)
        } else {
            features
        }
    }
}

#[allow(unsafe_code)] // signs the contract that a transport signs
// SAFETY: 1. `enable_queue` writes the areas to the registers of the queue that it selected, which
// it alone can do: it has `&mut self`, and the registers are lent to this transport. 2. The status
// is a register of the device, written and read as it is; what does not fit in a `Status` is not
// empty. 3. `QueueReset` and `QueueReady` are the device's word on the queue that was selected.
unsafe impl<A: RegisterAccess> Transport for MmioTransport<A> {
    fn device_id(&self) -> DeviceId {
        self.id
    }

    fn is_legacy(&self) -> bool {
        self.legacy
    }

    fn num_queues(&self) -> Option<u16> {
        None
    }

    fn status(&self) -> Status {
        let status = self.access.read32(control!(self.status));
        // More than the field holds is no status, and least of all that of a device at rest.
        Status::from_bits_retain(u8::try_from(status).unwrap_or(u8::MAX))
    }

    fn set_status(&mut self, status: Status) {
        self.access
            .write32(control!(self.status), status.bits().into());
    }

    fn device_features(&mut self) -> Features {
        let words = if self.legacy { 1 } else { 4 };
        let mut features = Features::EMPTY;
        for select in 0..words {
            self.access
                .write32(control!(self.device_features_sel), select);
            let word = self.access.read32(control!(self.device_features));
            features = features.with_word(select, word);
        }
        Self::without_repeats(features)
    }

    fn transport_features(&self) -> Features {
        if self.legacy {
            Features::EMPTY
        } else {
            Feature::NOTIFICATION_DATA | Feature::RING_RESET
        }
    }

    fn set_driver_features(&mut self, features: Features) {
        let words = if self.legacy { 1 } else { 4 };
        for (select, word) in driver_words(self.accepted, features).take(words) {
            self.access
                .write32(control!(self.driver_features_sel), select);
            self.access.write32(control!(self.driver_features), word);
        }
        if self.legacy {
            // 4.2.4: before any queue is used. What comes before a queue is this, each time.
            self.access
                .write32(control!(self.guest_page_size), LEGACY_PAGE_SIZE);
        }
        self.accepted = features;
    }

    fn max_queue_size(&mut self, queue: QueueIndex) -> u16 {
        self.select(queue);
        if self.selected_is_used() {
            return 0;
        }
        self.selected_max()
    }

    unsafe fn enable_queue(
        &mut self,
        queue: QueueIndex,
        size: u16,
        areas: &QueueAreas,
        vector: Option<u16>,
    ) -> Result<Doorbell, TransportError> {
        if vector.is_some() {
            return Err(TransportError::NoVectors);
        }
        self.select(queue);
        if self.legacy {
            self.enable_legacy(queue, size, areas)?;
        } else {
            self.enable_modern(queue, size, areas)?;
        }
        Ok(self.doorbell(queue))
    }

    fn reset_queue(&mut self, queue: QueueIndex) -> Result<(), TransportError> {
        if self.legacy || !self.accepted.has(Feature::RING_RESET) {
            let what = "VIRTIO_F_RING_RESET";
            return Err(TransportError::Unsupported { what });
        }
        self.select(queue);
        if self.selected_max() == 0 {
            return Err(TransportError::QueueUnavailable { queue });
        }
        self.access.write32(control!(self.queue_reset), 1);
        Ok(())
    }

    fn is_queue_reset(&mut self, queue: QueueIndex) -> bool {
        // The register is there when that was negotiated, and reads as anything else.
        if self.legacy || !self.accepted.has(Feature::RING_RESET) {
            return false;
        }
        self.select(queue);
        // 4.2.2.1: both read 0 when the reset is done.
        self.access.read32(control!(self.queue_reset)) == 0
            && self.access.read32(control!(self.queue_ready)) == 0
    }

    fn set_config_vector(&mut self, vector: Option<u16>) -> Result<(), TransportError> {
        match vector {
            None => Ok(()),
            Some(_) => Err(TransportError::NoVectors),
        }
    }

    fn config_generation(&self) -> Option<u32> {
        if self.legacy {
            None
        } else {
            Some(self.access.read32(control!(self.config_generation)))
        }
    }

    fn config_size(&self) -> usize {
        self.registers.len().saturating_sub(CONFIG)
    }

    fn read_config(&self, offset: usize, dst: &mut [u8]) -> Result<(), TransportError> {
        let registers = Mapped(&self.access, &self.registers);
        space::read(&registers, CONFIG, offset, dst)
    }

    fn write_config(&mut self, offset: usize, src: &[u8]) -> Result<(), TransportError> {
        let registers = Mapped(&self.access, &self.registers);
        space::write(&registers, CONFIG, offset, src)
    }

    fn shm_region(&mut self, id: u8) -> Option<ShmRegion> {
        if self.legacy {
            return None;
        }
        self.access.write32(control!(self.shm_sel), id.into());
        let length = self.read64(control!(self.shm_len_low), control!(self.shm_len_high));
        // All-ones: no such region. 0: of devices that do not know these registers.
        if length == u64::MAX || length == 0 {
            return None;
        }
        let address = self.read64(control!(self.shm_base_low), control!(self.shm_base_high));
        if address.checked_add(length - 1).is_none() {
            log::debug!(
                "shared memory region {id}: {length:#x} bytes at {address:#x} leave the address \
                 space"
            );
            return None;
        }
        Some(ShmRegion { address, length })
    }

    fn take_isr(&mut self) -> Option<Isr> {
        if core::mem::replace(&mut self.isr_taken, true) {
            return None;
        }
        let (status, ack) = (
            control!(self.interrupt_status),
            control!(self.interrupt_ack),
        );
        Some(self.access.isr_pair(status, ack))
    }
}

impl<A> fmt::Debug for MmioTransport<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MmioTransport")
            .field("registers", &self.registers)
            .field("id", &self.id)
            .field("legacy", &self.legacy)
            .field("accepted", &self.accepted)
            .finish_non_exhaustive()
    }
}
