//! Why a run ends before its verdict, and the exit code that says so to a script.

use std::fmt;

/// Everything went as it must.
pub(crate) const EXIT_OK: u8 = 0;
/// A check failed.
pub(crate) const EXIT_FAILED: u8 = 1;
/// The command line cannot be understood.
pub(crate) const EXIT_USAGE: u8 = 2;
/// Something that the run needs is not on this machine.
pub(crate) const EXIT_MISSING: u8 = 3;
/// A time limit ran out.
pub(crate) const EXIT_TIME: u8 = 4;
/// Ctrl-C or a termination signal.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// Why a run ends early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The command line asks for something that cannot be.
    Usage(String),
    /// Something is not on this machine.
    Missing {
        /// What is missing.
        what: String,
        /// Why it is needed, and what was seen instead.
        why: String,
        /// What a person does about it.
        fix: String,
    },
    /// A wait ran out.
    TimeLimit {
        /// What was being waited for.
        waiting_for: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// Ctrl-C or a termination signal.
    Interrupted,
    /// Anything else that does not work: a file, a process, a build.
    Broken(anyhow::Error),
}

impl Stop {
    /// The exit code for scripts.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => EXIT_USAGE,
            Self::Missing { .. } => EXIT_MISSING,
            Self::TimeLimit { .. } => EXIT_TIME,
            Self::Interrupted => EXIT_INTERRUPTED,
            Self::Broken(_) => EXIT_FAILED,
        }
    }

    /// For the way through code that speaks `anyhow`; the way back keeps the kind.
    pub(crate) fn into_anyhow(self) -> anyhow::Error {
        match self {
            Self::Broken(error) => error,
            other => anyhow::Error::new(other),
        }
    }

    pub(crate) fn missing(
        what: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self::Missing {
            what: what.into(),
            why: why.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => f.write_str(text),
            Self::Missing { what, why, fix } => {
                write!(f, "missing: {what}\n  why: {why}\n  fix: {fix}")
            }
            Self::TimeLimit {
                waiting_for,
                seconds,
            } => write!(f, "gave up after {seconds} s waiting for {waiting_for}"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Broken(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        // An early end that travelled through `anyhow` keeps its kind.
        match error.downcast::<Stop>() {
            Ok(stop) => stop,
            Err(error) => Self::Broken(error),
        }
    }
}

impl std::error::Error for Stop {}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn the_kind_survives_anyhow() {
        let error = anyhow::Error::new(Stop::Interrupted);
        assert_eq!(Stop::from(error).exit_code(), EXIT_INTERRUPTED);
        let plain: anyhow::Result<()> = Err(anyhow::anyhow!("x")).context("y");
        assert_eq!(Stop::from(plain.unwrap_err()).to_string(), "y: x");
    }
}
