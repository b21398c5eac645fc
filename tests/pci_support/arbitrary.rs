//! Configuration spaces of chance, for a device that lies.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use vring::transport::pci::{Address, ConfigAccess};

/// 256 bytes that are whatever they are: some registers forget what is written, some keep it.
#[derive(Debug)]
pub struct Arbitrary {
    space: Mutex<Vec<u8>>,
    writable: Vec<u8>,
    pub accesses: AtomicU32,
}

impl Arbitrary {
    fn count(&self) {
        let before = self.accesses.fetch_add(1, Ordering::Relaxed);
        assert!(before < 2_000_000, "a walk that does not end");
    }

    fn read(&self, at: Address, register: u16, width: u16) -> u32 {
        assert!(register < 4096 && register.is_multiple_of(width));
        self.count();
        if at != here() {
            return !0;
        }
        let space = self.space.lock().unwrap();
        let byte = |i| space.get(usize::from(register + i)).copied().unwrap_or(0);
        (0..width)
            .rev()
            .fold(0, |value, i| value << 8 | u32::from(byte(i)))
    }

    fn write(&self, at: Address, register: u16, width: u16, value: u32) {
        assert!(register < 4096 && register.is_multiple_of(width));
        self.count();
        if at != here() {
            return;
        }
        let mut space = self.space.lock().unwrap();
        for i in 0..width {
            let at = usize::from(register + i);
            if let (Some(byte), Some(mask)) = (space.get_mut(at), self.writable.get(at)) {
                *byte = *byte & !mask | (value >> (8 * i)) as u8 & mask;
            }
        }
    }
}

// SAFETY: this is the machine, made up, and no registers are behind it but those of fakes.
unsafe impl ConfigAccess for Arbitrary {
    fn read32(&self, at: Address, register: u16) -> u32 {
        self.read(at, register, 4)
    }
    fn read16(&self, at: Address, register: u16) -> u16 {
        self.read(at, register, 2) as u16
    }
    fn read8(&self, at: Address, register: u16) -> u8 {
        self.read(at, register, 1) as u8
    }
    fn write32(&self, at: Address, register: u16, value: u32) {
        self.write(at, register, 4, value);
    }
    fn write16(&self, at: Address, register: u16, value: u16) {
        self.write(at, register, 2, value.into());
    }
    fn write8(&self, at: Address, register: u16, value: u8) {
        self.write(at, register, 1, value.into());
    }
}

pub fn here() -> Address {
    Address::new(0, 0, 0).unwrap()
}

/// A capability that is plausible in most of its bytes: chance alone never finds one.
fn capability() -> impl Strategy<Value = Vec<u8>> {
    let id = prop_oneof![8 => Just(0x09u8), 2 => Just(0x11), 1 => any::<u8>()];
    let next = (0u8..64).prop_map(|n| n * 4);
    let len = prop_oneof![8 => 16u8..=24, 1 => any::<u8>()];
    let kind = prop_oneof![8 => 1u8..=4, 2 => Just(5u8), 2 => Just(8), 1 => any::<u8>()];
    let bar = prop_oneof![8 => 0u8..=6, 1 => any::<u8>()];
    let edge = || {
        prop_oneof![
            6 => (0u32..0x4000).prop_map(|n| n & !3),
            2 => any::<u32>(),
            1 => Just(u32::MAX),
            1 => Just(0)
        ]
    };
    let multiplier = prop_oneof![Just(0u32), Just(2), Just(4), any::<u32>()];
    (id, next, len, kind, bar, edge(), edge(), multiplier).prop_map(
        |(id, next, len, kind, bar, offset, length, multiplier)| {
            let mut bytes = vec![id, next, len, kind, bar, 0, 0, 0];
            bytes.extend(offset.to_le_bytes());
            bytes.extend(length.to_le_bytes());
            bytes.extend(multiplier.to_le_bytes());
            bytes
        },
    )
}

/// Anything, with the ids of a virtio device in most cases, and capabilities at random places.
pub fn space() -> impl Strategy<Value = Arbitrary> {
    let noise = proptest::collection::vec(any::<u8>(), 256);
    let writable = proptest::collection::vec(any::<u8>(), 256);
    let caps = proptest::collection::vec((16usize..59, capability()), 0..10);
    let bars = proptest::collection::vec(
        prop_oneof![
            Just(0u32),
            Just(0xfebd_0000),
            Just(0x8000_000c),
            Just(0xc001),
            any::<u32>()
        ],
        6,
    );
    let masks = proptest::collection::vec(
        prop_oneof![
            Just(0u32),
            Just(!0),
            Just(!0xfff),
            Just(!0x3fff),
            any::<u32>()
        ],
        6,
    );
    (noise, writable, caps, bars, masks, any::<bool>()).prop_map(
        |(mut space, mut writable, caps, bars, masks, virtio)| {
            if virtio {
                // A modern id or a transitional one.
                let id = if space[2] & 1 == 0 { 0x41 } else { 0 };
                space[..4].copy_from_slice(&[0xf4, 0x1a, id, 0x10]);
                space[6] |= 0x10;
                space[0xe] = 0;
                space[0x34] = 0x40;
                writable[..4].fill(0);
                writable[4] = 0xff;
            }
            for (i, (bar, mask)) in bars.into_iter().zip(masks).enumerate() {
                space[0x10 + 4 * i..][..4].copy_from_slice(&bar.to_le_bytes());
                writable[0x10 + 4 * i..][..4].copy_from_slice(&mask.to_le_bytes());
            }
            for (i, (place, bytes)) in caps.into_iter().enumerate() {
                // The first one at the start of the list.
                let at = if i == 0 { 0x40 } else { place * 4 };
                space[at..at + bytes.len()].copy_from_slice(&bytes);
            }
            Arbitrary {
                space: space.into(),
                writable,
                accesses: AtomicU32::new(0),
            }
        },
    )
}

/// A function as QEMU makes it, of which a few bytes are something else.
pub fn almost_right() -> impl Strategy<Value = Arbitrary> {
    let bytes = proptest::collection::vec((any::<u8>(), any::<u8>()), 0..8);
    let masks = proptest::collection::vec((0x10usize..0x28, any::<u8>()), 0..2);
    (bytes, masks).prop_map(|(bytes, masks)| {
        let function = super::FakeFunction::qemu(0x1041);
        let mut space = function.space[..256].to_vec();
        let mut writable = vec![0; 256];
        writable[4..6].fill(0xff);
        writable[0x42..0x44].copy_from_slice(&[0, 0xc0]);
        writable[0x14..0x18].copy_from_slice(&(!0xfffu32).to_le_bytes());
        writable[0x20..0x28].copy_from_slice(&(!0x3fffu64).to_le_bytes());
        bytes
            .into_iter()
            .for_each(|(at, byte)| space[usize::from(at)] = byte);
        masks.into_iter().for_each(|(at, mask)| writable[at] = mask);
        Arbitrary {
            space: space.into(),
            writable,
            accesses: AtomicU32::new(0),
        }
    })
}
