//! Memory that cannot be had, at every place where it is asked for: nothing leaks, nothing is
//! lost, and the next try works.

mod support;

use vring::buffer::{Readable, Writable};
use vring::features::Wish;
use vring::init::{self, QueueConfig, QueueError};
use vring::platform::{Access, DmaError, Platform};
use vring::testing::{Bouncing, Discontiguous, FakeDevice, InPlace};
use vring::transport::{DeviceId, QueueIndex};
use vring::virtqueue::Reject;

use support::{FEATURES, Naming, Q, Ring, start, stop};

type Request = [(Readable<Vec<u8>>, Writable<Vec<u8>>); 1];

fn request() -> Request {
    [(Readable(vec![1; 24]), Writable(vec![2; 24]))]
}

/// bug class 51: each map of a chain fails once; what was mapped before it is unmapped.
#[test]
fn bug_class_51_the_nth_map_fails() {
    let platform = Discontiguous::new(8);
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(FEATURES[0]);
    let config = QueueConfig::new(16).cells(4, 4);
    let (live, mut queue) = start(&platform, &device, &config);
    queue.submit(request()).unwrap();
    let pieces = platform.counts().maps;
    assert!(
        pieces >= 6,
        "24 bytes are three pages and 24 more are three"
    );
    queue.kick();
    assert_eq!(device.echo(Q), 1);
    assert_eq!(
        queue.drain(|done| assert_eq!(done.written(), 24)).unwrap(),
        1
    );
    for n in 1..=6 {
        platform.fail_nth_map(n);
        let rejected = queue.submit(request()).unwrap_err();
        assert_eq!(rejected.buf, request());
        assert_eq!(platform.counts().mappings, 0, "map {n}, without cells");

        platform.fail_nth_map(n);
        let rejected = queue.submit_with(&[9_u8; 4], request()).unwrap_err();
        assert!(
            matches!(rejected.why, Reject::Map(DmaError::OutOfMemory { .. })),
            "map {n}"
        );
        assert_eq!(rejected.buf, request());
        assert_eq!(
            (platform.counts().mappings, queue.free()),
            (0, 16),
            "map {n}"
        );

        queue.submit_with(&[9_u8; 4], request()).unwrap();
        queue.kick();
        let served = device.serve(Q, |queue, chain| {
            assert_eq!(queue.read(chain)[..4], [9; 4], "the header is there again");
            queue.write(chain, &[5; 28])
        });
        assert_eq!(served, 1, "map {n}");
        let done = queue.next_completion().unwrap().unwrap();
        assert_eq!(
            (done.written(), done.reply::<[u8; 4]>()),
            (28, Some([5; 4]))
        );
        assert_eq!(done.into_buf()[0].1.0, [5; 24]);
    }
    stop(live, queue);
    device.assert_clean();
    platform.assert_no_leaks();
}

