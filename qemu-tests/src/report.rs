//! The verdict: one line for each check, and an event beside each that failed.

use alloc::string::ToString as _;
use core::fmt::Display;

use vring_protocol::{EXIT_FAILED, EXIT_OK, Event};

use crate::kernel::serial;

/// Counts the checks of a run.
pub(crate) struct Report {
    passed: u32,
    failed: u32,
}

/// Sends an event to the harness.
pub(crate) fn event(event: &Event) {
    serial::print(format_args!("{}\n", event.to_line()));
}

impl Report {
    /// Nothing checked yet.
    pub(crate) const fn new() -> Self {
        Self {
            passed: 0,
            failed: 0,
        }
    }

    /// A check that passed.
    pub(crate) fn pass(&mut self, check: &str) {
        self.passed += 1;
        serial::print(format_args!("test {check} ... ok\n"));
    }

    /// A check that failed: what had to be, what was, and where to look.
    pub(crate) fn fail(&mut self, check: &str, expected: &str, seen: &str, hint: &str) {
        self.failed += 1;
        serial::print(format_args!("test {check} ... FAILED\n"));
        event(&Event::Failure {
            check: check.into(),
            expected: expected.into(),
            seen: seen.into(),
            hint: hint.into(),
        });
    }

    /// A check that passes when `ok`.
    pub(crate) fn check(&mut self, check: &str, ok: bool, expected: &str, seen: &str, hint: &str) {
        if ok {
            self.pass(check);
        } else {
            self.fail(check, expected, seen, hint);
        }
    }

    /// A check that something came about, and what did.
    pub(crate) fn step<T, E: Display>(
        &mut self,
        check: &str,
        expected: &str,
        outcome: Result<T, E>,
        hint: &str,
    ) -> Option<T> {
        match outcome {
            Ok(value) => {
                self.pass(check);
                Some(value)
            }
            Err(error) => {
                self.fail(check, expected, &error.to_string(), hint);
                None
            }
        }
    }

    /// Says so, and returns the exit code.
    pub(crate) fn finish(self) -> u8 {
        event(&Event::Done {
            passed: self.passed,
            failed: self.failed,
        });
        if self.failed == 0 && self.passed > 0 {
            EXIT_OK
        } else {
            EXIT_FAILED
        }
    }
}
