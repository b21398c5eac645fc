//! 64-byte frames to and from DPDK's vhost port.
//!
//! | operation | the device (`dpdk-testpmd`) | the driver |
//! |---|---|---|
//! | transmit | counts and drops | writes each frame and sends it |
//! | receive | sends all the time | takes each frame, and gives the buffer back |
//! | loop | exchanges addresses and sends back | sends back what it gets, as it is |
//!
//! Rings have 256 descriptors, and frames go in bursts of 32. A loop has [`IN_LOOP`] frames under
//! way: as many as a driver that refills its ring in bursts is sure to lose none of. What counts
//! is what arrived: buffers that the device returned, or frames received, and never what was
//! offered.

pub(crate) mod dpdk;
#[allow(unsafe_code)] // the interfaces of other queues are
pub(crate) mod others;
pub(crate) mod queues;
pub(crate) mod whole;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bench_sampling::report::Subject;
use bench_sampling::share::Clock;
use tempfile::TempDir;
use vring::device::net as device;
use vring::features::{Feature, Features};
use vring::transport::DeviceId;
use vring_hosted::memory::{Pages, Region};
use vring_hosted::testpmd::{Device, Forward, Setup, Testpmd};
use vring_hosted::vhost_user::{Identity, VhostUser};

use crate::host::{Driver, Host, LIMIT, Unit};

/// The group of all cases here.
pub(crate) const GROUP: &str = "native-net";
/// Descriptors of a ring.
pub(crate) const SIZE: u16 = 256;
/// Frames of a burst.
pub(crate) const BURST: usize = 32;
/// Bursts that a loop begins with.
pub(crate) const FIRST: u32 = 6;
/// Frames under way in a loop.
pub(crate) const IN_LOOP: usize = FIRST as usize * BURST;
/// Frames of a driver: both rings full, all of a loop in between, and enough to fill a ring again.
pub(crate) const FRAMES: usize = 4 * SIZE as usize;
/// How old a device gets that is used for another session.
const LONGEST: Duration = Duration::from_secs(60);
/// Bytes that are shared: rings, and [`FRAMES`].
const SHARED: usize = 4 << 20;

/// Which way frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Transmit,
    Receive,
    Loop,
}

impl Operation {
    pub(crate) const ALL: [Self; 3] = [Self::Transmit, Self::Receive, Self::Loop];

    const fn name(self) -> &'static str {
        match self {
            Self::Transmit => "transmit",
            Self::Receive => "receive",
            Self::Loop => "loop",
        }
    }

    /// What the device does with frames.
    const fn of_device(self) -> Forward {
        match self {
            Self::Transmit => Forward::ReceiveOnly,
            Self::Receive => Forward::TransmitOnly,
            Self::Loop => Forward::MacSwap,
        }
    }
}

/// What is negotiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ring {
    pub(crate) packed: bool,
    pub(crate) in_order: bool,
    pub(crate) mergeable: bool,
}

impl Ring {
    pub(crate) const SPLIT: Self = Self {
        packed: false,
        in_order: false,
        mergeable: false,
    };
    pub(crate) const PACKED: Self = Self {
        packed: true,
        ..Self::SPLIT
    };

    /// All eight.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (0..8).map(|bits| Self {
            packed: bits & 4 != 0,
            in_order: bits & 2 != 0,
            mergeable: bits & 1 != 0,
        })
    }

    pub(crate) const fn format(self) -> &'static str {
        if self.packed { "packed" } else { "split" }
    }

    /// In words.
    pub(crate) fn name(self) -> String {
        let mut name = self.format().to_owned();
        if self.in_order {
            name += " in-order";
        }
        if self.mergeable {
            name += " mergeable";
        }
        name
    }

    pub(crate) fn features(self) -> Features {
        [
            (self.packed, Feature::RING_PACKED),
            (self.in_order, Feature::IN_ORDER),
            (self.mergeable, device::F::MRG_RXBUF),
        ]
        .into_iter()
        .filter_map(|(on, feature)| on.then_some(feature))
        .fold(Feature::VERSION_1.into(), Features::with)
    }

    /// The case that a driver of this ring belongs to: drivers of one ring format are compared.
    pub(crate) fn subject(self, operation: Operation, contender: String) -> Subject {
        Subject {
            group: GROUP,
            case: format!("{} 64 B, {}", operation.name(), self.format()),
            contender,
        }
    }
}

