//! The other processors: started one by one, as Intel's manual has it (volume 3, "Multiple-Processor
//! (MP) Initialization").
//!
//! A processor that is started begins in real mode at the start of a page below 1 MiB, with nothing
//! but its code segment. A few instructions are copied there, [`ap_start`](ap_start), which go straight
//! to long mode with the page tables of the kernel, where the rest of the kernel is; then it takes
//! its stack, its number, its segments, the table of interrupts, its local APIC and its timer, and
//! is ready to [`work`](smp::work).

use alloc::alloc::{Layout, alloc, handle_alloc_error};
use alloc::vec::Vec;
use core::arch::global_asm;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use core::time::Duration;

use spin::Once;
use vring::transport::pci::Message;
use x86_64::VirtAddr;

use super::{Firmware, cpu, exceptions, gdt, local_apic, memory, timer};
use crate::kernel::interrupts::{self, Vector};
use crate::kernel::smp::{self, MOST, Started};
use crate::kernel::{clock, idle};

/// The page where processors begin: ordinary memory that the BIOS has no more use for, behind its
/// data and the sector that it boots from.
const START: u64 = 0x8000;

// AT&T syntax, in which the difference of two symbols can be an address. The code runs at another
// place than it is linked for: what it names of itself is a distance from its start, in the data
// segment that begins there.
global_asm!(
    r#"
    .section .rodata.boot, "a", @progbits
    .code16
    .balign 16
    .global ap_start
ap_start:
    cli
    cld
    mov %cs, %ax                    // the page where this lies
    mov %ax, %ds
    lgdtl ap_gdt_pointer - ap_start
    mov %cr4, %eax
    or $(1 << 5), %eax              // PAE, which long mode needs
    mov %eax, %cr4
    mov $boot_pml4, %eax            // below 4 GiB, as all of the kernel
    mov %eax, %cr3
    mov $0xc0000080, %ecx           // EFER
    rdmsr
    or $(1 << 8), %eax              // LME: paging turns long mode on
    wrmsr
    mov $0x80010011, %eax           // PG, WP, ET, PE; and not CD, which a reset leaves set
    mov %eax, %cr0                  // the next instruction is fetched where it was: mapped to itself
    ljmpl $8, $ap_long_mode
    .balign 8
ap_gdt_pointer:
    .word 15                        // the two entries of boot_gdt, less one byte
    .long boot_gdt
    .global ap_end
ap_end:

    .section .text.boot, "ax", @progbits
    .code64
ap_long_mode:
    xor %eax, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov %eax, %ss
    movabs ${stack}, %rax
    mov (%rax), %rsp
    xor %ebp, %ebp
    call {main}
    ud2
"#,
    main = sym main,
    stack = sym STACK,
    options(att_syntax)
);

unsafe extern "C" {
    static ap_start: u8;
    static ap_end: u8;
}

/// Where the stack ends of the processor that is being started.
static STACK: AtomicU64 = AtomicU64::new(0);

/// Its number.
static STARTING: AtomicUsize = AtomicUsize::new(0);

/// The numbers of the local APICs, by processor.
static APIC_IDS: [AtomicU32; MOST] = [const { AtomicU32::new(0) }; MOST];

/// Ends a halt, and does nothing else.
static WAKE: Once<Vector> = Once::new();

const STACK_SIZE: usize = 128 * 1024;
const PAGE_SIZE: usize = 4096;

/// Between the reset of a processor and its start, and how long the start may take before it is
/// tried again, at least.
const RESET_TIME: Duration = Duration::from_millis(10);
const STARTUP_TIME: Duration = Duration::from_micros(200);

/// How long a processor may take, on a host that is busy, to be ready.
const PATIENCE: Duration = Duration::from_secs(20);

