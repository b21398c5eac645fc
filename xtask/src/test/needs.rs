//! What checks need of the machine: looked for by using it, provided with consent.

use std::path::PathBuf;
use std::process::Command;

use super::section::Skip;
use crate::qemu::limits::Deadline;
use crate::qemu::provision::Provision;
use crate::qemu::provision::tools::emulator_at_hand;
use crate::qemu::stop::Stop;
use crate::qemu::{default_out, process, target_dir};

/// How long a probe may take: it starts a program that says its version.
const PROBE_SECONDS: u64 = 60;
/// How long rustup may take to fetch a toolchain, or cargo to build a program.
const FETCH_SECONDS: u64 = 900;

/// Something that may not be on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// A subcommand of the cargo at hand, and the component that brings it.
    Subcommand {
        word: &'static str,
        component: &'static str,
    },
    /// A toolchain beside the one at hand, with components.
    Toolchain {
        name: String,
        components: &'static [&'static str],
    },
    /// The compiler's library for a target.
    Target(&'static str),
    /// A program, and the package that brings it.
    Program {
        program: &'static str,
        package: &'static str,
    },
    /// A header of the C compiler's, and the package that brings it.
    Header {
        header: &'static str,
        package: &'static str,
    },
    /// The program of a crate, by the name of both: on the search path, or built under `target/`.
    Crate {
        name: &'static str,
        version: &'static str,
    },
    /// A QEMU for programs of another architecture: on the search path, or unpacked under
    /// `target/`.
    Emulator(&'static str),
    /// A kernel that runs 32-bit programs of x86.
    Programs32,
}

impl Need {
    pub(crate) const CLIPPY: Self = Self::Subcommand {
        word: "clippy",
        component: "clippy",
    };
    pub(crate) const RUSTFMT: Self = Self::Subcommand {
        word: "fmt",
        component: "rustfmt",
    };

    fn what(&self) -> String {
        match self {
            Self::Subcommand { word, .. } => format!("cargo {word}"),
            Self::Toolchain {
                name,
                components: [],
            } => format!("the Rust toolchain {name}"),
            Self::Toolchain { name, components } => {
                format!("the Rust toolchain {name} with {}", components.join(", "))
            }
            Self::Target(triple) => format!("the Rust target {triple}"),
            Self::Program { program, .. } => (*program).into(),
            Self::Header { header, .. } => format!("the C header <{header}>"),
            Self::Crate { name, version } => format!("{name} {version}"),
            Self::Emulator(program) => (*program).into(),
            Self::Programs32 => "a kernel that runs 32-bit programs".into(),
        }
    }

    fn found(&self) -> bool {
        match self {
            Self::Subcommand { word, .. } => answers(cargo().args([word, "--version"])),
            Self::Toolchain { name, components } => {
                process::find_program("rustup").is_some()
                    && answers(rustup().args(["run", name, "rustc", "--version"]))
                    && components.iter().all(|component| match *component {
                        "rust-src" => sysroot(rustup().args(["run", name, "rustc"]))
                            .is_some_and(|root| root.join("lib/rustlib/src/rust/library").is_dir()),
                        word => answers(rustup().args(["run", name, "cargo", word, "--version"])),
                    })
            }
            Self::Target(triple) => sysroot(&mut rustc())
                .is_some_and(|root| root.join("lib/rustlib").join(triple).join("lib").is_dir()),
            Self::Program { program, .. } => process::find_program(program).is_some(),
            Self::Header { header, .. } => {
                answers(Command::new("cc").args(["-E", "-include", header, "-x", "c", "/dev/null"]))
            }
            Self::Crate { name, version } => crate_program(name, version).is_some(),
            Self::Emulator(program) => {
                emulator_at_hand(&default_out().join("cache"), program).is_some()
            }
            Self::Programs32 => runs_32_bits(),
        }
    }

    fn provide(&self, provision: &Provision<'_>) -> Result<(), Stop> {
        let (what, why) = (self.what(), "it is not on this machine");
        let words: Vec<&str> = match self {
            Self::Program { package, .. } | Self::Header { package, .. } => {
                return provision.install(&what, why, &[package]);
            }
            Self::Crate { name, version } => return build(provision, name, version),
            Self::Emulator(program) => return provision.emulator(program).map(drop),
            Self::Programs32 => {
                let why = "this one does not, or not where this runs";
                let fix = "run this where the kernel has CONFIG_IA32_EMULATION";
                return Err(Stop::missing(what, why, fix));
            }
            Self::Subcommand { component, .. } => vec!["component", "add", component],
            Self::Target(triple) => vec!["target", "add", triple],
            Self::Toolchain { name, components } => {
                let mut words = vec!["toolchain", "install", name, "--profile=minimal"];
                for component in *components {
                    words.extend(["--component", component]);
                }
                words
            }
        };
        let mut command = rustup();
        command.args(words);
        let shown = process::shell_words(&command);
        if process::find_program("rustup").is_none() {
            let fix = format!("with rustup it is `{shown}`; else the distribution's package");
            return Err(Stop::missing(what, why, fix));
        }
        if !provision.agreed(&shown)? {
            return Err(Stop::missing(what, why, format!("run: {shown}")));
        }
        provision.ui.note(&format!("running {shown}"));
        process::run_ok(&mut command, Deadline::seconds(FETCH_SECONDS))?;
        Ok(())
    }

    fn obtain(&self, provision: &Provision<'_>) -> Result<Result<(), Skip>, Stop> {
        if self.found() {
            return Ok(Ok(()));
        }
        let what = self.what();
        let (why, fix) = match self.provide(provision) {
            Ok(()) if self.found() => return Ok(Ok(())),
            Ok(()) => ("it was installed, and is not found".into(), String::new()),
            Err(Stop::Interrupted) => return Err(Stop::Interrupted),
            Err(Stop::Missing { why, fix, .. }) => (why, fix),
            Err(stop) => (stop.to_string(), "see the reason".into()),
        };
        let reason = format!("{what}: {why}");
        Ok(Err(Skip { reason, fix }))
    }
}

/// What is known of the machine, each need looked into once.
pub(crate) struct Machine<'a> {
    provision: Provision<'a>,
    known: Vec<(Need, Result<(), Skip>)>,
}

