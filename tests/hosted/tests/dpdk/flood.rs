//! A device that sends as fast as it can, and is reset while it does.

use vring::buffer::Writable;
use vring::device::net::{Header, RECEIVE_QUEUE, TRANSMIT_QUEUE};
use vring::features::Wish;
use vring::init::{self, QueueConfig};
use vring::virtqueue::Virtqueue;
use vring_hosted::memory::{PoolBuf, Shared};
use vring_hosted::testpmd::Forward;

use crate::loopback::{Cell, untouched};
use crate::rig::{Patience, Rig};

const HEADER: usize = size_of::<Header>();
const BLOCK: usize = 2048;
/// Frames between two resets; all together, more than a ring's indices count.
const FRAMES: usize = 24_000;
/// Resets.
const ROUNDS: usize = 3;
/// Bytes of a frame that `testpmd` makes.
const LEN: usize = 64;

/// What `testpmd` says in every frame: IPv4, from 198.18.0.1 to 198.18.0.2, UDP, port 9 to port 9.
fn check(frame: &[u8]) -> Result<(), String> {
    let is = |at: usize, bytes: &[u8]| frame.get(at..at + bytes.len()) == Some(bytes);
    let ok = frame.len() == LEN
        && is(12, &[0x08, 0x00, 0x45])
        && is(23, &[17])
        && is(26, &[198, 18, 0, 1, 198, 18, 0, 2, 0, 9, 0, 9]);
    if ok {
        Ok(())
    } else {
        Err(format!("a frame of {} bytes: {frame:02x?}", frame.len()))
    }
}

fn run(cell: Cell) {
    let rig = Rig::new(Forward::TransmitOnly);
    let free = rig.region.free_bytes();
    let platform = Shared::new(&rig.region);
    let mut transport = rig.connect();
    let block = |_| PoolBuf::new(&rig.region, BLOCK).expect("a block");
    let blocks = usize::from(cell.size) + 50;
    let mut pool: Vec<PoolBuf> = (0..blocks).map(block).collect();
    for _ in 0..ROUNDS {
        let wish = Wish {
            require: cell.features(),
            ..Wish::default()
        };
        let reset = init::reset(transport, &platform).unwrap_or_else(|e| rig.fail(e));
        let mut negotiated = reset.negotiate(&wish).unwrap_or_else(|e| rig.fail(e));
        let config = QueueConfig::new(cell.size);
        let mut pending = |queue| {
            let pending = negotiated.queue::<Writable<PoolBuf>>(queue, &config);
            pending.unwrap_or_else(|e| rig.fail(e))
        };
        let (rx, tx) = (pending(RECEIVE_QUEUE), pending(TRANSMIT_QUEUE));
        let live = negotiated.finish().unwrap_or_else(|e| rig.fail(e));
        let mut rx: Virtqueue<_, _> = rx.start(&live).expect("it is of this device");
        // It wants both queues before it starts.
        let tx = tx.start(&live).expect("it is of this device");
        let mut patience = Patience::new();
        let mut received = 0;
        while received < FRAMES {
            let at = pool.len().saturating_sub(rx.free().into());
            let mut given = pool.drain(at..).map(Writable);
            let taken = rx.submit_burst(&mut given);
            taken.unwrap_or_else(|e| rig.fail(e));
            drop(given);
            rx.kick();
            let drained = rx.drain(|done| {
                let written = done.written() as usize;
                let Writable(block) = done.into_buf();
                let frame = block.get(HEADER..written).unwrap_or_default();
                check(frame).unwrap_or_else(|why| rig.fail(why));
                pool.push(block);
            });
            let drained = drained.unwrap_or_else(|e| rig.fail(e));
            received += drained;
            if !patience.goes_on(drained != 0) {
                rig.fail(format_args!("after {received} frames: {rx:#?}"));
            }
        }
        let at = pool.len().saturating_sub(rx.free().into());
        let last = rx.submit_burst(&mut pool.drain(at..).map(Writable));
        last.unwrap_or_else(|e| rig.fail(e));
        rx.publish();
        // It writes into these now.
        let (back, proof) = live.reset().unwrap_or_else(|e| rig.fail(e.why));
        transport = back;
        let outstanding = usize::from(rx.outstanding());
        let closed = rx.close(&proof).expect("it is of this device");
        let before = pool.len();
        pool.extend(closed.map(|Writable(block)| block));
        assert_eq!(pool.len() - before, outstanding);
        assert_eq!(pool.len(), blocks, "buffers were lost");
        let closed = tx.close(&proof).expect("it is of this device");
        assert_eq!(closed.count(), 0);
        pool = untouched(pool);
    }
    drop(pool);
    drop(transport);
    assert_eq!(rig.region.free_bytes(), free, "shared memory was lost");
}

#[test]
fn a_split_ring_is_reset_in_a_flood() {
    run(Cell::split(256));
}

#[test]
fn a_packed_ring_is_reset_in_a_flood() {
    run(Cell {
        event_idx: true,
        ..Cell::packed(100)
    });
}

#[test]
fn a_packed_ring_in_order_is_reset_in_a_flood() {
    run(Cell {
        in_order: true,
        ..Cell::packed(256)
    });
}
