//! Buffers in several pages, at odd addresses and of odd lengths: bug classes 57 and 58.

use vring::buffer::{Readable, Window, Writable};
use vring::testing::{Discontiguous, Fake, Kind};
use vring::virtqueue::Reject;

use crate::rig::{config, device, scaled};
use crate::support::{FEATURES, Q, Ring, every_ring, start, stop};

/// A block whose first byte is at a page's boundary, less `before`, and `len` bytes of it.
fn at_page(page: usize, before: usize, len: usize) -> Window<Box<[u8]>> {
    let block = vec![0_u8; len + 2 * page].into_boxed_slice();
    let start = block.as_ptr().addr().next_multiple_of(page) + page - before;
    let start = start - block.as_ptr().addr();
    Window::new(block, start, len)
}

/// Defends: SP-003.
#[test]
fn bug_class_57_a_buffer_that_crosses_pages_takes_a_descriptor_for_each() {
    let page = 16;
    for (before, len, pieces) in [
        (0, 16, 1),
        (0, 17, 2),
        (1, 1, 1),
        (1, 2, 2),
        (1, 17, 2),
        (1, 18, 3),
        (15, 16, 2),
        (0, 64, 4),
        (8, 64, 5),
    ] {
        for size in [4_u16, 8] {
            let platform = Discontiguous::new(page);
            let config = config(size, 65_535);
            let device = device(&platform, FEATURES[0], &config);
            let (live, mut queue) = start(&platform, &device, &config);
            let submitted = queue.submit(Writable(at_page(page, before, len)));
            if pieces > usize::from(size) {
                // One short: all that was mapped is unmapped.
                let rejected = submitted.unwrap_err();
                let needed = usize::from(size) + 1;
                assert_eq!(rejected.why, Reject::TooManySegments { needed, most: size });
                assert_eq!(platform.counts().mappings, 0);
                assert_eq!(queue.free(), size);
                assert_eq!(stop(live, queue).len(), 0);
                continue;
            }
            submitted.unwrap();
            assert_eq!(usize::from(queue.free()), usize::from(size) - pieces);
            queue.kick();
            let bytes: Vec<u8> = (1..=len as u8).collect();
            device.serve(Q, |queue, chain| {
                assert_eq!(chain.segments().len(), pieces);
                queue.write(chain, &bytes)
            });
            let done = queue.next_completion().unwrap().unwrap();
            assert_eq!(done.written() as usize, len);
            assert_eq!(done.into_buf().0.as_slice(), bytes);
            assert_eq!(platform.counts().mappings, 0);
            assert_eq!(stop(live, queue).len(), 0);
            platform.assert_no_leaks();
        }
    }
}

#[test]
fn bug_class_57_a_buffer_in_pieces_waits_for_room() {
    let platform = Discontiguous::new(16);
    let config = config(8, 0);
    let device = device(&platform, FEATURES[0], &config);
    let (live, mut queue) = start(&platform, &device, &config);
    queue.submit(Readable(at_page(16, 0, 80))).unwrap();
    assert_eq!(queue.free(), 3);
    let rejected = queue.submit(Readable(at_page(16, 1, 34))).unwrap_err();
    assert_eq!(rejected.why, Reject::Full { needed: 4, free: 3 });
    assert_eq!(platform.counts().mappings, 5);
    queue.submit(Readable(at_page(16, 0, 48))).unwrap();
    assert_eq!(queue.free(), 0);
    queue.kick();
    device.echo(Q);
    assert_eq!(queue.drain(|_| ()).unwrap(), 2);
    queue.submit(rejected.buf).unwrap();
    assert_eq!(stop(live, queue).len(), 1);
    platform.assert_no_leaks();
}

#[test]
fn bug_class_57_cells_and_pieces_share_a_chain() {
    // A header, three pieces, a reply: five descriptors, and one short of it.
    for size in [4_u16, 8] {
        let platform = Discontiguous::new(16);
        let config = config(size, 0).cells(2, 1);
        let device = device(&platform, FEATURES[0], &config);
        let (live, mut queue) = start(&platform, &device, &config);
        let submitted = queue.submit_with(&[1_u8; 2], Writable(at_page(16, 1, 18)));
        if size == 4 {
            let rejected = submitted.unwrap_err();
            assert_eq!(
                rejected.why,
                Reject::TooManySegments {
                    needed: 5,
                    most: size
                }
            );
            assert_eq!((platform.counts().mappings, queue.free()), (0, 4));
            let buf = rejected.buf;
            queue.submit(buf).unwrap();
            assert_eq!(stop(live, queue).len(), 1);
        } else {
            submitted.unwrap();
            assert_eq!(queue.free(), 3);
            queue.kick();
            let bytes: Vec<u8> = (1..=19).collect();
            device.serve(Q, |queue, chain| {
                assert_eq!(queue.read(chain), [1, 1]);
                queue.write(chain, &bytes)
            });
            let done = queue.next_completion().unwrap().unwrap();
            assert_eq!(done.reply::<u8>(), Some(19));
            assert_eq!(done.into_buf().0.as_slice(), &bytes[..18]);
            assert_eq!(stop(live, queue).len(), 0);
        }
        platform.assert_no_leaks();
    }
}

#[test]
fn bug_class_58_odd_addresses_and_lengths_are_no_trouble() {
    every_ring!(odd_addresses);
}

fn odd_addresses<K: Kind>(platform: &Fake<K>, ring: Ring) {
    let config = config(8, 65_533);
    let device = device(platform, ring.features, &config);
    let (live, mut queue) = start(platform, &device, &config);
    for offset in (0..8).step_by(scaled(1, 3)) {
        for len in (1..8).step_by(scaled(1, 3)) {
            let block = |byte: u8| Window::new(vec![byte; 16], offset, len);
            queue
                .submit((Readable(block(3)), Writable(block(4))))
                .unwrap();
            queue.kick();
            device.echo(Q);
            let (read, written) = queue.next_completion().unwrap().unwrap().into_buf();
            assert_eq!(read.0.as_slice(), written.0.as_slice());
            let whole = written.0.into_memory();
            assert_eq!(whole.iter().filter(|&&b| b == 4).count(), 16 - len);
        }
    }
    assert_eq!(stop(live, queue).len(), 0);
    platform.assert_no_leaks();
}
