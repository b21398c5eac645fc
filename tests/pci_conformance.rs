//! A queue over the modern transport: which registers are touched, and when.

mod pci_support;

use pci_support::{at, open, qemu_net};
use vring::DmaAddr;
use vring::buffer::Readable;
use vring::features::{Feature, Features, Wish};
use vring::init::{self, QueueConfig};
use vring::testing::Bouncing;
use vring::transport::QueueIndex;
use vring::transport::pci::ConfigAccess;

/// Defends: PCI-011.
#[test]
fn of_a_function_only_the_command_bars_and_msix_control_are_written() {
    let (config, fake) = qemu_net();
    let mut transport = open(&config, &fake).unwrap();
    let table = transport.enable_msix(&config, |addr, len| fake.map(addr, len));
    drop(table.unwrap());
    transport.disable_msix(&config);
    let writes = config.writes.borrow();
    assert!(!writes.is_empty());
    for write in writes.iter() {
        let register = write.0;
        // 0x42 is the control word of the MSI-X capability, which comes first.
        let allowed = register == 4 || (0x10..0x28).contains(&register) || register == 0x42;
        assert!(allowed, "{write:?}");
    }
    assert_eq!(config.read8(at(), 0x40), 0x11, "the MSI-X capability");
}

/// One buffer submitted, published, kicked, and returned by a device that only its memory shows;
/// the accesses of registers meanwhile.
fn round(msix: bool, features: Features) -> (Vec<(usize, u16)>, usize, usize) {
    let platform = Bouncing::new();
    let (config, fake) = qemu_net();
    fake.model().offered = features.0;
    let mut transport = open(&config, &fake).unwrap();
    if msix {
        let table = transport.enable_msix(&config, |addr, len| fake.map(addr, len));
        drop(table.unwrap());
    }
    let wish = Wish {
        want: features,
        ..Wish::default()
    };
    let reset = init::reset(transport, &platform).unwrap();
    let mut negotiated = reset.negotiate(&wish).unwrap();
    let vector = msix.then_some(1);
    let queue_config = QueueConfig::new(8).vector(vector);
    let pending = negotiated.queue(QueueIndex(1), &queue_config).unwrap();
    let live = negotiated.finish().unwrap();
    let mut queue = pending.start(&live).unwrap();
    fake.model().reads.clear();
    fake.model().writes.clear();

    for at in 0..20_u16 {
        queue.submit(Readable(vec![at as u8; 4])).unwrap();
        queue.kick();
        assert!(!queue.arm());
        // The device returns it: the element, then the index.
        let used = queue.areas().device;
        let element = DmaAddr(used.0 + 4 + 8 * u64::from(at % 8));
        platform.bus().write(element, &[0; 8]);
        let index = DmaAddr(used.0 + 2);
        platform.bus().write(index, &(at + 1).to_le_bytes());
        let event = DmaAddr(used.0 + 4 + 8 * 8);
        platform.bus().write(event, &(at + 1).to_le_bytes());
        // A queue's interrupt: the handler polls the queue.
        let done = queue.next_completion().unwrap().unwrap();
        assert_eq!(done.into_buf().0, [at as u8; 4]);
        assert!(queue.next_completion().unwrap().is_none());
        queue.disarm();
    }
    let (reads, writes, rings) = {
        let mut model = fake.model();
        let reads = std::mem::take(&mut model.reads);
        (reads, model.writes.len(), model.rings.len())
    };
    let (_, proof) = live.reset().unwrap();
    assert_eq!(queue.close(&proof).unwrap().count(), 0);
    (reads, writes, rings)
}

/// Defends: PCI-020.
#[test]
fn a_round_reads_no_register_the_interrupt_status_included_and_rings_once() {
    for features in [
        Feature::VERSION_1.into(),
        Feature::VERSION_1 | Feature::EVENT_IDX,
    ] {
        for msix in [true, false] {
            assert_eq!(round(msix, features), (vec![], 0, 20));
        }
    }
}
