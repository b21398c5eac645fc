//! The middle of a few samples, and how far they lie apart.

use serde::Serialize;

/// Above this part of the median, the middle half of the samples lies too far apart to be trusted.
const NOISY: f64 = 0.2;

/// The middle half of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) p25: f64,
    pub(crate) p75: f64,
}

/// What is left of samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) spread: Spread,
    pub(crate) samples: usize,
}

impl Summary {
    /// `None` of nothing.
    pub(crate) fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Self {
            median: quantile(&sorted, 0.5)?,
            spread: Spread {
                p25: quantile(&sorted, 0.25)?,
                p75: quantile(&sorted, 0.75)?,
            },
            samples: sorted.len(),
        })
    }

    /// Whether the samples lie so far apart that a reader must be told.
    pub(crate) fn is_noisy(&self) -> bool {
        self.spread.p75 - self.spread.p25 > NOISY * self.median
    }
}

/// Between the two samples next to it, in proportion.
fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = part * last as f64;
    let below = at.floor() as usize;
    let (low, high) = (sorted.get(below)?, sorted.get((below + 1).min(last))?);
    Some(low + (high - low) * (at - below as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_an_odd_and_an_even_number() {
        let odd = Summary::of(&[5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!((odd.median, odd.samples), (3.0, 5));
        assert_eq!(odd.spread, Spread { p25: 2.0, p75: 4.0 });
        let even = Summary::of(&[4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!(even.median, 2.5);
        assert_eq!(
            even.spread,
            Spread {
                p25: 1.75,
                p75: 3.25
            }
        );
        let one = Summary::of(&[7.0]).unwrap();
        assert_eq!(
            (one.median, one.spread.p25, one.spread.p75),
            (7.0, 7.0, 7.0)
        );
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn one_wild_sample_is_no_noise_and_a_wide_middle_is() {
        let wild = Summary::of(&[10.0, 10.1, 10.2, 10.3, 99.0]).unwrap();
        assert!(!wild.is_noisy() && wild.median == 10.2);
        assert!(
            Summary::of(&[8.0, 9.0, 10.0, 11.0, 13.0, 14.0])
                .unwrap()
                .is_noisy()
        );
    }
}
