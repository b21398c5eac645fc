//! The vector table and the road from an exception to Rust.
//!
//! An interrupt saves what a function call may change, vector registers included, as the compiler
//! uses them for copying; the handler does not turn interrupts on again, so the two registers that
//! say where to return to stay as they are. Anything else ends the run, on a stack of its own,
//! because the usual cause is that the other one has overflowed.

use core::arch::global_asm;
use core::cell::UnsafeCell;

use aarch64_cpu::registers::{VBAR_EL1, Writeable};

use super::gic;
use crate::kernel::exit;

global_asm!(
    r#"
    .section .text.exceptions, "ax", @progbits
    .balign 2048
    .global exception_vectors
exception_vectors:
    .rept 5                         // with the other stack, and synchronous ones
    .balign 128
    b exception_fault
    .endr
    .balign 128
    b exception_interrupt
    .rept 10                        // fast interrupts, errors, and from EL0
    .balign 128
    b exception_fault
    .endr

exception_fault:
    mrs x0, esr_el1
    mrs x1, elr_el1
    mrs x2, far_el1
    mov x3, sp
    adrp x4, {stack}
    add x4, x4, :lo12:{stack}
    add x4, x4, {stack_pages}, lsl #12
    mov sp, x4
    bl {fault}
    brk #0

exception_interrupt:
    sub sp, sp, #672
    stp x0, x1, [sp, #0]
    stp x2, x3, [sp, #16]
    stp x4, x5, [sp, #32]
    stp x6, x7, [sp, #48]
    stp x8, x9, [sp, #64]
    stp x10, x11, [sp, #80]
    stp x12, x13, [sp, #96]
    stp x14, x15, [sp, #112]
    stp x16, x17, [sp, #128]
    stp x18, x30, [sp, #144]
    stp q0, q1, [sp, #160]
    stp q2, q3, [sp, #192]
    stp q4, q5, [sp, #224]
    stp q6, q7, [sp, #256]
    stp q8, q9, [sp, #288]
    stp q10, q11, [sp, #320]
    stp q12, q13, [sp, #352]
    stp q14, q15, [sp, #384]
    stp q16, q17, [sp, #416]
    stp q18, q19, [sp, #448]
    stp q20, q21, [sp, #480]
    stp q22, q23, [sp, #512]
    stp q24, q25, [sp, #544]
    stp q26, q27, [sp, #576]
    stp q28, q29, [sp, #608]
    stp q30, q31, [sp, #640]
    bl {interrupt}
    ldp x0, x1, [sp, #0]
    ldp x2, x3, [sp, #16]
    ldp x4, x5, [sp, #32]
    ldp x6, x7, [sp, #48]
    ldp x8, x9, [sp, #64]
    ldp x10, x11, [sp, #80]
    ldp x12, x13, [sp, #96]
    ldp x14, x15, [sp, #112]
    ldp x16, x17, [sp, #128]
    ldp x18, x30, [sp, #144]
    ldp q0, q1, [sp, #160]
    ldp q2, q3, [sp, #192]
    ldp q4, q5, [sp, #224]
    ldp q6, q7, [sp, #256]
    ldp q8, q9, [sp, #288]
    ldp q10, q11, [sp, #320]
    ldp q12, q13, [sp, #352]
    ldp q14, q15, [sp, #384]
    ldp q16, q17, [sp, #416]
    ldp q18, q19, [sp, #448]
    ldp q20, q21, [sp, #480]
    ldp q22, q23, [sp, #512]
    ldp q24, q25, [sp, #544]
    ldp q26, q27, [sp, #576]
    ldp q28, q29, [sp, #608]
    ldp q30, q31, [sp, #640]
    add sp, sp, #672
    eret
"#,
    stack = sym FAULT_STACK,
    stack_pages = const STACK_SIZE >> 12,
    fault = sym fault,
    interrupt = sym gic::handle,
);

const STACK_SIZE: usize = 16 * 1024;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; STACK_SIZE]>);

// SAFETY: only the processor uses it, and there is one processor.
unsafe impl Sync for Stack {}

static FAULT_STACK: Stack = Stack(UnsafeCell::new([0; STACK_SIZE]));

unsafe extern "C" {
    static exception_vectors: u8;
}

/// Loads the table.
pub(crate) fn init() {
    VBAR_EL1.set((&raw const exception_vectors).addr() as u64);
}

extern "C" fn fault(syndrome: u64, at: u64, address: u64, stack: u64) -> ! {
    exit::failed(
        "exception",
        format_args!(
            "exception {:#x} (syndrome {syndrome:#x}) at {at:#x}, stack {stack:#x}, address \
             {address:#x}",
            syndrome >> 26 & 0x3f
        ),
    )
}
