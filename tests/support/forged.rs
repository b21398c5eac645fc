//! What registers of a device that lies read as, and everything that a transport can be asked for
//! over such registers.

use proptest::prelude::*;
use vring::DmaAddr;
use vring::features::Features;
use vring::transport::{QueueAreas, QueueIndex, Status, Transport};

/// Numbers that registers have, more often than others.
pub(crate) fn value() -> impl Strategy<Value = u32> {
    prop_oneof![
        3 => Just(0),
        4 => 0u32..16,
        2 => Just(u32::MAX),
        2 => (0u32..=17).prop_map(|log| 1 << log),
        1 => any::<u32>(),
    ]
}

/// Calls every function of a transport, with arguments at the edges. What cannot be had is an error.
/// Returns whether there was an interrupt handle.
pub(crate) fn drive<T: Transport>(mut transport: T, features: u128) -> bool {
    transport.set_status(Status::empty());
    let _ = transport.device_features();
    transport.set_driver_features(Features(features));
    for queue in [0, 1, 0xfffe, 0xffff].map(QueueIndex) {
        let max = transport.max_queue_size(queue);
        for size in [0, 1, 256, max, 0xffff] {
            enable(&mut transport, queue, size);
        }
        let _ = transport.reset_queue(queue);
        let _ = transport.is_queue_reset(queue);
    }
    for id in 0..=255 {
        if let Some(region) = transport.shm_region(id) {
            assert_ne!(region.length, 0);
            assert!(region.address.checked_add(region.length - 1).is_some());
        }
    }
    configure(&mut transport);
    let isr = transport.take_isr();
    assert!(transport.take_isr().is_none(), "it was taken");
    isr.map(|isr| isr.ack()).is_some()
}

/// With a vector and without, at an address that is no page's, one that is, and one beyond 44 bits.
fn enable(transport: &mut impl Transport, queue: QueueIndex, size: u16) {
    for desc in [0x10, 0xffff_f000, u64::MAX].map(DmaAddr) {
        let [driver, device] = [DmaAddr(u64::MAX); 2];
        let areas = QueueAreas {
            desc,
            driver,
            device,
        };
        for vector in [Some(size), None] {
            // SAFETY: there is no device that would use memory.
            let doorbell = unsafe { transport.enable_queue(queue, size, &areas, vector) };
            if let Ok(doorbell) = doorbell {
                doorbell.ring(0);
                doorbell.ring(0xffff);
            }
        }
    }
}

/// Reads and writes configuration: what is inside, and nothing else.
fn configure(transport: &mut impl Transport) {
    let size = transport.config_size();
    for (offset, len) in [
        (0, 1),
        (0, 8),
        (size, 1),
        (size.wrapping_sub(3), 3),
        (usize::MAX, 2),
    ] {
        let inside = offset.checked_add(len).is_some_and(|end| end <= size);
        let mut bytes = vec![0; len];
        assert_eq!(transport.read_config(offset, &mut bytes).is_ok(), inside);
        assert_eq!(transport.write_config(offset, &bytes).is_ok(), inside);
    }
}
