//! The join: which statement is defended by which tests, and what is open.

use std::fmt::Write as _;

use serde::Serialize;

use super::data::Data;
use super::scan::{self, Found, Problem, Test};
use crate::qemu::stop::{EXIT_FAILED, EXIT_OK};

/// Version of the report's form.
const SCHEMA: &str = "vring-conformance-report/1";

/// What is known of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Status {
    Defended,
    NotApplicable,
    Open,
}

/// Where tests of the fake device are. They show that it sees a driver that errs, not that this one
/// does not.
const OF_THE_FAKE: [&str; 2] = ["tests/fake_", "src/testing/"];

/// Where a test is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) file: String,
    pub(crate) line: usize,
    /// A test of the fake device, which defends nothing by itself.
    pub(crate) of_the_fake: bool,
}

impl Place {
    fn of(test: &Test) -> Self {
        Self {
            name: test.name.clone(),
            file: test.file.clone(),
            line: test.line,
            of_the_fake: OF_THE_FAKE.iter().any(|at| test.file.starts_with(at)),
        }
    }
}

/// A statement, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) keyword: String,
    pub(crate) requirement: String,
    pub(crate) status: Status,
    pub(crate) tests: Vec<Place>,
    /// Why it is not applicable.
    pub(crate) reason: Option<String>,
}

/// The statements of one part of the specification.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Area {
    pub(crate) name: String,
    /// Nothing may be open.
    pub(crate) closed: bool,
    pub(crate) statements: usize,
    pub(crate) defended: usize,
    pub(crate) not_applicable: usize,
    pub(crate) open: usize,
    pub(crate) rows: Vec<Row>,
}

/// A bug class, and its tests.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Class {
    pub(crate) number: u32,
    pub(crate) title: String,
    /// A test is due.
    pub(crate) closed: bool,
    pub(crate) tests: Vec<Place>,
}

/// `report.json`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Index {
    schema: &'static str,
    pub(crate) ok: bool,
    pub(crate) exit_code: u8,
    /// What was asked for.
    pub(crate) command: Vec<String>,
    /// Why there is no index.
    pub(crate) error: Option<String>,
    pub(crate) problems: Vec<Problem>,
    pub(crate) areas: Vec<Area>,
    /// None when one area was asked for.
    pub(crate) bug_classes: Vec<Class>,
}

impl Index {
    /// Joins; of one area, or of all.
    pub(crate) fn of(data: &Data, found: &Found, only: Option<&str>) -> Self {
        let mut index = Self::stopped(EXIT_OK, String::new());
        index.error = None;
        index.problems = found.problems.clone();
        index.problems.extend(contradictions(data, &found.tests));
        let areas = data.areas().into_iter();
        index.areas = areas
            .filter(|name| only.is_none_or(|only| only == *name))
            .map(|name| area(data, &found.tests, name))
            .collect();
        if only.is_none() {
            index.bug_classes = classes(data, &found.tests);
        }
        let failed = !index.problems.is_empty()
            || index.open().next().is_some()
            || index.without_test().next().is_some();
        index.exit_code = if failed { EXIT_FAILED } else { EXIT_OK };
        index.ok = !failed;
        index
    }

    /// A report of an end without an index.
    pub(crate) fn stopped(exit_code: u8, why: String) -> Self {
        Self {
            schema: SCHEMA,
            ok: false,
            exit_code,
            command: Vec::new(),
            error: Some(why),
            problems: Vec::new(),
            areas: Vec::new(),
            bug_classes: Vec::new(),
        }
    }

    /// What is open where nothing may be.
    pub(crate) fn open(&self) -> impl Iterator<Item = (&Area, &Row)> {
        let closed = self.areas.iter().filter(|area| area.closed);
        closed.flat_map(|area| area.open_rows().map(move |row| (area, row)))
    }

    /// Bug classes that are owed a test.
    pub(crate) fn without_test(&self) -> impl Iterator<Item = &Class> {
        let owed = |class: &&Class| class.closed && class.tests.is_empty();
        self.bug_classes.iter().filter(owed)
    }

