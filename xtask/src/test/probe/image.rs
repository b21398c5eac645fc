//! A linked program as a graph: its symbols, and which of them name which.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use anyhow::Context as _;
use object::read::elf::{ElfFile64, ElfSection64};
use object::{
    Object as _, ObjectSection as _, ObjectSymbol, RelocationKind, RelocationTarget, SectionFlags,
    SymbolKind,
};

/// A symbol's number.
type Node = usize;

/// The graph.
#[derive(Debug)]
pub(super) struct Image {
    /// Names, demangled.
    names: Vec<String>,
    code: Vec<bool>,
    /// Who names whom, by relocation.
    edges: HashMap<Node, Vec<Node>>,
    /// The machine code of functions, by name.
    bodies: HashMap<String, Vec<u8>>,
}

/// Addresses that belong to symbols, by first address: end, and the symbol.
type Map = BTreeMap<u64, (u64, Node)>;

/// The bytes of a function.
fn body<'a>(file: &ElfFile64<'a>, symbol: &impl ObjectSymbol<'a>) -> Option<&'a [u8]> {
    let section = file.section_by_index(symbol.section_index()?).ok()?;
    let (address, size) = (symbol.address(), symbol.size());
    section.data_range(address, size).ok().flatten()
}

impl Image {
    /// Reads an ELF file that was linked with its relocations kept.
    pub(super) fn parse(bytes: &[u8]) -> anyhow::Result<Self> {
        let file: ElfFile64 = ElfFile64::parse(bytes).context("the image is no ELF file")?;
        let mut image = Self {
            names: Vec::new(),
            code: Vec::new(),
            edges: HashMap::new(),
            bodies: HashMap::new(),
        };
        let mut map = Map::new();
        for symbol in file.symbols() {
            let name = symbol.name().unwrap_or_default();
            if !symbol.is_definition() || name.is_empty() {
                continue;
            }
            let size = symbol.size().max(1);
            let text = symbol.kind() == SymbolKind::Text;
            let node = image.push(&name_of(name), text);
            if text && let Some(body) = body(&file, &symbol) {
                image.bodies.insert(name.into(), body.into());
            }
            map.insert(symbol.address(), (symbol.address() + size, node));
        }
        anyhow::ensure!(!map.is_empty(), "the image has no symbols");
        let mut relocations = 0usize;
        // What the program does not hold, such as what debuggers read, names everything.
        let loaded = |section: &ElfSection64<'_, '_>| match section.flags() {
            SectionFlags::Elf { sh_flags } => sh_flags & u64::from(object::elf::SHF_ALLOC) != 0,
            _ => false,
        };
        for section in file.sections().filter(loaded) {
            for (at, relocation) in section.relocations() {
                relocations += 1;
                let RelocationTarget::Symbol(index) = relocation.target() else {
                    continue;
                };
                let symbol = file
                    .symbol_by_index(index)
                    .context("a relocation of nothing")?;
                // A constant without a name of its own is found as section and offset; an
                // instruction counts from its end, mostly 4 bytes on.
                let addend = match (symbol.kind(), relocation.kind()) {
                    (SymbolKind::Section, RelocationKind::Absolute) => relocation.addend(),
                    (SymbolKind::Section, _) => relocation.addend() + 4,
                    _ => 0,
                };
                let to = symbol.address().wrapping_add_signed(addend);
                let from = image.owner(&mut map, at);
                let to = image.owner(&mut map, to);
                image.edges.entry(from).or_default().push(to);
            }
        }
        anyhow::ensure!(
            relocations > 0,
            "the image was linked without --emit-relocs"
        );
        Ok(image)
    }

    fn push(&mut self, name: &str, code: bool) -> Node {
        self.names.push(name.into());
        self.code.push(code);
        self.names.len() - 1
    }

    /// The symbol that holds an address. What lies between two symbols is one node without a name,
    /// so that a path through constants may be one that no call takes. The verdict does not hang
    /// on it: that is what is linked in at all.
    fn owner(&mut self, map: &mut Map, at: u64) -> Node {
        let before = map.range(..=at).next_back().map(|(_, entry)| *entry);
        if let Some((end, node)) = before
            && at < end
        {
            return node;
        }
        let start = before.map_or(0, |(end, _)| end);
        let next = map.range(at..).next().map(|(start, _)| *start);
        let node = self.push("(constant)", false);
        map.insert(start, (next.unwrap_or(u64::MAX), node));
        node
    }

    /// The machine code of a function.
    pub(super) fn code(&self, name: &str) -> Option<&[u8]> {
        self.bodies.get(name).map(Vec::as_slice)
    }

