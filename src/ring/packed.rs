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
use super::format::{Element, Format, Formatted, Impossible, Piece, Reader, Writer};
use super::layout::DescriptorFlags;
use super::notify;
use crate::platform::Platform;
use crate::shared::{PackedDescriptor, PackedMemory, PackedRun, PackedWords, Place};

/// The descriptor is available in this lap when this flag is as the driver's wrap counter.
#[doc(alias = "VIRTQ_DESC_F_AVAIL")]
const AVAIL: u16 = 1 << 7;
/// The descriptor is used in this lap when this flag, too, is as the device's wrap counter.
#[doc(alias = "VIRTQ_DESC_F_USED")]
const USED: u16 = 1 << 15;

/// A packed ring's memory, and what was negotiated about it.
pub(crate) struct PackedRing<P: Platform> {
    memory: PackedMemory<P>,
    event_idx: bool,
    strong: bool,
}

impl<P: Platform> PackedRing<P> {
    /// A packed ring, and the positions that it starts from.
    pub(super) fn new(memory: PackedMemory<P>, options: &RingOptions, counts: &mut Counts) -> Self {
        let num = u32::from(memory.words().num());
        counts.avail_lap = flags(AVAIL);
        counts.used_lap = LAP;
        // For tests of the wrap: the position that the running number stands for.
        let start = counts.next as u32;
        counts.avail_at = Place::new(start % num);
        counts.used_at = counts.avail_at;
        if start / num % 2 == 1 {
            counts.avail_lap ^= LAP;
            counts.used_lap ^= LAP;
        }
        counts.quick_lap = if options.in_order {
            NEVER
        } else {
            counts.used_lap
        };
        Self {
            memory,
            event_idx: options.event_idx,
            strong: options.strong,
        }
    }

    /// Its memory.
    pub(super) fn memory(&self) -> &PackedMemory<P> {
        &self.memory
    }
}

impl<P: Platform> Formatted for PackedRing<P> {
    type Format<'a>
        = Packed<'a>
    where
        Self: 'a;

    #[inline(always)] // a few loads, of what is used
    fn format(&self) -> Packed<'_> {
        Packed {
            memory: self.memory.words(),
            event_idx: self.event_idx,
            strong: self.strong,
        }
    }
}

/// A packed ring, as it is written and read.
pub(crate) struct Packed<'a> {
    pub(super) memory: PackedWords<'a>,
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
const fn word(len: u32, id: u32, flags: u64) -> u64 {
    (len as u64) | (id as u64) << 32 | flags
}

/// Position and wrap counter as event structures and doorbells have them.
#[inline(always)] // two moves
fn position(at: Place, lap: u64) -> u16 {
    at.index() as u16 | u16::from(lap & flags(AVAIL) != 0) << 15
}

#[cold]
fn broken() -> Impossible {
    Impossible { seen: 0 }
}

impl Packed<'_> {
    /// Brings a place that may be beyond the end of the table back into it, its lap with it: places
    /// go on unchecked, and are checked where they are used.
    #[inline(always)] // a comparison
    fn settle(&self, at: &mut Place, lap: &mut u64) -> PackedDescriptor<'_> {
        let (descriptor, wraps) = self.memory.descriptor(at);
        if wraps {
            *lap ^= LAP;
        }
        descriptor
    }

    /// A place and its lap, `by` descriptors on; no more than a lap.
    #[inline(always)] // an addition and a branch that is rarely taken
    fn step(&self, mut at: Place, mut lap: u64, by: u32) -> (Place, u64) {
        self.settle(&mut at, &mut lap);
        at = at.on(by);
        self.settle(&mut at, &mut lap);
        (at, lap)
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
        let num = u32::from(self.memory.num());
        let index = |at| self.step(at, 0, 0).0.index();
        let (end, start) = (index(end), index(counts.used_at));
        match end.checked_sub(start) {
            // All of them.
            Some(0) => num,
            Some(ahead) => ahead,
            None => end.wrapping_add(num).wrapping_sub(start),
        }
    }

    /// Reads the second word of the next descriptor that comes back.
    #[inline(always)] // one load
    fn look(&self, counts: &mut Counts) -> u64 {
        let Counts {
            used_at,
            used_lap,
            quick_lap,
            ..
        } = counts;
        let (descriptor, wraps) = self.memory.descriptor(used_at);
        if wraps {
            *used_lap ^= LAP;
            *quick_lap ^= LAP;
        }
        notify::look_packed(&descriptor, self.strong)
    }
}

/// Descriptors up to the end of the table, of which the first is not the first of its batch.
pub(crate) struct PackedWriter<'w> {
    run: PackedRun<'w>,
    lap: u64,
}

