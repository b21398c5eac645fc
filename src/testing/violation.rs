//! What a driver did wrong, and by which statement.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use spin::Mutex;

/// One thing that a driver must not do, and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule: the id of a statement of the specification's driver requirements (`SP-009`),
    /// or of a class of bugs (`bug-12`).
    pub id: &'static str,
    /// What was seen, with the offending values.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.id, self.what)
    }
}

impl core::error::Error for Violation {}

/// How many violations a log keeps.
const MOST: usize = 1000;

/// The violations that a fake device and its queues have seen. Clones are the same log.
///
/// A strict log, the default, panics where the violation happens, so that the backtrace names the
/// driver's line. A lenient one collects until [`assert_clean`](Self::assert_clean) or
/// [`take`](Self::take).
#[derive(Clone, Default)]
pub struct Violations {
    shared: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lenient: AtomicBool,
    seen: Mutex<Vec<Violation>>,
}

impl Violations {
    /// A strict log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Collects from now on, for every holder of this log.
    pub fn set_lenient(&self) {
        self.shared.lenient.store(true, Ordering::Relaxed);
    }

    /// The violations so far; the log is empty afterwards.
    #[must_use]
    pub fn take(&self) -> Vec<Violation> {
        core::mem::take(&mut *self.shared.seen.lock())
    }

    /// Checks that there are none.
    ///
    /// # Panics
    /// With all of them, when there are any.
    pub fn assert_clean(&self) {
        let seen = self.shared.seen.lock().clone();
        assert!(seen.is_empty(), "the driver violated {}", List(&seen));
    }

    /// Writes one down, and panics if the log is strict.
    pub(super) fn report(&self, id: &'static str, what: String) {
        let violation = Violation { id, what };
        let mut seen = self.shared.seen.lock();
        // Against a hostile device a lenient log would grow for ever.
        if seen.len() < MOST {
            seen.push(violation.clone());
        }
        drop(seen);
        assert!(
            self.shared.lenient.load(Ordering::Relaxed),
            "the driver violated {violation}"
        );
    }
}

impl fmt::Debug for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.shared.seen.lock().iter())
            .finish()
    }
}

struct List<'a>(&'a [Violation]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for violation in self.0 {
            write!(f, "\n  {violation}")?;
        }
        Ok(())
    }
}
