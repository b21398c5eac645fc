//! The MMIO side of what `vring` asks of a kernel: the windows of registers that the machine tells
//! of, in its device tree or on the command line.

use log::warn;
use vring::transport::mmio::{MmioTransport, Window};
use vring::transport::{DeviceId, Transport as _};

use super::Machine;
use super::access::Access;
use super::transports::OpenError;

/// Looks into each window for the first device of a type; most windows are empty.
pub(crate) fn open(
    machine: &Machine,
    access: Access,
    id: DeviceId,
) -> Result<(MmioTransport<Access>, Window), OpenError> {
    if machine.windows.is_empty() {
        return Err(OpenError::NoWindows);
    }
    let mut unusable = None;
    for window in &machine.windows {
        match look(machine, access, *window) {
            Ok(Some(device)) if device.device_id() == id => return Ok((device, *window)),
            Ok(_) => {}
            Err(error) => {
                warn!("{error}");
                unusable = Some(error);
            }
        }
    }
    let place = "in any window of registers";
    Err(unusable.unwrap_or(OpenError::NoDevice { id, place }))
}

fn look(
    machine: &Machine,
    access: Access,
    window: Window,
) -> Result<Option<MmioTransport<Access>>, OpenError> {
    let Window {
        address, length, ..
    } = window;
    let registers = usize::try_from(length)
        .ok()
        .and_then(|len| access.map(machine, address, len));
    let registers = registers.ok_or(OpenError::Mmio { address, why: None })?;
    let device = MmioTransport::with_access(registers, access);
    device.map_err(|why| OpenError::Mmio {
        address,
        why: Some(why),
    })
}
