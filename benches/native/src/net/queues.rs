//! The crate's queues, without a driver around them: burst calls, one descriptor a frame, every
//! check of what the device says. The device polls, and is never kicked.

use std::sync::Arc;

use anyhow::{bail, ensure};
use vring::device::net::{RECEIVE_QUEUE, TRANSMIT_QUEUE};
use vring::features::Wish;
use vring::init::{self, Live, QueueConfig};
use vring::virtqueue::Virtqueue;
use vring_hosted::memory::{Region, Shared};
use vring_hosted::vhost_user::VhostUser;

use super::{BURST, FRAMES, IN_LOOP, Operation, Ring, SIZE, TEMPLATE};
use crate::frames::{FRAME, Frame, HEADER, Incoming, Outgoing, Pool};
use crate::host::Driver;

/// Away from what other threads write.
#[repr(align(128))]
struct Queues {
    rx: Virtqueue<Shared, Incoming>,
    tx: Virtqueue<Shared, Outgoing>,
    /// Frames that nobody has.
    idle: Vec<Frame>,
    /// Frames that came in, and go out next.
    turning: Vec<Frame>,
    operation: Operation,
    mergeable: bool,
    live: Live<Shared, VhostUser>,
    pool: Pool,
}

/// Negotiates, and begins: see [`Make`](super::Make).
pub(crate) fn make(
    transport: VhostUser,
    region: &Arc<Region>,
    ring: Ring,
    operation: Operation,
) -> anyhow::Result<Box<dyn Driver>> {
    let wish = Wish {
        require: ring.features(),
        ..Wish::default()
    };
    let reset =
        init::reset(transport, &Shared::new(region)).map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut negotiated = reset
        .negotiate(&wish)
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    ensure!(negotiated.features() == ring.features());
    let config = QueueConfig::new(SIZE);
    let rx = negotiated.queue(RECEIVE_QUEUE, &config)?;
    let tx = negotiated.queue(TRANSMIT_QUEUE, &config)?;
    let live = negotiated
        .finish()
        .map_err(|error| anyhow::anyhow!("{error}"))?;
    let (Ok(rx), Ok(tx)) = (rx.start(&live), tx.start(&live)) else {
        bail!("queues of another device");
    };
    let (pool, idle) = Pool::new(region, FRAMES)?;
    let mut queues = Queues {
        rx,
        tx,
        idle,
        turning: Vec::with_capacity(SIZE.into()),
        operation,
        mergeable: ring.mergeable,
        live,
        pool,
    };
    if operation != Operation::Transmit {
        queues.refill()?;
    }
    if operation == Operation::Loop {
        for _ in 0..IN_LOOP / BURST {
            queues.send_new()?;
        }
    }
    Ok(Box::new(queues))
}

impl Queues {
    /// Gives the device as many buffers as there is room for.
    #[inline]
    fn refill(&mut self) -> anyhow::Result<()> {
        let free = usize::from(self.rx.free()).min(self.idle.len());
        let frames = self.idle.drain(self.idle.len() - free..);
        self.rx.submit_burst(&mut frames.map(Incoming))?;
        self.rx.publish();
        Ok(())
    }

    /// Writes a burst of frames and sends it, when there is room for it.
    #[inline]
    fn send_new(&mut self) -> anyhow::Result<()> {
        if usize::from(self.tx.free()) < BURST {
            return Ok(());
        }
        let Some(from) = self.idle.len().checked_sub(BURST) else {
            bail!("frames are missing");
        };
        let mut written = self.idle.drain(from..).map(|mut frame| {
            frame.write(&TEMPLATE);
            Outgoing(frame)
        });
        self.tx.submit_burst(&mut written)?;
        drop(written);
        self.tx.publish();
        Ok(())
    }

    /// Takes sent frames back.
    #[inline]
    fn reclaim(&mut self) -> anyhow::Result<usize> {
        let idle = &mut self.idle;
        Ok(self.tx.drain(|done| {
            let Outgoing(frame) = done.into_buf();
            idle.push(frame);
        })?)
    }

    /// Takes what came in.
    #[inline]
    fn receive(&mut self) -> anyhow::Result<usize> {
        let Self {
            rx,
            idle,
            turning,
            operation,
            mergeable,
            ..
        } = self;
        let to = if *operation == Operation::Loop {
            turning
        } else {
            idle
        };
        let mergeable = *mergeable;
        let mut odd = None;
        let received = rx.drain(|done| {
            let len = done.written();
            let wrong = len != (HEADER + FRAME) as u32 || done.is_assumed();
            let Incoming(mut frame) = done.into_buf();
            // As a driver must, which otherwise has no reason to look at the header.
            let buffers = if mergeable { frame.num_buffers() } else { 1 };
            if wrong || buffers != 1 {
                odd = Some((len, buffers));
            }
            frame.set_len(len);
            to.push(frame);
        })?;
        if let Some((len, buffers)) = odd {
            bail!("header and frame have {len} bytes, in {buffers} buffers");
        }
        Ok(received)
    }

    #[inline(never)]
    fn transmit_step(&mut self) -> anyhow::Result<u64> {
        let mut back = 0;
        if usize::from(self.tx.free()) < BURST {
            back = self.reclaim()?;
        }
        self.send_new()?;
        Ok(back as u64)
    }

    #[inline(never)]
    fn receive_step(&mut self) -> anyhow::Result<u64> {
        let received = self.receive()?;
        if received != 0 {
            self.refill()?;
        }
        Ok(received as u64)
    }

    #[inline(never)]
    fn loop_step(&mut self) -> anyhow::Result<u64> {
        let received = self.receive()?;
        if self.turning.is_empty() {
            return Ok(0);
        }
        // First, so that there is a buffer for each frame however fast it is back.
        self.refill()?;
        if usize::from(self.tx.free()) < self.turning.len() {
            self.reclaim()?;
        }
        // The device may keep descriptors of frames that it has sent back.
        let room = usize::from(self.tx.free()).min(self.turning.len());
        let mut cleared = self.turning.drain(..room).map(|mut frame| {
            frame.clear_header();
            Outgoing(frame)
        });
        self.tx.submit_burst(&mut cleared)?;
        drop(cleared);
        self.tx.publish();
        Ok(received as u64)
    }
}

impl Driver for Queues {
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
            live,
            pool,
            ..
        } = *self;
        idle.extend(turning);
        let (_, proof) = live
            .reset()
            .map_err(|refused| anyhow::anyhow!("{}", refused.why))?;
        let (Ok(rx), Ok(tx)) = (rx.close(&proof), tx.close(&proof)) else {
            bail!("queues of another device");
        };
        idle.extend(rx.map(|Incoming(frame)| frame));
        idle.extend(tx.map(|Outgoing(frame)| frame));
        pool.home(idle)
    }
}
