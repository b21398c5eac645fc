//! Who owns what until when: what tests of bug classes 48 to 58 share.

#[path = "virtqueue_lifetime/cells.rs"]
mod cells;
#[path = "virtqueue_lifetime/drops.rs"]
mod drops;
#[path = "virtqueue_lifetime/lent.rs"]
mod lent;
#[path = "virtqueue_lifetime/maps.rs"]
mod maps;
#[path = "virtqueue_lifetime/panics.rs"]
mod panics;
#[path = "virtqueue_lifetime/pieces.rs"]
mod pieces;
#[path = "virtqueue_lifetime/proofs.rs"]
mod proofs;
#[path = "support/queue.rs"]
mod rig;
mod support;

use vring::init::{self, Negotiated};
use vring::platform::Platform;
use vring::testing::{FakeDevice, FakeTransport};

fn negotiated<P: Platform + std::fmt::Debug>(
    platform: &P,
    device: &FakeDevice,
) -> Negotiated<P, FakeTransport> {
    let reset = init::reset(device.transport(), platform).unwrap();
    reset.negotiate(&Default::default()).unwrap()
}
