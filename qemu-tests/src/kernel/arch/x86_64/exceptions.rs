//! The interrupt descriptor table and the road from an interrupt to Rust.
//!
//! Each of the 256 vectors has a stub of a few instructions that brings the stack into one shape
//! and goes on to common code, which saves what a function call may change and calls [`enter`].
//! The kernel is compiled without vector registers, so there are none to save. Vectors below 32
//! are exceptions, which end the run; the rest belongs to [`interrupts`].

use core::arch::global_asm;

use spin::Once;
use x86_64::VirtAddr;
use x86_64::registers::control::Cr2;
use x86_64::structures::idt::{InterruptDescriptorTable, InterruptStackFrameValue};

use super::{FIRST_VECTOR, SPURIOUS_VECTOR, cpu, gdt, local_apic};
use crate::kernel::{exit, interrupts};

// AT&T syntax, in which a symbol's value is written as such and is not a load from it.
global_asm!(
    r#"
    .section .text.interrupts, "ax", @progbits
    .balign 16
    .global interrupt_stubs
interrupt_stubs:
    .set vector, 0
    .rept 256
    .balign 16
    // The processor pushes an error code for these; the others get a 0 in its place.
    .if !(vector == 8 || (vector >= 10 && vector <= 14) || vector == 17 || vector == 21 || vector == 29 || vector == 30)
    pushq $0
    .endif
    pushq $vector
    jmp interrupt_common
    .set vector, vector + 1
    .endr
"#,
    options(att_syntax)
);

global_asm!(
    r#"
    .section .text.interrupts, "ax", @progbits
interrupt_common:
    push rax
    push rcx
    push rdx
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    cld
    lea rdi, [rsp + 72]             // the frame: vector, error code, what the processor pushed
    push rbp
    mov rbp, rsp
    and rsp, -16
    call {enter}
    mov rsp, rbp
    pop rbp
    pop r11
    pop r10
    pop r9
    pop r8
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rax
    add rsp, 16
    iretq
"#,
    enter = sym enter,
);

/// Bytes from one stub to the next.
const STUB_SIZE: u64 = 16;

unsafe extern "C" {
    static interrupt_stubs: u8;
}

static TABLE: Once<InterruptDescriptorTable> = Once::new();

/// What the stubs leave on the stack.
#[repr(C)]
struct Frame {
    vector: u64,
    error_code: u64,
    processor: InterruptStackFrameValue,
}

/// Loads the table, which all processors share.
pub(super) fn init() {
    let table = TABLE.call_once(|| {
        let mut table = InterruptDescriptorTable::new();
        let stub = |vector: u8| {
            VirtAddr::from_ptr(&raw const interrupt_stubs) + u64::from(vector) * STUB_SIZE
        };
        macro_rules! exceptions {
            ($($name:ident = $vector:literal),* $(,)?) => {$(
                // SAFETY: the stub for this vector ends in `iretq` with the stack as it was.
                unsafe { table.$name.set_handler_addr(stub($vector)) };
            )*};
        }
        exceptions! {
            divide_error = 0, debug = 1, non_maskable_interrupt = 2, breakpoint = 3, overflow = 4,
            bound_range_exceeded = 5, invalid_opcode = 6, device_not_available = 7,
            invalid_tss = 10, segment_not_present = 11, stack_segment_fault = 12,
            general_protection_fault = 13, page_fault = 14, x87_floating_point = 16,
            alignment_check = 17, machine_check = 18, simd_floating_point = 19,
            virtualization = 20, cp_protection_exception = 21,
        }
        // SAFETY: as above.
        let options = unsafe { table.double_fault.set_handler_addr(stub(8)) };
        // SAFETY: `gdt` has filled in that entry, and nothing else runs on that stack.
        unsafe { options.set_stack_index(gdt::DOUBLE_FAULT_STACK) };
        for vector in FIRST_VECTOR..=u8::MAX {
            // SAFETY: as above.
            unsafe { table[vector].set_handler_addr(stub(vector)) };
        }
        table
    });
    table.load();
}

/// Called by the stubs, interrupts off.
extern "C" fn enter(frame: &Frame) {
    match u8::try_from(frame.vector) {
        Ok(vector @ FIRST_VECTOR..) => {
            interrupts::dispatch(vector);
            if vector != SPURIOUS_VECTOR {
                local_apic::end_of_interrupt();
            }
        }
        _ => exit::failed(
            "exception",
            format_args!(
                "exception {} (error code {:#x}) on processor {} at {:#x}, stack {:#x}, cr2 {:#x}",
                frame.vector,
                frame.error_code,
                cpu::index(),
                frame.processor.instruction_pointer.as_u64(),
                frame.processor.stack_pointer.as_u64(),
                Cr2::read_raw(),
            ),
        ),
    }
}
