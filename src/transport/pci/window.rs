//! The window in configuration space (VIRTIO 1.4, 4.1.4.9): the last resort.
//!
//! A device lets its structures be reached without their BARs, by a capability that can be written:
//!
//! ```text
//!   bar ◀── which BAR     length ◀── 1, 2 or 4     offset ◀── where     data ◀─▶ the register
//! ```
//!
//! That is four accesses of configuration space for one of a register, and on most machines each of
//! them leaves the guest. It serves a kernel that cannot map a BAR: it is beyond what the kernel
//! can address, or nobody assigned it.
//!
//! The four belong together, so there is a lock around them, one for the device, that transport and
//! doorbells share. It spins: neither is for an interrupt handler then, and there is no
//! [`Isr`](crate::transport::Isr). Poll, or use MSI-X.

use core::fmt;

use super::access::{Address, ConfigAccess};
use super::area::{Area, hand_on};
use crate::transport::doorbell::Remote;
use crate::transport::{Doorbell, Isr};

const BAR: u16 = 4;
const OFFSET: u16 = 8;
const LENGTH: u16 = 12;
const DATA: u16 = 16;

/// The window of one function, and the lock around it. It is lent for good, as a static or a leaked
/// box: doorbells keep using it.
///
/// See [`PciTransport::with_window`](super::PciTransport::with_window).
#[doc(alias = "VIRTIO_PCI_CAP_PCI_CFG")]
pub struct Window<C> {
    config: C,
    address: Address,
    alone: spin::Mutex<()>,
}

impl<C> fmt::Debug for Window<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Window({})", self.address)
    }
}

impl<C: ConfigAccess> Window<C> {
    /// The window of the function at `address`.
    ///
    /// # Safety
    /// Nobody else uses the function's registers meanwhile, in whatever way: there is no other
    /// `Window` for the function that a transport or a doorbell still uses, as each has a lock of its
    /// own, and nobody else writes its capability.
    #[must_use]
    #[allow(unsafe_code)] // that nobody else uses the registers, the kernel has to promise
    pub const unsafe fn new(config: C, address: Address) -> Self {
        Self {
            config,
            address,
            alone: spin::Mutex::new(()),
        }
    }

    /// How configuration space is reached.
    pub const fn config(&self) -> &C {
        &self.config
    }

    /// Where the function is.
    #[must_use]
    pub const fn address(&self) -> Address {
        self.address
    }

    /// Lets the window show a register, and does `access` to it before anybody moves the window.
    fn with<R>(&self, at: At, length: u8, access: impl FnOnce(&C, Address, u16) -> R) -> R {
        let (config, address) = (&self.config, self.address);
        let capability = u16::from(at.capability);
        let _alone = self.alone.lock();
        config.write8(address, capability + BAR, at.bar);
        // The length first: an offset that is written is a multiple of it (4.1.4.9.2).
        config.write32(address, capability + LENGTH, length.into());
        config.write32(address, capability + OFFSET, at.offset);
        access(config, address, capability + DATA)
    }
}

/// A place that the window can show.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    /// The register that the window's capability begins at.
    pub(super) capability: u8,
    pub(super) bar: u8,
    pub(super) offset: u32,
}

impl At {
    fn plus(self, offset: usize) -> Self {
        let offset = self.offset.wrapping_add(offset as u32);
        Self { offset, ..self }
    }
}

/// A window, whatever its access is.
pub(super) trait Show: Remote {
    fn read(&self, at: At, width: u8) -> u32;
    fn write(&self, at: At, width: u8, value: u32);
}

impl<C: ConfigAccess + Sync> Show for Window<C> {
    fn read(&self, at: At, width: u8) -> u32 {
        self.with(at, width, |config, address, data| match width {
            4 => config.read32(address, data),
            2 => config.read16(address, data).into(),
            _ => config.read8(address, data).into(),
        })
    }

    fn write(&self, at: At, width: u8, value: u32) {
        self.with(at, width, |config, address, data| match width {
            4 => config.write32(address, data, value),
            2 => config.write16(address, data, value as u16),
            _ => config.write8(address, data, value as u8),
        });
    }
}

impl<C: ConfigAccess + Sync> Remote for Window<C> {
    fn store(&self, [capability, bar]: [u8; 2], offset: u32, width: u8, value: u32) {
        let at = At {
            capability,
            bar,
            offset,
        };
        self.write(at, width, value);
    }
}

/// A structure that is reached through a [`Window`].
#[derive(Clone, Copy)]
pub struct WindowArea {
    window: &'static dyn Show,
    at: At,
    size: usize,
}

impl fmt::Debug for WindowArea {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, size, .. } = self;
        write!(
            f,
            "WindowArea({size} bytes at {:#x} of BAR {})",
            at.offset, at.bar
        )
    }
}

impl WindowArea {
    /// `size` bytes at a place whose offsets all fit 32 bits, in a structure of the device.
    pub(super) const fn new(window: &'static dyn Show, at: At, size: usize) -> Self {
        Self { window, at, size }
    }

    /// The place of a register; `None` when it is not in the structure: the window shows nothing
    /// else (4.1.4.9.2).
    fn place(&self, offset: usize, width: usize) -> Option<At> {
        let at = self.at.plus(offset);
        let inside = offset.checked_add(width)? <= self.size;
        (inside && at.offset.is_multiple_of(width as u32)).then_some(at)
    }

    fn bell(&self, offset: usize, value: u16, with_data: bool) -> Option<Doorbell> {
        let at = self.place(offset, if with_data { 4 } else { 2 })?;
        let which = [at.capability, at.bar];
        Some(Doorbell::remote(
            self.window,
            which,
            at.offset,
            value,
            with_data,
        ))
    }
}

macro_rules! shown {
    ($($read:ident $write:ident $word:ty),*) => {$(
        fn $read(&self, offset: usize) -> $word {
            let width = size_of::<$word>();
            let at = self.place(offset, width);
            at.map_or(<$word>::MAX, |at| self.window.read(at, width as u8) as $word)
        }
        fn $write(&self, offset: usize, value: $word) {
            let width = size_of::<$word>();
            if let Some(at) = self.place(offset, width) {
                self.window.write(at, width as u8, value.into());
            }
        }
    )*};
}

#[allow(unsafe_code)] // signs the contract of who reaches registers
// SAFETY: one access of the data, of that width, with the window on that register and nobody else
// moving it, by the promise at `Window::new`. What configuration space answers there is the
// register, and a write comes after earlier stores, by the promise of `ConfigAccess`.
unsafe impl Area for WindowArea {
    shown!(read8 write8 u8, read16 write16 u16, read32 write32 u32);

    fn size(&self) -> usize {
        self.size
    }
    fn is_aligned_to(&self, alignment: usize) -> bool {
        self.at.offset as usize & (alignment - 1) == 0
    }
    fn doorbell(&self, offset: usize, value: u16) -> Option<Doorbell> {
        self.bell(offset, value, false)
    }
    fn doorbell_with_data(&self, offset: usize, value: u16) -> Option<Doorbell> {
        self.bell(offset, value, true)
    }
    fn isr(&self, _: usize) -> Option<Isr> {
        None
    }
}

/// Ports where the kernel gives them, else the window.
#[derive(Debug)]
pub enum Far<S> {
    /// In an I/O BAR, or where else the kernel reaches registers.
    Ports(S),
    /// In the window.
    Window(WindowArea),
}

#[allow(unsafe_code)] // signs the contract of who reaches registers
// SAFETY: one of two areas, each of which signed it.
unsafe impl<S: Area> Area for Far<S> {
    hand_on! { Ports Window }
}
