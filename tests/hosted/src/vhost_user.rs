//! A device behind a vhost-user socket, as a transport of the crate.
//!
//! The protocol moves queues, not devices: it has features, memory and rings, and of the rest of a
//! virtio device nothing. So the front end stands in for it, here as in a virtual machine monitor:
//!
//! | virtio | here |
//! |---|---|
//! | status | kept here; `FEATURES_OK` only when the back end took the features |
//! | `DRIVER_OK` | starts the rings: `SET_VRING_KICK`, then `SET_VRING_ENABLE` |
//! | reset | `GET_VRING_BASE` of every ring: the back end answers when it has stopped |
//! | configuration | bytes of [`Identity::config`] |
//! | features | the back end's, and those of [`Identity::emulated`] |
//! | doorbell, interrupt | eventfds: [`event`](crate::event) |
//!
//! A back end that closes the socket is a device that needs a reset which it cannot confirm: what
//! it had stays leaked. Connect again, with a region of its own, to go on.

use std::fmt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::Context as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vhost::vhost_user::message::{VhostUserHeaderFlag, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vring::features::{Feature, Features};
use vring::transport::{
    DeviceId, Doorbell, Isr, QueueAreas, QueueIndex, Status, Transport, TransportError,
};

use crate::event::Bell;
use crate::memory::Region;

/// `VHOST_USER_F_PROTOCOL_FEATURES`: between the two ends of the socket, not the driver's.
const PROTOCOL_FEATURES: u64 = 1 << 30;
/// `VHOST_F_LOG_ALL`: as above.
const LOG_ALL: u64 = 1 << 26;
/// Base of a packed ring that starts: position 0, wrap counter 1.
const PACKED_START: u16 = 0x8000;

/// What the protocol does not say of a device.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Type of the device.
    pub device: DeviceId,
    /// How many queues it has.
    pub queues: u16,
    /// Largest size of a queue.
    pub max_size: u16,
    /// Its configuration space.
    pub config: Vec<u8>,
    /// Features that the front end offers on its own: those that concern the configuration space.
    pub emulated: Features,
}

#[derive(Debug)]
struct Ring {
    bell: &'static Bell,
    call: EventFd,
    /// The back end has, or may have, its addresses.
    exposed: bool,
}

/// A connection to a back end.
pub struct VhostUser {
    frontend: Frontend,
    socket: UnixStream,
    region: Arc<Region>,
    identity: Identity,
    offered: u64,
    accepted: Features,
    status: Status,
    rings: Vec<Ring>,
    memory_told: bool,
    /// Why the back end cannot be relied on any more.
    broken: Option<String>,
}

impl VhostUser {
    /// Begins a session: the back end gets to know its owner, and `region` once features are agreed
    /// on.
    ///
    /// # Errors
    /// When the back end does not speak the protocol.
    pub fn new(
        socket: UnixStream,
        region: &Arc<Region>,
        identity: Identity,
    ) -> anyhow::Result<Self> {
        let stream = socket.try_clone().context("cannot share the socket")?;
        let mut frontend = Frontend::from_stream(stream, identity.queues.into());
        frontend.set_owner().context("SET_OWNER")?;
        let offered = frontend.get_features().context("GET_FEATURES")?;
        if offered & PROTOCOL_FEATURES != 0 {
            let protocol = frontend
                .get_protocol_features()
                .context("GET_PROTOCOL_FEATURES")?;
            // Every request is answered then, so that a refusal is noticed.
            let protocol = protocol & VhostUserProtocolFeatures::REPLY_ACK;
            frontend
                .set_protocol_features(protocol)
                .context("SET_PROTOCOL_FEATURES")?;
            if !protocol.is_empty() {
                frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
            }
        }
        let ring = || -> std::io::Result<Ring> {
            Ok(Ring {
                bell: Bell::new()?,
                call: EventFd::new(EFD_NONBLOCK)?,
                exposed: false,
            })
        };
        let rings = (0..identity.queues)
            .map(|_| ring())
            .collect::<Result<_, _>>();
        Ok(Self {
            frontend,
            socket,
            region: region.clone(),
            identity,
            offered,
            accepted: Features::EMPTY,
            status: Status::empty(),
            rings: rings.context("cannot make eventfds")?,
            memory_told: false,
            broken: None,
        })
    }

