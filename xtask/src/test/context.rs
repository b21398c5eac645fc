//! What every section is told of the workspace: where it is, and what its manifests say.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;
use serde::Deserialize;

use crate::qemu::limits::Deadline;
use crate::qemu::stop::Stop;
use crate::qemu::{process, target_dir, workspace};

/// The library's package.
pub(crate) const LIBRARY: &str = "vring";

/// Facts that do not change during a run.
#[derive(Debug)]
pub(crate) struct Context {
    /// The workspace's directory.
    pub(crate) workspace: PathBuf,
    /// Cargo's target directory.
    pub(crate) target: PathBuf,
    /// Where reports and logs go.
    pub(crate) out: PathBuf,
    /// The library's features, `default` aside, in order.
    pub(crate) features: Vec<String>,
    /// The compiler version that the library declares.
    pub(crate) rust_version: String,
    /// Names of the library's test programs.
    pub(crate) suites: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    rust_version: Option<String>,
    features: std::collections::BTreeMap<String, Vec<String>>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

impl Context {
    /// Asks cargo.
    pub(crate) fn read() -> Result<Self, Stop> {
        let workspace = workspace();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(["metadata", "--no-deps", "--format-version=1"])
            .current_dir(&workspace);
        let output = process::run_ok(&mut command, Deadline::seconds(120))?;
        let metadata: Metadata =
            serde_json::from_str(&output.stdout).context("cargo metadata cannot be read")?;
        let library = metadata
            .packages
            .into_iter()
            .find(|package| package.name == LIBRARY)
            .with_context(|| format!("the workspace has no package {LIBRARY}"))?;
        let target = target_dir();
        Ok(Self {
            out: target.join("test"),
            target,
            workspace,
            features: library
                .features
                .into_keys()
                .filter(|feature| feature != "default")
                .collect(),
            rust_version: library
                .rust_version
                .with_context(|| format!("{LIBRARY} declares no rust-version"))?,
            suites: library
                .targets
                .into_iter()
                .filter(|target| target.kind.iter().any(|kind| kind == "test"))
                .map(|target| target.name)
                .collect(),
        })
    }

    /// The combinations of features that are looked at: none, each alone, all. Words for cargo.
    pub(crate) fn feature_sets(&self) -> Vec<(String, Vec<String>)> {
        let none = || vec!["--no-default-features".to_owned()];
        let each = self.features.iter().map(|feature| {
            let mut words = none();
            words.push(format!("--features={feature}"));
            (feature.clone(), words)
        });
        std::iter::once(("no features".to_owned(), none()))
            .chain(each)
            .chain([("all features".to_owned(), vec!["--all-features".to_owned()])])
            .collect()
    }
}
