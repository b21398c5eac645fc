//! Linux's own ring benchmark, `tools/virtio/ringtest`: its `ring.c` takes part on two cores.
//!
//! It is fetched from the distribution's package of the kernel's source and built under `target/`.
//! Nothing of the run depends on it.

use std::path::PathBuf;

use super::groups::Bench;
use super::prepare::copy_dir;
use crate::qemu::provision::Provision;
use crate::qemu::stop::Stop;
use crate::qemu::ui::Ui;
use crate::qemu::{default_out, session};
use crate::test::run::{Cmd, Run};

/// As the program that runs it calls it.
pub(super) const NAME: &str = "Linux ringtest ring.c";

/// What of the source it is built from.
const PARTS: [&str; 3] = [
    "tools/virtio/ringtest",
    "tools/virtio/linux",
    "include/linux/ptr_ring.h",
];
/// What it builds with outside of the kernel's tree, link-time optimization as its authors have it.
const CFLAGS: &str = "CFLAGS=-w -Dkvmalloc_array_noprof=kvmalloc_array \
                      -Dkmalloc_array_noprof=kmalloc_array '-Dalloc_hooks(x)=x' -pthread -O2 -ggdb \
                      -flto -fwhole-program";
/// Seconds for the compiler.
const BUILD_SECONDS: u64 = 120;

/// The directory where it is built, or why there is none.
pub(super) fn provide(
    bench: &Bench<'_>,
    run: &mut Run<'_>,
) -> Result<Result<PathBuf, String>, Stop> {
    let dir = run.context.out.join("ringtest");
    let built = dir.join("tools/virtio/ringtest");
    if built.join("ring").is_file() {
        return Ok(Ok(built));
    }
    bench.doing("fetching Linux's ringtest");
    let ui = Ui::new(false);
    let provision = Provision {
        cache: default_out().join("cache"),
        yes: bench.may_install(),
        ui: &ui,
    };
    let providing = session::lock_cache(&provision.cache)?;
    let source = provision.linux_source(&PARTS);
    drop(providing);
    ui.end();
    let source = match source {
        Ok(source) => source,
        Err(Stop::Interrupted) => return Err(Stop::Interrupted),
        Err(stop) => return Ok(Err(stop.to_string().replace('\n', ";"))),
    };
    copy_dir(&source, &dir)?;
    let make = Cmd::new("make", ["ring", CFLAGS]);
    Ok(match run.command_within(&make, &built, BUILD_SECONDS) {
        Ok(Some(printed)) if printed.ok() => Ok(built),
        Ok(Some(printed)) => Err(format!("it does not build: {}", printed.ending())),
        Ok(None) => Err(format!("it does not build within {BUILD_SECONDS} s")),
        Err(Stop::Broken(error)) => Err(format!("it does not build: {error:#}")),
        Err(stop) => return Err(stop),
    })
}
