//! The orders of both rings under a model checker: `cargo xtask test --only loom`.
//!
//! Each test is a conversation of a driver and a device, a few steps long, that loom plays in every
//! interleaving and with every value that a load may return under the C11 memory model. The driver
//! is the code that runs, from [`Virtqueue`](crate::virtqueue::Virtqueue) down to
//! [`notify`](crate::ring::notify); only the words are loom's. The device is written by the book.
//!
//! Everybody begins *parked*: with no kick or interrupt wanted and event words far away. In memory
//! of zeros each side would begin by asking for everything, and a fence that is missing would never
//! be missed.
//!
//! Every model runs twice: from the beginning of a ring, and from just before its end, where the
//! index of a split ring is 65535 and the wrap counter of a packed ring is about to turn over. What
//! must be seen both ways (a kick that was wanted and one that was not) is counted, so that a model
//! that explores nothing fails. No bound is set on preemptions: these are all interleavings.
//!
//! One thing that loom does not see decides how a model is written: of the loads of a word it
//! remembers the last, so that a thread that loads a word and then stores to it hides that the
//! store could have come before another thread's load. In a packed ring that is what a device does
//! that takes a chain and returns it. So devices that return chains here have taken them before.
//!
//! That the models bite is shown by `tests/mutants.toml`.

pub(crate) mod device;
pub(crate) mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::vec::Vec;

use loom::thread;

use device::{Device, Taken};
use world::{NUM, Setup};

/// Whether something was seen in one run, and its contrary in another.
#[derive(Clone, Default)]
struct Both(Arc<[AtomicBool; 2]>);

impl Both {
    fn see(&self, which: bool) -> bool {
        self.0[usize::from(which)].store(true, Ordering::Relaxed);
        which
    }

    fn assert(&self, what: &str) {
        for (seen, which) in self.0.iter().zip([false, true]) {
            assert!(seen.load(Ordering::Relaxed), "{what} was never {which}");
        }
    }
}

/// Plays a model from both places.
fn check(setup: Setup, model: impl Fn(Setup) + Send + Sync + 'static) {
    let end = if setup.packed { NUM - 1 } else { u16::MAX };
    let model = Arc::new(model);
    for start in [0, end] {
        let model = Arc::clone(&model);
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = None;
        builder.check(move || model(Setup { start, ..setup }));
    }
}

/// Takes what is there.
fn take_all(device: &mut dyn Device) -> Vec<Taken> {
    std::iter::from_fn(|| device.pop()).collect()
}

/// How a batch is submitted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    One,
    Burst,
}

/// The driver publishes a batch and decides whether to kick, while the device runs dry, asks to be
/// kicked, looks again, and sleeps.
fn no_kick_is_lost(setup: Setup, by: By, batch: &'static [usize]) {
    let kicks = Both::default();
    let seen_kicks = kicks.clone();
    check(setup, move |setup| {
        let (mut driver, mut device) = setup.make();
        device.park();
        let device = thread::spawn(move || {
            let mut seen = device.drain();
            device.ask();
            while device.has_work() {
                device.park();
                seen += device.drain();
                device.ask();
            }
            (device, seen)
        });
        match by {
            By::One => batch.iter().for_each(|&pieces| driver.submit(pieces)),
            By::Burst => driver.submit_burst(batch),
        }
        let kicked = kicks.see(driver.kick());
        let (mut device, seen) = device.join().unwrap();
        assert!(
            kicked || seen == batch.len(),
            "the device sleeps on {} of {} chains",
            batch.len() - seen,
            batch.len()
        );
        assert_eq!(seen + device.drain(), batch.len());
        driver.close();
    });
    seen_kicks.assert("a kick");
}

