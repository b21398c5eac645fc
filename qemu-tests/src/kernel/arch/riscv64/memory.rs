//! The identity map that boot made: it has all that the machine has, and is not changed.

use core::ops::Range;

/// Memory that can be executed and has the gap below the stack: the machine may have more.
pub(crate) const RAM: Range<u64> = 2 << 30..3 << 30;

/// The end of what is mapped.
pub(crate) const HIGHEST: u64 = 256 << 30;

/// As many addresses that are mapped nowhere: the upper half of the address space.
pub(crate) const UNMAPPED: usize = 0xffff_ffc0_0000_0000;

/// Makes sure that `len` bytes of device registers are reachable at their own address.
pub(crate) fn map_device(address: u64, len: u64) {
    assert!(
        address.saturating_add(len) <= HIGHEST,
        "no device of this machine is at {address:#x} ({len:#x} bytes)"
    );
}

/// Boot left the block below the stack unmapped.
pub(crate) fn guard_boot_stack() {}
