//! The network driver on a legacy PCI device, from the first port to the last buffer: the registers
//! are the legacy header, and behind them is the strict fake device. Big-endian guests refuse such
//! devices.
#![cfg(target_endian = "little")]

mod pci_support;
#[path = "support/net.rs"]
mod wire;

use std::sync::{Arc, Mutex};

use pci_support::{FakeConfig, FakeFunction, at};
use vring::buffer::Window;
use vring::device::net::{Driver, F, RECEIVE_QUEUE, TRANSMIT_QUEUE};
use vring::features::{Feature, Features};
use vring::platform::DmaAddr;
use vring::ring::layout::vring_init;
use vring::testing::{
    Bouncing, Discontiguous, Fake, FakeDevice, FakeTransport, InPlace, Kind, Legacy,
};
use vring::transport::pci::{AnyTransport, Area, LegacyTransport};
use vring::transport::{
    DeviceId, Doorbell, Interrupt, Isr, Native, QueueAreas, QueueIndex, Status, Transport,
};

use wire::{Buffer, MAC, buffer, configuration, deliver_raw, options};

/// Bytes of a frame's header on a legacy device that cannot merge buffers.
const HEADER: usize = 10;
const SIZE: u16 = 16;
const OFFERED: Features = Features::of(&[F::MAC, F::STATUS, F::MTU, Feature::EVENT_IDX]);

/// The legacy header in front of a fake device.
struct Header {
    transport: FakeTransport,
    select: u16,
    frames: [u32; 2],
    bells: [Option<Doorbell>; 2],
    isr: Isr,
}

impl Header {
    fn new(device: &FakeDevice) -> Self {
        let mut transport = device.transport();
        Self {
            isr: transport.take_isr().unwrap(),
            transport,
            select: 0,
            frames: [0; 2],
            bells: [None; 2],
        }
    }

    fn read(&mut self, at: usize, width: usize) -> u32 {
        let queue = usize::from(self.select);
        match (at, width) {
            (0, 4) => self.transport.device_features().word(0),
            (8, 4) => self.frames.get(queue).copied().unwrap_or(0),
            (12, 2) if queue < 2 => self
                .transport
                .max_queue_size(QueueIndex(self.select))
                .into(),
            (12, 2) => 0,
            (18, 1) => self.transport.status().bits().into(),
            (19, 1) => self.isr.ack().bits().into(),
            (20.., _) => {
                let mut bytes = [0; 4];
                let inside = self
                    .transport
                    .read_config(at - 20, &mut bytes[..width])
                    .is_ok();
                if inside {
                    u32::from_le_bytes(bytes)
                } else {
                    !0
                }
            }
            _ => panic!("a read of {width} bytes at {at}"),
        }
    }

    /// A doorbell that is to be rung is returned: the device may serve the queue at once.
    fn write(&mut self, at: usize, width: usize, value: u32) -> Option<Doorbell> {
        let queue = usize::from(self.select);
        match (at, width) {
            (4, 4) => {
                let features = Features::EMPTY.with_word(0, value);
                self.transport.set_driver_features(features);
            }
            (8, 4) => {
                let size = self.transport.max_queue_size(QueueIndex(self.select));
                let layout = vring_init(size, 4096).unwrap();
                let start = u64::from(value) << 12;
                let areas = QueueAreas {
                    desc: DmaAddr(start),
                    driver: DmaAddr(start + layout.avail as u64),
                    device: DmaAddr(start + layout.used as u64),
                };
                let index = QueueIndex(self.select);
                // SAFETY: the areas are what the driver's transport told the device of.
                let bell = unsafe { self.transport.enable_queue(index, size, &areas, None) };
                self.bells[queue] = Some(bell.unwrap());
                self.frames[queue] = value;
            }
            (14, 2) => self.select = value as u16,
            (16, 2) => return self.bells[value as usize],
            (18, 1) => {
                let status = Status::from_bits_retain(value as u8);
                self.transport.set_status(status);
                if status.is_empty() {
                    self.frames = [0; 2];
                }
            }
            _ => panic!("a write of {width} bytes at {at}"),
        }
        None
    }
}

/// A handle to the header; a doorbell's context is its number.
#[derive(Clone)]
struct Ports {
    number: usize,
    header: Arc<Mutex<Header>>,
}

static ALL: Mutex<Vec<Ports>> = Mutex::new(Vec::new());

fn of_number(number: usize) -> Ports {
    ALL.lock().unwrap()[number].clone()
}

impl Ports {
    fn new(device: &FakeDevice) -> Self {
        let mut all = ALL.lock().unwrap();
        let ports = Self {
            number: all.len(),
            header: Arc::new(Mutex::new(Header::new(device))),
        };
        all.push(ports.clone());
        ports
    }

    fn read(&self, at: usize, width: usize) -> u32 {
        self.header.lock().unwrap().read(at, width)
    }

    fn write(&self, at: usize, width: usize, value: u32) {
        let bell = self.header.lock().unwrap().write(at, width, value);
        if let Some(bell) = bell {
            bell.ring(0);
        }
    }
}

