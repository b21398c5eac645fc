//! Which memory is free: arithmetic on ranges, before there is a heap.

use core::iter;
use core::ops::Range;

unsafe extern "C" {
    static kernel_start: u8;
    static kernel_end: u8;
}

/// The memory that the kernel's image, zeroed data and stack occupy.
pub(super) fn kernel_image() -> Range<u64> {
    (&raw const kernel_start).addr() as u64..(&raw const kernel_end).addr() as u64
}

/// The largest piece of `ram` that nothing in `taken` overlaps; empty when there is none.
pub(super) fn largest_free(
    ram: impl Iterator<Item = Range<u64>>,
    taken: &[Range<u64>],
) -> Range<u64> {
    let mut best = 0..0;
    for range in ram {
        // A free piece begins where the memory does, or where something taken ends.
        let starts = iter::once(range.start).chain(taken.iter().map(|taken| taken.end));
        for start in starts {
            let occupied = taken.iter().any(|taken| taken.contains(&start));
            if occupied || !range.contains(&start) {
                continue;
            }
            let ahead = taken.iter().map(|taken| taken.start);
            let end = ahead
                .filter(|next| *next >= start)
                .fold(range.end, u64::min);
            if end - start > best.end - best.start {
                best = start..end;
            }
        }
    }
    best
}
