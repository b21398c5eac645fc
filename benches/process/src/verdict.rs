//! Which samples count.
//!
//! A hypervisor moves virtual CPUs about: two of them share a part of the cache now, and do not a
//! few seconds later, which changes every figure of two cores two- to eight-fold. A ping-pong over
//! one line of cache right before and right after a sample tells where they are. A sample counts
//! when both say the same, and when nobody else had the CPUs meanwhile.

use std::time::Duration;

/// A round trip below this is that of two near cores.
const NEAR_BELOW: f64 = 110.0;
/// A round trip above this is that of two far cores.
const FAR_ABOVE: f64 = 250.0;
/// Part of its time that a thread must have had a CPU.
const ALONE: f64 = 0.95;

/// Where two cores are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// They share a part of the cache.
    Near,
    /// They do not.
    Far,
}

impl Class {
    /// As reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
        }
    }

    /// The class of a round trip of so many nanoseconds.
    fn of(round_trip: f64) -> Option<Self> {
        if round_trip < NEAR_BELOW {
            Some(Self::Near)
        } else if round_trip > FAR_ABOVE {
            Some(Self::Far)
        } else {
            None
        }
    }
}

/// Why a sample is thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The ping-pongs before and after tell of different places.
    PlacementChanged,
    /// A ping-pong tells of neither near nor far cores.
    BetweenClasses,
    /// Somebody else had a CPU.
    NotAlone,
    /// The device returned nothing for too long.
    TimedOut,
}

impl Rejection {
    /// As reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PlacementChanged => "placement changed",
            Self::BetweenClasses => "between classes",
            Self::NotAlone => "not alone",
            Self::TimedOut => "timed out",
        }
    }
}

/// How long a sample took a thread, and how much of it the thread ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// From start to end.
    pub wall: Duration,
    /// On a CPU.
    pub cpu: Duration,
}

impl Share {
    fn is_alone(self) -> bool {
        self.cpu.as_secs_f64() > ALONE * self.wall.as_secs_f64()
    }
}

/// Whether threads had their CPUs for themselves.
///
/// # Errors
/// [`Rejection::NotAlone`].
pub fn alone(shares: &[Share], stolen_ticks: u64) -> Result<(), Rejection> {
    if stolen_ticks == 0 && shares.iter().all(|share| share.is_alone()) {
        Ok(())
    } else {
        Err(Rejection::NotAlone)
    }
}

/// Where two cores were, by the round trips before and after, in nanoseconds.
///
/// # Errors
/// [`Rejection::BetweenClasses`] and [`Rejection::PlacementChanged`].
pub fn place(before: f64, after: f64) -> Result<Class, Rejection> {
    match (Class::of(before), Class::of(after)) {
        (Some(before), Some(after)) if before == after => Ok(before),
        (Some(_), Some(_)) => Err(Rejection::PlacementChanged),
        _ => Err(Rejection::BetweenClasses),
    }
}

/// The middle one of some figures.
#[must_use]
pub fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_by_two_ping_pongs_that_agree() {
        assert_eq!(place(60.0, 66.0), Ok(Class::Near));
        assert_eq!(place(320.0, 370.0), Ok(Class::Far));
        assert_eq!(place(60.0, 340.0), Err(Rejection::PlacementChanged));
        assert_eq!(place(340.0, 60.0), Err(Rejection::PlacementChanged));
    }

    #[test]
    fn between_near_and_far_is_neither() {
        assert_eq!(place(109.9, 109.9), Ok(Class::Near));
        assert_eq!(place(110.0, 60.0), Err(Rejection::BetweenClasses));
        assert_eq!(place(60.0, 250.0), Err(Rejection::BetweenClasses));
        assert_eq!(place(250.1, 250.1), Ok(Class::Far));
        assert_eq!(place(f64::NAN, 60.0), Err(Rejection::BetweenClasses));
    }

    #[test]
    fn a_thread_that_waited_for_a_cpu_was_not_alone() {
        let share = |cpu| Share {
            wall: Duration::from_millis(100),
            cpu: Duration::from_millis(cpu),
        };
        assert_eq!(alone(&[share(100), share(96)], 0), Ok(()));
        assert_eq!(alone(&[share(100), share(95)], 0), Err(Rejection::NotAlone));
        assert_eq!(alone(&[share(94), share(100)], 0), Err(Rejection::NotAlone));
    }

    #[test]
    fn a_stolen_tick_is_enough() {
        let share = Share {
            wall: Duration::from_millis(20),
            cpu: Duration::from_millis(20),
        };
        assert_eq!(alone(&[share], 1), Err(Rejection::NotAlone));
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 100.0]), Some(3.0));
        assert_eq!(median(Vec::new()), None);
    }
}
