//! The transport over MMIO: which registers are touched, with what width, and in what order; and
//! what it says of a device that lies.

use vring::DmaAddr;
use vring::features::{Feature, Features};
use vring::init::{self, InitFailure};
use vring::testing::{FakeDevice, FakeMmio, InPlace, MmioAccess};
use vring::transport::mmio::{MmioError, MmioTransport};
use vring::transport::{
    DeviceId, Doorbell, Interrupt, QueueAreas, QueueIndex, ShmRegion, Status, Transport,
    TransportError,
};

const STATUS: usize = 0x70;
const QUEUE_SEL: usize = 0x30;
const QUEUE_SIZE_MAX: usize = 0x34;
const QUEUE_READY: usize = 0x44;
const QUEUE_NOTIFY: usize = 0x50;
const INTERRUPT_STATUS: usize = 0x60;
const INTERRUPT_ACK: usize = 0x64;
const QUEUE_RESET: usize = 0xc0;

const MAGIC: MmioAccess = MmioAccess::read(0, 0x7472_6976);
const VERSION: MmioAccess = MmioAccess::read(4, 2);

use MmioAccess as A;

/// A device with three queues of at most 256, and 64 bytes of configuration.
fn device(features: impl Into<Features>) -> FakeDevice {
    let config: Vec<u8> = (0..64).collect();
    FakeDevice::new(InPlace::new().bus(), DeviceId::NETWORK)
        .offer(features)
        .queues(&[256, 256, 256])
        .config(&config)
}

/// A device that has agreed on all the features that it offers; nothing recorded.
fn ready(features: impl Into<Features>) -> (FakeDevice, FakeMmio, MmioTransport<FakeMmio>) {
    let device = device(features);
    let mmio = FakeMmio::new(&device);
    let mut transport = mmio.transport().unwrap();
    agree(&mut transport);
    drop(mmio.accesses());
    (device, mmio, transport)
}

/// Resets the device and accepts what it offers.
fn agree(transport: &mut MmioTransport<FakeMmio>) {
    transport.set_status(Status::empty());
    assert!(transport.status().is_empty());
    let mut status = Status::empty();
    for step in [Status::ACKNOWLEDGE, Status::DRIVER] {
        status |= step;
        transport.set_status(status);
    }
    let features = transport.device_features();
    transport.set_driver_features(features);
    status |= Status::FEATURES_OK;
    transport.set_status(status);
    assert_eq!(transport.status(), status);
}

/// Areas beyond 4 GiB whose halves are all different.
const AREAS: QueueAreas = QueueAreas {
    desc: DmaAddr(0x0000_0011_2222_3000),
    driver: DmaAddr(0x0000_0044_5555_6000),
    device: DmaAddr(0x0000_0077_8888_9000),
};

/// Enables a queue at [`AREAS`], where there is no memory: the device says so, and does not mind.
fn enable(
    device: &FakeDevice,
    transport: &mut MmioTransport<FakeMmio>,
    queue: u16,
    size: u16,
) -> Result<Doorbell, TransportError> {
    device.violations().set_lenient();
    // SAFETY: the device finds no memory at these addresses, and uses none.
    let result = unsafe { transport.enable_queue(QueueIndex(queue), size, &AREAS, None) };
    for violation in device.violations().take() {
        assert_eq!(violation.id, "bug-7", "{violation}");
    }
    result
}

/// Defends: MM-020, MM-021, MM-004.
#[test]
fn the_constructor_reads_magic_version_and_device_id_first_and_writes_nothing_to_a_device_at_rest()
{
    let mmio = FakeMmio::new(&device(Feature::VERSION_1));
    let transport = mmio.transport().unwrap();
    let accesses = [
        MAGIC,
        VERSION,
        A::read(8, 1),
        A::read(0xc, 0x554d_4551),
        A::read(STATUS, 0),
    ];
    assert_eq!(mmio.accesses(), accesses);
    assert_eq!(transport.device_id(), DeviceId::NETWORK);
    assert_eq!(transport.vendor(), u32::from_le_bytes(*b"QEMU"));
    assert!(!transport.is_legacy());
    assert_eq!(transport.num_queues(), None);
}

