//! What comes before a run: which vhost, which programs, a guest, and what runs it.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::lock_cache;
use crate::qemu::arch::Arch;
use crate::qemu::cli::{Accel, QemuArgs, VhostMode};
use crate::qemu::job::Tool;
use crate::qemu::provision::Provision;
use crate::qemu::report::{AccelTrial, Report, Skipped};
use crate::qemu::stop::Stop;
use crate::qemu::ui::Ui;
use crate::qemu::{default_out, guest, probe, workspace};

/// Where vhost comes from, after probing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Native,
    Nested,
    Off,
}

impl Mode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Nested => "nested",
            Self::Off => "off",
        }
    }
}

pub(super) fn choose_mode(asked: VhostMode, report: &mut Report) -> Result<Mode, Stop> {
    match asked {
        VhostMode::Off => Ok(Mode::Off),
        VhostMode::Native => probe::native_vhost().map(|()| Mode::Native),
        VhostMode::Nested => probe::nested().map(|()| Mode::Nested),
        VhostMode::Auto => match probe::native_vhost() {
            Ok(()) => Ok(Mode::Native),
            Err(Stop::Missing { what, why, fix }) => {
                report.findings.skipped.push(Skipped { what, why, fix });
                probe::nested().map(|()| Mode::Nested)
            }
            Err(stop) => Err(stop),
        },
    }
}

/// A guest that was given must be there.
pub(super) fn look_for_guest(args: &QemuArgs) -> Result<(), Stop> {
    match &args.guest {
        Some(path) if !path.is_file() => {
            let text = format!("--guest {}: there is no such file", path.display());
            Err(Stop::Usage(text))
        }
        _ => Ok(()),
    }
}

/// The cache, to oneself as long as the lock is held.
pub(super) fn provision<'a>(args: &QemuArgs, ui: &'a Ui) -> Result<(Provision<'a>, File), Stop> {
    let cache = default_out().join("cache");
    let providing = lock_cache(&cache)?;
    let provision = Provision {
        cache,
        yes: args.yes,
        ui,
    };
    Ok((provision, providing))
}

/// The QEMU of the outer machine, which runs this machine's own programs.
pub(super) fn provide_outer(
    mode: Mode,
    arch: Arch,
    qemu: &Tool,
    provision: &Provision<'_>,
) -> Result<Option<Tool>, Stop> {
    match (mode, arch) {
        (Mode::Native | Mode::Off, _) => Ok(None),
        (Mode::Nested, Arch::X86_64) => Ok(Some(qemu.clone())),
        (Mode::Nested, _) => provision.qemu_since(Arch::X86_64, None).map(Some),
    }
}

/// The guest, built unless it was given.
pub(super) fn build(
    args: &QemuArgs,
    arch: Arch,
    provision: &Provision<'_>,
    report: &mut Report,
) -> Result<PathBuf, Stop> {
    let guest = match &args.guest {
        Some(path) => std::path::absolute(path).context("--guest")?,
        None => {
            let toolchain = provision.rust_target(arch.target())?;
            guest::build(&workspace(), arch, &toolchain)?
        }
    };
    if let Some(version) = probe::rustc_version() {
        report.findings.versions.insert("rustc".into(), version);
    }
    Ok(guest)
}

pub(super) fn choose_accel(
    args: &QemuArgs,
    arch: Arch,
    machine: &str,
    qemu: &Tool,
    guest: &Path,
    report: &mut Report,
) -> Result<&'static str, Stop> {
    if args.accel == Accel::Tcg {
        return Ok("tcg");
    }
    if !arch.may_have_kvm() {
        return match args.accel {
            Accel::Kvm => Err(Stop::missing(
                format!("KVM for a guest for {} (--accel kvm)", arch.name()),
                "this guest is for emulation only",
                "use --accel tcg",
            )),
            Accel::Auto | Accel::Tcg => Ok("tcg"),
        };
    }
    let trial = probe::try_kvm(qemu, guest, machine)?;
    let AccelTrial { works, why, .. } = trial.clone();
    report.accel_trials.push(trial);
    match (works, args.accel) {
        (true, _) => Ok("kvm"),
        (false, Accel::Kvm) => Err(Stop::missing(
            "KVM (--accel kvm)",
            why,
            "use --accel tcg, or a machine whose KVM works",
        )),
        (false, _) => Ok("tcg"),
    }
}
