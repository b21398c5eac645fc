//! The modern PCI transport (VIRTIO 1.4, 4.1).
//!
//! One structure of registers serves the whole device: `queue_select` says which queue the others
//! mean. So whatever selects takes `&mut self`, and what is shared, status, generation and
//! configuration, does not select.
//!
//! Each of the four structures is [somewhere](super::area): in memory, in ports, or behind the
//! window of configuration space.
//!
//! What this file does not do: it waits for nothing. A reset is a write of 0, and whoever wrote it
//! polls the status until it reads 0 (4.1.4.3.2).

use core::fmt;
use core::mem::offset_of;

use super::PciError;
use super::access::{Address, ConfigAccess};
use super::area::{Area, Nowhere, Place, Somewhere};
use super::common::{Common, CommonConfig, QUEUE_NOTIF_CONFIG_DATA, QUEUE_RESET};
use super::layout::{Structure, locate};
use super::msix::{self, MsixError, MsixTable};
use super::open::{Hooks, turn_on, virtio_function};
use super::shm::SharedMemory;
use super::window::{At, Far, Window, WindowArea};
use crate::features::{Feature, Features};
use crate::mmio::{Native, RegisterAccess, Registers, field};
use crate::platform::DmaAddr;
use crate::transport::space;
use crate::transport::{
    DeviceId, Doorbell, Isr, QueueAreas, QueueIndex, ShmRegion, Status, Transport, TransportError,
    check_queue_size, driver_words,
};

/// Reads a field of the common configuration: a match with one arm where nothing is elsewhere.
macro_rules! read {
    ($transport:ident.$field:ident: $read:ident) => {
        match &$transport.common {
            Common::Memory { block, .. } => {
                $transport
                    .access
                    .$read(field!(*block, CommonConfig, $field))
            }
            Common::Other(area) => area.$read(offset_of!(CommonConfig, $field)),
        }
    };
}

/// Writes a field of the common configuration.
macro_rules! write {
    ($transport:ident.$field:ident: $write:ident($value:expr)) => {
        match &$transport.common {
            Common::Memory { block, .. } => {
                let field = field!(*block, CommonConfig, $field);
                $transport.access.$write(field, $value)
            }
            Common::Other(area) => area.$write(offset_of!(CommonConfig, $field), $value),
        }
    };
}

/// Writes a 64-bit field as two of 32 bits, low half first.
macro_rules! write_address {
    ($transport:ident.$low:ident, $high:ident: $address:expr) => {
        let DmaAddr(address) = $address;
        write!($transport.$low: write32(address as u32));
        write!($transport.$high: write32((address >> 32) as u32));
    };
}

/// A modern virtio device on PCI.
///
/// `A` is how registers in memory are reached: [`Native`] unless the guest may not rely on traps.
/// `S` is how others are: there are [none](Nowhere) unless the kernel gives ports or the window.
pub struct PciTransport<A = Native, S = Nowhere> {
    address: Address,
    id: DeviceId,
    access: A,
    common: Common<S>,
    notify: Place<S>,
    notify_off_multiplier: u32,
    isr: Option<Place<S>>,
    device: Option<Place<S>>,
    shared_memory: SharedMemory,
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
        map: impl FnMut(u64, usize) -> Option<Registers>,
    ) -> Result<Self, PciError> {
        Self::open(config, address, access, map, |_, _| None, |_, _| None)
    }
}

impl<A: RegisterAccess, S: Area> PciTransport<A, S> {
    /// As [`with_access`](PciTransport::with_access), also for structures in I/O BARs. Of a
    /// structure that is in both, the instance in memory is used.
    ///
    /// `ports` is called with the first port and their number, and returns the registers there, or
    /// `None` when the kernel will not give them. Like an address the port is the device's word:
    /// refuse what is not in the I/O window of a host bridge. On x86 return [`Ports`]; where the
    /// host bridge shows I/O space as memory, map it and return [`Registers`]; and an [`Area`] of
    /// your own where both are reached in another way. I/O decoding is turned on where it is used.
    ///
    /// [`Ports`]: super::Ports
    ///
    /// # Errors
    /// As [`new`](PciTransport::new).
    pub fn with_ports(
        config: &impl ConfigAccess,
        address: Address,
        access: A,
        map: impl FnMut(u64, usize) -> Option<Registers>,
        ports: impl FnMut(u32, usize) -> Option<S>,
    ) -> Result<Self, PciError> {
        Self::open(config, address, access, map, ports, |_, _| None)
    }

