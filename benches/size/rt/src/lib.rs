//! What both programs stand on, so that they differ in the driver alone: the entry from firmware,
//! an arena that only grows, a console, and the frame that is sent and the one that must come back.
//!
//! None of it is counted but the few instructions of [`alloc`]: it lies in sections of its own. The
//! program defines `run`, which says whether the answer came; then the memory that it took is
//! printed on QEMU's debug console, and QEMU ends.
#![no_std]

use core::arch::{asm, global_asm};
use core::fmt::{self, Write as _};
use core::mem::MaybeUninit;
use core::panic::PanicInfo;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicUsize, Ordering};

global_asm!(
    r#"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4                         // length of the name
    .long 8                         // length of the entry address
    .long 18                        // XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_entry

    .section .text.boot, "ax", @progbits
    .code32
    .global pvh_entry
pvh_entry:
    cli
    cld
    mov edi, offset bss_start
    mov ecx, offset bss_end
    sub ecx, edi
    shr ecx, 2
    xor eax, eax
    rep stosd
    mov esp, offset stack_top

    mov eax, offset boot_pdpt + 3   // present, writable
    mov [boot_pml4], eax
    mov edi, offset boot_pdpt
    mov eax, offset boot_pd + 3
    mov ecx, 4
1:  mov [edi], eax                  // four directories, 1 GiB each
    add edi, 8
    add eax, 4096
    dec ecx
    jnz 1b
    mov edi, offset boot_pd
    mov eax, 0x83                   // present, writable, 2 MiB
    mov ecx, 2048
2:  mov [edi], eax
    add edi, 8
    add eax, 0x200000
    dec ecx
    jnz 2b

    mov eax, cr4
    or eax, 1 << 5                  // PAE
    mov cr4, eax
    mov eax, offset boot_pml4
    mov cr3, eax
    mov ecx, 0xc0000080             // EFER
    rdmsr
    or eax, 1 << 8                  // LME
    wrmsr
    mov eax, cr0
    or eax, 1 << 31 | 1 << 16       // PG, WP
    mov cr0, eax
    lgdt [boot_gdt_pointer]
    push 8
    mov eax, offset long_mode
    push eax
    retf

    .code64
long_mode:
    xor eax, eax
    mov ds, eax
    mov es, eax
    mov fs, eax
    mov gs, eax
    mov ss, eax
    mov esp, offset stack_top       // zero-extends
    xor ebp, ebp
    call {main}
    ud2

    .section .rodata.boot, "a", @progbits
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9a000000ffff        // 64-bit code
boot_gdt_pointer:
    .word boot_gdt_pointer - boot_gdt - 1
    .long boot_gdt

    .section .outside.boot, "aw", @nobits
    .balign 4096
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4 * 4096
"#,
    main = sym main,
);

unsafe extern "C" {
    static stack_bottom: u8;
    static stack_top: u8;
    /// The program: whether it got its answer.
    safe fn run() -> bool;
}

/// Where QEMU's q35 has PCI's configuration space, for bus 0.
pub const ECAM: usize = 0xb000_0000;
/// Bytes of it.
pub const ECAM_LEN: usize = 1 << 20;

/// A broadcast: who has 10.0.2.2? The network of QEMU's user mode says.
pub const QUESTION: [u8; 60] = {
    let mut frame = [0; 60];
    let head = [
        0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 8, 6, // Ethernet, ARP
        0, 1, 8, 0, 6, 4, 0, 1, // a request
        2, 0, 0, 0, 0, 1, 10, 0, 2, 15, // from
        0, 0, 0, 0, 0, 0, 10, 0, 2, 2, // about
    ];
    let mut i = 0;
    while i < head.len() {
        frame[i] = head[i];
        i += 1;
    }
    frame
};

/// Whether a frame is an ARP reply.
#[must_use]
pub fn is_answer(frame: &[u8]) -> bool {
    frame.get(12..14) == Some(&[8, 6]) && frame.get(20..22) == Some(&[0, 2])
}

const ARENA: usize = 64 << 10;

#[expect(dead_code)] // it is reached by its address
#[repr(align(4096))]
struct Arena(MaybeUninit<[u8; ARENA]>);

#[unsafe(link_section = ".outside.arena")]
static mut MEMORY: Arena = Arena(MaybeUninit::uninit());

/// Bytes that were taken.
static TAKEN: AtomicUsize = AtomicUsize::new(0);
/// Of those, how many lie in gaps.
static GAPS: AtomicUsize = AtomicUsize::new(0);

/// Zeroed memory of the arena, which is physical where it is virtual.
#[must_use]
pub fn alloc(size: usize, align: usize) -> Option<NonNull<u8>> {
    let taken = TAKEN.load(Ordering::Relaxed);
    let start = taken.next_multiple_of(align);
    let end = start.checked_add(size).filter(|end| *end <= ARENA)?;
    TAKEN.store(end, Ordering::Relaxed);
    GAPS.fetch_add(start - taken, Ordering::Relaxed);
    NonNull::new((&raw mut MEMORY).cast::<u8>().wrapping_add(start))
}

#[unsafe(link_section = ".text.boot.main")]
extern "C" fn main() -> ! {
    let answered = run();
    let bottom = &raw const stack_bottom;
    let mut deepest = bottom;
    // SAFETY: between the two is the stack, zeroed at boot: a byte that is not was used.
    while deepest != &raw const stack_top && unsafe { deepest.read_volatile() } == 0 {
        deepest = deepest.wrapping_add(1);
    }
    let stack = (&raw const stack_top).addr() - deepest.addr();
    let arena = TAKEN.load(Ordering::Relaxed) - GAPS.load(Ordering::Relaxed);
    let word = if answered { "answered" } else { "no answer" };
    // The console takes everything.
    let _ = Console.write_fmt(format_args!("{word}: {arena} arena, {stack} stack\n"));
    loop {
        out(0xf4, 0x10);
    }
}

struct Console;

impl fmt::Write for Console {
    #[unsafe(link_section = ".text.boot.console")]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.bytes().for_each(|byte| out(0xe9, byte));
        Ok(())
    }
}

#[unsafe(link_section = ".text.boot.out")]
fn out(port: u16, value: u8) {
    // SAFETY: both ports are QEMU's own and touch no memory.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack)) }
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    loop {
        out(0xf4, 0x11);
    }
}