    /// The features that the back end itself offers.
    #[must_use]
    pub fn back_end_features(&self) -> Features {
        Features((self.offered & !(PROTOCOL_FEATURES | LOG_ALL)).into())
    }

    /// Why the back end cannot be relied on any more, when it cannot.
    #[must_use]
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// The eventfd by which the back end interrupts for a queue.
    ///
    /// # Panics
    /// When there is no such queue.
    #[must_use]
    pub fn call(&self, queue: QueueIndex) -> &EventFd {
        &self.rings[usize::from(queue.0)].call
    }

    /// The eventfd by which a queue tells the back end.
    ///
    /// # Panics
    /// When there is no such queue.
    #[must_use]
    pub fn bell(&self, queue: QueueIndex) -> &'static Bell {
        self.rings[usize::from(queue.0)].bell
    }

    /// Notes that a request failed: the device needs a reset from now on.
    fn judge<T>(&mut self, what: &str, result: vhost::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.status |= Status::NEEDS_RESET;
                self.broken.get_or_insert(format!("{what}: {error}"));
                None
            }
        }
    }

    /// Tells the back end the features and where the memory is.
    fn agree(&mut self) -> Option<()> {
        let mut features = self.accepted.0 as u64 & self.offered;
        features |= self.offered & PROTOCOL_FEATURES;
        let told = self.frontend.set_features(features);
        self.judge("SET_FEATURES", told)?;
        if !self.memory_told {
            let told = self.frontend.set_mem_table(&[self.region.table_row()]);
            self.judge("SET_MEM_TABLE", told)?;
            self.memory_told = true;
        }
        Some(())
    }

    /// Lets the back end run.
    fn start(&mut self) -> Option<()> {
        for index in 0..self.rings.len() {
            if !self.rings[index].exposed {
                continue;
            }
            let kick = self.rings[index].bell.file();
            let told = self.frontend.set_vring_kick(index, kick);
            self.judge("SET_VRING_KICK", told)?;
            // Without protocol features rings start enabled.
            if self.offered & PROTOCOL_FEATURES != 0 {
                let told = self.frontend.set_vring_enable(index, true);
                self.judge("SET_VRING_ENABLE", told)?;
            }
        }
        Some(())
    }

    /// Stops every ring that the back end may have.
    fn stop(&mut self) {
        self.status |= Status::NEEDS_RESET;
        for index in 0..self.rings.len() {
            if self.rings[index].exposed {
                let stopped = self.frontend.get_vring_base(index);
                if self.judge("GET_VRING_BASE", stopped).is_none() {
                    return;
                }
                self.rings[index].exposed = false;
            }
        }
        self.accepted = Features::EMPTY;
        self.broken = None;
        self.status = Status::empty();
    }

    /// Where `set_vring_addr` has an area: by its address in this process.
    fn user_address(&self, addr: vring::DmaAddr) -> Result<u64, TransportError> {
        let what = "a ring outside of the memory that is shared";
        let address = self.region.user_address(addr);
        address.ok_or(TransportError::Unsupported { what })
    }

    fn describe(&mut self, index: usize, size: u16, data: &VringConfigData) -> Option<()> {
        let packed = self.accepted.has(Feature::RING_PACKED);
        let base = if packed { PACKED_START } else { 0 };
        let told = self.frontend.set_vring_num(index, size);
        self.judge("SET_VRING_NUM", told)?;
        let told = self.frontend.set_vring_base(index, base);
        self.judge("SET_VRING_BASE", told)?;
        let told = self.frontend.set_vring_addr(index, data);
        self.judge("SET_VRING_ADDR", told)?;
        let told = self.frontend.set_vring_call(index, &self.rings[index].call);
        self.judge("SET_VRING_CALL", told)
    }

    /// Whether the back end has closed the socket.
    fn hung_up(&self) -> bool {
        let mut files = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        poll(&mut files, Some(&now)).is_ok() && files[0].revents().intersects(gone)
    }

    fn config_range(&self, offset: usize, len: usize) -> Result<&[u8], TransportError> {
        let size = self.identity.config.len();
        let end = offset.checked_add(len);
        let range = end.and_then(|end| self.identity.config.get(offset..end));
        range.ok_or(TransportError::ConfigOutOfRange { offset, len, size })
    }
}

