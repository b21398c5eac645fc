//! What comes back: which chain the device names, and whether it may be believed.
//!
//! The device's words are read once each, into registers, and what was read is what is judged. (The
//! element at which one loop of a drain ends is read anew by the loop that takes over, and judged
//! anew: nothing of the first look is kept.) An id must be that of a chain that is with the device;
//! one look at the chain's slot says so. A length beyond what the chain holds is cut to it, and
//! counted.

use super::core::FEW;
use super::core::{burst, keep_taken, keep_taken_chains};
use super::counts::Counts;
use super::format::{Element, Format, Formatted, Impossible, Reader};
use super::storage::{DESCRIPTORS, REPLY, Slot};
use crate::virtqueue::Fault;

/// A chain that came back.
pub(crate) struct Used<T> {
    pub(crate) payload: T,
    pub(crate) slot: u16,
    pub(crate) number: u64,
    /// Bytes written, by the device's word and no more than the chain holds.
    pub(crate) written: u32,
    /// Bytes written, by the device's word.
    pub(crate) claimed: u32,
    /// It had a reply cell.
    pub(crate) reply: bool,
    /// The device skipped it: the length is assumed.
    pub(crate) assumed: bool,
}

/// Why no chain could be taken.
pub(crate) enum Trouble {
    /// The position that the device shows.
    Impossible(Impossible),
    /// The element that it wrote.
    Fault(Fault),
}

