//! The source of a Linux, from the distribution's package of it: of a large archive, only what is
//! asked for stays.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::apt::Apt;
use super::{PACKAGE_SECONDS, Provision};
use crate::qemu::limits::Deadline;
use crate::qemu::process;
use crate::qemu::stop::Stop;

/// The package, in Debian 13 and in the backports of Debian 12.
const PACKAGE: &str = "linux-source-6.12";

impl Provision<'_> {
    /// A tree that holds these files and directories of the source, in the cache.
    pub(crate) fn linux_source(&self, parts: &[&str]) -> Result<PathBuf, Stop> {
        let dir = self.cache.join(PACKAGE);
        let tree = dir.join("tree");
        if parts.iter().all(|part| tree.join(part).exists()) {
            return Ok(tree);
        }
        let missing = |why: String| {
            let fix = format!("on a Debian with {PACKAGE}, connected to where its packages are");
            Stop::missing(format!("the package {PACKAGE}"), why, fix)
        };
        let apt = Apt::backports(&self.cache, self.ui);
        let mut apt = apt.ok_or_else(|| missing("this system has no apt".into()))?;
        self.ui.note(&format!(
            "fetching {PACKAGE}, unpacked under target/ (not installed)"
        ));
        match apt.unpack(&[PACKAGE.to_owned()], &dir) {
            Err(Stop::Broken(error)) => return Err(missing(format!("{error:#}"))),
            done => done?,
        }
        let archive = dir.join("usr/src").join(format!("{PACKAGE}.tar.xz"));
        extract(&archive, &tree, parts)?;
        // It is a hundred times as large as what was asked for.
        drop(std::fs::remove_file(&archive));
        Ok(tree)
    }
}

fn extract(archive: &Path, tree: &Path, parts: &[&str]) -> Result<(), Stop> {
    std::fs::create_dir_all(tree).with_context(|| format!("cannot make {}", tree.display()))?;
    let mut tar = Command::new("tar");
    tar.arg("-xJf").arg(archive).arg("-C").arg(tree);
    tar.args(["--strip-components=1", "--wildcards"]);
    tar.args(parts.iter().map(|part| format!("*/{part}")));
    process::run_ok(&mut tar, Deadline::seconds(PACKAGE_SECONDS))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_asked_for_is_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for file in ["linux/a/b", "linux/a/c", "linux/d"] {
            std::fs::create_dir_all(at(file).parent().unwrap()).unwrap();
            std::fs::write(at(file), "x").unwrap();
        }
        let mut tar = Command::new("tar");
        tar.arg("-cJf")
            .arg(at("x.tar.xz"))
            .arg("-C")
            .arg(dir.path())
            .arg("linux");
        process::run_ok(&mut tar, Deadline::seconds(30)).unwrap();
        extract(&at("x.tar.xz"), &at("tree"), &["a/b", "d"]).unwrap();
        assert!(at("tree/a/b").is_file() && at("tree/d").is_file());
        assert!(!at("tree/a/c").exists());
    }
}
