//! The packed ring (VIRTIO 1.4, 2.8): one table of descriptors that both sides write.
//!
//! ```text
//!            used_at ──▶ ┌────────────────────────────────────┐
//!      the device marks  │ addr │ len │ id │ flags: USED=AVAIL │  word 1    word 2
//!                        ├────────────────────────────────────┤
//!           avail_at ──▶ │ addr │ len │ id │ flags: USED≠AVAIL │  ours, next
//!                        └────────────────────────────────────┘
//! ```
//!
//! Both positions go round the table, of any size, and with each lap the meaning of the two flags
//! turns over. A used descriptor is written where the device's position is, with the id of any
//! chain: ids are slots, and the slot says how many descriptors to skip.
//!
//! A descriptor is two stores: the address, then length, id and flags as one word. Of a batch, the
//! second word of the first head is held back, and stored last, with release: the device stops in
//! front of it, and sees nothing behind it before. So a burst costs one ordered store, and a single
//! load of a word, with acquire, is the whole check whether a chain has come back.

use super::counts::{Counts, NEVER};
use super::format::{Format, Impossible, Piece, Poll};
use super::layout::DescriptorFlags;
use super::notify;
use crate::platform::Platform;
use crate::shared::PackedMemory;

/// The descriptor is available in this lap when this flag is as the driver's wrap counter.
#[doc(alias = "VIRTQ_DESC_F_AVAIL")]
const AVAIL: u16 = 1 << 7;
/// The descriptor is used in this lap when this flag, too, is as the device's wrap counter.
#[doc(alias = "VIRTQ_DESC_F_USED")]
const USED: u16 = 1 << 15;

/// A packed ring's memory, and what was negotiated about it.
pub(crate) struct Packed<P: Platform> {
    memory: PackedMemory<P>,
    num: u32,
    event_idx: bool,
    strong: bool,
}

const fn word(len: u32, id: u16, flags: u16) -> u64 {
    (len as u64) | (id as u64) << 32 | (flags as u64) << 48
}

impl<P: Platform> Packed<P> {
    /// A packed ring, and the positions that it starts from.
    pub(super) fn new(
        memory: PackedMemory<P>,
        event_idx: bool,
        strong: bool,
        counts: &mut Counts,
    ) -> Self {
        let num = u32::from(memory.num());
        counts.avail_flags = AVAIL;
        counts.used_flags = AVAIL | USED;
        // For tests of the wrap: the position that the running number stands for.
        let start = counts.next as u32;
        counts.avail_at = start % num;
        counts.used_at = counts.avail_at;
        if start / num % 2 == 1 {
            counts.avail_flags ^= AVAIL | USED;
            counts.used_flags ^= AVAIL | USED;
        }
        Self {
            memory,
            num,
            event_idx,
            strong,
        }
    }

    pub(super) fn memory(&self) -> &PackedMemory<P> {
        &self.memory
    }

    /// Position and wrap counter as the event structures and doorbells have them.
    fn off_wrap(at: u32, wrap: bool) -> u16 {
        at as u16 | u16::from(wrap) << 15
    }
}

impl<P: Platform> Format for Packed<P> {
    const BATCH_IS_ONE_LOOK: bool = true;

    #[inline]
    fn num(&self) -> u16 {
        self.num as u16
    }

    #[inline(always)] // a few stores
    fn describe(&self, counts: &mut Counts, id: u16, _: u16, k: u16, piece: Piece, _: u16) {
        let mut at = counts.avail_at.wrapping_add(k.into());
        let mut flags = piece.flags | counts.avail_flags;
        if at >= self.num {
            at = at.wrapping_sub(self.num);
            flags ^= AVAIL | USED;
        }
        let second = word(piece.len, id, flags);
        self.memory.set_addr(at, piece.addr);
        if k == 0 && counts.next == counts.published {
            counts.held = second;
            counts.held_at = at;
        } else {
            self.memory.set_word(at, second);
        }
    }

    #[cold]
    fn retract(&self, counts: &Counts, len: u16) {
        for k in 0..len {
            let mut at = counts.avail_at.wrapping_add(k.into());
            let mut flags = counts.avail_flags;
            if at >= self.num {
                at = at.wrapping_sub(self.num);
                flags ^= AVAIL | USED;
            }
            // As it was a lap ago: neither available nor used in this one.
            self.memory.set_word(at, word(0, 0, flags ^ AVAIL));
        }
    }

