//! Guest memory as a device reaches it, and the books that the fake platforms keep.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use spin::Mutex;

use super::memory::{Block, Lent, Words};
use super::table::{Entry, Memory, Table};
use crate::platform::{Access, Direction, DmaAddr, DmaError, Mapping, Wait};

/// What a bounce buffer for the device to write holds before it writes.
pub const POISON: u8 = 0xa5;

/// How a platform maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// The buffer itself; nothing is unmapped.
    Direct,
    /// A copy, in a space of so many bytes.
    Bounce { space: usize },
    /// The buffer itself, up to the end of a page of so many bytes.
    Pages { size: usize },
}

type WaitHook = Arc<dyn Fn(Wait, u32) + Send + Sync>;

/// What the clones of a platform and its buses share.
pub(super) struct Core {
    style: Style,
    table: Mutex<Table>,
    settings: Mutex<Settings>,
}

struct Settings {
    access: Access,
    patience: u32,
    hook: Option<WaitHook>,
}

/// What a fake platform has handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Regions allocated and not freed.
    pub regions: usize,
    /// Their bytes.
    pub region_bytes: usize,
    /// Buffers mapped and not unmapped; always 0 on a platform that is `DIRECT`.
    pub mappings: usize,
    /// Bytes of bounce buffers in use.
    pub bounced_bytes: usize,
    /// Successful allocations so far.
    pub allocs: usize,
    /// Successful maps so far.
    pub maps: usize,
    /// Unmaps so far.
    pub unmaps: usize,
    /// Bytes that the driver reported as leaked.
    pub leaked_bytes: usize,
    /// Buffers that the driver reported as leaked.
    pub leaked_buffers: usize,
    pub(super) addresses: usize,
}

/// Why the device could not reach memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusFault {
    /// Nothing was ever at this address.
    Wild {
        /// Where.
        addr: DmaAddr,
        /// Bytes of the access.
        len: usize,
    },
    /// What was at this address was freed or unmapped, or the access starts past its end.
    Freed {
        /// Where.
        addr: DmaAddr,
        /// Bytes of the access.
        len: usize,
    },
    /// The access goes past the end of what is there.
    Overrun {
        /// Where.
        addr: DmaAddr,
        /// Bytes of the access.
        len: usize,
        /// Bytes that are there.
        room: usize,
    },
    /// The buffer was mapped for the other direction.
    Direction {
        /// Where.
        addr: DmaAddr,
        /// What the device may do.
        allowed: Direction,
    },
    /// A word of a ring in memory that the driver did not allocate from the platform.
    NotShared {
        /// Where.
        addr: DmaAddr,
    },
    /// A word that is not aligned to its size.
    Misaligned {
        /// Where.
        addr: DmaAddr,
        /// Bytes of the word.
        width: usize,
    },
    /// Memory of an [`InPlace`](super::InPlace) platform, touched without the queue that carries
    /// it: nothing would stop the access when the driver has its buffer back.
    Direct {
        /// Where.
        addr: DmaAddr,
    },
}

impl fmt::Display for BusFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Wild { addr, len } => write!(f, "{len} bytes at {addr}: nothing was ever there"),
            Self::Freed { addr, len } => write!(f, "{len} bytes at {addr}: freed or unmapped"),
            Self::Overrun { addr, len, room } => {
                write!(f, "{len} bytes at {addr}: there are only {room}")
            }
            Self::Direction { addr, allowed } => {
                write!(f, "the buffer at {addr} is only {allowed:?}")
            }
            Self::NotShared { addr } => write!(f, "{addr} is not memory from `Platform::alloc`"),
            Self::Misaligned { addr, width } => write!(f, "a word of {width} bytes at {addr}"),
            Self::Direct { addr } => {
                write!(
                    f,
                    "{addr} of an in-place platform is reached through its queue only"
                )
            }
        }
    }
}

impl core::error::Error for BusFault {}