    fn open(
        config: &impl ConfigAccess,
        address: Address,
        access: A,
        map: impl FnMut(u64, usize) -> Option<Registers>,
        ports: impl FnMut(u32, usize) -> Option<S>,
        window: impl FnMut(At, usize) -> Option<S>,
    ) -> Result<Self, PciError> {
        let (function, id) = virtio_function(config, address)?;
        let layout = locate(config, &function)?;
        let mut hooks = Hooks {
            map,
            ports,
            window,
            capability: layout.window,
            decode: 0,
        };
        let (common, _) = hooks.reach(&layout.common)?;
        let (notify, notify_off_multiplier) = hooks.reach(&layout.notify)?;
        let (isr, _) = hooks.reach(&layout.isr)?;
        let device = match hooks.reach(&layout.device) {
            Ok((device, _)) => Some(device),
            // The kernel would want to know.
            Err(failed @ PciError::MapFailed { .. }) => return Err(failed),
            // A device type without configuration has none; the fields of one that cannot be used
            // are out of range when they are read.
            Err(_) => None,
        };
        let structure = Structure::Common;
        let transport = Self {
            address,
            id,
            access,
            common: Common::new(common).ok_or(PciError::Missing { structure })?,
            notify,
            notify_off_multiplier,
            isr: Some(isr),
            device,
            shared_memory: layout.shared_memory,
            accepted: Features::EMPTY,
            vectors: 0,
        };
        let reset = || transport.write_status(Status::empty());
        turn_on(config, address, hooks.decode, || transport.status(), reset)?;
        Ok(transport)
    }

    /// The function's address.
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
        msix::disable(config, self.address);
        self.vectors = 0;
    }

    fn write_status(&self, status: Status) {
        write!(self.device_status: write8(status.bits()));
    }

    /// Selects the queue; false when there is no such queue.
    fn select(&mut self, queue: QueueIndex) -> bool {
        // Read each time: the number of queues of some devices changes with the features.
        if queue.0 >= read!(self.num_queues: read16) {
            return false;
        }
        write!(self.queue_select: write16(queue.0));
        true
    }

    /// The doorbell of the selected queue (4.1.4.4 and 4.1.5.2).
    fn doorbell(&self, queue: QueueIndex) -> Result<Doorbell, TransportError> {
        let with_data = self.accepted.has(Feature::NOTIFICATION_DATA);
        let notify_off = read!(self.queue_notify_off: read16);
        // 16 bits by 32 bits: no overflow in 64.
        let offset = u64::from(notify_off) * u64::from(self.notify_off_multiplier);
        let len = self.notify.size() as u64;
        let width = if with_data { 4 } else { 2 };
        if offset + width > len {
            return Err(TransportError::NotifyOutOfRange { queue, offset, len });
        }
        let value = if self.accepted.has(Feature::NOTIF_CONFIG_DATA) {
            let data = self.common.read16(&self.access, QUEUE_NOTIF_CONFIG_DATA);
            data.ok_or(TransportError::Unsupported {
                what: "VIRTIO_F_NOTIF_CONFIG_DATA: the common configuration structure is too short",
            })?
        } else {
            queue.0
        };
        let access = &self.access;
        let doorbell = self
            .notify
            .doorbell(access, offset as usize, value, with_data);
        doorbell.ok_or(TransportError::NotifyMisaligned { queue, offset })
    }
}

impl<A: RegisterAccess, S: Area> PciTransport<A, Far<S>> {
    /// As [`with_ports`](PciTransport::with_ports), and with structures that can be had in neither
    /// way behind the [window](Window) in configuration space: the kernel cannot map the BAR, or
    /// nobody assigned it. Without ports, give `|_, _| None::<Nowhere>`.
    ///
    /// # Errors
    /// As [`new`](PciTransport::new). The window is lent for ever in that case, too.
    pub fn with_window<C: ConfigAccess + Sync>(
        window: &'static mut Window<C>,
        access: A,
        map: impl FnMut(u64, usize) -> Option<Registers>,
        mut ports: impl FnMut(u32, usize) -> Option<S>,
    ) -> Result<Self, PciError> {
        // Lent for good: the doorbells use it, too, and nobody else may move it.
        let window: &'static Window<C> = window;
        let ports = |port, len| ports(port, len).map(Far::Ports);
        let shown = |at, size| Some(Far::Window(WindowArea::new(window, at, size)));
        Self::open(window.config(), window.address(), access, map, ports, shown)
    }
}

#[allow(unsafe_code)] // signs the contract that a transport signs
// SAFETY: 1. `enable_queue` writes the areas to the registers of the queue that it selected, which
// it alone can do: it has `&mut self`, and the registers are lent to this transport. 2. The status
// is a register of the device, written and read as it is. 3. So are `queue_reset` and
// `queue_enable`, of the queue that was selected.
unsafe impl<A: RegisterAccess, S: Area> Transport for PciTransport<A, S> {
    fn device_id(&self) -> DeviceId {
        self.id
    }

    fn num_queues(&self) -> Option<u16> {
        Some(read!(self.num_queues: read16))
    }

    fn status(&self) -> Status {
        Status::from_bits_retain(read!(self.device_status: read8))
    }

