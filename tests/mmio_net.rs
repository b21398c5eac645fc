//! The network driver over MMIO, from the first register to the last buffer, on every kind of ring
//! and of platform. Device and registers are strict: a wrong width, order or selection stops a test.

#[path = "support/net.rs"]
mod wire;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use vring::buffer::{Window, Writable};
use vring::device::net::{Driver, F, RECEIVE_QUEUE, TRANSMIT_QUEUE};
use vring::features::{Feature, Features, Wish};
use vring::init::{self, InitFailure, QueueConfig, QueueError};
use vring::platform::Platform;
use vring::testing::{
    Bouncing, Discontiguous, Fake, FakeDevice, FakeMmio, InPlace, Kind, Legacy, ResetAnswer,
};
use vring::transport::mmio::MmioTransport;
use vring::transport::{
    DeviceId, Doorbell, Interrupt, Isr, QueueIndex, Register, RegisterAccess, Status, Transport,
};

use wire::{Buffer, HEADER, MAC, OFFERED, buffer, deliver, options, take};

type Mmio<K, A = FakeMmio> = Driver<Fake<K>, MmioTransport<A>, Buffer>;

/// What the devices of these tests offer.
const RINGS: [Features; 4] = [
    OFFERED.with(Feature::RING_RESET),
    OFFERED
        .with(Feature::RING_RESET)
        .with(Feature::NOTIFICATION_DATA)
        .with(Feature::INDIRECT_DESC),
    OFFERED.with(Feature::RING_RESET).with(Feature::RING_PACKED),
    OFFERED
        .with(Feature::RING_RESET)
        .with(Feature::RING_PACKED)
        .with(Feature::NOTIFICATION_DATA)
        .with(Feature::IN_ORDER),
];

/// Every kick rings.
const PLAIN: Features = Features::of(&[Feature::VERSION_1, F::STATUS, Feature::RING_RESET]);

/// Runs a generic function on each kind of platform and of ring.
macro_rules! everywhere {
    ($f:ident) => {{
        for ring in RINGS {
            $f(&InPlace::new(), ring);
            $f(&Bouncing::new(), ring);
            $f(&Discontiguous::new(1024), ring);
        }
    }};
}

fn start<K: Kind>(platform: &Fake<K>, features: Features) -> (FakeDevice, FakeMmio, Mmio<K>) {
    let device = wire::device(platform, features, 1500);
    let mmio = FakeMmio::new(&device);
    let transport = mmio.transport().unwrap();
    let driver = Driver::new(platform.clone(), transport, options(16, 16)).unwrap();
    (device, mmio, driver)
}

/// Gives the device as many buffers as it takes; how many.
fn refill<P: Platform, T: Transport>(driver: &mut Driver<P, T, Buffer>) -> usize {
    let rx = driver.rx();
    let len = rx.buffer_len();
    let given = (0..).take_while(|_| rx.give(buffer(len)).is_ok()).count();
    rx.kick();
    given
}

fn frame(byte: u8) -> Window<Buffer> {
    let mut frame = Window::new(buffer(HEADER + 60), HEADER, 60);
    frame.as_mut_slice().fill(byte);
    frame
}

/// Moves frames both ways.
fn works<P: Platform, T: Transport>(driver: &mut Driver<P, T, Buffer>, device: &FakeDevice) {
    for i in 0..40 {
        assert!(deliver(device, &[i; 70]));
        let got = driver.rx().receive().unwrap().unwrap();
        assert_eq!(got.as_slice(), [i; 70]);
        driver.rx().give(got.into_memory()).unwrap();
        driver.rx().kick();
        driver.tx().transmit(frame(i)).unwrap();
        driver.tx().kick();
        assert_eq!(take(device).unwrap().1, [i; 60]);
        assert_eq!(driver.tx().reclaim(|_| ()).unwrap(), 1);
    }
}

fn finish<K: Kind, T: Transport>(
    driver: Driver<Fake<K>, T, Buffer>,
    platform: &Fake<K>,
    device: &FakeDevice,
) {
    driver.shutdown(|_, _| ()).unwrap();
    device.assert_clean();
    platform.assert_no_leaks();
}

