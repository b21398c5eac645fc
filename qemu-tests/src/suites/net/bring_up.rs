//! From a machine to a card that smoltcp can use: each step that fails is a failed check, and
//! the run ends there.

use alloc::format;
use alloc::string::String;

use vring::adapter::smoltcp::Device;
use vring::device::net::{Driver, Options as DriverOptions, SUPPORTED};
use vring::features::{Feature, Features};
use vring::transport::{DeviceId, Transport as _, TransportError};
use vring_protocol::Options;

use super::{Card, QUEUES, facts};
use crate::kernel::Machine;
use crate::kernel::device_interrupts::{DeviceInterrupts, InterruptError, Sharing};
use crate::kernel::platform::Identity;
use crate::kernel::transports::Found;
use crate::report::Report;

const HERE: &str = "qemu-tests/src/suites/net/bring_up.rs";

/// A table of messages has 2048 entries at most, and those of network cards a few.
const NO_SUCH_VECTOR: u16 = 2047;

/// Brings the first network card up, with receive buffers; and says where it is.
pub(super) fn run(
    machine: &Machine,
    options: &Options,
    report: &mut Report,
) -> Option<(Card, DeviceInterrupts, String)> {
    let found = Found::new(machine, options, DeviceId::NETWORK);
    let mut found = report.step("net_transport", "a card", found, HERE)?;
    let interrupts = choose(machine, &mut found, &options.interrupts);
    let interrupts = report.step("net_interrupts", &options.interrupts, interrupts, HERE)?;
    let (place, mut transport) = (found.place(), found.into_transport());
    let refused = transport.set_config_vector(Some(NO_SUCH_VECTOR));
    report.check(
        "net_refuses_a_vector_that_is_not_there",
        matches!(
            refused,
            Err(TransportError::VectorOutOfRange { .. } | TransportError::NoVectors)
        ),
        "an error that names it",
        &format!("{refused:?}"),
        HERE,
    );

    let mut wanted = DriverOptions::default();
    wanted.receive_size = options.queue_size;
    wanted.transmit_size = options.queue_size;
    wanted.receive_vector = interrupts.queue_vector(0);
    wanted.transmit_vector = interrupts.queue_vector(1);
    wanted.config_vector = interrupts.config_vector();
    let wish = facts::by_name(&options.require).and_then(|require| {
        let refuse = facts::by_name(&options.refuse)?;
        Ok((require, refuse))
    });
    let known = "names that the crate knows";
    (wanted.require, wanted.refuse) = report.step("net_features", known, wish, HERE)?;
    // Where the driver does not know it, the exercise after the services is to accept it.
    if !SUPPORTED.has(Feature::RING_RESET) {
        wanted.require = wanted.require.without(Feature::RING_RESET);
    }
    wanted.indirect = options.indirect;
    let driver = Driver::new(Identity, transport, wanted).map_err(|mut error| {
        let offered = error.transport.device_features();
        facts::features(offered, Features::EMPTY);
        error
    });
    let driver = report.step("net_init", "a driver", driver, HERE)?;

    let card = Device::new(driver);
    let card = report.step("net_buffers_given", "a full receive queue", card, HERE)?;
    Some((card, interrupts, place))
}

/// Has the device interrupt in the way that the command line says.
pub(super) fn choose(
    machine: &Machine,
    found: &mut Found,
    how: &str,
) -> Result<DeviceInterrupts, InterruptError> {
    match how {
        "msix" => DeviceInterrupts::msix(machine, found, QUEUES, Sharing::Each),
        "intx" => DeviceInterrupts::intx(machine, found),
        _ => Ok(DeviceInterrupts::poll()),
    }
}
