//! The outer machine's kernel: a stock distribution kernel, unpacked under `target/`.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::Provision;
use super::apt::Apt;
use crate::qemu::outer::Kernel;
use crate::qemu::stop::Stop;

/// Names that lead to a small kernel with vhost, by distribution (Debian, Ubuntu), best first.
const METAS: [&str; 3] = [
    "linux-image-cloud-amd64",
    "linux-image-virtual",
    "linux-image-amd64",
];

impl Provision<'_> {
    /// The newest kernel that can be had, for what its vhost offers: from backports, else as
    /// [`kernel`](Self::kernel).
    pub(crate) fn newest_kernel(&self) -> Result<Kernel, Stop> {
        let dir = self.cache.join("kernel-newest");
        match self.fetch_kernel(&dir, Apt::backports(&self.cache, self.ui)) {
            Err(Stop::Broken(_)) => self.kernel(),
            result => result,
        }
    }

    /// The kernel from the cache or from packages.
    fn fetch_kernel(&self, dir: &Path, apt: Option<Apt<'_>>) -> Result<Kernel, Stop> {
        if let Ok(kernel) = find_kernel(dir) {
            return Ok(kernel);
        }
        match apt {
            Some(mut apt) => apt
                .kernel_packages(&METAS)
                .and_then(|packages| {
                    self.ui.note(&format!(
                        "fetching {} and unpacking it under target/ (not installed)",
                        packages.join(", ")
                    ));
                    apt.unpack(&packages, dir)
                })
                .and_then(|()| Ok(find_kernel(dir)?)),
            None => Err(Stop::Broken(anyhow::anyhow!("there is no apt-get here"))),
        }
    }

    /// Finds the kernel in the cache, fetches it, or falls back to this machine's own.
    pub(crate) fn kernel(&self) -> Result<Kernel, Stop> {
        let dir = self.cache.join("kernel");
        let unpacked = self.fetch_kernel(&dir, Apt::find(&self.cache, self.ui));
        let error = match unpacked {
            Ok(kernel) => return Ok(kernel),
            Err(Stop::Interrupted) => return Err(Stop::Interrupted),
            Err(stop) => stop,
        };
        own_kernel().map_err(|own| {
            Stop::missing(
                "a Linux kernel with vhost_net for the outer machine",
                format!("no package could be unpacked ({error}), and this machine's own kernel does not do ({own:#})"),
                "put vmlinuz and lib/modules of any distribution's kernel where this machine \
                 keeps its own, or use --vhost off",
            )
        })
    }
}

/// The kernel in an unpacked package, whose files are where the package has them.
fn find_kernel(root: &Path) -> anyhow::Result<Kernel> {
    let boot = root.join("boot");
    let entries =
        std::fs::read_dir(&boot).with_context(|| format!("cannot list {}", boot.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(release) = name.strip_prefix("vmlinuz-") else {
            continue;
        };
        if let Some(modules) = modules_of(root, release) {
            return Ok(Kernel {
                image: entry.path(),
                modules,
                release: release.into(),
            });
        }
    }
    anyhow::bail!("no kernel with modules in {}", root.display())
}

fn modules_of(root: &Path, release: &str) -> Option<PathBuf> {
    ["lib/modules", "usr/lib/modules"]
        .iter()
        .map(|dir| root.join(dir).join(release))
        .find(|dir| dir.join("kernel").is_dir())
}

/// The kernel that this machine runs, if its files are here and can be read.
fn own_kernel() -> anyhow::Result<Kernel> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let modules = modules_of(Path::new("/"), &release)
        .with_context(|| format!("there is no /lib/modules/{release}"))?;
    let image = [
        PathBuf::from(format!("/boot/vmlinuz-{release}")),
        modules.join("vmlinuz"),
    ]
    .into_iter()
    .find(|path| std::fs::File::open(path).is_ok())
    .with_context(|| format!("no readable vmlinuz of {release}"))?;
    Ok(Kernel {
        image,
        modules,
        release,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unpacked_kernel_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        assert!(find_kernel(root).is_err());
        std::fs::create_dir_all(root.join("boot")).unwrap();
        std::fs::write(root.join("boot/vmlinuz-6.1.0"), b"").unwrap();
        std::fs::write(root.join("boot/config-6.1.0"), b"").unwrap();
        assert!(
            find_kernel(root).is_err(),
            "without modules it is of no use"
        );
        std::fs::create_dir_all(root.join("usr/lib/modules/6.1.0/kernel")).unwrap();
        assert_eq!(find_kernel(root).unwrap().release, "6.1.0");
    }
}
