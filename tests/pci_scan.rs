//! Walks over buses and bridges: what is found, and that every walk ends.

mod pci_support;

use std::cell::Cell;

use pci_support::{FakeConfig, FakeFunction};
use proptest::prelude::*;
use vring::transport::pci::{Address, ConfigAccess, scan, scan_buses, scan_from, scan_roots};

fn address(bus: u8, device: u8, function: u8) -> Address {
    Address::new(bus, device, function).unwrap()
}

fn bridge(secondary: u8) -> FakeFunction {
    let mut bridge = FakeFunction::new(0x1b36, 0x000c);
    bridge.space[0xe] = 1;
    bridge.space[0x19] = secondary;
    bridge
}

#[test]
fn a_machine_with_several_host_bridges_is_scanned_from_each_of_its_roots() {
    let config = FakeConfig::default();
    let device = || FakeFunction::qemu(0x1041);
    config.add(address(0, 1, 0), bridge(1));
    config.add(address(1, 0, 0), device());
    config.add(address(0x80, 2, 0), bridge(0x81));
    config.add(address(0x81, 0, 0), device());
    config.add(address(0x81, 1, 0), bridge(1)); // into the other half of the machine
    let found = |roots: &[u8]| -> Vec<Address> {
        let functions = scan_roots(&config, 0, roots.iter().copied());
        functions.map(|function| function.address).collect()
    };
    let low = [address(0, 1, 0), address(1, 0, 0)];
    let high = [
        address(0x80, 2, 0),
        address(0x81, 0, 0),
        address(0x81, 1, 0),
    ];
    assert_eq!(found(&[0]), low);
    let all: Vec<_> = low.into_iter().chain(high).collect();
    assert_eq!(found(&[0, 0x80]), all, "each bus once");
    assert_eq!(found(&[]), []);
    assert_eq!(
        scan_from(&config, 0, 0x80).count(),
        4,
        "bus 1, where its bridge leads"
    );
}

#[test]
fn windows_of_several_host_bridges_are_one_access() {
    let [low, high] = [FakeConfig::default(), FakeConfig::default()];
    low.add(address(0, 1, 0), FakeFunction::qemu(0x1041));
    high.add(address(0x80, 2, 0), FakeFunction::qemu(0x1042));
    let both = [&low, &high];
    let config = &both[..];
    let found: Vec<_> = scan_roots(&config, 0, [0, 0x80]).collect();
    let found = found.iter().map(|f| (f.address, f.device));
    let expected = [(address(0, 1, 0), 0x1041), (address(0x80, 2, 0), 0x1042)];
    assert!(found.eq(expected));
    config.write16(address(0x80, 2, 0), 4, 6);
    assert_eq!(high.function(address(0x80, 2, 0)).command(), 6);
    assert_eq!(low.function(address(0, 1, 0)).command(), 0);
    let (at, nowhere) = (address(0, 1, 0), address(3, 0, 0));
    assert_eq!(
        (config.read8(at, 2), config.read8(nowhere, 2)),
        (0x41, 0xff)
    );
    assert_eq!(
        (config.read16(at, 2), config.read16(nowhere, 2)),
        (0x1041, 0xffff)
    );
    assert_eq!(config.read32(nowhere, 0), !0);
}

#[test]
fn segments_are_apart() {
    let config = FakeConfig::default();
    let device = || FakeFunction::qemu(0x1041);
    config.add(address(0, 1, 0), device());
    config.add(address(0, 2, 0).with_segment(3), bridge(1));
    config.add(address(1, 5, 0).with_segment(3), device());
    let of =
        |segment| -> Vec<Address> { scan_from(&config, segment, 0).map(|f| f.address).collect() };
    assert_eq!(of(0), [address(0, 1, 0)]);
    let behind = [address(0, 2, 0), address(1, 5, 0)].map(|a| a.with_segment(3));
    assert_eq!(of(3), behind);
    assert_eq!(of(1), []);
}

#[test]
fn behind_a_bridge_that_nobody_numbered_nothing_is_looked_for() {
    let config = FakeConfig::default();
    config.add(address(0, 0, 0), FakeFunction::qemu(0x1041));
    config.add(address(0x80, 0, 0), bridge(0));
    // Bus 0 belongs to another host bridge.
    assert_eq!(scan_from(&config, 0, 0x80).count(), 1);
}

#[test]
fn bridges_are_followed_on_every_function_of_a_device() {
    let config = FakeConfig::default();
    for function in 0..8 {
        let mut bridge = bridge(10 + function);
        bridge.space[0xe] = 0x81;
        config.add(address(0, 3, function), bridge);
        config.add(address(10 + function, 0, 0), FakeFunction::qemu(0x1041));
    }
    assert_eq!(scan(&config).count(), 16);
}

#[test]
fn bug_class_43_bridges_that_point_at_themselves_or_upward_are_followed_once() {
    let config = FakeConfig::default();
    config.add(address(0, 0, 0), bridge(1));
    config.add(address(1, 0, 0), bridge(1)); // itself
    config.add(address(1, 1, 0), bridge(0)); // the root
    config.add(address(1, 2, 0), bridge(2));
    config.add(address(2, 0, 0), bridge(1)); // its parent
    config.add(address(2, 1, 0), bridge(255));
    config.add(address(255, 31, 0), bridge(255));
    assert_eq!(scan(&config).count(), 7);
    assert!(*config.reads.borrow() < 4 * 32 * 8 + 7 * 6);
}

/// Headers made of a seed: bridges to anywhere, on any bus.
struct Arbitrary {
    seed: u64,
    density: u64,
    reads: Cell<u32>,
}

// SAFETY: this is the machine, made up, and no registers are behind it but those of fakes.
unsafe impl ConfigAccess for Arbitrary {
    fn read32(&self, at: Address, register: u16) -> u32 {
        self.reads.set(self.reads.get() + 1);
        let place = u64::from(at.bus()) << 16
            | u64::from(at.device()) << 11
            | u64::from(at.function()) << 8
            | u64::from(register);
        let mixed = (place ^ self.seed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(23);
        let noise = mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32;
        match register {
            0 if noise % 8 >= self.density => !0,
            0xc => 0x0001_0000 | (noise as u32 & 0x0080_0000),
            _ => noise as u32,
        }
    }
    fn write32(&self, _: Address, _: u16, _: u32) {
        panic!("a scan writes nothing");
    }
    fn write16(&self, _: Address, _: u16, _: u16) {
        panic!("a scan writes nothing");
    }
    fn write8(&self, _: Address, _: u16, _: u8) {
        panic!("a scan writes nothing");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 1 } else { 32 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn bug_class_43_no_tree_of_bridges_makes_a_scan_long(
        seed in any::<u64>(),
        density in 0u64..=8,
        roots in proptest::collection::vec(any::<u8>(), 0..4),
    ) {
        let config = Arbitrary { seed, density, reads: Cell::new(0) };
        let found: Vec<Address> = scan_roots(&config, 0, roots).map(|f| f.address).collect();
        let mut once = found.clone();
        once.sort();
        once.dedup();
        prop_assert_eq!(once.len(), found.len(), "a function is found twice");
        // Six registers of a function at most.
        prop_assert!(config.reads.get() <= 256 * 32 * 8 * 6);
        prop_assert!(scan_buses(&config, 0, 3..=4).count() <= 2 * 32 * 8);
    }
}
