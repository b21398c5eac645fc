//! Finding tests in sources: their names, and the statements that they say they defend.
//!
//! Sources are read line by line, without parsing Rust: rustfmt keeps an attribute and the name of
//! a function at the beginnings of lines, in the body of a macro too, where the name may be a
//! variable of it (`$name`). Text in a string that looks like a test is taken for one; the
//! directories that are read hold none.

use std::path::Path;

use anyhow::Context as _;
use serde::Serialize;

/// A function that `#[test]` marks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Test {
    pub(crate) name: String,
    /// Relative to the workspace.
    pub(crate) file: String,
    /// Of its name, from 1.
    pub(crate) line: usize,
    /// The ids of its `Defends` lines, in order.
    pub(crate) defends: Vec<String>,
}

/// Something that must be put right before the index can be believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    pub(crate) file: String,
    /// From 1; 0 for the file as a whole.
    pub(crate) line: usize,
    pub(crate) what: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) tests: Vec<Test>,
    pub(crate) problems: Vec<Problem>,
}

/// Reads every Rust source below a directory, in the order of names.
pub(crate) fn directory(workspace: &Path, dir: &str, found: &mut Found) -> anyhow::Result<()> {
    let path = workspace.join(dir);
    let read = || format!("cannot read {}", path.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&path).with_context(read)? {
        let entry = entry.with_context(read)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        names.push((name, entry.file_type().with_context(read)?));
    }
    names.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (name, kind) in names {
        let inner = format!("{dir}/{name}");
        if kind.is_dir() && name != "target" {
            directory(workspace, &inner, found)?;
        } else if kind.is_file() && name.ends_with(".rs") {
            let text = std::fs::read_to_string(workspace.join(&inner))
                .with_context(|| format!("cannot read {inner}"))?;
            source(&inner, &text, found);
        }
    }
    Ok(())
}

/// What stands above a function, until its name is reached.
#[derive(Default)]
struct Above {
    /// Ids, and the line that names each.
    defends: Vec<(String, usize)>,
    is_test: bool,
    is_ignored: bool,
}

/// Reads one source.
pub(crate) fn source(file: &str, text: &str, found: &mut Found) {
    let problem = |line: usize, what: String| Problem {
        file: file.into(),
        line,
        what,
    };
    let mut above = Above::default();
    // Brackets of an attribute that goes on in the next line.
    let mut open = 0;
    for (line, number) in text.lines().map(str::trim).zip(1..) {
        if open > 0 {
            open += brackets(line);
        } else if let Some(comment) = line.strip_prefix("//") {
            match defends(comment) {
                None => {}
                Some(Ok(ids)) => above.defends.extend(ids.into_iter().map(|id| (id, number))),
                Some(Err(why)) => found.problems.push(problem(number, why)),
            }
        } else if line.starts_with("#[") {
            above.is_test |= line.starts_with("#[test]");
            above.is_ignored |= line.starts_with("#[ignore");
            open = brackets(line);
        } else if !line.is_empty() {
            let above = std::mem::take(&mut above);
            let name = function(line);
            match name {
                Some(name) if above.is_test => {
                    if above.is_ignored && !above.defends.is_empty() {
                        let what = format!("`{name}` is ignored: it defends nothing");
                        found.problems.push(problem(number, what));
                        continue;
                    }
                    found.tests.push(Test {
                        name: name.into(),
                        file: file.into(),
                        line: number,
                        defends: above.defends.into_iter().map(|(id, _)| id).collect(),
                    });
                }
                _ => {
                    if let Some((_, at)) = above.defends.first() {
                        let what = "`Defends` above something that is not a test".into();
                        found.problems.push(problem(*at, what));
                    }
                }
            }
        }
    }
    if let Some((_, at)) = above.defends.first() {
        let what = "`Defends` above nothing".into();
        found.problems.push(problem(*at, what));
    }
}

/// How many more brackets a line opens than it closes.
fn brackets(line: &str) -> i32 {
    line.chars()
        .map(|c| match c {
            '[' | '(' | '{' => 1,
            ']' | ')' | '}' => -1,
            _ => 0,
        })
        .sum()
}

