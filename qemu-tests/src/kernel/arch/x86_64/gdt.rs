//! Segments and the task state: long mode needs a code segment, and a double fault needs a stack
//! of its own, because the usual cause is that the other one has overflowed.

use core::cell::UnsafeCell;

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

/// The interrupt stack table entry for the double fault.
pub(super) const DOUBLE_FAULT_STACK: u16 = 0;

const STACK_SIZE: usize = 16 * 1024;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; STACK_SIZE]>);

// SAFETY: only the processor uses it, and there is one processor.
unsafe impl Sync for Stack {}

static FAULT_STACK: Stack = Stack(UnsafeCell::new([0; STACK_SIZE]));
static TASK_STATE: Once<TaskStateSegment> = Once::new();
static TABLE: Once<(GlobalDescriptorTable, SegmentSelector, SegmentSelector)> = Once::new();

/// Loads the kernel's segments.
pub(super) fn init() {
    let task_state = TASK_STATE.call_once(|| {
        let mut task_state = TaskStateSegment::new();
        let top = FAULT_STACK.0.get().addr() + STACK_SIZE;
        task_state.interrupt_stack_table[usize::from(DOUBLE_FAULT_STACK)] =
            VirtAddr::new(top as u64);
        task_state
    });
    let (table, code, task) = TABLE.call_once(|| {
        let mut table = GlobalDescriptorTable::new();
        let code = table.append(Descriptor::kernel_code_segment());
        let task = table.append(Descriptor::tss_segment(task_state));
        (table, code, task)
    });
    table.load();
    // SAFETY: the selector is that of a 64-bit code segment in the table just loaded.
    unsafe { CS::set_reg(*code) };
    // SAFETY: the selector is that of the task state in the same table, loaded once.
    unsafe { load_tss(*task) };
}
