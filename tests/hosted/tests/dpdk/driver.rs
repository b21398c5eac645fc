//! The network driver as a kernel uses it.

use vring::buffer::Window;
use vring::device::net::{
    self, Options, RECEIVE_QUEUE, TRANSMIT_QUEUE, TransmitError, TransmitFailure,
};
use vring::features::{Feature, Features};
use vring::virtqueue::Reject;
use vring_hosted::frame;
use vring_hosted::memory::{PoolBuf, Shared};
use vring_hosted::testpmd::Forward;
use vring_hosted::vhost_user::VhostUser;

use crate::rig::{MAC, Patience, Rig};

const BLOCK: usize = 2048;
/// Frames there and back.
const FRAMES: u64 = 70_000;
/// Frames that are not waited for.
const LEFT: u64 = 100;
/// Frames of a burst.
const BURST: u16 = 32;

type Driver = net::Driver<Shared, VhostUser, PoolBuf>;

/// What has gone out, what has come back, and blocks that are with nobody.
struct Traffic {
    pool: Vec<PoolBuf>,
    sent: u64,
    received: u64,
}

/// Gives blocks, transmits, takes blocks back and receives; whether any came back.
type Round = fn(
    &mut Traffic,
    &Rig,
    &mut net::Receiver<Shared, PoolBuf>,
    &mut net::Transmitter<Shared, PoolBuf>,
) -> bool;

impl Traffic {
    /// The next frame to go out, if the device has a block for it to come back in.
    fn next(&mut self, with_device: u64, header_len: usize) -> Option<Window<PoolBuf>> {
        if self.sent >= FRAMES + LEFT || self.sent - self.received >= with_device {
            return None;
        }
        let block = self.pool.pop()?;
        let bytes = frame::make(self.sent);
        // With headroom a frame is one descriptor, and without it two.
        let headroom = if self.sent.is_multiple_of(3) {
            0
        } else {
            header_len
        };
        let mut frame = Window::new(block, headroom, bytes.len());
        frame.as_mut_slice().copy_from_slice(&bytes);
        self.sent += 1;
        Some(frame)
    }

    /// A frame that did not go out after all, as the queue was full.
    fn unsent(&mut self, error: TransmitError<PoolBuf>) {
        let full = matches!(error.why, TransmitFailure::Queue(Reject::Full { .. }));
        assert!(full, "{error}");
        self.sent -= 1;
        self.pool.push(error.frame.into_memory());
    }

    fn came(&mut self, rig: &Rig, frame: Window<PoolBuf>) {
        if let Err(why) = frame::check_swapped(frame.as_slice(), self.received) {
            rig.fail(why);
        }
        self.received += 1;
        self.pool.push(frame.into_memory());
    }

    /// One by one, with kicks.
    fn singly(
        &mut self,
        rig: &Rig,
        rx: &mut net::Receiver<Shared, PoolBuf>,
        tx: &mut net::Transmitter<Shared, PoolBuf>,
    ) -> bool {
        let room = usize::from(rx.room()).min(self.pool.len());
        let at = self.pool.len() - room;
        rx.refill(&mut self.pool.drain(at..))
            .unwrap_or_else(|e| rig.fail(e));
        let with_device = u64::from(rx.size() - rx.room());
        while tx.has_room() {
            let Some(frame) = self.next(with_device, tx.header_len()) else {
                break;
            };
            if let Err(error) = tx.transmit(frame) {
                self.unsent(error);
            }
        }
        tx.kick();
        let reclaimed = tx.reclaim(|block| self.pool.push(block));
        let reclaimed = reclaimed.unwrap_or_else(|e| rig.fail(e));
        while let Some(frame) = rx.receive().unwrap_or_else(|e| rig.fail(e)) {
            self.came(rig, frame);
        }
        reclaimed != 0
    }