/// A chain that is given up ends its own mappings, and none of those that the device has: the place
/// behind its last is another chain's, in a table and in order.
#[test]
fn bug_class_51_a_chain_that_does_not_fit_ends_no_mapping_of_another() {
    for ring in Ring::ALL {
        let _naming = Naming(ring);
        let platform = Discontiguous::new(8);
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(ring.features);
        let config = QueueConfig::new(8).indirect(4);
        let (live, mut queue) = start::<_, Readable<Vec<u8>>>(&platform, &device, &config);
        for round in 0..20 {
            queue.submit(Readable(vec![1; 4])).unwrap();
            queue.submit(Readable(vec![1; 16])).unwrap();
            queue.kick();
            let mappings = platform.counts().mappings;
            // Nine pages, in one segment and in several pieces.
            let rejected = queue.submit(Readable(vec![2; 72])).unwrap_err();
            assert!(
                matches!(
                    rejected.why,
                    Reject::Full { .. } | Reject::TooManySegments { .. }
                ),
                "round {round}: {rejected:?}"
            );
            assert_eq!(platform.counts().mappings, mappings, "round {round}");
            assert_eq!(device.echo(Q), 2);
            assert_eq!(queue.drain(|_| ()).unwrap(), 2);
            assert_eq!((queue.free(), platform.counts().mappings), (8, 0));
        }
        stop(live, queue);
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

/// As above, where the chain was meant for a table.
#[test]
fn bug_class_51_a_chain_that_does_not_fit_its_table_ends_no_mapping_of_another() {
    for ring in Ring::ALL.into_iter().filter(|ring| ring.is_indirect()) {
        let _naming = Naming(ring);
        let platform = Discontiguous::new(8);
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(ring.features);
        let config = QueueConfig::new(8).indirect(4);
        let (live, mut queue) = start::<_, [Readable<Vec<u8>>; 3]>(&platform, &device, &config);
        let three = |len| [0; 3].map(|_| Readable(vec![1; len]));
        // Slots are given out from 0 on, so that the one behind the second's is in use.
        let first = [three(1), three(1), three(1)].map(|buf| queue.submit(buf).unwrap().slot());
        assert_eq!(first, [0, 1, 2]);
        queue.kick();
        device.with_queue(Q, |queue| {
            let _oldest = queue.pop();
            let second = queue.pop().unwrap();
            queue.complete(second, 0);
        });
        assert_eq!(queue.drain(|_| ()).unwrap(), 1);
        let mappings = platform.counts().mappings;
        assert_eq!(mappings, 6);
        // Three segments of three pages: more than the table has, and than the ring.
        let rejected = queue.submit(three(24)).unwrap_err();
        assert!(matches!(rejected.why, Reject::Full { .. }), "{rejected:?}");
        assert_eq!(platform.counts().mappings, mappings);
        assert_eq!(stop(live, queue).len(), 2);
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

#[test]
fn bounce_space_that_is_used_up_comes_back_with_the_completions() {
    let platform = Bouncing::with_space(100);
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(FEATURES[0]);
    let (live, mut queue) = start(&platform, &device, &QueueConfig::new(16));
    queue.submit(request()).unwrap();
    queue.submit(request()).unwrap();
    let rejected = queue.submit(request()).unwrap_err();
    assert!(matches!(
        rejected.why,
        Reject::Map(DmaError::OutOfMemory { size: 24, .. })
    ));
    queue.kick();
    assert_eq!(device.echo(Q), 2);
    assert_eq!(queue.drain(|_| ()).unwrap(), 2);
    queue.submit(rejected.buf).unwrap();
    assert_eq!(stop(live, queue), [request()]);
    platform.assert_no_leaks();
}

/// bug class 54: initialization fails at each allocation of each queue.
#[test]
fn bug_class_54_the_nth_allocation_fails() {
    for n in 1..=4 {
        let platform = InPlace::new();
        let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK)
            .offer(FEATURES[0])
            .queues(&[8, 8]);
        let reset = init::reset(device.transport(), &platform).unwrap();
        let mut negotiated = reset.negotiate(&Wish::default()).unwrap();
        platform.fail_nth_alloc(n);
        let config = QueueConfig::new(8).cells(4, 4);
        let made = [0, 1].map(|i| negotiated.queue::<Request>(QueueIndex(i), &config));
        let failed = |result: &Result<_, QueueError>| matches!(result, Err(QueueError::Memory(_)));
        assert_eq!(
            made.iter().map(failed).collect::<Vec<_>>(),
            [n <= 2, n > 2],
            "allocation {n}"
        );
        let (transport, proof) = negotiated.abort();
        let proof = proof.unwrap();
        for pending in made.into_iter().flatten() {
            drop(pending.close(&proof).unwrap());
        }
        platform.assert_no_leaks();

        // The next try works.
        drop(transport);
        let (live, mut queue) = start(&platform, &device, &config);
        queue.submit(request()).unwrap();
        assert_eq!(stop(live, queue).len(), 1);
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

#[cfg(not(miri))] // which takes every leak for a mistake
#[test]
fn a_queue_that_is_dropped_while_the_device_runs_is_leaked_and_counted() {
    let platform = Bouncing::new();
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(FEATURES[0]);
    let (live, mut queue) = start(&platform, &device, &QueueConfig::new(8));
    queue.submit(request()).unwrap();
    queue.kick();
    drop(queue);
    let counts = platform.counts();
    assert_eq!(
        (counts.leaked_buffers, counts.mappings, counts.regions),
        (1, 2, 1)
    );
    assert_eq!(counts.leaked_bytes, counts.region_bytes);
    assert_eq!(
        device.echo(Q),
        1,
        "the device still has all that it was given"
    );
    let _ = live.reset().unwrap();
}

#[test]
fn translated_addresses_need_a_device_that_takes_part() {
    let platform = Bouncing::new();
    platform.set_access(Access::Translated);
    assert_eq!(platform.access(), Access::Translated);
    let device = FakeDevice::new(platform.bus(), DeviceId::NETWORK).offer(FEATURES[0]);
    let reset = init::reset(device.transport(), &platform).unwrap();
    let error = reset.negotiate(&Wish::default()).unwrap_err();
    assert!(
        error.to_string().contains("VIRTIO_F_ACCESS_PLATFORM"),
        "{error}"
    );
    device.assert_clean();
    platform.assert_no_leaks();
}
