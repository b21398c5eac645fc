//! The lists in `docs/conformance`: statements, reasons, bug classes, and what is closed.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

/// Where the lists are, relative to the workspace.
pub(crate) const DIR: &str = "docs/conformance";

/// What VIRTIO asks of a driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) id: String,
    pub(crate) area: String,
    pub(crate) keyword: String,
    pub(crate) requirement: String,
}

/// A bug that real drivers shipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BugClass {
    pub(crate) number: u32,
    pub(crate) title: String,
    pub(crate) closed: bool,
}

/// All lists.
#[derive(Clone, Debug)]
pub(crate) struct Data {
    /// In the order of the file.
    pub(crate) statements: Vec<Statement>,
    /// By number.
    pub(crate) bug_classes: Vec<BugClass>,
    pub(crate) closed_areas: Vec<String>,
    /// Reasons by id.
    pub(crate) not_applicable: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Closed {
    areas: Vec<String>,
    bug_classes: Vec<(u32, u32)>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct NotApplicable {
    not_applicable: Vec<Reason>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reason {
    ids: Vec<String>,
    reason: String,
}

/// The texts of the lists.
#[derive(Clone, Debug)]
pub(crate) struct Texts {
    pub(crate) statements: String,
    pub(crate) bug_classes: String,
    pub(crate) closed: String,
    pub(crate) not_applicable: String,
}

impl Texts {
    pub(crate) fn read(workspace: &Path) -> anyhow::Result<Self> {
        let dir = workspace.join(DIR);
        let read = |name: &str| {
            let path = dir.join(name);
            std::fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))
        };
        Ok(Self {
            statements: read("driver-normative.tsv")?,
            bug_classes: read("bug-classes.tsv")?,
            closed: read("closed.toml")?,
            not_applicable: read("not-applicable.toml")?,
        })
    }
}

impl Data {
    pub(crate) fn parse(texts: &Texts) -> anyhow::Result<Self> {
        let statements =
            statements(&texts.statements).context("docs/conformance/driver-normative.tsv")?;
        let closed: Closed =
            toml::from_str(&texts.closed).context("docs/conformance/closed.toml")?;
        for area in &closed.areas {
            let known = statements.iter().any(|statement| statement.area == *area);
            ensure!(known, "docs/conformance/closed.toml: no area {area:?}");
        }
        let bug_classes = bug_classes(&texts.bug_classes, &closed.bug_classes)
            .context("docs/conformance/bug-classes.tsv")?;
        let not_applicable = reasons(&texts.not_applicable, &statements)
            .context("docs/conformance/not-applicable.toml")?;
        Ok(Self {
            statements,
            bug_classes,
            closed_areas: closed.areas,
            not_applicable,
        })
    }

