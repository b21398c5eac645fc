//! The crate against DPDK's vhost library: split rings, packed rings, `IN_ORDER`, and every
//! combination with `EVENT_IDX` and `INDIRECT_DESC`.
//!
//! `dpdk-testpmd` sends each frame back with its addresses exchanged. Each is checked to the last
//! byte, in order, once; more than 65,536 of them pass each ring, in windows of one to all, as
//! chains of one segment and of several, polled and by interrupt. Then the device is reset with
//! frames under way, every buffer is counted, and it all works again.
#![deny(unsafe_code)]

mod driver;
mod flood;
mod gone;
mod loopback;
mod rig;

use loopback::{Buffers, Cell};

macro_rules! cells {
    ($($(#[$doc:meta])* $name:ident: $ring:ident $size:literal $($option:ident)*;)*) => {$(
        $(#[$doc])*
        #[test]
        fn $name() {
            loopback::run(Cell {
                $($option: true,)*
                ..Cell::$ring($size)
            });
        }
    )*};
}

cells! {
    split_256: split 256;
    split_64_indirect: split 64 indirect;
    split_256_event_idx: split 256 event_idx;
    split_64_event_idx_indirect: split 64 event_idx indirect;
    split_64_in_order: split 64 in_order;
    split_256_in_order_indirect: split 256 in_order indirect;
    split_64_in_order_event_idx: split 64 in_order event_idx;
    split_256_in_order_event_idx_indirect: split 256 in_order event_idx indirect;
    /// Chains fill the ring, or do not fit.
    split_4_event_idx: split 4 event_idx;
    /// A ring that is no power of two, and smaller than a batch of the device.
    packed_7_event_idx: packed 7 event_idx;
    packed_7_in_order: packed 7 in_order;
    packed_200: packed 200;
    packed_64_indirect: packed 64 indirect;
    packed_256_event_idx: packed 256 event_idx;
    packed_52_event_idx_indirect: packed 52 event_idx indirect;
    packed_200_in_order: packed 200 in_order;
    packed_64_in_order_indirect: packed 64 in_order indirect;
    packed_52_in_order_event_idx: packed 52 in_order event_idx;
    packed_256_in_order_event_idx_indirect: packed 256 in_order event_idx indirect;
}

#[test]
fn split_256_event_idx_indirect_bounced() {
    loopback::run(Cell {
        event_idx: true,
        indirect: true,
        buffers: Buffers::Bounced,
        ..Cell::split(256)
    });
}

#[test]
fn packed_200_in_order_bounced() {
    loopback::run(Cell {
        in_order: true,
        buffers: Buffers::Bounced,
        ..Cell::packed(200)
    });
}