/// Defends: MM-001, MM-002, MM-003, MM-004, MM-012, MM-013, MM-024, MM-025.
#[test]
fn a_network_card_works_over_mmio() {
    everywhere!(card);
}

fn card<K: Kind>(platform: &Fake<K>, ring: Features) {
    let (device, mmio, mut driver) = start(platform, ring);
    assert_eq!(driver.control().features(), ring);
    assert_eq!(driver.control().mac(), Some(MAC));
    assert_eq!(driver.control().mtu(), Some(1500));
    assert_eq!(driver.control().link_up(), Ok(true));
    refill(&mut driver);
    works(&mut driver, &device);
    let shared_memory = |offset| (0xac..0xc0).contains(&offset);
    assert!(
        !mmio
            .accesses()
            .iter()
            .any(|access| shared_memory(access.offset))
    );
    finish(driver, platform, &device);
}

/// The data path touches the doorbell and nothing else, and that once a kick.
#[test]
fn a_round_reads_no_register_and_writes_the_doorbell_once() {
    let platform = InPlace::new();
    let (device, mmio, mut driver) = start(&platform, PLAIN);
    refill(&mut driver);
    drop(mmio.accesses());
    for i in 0..20 {
        driver.tx().transmit(frame(i)).unwrap();
        driver.tx().kick();
        assert!(!driver.tx().arm());
        assert!(take(&device).is_some());
        assert_eq!(driver.tx().reclaim(|_| ()).unwrap(), 1);
        driver.tx().disarm();
    }
    let accesses = mmio.accesses();
    assert_eq!(accesses.len(), 20);
    let doorbell = vring::testing::MmioAccess::write(0x50, TRANSMIT_QUEUE.0.into());
    assert!(accesses.iter().all(|access| *access == doorbell));
    finish(driver, &platform, &device);
}

/// Defends: MM-017, MM-026, MM-027, MM-028.
#[test]
fn bug_class_71_one_interrupt_may_be_of_every_queue() {
    everywhere!(one_interrupt);
}

fn one_interrupt<K: Kind>(platform: &Fake<K>, ring: Features) {
    let (device, mmio, mut driver) = start(platform, ring);
    let isr = driver.control().take_isr().unwrap();
    refill(&mut driver);
    driver.tx().transmit(frame(1)).unwrap();
    driver.tx().kick();
    assert!(!driver.rx().arm());
    assert!(!driver.tx().arm());
    // Both queues have used buffers before the handler runs.
    assert!(take(&device).is_some());
    assert!(deliver(&device, &[2; 70]));
    assert!(mmio.is_asserted());
    assert_eq!(isr.ack(), Interrupt::QUEUE);
    assert!(!mmio.is_asserted(), "or the line stays up for ever");
    // Neither queue is asked which one it was.
    let frame = driver.rx().receive().unwrap().unwrap();
    assert_eq!(frame.as_slice(), [2; 70]);
    assert_eq!(driver.tx().reclaim(|_| ()).unwrap(), 1);
    assert!(isr.ack().is_empty());
    finish(driver, platform, &device);
}

/// What comes after the handler has looked, and before it is done, interrupts again.
#[test]
fn bug_class_30_an_event_behind_the_acknowledgment_is_not_lost() {
    let platform = InPlace::new();
    let (device, mmio, mut driver) = start(&platform, OFFERED);
    let isr = driver.control().take_isr().unwrap();
    refill(&mut driver);
    assert!(!driver.rx().arm());
    assert!(deliver(&device, &[1; 60]));
    assert_eq!(isr.ack(), Interrupt::QUEUE);
    assert!(deliver(&device, &[2; 60]));
    device.interrupt();
    assert!(mmio.is_asserted());
    for i in [1, 2] {
        assert_eq!(driver.rx().receive().unwrap().unwrap().as_slice(), [i; 60]);
    }
    assert_eq!(isr.ack(), Interrupt::QUEUE);
    finish(driver, &platform, &device);
}

