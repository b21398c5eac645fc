//! What a live device lets be done: the driver with two queues that the tests share.

#[path = "life_cycle/dropped.rs"]
mod dropped;
#[path = "life_cycle/features.rs"]
mod features;
#[path = "life_cycle/notifications.rs"]
mod notifications;
#[path = "life_cycle/queue_reset.rs"]
mod queue_reset;
#[path = "support/queue.rs"]
mod rig;
#[path = "life_cycle/storage.rs"]
mod storage;
mod support;
#[path = "life_cycle/suspend.rs"]
mod suspend;

use vring::features::{Feature, Features, Wish};
use vring::init::{self, Live, QueueConfig};
use vring::testing::{Fake, FakeDevice, FakeTransport, Kind};
use vring::transport::{DeviceId, QueueIndex};
use vring::virtqueue::Virtqueue;

use rig::{Chunks, Maker, R, W, reply};
use support::Q;

const Q1: QueueIndex = QueueIndex(1);

/// A driver with two queues.
struct Two<K: Kind> {
    platform: Fake<K>,
    device: FakeDevice,
    live: Live<Fake<K>, FakeTransport>,
    queues: [Virtqueue<Fake<K>, Chunks>; 2],
    maker: Maker,
}

fn two<K: Kind>(platform: &Fake<K>, features: impl Into<Features>, config: &QueueConfig) -> Two<K> {
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(Feature::VERSION_1 | features.into())
        .queues(&[256, 64]);
    on(platform, device, config)
}

fn on<K: Kind>(platform: &Fake<K>, device: FakeDevice, config: &QueueConfig) -> Two<K> {
    let reset = init::reset(device.transport(), platform).unwrap();
    let mut negotiated = reset.negotiate(&Wish::ring()).unwrap();
    let pending = [Q, Q1].map(|queue| negotiated.queue(queue, config).unwrap());
    let live = negotiated.finish().unwrap();
    let queues = pending.map(|pending| pending.start(&live).unwrap());
    Two {
        platform: platform.clone(),
        device,
        live,
        queues,
        maker: Maker::new(),
    }
}

impl<K: Kind> Two<K> {
    fn submit(&mut self, queue: usize, n: usize) {
        for _ in 0..n {
            let buf = self.maker.chunks(&[(R, 3), (W, 5)]);
            self.queues[queue].submit(buf).unwrap();
        }
    }

    /// Serves all, and takes all back.
    fn round(&mut self, queue: usize) -> usize {
        let index = [Q, Q1][queue];
        self.device
            .serve(index, |queue, chain| reply(queue, chain, usize::MAX));
        self.queues[queue]
            .drain(|done| {
                let written = done.written() as usize;
                done.into_buf().check(written);
            })
            .unwrap()
    }

    fn finish(self) {
        let (_, proof) = self.live.reset().unwrap();
        for queue in self.queues {
            drop(queue.close(&proof).unwrap());
        }
        assert_eq!(self.maker.alive(), 0);
        self.device.assert_clean();
        self.platform.assert_no_leaks();
    }
}

/// The formats, and whether chains come back in order.
const RINGS: [Features; 4] = [
    Features::EMPTY,
    Features::of(&[Feature::RING_PACKED]),
    Features::of(&[Feature::IN_ORDER]),
    Features::of(&[Feature::RING_PACKED, Feature::IN_ORDER]),
];
