//! A copy of the workspace in which things may be broken.
//!
//! It stays between runs, as does what was compiled of it; a file is written only when it differs,
//! so that the compiler does again only what it must.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::qemu::limits::Deadline;
use crate::qemu::process;
use crate::qemu::stop::Stop;
use crate::test::run::Run;

/// How long git may take to list the files.
const LIST_SECONDS: u64 = 60;

/// The copy.
#[derive(Debug)]
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// Makes the copy what the workspace is: the files that git knows or would take.
    pub(crate) fn prepare(run: &Run<'_>, root: PathBuf) -> Result<Self, Stop> {
        let workspace = run.context.workspace.clone();
        // The files are only listed: it does not matter whose they are.
        let words = ["-c", "safe.directory=*", "ls-files", "--cached", "--others"];
        let mut listing = Command::new("git");
        listing
            .args(words)
            .args(["--exclude-standard", "-z"])
            .current_dir(&workspace);
        let listed = process::run(&mut listing, Deadline::seconds(LIST_SECONDS))?;
        if !listed.status.success() {
            return Err(Stop::missing(
                "a list of the workspace's files",
                listed.tail(),
                "run this in a clone",
            ));
        }
        let files: BTreeSet<PathBuf> = listed
            .stdout
            .split('\0')
            .filter(|name| !name.is_empty())
            .map(PathBuf::from)
            .filter(|file| workspace.join(file).is_file())
            .collect();
        let tree = Self { root };
        tree.prune(&tree.root, &files)?;
        for file in &files {
            let from = workspace.join(file);
            let bytes =
                std::fs::read(&from).with_context(|| format!("cannot read {}", from.display()))?;
            tree.write(file, &bytes)?;
        }
        Ok(tree)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Removes what the workspace has no longer.
    fn prune(&self, dir: &Path, files: &BTreeSet<PathBuf>) -> anyhow::Result<()> {
        let Ok(entries) = std::fs::read_dir(dir) else {
            return Ok(());
        };
        for entry in entries.flatten() {
            let path = entry.path();
            if path.is_dir() {
                self.prune(&path, files)?;
                continue;
            }
            let name = path.strip_prefix(&self.root).unwrap_or(&path);
            if !files.contains(name) && name != Path::new("Cargo.lock") {
                std::fs::remove_file(&path)
                    .with_context(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// Writes a file, unless it is so already.
    pub(crate) fn write(&self, file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.root.join(file);
        if std::fs::read(&path).is_ok_and(|there| there == bytes) {
            return Ok(());
        }
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
        }
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))
    }

    pub(crate) fn read(&self, file: &str) -> anyhow::Result<String> {
        let path = self.root.join(file);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }
}

/// A file that is broken for as long as this lives.
#[derive(Debug)]
pub(crate) struct Broken<'a> {
    tree: &'a Tree,
    file: &'a str,
    sound: String,
}

impl<'a> Broken<'a> {
    pub(crate) fn new(
        tree: &'a Tree,
        file: &'a str,
        sound: String,
        broken: &str,
    ) -> anyhow::Result<Self> {
        tree.write(Path::new(file), broken.as_bytes())?;
        Ok(Self { tree, file, sound })
    }
}

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        // What cannot be restored is restored by the next run, which compares every file.
        drop(self.tree.write(Path::new(self.file), self.sound.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_broken_for_a_while_and_what_is_gone_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree {
            root: dir.path().join("tree"),
        };
        tree.write(Path::new("src/a"), b"sound").unwrap();
        tree.write(Path::new("src/b"), b"old").unwrap();
        let broken = Broken::new(&tree, "src/a", "sound".into(), "broken").unwrap();
        assert_eq!(tree.read("src/a").unwrap(), "broken");
        drop(broken);
        assert_eq!(tree.read("src/a").unwrap(), "sound");
        let files = BTreeSet::from([PathBuf::from("src/a")]);
        tree.prune(tree.root(), &files).unwrap();
        assert!(tree.read("src/a").is_ok() && tree.read("src/b").is_err());
    }
}