#[test]
fn bug_class_72_a_change_of_configuration_is_an_event_and_reads_what_changed() {
    let platform = InPlace::new();
    let (device, _, mut driver) = start(&platform, OFFERED);
    let isr = driver.control().take_isr().unwrap();
    device.change_config(&wire::configuration(0, 1500));
    assert_eq!(isr.ack(), Interrupt::CONFIG);
    assert_eq!(driver.control().link_up(), Ok(false));
    // Under the driver's eyes: the generation tells, and it reads again.
    device.change_config_under_read(&wire::configuration(1, 1500));
    assert_eq!(driver.control().link_up(), Ok(true));
    finish(driver, &platform, &device);
}

/// Defends: MM-019.
#[test]
fn a_queue_is_reset_alone_and_set_up_again_with_another_size() {
    everywhere!(queue_reset);
}

fn queue_reset<K: Kind>(platform: &Fake<K>, ring: Features) {
    let (device, mmio, mut driver) = start(platform, ring);
    let given = refill(&mut driver);
    works(&mut driver, &device);
    device.set_queue_reset(ResetAnswer::After(3));
    let mut back = 0;
    let (rx, tx, control) = driver.parts();
    control.restart_receive(rx, 8, |_| back += 1).unwrap();
    control.restart_transmit(tx, 8, |_| ()).unwrap();
    assert_eq!(back, given);
    assert_eq!(driver.rx().size(), 8);
    let resets = mmio.accesses();
    let asked = resets.iter().filter(|a| a.offset == 0xc0 && !a.write);
    assert_eq!(
        asked.map(|a| a.value).collect::<Vec<_>>(),
        [1, 1, 1, 0, 1, 1, 1, 0]
    );
    refill(&mut driver);
    works(&mut driver, &device);
    finish(driver, platform, &device);
}

#[test]
fn bug_class_43_a_queue_that_never_resets_is_given_up_in_bounded_time() {
    let platform = InPlace::new();
    let (device, _, mut driver) = start(&platform, RINGS[0]);
    refill(&mut driver);
    platform.set_patience(10);
    device.set_queue_reset(ResetAnswer::Never);
    let mut back = 0;
    let (rx, _, control) = driver.parts();
    let error = control.restart_receive(rx, 8, |_| back += 1).unwrap_err();
    assert_eq!(back, 0, "the device may still write to them");
    let text = error.to_string();
    assert!(!text.is_empty());
    device.set_queue_reset(ResetAnswer::After(0));
    control.restart_receive(rx, 8, |_| back += 1).unwrap();
    assert_eq!(back, 16);
    finish(driver, &platform, &device);
}

/// QEMU 7.2 offers `VIRTIO_F_RING_RESET` over MMIO, has no such register, and goes on using the queue:
/// `QueueReset` reads 0 from the start, and `QueueReady` stays 1.
#[test]
fn bug_class_62_a_queue_that_is_not_reset_though_that_was_offered_keeps_its_buffers() {
    let platform = InPlace::new();
    let (device, mmio, mut driver) = start(&platform, PLAIN);
    refill(&mut driver);
    platform.set_patience(10);
    device.set_queue_reset(ResetAnswer::Never);
    mmio.lie(0xc0, |_| 0);
    let (rx, _, control) = driver.parts();
    let error = control.restart_receive(rx, 8, |_| panic!("the device still has it"));
    let queue = RECEIVE_QUEUE;
    let expected = InitFailure::QueueResetNotConfirmed { queue };
    assert_eq!(error, Err(expected));
    // The device as a whole does reset, and works again.
    let (mut driver, recovery) = driver.recover(Some, |_, _| ()).unwrap();
    assert_eq!(recovery.refilled, 16);
    works(&mut driver, &device);
    finish(driver, &platform, &device);
}

#[test]
fn bug_class_60_a_device_is_waited_for_and_may_start_again() {
    let platform = Bouncing::new();
    let (device, mmio, mut driver) = start(&platform, RINGS[1]);
    refill(&mut driver);
    works(&mut driver, &device);
    device.fail();
    assert_eq!(driver.control().check(), Err(InitFailure::NeedsReset));
    device.set_reset(ResetAnswer::After(5));
    let (mut driver, recovery) = driver.recover(Some, |_, _| ()).unwrap();
    assert_eq!(recovery.refilled, 16);
    works(&mut driver, &device);
    // The next owner finds the device at rest.
    driver.shutdown(|_, _| ()).unwrap();
    let transport = mmio.transport().unwrap();
    let mut driver: Mmio<_> = Driver::new(platform.clone(), transport, options(8, 8)).unwrap();
    refill(&mut driver);
    works(&mut driver, &device);
    finish(driver, &platform, &device);
}

