//! Kernel modules: which ones, in which order, decompressed.
//!
//! A kernel package that was unpacked and not installed has no `modules.dep`, so the order comes
//! from the modules themselves: each names what it depends on in its `.modinfo` section.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use object::{Object as _, ObjectSection as _};

/// A module ready to be loaded.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

/// The modules of one kernel: names to files.
#[derive(Debug)]
pub(crate) struct ModuleTree {
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

/// `kernel/drivers/vhost/vhost-net.ko.xz` as `vhost_net`.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (stem, rest) = name.split_once(".ko")?;
    matches!(rest, "" | ".xz" | ".zst" | ".gz").then(|| stem.replace('-', "_"))
}

impl ModuleTree {
    /// Reads `lib/modules/<release>`.
    pub(crate) fn read(dir: &Path) -> anyhow::Result<Self> {
        let mut files = BTreeMap::new();
        let mut todo = vec![dir.join("kernel")];
        while let Some(dir) = todo.pop() {
            let entries = std::fs::read_dir(&dir)
                .with_context(|| format!("cannot list {}", dir.display()))?;
            for entry in entries {
                let path = entry?.path();
                if path.is_dir() {
                    todo.push(path);
                } else if let Some(name) = module_name(&path) {
                    files.insert(name, path);
                }
            }
        }
        // Absent, it means that nothing is built in.
        let builtin = std::fs::read_to_string(dir.join("modules.builtin")).unwrap_or_default();
        let builtin = builtin
            .lines()
            .filter_map(|line| module_name(Path::new(line)))
            .collect();
        Ok(Self { files, builtin })
    }

    /// The named modules and all that they need, dependencies first.
    pub(crate) fn closure(&self, wanted: &[&str]) -> anyhow::Result<Vec<Module>> {
        let mut order = Vec::new();
        let mut done = BTreeSet::new();
        for name in wanted {
            self.visit(name, &mut done, &mut order)?;
        }
        Ok(order)
    }

    fn visit(
        &self,
        name: &str,
        done: &mut BTreeSet<String>,
        order: &mut Vec<Module>,
    ) -> anyhow::Result<()> {
        if self.builtin.contains(name) || !done.insert(name.into()) {
            return Ok(());
        }
        let path = self
            .files
            .get(name)
            .with_context(|| format!("the kernel has no module {name}"))?;
        let bytes = decompress(path)?;
        for dependency in
            dependencies(&bytes).with_context(|| format!("the module {}", path.display()))?
        {
            self.visit(&dependency, done, order)?;
        }
        order.push(Module {
            name: name.into(),
            bytes,
        });
        Ok(())
    }
}

/// What the module's `.modinfo` says after `depends=`.
fn dependencies(elf: &[u8]) -> anyhow::Result<Vec<String>> {
    let file = object::File::parse(elf).context("not an ELF file")?;
    let section = file
        .section_by_name(".modinfo")
        .context("no .modinfo section")?;
    let info = section.data().context("the .modinfo section is damaged")?;
    Ok(parse_modinfo(info))
}

fn parse_modinfo(info: &[u8]) -> Vec<String> {
    info.split(|&byte| byte == 0)
        .filter_map(|field| field.strip_prefix(b"depends="))
        .flat_map(|names| names.split(|&byte| byte == b','))
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).replace('-', "_"))
        .collect()
}

fn decompress(path: &Path) -> anyhow::Result<Vec<u8>> {
    let raw = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut bytes = Vec::new();
    match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => lzma_rs::xz_decompress(&mut raw.as_slice(), &mut bytes)
            .map_err(|error| anyhow::anyhow!("{error:?}"))
            .with_context(|| format!("cannot decompress {}", path.display()))?,
        Some("zst") => {
            ruzstd::decoding::StreamingDecoder::new(raw.as_slice())
                .map_err(|error| anyhow::anyhow!("{error}"))
                .and_then(|mut decoder| Ok(decoder.read_to_end(&mut bytes)?))
                .with_context(|| format!("cannot decompress {}", path.display()))?;
        }
        Some("gz") => anyhow::bail!(
            "{} is compressed with gzip, which no supported distribution uses",
            path.display()
        ),
        _ => bytes = raw,
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let name = |path: &str| module_name(Path::new(path));
        assert_eq!(name("kernel/a/vhost-net.ko.xz"), Some("vhost_net".into()));
        assert_eq!(name("tun.ko"), Some("tun".into()));
        assert_eq!(name("modules.order"), None);
        assert_eq!(name("a.ko.sig"), None);
    }

    #[test]
    fn modinfo_is_read() {
        let info = b"license=GPL\0depends=vhost,tap,vhost-iotlb\0retpoline=Y\0";
        assert_eq!(parse_modinfo(info), ["vhost", "tap", "vhost_iotlb"]);
        assert!(parse_modinfo(b"depends=\0").is_empty());
    }

    #[test]
    fn a_file_that_is_no_module_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("kernel")).unwrap();
        std::fs::write(dir.path().join("kernel/tun.ko"), b"junk").unwrap();
        std::fs::write(
            dir.path().join("modules.builtin"),
            "kernel/drivers/virtio/virtio.ko\n",
        )
        .unwrap();
        let tree = ModuleTree::read(dir.path()).unwrap();
        assert!(tree.closure(&["virtio"]).unwrap().is_empty());
        let error = format!("{:#}", tree.closure(&["tun"]).unwrap_err());
        assert!(error.contains("tun.ko"), "{error}");
        let error = tree.closure(&["vhost_net"]).unwrap_err().to_string();
        assert!(error.contains("vhost_net"), "{error}");
    }
}
