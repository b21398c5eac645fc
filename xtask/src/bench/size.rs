//! Bytes that a driver adds to a kernel: `benches/size`, built for bare metal, measured, and booted.
//!
//! Two programs do the same on the same ground: find a network card on PCI, make two queues of 64
//! descriptors, send a frame, poll until the answer is there. Code is what the linker kept of them in
//! `.text` and `.rodata`; memory is `.data` and `.bss`, what they took of the arena for rings, and
//! how deep the stack went. The latter two are printed by the program when it has its answer, so
//! that a figure is one of a driver that works.

use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use object::{Object as _, ObjectSection as _};

use super::cli::Group;
use super::groups::{Bench, Found};
use super::prepare;
use super::sample::{Class, Key, Unit, What};
use crate::qemu::arch::Arch;
use crate::qemu::limits::Deadline;
use crate::qemu::process;
use crate::qemu::provision::Provision;
use crate::qemu::provision::rust::TARGET as BARE_METAL;
use crate::qemu::stop::Stop;
use crate::qemu::ui::Ui;
use crate::qemu::{default_out, session};
use crate::test::run::{Cmd, Run};

/// Binaries, and whose they are.
const PROGRAMS: [(&str, &str); 2] = [
    ("size-vring", "vring"),
    ("size-virtio-drivers", "virtio-drivers 0.13"),
];
/// How long the machine may take to boot, and the driver to have its answer.
const BOOT_SECONDS: u64 = 60;
/// QEMU's status for the value that the programs end with.
const ENDED: i32 = 33;

/// What a program says of its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Taken {
    arena: u64,
    stack: u64,
}

pub(super) fn measure(
    bench: &mut Bench<'_>,
    run: &mut Run<'_>,
    found: &mut Found,
) -> Result<(), Stop> {
    bench.doing("building both programs");
    let target = run.context.out.join("size");
    let build = Cmd::cargo(["build", "--release", "--locked", "--target", BARE_METAL])
        .args([
            "--manifest-path".as_ref(),
            run.context
                .workspace
                .join("benches/size/Cargo.toml")
                .as_os_str(),
        ])
        .args(["--target-dir".as_ref(), target.as_os_str()]);
    if let Err(why) = prepare::build_within(run, &build)? {
        found
            .failures
            .push(format!("the programs do not build: {why}"));
        return Ok(());
    }
    let ui = Ui::new(false);
    let provision = Provision {
        cache: default_out().join("cache"),
        yes: bench.may_install(),
        ui: &ui,
    };
    let providing = session::lock_cache(&provision.cache)?;
    let qemu = match provision.qemu_since(Arch::X86_64, None) {
        Ok(qemu) => Some(qemu),
        Err(Stop::Missing { what, why, fix }) => {
            found.skip(format!("memory is not measured: {what}: {why}"), fix);
            None
        }
        Err(stop) => return Err(stop),
    };
    drop(providing);
    ui.end();
    for (program, contender) in PROGRAMS {
        let path = target.join(BARE_METAL).join("release").join(program);
        let mut add = |case: &str, value: u64| {
            let key = Key {
                group: Group::Size,
                case: case.into(),
                contender: contender.into(),
            };
            let (class, value, unit) = (Class::Any, value as f64, Unit::Bytes);
            bench.add(key, What::Sample { class, value, unit }, found);
        };
        let sections = sections(&path)?;
        add("code and constants", sections.code);
        let Some(qemu) = &qemu else { continue };
        let said = boot(run, qemu.command(), &path)?;
        let taken = match said.lines().find_map(taken) {
            Some(taken) => taken,
            None => {
                let said = said.trim();
                found
                    .failures
                    .push(format!("{program} did not get its answer: {said:?}"));
                continue;
            }
        };
        add(
            "memory: static, rings and stack",
            sections.data + taken.arena + taken.stack,
        );
        add("of it static", sections.data);
        add("of it rings and what goes with them", taken.arena);
        add("of it stack, at its deepest", taken.stack);
    }
    found.notes.push(
        "Two queues of 64, one buffer of 2 KiB each; logging compiled out. `virtio-drivers` is its \
         `VirtIONetRaw` without heap, vring its driver without heap; vring has both rings in it."
            .into(),
    );
    Ok(())
}

/// Bytes that a program occupies, what both have in common aside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sections {
    code: u64,
    data: u64,
}

fn sections(path: &Path) -> anyhow::Result<Sections> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let file = object::File::parse(&*bytes)?;
    let mut sections = Sections::default();
    for section in file.sections() {
        match section.name()? {
            ".text" | ".rodata" => sections.code += section.size(),
            ".data" | ".bss" => sections.data += section.size(),
            _ => {}
        }
    }
    anyhow::ensure!(sections.code > 0, "{} has no code", path.display());
    Ok(sections)
}

/// Boots a program; what it said.
fn boot(run: &mut Run<'_>, mut qemu: Command, program: &Path) -> Result<String, Stop> {
    qemu.args([
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
    ]);
    qemu.args([
        "-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "64",
    ]);
    qemu.args([
        "-debugcon",
        "stdio",
        "-device",
        "isa-debug-exit,iobase=0xf4,iosize=0x04",
    ]);
    qemu.args(["-netdev", "user,id=n0"]);
    qemu.args([
        "-device",
        "virtio-net-pci,netdev=n0,romfile=,disable-legacy=on",
    ]);
    qemu.arg("-kernel").arg(program);
    run.say(&format!("$ {}", process::shell_words(&qemu)))?;
    let output = process::run(&mut qemu, Deadline::seconds(BOOT_SECONDS))?;
    run.say(&format!(
        "{}{}{}",
        output.stdout, output.stderr, output.status
    ))?;
    match output.status.code() {
        Some(ENDED) => Ok(output.stdout),
        _ => Ok(format!("{}: {}", output.status, output.tail())),
    }
}

/// `answered: 6144 arena, 1234 stack`
fn taken(line: &str) -> Option<Taken> {
    let (arena, stack) = line.strip_prefix("answered: ")?.split_once(", ")?;
    Some(Taken {
        arena: arena.strip_suffix(" arena")?.parse().ok()?,
        stack: stack.strip_suffix(" stack")?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_driver_that_got_its_answer_is_measured() {
        let (arena, stack) = (6144, 1234);
        assert_eq!(
            taken("answered: 6144 arena, 1234 stack"),
            Some(Taken { arena, stack })
        );
        assert_eq!(taken("no answer: 6144 arena, 1234 stack"), None);
        assert_eq!(taken("answered: many arena, 1 stack"), None);
    }

    #[test]
    fn sections_of_a_program_are_read() {
        let sections = sections(&std::env::current_exe().unwrap()).unwrap();
        assert!(sections.code > 1000 && sections.data > 0);
    }
}