    /// Every area, in the order in which the list begins it.
    pub(crate) fn areas(&self) -> Vec<&str> {
        let mut areas = Vec::new();
        for statement in &self.statements {
            if !areas.contains(&statement.area.as_str()) {
                areas.push(&statement.area);
            }
        }
        areas
    }
}

fn statements(text: &str) -> anyhow::Result<Vec<Statement>> {
    let mut lines = text.lines();
    let header = "id\tarea\tsection_label\tkeyword\tkind\tin_clause\tsource\trequirement";
    ensure!(
        lines.next() == Some(header),
        "its first line is not {header:?}"
    );
    let mut all: Vec<Statement> = Vec::new();
    for (line, number) in lines.zip(2..) {
        let columns: Vec<&str> = line.split('\t').collect();
        let &[id, area, _, keyword, _, _, _, requirement] = columns.as_slice() else {
            bail!("line {number} has {} columns", columns.len());
        };
        ensure!(
            all.iter().all(|known| known.id != id),
            "line {number}: {id} for the second time"
        );
        all.push(Statement {
            id: id.into(),
            area: area.into(),
            keyword: keyword.into(),
            requirement: requirement.into(),
        });
    }
    Ok(all)
}

fn bug_classes(text: &str, closed: &[(u32, u32)]) -> anyhow::Result<Vec<BugClass>> {
    let mut all = Vec::new();
    for (line, number) in text.lines().skip(1).zip(1..) {
        let columns: Vec<&str> = line.split('\t').collect();
        let &[class, _, title] = columns.as_slice() else {
            bail!("line {} has {} columns", number + 1, columns.len());
        };
        ensure!(class.parse() == Ok(number), "{class} where {number} is due");
        all.push(BugClass {
            number,
            title: title.into(),
            closed: closed
                .iter()
                .any(|(first, last)| (first..=last).contains(&&number)),
        });
    }
    for (first, last) in closed {
        let known = 1 <= *first && first <= last && (*last as usize) <= all.len();
        ensure!(known, "there are no classes {first} to {last}");
    }
    Ok(all)
}

fn reasons(text: &str, statements: &[Statement]) -> anyhow::Result<BTreeMap<String, String>> {
    let list: NotApplicable = toml::from_str(text)?;
    let mut reasons = BTreeMap::new();
    for Reason { ids, reason } in list.not_applicable {
        ensure!(!reason.trim().is_empty(), "{ids:?} without a reason");
        for id in ids {
            let known = statements.iter().any(|statement| statement.id == id);
            ensure!(known, "no statement {id}");
            let twice = reasons.insert(id.clone(), reason.clone());
            ensure!(twice.is_none(), "{id} has two reasons");
        }
    }
    Ok(reasons)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const HEADER: &str = "id\tarea\tsection_label\tkeyword\tkind\tin_clause\tsource\trequirement\n";

    /// Two areas of which the first is closed, and three bug classes of which two are.
    pub(crate) fn small() -> Texts {
        let rows = [
            "A-001\talpha\tL\tMUST\tN\tY\ta.tex:1\tDo",
            "A-002\talpha\tL\tMUST NOT\tN\tY\ta.tex:2\tDo not",
            "B-001\tbeta\tL\tSHOULD\tN\tY\tb.tex:1\tRather do",
        ];
        Texts {
            statements: HEADER.to_owned() + &rows.join("\n") + "\n",
            bug_classes: "number\tgroup\ttitle\n1\tg\tone\n2\tg\ttwo\n3\tg\tthree\n".into(),
            closed: "areas = [\"alpha\"]\nbug-classes = [[1, 1], [3, 3]]\n".into(),
            not_applicable: "[[not-applicable]]\nids = [\"A-002\"]\nreason = \"no such part\"\n"
                .into(),
        }
    }

    #[test]
    fn the_lists_of_the_repository_are_sound() {
        let texts = Texts::read(&crate::qemu::workspace()).unwrap();
        let data = Data::parse(&texts).unwrap();
        assert_eq!(data.statements.len(), 702);
        assert_eq!(data.bug_classes.len(), 88);
    }

    #[test]
    fn rows_are_read_as_they_are() {
        let data = Data::parse(&small()).unwrap();
        assert_eq!(data.areas(), ["alpha", "beta"]);
        assert_eq!(data.statements[1].keyword, "MUST NOT");
        assert_eq!(data.not_applicable["A-002"], "no such part");
        let closed: Vec<bool> = data.bug_classes.iter().map(|class| class.closed).collect();
        assert_eq!(closed, [true, false, true]);
    }

    #[test]
    fn lists_that_contradict_each_other_are_refused() {
        type Spoil = fn(&mut Texts);
        let spoilt: [(Spoil, &str); 9] = [
            (
                |t| t.statements = t.statements.replace("A-002", "A-001"),
                "A-001 for the second",
            ),
            (
                |t| t.statements.push_str("C-001\tgamma\n"),
                "line 5 has 2 columns",
            ),
            (
                |t| t.statements = t.statements.replace("kind\t", ""),
                "its first line",
            ),
            (
                |t| t.closed = t.closed.replace("alpha", "omega"),
                "no area \"omega\"",
            ),
            (
                |t| t.closed = t.closed.replace("[3, 3]", "[3, 4]"),
                "no classes 3 to 4",
            ),
            (
                |t| t.bug_classes = t.bug_classes.replace("2\t", "4\t"),
                "4 where 2 is due",
            ),
            (
                |t| t.not_applicable = t.not_applicable.replace("A-002", "A-009"),
                "no statement A-009",
            ),
            (
                |t| t.not_applicable = t.not_applicable.replace("no such part", " "),
                "without a reason",
            ),
            (
                |t| t.not_applicable = t.not_applicable.repeat(2),
                "A-002 has two reasons",
            ),
        ];
        for (spoil, expected) in spoilt {
            let mut texts = small();
            spoil(&mut texts);
            let error = format!("{:#}", Data::parse(&texts).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
