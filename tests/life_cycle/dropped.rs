//! What is dropped or forgotten at any step of an initialization, and after it: bug class 54.

use vring::features::{Feature, Wish};
use vring::init::{self, QueueConfig};
use vring::testing::{Fake, FakeDevice, Kind};
use vring::transport::DeviceId;

use super::Q1;
use crate::rig::{Chunks, Maker, every_platform, reply};
use crate::support::{self, Q, stop};

/// Every value of an initialization, and of what comes after it, dropped or forgotten.
#[test]
fn bug_class_54_nothing_that_is_dropped_or_forgotten_frees_what_a_device_has() {
    every_platform!(dropped_anywhere);
}

fn dropped_anywhere<K: Kind>(platform: &Fake<K>) {
    const STEPS: usize = 8;
    for step in 0..STEPS {
        for forget in [false, true] {
            let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
                .offer(Feature::VERSION_1 | Feature::RING_RESET | Feature::SUSPEND)
                .queues(&[8, 8]);
            let before = platform.counts();
            let maker = &mut Maker::new();
            let left = run_until(step, forget, platform, &device, maker);
            let after = platform.counts();
            assert_eq!(after.regions - before.regions, left, "step {step}");
            // What the device was given is still there: it serves, and nothing traps.
            for queue in [Q, Q1] {
                device.serve(queue, |queue, chain| reply(queue, chain, usize::MAX));
            }
            if !forget {
                let leaked = after.leaked_bytes - before.leaked_bytes;
                assert_eq!(leaked != 0, left != 0, "step {step}: said");
            }
            // And it starts again, from whatever state it was left in.
            let (live, queue) =
                support::start::<_, Chunks>(platform, &device, &QueueConfig::new(4));
            drop(stop(live, queue));
            assert_eq!(platform.counts().regions, after.regions);
            device.assert_clean();
        }
    }
}

fn leave<T>(value: T, forget: bool) {
    if forget {
        std::mem::forget(value);
    } else {
        drop(value);
    }
}

/// Goes through an initialization as far as `step`, and drops or forgets everything. How many rings
/// are the device's then.
fn run_until<K: Kind>(
    step: usize,
    forget: bool,
    platform: &Fake<K>,
    device: &FakeDevice,
    maker: &mut Maker,
) -> usize {
    let reset = init::reset(device.transport(), platform).unwrap();
    if step == 0 {
        leave(reset, forget);
        return 0;
    }
    let mut negotiated = reset.negotiate(&Wish::ring()).unwrap();
    if step == 1 {
        leave(negotiated, forget);
        return 0;
    }
    let config = QueueConfig::new(8);
    let first = negotiated.queue::<Chunks>(Q, &config).unwrap();
    if step == 2 {
        leave(negotiated, forget);
        leave(first, forget);
        return 1;
    }
    let second = negotiated.queue::<Chunks>(Q1, &config).unwrap();
    if step == 3 {
        // In the other order.
        leave(second, forget);
        leave(first, forget);
        leave(negotiated, forget);
        return 2;
    }
    let mut live = negotiated.finish().unwrap();
    if step == 4 {
        leave((live, first, second), forget);
        return 2;
    }
    let mut first = first.start(&live).unwrap();
    first.submit(maker.chain(2)).unwrap();
    first.kick();
    if step == 5 {
        leave((first, live, second), forget);
        return 2;
    }
    let mut second = second.start(&live).unwrap();
    second.submit(maker.chain(2)).unwrap();
    second.kick();
    if step == 6 {
        // One queue was reset on its own: it is free, and the other one is not.
        let (closed, proof) = live.reset_queue(first).unwrap();
        drop(closed);
        leave((live, proof, second), forget);
        return 1;
    }
    leave(live.suspend((first, second)).unwrap(), forget);
    2
}
