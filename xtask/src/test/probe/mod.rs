//! The `probe` section: no panic can be reached from the data path.
//!
//! `tests/probe` links the functions of the data path for bare metal, and nothing else; the
//! linker throws away what they do not reach. If the panic handler is left, something reaches it,
//! and the relocations that the linker keeps tell which way. A second build adds a root that
//! panics: the search must find that one, and blame no other.

mod image;

use std::path::Path;

use anyhow::Context as _;

use self::image::Image;
use super::needs::Need;
use super::run::{Cmd, Run};
use super::section::{Check, Outcome};
use crate::qemu::provision::rust::TARGET;
use crate::qemu::stop::Stop;

/// The package, and its binary.
const PACKAGE: &str = "probe";
/// Roots that must be in the image: without them an empty image would pass.
const EXPECTED: [&str; 4] = ["vring_submit", "vring_kick", "vring_drain", "vring_next"];
/// Roots that write a word and then read the device's.
const FENCED: [&str; 2] = ["vring_kick", "vring_arm"];
/// The machine code of `mfence`.
const MFENCE: [u8; 3] = [0x0f, 0xae, 0xf0];
/// What roots are called.
const ROOT_PREFIX: &str = "vring_";
/// The root that panics, and the feature that adds it.
const PROVOKED: (&str, &str) = ("vring_provoke", "provoke");

pub(crate) fn checks() -> Vec<Check> {
    let need = || Need::Target(TARGET);
    vec![
        Check::new("nothing panics", |run| {
            let image = link(run, &[])?;
            let image = match image {
                Ok(image) => image,
                Err(outcome) => return Ok(outcome),
            };
            let mut outcome = clean(&image);
            let roots = image.names(ROOT_PREFIX).len();
            let all = image.functions();
            let note = format!("{roots} functions of the data path, {all} in all, none panics");
            outcome
                .notes
                .extend(outcome.failures.is_empty().then_some(note));
            Ok(outcome)
        })
        .needs(need()),
        Check::new(
            "bug_class_29_the_full_fence_is_one_to_an_emulator_too",
            |run| {
                let image = link(run, &[])?;
                Ok(image.map_or_else(|outcome| outcome, |image| fenced(&image)))
            },
        )
        .needs(need()),
        Check::new("a panic that is there is found", |run| {
            let image = link(run, &["--features", PROVOKED.1])?;
            Ok(image.map_or_else(|outcome| outcome, |image| provoked(&image)))
        })
        .needs(need()),
    ]
}

/// Builds the probe and reads what was linked.
fn link(run: &mut Run<'_>, words: &[&str]) -> Result<Result<Image, Outcome>, Stop> {
    let target = run.context.target.clone();
    let cmd = Cmd::cargo([
        "rustc",
        "--release",
        "--package",
        PACKAGE,
        "--target",
        TARGET,
    ])
    .args(words)
    .args([Path::new("--target-dir"), &target])
    // Which symbol uses which: to tell a path, not only that there is one.
    .args(["--", "-Clink-arg=--emit-relocs"]);
    if !run.command(&cmd)?.ok() {
        return Ok(Err(Outcome::failed("the probe does not build")));
    }
    let path = target.join(TARGET).join("release").join(PACKAGE);
    let bytes = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Ok(Image::parse(&bytes)?))
}

/// One check per root: it is there, and reaches no panic.
fn clean(image: &Image) -> Outcome {
    let mut outcome = Outcome::default();
    for name in EXPECTED {
        let there = image.names(ROOT_PREFIX).contains(&name);
        if !there {
            outcome.judge(false, || format!("{name} is not in the image"));
        }
    }
    for root in image.names(ROOT_PREFIX) {
        let path = image.panic_path(root);
        outcome.judge(path.is_none(), || path.unwrap_or_default().join(" -> "));
    }
    // Whatever the paths say: an image without panics has none of their symbols.
    let left = image.panics();
    outcome.judge(left.is_empty(), || {
        format!("linked in: {}", left.join(", "))
    });
    outcome
}

/// What decides on kicks and on sleep holds the one instruction that QEMU takes for a fence in a
/// machine of one CPU: `lock or` is none there, and loses kicks.
fn fenced(image: &Image) -> Outcome {
    let mut outcome = Outcome::default();
    for root in FENCED {
        let code = image.code(root);
        let fenced = code.is_some_and(|code| code.windows(MFENCE.len()).any(|at| at == MFENCE));
        outcome.judge(fenced, || format!("{root} has no mfence"));
    }
    outcome
}

/// The root that panics is found, and it alone.
fn provoked(image: &Image) -> Outcome {
    let mut outcome = Outcome::default();
    let panics = image.panics();
    outcome.judge(!panics.is_empty(), || {
        "a function that panics links no panic".into()
    });
    let path = image.panic_path(PROVOKED.0);
    outcome.judge(path.is_some(), || {
        format!("no path from {} to a panic is found", PROVOKED.0)
    });
    outcome.notes.extend(path.map(|path| path.join(" -> ")));
    for root in image.names(ROOT_PREFIX) {
        if root != PROVOKED.0 {
            let path = image.panic_path(root);
            outcome.judge(path.is_none(), || path.unwrap_or_default().join(" -> "));
        }
    }
    outcome
}
