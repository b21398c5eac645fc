//! What came of a mutant, from what its tests printed.

use serde::Serialize;

use crate::test::run::Printed;

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", content = "why", rename_all = "snake_case")]
pub(crate) enum Verdict {
    /// Every test that must fail has failed.
    Caught,
    /// These tests have passed.
    Survived(Vec<String>),
    /// The file is not as the list has it.
    DoesNotApply(String),
    /// The compiler took the tests' work, or a test of that name is not there.
    NotRun(String),
    /// The tests did not come to an end.
    TimeLimit,
}

impl Verdict {
    /// Judges a run of the named tests, and of no others, on a mutated tree.
    pub(crate) fn of(printed: &Printed, fails: &[String]) -> Self {
        Self::judge(&printed.text, &printed.ending(), fails)
    }

    fn judge(text: &str, ending: &str, fails: &[String]) -> Self {
        let ran = Ran::of(text);
        if !ran.started {
            let error = text.lines().find(|line| line.starts_with("error"));
            let error = error.unwrap_or("no test was started");
            return Self::NotRun(format!("{ending}: {error}"));
        }
        let without = |seen: &[&str]| -> Vec<String> {
            let unseen = fails.iter().filter(|name| !seen.contains(&name.as_str()));
            unseen.cloned().collect()
        };
        let passed: Vec<String> = fails
            .iter()
            .filter(|name| ran.passed.contains(&name.as_str()))
            .cloned()
            .collect();
        if !passed.is_empty() {
            return Self::Survived(passed);
        }
        match without(&ran.failed).as_slice() {
            [] => Self::Caught,
            // It was the only one: the program died of it, before it could say so.
            [_] if fails.len() == 1 && ran.died => Self::Caught,
            unseen => Self::NotRun(format!("{ending}: {} did not run", unseen.join(", "))),
        }
    }

    /// The first word of its line.
    pub(crate) fn shown(&self) -> &'static str {
        match self {
            Self::Caught => "caught",
            Self::Survived(_) => "SURVIVED",
            Self::DoesNotApply(_) => "DOES NOT APPLY",
            Self::NotRun(_) => "NOT RUN",
            Self::TimeLimit => "TIME LIMIT",
        }
    }

    /// What more there is to say.
    pub(crate) fn why(&self, fails: &[String]) -> String {
        match self {
            Self::Caught => format!("by {}", fails.join(", ")),
            Self::Survived(tests) => format!("passed: {}", tests.join(", ")),
            Self::DoesNotApply(why) | Self::NotRun(why) => why.clone(),
            Self::TimeLimit => format!("no end of {}", fails.join(", ")),
        }
    }
}

/// The tests whose names a sound tree must let pass, and does not.
pub(crate) fn not_passed(text: &str, names: &[String]) -> Vec<String> {
    let ran = Ran::of(text);
    let passed = |name: &&String| !ran.passed.contains(&name.as_str());
    names.iter().filter(passed).cloned().collect()
}

/// What a test program says.
struct Ran<'a> {
    started: bool,
    passed: Vec<&'a str>,
    failed: Vec<&'a str>,
    died: bool,
}

impl<'a> Ran<'a> {
    fn of(text: &'a str) -> Self {
        let ended = |how: &'static str| {
            let lines = text.lines();
            lines.filter_map(move |line| line.strip_prefix("test ")?.strip_suffix(how))
        };
        Self {
            started: text
                .lines()
                .any(|line| line.starts_with("running ") && !line.starts_with("running 0 ")),
            passed: ended(" ... ok").collect(),
            failed: ended(" ... FAILED").collect(),
            died: text.contains("(signal: ") && !text.contains("test result: "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(text: &str) -> Verdict {
        Verdict::judge(text, "exit code 101", &["a::b".into()])
    }

    #[test]
    fn only_the_named_test_catches() {
        let ok = "running 1 test\ntest a::b ... ok\ntest result: ok.";
        let failed = "running 1 test\ntest a::b ... FAILED\ntest result: FAILED.";
        assert_eq!(judge(failed), Verdict::Caught);
        assert_eq!(judge(ok), Verdict::Survived(vec!["a::b".into()]));
        for other in [
            "error[E0308]: mismatched types",
            "running 0 tests\ntest result: ok.",
            "running 1 test\ntest a::bc ... FAILED\ntest result: FAILED.",
            "",
        ] {
            assert!(matches!(judge(other), Verdict::NotRun(_)), "{other}");
        }
        assert_eq!(not_passed(ok, &["a::b".into()]), [""; 0]);
        assert_eq!(not_passed(failed, &["a::b".into()]), ["a::b"]);
    }

    #[test]
    fn a_program_that_dies_of_its_only_test_has_failed() {
        let died =
            "running 1 test\nerror: test failed\n  (signal: 6, SIGABRT: process abort signal)";
        assert_eq!(judge(died), Verdict::Caught);
        let two = ["a::b".into(), "c".into()];
        let verdict = Verdict::judge(died, "exit code 101", &two);
        assert!(matches!(verdict, Verdict::NotRun(_)), "of which one?");
    }
}