impl<'a> Machine<'a> {
    pub(crate) fn new(provision: Provision<'a>) -> Self {
        Self {
            provision,
            known: Vec::new(),
        }
    }

    /// Looks for all of these, and provides what is missing; the first that cannot be had.
    pub(crate) fn meet(&mut self, needs: &[Need]) -> Result<Option<Skip>, Stop> {
        for need in needs {
            let known = self.known.iter().find(|(known, _)| known == need);
            let met = match known {
                Some((_, met)) => met.clone(),
                None => {
                    let met = need.obtain(&self.provision)?;
                    self.known.push((need.clone(), met.clone()));
                    met
                }
            };
            if let Err(skip) = met {
                return Ok(Some(skip));
            }
        }
        Ok(None)
    }
}

/// The program of a crate: installed, or built under `target/`.
pub(crate) fn crate_program(name: &str, version: &str) -> Option<PathBuf> {
    let built = crate_root(name, version).join("bin").join(name);
    process::find_program(name).or_else(|| built.is_file().then_some(built))
}

/// Where a crate's program is built: a place for each version.
fn crate_root(name: &str, version: &str) -> PathBuf {
    target_dir().join("tools").join(format!("{name}-{version}"))
}

/// Builds the program of a crate; nothing is installed outside `target/`.
fn build(provision: &Provision<'_>, name: &str, version: &str) -> Result<(), Stop> {
    let mut command = cargo();
    command
        .args(["install", "--quiet", "--locked", name, "--version", version])
        .arg("--root")
        .arg(crate_root(name, version));
    provision.ui.note(&format!(
        "building {name} under target/ (not installed): {}",
        process::shell_words(&command)
    ));
    process::run_ok(&mut command, Deadline::seconds(FETCH_SECONDS))?;
    Ok(())
}

/// Whether a program starts that is made of nothing but a header and the call that ends it.
fn runs_32_bits() -> bool {
    /// `exit(0)` of Linux on i386: `mov eax, 1`, `xor ebx, ebx`, `int 0x80`.
    const CODE: [u8; 9] = [0xb8, 1, 0, 0, 0, 0x31, 0xdb, 0xcd, 0x80];
    const ADDRESS: u32 = 0x0804_8000;
    const HEADERS: u32 = 52 + 32;
    let size = HEADERS + CODE.len() as u32;
    // ELF: 32 bits, little-endian, version 1; then an executable of machine 3.
    let mut program = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
    // Version, entry, program headers, no sections, no flags.
    let rest = [1, ADDRESS + HEADERS, 52, 0, 0];
    program.extend(rest.into_iter().flat_map(u32::to_le_bytes));
    // The sizes of the headers, and one program header.
    program.extend(
        [52_u16, 32, 1, 0, 0, 0]
            .into_iter()
            .flat_map(u16::to_le_bytes),
    );
    // All of the file, loaded to be read and executed.
    let load = [1, 0, ADDRESS, ADDRESS, size, size, 5, 0x1000];
    program.extend(load.into_iter().flat_map(u32::to_le_bytes));
    program.extend(CODE);
    let run = || -> std::io::Result<bool> {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("exit");
        std::fs::write(&path, &program)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))?;
        Ok(answers(&mut Command::new(&path)))
    };
    run().unwrap_or(false)
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn rustc() -> Command {
    Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

/// rustup that fetches only what it is told to.
fn rustup() -> Command {
    let mut command = Command::new("rustup");
    command.env("RUSTUP_AUTO_INSTALL", "0");
    command
}

/// Whether the program is there and content.
fn answers(command: &mut Command) -> bool {
    process::run(command, Deadline::seconds(PROBE_SECONDS))
        .is_ok_and(|output| output.status.success())
}

/// Where a compiler keeps its libraries.
fn sysroot(rustc: &mut Command) -> Option<std::path::PathBuf> {
    rustc.args(["--print", "sysroot"]);
    let output = process::run_ok(rustc, Deadline::seconds(PROBE_SECONDS)).ok()?;
    Some(output.stdout.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::ui::Ui;

    #[test]
    fn what_is_there_is_found_and_what_is_not_is_a_reason_with_a_fix() {
        let ui = Ui::new(true);
        let provision = Provision {
            cache: "/nowhere".into(),
            yes: false,
            ui: &ui,
        };
        let mut machine = Machine::new(provision);
        let sh = Need::Program {
            program: "sh",
            package: "dash",
        };
        assert_eq!(machine.meet(std::slice::from_ref(&sh)).unwrap(), None);
        let none = Need::Target("z80-unknown-none");
        assert!(!none.found());
        // Nobody has heard of it, so that whoever may install it cannot.
        let skip = machine.meet(&[sh, none]).unwrap().unwrap();
        assert!(skip.reason.contains("z80-unknown-none"), "{skip:?}");
        assert!(!skip.fix.is_empty(), "{skip:?}");
    }
}
