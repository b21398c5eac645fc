//! Arbitrary configuration spaces and arbitrary registers: no panic, no endless walk, no access
//! outside of what was mapped.

mod pci_support;

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;

use proptest::prelude::*;
use vring::features::Features;
use vring::platform::DmaAddr;
use vring::transport::pci::{Address, Bar, Capabilities, ConfigAccess, PciTransport, scan};
use vring::transport::{QueueAreas, QueueIndex, Registers, Status, Transport};

/// 256 bytes that are whatever they are: some registers forget what is written, some keep it.
#[derive(Debug)]
struct Arbitrary {
    space: RefCell<Vec<u8>>,
    writable: Vec<u8>,
    accesses: Cell<u32>,
}

impl Arbitrary {
    fn count(&self) {
        self.accesses.set(self.accesses.get() + 1);
        assert!(self.accesses.get() < 2_000_000, "a walk that does not end");
    }

    fn read(&self, at: Address, register: u16, width: u16) -> u32 {
        assert!(register < 4096 && register.is_multiple_of(width));
        self.count();
        if at != here() {
            return !0;
        }
        let space = self.space.borrow();
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
        let mut space = self.space.borrow_mut();
        for i in 0..width {
            let at = usize::from(register + i);
            if let (Some(byte), Some(mask)) = (space.get_mut(at), self.writable.get(at)) {
                *byte = *byte & !mask | (value >> (8 * i)) as u8 & mask;
            }
        }
    }
}

impl ConfigAccess for Arbitrary {
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

fn here() -> Address {
    Address::new(0, 0, 0).unwrap()
}

/// A capability that is plausible in most of its bytes: chance alone never finds one.
fn capability() -> impl Strategy<Value = Vec<u8>> {
    let id = prop_oneof![8 => Just(0x09u8), 2 => Just(0x11), 1 => any::<u8>()];
    let next = (0u8..64).prop_map(|n| n * 4);
    let len = prop_oneof![8 => 16u8..=24, 1 => any::<u8>()];
    let kind = prop_oneof![8 => 1u8..=4, 1 => any::<u8>()];
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
fn space() -> impl Strategy<Value = Arbitrary> {
    let noise = proptest::collection::vec(any::<u8>(), 256);
    let writable = proptest::collection::vec(any::<u8>(), 256);
    let caps = proptest::collection::vec((16usize..59, capability()), 0..10);
    let bars = proptest::collection::vec(
        prop_oneof![
            Just(0u32),
            Just(0xfebd_0000),
            Just(0x8000_000c),
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
                space[..4].copy_from_slice(&[0xf4, 0x1a, 0x41, 0x10]);
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
                accesses: Cell::new(0),
            }
        },
    )
}

/// A function as QEMU makes it, of which a few bytes are something else.
fn almost_right() -> impl Strategy<Value = Arbitrary> {
    let bytes = proptest::collection::vec((any::<u8>(), any::<u8>()), 0..8);
    let masks = proptest::collection::vec((0x10usize..0x28, any::<u8>()), 0..2);
    (bytes, masks).prop_map(|(bytes, masks)| {
        let function = pci_support::FakeFunction::qemu(0x1041);
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
            accesses: Cell::new(0),
        }
    })
}

/// What registers hold: mostly zeros, so that queues exist and are not enabled.
fn registers() -> impl Strategy<Value = Vec<u64>> {
    let byte = prop_oneof![3 => Just(0u8), 1 => any::<u8>()];
    let word = proptest::collection::vec(byte, 8)
        .prop_map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
    proptest::collection::vec(word, 8)
}

/// Memory in the place of registers: what the device answers is whatever is in it.
fn drive(config: &Arbitrary, noise: &[u64], features: u128) {
    // Room for what a transport maps; more than that is not mapped, as a kernel may decide.
    let mut arena: Vec<Vec<u64>> = Vec::new();
    let mut map = |_: u64, len: usize| {
        let words = len.div_ceil(8);
        if words > 1 << 13 {
            return None;
        }
        arena.push(noise.iter().copied().cycle().take(words).collect());
        let base = NonNull::new(arena.last_mut()?.as_mut_ptr().cast())?;
        // SAFETY: memory of at least that length; the vector is not touched again, and outlives
        // the transport, which was made after it.
        Some(unsafe { Registers::new(base, len) })
    };
    let Ok(mut transport) = PciTransport::new(config, here(), &mut map) else {
        return;
    };
    let table = transport.enable_msix(config, &mut map);
    if let Ok(mut table) = table {
        let _ = table.unmask(table.len() - 1);
    }
    transport.set_status(Status::empty());
    let _ = transport.device_features();
    transport.set_driver_features(Features(features));
    for queue in [0, 1, 0xfffe, 0xffff].map(QueueIndex) {
        let _ = transport.max_queue_size(queue);
        for size in [0, 1, 256, 0xffff] {
            let [desc, driver, device] = [DmaAddr(u64::MAX); 3];
            let areas = QueueAreas {
                desc,
                driver,
                device,
            };
            // SAFETY: there is no device that would use memory.
            let doorbell = unsafe { transport.enable_queue(queue, size, &areas, Some(size)) };
            if let Ok(doorbell) = doorbell {
                doorbell.ring(0);
            }
        }
    }
    let size = transport.config_size();
    for (offset, len) in [
        (0, 1),
        (0, 8),
        (size, 1),
        (size.wrapping_sub(3), 3),
        (usize::MAX, 2),
    ] {
        let inside = offset.checked_add(len).is_some_and(|end| end <= size);
        assert_eq!(
            transport.read_config(offset, &mut vec![0; len]).is_ok(),
            inside
        );
        assert_eq!(
            transport.write_config(offset, &vec![0; len]).is_ok(),
            inside
        );
    }
    transport.take_isr().unwrap().ack();
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 2000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_configuration_space_makes_the_transport_panic_or_run_for_ever(
        config in prop_oneof![space(), almost_right()],
        noise in registers(),
        features in any::<u128>(),
    ) {
        prop_assert!(scan(&config).count() <= 1 || config.accesses.get() < 1_000_000);
        prop_assert!(Capabilities::new(&config, here()).count() <= 48);
        for bar in 0..=7 {
            let _ = Bar::read(&config, here(), bar);
        }
        drive(&config, &noise, features);
    }
}

/// The property above would hold of a transport that refuses everything: not all are refused.
#[test]
#[cfg_attr(miri, ignore = "counts, and does nothing that the property does not")]
fn arbitrary_spaces_are_not_all_refused() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let accepted = (0..300).filter(|_| {
        let config = almost_right().new_tree(&mut runner).unwrap().current();
        let mut arena = vec![0u64; 1 << 13];
        let map = |_, len: usize| {
            let base = NonNull::new(arena.as_mut_ptr().cast())?;
            // SAFETY: memory of that length that lives as long as the transport.
            (len <= 1 << 16).then(|| unsafe { Registers::new(base, len) })
        };
        PciTransport::new(&config, here(), map).is_ok()
    });
    let accepted = accepted.count();
    assert!((50..250).contains(&accepted), "{accepted} of 300");
}