    /// In bursts, and without a word: the back end polls.
    fn in_bursts(
        &mut self,
        rig: &Rig,
        rx: &mut net::Receiver<Shared, PoolBuf>,
        tx: &mut net::Transmitter<Shared, PoolBuf>,
    ) -> bool {
        rx.give_burst(&mut std::iter::from_fn(|| self.pool.pop()))
            .unwrap_or_else(|e| rig.fail(e));
        rx.publish();
        let with_device = u64::from(rx.size() - rx.room());
        let before = tx.outstanding();
        tx.make_room(2 * BURST, |block| self.pool.push(block))
            .unwrap_or_else(|e| rig.fail(e));
        let reclaimed = before != tx.outstanding();
        let header_len = tx.header_len();
        let frames = std::iter::from_fn(|| self.next(with_device, header_len));
        if let Err(error) = tx.transmit_burst(&mut frames.take(BURST.into())) {
            self.unsent(error.rejected);
        }
        tx.publish();
        rx.receive_burst(|frame| self.came(rig, frame))
            .unwrap_or_else(|e| rig.fail(e));
        let kicks = rx.counters().kicks + tx.counters().kicks;
        assert_eq!(kicks, 0, "nobody kicked");
        reclaimed
    }
}

/// Moves frames there and back, and shuts the driver down with some under way.
fn run(round: Round, refuse: Features, expected: Features) {
    let rig = Rig::new(Forward::MacSwap);
    let free = rig.region.free_bytes();
    let mut options = Options::default();
    options.refuse = refuse;
    let platform = Shared::new(&rig.region);
    let driver = Driver::new(platform, rig.connect(), options);
    let mut driver = driver.unwrap_or_else(|e| rig.fail(e));
    let (rx, tx, control) = driver.parts();
    let features = control.features();
    assert_eq!(features & (expected | refuse), expected, "{features}");
    assert!(
        !features.has(net::F::MRG_RXBUF),
        "the driver has no code for it"
    );
    assert_eq!(control.mac(), Some(MAC));
    assert_eq!(control.mtu(), Some(1500));
    assert!(control.link_up().unwrap());
    let pool: Vec<PoolBuf> = (0..600)
        .map(|_| PoolBuf::new(&rig.region, BLOCK).expect("a block"))
        .collect();
    let blocks = pool.len();
    let mut traffic = Traffic {
        pool,
        sent: 0,
        received: 0,
    };
    let mut patience = Patience::new();
    while traffic.received < FRAMES {
        let before = (traffic.sent, traffic.received);
        let reclaimed = round(&mut traffic, &rig, rx, tx);
        let moved = before != (traffic.sent, traffic.received);
        if !patience.goes_on(reclaimed || moved) {
            rig.fail(format_args!("nothing happens: {rx:#?}\n{tx:#?}"));
        }
    }
    let Traffic { mut pool, .. } = traffic;
    assert_eq!(rx.runts(), 0);
    assert_eq!((rx.fault(), tx.fault()), (None, None));
    let waiting = (rx.size() - rx.room(), tx.outstanding());
    let mut back = (0, 0);
    let shut_down = driver.shutdown(|queue, block| {
        match queue {
            RECEIVE_QUEUE => back.0 += 1,
            TRANSMIT_QUEUE => back.1 += 1,
            _ => rig.fail(queue),
        }
        pool.push(block);
    });
    if let Err((_, why)) = shut_down {
        rig.fail(why);
    }
    assert_eq!(back, waiting, "what had not come back comes back now");
    assert_eq!(pool.len(), blocks, "buffers were lost");
    drop(pool);
    assert_eq!(rig.region.free_bytes(), free, "shared memory was lost");
}

const EVERYTHING: Features = Features::of(&[
    Feature::VERSION_1,
    Feature::RING_PACKED,
    Feature::IN_ORDER,
    Feature::EVENT_IDX,
    Feature::INDIRECT_DESC,
    net::F::MAC,
    net::F::STATUS,
    net::F::MTU,
]);

const PLAIN: Features = Features::of(&[Feature::VERSION_1, net::F::MTU]);

const REFUSED: Features = Features::of(&[
    Feature::RING_PACKED,
    Feature::IN_ORDER,
    Feature::EVENT_IDX,
    Feature::INDIRECT_DESC,
]);

#[test]
fn the_net_driver_takes_all_that_is_offered() {
    run(Traffic::singly, Features::EMPTY, EVERYTHING);
}

#[test]
fn the_net_driver_refuses_what_it_is_told_to() {
    run(Traffic::singly, REFUSED, PLAIN);
}

#[test]
fn the_net_driver_moves_bursts_without_a_kick_where_the_back_end_polls() {
    run(Traffic::in_bursts, Features::EMPTY, EVERYTHING);
    run(Traffic::in_bursts, REFUSED, PLAIN);
}
