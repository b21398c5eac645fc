//! How a function is taken over: its structures are reached, and it is turned on.

use super::access::{Address, ConfigAccess};
use super::area::{Area, Place};
use super::bar::BarError;
use super::layout::{Found, Located, Port, Structure};
use super::window::At;
use super::{
    COMMAND, COMMAND_BUS_MASTER, COMMAND_INTX_DISABLE, COMMAND_IO, COMMAND_MEMORY, Function,
    PciError, msix,
};
use crate::mmio::Registers;
use crate::transport::{DeviceId, Status};

/// Reads the header of a virtio function; refuses what is none.
pub(super) fn virtio_function(
    config: &impl ConfigAccess,
    address: Address,
) -> Result<(Function, DeviceId), PciError> {
    let function = Function::read(config, address).ok_or(PciError::NoFunction { address })?;
    let id = function.virtio().ok_or(PciError::NotVirtio {
        vendor: function.vendor,
        device: function.device,
    })?;
    match function.header_type {
        0 => Ok((function, id)),
        header_type => Err(PciError::HeaderType { header_type }),
    }
}

/// What the kernel gives to reach registers with.
pub(super) struct Hooks<M, P, W> {
    /// Maps memory.
    pub(super) map: M,
    /// Takes ports.
    pub(super) ports: P,
    /// Has the window show a place.
    pub(super) window: W,
    /// Where the window's capability is.
    pub(super) capability: Option<u8>,
    /// What the function has to decode for the structures that were reached so far.
    pub(super) decode: u16,
}

impl<M, P, W> Hooks<M, P, W> {
    /// Reaches a structure: in memory if it can be mapped, else in ports, else by the window. With
    /// it comes the multiplier of that instance.
    pub(super) fn reach<S: Area>(&mut self, found: &Found) -> Result<(Place<S>, u32), PciError>
    where
        M: FnMut(u64, usize) -> Option<Registers>,
        P: FnMut(u32, usize) -> Option<S>,
        W: FnMut(At, usize) -> Option<S>,
    {
        let structure = found.structure;
        let mut error = None;
        for at in found.memory.iter().flatten() {
            match mapped(&mut self.map, structure, at) {
                Ok(registers) => {
                    self.decode |= COMMAND_MEMORY;
                    return Ok((Place::Memory(registers), at.multiplier));
                }
                Err(failed) => error = error.or(Some(failed)),
            }
        }
        for located in found.ports.iter().flatten() {
            let Port { bar, port } = located.at;
            let length = located.length as usize;
            let area = (self.ports)(port, length);
            if let Some(area) = area.filter(|area| is_whole(area, structure, length)) {
                self.decode |= COMMAND_IO;
                return Ok((Place::Other(area), located.multiplier));
            }
            let io = BarError::Io { bar, port };
            error = error.or(Some(PciError::Bar {
                structure,
                error: io,
            }));
        }
        if let (Some(located), Some(capability)) = (&found.window, self.capability) {
            let at = At {
                capability,
                ..located.at
            };
            if let Some(area) = (self.window)(at, located.length as usize) {
                return Ok((Place::Other(area), located.multiplier));
            }
        }
        let missing = PciError::Missing { structure };
        Err(error.or(found.unusable).unwrap_or(missing))
    }
}

/// Lets the kernel map a structure.
fn mapped(
    map: &mut impl FnMut(u64, usize) -> Option<Registers>,
    structure: Structure,
    at: &Located<u64>,
) -> Result<Registers, PciError> {
    // A length is at most 16 MiB: it fits.
    let length = at.length as usize;
    let registers = map(at.at, length).filter(|registers| is_whole(registers, structure, length));
    registers.ok_or(PciError::MapFailed {
        structure,
        address: at.at,
        length,
    })
}

fn is_whole(area: &impl Area, structure: Structure, length: usize) -> bool {
    area.size() >= length && area.is_aligned_to(structure.alignment() as usize)
}

/// Lets the function decode its registers and master the bus, with MSI-X off and INTx on.
///
/// `status` reads the device's status, and `reset` tells the device to reset: rings of a previous
/// owner are memory of this one, so there is no bus mastering with them.
pub(super) fn turn_on(
    config: &impl ConfigAccess,
    address: Address,
    decode: u16,
    status: impl Fn() -> Status,
    reset: impl FnOnce(),
) -> Result<(), PciError> {
    msix::turn_off(config, address);
    let command = config.read16(address, COMMAND) & !COMMAND_INTX_DISABLE;
    config.write16(address, COMMAND, command | decode);
    if !status().is_empty() {
        log::debug!("{address}: was left running: reset");
        reset();
    }
    let on = decode | COMMAND_BUS_MASTER;
    config.write16(address, COMMAND, command | on);
    let command = config.read16(address, COMMAND);
    if command & on == on {
        Ok(())
    } else {
        Err(PciError::CommandRefused { command })
    }
}
