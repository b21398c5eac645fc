//! Addresses for BARs that firmware left without.
//!
//! A machine without firmware, as QEMU's `virt` with a kernel given on the command line, starts with
//! every BAR at 0. The kernel knows which addresses its host bridge passes on (ACPI's `_CRS`, a
//! device tree's `ranges`); from those [`assign_bars`] hands out, in order, to one function at a
//! time. That is all: nothing is ever taken back, and a BAR that has an address keeps it.
//!
//! ```text
//!   BarWindow::memory(0x1000_0000, 0x2eff_0000)      ├──BAR 1──┤▒▒├────BAR 4────┤ free ...      │
//!                                                     a multiple of its size each time
//! ```
//!
//! Which window a BAR may be in is PCI's rule: I/O in I/O; a memory BAR of 32 bits below 4 GiB; a
//! prefetchable one anywhere in memory, any other one not in a prefetchable window. A BAR of 64 bits
//! goes above 4 GiB where there is room: addresses below are scarce.
//!
//! What this file does not do: it programs no bridges. For functions behind a bridge give the
//! bridge's windows instead of the host's, as the kernel, or firmware, has programmed them.

use core::fmt;

use super::access::{Address, ConfigAccess};
use super::bar::{Bar, BarError, Kind, Shape, register, with_decoding_off};
use super::scan::Function;

/// Addresses that BARs may have: as the *device* sees them, which is what a BAR holds. Where the
/// host bridge translates, the kernel adds the difference when it maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarWindow {
    space: Space,
    /// First and last address that nothing has; `None`: used up.
    free: Option<(u64, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Space {
    Io,
    Memory,
    Prefetchable,
}

impl BarWindow {
    /// I/O ports that the bridge passes on and nothing uses. The first 4096 are best left out on
    /// x86: old devices are there.
    #[must_use]
    pub const fn io(first: u32, len: u32) -> Self {
        Self::new(Space::Io, first as u64, len as u64)
    }

    /// Memory addresses that the bridge passes on and nothing uses: below 4 GiB, above, or both.
    #[must_use]
    pub const fn memory(first: u64, len: u64) -> Self {
        Self::new(Space::Memory, first, len)
    }

    /// The same, for prefetchable memory only.
    #[must_use]
    pub const fn prefetchable(first: u64, len: u64) -> Self {
        Self::new(Space::Prefetchable, first, len)
    }

    const fn new(space: Space, first: u64, len: u64) -> Self {
        let free = match len {
            0 => None,
            // A window that would run over the end ends there.
            _ => Some((first, first.saturating_add(len - 1))),
        };
        Self { space, free }
    }

    /// Bytes, or ports, that are left.
    #[must_use]
    pub const fn left(&self) -> u64 {
        match self.free {
            Some((next, last)) => (last - next).saturating_add(1),
            None => 0,
        }
    }

    /// Leaves out what a BAR has already. Of the two sides of it the larger one stays.
    pub fn avoid(&mut self, bar: Bar) {
        let (first, size) = match bar {
            Bar::Io { port, size } if self.space == Space::Io => (port.into(), size.into()),
            Bar::Memory { address, size, .. } if self.space != Space::Io => (address, size),
            _ => return,
        };
        let end = first.saturating_add(size.saturating_sub(1));
        let Some((next, last)) = self.free else {
            return;
        };
        if end < next || first > last {
            return;
        }
        let below = first.checked_sub(1).filter(|&below| below >= next);
        let above = end.checked_add(1).filter(|&above| above <= last);
        let below = below.map(|below| (next, below));
        let above = above.map(|above| (above, last));
        let len = |part: Option<(u64, u64)>| part.map_or(0, |(first, last)| last - first + 1);
        self.free = if len(below) > len(above) {
            below
        } else {
            above
        };
    }

    /// The first multiple of `size` that is free, up to `limit`, and not 0, which means none.
    fn fit(&self, size: u64, limit: u64) -> Option<(u64, u64)> {
        let (next, last) = self.free?;
        let at = next.max(1).checked_add(size - 1)? & !(size - 1);
        let end = at.checked_add(size - 1)?;
        (end <= last.min(limit)).then_some((at, end))
    }

    fn take_to(&mut self, end: u64) {
        self.free = match self.free {
            Some((_, last)) if end < last => Some((end + 1, last)),
            _ => None,
        };
    }

    /// How well the window suits such a BAR; `None`: it may not be there.
    fn suits(&self, kind: Kind) -> Option<u8> {
        let above = |(first, _)| first > u64::from(u32::MAX);
        let high = u8::from(self.free.is_some_and(above));
        match (self.space, kind) {
            (Space::Io, Kind::Io { .. }) => Some(0),
            (Space::Memory, Kind::Memory { .. }) => Some(high),
            (
                Space::Prefetchable,
                Kind::Memory {
                    prefetchable: true, ..
                },
            ) => Some(2 + high),
            _ => None,
        }
    }
}

/// Why a function's BARs were not assigned. None of them was, then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AssignError {
    /// There is no function at the address.
    NoFunction {
        /// The address.
        address: Address,
    },
    /// The function has the header of a bridge, or of something else whose BARs are not these.
    HeaderType {
        /// The header type; 0 was expected.
        header_type: u8,
    },
    /// A BAR makes no sense.
    Bar(BarError),
    /// No window that the BAR may be in has room for it.
    NoRoom {
        /// The number.
        bar: u8,
        /// Bytes, or ports, that it needs, at a multiple of that.
        size: u64,
        /// Which windows it may be in.
        needs: &'static str,
    },
    /// The device did not take the address.
    NotTaken {
        /// The number.
        bar: u8,
        /// What was written.
        address: u64,
        /// What was read back.
        got: u64,
    },
}

