//! The queue of `virtio-drivers`, without its block driver, which waits for each request.

use anyhow::{anyhow, ensure};
use virtio_drivers::queue::VirtQueue;
use vring::features::{Feature, Features};
use vring::transport::{Doorbell, QueueIndex};
use vring_hosted::memory::{PoolBuf, Region};
use vring_hosted::storage_daemon::StorageDaemon;
use vring_hosted::vhost_user::VhostUser;
use zerocopy::IntoBytes as _;

use super::queue::{Header, SHARED, identity};
use super::{SECTOR, next_sector};
use crate::host::Driver;
use crate::incumbent;
use crate::raw::Raw;

/// Bytes of a request: header and status, apart from other requests'.
const CELL: usize = 64;
/// Where its status is.
const STATUS: usize = size_of::<Header>();

/// Header, status and data of a request.
struct Request {
    cell: PoolBuf,
    data: PoolBuf,
}

#[repr(align(128))]
struct Queue<const SIZE: usize> {
    queue: VirtQueue<incumbent::Memory, SIZE>,
    doorbell: Doorbell,
    /// What the device has, by what the queue calls it.
    table: Vec<Option<Request>>,
    back: Vec<Request>,
    sector: u64,
    depth: u16,
    device: Raw,
}

/// Negotiates, and begins.
pub(super) fn make<const SIZE: usize>(
    device: &StorageDaemon,
    depth: u16,
    event_idx: bool,
) -> anyhow::Result<Box<dyn Driver>> {
    let region = Region::new(SHARED)?;
    incumbent::enter(&region);
    let transport = VhostUser::new(device.connect()?, &region, identity(SIZE as u16))?;
    let mut features = Features::from(Feature::VERSION_1);
    if event_idx {
        features = features.with(Feature::EVENT_IDX);
    }
    let mut device = Raw::begin(transport, &region, features)?;
    let (queue, doorbell) = incumbent::queue(&mut device, QueueIndex(0), false, event_idx)?;
    device.go()?;
    let request = |_| {
        anyhow::Ok(Request {
            cell: PoolBuf::new(&region, CELL)?,
            data: PoolBuf::new(&region, SECTOR)?,
        })
    };
    let mut queue = Queue::<SIZE> {
        queue,
        doorbell,
        table: std::iter::repeat_with(|| None).take(SIZE).collect(),
        back: (0..depth).map(request).collect::<Result<_, _>>()?,
        sector: 0,
        depth,
        device,
    };
    queue.submit()?;
    Ok(Box::new(queue))
}

impl<const SIZE: usize> Queue<SIZE> {
    /// Reads into all that came back.
    #[inline]
    fn submit(&mut self) -> anyhow::Result<()> {
        for mut request in self.back.drain(..) {
            let header = Header::read(self.sector);
            self.sector = next_sector(self.sector);
            let Request { cell, data } = &mut request;
            let (start, rest) = cell.split_at_mut(STATUS);
            start.copy_from_slice(header.as_bytes());
            rest[0] = 0xff;
            // SAFETY: the request is in the table until it is popped.
            let id = unsafe { self.queue.add(&[start], &mut [data, &mut rest[..1]]) };
            let id = id.map_err(|error| anyhow!("{error}"))?;
            self.table[usize::from(id)] = Some(request);
        }
        if self.queue.should_notify() {
            self.doorbell.ring(0);
        }
        Ok(())
    }
}

impl<const SIZE: usize> Driver for Queue<SIZE> {
    fn step(&mut self) -> anyhow::Result<u64> {
        let mut finished = 0;
        while let Some(id) = self.queue.peek_used() {
            let request = self.table.get_mut(usize::from(id)).and_then(Option::take);
            let mut request = request.ok_or_else(|| anyhow!("{id} names no request"))?;
            let Request { cell, data } = &mut request;
            let (start, rest) = cell.split_at_mut(STATUS);
            // SAFETY: the same bytes as in `submit`.
            let popped = unsafe {
                self.queue
                    .pop_used(id, &[start], &mut [data, &mut rest[..1]])
            };
            let len = popped.map_err(|error| anyhow!("{error}"))?;
            ensure!(rest[0] == 0 && len == SECTOR as u32 + 1, "a read failed");
            self.back.push(request);
            finished += 1;
        }
        if finished != 0 {
            self.submit()?;
        }
        Ok(finished)
    }

    fn finish(mut self: Box<Self>) -> anyhow::Result<()> {
        self.device.reset()?;
        let home = self.table.iter().flatten().count() + self.back.len();
        ensure!(
            home == usize::from(self.depth),
            "{home} of {} requests are left",
            self.depth
        );
        Ok(())
    }
}
