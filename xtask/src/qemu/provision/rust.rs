//! The compiler's library for bare metal.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{PACKAGE_SECONDS, Provision};
use crate::qemu::limits::Deadline;
use crate::qemu::process;
use crate::qemu::stop::Stop;

/// What bare metal is here, where one architecture stands for all.
pub(crate) const TARGET: &str = "x86_64-unknown-none";

/// How the guest can be compiled here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Toolchain {
    /// The target's library is not installed, its source is: cargo builds it along
    /// (`-Zbuild-std`).
    pub(crate) from_source: bool,
    /// The linker, where the toolchain comes without its own.
    pub(crate) linker: Option<PathBuf>,
}

impl Provision<'_> {
    /// Finds the target's library, or has rustup fetch it, or settles for its source.
    pub(crate) fn rust_target(&self, target: &str) -> Result<Toolchain, Stop> {
        let sysroot = sysroot()?;
        let from_source = self.without_library(&sysroot, target)?;
        let linker = linker(&sysroot, target);
        Ok(Toolchain {
            from_source,
            linker,
        })
    }

    /// Whether the target's library has to be built.
    fn without_library(&self, sysroot: &Path, target: &str) -> Result<bool, Stop> {
        let library = sysroot.join("lib/rustlib").join(target).join("lib");
        if library.is_dir() {
            return Ok(false);
        }
        let mut seen = "there is no rustup here".to_owned();
        if process::find_program("rustup").is_some() {
            let mut command = Command::new("rustup");
            command.args(["target", "add", target]);
            self.ui
                .note(&format!("running {}", process::shell_words(&command)));
            match process::run_ok(&mut command, Deadline::seconds(PACKAGE_SECONDS)) {
                Ok(_) if library.is_dir() => return Ok(false),
                Ok(_) => seen = format!("rustup added it, but not at {}", library.display()),
                Err(Stop::Interrupted) => return Err(Stop::Interrupted),
                Err(stop) => seen = stop.to_string(),
            }
        }
        if sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            self.ui.note(&format!(
                "no library for {target} ({seen}): building it from the toolchain's source"
            ));
            return Ok(true);
        }
        Err(Stop::missing(
            format!("the Rust target {target}"),
            format!("the guest is compiled for bare metal; {seen}"),
            format!(
                "run `rustup target add {target}`; with a distribution's toolchain, install the \
                 source of its library (Debian: rust-src, or rustc-web, cargo-web and \
                 rust-web-src for a recent one)"
            ),
        ))
    }
}

/// The linker to use instead of `rust-lld`, which rustup brings and distributions may not.
fn linker(sysroot: &Path, target: &str) -> Option<PathBuf> {
    let own = std::fs::read_dir(sysroot.join("lib/rustlib"))
        .into_iter()
        .flatten()
        .flatten()
        .any(|target| target.path().join("bin/rust-lld").exists());
    if own || process::find_program("rust-lld").is_some() {
        return None;
    }
    linkers(target, std::env::consts::ARCH)
        .iter()
        .find_map(|name| process::find_program(name))
}

/// Names of linkers that link for a target, on a host of this architecture.
fn linkers(target: &str, host: &str) -> Vec<String> {
    let arch = target.split('-').next().unwrap_or_default();
    // Cargo's name says which extensions there are, the linker's does not.
    let arch = arch.strip_suffix("gc").unwrap_or(arch);
    let mut names = vec!["ld.lld".to_owned(), format!("{arch}-linux-gnu-ld")];
    if arch == host {
        names.push("ld".into());
    }
    names
}

fn sysroot() -> Result<PathBuf, Stop> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--print", "sysroot"]);
    let output = process::run_ok(&mut command, Deadline::seconds(60))?;
    Ok(output.stdout.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linker_for_another_architecture_is_no_good() {
        let riscv = linkers("riscv64gc-unknown-none-elf", "x86_64");
        assert_eq!(riscv, ["ld.lld", "riscv64-linux-gnu-ld"]);
        assert!(linkers(TARGET, "x86_64").contains(&"ld".to_owned()));
    }

    #[test]
    fn the_toolchains_own_linker_is_preferred() {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("lib/rustlib/some-host/bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join("rust-lld"), b"").unwrap();
        assert_eq!(linker(dir.path(), TARGET), None);
    }
}
