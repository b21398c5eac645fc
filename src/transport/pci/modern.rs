//! The modern PCI transport (VIRTIO 1.4, 4.1).
//!
//! One structure of registers serves the whole device: `queue_select` says which queue the others
//! mean. So whatever selects takes `&mut self`, and what is shared, status, generation and
//! configuration, does not select.
//!
//! What this file does not do: it waits for nothing. A reset is a write of 0, and whoever wrote it
//! polls the status until it reads 0 (4.1.4.3.2).

use core::fmt;

use volatile::map_field;

use super::access::{Address, ConfigAccess};
use super::common::{CommonConfig, NO_VECTOR, QUEUE_NOTIF_CONFIG_DATA, QUEUE_RESET};
use super::layout::{Located, Structure, locate};
use super::msix::{self, MsixError, MsixTable};
use super::{
    COMMAND, COMMAND_BUS_MASTER, COMMAND_INTX_DISABLE, COMMAND_MEMORY, Function, PciError,
};
use crate::features::{Feature, Features};
use crate::mmio::{Block, Native, Register, RegisterAccess, Registers};
use crate::platform::DmaAddr;
use crate::transport::{
    DeviceId, Doorbell, Isr, QueueAreas, QueueIndex, Status, Transport, TransportError,
};

/// The place of a field of the common configuration.
macro_rules! common {
    ($transport:ident.$field:ident) => {{
        let fields = $transport.common.fields();
        Register::of(map_field!(fields.$field))
    }};
}

/// A modern virtio device on PCI.
///
/// `A` is how registers are reached: [`Native`] unless the guest may not rely on traps.
pub struct PciTransport<A = Native> {
    address: Address,
    id: DeviceId,
    access: A,
    common: Block<CommonConfig>,
    /// The same registers, for fields that only some devices have.
    common_registers: Registers,
    notify: Registers,
    notify_off_multiplier: u32,
    isr: Option<Register<u8>>,
    device: Option<Registers>,
    accepted: Features,
    /// Vectors that may be given; 0 while MSI-X is off.
    vectors: u16,
}

impl PciTransport {
    /// Takes over the function at `address`.
    ///
    /// `map` is called for each structure with a physical address and a length in bytes, and
    /// returns the registers there, or `None` when the kernel will not map them. The address is
    /// what the function's BAR says, so it is the device's word: refuse what is RAM. The length
    /// is at most what is needed: 64 bytes, 4 KiB, or 16 MiB for the notification structure.
    ///
    /// The function's BARs are probed with its decoding off; then memory decoding and bus mastering
    /// are turned on and MSI-X off, with INTx on. A device that firmware left running is told to
    /// reset before it may master the bus.
    ///
    /// # Errors
    /// Any [`PciError`]. A function that is refused is left as it was, save that decoding may have
    /// been turned on.
    pub fn new(
        config: &impl ConfigAccess,
        address: Address,
        map: impl FnMut(u64, usize) -> Option<Registers>,
    ) -> Result<Self, PciError> {
        Self::with_access(config, address, Native, map)
    }
}

impl<A: RegisterAccess> PciTransport<A> {
    /// As [`new`](PciTransport::new), with registers that are reached in another way.
    ///
    /// # Errors
    /// As `new`.
    pub fn with_access(
        config: &impl ConfigAccess,
        address: Address,
        access: A,
        mut map: impl FnMut(u64, usize) -> Option<Registers>,
    ) -> Result<Self, PciError> {
        let function = Function::read(config, address).ok_or(PciError::NoFunction { address })?;
        let id = function.virtio().ok_or(PciError::NotVirtio {
            vendor: function.vendor,
            device: function.device,
        })?;
        let header_type = function.header_type;
        if header_type != 0 {
            return Err(PciError::HeaderType { header_type });
        }
        let layout = locate(config, &function)?;

        let common_registers = mapped(&mut map, &layout.common)?;
        let common = common_registers.block();
        let notify = mapped(&mut map, &layout.notify)?;
        let isr = mapped(&mut map, &layout.isr)?.register(0);
        let device = layout.device.map(|at| mapped(&mut map, &at)).transpose()?;
        let transport = Self {
            address,
            id,
            access,
            common: common.ok_or_else(|| map_failed(&layout.common))?,
            common_registers,
            notify,
            notify_off_multiplier: layout.notify.multiplier,
            isr: Some(isr.ok_or_else(|| map_failed(&layout.isr))?),
            device,
            accepted: Features::EMPTY,
            vectors: 0,
        };
        transport.turn_on(config)?;
        Ok(transport)
    }

