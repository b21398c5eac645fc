//! More of the identity map than the boot code made: device windows above 4 GiB, and a hole below
//! the boot stack.

use alloc::alloc::{Layout, alloc_zeroed, handle_alloc_error};

use spin::Mutex;
use x86_64::structures::paging::mapper::{MapToError, MapperFlush};
use x86_64::structures::paging::{
    FrameAllocator, Mapper, OffsetPageTable, Page, PageTable, PageTableFlags, PhysFrame, Size2MiB,
    Size4KiB, Translate,
};
use x86_64::{PhysAddr, VirtAddr};

use crate::kernel::smp;

unsafe extern "C" {
    static mut boot_pml4: PageTable;
    static stack_guard: u8;
}

/// The end of what can be mapped to itself: half of the lower half of the address space.
pub(crate) const HIGHEST: u64 = 1 << 46;

/// As many addresses that are mapped nowhere: the other half.
pub(crate) const UNMAPPED: usize = 1 << 46;

/// Serialises changes of the page tables.
static TABLES: Mutex<()> = Mutex::new(());

const PRESENT: PageTableFlags = PageTableFlags::PRESENT.union(PageTableFlags::WRITABLE);
const DEVICE: PageTableFlags = PRESENT
    .union(PageTableFlags::NO_CACHE)
    .union(PageTableFlags::WRITE_THROUGH);

/// Page tables from the heap.
struct Heap;

// SAFETY: each frame is a fresh allocation that is never freed, and the heap is identity-mapped.
unsafe impl FrameAllocator<Size4KiB> for Heap {
    fn allocate_frame(&mut self) -> Option<PhysFrame> {
        let layout = Layout::new::<PageTable>();
        // SAFETY: the layout is not empty.
        let table = unsafe { alloc_zeroed(layout) };
        if table.is_null() {
            handle_alloc_error(layout);
        }
        PhysFrame::from_start_address(PhysAddr::new(table.addr() as u64)).ok()
    }
}

fn with_tables<R>(change: impl FnOnce(&mut OffsetPageTable<'_>) -> R) -> R {
    let _lock = TABLES.lock();
    let root = &raw mut boot_pml4;
    // SAFETY: the root is live for ever, and the lock makes this the only reference to it.
    let root = unsafe { &mut *root };
    // SAFETY: memory is mapped to itself, so the offset is 0.
    let mut tables = unsafe { OffsetPageTable::new(root, VirtAddr::zero()) };
    change(&mut tables)
}

/// Makes `len` bytes at `address` reachable at the same virtual address, uncached where they were
/// not mapped before.
pub(crate) fn map_device(address: u64, len: u64) {
    let first = PhysFrame::<Size2MiB>::containing_address(PhysAddr::new(address));
    let last = PhysFrame::containing_address(PhysAddr::new(address + len.max(1) - 1));
    for frame in PhysFrame::range_inclusive(first, last) {
        with_tables(|tables| {
            // SAFETY: an identity mapping of device memory gives nobody a second name for RAM.
            match unsafe { tables.identity_map(frame, DEVICE, &mut Heap) } {
                Ok(flush) => MapperFlush::flush(flush),
                Err(MapToError::PageAlreadyMapped(_) | MapToError::ParentEntryHugePage) => {}
                Err(error) => panic!("cannot map {frame:?}: {error:?}"),
            }
        });
    }
}

/// Takes the page below the boot stack out of the map, so that an overflow is a fault.
pub(crate) fn guard_boot_stack() {
    guard(VirtAddr::from_ptr(&raw const stack_guard));
}

/// Takes the page at `address`, which the boot code mapped, out of the map. Only for as long as one
/// processor runs: others would have to be told to forget it.
pub(super) fn guard(address: VirtAddr) {
    assert_eq!(smp::running(), 1, "no processor has the page in its TLB");
    let guard = Page::<Size4KiB>::containing_address(address);
    let huge = Page::<Size2MiB>::containing_address(address);
    with_tables(|tables| {
        let entry = &mut directory_of(tables, huge)[huge.start_address().p2_index()];
        if entry.flags().contains(PageTableFlags::HUGE_PAGE) {
            entry.set_addr(split(huge).start_address(), PRESENT);
        }
        let table = entry.addr().as_u64() as *mut PageTable;
        // SAFETY: `split` made the table, now or before, and the lock is held.
        let table = unsafe { &mut *table };
        table[guard.start_address().p1_index()].set_unused();
    });
    x86_64::instructions::tlb::flush_all();
    with_tables(|tables| {
        assert!(tables.translate_addr(guard.start_address()).is_none());
    });
}

/// A table that maps the pages of a huge one as they were.
fn split(huge: Page<Size2MiB>) -> PhysFrame {
    let frame = Heap.allocate_frame().expect("the heap aborts instead");
    let table = frame.start_address().as_u64() as *mut PageTable;
    // SAFETY: a fresh, zeroed page that only this function knows.
    let table = unsafe { &mut *table };
    let start = PhysAddr::new(huge.start_address().as_u64());
    for (page, entry) in (0u64..).zip(table.iter_mut()) {
        entry.set_addr(start + page * 4096, PRESENT);
    }
    frame
}

/// The page directory of a 2 MiB page that the boot code mapped.
fn directory_of<'a>(
    tables: &'a mut OffsetPageTable<'_>,
    page: Page<Size2MiB>,
) -> &'a mut PageTable {
    let address = page.start_address();
    let pdpt = tables.level_4_table()[address.p4_index()].addr().as_u64() as *mut PageTable;
    // SAFETY: the boot code put the table there, and `tables` is borrowed for as long as this.
    let pdpt = unsafe { &mut *pdpt };
    let directory = pdpt[address.p3_index()].addr().as_u64() as *mut PageTable;
    // SAFETY: as above.
    unsafe { &mut *directory }
}