#[test]
fn bug_class_60_a_device_that_firmware_left_running_is_reset_and_waited_for() {
    let platform = InPlace::new();
    let device = wire::device(&platform, OFFERED, 1500);
    let mmio = FakeMmio::new(&device);
    let mut firmware = mmio.transport().unwrap();
    firmware.set_status(Status::empty());
    assert!(firmware.status().is_empty());
    for status in [1, 3] {
        firmware.set_status(Status::from_bits_retain(status));
    }
    let features = firmware.device_features();
    firmware.set_driver_features(features);
    firmware.set_status(Status::from_bits_retain(11));
    assert_eq!(firmware.status().bits(), 11);
    firmware.set_status(Status::from_bits_retain(15));

    device.set_reset(ResetAnswer::After(5));
    let transport = mmio.transport().unwrap();
    assert_eq!(transport.status().bits(), 15, "it takes its time");
    let mut driver: Mmio<_> = Driver::new(platform.clone(), transport, options(8, 8)).unwrap();
    refill(&mut driver);
    works(&mut driver, &device);
    finish(driver, &platform, &device);
}

#[test]
fn bug_class_59_features_that_the_device_does_not_keep_are_found_out() {
    let platform = InPlace::new();
    let device = wire::device(&platform, OFFERED, 1500);
    device.refuse_features();
    let mmio = FakeMmio::new(&device);
    let transport = mmio.transport().unwrap();
    let error = Driver::<_, _, Buffer>::new(platform.clone(), transport, options(8, 8));
    let why = error.unwrap_err().why;
    assert!(matches!(why, InitFailure::FeaturesRefused { .. }), "{why}");
    assert!(device.status().contains(Status::FAILED));
    device.assert_clean();
    platform.assert_no_leaks();
}

