//! The network driver as a kernel uses it.

use vring::buffer::Window;
use vring::device::net::{self, Options, RECEIVE_QUEUE, TRANSMIT_QUEUE, TransmitFailure};
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

type Driver = net::Driver<Shared, VhostUser, PoolBuf>;

/// Moves frames there and back, and shuts the driver down with some under way.
fn run(refuse: Features, expected: Features) {
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
    let mut pool: Vec<PoolBuf> = (0..600)
        .map(|_| PoolBuf::new(&rig.region, BLOCK).expect("a block"))
        .collect();
    let blocks = pool.len();
    let (mut sent, mut received) = (0, 0);
    let mut patience = Patience::new();
    while received < FRAMES {
        let room = usize::from(rx.room()).min(pool.len());
        let at = pool.len() - room;
        rx.refill(&mut pool.drain(at..))
            .unwrap_or_else(|e| rig.fail(e));
        let with_device = u64::from(rx.size() - rx.room());
        let before = (sent, received);
        while sent < FRAMES + LEFT && sent - received < with_device && tx.has_room() {
            let Some(block) = pool.pop() else { break };
            let bytes = frame::make(sent);
            // With headroom a frame is one descriptor, and without it two.
            let headroom = if sent % 3 == 0 { 0 } else { tx.header_len() };
            let mut frame = Window::new(block, headroom, bytes.len());
            frame.as_mut_slice().copy_from_slice(&bytes);
            match tx.transmit(frame) {
                Ok(()) => sent += 1,
                Err(error) => {
                    let full = matches!(error.why, TransmitFailure::Queue(Reject::Full { .. }));
                    assert!(full, "{error}");
                    pool.push(error.frame.into_memory());
                }
            }
        }
        tx.kick();
        let reclaimed = tx.reclaim(|block| pool.push(block));
        let reclaimed = reclaimed.unwrap_or_else(|e| rig.fail(e));
        while let Some(frame) = rx.receive().unwrap_or_else(|e| rig.fail(e)) {
            if let Err(why) = frame::check_swapped(frame.as_slice(), received) {
                rig.fail(why);
            }
            received += 1;
            pool.push(frame.into_memory());
        }
        if !patience.goes_on(reclaimed != 0 || before != (sent, received)) {
            rig.fail(format_args!("nothing happens: {rx:#?}\n{tx:#?}"));
        }
    }
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

#[test]
fn the_net_driver_takes_all_that_is_offered() {
    let expected = [
        Feature::VERSION_1,
        Feature::RING_PACKED,
        Feature::IN_ORDER,
        Feature::EVENT_IDX,
        Feature::INDIRECT_DESC,
        net::F::MAC,
        net::F::STATUS,
        net::F::MTU,
    ];
    run(Features::EMPTY, Features::of(&expected));
}

#[test]
fn the_net_driver_refuses_what_it_is_told_to() {
    let refused = [
        Feature::RING_PACKED,
        Feature::IN_ORDER,
        Feature::EVENT_IDX,
        Feature::INDIRECT_DESC,
    ];
    run(Features::of(&refused), Feature::VERSION_1 | net::F::MTU);
}
