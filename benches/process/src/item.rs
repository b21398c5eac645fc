//! Chains, as the memory that a caller hands in and gets back.
//!
//! | descriptors | what it is like |
//! |---|---|
//! | 1 | a block of 64 bytes that the device reads |
//! | 2 | a frame of 64 bytes with its header of 12 bytes apart |
//! | 3 | a block read: header of 16 bytes, 512 bytes and a status byte that the device writes |
//!
//! Drivers see the same memory through the calls that they have: vring takes the item itself (it
//! is a `DmaBuf`), `virtio-drivers` takes slices, and `virtio-driver` takes pointers, with header
//! and status in memory that it keeps for each request.
//!
//! Each item has a number, which is in the first bytes of its data and of its header: the device
//! of the self-check reads it there.

use std::ffi::c_void;
use std::io;

use virtio_driver::iovec;
use vring::buffer::{DmaBuf, Readable, Segment, Writable};
use vring::platform::Direction;
use zerocopy::{Immutable, IntoBytes};

use std::ptr::NonNull;

/// One descriptor of a chain: length, and whether the device writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Bytes.
    pub len: u32,
    /// The device writes it.
    pub writable: bool,
}

const fn readable(len: u32) -> Piece {
    let writable = false;
    Piece { len, writable }
}

const fn writable(len: u32) -> Piece {
    let writable = true;
    Piece { len, writable }
}

/// Length of a block or frame.
pub const FRAME: usize = 64;
/// Length of a sector.
pub const SECTOR: usize = 512;

/// A chain that a caller owns.
pub trait Item: Sized + 'static {
    /// Its descriptors.
    const PIECES: &'static [Piece];
    /// Which of them holds the data.
    const DATA: usize;

    /// Item `number`.
    fn new(number: u32) -> Self;

    /// Where its data is; the first four bytes are the item's number.
    fn data(&self) -> *const u8;
}

