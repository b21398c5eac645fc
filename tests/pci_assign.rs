//! BARs that firmware left without an address.

mod pci_support;

use pci_support::config::{COMMAND, IO, MEMORY};
use pci_support::{Fake, FakeConfig, FakeFunction, at, open};
use proptest::prelude::*;
use vring::transport::pci::{
    AssignError, Bar, BarError, BarWindow, PciError, assign_bars, avoid_bars,
};

const GIB: u64 = 1 << 30;

fn memory(config: &FakeConfig, bar: u8) -> (u64, u64) {
    match Bar::read(config, at(), bar) {
        Ok(Bar::Memory { address, size, .. }) => (address, size),
        other => panic!("BAR {bar}: {other:?}"),
    }
}

/// A function as QEMU makes it, and no firmware.
fn unassigned() -> FakeConfig {
    let function = FakeFunction::qemu(0x1041)
        .memory_bar(1, 0, 0x1000)
        .memory_bar64(4, 0, 0x4000);
    FakeConfig::with(at(), function)
}

#[test]
fn bug_class_67_a_device_without_firmware_is_found_once_its_bars_are_assigned() {
    let (config, fake) = (unassigned(), Fake::new());
    assert!(matches!(open(&config, &fake), Err(PciError::Bar { .. })));
    let mut windows = [
        BarWindow::memory(0x1000_0000, 0x2eff_0000),
        BarWindow::memory(0x80_0000_0000, 512 * GIB),
    ];
    assert_eq!(assign_bars(&config, at(), &mut windows), Ok(2));
    assert_eq!(
        memory(&config, 1),
        (0x1000_0000, 0x1000),
        "32 bits: below 4 GiB"
    );
    assert_eq!(
        memory(&config, 4),
        (0x80_0000_0000, 0x4000),
        "64 bits: above"
    );
    open(&config, &fake).unwrap();
    // A second function goes behind the first.
    let next = vring::transport::pci::Address::new(0, 4, 0).unwrap();
    config.add(next, unassigned().function(at()));
    assert_eq!(assign_bars(&config, next, &mut windows), Ok(2));
    let bar = Bar::read(&config, next, 1);
    assert!(
        matches!(
            bar,
            Ok(Bar::Memory {
                address: 0x1000_1000,
                ..
            })
        ),
        "{bar:?}"
    );
    let bar = Bar::read(&config, next, 4);
    assert!(
        matches!(
            bar,
            Ok(Bar::Memory {
                address: 0x80_0000_4000,
                ..
            })
        ),
        "{bar:?}"
    );
}

#[test]
fn bug_class_67_assigning_is_done_with_decoding_off_and_the_command_is_put_back() {
    for command in [0, IO | MEMORY, 0x407] {
        let config = unassigned();
        let mut function = config.function(at());
        function.put16(4, command);
        config.add(at(), function);
        // The configuration space refuses BAR writes while decoding is on.
        let mut windows = [BarWindow::memory(GIB, GIB)];
        assert_eq!(assign_bars(&config, at(), &mut windows), Ok(2));
        assert_eq!(config.function(at()).command(), command);
        let writes = config.writes.borrow();
        assert!(
            writes
                .iter()
                .all(|w| w.0 == COMMAND || (0x10..0x28).contains(&w.0))
        );
    }
}

#[test]
fn a_bar_that_has_an_address_keeps_it_and_nothing_is_laid_over_it() {
    let function = FakeFunction::new(0x1af4, 0x1041)
        .memory_bar(0, 0x4000_0000, 0x1000)
        .memory_bar(1, 0, 0x1000)
        .io_bar(2, 0xc000, 32)
        .io_bar(3, 0, 32);
    let config = FakeConfig::with(at(), function);
    let mut windows = [BarWindow::memory(GIB, GIB), BarWindow::io(0xc000, 0x4000)];
    avoid_bars(&config, at(), &mut windows);
    assert_eq!(
        windows.map(|window| window.left()),
        [GIB - 0x1000, 0x4000 - 32]
    );
    assert_eq!(assign_bars(&config, at(), &mut windows), Ok(2));
    assert_eq!(memory(&config, 0).0, 0x4000_0000);
    assert_eq!(memory(&config, 1).0, 0x4000_1000);
    let io = |bar| Bar::read(&config, at(), bar);
    assert_eq!(
        io(2),
        Ok(Bar::Io {
            port: 0xc000,
            size: 32
        })
    );
    assert_eq!(
        io(3),
        Ok(Bar::Io {
            port: 0xc020,
            size: 32
        })
    );
    assert_eq!(
        assign_bars(&config, at(), &mut windows),
        Ok(0),
        "all of them have one"
    );
}