impl From<Impossible> for Trouble {
    fn from(impossible: Impossible) -> Self {
        Self::Impossible(impossible)
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Whether a chain has come back with the last of its batch, which was seen. Of a split ring the
/// device's index says that, and a batch that goes beyond it is a lie.
#[inline(always)] // ends every loop
pub(super) fn in_batch<F: Format>(_: &F, counts: &Counts) -> bool {
    F::BATCH_IS_ONE_LOOK && counts.in_batch()
}

/// Whether a chain has come back, and what the look left.
#[inline(always)] // ends every loop
fn look<F: Format>(
    format: &F,
    counts: &mut Counts,
    in_order: bool,
) -> Result<Option<F::Mark>, Impossible> {
    match format.peek(counts) {
        Ok(mark) => Ok(Some(mark)),
        Err(mark) => format.poll(counts, mark, in_order),
    }
}

/// The next chain that came back. `in_order` is a reference, so that it is read when it matters:
/// behind the look, before which compilers read it otherwise.
#[inline(always)] // a chain is large, and is taken apart at once
pub(crate) fn pop<F: Format, T>(
    format: &F,
    slots: &mut [Slot<T>],
    counts: &mut Counts,
    in_order: &bool,
) -> Result<Option<Used<T>>, Trouble> {
    let mark = match format.peek(counts) {
        Ok(mark) => mark,
        Err(mark) => {
            if *in_order {
                return pop_in_order(format, slots, counts);
            }
            match format.poll(counts, mark, false)? {
                Some(mark) => mark,
                None => return Ok(None),
            }
        }
    };
    let element = format.element(counts, mark);
    Ok(Some(counts.take_any(format, slots, element, 0)?))
}

#[inline(always)] // as above
fn pop_in_order<F: Format, T>(
    format: &F,
    slots: &mut [Slot<T>],
    counts: &mut Counts,
) -> Result<Option<Used<T>>, Trouble> {
    if !counts.next_in_order(format, slots)? {
        return Ok(None);
    }
    Ok(Some(counts.take_in_order(format, slots, 0)?))
}

/// A chain that came back, and was found good: its payload is in its slot yet.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) slot: u16,
    /// Bytes written, by the device's word and no more than the chain holds.
    pub(crate) written: u32,
    claimed: u32,
    assumed: bool,
}

/// Gives every chain that has come back to `f`; how many there were. It ends however fast the
/// device is: chains are not made available meanwhile, and each is taken once.
///
/// The descriptors of chains of one are counted as free by [`Counts::keep_taken`].
#[inline(always)] // one of two calls
pub(crate) fn drain<R: Formatted, T>(
    ring: &R,
    slots: &mut [Slot<T>],
    counts: &mut Counts,
    in_order: bool,
    mut f: impl FnMut(Used<T>),
) -> Result<usize, Trouble> {
    if in_order {
        return drain_in_order(ring, slots, counts, f);
    }
    let start = counts.completed;
    let end = ring.format().glance(counts, false)?;
    // Chains of one descriptor and others, each kind in a loop of its own; first that of the last
    // burst.
    let mut all = false;
    while !all {
        (all, f) = if counts.chains {
            drain_chains(ring, slots, counts, end, f)?
        } else {
            drain_singles(ring, slots, counts, end, f)
        };
        counts.chains ^= !all;
    }
    Ok(counts.completed.wrapping_sub(start) as usize)
}

/// Gives chains of one descriptor to `f`, until none is left, which is true, or one is different.
/// Returns `f`: what it refers to is at hand when it is not referred to itself.
#[inline(never)] // the loop has all registers for itself
fn drain_singles<R: Formatted, T, C: FnMut(Used<T>)>(
    ring: &R,
    slots: &mut [Slot<T>],
    counts: &mut Counts,
    end: u64,
    mut f: C,
) -> (bool, C) {
    let format = &ring.format();
    let all = burst(counts, keep_taken(format, false), |counts| {
        let mut reader = format.reader(counts, end);
        while reader.goes_on(counts, end) {
            while let Some(element) = reader.next(counts) {
                let Some(used) = counts.take_single(format, slots, element) else {
                    return false;
                };
                f(used);
            }
        }
        true
    });
    (all, f)
}

/// The same for other chains, and for lengths that are not honest, until one comes that is for
/// [`drain_singles`]. Chains that are as long as the one before, if it is short, stay whole.
#[inline(never)] // as above
fn drain_chains<R: Formatted, T, C: FnMut(Used<T>)>(
    ring: &R,
    slots: &mut [Slot<T>],
    counts: &mut Counts,
    end: u64,
    mut f: C,
) -> Result<(bool, C), Fault> {
    let format = &ring.format();
    let all = burst(counts, keep_taken_chains(format), |counts| {
        let mut reader = format.reader(counts, end);
        while reader.goes_on(counts, end) {
            while let Some(element) = reader.next(counts) {
                let Some(used) = counts.take_chain(format, slots, element) else {
                    let used = counts.take_any(format, slots, element, 0)?;
                    let single = counts.learn(slots, &used);
                    // A device that leaves the length of what it read, as DPDK does in packed
                    // rings, is likely to go on so.
                    let back = single && used.written == element.len;
                    f(used);
                    if back {
                        return Ok(false);
                    }
                    continue;
                };
                f(used);
            }
        }
        Ok(true)
    });
    Ok((all?, f))
}

#[inline(never)] // as above
fn drain_in_order<R: Formatted, T>(
    ring: &R,
    slots: &mut [Slot<T>],
    counts: &mut Counts,
    mut f: impl FnMut(Used<T>),
) -> Result<usize, Trouble> {
    let format = &ring.format();
    burst(counts, keep_taken(format, true), |counts| {
        let start = counts.completed;
        let end = format.glance(counts, true)?;
        loop {
            if !counts.in_batch() {
                let Some(mark) = format.more(counts, end) else {
                    break;
                };
                let element = format.element(counts, mark);
                counts.begin_batch(format, slots, element)?;
            }
            let stop = if R::Format::<'_>::BATCH_IS_ONE_LOOK {
                counts.until
            } else {
                counts.until.min(end)
            };
            while counts.completed < stop {
                f(counts.take_in_order(format, slots, 1)?);
            }
            if !R::Format::<'_>::BATCH_IS_ONE_LOOK && counts.completed == end {
                break;
            }
        }
        Ok(counts.completed.wrapping_sub(start) as usize)
    })
}

