//! The registers of a fake device over MMIO (VIRTIO 1.4, 4.2).
//!
//! ```text
//!   MmioTransport<FakeMmio> ──read, write, with their width──▶ FakeMmio ──▶ FakeDevice
//!   Doorbell, Isr           ─────────────────────────────────▶   │ records, judges, lies
//! ```
//!
//! It stands between a transport and a [`FakeDevice`], as [`RegisterAccess`]: every access comes
//! here with its width. The rules of the register layout (4.2.2.2) are checked here, those of the
//! device behind them there.

mod file;

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::sync::{Arc, Weak};
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

use spin::Mutex;

use super::device::FakeDevice;
use crate::transport::mmio::{MmioError, MmioTransport};
use crate::transport::{Doorbell, Isr, QueueIndex, Register, RegisterAccess, Registers};
use file::File;

/// Bytes of the window.
const WINDOW: usize = 0x200;

/// One access of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmioAccess {
    /// Bytes from the start of the window.
    pub offset: usize,
    /// Bits.
    pub width: u8,
    /// Whether it was a write.
    pub write: bool,
    /// What was read or written.
    pub value: u32,
}

impl MmioAccess {
    /// A read of 32 bits.
    #[must_use]
    pub const fn read(offset: usize, value: u32) -> Self {
        Self {
            offset,
            width: 32,
            write: false,
            value,
        }
    }

    /// A write of 32 bits.
    #[must_use]
    pub const fn write(offset: usize, value: u32) -> Self {
        Self {
            offset,
            width: 32,
            write: true,
            value,
        }
    }
}

type Lie = Box<dyn FnMut(u32) -> u32 + Send>;

/// The registers of a [`FakeDevice`] over MMIO, and how they are reached. Clones are the same
/// registers.
///
/// What breaks a rule of the register layout is a [`Violation`](super::Violation) of the device:
/// `MM` and the number of the statement.
///
/// ```
/// use vring::device::net;
/// use vring::features::Feature;
/// use vring::testing::{FakeDevice, FakeMmio, InPlace};
/// use vring::transport::DeviceId;
///
/// let platform = InPlace::new();
/// let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
///     .offer(Feature::VERSION_1)
///     .queues(&[256, 256]);
/// let mmio = FakeMmio::new(&device);
/// let transport = mmio.transport().unwrap();
/// let options = net::Options::default();
/// let driver: net::Driver<_, _, Box<[u8]>> =
///     net::Driver::new(platform.clone(), transport, options).unwrap();
/// driver.shutdown(|_, _| {}).unwrap();
/// device.assert_clean();
/// ```
#[derive(Clone)]
pub struct FakeMmio {
    shared: Arc<Shared>,
}

struct Shared {
    device: FakeDevice,
    number: usize,
    /// Stands for the registers: addresses in it are told apart, its bytes are never used.
    stand_in: Mutex<Vec<u64>>,
    base: usize,
    file: Mutex<File>,
    lies: Mutex<BTreeMap<usize, Lie>>,
    accesses: Mutex<Vec<MmioAccess>>,
}

/// Doorbells and interrupt status handles are functions and a number: this one, and the offset of
/// the register below it.
static FILES: Mutex<BTreeMap<usize, Weak<Shared>>> = Mutex::new(BTreeMap::new());
static NUMBERS: AtomicUsize = AtomicUsize::new(1);

impl FakeMmio {
    /// The device's registers: version 2, or version 1 of a legacy device, with 256 bytes of room
    /// for configuration. Nothing is plugged in where the device's type is 0.
    #[must_use]
    pub fn new(device: &FakeDevice) -> Self {
        let mut stand_in = vec![0; WINDOW / 8];
        let base = stand_in.as_mut_ptr().addr();
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let shared = Arc::new(Shared {
            device: device.clone(),
            number,
            stand_in: Mutex::new(stand_in),
            base,
            file: Mutex::new(File::new(device)),
            lies: Mutex::new(BTreeMap::new()),
            accesses: Mutex::new(Vec::new()),
        });
        let mut files = FILES.lock();
        files.retain(|_, file| file.strong_count() != 0);
        files.insert(number, Arc::downgrade(&shared));
        Self { shared }
    }

    /// The window, as a kernel has mapped it: for accesses of your own around this value.
    ///
    /// # Safety
    /// They are used through this value only, or through an access that hands everything to it, and
    /// for as long as it, or a clone, lives: there is no register behind the addresses.
    #[must_use]
    pub unsafe fn registers(&self) -> Registers {
        self.part(0..WINDOW)
    }

    fn part(&self, bytes: Range<usize>) -> Registers {
        assert!(bytes.start <= bytes.end && bytes.end <= WINDOW);
        let base = self.shared.stand_in.lock().as_mut_ptr().cast::<u8>();
        let base = NonNull::new(base.wrapping_add(bytes.start)).unwrap();
        // SAFETY: addresses inside memory that lives as long as this value, which nobody uses: they
        // go to a transport that has this value as its access, or to who promises as much.
        unsafe { Registers::new(base, bytes.len()) }
    }

    /// A transport over the window.
    ///
    /// # Panics
    /// When the registers are not those of a virtio device, as after [`lie`](Self::lie).
    #[must_use]
    pub fn transport(&self) -> Option<MmioTransport<Self>> {
        self.open(0..WINDOW).unwrap()
    }