/// Makes a driver of a device that is connected.
pub(crate) type Make =
    fn(VhostUser, &Arc<Region>, Ring, Operation) -> anyhow::Result<Box<dyn Driver>>;

/// The device that serves sessions now: one after the other, as a switch serves guests that come
/// and go. It takes seconds to start.
#[derive(Debug, Default)]
pub(crate) struct Devices(Option<Running>);

#[derive(Debug)]
struct Running {
    operation: Operation,
    since: Instant,
    testpmd: Testpmd,
    socket: PathBuf,
    _dir: TempDir,
}

impl Devices {
    /// Runs a session with a device that does its part of that operation. It is used again when
    /// all went well.
    ///
    /// # Errors
    /// When none can be started, or the session fails.
    fn session(
        &mut self,
        host: &Host,
        operation: Operation,
        session: impl FnOnce(&Running) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let fit =
            |running: &Running| running.operation == operation && running.since.elapsed() < LONGEST;
        let running = match self.0.take().filter(fit) {
            Some(running) => running,
            None => Running::start(host, operation)?,
        };
        let before = running.frames()?;
        session(&running)?;
        // It counts, too.
        anyhow::ensure!(running.frames()? != before, "the device has seen no frame");
        self.0 = Some(running);
        Ok(())
    }
}

impl Running {
    fn start(host: &Host, operation: Operation) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir().context("cannot make a directory for the socket")?;
        let socket = dir.path().join("vhost.sock");
        let setup = Setup {
            device: Device::Vhost(socket.clone()),
            forward: operation.of_device(),
            auto_start: true,
            // Its commands are taken on the driver's core, where none come while that matters.
            cores: Some((host.here, host.there)),
            pages: host.pages,
        };
        let testpmd = Testpmd::launch(&setup, LIMIT)?;
        testpmd.ready()?;
        Ok(Self {
            operation,
            since: Instant::now(),
            testpmd,
            socket,
            _dir: dir,
        })
    }

    /// Frames that it has seen.
    fn frames(&self) -> anyhow::Result<u64> {
        let stats = self.testpmd.stats()?;
        Ok(match self.operation {
            Operation::Transmit => stats.received,
            Operation::Receive => stats.sent,
            Operation::Loop => stats.received.min(stats.sent),
        })
    }
}

/// The clock of the thread that polls.
fn poller(testpmd: &Testpmd) -> anyhow::Result<Clock> {
    let clock = Clock::of_thread(testpmd.process().id(), "worker-1");
    clock.context("dpdk-testpmd has no thread that polls")
}

/// A session of a driver in this process.
///
/// # Errors
/// When the device or the driver fails.
pub(crate) fn session(
    host: &Host,
    devices: &mut Devices,
    subject: &Subject,
    ring: Ring,
    operation: Operation,
    make: Make,
) -> anyhow::Result<()> {
    devices.session(host, operation, |device| {
        let region = Region::with_pages(SHARED, host.pages).context("cannot share memory")?;
        let transport = VhostUser::new(device.testpmd.connect()?, &region, identity())?;
        let clocks = [Clock::ThisThread, poller(&device.testpmd)?];
        // Made where it runs, so that its memory is first touched there.
        let mut driver = host.on_core(|| make(transport, &region, ring, operation))?;
        host.measure(subject, &mut *driver, &clocks, Unit::Mpps)?;
        driver.finish()
    })
}

/// A network device of one pair of queues.
fn identity() -> Identity {
    // mac, status (link up), max_virtqueue_pairs, mtu: VIRTIO 1.4, 5.1.4.
    let mut config = vec![2, 0, 0, 0, 0, 7];
    for field in [1u16, 1, 1500] {
        config.extend_from_slice(&field.to_le_bytes());
    }
    Identity {
        device: DeviceId::NETWORK,
        queues: 2,
        max_size: SIZE,
        config,
        emulated: device::F::MAC | device::F::STATUS,
    }
}

/// What the frames say: addresses, and the type for experiments.
pub(crate) const TEMPLATE: [u8; crate::frames::FRAME] = {
    let mut frame = [0; crate::frames::FRAME];
    let header = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    let mut at = 0;
    while at < header.len() {
        frame[at] = header[at];
        at += 1;
    }
    frame
};

/// Kinds of memory, for people.
pub(crate) const fn pages_note(pages: Pages) -> &'static str {
    match pages {
        Pages::Plain => "all memory in pages of 4 KiB, on both sides and for all contenders",
        Pages::Huge => "all memory in pages of 2 MiB, on both sides and for all contenders",
    }
}