/// Slices that the device reads.
pub type Inputs<'a> = &'a [&'a [u8]];
/// Slices that the device writes.
pub type Outputs<'a> = &'a mut [&'a mut [u8]];

/// An item that is one slice per piece.
pub trait Slices: Item {
    /// Lends the slices that the device reads, and those that it writes, to `f`.
    fn slices<R>(&mut self, f: impl for<'a> FnOnce(Inputs<'a>, Outputs<'a>) -> R) -> R;
}

/// Where [`Request::request`] names a piece: the memory, and whether the device writes it.
pub type AddPiece<'a> = &'a mut dyn FnMut(iovec, bool) -> io::Result<()>;

/// An item whose header and reply are in memory that the driver keeps for each request.
pub trait Request: Item {
    /// Header and reply.
    type Shared: Copy;

    /// Fills the header, and names all pieces.
    ///
    /// # Errors
    /// Those of `add`.
    fn request(&mut self, shared: &mut Self::Shared, add: AddPiece<'_>) -> io::Result<()>;
}

/// An item whose header and reply are in the queue's cells.
pub trait Celled: Item + DmaBuf {
    /// The header.
    type Header: IntoBytes + Immutable;
    /// Size of the reply.
    const REPLY: u16;

    /// The header of this item.
    fn header(&self) -> Self::Header;
}

fn iovec_of(base: *mut u8, len: usize) -> iovec {
    base.expose_provenance();
    iovec {
        iov_base: base.cast::<c_void>(),
        iov_len: len,
    }
}

fn numbered<const N: usize>(number: u32) -> [u8; N] {
    let mut bytes = [0; N];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn number_of(data: &[u8]) -> u32 {
    data.first_chunk()
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// One descriptor: a block that the device reads, of a pool that is never freed.
pub type Block = Readable<&'static mut [u8; FRAME]>;

impl Item for Block {
    const PIECES: &'static [Piece] = &[readable(FRAME as u32)];
    const DATA: usize = 0;

    fn new(number: u32) -> Self {
        Self(Box::leak(Box::new(numbered(number))))
    }

    fn data(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

impl Slices for Block {
    #[inline(always)] // a few moves
    fn slices<R>(&mut self, f: impl for<'a> FnOnce(Inputs<'a>, Outputs<'a>) -> R) -> R {
        f(&[&*self.0], &mut [])
    }
}

impl Request for Block {
    type Shared = ();

    #[inline(always)] // a few moves
    fn request(&mut self, (): &mut (), add: AddPiece<'_>) -> io::Result<()> {
        add(iovec_of(self.0.as_mut_ptr(), self.0.len()), false)
    }
}

/// Two descriptors: a frame and its header, behind one pointer.
#[derive(Debug)]
pub struct Frame(Box<FrameMemory>);

#[derive(Debug)]
#[repr(C)]
struct FrameMemory {
    header: [u8; 12],
    data: [u8; FRAME],
}

impl Item for Frame {
    const PIECES: &'static [Piece] = &[readable(12), readable(FRAME as u32)];
    const DATA: usize = 1;

    fn new(number: u32) -> Self {
        Self(Box::new(FrameMemory {
            header: numbered(number),
            data: numbered(number),
        }))
    }

    fn data(&self) -> *const u8 {
        self.0.data.as_ptr()
    }
}

// SAFETY: the bytes are in a box that this value owns, initialized, and used by nobody else.
unsafe impl DmaBuf for Frame {
    #[inline(always)] // a constant
    fn count(&self) -> usize {
        2
    }

    #[inline(always)] // decides which of two pointers
    fn segment(&mut self, index: usize) -> Segment {
        match index {
            0 => read_from(&raw mut self.0.header),
            _ => read_from(&raw mut self.0.data),
        }
    }
}

impl Slices for Frame {
    #[inline(always)] // a few moves
    fn slices<R>(&mut self, f: impl for<'a> FnOnce(Inputs<'a>, Outputs<'a>) -> R) -> R {
        f(&[&self.0.header, &self.0.data], &mut [])
    }
}

impl Request for Frame {
    type Shared = [u8; 12];

    #[inline(always)] // a few moves
    fn request(&mut self, shared: &mut [u8; 12], add: AddPiece<'_>) -> io::Result<()> {
        *shared = self.0.header;
        add(iovec_of(shared.as_mut_ptr(), shared.len()), false)?;
        add(iovec_of(self.0.data.as_mut_ptr(), FRAME), false)
    }
}

/// Three descriptors: a block read, behind one pointer.
#[derive(Debug)]
pub struct Read(Box<ReadMemory>);

#[derive(Debug)]
#[repr(C)]
struct ReadMemory {
    header: [u8; 16],
    status: u8,
    data: [u8; SECTOR],
}

const READ: &[Piece] = &[readable(16), writable(SECTOR as u32), writable(1)];

impl Item for Read {
    const PIECES: &'static [Piece] = READ;
    const DATA: usize = 1;

    fn new(number: u32) -> Self {
        Self(Box::new(ReadMemory {
            header: numbered(number),
            status: 0,
            data: numbered(number),
        }))
    }

    fn data(&self) -> *const u8 {
        self.0.data.as_ptr()
    }
}

// SAFETY: the bytes are in a box that this value owns, initialized, and used by nobody else.
unsafe impl DmaBuf for Read {
    #[inline(always)] // a constant
    fn count(&self) -> usize {
        3
    }

    #[inline(always)] // decides which of three pointers
    fn segment(&mut self, index: usize) -> Segment {
        match index {
            0 => read_from(&raw mut self.0.header),
            1 => write_to(&raw mut self.0.data),
            _ => write_to((&raw mut self.0.status).cast::<[u8; 1]>()),
        }
    }
}

impl Slices for Read {
    #[inline(always)] // a few moves
    fn slices<R>(&mut self, f: impl for<'a> FnOnce(Inputs<'a>, Outputs<'a>) -> R) -> R {
        let ReadMemory {
            header,
            status,
            data,
        } = &mut *self.0;
        f(&[header], &mut [data, std::slice::from_mut(status)])
    }
}

/// Header and status of a block read, in memory that the driver keeps for each request.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ReadCells {
    header: [u8; 16],
    status: u8,
}

impl Request for Read {
    type Shared = ReadCells;

    #[inline(always)] // a few moves
    fn request(&mut self, shared: &mut ReadCells, add: AddPiece<'_>) -> io::Result<()> {
        *shared = ReadCells {
            header: self.0.header,
            status: 0,
        };
        add(iovec_of(shared.header.as_mut_ptr(), 16), false)?;
        add(iovec_of(self.0.data.as_mut_ptr(), SECTOR), true)?;
        add(iovec_of(&raw mut shared.status, 1), true)
    }
}

/// The data of a frame, whose header goes into the queue's cell.
pub type FrameData = Readable<Box<[u8; FRAME]>>;

impl Item for FrameData {
    const PIECES: &'static [Piece] = Frame::PIECES;
    const DATA: usize = 1;

    fn new(number: u32) -> Self {
        Self(Box::new(numbered(number)))
    }

    fn data(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

impl Celled for FrameData {
    type Header = [u32; 3];
    const REPLY: u16 = 0;

    #[inline(always)] // one load
    fn header(&self) -> [u32; 3] {
        [number_of(&self.0[..]), 0, 0]
    }
}

/// The data of a block read, whose header and status are in the queue's cells.
pub type ReadData = Writable<Box<[u8; SECTOR]>>;

impl Item for ReadData {
    const PIECES: &'static [Piece] = READ;
    const DATA: usize = 1;

    fn new(number: u32) -> Self {
        Self(Box::new(numbered(number)))
    }

    fn data(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

impl Celled for ReadData {
    type Header = [u32; 4];
    const REPLY: u16 = 1;

    #[inline(always)] // one load
    fn header(&self) -> [u32; 4] {
        [number_of(&self.0[..]), 0, 0, 0]
    }
}

/// A frame and its header, of the crate's own parts.
pub type FramePair = (Readable<Box<[u8; 12]>>, Readable<Box<[u8; FRAME]>>);

impl Item for FramePair {
    const PIECES: &'static [Piece] = Frame::PIECES;
    const DATA: usize = 1;

    fn new(number: u32) -> Self {
        let header = Readable(Box::new(numbered(number)));
        (header, Readable(Box::new(numbered(number))))
    }

    fn data(&self) -> *const u8 {
        self.1.0.as_ptr()
    }
}

/// A block read, of the crate's own parts.
pub type ReadTriple = (
    Readable<Box<[u8; 16]>>,
    Writable<Box<[u8; SECTOR]>>,
    Writable<Box<[u8; 1]>>,
);

impl Item for ReadTriple {
    const PIECES: &'static [Piece] = READ;
    const DATA: usize = 1;

    fn new(number: u32) -> Self {
        (
            Readable(Box::new(numbered(number))),
            Writable(Box::new(numbered(number))),
            Writable(Box::new([0])),
        )
    }

    fn data(&self) -> *const u8 {
        self.1.0.as_ptr()
    }
}

#[inline(always)] // two constants and a pointer
fn read_from<const N: usize>(bytes: *mut [u8; N]) -> Segment {
    segment(bytes, Direction::Readable)
}

#[inline(always)] // two constants and a pointer
fn write_to<const N: usize>(bytes: *mut [u8; N]) -> Segment {
    segment(bytes, Direction::Writable)
}

#[inline(always)] // two constants and a pointer
fn segment<const N: usize>(bytes: *mut [u8; N], direction: Direction) -> Segment {
    // SAFETY: callers point into a box.
    let bytes = unsafe { NonNull::new_unchecked(bytes) }.cast();
    // SAFETY: the box is initialized, and belongs to the value that names the segment.
    unsafe { Segment::new(bytes, N, direction) }
}
