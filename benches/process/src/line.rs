//! What the programs print: one JSON object a line, on standard output.
//!
//! `{"group":..,"case":..,"contender":..,"class":..,"value":..,"unit":..}` is a sample; with
//! `rejected` it is one thrown away and why, with `skipped` a contender that cannot run and why.

use std::io::{self, Write as _};

use serde::Serialize;

/// What a line is about: contenders of one case of one group are compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// The group.
    pub group: &'static str,
    /// What is compared.
    pub case: String,
    /// Who took part.
    pub contender: String,
}

/// A line of output.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum Line {
    /// One sample.
    Sample {
        /// What it is about.
        #[serde(flatten)]
        subject: Subject,
        /// Where the cores were.
        class: &'static str,
        /// The figure.
        value: f64,
        /// And its unit.
        unit: &'static str,
    },
    /// A sample that was thrown away.
    Rejected {
        /// Why.
        rejected: &'static str,
        /// What it is about.
        #[serde(flatten)]
        subject: Subject,
    },
    /// A contender that cannot run.
    Skipped {
        /// Why.
        skipped: String,
        /// What it is about.
        #[serde(flatten)]
        subject: Subject,
    },
    /// Something that callgrind can measure.
    Measurable {
        /// What it is about.
        #[serde(flatten)]
        subject: Subject,
        /// The unit of the figure.
        unit: &'static str,
        /// For `--toggle-collect`.
        function: &'static str,
        /// The end of the name of the function whose cost is not the driver's.
        apart: &'static str,
        /// Arguments of the program.
        args: Vec<String>,
    },
}

impl Line {
    /// Prints it.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub fn print(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, self)?;
        out.write_all(b"\n")?;
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject() -> Subject {
        Subject {
            group: "two-cores",
            case: "1 descriptor, 256 in flight".into(),
            contender: "vring split burst".into(),
        }
    }

    #[test]
    fn a_sample_is_one_flat_object() {
        let line = Line::Sample {
            subject: subject(),
            class: "near",
            value: 14.3,
            unit: "ns/chain",
        };
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"group":"two-cores","case":"1 descriptor, 256 in flight","contender":"vring split burst","class":"near","value":14.3,"unit":"ns/chain"}"#
        );
    }

    #[test]
    fn what_is_not_a_sample_says_why_first() {
        let rejected = Line::Rejected {
            rejected: "not alone",
            subject: subject(),
        };
        let skipped = Line::Skipped {
            skipped: "one CPU".into(),
            subject: subject(),
        };
        let text = |line| serde_json::to_string(line).unwrap();
        assert!(text(&rejected).starts_with(r#"{"rejected":"not alone","group":"#));
        assert!(text(&skipped).starts_with(r#"{"skipped":"one CPU","group":"#));
    }
}
