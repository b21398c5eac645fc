//! A device that lies.

use alloc::vec::Vec;

use super::device::{FakeDevice, Generation, ResetAnswer};
use super::queue::{Chain, QueueDevice};
use crate::features::{Feature, Features};

/// A small generator of numbers: the same seed, the same numbers, everywhere (SplitMix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The numbers of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 when the bound is 0.
    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.next_u64() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// Bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next_u64() as u8).collect()
    }

    fn word(&mut self) -> u16 {
        self.next_u64() as u16
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        of.get(self.below(of.len() as u32) as usize).copied()
    }
}

/// One thing that a device does: a script is a list of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Move {
    /// Looks for available buffers, and takes what is there.
    Look,
    /// Fills the writable part of the `nth` buffer that it holds, and returns it honestly.
    Return {
        /// Which of the buffers that it holds, modulo their number. Under `VIRTIO_F_IN_ORDER` it
        /// is the oldest.
        nth: usize,
    },
    /// Returns so many of the oldest buffers that it holds, honestly: by one used element under
    /// `VIRTIO_F_IN_ORDER`.
    ReturnBatch {
        /// How many, at most.
        count: usize,
    },
    /// Returns a buffer that it holds with a length of its choice: beyond the chain, or on a chain
    /// that has nothing to be written.
    ReturnWithLen {
        /// Which of the buffers that it holds, modulo their number.
        nth: usize,
        /// The length that it claims.
        len: u32,
    },
    /// Writes into a buffer that it holds, without returning it.
    Scribble {
        /// Which of the buffers that it holds, modulo their number.
        nth: usize,
    },
    /// Writes into the buffer that it returned last, if the platform still lets it.
    WriteAfterReturn,
    /// Puts a used element of its choice: an id beyond the queue, of an idle descriptor, of the
    /// middle of a chain, of a buffer returned before or never published.
    Forge {
        /// The id.
        id: u32,
        /// The length.
        len: u32,
    },
    /// Returns the last buffer once more.
    Repeat,
    /// Changes a used element that it has written before.
    Rewrite {
        /// Slot of the used ring, modulo the queue size.
        slot: u16,
        /// The id.
        id: u32,
        /// The length.
        len: u32,
    },
    /// Moves the used index by this much, back or ahead; in a packed ring, the place of the next
    /// used descriptor.
    MoveIdx {
        /// How far.
        by: i16,
    },
    /// Turns flags of a packed ring's descriptor over: back, before the next look at it, when the
    /// same move follows. A used descriptor looks available, or of the other lap; an available or
    /// idle one looks used.
    Flip {
        /// Its index, modulo the queue size.
        index: u16,
        /// `1 << 7` is AVAIL, `1 << 15` is USED.
        flags: u16,
    },
    /// Stores `used.flags`, or the flags of a packed ring's device area.
    Flags(u16),
    /// Stores `avail_event`, or offset and wrap counter of a packed ring's device area.
    Event(u16),
    /// Overwrites a descriptor.
    Descriptor {
        /// Index, modulo the queue size.
        index: u16,
        /// Its address.
        addr: u64,
        /// Its length, flags and next.
        rest: u64,
    },
    /// Overwrites an entry of the available ring; a packed ring has none.
    Available {
        /// Slot, modulo the queue size.
        slot: u16,
        /// The head.
        head: u16,
    },
    /// Overwrites the index of the available ring, or a packed ring's driver area.
    AvailableIdx(u16),
}

/// Bytes that it writes at most: a descriptor that it has forged itself may claim any length.
const MOST: u64 = 4096;

/// A device that lies about one queue: by a script ([`play`](Self::play)), or by a seed
/// ([`step`](Self::step)). The same seed, the same lies.
///
/// It goes on whatever the driver does, so its queue's [`Violations`](super::Violations) should be
/// lenient: after the first lie they say nothing about the driver.
#[derive(Debug)]
pub struct HostileDevice {
    queue: QueueDevice,
    rng: Rng,
    honesty: u32,
    held: Vec<Chain>,
    last: Option<Chain>,
}

