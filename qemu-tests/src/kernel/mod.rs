//! The kernel proper, in the order in which [`run`] brings it up.

mod exit;
mod heap;
mod memory;

pub(crate) mod access;
pub(crate) mod arch;
pub(crate) mod clock;
pub(crate) mod device_interrupts;
pub(crate) mod executor;
pub(crate) mod idle;
pub(crate) mod interrupts;
pub(crate) mod mmio;
pub(crate) mod pci;
pub(crate) mod platform;
pub(crate) mod serial;
pub(crate) mod smp;
pub(crate) mod transports;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use log::info;
use vring::transport::mmio::Window;
use vring_protocol::{Event, Options, VERSION};

use crate::report::{self, Report};
use crate::suites;
use arch::{BootInfo, Firmware};
use pci::ConfigSpace;

/// What bring-up found out and the suites use.
pub(crate) struct Machine {
    /// What the firmware said.
    pub(crate) firmware: Firmware,
    /// All memory that there is: what is elsewhere may be a device's.
    pub(crate) ram: Vec<Range<u64>>,
    /// PCI configuration space.
    pub(crate) pci: &'static ConfigSpace,
    /// Windows of registers in which virtio devices may be.
    pub(crate) windows: Vec<Window>,
    /// Bytes of heap at boot.
    pub(crate) heap_bytes: usize,
    /// What came of starting other processors.
    pub(crate) started: smp::Started,
}

/// Whether the firmware described what this kernel needs.
pub(crate) struct FirmwareCheck {
    /// Name of the check.
    pub(crate) name: &'static str,
    /// Whether it did.
    pub(crate) complete: bool,
    /// What is needed.
    pub(crate) expected: &'static str,
    /// What was described.
    pub(crate) seen: String,
    /// Where to look.
    pub(crate) hint: &'static str,
}

/// Called by the architecture's boot code on the boot stack, memory mapped to itself; `boot` reads
/// what the boot loader left.
pub(crate) fn run(boot: impl FnOnce() -> BootInfo) -> ! {
    serial::init();
    arch::init_exceptions();

    let boot = boot();
    let heap_bytes = heap::init(boot.largest_free_range());
    arch::memory::guard_boot_stack();

    // Nothing of the boot information is used after the heap may have overwritten it.
    let command_line = boot.command_line();
    let ram = boot.ram();
    let firmware = Firmware::read(&boot);
    clock::init(arch::clock::frequency(&firmware));
    arch::init_interrupts(&firmware);
    idle::init();
    arch::cpu::enable_interrupts();
    let started = arch::start_processors(&firmware, &ram);
    info!("command line: {command_line}");
    info!("heap: {} MiB", heap_bytes >> 20);
    info!("processors: {} of {}", started.running, started.described);

    let options = Options::parse(&command_line);
    let mut pci = ConfigSpace::new(&firmware.ecam);
    if options.as_ref().is_ok_and(|options| options.own_pci_stack) {
        pci = pci.by_functions();
    }
    arch::assign_bars(&firmware, &pci);
    let machine = Machine {
        ram,
        pci: Box::leak(Box::new(pci)),
        windows: arch::mmio_windows(&firmware, &command_line),
        firmware,
        heap_bytes,
        started,
    };
    report::event(&Event::Hello {
        version: VERSION,
        arch: arch::NAME.into(),
        pci_access: machine.pci.name().into(),
    });
    let mut report = Report::new();
    match options {
        Ok(options) => suites::run(&machine, &options, &mut report),
        Err(word) => report.fail(
            "command_line",
            "words that the protocol knows",
            &word,
            "qemu-tests/protocol/src/lib.rs",
        ),
    }
    arch::exit(report.finish())
}
