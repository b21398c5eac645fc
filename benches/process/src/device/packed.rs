//! The device's side of a packed ring.
//!
//! Used descriptors of a burst are written behind the first, which goes out last: that is how a
//! burst is published once.

use std::sync::atomic::Ordering;

use super::{Areas, BURST, INDIRECT, NEXT, Rules, Shared, WRITE, Watch};

/// The flags AVAIL and USED, where they are in the second word of a descriptor.
const AVAIL: u64 = 1 << 55;
const BOTH: u64 = AVAIL | 1 << 63;

#[derive(Debug)]
pub(super) struct Packed {
    desc: Shared,
    event: Shared,
    num: usize,
    at: usize,
    /// AVAIL and USED of a descriptor that is available in this lap.
    available: u64,
    event_idx: bool,
    one_used: bool,
}

/// Length, id and flags of a descriptor's second word.
#[inline(always)] // shifts
fn parts(rest: u64) -> (u32, u64, u16) {
    (rest as u32, rest & 0xffff << 32, (rest >> 48) as u16)
}

impl Packed {
    pub(super) fn new(areas: &Areas, rules: Rules) -> Self {
        Self {
            desc: Shared::at(areas.desc),
            event: Shared::at(areas.device),
            num: areas.num.into(),
            at: 0,
            available: AVAIL,
            event_idx: rules.event_idx,
            one_used: rules.one_used_a_burst,
        }
    }

    #[inline(always)] // with and without a watch
    pub(super) fn burst(&mut self, watch: &mut impl Watch) -> usize {
        let start = self.at;
        let lap = self.lap();
        // Length, id and WRITE of the used descriptor that goes out last.
        let mut held = 0;
        let mut count = 0;
        while count < BURST {
            let (desc, first, lap) = (self.desc, self.at, self.lap());
            let word = desc.word64(first * 16 + 8);
            if word.load(Ordering::Acquire) & BOTH != self.available {
                break;
            }
            let (id, written) = self.walk(watch);
            watch.end();
            let write = u64::from(if written != 0 { WRITE } else { 0 }) << 48;
            let used = u64::from(written) | id | write;
            if count == 0 || self.one_used {
                held = used;
            } else {
                word.store(used | lap, Ordering::Relaxed);
            }
            count += 1;
        }
        if count != 0 {
            let word = self.desc.word64(start * 16 + 8);
            word.store(held | lap, Ordering::Release);
            if self.event_idx {
                self.ask();
            }
        }
        count
    }

    /// AVAIL and USED of a descriptor that is used in this lap.
    #[inline(always)] // a comparison
    fn lap(&self) -> u64 {
        if self.available & AVAIL != 0 { BOTH } else { 0 }
    }

    /// Asks to be told of the next chain: offset and lap, and `RING_EVENT_FLAGS_DESC`.
    #[inline(always)] // one store
    fn ask(&self) {
        let lap = u32::from(self.lap() != 0) << 15;
        let word = self.at as u32 | lap | 2 << 16;
        self.event.word32(0).store(word, Ordering::Relaxed);
    }

    /// Steps over the chain: its id, in its place in a descriptor, and bytes that are writable.
    #[inline(always)] // the loop of the device
    fn walk(&mut self, watch: &mut impl Watch) -> (u64, u32) {
        let (mut id, mut written) = (0, 0u32);
        for _ in 0..self.num {
            let (addr, rest) = self.desc.descriptor(self.at);
            let (len, own, flags) = parts(rest);
            id = own;
            self.at += 1;
            if self.at == self.num {
                self.at = 0;
                self.available ^= BOTH;
            }
            if flags & INDIRECT != 0 {
                written = table(addr, len, watch);
            } else {
                watch.piece(addr, len, flags & WRITE != 0);
                if flags & WRITE != 0 {
                    written = written.wrapping_add(len);
                }
            }
            if flags & NEXT == 0 {
                break;
            }
        }
        (id, written)
    }
}

/// Bytes of a table of `len` bytes that are writable.
#[inline(always)] // as in a chain
fn table(addr: u64, len: u32, watch: &mut impl Watch) -> u32 {
    let table = Shared::at(addr);
    let mut written = 0u32;
    for index in 0..len as usize / 16 {
        let (addr, rest) = table.descriptor(index);
        let (len, _, flags) = parts(rest);
        watch.piece(addr, len, flags & WRITE != 0);
        if flags & WRITE != 0 {
            written = written.wrapping_add(len);
        }
    }
    written
}
