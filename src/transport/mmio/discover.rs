//! Where the windows are: device tree and ACPI.
//!
//! Neither is read here. A kernel has a reader of its own, and brings what it found in this form.
//!
//! # Device tree
//! A node is one window (VIRTIO 1.4, 4.2.1). QEMU's `virt` machine for aarch64 has 32 of these:
//!
//! ```text
//! / {
//!     #address-cells = <2>;  #size-cells = <2>;
//!     interrupt-parent = <&gic>;                        // #interrupt-cells = <3>
//!     virtio_mmio@a000000 {
//!         compatible = "virtio,mmio";                   // what to look for
//!         reg = <0x0 0xa000000 0x0 0x200>;              // address and length
//!         interrupts = <0 16 1>;                        // shared, number 16, rising edge
//!         dma-coherent;
//!     };
//! ```
//!
//! [`Node`] takes the properties as they are, in any reader's bytes, and the three numbers of cells
//! from the nodes around it. What it does not look at:
//!
//! - `status`: a node that has it, with anything but `okay`, is not to be used.
//! - `ranges` of the buses above the node: where they are not empty, the address is the bus's, and
//!   the reader has to translate it.
//! - `dma-coherent`: with it, the device sees what is in the caches of the CPUs. Without it, on an
//!   architecture where that is not the rule (aarch64; on riscv64 and x86 it is), it sees memory
//!   only: the [`Platform`](crate::Platform) has to hand out memory that is mapped uncached, and to
//!   clean and invalidate caches in `map` and `unmap`.
//!
//! # ACPI
//! A device with the hardware id `LNRO0005`, as QEMU's `microvm` and `virt` machines have them. In
//! its `_CRS`, `Memory32Fixed` is address and length, and `Interrupt` has the number (of a global
//! system interrupt) and how it is signaled: a [`Window`] as it is. `_CCA` of 1 is what
//! `dma-coherent` is above.

use core::fmt;

/// A window of registers, by whoever describes the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// First physical address.
    pub address: u64,
    /// Bytes.
    pub length: u64,
    /// The device's interrupt; `None`: it has none, or none is told of.
    pub interrupt: Option<Line>,
}

/// An interrupt of a device over MMIO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Line {
    /// Its number, as the interrupt controller counts: INTID of a GIC, source of a PLIC, global
    /// system interrupt of ACPI, interrupt of Linux's command line.
    pub number: u32,
    /// How it is signaled, where that is told. The device keeps it asserted until the
    /// [`Isr`](crate::transport::Isr) acknowledges.
    pub trigger: Option<Trigger>,
}

/// How an interrupt is signaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// By becoming high.
    RisingEdge,
    /// By becoming low.
    FallingEdge,
    /// By being high.
    High,
    /// By being low.
    Low,
}

impl Trigger {
    /// From the flags of an interrupt specifier, which are the same for every controller; `None`
    /// where they do not tell one way.
    const fn from_flags(flags: u32) -> Option<Self> {
        match flags & 0xf {
            1 => Some(Self::RisingEdge),
            2 => Some(Self::FallingEdge),
            4 => Some(Self::High),
            8 => Some(Self::Low),
            _ => None,
        }
    }
}

/// What a device tree says of a device: properties as bytes, and how many cells make a number.
///
/// ```
/// use vring::transport::mmio::{Line, Node, Trigger, Window};
///
/// let node = Node {
///     compatible: b"virtio,mmio\0",
///     reg: &[0, 0, 0, 0, 0x0a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0],
///     interrupts: &[0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 1],
///     address_cells: 2,
///     size_cells: 2,
///     interrupt_cells: 3,
/// };
/// let line = Line { number: 48, trigger: Some(Trigger::RisingEdge) };
/// let window = Window { address: 0x0a00_0000, length: 0x200, interrupt: Some(line) };
/// assert_eq!(node.window(), Ok(Some(window)));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// `compatible`: strings, each with a zero behind it.
    pub compatible: &'a [u8],
    /// `reg`.
    pub reg: &'a [u8],
    /// `interrupts`, or `interrupts-extended` without its first cell; empty where the node has
    /// neither.
    pub interrupts: &'a [u8],
    /// `#address-cells` of the parent; 2 where it does not say.
    pub address_cells: usize,
    /// `#size-cells` of the parent; 1 where it does not say.
    pub size_cells: usize,
    /// `#interrupt-cells` of the interrupt controller: 1 and 2 begin with the number, as those of a
    /// PLIC, an APLIC or an I/O APIC; 3 are those of a GIC.
    pub interrupt_cells: usize,
}