/// Two batches, each with its own decision.
fn no_second_kick_is_lost(setup: Setup) {
    check(setup, move |setup| {
        let (mut driver, mut device) = setup.make();
        device.park();
        let device = thread::spawn(move || {
            let mut seen = device.drain();
            device.ask();
            while device.has_work() {
                device.park();
                seen += device.drain();
                device.ask();
            }
            (device, seen)
        });
        driver.submit(1);
        let first = driver.kick();
        driver.submit(1);
        let second = driver.kick();
        let (mut device, seen) = device.join().unwrap();
        assert!(first || second || seen == 2, "asleep after {seen} of 2");
        assert_eq!(seen + device.drain(), 2);
        driver.close();
    });
}

/// The device returns chains one by one, and decides each time whether to interrupt, while the
/// driver takes what is there, arms, looks again, and sleeps.
fn no_interrupt_is_lost(setup: Setup, chains: usize) {
    let sleeps = Both::default();
    let seen_sleeps = sleeps.clone();
    check(setup, move |setup| {
        let (mut driver, mut device) = setup.make();
        for _ in 0..chains {
            driver.submit(1);
        }
        driver.queue.publish();
        let taken = take_all(&mut *device);
        let device = thread::spawn(move || {
            let mut interrupted = false;
            for chain in taken {
                device.complete(&[chain]);
                interrupted |= device.wants_interrupt();
            }
            interrupted
        });
        let mut reaped = driver.drain();
        while reaped < chains && driver.queue.arm() {
            let more = driver.drain();
            assert!(more > 0, "work raced in, and there is none");
            reaped += more;
        }
        let asleep = sleeps.see(reaped < chains);
        let interrupted = device.join().unwrap();
        assert!(
            !asleep || interrupted,
            "the driver sleeps on {} of {chains} chains",
            chains - reaped
        );
        assert_eq!(reaped + driver.drain(), chains);
        driver.close();
    });
    seen_sleeps.assert("the driver's sleep");
}

/// With four chains under way, the interrupt is asked for at the last of them. Without an event
/// index there is no such thing.
fn no_delayed_interrupt_is_lost(setup: Setup) {
    let sleeps = Both::default();
    let seen_sleeps = sleeps.clone();
    check(setup, move |setup| {
        let (mut driver, mut device) = setup.make();
        for _ in 0..4 {
            driver.submit(1);
        }
        driver.queue.publish();
        let taken = take_all(&mut *device);
        let device = thread::spawn(move || {
            let mut interrupted = false;
            for chain in taken {
                device.complete(&[chain]);
                interrupted |= device.wants_interrupt();
            }
            interrupted
        });
        let asleep = sleeps.see(!driver.queue.arm_delayed());
        let reaped = if asleep { 0 } else { driver.drain() };
        let interrupted = device.join().unwrap();
        assert!(asleep || reaped > 0, "work raced in, and there is none");
        assert!(!asleep || interrupted, "the driver sleeps on 4 chains");
        assert_eq!(reaped + driver.drain(), 4);
        driver.close();
    });
    seen_sleeps.assert("the driver's sleep");
}

/// The device looks while the driver writes, and finds a chain whole or not at all.
fn a_chain_is_seen_whole_or_not_at_all(setup: Setup, batch: &'static [usize]) {
    let sights = Both::default();
    let seen_sights = sights.clone();
    check(setup, move |setup| {
        let (mut driver, mut device) = setup.make();
        let sights = sights.clone();
        let device = thread::spawn(move || {
            let seen = device.drain();
            sights.see(seen > 0);
            (device, seen)
        });
        for &pieces in batch {
            driver.submit(pieces);
        }
        driver.queue.publish();
        let (mut device, seen) = device.join().unwrap();
        assert_eq!(seen + device.drain(), batch.len());
        driver.close();
    });
    seen_sights.assert("the sight of a chain");
}

