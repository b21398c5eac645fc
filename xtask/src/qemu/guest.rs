//! Building the guest.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use serde_json::Value;

use super::arch::Arch;
use super::limits::Deadline;
use super::process;
use super::provision::rust::Toolchain;
use super::stop::Stop;

/// The guest's package, whose binary has the same name.
const PACKAGE: &str = "qemu-tests";
/// How long the compiler may take.
const BUILD_SECONDS: u64 = 1800;

/// Compiles the guest, optimised: an unoptimised one is too slow nested.
pub(crate) fn build(workspace: &Path, arch: Arch, toolchain: &Toolchain) -> Result<PathBuf, Stop> {
    let target = arch.target();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace);
    command.args([
        "build",
        "--package",
        PACKAGE,
        "--release",
        "--target",
        target,
    ]);
    command.arg("--message-format=json-render-diagnostics");
    if let Some(linker) = &toolchain.linker {
        let target = target.to_uppercase().replace('-', "_");
        command.env(format!("CARGO_TARGET_{target}_LINKER"), linker);
    }
    if toolchain.from_source {
        command.args(["-Zbuild-std=core,alloc,compiler_builtins"]);
        command.arg("-Zbuild-std-features=compiler-builtins-mem");
        // What cargo asks for before it takes -Z outside a nightly.
        command.env("RUSTC_BOOTSTRAP", "1");
    }
    let output = process::run(&mut command, Deadline::seconds(BUILD_SECONDS))?;
    if !output.status.success() {
        return Err(Stop::Broken(anyhow::anyhow!(
            "the guest does not build:\n{}",
            process::tail(&output.stderr, 60)
        )));
    }
    Ok(executable(&output.stdout).context("cargo named no executable of the guest")?)
}

/// The executable among cargo's messages.
fn executable(messages: &str) -> Option<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter(|message| message["target"]["name"] == PACKAGE)
        .filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_executable_is_found_among_messages() {
        let messages = r#"
{"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"qemu-tests"},"executable":"/t/qemu-tests"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages), Some("/t/qemu-tests".into()));
        assert_eq!(executable(""), None);
    }
}