/// Guest memory as a device reaches it: by bus address, checked. Clones are the same memory.
///
/// The methods panic where the device is trapped; the `try_` forms return the fault instead.
///
/// Bytes are plain memory: the device touches what the driver has published, and returns it
/// before the driver touches it again. A test that breaks this from another thread has a data
/// race, which Miri reports. Words of rings are atomics.
///
/// On an [`InPlace`](super::InPlace) platform only reads of allocated memory work here. Nobody
/// tells that platform when a buffer is the driver's again, so buffers are reached through the
/// queue that carries them ([`SplitDevice::read`](super::SplitDevice::read) and `write`), which
/// ends the loan when it returns them.
#[derive(Clone)]
pub struct Bus {
    core: Arc<Core>,
}

impl Bus {
    pub(super) fn new(style: Style) -> Self {
        Self {
            core: Arc::new(Core {
                style,
                table: Mutex::new(Table::default()),
                settings: Mutex::new(Settings {
                    access: Access::Physical,
                    patience: 1000,
                    hook: None,
                }),
            }),
        }
    }

    pub(super) fn core(&self) -> &Core {
        &self.core
    }

    /// Reads bytes.
    ///
    /// # Panics
    /// With the [`BusFault`].
    pub fn read(&self, addr: DmaAddr, into: &mut [u8]) {
        self.try_read(addr, into)
            .unwrap_or_else(|fault| panic!("device read: {fault}"));
    }

    /// Writes bytes.
    ///
    /// # Panics
    /// With the [`BusFault`].
    pub fn write(&self, addr: DmaAddr, bytes: &[u8]) {
        self.try_write(addr, bytes)
            .unwrap_or_else(|fault| panic!("device write: {fault}"));
    }

    /// Reads bytes.
    ///
    /// # Errors
    /// The [`BusFault`]; nothing is read then.
    pub fn try_read(&self, addr: DmaAddr, into: &mut [u8]) -> Result<(), BusFault> {
        self.refuse_leased(addr, into.len())?;
        self.lent_read(addr, into)
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// The [`BusFault`]; nothing is written then.
    pub fn try_write(&self, addr: DmaAddr, bytes: &[u8]) -> Result<(), BusFault> {
        self.refuse_direct(addr)?;
        self.lent_write(addr, bytes)
    }

    /// Whether the device may read or write these bytes.
    ///
    /// # Errors
    /// The [`BusFault`] that it would meet.
    pub fn check(&self, addr: DmaAddr, len: usize, direction: Direction) -> Result<(), BusFault> {
        self.core
            .table
            .lock()
            .find_for(addr, len, direction)
            .map(|_| ())
    }

    /// As `try_read`, also of a leased buffer: for queues, which end leases.
    pub(super) fn lent_read(&self, addr: DmaAddr, into: &mut [u8]) -> Result<(), BusFault> {
        let table = self.core.table.lock();
        let (entry, offset) = table.find_for(addr, into.len(), Direction::Readable)?;
        entry.read(offset, into);
        Ok(())
    }

    /// As `try_write`, also of a leased buffer: for queues, which end leases.
    pub(super) fn lent_write(&self, addr: DmaAddr, bytes: &[u8]) -> Result<(), BusFault> {
        let table = self.core.table.lock();
        let (entry, offset) = table.find_for(addr, bytes.len(), Direction::Writable)?;
        entry.write(offset, bytes);
        Ok(())
    }

    /// Whether buffers are leased, not mapped.
    pub(super) fn is_direct(&self) -> bool {
        self.core.style == Style::Direct
    }

    /// The device is about to return the buffer at `addr`, and touches it no more.
    pub(super) fn end_lease(&self, addr: DmaAddr) {
        if self.is_direct() {
            self.core.table.lock().end_lease(addr);
        }
    }

    /// The words of `len` bytes that the driver allocated.
    pub(super) fn words(&self, addr: DmaAddr, len: usize) -> Result<Words, BusFault> {
        self.core.table.lock().words(addr, len)
    }

    fn refuse_direct(&self, addr: DmaAddr) -> Result<(), BusFault> {
        match self.is_direct() {
            true => Err(BusFault::Direct { addr }),
            false => Ok(()),
        }
    }

    fn refuse_leased(&self, addr: DmaAddr, len: usize) -> Result<(), BusFault> {
        match self.core.table.lock().find(addr, len)?.0.memory {
            Memory::Leased(_) => Err(BusFault::Direct { addr }),
            _ => Ok(()),
        }
    }

    fn word(&self, addr: DmaAddr, width: usize) -> Words {
        match addr.0.is_multiple_of(width as u64) {
            true => self.words(addr, width),
            false => Err(BusFault::Misaligned { addr, width }),
        }
        .unwrap_or_else(|fault| panic!("device word: {fault}"))
    }
}

macro_rules! bus_words {
    ($($load:ident, $store:ident: $int:ty, $bits:literal;)*) => { impl Bus {$(
        #[doc = concat!("Loads a little-endian ", $bits, "-bit word of a ring.")]
        ///
        /// # Panics
        /// With the [`BusFault`].
        #[must_use]
        pub fn $load(&self, addr: DmaAddr, order: Ordering) -> $int {
            self.word(addr, size_of::<$int>()).$load(0, order)
        }

        #[doc = concat!("Stores a little-endian ", $bits, "-bit word of a ring.")]
        ///
        /// # Panics
        /// With the [`BusFault`].
        pub fn $store(&self, addr: DmaAddr, value: $int, order: Ordering) {
            self.refuse_direct(addr).unwrap_or_else(|fault| panic!("device word: {fault}"));
            self.word(addr, size_of::<$int>()).$store(0, value, order);
        }
    )*} };
}

bus_words! {
    load_u16, store_u16: u16, "16";
    load_u32, store_u32: u32, "32";
    load_u64, store_u64: u64, "64";
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("style", &self.core.style)
            .field("counts", &self.core.table.lock().counts)
            .finish()
    }
}

