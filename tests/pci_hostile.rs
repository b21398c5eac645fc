//! Arbitrary configuration spaces and arbitrary registers: no panic, no endless walk, no access
//! outside of what was mapped.

#[path = "support/forged.rs"]
mod forged;
mod pci_support;

use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use forged::{drive, value};
use pci_support::arbitrary::{Arbitrary, almost_right, here, space};
use proptest::prelude::*;
use vring::transport::pci::{
    Bar, BarWindow, Capabilities, LegacyTransport, Message, Nowhere, PciTransport, Window,
    assign_bars, scan,
};
use vring::transport::{Native, Registers};

/// What 64 bytes of registers hold.
fn registers() -> impl Strategy<Value = Vec<u64>> {
    let word = (value(), value()).prop_map(|(low, high)| u64::from(high) << 32 | u64::from(low));
    proptest::collection::vec(word, 8)
}

/// Memory in the place of registers: what the device answers is whatever is in it.
#[derive(Default)]
struct Arena(Vec<Vec<u64>>);

impl Arena {
    /// Room for what a transport maps; more than that is not mapped, as a kernel may decide.
    fn map(&mut self, noise: &[u64], len: usize) -> Option<Registers> {
        let words = len.div_ceil(8);
        if words > 1 << 13 {
            return None;
        }
        self.0
            .push(noise.iter().copied().cycle().take(words).collect());
        let base = NonNull::new(self.0.last_mut()?.as_mut_ptr().cast())?;
        // SAFETY: memory of at least that length; the vector is not touched again, and outlives
        // the transport, which was made after it.
        Some(unsafe { Registers::new(base, len) })
    }
}

/// By its memory only, with MSI-X.
fn drive_memory(config: &Arbitrary, noise: &[u64], features: u128) {
    let mut arena = Arena::default();
    let mut map = |_: u64, len: usize| arena.map(noise, len);
    let Ok(mut transport) = PciTransport::new(config, here(), &mut map) else {
        return;
    };
    let table = transport.enable_msix(config, &mut map);
    if let Ok(mut table) = table {
        let last = table.len() - 1;
        // SAFETY: there is no device that would write anywhere.
        let message = unsafe { Message::new(0xfee0_0000, 0x40) };
        let _ = table.set(last, message);
        let _ = table.unmask(last);
    }
    drive(transport, features);
}

/// By its ports, the memory not being mapped.
fn drive_ports(config: &Arbitrary, noise: &[u64], features: u128) {
    let mut arena = Arena::default();
    let ports = |_: u32, len: usize| arena.map(noise, len);
    let transport = PciTransport::with_ports(config, here(), Native, |_, _| None, ports);
    if let Ok(transport) = transport {
        drive(transport, features);
    }
}

/// By its legacy interface.
fn drive_legacy(config: &Arbitrary, noise: &[u64], features: u128) {
    let mut arena = Arena::default();
    let ports = |_: u32, len: usize| arena.map(noise, len);
    if let Ok(transport) = LegacyTransport::new(config, here(), ports) {
        drive(transport, features);
    }
}

/// Through its window: every register is what configuration space holds at the data.
fn drive_window(config: &'static Arbitrary, features: u128) -> bool {
    // SAFETY: nobody else uses this device.
    let window = unsafe { Window::new(config, here()) };
    let window = Box::leak(Box::new(window));
    let none = |_, _| None::<Nowhere>;
    let transport = PciTransport::with_window(window, Native, |_, _| None, none);
    transport
        .map(|transport| drive(transport, features))
        .is_ok()
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
        prop_assert!(scan(&config).count() <= 1 || config.accesses.load(Ordering::Relaxed) < 1_000_000);
        prop_assert!(Capabilities::new(&config, here()).count() <= 48);
        for bar in 0..=7 {
            let _ = Bar::read(&config, here(), bar);
        }
        drive_memory(&config, &noise, features);
        drive_ports(&config, &noise, features);
        drive_legacy(&config, &noise, features);
        let mut windows = [BarWindow::memory(0x4000_0000, 1 << 40), BarWindow::io(1, !0)];
        let _ = assign_bars(&config, here(), &mut windows);
        drive_window(Box::leak(Box::new(config)), features);
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

/// Nor is every device refused that can only be reached through its window.
#[test]
#[cfg_attr(miri, ignore = "counts, and does nothing that the property does not")]
fn arbitrary_windows_are_not_all_refused() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let accepted = (0..300).filter(|_| {
        let config = almost_right().new_tree(&mut runner).unwrap().current();
        drive_window(Box::leak(Box::new(config)), 1 << 32)
    });
    let accepted = accepted.count();
    assert!((50..250).contains(&accepted), "{accepted} of 300");
}
