//! libblkio's crate `virtio-driver`, on the same terms: its queue over its own transport, without
//! its block driver, which keeps more books. Header and status are in its slots, and the sectors in
//! memory that this program shares.
//!
//! Its packed ring leaves `NEXT` set on the last descriptor of a chain of one, but the device here
//! offers no packed ring.

use std::io;
use std::path::Path;

use anyhow::ensure;
use virtio_driver::virtqueue::{Virtqueue, VirtqueueLayout};
use virtio_driver::{
    ByteValued, Le32, Le64, QueueNotifier, VhostUser, VirtioFeatureFlags, VirtioTransport, iovec,
};
use vring::buffer::StableBytesMut as _;
use vring_hosted::memory::{PoolBuf, Region};
use vring_hosted::storage_daemon::StorageDaemon;

use super::{SECTOR, next_sector, ring_size};
use crate::host::Driver;

/// What the device sees of a request, but for the data.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Request {
    kind: Le32,
    reserved: Le32,
    sector: Le64,
    status: u8,
}

/// Bytes of it in front of the status.
const HEADER: usize = 16;
/// Bytes that are shared: the ring with its slots, and a sector for each request.
const SHARED: usize = 1 << 20;

/// The configuration, which nobody reads.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Config(u64);

#[allow(unsafe_code)] // the trait wants it
// SAFETY: any eight bytes are such a value, and it has no padding.
unsafe impl ByteValued for Config {}

type Transport = VhostUser<Config, Request>;

/// The queue goes before the memory that it is in.
#[repr(align(128))]
struct Queue {
    queue: Virtqueue<'static, Request>,
    notifier: Box<dyn QueueNotifier>,
    /// The sector that a slot reads into.
    buffers: Vec<*mut u8>,
    /// Sectors that came back, and go out next.
    back: Vec<*mut u8>,
    sector: u64,
    depth: u16,
    _transport: Transport,
    _sectors: PoolBuf,
    _rings: PoolBuf,
}

#[allow(unsafe_code)] // pointers are not `Send`
// SAFETY: the pointers are into `_sectors`, which moves along.
unsafe impl Send for Queue {}

/// Negotiates, and begins.
pub(super) fn make(
    device: &StorageDaemon,
    depth: u16,
    event_idx: bool,
) -> anyhow::Result<Box<dyn Driver>> {
    let mut features = VirtioFeatureFlags::VERSION_1;
    if event_idx {
        features |= VirtioFeatureFlags::RING_EVENT_IDX;
    }
    let connect = |path: &Path| {
        let path = path
            .to_str()
            .ok_or_else(|| io::Error::other("the path is not text"))?;
        Transport::new(path, features.bits())
    };
    let mut transport = device.process().wait_for(device.socket(), connect)?;
    ensure!(transport.get_features() & features.bits() == features.bits());
    let region = Region::new(SHARED)?;
    let row = region.table_row();
    let (start, size) = (row.userspace_addr as usize, row.memory_size as usize);
    transport.map_mem_region(start, size, row.mmap_handle, row.mmap_offset as i64)?;

    let size = ring_size(depth);
    let layout = VirtqueueLayout::new::<Request>(1, size.into(), features)?;
    let mut rings = PoolBuf::new(&region, layout.end_offset)?;
    let (ptr, len) = rings.bytes_mut();
    #[allow(unsafe_code)] // the queue borrows its memory
    // SAFETY: the memory stays where it is, and nobody uses it but the queue, which goes first.
    let memory = unsafe { std::slice::from_raw_parts_mut(ptr.as_ptr(), len) };
    let queue = Virtqueue::new(transport.iova_translator(), memory, size, features)?;
    let mut queues = [queue];
    transport.setup_queues(&queues)?;
    for queue in &mut queues {
        // It polls, as the others do.
        queue.set_used_notif_enabled(false);
    }
    let [queue] = queues;
    let mut sectors = PoolBuf::new(&region, usize::from(depth) * SECTOR)?;
    let back = sectors.chunks_exact_mut(SECTOR).map(<[u8]>::as_mut_ptr);
    let mut queue = Queue {
        queue,
        notifier: transport.get_submission_notifier(0),
        buffers: vec![std::ptr::null_mut(); size.into()],
        back: back.collect(),
        sector: 0,
        depth,
        _transport: transport,
        _sectors: sectors,
        _rings: rings,
    };
    queue.submit()?;
    Ok(Box::new(queue))
}

impl Queue {
    /// Reads into all that came back.
    #[inline]
    fn submit(&mut self) -> anyhow::Result<()> {
        for buf in self.back.drain(..) {
            let sector = self.sector;
            self.sector = next_sector(sector);
            let slot = self.queue.add_request(|request, add| {
                *request = Request {
                    sector: sector.into(),
                    status: 0xff,
                    ..Request::default()
                };
                let header = std::ptr::from_mut(request);
                let status = std::ptr::from_mut(&mut request.status);
                add(piece(header.cast(), HEADER), false)?;
                add(piece(buf, SECTOR), true)?;
                add(piece(status, 1), true)
            })?;
            self.buffers[usize::from(slot)] = buf;
        }
        if self.queue.avail_notif_needed() {
            self.notifier.notify()?;
        }
        Ok(())
    }
}

fn piece(start: *mut u8, len: usize) -> iovec {
    iovec {
        iov_base: start.cast(),
        iov_len: len,
    }
}

impl Driver for Queue {
    fn step(&mut self) -> anyhow::Result<u64> {
        let before = self.back.len();
        for done in self.queue.completions() {
            ensure!(done.req.status == 0, "a read failed: {}", done.req.status);
            let buf = &mut self.buffers[usize::from(done.id)];
            let buf = std::mem::replace(buf, std::ptr::null_mut());
            ensure!(!buf.is_null(), "a request that was not made is done");
            self.back.push(buf);
        }
        let finished = self.back.len() - before;
        if finished != 0 {
            self.submit()?;
        }
        Ok(finished as u64)
    }

    /// It has no way to stop a device but to go.
    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        let under_way = self.buffers.iter().filter(|buf| !buf.is_null()).count();
        let all = under_way + self.back.len();
        ensure!(
            all == usize::from(self.depth),
            "{all} of {} requests are left",
            self.depth
        );
        Ok(())
    }
}
