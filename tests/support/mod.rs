//! A driver and a fake device, started: what several tests begin with.

// Each test program uses its part.
#![allow(dead_code)]

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

/// One of the rings that a queue can be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    pub(crate) features: Features,
}

impl Ring {
    /// Those that tests go through: every one, or four of them where Miri does the work.
    #[cfg(not(miri))]
    pub(crate) const ALL: [Self; 12] = Self::EVERY;
    #[cfg(miri)]
    pub(crate) const ALL: [Self; 4] = {
        let every = Self::EVERY;
        [every[2], every[5], every[6], every[10]]
    };
    /// The plain ones, with event indices.
    pub(crate) const SPLIT: Self = Self::EVERY[0];
    pub(crate) const PACKED: Self = Self::EVERY[6];
    /// Split, packed, each with indirect tables and in order, with and without event indices.
    pub(crate) const EVERY: [Self; 12] = {
        const MORE: [&[Feature]; 3] = [&[], &[Feature::INDIRECT_DESC], &[Feature::IN_ORDER]];
        let mut all = [Self {
            features: Features::EMPTY,
        }; 12];
        let mut i = 0;
        while i < 12 {
            let mut features = FEATURES[i % 2].0 | Features::of(MORE[i / 2 % 3]).0;
            if i >= 6 {
                features |= Features::of(&[Feature::RING_PACKED]).0;
            }
            all[i].features = Features(features);
            i += 1;
        }
        all
    };

    pub(crate) fn is_packed(self) -> bool {
        self.features.has(Feature::RING_PACKED)
    }

    pub(crate) fn is_in_order(self) -> bool {
        self.features.has(Feature::IN_ORDER)
    }

    pub(crate) fn is_indirect(self) -> bool {
        self.features.has(Feature::INDIRECT_DESC)
    }

    pub(crate) fn has_events(self) -> bool {
        self.features.has(Feature::EVENT_IDX)
    }

    /// Sizes of the list that this ring can have.
    pub(crate) fn sizes(self, all: &[u16]) -> Vec<u16> {
        let fits = |size: &u16| self.is_packed() || size.is_power_of_two();
        all.iter().copied().filter(fits).collect()
    }

    /// What the two sides call the running number `number` of a queue of `size`: an index, or
    /// offset and wrap counter.
    pub(crate) fn spot(self, size: u16, number: u64) -> u16 {
        let n = u64::from(size);
        match self.is_packed() {
            true => (number % n) as u16 | u16::from((number / n).is_multiple_of(2)) << 15,
            false => number as u16,
        }
    }
}

/// Names the ring of a test that fails.
pub(crate) struct Naming(pub(crate) Ring);

impl Drop for Naming {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("on {}", self.0.features);
        }
    }
}

// Each test program uses its part.
#[allow(unused_macros)]
/// Runs a generic function on each kind of platform and each kind of ring, with arguments behind.
/// Where Miri does it, each ring has one platform, and each platform rings of both formats; none has
/// pages, as for [`every_platform`](super::rig::every_platform).
macro_rules! every_ring {
    ($f:ident $(, $arg:expr)*) => {
        for (i, ring) in $crate::support::Ring::ALL.into_iter().enumerate() {
            let _naming = $crate::support::Naming(ring);
            if !cfg!(miri) || i % 2 == 0 {
                $f(&vring::testing::InPlace::new(), ring $(, $arg)*);
            }
            if !cfg!(miri) || i % 2 == 1 {
                $f(&vring::testing::Bouncing::new(), ring $(, $arg)*);
            }
            if !cfg!(miri) {
                $f(&vring::testing::Discontiguous::new(16), ring $(, $arg)*);
            }
        }
    };
}
// Each test program uses its part.
#[allow(unused_imports)]
pub(crate) use every_ring;

/// Initializes the device and its first queue, accepting what it offers of [`RINGS`].
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
