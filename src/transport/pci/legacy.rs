//! The legacy PCI transport (VIRTIO 1.4, 4.1.4.10 and 4.1.5.1.3.1).
//!
//! Everything is in BAR 0, which is in I/O space:
//!
//! ```text
//!    0  device features     4  driver features     8  queue address: a page frame number
//!   12  queue size (2)     14  queue select (2)   16  queue notify (2)
//!   18  device status (1)  19  ISR status (1)
//!   20  configuration vector (2)   22  queue vector (2)     only while MSI-X is enabled
//!   20 or 24  device configuration: it moves when MSI-X is turned on
//! ```
//!
//! A transitional device has it beside its modern interface, which is the better one: use
//! [`PciTransport`](super::PciTransport) unless there is none, or leave the choice to
//! [`AnyTransport`](super::AnyTransport).
//!
//! Fields are in the byte order of the guest. [`init`](crate::init) refuses a legacy device where
//! that is not little-endian.
//!
//! What this file does not do: as the modern one, it waits for nothing. It does not know how long
//! the device configuration is: a BAR is a power of two, and what is beyond reads as anything.

use core::fmt;

use super::access::{Address, ConfigAccess};
use super::area::Area;
use super::bar::{Bar, BarError};
use super::layout::Structure;
use super::msix::{self, MsixError, MsixTable};
use super::open::{turn_on, virtio_function};
use super::{COMMAND_IO, PciError, is_transitional};
use crate::features::Features;
use crate::mmio::{RegisterAccess, Registers};
use crate::transport::space::{self, Elsewhere};
use crate::transport::{
    DeviceId, Doorbell, Isr, QueueAreas, QueueIndex, Status, Transport, TransportError,
};

const DEVICE_FEATURES: usize = 0;
const DRIVER_FEATURES: usize = 4;
const QUEUE_ADDRESS: usize = 8;
const QUEUE_SIZE: usize = 12;
const QUEUE_SELECT: usize = 14;
const QUEUE_NOTIFY: usize = 16;
const STATUS: usize = 18;
const ISR: usize = 19;
const CONFIG_VECTOR: usize = 20;
const QUEUE_VECTOR: usize = 22;
/// Where the device configuration begins, without MSI-X and with it.
const CONFIG: usize = 20;
const CONFIG_WITH_MSIX: usize = 24;
/// A virtio device on PCI, by its legacy interface.
pub struct LegacyTransport<S> {
    address: Address,
    id: DeviceId,
    header: S,
    isr_taken: bool,
    /// Vectors that may be given; 0 while MSI-X is off.
    vectors: u16,
}

impl<S: Area> LegacyTransport<S> {
    /// Takes over the function at `address`, which is a legacy or a transitional device.
    ///
    /// `ports` is called once, with the first port of BAR 0 and their number, as for
    /// [`PciTransport::with_ports`](super::PciTransport::with_ports). Decoding of I/O and bus mastering are turned on and MSI-X off,
    /// with INTx on; a device that firmware left running is told to reset before.
    ///
    /// # Errors
    /// [`PciError::NoLegacy`] of a device that has no such interface, [`PciError::Bar`] when BAR 0
    /// cannot be used or `ports` gave nothing, [`PciError::TooShort`], and those of
    /// [`PciTransport::new`](super::PciTransport::new) that concern the function.
    pub fn new(
        config: &impl ConfigAccess,
        address: Address,
        ports: impl FnOnce(u32, usize) -> Option<S>,
    ) -> Result<Self, PciError> {
        let (function, id) = virtio_function(config, address)?;
        let (device, structure) = (function.device, Structure::Legacy);
        if !is_transitional(device) {
            return Err(PciError::NoLegacy { device });
        }
        let (port, length) = match Bar::read(config, address, 0) {
            Ok(Bar::Io { port, size }) => (port, size.min(structure.mapped())),
            Ok(Bar::Memory { .. }) => return Err(PciError::NoLegacy { device }),
            Err(error) => return Err(PciError::Bar { structure, error }),
        };
        let needed = structure.needed();
        if length < needed {
            return Err(PciError::TooShort {
                structure,
                length,
                needed,
            });
        }
        let header = ports(port, length as usize);
        let header = header.filter(|area| area.size() >= length as usize && area.is_aligned_to(4));
        let error = BarError::Io { bar: 0, port };
        let transport = Self {
            address,
            id,
            header: header.ok_or(PciError::Bar { structure, error })?,
            isr_taken: false,
            vectors: 0,
        };
        let reset = || transport.write_status(Status::empty());
        turn_on(config, address, COMMAND_IO, || transport.status(), reset)?;
        Ok(transport)
    }

