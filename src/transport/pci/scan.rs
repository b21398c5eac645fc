//! Which functions there are.
//!
//! A walk over buses: those that the kernel names as roots, and those that bridges say are behind
//! them, as firmware numbered them. A bridge's word is the device's: it may name a bus above it, or
//! itself, or the same bus as another bridge. A set of the buses that were visited bounds the walk.
//!
//! What this file does not do: it numbers no bridges. Behind one that firmware left unnumbered
//! nothing is found.

use super::access::{Address, ConfigAccess};
use super::{VENDOR, device_type};
use crate::transport::DeviceId;

const ID: u16 = 0x00;
const CLASS: u16 = 0x08;
pub(super) const HEADER_TYPE: u16 = 0x0e;
const SECONDARY_BUS: u16 = 0x19;
const SUBSYSTEM: u16 = 0x2c;

/// A function, as its header describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: Address,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Subsystem id; 0 for bridges, which have none here.
    pub subsystem: u16,
    /// Revision.
    pub revision: u8,
    /// Class, subclass and programming interface, from the high byte to the low one.
    pub class: u32,
    /// Layout of the header: 0 an ordinary function, 1 a bridge. Without the multi-function bit.
    pub header_type: u8,
}

impl Function {
    /// Reads the header; `None` when there is no such function.
    pub fn read(config: &impl ConfigAccess, address: Address) -> Option<Self> {
        let id = config.read32(address, ID);
        // No function: all-ones. A vendor id of 0 is what broken bridges answer.
        if matches!(id as u16, 0xffff | 0) {
            return None;
        }
        let class = config.read32(address, CLASS);
        let header_type = config.read8(address, HEADER_TYPE) & 0x7f;
        let subsystem = match header_type {
            0 => (config.read32(address, SUBSYSTEM) >> 16) as u16,
            _ => 0,
        };
        Some(Self {
            address,
            vendor: id as u16,
            device: (id >> 16) as u16,
            subsystem,
            revision: class as u8,
            class: class >> 8,
            header_type,
        })
    }

    /// The type of virtio device that it claims to be, `None` for anything else (VIRTIO 1.4,
    /// 4.1.2). Any revision; whether the device is a modern one only its capabilities tell.
    #[must_use]
    pub const fn virtio(&self) -> Option<DeviceId> {
        if self.vendor == VENDOR {
            device_type(self.device, self.subsystem)
        } else {
            None
        }
    }
}

/// The functions on bus 0 of segment 0 and on the buses behind its bridges.
pub fn scan<C: ConfigAccess>(config: &C) -> Scan<'_, C> {
    scan_from(config, 0, 0)
}

/// The functions on a root bus and on the buses behind its bridges, as firmware numbered them.
///
/// Each bus is visited once at most, whatever the bridges say.
pub fn scan_from<C: ConfigAccess>(config: &C, segment: u16, root: u8) -> Scan<'_, C> {
    scan_roots(config, segment, [root])
}

/// The functions on these root buses of a segment and on the buses behind their bridges: a machine
/// with several host bridges has several roots (ACPI's `_BBN`, a device tree's `bus-range`). Other
/// segments are scanned by themselves.
///
/// Each bus is visited once at most, whatever the bridges say.
pub fn scan_roots<C: ConfigAccess>(
    config: &C,
    segment: u16,
    roots: impl IntoIterator<Item = u8>,
) -> Scan<'_, C> {
    let mut pending = BusSet::default();
    roots.into_iter().for_each(|bus| pending.insert(bus));
    Scan::new(config, segment, pending, true)
}

/// The functions on each of these buses; bridges are not followed.
pub fn scan_buses<C: ConfigAccess>(
    config: &C,
    segment: u16,
    buses: core::ops::RangeInclusive<u8>,
) -> Scan<'_, C> {
    let mut pending = BusSet::default();
    buses.for_each(|bus| pending.insert(bus));
    Scan::new(config, segment, pending, false)
}

/// Iterator over functions. At most 256 buses of 32 devices of 8 functions.
#[derive(Debug)]
pub struct Scan<'a, C> {
    config: &'a C,
    segment: u16,
    follow_bridges: bool,
    pending: BusSet,
    visited: BusSet,
    /// Bus, and the next device and function on it: `device << 3 | function`.
    at: Option<(u8, u16)>,
}

impl<'a, C: ConfigAccess> Scan<'a, C> {
    fn new(config: &'a C, segment: u16, pending: BusSet, follow_bridges: bool) -> Self {
        Self {
            config,
            segment,
            follow_bridges,
            pending,
            visited: BusSet::default(),
            at: None,
        }
    }

    fn next_bus(&mut self) -> Option<u8> {
        let bus = self.pending.take()?;
        self.visited.insert(bus);
        Some(bus)
    }

    fn visit(&mut self, bus: u8, slot: u16) -> Option<Function> {
        let address = Address::new(bus, (slot >> 3) as u8, (slot & 7) as u8)?;
        let address = address.with_segment(self.segment);
        let found = Function::read(self.config, address);
        let multi = || self.config.read8(address, HEADER_TYPE) & 0x80 != 0;
        let next = if slot & 7 == 0 && !(found.is_some() && multi()) {
            slot + 8
        } else {
            slot + 1
        };
        self.at = (next < 256).then_some((bus, next));
        if let Some(Function { header_type: 1, .. }) = found
            && self.follow_bridges
        {
            let secondary = self.config.read8(address, SECONDARY_BUS);
            // 0 is no bus behind a bridge: nobody numbered that one.
            if secondary != 0 && !self.visited.contains(secondary) {
                self.pending.insert(secondary);
            }
        }
        found
    }
}

impl<C: ConfigAccess> Iterator for Scan<'_, C> {
    type Item = Function;

    fn next(&mut self) -> Option<Function> {
        loop {
            let (bus, slot) = match self.at {
                Some(at) => at,
                None => (self.next_bus()?, 0),
            };
            if let Some(function) = self.visit(bus, slot) {
                return Some(function);
            }
        }
    }
}

/// A set of bus numbers.
#[derive(Clone, Copy, Debug, Default)]
struct BusSet {
    low: u128,
    high: u128,
}

impl BusSet {
    fn insert(&mut self, bus: u8) {
        match bus {
            0..128 => self.low |= 1 << bus,
            128.. => self.high |= 1 << (bus - 128),
        }
    }

    fn contains(&self, bus: u8) -> bool {
        match bus {
            0..128 => self.low >> bus & 1 != 0,
            128.. => self.high >> (bus - 128) & 1 != 0,
        }
    }

    /// Removes the lowest.
    fn take(&mut self) -> Option<u8> {
        if self.low != 0 {
            let bus = self.low.trailing_zeros() as u8;
            self.low &= self.low - 1;
            Some(bus)
        } else if self.high != 0 {
            let bus = self.high.trailing_zeros() as u8 + 128;
            self.high &= self.high - 1;
            Some(bus)
        } else {
            None
        }
    }
}
