//! The list of capabilities, and what the virtio ones say (VIRTIO 1.4, 4.1.4).
//!
//! The list is a chain of 8-bit pointers that the device wrote. A pointer is followed once: with
//! the 48 places that capabilities can be at, every walk ends, whatever the chain looks like.

use super::access::{Address, ConfigAccess};

const STATUS: u16 = 0x06;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const FIRST: u16 = 0x34;

/// Vendor-specific: what virtio structures are in.
pub(super) const VENDOR_SPECIFIC: u8 = 0x09;
/// MSI-X.
pub(super) const MSIX: u8 = 0x11;

/// The configuration access window, of the types of virtio structures.
#[doc(alias = "VIRTIO_PCI_CAP_PCI_CFG")]
pub(super) const PCI_CFG: u8 = 5;
/// A shared memory region.
#[doc(alias = "VIRTIO_PCI_CAP_SHARED_MEMORY_CFG")]
pub(super) const SHARED_MEMORY: u8 = 8;

/// One capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// The register that it begins at: a multiple of 4 from 0x40 to 0xfc.
    pub register: u16,
    /// What it is.
    pub id: u8,
    /// The two bytes after the id and the pointer: a length, or a control word, or flags.
    pub header: u16,
}

/// The capabilities of a function, in the order of the list.
#[derive(Debug)]
pub struct Capabilities<'a, C> {
    config: &'a C,
    address: Address,
    next: u8,
    visited: u64,
}

impl<'a, C: ConfigAccess> Capabilities<'a, C> {
    /// Begins the walk.
    pub fn new(config: &'a C, address: Address) -> Self {
        let status = config.read16(address, STATUS);
        let next = match status & STATUS_CAPABILITIES {
            0 => 0,
            _ => config.read8(address, FIRST),
        };
        Self {
            config,
            address,
            next,
            visited: 0,
        }
    }
}

impl<C: ConfigAccess> Iterator for Capabilities<'_, C> {
    type Item = Capability;

    fn next(&mut self) -> Option<Capability> {
        // The two low bits are reserved and to be masked (PCI 3.0, 6.7).
        let register = self.next & !3;
        let place = 1 << (register >> 2);
        if register < 0x40 {
            return None;
        }
        if self.visited & place != 0 {
            log::warn!(
                "{}: the capability list loops at {register:#x}",
                self.address
            );
            self.next = 0;
            return None;
        }
        self.visited |= place;
        let [id, next, low, high] = self
            .config
            .read32(self.address, register.into())
            .to_le_bytes();
        self.next = next;
        Some(Capability {
            register: register.into(),
            id,
            header: u16::from_le_bytes([low, high]),
        })
    }
}

/// A virtio structure capability, as the device wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[doc(alias = "virtio_pci_cap")]
pub(super) struct VirtioCapability {
    pub(super) cfg_type: u8,
    pub(super) bar: u8,
    /// Tells shared memory regions apart.
    pub(super) id: u8,
    pub(super) offset: u32,
    pub(super) length: u32,
    /// The words that follow, as far as there are any: the multiplier of the notification
    /// structure, or the upper halves of offset and length, or the data of the window.
    pub(super) extra: Option<u32>,
    pub(super) extra_high: Option<u32>,
}

impl VirtioCapability {
    /// `sizeof(struct virtio_pci_cap)`.
    const SIZE: u16 = 16;

    /// Reads a vendor-specific capability. `None` when it is too short to be a virtio one, or when
    /// it runs beyond the 256 bytes that capabilities are in. A longer one is fine.
    pub(super) fn read(
        config: &impl ConfigAccess,
        address: Address,
        capability: Capability,
    ) -> Option<Self> {
        let [cap_len, cfg_type] = capability.header.to_le_bytes();
        let at = capability.register;
        let has = |bytes: u16| u16::from(cap_len) >= bytes && at + bytes <= 256;
        if capability.id != VENDOR_SPECIFIC || !has(Self::SIZE) {
            return None;
        }
        let [bar, id, ..] = config.read32(address, at + 4).to_le_bytes();
        // What follows is data where reading it may do something: it is not read of the window.
        let read = |at| match cfg_type {
            PCI_CFG => 0,
            _ => config.read32(address, at),
        };
        Some(Self {
            cfg_type,
            bar,
            id,
            offset: config.read32(address, at + 8),
            length: config.read32(address, at + 12),
            extra: has(Self::SIZE + 4).then(|| read(at + Self::SIZE)),
            extra_high: has(Self::SIZE + 8).then(|| read(at + Self::SIZE + 4)),
        })
    }
}
