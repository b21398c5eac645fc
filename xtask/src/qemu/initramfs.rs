//! The outer machine's root: a "newc" cpio archive that mirrors the host's paths.
//!
//! Programs keep the absolute paths that they have on the host, with the shared libraries that
//! `ldd` names at the paths that it prints, so nothing needs to be relocated. The archive is not
//! compressed: under emulation, unpacking would cost more than loading.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::limits::Deadline;
use super::process;
use super::stop::Stop;

/// One entry of the archive.
#[derive(Debug)]
struct Entry {
    mode: u32,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// An archive in the making.
#[derive(Debug, Default)]
pub(crate) struct Initramfs {
    entries: BTreeMap<PathBuf, Entry>,
    seen: BTreeSet<PathBuf>,
}

const DIR: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const DATA: u32 = 0o100_644;

/// `/usr/bin/../lib` as `/usr/lib`, without asking the file system.
pub(crate) fn normalise(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            other => out.push(other),
        }
    }
    out
}

impl Initramfs {
    fn put(&mut self, path: &Path, mode: u32, content: Content) {
        let path = normalise(path);
        let mut parent = path.parent();
        while let Some(dir) = parent {
            if dir.parent().is_some() {
                self.dir(dir);
            }
            parent = dir.parent();
        }
        self.entries.insert(path, Entry { mode, content });
    }

    /// An empty directory.
    pub(crate) fn dir(&mut self, path: &Path) {
        self.entries.entry(path.into()).or_insert(Entry {
            mode: DIR,
            content: Content::Bytes(Vec::new()),
        });
    }

    /// A file made on the spot.
    pub(crate) fn bytes(&mut self, path: &Path, bytes: Vec<u8>) {
        self.put(path, DATA, Content::Bytes(bytes));
    }

    /// A file of the host, elsewhere or at its own path.
    pub(crate) fn file(&mut self, path: &Path, source: &Path) {
        self.put(path, DATA, Content::File(source.into()));
    }

    /// A program of the host with every shared library that it names.
    pub(crate) fn program(
        &mut self,
        path: &Path,
        source: &Path,
        library_path: Option<&str>,
    ) -> Result<(), Stop> {
        self.put(path, PROGRAM, Content::File(source.into()));
        if !self.seen.insert(source.into()) {
            return Ok(());
        }
        let mut ldd = Command::new("ldd");
        ldd.arg(source);
        if let Some(library_path) = library_path {
            ldd.env("LD_LIBRARY_PATH", library_path);
        }
        let output = process::run(&mut ldd, Deadline::seconds(30))?;
        for library in parse_ldd(&output.stdout)
            .with_context(|| format!("the shared libraries of {}", source.display()))?
        {
            self.put(&library, PROGRAM, Content::File(library.clone()));
        }
        Ok(())
    }

    /// The places of all files.
    pub(crate) fn files(&self) -> impl Iterator<Item = &Path> {
        let files = self.entries.iter().filter(|(_, entry)| entry.mode != DIR);
        files.map(|(path, _)| path.as_path())
    }

    /// Writes the archive; the number of bytes.
    pub(crate) fn write(&self, out: &mut impl Write) -> anyhow::Result<u64> {
        let mut writer = Cpio { out, at: 0, ino: 1 };
        for (path, entry) in &self.entries {
            let name = path.strip_prefix("/").unwrap_or(path);
            let read;
            let bytes = match &entry.content {
                Content::Bytes(bytes) => bytes,
                Content::File(source) => {
                    read = std::fs::read(source)
                        .with_context(|| format!("cannot read {}", source.display()))?;
                    &read
                }
            };
            writer.entry(&name.to_string_lossy(), entry.mode, bytes)?;
        }
        writer.entry("TRAILER!!!", 0, &[])?;
        Ok(writer.at)
    }
}

struct Cpio<'a, W> {
    out: &'a mut W,
    at: u64,
    ino: u32,
}

impl<W: Write> Cpio<'_, W> {
    fn raw(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.out
            .write_all(bytes)
            .context("cannot write the initramfs")?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn pad(&mut self) -> anyhow::Result<()> {
        let over = (self.at % 4) as usize;
        if over == 0 {
            Ok(())
        } else {
            self.raw(&[0; 4][over..])
        }
    }

    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8]) -> anyhow::Result<()> {
        let size = u32::try_from(bytes.len()).context("a file of the initramfs exceeds 4 GiB")?;
        let links = if mode & 0o170_000 == 0o040_000 { 2 } else { 1 };
        // ino, mode, uid, gid, nlink, mtime, filesize, dev ×2, rdev ×2, namesize, check
        let fields = [
            self.ino,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        self.ino += 1;
        let mut header = String::from("070701");
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.raw(header.as_bytes())?;
        self.raw(name.as_bytes())?;
        self.raw(&[0])?;
        self.pad()?;
        self.raw(bytes)?;
        self.pad()
    }
}

/// The files that `ldd` names.
fn parse_ldd(text: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some((name, _)) = line.split_once(" => not found") {
            anyhow::bail!("{name} is not installed");
        }
        let place = line.split_once(" => ").map_or(line, |(_, place)| place);
        if let Some(path) = place.split(" (0x").next()
            && path.starts_with('/')
        {
            found.push(normalise(Path::new(path)));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_is_read() {
        let text = "\tlinux-vdso.so.1 (0x00007ffe)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            parse_ldd(text).unwrap(),
            [
                PathBuf::from("/lib/x86_64-linux-gnu/libc.so.6"),
                "/lib64/ld-linux-x86-64.so.2".into()
            ]
        );
        let missing = parse_ldd("\tlibz.so.9 => not found\n").unwrap_err();
        assert!(missing.to_string().contains("libz.so.9"));
        assert!(
            parse_ldd("\tnot a dynamic executable\n")
                .unwrap()
                .is_empty()
        );
        assert!(parse_ldd("\tstatically linked\n").unwrap().is_empty());
    }

    #[test]
    fn the_archive_has_parents_before_children_and_is_aligned() {
        let mut archive = Initramfs::default();
        archive.bytes(Path::new("/a/b/file"), b"12345".to_vec());
        let mut out = Vec::new();
        assert_eq!(archive.write(&mut out).unwrap(), out.len() as u64);
        assert_eq!(out.len() % 4, 0);
        let text = String::from_utf8_lossy(&out);
        let names: Vec<usize> = ["a\0", "a/b\0", "a/b/file\0", "12345", "TRAILER!!!"]
            .iter()
            .map(|name| text.find(name).unwrap())
            .collect();
        assert!(names.is_sorted(), "{names:?}");
        assert!(out.starts_with(b"070701"));
    }

    #[test]
    fn paths_are_normalised() {
        let path = normalise(Path::new("/usr/bin/../share/./qemu"));
        assert_eq!(path, Path::new("/usr/share/qemu"));
    }
}
