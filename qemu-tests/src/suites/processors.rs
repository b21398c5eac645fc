//! The other processors: those that the firmware describes run, and share what is shared.
//!
//! On a machine with one there is nothing to see but that.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use crate::kernel::smp::{self, RunError, run_on};
use crate::kernel::{Machine, clock, idle};
use crate::report::Report;

const HERE: &str = "qemu-tests/src/suites/processors.rs";

/// How long a piece of work may take on a host that is busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// Times that something goes there and back. Each time two processors wake, which takes a busy host
/// long when it emulates both.
const ROUNDS: u32 = 100;

/// Runs the checks, on every processor other than the first.
pub(crate) fn run(machine: &Machine, report: &mut Report) {
    let started = machine.started;
    report.check(
        "boot_processors",
        started.running == started.wanted(),
        &format!("{} of {} run", started.wanted(), started.described),
        &format!("{}", started.running),
        "qemu-tests/src/kernel/arch/x86_64/processors.rs",
    );
    for cpu in 1..smp::running() {
        for (check, expected, work) in CHECKS {
            let outcome = work(cpu);
            let seen = outcome.as_ref().err().map_or("", String::as_str);
            report.check(check, outcome.is_ok(), expected, seen, HERE);
        }
    }
}

type Check = fn(usize) -> Result<(), String>;

const CHECKS: [(&str, &str, Check); 5] = [
    ("processor_works", "work is done there", works),
    (
        "processor_refuses",
        "work that cannot be taken is refused",
        refuses,
    ),
    (
        "processor_clock",
        "one clock for all, which never goes back",
        one_clock,
    ),
    (
        "processor_timer",
        "a timer of its own ends its halt",
        own_timer,
    ),
    (
        "processor_heap",
        "blocks of all keep their bytes",
        shared_heap,
    ),
];

/// Does work there, and waits for it.
fn on<R: Send + 'static>(
    cpu: usize,
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<R, String> {
    let join = run_on(cpu, work).map_err(|why| why.to_string())?;
    join.wait(PATIENCE).map_err(|why| why.to_string())
}

/// Work goes there and comes back, many times over.
fn works(cpu: usize) -> Result<(), String> {
    for round in 0..ROUNDS {
        let block = vec![round; 16];
        let (there, back) = on(cpu, move || (smp::index(), block))?;
        if there != cpu || smp::index() == cpu || back != vec![round; 16] {
            return Err(format!("round {round} ran on processor {there}: {back:?}"));
        }
    }
    Ok(())
}

/// Only another processor takes work, one piece beside the one that it is at, and not in no time.
fn refuses(cpu: usize) -> Result<(), String> {
    let refused = |asked: usize| match run_on(asked, || ()) {
        Ok(_) => Err(format!("processor {asked} took work")),
        Err(why) => Ok(why),
    };
    let running = smp::running();
    for nobody in [smp::index(), running, usize::MAX] {
        let expected = RunError::NoProcessor {
            cpu: nobody,
            running,
        };
        let why = refused(nobody)?;
        if why != expected {
            return Err(format!("{why:?}, not {expected:?}"));
        }
    }
    let (begun, go) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let (theirs, until) = (begun.clone(), go.clone());
    let first = run_on(cpu, move || {
        theirs.store(true, Ordering::Release);
        while !until.load(Ordering::Acquire) {
            core::hint::spin_loop();
        }
    });
    let first = first.map_err(|why| why.to_string())?;
    let limit = clock::now() + PATIENCE;
    while !begun.load(Ordering::Acquire) && clock::now() < limit {
        core::hint::spin_loop();
    }
    let began = begun.load(Ordering::Acquire);
    let second = run_on(cpu, || ());
    let third = refused(cpu);
    let late = second.map(|second| second.wait(Duration::from_millis(1)).is_err());
    // Whatever came of it: until then the processor does nothing else.
    go.store(true, Ordering::Release);
    if !began {
        return Err(format!("work was not begun within {PATIENCE:?}"));
    }
    first.wait(PATIENCE).map_err(|why| why.to_string())?;
    let late = late.map_err(|why| why.to_string())?;
    // What was waited for in vain is done all the same.
    let limit = clock::now() + PATIENCE;
    let free = || run_on(cpu, || ()).ok();
    let after = core::iter::from_fn(|| Some(free())).take_while(|_| clock::now() < limit);
    let after = after.flatten().next().ok_or("it takes nothing any more")?;
    after.wait(PATIENCE).map_err(|why| why.to_string())?;
    let why = third?;
    let good = late && why == RunError::Busy { cpu };
    good.then_some(())
        .ok_or_else(|| format!("{why:?}, late {late}"))
}

/// What one processor reads after another is not earlier.
fn one_clock(cpu: usize) -> Result<(), String> {
    for _ in 0..ROUNDS {
        let before = clock::now();
        let there = on(cpu, clock::now)?;
        let after = clock::now();
        if before > there || there > after {
            return Err(format!("{before:?}, there {there:?}, {after:?}"));
        }
    }
    Ok(())
}

/// It halts until its own timer interrupts: not before the deadline, and not long after.
fn own_timer(cpu: usize) -> Result<(), String> {
    const WAIT: Duration = Duration::from_millis(20);
    const LATE: Duration = Duration::from_secs(5);
    // A busy host may hold it up before it halts, until there is nothing left to wait for.
    const TRIES: u32 = 10;
    let mut seen = String::new();
    for _ in 0..TRIES {
        let count = || idle::timer_vector().map_or(0, |vector| vector.count());
        let (waited, raised) = on(cpu, move || {
            let (start, before) = (clock::now(), count());
            idle::wait(start + WAIT, || false);
            (clock::now() - start, count() - before)
        })?;
        if raised > 0 && waited >= WAIT && waited < LATE {
            return Ok(());
        }
        seen = format!("{raised} interrupts in {waited:?}");
    }
    Err(seen)
}

/// Allocates and frees for a while; whether each block kept its bytes.
fn churn(mark: u8) -> bool {
    (0..2_000usize).all(|round| {
        let block = vec![mark; 1 + round % 3000];
        core::hint::black_box(&block)
            .iter()
            .all(|byte| *byte == mark)
    })
}

/// Two processors use the heap at a time.
fn shared_heap(cpu: usize) -> Result<(), String> {
    let there = run_on(cpu, || churn(0x55)).map_err(|why| why.to_string())?;
    let here = churn(0xaa);
    let there = there.wait(PATIENCE).map_err(|why| why.to_string())?;
    let seen = || format!("kept here: {here}, there: {there}");
    (here && there).then_some(()).ok_or_else(seen)
}
