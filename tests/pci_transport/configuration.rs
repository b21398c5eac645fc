//! The device's configuration, in the widths of its fields: bug class 42.

use vring::transport::{Transport, TransportError};

use super::ready;
use crate::pci_support::{Cap, Fake, FakeConfig, FakeFunction, Write, at, open};

/// Defends: PCI-004.
#[test]
fn configuration_is_read_with_the_widths_of_its_fields() {
    let (_, fake, transport) = ready();
    let read = |offset, len| {
        let mut bytes = vec![0; len];
        transport.read_config(offset, &mut bytes).unwrap();
        let expected = offset..offset + len;
        assert!(
            bytes.iter().map(|&b| usize::from(b)).eq(expected),
            "{bytes:?}"
        );
        let reads = std::mem::take(&mut fake.model().reads);
        reads
            .iter()
            .map(|r| (r.0 - 0x2000, r.1))
            .collect::<Vec<_>>()
    };
    assert_eq!(read(7, 1), [(7, 1)]);
    assert_eq!(read(6, 2), [(6, 2)]);
    assert_eq!(read(12, 4), [(12, 4)]);
    assert_eq!(
        read(8, 8),
        [(8, 4), (12, 4)],
        "a 64-bit field, low half first"
    );
    assert_eq!(
        read(4, 8),
        [(4, 4), (8, 4)],
        "which need be aligned to 4 only"
    );
    let bytes = (0..6).map(|i| (i, 1)).collect::<Vec<_>>();
    assert_eq!(read(0, 6), bytes, "a MAC address is bytes");
    assert_eq!(read(1, 2), [(1, 1), (2, 1)], "no integer is misaligned");
    assert_eq!(read(2, 4).len(), 4);
    assert_eq!(read(2, 8).len(), 8);
    assert_eq!(read(3, 0), []);
}

/// Defends: PCI-004.
#[test]
fn configuration_is_written_with_the_widths_of_its_fields() {
    let (_, fake, mut transport) = ready();
    transport
        .write_config(0, &[0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8])
        .unwrap();
    transport.write_config(8, &[0xb1, 0xb2]).unwrap();
    transport.write_config(11, &[0xc1]).unwrap();
    transport.write_config(13, &[0xd1, 0xd2, 0xd3]).unwrap();
    let writes = [
        Write(0x2000, 4, 0xa4a3_a2a1),
        Write(0x2004, 4, 0xa8a7_a6a5),
        Write(0x2008, 2, 0xb2b1),
        Write(0x200b, 1, 0xc1),
        Write(0x200d, 1, 0xd1),
        Write(0x200e, 1, 0xd2),
        Write(0x200f, 1, 0xd3),
    ];
    assert_eq!(fake.model().writes, writes);
}

#[test]
fn bug_class_42_config_too_short_is_an_error_not_a_panic() {
    let function = FakeFunction::new(0x1af4, 0x1041)
        .memory_bar64(4, 0x80_0000_0000, 0x4000)
        .caps(vec![
            Cap::virtio(1, 4, 0, 64),
            Cap::notify(4, 0x3000, 0x1000, 4),
            Cap::virtio(3, 4, 0x1000, 1),
            Cap::virtio(4, 4, 0x2000, 7),
        ]);
    let config = FakeConfig::with(at(), function);
    let fake = Fake::new();
    let mut transport = open(&config, &fake).unwrap();
    fake.model().reads.clear();
    assert_eq!(transport.config_size(), 7);
    for (offset, len) in [
        (4, 4),
        (6, 2),
        (7, 1),
        (0, 8),
        (usize::MAX, 1),
        (usize::MAX - 3, 8),
    ] {
        let error = TransportError::ConfigOutOfRange {
            offset,
            len,
            size: 7,
        };
        assert_eq!(transport.read_config(offset, &mut vec![0; len]), Err(error));
        assert_eq!(transport.write_config(offset, &vec![0; len]), Err(error));
    }
    assert_eq!(fake.model().reads, []);
    transport.read_config(6, &mut [0]).unwrap();
    transport.read_config(7, &mut []).unwrap();
}
