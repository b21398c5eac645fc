//! Samples between two cores that can be believed, and lines that say them.
//!
//! A machine may move the two cores about: a cache line that goes there and back takes 60 ns when
//! they sit in one complex, and five times that when they do not, and so does everything that two
//! cores do together. A neighbor may take the time of one of them. So a sample counts only
//!
//! - when a [ping-pong](placement) right before and right after it says the same: both *near* or
//!   both *far*, and nothing in between;
//! - when the threads that it is about [had their cores](share) for themselves, and the hypervisor
//!   stole nothing.
//!
//! What does not count is said too, with the reason. Lines of JSON on standard output carry all of
//! it: see [`report`].
#![deny(unsafe_code)]

pub mod placement;
pub mod report;
pub mod run;
pub mod share;

use placement::{Class, Placement};
use share::Ended;

/// Why a sample was thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Near before it and far after it, or the other way round.
    PlacementChanged,
    /// The ping-pong said something that neither cores near each other nor far apart do.
    BetweenClasses,
    /// Somebody else had a part of the time.
    NotAlone,
}

impl Rejection {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PlacementChanged => "placement changed",
            Self::BetweenClasses => "between classes",
            Self::NotAlone => "not alone",
        }
    }
}

/// What came of a sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// It counts, among those of its class.
    Kept(Class, f64),
    /// It does not count, whatever it was.
    Rejected(Rejection, f64),
}

/// Judges a sample by what was seen around it.
#[must_use]
pub fn judge(before: Option<f64>, after: Option<f64>, alone: bool, value: f64) -> Outcome {
    let (Some(before), Some(after)) = (before, after) else {
        // The other core did not answer in time.
        return Outcome::Rejected(Rejection::NotAlone, value);
    };
    match (Class::of(before), Class::of(after)) {
        (Some(class), Some(same)) if class == same => {
            if alone && value.is_finite() {
                Outcome::Kept(class, value)
            } else {
                Outcome::Rejected(Rejection::NotAlone, value)
            }
        }
        (Some(_), Some(_)) => Outcome::Rejected(Rejection::PlacementChanged, value),
        _ => Outcome::Rejected(Rejection::BetweenClasses, value),
    }
}

/// Takes one sample: `measure` gives the value, and what was seen of the threads in the meantime.
///
/// # Errors
/// What `measure` says.
pub fn sample<E>(
    placement: &Placement,
    measure: impl FnOnce() -> Result<(f64, Ended), E>,
) -> Result<Outcome, E> {
    let before = placement.round_trip();
    let (value, ended) = measure()?;
    let after = placement.round_trip();
    Ok(judge(before, after, ended.alone, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_quiet_sample_of_one_placement_counts() {
        let near = Some(60.0);
        let far = Some(350.0);
        let rejected = |why| Outcome::Rejected(why, 7.0);
        assert_eq!(
            judge(near, near, true, 7.0),
            Outcome::Kept(Class::Near, 7.0)
        );
        assert_eq!(judge(far, far, true, 7.0), Outcome::Kept(Class::Far, 7.0));
        let changed = rejected(Rejection::PlacementChanged);
        assert_eq!(judge(near, far, true, 7.0), changed);
        assert_eq!(judge(far, near, true, 7.0), changed);
        let between = rejected(Rejection::BetweenClasses);
        assert_eq!(judge(Some(180.0), near, true, 7.0), between);
        assert_eq!(judge(near, Some(110.0), true, 7.0), between);
        let busy = rejected(Rejection::NotAlone);
        assert_eq!(judge(near, near, false, 7.0), busy);
        assert_eq!(judge(None, near, true, 7.0), busy);
        let nothing = judge(near, near, true, f64::NAN);
        assert!(matches!(nothing, Outcome::Rejected(Rejection::NotAlone, _)));
    }
}
