//! From OpenSBI's entry to `kernel::run` with paging on.
//!
//! OpenSBI starts one hart in supervisor mode, paging off, with its number in `a0` and the device
//! tree in `a1`. The code below maps the low 256 GiB to themselves (Sv39), memory by pages of 2 MiB
//! and the rest, which is never executed, by pages of 1 GiB. What is memory and what is a device is
//! no matter of the map here: the machine knows it of each address.

use core::arch::global_asm;

use crate::kernel::{self, arch::BootInfo};

global_asm!(
    r#"
    .section .text.boot, "ax", @progbits
    .global _start
_start:
    csrw sie, zero
    la t0, bss_start
    la t1, bss_end
1:  sd zero, (t0)
    addi t0, t0, 8
    bltu t0, t1, 1b

    la t0, boot_root                // an entry: 1 GiB
    li t1, 0xc7                     // readable, writable, accessed, dirty
    li t2, 1 << 28                  // 1 GiB in an entry
    li t3, 256
2:  sd t1, (t0)
    add t1, t1, t2
    addi t0, t0, 8
    addi t3, t3, -1
    bnez t3, 2b

    la t0, boot_root
    la t1, boot_ram                 // an entry: 2 MiB
    srli t2, t1, 2
    ori t2, t2, 1                   // a table
    sd t2, 16(t0)                   // the third GiB

    li t2, 0x200000cf               // 0x8000_0000: executable too
    li t3, 1 << 19                  // 2 MiB in an entry
    li t4, 512
    mv t5, t1
3:  sd t2, (t5)
    add t2, t2, t3
    addi t5, t5, 8
    addi t4, t4, -1
    bnez t4, 3b
    sd zero, 8(t1)                  // the block below the stack

    srli t0, t0, 12
    li t1, 8                        // Sv39
    slli t1, t1, 60
    or t0, t0, t1
    sfence.vma
    csrw satp, t0
    sfence.vma
    li t0, 1 << 13                  // floating point: the compiler uses its registers
    csrs sstatus, t0

    la sp, stack_top
    mv fp, zero
    mv ra, zero
    mv a0, a1
    call {main}
    unimp

    .section .bss.boot, "aw", @nobits
    .balign 4096
boot_root: .skip 4096
boot_ram:  .skip 4096
"#,
    main = sym main,
);

/// Called on the boot stack, with the address of the device tree.
extern "C" fn main(device_tree: usize) -> ! {
    // SAFETY: the boot code passes on what OpenSBI gave it, and has mapped it.
    kernel::run(|| unsafe { BootInfo::read(device_tree) })
}
