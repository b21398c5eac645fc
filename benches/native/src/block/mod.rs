//! Reads of 512 bytes from a disk that takes no time, behind `qemu-storage-daemon`.
//!
//! The ring alone: a request is a header of 16 bytes that the device reads, 512 bytes that it
//! writes, and a byte of status that it writes, in three descriptors. As many as the queue is deep
//! are under way, and each that comes back goes out again. Every driver polls for completions, and
//! decides about kicks as its interface has it: the device sleeps until it is kicked.

pub(crate) mod blkio;
#[allow(unsafe_code)] // the interface of a queue is
pub(crate) mod incumbent;
pub(crate) mod queue;

use anyhow::Context as _;
use bench_sampling::report::Subject;
use bench_sampling::share::Clock;
use vring_hosted::storage_daemon::StorageDaemon;

use crate::host::{Driver, Host, LIMIT, Unit};

/// The group of all cases here.
pub(crate) const GROUP: &str = "native-block";
/// The name of libblkio's crate among contenders.
pub(crate) const BLKIO: &str = "virtio-driver 0.6.1 (libblkio)";
/// Requests under way.
pub(crate) const DEPTHS: [u16; 4] = [1, 32, 64, 128];
/// The one of them that a quick run has.
pub(crate) const QUICK_DEPTH: u16 = 32;
/// Bytes of a read.
pub(crate) const SECTOR: usize = 512;
/// Descriptors of a request.
const PIECES: u16 = 3;

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    Vring { event_idx: bool, indirect: bool },
    Blkio { event_idx: bool },
    Incumbent { event_idx: bool },
}

impl Contender {
    pub(crate) const ALL: [Self; 8] = [
        Self::Vring {
            event_idx: false,
            indirect: false,
        },
        Self::Blkio { event_idx: false },
        Self::Vring {
            event_idx: true,
            indirect: false,
        },
        Self::Blkio { event_idx: true },
        Self::Incumbent { event_idx: false },
        Self::Incumbent { event_idx: true },
        Self::Vring {
            event_idx: false,
            indirect: true,
        },
        Self::Vring {
            event_idx: true,
            indirect: true,
        },
    ];

    fn name(self) -> String {
        let (name, event_idx, indirect) = match self {
            Self::Vring {
                event_idx,
                indirect,
            } => ("vring", event_idx, indirect),
            Self::Blkio { event_idx } => (BLKIO, event_idx, false),
            Self::Incumbent { event_idx } => (crate::incumbent::NAME, event_idx, false),
        };
        let event_idx = if event_idx { " event-idx" } else { "" };
        let indirect = if indirect { " indirect" } else { "" };
        format!("{name} split{event_idx}{indirect}")
    }

    pub(crate) fn subject(self, depth: u16) -> Subject {
        Subject {
            group: GROUP,
            case: format!("read 512 B, depth {depth}"),
            contender: self.name(),
        }
    }
}

/// Descriptors of a ring for so many requests: the same for all contenders.
pub(crate) const fn ring_size(depth: u16) -> u16 {
    let needed = (PIECES * depth).next_power_of_two();
    if needed < 256 { 256 } else { needed }
}

/// A session of a contender with a device of its own.
///
/// # Errors
/// When the device or the driver fails.
pub(crate) fn session(
    host: &Host,
    subject: &Subject,
    contender: Contender,
    depth: u16,
) -> anyhow::Result<()> {
    let dir = tempfile::tempdir().context("cannot make a directory for the socket")?;
    let device = StorageDaemon::start(dir.path(), host.there, LIMIT)?;
    let mut driver: Box<dyn Driver> = host.on_core(|| {
        anyhow::Ok::<Box<dyn Driver>>(match contender {
            Contender::Vring {
                event_idx,
                indirect,
            } => queue::make(&device, depth, event_idx, indirect)?,
            Contender::Blkio { event_idx } => blkio::make(&device, depth, event_idx)?,
            // The size of its ring is part of its type.
            Contender::Incumbent { event_idx } if ring_size(depth) == 256 => {
                incumbent::make::<256>(&device, depth, event_idx)?
            }
            Contender::Incumbent { event_idx } => {
                incumbent::make::<512>(&device, depth, event_idx)?
            }
        })
    })?;
    host.measure(subject, &mut *driver, &[Clock::ThisThread], Unit::Kiops)?;
    driver.finish()
}

/// A number for the next sector to read, that of no cache line in particular.
pub(crate) const fn next_sector(sector: u64) -> u64 {
    let sectors = vring_hosted::storage_daemon::DISK / SECTOR as u64;
    (sector + 1) % sectors
}
