//! The kernel proper, in the order in which [`main`] brings it up.

mod acpi;
mod boot;
mod exceptions;
mod exit;
mod gdt;
mod heap;
mod io_apic;
mod legacy_pic;
mod local_apic;
mod paging;
mod pit;

pub(crate) mod clock;
pub(crate) mod device_interrupts;
pub(crate) mod idle;
pub(crate) mod interrupts;
pub(crate) mod pci;
pub(crate) mod platform;
pub(crate) mod serial;

use alloc::vec::Vec;
use core::ops::Range;

use log::info;
use vring_protocol::{Event, Options, VERSION};

use crate::report::{self, Report};
use crate::suites;
use acpi::Firmware;
use pci::ConfigSpace;

/// What bring-up found out and the suites use.
pub(crate) struct Machine {
    /// What the ACPI tables said.
    pub(crate) firmware: Firmware,
    /// All memory that there is: what is elsewhere may be a device's.
    pub(crate) ram: Vec<Range<u64>>,
    /// PCI configuration space.
    pub(crate) pci: ConfigSpace,
    /// Bytes of heap at boot.
    pub(crate) heap_bytes: usize,
}

/// Called by the boot code on the boot stack, with the physical address of the start info.
extern "C" fn main(start_info: u32) -> ! {
    serial::init();
    gdt::init();
    exceptions::init();

    // SAFETY: the boot code passes on what the firmware gave it.
    let boot = unsafe { boot::BootInfo::read(start_info) };
    let heap_bytes = heap::init(&boot);
    paging::guard_boot_stack();
    clock::init();

    // Nothing of the boot information is used after the heap may have overwritten it.
    let command_line = boot.command_line();
    let firmware = Firmware::read(boot.rsdp);
    legacy_pic::disable();
    local_apic::init(firmware.local_apic);
    io_apic::init(&firmware.io_apics);
    idle::init();
    x86_64::instructions::interrupts::enable();
    info!("command line: {command_line}");
    info!("heap: {} MiB", heap_bytes >> 20);

    let machine = Machine {
        ram: boot.ram(),
        pci: ConfigSpace::new(&firmware.ecam),
        firmware,
        heap_bytes,
    };
    report::event(&Event::Hello {
        version: VERSION,
        arch: "x86_64".into(),
        pci_access: machine.pci.name().into(),
    });
    let mut report = Report::new();
    match Options::parse(&command_line) {
        Ok(options) => suites::run(&machine, &options, &mut report),
        Err(word) => report.fail(
            "command_line",
            "words that the protocol knows",
            &word,
            "qemu-tests/protocol/src/lib.rs",
        ),
    }
    exit::with(report.finish())
}