/// Defends: MM-008, MM-009, MM-022, MM-023.
#[test]
fn a_placeholder_is_no_error_and_no_further_register_of_it_is_touched() {
    let nobody = FakeDevice::new(InPlace::new().bus(), DeviceId(0));
    let mmio = FakeMmio::new(&nobody);
    assert!(mmio.transport().is_none());
    assert_eq!(mmio.accesses(), [MAGIC, VERSION, A::read(8, 0)]);
}

/// What the constructor says when the register at `offset` reads as `value`, and how many registers
/// it read.
fn refused(offset: usize, value: u32) -> (MmioError, usize) {
    let mmio = FakeMmio::new(&device(Feature::VERSION_1));
    mmio.lie(offset, move |_| value);
    let result = mmio.open(0..0x200);
    (result.unwrap_err(), mmio.accesses().len())
}

/// Defends: MM-006.
#[test]
fn a_window_without_the_magic_is_refused_and_not_looked_at_further() {
    for magic in [0, !0, 0x7669_7274, 0x7472_6977] {
        assert_eq!(refused(0, magic), (MmioError::NotVirtio { magic }, 1));
    }
    let text = refused(0, 0xffff_ffff).0.to_string();
    assert!(
        text.contains("0xffffffff") && text.contains("0x74726976"),
        "{text}"
    );
}

/// Defends: MM-007.
#[test]
fn a_version_that_is_not_known_is_refused_before_the_device_is_looked_at() {
    for version in [0, 3, 0x0200_0000, !0] {
        assert_eq!(refused(4, version), (MmioError::Version { version }, 2));
    }
}

#[test]
fn a_device_id_of_more_than_16_bits_is_refused() {
    for id in [0x1_0000, 0x1_0001, !0] {
        assert_eq!(refused(8, id), (MmioError::DeviceId { id }, 3));
    }
}

#[test]
fn a_window_that_is_short_or_misaligned_is_refused_without_an_access() {
    let device = device(Feature::VERSION_1);
    let mmio = FakeMmio::new(&device);
    let open = |part| mmio.open(part).map(drop);
    for length in [0, 4, 0xff] {
        assert_eq!(open(0..length), Err(MmioError::TooShort { length }));
    }
    for start in [1, 2, 3] {
        assert_eq!(open(start..start + 0x100), Err(MmioError::Misaligned));
    }
    assert_eq!(mmio.accesses(), []);
    // Without room for configuration: what is not there is out of range.
    let transport = mmio.open(0..0x100);
    let transport = transport.unwrap().unwrap();
    assert_eq!(transport.config_size(), 0);
    assert!(transport.read_config(0, &mut [0]).is_err());
    device.assert_clean();
}

#[test]
fn bug_class_60_a_device_left_running_is_reset_before_anything_else() {
    let device = device(Feature::VERSION_1);
    let mmio = FakeMmio::new(&device);
    let mut firmware = mmio.transport().unwrap();
    agree(&mut firmware);
    enable(&device, &mut firmware, 0, 256).unwrap();
    drop(mmio.accesses());

    let transport = mmio.transport().unwrap();
    let accesses = mmio.accesses();
    assert_eq!(accesses[4..], [A::read(STATUS, 0xb), A::write(STATUS, 0)]);
    assert!(transport.status().is_empty());
}

/// Defends: MM-010, MM-011.
#[test]
fn each_word_of_features_is_selected_before_it_is_read_or_written() {
    let offered = Features(1 << 127 | 1 << 95 | 1 << 64 | 1 << 32 | 1);
    let device = device(offered);
    let mmio = FakeMmio::new(&device);
    let mut transport = mmio.transport().unwrap();
    device.violations().set_lenient(); // The status is not what this is about.
    drop(mmio.accesses());
    assert_eq!(transport.device_features(), offered);
    let words = [1, 1, 1 << 31 | 1, 1 << 31];
    let reads = (0..4)
        .zip(words)
        .flat_map(|(select, word)| [A::write(0x14, select), A::read(0x10, word)]);
    assert_eq!(mmio.accesses(), reads.collect::<Vec<_>>());
    transport.set_driver_features(offered);
    let writes = (0..4)
        .zip(words)
        .flat_map(|(select, word)| [A::write(0x24, select), A::write(0x20, word)]);
    assert_eq!(mmio.accesses(), writes.collect::<Vec<_>>());
    assert_eq!(device.accepted(), offered);
}

