//! From QEMU's entry to `kernel::run` with the memory management unit on.
//!
//! QEMU loads an ELF image as it says, puts the device tree at the start of memory, and starts the
//! processor at EL1 with the unit off. The code below maps three regions to themselves and leaves
//! everything else unmapped:
//!
//! | from | to | as |
//! |---|---|---|
//! | 0 | 1 GiB | device: what the machine has, and the 32-bit window of PCI |
//! | 1 GiB | 2 GiB | memory, but for the 2 MiB below the stack |
//! | 256 GiB | 1 TiB | device: configuration space and the 64-bit window of PCI |
//!
//! Nothing here cleans caches for a unit that was off before: emulation has none.

use core::arch::global_asm;

use crate::kernel::{self, arch::BootInfo};

global_asm!(
    r#"
    .section .text.boot, "ax", @progbits
    .global _start
_start:
    msr daifset, #0xf
    adrp x0, bss_start              // page-aligned, as are the tables
    adrp x1, bss_end
1:  stp xzr, xzr, [x0], #16
    cmp x0, x1
    b.lo 1b

    adrp x0, boot_level_0           // an entry: 512 GiB
    adrp x1, boot_level_1_low       // an entry: 1 GiB
    adrp x2, boot_level_1_high
    adrp x3, boot_level_2           // an entry: 2 MiB
    orr x4, x1, #3                  // a table
    orr x5, x2, #3
    stp x4, x5, [x0]

    ldr x4, =0x0060000000000401     // a block: device (attribute 0), accessed, never executed
    str x4, [x1]
    orr x5, x3, #3
    str x5, [x1, #8]
    mov x5, #256
    add x6, x4, x5, lsl #30
    mov x7, #1 << 30
2:  str x6, [x1, x5, lsl #3]
    add x6, x6, x7
    add x5, x5, #1
    cmp x5, #512
    b.lo 2b
    mov x5, #0
3:  str x6, [x2, x5, lsl #3]
    add x6, x6, x7
    add x5, x5, #1
    cmp x5, #512
    b.lo 3b

    ldr x4, =0x0040000040000705     // a block: memory (attribute 1), inner shareable, accessed
    mov x5, #0
4:  str x4, [x3, x5, lsl #3]
    add x4, x4, #0x200, lsl #12     // 2 MiB
    add x5, x5, #1
    cmp x5, #512
    b.lo 4b
    str xzr, [x3, #8]               // the block below the stack

    mov x4, #0xff04                 // attribute 0: device nGnRE; 1: memory, write-back
    msr mair_el1, x4
    ldr x4, =0x803510               // 48 bits of address, pages of 4 KiB, cached walks, no TTBR1
    mrs x5, id_aa64mmfr0_el1
    and x5, x5, #0xf                // as many physical bits as there are, 48 at most
    mov x6, #5
    cmp x5, x6
    csel x5, x5, x6, lo
    bfi x4, x5, #32, #3
    msr tcr_el1, x4
    msr ttbr0_el1, x0
    dsb sy
    tlbi vmalle1
    dsb sy
    isb
    mrs x4, sctlr_el1
    mov x5, #0x1005                 // unit on, data and instructions cached
    orr x4, x4, x5
    msr sctlr_el1, x4
    mov x4, #3 << 20                // floating point: the compiler uses its registers
    msr cpacr_el1, x4
    isb

    adrp x4, stack_top
    mov sp, x4
    mov x29, xzr
    mov x30, xzr
    bl {main}
    brk #0

    .section .bss.boot, "aw", @nobits
    .balign 4096
boot_level_0:      .skip 4096
boot_level_1_low:  .skip 4096
boot_level_1_high: .skip 4096
boot_level_2:      .skip 4096
"#,
    main = sym main,
);

/// Where QEMU puts the device tree for an image that is not Linux: at the start of memory.
const DEVICE_TREE: usize = 0x4000_0000;

/// Called on the boot stack.
extern "C" fn main() -> ! {
    // SAFETY: QEMU put the tree there, and boot mapped it.
    kernel::run(|| unsafe { BootInfo::read(DEVICE_TREE) })
}
