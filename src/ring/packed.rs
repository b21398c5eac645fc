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

use super::core::RingOptions;
use super::counts::{Counts, NEVER};
use super::format::{Format, Impossible, Piece, Poll};
use super::layout::DescriptorFlags;
use super::notify;
use crate::platform::Platform;
use crate::shared::PackedMemory;
use crate::transport::{Doorbell, QueueAreas, QueueIndex, Transport, TransportError};

/// The descriptor is available in this lap when this flag is as the driver's wrap counter.
#[doc(alias = "VIRTQ_DESC_F_AVAIL")]
const AVAIL: u16 = 1 << 7;
/// The descriptor is used in this lap when this flag, too, is as the device's wrap counter.
#[doc(alias = "VIRTQ_DESC_F_USED")]
const USED: u16 = 1 << 15;

/// A packed ring's memory, and what was negotiated about it.
pub(crate) struct Packed<P: Platform> {
    pub(super) memory: PackedMemory<P>,
    num: u32,
    event_idx: bool,
    strong: bool,
}

/// Flags, where they are in the second word.
const fn flags(flags: u16) -> u64 {
    (flags as u64) << 48
}

/// The flags that turn over with each lap.
const LAP: u64 = flags(AVAIL | USED);

/// A second word; flags are where they belong.
const fn word(len: u32, id: u16, flags: u64) -> u64 {
    (len as u64) | (id as u64) << 32 | flags
}

/// A position and its lap, `by` descriptors on; no more than a lap.
#[inline(always)] // an addition and a branch that is rarely taken
fn step(at: &mut u32, lap: &mut u64, num: u32, by: u32) {
    *at = at.wrapping_add(by);
    if *at >= num {
        seam();
        *at = at.wrapping_sub(num);
        *lap ^= LAP;
    }
}

/// Position and wrap counter as event structures and doorbells have them.
#[inline(always)] // two moves
fn position(at: u32, lap: u64) -> u16 {
    at as u16 | u16::from(lap & flags(AVAIL) != 0) << 15
}

#[cold]
fn broken() -> Poll {
    Poll::Impossible(Impossible { seen: 0 })
}

/// Tells the compiler that the end of the ring is a rare place: a branch is cheaper there than
/// selecting.
#[cold]
fn seam() {}

impl<P: Platform> Packed<P> {
    /// A packed ring, and the positions that it starts from.
    pub(super) fn new(memory: PackedMemory<P>, options: &RingOptions, counts: &mut Counts) -> Self {
        let num = u32::from(memory.num());
        counts.avail_lap = flags(AVAIL);
        counts.used_lap = LAP;
        // For tests of the wrap: the position that the running number stands for.
        let start = counts.next as u32;
        counts.avail_at = start % num;
        counts.used_at = counts.avail_at;
        if start / num % 2 == 1 {
            counts.avail_lap ^= LAP;
            counts.used_lap ^= LAP;
        }
        Self {
            memory,
            num,
            event_idx: options.event_idx,
            strong: options.strong,
        }
    }

    /// Descriptors of the chains that the device may have used. Those of a batch that is not
    /// published do not count: no interrupt comes for them.
    fn with_device(&self, counts: &Counts) -> u32 {
        if counts.with_device() == 0 {
            return 0;
        }
        let end = if counts.next == counts.published {
            counts.avail_at
        } else {
            counts.held_at
        };
        match end.checked_sub(counts.used_at) {
            // All of them.
            Some(0) => self.num,
            Some(ahead) => ahead,
            None => end.wrapping_add(self.num).wrapping_sub(counts.used_at),
        }
    }

