//! What differs from one architecture to another, behind one interface.
//!
//! Everything outside this folder is the same on all of them. Each architecture's module has:
//!
//! | name | what it is |
//! |---|---|
//! | `NAME` | its name in the protocol |
//! | `console() -> Option<Console>` | the serial port, opened anew: a `fmt::Write` |
//! | `BootInfo` | the boot loader's word: `ram`, `largest_free_range`, `command_line` |
//! | `Firmware` | what its tables or its tree say, read once: `ecam`, `check` |
//! | `init_exceptions()` | faults end the run with a failed check from here on |
//! | `init_interrupts(&Firmware)` | the interrupt controllers, everything masked |
//! | `memory::{map_device, guard_boot_stack, HIGHEST, UNMAPPED}` | the identity map beyond what boot made |
//! | `clock::{counter, frequency}` | a counter that never stops, and its counts a second |
//! | `cpu::{index, disable_interrupts, enable_interrupts, enable_interrupts_and_wait, interrupts_enabled}` | this processor |
//! | `start_processors(&Firmware, &ram)` | starts others where it can: what came of it |
//! | `wake(cpu)` | interrupts another processor, which ends its halt |
//! | `timer::{start, set, silence}` | one interrupt, once a deadline |
//! | `VECTORS` | the numbers that `interrupts::allocate` hands out |
//! | `message(Vector) -> Option<Message>` | the MSI-X message that raises a vector |
//! | `message_on(cpu, Vector) -> Option<Message>` | the same, on the processor of that number |
//! | `line_of(&Machine, Address)` | the interrupt controllers' input that a function's INTx pin drives |
//! | `route(&Machine, line, Vector)` | has an input, level-triggered as PCI's are, raise a vector |
//! | `raise(Vector) -> bool` | raises a vector that is routed or has a message; false where none can |
//! | `line_of_window(Line)` | the same input for the line of a device over MMIO |
//! | `mmio_windows(&Firmware, &str)` | where devices over MMIO may be |
//! | `bar_windows(&Machine)` | addresses that PCI functions can be given |
//! | `IoRegisters`, `io_registers(&Firmware, port, len)` | the registers of an I/O BAR |
//! | `assign_bars(&Firmware, &ConfigSpace)` | addresses for PCI functions, where the firmware gave none |
//! | `config_ports()` | configuration space where no window is described |
//! | `exit(code) -> !` | ends QEMU with the status that the protocol gives the code |
//!
//! It calls `kernel::run` once at boot, `smp::work` on every other processor, and `interrupts::dispatch` for each interrupt.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "riscv64")]
mod riscv64;
#[cfg(not(target_arch = "x86_64"))]
mod virt;
#[cfg(target_arch = "x86_64")]
mod x86_64;

#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::*;
#[cfg(target_arch = "riscv64")]
pub(crate) use riscv64::*;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;
