//! Version 1 of the transport over MMIO: the registers of a legacy device (VIRTIO 1.4, 4.2.4), and
//! the network driver over them.

#[path = "support/net.rs"]
mod wire;

use std::collections::BTreeSet;

use vring::DmaAddr;
use vring::buffer::Window;
use vring::device::net::Driver;
use vring::features::{Feature, Features};
use vring::testing::{
    Bouncing, Discontiguous, Fake, FakeDevice, FakeMmio, InPlace, Kind, Legacy, MmioAccess,
};
use vring::transport::mmio::MmioTransport;
use vring::transport::{
    DeviceId, Doorbell, Interrupt, QueueAreas, QueueIndex, Status, Transport, TransportError,
};

use MmioAccess as A;
use wire::{Buffer, MAC, buffer, configuration, options};

const QUEUE_SEL: usize = 0x30;
const QUEUE_SIZE_MAX: usize = 0x34;
const QUEUE_PFN: usize = 0x40;
const STATUS: usize = 0x70;

/// Registers that version 1 has.
const KNOWN: &[usize] = &[
    0x00, 0x04, 0x08, 0x0c, 0x10, 0x14, 0x20, 0x24, 0x28, 0x30, 0x34, 0x38, 0x3c, 0x40, 0x50, 0x60,
    0x64, 0x70,
];

fn legacy(device: FakeDevice) -> (FakeDevice, FakeMmio) {
    let device = device.legacy(Legacy::ChosenSizes);
    let mmio = FakeMmio::new(&device);
    (device, mmio)
}

/// A device with two queues of at most 256 that has agreed on features; nothing recorded.
fn ready() -> (FakeDevice, FakeMmio, MmioTransport<FakeMmio>) {
    let device = FakeDevice::new(InPlace::new().bus(), DeviceId::NETWORK);
    let (device, mmio) = legacy(device.offer(Feature::ANY_LAYOUT).queues(&[256, 256]));
    let mut transport = mmio.transport().unwrap();
    transport.set_status(Status::empty());
    assert!(transport.status().is_empty());
    for status in [Status::ACKNOWLEDGE, Status::ACKNOWLEDGE | Status::DRIVER] {
        transport.set_status(status);
    }
    let features = transport.device_features();
    transport.set_driver_features(features);
    drop(mmio.accesses());
    (device, mmio, transport)
}

/// A block of 256 descriptors as `vring_init` lays it out at this address.
fn block(desc: u64) -> QueueAreas {
    QueueAreas {
        desc: DmaAddr(desc),
        driver: DmaAddr(desc + 4096),
        device: DmaAddr(desc + 8192),
    }
}

/// Enables a queue where there is no memory: the device says so, and does not mind.
fn enable(
    device: &FakeDevice,
    transport: &mut MmioTransport<FakeMmio>,
    size: u16,
    areas: &QueueAreas,
) -> Result<Doorbell, TransportError> {
    device.violations().set_lenient();
    // SAFETY: the device finds no memory at these addresses, and uses none.
    let result = unsafe { transport.enable_queue(QueueIndex(1), size, areas, None) };
    for violation in device.violations().take() {
        assert!(
            violation.what.contains("nothing was ever there"),
            "{violation}"
        );
    }
    result
}

#[test]
fn a_device_of_version_1_is_a_legacy_one() {
    let (_, mmio) = legacy(FakeDevice::new(InPlace::new().bus(), DeviceId::NETWORK));
    let transport = mmio.transport().unwrap();
    assert!(transport.is_legacy());
    assert!(!transport.is_queue_size_fixed());
    assert_eq!(transport.transport_features(), Features::EMPTY);
    assert_eq!(transport.config_generation(), None);
    let accesses = [
        A::read(0, 0x7472_6976),
        A::read(4, 1),
        A::read(8, 1),
        A::read(0xc, 0x554d_4551),
        A::read(STATUS, 0),
    ];
    assert_eq!(mmio.accesses(), accesses);
    let (_, mmio) = legacy(FakeDevice::new(InPlace::new().bus(), DeviceId(0)));
    assert!(
        mmio.transport().is_none(),
        "nor is a placeholder of version 1 a device"
    );
}