/// Counts every access by its kind, and does it on another's registers.
#[derive(Clone)]
struct Counting {
    registers: FakeMmio,
    counts: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

impl Counting {
    fn count(&self, what: &'static str) -> &FakeMmio {
        *self.counts.lock().unwrap().entry(what).or_default() += 1;
        &self.registers
    }
}

// SAFETY: every call is handed on once, as it is.
unsafe impl RegisterAccess for Counting {
    fn read8(&self, at: Register<u8>) -> u8 {
        self.count("read 8").read8(at)
    }
    fn read16(&self, at: Register<u16>) -> u16 {
        self.count("read 16").read16(at)
    }
    fn read32(&self, at: Register<u32>) -> u32 {
        self.count("read 32").read32(at)
    }
    fn write8(&self, at: Register<u8>, value: u8) {
        self.count("write 8").write8(at, value);
    }
    fn write16(&self, at: Register<u16>, value: u16) {
        self.count("write 16").write16(at, value);
    }
    fn write32(&self, at: Register<u32>, value: u32) {
        self.count("write 32").write32(at, value);
    }
    fn doorbell(&self, at: Register<u16>, value: u16) -> Doorbell {
        self.count("doorbell").doorbell(at, value)
    }
    fn doorbell_with_data(&self, at: Register<u32>, value: u16) -> Doorbell {
        self.count("doorbell with data")
            .doorbell_with_data(at, value)
    }
    fn doorbell32(&self, at: Register<u32>, value: u16) -> Doorbell {
        self.count("doorbell 32").doorbell32(at, value)
    }
    fn isr(&self, at: Register<u8>) -> Isr {
        self.count("isr").isr(at)
    }
    fn isr_pair(&self, status: Register<u32>, ack: Register<u32>) -> Isr {
        self.count("isr pair").isr_pair(status, ack)
    }
}

#[test]
fn every_access_goes_through_the_register_access_that_was_given() {
    let platform = InPlace::new();
    let device = wire::device(&platform, PLAIN, 1500);
    let mmio = FakeMmio::new(&device);
    let counting = Counting {
        registers: mmio.clone(),
        counts: Arc::default(),
    };
    // SAFETY: the access counts, and hands everything to `mmio`, which outlives the driver.
    let registers = unsafe { mmio.registers() };
    let transport = MmioTransport::with_access(registers, counting.clone());
    let transport = transport.unwrap().unwrap();
    let mut driver: Mmio<_, _> = Driver::new(platform.clone(), transport, options(8, 8)).unwrap();
    let isr = driver.control().take_isr().unwrap();
    refill(&mut driver);
    works(&mut driver, &device);
    assert_eq!(driver.control().link_up(), Ok(true));
    isr.ack();
    let (rx, _, control) = driver.parts();
    control.restart_receive(rx, 4, |_| ()).unwrap();
    refill(&mut driver);
    works(&mut driver, &device);
    finish(driver, &platform, &device);

    let counts = counting.counts.lock().unwrap().clone();
    let mut seen = BTreeMap::new();
    let mut rings = 0;
    for access in mmio.accesses() {
        match (access.offset, access.write) {
            // By handles that it gave: a doorbell each for the queues, one of them twice, and an
            // interrupt status.
            (0x50, true) => rings += 1,
            (0x60 | 0x64, _) => {}
            (_, write) => {
                let what = match (write, access.width) {
                    (false, 8) => "read 8",
                    (false, 16) => "read 16",
                    (false, _) => "read 32",
                    (true, 8) => "write 8",
                    (true, 16) => "write 16",
                    (true, _) => "write 32",
                };
                *seen.entry(what).or_default() += 1;
            }
        }
    }
    assert!(rings > 80);
    seen.insert("doorbell 32", 3);
    seen.insert("isr pair", 1);
    assert_eq!(counts, seen);
    assert!(counts["read 32"] > 20 && counts["write 32"] > 20 && counts["read 16"] > 0);
}

#[test]
fn a_transport_and_its_handles_may_go_to_other_cores() {
    fn shared<T: Send + Sync>() {}
    shared::<MmioTransport>();
    shared::<MmioTransport<FakeMmio>>();
    let platform = InPlace::new();
    let (device, _, mut driver) = start(&platform, OFFERED);
    let isr = driver.control().take_isr().unwrap();
    refill(&mut driver);
    assert!(!driver.rx().arm());
    assert!(deliver(&device, &[1; 60]));
    let told = std::thread::spawn(move || isr.ack()).join().unwrap();
    assert_eq!(told, Interrupt::QUEUE);
    assert_eq!(device.kicks(RECEIVE_QUEUE), 1);
    finish(driver, &platform, &device);
}

/// And the queue that is in use goes on.
///
/// Defends: MM-013.
#[test]
fn a_queue_that_is_set_up_twice_is_not_asked_for_its_size() {
    let platform = InPlace::new();
    let kinds = [(None, Features::of(&[Feature::VERSION_1]))];
    #[cfg(target_endian = "little")]
    let kinds = [kinds[0], (Some(Legacy::ChosenSizes), Features::EMPTY)];
    for (legacy, features) in kinds {
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(features);
        let device = match legacy {
            Some(legacy) => device.legacy(legacy),
            None => device,
        };
        let mmio = FakeMmio::new(&device.clone().queues(&[8]));
        let wish = Wish {
            legacy: true,
            ..Wish::default()
        };
        let reset = init::reset(mmio.transport().unwrap(), &platform).unwrap();
        let mut negotiated = reset.negotiate(&wish).unwrap();
        let queue = QueueIndex(0);
        let mut make = || negotiated.queue::<Writable<Buffer>>(queue, &QueueConfig::new(8));
        let first = make().unwrap();
        assert_eq!(make().err(), Some(QueueError::Unavailable { queue }));
        let live = negotiated.finish().unwrap();
        let mut first = first.start(&live).unwrap();
        first.submit(Writable(buffer(64))).unwrap();
        first.kick();
        device.serve(queue, |served, chain| served.write(chain, &[7; 3]));
        assert_eq!(first.next_completion().unwrap().unwrap().written(), 3);
        let (_, proof) = live.reset().unwrap();
        assert_eq!(first.close(&proof).unwrap().count(), 0);
        device.assert_clean();
    }
}
