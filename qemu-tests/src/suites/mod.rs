//! What the kernel can be told to check: one file for each suite.

mod arp;
mod boot;
mod interrupts;
mod link;
mod net;
mod processors;
mod refusals;

use vring_protocol::Options;

use crate::kernel::Machine;
use crate::report::Report;

/// Runs the suite that the command line names, after the kernel's own.
pub(crate) fn run(machine: &Machine, options: &Options, report: &mut Report) {
    boot::run(machine, report);
    processors::run(machine, report);
    match options.suite.as_str() {
        "boot" => {}
        "net" => {
            refusals::run(machine, options, report);
            net::run(machine, options, report);
        }
        "interrupts" => interrupts::run(machine, options, report),
        other => report.fail(
            "suite",
            "boot, interrupts or net",
            other,
            "qemu-tests/src/suites/mod.rs",
        ),
    }
}
