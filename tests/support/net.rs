//! A network device between two drivers, or between a driver and a test.

// Each test program uses its part.
#![allow(dead_code)]

use vring::device::net::{self, Driver, Options, RECEIVE_QUEUE, RefillFailure, TRANSMIT_QUEUE};
use vring::features::{Feature, Features};
use vring::testing::{Fake, FakeDevice, FakeTransport, Kind, QueueDevice};
use vring::transport::DeviceId;
use vring::virtqueue::Reject;

/// Everything that the driver knows.
pub(crate) const OFFERED: Features = Features::of(&[
    Feature::VERSION_1,
    Feature::EVENT_IDX,
    net::F::MAC,
    net::F::STATUS,
    net::F::MTU,
]);

pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// Bytes of the header in front of each frame.
pub(crate) const HEADER: usize = 12;

pub(crate) type Buffer = Box<[u8]>;
pub(crate) type Net<K> = Driver<Fake<K>, FakeTransport, Buffer>;

/// MAC, status, `max_virtqueue_pairs`, MTU (VIRTIO 1.4, 5.1.4).
pub(crate) fn configuration(status: u16, mtu: u16) -> Vec<u8> {
    let mut config = MAC.to_vec();
    config.extend(status.to_le_bytes());
    config.extend(1_u16.to_le_bytes());
    config.extend(mtu.to_le_bytes());
    config
}

/// A network device with queues of at most 256.
pub(crate) fn device<K: Kind>(platform: &Fake<K>, features: Features, mtu: u16) -> FakeDevice {
    FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(features)
        .queues(&[256, 256])
        .config(&configuration(1, mtu))
}

/// Queues of these sizes.
pub(crate) fn options(receive: u16, transmit: u16) -> Options {
    let mut options = Options::default();
    options.receive_size = receive;
    options.transmit_size = transmit;
    options
}

/// A driver of the device, with queues of these sizes.
pub(crate) fn driver<K: Kind>(
    platform: &Fake<K>,
    device: &FakeDevice,
    receive: u16,
    transmit: u16,
) -> Net<K> {
    Driver::new(
        platform.clone(),
        device.transport(),
        options(receive, transmit),
    )
    .unwrap()
}

pub(crate) fn buffer(len: usize) -> Buffer {
    vec![0; len].into_boxed_slice()
}

/// Gives the receiver as many buffers as it takes, and announces them; how many.
pub(crate) fn refill<K: Kind>(driver: &mut Net<K>) -> usize {
    let rx = driver.rx();
    let len = rx.buffer_len();
    let mut given = 0;
    let why = loop {
        match rx.give(buffer(len)) {
            Ok(()) => given += 1,
            Err((_, why)) => break why,
        }
    };
    assert!(
        matches!(why, RefillFailure::Queue(Reject::Full { .. })),
        "{why:?}"
    );
    rx.kick();
    given
}

/// Delivers a frame, behind a header; false when there is no receive buffer.
pub(crate) fn deliver(device: &FakeDevice, frame: &[u8]) -> bool {
    let mut bytes = vec![0; HEADER];
    bytes[10] = 1; // num_buffers
    bytes.extend(frame);
    deliver_raw(device, &bytes, bytes.len() as u32)
}

/// Writes bytes into the next receive buffer and returns it with any length.
pub(crate) fn deliver_raw(device: &FakeDevice, bytes: &[u8], len: u32) -> bool {
    let done = device.with_queue(RECEIVE_QUEUE, |queue| {
        let Some(chain) = queue.pop() else {
            return (false, false);
        };
        queue.write(&chain, bytes);
        (true, queue.complete(chain, len))
    });
    let (delivered, interrupt) = done.unwrap_or_default();
    if interrupt {
        device.interrupt();
    }
    delivered
}

/// Takes the next frame that was transmitted: its header and the rest, and how many descriptors.
pub(crate) fn take(device: &FakeDevice) -> Option<(Vec<u8>, Vec<u8>, usize)> {
    device.with_queue(TRANSMIT_QUEUE, take_from)?
}

fn take_from(queue: &mut QueueDevice) -> Option<(Vec<u8>, Vec<u8>, usize)> {
    let chain = queue.pop()?;
    let mut header = queue.read(&chain);
    let frame = header.split_off(HEADER);
    let descriptors = chain.segments().len();
    queue.complete(chain, 0);
    Some((header, frame, descriptors))
}

/// Less work where Miri does it.
pub(crate) const fn scaled(native: usize, miri: usize) -> usize {
    if cfg!(miri) { miri } else { native }
}