// SAFETY: every access goes to the registers of one device.
unsafe impl Area for Ports {
    fn size(&self) -> usize {
        64
    }
    fn is_aligned_to(&self, _: usize) -> bool {
        true
    }
    fn read8(&self, offset: usize) -> u8 {
        self.read(offset, 1) as u8
    }
    fn read16(&self, offset: usize) -> u16 {
        self.read(offset, 2) as u16
    }
    fn read32(&self, offset: usize) -> u32 {
        self.read(offset, 4)
    }
    fn write8(&self, offset: usize, value: u8) {
        self.write(offset, 1, value.into());
    }
    fn write16(&self, offset: usize, value: u16) {
        self.write(offset, 2, value.into());
    }
    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, 4, value);
    }
    fn doorbell(&self, offset: usize, value: u16) -> Option<Doorbell> {
        assert_eq!(offset, 16);
        let ring = |number, value| of_number(number).write(16, 2, value);
        Some(Doorbell::function(ring, self.number, value))
    }
    fn doorbell_with_data(&self, _: usize, _: u16) -> Option<Doorbell> {
        panic!("a legacy device is not told the position");
    }
    fn isr(&self, offset: usize) -> Option<Isr> {
        assert_eq!(offset, 19);
        Some(Isr::function(
            |number| of_number(number).read(19, 1) as u8,
            self.number,
        ))
    }
}

fn device<K: Kind>(platform: &Fake<K>, features: Features) -> FakeDevice {
    FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .legacy(Legacy::FixedSizes)
        .offer(features)
        .queues(&[SIZE, SIZE])
        .header(RECEIVE_QUEUE, HEADER as u16)
        .header(TRANSMIT_QUEUE, HEADER as u16)
        .config(&configuration(1, 1500))
}

/// A legacy network card in configuration space.
fn config() -> FakeConfig {
    let function = FakeFunction::new(0x1af4, 0x1000).io_bar(0, 0xc000, 64);
    FakeConfig::with(at(), function)
}

type Card<K, T> = Driver<Fake<K>, T, Buffer>;

fn moves_frames<K: Kind, T: Transport>(driver: &mut Card<K, T>, device: &FakeDevice) {
    let len = driver.rx().buffer_len();
    while driver.rx().give(buffer(len)).is_ok() {}
    driver.rx().kick();
    // The indices of the rings wrap.
    for i in 0..=255_u8 {
        let mut bytes = vec![0; HEADER];
        bytes.extend([i; 70]);
        assert!(deliver_raw(device, &bytes, bytes.len() as u32));
        let got = driver.rx().receive().unwrap().unwrap();
        assert_eq!(got.as_slice(), [i; 70]);
        driver.rx().give(got.into_memory()).unwrap();
        driver.rx().kick();

        let mut frame = Window::new(buffer(HEADER + 60), HEADER, 60);
        frame.as_mut_slice().fill(i);
        driver.tx().transmit(frame).unwrap();
        driver.tx().kick();
        let sent = device.with_queue(TRANSMIT_QUEUE, |queue| {
            let chain = queue.pop()?;
            let bytes = queue.read(&chain);
            queue.complete(chain, 0);
            Some(bytes)
        });
        let sent = sent.flatten().expect("a frame, and a kick before");
        assert_eq!(sent[..HEADER], [0; HEADER]);
        assert_eq!(sent[HEADER..], [i; 60]);
        assert_eq!(driver.tx().reclaim(|_| ()).unwrap(), 1);
    }
}

fn card<K: Kind>(platform: &Fake<K>, features: Features) {
    let device = device(platform, features);
    let ports = Ports::new(&device);
    let transport = LegacyTransport::new(&config(), at(), |_, _| Some(ports.clone())).unwrap();
    let mut driver = Driver::new(platform.clone(), transport, options(SIZE, SIZE)).unwrap();
    assert_eq!(driver.control().mac(), Some(MAC));
    assert_eq!(driver.control().mtu(), Some(1500));
    assert_eq!(driver.control().link_up(), Ok(true));
    assert_eq!(driver.control().features(), features);
    moves_frames(&mut driver, &device);
    driver.shutdown(|_, _| ()).unwrap();
    device.assert_clean();
    platform.assert_no_leaks();
}

/// Defends: PCI-L01, PCI-L02.
#[test]
fn a_network_card_works_by_the_legacy_header() {
    for features in [OFFERED, OFFERED.with(Feature::ANY_LAYOUT)] {
        card(&InPlace::new(), features);
        card(&Bouncing::new(), features);
        card(&Discontiguous::new(4096), features);
    }
}

/// Defends: PCI-L04.
#[test]
fn a_legacy_card_works_as_whatever_interface_it_has_and_interrupts() {
    let platform = InPlace::new();
    let device = device(&platform, OFFERED);
    let ports = Ports::new(&device);
    let give = |_, _| Some(ports.clone());
    let transport = AnyTransport::new(&config(), at(), Native, |_, _| None, give).unwrap();
    let mut driver = Driver::new(platform.clone(), transport, options(SIZE, SIZE)).unwrap();
    let isr = driver.control().take_isr().unwrap();
    let len = driver.rx().buffer_len();
    while driver.rx().give(buffer(len)).is_ok() {}
    driver.rx().kick();
    assert!(!driver.rx().arm());
    assert_eq!(isr.ack(), Interrupt::empty());
    assert!(deliver_raw(
        &device,
        &[0; HEADER + 60],
        (HEADER + 60) as u32
    ));
    assert_eq!(isr.ack(), Interrupt::QUEUE);
    assert_eq!(isr.ack(), Interrupt::empty(), "reading acknowledges");
    assert_eq!(driver.rx().receive().unwrap().unwrap().as_slice(), [0; 60]);
    driver.shutdown(|_, _| ()).unwrap();
    device.assert_clean();
}

/// Another driver takes over without the first one's having stopped it.
#[test]
fn bug_class_60_a_legacy_card_that_was_left_running_starts_again() {
    let platform = InPlace::new();
    let device = device(&platform, OFFERED);
    let ports = Ports::new(&device);
    for _ in 0..3 {
        let transport = LegacyTransport::new(&config(), at(), |_, _| Some(ports.clone())).unwrap();
        let mut driver = Driver::new(platform.clone(), transport, options(SIZE, SIZE)).unwrap();
        moves_frames(&mut driver, &device);
        std::mem::forget(driver);
    }
}
