//! A `dpdk-testpmd` for one test, and patience that ends.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vring::device::net;
use vring::transport::DeviceId;
use vring_hosted::memory::Region;
use vring_hosted::testpmd::{Forward, Testpmd};
use vring_hosted::vhost_user::{Identity, VhostUser};

/// How long a back end may run: a test takes seconds.
const LIMIT: Duration = Duration::from_secs(120);
/// How long nothing may happen before a test has failed.
const STALL: Duration = Duration::from_secs(20);
/// Bytes that are shared: what rings and buffers of one test take, several times over.
const SHARED: usize = 16 << 20;

/// The device's address in the network, which the front end makes up.
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

/// One back end polls with all its might: tests take turns.
static TURN: Mutex<()> = Mutex::new(());

pub(crate) struct Rig {
    pub(crate) testpmd: Testpmd,
    pub(crate) region: Arc<Region>,
    _dir: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Rig {
    pub(crate) fn new(forward: Forward) -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().expect("a directory for the socket");
        let testpmd =
            Testpmd::start(dir.path(), forward, LIMIT).unwrap_or_else(|e| panic!("{e:#}"));
        Self {
            testpmd,
            region: Region::new(SHARED).expect("shared memory"),
            _dir: dir,
            _turn: turn,
        }
    }

    /// A session with the device.
    pub(crate) fn connect(&self) -> VhostUser {
        let socket = self.testpmd.connect().unwrap_or_else(|e| panic!("{e:#}"));
        // mac, status (link up), max_virtqueue_pairs, mtu: VIRTIO 1.4, 5.1.4.
        let mut config = MAC.to_vec();
        for field in [1u16, 1, 1500] {
            config.extend_from_slice(&field.to_le_bytes());
        }
        let identity = Identity {
            device: DeviceId::NETWORK,
            queues: 2,
            max_size: 1024,
            config,
            emulated: net::F::MAC | net::F::STATUS,
        };
        VhostUser::new(socket, &self.region, identity)
            .unwrap_or_else(|e| panic!("{e:#}:\n{}", self.testpmd.process()))
    }

    /// A test has failed: says what the back end said, too.
    pub(crate) fn fail(&self, why: impl fmt::Display) -> ! {
        panic!("{why}\ndpdk-testpmd said:\n{}", self.testpmd.process())
    }
}

/// Ends a test in which nothing happens any more.
pub(crate) struct Patience(Instant);

impl Patience {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }

    /// Something happened, or not; false when that has been so for too long.
    pub(crate) fn goes_on(&mut self, happened: bool) -> bool {
        if happened {
            self.0 = Instant::now();
            return true;
        }
        // The back end needs a CPU, too.
        std::thread::yield_now();
        self.0.elapsed() < STALL
    }
}
