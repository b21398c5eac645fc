//! Debian packages without installing them: located, downloaded, unpacked into a directory.
//!
//! The system's package lists are used as they are. Where they are missing or too old, lists of
//! our own are fetched into the cache; the system's stay untouched, and no privilege is needed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::{PACKAGE_SECONDS, UNPACKING};
use crate::qemu::limits::Deadline;
use crate::qemu::process;
use crate::qemu::stop::Stop;
use crate::qemu::ui::Ui;

/// The package manager, with lists that are known to hold what was asked for.
#[derive(Debug)]
pub(super) struct Apt<'a> {
    cache: PathBuf,
    own_lists: bool,
    /// A list of sources instead of the system's `sources.list`, and the release that goes before
    /// others.
    release: Option<(PathBuf, String)>,
    ui: &'a Ui,
}

fn deadline() -> Deadline {
    Deadline::seconds(PACKAGE_SECONDS)
}

impl<'a> Apt<'a> {
    /// The package manager, where this machine has it.
    pub(super) fn find(cache: &Path, ui: &'a Ui) -> Option<Self> {
        for program in ["apt-get", "apt-cache", "dpkg-deb"] {
            process::find_program(program)?;
        }
        Some(Self {
            cache: cache.join("apt"),
            own_lists: false,
            release: None,
            ui,
        })
    }