    /// How many statements of closed areas are not open, and closed bug classes have a test.
    pub(crate) fn held(&self) -> u64 {
        let closed = self.areas.iter().filter(|area| area.closed);
        let statements: usize = closed.map(|area| area.statements - area.open).sum();
        let tested = |class: &&Class| class.closed && !class.tests.is_empty();
        let classes = self.bug_classes.iter().filter(tested).count();
        (statements + classes) as u64
    }

    /// The line that closes a run.
    pub(crate) fn verdict(&self) -> String {
        if let Some(error) = &self.error {
            return error.clone();
        }
        let mut areas = [0; 4];
        for area in self.areas.iter().filter(|area| area.closed) {
            let counts = [
                area.statements,
                area.defended,
                area.not_applicable,
                area.open,
            ];
            for (sum, count) in areas.iter_mut().zip(counts) {
                *sum += count;
            }
        }
        let [statements, defended, not_applicable, open] = areas;
        let mut line = format!(
            "{statements} statements of closed areas: {defended} defended, {not_applicable} not \
             applicable, {open} open"
        );
        let closed = self.bug_classes.iter().filter(|class| class.closed);
        let closed = closed.count();
        let without = self.without_test().count();
        if closed > 0 {
            write!(
                line,
                "; {closed} closed bug classes: {without} without a test"
            )
            .unwrap_or_default();
        }
        if !self.problems.is_empty() {
            write!(line, "; {} problems", self.problems.len()).unwrap_or_default();
        }
        line
    }

    /// What one failure is, a line each.
    pub(crate) fn failures(&self) -> Vec<String> {
        let problems = self.problems.iter().map(|problem| {
            let Problem { file, line, what } = problem;
            format!("{file}:{line}: {what}")
        });
        let open = self.open().map(|(area, row)| {
            let Row {
                id,
                keyword,
                requirement,
                ..
            } = row;
            format!("open in {}: {id} {keyword}: {requirement}", area.name)
        });
        let without = self
            .without_test()
            .map(|class| format!("no test of bug class {}: {}", class.number, class.title));
        problems.chain(open).chain(without).collect()
    }

    /// The index as text, without the verdict.
    pub(crate) fn human(&self, every_row: bool) -> String {
        let mut out = String::new();
        self.write_human(&mut out, every_row).unwrap_or_default();
        out
    }

    fn write_human(&self, out: &mut String, every_row: bool) -> std::fmt::Result {
        if !self.areas.is_empty() {
            writeln!(out, "area            statements defended  n/a open")?;
        }
        for area in &self.areas {
            let Area {
                name,
                closed,
                statements,
                defended,
                not_applicable,
                open,
                ..
            } = area;
            let word = match (closed, open) {
                (true, 0) => "closed",
                (true, _) => "OPEN",
                (false, _) => "later",
            };
            writeln!(
                out,
                "{name:<15} {statements:>10} {defended:>8} {not_applicable:>4} {open:>4}  {word}"
            )?;
        }
        for row in self.areas.iter().flat_map(|area| &area.rows) {
            if every_row {
                write_row(out, row)?;
            } else if let Some(reason) = &row.reason {
                writeln!(out, "not applicable: {}: {reason}", row.id)?;
            }
        }
        if !self.bug_classes.is_empty() {
            writeln!(out, "bug class tests")?;
        }
        for class in &self.bug_classes {
            let word = match (class.closed, class.tests.is_empty()) {
                (true, true) => "  OPEN",
                (false, true) => "  later",
                (_, false) => "",
            };
            let (number, tests, title) = (class.number, class.tests.len(), &class.title);
            writeln!(out, "{number:>9} {tests:>5}  {title}{word}")?;
        }
        for failure in self.failures() {
            writeln!(out, "{failure}")?;
        }
        Ok(())
    }
}