    /// Lets the function decode memory and master the bus.
    fn turn_on(&self, config: &impl ConfigAccess) -> Result<(), PciError> {
        msix::turn_off(config, self.address);
        let command = config.read16(self.address, COMMAND) & !COMMAND_INTX_DISABLE;
        config.write16(self.address, COMMAND, command | COMMAND_MEMORY);
        // Rings of a previous owner are memory of this one: no bus mastering with them.
        if !self.status().is_empty() {
            log::debug!("{}: was left running: reset", self.address);
            self.write_status(Status::empty());
        }
        let on = COMMAND_MEMORY | COMMAND_BUS_MASTER;
        config.write16(self.address, COMMAND, command | on);
        let command = config.read16(self.address, COMMAND);
        if command & on == on {
            Ok(())
        } else {
            Err(PciError::CommandRefused { command })
        }
    }

    /// Where the function is.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Turns MSI-X on and INTx off. All vectors are masked: see [`MsixTable`].
    ///
    /// Call it before queues are enabled: the BAR of the table is probed with decoding off.
    /// `map` is as for [`new`](PciTransport::new).
    ///
    /// # Errors
    /// Any [`MsixError`]; the transport then works with INTx, or polled.
    pub fn enable_msix(
        &mut self,
        config: &impl ConfigAccess,
        map: impl FnMut(u64, usize) -> Option<Registers>,
    ) -> Result<MsixTable<A>, MsixError> {
        let table = MsixTable::enable(config, self.address, self.access.clone(), map)?;
        self.vectors = table.len();
        Ok(table)
    }

    /// Turns MSI-X off and INTx on. Only for a device that was reset: vectors that queues were
    /// given are forgotten.
    pub fn disable_msix(&mut self, config: &impl ConfigAccess) {
        msix::turn_off(config, self.address);
        let command = config.read16(self.address, COMMAND);
        config.write16(self.address, COMMAND, command & !COMMAND_INTX_DISABLE);
        self.vectors = 0;
    }

    fn write_status(&self, status: Status) {
        self.access
            .write8(common!(self.device_status), status.bits());
    }

    /// Selects the queue; false when there is no such queue.
    fn select(&mut self, queue: QueueIndex) -> bool {
        // Read each time: the number of queues of some devices changes with the features.
        if queue.0 >= self.access.read16(common!(self.num_queues)) {
            return false;
        }
        self.access.write16(common!(self.queue_select), queue.0);
        true
    }

    /// Refuses a vector that cannot be given, before anything is written.
    fn check_vector(&self, vector: Option<u16>) -> Result<(), TransportError> {
        let vectors = self.vectors;
        match vector {
            Some(_) if vectors == 0 => Err(TransportError::NoVectors),
            Some(vector) if vector >= vectors => {
                Err(TransportError::VectorOutOfRange { vector, vectors })
            }
            _ => Ok(()),
        }
    }

    /// Writes a vector register and reads it back (4.1.5.1.2.2). Without MSI-X it has no meaning.
    fn write_vector(&self, at: Register<u16>, vector: Option<u16>) -> Result<(), TransportError> {
        self.check_vector(vector)?;
        if self.vectors == 0 {
            return Ok(());
        }
        let vector = vector.unwrap_or(NO_VECTOR);
        self.access.write16(at, vector);
        match self.access.read16(at) {
            got if got == vector => Ok(()),
            got => Err(TransportError::VectorRefused { vector, got }),
        }
    }

    fn write_address(&self, low: Register<u32>, high: Register<u32>, address: DmaAddr) {
        self.access.write32(low, address.0 as u32);
        self.access.write32(high, (address.0 >> 32) as u32);
    }

    /// The doorbell of the selected queue (4.1.4.4 and 4.1.5.2).
    fn doorbell(&self, queue: QueueIndex) -> Result<Doorbell, TransportError> {
        let with_data = self.accepted.has(Feature::NOTIFICATION_DATA);
        let notify_off = self.access.read16(common!(self.queue_notify_off));
        // 16 bits by 32 bits: no overflow in 64.
        let offset = u64::from(notify_off) * u64::from(self.notify_off_multiplier);
        let len = self.notify.len() as u64;
        let width = if with_data { 4 } else { 2 };
        if offset + width > len {
            return Err(TransportError::NotifyOutOfRange { queue, offset, len });
        }
        let value = if self.accepted.has(Feature::NOTIF_CONFIG_DATA) {
            let data = self.common_registers.register(QUEUE_NOTIF_CONFIG_DATA);
            let data = data.ok_or(TransportError::Unsupported {
                what: "VIRTIO_F_NOTIF_CONFIG_DATA: the common configuration structure is too short",
            })?;
            self.access.read16(data)
        } else {
            queue.0
        };
        let (offset, misaligned) = (
            offset as usize,
            TransportError::NotifyMisaligned { queue, offset },
        );
        if with_data {
            let place = self.notify.register(offset).ok_or(misaligned)?;
            Ok(self.access.doorbell_with_data(place, value))
        } else {
            let place = self.notify.register(offset).ok_or(misaligned)?;
            Ok(self.access.doorbell(place, value))
        }
    }

