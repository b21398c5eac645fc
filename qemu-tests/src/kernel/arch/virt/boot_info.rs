//! What the boot loader left: a device tree, and what is written into it about memory.

use alloc::string::String;
use alloc::vec::Vec;
use core::array;
use core::ops::Range;

use dtoolkit::fdt::Fdt;
use dtoolkit::{Node as _, Property as _};

use super::tree;
use crate::kernel::arch::memory::RAM;
use crate::kernel::memory;

/// Pieces of memory that are not free.
const TAKEN: usize = 16;

/// The device tree, where the boot loader put it.
pub(crate) struct BootInfo {
    pub(super) tree: Fdt<'static>,
}

impl BootInfo {
    /// Reads the tree's header.
    ///
    /// # Safety
    /// `address` is where the boot loader put a device tree, in memory that is mapped to itself.
    pub(crate) unsafe fn read(address: usize) -> Self {
        // SAFETY: the caller's word; the heap leaves it alone.
        let tree = unsafe { Fdt::from_raw(address as *const u8) };
        let tree = tree.unwrap_or_else(|error| panic!("no device tree at {address:#x}: {error}"));
        Self { tree }
    }

    /// A copy of the kernel command line.
    pub(crate) fn command_line(&self) -> String {
        let chosen = self.tree.find_node("/chosen");
        let line = chosen.and_then(|chosen| chosen.property("bootargs"));
        line.and_then(|line| line.as_str().ok())
            .map_or(String::new(), String::from)
    }

    fn ranges(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let nodes = self.tree.root().children();
        let memory = nodes.filter(|node| node.name_without_address() == "memory");
        memory.flat_map(|node| tree::ranges(&node))
    }

    /// All memory that there is, as a list.
    pub(crate) fn ram(&self) -> Vec<Range<u64>> {
        self.ranges().collect()
    }

    /// What is not free though it may be below the end of memory: reserved, or the tree itself.
    fn reserved(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let block = self.tree.memory_reservations();
        let block =
            block.map(|range| range.address()..range.address().saturating_add(range.size()));
        let nodes = self.tree.find_node("/reserved-memory");
        let nodes = nodes.into_iter().flat_map(|node| node.children());
        let nodes = nodes.flat_map(|node| tree::ranges(&node));
        let tree = self.tree.data().as_ptr_range();
        let tree = tree.start.addr() as u64..tree.end.addr() as u64;
        block.chain(nodes).chain([tree])
    }

    /// The largest piece of the memory that boot mapped and that nothing occupies.
    ///
    /// What lies below the kernel is left alone: the firmware is there, and the gap below the stack.
    pub(crate) fn largest_free_range(&self) -> Range<u64> {
        let not_mapped = [0..RAM.start, RAM.end..u64::MAX];
        let image = 0..memory::kernel_image().end;
        let mut all = self.reserved().chain(not_mapped).chain([image]);
        let taken: [_; TAKEN] = array::from_fn(|_| all.next().unwrap_or(0..0));
        assert!(all.next().is_none(), "more than {TAKEN} reservations");
        memory::largest_free(self.ranges(), &taken)
    }
}