fn write_row(out: &mut String, row: &Row) -> std::fmt::Result {
    let Row {
        id,
        keyword,
        requirement,
        ..
    } = row;
    writeln!(out, "{id} {keyword}: {requirement}")?;
    match (&row.reason, row.status) {
        (Some(reason), _) => writeln!(out, "  not applicable: {reason}")?,
        (None, Status::Open) => writeln!(out, "  open")?,
        (None, _) => {}
    }
    for Place {
        name,
        file,
        line,
        of_the_fake,
    } in &row.tests
    {
        let of_the_fake = if *of_the_fake { ", of the fake" } else { "" };
        writeln!(out, "  {name} ({file}:{line}{of_the_fake})")?;
    }
    Ok(())
}

impl Area {
    fn open_rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(|row| row.status == Status::Open)
    }
}

/// What tests say that the lists do not bear out.
fn contradictions<'a>(data: &'a Data, tests: &'a [Test]) -> impl Iterator<Item = Problem> {
    let lines = tests.iter().flat_map(|test| {
        let said = test.defends.iter().filter_map(|id| {
            let known = data.statements.iter().any(|statement| statement.id == *id);
            let reason = data.not_applicable.get(id);
            match (known, reason) {
                (false, _) => Some(format!("no statement {id}")),
                (true, Some(reason)) => Some(format!(
                    "{id} is defended, and not applicable because {reason}"
                )),
                (true, None) => None,
            }
        });
        let classes = scan::bug_classes(&test.name)
            .into_iter()
            .filter_map(|class| {
                let known = data.bug_classes.iter().any(|known| known.number == class);
                (!known).then(|| format!("no bug class {class}"))
            });
        let all: Vec<String> = said.chain(classes).collect();
        all.into_iter().map(move |what| Problem {
            file: test.file.clone(),
            line: test.line,
            what,
        })
    });
    lines.collect::<Vec<_>>().into_iter()
}

fn area(data: &Data, tests: &[Test], name: &str) -> Area {
    let statements = data.statements.iter().filter(|s| s.area == name);
    let rows: Vec<Row> = statements
        .map(|statement| {
            let by = tests
                .iter()
                .filter(|test| test.defends.contains(&statement.id));
            let tests: Vec<Place> = by.map(Place::of).collect();
            let reason = data.not_applicable.get(&statement.id).cloned();
            let defended = tests.iter().any(|place| !place.of_the_fake);
            let status = match (defended, &reason) {
                (true, _) => Status::Defended,
                (false, Some(_)) => Status::NotApplicable,
                (false, None) => Status::Open,
            };
            Row {
                id: statement.id.clone(),
                keyword: statement.keyword.clone(),
                requirement: statement.requirement.clone(),
                status,
                tests,
                reason,
            }
        })
        .collect();
    let count = |status| rows.iter().filter(|row| row.status == status).count();
    Area {
        name: name.into(),
        closed: data.closed_areas.iter().any(|closed| closed == name),
        statements: rows.len(),
        defended: count(Status::Defended),
        not_applicable: count(Status::NotApplicable),
        open: count(Status::Open),
        rows,
    }
}

fn classes(data: &Data, tests: &[Test]) -> Vec<Class> {
    let class = |class: &super::data::BugClass| {
        let named = |test: &&Test| scan::bug_classes(&test.name).contains(&class.number);
        Class {
            number: class.number,
            title: class.title.clone(),
            closed: class.closed,
            tests: tests.iter().filter(named).map(Place::of).collect(),
        }
    };
    data.bug_classes.iter().map(class).collect()
}

#[cfg(test)]
mod tests {
    use super::super::data::tests::small;
    use super::*;

    fn index(source: &str, only: Option<&str>) -> Index {
        index_of("tests/x.rs", source, only)
    }

    fn index_of(file: &str, source: &str, only: Option<&str>) -> Index {
        let mut found = Found::default();
        scan::source(file, source, &mut found);
        Index::of(&Data::parse(&small()).unwrap(), &found, only)
    }

    const COMPLETE: &str = "
/// Defends: A-001.
#[test]
fn bug_class_01_and_03_both() {}
";