#[test]
fn words_that_older_devices_do_not_know_are_written_only_when_they_matter() {
    let (device, mmio, mut transport) = ready(Feature::VERSION_1);
    device.violations().set_lenient(); // Features are not to be written now.
    transport.set_driver_features(Feature::VERSION_1.into());
    let two_words = [
        A::write(0x24, 0),
        A::write(0x20, 0),
        A::write(0x24, 1),
        A::write(0x20, 1),
    ];
    assert_eq!(mmio.accesses(), two_words);
    // A word that was set is cleared again.
    transport.set_driver_features(Features(1 << 64));
    transport.set_driver_features(Feature::VERSION_1.into());
    assert_eq!(device.accepted(), Feature::VERSION_1.into());
}

#[test]
fn a_device_of_two_words_that_repeats_the_second_offers_no_more_than_two() {
    // QEMU takes every selection but 0 for 1.
    let mmio = FakeMmio::new(&device(Feature::VERSION_1));
    let mut transport = mmio.transport().unwrap();
    let mut reads = 0;
    mmio.lie(0x10, move |_| {
        reads += 1;
        if reads == 1 { 0x21 } else { 0x0000_0105 }
    });
    assert_eq!(transport.device_features(), Features(0x0105 << 32 | 0x21));
}

/// Defends: MM-004, MM-013.
#[test]
fn bug_class_65_queue_address_written_as_two_halves() {
    let (device, mmio, mut transport) = ready(Feature::VERSION_1);
    enable(&device, &mut transport, 1, 128).unwrap();
    let accesses = [
        A::write(QUEUE_SEL, 1),
        A::read(QUEUE_READY, 0),
        A::read(QUEUE_SIZE_MAX, 256),
        A::write(0x38, 128),
        A::write(0x80, 0x2222_3000),
        A::write(0x84, 0x11),
        A::write(0x90, 0x5555_6000),
        A::write(0x94, 0x44),
        A::write(0xa0, 0x8888_9000),
        A::write(0xa4, 0x77),
        A::write(QUEUE_READY, 1),
        A::read(QUEUE_READY, 1),
    ];
    assert_eq!(
        mmio.accesses(),
        accesses,
        "the fields, and the ready bit last"
    );
}

#[test]
fn bug_class_66_never_writes_zero_to_queue_ready_or_queue_size() {
    let (device, mmio, mut transport) = ready(Feature::VERSION_1);
    for _ in 0..2 {
        let (queue, size, max) = (QueueIndex(0), 0, 256);
        let refused = TransportError::QueueSize { queue, size, max };
        assert_eq!(enable(&device, &mut transport, 0, 0).unwrap_err(), refused);
        enable(&device, &mut transport, 0, 256).unwrap();
        agree(&mut transport);
    }
    let accesses = mmio.accesses();
    let written = |at| {
        let writes = accesses.iter().filter(move |a| a.write && a.offset == at);
        writes.map(|a| a.value).collect::<Vec<_>>()
    };
    assert_eq!(written(QUEUE_READY), [1, 1]);
    assert_eq!(written(0x38), [256, 256]);
}

/// Defends: MM-012.
#[test]
fn a_size_that_the_device_cannot_have_is_refused_before_anything_is_written() {
    let (device, mmio, mut transport) = ready(Feature::VERSION_1);
    let queue = QueueIndex(0);
    for size in [0, 3, 255, 257, 512, 0x8000, 0xffff] {
        let refused = TransportError::QueueSize {
            queue,
            size,
            max: 256,
        };
        assert_eq!(
            enable(&device, &mut transport, 0, size).unwrap_err(),
            refused
        );
    }
    let written = mmio.accesses().into_iter().filter(|a| a.write);
    assert!(written.into_iter().all(|a| a.offset == QUEUE_SEL));
    enable(&device, &mut transport, 0, 256).unwrap();
}

