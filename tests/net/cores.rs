//! Parts of one device on cores of their own: halves of a driver, and queue pairs.

use std::thread;

use vring::buffer::{Readable, Window, Writable};
use vring::device::net::{self, RECEIVE_QUEUE, TRANSMIT_QUEUE};
use vring::features::{Feature, Features, Wish};
use vring::init::{self, QueueConfig};
use vring::platform::Platform;
use vring::testing::{
    Bouncing, Discontiguous, Fake, FakeDevice, FakeTransport, InPlace, Kind, QueueDevice,
};
use vring::transport::mmio::MmioTransport;
use vring::transport::pci::{AnyTransport, LegacyTransport, Nowhere, PciTransport};
use vring::transport::{DeviceId, QueueIndex, Transport};
use vring::virtqueue::Virtqueue;

use super::wire::{Buffer, HEADER, OFFERED, device, driver, refill, scaled};

const RINGS: [Features; 3] = [
    Features::of(&[Feature::VERSION_1, Feature::EVENT_IDX]),
    Features::of(&[Feature::VERSION_1, Feature::EVENT_IDX, Feature::RING_PACKED]),
    Features::of(&[Feature::VERSION_1, Feature::IN_ORDER, Feature::RING_PACKED]),
];

/// Frames that each thread sends.
const FRAMES: usize = scaled(500, 20);

#[test]
fn halves_and_queues_may_go_to_other_cores_whatever_the_transport_and_the_platform() {
    fn sends<T: Send>() {}
    fn with<P: Platform + Send + Sync, T: Transport + Send>() {
        sends::<net::ReceiverHalf<P, T, Buffer>>();
        sends::<net::TransmitterHalf<P, T, Buffer>>();
        sends::<net::ControlHalf<P, T, Buffer>>();
        sends::<net::Driver<P, T, Buffer>>();
        sends::<init::Live<P, T>>();
        // The queue is of the ring that was negotiated: split and packed are one type.
        sends::<net::Receiver<P, Buffer>>();
        sends::<net::Transmitter<P, Buffer>>();
        sends::<Virtqueue<P, (Readable<Buffer>, Writable<Buffer>)>>();
    }
    fn over<T: Transport + Send>() {
        with::<InPlace, T>();
        with::<Bouncing, T>();
        with::<Discontiguous, T>();
    }
    over::<FakeTransport>();
    over::<PciTransport>();
    over::<LegacyTransport<Nowhere>>();
    over::<AnyTransport>();
    over::<MmioTransport>();
}

/// Gives back what is sent on one queue as received on the other, until the device is reset.
fn loop_back(mut from: QueueDevice, mut to: QueueDevice) {
    let mut held = None;
    while !from.is_halted() {
        let bytes = held.take().or_else(|| {
            let chain = from.pop()?;
            let bytes = from.read(&chain);
            from.complete(chain, 0);
            Some(bytes)
        });
        if let Some(bytes) = bytes {
            if let Some(chain) = to.pop() {
                to.write(&chain, &bytes);
                to.complete(chain, bytes.len() as u32);
            } else {
                held = Some(bytes);
            }
        }
        thread::yield_now();
    }
}

/// The bytes of a frame, which say whose it is and which one.
fn content(whose: u8, number: usize) -> [u8; 60] {
    let mut bytes = [whose; 60];
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    bytes
}

