//! Who sees what when: every fence of the crate, and the two decisions that rest on them.
//!
//! A ring is a conversation of two sides that write one position each and read the other's. Four
//! places need an order that neither the compiler nor the CPU gives by itself:
//!
//! | place | our side | the other side | without it |
//! |---|---|---|---|
//! | `publish` | descriptors, ring entry → release → index or head flags | those → acquire → entry, descriptors | the device walks a chain that is half written |
//! | `look` | index or flags → acquire → used elements, buffers | buffers, elements → release → those | we return a buffer that is half written |
//! | `wants_kick` | index or flags → full fence → suppression word | suppression word → full fence → those | the device sleeps, and is not woken |
//! | `arm` | event word → full fence → index or flags | those → full fence → event word | we sleep, and are not woken |
//!
//! The last two are the store-load pattern (Dekker's): each side writes its word, then reads the
//! other's. Only a sequentially consistent fence on *both* sides, between the write and the read,
//! rules out that both read the old value. Release and acquire do not, on x86 either. The fence
//! stands before *any* suppression word, flags and event index alike (VIRTIO 1.4, 2.7.13.4.1,
//! 2.7.7 and 2.8.21.3.1). There is no other fence on the data path.
//!
//! `strong` is `VIRTIO_F_ORDER_PLATFORM` (VIRTIO 1.4, 6.1): the device is not another CPU, and the
//! order must hold on its way to memory, too. See [`fence_to_device`].

use core::sync::atomic::Ordering;

use crate::mmio::{fence_from_device, fence_to_device, fence_with_device, mfence};
use crate::ring::layout::{AVAIL_F_NO_INTERRUPT, USED_F_NO_NOTIFY};
use crate::shared::{PackedDescriptor, PackedWords, SplitWords};
use crate::sync::fence;

