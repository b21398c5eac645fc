//! What a section is made of.
//!
//! A [`Section`] is a list of [`Check`]s with one time limit and one log. A check names what it
//! needs of the machine, and holds the work. What the work returns, an [`Outcome`], counts what it
//! found: one check of a compiler run, many of a run of a test program.

use super::needs::Need;
use super::run::Run;
use crate::qemu::stop::Stop;

use serde::Serialize;

/// How many checks ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Counts {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Counts {
    pub(crate) const PASSED: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };
    pub(crate) const FAILED: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };
    pub(crate) const SKIPPED: Self = Self {
        passed: 0,
        failed: 0,
        skipped: 1,
    };

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Why something was not done, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Skip {
    pub(crate) reason: String,
    pub(crate) fix: String,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) counts: Counts,
    /// What failed, one line each.
    pub(crate) failures: Vec<String>,
    /// Figures that a person wants to see when all is well, too.
    pub(crate) notes: Vec<String>,
    /// Why it could not be judged, though it ran.
    pub(crate) skip: Option<Skip>,
    /// Parts of it were left out for want of something: where its section is required, that is as
    /// bad as if all of it were.
    pub(crate) lacks: bool,
}

impl Outcome {
    pub(crate) fn passed() -> Self {
        Self {
            counts: Counts::PASSED,
            ..Self::default()
        }
    }

    pub(crate) fn failed(why: impl Into<String>) -> Self {
        Self {
            counts: Counts::FAILED,
            failures: vec![why.into()],
            ..Self::default()
        }
    }

    pub(crate) fn skipped(reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            counts: Counts::SKIPPED,
            skip: Some(Skip {
                reason: reason.into(),
                fix: fix.into(),
            }),
            ..Self::default()
        }
    }

    /// Counts one thing that was looked at.
    pub(crate) fn judge(&mut self, ok: bool, failure: impl FnOnce() -> String) {
        if ok {
            self.counts.add(Counts::PASSED);
        } else {
            self.counts.add(Counts::FAILED);
            self.failures.push(failure());
        }
    }
}

/// The work of a check.
pub(crate) type Work = Box<dyn Fn(&mut Run<'_>) -> Result<Outcome, Stop>>;

/// One thing that is looked at, on its own or as a run of many tests.
pub(crate) struct Check {
    pub(crate) name: String,
    /// Part of `--quick`.
    pub(crate) quick: bool,
    /// Skipped where it cannot run, even when its section is required: worth having, not worth
    /// failing on a machine that cannot fetch a second compiler.
    pub(crate) optional: bool,
    pub(crate) needs: Vec<Need>,
    pub(crate) work: Work,
}

impl Check {
    pub(crate) fn new(
        name: impl Into<String>,
        work: impl Fn(&mut Run<'_>) -> Result<Outcome, Stop> + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            quick: false,
            optional: false,
            needs: Vec::new(),
            work: Box::new(work),
        }
    }

    pub(crate) fn quick(self) -> Self {
        Self {
            quick: true,
            ..self
        }
    }

    pub(crate) fn optional(self) -> Self {
        Self {
            optional: true,
            ..self
        }
    }

    pub(crate) fn needs(mut self, need: Need) -> Self {
        self.needs.push(need);
        self
    }
}

/// A part of the run that can be asked for by name.
pub(crate) struct Section {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// For the whole of it, in seconds.
    pub(crate) limit: u64,
    pub(crate) checks: Vec<Check>,
}
