//! Who sees what when: every fence of the crate, and the two decisions that rest on them.
//!
//! A ring is a conversation of two sides that write one index each and read the other's. Four
//! places need an order that neither the compiler nor the CPU gives by itself:
//!
//! | place | our side | the other side | without it |
//! |---|---|---|---|
//! | [`publish`] | descriptors, ring entry → release → index | index → acquire → entry, descriptors | the device walks a chain that is half written |
//! | [`look`] | index → acquire → used elements, buffers | buffers, elements → release → index | we return a buffer that is half written |
//! | [`wants_kick`] | index → full fence → suppression word | suppression word → full fence → index | the device sleeps, and is not woken |
//! | [`arm`] | event word → full fence → index | index → full fence → event word | we sleep, and are not woken |
//!
//! The last two are the store-load pattern (Dekker's): each side writes its word, then reads the
//! other's. Only a sequentially consistent fence on *both* sides, between the write and the read,
//! rules out that both read the old value. Release and acquire do not, on x86 either. The fence
//! stands before *any* suppression word, flags and event index alike (VIRTIO 1.4, 2.7.13.4.1 and
//! 2.7.7). There is no other fence on the data path.

use core::sync::atomic::{Ordering, fence};

use crate::platform::Platform;
use crate::ring::layout::{AVAIL_F_NO_INTERRUPT, USED_F_NO_NOTIFY};
use crate::shared::SplitMemory;

/// Whether moving an index from `old` to `new` passes `event` (VIRTIO 1.4, 2.7.10): the other
/// side asked to be told when index `event` has been used up. Safe across the wrap at 65536.
#[doc(alias = "vring_need_event")]
#[inline]
#[must_use]
pub const fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Makes all chains before `idx` visible: the release store orders every earlier write to
/// descriptors, ring entries and buffers before the index. The device acquires the index.
#[inline]
pub(crate) fn publish<P: Platform>(memory: &SplitMemory<P>, idx: u16) {
    memory.set_avail_idx_release(idx);
}

/// Reads how far the device is. It has released the index after elements and buffers; the
/// acquire orders our reads of them behind it.
#[inline]
pub(crate) fn look<P: Platform>(memory: &SplitMemory<P>) -> u16 {
    memory.used_idx_acquire()
}

/// Whether the device wants a notification for what was published since the last decision:
/// `since` chains, up to `idx`.
///
/// We wrote the index; the full fence; we read the suppression word. The device writes the
/// suppression word ("wake me"), a full fence, and reads the index again before it sleeps. So
/// either it sees our index, or we see its word. Without our fence the read may come before the
/// write (every CPU has a store buffer): both go by old values, and the queue stalls.
#[inline]
pub(crate) fn wants_kick<P: Platform>(
    memory: &SplitMemory<P>,
    idx: u16,
    since: u64,
    event_idx: bool,
) -> bool {
    fence(Ordering::SeqCst);
    if event_idx {
        // The window test knows distances below 65536 only; beyond, the event was passed.
        since > u64::from(u16::MAX)
            || need_event(memory.avail_event(), idx, idx.wrapping_sub(since as u16))
    } else {
        memory.used_flags() & USED_F_NO_NOTIFY == 0
    }
}

/// Asks for an interrupt at the next used element after `last_used`, and says whether the device
/// is already further: then none may come, and the caller must poll.
///
/// We write the event word; the full fence; we read the index. The device writes the index, a full
/// fence, and reads the event word. So either it sees our word and interrupts, or we see its index.
#[inline]
pub(crate) fn arm<P: Platform>(memory: &SplitMemory<P>, last_used: u16, event_idx: bool) -> bool {
    if event_idx {
        memory.set_used_event(last_used);
    } else {
        memory.set_avail_flags(0);
    }
    fence(Ordering::SeqCst);
    memory.used_idx_acquire() != last_used
}

/// Asks for no interrupts. With an event index there is no "never": the event is left just behind
/// `last_used`, which the device's index passes again 65536 elements later. It is advice either
/// way, and needs no order: an interrupt may still come and must be tolerated
/// (VIRTIO 1.4, 2.7.7.2).
#[inline]
pub(crate) fn disarm<P: Platform>(memory: &SplitMemory<P>, last_used: u16, event_idx: bool) {
    if event_idx {
        memory.set_used_event(last_used.wrapping_sub(1));
    } else {
        memory.set_avail_flags(AVAIL_F_NO_INTERRUPT);
    }
}
