//! The compiler's library for bare metal.

use std::process::Command;

use super::{PACKAGE_SECONDS, Provision};
use crate::qemu::limits::Deadline;
use crate::qemu::process;
use crate::qemu::stop::Stop;

/// What the guest is compiled for.
pub(crate) const TARGET: &str = "x86_64-unknown-none";

/// How the guest can be compiled here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// The target's library is installed.
    Installed,
    /// Its source is: cargo builds it along (`-Zbuild-std`).
    FromSource,
}

impl Provision<'_> {
    /// Finds the target's library, or has rustup fetch it, or settles for its source.
    pub(crate) fn rust_target(&self) -> Result<Toolchain, Stop> {
        let sysroot = sysroot()?;
        let library = sysroot.join("lib/rustlib").join(TARGET).join("lib");
        if library.is_dir() {
            return Ok(Toolchain::Installed);
        }
        let mut seen = "there is no rustup here".to_owned();
        if process::find_program("rustup").is_some() {
            let mut command = Command::new("rustup");
            command.args(["target", "add", TARGET]);
            self.ui
                .note(&format!("running {}", process::shell_words(&command)));
            match process::run_ok(&mut command, Deadline::seconds(PACKAGE_SECONDS)) {
                Ok(_) if library.is_dir() => return Ok(Toolchain::Installed),
                Ok(_) => seen = format!("rustup added it, but not at {}", library.display()),
                Err(Stop::Interrupted) => return Err(Stop::Interrupted),
                Err(stop) => seen = stop.to_string(),
            }
        }
        if sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            self.ui.note(&format!(
                "no library for {TARGET} ({seen}): building it from the toolchain's source"
            ));
            return Ok(Toolchain::FromSource);
        }
        Err(Stop::missing(
            format!("the Rust target {TARGET}"),
            format!("the guest is compiled for bare metal; {seen}"),
            format!(
                "run `rustup target add {TARGET}`; with a distribution's toolchain, install the \
                 source of its library (Debian: rust-src, or rustc-web, cargo-web and \
                 rust-web-src for a recent one)"
            ),
        ))
    }
}

fn sysroot() -> Result<std::path::PathBuf, Stop> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut command = Command::new(rustc);
    command.args(["--print", "sysroot"]);
    let output = process::run_ok(&mut command, Deadline::seconds(60))?;
    Ok(output.stdout.trim().into())
}