    /// The same with Debian's backports beside the system's sources, in lists of our own; the
    /// system's sources are only read. Elsewhere than on a Debian that has none, as
    /// [`find`](Self::find).
    pub(super) fn backports(cache: &Path, ui: &'a Ui) -> Option<Self> {
        let plain = Self::find(cache, ui)?;
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        let main = Path::new("/etc/apt/sources.list");
        let mut texts = vec![read(main)];
        let parts = std::fs::read_dir("/etc/apt/sources.list.d");
        let parts = parts.into_iter().flatten().flatten();
        texts.extend(
            parts
                .map(|entry| entry.path())
                .filter(|path| {
                    let extension = path.extension().unwrap_or_default();
                    extension == "list" || extension == "sources"
                })
                .map(|path| read(&path)),
        );
        let release = read(Path::new("/etc/os-release"));
        let Some((source, suite)) = backports_source(&release, &texts.join("\n\n")) else {
            return Some(plain);
        };
        let cache = cache.join("apt-backports");
        std::fs::create_dir_all(&cache).ok()?;
        let list = cache.join("sources.list");
        std::fs::write(&list, format!("{}\n{source}\n", read(main))).ok()?;
        Some(Self {
            cache,
            own_lists: true,
            release: Some((list, suite)),
            ui,
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C");
        command.env("DEBIAN_FRONTEND", "noninteractive");
        // The sandbox user cannot write into a project's directory.
        command.args(["-o", "APT::Sandbox::User=root", "-o", "Debug::NoLocking=1"]);
        if let Some((list, release)) = &self.release {
            command.args(["-o", &format!("Dir::Etc::sourcelist={}", list.display())]);
            command.args(["-o", &format!("APT::Default-Release={release}")]);
        }
        if self.own_lists {
            for (key, dir) in [("Dir::State::lists", "lists"), ("Dir::Cache", "cache")] {
                let dir = self.cache.join(dir);
                command.args(["-o", &format!("{key}={}", dir.display())]);
            }
        }
        command
    }

    /// Fetches lists of our own, once.
    fn update(&mut self) -> Result<(), Stop> {
        for dir in ["lists/partial", "cache/archives/partial"] {
            let dir = self.cache.join(dir);
            std::fs::create_dir_all(&dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
        }
        self.own_lists = true;
        self.ui.note("fetching package lists into target/");
        process::run_ok(self.command("apt-get").arg("update"), deadline())?;
        Ok(())
    }

    /// Tries with the system's lists, then with those fetched before, then with fresh ones.
    fn retry<T>(&mut self, mut work: impl FnMut(&Self) -> Result<T, Stop>) -> Result<T, Stop> {
        let first = match work(self) {
            Err(Stop::Broken(error)) => error,
            result => return result,
        };
        let fetched = self.cache.join("lists/partial").is_dir();
        if !self.own_lists && fetched {
            self.own_lists = true;
            if let Ok(done) = work(self) {
                return Ok(done);
            }
        }
        match self.update() {
            Ok(()) => work(self),
            Err(Stop::Broken(error)) => Err(Stop::Broken(error.context(first))),
            Err(stop) => Err(stop),
        }
    }

    /// The packages among the dependencies of one of these, itself included, whose names begin
    /// so: a kernel's image and its modules, without the tools that would install them.
    pub(super) fn kernel_packages(&mut self, metas: &[&str]) -> Result<Vec<String>, Stop> {
        self.retry(|apt| {
            for meta in metas {
                let found = apt.kernel_closure(meta)?;
                if found.iter().any(|name| is_real_image(name)) {
                    return Ok(found);
                }
            }
            Err(Stop::Broken(anyhow::anyhow!(
                "the package lists hold none of {}",
                metas.join(", ")
            )))
        })
    }

    fn kernel_closure(&self, meta: &str) -> Result<Vec<String>, Stop> {
        let mut found: Vec<String> = Vec::new();
        let mut todo = vec![meta.to_owned()];
        while let Some(name) = todo.pop() {
            if found.contains(&name) {
                continue;
            }
            let mut command = self.command("apt-cache");
            command.args(["depends", "--no-recommends", "--no-suggests", &name]);
            let output = process::run(&mut command, deadline())?;
            if !output.status.success() {
                continue;
            }
            todo.extend(parse_depends(&output.stdout));
            found.push(name);
        }
        Ok(found)
    }

    /// What would be installed for these packages, they included, as `name=version`.
    pub(super) fn missing(&mut self, packages: &[&str]) -> Result<Vec<String>, Stop> {
        self.retry(|apt| {
            let mut command = apt.command("apt-get");
            command.args(["install", "--simulate", "--no-install-recommends"]);
            command.args(packages);
            let output = process::run_ok(&mut command, deadline())?;
            Ok(parse_simulation(&output.stdout))
        })
    }

    /// Downloads packages and unpacks them into a directory, whole or not at all.
    pub(super) fn unpack(&mut self, packages: &[String], into: &Path) -> Result<(), Stop> {
        let parent = into.parent().context("a directory without a parent")?;
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot make {}", parent.display()))?;
        let work = tempfile::Builder::new()
            .prefix(UNPACKING)
            .tempdir_in(parent)
            .with_context(|| format!("cannot write into {}", parent.display()))?;
        let debs = work.path().join("debs");
        let root = work.path().join("root");
        for dir in [&debs, &root] {
            std::fs::create_dir(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        self.retry(|apt| {
            let mut command = apt.command("apt-get");
            command.current_dir(&debs).arg("download").args(packages);
            process::run_ok(&mut command, deadline())?;
            Ok(())
        })?;
        let entries = std::fs::read_dir(&debs).context("cannot list the downloads")?;
        for entry in entries {
            let path = entry.context("cannot list the downloads")?.path();
            let mut command = Command::new("dpkg-deb");
            command.arg("-x").arg(&path).arg(&root);
            process::run_ok(&mut command, deadline())?;
        }
        if into.exists() {
            std::fs::remove_dir_all(into)
                .with_context(|| format!("cannot replace {}", into.display()))?;
        }
        std::fs::rename(&root, into)
            .with_context(|| format!("cannot put {} in place", into.display()))?;
        Ok(())
    }
}

/// The line of `sources.list` for the backports of the Debian that this is, at the place where its
/// packages come from, and the name of the suite.
fn backports_source(os_release: &str, sources: &str) -> Option<(String, String)> {
    let field = |name: &str| {
        let mut lines = os_release.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.trim_matches('"'))
    };
    let codename = field("VERSION_CODENAME").filter(|_| field("ID") == Some("debian"))?;
    let suite = format!("{codename}-backports");
    let line = one_line_source(sources, codename).or_else(|| stanza_source(sources, codename))?;
    let (options, place) = line;
    Some((format!("deb {options}{place} {suite} main"), suite))
}

/// `deb [options] place codename components`, as options and place.
fn one_line_source(sources: &str, codename: &str) -> Option<(String, String)> {
    sources.lines().find_map(|line| {
        let rest = line.trim().strip_prefix("deb ")?.trim();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (options, rest) = rest.split_once(']')?;
                (format!("[{options}] "), rest)
            }
            None => (String::new(), rest),
        };
        let mut words = rest.split_ascii_whitespace();
        let place = words.next()?;
        (words.next()? == codename).then(|| (options, place.to_owned()))
    })
}

/// The same of a stanza of a `.sources` file.
fn stanza_source(sources: &str, codename: &str) -> Option<(String, String)> {
    // Stanzas are separated by empty lines; so are the files, as they were joined.
    sources.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            let mut lines = stanza.lines();
            lines.find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
        };
        let suites = field("Suites")?;
        if !suites
            .split_ascii_whitespace()
            .any(|suite| suite == codename)
        {
            return None;
        }
        let place = field("URIs")?.split_ascii_whitespace().next()?;
        let key = field("Signed-By").filter(|key| key.starts_with('/'));
        let options = key.map(|key| format!("[signed-by={key}] "));
        Some((options.unwrap_or_default(), place.to_owned()))
    })
}