    #[test]
    fn an_index_without_holes_is_a_success() {
        let index = index(COMPLETE, None);
        assert!(index.ok, "{:?}", index.failures());
        assert_eq!(index.exit_code, EXIT_OK);
        let counts = |area: &Area| {
            (
                area.statements,
                area.defended,
                area.not_applicable,
                area.open,
            )
        };
        assert_eq!(counts(&index.areas[0]), (2, 1, 1, 0));
        assert_eq!(counts(&index.areas[1]), (1, 0, 0, 1), "later");
        let expected = "2 statements of closed areas: 1 defended, 1 not applicable, 0 open; \
                        2 closed bug classes: 0 without a test";
        assert_eq!(index.verdict(), expected);
    }

    #[test]
    fn holes_in_what_is_closed_are_listed_and_fail() {
        let index = index("#[test]\nfn bug_class_01_x() {}\n", None);
        assert_eq!(index.exit_code, EXIT_FAILED);
        let failures = [
            "open in alpha: A-001 MUST: Do",
            "no test of bug class 3: three",
        ];
        assert_eq!(index.failures(), failures);
        for failure in failures {
            assert!(index.human(false).contains(failure));
        }
    }

    #[test]
    fn claims_that_the_lists_do_not_know_fail() {
        let more = "
/// Defends: A-009, A-002.
#[test]
fn bug_class_04_x() {}
";
        let expected = [
            "tests/x.rs:8: no statement A-009",
            "tests/x.rs:8: A-002 is defended, and not applicable because no such part",
            "tests/x.rs:8: no bug class 4",
        ];
        let index = index(&(COMPLETE.to_owned() + more), None);
        assert_eq!(index.failures(), expected);
        assert_eq!(index.exit_code, EXIT_FAILED);
    }

    #[test]
    fn tests_of_the_fake_device_defend_nothing_by_themselves() {
        for (file, code) in [
            ("tests/fake_split.rs", EXIT_FAILED),
            ("src/testing/device.rs", EXIT_FAILED),
            ("tests/split.rs", EXIT_OK),
        ] {
            let source = "/// Defends: A-001.\n#[test]\nfn one() {}\n";
            let index = index_of(file, source, Some("alpha"));
            assert_eq!(index.exit_code, code, "{file}");
            assert_eq!(
                index.areas[0].rows[0].tests.len(),
                1,
                "it is listed all the same"
            );
        }
    }

    #[test]
    fn one_area_is_judged_by_itself() {
        assert_eq!(index("", Some("beta")).exit_code, EXIT_OK, "later");
        assert_eq!(index("", Some("alpha")).exit_code, EXIT_FAILED);
        let alpha = index("/// Defends: A-001.\n#[test]\nfn one() {}\n", Some("alpha"));
        assert_eq!(alpha.exit_code, EXIT_OK, "classes are not looked at");
        let text = alpha.human(true);
        assert!(text.contains("one (tests/x.rs:3)"), "{text}");
        assert!(text.contains("not applicable: no such part"), "{text}");
    }

    #[test]
    fn the_names_that_scripts_rely_on() {
        let json = serde_json::to_value(index(COMPLETE, None)).unwrap();
        for pointer in [
            "/schema",
            "/ok",
            "/exit_code",
            "/command",
            "/error",
            "/problems",
            "/areas/0/name",
            "/areas/0/closed",
            "/areas/0/statements",
            "/areas/0/defended",
            "/areas/0/not_applicable",
            "/areas/0/open",
            "/areas/0/rows/0/id",
            "/areas/0/rows/0/tests/0/name",
            "/areas/0/rows/0/tests/0/file",
            "/areas/0/rows/0/tests/0/line",
            "/areas/0/rows/1/reason",
            "/bug_classes/0/number",
            "/bug_classes/0/title",
            "/bug_classes/0/closed",
            "/bug_classes/0/tests",
        ] {
            assert!(json.pointer(pointer).is_some(), "{pointer} is gone: {json}");
        }
        assert_eq!(json["areas"][0]["rows"][1]["status"], "not_applicable");
    }
}