/// Starts the processors that the firmware describes, up to [`MOST`] of them with this one.
pub(crate) fn start_processors(firmware: &Firmware, ram: &[Range<u64>]) -> Started {
    let me = local_apic::id();
    APIC_IDS[0].store(me, Ordering::Relaxed);
    // A number above 254 takes interrupt remapping, or another format of messages.
    let others: Vec<u32> = firmware
        .processors
        .iter()
        .copied()
        .filter(|id| *id != me && *id < 255)
        .collect();
    if !others.is_empty() && prepare(ram) {
        for (number, id) in (1..MOST).zip(&others) {
            if !start(number, *id) {
                log::error!("processor {number}, local APIC {id}, does not start");
                break;
            }
        }
    }
    Started {
        described: 1 + others.len(),
        running: smp::running(),
    }
}

/// Copies the first instructions to their place. False where that is no memory.
fn prepare(ram: &[Range<u64>]) -> bool {
    let page = START..START + PAGE_SIZE as u64;
    let memory = |range: &Range<u64>| range.start <= page.start && page.end <= range.end;
    if !ram.iter().any(memory) {
        log::error!("no memory at {START:#x} to start processors in");
        return false;
    }
    let code = &raw const ap_start;
    let len = (&raw const ap_end).addr() - code.addr();
    assert!(len <= PAGE_SIZE, "the code fits into its page");
    // SAFETY: the code is that long, and the page is memory below 1 MiB, which the kernel leaves
    // to the firmware, whose word it has read by now.
    unsafe { core::ptr::copy_nonoverlapping(code, START as *mut u8, len) };
    WAKE.call_once(|| interrupts::allocate(|| {}).expect("the second of many vectors"));
    true
}

/// Starts one processor, and waits until it is ready. One that is not in time may come later and
/// find another's stack: the caller starts no more.
fn start(number: usize, id: u32) -> bool {
    APIC_IDS[number].store(id, Ordering::Relaxed);
    STARTING.store(number, Ordering::Relaxed);
    STACK.store(new_stack().as_u64(), Ordering::Release);
    local_apic::send_init(id);
    clock::pause(RESET_TIME);
    let ready = || smp::running() > number;
    let until = clock::now() + PATIENCE;
    // The manual has the second one, in case that the first one is lost.
    for _ in 0..2 {
        local_apic::send_startup(id, (START / PAGE_SIZE as u64) as u8);
        clock::pause(STARTUP_TIME);
        if ready() {
            return true;
        }
    }
    while !ready() && clock::now() < until {
        core::hint::spin_loop();
    }
    ready()
}

/// The end of a stack for good, with a page below it that is not mapped.
fn new_stack() -> VirtAddr {
    let size = PAGE_SIZE + STACK_SIZE;
    let layout = Layout::from_size_align(size, PAGE_SIZE).expect("a power of two");
    // SAFETY: the layout is not empty.
    let bottom = unsafe { alloc(layout) };
    if bottom.is_null() {
        handle_alloc_error(layout);
    }
    let bottom = VirtAddr::from_ptr(bottom);
    memory::guard(bottom);
    bottom + size as u64
}

/// What a processor does first, on its stack.
extern "C" fn main() -> ! {
    let number = STARTING.load(Ordering::Relaxed);
    gdt::init(number);
    cpu::set_index(number);
    exceptions::init();
    local_apic::enable();
    if let Some(vector) = idle::timer_vector() {
        timer::join(vector);
    }
    cpu::enable_interrupts();
    smp::joined();
    smp::work()
}

/// Interrupts the processor of that number, which ends its halt.
pub(crate) fn wake(cpu: usize) {
    if let (Some(id), Some(vector)) = (APIC_IDS.get(cpu), WAKE.get()) {
        local_apic::send(id.load(Ordering::Relaxed), *vector);
    }
}

/// The message that raises `vector` on the processor of that number; `None` where none runs.
pub(crate) fn message_on(cpu: usize, vector: Vector) -> Option<Message> {
    let id = APIC_IDS.get(cpu).filter(|_| cpu < smp::running())?;
    let id = u8::try_from(id.load(Ordering::Relaxed)).ok()?;
    Some(Message::x86(id, vector.number()))
}
