//! The crate's queue: header and status in the cells of a slot.

use anyhow::{anyhow, bail, ensure};
use vring::buffer::Writable;
use vring::features::{Feature, Features, Wish};
use vring::init::{self, Live, QueueConfig};
use vring::transport::{DeviceId, QueueIndex};
use vring::virtqueue::Virtqueue;
use vring_hosted::memory::{PoolBuf, Region, Shared};
use vring_hosted::storage_daemon::StorageDaemon;
use vring_hosted::vhost_user::{Identity, VhostUser};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{Immutable, IntoBytes};

use super::{PIECES, SECTOR, next_sector, ring_size};
use crate::host::Driver;

/// Bytes that are shared: rings, cells and tables, and a sector for each request.
pub(super) const SHARED: usize = 1 << 20;

/// `virtio_blk_req` up to the data (VIRTIO 1.4, 5.2.6); all zero but the sector: a read.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Header {
    kind: U32,
    reserved: U32,
    sector: U64,
}

impl Header {
    /// Reads that sector.
    pub(super) fn read(sector: u64) -> Self {
        Self {
            sector: U64::new(sector),
            ..Self::default()
        }
    }
}

#[repr(align(128))]
struct Queue {
    queue: Virtqueue<Shared, Writable<PoolBuf>>,
    /// Sectors that came back, and go out next.
    back: Vec<Writable<PoolBuf>>,
    sector: u64,
    depth: u16,
    live: Live<Shared, VhostUser>,
}

/// A disk of one queue.
pub(super) fn identity(max_size: u16) -> Identity {
    Identity {
        device: DeviceId::BLOCK,
        queues: 1,
        max_size,
        config: Vec::new(),
        emulated: Features::EMPTY,
    }
}

/// Negotiates, and begins.
pub(super) fn make(
    device: &StorageDaemon,
    depth: u16,
    event_idx: bool,
    indirect: bool,
) -> anyhow::Result<Box<dyn Driver>> {
    let region = Region::new(SHARED)?;
    let transport = VhostUser::new(device.connect()?, &region, identity(ring_size(depth)))?;
    let mut require = Features::from(Feature::VERSION_1);
    if event_idx {
        require = require.with(Feature::EVENT_IDX);
    }
    if indirect {
        require = require.with(Feature::INDIRECT_DESC);
    }
    let wish = Wish {
        require,
        ..Wish::default()
    };
    let reset = init::reset(transport, &Shared::new(&region)).map_err(|e| anyhow!("{e}"))?;
    let mut negotiated = reset.negotiate(&wish).map_err(|e| anyhow!("{e}"))?;
    ensure!(negotiated.features() == require);
    let config = QueueConfig::new(ring_size(depth)).cells(size_of::<Header>() as u16, 1);
    let pending = negotiated.queue(QueueIndex(0), &config.indirect(PIECES))?;
    let live = negotiated.finish().map_err(|e| anyhow!("{e}"))?;
    let Ok(queue) = pending.start(&live) else {
        bail!("a queue of another device");
    };
    let block = |_| PoolBuf::new(&region, SECTOR).map(Writable);
    let mut queue = Queue {
        queue,
        back: (0..depth).map(block).collect::<Result<_, _>>()?,
        sector: 0,
        depth,
        live,
    };
    queue.submit()?;
    Ok(Box::new(queue))
}

impl Queue {
    /// Reads into all that came back.
    #[inline]
    fn submit(&mut self) -> anyhow::Result<()> {
        for buf in self.back.drain(..) {
            let header = Header::read(self.sector);
            self.sector = next_sector(self.sector);
            self.queue.submit_with(&header, buf)?;
        }
        self.queue.kick();
        Ok(())
    }
}

impl Driver for Queue {
    fn step(&mut self) -> anyhow::Result<u64> {
        let back = &mut self.back;
        let mut failed = None;
        let finished = self.queue.drain(|done| {
            // Data, and the status, which is 0 when all went well.
            let status = done.reply::<u8>();
            if status != Some(0) || done.written() != SECTOR as u32 + 1 {
                failed = Some((status, done.written()));
            }
            back.push(done.into_buf());
        })?;
        if let Some(failed) = failed {
            bail!("a read failed: {failed:?}");
        }
        if finished != 0 {
            self.submit()?;
        }
        Ok(finished as u64)
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        let Self {
            queue,
            back,
            depth,
            live,
            ..
        } = *self;
        let counters = queue.counters();
        ensure!(counters.kicks != 0, "it was never kicked: {counters:?}");
        let (_, proof) = live.reset().map_err(|refused| anyhow!("{}", refused.why))?;
        let Ok(closed) = queue.close(&proof) else {
            bail!("a queue of another device");
        };
        let home = closed.count() + back.len();
        ensure!(
            home == usize::from(depth),
            "{home} of {depth} requests came back"
        );
        Ok(())
    }
}