    fn set_status(&mut self, status: Status) {
        self.write_status(status);
    }

    fn device_features(&mut self) -> Features {
        let mut features = Features::EMPTY;
        for select in 0..4 {
            write!(self.device_feature_select: write32(select));
            let word = read!(self.device_feature: read32);
            features = features.with_word(select, word);
        }
        features
    }

    fn transport_features(&self) -> Features {
        let mut features = Features::EMPTY;
        // 4.1.4.4: doorbells of four bytes are where those of two are.
        if self.notify.is_aligned_to(4)
            && self.notify.size() >= 4
            && self.notify_off_multiplier.is_multiple_of(4)
        {
            features |= Feature::NOTIFICATION_DATA;
        }
        // The fields are there when the structure is that long.
        if self.common.has(QUEUE_NOTIF_CONFIG_DATA) {
            features |= Feature::NOTIF_CONFIG_DATA;
        }
        if self.common.has(QUEUE_RESET) {
            features |= Feature::RING_RESET;
        }
        features
    }

    fn set_driver_features(&mut self, features: Features) {
        for (select, word) in driver_words(self.accepted, features) {
            write!(self.driver_feature_select: write32(select));
            write!(self.driver_feature: write32(word));
        }
        self.accepted = features;
    }

    fn max_queue_size(&mut self, queue: QueueIndex) -> u16 {
        if self.select(queue) {
            read!(self.queue_size: read16)
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
        check_queue_size(queue, size, max, self.accepted)?;
        if read!(self.queue_enable: read16) != 0 {
            return Err(TransportError::QueueInUse { queue });
        }
        let doorbell = self.doorbell(queue)?;
        msix::give_vector(
            vector,
            self.vectors,
            |vector| write!(self.queue_msix_vector: write16(vector)),
            || read!(self.queue_msix_vector: read16),
        )?;

        write!(self.queue_size: write16(size));
        let got = read!(self.queue_size: read16);
        if got != size {
            return Err(TransportError::QueueSizeRefused { queue, size, got });
        }
        write_address!(self.queue_desc_low, queue_desc_high: areas.desc);
        write_address!(self.queue_driver_low, queue_driver_high: areas.driver);
        write_address!(self.queue_device_low, queue_device_high: areas.device);

        write!(self.queue_enable: write16(1));
        if read!(self.queue_enable: read16) != 1 {
            return Err(TransportError::QueueNotEnabled { queue });
        }
        Ok(doorbell)
    }

    fn reset_queue(&mut self, queue: QueueIndex) -> Result<(), TransportError> {
        let what = "VIRTIO_F_RING_RESET";
        if !self.common.has(QUEUE_RESET) || !self.accepted.has(Feature::RING_RESET) {
            return Err(TransportError::Unsupported { what });
        }
        if !self.select(queue) {
            return Err(TransportError::QueueUnavailable { queue });
        }
        self.common.write16(&self.access, QUEUE_RESET, 1);
        Ok(())
    }

    fn is_queue_reset(&mut self, queue: QueueIndex) -> bool {
        // 4.1.4.3.2: it reads 0 when the reset is done, and so does `queue_enable`. It is there when
        // that was negotiated, and the structure long enough; else it reads as anything.
        self.accepted.has(Feature::RING_RESET)
            && self.select(queue)
            && self.common.read16(&self.access, QUEUE_RESET) == Some(0)
            && read!(self.queue_enable: read16) == 0
    }

    fn set_config_vector(&mut self, vector: Option<u16>) -> Result<(), TransportError> {
        msix::give_vector(
            vector,
            self.vectors,
            |vector| write!(self.config_msix_vector: write16(vector)),
            || read!(self.config_msix_vector: read16),
        )
    }

    fn config_generation(&self) -> Option<u32> {
        Some(read!(self.config_generation: read8).into())
    }

    fn config_size(&self) -> usize {
        self.device.as_ref().map_or(0, Place::size)
    }

    fn read_config(&self, offset: usize, dst: &mut [u8]) -> Result<(), TransportError> {
        let device = Somewhere(&self.access, self.device.as_ref());
        space::read(&device, 0, offset, dst)
    }

    fn write_config(&mut self, offset: usize, src: &[u8]) -> Result<(), TransportError> {
        let device = Somewhere(&self.access, self.device.as_ref());
        space::write(&device, 0, offset, src)
    }

    fn shm_region(&mut self, id: u8) -> Option<ShmRegion> {
        self.shared_memory.get(id)
    }

    fn take_isr(&mut self) -> Option<Isr> {
        self.isr.take().and_then(|at| at.isr(&self.access))
    }
}

impl<A, S> fmt::Debug for PciTransport<A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PciTransport")
            .field("address", &self.address)
            .field("id", &self.id)
            .field("accepted", &self.accepted)
            .field("vectors", &self.vectors)
            .finish_non_exhaustive()
    }
}