impl Counts {
    /// As [`take_any`](Self::take_any), for a chain of one descriptor without cells whose length is
    /// honest: the loop over them is to have all registers for itself.
    #[inline(always)] // a chain is large, and is taken apart at once
    fn take_single<F: Format, T>(
        &mut self,
        format: &F,
        slots: &mut [Slot<T>],
        element: Element,
    ) -> Option<Used<T>> {
        let Element { id, len, .. } = element;
        let slot = slots.get_mut(id as usize)?;
        let number = slot.payload.number();
        if slot.shape != 1 || len > slot.writable {
            longer();
            return None;
        }
        let payload = slot.payload.take_before(self.published)?;
        slot.next = self.free_head as u16;
        self.free_head = id;
        self.came_back(format, 1, 1);
        Some(Used {
            payload,
            slot: id as u16,
            number,
            written: len,
            claimed: len,
            reply: false,
            assumed: false,
        })
    }

    /// Likewise, for a chain that is as long as those that are free as a whole: it stays whole, too.
    #[inline(always)] // a chain is large, and is taken apart at once
    fn take_chain<F: Format, T>(
        &mut self,
        format: &F,
        slots: &mut [Slot<T>],
        element: Element,
    ) -> Option<Used<T>> {
        let Element { id, len, .. } = element;
        let slot = slots.get_mut(id as usize)?;
        let (number, shape) = (slot.payload.number(), slot.shape);
        // So many descriptors, and without cells.
        if shape != self.chain_len || len > slot.writable {
            longer();
            return None;
        }
        let payload = slot.payload.take_before(self.published)?;
        slot.after = self.chain_head as u16;
        self.chain_head = id;
        self.chained = self.chained.wrapping_add(shape);
        self.came_back(format, shape, shape);
        Some(Used {
            payload,
            slot: id as u16,
            number,
            written: len,
            claimed: len,
            reply: false,
            assumed: false,
        })
    }

    /// After a chain that is not as long as those that are free as a whole: should there be none, the
    /// next that are as long as this one stay whole. Whether it has one descriptor.
    #[inline(always)] // a few comparisons
    fn learn<T>(&mut self, slots: &mut [Slot<T>], used: &Used<T>) -> bool {
        let slot = slots.get(usize::from(used.slot));
        let shape = slot.map_or(1, |slot| slot.shape);
        if (2..=FEW as u32).contains(&shape) {
            // Others are free, which are not that long: they had their time.
            self.unchain(slots);
            self.chain_len = shape;
        }
        shape == 1
    }

    /// Puts the descriptors of chains that are free as a whole into the list of free ones, each of
    /// which may be used for another chain.
    #[cold]
    pub(super) fn unchain<T>(&mut self, slots: &mut [Slot<T>]) {
        while self.chained != 0 {
            let head = self.chain_head;
            let Some(slot) = slots.get(head as usize) else {
                // They are lost; that it ends is worth more.
                self.chained = 0;
                return;
            };
            let (tail, after) = (usize::from(slot.tail), slot.after);
            if let Some(tail) = slots.get_mut(tail) {
                tail.next = self.free_head as u16;
            }
            self.free_head = head;
            self.chain_head = after.into();
            self.chained = self.chained.saturating_sub(self.chain_len);
            self.free = self.free.wrapping_add(self.chain_len);
        }
    }