impl HostileDevice {
    /// Takes over a queue.
    #[must_use]
    pub fn new(queue: QueueDevice, seed: u64) -> Self {
        Self {
            queue,
            rng: Rng::new(seed),
            honesty: 80,
            held: Vec::new(),
            last: None,
        }
    }

    /// Makes so many of a hundred moves honest; 80 at first. A driver learns more from a device
    /// that is honest most of the time.
    #[must_use]
    pub fn honesty(mut self, percent: u32) -> Self {
        self.honesty = percent;
        self
    }

    /// The queue.
    #[must_use]
    pub fn queue(&self) -> &QueueDevice {
        &self.queue
    }

    /// The queue.
    pub fn queue_mut(&mut self) -> &mut QueueDevice {
        &mut self.queue
    }

    /// Buffers that it holds.
    #[must_use]
    pub fn held(&self) -> &[Chain] {
        &self.held
    }

    /// Makes one move by the seed, and says which: a failing test prints it.
    pub fn step(&mut self) -> Move {
        let next = self.choose();
        self.play(next);
        next
    }

    /// Makes this move. What cannot be done now (a buffer where it holds none) is left out.
    pub fn play(&mut self, next: Move) {
        if self.queue.is_halted() {
            self.held.clear();
            return;
        }
        match next {
            Move::Look => {
                while let Some(chain) = self.queue.pop() {
                    self.held.push(chain);
                }
            }
            Move::Return { nth } => self.give_back(nth, None),
            Move::ReturnBatch { count } => self.give_back_batch(count),
            Move::ReturnWithLen { nth, len } => self.give_back(nth, Some(len)),
            Move::Scribble { nth } => {
                if let Some(chain) = self.held.get(nth % self.held.len().max(1)) {
                    let bytes = self.rng.bytes(chain.writable().min(MOST) as usize);
                    // Out of reach after a lie: see `QueueDevice::forge_used`.
                    let _ = self.queue.try_write(chain, &bytes);
                }
            }
            Move::WriteAfterReturn => {
                if let Some(chain) = &self.last {
                    let bytes = self.rng.bytes(chain.writable().min(MOST) as usize);
                    // Refused where the platform has taken the buffer away.
                    let _ = self.queue.try_write(chain, &bytes);
                }
            }
            Move::Forge { id, len } => self.queue.forge_used(id, len),
            Move::Repeat => {
                if let Some(chain) = &self.last {
                    let id = u32::from(chain.head());
                    self.queue.forge_used(id, 0);
                }
            }
            Move::Rewrite { slot, id, len } => self.queue.forge_used_element(slot, id, len),
            Move::MoveIdx { by } => {
                self.queue.forge_move(by);
            }
            Move::Flip { index, flags } => self.queue.forge_flip(index, flags),
            Move::Flags(flags) => self.queue.set_used_flags(flags),
            Move::Event(event) => self.queue.set_avail_event(event),
            Move::Descriptor { index, addr, rest } => {
                self.queue.forge_descriptor(index, addr, rest);
            }
            Move::Available { slot, head } => self.queue.forge_available(slot, head),
            Move::AvailableIdx(idx) => self.queue.forge_available_idx(idx),
        }
    }

    fn give_back(&mut self, nth: usize, len: Option<u32>) {
        if self.held.is_empty() {
            return;
        }
        let in_order = self.queue.options().in_order;
        let nth = if in_order { 0 } else { nth % self.held.len() };
        let chain = self.held.remove(nth);
        let bytes = self.rng.bytes(chain.writable().min(MOST) as usize);
        let written = self.queue.try_write(&chain, &bytes).unwrap_or(0);
        self.queue.push(chain.clone(), len.unwrap_or(written));
        self.queue.publish();
        self.last = Some(chain);
    }

    fn give_back_batch(&mut self, count: usize) {
        if !self.queue.options().in_order {
            (0..count).for_each(|_| self.give_back(0, None));
            return;
        }
        let batch: Vec<_> = self.held.drain(..count.min(self.held.len())).collect();
        let Some(last) = batch.last().cloned() else {
            return;
        };
        let mut written = 0;
        for chain in &batch {
            let bytes = self.rng.bytes(chain.writable().min(MOST) as usize);
            written = self.queue.try_write(chain, &bytes).unwrap_or(0);
        }
        self.queue.push_batch(batch, written);
        self.queue.publish();
        self.last = Some(last);
    }