    /// A transport over some bytes of the window.
    ///
    /// # Errors
    /// Those of [`MmioTransport::with_access`].
    ///
    /// # Panics
    /// When the bytes are not in the window.
    pub fn open(&self, bytes: Range<usize>) -> Result<Option<MmioTransport<Self>>, MmioError> {
        MmioTransport::with_access(self.part(bytes), self.clone())
    }

    /// Has what is read from the register at `offset` changed by `lie` from now on. It may use this
    /// fake, and is told the truth when it reads that register itself.
    pub fn lie(&self, offset: usize, lie: impl FnMut(u32) -> u32 + Send + 'static) {
        self.shared.lies.lock().insert(offset, Box::new(lie));
    }

    /// Ends all lies, but for one that calls this.
    pub fn be_honest(&self) {
        self.shared.lies.lock().clear();
    }

    /// Every access since this was last called, in order.
    #[must_use]
    pub fn accesses(&self) -> Vec<MmioAccess> {
        core::mem::take(&mut *self.shared.accesses.lock())
    }

    /// Whether the interrupt line is asserted: an event was not acknowledged.
    #[must_use]
    pub fn is_asserted(&self) -> bool {
        let mut file = self.shared.file.lock();
        file.collect_interrupts() != 0
    }

    fn offset(&self, address: usize, width: u8) -> usize {
        let offset = address.wrapping_sub(self.shared.base);
        assert!(offset < WINDOW, "an access outside of the window");
        if !offset.is_multiple_of(usize::from(width) / 8) {
            let what = format!("{width} bits at {offset:#x}: misaligned");
            self.shared.device.violations().report("MM-004", what);
        }
        offset
    }

    fn read(&self, address: usize, width: u8) -> u32 {
        let offset = self.offset(address, width);
        let mut value = self.shared.file.lock().read(offset, width);
        // Taken out while it is asked, as it may use this very fake.
        let lie = self.shared.lies.lock().remove(&offset);
        if let Some(mut lie) = lie {
            value = lie(value);
            self.shared.lies.lock().entry(offset).or_insert(lie);
        }
        self.record(offset, width, false, value);
        value
    }

    fn write(&self, address: usize, width: u8, value: u32) {
        let offset = self.offset(address, width);
        self.record(offset, width, true, value);
        let rung = self.shared.file.lock().write(offset, width, value);
        // With nothing locked: the device may serve the queue at once.
        if let Some(value) = rung {
            self.shared
                .device
                .ring_doorbell(QueueIndex(value as u16), value);
        }
    }

    fn record(&self, offset: usize, width: u8, write: bool, value: u32) {
        self.shared.accesses.lock().push(MmioAccess {
            offset,
            width,
            write,
            value,
        });
    }

    /// What the functions are given for a register.
    fn context(&self, at: Register<u32>) -> usize {
        self.shared.number * WINDOW + self.offset(at.address(), 32)
    }

    fn of_context(context: usize) -> Option<(Self, usize)> {
        let shared = FILES.lock().get(&(context / WINDOW))?.upgrade()?;
        let address = shared.base.wrapping_add(context % WINDOW);
        Some((Self { shared }, address))
    }

    fn write_by(context: usize, value: u32) {
        if let Some((file, address)) = Self::of_context(context) {
            file.write(address, 32, value);
        }
    }

    fn read_by(context: usize) -> u32 {
        match Self::of_context(context) {
            Some((file, address)) => file.read(address, 32),
            None => 0,
        }
    }
}

// SAFETY: what stands here is the device, and what it answers, lies included, is the device's word.
// Each call reaches its register once, with its width. The device reaches no memory but what its bus
// resolves.
unsafe impl RegisterAccess for FakeMmio {
    fn read8(&self, at: Register<u8>) -> u8 {
        self.read(at.address(), 8) as u8
    }
    fn read16(&self, at: Register<u16>) -> u16 {
        self.read(at.address(), 16) as u16
    }
    fn read32(&self, at: Register<u32>) -> u32 {
        self.read(at.address(), 32)
    }
    fn write8(&self, at: Register<u8>, value: u8) {
        self.write(at.address(), 8, value.into());
    }
    fn write16(&self, at: Register<u16>, value: u16) {
        self.write(at.address(), 16, value.into());
    }
    fn write32(&self, at: Register<u32>, value: u32) {
        self.write(at.address(), 32, value);
    }
    fn doorbell(&self, _: Register<u16>, _: u16) -> Doorbell {
        panic!("over MMIO a doorbell has 32 bits");
    }
    fn doorbell_with_data(&self, at: Register<u32>, value: u16) -> Doorbell {
        self.doorbell32(at, value).with_data()
    }
    fn doorbell32(&self, at: Register<u32>, value: u16) -> Doorbell {
        Doorbell::function(Self::write_by, self.context(at), value)
    }
    fn isr(&self, _: Register<u8>) -> Isr {
        panic!("over MMIO the interrupt status has 32 bits, and another register acknowledges");
    }
    fn isr_pair(&self, status: Register<u32>, ack: Register<u32>) -> Isr {
        let (status, ack) = (self.context(status), self.context(ack));
        Isr::functions(Self::read_by, Self::write_by, status, ack)
    }
}

impl fmt::Debug for FakeMmio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeMmio")
            .field("device", &self.shared.device)
            .finish_non_exhaustive()
    }
}