#[test]
fn a_packed_ring_may_have_any_size_up_to_32768() {
    let (device, mmio, mut transport) = ready(Feature::VERSION_1 | Feature::RING_PACKED);
    enable(&device, &mut transport, 0, 100).unwrap();
    mmio.lie(QUEUE_SIZE_MAX, |_| 0xffff);
    let (queue, max) = (QueueIndex(1), 0xffff);
    for size in [0, 0x8001] {
        let refused = TransportError::QueueSize { queue, size, max };
        assert_eq!(
            enable(&device, &mut transport, 1, size).unwrap_err(),
            refused
        );
    }
}

#[test]
fn bug_class_41_a_maximum_of_0_or_of_more_than_16_bits() {
    let (device, mmio, mut transport) = ready(Feature::VERSION_1);
    let queue = QueueIndex(7);
    assert_eq!(
        transport.max_queue_size(queue),
        0,
        "the device has three queues"
    );
    let unavailable = TransportError::QueueUnavailable { queue };
    assert_eq!(
        enable(&device, &mut transport, 7, 8).unwrap_err(),
        unavailable
    );
    for (max, seen) in [(!0, 0xffff), (0x1_0000, 0xffff), (0x8000, 0x8000), (1, 1)] {
        mmio.lie(QUEUE_SIZE_MAX, move |_| max);
        assert_eq!(transport.max_queue_size(QueueIndex(0)), seen);
    }
}

/// Defends: MM-013.
#[test]
fn a_queue_that_is_enabled_is_not_programmed_again() {
    let (device, mmio, mut transport) = ready(Feature::VERSION_1);
    enable(&device, &mut transport, 0, 256).unwrap();
    drop(mmio.accesses());
    let queue = QueueIndex(0);
    let again = enable(&device, &mut transport, 0, 256).unwrap_err();
    assert_eq!(again, TransportError::QueueInUse { queue });
    assert_eq!(
        mmio.accesses(),
        [A::write(QUEUE_SEL, 0), A::read(QUEUE_READY, 1)]
    );
}

#[test]
fn a_queue_that_does_not_read_back_as_ready_is_reported() {
    for answer in [0, 2, !0] {
        let (device, mmio, mut transport) = ready(Feature::VERSION_1);
        let mut reads = 0;
        mmio.lie(QUEUE_READY, move |_| {
            reads += 1;
            if reads == 1 { 0 } else { answer }
        });
        let queue = QueueIndex(0);
        let error = enable(&device, &mut transport, 0, 256).unwrap_err();
        assert_eq!(error, TransportError::QueueNotEnabled { queue });
    }
}

#[test]
fn there_are_no_interrupt_vectors() {
    let (_, mmio, mut transport) = ready(Feature::VERSION_1);
    // SAFETY: it is refused before the device hears of it.
    let result = unsafe { transport.enable_queue(QueueIndex(0), 8, &AREAS, Some(0)) };
    assert_eq!(result.unwrap_err(), TransportError::NoVectors);
    assert_eq!(
        transport.set_config_vector(Some(0)),
        Err(TransportError::NoVectors)
    );
    assert_eq!(transport.set_config_vector(None), Ok(()));
    assert_eq!(mmio.accesses(), []);
}

#[test]
fn bug_class_36_what_is_shared_does_not_select() {
    let (_, mmio, transport) = ready(Feature::VERSION_1);
    transport.status();
    transport.num_queues();
    transport.config_generation();
    transport.config_size();
    transport.read_config(0, &mut [0; 8]).unwrap();
    assert!(mmio.accesses().iter().all(|access| !access.write));
}

/// Defends: MM-004.
#[test]
fn bug_class_28_a_doorbell_is_32_bits_and_says_what_was_negotiated() {
    let base = Features::from(Feature::VERSION_1);
    for (features, data) in [(base, false), (base | Feature::NOTIFICATION_DATA, true)] {
        let (device, mmio, mut transport) = ready(features);
        let doorbell = enable(&device, &mut transport, 1, 256).unwrap();
        device.violations().set_lenient(); // It does not run, and the ring is nowhere.
        drop(mmio.accesses());
        for position in [0, 7, 0x8123, 0xffff] {
            doorbell.ring(position);
            let value = if data {
                u32::from(position) << 16 | 1
            } else {
                1
            };
            assert_eq!(mmio.accesses(), [A::write(QUEUE_NOTIFY, value)]);
        }
    }
}