/// Why a node of a device tree is no window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NodeError {
    /// Addresses or lengths do not have one or two cells.
    Cells {
        /// `#address-cells`.
        address: usize,
        /// `#size-cells`.
        size: usize,
    },
    /// `reg` is shorter than one address and one length.
    Reg {
        /// Its bytes.
        bytes: usize,
        /// Bytes that are needed.
        needed: usize,
    },
    /// Address and length leave the address space.
    Wraps {
        /// First physical address.
        address: u64,
        /// Bytes.
        length: u64,
    },
    /// `interrupts` is shorter than one interrupt, or `#interrupt-cells` is not 1, 2 or 3.
    Interrupts {
        /// Bytes of `interrupts`.
        bytes: usize,
        /// `#interrupt-cells`.
        cells: usize,
    },
    /// An interrupt of a GIC that is neither shared (0) nor private (1), or has no such number.
    Gic {
        /// The first cell.
        kind: u32,
        /// The second cell.
        number: u32,
    },
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Cells { address, size } => write!(
                f,
                "an address of {address} cells and a length of {size}; each has 1 or 2: take \
                 #address-cells and #size-cells of the parent"
            ),
            Self::Reg { bytes, needed } => write!(
                f,
                "`reg` has {bytes} bytes; an address and a length take {needed}"
            ),
            Self::Wraps { address, length } => write!(
                f,
                "{length:#x} bytes at {address:#x} leave the address space"
            ),
            Self::Interrupts { bytes, cells } => write!(
                f,
                "`interrupts` has {bytes} bytes where one interrupt has {cells} cells of 4; 1, 2 \
                 and 3 cells are known: take #interrupt-cells of the interrupt controller"
            ),
            Self::Gic { kind, number } => write!(
                f,
                "an interrupt <{kind} {number}> of a GIC: 0 is shared, 1 private, and neither has \
                 more than 32 bits"
            ),
        }
    }
}

impl core::error::Error for NodeError {}

impl Node<'_> {
    /// The node's window; `None`, when it is another kind of device.
    ///
    /// # Errors
    /// Any [`NodeError`].
    pub fn window(&self) -> Result<Option<Window>, NodeError> {
        let mut names = self.compatible.split(|&byte| byte == 0);
        if !names.any(|name| name == b"virtio,mmio") {
            return Ok(None);
        }
        let (address, length) = self.place()?;
        // A length of 0 has no last byte, and no room for registers: whoever maps it finds out.
        if address.checked_add(length.saturating_sub(1)).is_none() {
            return Err(NodeError::Wraps { address, length });
        }
        let interrupt = self.line()?;
        Ok(Some(Window {
            address,
            length,
            interrupt,
        }))
    }

    fn place(&self) -> Result<(u64, u64), NodeError> {
        let (address, size) = (self.address_cells, self.size_cells);
        if !matches!((address, size), (1 | 2, 1 | 2)) {
            return Err(NodeError::Cells { address, size });
        }
        let bytes = self.reg.len();
        let needed = 4 * (address + size);
        if bytes < needed {
            return Err(NodeError::Reg { bytes, needed });
        }
        let mut cells = cells(self.reg);
        let mut number = |of: usize| {
            let cells = cells.by_ref().take(of);
            cells.fold(0, |number, cell| number << 32 | u64::from(cell))
        };
        Ok((number(address), number(size)))
    }

    fn line(&self) -> Result<Option<Line>, NodeError> {
        let bytes = self.interrupts.len();
        if bytes == 0 {
            return Ok(None);
        }
        let mut cells = cells(self.interrupts).map(Some).chain([None; 3]);
        let mut next = || cells.next().flatten();
        let specifier = match self.interrupt_cells {
            1 => (next(), Some(0), Some(0)),
            2 => (next(), next(), Some(0)),
            3 => (next(), next(), next()),
            _ => (None, None, None),
        };
        let (Some(first), Some(second), Some(third)) = specifier else {
            let cells = self.interrupt_cells;
            return Err(NodeError::Interrupts { bytes, cells });
        };
        let (number, flags) = match self.interrupt_cells {
            3 => (gic(first, second)?, third),
            _ => (first, second),
        };
        let trigger = Trigger::from_flags(flags);
        Ok(Some(Line { number, trigger }))
    }
}

/// The number that a GIC knows an interrupt by: private ones are 16 to 31, shared ones from 32 on.
fn gic(kind: u32, number: u32) -> Result<u32, NodeError> {
    let base = match kind {
        0 => Some(32),
        1 if number < 16 => Some(16),
        _ => None,
    };
    base.and_then(|base| number.checked_add(base))
        .ok_or(NodeError::Gic { kind, number })
}

/// The big-endian numbers of a property.
fn cells(property: &[u8]) -> impl Iterator<Item = u32> {
    let chunks = property.chunks_exact(4);
    chunks.filter_map(|cell| cell.first_chunk().copied().map(u32::from_be_bytes))
}