#[test]
fn bug_class_67_no_bar_is_laid_over_another_of_its_own_function() {
    let function = FakeFunction::new(0x1af4, 0x1041)
        .memory_bar(0, 0, 0x1000)
        .memory_bar(1, 0x4000_0000, 0x1000)
        .io_bar(2, 0xc000, 32)
        .io_bar(3, 0, 32);
    let config = FakeConfig::with(at(), function);
    // Nobody called `avoid_bars`: what the function has already is its own business.
    let mut windows = [BarWindow::memory(GIB, GIB), BarWindow::io(0xc000, 0x4000)];
    assert_eq!(assign_bars(&config, at(), &mut windows), Ok(2));
    assert_eq!(memory(&config, 0).0, 0x4000_1000);
    let (port, size) = (0xc020, 32);
    assert_eq!(Bar::read(&config, at(), 3), Ok(Bar::Io { port, size }));
    // Nor are they handed out to the next one.
    let left = windows.map(|window| window.left());
    assert_eq!(left, [GIB - 0x2000, 0x4000 - 64]);
}

/// A bridge has two BARs, and behind them the numbers of its buses: as a BAR, they would be written.
#[test]
fn bug_class_67_of_a_bridge_nothing_is_probed_but_its_two_bars() {
    let mut bridge = FakeFunction::new(0x1b36, 0x000c).memory_bar(0, 0x4000_0000, 0x1000);
    bridge.space[0xe] = 0x81;
    bridge.put32(0x18, 0x0003_0100).put32(0x20, 0x4ff0_4000);
    let config = FakeConfig::with(at(), bridge);
    // Configuration space stops the test when a register that is no BAR is written as one.
    let mut windows = [BarWindow::memory(GIB, GIB)];
    avoid_bars(&config, at(), &mut windows);
    assert_eq!(windows[0].left(), GIB - 0x1000);
    assert!(Bar::read(&config, at(), 0).is_ok());
    for bar in 2..6 {
        let none = Err(BarError::Reserved { bar });
        assert_eq!(Bar::read(&config, at(), bar), none);
    }
    // Nobody knows what the registers are of a header that is of neither kind.
    let mut other = config.function(at());
    other.space[0xe] = 3;
    config.add(at(), other);
    let none = Err(BarError::Reserved { bar: 0 });
    assert_eq!(Bar::read(&config, at(), 0), none);
}

#[test]
fn bug_class_67_a_bar_of_64_bits_has_no_upper_half_behind_the_last_bar_of_a_bridge() {
    let mut bridge = FakeFunction::new(0x1b36, 0x000c).bar(1, 0x4, !0xfff);
    bridge.space[0xe] = 1;
    let config = FakeConfig::with(at(), bridge);
    let none = Err(BarError::NoUpperHalf { bar: 1 });
    assert_eq!(Bar::read(&config, at(), 1), none);
}

#[test]
fn of_what_a_bar_cuts_in_two_the_larger_side_stays() {
    let bar = |address, size| Bar::Memory {
        address,
        size,
        prefetchable: false,
    };
    let left = |bar| {
        let mut window = BarWindow::memory(0x1000, 0x9000);
        window.avoid(bar);
        window.left()
    };
    assert_eq!(left(bar(0x2000, 0x1000)), 0x7000);
    assert_eq!(left(bar(0x8000, 0x1000)), 0x7000);
    assert_eq!(left(bar(0, 0x1000)), 0x9000, "before it");
    assert_eq!(left(bar(0xa000, 0x1000)), 0x9000, "behind it");
    assert_eq!(left(bar(0, 0x1_0000)), 0, "all of it");
    assert_eq!(left(bar(u64::MAX - 0xfff, 0x1000)), 0x9000);
    assert_eq!(
        left(Bar::Io {
            port: 0x2000,
            size: 0x1000
        }),
        0x9000,
        "another space"
    );
}