    #[inline(always)] // a few additions
    fn enter(&self, counts: &mut Counts, _: u64, _: u16, len: u16) {
        let len = u32::from(len);
        counts.since = counts.since.saturating_add(len);
        counts.avail_at = counts.avail_at.wrapping_add(len);
        if counts.avail_at >= self.num {
            counts.avail_at = counts.avail_at.wrapping_sub(self.num);
            counts.avail_flags ^= AVAIL | USED;
        }
    }

    #[inline(always)] // one store
    fn publish(&self, counts: &mut Counts) {
        if counts.next != counts.published {
            notify::publish_packed(&self.memory, counts.held_at, counts.held, self.strong);
        }
    }

    #[inline(always)] // bounds a burst
    fn glance(&self, counts: &mut Counts) -> Result<u64, Impossible> {
        if counts.used_flags == NEVER {
            return Err(Impossible { seen: 0 });
        }
        Ok(counts.with_device())
    }

    #[inline(always)] // one load
    fn more(&self, counts: &mut Counts) -> bool {
        let word = notify::look_packed(&self.memory, counts.used_at, self.strong);
        counts.word = word;
        (word >> 48) as u16 & (AVAIL | USED) == counts.used_flags
    }

    #[inline(always)] // the empty look ends every loop
    fn poll(&self, counts: &mut Counts) -> Poll {
        if self.more(counts) && counts.with_device() != 0 {
            return Poll::Ready;
        }
        if counts.used_flags == NEVER {
            return Poll::Impossible(Impossible { seen: 0 });
        }
        Poll::Empty
    }

    #[inline(always)] // two shifts
    fn element(&self, counts: &Counts) -> (u32, u32) {
        (u32::from((counts.word >> 32) as u16), counts.word as u32)
    }

    /// The length is reserved unless the used descriptor says `WRITE` (VIRTIO 1.4, 2.8.5): where
    /// the chain holds nothing to write, it may be what the driver left there. Elsewhere it is
    /// believed as far as it goes, since there are devices that never say `WRITE`.
    #[cold]
    fn excess(&self, counts: &Counts, len: u32, written: u32) -> u32 {
        let flags = DescriptorFlags::from_bits_retain((counts.word >> 48) as u16);
        if written == 0 && !flags.contains(DescriptorFlags::WRITE) {
            0
        } else {
            len
        }
    }

    #[inline(always)] // a few additions
    fn pass(&self, counts: &mut Counts, len: u16) {
        counts.used_at = counts.used_at.wrapping_add(len.into());
        if counts.used_at >= self.num {
            counts.used_at = counts.used_at.wrapping_sub(self.num);
            counts.used_flags ^= AVAIL | USED;
        }
    }

    #[inline(always)] // decides every kick
    fn wants_kick(&self, counts: &mut Counts, _: u64) -> bool {
        let since = core::mem::take(&mut counts.since);
        let at = Self::off_wrap(counts.avail_at, counts.avail_flags & AVAIL != 0);
        notify::wants_kick_packed(&self.memory, at, since, self.num, self.strong)
    }

    fn arm(&self, counts: &Counts, delayed: bool) -> bool {
        let wrap = counts.used_flags & AVAIL != 0;
        let mut event = (counts.used_at, wrap);
        if delayed {
            let in_flight = self.num.wrapping_sub(counts.free);
            event.0 = event.0.wrapping_add(in_flight / 4 * 3);
            if event.0 >= self.num {
                event = (event.0.wrapping_sub(self.num), !wrap);
            }
        }
        let event = self.event_idx.then(|| Self::off_wrap(event.0, event.1));
        let word = notify::arm_packed(&self.memory, event, counts.used_at, self.strong);
        (word >> 48) as u16 & (AVAIL | USED) == counts.used_flags && counts.with_device() != 0
    }

    fn disarm(&self, _: &Counts) {
        notify::disarm_packed(&self.memory);
    }

    #[inline]
    fn notification(&self, counts: &Counts) -> u16 {
        Self::off_wrap(counts.avail_at, counts.avail_flags & AVAIL != 0)
    }

    fn poison(&self, counts: &mut Counts) {
        counts.used_flags = NEVER;
        counts.completed = counts.next;
        counts.published = counts.next;
    }
}
