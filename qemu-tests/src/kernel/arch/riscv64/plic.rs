//! The platform-level interrupt controller (RISC-V PLIC Specification): lines to this hart.

use core::ops::Range;
use core::sync::atomic::{AtomicU8, Ordering};

use dtoolkit::fdt::Fdt;
use spin::Once;

use super::SUPERVISOR_EXTERNAL;
use crate::kernel::arch::virt::registers::Registers;
use crate::kernel::arch::virt::tree::{self, Node};
use crate::kernel::interrupts::{self, Vector};

/// Sources that the layout of the registers has room for; source 0 does not exist.
const SOURCES: usize = 1024;

const PRIORITY: usize = 0;
const ENABLE: usize = 0x2000;
const ENABLE_STRIDE: usize = 0x80;
const CONTEXT: usize = 0x20_0000;
const CONTEXT_STRIDE: usize = 0x1000;
const THRESHOLD: usize = 0;
const CLAIM: usize = 4;

/// What the device tree says.
#[derive(Clone, Debug)]
pub(super) struct Described {
    registers: Range<u64>,
    /// Of the contexts, which are harts and their modes, that of the first hart's supervisor mode.
    context: usize,
    /// The highest source.
    last: u32,
}

impl Described {
    pub(super) fn read(tree: Fdt<'static>) -> Option<Self> {
        let node = tree::compatible(tree, "sifive,plic-1.0.0", &|_| true)?;
        Some(Self {
            registers: tree::ranges(&node).next()?,
            context: supervisor_context(&node)?,
            last: tree::cell(&node, "riscv,ndev")?,
        })
    }
}

/// The place of the first supervisor mode among pairs of a hart and its interrupt.
fn supervisor_context(node: &Node) -> Option<usize> {
    let cells = tree::cells(node, "interrupts-extended");
    let mut interrupts = cells.skip(1).step_by(2);
    interrupts.position(|interrupt| interrupt == SUPERVISOR_EXTERNAL)
}

struct Plic {
    registers: Registers,
    enable: usize,
    context: usize,
    last: u32,
}

static PLIC: Once<Plic> = Once::new();

/// Which vector a source has; 0 is none.
static VECTOR_OF: [AtomicU8; SOURCES] = [const { AtomicU8::new(0) }; SOURCES];

/// Disables every source.
pub(super) fn init(described: &Described) {
    PLIC.call_once(|| {
        let Range { start, end } = described.registers;
        let plic = Plic {
            // SAFETY: the device tree's word, and this module is alone with it.
            registers: unsafe { Registers::new(start, end - start) },
            enable: ENABLE + ENABLE_STRIDE * described.context,
            context: CONTEXT + CONTEXT_STRIDE * described.context,
            last: described.last,
        };
        for word in 0..=described.last as usize / 32 {
            plic.registers.write(plic.enable + 4 * word, 0);
        }
        plic.registers.write(plic.context + THRESHOLD, 0);
        plic
    });
}

/// Has a source raise `vector`; whether there is such a source.
#[must_use]
pub(super) fn enable(source: u32, vector: Vector) -> bool {
    let index = source as usize;
    let (Some(plic), Some(vector_of)) = (PLIC.get(), VECTOR_OF.get(index)) else {
        return false;
    };
    if source == 0 || source > plic.last {
        return false;
    }
    vector_of.store(vector.number(), Ordering::Relaxed);
    plic.registers.write(PRIORITY + 4 * index, 1);
    let at = plic.enable + 4 * (index / 32);
    let others = plic.registers.read(at);
    plic.registers.write(at, others | 1 << (source % 32));
    true
}

/// Takes everything that is pending.
pub(super) fn handle() {
    let Some(plic) = PLIC.get() else { return };
    let claim = plic.context + CLAIM;
    loop {
        let source = plic.registers.read(claim);
        if source == 0 {
            return;
        }
        if let Some(vector) = VECTOR_OF.get(source as usize) {
            interrupts::dispatch(vector.load(Ordering::Relaxed));
        }
        plic.registers.write(claim, source);
    }
}
