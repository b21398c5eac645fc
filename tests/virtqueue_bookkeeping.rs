//! Indices, free list, chains, lengths, the kick decision: what tests of bug classes 1 to 14 share.

#[path = "virtqueue_bookkeeping/bursts.rs"]
mod bursts;
#[path = "virtqueue_bookkeeping/interrupts.rs"]
mod interrupts;
#[path = "virtqueue_bookkeeping/kicks.rs"]
mod kicks;
#[path = "virtqueue_bookkeeping/panics.rs"]
mod panics;
#[path = "virtqueue_bookkeeping/refusals.rs"]
mod refusals;
#[path = "support/queue.rs"]
mod rig;
#[path = "virtqueue_bookkeeping/sizes.rs"]
mod sizes;
#[path = "virtqueue_bookkeeping/slots.rs"]
mod slots;
mod support;

use vring::testing::InPlace;

use support::{Naming, Ring};

/// Runs on each ring that has event indices.
fn on_every_ring_with_events(f: impl Fn(&InPlace, Ring)) {
    on_every_ring_in_place(|platform, ring| {
        if ring.has_events() {
            f(platform, ring);
        }
    });
}

/// Runs on each ring, on the platform that maps nothing.
fn on_every_ring_in_place(f: impl Fn(&InPlace, Ring)) {
    for ring in Ring::ALL {
        let _naming = Naming(ring);
        f(&InPlace::new(), ring);
    }
}