#[test]
fn features_are_one_word_and_the_page_size_follows_them() {
    let offered = Features(1 << 33 | 1 << 31 | 1 << 29 | 1 << 27 | 1);
    let device = FakeDevice::new(InPlace::new().bus(), DeviceId::NETWORK).offer(offered);
    let (device, mmio) = legacy(device);
    let mut transport = mmio.transport().unwrap();
    device.violations().set_lenient(); // The status is not what this is about.
    drop(mmio.accesses());
    let word = 1 << 31 | 1 << 29 | 1 << 27 | 1;
    let features = transport.device_features();
    assert_eq!(features, Features(word));
    assert_eq!(
        mmio.accesses(),
        [A::write(0x14, 0), A::read(0x10, word as u32)]
    );
    transport.set_driver_features(features);
    let accesses = [
        A::write(0x24, 0),
        A::write(0x20, word as u32),
        A::write(0x28, 4096),
    ];
    assert_eq!(mmio.accesses(), accesses);
}

#[test]
fn bug_class_61_a_queue_is_told_its_size_its_alignment_and_its_page_last() {
    let (device, mmio, mut transport) = ready();
    let doorbell = enable(&device, &mut transport, 256, &block(0x12_3456_7000)).unwrap();
    let accesses = [
        A::write(QUEUE_SEL, 1),
        A::read(QUEUE_PFN, 0),
        A::read(QUEUE_SIZE_MAX, 256),
        A::write(0x38, 256),
        A::write(0x3c, 4096),
        A::write(QUEUE_PFN, 0x0123_4567),
        A::read(QUEUE_PFN, 0x0123_4567),
    ];
    assert_eq!(mmio.accesses(), accesses);
    device.violations().set_lenient(); // It does not run.
    doorbell.ring(0x55);
    assert_eq!(mmio.accesses(), [A::write(0x50, 1)]);
}

#[test]
fn a_ring_that_no_page_frame_number_tells_is_refused_before_anything_is_written() {
    let (device, mmio, mut transport) = ready();
    let queue = QueueIndex(1);
    for desc in [0, 0x1_0010, 0x1_0800, 1 << 44, u64::MAX - 0xffff] {
        let addr = DmaAddr(desc);
        let refused = TransportError::QueueAddress { queue, addr };
        let areas = QueueAreas {
            desc: addr,
            ..block(0x1_0000)
        };
        assert_eq!(
            enable(&device, &mut transport, 256, &areas).unwrap_err(),
            refused
        );
    }
    let written = mmio.accesses().into_iter().filter(|a| a.write);
    assert!(written.into_iter().all(|a| a.offset == QUEUE_SEL));
    enable(&device, &mut transport, 256, &block((1 << 44) - 4096)).unwrap();
}

#[test]
fn a_queue_of_a_legacy_device_that_is_used_or_not_taken_or_too_large_is_reported() {
    let (device, mmio, mut transport) = ready();
    let queue = QueueIndex(1);
    let areas = block(0x1_0000);
    for size in [0, 3, 512] {
        let refused = TransportError::QueueSize {
            queue,
            size,
            max: 256,
        };
        assert_eq!(
            enable(&device, &mut transport, size, &areas).unwrap_err(),
            refused
        );
    }
    for answer in [1, 0x11, !0] {
        let (device, lying, mut transport) = ready();
        let mut reads = 0;
        lying.lie(QUEUE_PFN, move |_| {
            reads += 1;
            if reads == 1 { 0 } else { answer }
        });
        let error = enable(&device, &mut transport, 256, &areas).unwrap_err();
        assert_eq!(error, TransportError::QueueNotEnabled { queue });
    }
    enable(&device, &mut transport, 256, &areas).unwrap();
    drop(mmio.accesses());
    let again = enable(&device, &mut transport, 256, &areas).unwrap_err();
    assert_eq!(again, TransportError::QueueInUse { queue });
    // The largest size is not asked of a queue that is used.
    assert_eq!(
        mmio.accesses(),
        [A::write(QUEUE_SEL, 1), A::read(QUEUE_PFN, 0x10)]
    );
}

#[test]
fn what_version_1_does_not_have_is_not_touched() {
    let (device, mmio, mut transport) = ready();
    let queue = QueueIndex(0);
    let what = "VIRTIO_F_RING_RESET";
    assert_eq!(
        transport.reset_queue(queue),
        Err(TransportError::Unsupported { what })
    );
    assert!(!transport.is_queue_reset(queue));
    assert_eq!(transport.shm_region(0), None);
    assert_eq!(transport.config_generation(), None);
    assert_eq!(mmio.accesses(), []);
    device.assert_clean();
}