/// The ids of a comment that says what a test defends, given what follows its `//`.
fn defends(comment: &str) -> Option<Result<Vec<String>, String>> {
    let said = comment.trim_start_matches(['/', '!']).trim();
    let rest = said.strip_prefix("Defends")?;
    let form = "write `/// Defends: SP-009, PK-014.`";
    let ids = rest
        .strip_prefix(": ")
        .and_then(|ids| ids.strip_suffix('.'));
    let Some(ids) = ids.filter(|_| comment.starts_with("/ ")) else {
        // A sentence may begin with the word; what names statements is meant as a list of them.
        let listed = rest.starts_with(':') || rest.split_whitespace().next().is_some_and(is_id);
        return listed.then(|| Err(form.into()));
    };
    let ids: Vec<&str> = ids.split(", ").collect();
    match ids.iter().find(|id| !is_id(id)) {
        Some(id) => Some(Err(format!("`{id}` is no id: {form}"))),
        None => Some(Ok(ids.into_iter().map(str::to_owned).collect())),
    }
}

/// Whether a word looks like an id: capitals, a dash, and a number with or without letters.
fn is_id(word: &str) -> bool {
    let word = word.trim_end_matches([',', '.']);
    word.split_once('-').is_some_and(|(area, number)| {
        !area.is_empty()
            && area
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
            && number.chars().any(|c| c.is_ascii_digit())
            && number.chars().all(|c| c.is_ascii_alphanumeric())
    })
}

/// The name of a function that begins in this line.
fn function(line: &str) -> Option<&str> {
    let (before, rest) = match line.strip_prefix("fn ") {
        Some(rest) => ("", rest),
        None => line.split_once(" fn ")?,
    };
    let qualifiers = before.split_whitespace().all(|word| {
        matches!(word, "const" | "async" | "unsafe" | "extern" | "\"C\"") || word.starts_with("pub")
    });
    let end = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '$')))?;
    let name = rest.get(..end)?;
    (qualifiers && !name.is_empty()).then_some(name)
}

