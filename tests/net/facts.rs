//! What the driver reads of its device's configuration, and what it refuses: bug classes 40 to 42.

use vring::device::net::{Driver, F, Options};
use vring::features::{Feature, Features};
use vring::init::InitFailure;
use vring::testing::{Event, Generation, InPlace};
use vring::transport::{Status, TransportError};

use super::refused;
use crate::wire::{Buffer, HEADER, MAC, OFFERED, configuration, device, driver};

/// Defends: FE-006, CF-003, CF-005.
#[test]
fn bug_class_42_facts_are_read_only_with_their_feature() {
    let gates = [F::MAC, F::STATUS, F::MTU];
    for set in 0..8 {
        let has = |i: usize| set >> i & 1 == 1;
        let features = (0..3)
            .filter(|&i| has(i))
            .fold(Features::of(&[Feature::VERSION_1]), |all, i| {
                all.with(gates[i])
            });
        // No byte more than the fields that exist, and nonsense in those that do not.
        let len = [0, 6, 8, 12]
            [if has(2) { 3 } else { usize::from(has(1)) * 2 }.max(usize::from(has(0)))];
        let mut config = vec![0; 12];
        if has(0) {
            config[..6].copy_from_slice(&MAC);
        }
        if has(2) {
            config[10..].copy_from_slice(&1400_u16.to_le_bytes());
        }
        config.truncate(len);
        let platform = InPlace::new();
        let device = device(&platform, features, 0).config(&config);
        let mut driver = driver(&platform, &device, 8, 8);
        assert_eq!(driver.control().mac(), has(0).then_some(MAC));
        assert_eq!(driver.control().mtu(), has(2).then_some(1400));
        assert_eq!(
            driver.control().link_up(),
            Ok(!has(1)),
            "the bit is 0, where it is"
        );
        assert_eq!(driver.control().features(), features);
        drop(driver);
        device.assert_clean();
        platform.assert_no_leaks();
    }
}

#[test]
fn bug_class_41_an_mtu_below_68_is_a_typed_error() {
    let platform = InPlace::new();
    for mtu in [0, 1, 67] {
        let device = device(&platform, OFFERED, mtu);
        let value = u64::from(mtu);
        let expected = InitFailure::Configuration {
            field: "mtu",
            value,
        };
        assert_eq!(refused(&platform, &device, Options::default()), expected);
        let failed =
            |event: &Event| matches!(event, Event::Status(s) if s.contains(Status::FAILED));
        assert!(device.events().iter().any(failed), "the device was told");
        // Who does not ask is not told.
        let mut without = Options::default();
        without.refuse = F::MTU.into();
        let driver = Driver::<_, _, Buffer>::new(platform.clone(), device.transport(), without);
        assert_eq!(driver.unwrap().control().mtu(), None);
    }
    for mtu in [68, 1500, 9000, 65_535] {
        let device = device(&platform, OFFERED, mtu);
        let mut driver = driver(&platform, &device, 8, 8);
        assert_eq!(driver.control().mtu(), Some(mtu));
        assert_eq!(
            driver.rx().buffer_len(),
            HEADER + usize::from(mtu).max(1500) + 14
        );
    }
    platform.assert_no_leaks();
}

#[test]
fn bug_class_42_a_configuration_that_is_too_short_is_a_typed_error() {
    let platform = InPlace::new();
    for len in 0..12 {
        let config = &configuration(1, 1500)[..len];
        let device = device(&platform, OFFERED, 0).config(config);
        let why = refused(&platform, &device, Options::default());
        let expected = match len {
            0..6 => (len, 1),
            _ => (10, 2),
        };
        let InitFailure::Transport(TransportError::ConfigOutOfRange {
            offset,
            len: l,
            size,
        }) = why
        else {
            panic!("{why:?}");
        };
        assert_eq!(((offset, l), size), (expected, len));
    }
}

#[test]
fn bug_class_41_a_generation_that_never_settles_ends_in_an_error() {
    let platform = InPlace::new();
    let device = device(&platform, OFFERED, 1500).generation(Generation::NeverSettles);
    let why = refused(&platform, &device, Options::default());
    assert_eq!(why, InitFailure::Transport(TransportError::ConfigUnstable));
}

/// Defends: CF-001, CF-002.
#[test]
fn bug_class_40_an_address_that_changes_while_it_is_read_is_read_again() {
    for generation in [Generation::Steady, Generation::Absent] {
        for reads in 0..8 {
            let platform = InPlace::new();
            let device = device(&platform, OFFERED, 1500).generation(generation);
            let mut other = configuration(1, 9000);
            other[..6].copy_from_slice(&[0xa2; 6]);
            // So many accesses go by before the change.
            for _ in 0..reads {
                device.change_config_under_read(&configuration(1, 1500));
            }
            device.change_config_under_read(&other);
            let mut driver = driver(&platform, &device, 8, 8);
            let facts = (driver.control().mac(), driver.control().mtu());
            let (old, new) = ((Some(MAC), Some(1500)), (Some([0xa2; 6]), Some(9000)));
            assert!(facts == old || facts == new, "{facts:?}");
            if generation == Generation::Steady {
                assert_eq!(facts, new);
            }
        }
    }
}

#[test]
fn bug_class_41_the_state_of_the_link_is_followed() {
    let platform = InPlace::new();
    let device = device(&platform, OFFERED, 1500);
    let mut driver = driver(&platform, &device, 8, 8);
    for (status, up) in [(1, true), (0, false), (0xffff, true), (0xfffe, false)] {
        device.change_config(&configuration(status, 1500));
        assert_eq!(driver.control().link_up(), Ok(up));
    }
    device.change_config(&[]);
    assert!(driver.control().link_up().is_err());
    platform.set_patience(5);
    let _device = device.clone().generation(Generation::NeverSettles);
    device.change_config(&configuration(1, 1500));
    assert_eq!(
        driver.control().link_up(),
        Err(TransportError::ConfigUnstable)
    );
}
