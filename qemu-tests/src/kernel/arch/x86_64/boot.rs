//! From the firmware's 32-bit entry to `main` in 64-bit mode.
//!
//! The PVH boot protocol (Xen's `docs/misc/pvh.pandoc`) finds the entry by an ELF note and starts
//! the processor in 32-bit protected mode, paging off, with the physical address of a *start info*
//! structure in `ebx`. QEMU speaks it for `-kernel` on q35, pc and microvm alike. The code below
//! maps the low 4 GiB to itself by pages of 2 MiB, enters long mode and calls `main` on the boot
//! stack. Everything further, such as device windows above 4 GiB, is mapped by `paging` on demand.

use alloc::string::String;
use alloc::vec::Vec;
use core::arch::global_asm;
use core::ffi::CStr;
use core::ops::Range;

use crate::kernel::{self, memory};

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
    rep stosd                       // the start info in ebx is elsewhere, and survives
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
    mov edi, ebx
    call {main}
    ud2

    .section .rodata.boot, "a", @progbits
    .balign 8
    .global boot_gdt
boot_gdt:
    .quad 0
    .quad 0x00af9a000000ffff        // 64-bit code, until gdt::init
boot_gdt_pointer:
    .word boot_gdt_pointer - boot_gdt - 1
    .long boot_gdt

    .section .bss.boot, "aw", @nobits
    .balign 4096
    .global boot_pml4
boot_pml4: .skip 4096
boot_pdpt: .skip 4096
boot_pd:   .skip 4 * 4096
"#,
    main = sym main,
);

/// Called on the boot stack, with the physical address of the start info.
extern "C" fn main(start_info: u32) -> ! {
    // SAFETY: the boot code passes on what the firmware gave it.
    kernel::run(|| unsafe { BootInfo::read(start_info) })
}

/// `hvm_start_info` of Xen's `start_info.h`, version 1.
#[repr(C)]
#[derive(Clone, Copy)]
struct StartInfo {
    magic: u32,
    version: u32,
    flags: u32,
    module_count: u32,
    modules: u64,
    command_line: u64,
    rsdp: u64,
    memory_map: u64,
    memory_map_entries: u32,
    reserved: u32,
}

const MAGIC: u32 = 0x336e_c578;

/// `hvm_memmap_table_entry`: the entries of the BIOS's E820 map.
#[repr(C)]
#[derive(Clone, Copy)]
struct MemoryMapEntry {
    start: u64,
    size: u64,
    kind: u32,
    reserved: u32,
}

const RAM: u32 = 1;

/// The firmware's word on the machine, still in the firmware's memory.
pub(crate) struct BootInfo {
    command_line: &'static CStr,
    memory_map: &'static [MemoryMapEntry],
    /// Physical address of the ACPI root pointer.
    pub(super) rsdp: u64,
}

impl BootInfo {
    /// Reads the start info.
    ///
    /// # Safety
    /// `address` is what the PVH entry received in `ebx`, and paging maps it to itself.
    unsafe fn read(address: u32) -> Self {
        let info = address as usize as *const StartInfo;
        // SAFETY: by the protocol that is where the start info is.
        let info = unsafe { info.read() };
        assert_eq!(info.magic, MAGIC, "not started by the PVH protocol");
        assert!(info.version >= 1, "the start info has no memory map");
        let entries = info.memory_map as *const MemoryMapEntry;
        // SAFETY: the start info says so; the heap starts above 1 MiB and leaves it alone.
        let memory_map =
            unsafe { core::slice::from_raw_parts(entries, info.memory_map_entries as usize) };
        let command_line = match info.command_line {
            0 => c"",
            // SAFETY: by the protocol a string that ends with 0.
            address => unsafe { CStr::from_ptr(address as *const _) },
        };
        Self {
            command_line,
            memory_map,
            rsdp: info.rsdp,
        }
    }

    /// A copy of the kernel command line.
    pub(crate) fn command_line(&self) -> String {
        self.command_line.to_string_lossy().into_owned()
    }

    /// All memory that there is.
    fn ranges(&self) -> impl Iterator<Item = Range<u64>> {
        let ram = self.memory_map.iter().filter(|entry| entry.kind == RAM);
        ram.map(|entry| entry.start..entry.start.saturating_add(entry.size))
    }

    /// All memory that there is, as a list.
    pub(crate) fn ram(&self) -> Vec<Range<u64>> {
        self.ranges().collect()
    }

    /// The largest piece of memory below 4 GiB that nothing occupies.
    ///
    /// The first MiB is left alone: the firmware keeps the start info there.
    pub(crate) fn largest_free_range(&self) -> Range<u64> {
        let taken = [0..1 << 20, memory::kernel_image(), 1 << 32..u64::MAX];
        memory::largest_free(self.ranges(), &taken)
    }
}
