//! What the constructor and a reset leave a device as, its status and its features: bug class 60.

use vring::features::{Feature, Features};
use vring::transport::pci::PciError;
use vring::transport::{QueueIndex, Status, Transport, TransportError};

use super::{enable, ready};
use crate::pci_support::config::{BUS_MASTER, INTX_DISABLE, MEMORY};
use crate::pci_support::{Write, at, open, qemu_net};

const STATUS: usize = 0x14;

#[test]
fn bug_class_60_a_transport_starts_again_after_a_reset() {
    let (_, fake, mut transport) = ready();
    for size in [256, 64, 256] {
        transport.set_status(Status::empty());
        assert!(transport.status().is_empty());
        transport.set_status(Status::ACKNOWLEDGE);
        transport.set_driver_features(Feature::VERSION_1.into());
        assert_eq!(transport.max_queue_size(QueueIndex(0)), 256);
        enable(&mut transport, 0, size, None).unwrap();
        let again = TransportError::QueueInUse {
            queue: QueueIndex(0),
        };
        assert_eq!(enable(&mut transport, 0, size, None).unwrap_err(), again);
        assert_eq!(fake.model().queues[0].size, size);
    }
}

#[test]
fn bug_class_60_a_device_left_running_is_reset_before_it_masters_the_bus() {
    let (config, fake) = qemu_net();
    fake.model().status = 0xf;
    fake.model().queues[0].enable = 1;
    open(&config, &fake).unwrap();
    assert_eq!(fake.model().writes, [Write(STATUS, 1, 0)]);
    assert_eq!(fake.model().queues[0].enable, 0);
    let commands = config.writes.borrow();
    let commands = commands.iter().filter(|w| w.0 == 4).map(|w| w.2 as u16);
    let last_two = commands.rev().take(2).collect::<Vec<_>>();
    assert_eq!(last_two, [MEMORY | BUS_MASTER, MEMORY]);
}

#[test]
fn a_device_at_rest_is_not_written_to_by_the_constructor() {
    let (config, fake) = qemu_net();
    let transport = open(&config, &fake).unwrap();
    assert_eq!(fake.model().writes, []);
    assert_eq!(config.function(at()).command(), MEMORY | BUS_MASTER);
    assert_eq!(transport.address(), at());
}

#[test]
fn bug_class_70_msix_that_firmware_left_enabled_is_turned_off_and_intx_on() {
    let (config, fake) = qemu_net();
    let mut function = config.function(at());
    function.put16(4, INTX_DISABLE);
    function.space[0x43] |= 0x80; // the MSI-X capability comes first
    config.add(at(), function);
    assert_eq!(config.function(at()).msix_control(), 0x8002);
    open(&config, &fake).unwrap();
    assert_eq!(config.function(at()).msix_control(), 2);
    assert_eq!(config.function(at()).command(), MEMORY | BUS_MASTER);
}

#[test]
fn a_function_that_does_not_turn_on_is_refused() {
    let (config, fake) = qemu_net();
    let mut function = config.function(at());
    function.command_stuck = BUS_MASTER;
    config.add(at(), function);
    let command = MEMORY;
    assert_eq!(
        open(&config, &fake).unwrap_err(),
        PciError::CommandRefused { command }
    );
}

#[test]
fn features_are_128_bits_in_four_words() {
    let (_, fake, mut transport) = ready();
    fake.model().offered = 1 << 127 | 1 << 95 | 1 << 64 | 1 << 32 | 1;
    let offered = transport.device_features();
    assert_eq!(
        offered,
        Features(1 << 127 | 1 << 95 | 1 << 64 | 1 << 32 | 1)
    );
    transport.set_driver_features(offered);
    assert_eq!(fake.model().accepted, [1, 1, 1 << 31 | 1, 1 << 31]);
}

#[test]
fn words_that_older_devices_do_not_know_are_written_only_when_they_matter() {
    let (_, fake, mut transport) = ready();
    transport.set_driver_features(Feature::VERSION_1.into());
    let two_words = [
        Write(0x08, 4, 0),
        Write(0x0c, 4, 0),
        Write(0x08, 4, 1),
        Write(0x0c, 4, 1),
    ];
    assert_eq!(fake.model().writes, two_words);
    // A word that was set is cleared again.
    transport.set_driver_features(Features(1 << 64));
    transport.set_driver_features(Feature::VERSION_1.into());
    assert_eq!(fake.model().accepted, [0, 1, 0, 0]);
}

#[test]
fn status_bits_without_a_name_are_kept() {
    let (_, fake, mut transport) = ready();
    fake.model().status = 0xff;
    assert_eq!(transport.status().bits(), 0xff);
    transport.set_status(Status::ACKNOWLEDGE | Status::DRIVER);
    assert_eq!(fake.model().writes, [Write(STATUS, 1, 3)]);
}