    fn choose(&mut self) -> Move {
        let honest = self.rng.below(100) < self.honesty;
        let rng = &mut self.rng;
        let nth = rng.below(self.held.len().max(1) as u32) as usize;
        if honest {
            return match rng.below(6) {
                0 | 1 => Move::Look,
                2 => Move::ReturnBatch {
                    count: 1 + rng.below(4) as usize,
                },
                _ => Move::Return { nth },
            };
        }
        let size = self.queue.size();
        let near = rng.below(u32::from(size) + 2);
        let id = rng
            .one_of(&[near, 0xffff, 0x1_0000, 0x1_0000 + near, u32::MAX])
            .unwrap_or(near);
        let len = rng
            .one_of(&[0, 1, near, 0x1_0000, i32::MAX as u32, u32::MAX])
            .unwrap_or(0);
        match rng.below(18) {
            0..=2 => Move::ReturnWithLen { nth, len },
            3 => Move::Scribble { nth },
            4 => Move::WriteAfterReturn,
            5 | 6 => Move::Forge { id, len },
            7 => Move::Repeat,
            8 => Move::Rewrite {
                slot: rng.word(),
                id,
                len,
            },
            9 => Move::MoveIdx {
                by: rng.word() as i16,
            },
            10 => Move::MoveIdx {
                by: rng.below(9) as i16 - 4,
            },
            11 => Move::Flags(rng.word()),
            12 => Move::Event(rng.word()),
            13 => Move::Descriptor {
                index: rng.word(),
                addr: rng.next_u64(),
                rest: rng.next_u64(),
            },
            14 => Move::Available {
                slot: rng.word(),
                head: rng.word(),
            },
            15 | 16 => Move::Flip {
                index: rng.word(),
                flags: rng.one_of(&[1 << 7, 1 << 15, 0x8080]).unwrap_or(0),
            },
            _ => Move::AvailableIdx(rng.word()),
        }
    }
}

impl FakeDevice {
    /// Makes the registers absurd by a seed: which features are offered and kept, how many queues
    /// there are and how large, what the configuration holds, whether it settles, whether resets
    /// are confirmed and how late. Most seeds leave something that a driver can start on.
    #[must_use]
    pub fn hostile(self, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut features = Features(u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64()));
        if rng.below(8) != 0 {
            features = features
                .with(Feature::VERSION_1)
                .without(Feature::RING_PACKED);
        }
        let sizes: Vec<u16> = (0..rng.below(5))
            .map(|_| match rng.below(4) {
                0 => rng.word(),
                1 => rng.one_of(&[0, 1, 3, 0xffff, 0x8000]).unwrap_or(0),
                _ => 1 << rng.below(9),
            })
            .collect();
        let len = rng.below(80) as usize;
        let config = match rng.below(3) {
            0 => alloc::vec![0; len],
            1 => alloc::vec![0xff; len],
            _ => rng.bytes(len),
        };
        let generations = [
            Generation::Absent,
            Generation::Steady,
            Generation::NeverSettles,
        ];
        let generation = rng.one_of(&generations).unwrap_or(Generation::Steady);
        let vectors = rng
            .one_of(&[None, Some(0), Some(1), Some(3), Some(2048)])
            .flatten();
        let device = self
            .offer(features)
            .queues(&sizes)
            .config(&config)
            .generation(generation)
            .vectors(vectors);
        for _ in 0..rng.below(4) {
            let bytes = rng.bytes(len);
            device.change_config_under_read(&bytes);
        }
        if rng.below(8) == 0 {
            device.refuse_features();
        }
        device.set_reset(match rng.below(8) {
            0 => ResetAnswer::Never,
            1 => ResetAnswer::After(u32::MAX),
            _ => ResetAnswer::After(rng.below(5)),
        });
        device
    }
}