#[test]
fn each_kind_of_bar_goes_where_pci_allows_it() {
    let function = FakeFunction::new(0x1af4, 0x1041)
        .memory_bar64(0, 0, 0x1_0000) // 64 bits, prefetchable
        .bar(2, 0x8, !0xffff) // 32 bits, prefetchable
        .bar(3, 0, !0xffff) // 32 bits
        .bar(4, 0x4, !0xffff) // 64 bits
        .bar(5, 0, !0);
    let config = FakeConfig::with(at(), function);
    let low = BarWindow::memory(GIB, GIB);
    let low_prefetchable = BarWindow::prefetchable(2 * GIB, GIB);
    let high = BarWindow::memory(16 * GIB, GIB);
    let high_prefetchable = BarWindow::prefetchable(32 * GIB, GIB);
    let mut windows = [low, high, low_prefetchable, high_prefetchable];
    assert_eq!(assign_bars(&config, at(), &mut windows), Ok(4));
    let places = [0, 2, 3, 4].map(|bar| memory(&config, bar).0);
    assert_eq!(places, [32 * GIB, 2 * GIB, GIB, 16 * GIB]);
}

#[test]
fn without_the_best_window_the_next_best_is_used_and_never_a_wrong_one() {
    let wide = || FakeFunction::new(0x1af4, 0x1041).memory_bar64(0, 0, 0x1_0000);
    let narrow = || FakeFunction::new(0x1af4, 0x1041).memory_bar(0, 0, 0x1_0000);
    let io = || FakeFunction::new(0x1af4, 0x1041).io_bar(0, 0, 0x20);
    let short_io = || FakeFunction::new(0x1af4, 0x1041).bar(0, 1, 0xffe0);
    let place = |function: FakeFunction, window| {
        let config = FakeConfig::with(at(), function);
        assign_bars(&config, at(), &mut [window]).map(|_| config.function(at()).get32(0x10) & !0xf)
    };
    // A prefetchable BAR may be in any memory; any other only in such memory.
    assert_eq!(place(wide(), BarWindow::memory(GIB, GIB)), Ok(GIB as u32));
    assert_eq!(place(narrow(), BarWindow::memory(GIB, GIB)), Ok(GIB as u32));
    let size = 0x1_0000;
    let refused = |function, window| match place(function, window) {
        Err(AssignError::NoRoom { bar: 0, size, .. }) => size,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(narrow(), BarWindow::prefetchable(GIB, GIB)), size);
    assert_eq!(refused(narrow(), BarWindow::memory(16 * GIB, GIB)), size);
    assert_eq!(refused(narrow(), BarWindow::io(0x1000, 0x2_0000)), size);
    assert_eq!(
        refused(narrow(), BarWindow::memory(GIB, 0xffff)),
        size,
        "too small"
    );
    // A window across 4 GiB has room, but not where the BAR can be.
    assert_eq!(
        refused(narrow(), BarWindow::memory(4 * GIB - 0x8000, GIB)),
        size
    );
    assert_eq!(refused(io(), BarWindow::memory(GIB, GIB)), 0x20);
    assert_eq!(place(io(), BarWindow::io(0x1_0000, 0x1000)), Ok(0x1_0000));
    assert_eq!(refused(short_io(), BarWindow::io(0x1_0000, 0x1000)), 0x20);
    assert_eq!(place(short_io(), BarWindow::io(0xffe0, 0x20)), Ok(0xffe0));
    assert_eq!(
        refused(narrow(), BarWindow::memory(GIB, 0)),
        size,
        "an empty window"
    );
}

#[test]
fn addresses_are_multiples_of_the_size_and_never_0() {
    let function = FakeFunction::new(0x1af4, 0x1041)
        .memory_bar(0, 0, 0x1000)
        .memory_bar(1, 0, 0x10_0000);
    let config = FakeConfig::with(at(), function);
    let mut windows = [BarWindow::memory(0, GIB)];
    assign_bars(&config, at(), &mut windows).unwrap();
    assert_eq!(
        [0, 1].map(|bar| memory(&config, bar).0),
        [0x1000, 0x10_0000]
    );
}

#[test]
fn when_one_bar_does_not_fit_none_is_assigned_and_the_windows_are_as_before() {
    let config = unassigned();
    let before = config.function(at()).space;
    let mut windows = [BarWindow::memory(GIB, 0x2000)];
    let saved = windows;
    let error = assign_bars(&config, at(), &mut windows).unwrap_err();
    let AssignError::NoRoom {
        bar: 4,
        size: 0x4000,
        needs,
    } = error
    else {
        panic!("{error:?}")
    };
    assert_eq!(needs, "memory");
    assert!(error.to_string().contains("BAR 4 needs 0x4000"), "{error}");
    assert_eq!(windows, saved);
    assert!(config.function(at()).space == before);
}

