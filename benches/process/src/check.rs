//! Shows that a driver is right before it is timed: nobody wins by laying out nonsense.
//!
//! The device of the check walks the same chains as the one that is timed, and notes every
//! descriptor. Each chain must have the lengths and directions of an item, its data must be where
//! an item of the pool has it, and header and data must bear that item's number. All items come
//! back. This goes round the ring several times, with bursts of many sizes.

use anyhow::{Result, ensure};

use crate::device::{Device, Watch};
use crate::driver::{Driver, Owned, Site};
use crate::item::Piece;
use crate::roster::Visit;

/// A descriptor that the device saw, and the number at its start when it is long enough.
#[derive(Clone, Copy, Debug)]
struct Seen {
    addr: u64,
    piece: Piece,
    number: Option<u32>,
}

/// The chains that the device saw.
#[derive(Debug, Default)]
struct Log {
    chains: Vec<Vec<Seen>>,
    chain: Vec<Seen>,
}

impl Watch for Log {
    fn piece(&mut self, addr: u64, len: u32, writable: bool) {
        let number = (len >= 4).then(|| {
            let ptr = std::ptr::with_exposed_provenance::<[u8; 4]>(addr as usize);
            // SAFETY: the driver has lent so many initialized bytes, and they do not change.
            u32::from_le_bytes(unsafe { ptr.read_unaligned() })
        });
        let piece = Piece { len, writable };
        self.chain.push(Seen {
            addr,
            piece,
            number,
        });
    }

    fn end(&mut self) {
        self.chains.push(std::mem::take(&mut self.chain));
    }
}

/// Bursts whose sizes share no factor with the ring's: chains begin everywhere in it.
const SIZES: [usize; 6] = [1, 3, 7, 31, 32, 85];
/// How often they are gone through.
const LAPS: usize = 12;

/// The check, as a visit. The pool needs as many items as the largest burst.
#[derive(Clone, Copy, Debug)]
pub struct Check;

/// Items that a pool needs for the [`Check`].
pub const CHECK_ITEMS: usize = 85;

impl Site for Check {}

impl Visit for Check {
    type Site = Self;
    type Out = Result<()>;

    fn visit<D: Driver>(self, mut driver: D, mut device: Device) -> Result<()> {
        for round in 0..LAPS * SIZES.len() {
            let size = SIZES[round % SIZES.len()];
            one(&mut driver, &mut device, size, round % 2 == 0)?;
        }
        Ok(())
    }
}

/// One burst of `size` chains.
fn one<D: Driver>(driver: &mut D, device: &mut Device, size: usize, kick: bool) -> Result<()> {
    let before = sorted(driver.owned());
    driver.submit(size);
    if kick {
        driver.kick();
    } else {
        driver.publish();
    }
    let left = sorted(driver.owned());
    ensure!(
        left.len() + size == before.len(),
        "{size} items were handed in"
    );
    let lent: Vec<Owned> = before
        .iter()
        .filter(|item| left.binary_search(item).is_err())
        .copied()
        .collect();

    let mut log = Log::default();
    while device.run_watched(&mut log) != 0 {}
    ensure!(
        log.chains.len() == size,
        "{size} chains were handed in, and the device saw {}",
        log.chains.len()
    );
    let mut seen = Vec::new();
    for chain in &log.chains {
        seen.push(item_of(chain, driver.pieces(), driver.data_piece())?);
    }
    ensure!(
        sorted(seen) == lent,
        "the device saw the items that were handed in"
    );

    let mut reaped = 0;
    // In batches of used elements a look may end at each of them.
    for _ in 0..size {
        reaped += driver.reap();
    }
    ensure!(
        reaped == size,
        "{size} items were handed in, and {reaped} came back"
    );
    ensure!(driver.reap() == 0, "nothing else comes back");
    ensure!(
        sorted(driver.owned()) == before,
        "the items that came back are those handed in"
    );
    Ok(())
}

/// The item that a chain is.
fn item_of(chain: &[Seen], pieces: &[Piece], data: usize) -> Result<Owned> {
    let shape: Vec<Piece> = chain.iter().map(|seen| seen.piece).collect();
    ensure!(
        shape == pieces,
        "a chain is {shape:?}, and should be {pieces:?}"
    );
    let numbers: Vec<u32> = chain
        .iter()
        .zip(pieces)
        .filter(|(_, piece)| piece.len >= 4)
        .filter_map(|(seen, _)| seen.number)
        .collect();
    let number = numbers.first().copied().unwrap_or(0);
    ensure!(
        numbers.iter().all(|n| *n == number),
        "the pieces of a chain are of items {numbers:?}"
    );
    Ok(Owned {
        number,
        data: chain[data].addr,
    })
}

fn sorted(mut items: Vec<Owned>) -> Vec<Owned> {
    items.sort();
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roster::{Chain, Contender};

    #[test]
    fn every_contender_lays_out_its_items_and_gets_them_back() {
        for chain in Chain::ALL {
            for contender in Contender::all(chain) {
                if contender.cannot(chain).is_some() {
                    continue;
                }
                for event_idx in [false, true] {
                    contender
                        .meet(chain, event_idx, CHECK_ITEMS, Check)
                        .unwrap_or_else(|why| panic!("{contender}, {chain}: {why}"));
                }
            }
        }
    }

    #[test]
    fn the_driver_that_leaves_next_set_is_found() {
        let driver = crate::driver::Libblkio::<crate::item::Block>::new(true, false, CHECK_ITEMS);
        let rules = crate::device::Rules {
            packed: true,
            ..Default::default()
        };
        // SAFETY: it is the driver's own ring; what is wrong with its chains is that they go on
        // into the next descriptors of it.
        let device = unsafe { Device::new(&driver.areas(), rules) };
        let why = Check.visit(driver, device).unwrap_err().to_string();
        assert!(why.contains("a chain is"), "{why}");
    }

    #[test]
    fn a_chain_of_another_shape_or_of_two_items_is_found() {
        let seen = |len, number| Seen {
            addr: 7,
            piece: Piece {
                len,
                writable: false,
            },
            number: Some(number),
        };
        let pieces: Vec<Piece> = [12, 64].map(|len| seen(len, 0).piece).to_vec();
        let good = item_of(&[seen(12, 5), seen(64, 5)], &pieces, 1).unwrap();
        assert_eq!((good.number, good.data), (5, 7));
        assert!(item_of(&[seen(12, 5), seen(64, 6)], &pieces, 1).is_err());
        assert!(item_of(&[seen(12, 5)], &pieces, 1).is_err());
        assert!(item_of(&[seen(12, 5), seen(60, 5)], &pieces, 1).is_err());
    }
}
