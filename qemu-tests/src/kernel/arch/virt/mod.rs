//! QEMU's `virt` machines: what the one of aarch64 and the one of riscv64 have in common.
//!
//! A device tree describes them, no firmware assigns addresses to PCI functions, and a semihosting
//! call ends the run with an exit status.

mod bars;
mod boot_info;
mod firmware;
mod interrupt_map;
mod mmio;

pub(super) mod registers;
pub(super) mod tree;

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Range;
use core::ptr::NonNull;

use vring::transport::Registers;
use vring::transport::mmio::Window;
use vring::transport::pci::{Address, BarWindow, ConfigAccess, Message};
use vring_protocol::exit_status;

use super::memory;
use crate::kernel::Machine;
use crate::kernel::device_interrupts::InterruptError;
use crate::kernel::interrupts::Vector;
use crate::kernel::smp::Started;

pub(crate) use bars::assign_bars;
pub(crate) use boot_info::BootInfo;
pub(crate) use firmware::Firmware;
pub(super) use interrupt_map::Specifier;

/// The processor that boots is the only one: the others stay off, as the firmware has them.
pub(crate) fn start_processors(_: &Firmware, _: &[Range<u64>]) -> Started {
    Started::ONE
}

/// There is no other processor to wake.
pub(crate) fn wake(_: usize) {}

/// There is no other processor than the first, number 0.
pub(crate) fn message_on(cpu: usize, vector: Vector) -> Option<Message> {
    (cpu == 0).then(|| super::message(vector)).flatten()
}

/// There are no ports here: configuration space is mapped, or there is none.
pub(crate) fn config_ports() -> Option<Box<dyn ConfigAccess + Send + Sync>> {
    None
}

/// Addresses that the host bridge passes on.
pub(crate) fn bar_windows(machine: &Machine) -> Vec<BarWindow> {
    machine.firmware.bar_windows.clone()
}

/// The windows of registers that the device tree tells of.
pub(crate) fn mmio_windows(firmware: &Firmware, _: &str) -> Vec<Window> {
    firmware.mmio.clone()
}

/// Registers of an I/O BAR: the host bridge shows them as memory.
pub(crate) type IoRegisters = Registers;

/// So many of them from a port on; `None` outside of what the host bridge passes on.
pub(crate) fn io_registers(firmware: &Firmware, port: u32, len: usize) -> Option<IoRegisters> {
    let io = firmware.io.as_ref()?;
    let offset = u64::from(port).checked_sub(io.first)?;
    let inside = offset.checked_add(len as u64)? <= io.size;
    let address = io.address.checked_add(offset).filter(|_| inside)?;
    memory::map_device(address, len as u64);
    let base = NonNull::new(address as *mut u8)?;
    // SAFETY: mapped for good, by the device tree's word the ports of PCI, and asked for by the one
    // transport of the device.
    Some(unsafe { Registers::new(base, len) })
}

/// The input of the interrupt controller that the function's INTx pin drives, in its words.
pub(super) fn specifier_of(
    machine: &Machine,
    address: Address,
) -> Result<Specifier, InterruptError> {
    let [_, pin, ..] = machine.pci.read32(address, 0x3c).to_le_bytes();
    let found = machine.firmware.line(address, pin);
    found.filter(|_| pin != 0).ok_or(InterruptError::NoLine)
}

/// Ends QEMU, which has to have semihosting turned on.
pub(crate) fn exit(code: u8) -> ! {
    semihosting::process::exit(exit_status(code))
}