#[test]
fn a_device_that_does_not_take_an_address_is_refused_and_left_without() {
    // Sized as 4 KiB, and yet it cannot hold the upper bits.
    let function = FakeFunction::new(0x1af4, 0x1041).bar(0, 0, 0x00ff_f000);
    let config = FakeConfig::with(at(), function);
    let mut windows = [BarWindow::memory(GIB + 0x5000, GIB)];
    let saved = windows;
    let not_taken = AssignError::NotTaken {
        bar: 0,
        address: GIB + 0x5000,
        got: 0x5000,
    };
    assert_eq!(assign_bars(&config, at(), &mut windows), Err(not_taken));
    assert_eq!(config.function(at()).get32(0x10), 0);
    assert_eq!(windows, saved);
}

#[test]
fn what_has_no_such_bars_is_refused_by_name() {
    let address = at();
    let windows = &mut [BarWindow::memory(GIB, GIB)];
    let nothing = assign_bars(&FakeConfig::default(), address, windows);
    assert_eq!(nothing, Err(AssignError::NoFunction { address }));
    let mut bridge = FakeFunction::new(0x1b36, 0xc);
    bridge.space[0xe] = 1;
    let config = FakeConfig::with(at(), bridge);
    let refused = assign_bars(&config, address, windows);
    assert_eq!(refused, Err(AssignError::HeaderType { header_type: 1 }));
    let odd = FakeFunction::new(0x1af4, 0x1041).bar(3, 2, !0xfff);
    let config = FakeConfig::with(at(), odd);
    let (bar, value) = (3, 2);
    let error = AssignError::Bar(BarError::MemoryType { bar, value });
    assert_eq!(assign_bars(&config, address, windows), Err(error));
}

fn any_window() -> impl Strategy<Value = BarWindow> {
    let edge = || prop_oneof![any::<u64>(), 0u64..0x2000, Just(u64::MAX), Just(1 << 32)];
    prop_oneof![
        (edge(), edge()).prop_map(|(first, len)| BarWindow::memory(first, len)),
        (edge(), edge()).prop_map(|(first, len)| BarWindow::prefetchable(first, len)),
        (any::<u32>(), any::<u32>()).prop_map(|(first, len)| BarWindow::io(first, len)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 2000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// What had an address keeps it, whatever BARs and windows there are.
    #[test]
    fn assigned_bars_are_aligned_and_apart(
        bars in proptest::collection::vec((0u32..16, 12u32..31, any::<bool>()), 6),
        windows in proptest::collection::vec(any_window(), 0..4),
    ) {
        let mut function = FakeFunction::new(0x1af4, 0x1041);
        for (bar, (kind, bits, assigned)) in bars.into_iter().enumerate() {
            let value = if assigned { 0x8000_0000 } else { 0 };
            function = function.bar(bar, value | kind, !0 << bits);
        }
        let config = FakeConfig::with(at(), function);
        let bars = || (0..6).map(|bar| Bar::read(&config, at(), bar));
        let range = |bar: &Bar| match *bar {
            Bar::Memory { address, size, .. } => (false, address, address + (size - 1)),
            Bar::Io { port, size } => (true, port.into(), u64::from(port) + u64::from(size - 1)),
        };
        let before: Vec<_> = bars().collect();
        let mut windows = windows;
        avoid_bars(&config, at(), &mut windows);
        let mut left = windows.clone();
        let outcome = assign_bars(&config, at(), &mut left);
        let after: Vec<_> = bars().collect();
        if outcome.is_err() {
            prop_assert_eq!(&before, &after);
            prop_assert_eq!(&windows, &left);
        }
        let mut taken: Vec<_> = before.iter().flatten().map(range).collect();
        let mut new = 0;
        for (before, after) in before.iter().zip(&after) {
            if before.is_ok() {
                prop_assert_eq!(before, after);
                continue;
            }
            let Ok(bar) = after else { continue };
            let (io, first, last) = range(bar);
            prop_assert_ne!(first, 0);
            prop_assert_eq!(first & (last - first), 0, "a multiple of the size");
            for &(other_io, other_first, other_last) in &taken {
                let apart = io != other_io || last < other_first || other_last < first;
                prop_assert!(apart, "{first:#x} and {other_first:#x}");
            }
            taken.push((io, first, last));
            new += 1;
        }
        prop_assert_eq!(outcome.unwrap_or(0), new);
    }
}
