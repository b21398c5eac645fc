//! QEMU and strace: from the search path, from the cache, or unpacked from packages.

use std::path::{Path, PathBuf};

use super::Provision;
use super::apt::Apt;
use crate::qemu::arch::Arch;
use crate::qemu::job::Tool;
use crate::qemu::limits::Deadline;
use crate::qemu::process;
use crate::qemu::stop::Stop;

/// How the names of QEMU's programs begin.
const QEMU: &str = "qemu-system-";
/// The first QEMU that tells about vhost over QMP.
const QEMU_SINCE: (u32, u32) = (7, 2);
/// The first strace that names the requests of vhost.
const STRACE_SINCE: (u32, u32) = (4, 20);

/// What is wanted of a tool.
struct Want {
    program: &'static str,
    package: &'static str,
    version_flag: &'static str,
    since: (u32, u32),
    /// More than this system may have: its own packages and, where it is a Debian, its backports
    /// are looked at, nothing is installed, and the cache has a place of its own for it.
    newer: bool,
    why: &'static str,
}

impl Provision<'_> {
    /// QEMU, at least as recent as every run needs, and as `since`.
    pub(crate) fn qemu_since(&self, arch: Arch, since: Option<(u32, u32)>) -> Result<Tool, Stop> {
        let newer = since.filter(|since| *since > QEMU_SINCE);
        self.tool(&Want {
            program: arch.qemu(),
            package: arch.package(),
            version_flag: "--version",
            since: newer.unwrap_or(QEMU_SINCE),
            newer: newer.is_some(),
            why: "QEMU runs the guest, tells about vhost over QMP since 7.2, and has in_order \
                  since 9.2",
        })
    }

    pub(crate) fn strace(&self) -> Result<Tool, Stop> {
        self.tool(&Want {
            program: "strace",
            package: "strace",
            version_flag: "-V",
            since: STRACE_SINCE,
            newer: false,
            why: "strace shows the steps by which QEMU hands the rings to vhost",
        })
    }

    /// QEMU for programs of another architecture.
    pub(crate) fn emulator(&self, program: &'static str) -> Result<Tool, Stop> {
        self.tool(&emulator(program))
    }

    /// The version of a QEMU.
    pub(crate) fn qemu_version(qemu: &Tool) -> Option<(u32, u32)> {
        let mut command = qemu.command();
        command.arg("--version");
        let output = process::run_ok(&mut command, Deadline::seconds(30)).ok()?;
        parse_version(output.stdout.lines().next()?)
    }

    fn tool(&self, want: &Want) -> Result<Tool, Stop> {
        let mut seen = "it is not installed".to_owned();
        if let Some(path) = process::find_program(want.program) {
            let tool = Tool::installed(path);
            match check(&tool, want) {
                Ok(()) => return Ok(tool),
                Err(why) => seen = why,
            }
        }
        let (major, minor) = want.since;
        let dir = self.cache.join("tools").join(if want.newer {
            format!("{}-{major}.{minor}", want.program)
        } else {
            want.program.into()
        });
        let unpacked = || unpacked_tool(&dir, want.program);
        if check(&unpacked(), want).is_ok() {
            return Ok(unpacked());
        }
        let apt = if want.newer {
            Apt::backports(&self.cache, self.ui)
        } else {
            Apt::find(&self.cache, self.ui)
        };
        if let Some(mut apt) = apt {
            let result = apt.missing(&[want.package]).and_then(|packages| {
                if packages.is_empty() {
                    // Installed and yet no good: unpacking the same again would not help.
                    return Ok(());
                }
                self.ui.note(&format!(
                    "fetching {} and {} packages that it needs, unpacked under target/ \
                     (not installed)",
                    want.package,
                    packages.len() - 1
                ));
                apt.unpack(&packages, &dir)
            });
            match result.map(|()| check(&unpacked(), want)) {
                Ok(Ok(())) => return Ok(unpacked()),
                Ok(Err(why)) => seen += &format!("; unpacked, {why}"),
                Err(Stop::Interrupted) => return Err(Stop::Interrupted),
                Err(stop) => seen += &format!("; it cannot be unpacked: {stop}"),
            }
        }
        let what = format!("{} {major}.{minor} or later", want.program);
        let why = format!("{}; {seen}", want.why);
        if want.newer {
            return Err(Stop::missing(
                what,
                why,
                "install a newer one by hand and put it first on PATH",
            ));
        }
        self.install(&what, &why, &[want.package])?;
        let path = process::find_program(want.program).unwrap_or_else(|| want.program.into());
        let tool = Tool::installed(path);
        match check(&tool, want) {
            Ok(()) => Ok(tool),
            Err(why) => Err(Stop::missing(
                what,
                format!("after installing {}: {why}", want.package),
                "install a newer one by hand and put it first on PATH",
            )),
        }
    }
}

