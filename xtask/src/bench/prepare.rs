//! What has to be there before anything is measured: a copy of libblkio's `virtio-driver` that can
//! be used, and the programs.
//!
//! `virtio-driver` 0.6.1 has a public trait, `IovaTranslator`, whose methods return an address type
//! that the crate does not export, so that nobody outside can implement it. Its source is taken as
//! cargo has it, copied under `target/`, and its one line that imports the type is made to export it.
//! `benches/Cargo.toml` points there.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Deserialize;

use crate::qemu::stop::Stop;
use crate::test::run::{Cmd, Run};
use crate::test::section::Skip;

/// libblkio's crate, and the version that the edit below fits.
const LIBBLKIO: &str = "virtio-driver";
const LIBBLKIO_VERSION: &str = "0.6.1";
/// The edit, in `src/lib.rs`.
const HIDDEN: &str = "\nuse util::iova::*;\n";
const PUBLIC: &str = "\npub use util::iova::*;\n";
/// Left in a copy that is whole.
const DONE: &str = ".made-public";
/// How long cargo may take to fetch a few crates.
const FETCH_SECONDS: u64 = 300;
/// How long the compiler may take.
const BUILD_SECONDS: u64 = 900;

/// Why there are no programs.
#[derive(Clone, Debug)]
pub(crate) enum Lack {
    /// The machine cannot have it.
    Skip(Skip),
    /// It does not build.
    Failed(String),
}

/// Copies libblkio's crate, and builds the programs; where they are.
pub(crate) fn programs(run: &mut Run<'_>) -> Result<Result<PathBuf, Lack>, Stop> {
    if let Err(lack) = libblkio(run)? {
        return Ok(Err(lack));
    }
    let target = run.context.out.join("build");
    let build = Cmd::cargo(["build", "--release", "--locked", "--manifest-path"])
        .args([run.context.workspace.join("benches/Cargo.toml")])
        .args(["--target-dir".as_ref(), target.as_os_str()]);
    Ok(match build_within(run, &build)? {
        Ok(()) => Ok(target.join("release")),
        Err(why) => Err(Lack::Failed(format!(
            "the bench programs do not build: {why}"
        ))),
    })
}

/// Builds, within a limit.
pub(crate) fn build_within(run: &mut Run<'_>, build: &Cmd) -> Result<Result<(), String>, Stop> {
    let workspace = run.context.workspace.clone();
    Ok(
        match run.command_within(build, &workspace, BUILD_SECONDS)? {
            Some(printed) if printed.ok() => Ok(()),
            Some(printed) => Err(first_error(&printed.text).unwrap_or_else(|| printed.ending())),
            None => Err(format!("not within {BUILD_SECONDS} s")),
        },
    )
}

/// The first line in which cargo or a compiler says that something is wrong.
fn first_error(text: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with("error"));
    line.map(str::to_owned)
}

/// Makes the copy, unless it is there.
fn libblkio(run: &mut Run<'_>) -> Result<Result<(), Lack>, Stop> {
    let copy = run.context.out.join(LIBBLKIO);
    let done = copy.join(DONE);
    if std::fs::read_to_string(&done).is_ok_and(|version| version == LIBBLKIO_VERSION) {
        return Ok(Ok(()));
    }
    let source = match source(run)? {
        Ok(source) => source,
        Err(skip) => return Ok(Err(Lack::Skip(skip))),
    };
    if copy.exists() {
        std::fs::remove_dir_all(&copy).context("cannot replace the old copy")?;
    }
    copy_dir(&source, &copy)?;
    let lib = copy.join("src/lib.rs");
    let text = std::fs::read_to_string(&lib).context("cannot read the copy")?;
    let Some(text) = made_public(&text) else {
        return Ok(Err(Lack::Failed(format!(
            "{LIBBLKIO} {LIBBLKIO_VERSION} is not what it was: its src/lib.rs has no line `{}`",
            HIDDEN.trim()
        ))));
    };
    std::fs::write(&lib, text).context("cannot write the copy")?;
    std::fs::write(&done, LIBBLKIO_VERSION).context("cannot write the copy")?;
    Ok(Ok(()))
}

/// The source with the type exported; `None` when the line is not there exactly once.
fn made_public(text: &str) -> Option<String> {
    (text.matches(HIDDEN).count() == 1).then(|| text.replacen(HIDDEN, PUBLIC, 1))
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    manifest_path: PathBuf,
}

/// Where cargo keeps the source, fetched for a package that depends on it and does nothing else.
fn source(run: &mut Run<'_>) -> Result<Result<PathBuf, Skip>, Stop> {
    let dir = run.context.out.join("fetch");
    std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let manifest = format!(
        "[package]\nname = \"fetch\"\nedition = \"2021\"\n\n[lib]\npath = \"lib.rs\"\n\n\
         [dependencies]\n{LIBBLKIO} = \"={LIBBLKIO_VERSION}\"\n\n[workspace]\n"
    );
    for (name, text) in [("Cargo.toml", manifest.as_str()), ("lib.rs", "")] {
        std::fs::write(dir.join(name), text).context("cannot write a manifest")?;
    }
    let fetch = Cmd::cargo(["fetch", "--manifest-path"]).args([dir.join("Cargo.toml")]);
    let why = match run.command_within(&fetch, &dir, FETCH_SECONDS)? {
        Some(printed) if printed.ok() => None,
        Some(printed) => Some(first_error(&printed.text).unwrap_or_else(|| printed.ending())),
        None => Some(format!("not within {FETCH_SECONDS} s")),
    };
    if let Some(why) = why {
        return Ok(Err(Skip {
            reason: format!("{LIBBLKIO} {LIBBLKIO_VERSION} cannot be fetched: {why}"),
            fix: "cargo needs its registry, or a cache that has the crate".into(),
        }));
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut metadata = std::process::Command::new(cargo);
    metadata
        .args(["metadata", "--format-version=1"])
        .current_dir(&dir);
    let deadline = crate::qemu::limits::Deadline::seconds(FETCH_SECONDS);
    let output = crate::qemu::process::run_ok(&mut metadata, deadline)?;
    let metadata: Metadata =
        serde_json::from_str(&output.stdout).context("cargo metadata cannot be read")?;
    let found = metadata.packages.into_iter();
    let found = found.filter(|p| p.name == LIBBLKIO && p.version == LIBBLKIO_VERSION);
    let manifest = found.map(|p| p.manifest_path).next();
    let manifest = manifest.context("cargo fetched the crate and does not know it")?;
    Ok(Ok(manifest
        .parent()
        .context("a manifest without a directory")?
        .into()))
}

/// Copies a directory with all that is in it.
pub(crate) fn copy_dir(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let entries =
        std::fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &to)?;
        } else {
            std::fs::copy(entry.path(), &to)
                .with_context(|| format!("cannot write {}", to.display()))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_is_made_public_or_the_edit_does_not_fit() {
        let text = "pub use util::eventfd::*;\nuse util::iova::*;\npub use x::*;\n";
        let public = "pub use util::eventfd::*;\npub use util::iova::*;\npub use x::*;\n";
        assert_eq!(made_public(text).as_deref(), Some(public));
        assert_eq!(made_public(public), None, "made public already");
        assert_eq!(made_public("use util::*;\n"), None);
    }

    #[test]
    fn directories_are_copied_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::create_dir_all(from.join("c")).unwrap();
        std::fs::write(from.join("c/d"), "x").unwrap();
        copy_dir(&from, &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("c/d")).unwrap(), "x");
    }
}