/// The platform's side. Whatever the driver does against the contract of `Platform` is trapped.
impl Core {
    pub(super) fn alloc(&self, layout: Layout) -> Result<(DmaAddr, Arc<Block>), DmaError> {
        let (size, align) = (layout.size(), layout.align());
        assert!(size != 0, "platform: alloc of no bytes");
        let mut table = self.table.lock();
        if trips(&mut table.fail_alloc) {
            return Err(DmaError::OutOfMemory { size, align });
        }
        let block = Block::zeroed(layout).ok_or(DmaError::OutOfMemory { size, align })?;
        let entry = Entry::new(Memory::Shared(Arc::clone(&block)), size, None);
        let (addr, _) = table.insert(entry, align as u64, 0);
        table.counts.regions += 1;
        table.counts.region_bytes += size;
        table.counts.allocs += 1;
        Ok((addr, block))
    }

    pub(super) fn dealloc(&self, addr: DmaAddr, ptr: NonNull<u8>, layout: Layout) {
        let mut table = self.table.lock();
        let known = table.layout(addr);
        assert!(
            known.is_some(),
            "platform: dealloc of {addr}: not allocated, or freed twice"
        );
        assert!(
            known == Some(layout),
            "platform: dealloc of {addr} as {layout:?}, it is {known:?}"
        );
        let Some(Memory::Shared(block)) = table.remove(addr).map(|entry| entry.memory) else {
            return;
        };
        assert!(
            block.pointer() == ptr,
            "platform: dealloc of {addr} with another pointer"
        );
        block.retire();
        table.counts.regions -= 1;
        table.counts.region_bytes -= layout.size();
    }

    /// How many bytes of the buffer one mapping takes.
    pub(super) fn piece(&self, lent: &Lent) -> usize {
        assert!(lent.len() != 0, "platform: map of no bytes");
        let most = match self.style {
            Style::Pages { size } => size - lent.pointer().addr().get() % size,
            _ => usize::MAX,
        };
        lent.len().min(most).min(u32::MAX as usize)
    }

    pub(super) fn map(
        &self,
        lent: Lent,
        direction: Direction,
    ) -> Result<(DmaAddr, usize), DmaError> {
        let mut table = self.table.lock();
        let size = lent.len();
        let low = lent.pointer().addr().get() as u64 % GRAIN;
        let full = Err(DmaError::OutOfMemory { size, align: 1 });
        if trips(&mut table.fail_map) {
            return full;
        }
        let memory = match self.style {
            Style::Direct => Memory::Leased(lent),
            Style::Pages { .. } => Memory::InPlace(lent),
            Style::Bounce { space } => {
                let layout = Layout::array::<u8>(size).ok();
                let Some(block) = layout.and_then(Block::zeroed) else {
                    return full;
                };
                if size > space.saturating_sub(table.counts.bounced_bytes) {
                    return full;
                }
                match direction {
                    Direction::Readable => {
                        let mut copy = alloc::vec![0; size];
                        lent.read(0, &mut copy);
                        block.write(0, &copy);
                    }
                    Direction::Writable => block.fill(POISON),
                }
                table.counts.bounced_bytes += size;
                Memory::Bounced(block, lent)
            }
        };
        if self.style != Style::Direct {
            table.counts.mappings += 1;
        }
        table.counts.maps += 1;
        Ok(table.insert(Entry::new(memory, size, Some(direction)), GRAIN, low))
    }

