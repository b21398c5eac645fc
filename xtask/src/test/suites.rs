//! Which test program of the library belongs to which section: each to exactly one.
//!
//! A pattern is a name, or `*` and the end of names, or the beginning of names and `*`. The unit
//! tests below fail when a file in `tests/` has no section or two, or a pattern has no file.

/// A name, or a part of it and `*`.
type Pattern = &'static str;

/// Sections that run test programs of the library, and which.
pub(crate) const SUITES: &[(&str, &[Pattern])] = &[
    (
        "unit",
        &[
            "conformance",
            "embassy",
            "fake_*",
            "futures",
            "indirect",
            "init",
            "legacy",
            "life_cycle",
            "memory_faults",
            "net",
            "net_legacy",
            "net_recovery",
            "no_alloc",
            "packed",
            "smoltcp",
            "transport_config",
            "virtqueue_bookkeeping",
            "virtqueue_bursts",
            "virtqueue_cells",
            "virtqueue_lifetime",
            "virtqueue_ordering",
        ],
    ),
    ("oracle", &["*_oracle"]),
    ("model", &["model"]),
    (
        "hostile",
        &["hostile", "virtqueue_hostile", "pci_*", "mmio_*"],
    ),
];

/// How Miri interprets tests.
pub(crate) struct MiriRun {
    pub(crate) name: &'static str,
    /// Besides those that every run has.
    pub(crate) flags: &'static str,
    /// Another machine than this one.
    pub(crate) target: Option<&'static str>,
    /// Test programs, the heavy ones first.
    pub(crate) programs: &'static [Pattern],
}

/// Where a word of 64 bits is two, and the order of its halves is all that keeps a packed ring's
/// descriptor whole. Miri needs nothing of such a machine but its name.
pub(crate) const ON_32_BITS: MiriRun = MiriRun {
    name: "32 bits",
    flags: "",
    target: Some("i686-unknown-linux-gnu"),
    programs: &["virtqueue_ordering"],
};

/// What Miri interprets: test programs whose subject is memory that is shared with a device. It is
/// a thousand times slower than the machine, so each run has what it may see differently. Those that
/// last longest come first, so that no core is left with one of them in the end.
pub(crate) const UNDER_MIRI: &[MiriRun] = &[
    // These leak on purpose: queues that are dropped or forgotten while their device runs, storage
    // that is lent for ever. The fake platforms keep books of what must not leak.
    MiriRun {
        name: "stacked borrows, what leaks on purpose",
        flags: "-Zmiri-ignore-leaks",
        target: None,
        programs: &["futures", "virtqueue_lifetime", "indirect"],
    },
    MiriRun {
        name: "tree borrows, what leaks on purpose",
        flags: "-Zmiri-tree-borrows -Zmiri-ignore-leaks",
        target: None,
        // Not `futures`: what it adds to queues has no unsafe code of its own.
        programs: &["virtqueue_bookkeeping", "indirect"],
    },
    MiriRun {
        name: "stacked borrows",
        flags: "",
        target: None,
        programs: &[
            "virtqueue_ordering",
            "virtqueue_bursts",
            "packed",
            LIBRARY_TESTS,
            "virtqueue_hostile",
            "fake_*",
        ],
    },
    MiriRun {
        name: "tree borrows",
        flags: "-Zmiri-tree-borrows",
        target: None,
        programs: &[LIBRARY_TESTS, "fake_device", "fake_platforms"],
    },
    ON_32_BITS,
];

/// What runs on 32 bits and big-endian too: test programs that see the layout of rings, registers
/// and structures, or the arithmetic of addresses and sizes.
pub(crate) const ON_OTHER_TARGETS: &[Pattern] = &[
    LIBRARY_TESTS,
    "fake_*",
    "hostile",
    "indirect",
    "mmio_transport",
    "net",
    "packed",
    "pci_layout",
    "pci_transport",
    "transport_config",
    "virtqueue_bookkeeping",
    "virtqueue_cells",
    "virtqueue_hostile",
];

/// Stands for the library's own tests.
pub(crate) const LIBRARY_TESTS: Pattern = "";

/// The names among `suites` that belong to a section.
pub(crate) fn of_section<'a>(section: &str, suites: &'a [String]) -> Vec<&'a str> {
    let patterns = SUITES
        .iter()
        .filter(|(name, _)| *name == section)
        .flat_map(|(_, patterns)| *patterns);
    let patterns: Vec<Pattern> = patterns.copied().collect();
    matching(&patterns, suites)
}

/// The names among `suites` that the patterns mean, in the order of the patterns, and
/// [`LIBRARY_TESTS`] where that stands among them.
pub(crate) fn in_order<'a>(patterns: &[Pattern], suites: &'a [String]) -> Vec<&'a str> {
    let meant = |&pattern: &Pattern| match pattern {
        LIBRARY_TESTS => vec![LIBRARY_TESTS],
        _ => matching(&[pattern], suites),
    };
    patterns.iter().flat_map(meant).collect()
}

/// The names among `suites` that one of the patterns means.
fn matching<'a>(patterns: &[Pattern], suites: &'a [String]) -> Vec<&'a str> {
    suites
        .iter()
        .map(String::as_str)
        .filter(|name| patterns.iter().any(|pattern| matches(pattern, name)))
        .collect()
}

fn matches(pattern: Pattern, name: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => name.ends_with(end),
        (_, Some(start)) => name.starts_with(start),
        (None, None) => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::sections;

    /// What is there, whether cargo has been told of it or not.
    fn files() -> Vec<String> {
        let dir = crate::qemu::workspace().join("tests");
        let mut names: Vec<String> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "rs"))
            .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn every_test_program_runs_in_exactly_one_section() {
        let files = files();
        assert!(!files.is_empty());
        for file in &files {
            let owners: Vec<&str> = SUITES
                .iter()
                .filter(|(_, patterns)| patterns.iter().any(|p| matches(p, file)))
                .map(|(section, _)| *section)
                .collect();
            assert_eq!(owners.len(), 1, "tests/{file}.rs is run by {owners:?}");
        }
    }

    #[test]
    fn no_pattern_is_left_over() {
        let files = files();
        let sections = SUITES.iter().map(|(_, patterns)| *patterns);
        let miri = UNDER_MIRI.iter().map(|run| run.programs);
        let all = sections.chain(miri).chain([ON_OTHER_TARGETS]).flatten();
        for pattern in all.filter(|&&pattern| pattern != LIBRARY_TESTS) {
            assert!(
                files.iter().any(|file| matches(pattern, file)),
                "no file in tests/ is meant by {pattern}"
            );
        }
        for (section, _) in SUITES {
            assert!(sections::NAMES.contains(section), "no section {section}");
        }
    }

    #[test]
    fn miri_has_each_program_once_in_a_run() {
        for run in UNDER_MIRI {
            let files = files();
            let mut names = in_order(run.programs, &files);
            let count = names.len();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), count, "{}: a program twice", run.name);
        }
    }

    #[test]
    fn cargo_knows_every_file() {
        let mut known = crate::test::context::Context::read().unwrap().suites;
        known.sort();
        assert_eq!(known, files());
    }
}
