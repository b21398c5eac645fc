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
pub(crate) mod idle;
pub(crate) mod interrupts;
pub(crate) mod platform;
pub(crate) mod serial;

use log::info;
use vring_protocol::Options;

use crate::{report::Report, suites};
pub(crate) use acpi::Firmware;

/// What bring-up found out and the suites use.
pub(crate) struct Machine {
    /// What the ACPI tables said.
    pub(crate) firmware: Firmware,
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
        firmware,
        heap_bytes,
    };
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
