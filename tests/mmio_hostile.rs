//! Registers that read as anything at any time: no panic, no endless wait, no access outside of the
//! window, and no driver that starts on nonsense without an error or a way back.

#[path = "support/forged.rs"]
mod forged;
#[path = "support/net.rs"]
mod wire;

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use vring::device::net::Driver;
use vring::testing::InPlace;
use vring::transport::mmio::MmioTransport;
use vring::transport::{Doorbell, Isr, Register, RegisterAccess, Registers};

use forged::{drive, value};
use wire::{Buffer, options};

/// What the next register reads as.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// What was written to it last, or what a device has there that offers everything.
    Sound,
    Anything(u32),
}

/// Registers that answer as a list says, whichever they are, but for the first three.
#[derive(Clone)]
struct Noise(Arc<Mutex<Numbers>>);

#[derive(Debug)]
struct Numbers {
    identity: [u32; 3],
    answers: Vec<Answer>,
    /// By offset, and by the queue that was selected.
    written: BTreeMap<(usize, u32), u32>,
    selected: u32,
    next: usize,
    base: usize,
    len: usize,
}

impl Numbers {
    fn queue(&self, at: usize) -> u32 {
        if at == 0x40 || at == 0x44 {
            self.selected
        } else {
            0
        }
    }
}

impl Noise {
    fn check(numbers: &Numbers, address: usize, width: usize) -> usize {
        let at = address.wrapping_sub(numbers.base);
        assert!(
            at < numbers.len && at + width <= numbers.len,
            "{width} bytes at {at:#x}"
        );
        assert_eq!(at % width, 0);
        assert!(width == 4 || at >= 0x100);
        assert!(numbers.next < 100_000, "a wait that does not end");
        at
    }

    fn read(&self, address: usize, width: usize) -> u32 {
        let mut numbers = self.0.lock().unwrap();
        let at = Self::check(&numbers, address, width);
        if let Some(&value) = numbers.identity.get(at / 4) {
            return value;
        }
        numbers.next += 1;
        let sound = match at {
            0x10 => u32::MAX,
            0x34 => 256,
            0x100.. => 0x0404_0404,
            _ => {
                let place = (at, numbers.queue(at));
                numbers.written.get(&place).copied().unwrap_or(0)
            }
        };
        match numbers.answers[numbers.next % numbers.answers.len()] {
            Answer::Sound => sound,
            Answer::Anything(value) => value,
        }
    }

    fn write(&self, address: usize, width: usize, value: u32) {
        let mut numbers = self.0.lock().unwrap();
        let at = Self::check(&numbers, address, width);
        match (at, value) {
            (0x30, queue) => numbers.selected = queue,
            (0x70, 0) => numbers.written.clear(),
            _ => {}
        }
        let place = (at, numbers.queue(at));
        numbers.written.insert(place, value);
    }
}

// SAFETY: this is the device, a hostile one that uses no memory.
unsafe impl RegisterAccess for Noise {
    fn read8(&self, at: Register<u8>) -> u8 {
        self.read(at.address(), 1) as u8
    }
    fn read16(&self, at: Register<u16>) -> u16 {
        self.read(at.address(), 2) as u16
    }
    fn read32(&self, at: Register<u32>) -> u32 {
        self.read(at.address(), 4)
    }
    fn write8(&self, at: Register<u8>, value: u8) {
        self.write(at.address(), 1, value.into());
    }
    fn write16(&self, at: Register<u16>, value: u16) {
        self.write(at.address(), 2, value.into());
    }
    fn write32(&self, at: Register<u32>, value: u32) {
        self.write(at.address(), 4, value);
    }
    fn doorbell(&self, _: Register<u16>, _: u16) -> Doorbell {
        panic!("over MMIO a doorbell has 32 bits");
    }
    fn doorbell_with_data(&self, at: Register<u32>, value: u16) -> Doorbell {
        self.doorbell32(at, value).with_data()
    }
    fn doorbell32(&self, at: Register<u32>, value: u16) -> Doorbell {
        Self::check(&self.0.lock().unwrap(), at.address(), 4);
        Doorbell::function(|_, _| {}, 0, value)
    }
    fn isr(&self, _: Register<u8>) -> Isr {
        panic!("over MMIO the interrupt status has 32 bits");
    }
    fn isr_pair(&self, _: Register<u32>, _: Register<u32>) -> Isr {
        let read = |context| context as u32;
        let write = |_, value| assert!(value & !3 == 0 && value != 0);
        Isr::functions(read, write, 0xffff_fffe, 0)
    }
}