#[test]
fn features_that_are_of_pci_alone_are_not_accepted() {
    let (_, _, transport) = ready(Feature::VERSION_1);
    let has = Feature::NOTIFICATION_DATA | Feature::RING_RESET;
    assert_eq!(transport.transport_features(), has);
}

/// The widths, offsets and values of the accesses of configuration.
fn shape(accesses: Vec<MmioAccess>) -> Vec<(u8, usize, u32)> {
    let shape = accesses
        .iter()
        .map(|a| (a.width, a.offset - 0x100, a.value));
    shape.collect()
}

/// Defends: MM-005.
#[test]
fn configuration_is_read_and_written_by_accesses_of_the_width_of_the_field() {
    let (device, mmio, mut transport) = ready(Feature::VERSION_1);
    let read = |offset, len| {
        let mut bytes = vec![0; len];
        transport.read_config(offset, &mut bytes).unwrap();
        let expected: Vec<u8> = (offset as u8..).take(len).collect();
        assert_eq!(bytes, expected);
        shape(mmio.accesses())
    };
    assert_eq!(read(5, 1), [(8, 5, 5)]);
    assert_eq!(read(6, 2), [(16, 6, 0x0706)]);
    assert_eq!(read(8, 4), [(32, 8, 0x0b0a_0908)]);
    assert_eq!(read(8, 8), [(32, 8, 0x0b0a_0908), (32, 12, 0x0f0e_0d0c)]);
    assert_eq!(read(4, 8), [(32, 4, 0x0706_0504), (32, 8, 0x0b0a_0908)]);
    let bytes = |from, to| (from..to).map(|i| (8, i, i as u32)).collect::<Vec<_>>();
    assert_eq!(read(0, 6), bytes(0, 6), "an array is no integer");
    assert_eq!(read(7, 2), bytes(7, 9), "misaligned");
    assert_eq!(read(2, 4), bytes(2, 6), "misaligned");

    transport.write_config(2, &[0xa, 0xb]).unwrap();
    transport.write_config(4, &[1, 2, 3, 4]).unwrap();
    transport
        .write_config(8, &[5, 6, 7, 8, 9, 10, 11, 12])
        .unwrap();
    transport.write_config(1, &[0xc]).unwrap();
    let written = [
        (16, 2, 0x0b0a),
        (32, 4, 0x0403_0201),
        (32, 8, 0x0807_0605),
        (32, 12, 0x0c0b_0a09),
        (8, 1, 0xc),
    ];
    assert_eq!(shape(mmio.accesses()), written);
    device.assert_clean();
}

#[test]
fn bug_class_42_configuration_outside_of_the_window_is_refused() {
    let (_, mmio, mut transport) = ready(Feature::VERSION_1);
    let size = transport.config_size();
    assert_eq!(size, 0x100);
    for (offset, len) in [(size, 1), (size - 1, 2), (usize::MAX, 1), (usize::MAX, 2)] {
        let outside = Err(TransportError::ConfigOutOfRange { offset, len, size });
        assert_eq!(transport.read_config(offset, &mut vec![0; len]), outside);
        assert_eq!(transport.write_config(offset, &vec![0; len]), outside);
    }
    assert_eq!(mmio.accesses(), []);
}

#[test]
fn the_generation_is_read_from_its_register() {
    let (device, mmio, transport) = ready(Feature::VERSION_1);
    let before = transport.config_generation();
    device.change_config(&[0; 64]);
    let after = transport.config_generation();
    assert!(before.is_some() && before != after);
    assert!(
        mmio.accesses()
            .iter()
            .all(|a| a.offset == 0xfc && a.width == 32)
    );
}