    /// Where the next descriptor is made available, as event structures and doorbells have it.
    #[inline(always)] // two moves
    fn off_wrap(counts: &Counts) -> u16 {
        position(counts.avail_at, counts.avail_lap)
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
        let (mut at, mut lap) = (counts.avail_at, counts.avail_lap);
        if k != 0 {
            step(&mut at, &mut lap, self.num, k.into());
        }
        let second = word(piece.len, id, flags(piece.flags) | lap);
        if k == 0 && counts.next == counts.published {
            self.memory.set_addr(at, piece.addr);
            counts.held = second;
            counts.held_at = at;
        } else {
            self.memory.set_descriptor(at, piece.addr, second);
        }
    }

    #[cold]
    fn retract(&self, counts: &Counts, len: u16) {
        for k in 0..len {
            let (mut at, mut lap) = (counts.avail_at, counts.avail_lap);
            step(&mut at, &mut lap, self.num, k.into());
            // As it was a lap ago: neither available nor used in this one.
            self.memory.set_word(at, word(0, 0, lap ^ flags(AVAIL)));
        }
    }

    #[inline(always)] // a few additions
    fn enter(&self, counts: &mut Counts, _: u64, _: u16, len: u16) {
        let len = u32::from(len);
        counts.extra = counts.extra.wrapping_add(u64::from(len.wrapping_sub(1)));
        let Counts {
            avail_at,
            avail_lap,
            ..
        } = counts;
        step(avail_at, avail_lap, self.num, len);
    }

    #[inline(always)] // one store
    fn publish(&self, counts: &mut Counts) {
        if counts.next != counts.published {
            notify::publish_packed(&self.memory, counts.held_at, counts.held, self.strong);
        }
    }

    #[inline(always)] // bounds a burst
    fn glance(&self, counts: &mut Counts) -> Result<u64, Impossible> {
        if counts.used_lap == NEVER {
            return Err(Impossible { seen: 0 });
        }
        Ok(counts.published)
    }

    /// That something is with the device shows when the id is looked up.
    #[inline(always)] // one load
    fn more(&self, counts: &mut Counts, _: u64) -> bool {
        let word = notify::look_packed(&self.memory, counts.used_at, self.strong);
        counts.word = word;
        word & LAP == counts.used_lap
    }

    #[inline(always)] // the empty look ends every loop
    fn poll(&self, counts: &mut Counts) -> Poll {
        if self.more(counts, 0) {
            return Poll::Ready;
        }
        if counts.used_lap == NEVER {
            return broken();
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
        let Counts {
            used_at, used_lap, ..
        } = counts;
        step(used_at, used_lap, self.num, len.into());
    }

    #[inline(always)] // decides every kick
    fn wants_kick(&self, counts: &mut Counts, chains: u64) -> bool {
        let since = chains.wrapping_add(core::mem::take(&mut counts.extra));
        notify::wants_kick_packed(
            &self.memory,
            Self::off_wrap(counts),
            since,
            self.num,
            self.strong,
        )
    }

    fn arm(&self, counts: &Counts, delayed: bool) -> bool {
        let (mut at, mut lap) = (counts.used_at, counts.used_lap);
        if delayed {
            let ahead = self.with_device(counts) * 3 / 4;
            step(&mut at, &mut lap, self.num, ahead);
        }
        let event = self.event_idx.then(|| position(at, lap));
        let word = notify::arm_packed(&self.memory, event, counts.used_at, self.strong);
        word & LAP == counts.used_lap
    }

    fn disarm(&self, _: &Counts) {
        notify::disarm_packed(&self.memory);
    }

    #[inline]
    fn notification(&self, counts: &Counts) -> u16 {
        Self::off_wrap(counts)
    }

    fn poison(&self, counts: &mut Counts) {
        counts.used_lap = NEVER;
    }

    fn tables_are_linked(&self) -> bool {
        false
    }

    fn memory_size(&self) -> usize {
        self.memory.size()
    }

    fn areas(&self) -> QueueAreas {
        self.memory.areas()
    }

    fn expose(
        &self,
        transport: &mut impl Transport,
        queue: QueueIndex,
        vector: Option<u16>,
    ) -> Result<Doorbell, TransportError> {
        self.memory.expose(transport, queue, vector)
    }
}
