//! The crate's network driver, as a kernel uses it that knows that its device polls: burst calls,
//! and no kicks.

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
    /// Frames that nobody has.
    idle: Vec<Frame>,
    /// Frames that came in, and go out next.
    turning: Vec<Window<Frame>>,
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
        turning: Vec::with_capacity(SIZE.into()),
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
    /// Gives the device as many buffers as there is room for.
    #[inline]
    fn refill(&mut self) -> anyhow::Result<()> {
        let rx = self.driver.rx();
        let room = usize::from(rx.room()).min(self.idle.len());
        let from = self.idle.len() - room;
        let given = rx.give_burst(&mut self.idle.drain(from..));
        given.map_err(|error| anyhow!("{error}"))?;
        rx.publish();
        Ok(())
    }

    /// Writes a burst of frames and sends it, when there is room for it; how many are back from
    /// the device.
    #[inline(never)]
    fn send_new(&mut self) -> anyhow::Result<u64> {
        let Self { driver, idle, .. } = self;
        let tx = driver.tx();
        let before = idle.len();
        let room = tx.make_room(BURST as u16, |frame| idle.push(frame))?;
        let back = idle.len() - before;
        if usize::from(room) >= BURST {
            let headroom = tx.header_len();
            let from = idle.len().saturating_sub(BURST);
            let mut written = idle.drain(from..).map(|frame| {
                let mut frame = Window::new(frame, headroom, FRAME);
                frame.as_mut_slice().copy_from_slice(&TEMPLATE);
                frame
            });
            let sent = tx.transmit_burst(&mut written);
            drop(written);
            let sent = sent.map_err(|error| anyhow!("{error}"))?;
            ensure!(sent == BURST, "{sent} frames found room");
            tx.publish();
        }
        Ok(back as u64)
    }

    #[inline(never)]
    fn receive(&mut self) -> anyhow::Result<u64> {
        let idle = &mut self.idle;
        let mut odd = false;
        let received = self.driver.rx().receive_burst(|frame| {
            odd |= frame.as_slice().len() != FRAME;
            idle.push(frame.into_memory());
        })?;
        ensure!(!odd, "a frame of another length");
        if received != 0 {
            self.refill()?;
        }
        Ok(received as u64)
    }

    #[inline(never)]
    fn turn(&mut self) -> anyhow::Result<u64> {
        let turning = &mut self.turning;
        let received = self
            .driver
            .rx()
            .receive_burst(|frame| turning.push(frame))?;
        if turning.is_empty() {
            return Ok(0);
        }
        // First, so that there is a buffer for each frame however fast it is back.
        self.refill()?;
        let Self {
            driver,
            idle,
            turning,
            ..
        } = self;
        let tx = driver.tx();
        let room = tx.make_room(turning.len() as u16, |frame| idle.push(frame))?;
        // The device may keep descriptors of frames that it has sent back.
        let room = turning.len().min(room.into());
        let sent = tx.transmit_burst(&mut turning.drain(..room));
        let sent = sent.map_err(|error| anyhow!("{error}"))?;
        ensure!(sent == room, "{sent} frames found room");
        tx.publish();
        Ok(received as u64)
    }
}

impl Driver for Whole {
    #[inline]
    fn step(&mut self) -> anyhow::Result<u64> {
        match self.operation {
            Operation::Transmit => self.send_new(),
            Operation::Receive => self.receive(),
            Operation::Loop => self.turn(),
        }
    }

    fn finish(self: Box<Self>) -> anyhow::Result<()> {
        let Self {
            driver,
            mut idle,
            turning,
            pool,
            ..
        } = *self;
        idle.extend(turning.into_iter().map(Window::into_memory));
        let shut_down = driver.shutdown(|_, frame| idle.push(frame));
        shut_down.map_err(|(_, why)| anyhow!("{why}"))?;
        pool.home(idle)
    }
}