/// Defends: MM-024.
#[test]
fn shared_memory_is_told_by_id_and_only_when_asked_for() {
    let (address, length) = (0x12_3456_7000, 0x1_0000_1000);
    let region = ShmRegion { address, length };
    let device = device(Feature::VERSION_1).shm_region(3, region);
    let mmio = FakeMmio::new(&device);
    let mut transport = mmio.transport().unwrap();
    agree(&mut transport);
    let touched = |a: &MmioAccess| (0xac..0xc0).contains(&a.offset);
    assert!(!mmio.accesses().iter().any(touched));
    assert_eq!(transport.shm_region(3), Some(region));
    let accesses = [
        A::write(0xac, 3),
        A::read(0xb0, 0x1000),
        A::read(0xb4, 1),
        A::read(0xb8, 0x3456_7000),
        A::read(0xbc, 0x12),
    ];
    assert_eq!(mmio.accesses(), accesses);
    for absent in [0, 2, 4, 255] {
        assert_eq!(transport.shm_region(absent), None);
    }
}

#[test]
fn bug_class_41_shared_memory_that_cannot_be_is_none() {
    let (_, mmio, mut transport) = ready(Feature::VERSION_1);
    let mut told = |address: u64, length: u64| {
        let registers = [(0xb0, length), (0xb8, address)];
        for (at, value) in registers {
            mmio.lie(at, move |_| value as u32);
            mmio.lie(at + 4, move |_| (value >> 32) as u32);
        }
        transport.shm_region(0)
    };
    // A device that does not know the registers reads as 0.
    assert_eq!(told(0, 0), None);
    assert_eq!(told(0x1000, 0), None);
    assert_eq!(told(0x1000, u64::MAX), None);
    assert_eq!(told(0, u64::MAX), None);
    assert_eq!(told(u64::MAX, 2), None);
    assert_eq!(told(1 << 63, (1 << 63) + 1), None);
    let (address, length) = (1 << 63, 1 << 63);
    assert_eq!(told(address, length), Some(ShmRegion { address, length }));
}

/// A device that runs, with one queue that is set up nowhere.
fn running() -> (FakeDevice, FakeMmio, MmioTransport<FakeMmio>) {
    let (device, mmio, mut transport) = ready(Feature::VERSION_1);
    let status = Status::ACKNOWLEDGE | Status::DRIVER | Status::FEATURES_OK | Status::DRIVER_OK;
    transport.set_status(status);
    (device, mmio, transport)
}

/// Defends: MM-017, MM-026, MM-028.
#[test]
fn bug_class_71_an_interrupt_is_read_and_what_was_read_is_acknowledged() {
    let (device, mmio, mut transport) = running();
    let isr = transport.take_isr().unwrap();
    assert!(transport.take_isr().is_none());
    drop(mmio.accesses());

    device.interrupt();
    assert!(mmio.is_asserted());
    assert_eq!(isr.ack(), Interrupt::QUEUE);
    let accesses = [A::read(INTERRUPT_STATUS, 1), A::write(INTERRUPT_ACK, 1)];
    assert_eq!(mmio.accesses(), accesses);
    assert!(!mmio.is_asserted());

    device.change_config(&[1; 64]);
    device.interrupt();
    assert_eq!(isr.ack(), Interrupt::QUEUE | Interrupt::CONFIG);
    assert!(!mmio.is_asserted());
    drop(mmio.accesses());

    // The line of another device: nothing is written.
    assert!(isr.ack().is_empty());
    assert_eq!(mmio.accesses(), [A::read(INTERRUPT_STATUS, 0)]);
    device.assert_clean();
}

/// Defends: MM-016, MM-018.
#[test]
fn bug_class_73_bits_of_the_interrupt_status_without_a_name_are_left_alone() {
    let (device, mmio, mut transport) = running();
    let isr = transport.take_isr().unwrap();
    mmio.lie(INTERRUPT_STATUS, |status| status | 0xffff_fffc);
    assert!(isr.ack().is_empty());
    device.interrupt();
    assert_eq!(isr.ack(), Interrupt::QUEUE);
    assert!(!mmio.is_asserted());
    let acked = mmio.accesses();
    let acked = acked.iter().filter(|a| a.offset == INTERRUPT_ACK);
    assert_eq!(acked.map(|a| a.value).collect::<Vec<_>>(), [1]);
    device.assert_clean();
}