/// The numbers in the name of a test of bug classes: `bug_class_41_and_43_absurd_registers`.
pub(crate) fn bug_classes(name: &str) -> Vec<u32> {
    let Some(rest) = name.strip_prefix("bug_class_") else {
        return Vec::new();
    };
    let mut numbers = Vec::new();
    let mut words = rest.split('_');
    while let Some(Ok(number)) = words.next().map(str::parse) {
        numbers.push(number);
        if words.next() != Some("and") {
            break;
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Found {
        let mut found = Found::default();
        source("tests/x.rs", text, &mut found);
        found
    }

    fn tests(text: &str) -> Vec<(String, Vec<String>)> {
        let found = read(text);
        assert_eq!(found.problems, []);
        let pair = |test: Test| (test.name, test.defends);
        found.tests.into_iter().map(pair).collect()
    }

    fn problem(text: &str) -> (usize, String) {
        let found = read(text);
        assert_eq!(found.problems.len(), 1, "{found:?}");
        let problem = &found.problems[0];
        (problem.line, problem.what.clone())
    }

    fn ids(ids: &[&str]) -> Vec<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn a_test_has_a_name_a_place_and_what_it_defends() {
        let found =
            read("\n/// Words.\n/// Defends: SP-009, PCI-L03, LC-002a.\n#[test]\nfn one() {}\n");
        let test = Test {
            name: "one".into(),
            file: "tests/x.rs".into(),
            line: 5,
            defends: ids(&["SP-009", "PCI-L03", "LC-002a"]),
        };
        assert_eq!(found.tests, [test]);
        assert_eq!(found.problems, []);
    }

    #[test]
    fn lines_may_be_repeated_and_attributes_may_be_many_and_long() {
        let text = "
            /// Defends: SP-001.
            /// Defends: SP-002.
            // Why.
            #[cfg(all(
                unix,
                feature = \"x\",
            ))]
            #[test]
            #[should_panic(expected = \"[\")]
            ";
        // A bracket in a string is a bracket: the attribute never ends, and that is noticed.
        let (line, what) = problem(&format!("{text}fn one() {{}}\n"));
        assert_eq!((line, what.as_str()), (2, "`Defends` above nothing"));
        let text = text.replace("\"[\"", "\"no\"");
        let found = tests(&format!("{text}fn one() {{}}\n#[test]\nfn two() {{}}\n"));
        let one = ("one".to_owned(), ids(&["SP-001", "SP-002"]));
        assert_eq!(found, [one, ("two".to_owned(), ids(&[]))]);
    }

    #[test]
    fn names_that_a_macro_makes_count_and_so_do_property_tests() {
        let text = "
macro_rules! every {
    ($name:ident) => {
        /// Defends: SP-001.
        #[test]
        fn $name() {}
    };
}
proptest! {
    /// Defends: SP-002.
    #[test]
    fn any(
        x in 0..4,
    ) {}
}";
        let expected = [
            ("$name".to_owned(), ids(&["SP-001"])),
            ("any".to_owned(), ids(&["SP-002"])),
        ];
        assert_eq!(tests(text), expected);
    }

    #[test]
    fn only_a_test_defends() {
        let refused = "`Defends` above something that is not a test";
        for text in [
            "/// Defends: SP-001.\nfn helper() {}\n",
            "/// Defends: SP-001.\n#[inline]\npub(crate) fn helper() {}\n",
            "/// Defends: SP-001.\nstruct Rig;\n",
            "/// Defends: SP-001.\nlet x = 1;\n#[test]\nfn one() {}\n",
            "/// Defends: SP-001.\n#[test]\nconst fn_: u8 = 1;\n",
        ] {
            assert_eq!(problem(text), (1, refused.into()), "{text}");
        }
        let ignored = problem("/// Defends: SP-001.\n#[test]\n#[ignore = \"slow\"]\nfn one() {}\n");
        assert_eq!(ignored, (4, "`one` is ignored: it defends nothing".into()));
        let sometimes = "/// Defends: SP-001.\n#[test]\n#[cfg_attr(miri, ignore)]\nfn one() {}\n";
        assert_eq!(tests(sometimes).len(), 1);
    }

    #[test]
    fn a_line_of_another_form_is_not_passed_over() {
        for line in [
            "// Defends: SP-001.",
            "//! Defends: SP-001.",
            "/// Defends: SP-001",
            "/// Defends SP-001.",
            "/// Defends: SP-001 and SP-002.",
            "/// Defends: SP-001,SP-002.",
            "/// Defends: .",
            "/// Defends: sp-001.",
            "/// Defends: SP-001..SP-004.",
        ] {
            let (at, what) = problem(&format!("{line}\n#[test]\nfn one() {{}}\n"));
            assert_eq!(at, 1, "{line}");
            assert!(
                what.contains("/// Defends: SP-009, PK-014."),
                "{line}: {what}"
            );
        }
        // A sentence is none of it.
        assert_eq!(
            tests("/// Defends the door.\n#[test]\nfn one() {}\n").len(),
            1
        );
    }

    #[test]
    fn functions_are_known_by_their_first_line() {
        assert_eq!(function("fn a() {"), Some("a"));
        assert_eq!(function("pub(crate) async unsafe fn a<T>("), Some("a"));
        assert_eq!(function("fn $name() {"), Some("$name"));
        assert_eq!(function("let f = |x| fn a() {"), None);
        assert_eq!(function("type F = fn (u8);"), None);
    }

    #[test]
    fn bug_classes_are_numbers_in_names() {
        assert_eq!(bug_classes("bug_class_01_kick"), [1]);
        assert_eq!(bug_classes("bug_class_41_and_43_absurd"), [41, 43]);
        assert_eq!(bug_classes("bug_class_38_and_the_rest"), [38]);
        assert!(bug_classes("bug_class_of_its_own").is_empty());
        assert!(bug_classes("a_bug_class_01").is_empty());
    }
}
