//! Where the windows are: the kernel's command line, in Linux's words.
//!
//! QEMU's `microvm` and Firecracker tell a kernel of its devices so:
//!
//! ```text
//!   console=ttyS0 virtio_mmio.device=512@0xfeb00e00:12 virtio_mmio.device=4K@0xd0000000:5:0
//!                                    size  address   interrupt                         number
//! ```
//!
//! Numbers are decimal, hexadecimal with `0x`, or octal with a `0` in front; the size may end in
//! `K`, `M`, `G`, `T`, `P` or `E`. `-` and `_` are the same in the name, quotes keep blanks
//! together, and what is behind `--` is for others.

use core::fmt;

use super::discover::{Line, Window};

const NAME: &str = "virtio_mmio.device";

/// The devices that a command line tells of, in its order. An argument that says
/// `virtio_mmio.device=` and cannot be understood is an error, and the next one is looked at all
/// the same.
#[must_use]
#[doc(alias = "virtio_mmio.device")]
pub const fn command_line(line: &str) -> CommandLine<'_> {
    CommandLine { rest: line }
}

/// See [`command_line`].
#[derive(Clone, Debug)]
pub struct CommandLine<'a> {
    rest: &'a str,
}

/// A device of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandLineDevice {
    /// Where it is.
    pub window: Window,
    /// The number that the command line gives it, which tells devices apart for people.
    pub id: Option<u32>,
}

/// An argument that cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandLineError<'a> {
    /// The argument.
    pub argument: &'a str,
    /// What is wrong with it.
    pub why: CommandLineFault,
}

/// What is wrong with an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CommandLineFault {
    /// The size is no number, 0, or above 2^64 - 1.
    Size,
    /// There is no `@` and number of at most 64 bits behind the size.
    Address,
    /// There is no `:` and number of at most 32 bits behind the address, or it is 0.
    Interrupt,
    /// What is behind the last `:` is no number of at most 32 bits.
    Id,
    /// There is something behind the last number.
    Trailing,
    /// Address and size leave the address space.
    Wraps {
        /// First physical address.
        address: u64,
        /// Bytes.
        length: u64,
    },
}

impl fmt::Display for CommandLineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::Size => "the size is no number from 1 to 2^64 - 1",
            Self::Address => "behind the size must be @ and an address of at most 64 bits",
            Self::Interrupt => {
                "behind the address must be : and an interrupt, a number from 1 to 2^32 - 1"
            }
            Self::Id => "behind the last : must be a number of at most 32 bits",
            Self::Trailing => "there is something behind the last number",
            Self::Wraps { address, length } => {
                return write!(
                    f,
                    "{length:#x} bytes at {address:#x} leave the address space"
                );
            }
        })
    }
}

impl fmt::Display for CommandLineError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { argument, why } = self;
        write!(
            f,
            "`{argument}`: {why}; write {NAME}=<size>@<address>:<interrupt>[:<id>], such as \
             {NAME}=512@0xfeb00000:5"
        )
    }
}

impl core::error::Error for CommandLineError<'_> {}

impl<'a> Iterator for CommandLine<'a> {
    type Item = Result<CommandLineDevice, CommandLineError<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some(argument) = self.argument() {
            if argument == "--" {
                self.rest = "";
            }
            if let Some(value) = value(argument) {
                return Some(device(value).map_err(|why| CommandLineError { argument, why }));
            }
        }
        None
    }
}

impl core::iter::FusedIterator for CommandLine<'_> {}

impl<'a> CommandLine<'a> {
    /// Takes the next argument: up to a blank that is not between quotes.
    fn argument(&mut self) -> Option<&'a str> {
        let line = self.rest.trim_ascii_start();
        let mut quoted = false;
        let blank = |&byte: &u8| {
            quoted ^= byte == b'"';
            !quoted && byte.is_ascii_whitespace()
        };
        let end = line.as_bytes().iter().position(blank);
        let (argument, rest) = end
            .and_then(|end| line.split_at_checked(end))
            .unwrap_or((line, ""));
        self.rest = rest;
        (!argument.is_empty()).then_some(argument)
    }
}

/// What the argument says, when it is ours.
fn value(argument: &str) -> Option<&str> {
    let (name, value) = argument.trim_matches('"').split_once('=')?;
    let ours = name
        .bytes()
        .map(|byte| if byte == b'-' { b'_' } else { byte });
    ours.eq(NAME.bytes()).then(|| value.trim_matches('"'))
}

fn device(value: &str) -> Result<CommandLineDevice, CommandLineFault> {
    let (length, rest) = size(value).ok_or(CommandLineFault::Size)?;
    let address = rest.strip_prefix('@').and_then(number);
    let (address, rest) = address.ok_or(CommandLineFault::Address)?;
    let interrupt = rest.strip_prefix(':').and_then(number32);
    let interrupt = interrupt.filter(|&(number, _)| number != 0);
    let (number, rest) = interrupt.ok_or(CommandLineFault::Interrupt)?;
    let (id, rest) = match rest.strip_prefix(':') {
        Some(id) => {
            let (id, rest) = number32(id).ok_or(CommandLineFault::Id)?;
            (Some(id), rest)
        }
        None => (None, rest),
    };
    if !rest.is_empty() {
        return Err(CommandLineFault::Trailing);
    }
    if address.checked_add(length.saturating_sub(1)).is_none() {
        return Err(CommandLineFault::Wraps { address, length });
    }
    let trigger = None;
    let interrupt = Some(Line { number, trigger });
    let window = Window {
        address,
        length,
        interrupt,
    };
    Ok(CommandLineDevice { window, id })
}

/// A number of bytes, more than 0, and what is behind it.
fn size(text: &str) -> Option<(u64, &str)> {
    let (number, rest) = number(text)?;
    let (unit, letters) = match rest.bytes().next().map(|byte| byte.to_ascii_uppercase()) {
        Some(b'K') => (1 << 10, 1),
        Some(b'M') => (1 << 20, 1),
        Some(b'G') => (1 << 30, 1),
        Some(b'T') => (1 << 40, 1),
        Some(b'P') => (1 << 50, 1),
        Some(b'E') => (1 << 60, 1),
        _ => (1, 0),
    };
    let size = number.checked_mul(unit).filter(|&size| size != 0)?;
    Some((size, rest.get(letters..)?))
}

fn number32(text: &str) -> Option<(u32, &str)> {
    let (number, rest) = number(text)?;
    Some((u32::try_from(number).ok()?, rest))
}

/// A number at the start of a text, and what is behind it.
fn number(text: &str) -> Option<(u64, &str)> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let (base, digits) = match hex {
        Some(digits) => (16, digits),
        None if text.starts_with('0') => (8, text),
        None => (10, text),
    };
    let mut number: u64 = 0;
    let mut count: usize = 0;
    for byte in digits.bytes() {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => break,
        };
        if u64::from(digit) >= base {
            break;
        }
        number = number.checked_mul(base)?.checked_add(digit.into())?;
        count = count.wrapping_add(1);
    }
    if count == 0 {
        return None;
    }
    Some((number, digits.get(count..)?))
}
