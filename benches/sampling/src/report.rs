//! Lines of JSON on standard output, for `cargo xtask bench`: one object a line, a sample, a sample
//! that was thrown away, or a contender that cannot run.

use std::io::Write as _;

use serde::Serialize;

use crate::Outcome;
use crate::placement::Class;

/// What a line is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// Group of cases.
    pub group: &'static str,
    /// What is compared: contenders of one case are comparable.
    pub case: String,
    /// Who.
    pub contender: String,
}

#[derive(Serialize)]
struct Sample<'a> {
    #[serde(flatten)]
    subject: &'a Subject,
    class: &'static str,
    value: f64,
    unit: &'static str,
}

#[derive(Serialize)]
struct Rejected<'a> {
    rejected: &'a str,
    #[serde(flatten)]
    subject: &'a Subject,
}

#[derive(Serialize)]
struct Skipped<'a> {
    skipped: &'a str,
    #[serde(flatten)]
    subject: &'a Subject,
}

#[derive(Serialize)]
struct Note<'a> {
    note: &'a str,
    group: &'a str,
}

fn print(line: &impl Serialize) {
    let line = serde_json::to_string(line).expect("strings and numbers");
    // Whoever reads it may have gone: there is nobody to tell then.
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

impl Subject {
    /// Says a sample, or why it does not count.
    pub fn outcome(&self, outcome: Outcome, unit: &'static str) {
        match outcome {
            Outcome::Kept(class, value) => self.sample(class, value, unit),
            Outcome::Rejected(why, value) => {
                let why = why.name();
                // For people: it is no figure.
                eprintln!("  {value:.2} {unit}, but {why}");
                print(&Rejected {
                    rejected: why,
                    subject: self,
                });
            }
        }
    }

    /// Says a sample.
    pub fn sample(&self, class: Class, value: f64, unit: &'static str) {
        print(&Sample {
            subject: self,
            class: class.name(),
            value,
            unit,
        });
    }

    /// Says why this cannot be measured here.
    pub fn skipped(&self, why: &str) {
        print(&Skipped {
            skipped: why,
            subject: self,
        });
    }
}

/// Says something that a reader of all figures of a group should know.
pub fn note(group: &str, note: &str) {
    print(&Note { note, group });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_flat() {
        let subject = Subject {
            group: "native-net",
            case: "loop".into(),
            contender: "vring split".into(),
        };
        let line = serde_json::to_string(&Sample {
            subject: &subject,
            class: "near",
            value: 14.25,
            unit: "Mpps",
        });
        let expected = r#"{"group":"native-net","case":"loop","contender":"vring split","class":"near","value":14.25,"unit":"Mpps"}"#;
        assert_eq!(line.unwrap(), expected);
        let line = serde_json::to_string(&Skipped {
            skipped: "no such tool",
            subject: &subject,
        });
        let expected = r#"{"skipped":"no such tool","group":"native-net","case":"loop","contender":"vring split"}"#;
        assert_eq!(line.unwrap(), expected);
    }
}