/// `linux-image-6.1.0-56-cloud-amd64`, not the name that points to it.
fn is_real_image(name: &str) -> bool {
    name.strip_prefix("linux-image-")
        .map(|rest| rest.strip_prefix("unsigned-").unwrap_or(rest))
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The kernel packages among the lines of `apt-cache depends`.
fn parse_depends(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            line.trim()
                .trim_start_matches('|')
                .strip_prefix("Depends: ")
        })
        .map(|name| name.trim_matches(['<', '>']).to_owned())
        .filter(|name| name.starts_with("linux-image-") || name.starts_with("linux-modules-"))
        .collect()
}

/// `Inst name [old] (version source [arch]) ...` lines as `name=version`.
fn parse_simulation(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| {
            let rest = line.strip_prefix("Inst ")?;
            let (name, _) = rest.split_once(' ')?;
            let (_, version) = rest.split_once('(')?;
            let version = version.split_ascii_whitespace().next()?;
            Some(format!("{name}={version}"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-56-cloud-amd64\n";
        assert_eq!(parse_depends(text), ["linux-image-6.1.0-56-cloud-amd64"]);
        let text = "linux-image-6.8.0-60-generic\n  Depends: kmod\n |Depends: <linux-initramfs-tool>\n  Depends: linux-modules-6.8.0-60-generic\n";
        assert_eq!(parse_depends(text), ["linux-modules-6.8.0-60-generic"]);
    }

    #[test]
    fn backports_come_from_where_the_packages_come_from() {
        let debian = "ID=debian\nVERSION_CODENAME=bookworm\n";
        let stanza = "Types: deb\n# a note\nURIs: http://a/debian-security\n\
            Suites: bookworm-security\nComponents: main\n\nTypes: deb\nURIs: http://b/debian\n\
            Suites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n";
        let expected = "deb [signed-by=/k.gpg] http://b/debian bookworm-backports main";
        let found = backports_source(debian, stanza).unwrap();
        assert_eq!(found, (expected.into(), "bookworm-backports".into()));
        let line = "# deb x y\ndeb [arch=amd64] http://c/ bookworm main contrib\n";
        let expected = "deb [arch=amd64] http://c/ bookworm-backports main";
        assert_eq!(backports_source(debian, line).unwrap().0, expected);
        assert_eq!(
            backports_source("ID=ubuntu\nVERSION_CODENAME=noble", line),
            None
        );
        assert_eq!(backports_source(debian, "deb http://c sid main"), None);
    }

    #[test]
    fn real_images_are_told_from_names() {
        assert!(is_real_image("linux-image-6.1.0-56-cloud-amd64"));
        assert!(is_real_image("linux-image-unsigned-6.8.0-60-generic"));
        assert!(!is_real_image("linux-image-cloud-amd64"));
        assert!(!is_real_image("linux-modules-6.8.0-60-generic"));
    }

    #[test]
    fn a_simulation_is_read() {
        let text = "Reading package lists...\n\
            Inst libslirp0 (4.7.0-1 Debian:12.0/stable [amd64])\n\
            Inst qemu-system-x86 [1:7.1] (1:7.2+dfsg-7 Debian:12/stable [amd64]) []\n\
            Conf libslirp0 (4.7.0-1 Debian:12.0/stable [amd64])\n";
        assert_eq!(
            parse_simulation(text),
            ["libslirp0=4.7.0-1", "qemu-system-x86=1:7.2+dfsg-7"]
        );
    }
}
