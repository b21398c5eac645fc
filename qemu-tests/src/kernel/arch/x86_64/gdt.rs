//! Segments and the task state: long mode needs a code segment, and a double fault needs a stack
//! of its own, because the usual cause is that the other one has overflowed. A processor marks its
//! task state as busy in the table, so each has a table to itself.

use core::cell::UnsafeCell;

use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable, SegmentSelector};
use x86_64::structures::tss::TaskStateSegment;

use crate::kernel::smp::MOST;

/// The interrupt stack table entry for the double fault.
pub(super) const DOUBLE_FAULT_STACK: u16 = 0;

const STACK_SIZE: usize = 16 * 1024;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; STACK_SIZE]>);

// SAFETY: only its processor uses it.
unsafe impl Sync for Stack {}

/// What a processor has of its own.
struct Segments {
    fault_stack: Stack,
    task_state: Once<TaskStateSegment>,
    table: Once<(GlobalDescriptorTable, SegmentSelector, SegmentSelector)>,
}

static SEGMENTS: [Segments; MOST] = [const {
    Segments {
        fault_stack: Stack(UnsafeCell::new([0; STACK_SIZE])),
        task_state: Once::new(),
        table: Once::new(),
    }
}; MOST];

/// Loads the kernel's segments on this processor, number `cpu` of [`MOST`].
pub(super) fn init(cpu: usize) {
    let own = &SEGMENTS[cpu];
    let task_state = own.task_state.call_once(|| {
        let mut task_state = TaskStateSegment::new();
        let top = own.fault_stack.0.get().addr() + STACK_SIZE;
        task_state.interrupt_stack_table[usize::from(DOUBLE_FAULT_STACK)] =
            VirtAddr::new(top as u64);
        task_state
    });
    let (table, code, task) = own.table.call_once(|| {
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