type Mmio<K> = Driver<Fake<K>, MmioTransport<FakeMmio>, Buffer>;

/// A frame with this much in front of it.
fn frame(headroom: usize, byte: u8) -> Window<Buffer> {
    let mut frame = Window::new(buffer(headroom + 60), headroom, 60);
    frame.as_mut_slice().fill(byte);
    frame
}

fn card<K: Kind>(platform: &Fake<K>, layout: Features) {
    const HEADER: usize = 10;
    let offered = layout
        | Feature::EVENT_IDX
        | Feature::INDIRECT_DESC
        | vring::device::net::F::MAC
        | vring::device::net::F::STATUS;
    let queues = [
        vring::device::net::RECEIVE_QUEUE,
        vring::device::net::TRANSMIT_QUEUE,
    ];
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(offered)
        .queues(&[256, 256])
        .header(queues[0], HEADER as u16)
        .header(queues[1], HEADER as u16)
        .config(&configuration(1, 1500));
    let (device, mmio) = legacy(device);
    let transport = mmio.transport().unwrap();
    let mut driver: Mmio<K> = Driver::new(platform.clone(), transport, options(16, 16)).unwrap();
    assert_eq!(driver.control().features(), offered);
    assert_eq!(driver.control().mac(), Some(MAC));
    assert_eq!(driver.control().link_up(), Ok(true));
    assert_eq!(driver.rx().header_len(), HEADER);
    assert_eq!(driver.rx().size(), 16, "the driver chooses");
    let isr = driver.control().take_isr().unwrap();
    let len = driver.rx().buffer_len();
    while driver.rx().give(buffer(len)).is_ok() {}
    driver.rx().kick();
    assert!(!driver.rx().arm());
    for i in 0..40 {
        let mut bytes = vec![0; HEADER];
        bytes.extend([i; 70]);
        assert!(wire::deliver_raw(&device, &bytes, bytes.len() as u32));
        assert_eq!(isr.ack(), Interrupt::QUEUE);
        let got = driver.rx().receive().unwrap().unwrap();
        assert_eq!(got.as_slice(), [i; 70]);
        driver.rx().give(got.into_memory()).unwrap();
        driver.rx().kick();
        assert!(!driver.rx().arm());
        driver.tx().transmit(frame(usize::from(i) % 20, i)).unwrap();
        driver.tx().kick();
        let sent = device.with_queue(queues[1], |queue| {
            let chain = queue.pop().unwrap();
            let bytes = queue.read(&chain);
            queue.complete(chain, 0);
            bytes
        });
        let sent = sent.unwrap();
        assert_eq!(
            (&sent[..HEADER], &sent[HEADER..]),
            (&[0; HEADER][..], &[i; 60][..])
        );
        assert_eq!(driver.tx().reclaim(|_| ()).unwrap(), 1);
    }
    driver.shutdown(|_, _| ()).unwrap();
    device.assert_clean();
    platform.assert_no_leaks();
    let touched: BTreeSet<_> = mmio.accesses().iter().map(|a| a.offset).collect();
    let known = |at: &usize| *at >= 0x100 || KNOWN.contains(at);
    assert!(touched.iter().all(known), "{touched:x?}");
}

#[test]
fn a_legacy_network_card_works_over_mmio() {
    for layout in [Features::EMPTY, Feature::ANY_LAYOUT.into()] {
        card(&InPlace::new(), layout);
        card(&Bouncing::new(), layout);
    }
    // A header that crosses a page is two descriptors, which only a device of any layout takes.
    card(&Discontiguous::new(4096), Feature::ANY_LAYOUT.into());
}

#[test]
fn bug_class_40_configuration_without_a_generation_is_read_until_two_reads_agree() {
    let platform = InPlace::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(vring::device::net::F::STATUS)
        .queues(&[256, 256])
        .config(&configuration(1, 1500));
    let (device, mmio) = legacy(device);
    let transport = mmio.transport().unwrap();
    let mut driver: Mmio<_> = Driver::new(platform.clone(), transport, options(16, 16)).unwrap();
    drop(mmio.accesses());
    device.change_config_under_read(&configuration(0, 1500));
    assert_eq!(driver.control().link_up(), Ok(false));
    assert_eq!(mmio.accesses().len(), 3, "old, new, new");
    driver.shutdown(|_, _| ()).unwrap();
    device.assert_clean();
}
