//! The crate's network driver, as a kernel uses it.

use std::sync::Arc;

use anyhow::{anyhow, ensure};
use vring::buffer::Window;
use vring::device::net::{self, Options};
use vring::features::Feature;
use vring_hosted::memory::{Region, Shared};
use vring_hosted::vhost_user::VhostUser;

use super::{BURST, FRAMES, IN_LOOP, Operation, Ring, SIZE, TEMPLATE};
use crate::frames::{FRAME, Frame, Pool};
use crate::host::Driver;

struct Whole {
    driver: net::Driver<Shared, VhostUser, Frame>,
    idle: Vec<Frame>,
    operation: Operation,
    pool: Pool,
}

/// Negotiates, and begins: see [`Make`](super::Make).
pub(crate) fn make(
    transport: VhostUser,
    region: &Arc<Region>,
    ring: Ring,
    operation: Operation,
) -> anyhow::Result<Box<dyn Driver>> {
    let mut options = Options::default();
    options.receive_size = SIZE;
    options.transmit_size = SIZE;
    for (on, feature) in [
        (ring.packed, Feature::RING_PACKED),
        (ring.in_order, Feature::IN_ORDER),
        (false, Feature::EVENT_IDX),
    ] {
        if !on {
            options.refuse = options.refuse.with(feature);
        }
    }
    let driver = net::Driver::new(Shared::new(region), transport, options);
    let mut driver = driver.map_err(|error| anyhow!("{error}"))?;
    let features = driver.control().features();
    ensure!(features.has(Feature::RING_PACKED) == ring.packed);
    ensure!(features.has(Feature::IN_ORDER) == ring.in_order);
    let (pool, idle) = Pool::new(region, FRAMES)?;
    let mut whole = Whole {
        driver,
        idle,
        operation,
        pool,
    };
    if operation != Operation::Transmit {
        whole.refill()?;
    }
    if operation == Operation::Loop {
        for _ in 0..IN_LOOP / BURST {
            whole.send_new()?;
        }
    }
    Ok(Box::new(whole))
}

impl Whole {
    fn refill(&mut self) -> anyhow::Result<()> {
        let rx = self.driver.rx();
        let room = usize::from(rx.room()).min(self.idle.len());
        let from = self.idle.len() - room;
        let given = rx.refill(&mut self.idle.drain(from..));
        given.map_err(|error| anyhow!("{error}"))?;
        Ok(())
    }

    fn send_new(&mut self) -> anyhow::Result<()> {
        let tx = self.driver.tx();
        if usize::from(tx.size() - tx.outstanding()) < BURST {
            return Ok(());
        }
        let headroom = tx.header_len();
        for frame in self.idle.drain(self.idle.len() - BURST..) {
            let mut frame = Window::new(frame, headroom, FRAME);
            frame.as_mut_slice().copy_from_slice(&TEMPLATE);
            tx.transmit(frame).map_err(|error| anyhow!("{error}"))?;
        }
        tx.kick();
        Ok(())
    }

    fn reclaim(&mut self) -> anyhow::Result<usize> {
        let idle = &mut self.idle;
        Ok(self.driver.tx().reclaim(|frame| idle.push(frame))?)
    }

    fn turn(&mut self) -> anyhow::Result<usize> {
        let (rx, tx, _) = self.driver.parts();
        let mut received = 0;
        // The device may keep descriptors of frames that it has sent back.
        while received < BURST
            && tx.outstanding() < tx.size()
            && let Some(frame) = rx.receive()?
        {
            ensure!(frame.as_slice().len() == FRAME, "a frame of another length");
            received += 1;
            if self.operation == Operation::Loop {
                tx.transmit(frame).map_err(|error| anyhow!("{error}"))?;
            } else {
                self.idle.push(frame.into_memory());
            }
        }
        if received != 0 {
            // First, so that there is a buffer for each frame however fast it is back.
            self.refill()?;
            if self.operation == Operation::Loop {
                self.driver.tx().kick();
            }
        }
        Ok(received)
    }
}

impl Driver for Whole {
    fn step(&mut self) -> anyhow::Result<u64> {
        let tx = self.driver.tx();
        let full = usize::from(tx.size() - tx.outstanding()) < BURST;
        let back = if full { self.reclaim()? } else { 0 };
        if self.operation == Operation::Transmit {
            self.send_new()?;
            return Ok(back as u64);
        }
        Ok(self.turn()? as u64)
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        let Self {
            driver,
            mut idle,
            pool,
            ..
        } = *self;
        let shut_down = driver.shutdown(|_, frame| idle.push(frame));
        shut_down.map_err(|(_, why)| anyhow!("{why}"))?;
        pool.home(idle)
    }
}
