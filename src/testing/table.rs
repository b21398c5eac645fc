//! Which memory is behind which bus address.
//!
//! Addresses lie above 4 GiB, so that a truncated one is noticed, are never used twice, so that a
//! stale one is noticed, and have a gap behind them, so that an overrun is noticed.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::alloc::Layout;

use super::books::Counts;
use super::bus::BusFault;
use super::memory::{Block, Lent, Words};
use crate::platform::{Direction, DmaAddr};

/// The first bus address.
const FIRST: u64 = 0xa5_0000_0000;
/// Addresses between two entries that belong to nobody.
const GAP: u64 = 4096;

/// What is behind an address.
pub(super) enum Memory {
    /// Allocated by the driver, for both sides.
    Shared(Arc<Block>),
    /// A copy of a buffer; the buffer itself is kept for the way back.
    Bounced(Arc<Block>, Lent),
    /// The buffer itself, until it is unmapped.
    InPlace(Lent),
    /// The buffer itself, until the device returns it: nobody unmaps it.
    Leased(Lent),
}

pub(super) struct Entry {
    pub(super) memory: Memory,
    pub(super) len: usize,
    /// Which way the device may use it; `None` for both.
    pub(super) direction: Option<Direction>,
    pub(super) token: usize,
}

#[derive(Default)]
pub(super) struct Table {
    entries: BTreeMap<u64, Entry>,
    next: u64,
    pub(super) counts: Counts,
    /// Maps and allocations that still succeed before one fails.
    pub(super) fail_map: Option<u32>,
    pub(super) fail_alloc: Option<u32>,
}

impl Table {
    /// Enters memory at a new address with that alignment and no larger one, `low` bytes further.
    pub(super) fn insert(&mut self, mut entry: Entry, align: u64, low: u64) -> (DmaAddr, usize) {
        let base = self.next.max(FIRST).next_multiple_of(align * 2) + align + low;
        self.next = base + entry.len as u64 + GAP;
        self.counts.addresses += 1;
        entry.token = self.counts.addresses;
        let token = entry.token;
        self.entries.insert(base, entry);
        (DmaAddr(base), token)
    }

    /// The entry that starts at this address.
    pub(super) fn get(&self, addr: DmaAddr) -> Option<&Entry> {
        self.entries.get(&addr.0)
    }

    pub(super) fn remove(&mut self, addr: DmaAddr) -> Option<Entry> {
        self.entries.remove(&addr.0)
    }

    /// Ends the lease that holds this address, if a lease is what is there.
    pub(super) fn end_lease(&mut self, addr: DmaAddr) {
        if let Some((&base, entry)) = self.entries.range(..=addr.0).next_back()
            && matches!(entry.memory, Memory::Leased(_))
        {
            self.entries.remove(&base);
        }
    }

    /// Finds `len` bytes at `addr`: the entry, and where in it they are.
    pub(super) fn find(&self, addr: DmaAddr, len: usize) -> Result<(&Entry, usize), BusFault> {
        let gone = || match addr.0 >= FIRST && addr.0 < self.next {
            true => BusFault::Freed { addr, len },
            false => BusFault::Wild { addr, len },
        };
        let (&base, entry) = self.entries.range(..=addr.0).next_back().ok_or_else(gone)?;
        // The entry is in memory, so its length and any offset into it fit a `usize`.
        let offset = addr.0 - base;
        if offset >= entry.len as u64 {
            return Err(gone());
        }
        let offset = offset as usize;
        let room = entry.len - offset;
        if len > room {
            return Err(BusFault::Overrun { addr, len, room });
        }
        Ok((entry, offset))
    }

    /// As [`find`](Self::find), for memory that the device may use in this direction.
    pub(super) fn find_for(
        &self,
        addr: DmaAddr,
        len: usize,
        direction: Direction,
    ) -> Result<(&Entry, usize), BusFault> {
        let found = self.find(addr, len)?;
        match found.0.direction {
            Some(allowed) if allowed != direction => Err(BusFault::Direction { addr, allowed }),
            _ => Ok(found),
        }
    }

    /// The words of an area that the driver allocated.
    pub(super) fn words(&self, addr: DmaAddr, len: usize) -> Result<Words, BusFault> {
        let (entry, offset) = self.find(addr, len)?;
        match &entry.memory {
            Memory::Shared(block) => Ok(Words::new(Arc::clone(block), offset, len)),
            _ => Err(BusFault::NotShared { addr }),
        }
    }

    /// The layout of what was allocated at this address, if anything was.
    pub(super) fn layout(&self, addr: DmaAddr) -> Option<Layout> {
        match &self.get(addr)?.memory {
            Memory::Shared(block) => Some(block.layout()),
            _ => None,
        }
    }
}

impl Entry {
    pub(super) fn new(memory: Memory, len: usize, direction: Option<Direction>) -> Self {
        Self {
            memory,
            len,
            direction,
            token: 0,
        }
    }

    pub(super) fn read(&self, offset: usize, into: &mut [u8]) {
        match &self.memory {
            Memory::Shared(block) | Memory::Bounced(block, _) => block.read(offset, into),
            Memory::InPlace(lent) | Memory::Leased(lent) => lent.read(offset, into),
        }
    }

    pub(super) fn write(&self, offset: usize, bytes: &[u8]) {
        match &self.memory {
            Memory::Shared(block) | Memory::Bounced(block, _) => block.write(offset, bytes),
            Memory::InPlace(lent) | Memory::Leased(lent) => lent.write(offset, bytes),
        }
    }
}