    pub(super) fn unmap(&self, mapping: &Mapping, direction: Direction, used: u32) {
        let addr = mapping.addr;
        let mut table = self.table.lock();
        let entry = table.get(addr);
        assert!(
            entry.is_some(),
            "platform: unmap of {addr}: not mapped, or unmapped twice"
        );
        let Some((entry, token)) = entry.map(|entry| (entry, entry.token)) else {
            return;
        };
        assert!(
            entry.direction == Some(direction),
            "platform: unmap of {addr} as {direction:?}, it is {:?}",
            entry.direction
        );
        assert!(
            token == mapping.token && entry.len == mapping.len as usize,
            "platform: unmap of {addr} with another mapping's token or length"
        );
        assert!(
            used <= mapping.len,
            "platform: unmap of {addr}: {used} bytes used of {}",
            mapping.len
        );
        let home = match &entry.memory {
            Memory::Bounced(_, lent) | Memory::InPlace(lent) => lent.pointer(),
            Memory::Leased(_) => panic!("platform: unmap of {addr}, and the platform is DIRECT"),
            Memory::Shared(_) => panic!("platform: unmap of {addr}, which is allocated memory"),
        };
        assert!(
            home == mapping.ptr,
            "platform: unmap of {addr} with another pointer"
        );
        if let Memory::Bounced(block, lent) = &entry.memory {
            if direction == Direction::Writable {
                let mut copy: Vec<u8> = alloc::vec![0; used as usize];
                block.read(0, &mut copy);
                lent.write(0, &copy);
            }
            block.retire();
            table.counts.bounced_bytes -= mapping.len as usize;
        }
        table.remove(addr);
        table.counts.mappings -= 1;
        table.counts.unmaps += 1;
    }

    pub(super) fn access(&self) -> Access {
        self.settings.lock().access
    }

    pub(super) fn wait(&self, what: Wait, polls: u32) -> bool {
        let (patience, hook) = {
            let settings = self.settings.lock();
            (settings.patience, settings.hook.clone())
        };
        if let Some(hook) = hook {
            hook(what, polls);
        }
        core::hint::spin_loop();
        polls < patience
    }

    pub(super) fn leaked(&self, bytes: usize, buffers: usize) {
        let counts = &mut self.table.lock().counts;
        counts.leaked_bytes += bytes;
        counts.leaked_buffers += buffers;
    }

    pub(super) fn counts(&self) -> Counts {
        self.table.lock().counts
    }

    pub(super) fn fail_nth(&self, map: Option<u32>, alloc: Option<u32>) {
        let mut table = self.table.lock();
        table.fail_map = map.or(table.fail_map);
        table.fail_alloc = alloc.or(table.fail_alloc);
    }

    pub(super) fn set_access(&self, access: Access) {
        self.settings.lock().access = access;
    }

    pub(super) fn set_patience(&self, polls: u32) {
        self.settings.lock().patience = polls;
    }

    pub(super) fn set_hook(&self, hook: WaitHook) {
        self.settings.lock().hook = Some(hook);
    }

    /// Which leaks there are, in words.
    pub(super) fn leaks(&self) -> Option<alloc::string::String> {
        let counts = self.counts();
        let clean = (counts.regions, counts.mappings) == (0, 0)
            && (counts.leaked_bytes, counts.leaked_buffers) == (0, 0);
        (!clean).then(|| format!("{counts:?}"))
    }
}

/// Buffers keep their place within so many bytes, as they do in a page.
const GRAIN: u64 = 4096;

/// Counts one call down; true when this is the one that fails.
fn trips(left: &mut Option<u32>) -> bool {
    match left.take() {
        Some(n) if n > 1 => {
            *left = Some(n - 1);
            false
        }
        Some(_) => true,
        None => false,
    }
}
