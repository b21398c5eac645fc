//! The windows of registers in which virtio devices may be, from the device tree.

use alloc::vec::Vec;

use dtoolkit::fdt::Fdt;
use dtoolkit::{Node as _, Property as _};
use log::warn;
use vring::transport::mmio::{self, Window};

use super::tree::{self, Node};

/// Every window, in the tree's order.
pub(super) fn windows(tree: Fdt<'static>) -> Vec<Window> {
    let mut found = Vec::new();
    below(tree, tree.root(), &mut found);
    found
}

fn below(tree: Fdt<'static>, parent: Node, found: &mut Vec<Window>) {
    for node in parent.children() {
        match window(tree, &parent, &node) {
            Ok(Some(window)) => found.push(window),
            Ok(None) => {}
            Err(why) => warn!("{}: {why}", node.name()),
        }
        below(tree, node, found);
    }
}

/// The node's window, if it is one of a virtio device. Buses of these machines have empty `ranges`.
fn window(
    tree: Fdt<'static>,
    parent: &Node,
    node: &Node,
) -> Result<Option<Window>, mmio::NodeError> {
    let bytes = |property| {
        let property = node.property(property);
        property.map_or(&[][..], |property| property.value())
    };
    let cells = |name, usual| tree::cell(parent, name).unwrap_or(usual) as usize;
    if !matches!(bytes("status"), b"" | b"okay\0") {
        return Ok(None);
    }
    let node = mmio::Node {
        compatible: bytes("compatible"),
        reg: bytes("reg"),
        interrupts: bytes("interrupts"),
        address_cells: cells("#address-cells", 2),
        size_cells: cells("#size-cells", 1),
        interrupt_cells: interrupt_cells(tree, parent, node).unwrap_or(0),
    };
    node.window()
}

/// `#interrupt-cells` of the controller that the node names, or one that is around it.
fn interrupt_cells(tree: Fdt<'static>, parent: &Node, node: &Node) -> Option<usize> {
    let root = tree.root();
    let mut around = [node, parent, &root].into_iter();
    let handle = around.find_map(|node| tree::cell(node, "interrupt-parent"))?;
    let is_it = |node: &Node| tree::cell(node, "phandle") == Some(handle);
    let controller = tree::find(tree.root(), &is_it)?;
    Some(tree::cell(&controller, "#interrupt-cells")? as usize)
}