    /// The one look-up of the slot is also the validation: the id is a slot's, the slot holds a
    /// payload (so that a chain starts there, and has not come back before), and the chain was
    /// published when the device reported it. The last two are one comparison: see
    /// [`Payload`](super::payload::Payload).
    #[inline(always)] // a chain is large, and is taken apart at once
    fn take_any<F: Format, T>(
        &mut self,
        format: &F,
        slots: &mut [Slot<T>],
        element: Element,
        later: u32,
    ) -> Result<Used<T>, Fault> {
        let id = element.id;
        let Some(slot) = slots.get_mut(id as usize) else {
            return Err(out_of_range(format, id));
        };
        let (number, writable, shape) = (slot.payload.number(), slot.writable, slot.shape);
        let Some(payload) = slot.payload.take_before(self.published) else {
            return Err(Fault::UsedIdNotInFlight { id });
        };
        let (claimed, written) = self.claim(format, element, writable);
        if shape == 1 {
            slot.next = self.free_head as u16;
            self.free_head = id;
            self.came_back(format, 1, later);
        } else {
            longer();
            let tail = usize::from(slot.tail);
            if let Some(tail) = slots.get_mut(tail) {
                tail.next = self.free_head as u16;
            }
            self.free_head = id;
            self.came_back(format, shape & DESCRIPTORS, later);
        }
        Ok(Used {
            payload,
            slot: id as u16,
            number,
            written,
            claimed,
            reply: shape & REPLY != 0,
            assumed: false,
        })
    }

    /// The oldest chain, which is the one that the device names, or was skipped by it.
    #[inline(always)] // a chain is large, and is taken apart at once
    fn take_in_order<F: Format, T>(
        &mut self,
        format: &F,
        slots: &mut [Slot<T>],
        later: u32,
    ) -> Result<Used<T>, Fault> {
        let id = self.oldest;
        let slot = slots.get_mut(id as usize).ok_or_else(|| corrupt(id))?;
        let (number, writable, shape) = (slot.payload.number(), slot.writable, slot.shape);
        let payload = slot.payload.take().ok_or_else(|| corrupt(id))?;
        let assumed = self.is_skipped();
        let claimed = if assumed { writable } else { self.batch_len };
        if shape == 1 {
            self.oldest = slot.next.into();
            self.came_back(format, 1, later);
        } else {
            longer();
            let tail = usize::from(slot.tail);
            self.oldest = slots.get(tail).map_or(0, |tail| tail.next.into());
            self.came_back(format, shape & DESCRIPTORS, later);
        }
        Ok(Used {
            payload,
            slot: id as u16,
            number,
            written: claimed.min(writable),
            claimed,
            reply: shape & REPLY != 0,
            assumed,
        })
    }

    /// The next chain that came back, with its payload left where it is.
    /// [`take_seen`](Self::take_seen) takes it. The device's words are read here, once.
    pub(super) fn see<F: Format, T>(
        &mut self,
        format: &F,
        slots: &[Slot<T>],
        in_order: bool,
    ) -> Result<Option<Seen>, Trouble> {
        if !in_order {
            let Some(mark) = look(format, self, false)? else {
                return Ok(None);
            };
            let element = format.element(self, mark);
            let slot = self.in_flight(format, slots, element.id)?;
            let (claimed, written) = self.claim(format, element, slot.writable);
            return Ok(Some(Seen {
                slot: element.id as u16,
                written,
                claimed,
                assumed: false,
            }));
        }
        if !self.next_in_order(format, slots)? {
            return Ok(None);
        }
        let id = self.oldest;
        let slot = slots.get(id as usize).ok_or_else(|| corrupt(id))?;
        let assumed = self.is_skipped();
        let claimed = if assumed {
            slot.writable
        } else {
            self.batch_len
        };
        Ok(Some(Seen {
            slot: id as u16,
            written: claimed.min(slot.writable),
            claimed,
            assumed,
        }))
    }