fn halves<K: Kind>(platform: &Fake<K>, ring: Features) {
    let device = device(platform, OFFERED | ring, 1500);
    let mut driver = driver(platform, &device, 8, 8);
    refill(&mut driver);
    let devices = [TRANSMIT_QUEUE, RECEIVE_QUEUE].map(|queue| device.take_queue(queue).unwrap());
    let [from, to] = devices;
    let host = thread::spawn(move || loop_back(from, to));
    let (mut rx, mut tx, control) = driver.split();
    let sender = thread::spawn(move || {
        for number in 0..FRAMES {
            let mut bytes = vec![0; HEADER]
                .into_iter()
                .chain(content(7, number))
                .collect();
            while let Err(refused) = tx.transmit(Window::new(bytes, HEADER, 60)) {
                bytes = refused.frame.into_memory();
                tx.kick();
                tx.reclaim(drop).unwrap();
                thread::yield_now();
            }
            tx.kick();
        }
        tx
    });
    let receiver = thread::spawn(move || {
        for number in 0..FRAMES {
            let frame = loop {
                if let Some(frame) = rx.receive().unwrap() {
                    break frame;
                }
                thread::yield_now();
            };
            assert_eq!(frame.as_slice(), content(7, number));
            rx.give(frame.into_memory()).unwrap();
            rx.kick();
        }
        rx
    });
    let (rx, tx) = (receiver.join().unwrap(), sender.join().unwrap());
    assert_eq!(rx.counters().completed, FRAMES as u64);
    assert_eq!(tx.counters().submitted, FRAMES as u64);
    let whole = net::Driver::join(rx, tx, control).ok().unwrap();
    platform.set_patience(u32::MAX);
    platform.on_wait(|_, _| thread::yield_now());
    let mut back = 0;
    whole.shutdown(|_, _| back += 1).unwrap();
    assert!(back >= 8, "the receive queue was full: {back}");
    host.join().unwrap();
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn halves_on_cores_of_their_own_lose_no_frame_and_mix_none_up() {
    for ring in RINGS {
        halves(&InPlace::new(), ring);
        halves(&Bouncing::new(), ring);
    }
}

/// Sends frames over one pair and takes them back.
fn drive<K: Kind>(
    whose: u8,
    rx: &mut Virtqueue<Fake<K>, Writable<Buffer>>,
    tx: &mut Virtqueue<Fake<K>, Readable<Buffer>>,
) {
    while rx.free() > 0 {
        rx.submit(Writable(vec![0; 60].into())).unwrap();
    }
    rx.kick();
    let (mut sent, mut came) = (0, 0);
    while came < FRAMES {
        while sent < FRAMES && tx.free() > 0 {
            tx.submit(Readable(content(whose, sent).into())).unwrap();
            sent += 1;
        }
        tx.kick();
        tx.drain(|_| {}).unwrap();
        while let Some(done) = rx.next_completion().unwrap() {
            assert_eq!(done.written(), 60);
            let Writable(bytes) = done.into_buf();
            assert_eq!(*bytes, content(whose, came));
            came += 1;
            rx.submit(Writable(bytes)).unwrap();
        }
        rx.kick();
        thread::yield_now();
    }
}

fn pairs<K: Kind>(platform: &Fake<K>, ring: Features) {
    const PAIRS: u16 = 2;
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(ring)
        .queues(&[8; 2 * PAIRS as usize]);
    let wish = Wish {
        want: ring,
        require: ring,
        ..Wish::default()
    };
    let reset = init::reset(device.transport(), platform).unwrap();
    let mut negotiated = reset.negotiate(&wish).unwrap();
    let config = QueueConfig::new(8);
    let pending: Vec<_> = (0..PAIRS)
        .map(|pair| {
            let rx = negotiated.queue(QueueIndex(2 * pair), &config).unwrap();
            let tx = negotiated.queue(QueueIndex(2 * pair + 1), &config).unwrap();
            (rx, tx)
        })
        .collect();
    let live = negotiated.finish().unwrap();
    let mut hosts = Vec::new();
    let mut cores = Vec::new();
    for (pair, (rx, tx)) in (0..).zip(pending) {
        let mut rx = rx.start(&live).unwrap();
        let mut tx = tx.start(&live).unwrap();
        let [to, from] = [2 * pair, 2 * pair + 1].map(|index| {
            let queue = device.take_queue(QueueIndex(index));
            queue.unwrap()
        });
        hosts.push(thread::spawn(move || loop_back(from, to)));
        cores.push(thread::spawn(move || {
            drive(pair as u8, &mut rx, &mut tx);
            (rx, tx)
        }));
    }
    let queues: Vec<_> = cores.into_iter().map(|core| core.join().unwrap()).collect();
    platform.set_patience(u32::MAX);
    platform.on_wait(|_, _| thread::yield_now());
    let (_, proof) = live.reset().unwrap();
    for (rx, tx) in queues {
        assert_eq!(rx.counters().completed, FRAMES as u64);
        assert_eq!(tx.counters().submitted, FRAMES as u64);
        assert_eq!(rx.close(&proof).unwrap().count(), 8);
        tx.close(&proof).unwrap().for_each(drop);
    }
    hosts.into_iter().for_each(|host| host.join().unwrap());
    device.assert_clean();
    platform.assert_no_leaks();
}

#[test]
fn queue_pairs_on_cores_of_their_own_keep_their_frames_apart() {
    for ring in RINGS {
        pairs(&InPlace::new(), ring);
        pairs(&Bouncing::new(), ring);
    }
}