fn numbers() -> impl Strategy<Value = Numbers> {
    let identity = prop_oneof![
        9 => prop_oneof![Just(1u32), Just(2)].prop_map(|version| [0x7472_6976, version, 1]),
        1 => [value(), value(), value()],
    ];
    let len = prop_oneof![8 => Just(0x200usize), 1 => 0usize..0x200];
    let answer = prop_oneof![
        9 => Just(Answer::Sound),
        1 => value().prop_map(Answer::Anything),
    ];
    let answers = proptest::collection::vec(answer, 1..24);
    (identity, len, answers).prop_map(|(identity, len, answers)| Numbers {
        identity,
        answers,
        written: BTreeMap::new(),
        selected: 0,
        next: 0,
        base: 0,
        len,
    })
}

/// What stands for the registers, and how they are reached.
fn window(memory: &mut [u64], mut numbers: Numbers) -> (Registers, Noise) {
    let base = NonNull::new(memory.as_mut_ptr().cast::<u8>()).unwrap();
    numbers.base = base.addr().get();
    // SAFETY: memory of that length, whose bytes nobody uses.
    let registers = unsafe { Registers::new(base, numbers.len) };
    (registers, Noise(Arc::new(Mutex::new(numbers))))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 2000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn bug_class_41_and_43_no_registers_make_the_transport_panic_or_run_for_ever(
        numbers in numbers(),
        features in any::<u128>(),
    ) {
        let mut memory = [0; 0x200 / 8];
        let (registers, noise) = window(&mut memory, numbers);
        if let Ok(Some(transport)) = MmioTransport::with_access(registers, noise) {
            prop_assert!(drive(transport, features));
        }
    }

    #[test]
    fn bug_class_43_no_registers_make_a_driver_panic_or_wait_for_ever(numbers in numbers()) {
        let mut memory = [0; 0x200 / 8];
        let (registers, noise) = window(&mut memory, numbers);
        let platform = InPlace::new();
        platform.set_patience(20);
        if let Ok(Some(transport)) = MmioTransport::with_access(registers, noise) {
            let driver = Driver::<_, _, Buffer>::new(platform.clone(), transport, options(4, 4));
            match driver {
                Ok(driver) => drop(driver.shutdown(|_, _| ())),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
}

/// The properties above would hold of a transport that refuses everything: not all are refused, and
/// most drivers start.
#[test]
#[cfg_attr(miri, ignore = "counts, and does nothing that the properties do not")]
fn arbitrary_registers_are_not_all_refused() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let platform = InPlace::new();
    platform.set_patience(20);
    let (mut accepted, mut started) = (0, 0);
    for _ in 0..300 {
        let numbers = numbers().new_tree(&mut runner).unwrap().current();
        let mut memory = [0; 0x200 / 8];
        let (registers, noise) = window(&mut memory, numbers);
        let transport = MmioTransport::with_access(registers, noise);
        let Ok(Some(transport)) = transport else {
            continue;
        };
        accepted += 1;
        let driver = Driver::<_, _, Buffer>::new(platform.clone(), transport, options(4, 4));
        if let Ok(driver) = driver {
            started += 1;
            drop(driver.shutdown(|_, _| ()));
        }
    }
    assert!((150..290).contains(&accepted), "{accepted} of 300");
    assert!((20..accepted).contains(&started), "{started} drivers");
}
