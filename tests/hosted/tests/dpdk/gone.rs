//! A back end that dies.

use vring::buffer::Writable;
use vring::device::net::{RECEIVE_QUEUE, TRANSMIT_QUEUE};
use vring::features::Wish;
use vring::init::{self, InitFailure, QueueConfig};
use vring_hosted::memory::{PoolBuf, Shared};
use vring_hosted::testpmd::Forward;

use crate::rig::{Patience, Rig};

/// Nobody says that it is done with the memory: so nothing of it is given back.
#[test]
fn a_back_end_that_dies_confirms_no_reset() {
    let rig = Rig::new(Forward::TransmitOnly);
    let platform = Shared::new(&rig.region);
    let transport = rig.connect();
    let reset = init::reset(transport, &platform).unwrap_or_else(|e| rig.fail(e));
    let mut negotiated = reset
        .negotiate(&Wish::default())
        .unwrap_or_else(|e| rig.fail(e));
    let mut pending = |queue| {
        let pending = negotiated.queue::<Writable<PoolBuf>>(queue, &QueueConfig::new(64));
        pending.unwrap_or_else(|e| rig.fail(e))
    };
    let (rx, tx) = (pending(RECEIVE_QUEUE), pending(TRANSMIT_QUEUE));
    let live = negotiated.finish().unwrap_or_else(|e| rig.fail(e));
    let mut rx = rx.start(&live).expect("it is of this device");
    let tx = tx.start(&live).expect("it is of this device");
    let block = || PoolBuf::new(&rig.region, 2048).expect("a block");
    let submitted = rx.submit_burst(&mut (0..64).map(|_| Writable(block())));
    assert_eq!(submitted.unwrap_or_else(|e| rig.fail(e)), 64);
    rx.kick();
    let mut patience = Patience::new();
    let mut received = 0;
    while received == 0 {
        received = rx.drain(|done| drop(done)).unwrap_or_else(|e| rig.fail(e));
        if !patience.goes_on(received != 0) {
            rig.fail("it sends nothing");
        }
    }
    assert!(!live.needs_reset());
    rig.testpmd.process().kill();
    assert!(live.needs_reset(), "its socket is closed");

    let refused = live.reset().expect_err("nobody confirms it");
    assert!(matches!(refused.why, InitFailure::ResetNotConfirmed { .. }));
    assert!(refused.live.transport().broken().is_some());
    let again = refused.live.reset().expect_err("nobody ever will");
    assert!(matches!(again.why, InitFailure::ResetNotConfirmed { .. }));
    let outstanding = usize::from(rx.outstanding());
    assert_eq!(outstanding, 64 - received);
    let free = rig.region.free_bytes();
    drop((rx, tx));
    let (bytes, buffers) = rig.region.leaked();
    assert!(bytes > 0);
    assert_eq!(buffers, outstanding);
    assert_eq!(rig.region.free_bytes(), free, "leaked, not freed");
}
