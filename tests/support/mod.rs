//! A driver and a fake device, started: what several tests begin with.

#![allow(dead_code)] // each test uses its part

use std::fmt::Debug;

use vring::buffer::DmaBuf;
use vring::features::{Feature, Features, Wish};
use vring::init::{self, Live, QueueConfig};
use vring::platform::Platform;
use vring::testing::{FakeDevice, FakeTransport};
use vring::transport::QueueIndex;
use vring::virtqueue::Virtqueue;

/// The queue of these tests.
pub(crate) const Q: QueueIndex = QueueIndex(0);

/// The features of these tests, with and without event indices.
pub(crate) const FEATURES: [Features; 2] = [
    Features::of(&[Feature::VERSION_1, Feature::EVENT_IDX]),
    Features::of(&[Feature::VERSION_1]),
];

/// Everything that a ring can be.
pub(crate) const RINGS: Features = Features::of(&[
    Feature::VERSION_1,
    Feature::EVENT_IDX,
    Feature::INDIRECT_DESC,
    Feature::RING_PACKED,
    Feature::IN_ORDER,
    Feature::ORDER_PLATFORM,
    Feature::NOTIFICATION_DATA,
    Feature::NOTIF_CONFIG_DATA,
    Feature::RING_RESET,
]);

/// Initialises the device and its first queue, accepting what it offers of [`RINGS`].
pub(crate) fn start<P: Platform + Debug, B: DmaBuf + Debug>(
    platform: &P,
    device: &FakeDevice,
    config: &QueueConfig,
) -> (Live<P, FakeTransport>, Virtqueue<P, B>) {
    let reset = init::reset(device.transport(), platform).unwrap();
    let wish = Wish {
        want: RINGS,
        ..Wish::default()
    };
    let mut negotiated = reset.negotiate(&wish).unwrap();
    let pending = negotiated.queue(Q, config).unwrap();
    let live = negotiated.finish().unwrap();
    let queue = pending.start(&live).unwrap();
    (live, queue)
}

/// Resets the device and takes the queue apart: the buffers that were still in it.
pub(crate) fn stop<P: Platform + Debug, B: DmaBuf + Debug>(
    live: Live<P, FakeTransport>,
    queue: Virtqueue<P, B>,
) -> Vec<B> {
    let (_, proof) = live.reset().unwrap();
    queue.close(&proof).unwrap().collect()
}
