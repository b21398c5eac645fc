//! What a bench program says: one JSON object a line.
//!
//! ```text
//! {"group":"two-cores","case":"...","contender":"...","class":"near","value":14.3,"unit":"ns/chain"}
//! {"group":"two-cores","case":"...","contender":"...","rejected":"placement changed","value":30.2}
//! {"group":"two-cores","case":"...","contender":"...","skipped":"why it cannot run here"}
//! {"group":"two-cores","note":"what a reader of these figures should know"}
//! ```
//!
//! A line that does not begin with a brace is for people. One that does, and cannot be read, is a
//! failure: a figure that is lost in silence would look like one that was never taken.

use serde::{Deserialize, Serialize};

use super::cli::Group;

/// Where the two cores of a sample sat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Class {
    /// In one core complex.
    Near,
    /// In two.
    Far,
    /// It makes no difference.
    Any,
}

impl Class {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Near => "near",
            Self::Far => "far",
            Self::Any => "any",
        }
    }
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Unit {
    #[serde(rename = "instructions/chain")]
    Instructions,
    #[serde(rename = "ns/chain")]
    NsPerChain,
    #[serde(rename = "ns/round trip")]
    NsPerRoundTrip,
    #[serde(rename = "Mpps")]
    Mpps,
    #[serde(rename = "kIOPS")]
    Kiops,
    #[serde(rename = "us")]
    Us,
    #[serde(rename = "per packet")]
    PerPacket,
    #[serde(rename = "bytes")]
    Bytes,
}

impl Unit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions/chain",
            Self::NsPerChain => "ns/chain",
            Self::NsPerRoundTrip => "ns/round trip",
            Self::Mpps => "Mpps",
            Self::Kiops => "kIOPS",
            Self::Us => "us",
            Self::PerPacket => "per packet",
            Self::Bytes => "bytes",
        }
    }

    /// A rate: more is better. Everything else is a cost.
    pub(crate) fn is_rate(self) -> bool {
        matches!(self, Self::Mpps | Self::Kiops)
    }

    /// As a person reads it.
    pub(crate) fn shown(self, value: f64) -> String {
        match self {
            Self::Bytes => format!("{value:.0}"),
            Self::PerPacket => format!("{value:.3}"),
            _ if value < 10.0 => format!("{value:.2}"),
            _ => format!("{value:.1}"),
        }
    }
}

/// Whose figure of what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) group: Group,
    pub(crate) case: String,
    pub(crate) contender: String,
}

/// What a line says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum What {
    Sample {
        class: Class,
        value: f64,
        unit: Unit,
    },
    /// A sample that was thrown away, and why.
    Rejected(String),
    /// The contender cannot run here, and why.
    Skipped(String),
}

/// A line that is not for people.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Line {
    Figure(Key, What),
    Note(Group, String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    group: Group,
    note: Option<String>,
    case: Option<String>,
    contender: Option<String>,
    class: Option<Class>,
    value: Option<f64>,
    unit: Option<Unit>,
    rejected: Option<String>,
    skipped: Option<String>,
}

/// Reads a line; `None` when it is for people.
pub(crate) fn parse(line: &str) -> Option<Result<Line, String>> {
    let line = line.trim();
    line.starts_with('{').then(|| read(line))
}

fn read(line: &str) -> Result<Line, String> {
    let raw: Raw = serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))?;
    let said = (raw.note, raw.rejected, raw.skipped, raw.value);
    let what = match said {
        (Some(note), None, None, None) => return Ok(Line::Note(raw.group, note)),
        // What it would have been does not count.
        (None, Some(why), None, _) => What::Rejected(why),
        (None, None, Some(why), None) => What::Skipped(why),
        (None, None, None, Some(value)) => {
            if !value.is_finite() || value < 0.0 {
                return Err(format!("{value} is no figure: {line}"));
            }
            What::Sample {
                class: raw.class.ok_or_else(|| format!("no class: {line}"))?,
                value,
                unit: raw.unit.ok_or_else(|| format!("no unit: {line}"))?,
            }
        }
        _ => return Err(format!("not one of value, rejected, skipped, note: {line}")),
    };
    let key = Key {
        group: raw.group,
        case: raw.case.ok_or_else(|| format!("no case: {line}"))?,
        contender: raw
            .contender
            .ok_or_else(|| format!("no contender: {line}"))?,
    };
    Ok(Line::Figure(key, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"{"group":"two-cores","case":"c","contender":"vring""#;

    fn said(rest: &str) -> Result<(Key, What), String> {
        match parse(&format!("{HEAD},{rest}}}")).unwrap()? {
            Line::Figure(key, what) => Ok((key, what)),
            Line::Note(_, note) => Err(note),
        }
    }

    #[test]
    fn each_kind_of_line_is_read() {
        let (key, what) = said(r#""class":"near","value":14.3,"unit":"ns/chain""#).unwrap();
        assert_eq!((key.group, key.case.as_str()), (Group::TwoCores, "c"));
        let (class, unit) = (Class::Near, Unit::NsPerChain);
        let expected = What::Sample {
            class,
            value: 14.3,
            unit,
        };
        assert_eq!(what, expected);
        let rejected = said(r#""rejected":"not alone""#).unwrap().1;
        assert_eq!(rejected, What::Rejected("not alone".into()));
        let rejected = said(r#""rejected":"x","value":1.5,"unit":"us""#).unwrap().1;
        assert_eq!(rejected, What::Rejected("x".into()));
        let skipped = said(r#""skipped":"no hugepages""#).unwrap().1;
        assert_eq!(skipped, What::Skipped("no hugepages".into()));
        let note = parse(r#"{"group":"native-net","note":"n"}"#).unwrap();
        assert_eq!(note, Ok(Line::Note(Group::NativeNet, "n".into())));
    }

    #[test]
    fn lines_for_people_are_left_alone() {
        assert!(parse("two-cores: 5 of 7").is_none());
        assert!(parse("").is_none());
    }

    #[test]
    fn a_figure_that_cannot_be_read_is_an_error() {
        for rest in [
            r#""value":1.0,"unit":"ns/chain""#,
            r#""class":"near","value":1.0"#,
            r#""class":"near","value":1.0,"unit":"furlongs""#,
            r#""class":"close","value":1.0,"unit":"us""#,
            r#""class":"near","value":-1.0,"unit":"us""#,
            r#""class":"near","value":1.0,"unit":"us","skipped":"x""#,
            r#""class":"near""#,
            r#""skipped":"x","surprise":1"#,
        ] {
            assert!(said(rest).is_err(), "{rest}");
        }
        let rest = r#""value":1.0,"class":"near","unit":"us""#;
        let nameless = parse(&format!(r#"{{"group":"size","case":"c",{rest}}}"#));
        assert!(nameless.unwrap().is_err());
        assert!(parse("{\"group\":\"two-cores\"").unwrap().is_err());
    }

    #[test]
    fn units_are_written_as_they_are_read() {
        for unit in [
            Unit::Instructions,
            Unit::NsPerRoundTrip,
            Unit::PerPacket,
            Unit::Kiops,
        ] {
            assert_eq!(serde_json::to_value(unit).unwrap(), unit.name());
        }
    }
}
