//! Addresses for PCI functions that no firmware gave any.
//!
//! Each window is filled from its start, and each BAR aligned to its own size. Nothing is
//! ever given back: the kernel does this once, before it uses a function.

use alloc::vec::Vec;
use core::ops::Range;

use log::{info, warn};
use vring::transport::pci::{Address, Bar, BarError, ConfigAccess};

use super::Firmware;
use crate::kernel::pci::ConfigSpace;

/// Which addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Space {
    /// I/O ports.
    Io,
    /// Memory.
    Memory,
}

/// Addresses that the host bridge passes on to its bus.
#[derive(Clone, Debug)]
pub(super) struct BarWindow {
    space: Space,
    free: Range<u64>,
}

impl BarWindow {
    /// A window that nothing is in yet. Address 0 is left out: in a BAR it means "none".
    pub(super) fn new(space: Space, window: Range<u64>) -> Self {
        let free = window.start.max(1)..window.end;
        Self { space, free }
    }

    /// Takes `size` bytes, a power of two, that end at or below `limit`.
    fn take(&mut self, size: u64, limit: u64) -> Option<u64> {
        let start = self.free.start.checked_next_multiple_of(size)?;
        let end = start.checked_add(size)?;
        (end <= self.free.end.min(limit)).then(|| {
            self.free.start = end;
            start
        })
    }
}

/// Gives an address to each BAR that has none. Bridges are left alone: what is behind one has to
/// have been found and assigned by firmware.
pub(crate) fn assign_bars(firmware: &Firmware, config: &ConfigSpace) {
    let mut windows: Vec<BarWindow> = firmware.bar_windows.clone();
    let functions: Vec<_> = config.functions().collect();
    for function in functions
        .iter()
        .filter(|function| function.header_type == 0)
    {
        for bar in 0..6 {
            if let Err(BarError::Unassigned { size, .. }) = Bar::read(config, function.address, bar)
            {
                assign_one(config, function.address, bar, size, &mut windows);
            }
        }
    }
}

fn assign_one(
    config: &ConfigSpace,
    function: Address,
    bar: u8,
    size: u64,
    windows: &mut [BarWindow],
) {
    let register = 0x10 + 4 * u16::from(bar);
    let low = config.read32(function, register);
    let space = if low & 1 != 0 {
        Space::Io
    } else {
        Space::Memory
    };
    let wide = space == Space::Memory && low >> 1 & 3 == 2;
    let limit = if wide { u64::MAX } else { 1 << 32 };
    let mut fitting = windows.iter_mut().filter(|window| window.space == space);
    match fitting.find_map(|window| window.take(size, limit)) {
        Some(start) => {
            config.write32(function, register, start as u32);
            if wide {
                config.write32(function, register + 4, (start >> 32) as u32);
            }
            info!("{function}: BAR {bar}: {size:#x} bytes at {start:#x} ({space:?})");
        }
        None => warn!("{function}: BAR {bar}: no room for {size:#x} bytes ({space:?})"),
    }
}