/// The same, of a burst: all of its chains, or none.
fn a_burst_is_seen_whole_or_not_at_all(setup: Setup, burst: &'static [usize]) {
    let sights = Both::default();
    let seen_sights = sights.clone();
    check(setup, move |setup| {
        let (mut driver, mut device) = setup.make();
        let sights = sights.clone();
        let device = thread::spawn(move || {
            let seen = device.drain();
            sights.see(seen > 0);
            (device, seen)
        });
        driver.submit_burst(burst);
        driver.queue.publish();
        let (mut device, seen) = device.join().unwrap();
        assert!([0, burst.len()].contains(&seen), "{seen} chains of a burst");
        assert_eq!(seen + device.drain(), burst.len());
        driver.close();
    });
    seen_sights.assert("the sight of a burst");
}

/// The driver looks while the device answers, and finds an answer whole or not at all; what was
/// returned is used again at once.
fn an_answer_is_seen_whole_or_not_at_all(setup: Setup, pieces: usize) {
    let sights = Both::default();
    let seen_sights = sights.clone();
    check(setup, move |setup| {
        let (mut driver, mut device) = setup.make();
        driver.submit(pieces);
        driver.queue.publish();
        let first = device.pop().unwrap();
        let device = thread::spawn(move || {
            device.complete(&[first]);
            let second = device.pop();
            let served = if let Some(second) = second {
                device.complete(&[second]);
                2
            } else {
                1
            };
            (device, served)
        });
        let mut reaped = 0;
        for _ in 0..2 {
            if sights.see(driver.reap()) {
                reaped += 1;
                driver.submit(pieces);
                driver.queue.publish();
            }
        }
        let (mut device, served) = device.join().unwrap();
        assert!(reaped <= served);
        while driver.reap() {
            reaped += 1;
        }
        assert_eq!(reaped, served);
        while let Some(taken) = device.pop() {
            device.complete(&[taken]);
            assert!(driver.reap());
        }
        assert!(!driver.reap());
        driver.close();
    });
    seen_sights.assert("the sight of an answer");
}

/// As above, as a burst, of a device that returns one chain after the other.
fn a_burst_takes_whole_answers(setup: Setup, chains: &'static [usize]) {
    let sights = Both::default();
    let seen_sights = sights.clone();
    check(setup, move |setup| {
        let (mut driver, mut device) = setup.make();
        driver.submit_burst(chains);
        driver.queue.publish();
        let taken = take_all(&mut *device);
        let device = thread::spawn(move || {
            for chain in taken {
                device.complete(&[chain]);
            }
        });
        let reaped = driver.drain();
        sights.see(reaped > 0);
        device.join().unwrap();
        assert_eq!(reaped + driver.drain(), chains.len());
        driver.close();
    });
    seen_sights.assert("the sight of an answer");
}

/// A device that uses chains in order returns three of them with one element.
fn a_batch_in_order_is_seen_whole_or_not_at_all(setup: Setup) {
    let sights = Both::default();
    let seen_sights = sights.clone();
    let in_order = true;
    check(Setup { in_order, ..setup }, move |setup| {
        let (mut driver, mut device) = setup.make();
        for pieces in [1, 2, 1] {
            driver.submit(pieces);
        }
        driver.queue.publish();
        let batch = take_all(&mut *device);
        let device = thread::spawn(move || device.complete(&batch));
        let mut reaped = 0;
        if sights.see(driver.reap()) {
            reaped = 1 + driver.drain();
            assert_eq!(reaped, 3, "a batch comes back as one");
        }
        device.join().unwrap();
        assert_eq!(reaped + driver.drain(), 3);
        driver.close();
    });
    seen_sights.assert("the sight of a batch");
}

/// With an indirect table, the chain is one descriptor; its entries are written before it.
fn a_table_is_seen_whole_or_not_at_all(setup: Setup) {
    let tables = true;
    let setup = Setup { tables, ..setup };
    a_chain_is_seen_whole_or_not_at_all(setup, &[3, 1]);
}

