//! Ethernet frames that say what must be in them: a number, and a pattern that follows from it.

use std::sync::LazyLock;

/// Bytes of the shortest frame.
pub const SHORTEST: usize = 60;
/// Bytes of the longest frame.
pub const LONGEST: usize = 1514;

/// A destination, a source, and a type for experiments.
const HEADER: [u8; 14] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
/// Bytes in front of the pattern: the header, a number, a length.
const PREFIX: usize = 14 + 8 + 2;

/// Numbers without a pattern of their own.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The same numbers for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// The next number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        mixed as usize % end.max(1)
    }
}

/// A frame's pattern is a window of these bytes, at a place that its number says.
static PATTERN: LazyLock<[u8; 8192]> = LazyLock::new(|| {
    let mut random = Random::new(0x5eed);
    std::array::from_fn(|_| random.below(256) as u8)
});

fn pattern(number: u64, len: usize) -> &'static [u8] {
    let at = (number.wrapping_mul(31) % 4096) as usize;
    &PATTERN[at..at + len]
}

/// Length of the frame of a number.
#[must_use]
pub fn len(number: u64) -> usize {
    Random::new(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).below(LONGEST + 1 - SHORTEST) + SHORTEST
}

/// The frame of a number.
#[must_use]
pub fn make(number: u64) -> Vec<u8> {
    let len = len(number);
    let mut frame = Vec::with_capacity(len);
    frame.extend_from_slice(&HEADER);
    frame.extend_from_slice(&number.to_le_bytes());
    frame.extend_from_slice(&(len as u16).to_le_bytes());
    frame.extend_from_slice(pattern(number, len - PREFIX));
    frame
}

/// Whether a frame is that of a number, come back with its addresses exchanged.
///
/// # Errors
/// What is wrong with it.
pub fn check_swapped(frame: &[u8], number: u64) -> Result<(), String> {
    let mut expected = make(number);
    let (destination, source) = expected[..12].split_at_mut(6);
    destination.swap_with_slice(source);
    if frame == expected {
        return Ok(());
    }
    let Some(found) = frame.get(14..22) else {
        return Err(format!("frame {number} has {} bytes", frame.len()));
    };
    let found = found.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
    if found != number {
        return Err(format!("frame {number} was next, and frame {found} came"));
    }
    let same = frame.iter().zip(&expected).take_while(|(a, b)| a == b);
    Err(format!(
        "frame {number} of {} bytes came with {}, wrong from byte {} on",
        expected.len(),
        frame.len(),
        same.count()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_that_is_wrong_anywhere_is_told() {
        for number in [0, 1, 77_777] {
            let mut frame = make(number);
            assert_eq!(frame.len(), len(number));
            assert!(check_swapped(&frame, number).is_err(), "not exchanged");
            let (destination, source) = frame[..12].split_at_mut(6);
            destination.swap_with_slice(source);
            check_swapped(&frame, number).unwrap();
            assert!(check_swapped(&frame, number + 1).is_err());
            for at in 0..frame.len() {
                frame[at] ^= 1;
                assert!(check_swapped(&frame, number).is_err(), "byte {at}");
                frame[at] ^= 1;
            }
            frame.push(0);
            assert!(check_swapped(&frame, number).is_err());
        }
    }

    #[test]
    fn lengths_cover_the_whole_range() {
        let lens: Vec<usize> = (0..70_000).map(len).collect();
        assert_eq!(lens.iter().min(), Some(&SHORTEST));
        assert_eq!(lens.iter().max(), Some(&LONGEST));
    }
}