    /// Checks a range of device configuration.
    fn config_registers(&self, offset: usize, len: usize) -> Result<&Registers, TransportError> {
        let size = self.config_size();
        match (&self.device, offset.checked_add(len)) {
            (Some(registers), Some(end)) if end <= size => Ok(registers),
            _ => Err(TransportError::ConfigOutOfRange { offset, len, size }),
        }
    }
}

/// Lets the kernel map a structure.
fn mapped(
    map: &mut impl FnMut(u64, usize) -> Option<Registers>,
    at: &Located,
) -> Result<Registers, PciError> {
    // A length is at most 16 MiB: it fits.
    let length = at.length as usize;
    let registers = map(at.address, length).filter(|registers| registers.len() >= length);
    let registers = registers.ok_or_else(|| map_failed(at))?;
    let aligned = match at.structure {
        Structure::Common | Structure::Device => registers.is_aligned_to(4),
        Structure::Notify => registers.is_aligned_to(2),
        Structure::Isr => true,
    };
    if aligned {
        Ok(registers)
    } else {
        Err(map_failed(at))
    }
}

#[cold]
fn map_failed(at: &Located) -> PciError {
    PciError::MapFailed {
        structure: at.structure,
        address: at.address,
        length: at.length as usize,
    }
}

#[allow(unsafe_code)] // signs the contract that a transport signs
// SAFETY: 1. `enable_queue` writes the areas to the registers of the queue that it selected, which
// it alone can do: it has `&mut self`, and the registers are lent to this transport. 2. The status
// is a register of the device, written and read as it is. 3. So are `queue_reset` and
// `queue_enable`, of the queue that was selected.
unsafe impl<A: RegisterAccess> Transport for PciTransport<A> {
    fn device_id(&self) -> DeviceId {
        self.id
    }

    fn num_queues(&self) -> Option<u16> {
        Some(self.access.read16(common!(self.num_queues)))
    }

    fn status(&self) -> Status {
        Status::from_bits_retain(self.access.read8(common!(self.device_status)))
    }

    fn set_status(&mut self, status: Status) {
        self.write_status(status);
    }

    fn device_features(&mut self) -> Features {
        let mut features = Features::EMPTY;
        for select in 0..4 {
            self.access
                .write32(common!(self.device_feature_select), select);
            let word = self.access.read32(common!(self.device_feature));
            features = features.with_word(select, word);
        }
        features
    }

    fn transport_features(&self) -> Features {
        let mut features = Features::EMPTY;
        // 4.1.4.4: doorbells of four bytes are where those of two are.
        if self.notify.is_aligned_to(4)
            && self.notify.len() >= 4
            && self.notify_off_multiplier.is_multiple_of(4)
        {
            features |= Feature::NOTIFICATION_DATA;
        }
        // The fields are there when the structure is that long.
        let has = |offset| self.common_registers.register::<u16>(offset).is_some();
        if has(QUEUE_NOTIF_CONFIG_DATA) {
            features |= Feature::NOTIF_CONFIG_DATA;
        }
        if has(QUEUE_RESET) {
            features |= Feature::RING_RESET;
        }
        features
    }

    fn set_driver_features(&mut self, features: Features) {
        for select in 0..4 {
            // Devices of before VIRTIO 1.4 know two words only and have no need of the zeros.
            let known = self.accepted.word(select) | features.word(select);
            if select < 2 || known != 0 {
                self.access
                    .write32(common!(self.driver_feature_select), select);
                self.access
                    .write32(common!(self.driver_feature), features.word(select));
            }
        }
        self.accepted = features;
    }

    fn max_queue_size(&mut self, queue: QueueIndex) -> u16 {
        if self.select(queue) {
            self.access.read16(common!(self.queue_size))
        } else {
            0
        }
    }