impl fmt::Display for AssignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoFunction { address } => write!(f, "there is no PCI function at {address}"),
            Self::HeaderType { header_type } => write!(
                f,
                "PCI header type {header_type}: only the BARs of type 0 are assigned; a bridge is \
                 the kernel's to program"
            ),
            Self::Bar(error) => write!(f, "{error}"),
            Self::NoRoom { bar, size, needs } => write!(
                f,
                "BAR {bar} needs {size:#x} of {needs}, and no window has them at a multiple of \
                 their number: give a larger window, or one of that kind"
            ),
            Self::NotTaken { bar, address, got } => write!(
                f,
                "BAR {bar} took {got:#x} where address {address:#x} was written"
            ),
        }
    }
}

impl core::error::Error for AssignError {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Bar(error) => Some(error),
            _ => None,
        }
    }
}

/// A BAR and the address that it is to have.
#[derive(Clone, Copy)]
struct Plan {
    shape: Shape,
    address: u64,
    /// Which window it is from, and what that had free before.
    window: usize,
    before: BarWindow,
}

/// Gives an address to each BAR of a function that has none; returns how many those were.
///
/// It is done with the function's decoding off, and the command register is put back as it was.
/// Where firmware has assigned BARs of other functions, call [`avoid_bars`] for those first. What
/// this function's BARs have already is left out of the windows.
///
/// # Errors
/// Any [`AssignError`]. Nothing is assigned then, nor taken from the windows but what this
/// function's BARs have already.
pub fn assign_bars(
    config: &impl ConfigAccess,
    address: Address,
    windows: &mut [BarWindow],
) -> Result<usize, AssignError> {
    let function = Function::read(config, address).ok_or(AssignError::NoFunction { address })?;
    match function.header_type {
        0 => {}
        header_type => return Err(AssignError::HeaderType { header_type }),
    }
    let mut plans = [None; 6];
    let done = plan(config, address, windows, &mut plans).and_then(|()| {
        with_decoding_off(config, address, || {
            let mut each = plans.iter().flatten();
            each.try_for_each(|plan| write(config, address, plan))
        })?;
        Ok(plans.iter().flatten().count())
    });
    if done.is_err() {
        // The last one first: a window may have given several.
        for plan in plans.iter().rev().flatten() {
            if let Some(window) = windows.get_mut(plan.window) {
                *window = plan.before;
            }
        }
        with_decoding_off(config, address, || {
            let each = plans.iter().flatten();
            each.for_each(|plan| put(config, address, plan.shape, 0));
        });
    }
    done
}

