//! Which input of the interrupt controller an INTx pin drives: the `interrupt-map` of a PCI host
//! bridge (Devicetree Specification, 2.4.4).
//!
//! ```text
//! | function (3 cells) | pin (1) | controller (1) | its unit address (n) | its specifier (m) |
//! ```
//!
//! `n` and `m` are the controller's `#address-cells` and `#interrupt-cells`.

use alloc::vec::Vec;

use dtoolkit::fdt::Fdt;
use vring::transport::pci::Address;

use super::tree::{self, Node};

/// An input as its controller numbers it: up to three cells.
pub(crate) type Specifier = [u32; 3];

#[derive(Clone, Debug)]
struct Entry {
    function: u32,
    pin: u32,
    specifier: Specifier,
}

/// The whole map of a host bridge.
#[derive(Clone, Debug, Default)]
pub(super) struct InterruptMap {
    function_mask: u32,
    pin_mask: u32,
    entries: Vec<Entry>,
}

impl InterruptMap {
    /// Reads the map of `bridge`, up to the first entry that makes no sense.
    pub(super) fn read(tree: Fdt<'static>, bridge: &Node) -> Self {
        let mut mask = tree::cells(bridge, "interrupt-map-mask");
        let mut map = Self {
            function_mask: mask.next().unwrap_or(0),
            pin_mask: mask.nth(2).unwrap_or(0),
            entries: Vec::new(),
        };
        let mut cells = tree::cells(bridge, "interrupt-map");
        while let Some(entry) = next_entry(tree, &mut cells) {
            map.entries.push(entry);
        }
        map
    }

    /// The input for a pin (1 is INTA) of a function.
    pub(super) fn line(&self, address: Address, pin: u8) -> Option<Specifier> {
        let function = u32::from(address.bus()) << 16
            | u32::from(address.device()) << 11
            | u32::from(address.function()) << 8;
        let found = self.entries.iter().find(|entry| {
            entry.function == function & self.function_mask
                && entry.pin == u32::from(pin) & self.pin_mask
        });
        found.map(|entry| entry.specifier)
    }
}

fn next_entry(tree: Fdt<'static>, cells: &mut impl Iterator<Item = u32>) -> Option<Entry> {
    let function = cells.next()?;
    let pin = cells.nth(2)?;
    let handle = cells.next()?;
    let is_it = |node: &Node| tree::cell(node, "phandle") == Some(handle);
    let controller = tree::find(tree.root(), &is_it)?;
    for _ in 0..tree::cell(&controller, "#address-cells").unwrap_or(0) {
        cells.next()?;
    }
    let mut specifier = [0; 3];
    let len = tree::cell(&controller, "#interrupt-cells")? as usize;
    for cell in specifier.get_mut(..len)? {
        *cell = cells.next()?;
    }
    Some(Entry {
        function,
        pin,
        specifier,
    })
}
