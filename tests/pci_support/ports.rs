//! The registers of a [`Fake`](super::Fake) at I/O ports, and through the window in configuration
//! space.

use std::sync::Mutex;

use vring::transport::pci::{Address, Area, ConfigAccess};
use vring::transport::{Doorbell, Isr};

use super::{Fake, FakeConfig};

/// The port of the I/O BAR of most tests, which shows the same registers as BAR 4.
pub const PORT: u32 = 0xc000;

/// A part of the I/O BAR.
pub struct FakePorts {
    fake: Fake,
    first: usize,
    len: usize,
}

impl FakePorts {
    /// The kernel's hook for ports.
    pub fn new(fake: &Fake, port: u32, len: usize) -> Self {
        Self {
            fake: fake.clone(),
            first: (port - PORT) as usize,
            len,
        }
    }

    fn at(&self, offset: usize, width: usize) -> usize {
        assert!(
            offset + width <= self.len,
            "a port outside of what was given"
        );
        let at = self.first + offset;
        assert_eq!(at % width, 0, "a misaligned port");
        at
    }
}

// SAFETY: a fake device has no memory and writes none.
unsafe impl Area for FakePorts {
    fn size(&self) -> usize {
        self.len
    }
    fn is_aligned_to(&self, alignment: usize) -> bool {
        self.first.is_multiple_of(alignment)
    }
    fn read8(&self, offset: usize) -> u8 {
        self.fake.read_at(self.at(offset, 1), 1) as u8
    }
    fn read16(&self, offset: usize) -> u16 {
        self.fake.read_at(self.at(offset, 2), 2) as u16
    }
    fn read32(&self, offset: usize) -> u32 {
        self.fake.read_at(self.at(offset, 4), 4)
    }
    fn write8(&self, offset: usize, value: u8) {
        self.fake.write_at(self.at(offset, 1), 1, value.into());
    }
    fn write16(&self, offset: usize, value: u16) {
        self.fake.write_at(self.at(offset, 2), 2, value.into());
    }
    fn write32(&self, offset: usize, value: u32) {
        self.fake.write_at(self.at(offset, 4), 4, value);
    }
    fn doorbell(&self, offset: usize, value: u16) -> Option<Doorbell> {
        let at = self.first + offset;
        let fits = at.is_multiple_of(2) && offset + 2 <= self.len;
        fits.then(|| self.fake.doorbell_at(at, value))
    }
    fn doorbell_with_data(&self, offset: usize, value: u16) -> Option<Doorbell> {
        let at = self.first + offset;
        let fits = at.is_multiple_of(4) && offset + 4 <= self.len;
        fits.then(|| self.fake.doorbell_with_data_at(at, value))
    }
    fn isr(&self, _: usize) -> Option<Isr> {
        Some(self.fake.isr_handle())
    }
}

/// Configuration space that several threads may use, as those of a kernel do.
pub struct Shared(pub Mutex<FakeConfig>);

impl Shared {
    /// Lent for good, as the window wants it.
    pub fn lend(config: FakeConfig) -> &'static Self {
        Box::leak(Box::new(Self(Mutex::new(config))))
    }
}

macro_rules! shared {
    ($($read:ident $write:ident $word:ty),*) => {$(
        fn $read(&self, address: Address, register: u16) -> $word {
            self.0.lock().unwrap().$read(address, register)
        }
        fn $write(&self, address: Address, register: u16, value: $word) {
            self.0.lock().unwrap().$write(address, register, value);
            // Make room for another thread to come between.
            std::thread::yield_now();
        }
    )*};
}

// SAFETY: this is the machine, made up, and no registers are behind it but those of fakes.
unsafe impl ConfigAccess for Shared {
    shared!(read8 write8 u8, read16 write16 u16, read32 write32 u32);
}
