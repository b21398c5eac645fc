//! The incoming message-signaled interrupt controller (RISC-V Advanced Interrupt Architecture,
//! chapter 3): a write of an interrupt's number to this hart's page raises that interrupt.
//!
//! The kernel's vectors are the controller's numbers.

use core::arch::asm;

use dtoolkit::fdt::Fdt;
use spin::Once;
use vring::transport::pci::Message;

use super::SUPERVISOR_EXTERNAL;
use crate::kernel::arch::virt::{registers::Registers, tree};
use crate::kernel::interrupts::{self, Vector};

// Registers behind `siselect` and `sireg`.
const DELIVERY: usize = 0x70;
const THRESHOLD: usize = 0x72;
/// 32 interrupts a register; of 64-bit harts only the even ones exist, with 64 each.
const ENABLE: usize = 0xc0;

/// What the device tree says.
#[derive(Clone, Debug)]
pub(super) struct Described {
    /// The first hart's page.
    page: u64,
    /// The highest interrupt.
    last: u32,
}

impl Described {
    pub(super) fn read(tree: Fdt<'static>) -> Option<Self> {
        // There is one for machine mode too.
        let node = tree::compatible(tree, "riscv,imsics", &|node| {
            tree::cells(node, "interrupts-extended").nth(1) == Some(SUPERVISOR_EXTERNAL)
        })?;
        Some(Self {
            page: tree::ranges(&node).next()?.start,
            last: tree::cell(&node, "riscv,num-ids")?,
        })
    }
}

static IMSIC: Once<Described> = Once::new();

/// Turns delivery on, every interrupt disabled.
pub(super) fn init(described: &Described) {
    IMSIC.call_once(|| {
        for first in (0..=described.last as usize).step_by(64) {
            write(ENABLE + first / 32, 0);
        }
        write(THRESHOLD, 0);
        write(DELIVERY, 1);
        described.clone()
    });
}

fn select(register: usize) {
    // SAFETY: `siselect` only says which register `sireg` is; an interrupt does not change it.
    unsafe { asm!("csrw 0x150, {}", in(reg) register, options(nomem, nostack)) };
}

fn read(register: usize) -> usize {
    select(register);
    let value;
    // SAFETY: the hart has the controller, so the register exists; reading it changes nothing.
    unsafe { asm!("csrr {}, 0x151", out(reg) value, options(nomem, nostack)) };
    value
}

fn write(register: usize, value: usize) {
    select(register);
    // SAFETY: the hart has the controller, and this module knows what its registers do.
    unsafe { asm!("csrw 0x151, {}", in(reg) value, options(nostack)) };
}

/// The message that raises `vector`: what goes into an entry of an MSI-X table.
pub(super) fn message(vector: Vector) -> Option<Message> {
    let imsic = IMSIC.get()?;
    let number = u32::from(vector.number());
    if number > imsic.last {
        return None;
    }
    let register = ENABLE + 2 * (number as usize / 64);
    write(register, read(register) | 1 << (number % 64));
    // SAFETY: the hart's page, by the device tree's word: writing there raises an interrupt.
    Some(unsafe { Message::new(imsic.page, number) })
}

/// Raises `vector` as a device would; whether there is such a controller.
pub(super) fn raise(vector: Vector) -> bool {
    let Some(imsic) = IMSIC.get() else {
        return false;
    };
    // SAFETY: the hart's page, by the device tree's word: writing a number raises an interrupt.
    let page = unsafe { Registers::new(imsic.page, 4096) };
    page.write(0, vector.number().into());
    true
}

/// Takes everything that is pending.
pub(super) fn handle() {
    if IMSIC.get().is_none() {
        return;
    }
    loop {
        let top: usize;
        // SAFETY: `stopei` exists where the controller does; the write claims what was read.
        unsafe { asm!("csrrw {}, 0x15c, zero", out(reg) top, options(nostack)) };
        match (top >> 16) as u8 {
            0 => return,
            vector => interrupts::dispatch(vector),
        }
    }
}
