//! riscv64: QEMU's `virt`, entered in supervisor mode by OpenSBI.
//!
//! It has one of two kinds of interrupt controller. A PLIC takes interrupt lines and no messages; an
//! IMSIC (`-machine virt,aia=aplic-imsic`) takes messages, and lines only through a second
//! controller, which this kernel leaves alone.

mod boot;
mod imsic;
mod plic;
mod traps;
mod uart;

pub(crate) mod clock;
pub(crate) mod cpu;
pub(crate) mod memory;
pub(crate) mod timer;

use core::ops::RangeInclusive;

use dtoolkit::fdt::Fdt;
use riscv::register::sie;
use vring::transport::mmio::Line;
use vring::transport::pci::{Address, Message};

use super::virt::{self, tree};
use crate::kernel::Machine;
use crate::kernel::device_interrupts::InterruptError;
use crate::kernel::interrupts::Vector;

pub(crate) use super::virt::{
    BootInfo, Firmware, IoRegisters, assign_bars, bar_windows, config_ports, exit, io_registers,
    message_on, mmio_windows, start_processors, wake,
};
pub(crate) use traps::init as init_exceptions;
pub(crate) use uart::{Console, console};

/// The architecture's name in the protocol.
pub(crate) const NAME: &str = "riscv64";

/// The vectors that are handed out; to an IMSIC they are the numbers of its interrupts.
pub(crate) const VECTORS: RangeInclusive<u8> = 1..=u8::MAX;

/// What the device tree says of interrupts and time.
#[derive(Clone, Debug)]
pub(crate) struct Controllers {
    plic: Option<plic::Described>,
    imsic: Option<imsic::Described>,
    /// Counts a second of the `time` register.
    timebase: u64,
}

impl Controllers {
    /// Looks for a PLIC and an IMSIC.
    pub(crate) fn read(tree: Fdt<'static>) -> Self {
        let cpus = tree.find_node("/cpus");
        let timebase = cpus.and_then(|cpus| tree::cell(&cpus, "timebase-frequency"));
        Self {
            plic: plic::Described::read(tree),
            imsic: imsic::Described::read(tree),
            timebase: timebase.unwrap_or(0).into(),
        }
    }

    /// Whether there is anything that can interrupt.
    pub(crate) fn are_usable(&self) -> bool {
        self.plic.is_some() || self.imsic.is_some()
    }
}

/// A controller's interrupt of a hart: what its `interrupts-extended` says for "external, supervisor
/// mode".
const SUPERVISOR_EXTERNAL: u32 = 9;

/// Takes over the interrupt controllers, everything masked.
pub(crate) fn init_interrupts(firmware: &Firmware) {
    if let Some(described) = &firmware.controllers.plic {
        plic::init(described);
    }
    if let Some(described) = &firmware.controllers.imsic {
        imsic::init(described);
    }
    // SAFETY: the handler is in place, and no handler is a critical section's enemy yet.
    unsafe { sie::set_sext() };
}

/// The message that raises `vector`: what goes into an entry of an MSI-X table.
pub(crate) fn message(vector: Vector) -> Option<Message> {
    imsic::message(vector)
}

/// The PLIC's source that the function's INTx pin drives.
pub(crate) fn line_of(machine: &Machine, address: Address) -> Result<u32, InterruptError> {
    let [line, ..] = virt::specifier_of(machine, address)?;
    Ok(line)
}

/// Whether a line that stays up interrupts again. By its specification a PLIC does that; QEMU's sees
/// lines rise, and forgets one that is still up when its interrupt is completed.
pub(crate) const LINES_ARE_LEVELS: bool = false;

/// Raises `vector`, if it is one of the controller of messages: a PLIC has no way to.
pub(crate) fn raise(vector: Vector) -> bool {
    imsic::raise(vector)
}

/// Has a source of the PLIC raise `vector`.
pub(crate) fn route(_: &Machine, line: u32, vector: Vector) -> Result<(), InterruptError> {
    let routed = plic::enable(line, vector);
    routed
        .then_some(())
        .ok_or(InterruptError::Unrouted { line })
}

/// The source that the line of a device over MMIO is.
pub(crate) fn line_of_window(line: Line) -> Option<u32> {
    Some(line.number)
}

/// Takes what is pending at whatever controller there is.
fn handle_external() {
    plic::handle();
    imsic::handle();
}
