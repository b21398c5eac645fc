//! Where the header and reply cells of a queue's slots are, for every size that takes another form.

#[path = "support/queue.rs"]
mod rig;
mod support;

use vring::testing::{Fake, Kind};

use rig::{R, Rig, config, few};
use support::{Q, Ring, every_ring};

/// Bytes of a cache line.
const LINE: u64 = 64;

/// Nothing, one, and around what cells are aligned to and around a line.
const SIZES: [u16; 7] = [0, 1, 15, 16, 17, 64, 65];

/// First byte, bytes, slot.
type Cell = (u64, u64, usize);

#[test]
fn cells_are_apart_and_slots_with_a_reply_share_no_line() {
    every_ring!(apart);
}

fn apart<K: Kind>(platform: &Fake<K>, ring: Ring) {
    for header in few(&SIZES, 3) {
        for reply in few(&SIZES, 3) {
            let config = config(32, 65_530).cells(header, reply);
            let mut rig = Rig::new(platform, ring.features, &config);
            let cells = cells(&mut rig, header, reply);
            for (k, &(at, len, slot)) in cells.iter().enumerate() {
                assert_eq!(
                    at % 16,
                    0,
                    "{header} and {reply}: aligned for any structure"
                );
                for &(other, other_len, other_slot) in &cells[k + 1..] {
                    let apart = at + len <= other || other + other_len <= at;
                    assert!(apart, "{header} and {reply}: two cells overlap");
                    let lines = |at: u64, len: u64| at / LINE..=(at + len - 1) / LINE;
                    let (one, two) = (lines(at, len), lines(other, other_len));
                    let shared = one.start() <= two.end() && two.start() <= one.end();
                    assert!(
                        !shared || reply == 0 || slot == other_slot,
                        "{header} and {reply}: slots share a line that the device writes"
                    );
                }
            }
            rig.finish(0);
        }
    }
}

/// Fills the queue, has the device answer, and says where the cells were.
fn cells<K: Kind>(rig: &mut Rig<K>, header: u16, reply: u16) -> Vec<Cell> {
    let mut submitted = 0u8;
    loop {
        let buf = rig.maker.chunks(&[(R, 3)]);
        let bytes = vec![submitted; header.into()];
        match rig.queue.submit_with(&bytes[..], buf) {
            Ok(_) => submitted += 1,
            Err(_) => break,
        }
    }
    assert!(submitted >= 8);
    rig.queue.kick();
    let (mut cells, mut slot) = (Vec::new(), 0);
    rig.device.serve(Q, |queue, chain| {
        let bytes = queue.read(chain);
        assert_eq!(bytes[..header.into()], vec![slot as u8; header.into()]);
        let segments = chain.segments();
        let ends = [(header, segments.first()), (reply, segments.last())];
        for (len, segment) in ends {
            if let (1.., Some(segment)) = (len, segment) {
                cells.push((segment.addr.0, len.into(), slot));
            }
        }
        slot += 1;
        queue.write(chain, &vec![slot as u8; reply.into()])
    });
    let drained = rig.queue.drain(|done| {
        let first = (reply != 0).then(|| done.reply::<u8>().unwrap());
        assert_eq!(first, (reply != 0).then_some(done.buf().number as u8));
    });
    assert_eq!((drained, slot), (Ok(submitted.into()), submitted.into()));
    cells
}