/// Whether moving an index from `old` to `new` passes `event` (VIRTIO 1.4, 2.7.10): the other
/// side asked to be told when index `event` has been used up. Safe across the wrap at 65536.
#[doc(alias = "vring_need_event")]
#[inline]
#[must_use]
pub const fn need_event(event: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

/// Whether the order that a device needs is more than the order that another CPU needs. On x86 and
/// riscv the same instructions give both; the unit tests count them.
const STRONGER: bool = cfg!(any(target_arch = "aarch64", test));

/// Whether this is a kernel on x86 of 64 bits, whose machine may be an emulated one.
const EMULATED: bool = cfg!(all(
    target_arch = "x86_64",
    not(any(unix, windows)),
    not(miri)
));

/// The fence between writing our word and reading the other side's.
///
/// Compilers make a locked instruction that changes nothing of the language's fence on x86, which
/// is one on hardware. QEMU without KVM takes it for an ordinary instruction where the machine has
/// one CPU: nobody could tell, but for the devices, which run on threads of their own. Then kicks
/// and interrupts get lost, rarely. Since version 8.0 it takes `mfence` for a fence: see
/// `docs/decisions/006-mfence.md`.
#[inline(always)] // one instruction
fn full_fence(strong: bool) {
    if EMULATED {
        mfence();
    } else {
        fence(Ordering::SeqCst);
    }
    if STRONGER && strong {
        fence_with_device();
    }
}

/// Makes all chains before `idx` visible: the release store orders every earlier write to
/// descriptors, ring entries and buffers before the index. The device acquires the index.
#[inline]
pub(crate) fn publish_split(memory: &SplitWords<'_>, idx: u16, strong: bool) {
    if STRONGER && strong {
        fence_to_device();
    }
    memory.set_avail_idx_release(idx);
}

/// Makes a batch visible: the release store of its first head's second word orders every earlier
/// write to descriptors and buffers before it. The device acquires the flags in it, and does not
/// look behind a head that is not available.
#[inline]
pub(crate) fn publish_packed(head: &PackedDescriptor<'_>, word: u64, strong: bool) {
    if STRONGER && strong {
        fence_to_device();
    }
    head.set_word_release(word);
}

/// Reads how far the device is. It has released the index after elements and buffers; the
/// acquire orders our reads of them behind it.
#[inline]
pub(crate) fn look_split(memory: &SplitWords<'_>, strong: bool) -> u16 {
    let idx = memory.used_idx_acquire();
    if STRONGER && strong {
        fence_from_device();
    }
    idx
}

/// Reads the second word of a descriptor. The device has released it after the buffers; the
/// acquire orders our reads of them behind it. Length and id are in the same word as the flags, so
/// that they cannot be older.
#[inline]
pub(crate) fn look_packed(descriptor: &PackedDescriptor<'_>, strong: bool) -> u64 {
    let word = descriptor.word_acquire();
    if STRONGER && strong {
        fence_from_device();
    }
    word
}

/// Whether the device wants a notification for what was published since the last decision:
/// `since` chains, up to `idx`.
///
/// We wrote the index; the full fence; we read the suppression word. The device writes the
/// suppression word ("wake me"), a full fence, and reads the index again before it sleeps. So
/// either it sees our index, or we see its word. Without our fence the read may come before the
/// write (every CPU has a store buffer): both go by old values, and the queue stalls.
#[inline]
pub(crate) fn wants_kick_split(
    memory: &SplitWords<'_>,
    idx: u16,
    since: u64,
    event_idx: bool,
    strong: bool,
) -> bool {
    full_fence(strong);
    if event_idx {
        // The window test knows distances below 65536 only; beyond, the event was passed.
        since > u64::from(u16::MAX)
            || need_event(memory.avail_event(), idx, idx.wrapping_sub(since as u16))
    } else {
        memory.used_flags() & USED_F_NO_NOTIFY == 0
    }
}

/// Of an event structure of a packed ring (VIRTIO 1.4, 2.8.14): notify always.
const EVENT_ENABLE: u16 = 0;
/// Never.
const EVENT_DISABLE: u16 = 1;
/// At the descriptor that is named.
const EVENT_DESC: u16 = 2;

/// As [`wants_kick_split`], for a packed ring of `num` descriptors of which `since` were made
/// available, up to position `at`. The structure is one word, read once, so that its two halves
/// belong together.
#[inline]
pub(crate) fn wants_kick_packed(
    memory: &PackedWords<'_>,
    at: u16,
    since: u64,
    num: u32,
    strong: bool,
) -> bool {
    full_fence(strong);
    let event = memory.device_event();
    match (event >> 16) as u16 & 3 {
        EVENT_DISABLE => false,
        // A whole lap passes every descriptor.
        EVENT_DESC if since < u64::from(num) => passes(event as u16, at, since as u32, num),
        _ => true,
    }
}

/// Whether the `since` descriptors before position `at` contain `event` (VIRTIO 1.4, 2.8.21.3.1);
/// bit 15 of each position is its wrap counter.
fn passes(event: u16, at: u16, since: u32, num: u32) -> bool {
    let lap = |position: u16| u32::from(position & 0x7fff);
    // How far the event lies behind the position: the other lap is a lap further back.
    let behind = if event >> 15 == at >> 15 {
        lap(at).wrapping_sub(lap(event))
    } else {
        lap(at).wrapping_add(num).wrapping_sub(lap(event))
    };
    // An event ahead of the position is a huge distance, as the difference wraps.
    behind.wrapping_sub(1) < since
}

/// Asks for an interrupt at the used element `ahead` behind `last`, and says whether the device is
/// already further: then none may come, and the caller must poll.
///
/// We write the event word; the full fence; we read the index. The device writes the index, a full
/// fence, and reads the event word. So either it sees our word and interrupts, or we see its index.
#[inline]
pub(crate) fn arm_split(
    memory: &SplitWords<'_>,
    last: u16,
    ahead: u16,
    event_idx: bool,
    strong: bool,
) -> bool {
    // Without an event index there is no "later".
    let ahead = if event_idx { ahead } else { 0 };
    if event_idx {
        memory.set_used_event(last.wrapping_add(ahead));
    } else {
        memory.set_avail_flags(0);
    }
    full_fence(strong);
    memory.used_idx_acquire().wrapping_sub(last) > ahead
}

/// As [`arm_split`]: asks for an interrupt at `event`, or at any descriptor, and reads the second
/// word of the next that comes back.
#[inline]
pub(crate) fn arm_packed(
    memory: &PackedWords<'_>,
    event: Option<u16>,
    next: &PackedDescriptor<'_>,
    strong: bool,
) -> u64 {
    memory.set_driver_event(match event {
        Some(event) => u32::from(EVENT_DESC) << 16 | u32::from(event),
        None => u32::from(EVENT_ENABLE) << 16,
    });
    full_fence(strong);
    next.word_acquire()
}

/// Asks for no interrupts. With an event index there is no "never": the event is left just behind
/// `last`, which the device's index passes again 65536 elements later. It is advice either way,
/// and needs no order: an interrupt may still come and must be tolerated
/// (VIRTIO 1.4, 2.7.7.2).
#[inline]
pub(crate) fn disarm_split(memory: &SplitWords<'_>, last: u16, event_idx: bool) {
    if event_idx {
        memory.set_used_event(last.wrapping_sub(1));
    } else {
        memory.set_avail_flags(AVAIL_F_NO_INTERRUPT);
    }
}

/// Asks for no interrupts. As advice it needs no order.
#[inline]
pub(crate) fn disarm_packed(memory: &PackedWords<'_>) {
    memory.set_driver_event(u32::from(EVENT_DISABLE) << 16);
}

#[cfg(test)]
mod tests {
    use super::passes;

    /// The positions of `since` descriptors before `at`, one by one.
    fn passes_by_hand(event: u16, at: u16, since: u32, num: u32) -> bool {
        let (mut position, mut wrap) = (u32::from(at & 0x7fff), at >> 15 == 1);
        for _ in 0..since {
            if position == 0 {
                (position, wrap) = (num, !wrap);
            }
            position -= 1;
            if event == position as u16 | u16::from(wrap) << 15 {
                return true;
            }
        }
        false
    }

    #[test]
    fn an_event_is_passed_exactly_when_it_is_among_the_descriptors() {
        // Few sizes where Miri tries them.
        let sizes: &[u32] = if cfg!(miri) {
            &[1, 3]
        } else {
            &[1, 2, 3, 7, 8]
        };
        for &num in sizes {
            let positions = || (0..num as u16).flat_map(|p| [p, p | 1 << 15]);
            for at in positions() {
                for event in positions() {
                    for since in 0..num {
                        assert_eq!(
                            passes(event, at, since, num),
                            passes_by_hand(event, at, since, num),
                            "event {event:#x} at {at:#x} since {since} of {num}"
                        );
                    }
                }
            }
        }
    }
}
