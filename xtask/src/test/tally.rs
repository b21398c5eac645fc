//! Counting tests: from what test programs print, not from what is believed to be in them.

use super::run::Printed;
use super::section::{Counts, Outcome};

/// How a command's success is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tally {
    /// The command is one check.
    Command,
    /// It runs tests, and says how many.
    Tests,
}

impl Tally {
    pub(crate) fn outcome(self, printed: &Printed) -> Outcome {
        match self {
            Self::Command if printed.ok() => Outcome::passed(),
            Self::Command => Outcome::failed(match first_error(&printed.text) {
                Some(error) => format!("{}: {error}", printed.ending()),
                None => printed.ending(),
            }),
            Self::Tests => tests(printed.ok(), &printed.ending(), &printed.text),
        }
    }
}

fn tests(ok: bool, ending: &str, text: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for counts in text.lines().filter_map(result_line) {
        outcome.counts.add(counts);
    }
    outcome.failures = text.lines().filter_map(failed_test).collect();
    for program in empty_programs(text) {
        outcome.counts.add(Counts::FAILED);
        outcome.failures.push(format!("{program} holds no test"));
    }
    let Counts { passed, failed, .. } = outcome.counts;
    if !ok && failed == 0 {
        outcome.counts.add(Counts::FAILED);
        outcome
            .failures
            .push(format!("{ending} with no test failed"));
    } else if ok && passed + failed == 0 {
        outcome.counts.add(Counts::FAILED);
        outcome.failures.push("no test was run".into());
    }
    outcome
}

/// The first line in which a compiler, or cargo, says that something is wrong.
fn first_error(text: &str) -> Option<&str> {
    text.lines().find(|line| line.starts_with("error"))
}

/// `test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; ...`
fn result_line(line: &str) -> Option<Counts> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = Counts::default();
    for part in numbers.split(';') {
        let mut words = part.split_whitespace();
        let (number, word) = (words.next()?, words.next().unwrap_or_default());
        match word {
            "passed" => counts.passed = number.parse().ok()?,
            "failed" => counts.failed = number.parse().ok()?,
            "ignored" => counts.skipped = number.parse().ok()?,
            _ => {}
        }
    }
    Some(counts)
}

/// Test programs that hold no test at all: each would pass whatever happened.
fn empty_programs(text: &str) -> Vec<&str> {
    let mut program = "a test program";
    let mut empty = Vec::new();
    for line in text.lines().map(str::trim_start) {
        if let Some(rest) = line.strip_prefix("Running ") {
            program = rest.split(" (").next().unwrap_or(rest);
        } else if line.starts_with("test result: ") {
            let none = |word: &str| line.contains(&format!(" 0 {word};"));
            let words = ["passed", "failed", "ignored", "measured", "filtered out"];
            if words.into_iter().all(none) {
                empty.push(program);
            }
        }
    }
    empty
}

/// `test name ... FAILED`
fn failed_test(line: &str) -> Option<String> {
    let name = line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?;
    Some(format!("test {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TWO_PROGRAMS: &str = "
running 3 tests
test a ... ok
test b ... FAILED
test c - should panic ... ignored
test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.00s
running 1 test
test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s
";

    #[test]
    fn the_lines_of_all_programs_add_up() {
        let outcome = tests(false, "exit code 101", TWO_PROGRAMS);
        let counts = Counts {
            passed: 8,
            failed: 1,
            skipped: 1,
        };
        assert_eq!(outcome.counts, counts);
        assert_eq!(outcome.failures, ["test b"]);
    }

    #[test]
    fn a_run_that_does_not_compile_or_is_killed_has_failed() {
        let outcome = tests(false, "exit code 101", "error[E0308]: mismatched types");
        assert_eq!(outcome.counts, Counts::FAILED);
        let died = "test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(tests(false, "killed by signal 11", died).counts.failed, 1);
    }

    #[test]
    fn a_failed_command_says_what_was_wrong_first() {
        let text = "   Compiling x\nerror: unused variable\nerror: could not compile";
        assert_eq!(first_error(text), Some("error: unused variable"));
        assert_eq!(first_error("Diff in main.rs"), None);
    }

    #[test]
    fn a_program_without_tests_is_found_among_others() {
        let text = "     Running tests/a.rs (target/debug/deps/a-1)
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
     Running tests/b.rs (target/debug/deps/b-1)
test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        let outcome = tests(true, "exit code 0", text);
        assert_eq!((outcome.counts.passed, outcome.counts.failed), (2, 1));
        assert_eq!(outcome.failures, ["tests/b.rs holds no test"]);
    }

    #[test]
    fn a_run_without_tests_proves_nothing() {
        let empty = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out";
        assert_eq!(tests(true, "exit code 0", empty).counts.failed, 1);
        assert_eq!(tests(true, "exit code 0", "").counts.failed, 1);
    }
}