impl Writer for PackedWriter<'_> {
    #[inline(always)] // a comparison
    fn has_room(&self, counts: &Counts) -> bool {
        self.run.has(counts.avail_at)
    }

    #[inline(always)] // two stores
    fn put(&mut self, counts: &mut Counts, head: u32, piece: Piece) {
        let second = word(piece.len, head, flags(piece.flags) | self.lap);
        self.run.set_descriptor(counts.avail_at, piece.addr, second);
        counts.avail_at = counts.avail_at.on(1);
    }
}

/// Descriptors that come back, one behind the other.
pub(crate) struct PackedReader<'r, 'a> {
    format: &'r Packed<'a>,
    read: bool,
}

impl Reader for PackedReader<'_, '_> {
    #[inline(always)] // once
    fn goes_on(&mut self, _: &mut Counts, _: u64) -> bool {
        !core::mem::replace(&mut self.read, true)
    }

    #[inline(always)] // one load
    fn next(&mut self, counts: &mut Counts) -> Option<Element> {
        let word = self.format.more(counts, 0)?;
        Some(self.format.element(counts, word))
    }
}

impl<'a> Format for Packed<'a> {
    const BATCH_IS_ONE_LOOK: bool = true;

    type Writer<'w>
        = PackedWriter<'w>
    where
        Self: 'w;

    #[inline(always)] // a few stores
    fn keep_submitted(from: &Counts, to: &mut Counts) {
        to.avail_at = from.avail_at;
        to.avail_lap = from.avail_lap;
        to.held = from.held;
        to.held_at = from.held_at;
        to.extra = from.extra;
    }

    #[inline(always)] // three stores
    fn keep_taken(from: &Counts, to: &mut Counts) {
        to.used_at = from.used_at;
        to.used_lap = from.used_lap;
        to.quick_lap = from.quick_lap;
    }

    type Reader<'r>
        = PackedReader<'r, 'a>
    where
        Self: 'r;

    #[inline(always)] // so that it is in registers
    fn reader(&self, _: &mut Counts, _: u64) -> PackedReader<'_, 'a> {
        PackedReader {
            format: self,
            read: false,
        }
    }

    #[inline(always)] // a comparison
    fn holds_next(&self, counts: &Counts) -> bool {
        counts.next == counts.published
    }

