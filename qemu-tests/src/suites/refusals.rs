//! What is not there is refused by name: a bus that the machine does not have, a device of a type
//! that nobody plugged in, an interface that the device does not speak.

use alloc::format;

use vring::transport::DeviceId;
use vring_protocol::{Options, Transport};

use crate::kernel::Machine;
use crate::kernel::access::Access;
use crate::kernel::transports::{Found, OpenError};
use crate::report::Report;

/// A type that the specification has given to nobody.
const UNKNOWN: DeviceId = DeviceId(63);

/// Tries what must fail; nothing of it touches a device that a suite drives later, but for a reset
/// of one that is at rest.
pub(crate) fn run(machine: &Machine, options: &Options, report: &mut Report) {
    let (pci, mmio) = (!machine.pci.is_absent(), !machine.windows.is_empty());
    let mut refused = |check, transport, id, is_it: fn(&OpenError) -> bool| {
        let outcome = Found::with_access(machine, transport, Access::Plain, id);
        let outcome = outcome.map(|found| found.place());
        report.check(
            check,
            outcome.as_ref().is_err_and(is_it),
            "an error that says what is not there",
            &format!("{outcome:?}"),
            "qemu-tests/src/suites/refusals.rs",
        );
    };

    for (check, is_there, transport) in [
        ("refuses_pci", pci, Transport::PciModern),
        ("refuses_mmio", mmio, Transport::Mmio),
    ] {
        if is_there {
            let no_device = |error: &OpenError| matches!(error, OpenError::NoDevice { .. });
            refused(check, transport, UNKNOWN, no_device);
        } else {
            let no_bus =
                |error: &OpenError| matches!(error, OpenError::NoPci | OpenError::NoWindows);
            refused(check, transport, DeviceId::NETWORK, no_bus);
        }
    }

    let other = match options.transport {
        Transport::Mmio => Transport::MmioLegacy,
        Transport::MmioLegacy => Transport::Mmio,
        _ => return,
    };
    let version = |error: &OpenError| matches!(error, OpenError::Version { .. });
    let check = "refuses_the_other_version";
    refused(check, other, DeviceId::NETWORK, version);
}
