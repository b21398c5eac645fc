//! Standard output, which may be closed: `cargo xtask test --list | head -1`.

use std::fmt::Arguments;
use std::io::Write as _;

/// Prints a line. Whoever has closed the stream hears nothing, and the run goes on.
pub(crate) fn told(line: Arguments<'_>) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

/// Prints text that ends its own lines.
pub(crate) fn told_whole(text: &str) {
    drop(std::io::stdout().write_all(text.as_bytes()));
}
