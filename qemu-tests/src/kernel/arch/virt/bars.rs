//! Addresses for PCI functions that no firmware gave any: done once, before a function is used.

use log::{info, warn};
use vring::transport::pci;

use super::Firmware;
use crate::kernel::pci::ConfigSpace;

/// Gives an address to each BAR that has none. Bridges are left alone: what is behind one has to
/// have been found and assigned by firmware.
pub(crate) fn assign_bars(firmware: &Firmware, config: &ConfigSpace) {
    let mut windows = firmware.bar_windows.clone();
    let functions = || {
        config
            .functions()
            .filter(|function| function.header_type == 0)
    };
    for function in functions() {
        pci::avoid_bars(config, function.address, &mut windows);
    }
    for function in functions() {
        let address = function.address;
        match pci::assign_bars(config, address, &mut windows) {
            Ok(0) => {}
            Ok(bars) => info!("{address}: {bars} BARs have addresses now"),
            Err(error) => warn!("{address}: {error}"),
        }
    }
}
