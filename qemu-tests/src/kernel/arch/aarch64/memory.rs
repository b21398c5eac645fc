//! The identity map that boot made: it has all that the machine has, and is not changed.

use core::ops::Range;

/// Memory that is mapped: the machine may have more.
pub(crate) const RAM: Range<u64> = 1 << 30..2 << 30;

/// The end of what is mapped.
pub(crate) const HIGHEST: u64 = 1 << 40;

/// As many addresses that are mapped nowhere: boot made no table for them.
pub(crate) const UNMAPPED: usize = 1 << 46;

/// Device memory that is mapped, below and above memory.
const DEVICES: [Range<u64>; 2] = [0..RAM.start, 256 << 30..HIGHEST];

/// Makes sure that `len` bytes of device registers are reachable at their own address.
pub(crate) fn map_device(address: u64, len: u64) {
    let mapped = DEVICES
        .iter()
        .any(|range| range.contains(&address) && address.saturating_add(len) <= range.end);
    assert!(
        mapped,
        "no device of this machine is at {address:#x} ({len:#x} bytes)"
    );
}

/// Boot left the block below the stack unmapped.
pub(crate) fn guard_boot_stack() {}
