//! Queues of other crates, with the same loops around them as the crate's own have. They publish
//! each frame on its own: they have no other way.

use std::sync::Arc;

use anyhow::{anyhow, bail, ensure};
use virtio_driver::virtqueue::{Virtqueue, VirtqueueLayout};
use virtio_driver::{Iova, IovaTranslator, VirtioFeatureFlags, iovec};
use virtio_drivers::queue::VirtQueue;
use vring::buffer::StableBytes as _;
use vring::device::net::{RECEIVE_QUEUE, TRANSMIT_QUEUE};
use vring::transport::QueueIndex;
use vring_hosted::memory::Region;
use vring_hosted::vhost_user::VhostUser;

use super::{BURST, FRAMES, IN_LOOP, Operation, SIZE, TEMPLATE};
use crate::frames::{BLOCK, FRAME, Frame, HEADER, Pool};
use crate::host::Driver;
use crate::incumbent;
use crate::raw::{Pages, Raw, distance};

const WHOLE: usize = HEADER + FRAME;

/// A queue of one descriptor a frame, one way.
trait Queue: Send + Sized {
    fn new(device: &mut Raw, region: &Arc<Region>, queue: QueueIndex) -> anyhow::Result<Self>;
    /// Gives a frame to the device; the caller knows that there is room.
    fn add(&mut self, frame: Frame) -> anyhow::Result<()>;
    /// Takes one back, when there is one.
    fn pop(&mut self) -> anyhow::Result<Option<Frame>>;
    /// Frames that the device has.
    fn outstanding(&self) -> usize;
    /// Ends it, once the device is reset.
    fn close(self, home: &mut Vec<Frame>);
}

/// Which frames the device has, by what the queue calls them.
struct Table {
    frames: Vec<Option<Frame>>,
    count: usize,
}

impl Table {
    fn new() -> Self {
        let frames = std::iter::repeat_with(|| None).take(SIZE.into()).collect();
        Self { frames, count: 0 }
    }

    #[inline]
    fn put(&mut self, id: u16, frame: Frame) -> anyhow::Result<()> {
        let Some(slot @ None) = self.frames.get_mut(usize::from(id)) else {
            bail!("{id} names two frames");
        };
        *slot = Some(frame);
        self.count += 1;
        Ok(())
    }

    #[inline]
    fn take(&mut self, id: u16) -> anyhow::Result<Frame> {
        let frame = self.frames.get_mut(usize::from(id)).and_then(Option::take);
        self.count -= usize::from(frame.is_some());
        frame.ok_or_else(|| anyhow!("{id} names no frame"))
    }

    fn close(self, home: &mut Vec<Frame>) {
        home.extend(self.frames.into_iter().flatten());
    }
}

/// The queue of `virtio-drivers`.
struct Incumbent {
    queue: VirtQueue<incumbent::Memory, { SIZE as usize }>,
    table: Table,
    outgoing: bool,
}

impl Queue for Incumbent {
    fn new(device: &mut Raw, _: &Arc<Region>, index: QueueIndex) -> anyhow::Result<Self> {
        let (queue, _) = incumbent::queue(device, index, false, false)?;
        Ok(Self {
            queue,
            table: Table::new(),
            outgoing: index == TRANSMIT_QUEUE,
        })
    }

    #[inline]
    fn add(&mut self, mut frame: Frame) -> anyhow::Result<()> {
        let bytes = frame.bytes_mut();
        let id = if self.outgoing {
            // SAFETY: the frame is in the table until it is popped.
            unsafe { self.queue.add(&[&bytes[..WHOLE]], &mut []) }
        } else {
            // SAFETY: as above.
            unsafe { self.queue.add(&[], &mut [bytes]) }
        };
        self.table
            .put(id.map_err(|error| anyhow!("{error}"))?, frame)
    }