impl fmt::Debug for VhostUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VhostUser")
            .field("identity", &self.identity)
            .field("accepted", &self.accepted)
            .field("status", &self.status)
            .field("rings", &self.rings)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

// SAFETY: (1) `enable_queue` describes the areas to the one back end behind this socket, as the
// ring of that index. (2) The status reads as empty after a reset only when the back end has
// answered `GET_VRING_BASE` for every ring whose addresses it was, or may have been, told: "stopping
// a ring" obliges it to use no memory of it any more before it answers. When one answer is missing,
// `NEEDS_RESET` stays for ever. Before the first ring nobody has a claim to any memory. (3) Queues
// are not reset on their own: `is_queue_reset` keeps saying no.
unsafe impl Transport for VhostUser {
    fn device_id(&self) -> DeviceId {
        self.identity.device
    }

    fn num_queues(&self) -> Option<u16> {
        Some(self.identity.queues)
    }

    fn status(&self) -> Status {
        if !self.status.is_empty() && self.hung_up() {
            return self.status | Status::NEEDS_RESET;
        }
        self.status
    }

    fn set_status(&mut self, status: Status) {
        if status.is_empty() {
            return self.stop();
        }
        let new = status - self.status;
        let needs_reset = self.status & Status::NEEDS_RESET;
        self.status = status | needs_reset;
        if new.contains(Status::FEATURES_OK) && self.agree().is_none() {
            self.status -= Status::FEATURES_OK;
        }
        if new.contains(Status::DRIVER_OK) && !self.status.contains(Status::FAILED) {
            // When it fails, the status says that a reset is needed.
            let _ = self.start();
        }
    }

    fn device_features(&mut self) -> Features {
        self.back_end_features() | self.identity.emulated
    }

    fn set_driver_features(&mut self, features: Features) {
        self.accepted = features;
    }

    fn max_queue_size(&mut self, queue: QueueIndex) -> u16 {
        if queue.0 < self.identity.queues {
            self.identity.max_size
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
        let index = usize::from(queue.0);
        if vector.is_some() {
            return Err(TransportError::NoVectors);
        }
        let Some(ring) = self.rings.get_mut(index) else {
            return Err(TransportError::QueueUnavailable { queue });
        };
        if ring.exposed {
            return Err(TransportError::QueueInUse { queue });
        }
        let doorbell = ring.bell.doorbell(queue.0);
        let data = VringConfigData {
            queue_max_size: size,
            queue_size: size,
            flags: 0,
            desc_table_addr: self.user_address(areas.desc)?,
            used_ring_addr: self.user_address(areas.device)?,
            avail_ring_addr: self.user_address(areas.driver)?,
            log_addr: None,
        };
        self.rings[index].exposed = true;
        match self.describe(index, size, &data) {
            Some(()) => Ok(doorbell),
            None => Err(TransportError::QueueNotEnabled { queue }),
        }
    }

    fn set_config_vector(&mut self, vector: Option<u16>) -> Result<(), TransportError> {
        match vector {
            None => Ok(()),
            Some(_) => Err(TransportError::NoVectors),
        }
    }

    fn config_generation(&self) -> Option<u32> {
        // It never changes.
        Some(0)
    }

    fn config_size(&self) -> usize {
        self.identity.config.len()
    }

    fn read_config(&self, offset: usize, dst: &mut [u8]) -> Result<(), TransportError> {
        dst.copy_from_slice(self.config_range(offset, dst.len())?);
        Ok(())
    }

    fn write_config(&mut self, offset: usize, src: &[u8]) -> Result<(), TransportError> {
        self.config_range(offset, src.len())?;
        self.identity.config[offset..][..src.len()].copy_from_slice(src);
        Ok(())
    }

    fn take_isr(&mut self) -> Option<Isr> {
        None
    }
}