    #[inline(always)] // so that it is in registers
    fn writer<const IN_ORDER: bool>(&self, counts: &mut Counts, most: u32) -> PackedWriter<'_> {
        let Counts {
            avail_at,
            avail_lap,
            ..
        } = counts;
        self.settle(avail_at, avail_lap);
        PackedWriter {
            run: self.memory.run(*avail_at, most),
            lap: *avail_lap,
        }
    }

    #[inline]
    fn num(&self) -> u16 {
        self.memory.num()
    }

    #[inline(always)] // a few stores
    fn describe(&self, counts: &mut Counts, id: u32, _: u32, k: u16, piece: Piece, _: u16) {
        let Counts {
            avail_at,
            avail_lap,
            ..
        } = counts;
        let head = self.settle(avail_at, avail_lap);
        let second = |lap| word(piece.len, id, flags(piece.flags) | lap);
        if k != 0 {
            let (mut at, mut lap) = (avail_at.on(k.into()), *avail_lap);
            let descriptor = self.settle(&mut at, &mut lap);
            descriptor.set(piece.addr, second(lap));
        } else if counts.next == counts.published {
            head.set_addr(piece.addr);
            counts.held = second(counts.avail_lap);
            counts.held_at = counts.avail_at;
        } else {
            head.set(piece.addr, second(counts.avail_lap));
        }
    }

    #[inline(always)] // as above
    fn write<const N: usize>(
        &self,
        counts: &mut Counts,
        nodes: &[u32],
        pieces: [Piece; N],
        held: bool,
    ) {
        let Some(&id) = nodes.first() else { return };
        // In one go, but for a chain that goes on at the start of the table.
        let Some(descriptors) = self.memory.descriptors::<N>(counts.avail_at) else {
            for (k, piece) in pieces.into_iter().enumerate() {
                self.describe(counts, id, 0, k as u16, piece, 0);
            }
            return;
        };
        let fixed = u64::from(id) << 32 | counts.avail_lap;
        for k in 0..N {
            let (Some(descriptor), Some(piece)) = (descriptors.get(k), pieces.get(k)) else {
                break;
            };
            let second = word(piece.len, 0, flags(piece.flags)) | fixed;
            descriptor.set_addr(piece.addr);
            if k == 0 && held {
                counts.held = second;
                counts.held_at = counts.avail_at;
            } else {
                descriptor.set_word(second);
            }
        }
    }

    #[cold]
    fn retract(&self, counts: &Counts, len: u16) {
        for k in 0..len {
            let (mut at, mut lap) = self.step(counts.avail_at, counts.avail_lap, k.into());
            // As it was a lap ago: neither available nor used in this one.
            let descriptor = self.settle(&mut at, &mut lap);
            descriptor.set_word(word(0, 0, lap ^ flags(AVAIL)));
        }
    }

    #[inline(always)] // a few additions
    fn enter(&self, counts: &mut Counts, _: u64, _: u32, len: u16) {
        let len = u32::from(len);
        counts.extra = counts.extra.wrapping_add(u64::from(len.wrapping_sub(1)));
        counts.avail_at = counts.avail_at.on(len);
    }

    #[inline(always)] // one store
    fn publish(&self, counts: &mut Counts) {
        if counts.next != counts.published {
            let (head, _) = self.memory.descriptor(&mut counts.held_at);
            notify::publish_packed(&head, counts.held, self.strong);
        }
    }

    #[inline(always)] // bounds a burst
    fn glance(&self, counts: &mut Counts, _: bool) -> Result<u64, Impossible> {
        if counts.used_lap == NEVER {
            return Err(Impossible { seen: 0 });
        }
        Ok(counts.published)
    }

    /// A second word.
    type Mark = u64;

    /// That something is with the device shows when the id is looked up.
    #[inline(always)] // one load
    fn more(&self, counts: &mut Counts, _: u64) -> Option<u64> {
        let word = self.look(counts);
        (word & LAP == counts.used_lap).then_some(word)
    }

    #[inline(always)] // one load
    fn peek(&self, counts: &mut Counts) -> Result<u64, u64> {
        let word = self.look(counts);
        if word & LAP == counts.quick_lap {
            Ok(word)
        } else {
            Err(word)
        }
    }

    #[inline(always)] // the empty look ends every loop
    fn poll(
        &self,
        counts: &mut Counts,
        word: u64,
        in_order: bool,
    ) -> Result<Option<u64>, Impossible> {
        if in_order && word & LAP == counts.used_lap {
            return Ok(Some(word));
        }
        if counts.used_lap == NEVER {
            return Err(broken());
        }
        Ok(None)
    }

    #[inline(always)] // two shifts
    fn element(&self, _: &Counts, word: u64) -> Element {
        Element {
            id: (word >> 32) as u32 & 0xffff,
            len: word as u32,
            flags: (word >> 48) as u16,
        }
    }

    /// The length is reserved unless the used descriptor says `WRITE` (VIRTIO 1.4, 2.8.5): where
    /// the chain holds nothing to write, it may be what the driver left there. Elsewhere it is
    /// believed as far as it goes, since there are devices that never say `WRITE`.
    #[inline(always)] // takes no register of the loops
    fn excess(element: Element, written: u32) -> u32 {
        let flags = DescriptorFlags::from_bits_retain(element.flags);
        if written == 0 && !flags.contains(DescriptorFlags::WRITE) {
            0
        } else {
            element.len
        }
    }

    #[inline(always)] // an addition
    fn pass(&self, counts: &mut Counts, len: u16) {
        counts.used_at = counts.used_at.on(len.into());
    }

    #[inline(always)] // decides every kick
    fn wants_kick(&self, counts: &mut Counts, chains: u64) -> bool {
        let since = chains.wrapping_add(core::mem::take(&mut counts.extra));
        let Counts {
            avail_at,
            avail_lap,
            ..
        } = counts;
        self.settle(avail_at, avail_lap);
        notify::wants_kick_packed(
            &self.memory,
            position(*avail_at, *avail_lap),
            since,
            u32::from(self.memory.num()),
            self.strong,
        )
    }

    fn arm(&self, counts: &Counts, delayed: bool) -> bool {
        let (mut at, mut lap) = (counts.used_at, counts.used_lap);
        let next = self.settle(&mut at, &mut lap);
        let next_lap = lap;
        if delayed {
            (at, lap) = self.step(at, lap, self.with_device(counts) * 3 / 4);
        }
        let event = self.event_idx.then(|| position(at, lap));
        let word = notify::arm_packed(&self.memory, event, &next, self.strong);
        word & LAP == next_lap
    }

    fn disarm(&self, _: &Counts) {
        notify::disarm_packed(&self.memory);
    }

    #[inline]
    fn notification(&self, counts: &Counts) -> u16 {
        position(counts.avail_at, counts.avail_lap)
    }

    fn poison(&self, counts: &mut Counts) {
        // At a place that is in the table: no lap ends.
        counts.used_at = Place::new(0);
        (counts.used_lap, counts.quick_lap) = (NEVER, NEVER);
    }

    fn tables_are_linked(&self) -> bool {
        false
    }
}