    /// Names that begin so, of functions.
    pub(super) fn names(&self, prefix: &str) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .functions_with_names()
            .map(|(_, name)| name)
            .filter(|name| name.starts_with(prefix))
            .collect();
        names.sort_unstable();
        names
    }

    /// How many functions there are.
    pub(super) fn functions(&self) -> usize {
        self.functions_with_names().count()
    }

    fn functions_with_names(&self) -> impl Iterator<Item = (Node, &str)> {
        let all = self.names.iter().zip(&self.code).enumerate();
        all.filter(|(_, (_, code))| **code)
            .map(|(node, (name, _))| (node, name.as_str()))
    }

    /// Names of the machinery of panics, if any is linked in.
    pub(super) fn panics(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        names.retain(|name| is_panic(name));
        names.sort_unstable();
        names
    }

    /// The shortest way from a function to a panic.
    pub(super) fn panic_path(&self, from: &str) -> Option<Vec<&str>> {
        let start = self.names.iter().position(|name| name == from)?;
        let mut came_from: HashMap<Node, Node> = HashMap::new();
        let mut seen = HashSet::from([start]);
        let mut todo = VecDeque::from([start]);
        while let Some(node) = todo.pop_front() {
            if is_panic(self.name(node)) {
                let back = std::iter::successors(Some(node), |node| came_from.get(node).copied());
                let mut path: Vec<&str> = back.map(|node| self.name(node)).collect();
                path.reverse();
                return Some(path);
            }
            for &next in self.edges.get(&node).map_or(&[][..], Vec::as_slice) {
                if seen.insert(next) {
                    came_from.insert(next, node);
                    todo.push_back(next);
                }
            }
        }
        None
    }

    fn name(&self, node: Node) -> &str {
        self.names.get(node).map_or("", String::as_str)
    }
}

/// The symbol's name, demangled, without its hash.
fn name_of(symbol: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(symbol))
}

/// Whether a function is part of how a Rust program panics.
fn is_panic(name: &str) -> bool {
    let last = name.rsplit("::").next().unwrap_or_default();
    name.contains("::panicking::")
        || last.contains("panic")
        || last == "rust_begin_unwind"
        || last == "rust_eh_personality"
        || last == "_Unwind_Resume"
        || (name.starts_with("core::") || name.starts_with("alloc::"))
            && (last.ends_with("_fail")
                || last.ends_with("_failed")
                || last.contains("_fail_")
                || last == "handle_error"
                || last == "handle_alloc_error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machinery_of_panics_is_known_by_name() {
        for name in [
            "core::panicking::panic_bounds_check",
            "core::panicking::panic_fmt",
            "core::slice::index::slice_index_fail",
            "core::slice::index::slice_end_index_len_fail",
            "core::result::unwrap_failed",
            "core::option::expect_failed",
            "core::str::slice_error_fail_rt",
            "core::cell::panic_already_borrowed",
            "__rustc::rust_begin_unwind",
            "rust_begin_unwind",
            "alloc::raw_vec::handle_error",
        ] {
            assert!(is_panic(name), "{name}");
        }
        for name in [
            "vring_submit",
            "core::fmt::write",
            "<core::fmt::Formatter>::pad_integral",
            "vring::init::failed",
            "vring::ring::split::SplitRing<P,T>::broken",
        ] {
            assert!(!is_panic(name), "{name}");
        }
    }

    #[test]
    fn a_path_is_found_through_constants_and_around_circles() {
        let mut image = Image {
            names: Vec::new(),
            code: Vec::new(),
            edges: HashMap::new(),
            bodies: HashMap::new(),
        };
        let mut map = Map::new();
        for (at, name) in [
            (0x10, "root"),
            (0x20, "helper"),
            (0x40, "core::panicking::panic_fmt"),
            (0x50, "other"),
        ] {
            let node = image.push(name, true);
            map.insert(at, (at + 8, node));
        }
        // The helper names a constant at 0x30, which names the panic; and calls back.
        for (from, to) in [
            (0x12, 0x20),
            (0x24, 0x30),
            (0x26, 0x10),
            (0x31, 0x40),
            (0x52, 0x10),
        ] {
            let from = image.owner(&mut map, from);
            let to = image.owner(&mut map, to);
            image.edges.entry(from).or_default().push(to);
        }
        let path = ["root", "helper", "(constant)", "core::panicking::panic_fmt"];
        assert_eq!(image.panic_path("root").unwrap(), path);
        assert!(image.panic_path("other").is_some());
        image.edges.remove(&1);
        assert_eq!(image.panic_path("root"), None);
    }

    #[test]
    fn an_image_without_symbols_proves_nothing() {
        assert!(Image::parse(b"not an image").is_err());
        let myself = std::fs::read("/proc/self/exe").unwrap();
        let error = Image::parse(&myself).unwrap_err().to_string();
        assert!(error.contains("--emit-relocs"), "{error}");
    }
}