    unsafe fn enable_queue(
        &mut self,
        queue: QueueIndex,
        size: u16,
        areas: &QueueAreas,
        vector: Option<u16>,
    ) -> Result<Doorbell, TransportError> {
        let max = self.max_queue_size(queue);
        if max == 0 {
            return Err(TransportError::QueueUnavailable { queue });
        }
        let packed = self.accepted.has(Feature::RING_PACKED);
        if size == 0 || size > max || size > 1 << 15 || !(packed || size.is_power_of_two()) {
            return Err(TransportError::QueueSize { queue, size, max });
        }
        if self.access.read16(common!(self.queue_enable)) != 0 {
            return Err(TransportError::QueueInUse { queue });
        }
        let doorbell = self.doorbell(queue)?;
        self.write_vector(common!(self.queue_msix_vector), vector)?;

        self.access.write16(common!(self.queue_size), size);
        let got = self.access.read16(common!(self.queue_size));
        if got != size {
            return Err(TransportError::QueueSizeRefused { queue, size, got });
        }
        let (low, high) = (common!(self.queue_desc_low), common!(self.queue_desc_high));
        self.write_address(low, high, areas.desc);
        let (low, high) = (
            common!(self.queue_driver_low),
            common!(self.queue_driver_high),
        );
        self.write_address(low, high, areas.driver);
        let (low, high) = (
            common!(self.queue_device_low),
            common!(self.queue_device_high),
        );
        self.write_address(low, high, areas.device);

        self.access.write16(common!(self.queue_enable), 1);
        if self.access.read16(common!(self.queue_enable)) != 1 {
            return Err(TransportError::QueueNotEnabled { queue });
        }
        Ok(doorbell)
    }

    fn reset_queue(&mut self, queue: QueueIndex) -> Result<(), TransportError> {
        let what = "VIRTIO_F_RING_RESET";
        let register = self.common_registers.register(QUEUE_RESET);
        match register.filter(|_| self.accepted.has(Feature::RING_RESET)) {
            None => Err(TransportError::Unsupported { what }),
            Some(_) if !self.select(queue) => Err(TransportError::QueueUnavailable { queue }),
            Some(register) => {
                self.access.write16(register, 1);
                Ok(())
            }
        }
    }

    fn is_queue_reset(&mut self, queue: QueueIndex) -> bool {
        // 4.1.4.3.2: it reads 0 when the reset is done, and so does `queue_enable`.
        let Some(register) = self.common_registers.register(QUEUE_RESET) else {
            return false;
        };
        self.select(queue)
            && self.access.read16(register) == 0
            && self.access.read16(common!(self.queue_enable)) == 0
    }

    fn set_config_vector(&mut self, vector: Option<u16>) -> Result<(), TransportError> {
        self.write_vector(common!(self.config_msix_vector), vector)
    }

    fn config_generation(&self) -> Option<u32> {
        Some(self.access.read8(common!(self.config_generation)).into())
    }

    fn config_size(&self) -> usize {
        self.device.as_ref().map_or(0, Registers::len)
    }

    fn read_config(&self, offset: usize, dst: &mut [u8]) -> Result<(), TransportError> {
        let registers = self.config_registers(offset, dst.len())?;
        let width = width(offset, dst.len());
        for (at, piece) in (offset..).step_by(width).zip(dst.chunks_mut(width)) {
            let value = match width {
                4 => registers.register(at).map(|at| self.access.read32(at)),
                2 => registers
                    .register(at)
                    .map(|at| self.access.read16(at).into()),
                _ => registers
                    .register(at)
                    .map(|at| self.access.read8(at).into()),
            };
            // In range by the check above, and aligned by `width`.
            for (to, from) in piece.iter_mut().zip(value.unwrap_or(0).to_le_bytes()) {
                *to = from;
            }
        }
        Ok(())
    }

    fn write_config(&mut self, offset: usize, src: &[u8]) -> Result<(), TransportError> {
        let registers = self.config_registers(offset, src.len())?;
        let width = width(offset, src.len());
        for (at, piece) in (offset..).step_by(width).zip(src.chunks(width)) {
            match *piece {
                [a, b, c, d] => {
                    let value = u32::from_le_bytes([a, b, c, d]);
                    registers
                        .register(at)
                        .map(|at| self.access.write32(at, value))
                }
                [a, b] => {
                    let value = u16::from_le_bytes([a, b]);
                    registers
                        .register(at)
                        .map(|at| self.access.write16(at, value))
                }
                [value] => registers
                    .register(at)
                    .map(|at| self.access.write8(at, value)),
                _ => None,
            };
        }
        Ok(())
    }

    fn take_isr(&mut self) -> Option<Isr> {
        self.isr.take().map(|at| self.access.isr(at))
    }
}

/// The width of the accesses to a configuration field (4.1.3.1): that of the field, but 4 bytes for
/// a field of 8, and single bytes for what is no aligned integer.
const fn width(offset: usize, len: usize) -> usize {
    match len {
        4 | 8 if offset.is_multiple_of(4) => 4,
        2 if offset.is_multiple_of(2) => 2,
        _ => 1,
    }
}

impl<A> fmt::Debug for PciTransport<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciTransport")
            .field("address", &self.address)
            .field("id", &self.id)
            .field("accepted", &self.accepted)
            .field("vectors", &self.vectors)
            .finish_non_exhaustive()
    }
}
