//! `tests/mutants.toml`: what is broken on purpose, and which test must say so.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

/// The file, from the workspace's directory.
pub(crate) const FILE: &str = "tests/mutants.toml";

/// One change that must not go unnoticed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Mutant {
    pub(crate) name: String,
    /// What no longer holds, in a sentence.
    pub(crate) breaks: String,
    /// Statements of the specification that it breaks.
    #[serde(default)]
    pub(crate) statements: Vec<String>,
    /// From the workspace's directory.
    pub(crate) file: String,
    pub(crate) find: String,
    /// Which of several, from 1; without it there must be one.
    pub(crate) occurrence: Option<usize>,
    pub(crate) replace: String,
    pub(crate) run: Program,
    /// The tests that must fail, by their whole names.
    pub(crate) fails: Vec<String>,
}

/// The program that the tests are in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Program {
    /// The library's own tests, under the model checker.
    Loom,
    /// The library's own tests.
    Lib,
    /// The same, interpreted by Miri on 32 bits.
    Miri32,
    /// A test program in `tests/`.
    Test(String),
}

impl TryFrom<String> for Program {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.split_once(' ') {
            None if text == "loom" => Ok(Self::Loom),
            None if text == "lib" => Ok(Self::Lib),
            None if text == "miri-32" => Ok(Self::Miri32),
            Some(("test", name)) => Ok(Self::Test(name.to_owned())),
            _ => Err(format!(
                "run is `loom`, `lib`, `miri-32` or `test NAME`, not `{text}`"
            )),
        }
    }
}

impl From<Program> for String {
    fn from(program: Program) -> Self {
        match program {
            Program::Loom => "loom".into(),
            Program::Lib => "lib".into(),
            Program::Miri32 => "miri-32".into(),
            Program::Test(name) => format!("test {name}"),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    mutant: Vec<Mutant>,
}

/// Reads the list.
pub(crate) fn parse(text: &str) -> anyhow::Result<Vec<Mutant>> {
    let List { mutant: mutants } = toml::from_str(text).context("it is not a list of mutants")?;
    let mut names = BTreeSet::new();
    for mutant in &mutants {
        let name = &mutant.name;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        ensure!(
            !name.is_empty() && name.chars().all(plain),
            "`{name}` is no name: small letters, digits and hyphens"
        );
        ensure!(names.insert(name), "two mutants are named {name}");
        ensure!(!mutant.fails.is_empty(), "{name}: no test must fail");
        ensure!(!mutant.find.is_empty(), "{name}: nothing is looked for");
        ensure!(mutant.find != mutant.replace, "{name}: nothing is changed");
        ensure!(
            mutant.occurrence != Some(0),
            "{name}: occurrences count from 1"
        );
    }
    Ok(mutants)
}

impl Mutant {
    /// The text of the file with the change.
    pub(crate) fn apply(&self, text: &str) -> anyhow::Result<String> {
        let places: Vec<usize> = text.match_indices(&self.find).map(|(at, _)| at).collect();
        let at = match (self.occurrence, places.as_slice()) {
            (_, []) => bail!("the text is not in {}", self.file),
            (None, [at]) => *at,
            (None, places) => bail!(
                "the text is {} times in {}: give more of it, or an occurrence",
                places.len(),
                self.file
            ),
            (Some(n), places) => *places
                .get(n.saturating_sub(1))
                .with_context(|| format!("the text is {} times in {}", places.len(), self.file))?,
        };
        let (before, rest) = text.split_at(at);
        let after = rest.strip_prefix(&self.find).unwrap_or_default();
        Ok(format!("{before}{}{after}", self.replace))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mutant(find: &str, occurrence: Option<usize>) -> Mutant {
        Mutant {
            name: "m".into(),
            breaks: "b".into(),
            statements: Vec::new(),
            file: "f".into(),
            find: find.into(),
            occurrence,
            replace: "X".into(),
            run: Program::Lib,
            fails: vec!["t".into()],
        }
    }

    #[test]
    fn the_text_is_found_once_or_by_its_number() {
        let apply = |find, occurrence| mutant(find, occurrence).apply("a b a").ok();
        assert_eq!(apply("b", None).as_deref(), Some("a X a"));
        assert_eq!(apply("a", None), None, "which of the two?");
        assert_eq!(apply("a", Some(2)).as_deref(), Some("a b X"));
        assert_eq!(apply("a", Some(3)), None);
        assert_eq!(apply("c", None), None);
    }

    #[test]
    fn a_list_that_is_not_clear_is_refused() {
        let with = |line: &str| {
            let text = format!(
                "[[mutant]]\nname = 'a'\nbreaks = 'b'\nfile = 'f'\nfind = 'x'\nreplace = 'y'\n\
                 run = 'lib'\nfails = ['t']\n{line}\n"
            );
            parse(&text)
        };
        assert_eq!(with("").unwrap()[0].run, Program::Lib);
        for line in ["occurence = 1", "occurrence = 0", "[[mutant]]\nname = 'c'"] {
            assert!(with(line).is_err(), "{line}");
        }
        let program = |text: &str| Program::try_from(text.to_owned());
        assert_eq!(program("test net"), Ok(Program::Test("net".into())));
        assert!(program("bench x").is_err());
    }

    #[test]
    fn every_mutant_of_the_workspace_applies() {
        let workspace = crate::qemu::workspace();
        let text = std::fs::read_to_string(workspace.join(FILE)).unwrap();
        for mutant in parse(&text).unwrap() {
            let source = std::fs::read_to_string(workspace.join(&mutant.file)).unwrap();
            let mutated = mutant.apply(&source);
            assert!(mutated.is_ok(), "{}: {mutated:?}", mutant.name);
        }
    }
}
