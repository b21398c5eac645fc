//! aarch64: QEMU's `virt`, entered at EL1, with a GICv2 that takes messages (GICv2m).

mod boot;
mod exceptions;
mod gic;
mod uart;

pub(crate) mod clock;
pub(crate) mod cpu;
pub(crate) mod memory;
pub(crate) mod timer;

use core::ops::RangeInclusive;

use arm_gic::{IntId, Trigger};
use vring::transport::mmio::Line;
use vring::transport::pci::Address;

use super::virt;
use crate::kernel::Machine;
use crate::kernel::device_interrupts::InterruptError;
use crate::kernel::interrupts::Vector;

pub(crate) use super::virt::{
    BootInfo, Firmware, IoRegisters, assign_bars, bar_windows, config_ports, exit, io_registers,
    message_on, mmio_windows, start_processors, wake,
};
pub(crate) use exceptions::init as init_exceptions;
pub(crate) use gic::{Controllers, message, raise};
pub(crate) use uart::{Console, console};

/// The architecture's name in the protocol.
pub(crate) const NAME: &str = "aarch64";

/// The vectors that are handed out: `gic` says which interrupt has which.
pub(crate) const VECTORS: RangeInclusive<u8> = 1..=u8::MAX;

/// Takes over the interrupt controller, everything masked.
pub(crate) fn init_interrupts(firmware: &Firmware) {
    gic::init(&firmware.controllers);
}

/// Whether a line that stays up interrupts again.
pub(crate) const LINES_ARE_LEVELS: bool = true;

/// The shared peripheral interrupt that the function's INTx pin drives.
pub(crate) fn line_of(machine: &Machine, address: Address) -> Result<u32, InterruptError> {
    // Of the GIC's three cells the first is 0 for a shared interrupt, the second its number.
    let [kind, line, _] = virt::specifier_of(machine, address)?;
    let shared = kind == 0;
    shared
        .then_some(line)
        .ok_or(InterruptError::Unrouted { line })
}

/// Has a shared peripheral interrupt raise `vector`.
pub(crate) fn route(_: &Machine, line: u32, vector: Vector) -> Result<(), InterruptError> {
    let in_range = line < IntId::MAX_SPI_COUNT;
    let routed = in_range && gic::enable(IntId::spi(line), Trigger::Level, vector);
    routed
        .then_some(())
        .ok_or(InterruptError::Unrouted { line })
}

/// The input that the line of a device over MMIO reaches: a shared interrupt. The device asserts it
/// until it is acknowledged, so it is a level, whatever the tree says of it.
pub(crate) fn line_of_window(line: Line) -> Option<u32> {
    line.number.checked_sub(32)
}
