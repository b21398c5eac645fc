//! Buffers of any shape that count themselves, a driver with its device, and what a queue looks
//! like from outside.

// Each test program uses its part.
#![allow(dead_code)]

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

use vring::buffer::{DmaBuf, Segment};
use vring::features::{Feature, Features};
use vring::init::{Live, QueueConfig};
use vring::platform::{Direction, Platform};
use vring::ring::layout::vring_init;
use vring::testing::{Chain, Fake, FakeDevice, FakeTransport, Kind};
use vring::transport::DeviceId;
use vring::virtqueue::{Counters, Virtqueue};

use super::support::{Q, Ring, start, stop};

pub(crate) use Direction::{Readable as R, Writable as W};

/// One segment of [`Chunks`].
pub(crate) enum Part {
    Bytes(Direction, Box<[u8]>),
    /// A segment that says it has so many bytes, and has none. Nobody may touch it.
    Phantom(Direction, usize),
}

/// A buffer of any number of segments in any order.
pub(crate) struct Chunks {
    pub(crate) number: u64,
    pub(crate) parts: Vec<Part>,
    _alive: Arc<()>,
}

/// Makes [`Chunks`], and knows how many there are.
pub(crate) struct Maker {
    alive: Arc<()>,
    next: u64,
}

impl Maker {
    pub(crate) fn new() -> Self {
        Self {
            alive: Arc::new(()),
            next: 0,
        }
    }

    pub(crate) fn parts(&mut self, parts: Vec<Part>) -> Chunks {
        self.next += 1;
        Chunks {
            number: self.next,
            parts,
            _alive: Arc::clone(&self.alive),
        }
    }

    /// Segments of these directions and lengths; the readable ones hold the buffer's pattern.
    pub(crate) fn chunks(&mut self, shape: &[(Direction, usize)]) -> Chunks {
        let mut pattern = pattern(self.next + 1);
        let parts = shape.iter().map(|&(direction, len)| {
            let bytes = match direction {
                R => pattern.by_ref().take(len).collect(),
                W => vec![0xee; len].into(),
            };
            Part::Bytes(direction, bytes)
        });
        let parts = parts.collect();
        self.parts(parts)
    }

    /// A chain of `n` segments of a byte each, the first half of them readable.
    pub(crate) fn chain(&mut self, n: usize) -> Chunks {
        let shape: Vec<_> = (0..n).map(|i| (if i < n / 2 { R } else { W }, 1)).collect();
        self.chunks(&shape)
    }

    /// Buffers that were made and not dropped.
    pub(crate) fn alive(&self) -> usize {
        Arc::strong_count(&self.alive) - 1
    }
}

/// Bytes that tell a buffer from others.
pub(crate) fn pattern(seed: u64) -> impl Iterator<Item = u8> {
    (0..).map(move |i: u64| {
        let x = (seed << 20 ^ i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x >> 56) as u8
    })
}

impl Chunks {
    /// The bytes of all segments of a direction.
    pub(crate) fn bytes(&self, direction: Direction) -> Vec<u8> {
        let of = |part: &Part| match part {
            Part::Bytes(d, bytes) if *d == direction => bytes.to_vec(),
            _ => Vec::new(),
        };
        self.parts.iter().flat_map(of).collect()
    }

    /// That the device has read nothing wrong and written `written` bytes of [`answer`].
    pub(crate) fn check(&self, written: usize) {
        let read = self.bytes(R);
        let sent: Vec<u8> = pattern(self.number).take(read.len()).collect();
        assert_eq!(read, sent, "buffer {}", self.number);
        let got = self.bytes(W);
        let written = written.min(got.len());
        let answer: Vec<u8> = answer(&sent).take(written).collect();
        assert_eq!(got[..written], answer, "buffer {}", self.number);
    }
}

/// What a device writes that has read this.
pub(crate) fn answer(read: &[u8]) -> impl Iterator<Item = u8> + use<> {
    pattern(
        read.iter()
            .fold(99, |sum, &byte| sum * 31 % 1_000_003 + u64::from(byte)),
    )
}

/// Serves a chain: reads all, writes at most `most` bytes of the answer; how many.
pub(crate) fn reply(queue: &vring::testing::QueueDevice, chain: &Chain, most: usize) -> u32 {
    let read = queue.read(chain);
    let len = most.min(chain.writable() as usize);
    queue.write(chain, &answer(&read).take(len).collect::<Vec<u8>>())
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunks({}, {} parts)", self.number, self.parts.len())
    }
}

// SAFETY: the bytes are behind boxes, and nobody has a reference to them. Phantom parts are refused
// by the queue before anybody touches them.
unsafe impl DmaBuf for Chunks {
    fn count(&self) -> usize {
        self.parts.len()
    }

    fn segment(&mut self, index: usize) -> Segment {
        let (ptr, len, direction) = match &mut self.parts[index] {
            Part::Bytes(direction, bytes) => {
                let len = bytes.len();
                (NonNull::from(&mut bytes[..]).cast(), len, *direction)
            }
            Part::Phantom(direction, len) => (NonNull::dangling(), *len, *direction),
        };
        // SAFETY: as above.
        unsafe { Segment::new(ptr, len, direction) }
    }
}

/// A driver with one queue, and its device.
pub(crate) struct Rig<K: Kind> {
    pub(crate) platform: Fake<K>,
    pub(crate) device: FakeDevice,
    pub(crate) live: Live<Fake<K>, FakeTransport>,
    pub(crate) queue: Virtqueue<Fake<K>, Chunks>,
    pub(crate) maker: Maker,
}

