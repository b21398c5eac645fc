//! What the kernel wants to know from the ACPI tables: where PCI configuration space is mapped
//! (MCFG), and which processors and interrupt controllers there are (MADT).
//!
//! A machine without tables, as microvm with ACPI turned off, has its controllers where every PC has
//! them that does not say otherwise.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use core::pin::Pin;
use core::ptr::NonNull;

use acpi::madt::{Madt, MadtEntry};
use acpi::mcfg::Mcfg;
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};

use super::{BootInfo, local_apic, memory};
use crate::kernel::FirmwareCheck;
use crate::kernel::pci::EcamWindow;

/// An I/O APIC.
#[derive(Clone, Debug)]
pub(crate) struct IoApic {
    /// Physical address of the registers.
    pub(crate) address: u64,
    /// Number of its first input.
    pub(crate) first: u32,
}

/// An input of the I/O APICs, and how it is wired.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    /// The global number.
    pub(crate) number: u32,
    /// Whether a low level asserts it.
    pub(crate) active_low: bool,
}

/// Of a processor's flags.
const PROCESSOR_ENABLED: u32 = 1 << 0;

/// Digest of the tables.
#[derive(Clone, Debug)]
pub(crate) struct Firmware {
    /// Windows onto PCI configuration space; none on machines that only have the ports.
    pub(crate) ecam: Vec<EcamWindow>,
    /// Physical address of the local APIC's registers.
    pub(crate) local_apic: u64,
    /// The I/O APICs.
    pub(crate) io_apics: Vec<IoApic>,
    /// The processors that are there, by the numbers of their local APICs.
    pub(crate) processors: Vec<u32>,
    /// Inputs that differ from the ISA interrupt of the same number.
    overrides: Vec<(u8, Input)>,
}

impl Firmware {
    /// Where the controllers are by default (MultiProcessor Specification, 3.6.5).
    fn without_tables() -> Self {
        const IO_APIC: u64 = 0xfec0_0000;
        Self {
            ecam: Vec::new(),
            local_apic: local_apic::address(),
            io_apics: vec![IoApic {
                address: IO_APIC,
                first: 0,
            }],
            // The one that runs, whose number nobody needs who is alone.
            processors: Vec::new(),
            overrides: Vec::new(),
        }
    }

    /// Reads the tables from the root pointer on.
    pub(crate) fn read(boot: &BootInfo) -> Self {
        let rsdp = boot.rsdp;
        if rsdp == 0 {
            return Self::without_tables();
        }
        // SAFETY: the firmware says that the root pointer is there.
        let tables = unsafe { AcpiTables::from_rsdp(Identity, rsdp as usize) }
            .unwrap_or_else(|error| panic!("no ACPI tables at {rsdp:#x}: {error:?}"));
        let mut firmware = Self {
            ecam: Vec::new(),
            local_apic: 0,
            io_apics: Vec::new(),
            processors: Vec::new(),
            overrides: Vec::new(),
        };
        if let Ok(mcfg) = tables.find_table::<Mcfg>() {
            firmware
                .ecam
                .extend(mcfg.entries().iter().map(|entry| EcamWindow {
                    segment: entry.pci_segment_group,
                    buses: entry.bus_number_start..=entry.bus_number_end,
                    base: entry.base_address,
                }));
        }
        let madt = tables
            .find_table::<Madt>()
            .unwrap_or_else(|error| panic!("no interrupt controllers in ACPI: {error:?}"));
        firmware.local_apic = u64::from(madt.get().local_apic_address);
        firmware.add_controllers(madt.get());
        firmware
    }

    /// What the suites check of it.
    pub(crate) fn check(&self) -> FirmwareCheck {
        FirmwareCheck {
            name: "boot_acpi",
            complete: self.local_apic != 0 && !self.io_apics.is_empty(),
            expected: "a local APIC and an I/O APIC",
            seen: format!("{self:x?}"),
            hint: "qemu-tests/src/kernel/arch/x86_64/acpi.rs",
        }
    }

    fn add_controllers(&mut self, madt: Pin<&Madt>) {
        for entry in madt.entries() {
            match entry {
                // One that is not enabled may be plugged in some day.
                MadtEntry::LocalApic(entry) if entry.flags & PROCESSOR_ENABLED != 0 => {
                    self.processors.push(u32::from(entry.apic_id));
                }
                MadtEntry::LocalX2Apic(entry) if entry.flags & PROCESSOR_ENABLED != 0 => {
                    self.processors.push(entry.x2apic_id);
                }
                MadtEntry::IoApic(entry) => self.io_apics.push(IoApic {
                    address: u64::from(entry.io_apic_address),
                    first: entry.global_system_interrupt_base,
                }),
                MadtEntry::LocalApicAddressOverride(entry) => {
                    self.local_apic = entry.local_apic_address;
                }
                MadtEntry::InterruptSourceOverride(entry) => {
                    let input = Input {
                        number: entry.global_system_interrupt,
                        active_low: entry.flags & 0b11 == 0b11,
                    };
                    self.overrides.push((entry.irq, input));
                }
                _ => {}
            }
        }
    }

    /// The input that a line reaches: of the ISA interrupts some are wired to another one.
    pub(crate) fn isa_input(&self, line: u32) -> Input {
        let wired = self
            .overrides
            .iter()
            .find(|(irq, _)| u32::from(*irq) == line);
        wired.map_or(
            Input {
                number: line,
                active_low: false,
            },
            |(_, input)| *input,
        )
    }
}

/// Physical memory at its own address.
#[derive(Clone)]
struct Identity;

impl AcpiHandler for Identity {
    unsafe fn map_physical_region<T>(&self, start: usize, size: usize) -> PhysicalMapping<Self, T> {
        memory::map_device(start as u64, size as u64);
        let pointer = NonNull::new(start as *mut T).expect("no table is at address 0");
        // SAFETY: the region is mapped to itself, and stays so.
        unsafe { PhysicalMapping::new(start, pointer, size, size, Self) }
    }

    fn unmap_physical_region<T>(_: &PhysicalMapping<Self, T>) {}
}