    /// Where the function is.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Turns MSI-X on and INTx off: see
    /// [`PciTransport::enable_msix`](super::PciTransport::enable_msix). The table is in memory, and
    /// `access` is how it is reached. Device configuration moves, which this transport follows.
    ///
    /// # Errors
    /// Any [`MsixError`]; the transport then works with INTx, or polled.
    pub fn enable_msix<A: RegisterAccess>(
        &mut self,
        config: &impl ConfigAccess,
        access: A,
        map: impl FnMut(u64, usize) -> Option<Registers>,
    ) -> Result<MsixTable<A>, MsixError> {
        if self.header.size() < CONFIG_WITH_MSIX {
            return Err(MsixError::Absent);
        }
        let table = MsixTable::enable(config, self.address, access, map)?;
        self.vectors = table.len();
        Ok(table)
    }

    /// Turns MSI-X off and INTx on. Only for a device that was reset: vectors that queues were
    /// given are forgotten.
    pub fn disable_msix(&mut self, config: &impl ConfigAccess) {
        msix::disable(config, self.address);
        self.vectors = 0;
    }

    fn write_status(&self, status: Status) {
        self.header.write8(STATUS, status.bits());
    }

    fn select(&mut self, queue: QueueIndex) {
        self.header.write16(QUEUE_SELECT, queue.0);
    }

    /// Writes a vector register and reads it back. Without MSI-X it is device configuration.
    fn write_vector(&self, at: usize, vector: Option<u16>) -> Result<(), TransportError> {
        let write = |vector| self.header.write16(at, vector);
        msix::give_vector(vector, self.vectors, write, || self.header.read16(at))
    }

    /// Where device configuration begins.
    const fn config_base(&self) -> usize {
        if self.vectors == 0 {
            CONFIG
        } else {
            CONFIG_WITH_MSIX
        }
    }
}

#[allow(unsafe_code)] // signs the contract that a transport signs
// SAFETY: 1. `enable_queue` writes the page frame number to the register of the queue that it
// selected, which it alone can do: it has `&mut self`, and the registers are lent to this transport.
// 2. The status is a register of the device, written and read as it is. 3. No queue is reset alone.
unsafe impl<S: Area> Transport for LegacyTransport<S> {
    fn device_id(&self) -> DeviceId {
        self.id
    }

    fn is_legacy(&self) -> bool {
        true
    }

    fn is_queue_size_fixed(&self) -> bool {
        true
    }

    fn num_queues(&self) -> Option<u16> {
        None
    }

    fn status(&self) -> Status {
        Status::from_bits_retain(self.header.read8(STATUS))
    }

    fn set_status(&mut self, status: Status) {
        self.write_status(status);
    }

    fn device_features(&mut self) -> Features {
        Features::EMPTY.with_word(0, self.header.read32(DEVICE_FEATURES))
    }

    fn set_driver_features(&mut self, features: Features) {
        self.header.write32(DRIVER_FEATURES, features.word(0));
    }

    fn max_queue_size(&mut self, queue: QueueIndex) -> u16 {
        self.select(queue);
        self.header.read16(QUEUE_SIZE)
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
        if !max.is_power_of_two() {
            return Err(TransportError::QueueSize { queue, size, max });
        }
        // There is no way to tell the device of another size.
        if size != max {
            let got = max;
            return Err(TransportError::QueueSizeRefused { queue, size, got });
        }
        if self.header.read32(QUEUE_ADDRESS) != 0 {
            return Err(TransportError::QueueInUse { queue });
        }
        let frame = areas.page_frame(queue)?;
        let (offset, len) = (QUEUE_NOTIFY as u64, self.header.size() as u64);
        let doorbell = self.header.doorbell(QUEUE_NOTIFY, queue.0);
        let doorbell = doorbell.ok_or(TransportError::NotifyOutOfRange { queue, offset, len })?;
        self.write_vector(QUEUE_VECTOR, vector)?;
        self.header.write32(QUEUE_ADDRESS, frame);
        if self.header.read32(QUEUE_ADDRESS) != frame {
            return Err(TransportError::QueueNotEnabled { queue });
        }
        Ok(doorbell)
    }

    fn set_config_vector(&mut self, vector: Option<u16>) -> Result<(), TransportError> {
        self.write_vector(CONFIG_VECTOR, vector)
    }

    fn config_generation(&self) -> Option<u32> {
        None
    }

    fn config_size(&self) -> usize {
        self.header.size().saturating_sub(self.config_base())
    }

    fn read_config(&self, offset: usize, dst: &mut [u8]) -> Result<(), TransportError> {
        space::read(&Elsewhere(&self.header), self.config_base(), offset, dst)
    }

    fn write_config(&mut self, offset: usize, src: &[u8]) -> Result<(), TransportError> {
        space::write(&Elsewhere(&self.header), self.config_base(), offset, src)
    }

    fn take_isr(&mut self) -> Option<Isr> {
        let taken = core::mem::replace(&mut self.isr_taken, true);
        if taken { None } else { self.header.isr(ISR) }
    }
}

impl<S> fmt::Debug for LegacyTransport<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LegacyTransport")
            .field("address", &self.address)
            .field("id", &self.id)
            .field("vectors", &self.vectors)
            .finish_non_exhaustive()
    }
}