/// A queue of `size`, whose indices start at `start`.
pub(crate) fn config(size: u16, start: u16) -> QueueConfig {
    let mut config = QueueConfig::new(size);
    config.start_index = start;
    config
}

/// Descriptors of an indirect table.
pub(crate) const TABLE: u16 = 8;

/// Descriptors of the ring that a chain of so many pieces takes in an empty queue of `size`.
pub(crate) fn descriptors(ring: Ring, size: u16, pieces: usize) -> u16 {
    let table = TABLE.min(size);
    let in_table = (3..=usize::from(table)).contains(&pieces) && table > 1;
    match ring.is_indirect() && in_table {
        true => 1,
        false => pieces as u16,
    }
}

/// A device whose indices start where the driver's do.
pub(crate) fn device<K: Kind>(
    platform: &Fake<K>,
    features: Features,
    config: &QueueConfig,
) -> FakeDevice {
    FakeDevice::new(platform.bus(), DeviceId::NETWORK)
        .offer(features)
        .queues(&[32768])
        .start_index(Q, config.start_index)
}

impl<K: Kind> Rig<K> {
    /// With indirect tables of 8, if `features` say so and `config` does not.
    pub(crate) fn new(platform: &Fake<K>, features: Features, config: &QueueConfig) -> Self {
        let mut config = *config;
        if features.has(Feature::INDIRECT_DESC) && config.indirect == 0 {
            config = config.indirect(TABLE);
        }
        let device = device(platform, features, &config);
        let (live, queue) = start(platform, &device, &config);
        Self {
            platform: platform.clone(),
            device,
            live,
            queue,
            maker: Maker::new(),
        }
    }

    /// Serves everything, and takes everything back; how many.
    pub(crate) fn serve_and_drain(&mut self) -> usize {
        self.device
            .serve(Q, |queue, chain| reply(queue, chain, usize::MAX));
        self.queue
            .drain(|done| {
                let written = done.written() as usize;
                done.into_buf().check(written);
            })
            .unwrap()
    }

    /// Fills the queue with buffers of one segment, has them served, and takes them all back.
    pub(crate) fn full_round(&mut self) {
        let room = self.queue.free();
        assert_eq!(room, self.queue.size() - self.queue.outstanding());
        for _ in 0..room {
            let buf = self.maker.chunks(&[(W, 1)]);
            self.queue.submit(buf).unwrap();
        }
        assert_eq!(self.queue.free(), 0);
        let one_more = self.maker.chunks(&[(R, 1)]);
        assert!(self.queue.submit(one_more).is_err());
        self.queue.kick();
        self.device.assert_kicked(Q);
        assert_eq!(self.serve_and_drain(), usize::from(self.queue.size()));
        assert_eq!(self.queue.free(), self.queue.size());
    }

    /// What a rejected call must leave as it was.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let queue = &self.queue;
        let read = |addr, len| {
            let mut bytes = vec![0; len];
            self.platform.bus().read(addr, &mut bytes);
            bytes
        };
        let areas = queue.areas();
        let features = self.live.features();
        let (driver, device) = match features.has(Feature::RING_PACKED) {
            true => (4, 4),
            false => {
                let layout = vring_init(queue.size(), 4).unwrap();
                let avail = layout.used_event + 2 - layout.avail;
                (avail, layout.avail_event + 2 - layout.used)
            }
        };
        let next = self.device.with_queue(Q, |queue| queue.next_available());
        Snapshot {
            counters: queue.counters(),
            free: queue.free(),
            outstanding: queue.outstanding(),
            mappings: self.platform.counts().mappings,
            bounced: self.platform.counts().bounced_bytes,
            next,
            driver: read(areas.driver, driver),
            device: read(areas.device, device),
        }
    }

    /// Resets the device: `left` buffers were in the queue, none is lost, nothing is leaked.
    pub(crate) fn finish(self, left: usize) {
        let left_over = stop(self.live, self.queue);
        assert_eq!(left_over.len(), left);
        assert_eq!(self.maker.alive(), left, "some buffers are lost");
        drop(left_over);
        self.device.assert_clean();
        self.platform.assert_no_leaks();
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    counters: Counters,
    free: u16,
    outstanding: u16,
    mappings: usize,
    bounced: usize,
    next: Option<u16>,
    driver: Vec<u8>,
    device: Vec<u8>,
}

// Each test program uses its part.
#[allow(unused_macros)]
/// Runs a generic function on each kind of platform, with arguments behind it. Under Miri a buffer
/// lies at any address, and so may take one small page more than its length tells: there,
/// platforms with pages are for tests that ask for one.
macro_rules! every_platform {
    ($f:ident $(, $arg:expr)*) => {{
        $f(&vring::testing::InPlace::new() $(, $arg)*);
        $f(&vring::testing::Bouncing::new() $(, $arg)*);
        if cfg!(not(miri)) {
            $f(&vring::testing::Discontiguous::new(16) $(, $arg)*);
        }
    }};
}
// Each test program uses its part.
#[allow(unused_imports)]
pub(crate) use every_platform;

/// Less work where Miri does it.
pub(crate) const fn scaled(native: usize, miri: usize) -> usize {
    if cfg!(miri) { miri } else { native }
}

/// All of them; where Miri does the work, only the first `miri`.
pub(crate) fn few<T: Copy>(all: &[T], miri: usize) -> impl Iterator<Item = T> {
    all.iter().copied().take(scaled(usize::MAX, miri))
}

/// Whether a platform keeps mappings.
pub(crate) const fn maps<K: Kind>(_: &Fake<K>) -> bool {
    !<Fake<K> as Platform>::DIRECT
}
