//! x86_64: QEMU's q35, pc and microvm, entered by the PVH protocol, described by ACPI, or in the
//! case of microvm by the kernel's command line.

mod acpi;
mod boot;
mod exceptions;
mod gdt;
mod io_apic;
mod legacy_pic;
mod local_apic;
mod pit;
mod processors;
mod uart;

pub(crate) mod clock;
pub(crate) mod cpu;
pub(crate) mod memory;
pub(crate) mod timer;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::RangeInclusive;

use log::warn;
use vring::transport::mmio::{self, Line, Window};
use vring::transport::pci::{
    Address, Bar, BarWindow, ConfigAccess, Message, NativePorts, PortIo, Ports,
};
use vring_protocol::DEBUG_EXIT_PORT;
use x86_64::instructions::port::Port;

use crate::kernel::Machine;
use crate::kernel::device_interrupts::InterruptError;
use crate::kernel::interrupts::Vector;
use crate::kernel::pci::ConfigSpace;

pub(crate) use acpi::Firmware;
pub(crate) use boot::BootInfo;
pub(crate) use processors::{message_on, start_processors, wake};
pub(crate) use uart::{Console, console};

/// The architecture's name in the protocol.
pub(crate) const NAME: &str = "x86_64";

/// The first vector that is not an exception.
const FIRST_VECTOR: u8 = 32;

/// Where the masked 8259s would deliver, should they ever: 16 vectors that are left alone.
const LEGACY_VECTOR: u8 = FIRST_VECTOR;

/// The local APIC's spurious interrupt, which must not be acknowledged.
const SPURIOUS_VECTOR: u8 = 255;

/// The vectors that are handed out, by the processor's own numbers.
pub(crate) const VECTORS: RangeInclusive<u8> = LEGACY_VECTOR + 16..=SPURIOUS_VECTOR - 1;

/// From here on a fault ends the run with a failed check.
pub(crate) fn init_exceptions() {
    gdt::init(0);
    cpu::set_index(0);
    exceptions::init();
}

/// Takes over the interrupt controllers, everything masked.
pub(crate) fn init_interrupts(firmware: &Firmware) {
    legacy_pic::disable();
    local_apic::init(firmware.local_apic);
    io_apic::init(&firmware.io_apics);
}

/// The BIOS has given every PCI function its addresses.
pub(crate) fn assign_bars(_: &Firmware, _: &ConfigSpace) {}

/// The message that raises `vector`: what goes into an entry of an MSI-X table.
pub(crate) fn message(vector: Vector) -> Option<Message> {
    Some(local_apic::message(vector))
}

/// Whether a line that stays up interrupts again.
pub(crate) const LINES_ARE_LEVELS: bool = true;

/// The ISA interrupt that the firmware has the function's INTx pin drive.
pub(crate) fn line_of(machine: &Machine, address: Address) -> Result<u32, InterruptError> {
    let [line, pin, ..] = machine.pci.read32(address, 0x3c).to_le_bytes();
    let exists = pin != 0 && line < 16;
    exists.then_some(line.into()).ok_or(InterruptError::NoLine)
}

/// Has an ISA interrupt that PCI functions use, or the line of a device over MMIO, raise `vector`.
pub(crate) fn route(machine: &Machine, line: u32, vector: Vector) -> Result<(), InterruptError> {
    let routed = io_apic::route(&machine.firmware, line, vector);
    routed
        .then_some(())
        .ok_or(InterruptError::Unrouted { line })
}

/// Raises `vector` on this processor, which takes it as it does a device's.
pub(crate) fn raise(vector: Vector) -> bool {
    local_apic::raise(vector);
    true
}

/// The input that the line of a device over MMIO reaches.
pub(crate) fn line_of_window(line: Line) -> Option<u32> {
    Some(line.number)
}

/// The windows of registers that the command line tells of.
pub(crate) fn mmio_windows(_: &Firmware, command_line: &str) -> Vec<Window> {
    let found = mmio::command_line(command_line);
    let usable = found.filter_map(|found| found.map_err(|why| warn!("{why}")).ok());
    usable.map(|device| device.window).collect()
}

/// Addresses that the host bridge passes on and nothing has: those below all that the firmware gave
/// away, as it begins at the top. That is so with SeaBIOS; the bridge's own word on it is in AML.
pub(crate) fn bar_windows(machine: &Machine) -> Vec<BarWindow> {
    const SIZE: u64 = 1 << 20;
    let bars = machine.functions_with_bars().flat_map(|function| {
        (0..6).filter_map(
            move |bar| match Bar::read(machine.pci, function.address, bar) {
                Ok(Bar::Memory { address, .. }) => Some(address),
                _ => None,
            },
        )
    });
    match bars.min() {
        Some(lowest) if lowest > SIZE => vec![BarWindow::memory(lowest - SIZE, SIZE)],
        _ => Vec::new(),
    }
}

/// Registers of an I/O BAR.
pub(crate) type IoRegisters = Ports;

/// So many ports; `None` for those below 4096, where the devices of old are.
pub(crate) fn io_registers(_: &Firmware, port: u32, len: usize) -> Option<IoRegisters> {
    let (first, len) = (u16::try_from(port).ok()?, u16::try_from(len).ok()?);
    // SAFETY: ring 0; the ports are asked for by the one transport of the device.
    (first >= 0x1000).then(|| unsafe { Ports::new(first, len) })
}

/// Configuration space behind the ports 0xcf8 and 0xcfc.
pub(crate) fn config_ports() -> Option<Box<dyn ConfigAccess + Send + Sync>> {
    // SAFETY: a PC; the kernel uses these ports only through this value, which it asks for once.
    let ports = unsafe { NativePorts::new() };
    Some(Box::new(PortIo::new(ports)))
}

/// Ends QEMU. Without the exit device the processor halts for good.
pub(crate) fn exit(code: u8) -> ! {
    let mut port = Port::<u8>::new(DEBUG_EXIT_PORT);
    // SAFETY: the port is the exit device's or nobody's.
    unsafe { port.write(code) };
    cpu::disable_interrupts();
    loop {
        x86_64::instructions::hlt();
    }
}
