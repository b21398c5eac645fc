//! The kernel's own parts: what every other suite relies on.

use alloc::format;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::time::Duration;

use vring::{DmaRegion, Platform};

use crate::kernel::platform::Identity;
use crate::kernel::{Machine, clock, idle};
use crate::report::Report;

/// Checks heap, clock, interrupts and what the firmware described.
pub(crate) fn run(machine: &Machine, report: &mut Report) {
    heap(machine, report);
    clock_advances(report);
    timer_interrupts(report);
    firmware(machine, report);
    device_memory(report);
    pci(machine, report);
}

/// The heap gives back distinct memory and takes it back.
fn heap(machine: &Machine, report: &mut Report) {
    let half = machine.heap_bytes / 2;
    let mut intact = true;
    // Three rounds of half the heap: they fit only one after another.
    for round in 0..3u8 {
        let mut block = Vec::<u8>::with_capacity(half);
        block.push(round);
        let small: Vec<Vec<u8>> = (0..64u8)
            .map(|i| alloc::vec![i; 1 + usize::from(i)])
            .collect();
        let kept = (0..)
            .zip(&small)
            .all(|(i, bytes)| bytes.iter().all(|b| *b == i));
        intact &= kept && block.first() == Some(&round) && half >= 1 << 20;
    }
    report.check(
        "boot_heap",
        intact,
        "blocks that keep their bytes, half the heap in one",
        &format!("{} bytes of heap", machine.heap_bytes),
        "qemu-tests/src/kernel/heap.rs",
    );
}

/// The clock goes forward, and at the pace of the timer that interrupts.
fn clock_advances(report: &mut Report) {
    let mut last = clock::now();
    let monotonic = (0..1000).all(|_| {
        let earlier = core::mem::replace(&mut last, clock::now());
        earlier <= last
    });
    report.check(
        "boot_clock",
        monotonic && !last.is_zero(),
        "never back, and not zero",
        &format!("{last:?}"),
        "qemu-tests/src/kernel/clock.rs",
    );
}

/// A halted processor wakes by the timer: not before the deadline, and not long after.
fn timer_interrupts(report: &mut Report) {
    const WAIT: Duration = Duration::from_millis(20);
    // A busy host may hold the machine up, which is no fault of the guest's.
    const LATE: Duration = Duration::from_secs(5);
    // It may be held up for so long before it halts that there is nothing left to wait for.
    const TRIES: u32 = 10;
    let count = || idle::timer_vector().map_or(0, |vector| vector.count());
    let (mut waited, mut raised) = (Duration::ZERO, 0);
    for _ in 0..TRIES {
        let (start, before) = (clock::now(), count());
        idle::wait(start + WAIT, || false);
        (waited, raised) = (clock::now() - start, count() - before);
        if raised > 0 || waited < WAIT {
            break;
        }
    }
    report.check(
        "boot_timer_interrupt",
        raised > 0 && waited >= WAIT && waited < LATE,
        "an interrupt of the timer after 20 ms",
        &format!("{raised} interrupts in {waited:?}"),
        "qemu-tests/src/kernel/idle.rs",
    );
}

/// The firmware describes what the kernel needs of the machine.
fn firmware(machine: &Machine, report: &mut Report) {
    let check = machine.firmware.check();
    report.check(
        check.name,
        check.complete,
        check.expected,
        &check.seen,
        check.hint,
    );
}

/// Memory for a device is zeroed, aligned, and where the device is told it is.
fn device_memory(report: &mut Report) {
    let mut seen = alloc::string::String::new();
    let mut good = true;
    for (size, align) in [(1, 1), (4096, 4096), (100_000, 65536)] {
        // Leave a trace in memory that is about to be given out again.
        drop(core::hint::black_box(alloc::vec![0xa5u8; size]));
        let Ok(layout) = Layout::from_size_align(size, align) else {
            continue;
        };
        let Ok(region) = DmaRegion::alloc(&Identity, layout) else {
            good = false;
            continue;
        };
        // SAFETY: the region is that long, initialized, and nobody else's.
        let bytes = unsafe { core::slice::from_raw_parts(region.ptr().as_ptr(), size) };
        let address = region.ptr().addr().get();
        good &= bytes.iter().all(|byte| *byte == 0)
            && address.is_multiple_of(align)
            && region.addr().0 == address as u64;
        seen = format!("{seen} {size} bytes at {address:#x}");
    }
    report.check(
        "boot_device_memory",
        good && Identity::DIRECT,
        "zeroed, aligned, at the device's address",
        &seen,
        "qemu-tests/src/kernel/platform.rs",
    );
}

/// Configuration space shows the host bridge, and every function only once; where there is one.
fn pci(machine: &Machine, report: &mut Report) {
    if machine.pci.is_absent() {
        log::info!("this machine has no PCI");
        return;
    }
    const HOST_BRIDGE: u32 = 0x06_00_00;
    let found: Vec<_> = machine.pci.functions().collect();
    let mut addresses: Vec<_> = found.iter().map(|function| function.address).collect();
    addresses.sort();
    addresses.dedup();
    let bridge = found.iter().any(|function| function.class == HOST_BRIDGE);
    report.check(
        "boot_pci",
        bridge && addresses.len() == found.len(),
        "a host bridge, and every function once",
        &format!("{found:x?}"),
        "qemu-tests/src/kernel/pci.rs",
    );
    for function in found {
        log::info!(
            "{}: {:04x}:{:04x} class {:06x}",
            function.address,
            function.vendor,
            function.device,
            function.class
        );
    }
}
