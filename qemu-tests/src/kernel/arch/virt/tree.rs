//! Looking things up in the device tree.

use core::ops::Range;

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node as _, Property as _};

/// A node.
pub(crate) type Node = FdtNode<'static>;

/// The first node for which `matches` says so, parents before children.
pub(crate) fn find(node: Node, matches: &dyn Fn(&Node) -> bool) -> Option<Node> {
    if matches(&node) {
        return Some(node);
    }
    node.children().find_map(|child| find(child, matches))
}

/// The first node that claims to be compatible with `name`, and for which `matches` says so.
pub(crate) fn compatible(
    tree: Fdt<'static>,
    name: &str,
    matches: &dyn Fn(&Node) -> bool,
) -> Option<Node> {
    find(tree.root(), &|node: &Node| {
        is_compatible(node, name) && matches(node)
    })
}

fn is_compatible(node: &Node, name: &str) -> bool {
    let property = node.property("compatible");
    property.is_some_and(|property| property.as_str_list().any(|known| known == name))
}

/// The cells of a property; none when it is absent.
pub(crate) fn cells(node: &Node, property: &str) -> impl Iterator<Item = u32> + use<> {
    let property = node.property(property);
    let value = property.map_or(&[][..], |property| property.value());
    let cells = value.chunks_exact(4);
    cells.map(|cell| u32::from_be_bytes([cell[0], cell[1], cell[2], cell[3]]))
}

/// A property of one cell.
pub(crate) fn cell(node: &Node, property: &str) -> Option<u32> {
    cells(node, property).next()
}

/// The first two cells as one number.
pub(crate) fn wide(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// The address ranges of a node whose parent gives addresses and sizes two cells each, as the root
/// and the buses of these machines do.
pub(crate) fn ranges(node: &Node) -> impl Iterator<Item = Range<u64>> + use<> {
    let mut cells = cells(node, "reg");
    core::iter::from_fn(move || {
        let start = wide(cells.next()?, cells.next()?);
        let size = wide(cells.next()?, cells.next()?);
        Some(start..start.saturating_add(size))
    })
}
