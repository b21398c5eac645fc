//! The modern transport over PCI: what the tests of its parts share.

#[path = "pci_transport/bring_up.rs"]
mod bring_up;
#[path = "pci_transport/configuration.rs"]
mod configuration;
#[path = "pci_transport/doorbells.rs"]
mod doorbells;
#[path = "pci_transport/interrupts.rs"]
mod interrupts;
mod pci_support;
#[path = "pci_transport/queues.rs"]
mod queues;

use vring::transport::pci::PciTransport;
use vring::transport::{Doorbell, QueueAreas, QueueIndex, Transport, TransportError};

use pci_support::{AREAS, Cap, Fake, FakeConfig, FakeFunction, at, open, qemu_net};

fn ready() -> (FakeConfig, Fake, PciTransport<Fake>) {
    let (config, fake) = qemu_net();
    let transport = open(&config, &fake).unwrap();
    fake.model().writes.clear();
    fake.model().reads.clear();
    (config, fake, transport)
}

fn enable(
    transport: &mut PciTransport<Fake>,
    queue: u16,
    size: u16,
    vector: Option<u16>,
) -> Result<Doorbell, TransportError> {
    enable_areas(transport, queue, size, &AREAS, vector)
}

fn enable_areas(
    transport: &mut PciTransport<Fake>,
    queue: u16,
    size: u16,
    areas: &QueueAreas,
    vector: Option<u16>,
) -> Result<Doorbell, TransportError> {
    // SAFETY: a fake device uses no memory.
    unsafe { transport.enable_queue(QueueIndex(queue), size, areas, vector) }
}

/// A transport whose common configuration is so long, and whose doorbells are there.
fn with_structures(common: u32, notify: Cap) -> (Fake, PciTransport<Fake>) {
    let function = FakeFunction::new(0x1af4, 0x1041)
        .memory_bar64(4, 0x80_0000_0000, 0x4000)
        .caps(vec![
            Cap::virtio(1, 4, 0, common),
            notify,
            Cap::virtio(3, 4, 0x1000, 1),
        ]);
    let config = FakeConfig::with(at(), function);
    let fake = Fake::new();
    let transport = open(&config, &fake).unwrap();
    (fake, transport)
}
