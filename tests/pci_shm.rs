//! Shared memory regions (VIRTIO 1.4, 4.1.4.7).

mod pci_support;

use pci_support::{Cap, Fake, FakeConfig, FakeFunction, at, open};
use vring::transport::{ShmRegion, Transport};

const WINDOW: u64 = 0x100_0000_0000;

/// A device with 16 GiB of memory of its own in BAR 2, and these capabilities.
fn with_regions(regions: Vec<Cap>) -> (FakeConfig, Fake) {
    let mut caps = vec![
        Cap::virtio(1, 4, 0, 64),
        Cap::notify(4, 0x3000, 0x1000, 4),
        Cap::virtio(3, 4, 0x1000, 1),
    ];
    caps.extend(regions);
    let function = FakeFunction::new(0x1af4, 0x105a)
        .io_bar(0, 0xc000, 0x1000)
        .memory_bar64(2, WINDOW, 16 << 30)
        .memory_bar64(4, 0x80_0000_0000, 0x4000)
        .caps(caps);
    (FakeConfig::with(at(), function), Fake::new())
}

fn regions(config: &FakeConfig, ids: &[u8]) -> Vec<Option<ShmRegion>> {
    let mut transport = open(config, &Fake::new()).unwrap();
    ids.iter().map(|&id| transport.shm_region(id)).collect()
}

#[test]
fn regions_are_told_apart_by_their_ids_and_may_be_larger_than_4_gib() {
    let (config, fake) = with_regions(vec![
        Cap::shared_memory(0, 2, 0, 8 << 30),
        Cap::shared_memory(255, 2, 0x2_4000_0000, 0x1000),
    ]);
    let all = ShmRegion {
        address: WINDOW,
        length: 8 << 30,
    };
    let page = ShmRegion {
        address: WINDOW + 0x2_4000_0000,
        length: 0x1000,
    };
    assert_eq!(
        regions(&config, &[0, 255, 1]),
        [Some(all), Some(page), None]
    );
    open(&config, &fake).unwrap();
    let mapped = &fake.model().mapped;
    assert!(
        mapped.iter().all(|map| map.0 < WINDOW),
        "mapping it is the kernel's business"
    );
}

#[test]
fn bug_class_44_a_region_that_is_not_wholly_in_memory_is_none() {
    let mut short = Cap::shared_memory(6, 2, 0, 0x1000);
    short.0[2] = 20;
    for cap in [
        Cap::shared_memory(6, 2, 16 << 30, 1),
        Cap::shared_memory(6, 2, 0, (16 << 30) + 1),
        Cap::shared_memory(6, 2, u64::MAX, 2),
        Cap::shared_memory(6, 2, u64::MAX, u64::MAX),
        Cap::shared_memory(6, 2, 0, 0),
        Cap::shared_memory(6, 0, 0, 0x1000), // ports
        Cap::shared_memory(6, 1, 0, 0x1000), // no such BAR
        Cap::shared_memory(6, 3, 0, 0x1000), // an upper half
        Cap::shared_memory(6, 6, 0, 0x1000), // a reserved number
        short,
    ] {
        let (config, _) = with_regions(vec![cap]);
        assert_eq!(regions(&config, &[6]), [None]);
    }
    let (config, _) = with_regions(vec![Cap::shared_memory(6, 2, (16 << 30) - 1, 1)]);
    let last = ShmRegion {
        address: WINDOW + (16 << 30) - 1,
        length: 1,
    };
    assert_eq!(regions(&config, &[6]), [Some(last)]);
}

#[test]
fn bug_class_44_of_two_regions_of_one_id_the_first_counts() {
    let (config, _) = with_regions(vec![
        Cap::shared_memory(1, 2, 0x1000, 0x1000),
        Cap::shared_memory(1, 2, 0x8000, 0x1000),
    ]);
    let address = WINDOW + 0x1000;
    let length = 0x1000;
    assert_eq!(
        regions(&config, &[1]),
        [Some(ShmRegion { address, length })]
    );
}