/// QEMU for programs of another architecture, by the name of its program.
fn emulator(program: &'static str) -> Want {
    Want {
        program,
        package: "qemu-user",
        version_flag: "--version",
        since: QEMU_SINCE,
        newer: false,
        why: "QEMU's user mode runs tests that are compiled for another architecture",
    }
}

/// The same, where it is here already: installed, or unpacked before.
pub(crate) fn emulator_at_hand(cache: &Path, program: &'static str) -> Option<Tool> {
    let want = emulator(program);
    let installed = process::find_program(program).map(Tool::installed);
    let unpacked = unpacked_tool(&cache.join("tools").join(program), program);
    let mut tools = installed.into_iter().chain([unpacked]);
    tools.find(|tool| check(tool, &want).is_ok())
}

/// Where an unpacked package has its program and its libraries.
fn unpacked_tool(root: &Path, program: &str) -> Tool {
    let mut dirs: Vec<PathBuf> = Vec::new();
    for lib in ["usr/lib", "lib"] {
        let lib = root.join(lib);
        let entries = std::fs::read_dir(&lib).into_iter().flatten().flatten();
        dirs.extend(
            entries
                .map(|entry| entry.path())
                .filter(|path| path.is_dir() && path.to_string_lossy().ends_with("-linux-gnu")),
        );
        dirs.push(lib);
    }
    // Some libraries keep those that only they use in a directory of their own, one level down.
    let nested: Vec<PathBuf> = dirs
        .iter()
        .flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(|dir| {
            ["blas", "lapack", "pulseaudio"]
                .iter()
                .any(|name| dir.ends_with(name))
        })
        .collect();
    dirs.extend(nested);
    let dirs: Vec<String> = dirs
        .iter()
        .map(|dir| dir.to_string_lossy().into_owned())
        .collect();
    let is_qemu = program.starts_with(QEMU);
    let qemu = root.join("usr/lib/x86_64-linux-gnu/qemu");
    let data = ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"];
    let data = data.map(|dir| root.join(dir)).into_iter();
    Tool {
        path: root.join("usr/bin").join(program),
        library_path: Some(dirs.join(":")),
        data: data.filter(|dir| is_qemu && dir.is_dir()).collect(),
        modules: (is_qemu && qemu.is_dir()).then_some(qemu),
    }
}

/// Whether the tool starts and is recent enough; if not, why.
fn check(tool: &Tool, want: &Want) -> Result<(), String> {
    if !tool.path.exists() {
        return Err(format!("there is no {}", tool.path.display()));
    }
    let mut command = tool.command();
    command.arg(want.version_flag);
    let output = process::run_ok(&mut command, Deadline::seconds(30)).map_err(|s| s.to_string())?;
    let line = output.stdout.lines().next().unwrap_or_default();
    match parse_version(line) {
        Some(version) if version >= want.since => Ok(()),
        Some((major, minor)) => Err(format!("its version is {major}.{minor}")),
        None => Err(format!("it does not tell its version: {line:?}")),
    }
}

/// The first `number.number` after the word "version".
fn parse_version(line: &str) -> Option<(u32, u32)> {
    let (_, rest) = line.split_once("version ")?;
    let number = rest
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()?;
    let mut parts = number.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        let qemu = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)";
        assert_eq!(parse_version(qemu), Some((7, 2)));
        assert_eq!(parse_version("strace -- version 6.1"), Some((6, 1)));
        assert_eq!(parse_version("strace -- version 5.19-dirty"), Some((5, 19)));
        assert_eq!(parse_version("something else"), None);
    }

    #[test]
    fn a_tool_that_is_not_there_or_too_old_says_so() {
        let want = Want {
            program: "sh",
            package: "dash",
            version_flag: "-c",
            since: (1, 0),
            newer: false,
            why: "",
        };
        let tool = |path: &str| Tool::installed(path.into());
        assert!(
            check(&tool("/nowhere/x"), &want)
                .unwrap_err()
                .contains("/nowhere/x")
        );
        assert!(
            check(&tool("/bin/true"), &want)
                .unwrap_err()
                .contains("version")
        );
    }
}