    #[inline]
    fn pop(&mut self) -> anyhow::Result<Option<Frame>> {
        let Some(id) = self.queue.peek_used() else {
            return Ok(None);
        };
        let mut frame = self.table.take(id)?;
        let bytes = frame.bytes_mut();
        let popped = if self.outgoing {
            // SAFETY: the same bytes as in `add`.
            unsafe { self.queue.pop_used(id, &[&bytes[..WHOLE]], &mut []) }
        } else {
            // SAFETY: as above.
            unsafe { self.queue.pop_used(id, &[], &mut [bytes]) }
        };
        let len = popped.map_err(|error| anyhow!("{error}"))?;
        ensure!(
            self.outgoing || len == WHOLE as u32,
            "a frame has {len} bytes"
        );
        Ok(Some(frame))
    }

    fn outstanding(&self) -> usize {
        self.table.count
    }

    fn close(self, home: &mut Vec<Frame>) {
        self.table.close(home);
    }
}

/// An address for the device is a fixed distance away.
struct Distance(u64);

impl IovaTranslator for Distance {
    fn translate_addr(&self, addr: usize, _: usize) -> std::io::Result<Iova> {
        Ok(Iova((addr as u64).wrapping_add(self.0)))
    }
}

/// The queue of libblkio's `virtio-driver`. It does not say how long what comes in is.
struct Blkio {
    queue: Virtqueue<'static, ()>,
    table: Table,
    outgoing: bool,
    /// Dropped behind the queue that is in it.
    _memory: Pages,
}

impl Queue for Blkio {
    fn new(device: &mut Raw, region: &Arc<Region>, index: QueueIndex) -> anyhow::Result<Self> {
        let features = VirtioFeatureFlags::VERSION_1;
        let layout = VirtqueueLayout::new::<()>(1, SIZE.into(), features)?;
        let memory = Pages::new(region, layout.end_offset)?;
        // SAFETY: the queue is dropped before the pages, and nobody else has them.
        let bytes = unsafe { memory.bytes() };
        let translator = Box::new(Distance(distance(region)));
        let mut queue = Virtqueue::new(translator, bytes, SIZE, features)?;
        queue.set_used_notif_enabled(false);
        let areas = [
            queue.desc_table_ptr(),
            queue.driver_area_ptr(),
            queue.device_area_ptr(),
        ];
        // SAFETY: they are the queue's, and its owner resets the device before it drops it.
        unsafe { device.queue(index, SIZE, areas)? };
        Ok(Self {
            queue,
            table: Table::new(),
            outgoing: index == TRANSMIT_QUEUE,
            _memory: memory,
        })
    }

    #[inline]
    fn add(&mut self, frame: Frame) -> anyhow::Result<()> {
        let (start, _) = frame.bytes();
        let piece = iovec {
            iov_base: start.as_ptr().cast(),
            iov_len: if self.outgoing { WHOLE } else { BLOCK },
        };
        let incoming = !self.outgoing;
        let id = self.queue.add_request(|(), add| add(piece, incoming))?;
        self.table.put(id, frame)
    }

    #[inline]
    fn pop(&mut self) -> anyhow::Result<Option<Frame>> {
        let next = self.queue.completions().next();
        next.map(|done| self.table.take(done.id)).transpose()
    }

    fn outstanding(&self) -> usize {
        self.table.count
    }

    fn close(self, home: &mut Vec<Frame>) {
        self.table.close(home);
    }
}

#[repr(align(128))]
struct Others<Q> {
    rx: Q,
    tx: Q,
    idle: Vec<Frame>,
    turning: Vec<Frame>,
    operation: Operation,
    device: Raw,
    pool: Pool,
}

/// With the queues of `virtio-drivers`: see [`Make`](super::Make).
pub(crate) fn incumbent(
    transport: VhostUser,
    region: &Arc<Region>,
    ring: super::Ring,
    operation: Operation,
) -> anyhow::Result<Box<dyn Driver>> {
    incumbent::enter(region);
    make::<Incumbent>(transport, region, ring, operation)
}

