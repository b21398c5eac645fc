//! The road from a trap to Rust.
//!
//! An interrupt saves what a function call may change; the handler does not turn interrupts on
//! again, so the two registers that say where to return to stay as they are. An exception ends the
//! run, on a stack of its own, because the usual cause is that the other one has overflowed: then
//! the first store here traps once more, as an exception.

use core::arch::global_asm;
use core::cell::UnsafeCell;

use riscv::register::scause;
use riscv::register::stvec::{self, Stvec, TrapMode};

use super::{handle_external, timer};
use crate::kernel::exit;

global_asm!(
    r#"
    .section .text.traps, "ax", @progbits
    .option push
    .option arch, +d                // the target has it, which the assembler is not told
    .balign 4
    .global trap_entry
trap_entry:
    csrw sscratch, t0
    csrr t0, scause
    bgez t0, trap_fault             // the highest bit says "interrupt"
    csrr t0, sscratch
    addi sp, sp, -288
    sd ra, 0(sp)
    sd t0, 8(sp)
    sd t1, 16(sp)
    sd t2, 24(sp)
    sd t3, 32(sp)
    sd t4, 40(sp)
    sd t5, 48(sp)
    sd t6, 56(sp)
    sd a0, 64(sp)
    sd a1, 72(sp)
    sd a2, 80(sp)
    sd a3, 88(sp)
    sd a4, 96(sp)
    sd a5, 104(sp)
    sd a6, 112(sp)
    sd a7, 120(sp)
    fsd ft0, 128(sp)
    fsd ft1, 136(sp)
    fsd ft2, 144(sp)
    fsd ft3, 152(sp)
    fsd ft4, 160(sp)
    fsd ft5, 168(sp)
    fsd ft6, 176(sp)
    fsd ft7, 184(sp)
    fsd ft8, 192(sp)
    fsd ft9, 200(sp)
    fsd ft10, 208(sp)
    fsd ft11, 216(sp)
    fsd fa0, 224(sp)
    fsd fa1, 232(sp)
    fsd fa2, 240(sp)
    fsd fa3, 248(sp)
    fsd fa4, 256(sp)
    fsd fa5, 264(sp)
    fsd fa6, 272(sp)
    fsd fa7, 280(sp)
    call {interrupt}
    ld ra, 0(sp)
    ld t0, 8(sp)
    ld t1, 16(sp)
    ld t2, 24(sp)
    ld t3, 32(sp)
    ld t4, 40(sp)
    ld t5, 48(sp)
    ld t6, 56(sp)
    ld a0, 64(sp)
    ld a1, 72(sp)
    ld a2, 80(sp)
    ld a3, 88(sp)
    ld a4, 96(sp)
    ld a5, 104(sp)
    ld a6, 112(sp)
    ld a7, 120(sp)
    fld ft0, 128(sp)
    fld ft1, 136(sp)
    fld ft2, 144(sp)
    fld ft3, 152(sp)
    fld ft4, 160(sp)
    fld ft5, 168(sp)
    fld ft6, 176(sp)
    fld ft7, 184(sp)
    fld ft8, 192(sp)
    fld ft9, 200(sp)
    fld ft10, 208(sp)
    fld ft11, 216(sp)
    fld fa0, 224(sp)
    fld fa1, 232(sp)
    fld fa2, 240(sp)
    fld fa3, 248(sp)
    fld fa4, 256(sp)
    fld fa5, 264(sp)
    fld fa6, 272(sp)
    fld fa7, 280(sp)
    addi sp, sp, 288
    sret

trap_fault:
    csrr a0, scause
    csrr a1, sepc
    csrr a2, stval
    mv a3, sp
    la sp, {stack}
    li t0, {stack_size}
    add sp, sp, t0
    call {fault}
    unimp
    .option pop
"#,
    stack = sym FAULT_STACK,
    stack_size = const STACK_SIZE,
    fault = sym fault,
    interrupt = sym interrupt,
);

const STACK_SIZE: usize = 16 * 1024;

#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; STACK_SIZE]>);

// SAFETY: only the hart uses it, and there is one hart.
unsafe impl Sync for Stack {}

static FAULT_STACK: Stack = Stack(UnsafeCell::new([0; STACK_SIZE]));

unsafe extern "C" {
    static trap_entry: u8;
}

/// Interrupts by the number that `scause` gives them.
const TIMER: usize = 5;
const EXTERNAL: usize = 9;

/// Has every trap go to [`interrupt`] or [`fault`].
pub(crate) fn init() {
    let entry = (&raw const trap_entry).addr();
    // SAFETY: the entry returns with everything as it was, or not at all.
    unsafe { stvec::write(Stvec::new(entry, TrapMode::Direct)) };
}

extern "C" fn interrupt() {
    match scause::read().code() {
        TIMER => timer::handle(),
        EXTERNAL => handle_external(),
        other => exit::failed("exception", format_args!("interrupt {other}")),
    }
}

extern "C" fn fault(cause: usize, at: usize, value: usize, stack: usize) -> ! {
    exit::failed(
        "exception",
        format_args!("exception {cause} at {at:#x}, stack {stack:#x}, value {value:#x}"),
    )
}
