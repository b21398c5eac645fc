//! A PCI function in memory: configuration space that judges every access, and the registers of a
//! virtio device behind it. A wrong width, a write to what is read-only, or a rule broken stops
//! the test where it happens.
// Each test program uses its part.
#![allow(dead_code, unreachable_pub, unused_imports)]

pub mod arbitrary;
pub mod config;
pub mod device;
pub mod legacy;
pub mod ports;

pub use config::{Cap, FakeConfig, FakeFunction};
pub use device::{Fake, Write};
pub use ports::{FakePorts, PORT, Shared};

use vring::platform::DmaAddr;
use vring::transport::QueueAreas;
use vring::transport::pci::{Address, PciError, PciTransport};

/// Where the function of most tests is.
pub fn at() -> Address {
    Address::new(0, 3, 0).unwrap()
}

/// A bus with one network device as QEMU makes it, and the device.
pub fn qemu_net() -> (FakeConfig, Fake) {
    (
        FakeConfig::with(at(), FakeFunction::qemu(0x1041)),
        Fake::new(),
    )
}

/// The transport over both.
pub fn open(config: &FakeConfig, fake: &Fake) -> Result<PciTransport<Fake>, PciError> {
    PciTransport::with_access(config, at(), fake.clone(), |addr, len| fake.map(addr, len))
}

/// Areas beyond 4 GiB whose halves are all different.
pub const AREAS: QueueAreas = QueueAreas {
    desc: DmaAddr(0x0000_0011_2222_3000),
    driver: DmaAddr(0x0000_0044_5555_6000),
    device: DmaAddr(0x0000_0077_8888_9000),
};