#[test]
fn bug_class_60_a_status_that_has_more_than_8_bits_confirms_no_reset() {
    let platform = InPlace::new();
    platform.set_patience(3);
    for status in [0x100, 0xffff_ff00, !0] {
        let mmio = FakeMmio::new(&device(Feature::VERSION_1));
        let transport = mmio.transport().unwrap();
        mmio.lie(STATUS, move |_| status);
        assert_eq!(transport.status().bits(), 0xff);
        let error = init::reset(transport, &platform).unwrap_err();
        let why = InitFailure::ResetNotConfirmed {
            status: Status::all(),
        };
        assert_eq!(error.why, why);
    }
}

#[test]
fn status_bits_without_a_name_are_kept() {
    let (_, mmio, transport) = ready(Feature::VERSION_1);
    mmio.lie(STATUS, |_| 0x20);
    assert_eq!(transport.status().bits(), 0x20);
}

/// Defends: MM-019.
#[test]
fn the_reset_of_a_queue_is_done_when_both_registers_read_0() {
    let (device, mmio, mut transport) = ready(Feature::VERSION_1 | Feature::RING_RESET);
    let queue = QueueIndex(1);
    enable(&device, &mut transport, 1, 256).unwrap();
    drop(mmio.accesses());
    transport.reset_queue(queue).unwrap();
    let accesses = [
        A::write(QUEUE_SEL, 1),
        A::read(QUEUE_SIZE_MAX, 256),
        A::write(QUEUE_RESET, 1),
    ];
    assert_eq!(mmio.accesses(), accesses);
    for (reset, ready, done) in [(1, 1, false), (1, 0, false), (0, 1, false), (0, 0, true)] {
        mmio.lie(QUEUE_RESET, move |_| reset);
        mmio.lie(QUEUE_READY, move |_| ready);
        assert_eq!(transport.is_queue_reset(queue), done, "{reset} {ready}");
    }
    mmio.be_honest();
    assert!(transport.is_queue_reset(queue));
    // And it may be used again, with another size.
    enable(&device, &mut transport, 1, 64).unwrap();
}

#[test]
fn a_queue_is_not_reset_alone_unless_that_was_negotiated() {
    let (_, mmio, mut transport) = ready(Feature::VERSION_1);
    let what = "VIRTIO_F_RING_RESET";
    let refused = Err(TransportError::Unsupported { what });
    assert_eq!(transport.reset_queue(QueueIndex(0)), refused);
    // The register is not there either: what it reads is no proof.
    assert!(!transport.is_queue_reset(QueueIndex(0)));
    assert_eq!(mmio.accesses(), []);
    let (_, mmio, mut transport) = ready(Feature::VERSION_1 | Feature::RING_RESET);
    let queue = QueueIndex(9);
    let refused = Err(TransportError::QueueUnavailable { queue });
    assert_eq!(transport.reset_queue(queue), refused);
    assert!(mmio.accesses().iter().all(|a| a.offset != QUEUE_RESET));
}

#[test]
fn errors_say_what_to_do() {
    let errors = [
        MmioError::TooShort { length: 16 },
        MmioError::Misaligned,
        MmioError::Version { version: 7 },
        MmioError::DeviceId { id: 0x1_0000 },
    ];
    let texts = errors.map(|error| error.to_string());
    for (text, part) in texts
        .iter()
        .zip(["0x10 ", "multiple of 4", "version 7", "0x10000"])
    {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn a_lie_may_use_the_fake_that_it_is_told_to() {
    let mmio = FakeMmio::new(&device(Feature::VERSION_1));
    let inner = mmio.clone();
    // The magic is that of the truth, which the lie reads from the same register.
    mmio.lie(0, move |truth| {
        let told = inner.open(0..0x100).unwrap();
        assert!(told.is_some());
        truth
    });
    assert!(mmio.transport().is_some());
    assert!(mmio.transport().is_some());
}