/// Leaves the addresses out of the windows that a function's BARs have already. Its decoding is off
/// while they are sized: do not call it for a device that is in use.
///
/// Of a bridge these are its own two. What it passes on is for the functions behind it, and stays in
/// a window that was made of it; leave it out of the host's.
pub fn avoid_bars(config: &impl ConfigAccess, address: Address, windows: &mut [BarWindow]) {
    for bar in (0..6).filter_map(|bar| Bar::read(config, address, bar).ok()) {
        avoid(bar, windows);
    }
}

fn avoid(bar: Bar, windows: &mut [BarWindow]) {
    windows.iter_mut().for_each(|window| window.avoid(bar));
}

/// Finds a place for each BAR that has none.
fn plan(
    config: &impl ConfigAccess,
    address: Address,
    windows: &mut [BarWindow],
    plans: &mut [Option<Plan>; 6],
) -> Result<(), AssignError> {
    let mut shapes = [None; 6];
    for (bar, slot) in (0..).zip(&mut shapes) {
        match Shape::read(config, address, bar) {
            Ok(shape) if shape.base == 0 => *slot = Some(shape),
            // One that makes no sense is in nobody's way.
            Ok(shape) => shape
                .resolve()
                .into_iter()
                .for_each(|bar| avoid(bar, windows)),
            Err(BarError::Unimplemented { .. } | BarError::UpperHalf { .. }) => {}
            Err(error) => return Err(AssignError::Bar(error)),
        }
    }
    for (shape, slot) in shapes.iter().flatten().zip(plans) {
        let (bar, shape) = (shape.bar, *shape);
        let (limit, needs) = match shape.kind {
            Kind::Io { short: true } => (0xffff, "the first 65536 I/O ports"),
            Kind::Io { short: false } => (u32::MAX.into(), "I/O ports"),
            Kind::Memory {
                wide: true,
                prefetchable: true,
            } => (u64::MAX, "memory"),
            Kind::Memory {
                wide: true,
                prefetchable: false,
            } => (u64::MAX, "memory that is not prefetchable"),
            Kind::Memory {
                wide: false,
                prefetchable: true,
            } => (u32::MAX.into(), "memory below 4 GiB"),
            Kind::Memory {
                wide: false,
                prefetchable: false,
            } => (
                u32::MAX.into(),
                "memory below 4 GiB that is not prefetchable",
            ),
        };
        let fitting = windows
            .iter_mut()
            .enumerate()
            .filter_map(|(index, window)| {
                let suits = window.suits(shape.kind)?;
                let (at, end) = window.fit(shape.size, limit)?;
                Some((suits, index, at, end, window))
            });
        // Of those that suit equally well, the first.
        let best = fitting.reduce(|best, next| if next.0 > best.0 { next } else { best });
        let Some((_, index, at, end, window)) = best else {
            let size = shape.size;
            return Err(AssignError::NoRoom { bar, size, needs });
        };
        *slot = Some(Plan {
            shape,
            address: at,
            window: index,
            before: *window,
        });
        window.take_to(end);
    }
    Ok(())
}

/// Writes an address with the function's decoding off, and reads it back.
fn write(config: &impl ConfigAccess, at: Address, plan: &Plan) -> Result<(), AssignError> {
    let (bar, address) = (plan.shape.bar, plan.address);
    put(config, at, plan.shape, address);
    let low = u64::from(config.read32(at, register(bar)));
    let got = match plan.shape.kind {
        Kind::Io { .. } => low & !3,
        Kind::Memory { wide: false, .. } => low & !0xf,
        Kind::Memory { wide: true, .. } => {
            u64::from(config.read32(at, register(bar) + 4)) << 32 | low & !0xf
        }
    };
    if got == address {
        log::debug!("{at}: BAR {bar} is at {address:#x} now");
        Ok(())
    } else {
        Err(AssignError::NotTaken { bar, address, got })
    }
}

fn put(config: &impl ConfigAccess, at: Address, shape: Shape, address: u64) {
    // The low bits, which say what the BAR is, cannot be written.
    config.write32(at, register(shape.bar), address as u32);
    if let Kind::Memory { wide: true, .. } = shape.kind {
        config.write32(at, register(shape.bar) + 4, (address >> 32) as u32);
    }
}
