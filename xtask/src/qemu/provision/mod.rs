//! What a run needs and this machine may not have: tools, a kernel, a toolchain target.
//!
//! Packages are unpacked under `target/` wherever that suffices, which needs no privilege and
//! changes nothing on the system. Only where it does not is a system install considered, announced,
//! and done with consent. Package sources are never edited.

mod apt;
pub(crate) mod kernel;
pub(crate) mod rust;
mod source;
pub(crate) mod tools;

use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::Command;

use super::limits::Deadline;
use super::process;
use super::stop::Stop;
use super::ui::Ui;

/// How long one package manager command may take.
const PACKAGE_SECONDS: u64 = 600;

/// How the directories begin in which packages are unpacked before they are put in place.
pub(crate) const UNPACKING: &str = ".unpacking-";

/// Where provisioned things lie, and who may decide.
#[derive(Debug)]
pub(crate) struct Provision<'a> {
    /// Directory that survives runs.
    pub(crate) cache: PathBuf,
    /// System installs were agreed to on the command line.
    pub(crate) yes: bool,
    pub(crate) ui: &'a Ui,
}

/// Whether the environment says that this is a CI run, where nobody can be asked.
fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true" || value == "1")
}

impl Provision<'_> {
    /// Installs system packages, with consent; otherwise the error holds the exact command.
    pub(crate) fn install(&self, what: &str, why: &str, packages: &[&str]) -> Result<(), Stop> {
        let Some(mut command) = install_command(packages) else {
            return Err(Stop::missing(
                what,
                why,
                format!("install {what} with this system's package manager, and run this again"),
            ));
        };
        let shown = process::shell_words(&command);
        let root = rustix::process::geteuid().is_root();
        if !root || !self.agreed(&shown)? {
            let prefix = if root { "" } else { "sudo " };
            return Err(Stop::missing(what, why, format!("run: {prefix}{shown}")));
        }
        self.ui
            .note(&format!("installing system packages: {shown}"));
        command.env("DEBIAN_FRONTEND", "noninteractive");
        let mut install = || process::run_ok(&mut command, Deadline::seconds(PACKAGE_SECONDS));
        let mut result = install();
        // A fresh machine has no package lists, an old one has lists of what is gone.
        if matches!(result, Err(Stop::Broken(_))) && process::find_program("apt-get").is_some() {
            self.ui
                .note("installing failed; running apt-get update first");
            let mut update = Command::new("apt-get");
            update.arg("update");
            result = process::run_ok(&mut update, Deadline::seconds(PACKAGE_SECONDS));
            if result.is_ok() {
                result = install();
            }
        }
        match result {
            Err(Stop::Broken(error)) => Err(Stop::missing(what, error.to_string(), shown)),
            result => result.map(drop),
        }
    }

    /// Whether this command may be run: agreed to on the command line, by CI, or now.
    pub(crate) fn agreed(&self, command: &str) -> Result<bool, Stop> {
        Ok(self.yes || is_ci() || self.ask(command)?)
    }

    /// Asks on a terminal; elsewhere the answer is no.
    fn ask(&self, command: &str) -> Result<bool, Stop> {
        if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
            return Ok(false);
        }
        let mut stderr = std::io::stderr();
        let ask = || -> std::io::Result<String> {
            write!(stderr, "May I run `{command}`? [y/N] ")?;
            stderr.flush()?;
            let mut answer = String::new();
            std::io::stdin().read_line(&mut answer)?;
            Ok(answer)
        };
        let mut ask = ask;
        let answer = ask().map_err(|error| anyhow::anyhow!("cannot ask: {error}"))?;
        if super::limits::interrupted() {
            return Err(Stop::Interrupted);
        }
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}

/// The command of the package manager at hand that installs these Debian packages' like.
fn install_command(packages: &[&str]) -> Option<Command> {
    let managers: [(&str, &[&str]); 5] = [
        ("apt-get", &["install", "-y", "--no-install-recommends"]),
        ("dnf", &["install", "-y"]),
        ("zypper", &["--non-interactive", "install"]),
        ("pacman", &["-S", "--noconfirm"]),
        ("apk", &["add"]),
    ];
    let (manager, words) = managers
        .iter()
        .find(|(manager, _)| process::find_program(manager).is_some())?;
    let mut command = Command::new(manager);
    command.args(*words);
    for package in packages {
        command.arg(match (*manager, *package) {
            ("pacman" | "apk", "qemu-system-x86") => "qemu-system-x86_64",
            ("pacman" | "apk", "qemu-system-arm") => "qemu-system-aarch64",
            ("pacman" | "apk", "qemu-system-misc") => "qemu-system-riscv64",
            // Of one piece with QEMU everywhere but on Debian.
            ("dnf", "qemu-system-arm") => "qemu-system-aarch64",
            ("dnf", "qemu-system-misc") => "qemu-system-riscv",
            (_, package) => package,
        });
    }
    Some(command)
}
