//! What a fake platform has handed out, and the faults that a test injects.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::ptr::NonNull;

use spin::{Mutex, MutexGuard};

use super::memory::{Block, Lent};
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

/// Polls after which a wait gives up; Miri takes long over each.
const PATIENCE: u32 = if cfg!(miri) { 50 } else { 1000 };

/// The platform's side. Whatever the driver does against the contract of `Platform` is trapped.
impl Core {
    pub(super) fn new(style: Style) -> Self {
        Self {
            style,
            table: Mutex::new(Table::default()),
            settings: Mutex::new(Settings {
                access: Access::Physical,
                patience: PATIENCE,
                hook: None,
            }),
        }
    }

    pub(super) fn style(&self) -> Style {
        self.style
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

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
    pub(super) fn leaks(&self) -> Option<String> {
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