/// With the queues of libblkio: see [`Make`](super::Make).
pub(crate) fn blkio(
    transport: VhostUser,
    region: &Arc<Region>,
    ring: super::Ring,
    operation: Operation,
) -> anyhow::Result<Box<dyn Driver>> {
    make::<Blkio>(transport, region, ring, operation)
}

fn make<Q: Queue + 'static>(
    transport: VhostUser,
    region: &Arc<Region>,
    ring: super::Ring,
    operation: Operation,
) -> anyhow::Result<Box<dyn Driver>> {
    let mut device = Raw::begin(transport, region, ring.features())?;
    let rx = Q::new(&mut device, region, RECEIVE_QUEUE)?;
    let tx = Q::new(&mut device, region, TRANSMIT_QUEUE)?;
    device.go()?;
    let (pool, idle) = Pool::new(region, FRAMES)?;
    let mut others = Others {
        rx,
        tx,
        idle,
        turning: Vec::with_capacity(SIZE.into()),
        operation,
        device,
        pool,
    };
    if operation != Operation::Transmit {
        others.refill()?;
    }
    if operation == Operation::Loop {
        for _ in 0..IN_LOOP / BURST {
            others.send_new()?;
        }
    }
    Ok(Box::new(others))
}

impl<Q: Queue> Others<Q> {
    fn room(&self) -> usize {
        usize::from(SIZE) - self.tx.outstanding()
    }

    #[inline]
    fn refill(&mut self) -> anyhow::Result<()> {
        while self.rx.outstanding() < SIZE.into()
            && let Some(frame) = self.idle.pop()
        {
            self.rx.add(frame)?;
        }
        Ok(())
    }

    #[inline]
    fn send_new(&mut self) -> anyhow::Result<()> {
        if self.room() < BURST {
            return Ok(());
        }
        for _ in 0..BURST {
            let Some(mut frame) = self.idle.pop() else {
                bail!("frames are missing");
            };
            frame.write(&TEMPLATE);
            self.tx.add(frame)?;
        }
        Ok(())
    }

    #[inline]
    fn reclaim(&mut self) -> anyhow::Result<u64> {
        let mut back = 0;
        while let Some(frame) = self.tx.pop()? {
            self.idle.push(frame);
            back += 1;
        }
        Ok(back)
    }

    #[inline(never)]
    fn transmit_step(&mut self) -> anyhow::Result<u64> {
        let back = if self.room() < BURST {
            self.reclaim()?
        } else {
            0
        };
        self.send_new()?;
        Ok(back)
    }

    #[inline(never)]
    fn receive_step(&mut self) -> anyhow::Result<u64> {
        let mut received = 0;
        while let Some(frame) = self.rx.pop()? {
            self.idle.push(frame);
            received += 1;
        }
        self.refill()?;
        Ok(received)
    }

    #[inline(never)]
    fn loop_step(&mut self) -> anyhow::Result<u64> {
        let mut received = 0;
        while let Some(frame) = self.rx.pop()? {
            self.turning.push(frame);
            received += 1;
        }
        if self.turning.is_empty() {
            return Ok(0);
        }
        // First, so that there is a buffer for each frame however fast it is back.
        self.refill()?;
        if self.room() < self.turning.len() {
            self.reclaim()?;
        }
        let room = self.room().min(self.turning.len());
        for mut frame in self.turning.drain(..room) {
            frame.clear_header();
            self.tx.add(frame)?;
        }
        Ok(received)
    }
}

impl<Q: Queue> Driver for Others<Q> {
    #[inline]
    fn step(&mut self) -> anyhow::Result<u64> {
        match self.operation {
            Operation::Transmit => self.transmit_step(),
            Operation::Receive => self.receive_step(),
            Operation::Loop => self.loop_step(),
        }
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        let Self {
            rx,
            tx,
            mut idle,
            turning,
            mut device,
            pool,
            ..
        } = *self;
        device.reset()?;
        idle.extend(turning);
        rx.close(&mut idle);
        tx.close(&mut idle);
        pool.home(idle)
    }
}