    /// Takes the chain that was seen.
    pub(super) fn take_seen<F: Format, T>(
        &mut self,
        format: &F,
        slots: &mut [Slot<T>],
        in_order: bool,
        seen: Seen,
    ) -> Result<Used<T>, Fault> {
        let id = u32::from(seen.slot);
        let slot = slots.get_mut(id as usize).ok_or_else(|| corrupt(id))?;
        let (number, shape) = (slot.payload.number(), slot.shape);
        let payload = slot.payload.take().ok_or_else(|| corrupt(id))?;
        let tail = usize::from(if shape == 1 { seen.slot } else { slot.tail });
        if in_order {
            self.oldest = slots.get(tail).map_or(0, |tail| tail.next.into());
        } else {
            if let Some(tail) = slots.get_mut(tail) {
                tail.next = self.free_head as u16;
            }
            self.free_head = id;
        }
        self.came_back(format, shape & DESCRIPTORS, 0);
        let Seen {
            slot,
            written,
            claimed,
            assumed,
        } = seen;
        Ok(Used {
            payload,
            slot,
            number,
            written,
            claimed,
            reply: shape & REPLY != 0,
            assumed,
        })
    }

    /// In order: whether the oldest chain has come back.
    #[inline(always)] // ends every loop
    fn next_in_order<F: Format, T>(
        &mut self,
        format: &F,
        slots: &[Slot<T>],
    ) -> Result<bool, Trouble> {
        if in_batch(format, self) {
            return Ok(true);
        }
        let Some(mark) = look(format, self, true)? else {
            return Ok(false);
        };
        if !self.in_batch() {
            self.begin_batch(format, slots, format.element(self, mark))?;
        }
        Ok(true)
    }

    /// Notes which chain the device names in order: it and all before it are done.
    #[inline(always)] // a few comparisons
    fn begin_batch<F: Format, T>(
        &mut self,
        format: &F,
        slots: &[Slot<T>],
        element: Element,
    ) -> Result<(), Fault> {
        let slot = self.in_flight(format, slots, element.id)?;
        self.until = slot.payload.number().wrapping_add(1);
        (self.batch_len, _) = self.claim(format, element, slot.writable);
        Ok(())
    }

    /// Bytes that the device says it wrote into a chain that has room for `writable`, and those that
    /// it can have written.
    #[inline(always)] // a comparison
    fn claim<F: Format>(&mut self, _: &F, element: Element, writable: u32) -> (u32, u32) {
        if element.len <= writable {
            return (element.len, element.len);
        }
        longer();
        let claimed = F::excess(element, writable);
        if claimed > writable {
            self.overruns = self.overruns.wrapping_add(1);
        }
        (claimed, claimed.min(writable))
    }

    /// In order, whether the oldest chain is one that the device skipped.
    #[inline(always)] // a comparison
    fn is_skipped(&self) -> bool {
        self.completed.wrapping_add(1) != self.until
    }

    /// The slot that the device names, if its chain is with the device.
    #[inline(always)] // a few comparisons
    fn in_flight<'a, F: Format, T>(
        &self,
        format: &F,
        slots: &'a [Slot<T>],
        id: u32,
    ) -> Result<&'a Slot<T>, Fault> {
        match slots.get(id as usize) {
            None => Err(out_of_range(format, id)),
            Some(slot) if slot.payload.number() < self.published => Ok(slot),
            Some(_) => Err(Fault::UsedIdNotInFlight { id }),
        }
    }

    /// Counts a chain of so many descriptors as taken, and all but `later` of them as free.
    #[inline(always)] // the counts are in registers
    fn came_back<F: Format>(&mut self, format: &F, chain: u32, later: u32) {
        self.free = self.free.wrapping_add(chain.wrapping_sub(later));
        self.completed = self.completed.wrapping_add(1);
        format.pass(self, chain as u16);
    }
}

/// Tells the compiler to lay code out for chains of one descriptor, and for honest lengths.
#[cold]
fn longer() {}

#[cold]
fn out_of_range<F: Format>(format: &F, id: u32) -> Fault {
    let size = format.num();
    Fault::UsedIdOutOfRange { id, size }
}

#[cold]
fn corrupt(id: u32) -> Fault {
    Fault::Corrupt { slot: id as u16 }
}