macro_rules! models {
    ($($name:ident: $packed:literal, $event_idx:literal { $($more:ident;)* })*) => {$(
        mod $name {
            use super::Setup;

            const SETUP: Setup = Setup {
                packed: $packed,
                event_idx: $event_idx,
                in_order: false,
                tables: false,
                start: 0,
            };

            /// Defends: SP-025, PK-016.
            #[test]
            fn no_kick_is_lost() {
                super::no_kick_is_lost(SETUP, super::By::One, &[1]);
            }

            #[test]
            fn no_kick_is_lost_for_a_chain_of_two() {
                super::no_kick_is_lost(SETUP, super::By::One, &[2]);
            }

            #[test]
            fn no_kick_is_lost_for_a_batch() {
                super::no_kick_is_lost(SETUP, super::By::One, &[1, 2]);
            }

            #[test]
            fn no_kick_is_lost_for_a_burst_of_chains() {
                super::no_kick_is_lost(SETUP, super::By::Burst, &[2]);
            }

            #[test]
            fn no_kick_is_lost_for_a_burst() {
                super::no_kick_is_lost(SETUP, super::By::Burst, &[1, 2]);
            }

            #[test]
            fn no_second_kick_is_lost() {
                super::no_second_kick_is_lost(SETUP);
            }

            #[test]
            fn no_interrupt_is_lost() {
                super::no_interrupt_is_lost(SETUP, 1);
            }

            #[test]
            fn no_interrupt_is_lost_of_two() {
                super::no_interrupt_is_lost(SETUP, 2);
            }

            /// Defends: SP-024, PK-010, PK-015.
            #[test]
            fn a_chain_is_seen_whole_or_not_at_all() {
                super::a_chain_is_seen_whole_or_not_at_all(SETUP, &[2]);
            }

            #[test]
            fn a_batch_is_seen_whole_or_not_at_all() {
                super::a_chain_is_seen_whole_or_not_at_all(SETUP, &[1, 2]);
            }

            /// Defends: SP-024, PK-010, PK-015.
            #[test]
            fn a_burst_is_seen_whole_or_not_at_all() {
                super::a_burst_is_seen_whole_or_not_at_all(SETUP, &[1, 1, 1]);
            }

            #[test]
            fn a_burst_of_chains_is_seen_whole_or_not_at_all() {
                super::a_burst_is_seen_whole_or_not_at_all(SETUP, &[2, 2]);
            }

            #[test]
            fn a_burst_of_any_chains_is_seen_whole_or_not_at_all() {
                super::a_burst_is_seen_whole_or_not_at_all(SETUP, &[1, 2, 1]);
            }

            #[test]
            fn a_table_is_seen_whole_or_not_at_all() {
                super::a_table_is_seen_whole_or_not_at_all(SETUP);
            }

            #[test]
            fn an_answer_is_seen_whole_or_not_at_all() {
                super::an_answer_is_seen_whole_or_not_at_all(SETUP, 1);
            }

            #[test]
            fn an_answer_to_a_chain_is_seen_whole_or_not_at_all() {
                super::an_answer_is_seen_whole_or_not_at_all(SETUP, 3);
            }

            #[test]
            fn a_burst_takes_whole_answers() {
                super::a_burst_takes_whole_answers(SETUP, &[1, 2]);
            }

            #[test]
            fn a_burst_takes_whole_answers_of_one_piece() {
                super::a_burst_takes_whole_answers(SETUP, &[1, 1, 1]);
            }

            #[test]
            fn a_burst_takes_whole_answers_of_several_pieces() {
                super::a_burst_takes_whole_answers(SETUP, &[2, 2]);
            }

            #[test]
            fn a_batch_in_order_is_seen_whole_or_not_at_all() {
                super::a_batch_in_order_is_seen_whole_or_not_at_all(SETUP);
            }

            $(
                #[test]
                fn $more() {
                    super::$more(SETUP);
                }
            )*
        }
    )*};
}

models! {
    split_flags: false, false {}
    split_event_idx: false, true { no_delayed_interrupt_is_lost; }
    packed_flags: true, false {}
    packed_event_idx: true, true { no_delayed_interrupt_is_lost; }
}
