//! Work for other processors: a mailbox for each, and a handle to wait for what comes of it.
//!
//! The processor that booted is number 0 and runs the suites. Another one sleeps in [`work`] until
//! there is something in its mailbox, does it, and sleeps again. What it is given moves there, and
//! what it returns moves back: nothing is shared but what the work itself shares.
//!
//! Of what the kernel has, these are made for several processors: the heap and the serial port by
//! a lock, interrupt vectors and their counts by atomics, the clock as it reads one counter, and
//! [`idle::wait`] as each has a timer of its own. The report, PCI configuration space and everything
//! in [`Machine`](super::Machine) stay with the first.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;

use spin::Mutex;
use vring::transport::pci::Message;

use super::arch::{self, cpu};
use super::interrupts::Vector;
use super::{clock, idle};

/// Processors that this kernel has room for.
pub(crate) const MOST: usize = 2;

/// How long a processor sleeps at most before it looks again: it is woken when there is work.
const NAP: Duration = Duration::from_secs(60);

/// What came of starting processors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Started {
    /// How many the firmware describes.
    pub(crate) described: usize,
    /// How many run.
    pub(crate) running: usize,
}

impl Started {
    /// One that runs.
    #[cfg_attr(target_arch = "x86_64", expect(dead_code))] // which starts what it finds
    pub(crate) const ONE: Self = Self {
        described: 1,
        running: 1,
    };

    /// How many should run: those that the kernel has room for.
    pub(crate) fn wanted(&self) -> usize {
        self.described.min(MOST)
    }
}

type Work = Box<dyn FnOnce() + Send>;

static MAIL: [Mutex<Option<Work>>; MOST] = [const { Mutex::new(None) }; MOST];
static RUNNING: AtomicUsize = AtomicUsize::new(1);

/// Why work was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunError {
    /// No such processor runs, or it is the one that asks.
    NoProcessor {
        /// The number asked for.
        cpu: usize,
        /// How many run.
        running: usize,
    },
    /// It has not yet begun with what it was given before.
    Busy {
        /// Its number.
        cpu: usize,
    },
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProcessor { cpu, running } => write!(
                f,
                "no other processor has number {cpu}: {running} run, of which this is number {}",
                cpu::index()
            ),
            Self::Busy { cpu } => {
                write!(
                    f,
                    "processor {cpu} has not begun with what it was given before"
                )
            }
        }
    }
}

/// What a processor is at work on.
pub(crate) struct Join<R> {
    outcome: Arc<Outcome<R>>,
    cpu: usize,
}

struct Outcome<R> {
    /// Set after the value is there.
    over: AtomicBool,
    value: Mutex<Option<R>>,
}

/// It was not over in time. The processor goes on with it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotOver {
    cpu: usize,
    limit: Duration,
}

impl fmt::Display for NotOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, limit } = self;
        write!(f, "processor {cpu} was not done within {limit:?}")
    }
}

/// Has the processor of that number do `work`, soon.
///
/// # Errors
/// [`RunError`]; the work is dropped then.
pub(crate) fn run_on<R: Send + 'static>(
    cpu: usize,
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<Join<R>, RunError> {
    let running = RUNNING.load(Ordering::Acquire);
    if cpu >= running || cpu == cpu::index() {
        return Err(RunError::NoProcessor { cpu, running });
    }
    let outcome = Arc::new(Outcome {
        over: AtomicBool::new(false),
        value: Mutex::new(None),
    });
    let asked_by = cpu::index();
    let theirs = outcome.clone();
    let work = move || {
        let value = work();
        *theirs.value.lock() = Some(value);
        // Whoever sees this sees the value.
        theirs.over.store(true, Ordering::Release);
        arch::wake(asked_by);
    };
    {
        let mut mail = MAIL[cpu].lock();
        if mail.is_some() {
            return Err(RunError::Busy { cpu });
        }
        *mail = Some(Box::new(work));
    }
    // After the mail: it is either seen before the processor halts, or ends the halt.
    arch::wake(cpu);
    Ok(Join { outcome, cpu })
}

impl<R> Join<R> {
    /// Waits until it is over, at most for so long.
    ///
    /// # Errors
    /// [`NotOver`].
    pub(crate) fn wait(self, limit: Duration) -> Result<R, NotOver> {
        let over = || self.outcome.over.load(Ordering::Acquire);
        idle::wait(clock::now() + limit, over);
        let value = over().then(|| self.outcome.value.lock().take()).flatten();
        value.ok_or(NotOver {
            cpu: self.cpu,
            limit,
        })
    }
}

/// Called by the architecture when one more processor is ready to [`work`]: numbers go up from 1.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))] // which start none
pub(super) fn joined() {
    RUNNING.fetch_add(1, Ordering::Release);
}

/// The number of the processor that asks: 0 is the one that booted.
pub(crate) fn index() -> usize {
    cpu::index()
}

/// The MSI-X message that raises `vector` on the processor of that number; `None` where there is no
/// such message, or no such processor.
pub(crate) fn message_on(cpu: usize, vector: Vector) -> Option<Message> {
    arch::message_on(cpu, vector)
}

/// How many run.
pub(crate) fn running() -> usize {
    RUNNING.load(Ordering::Acquire)
}

/// What a processor other than the first does, on its own stack, with interrupts and its own timer.
#[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))] // which start none
pub(super) fn work() -> ! {
    let mail = &MAIL[cpu::index()];
    loop {
        // The lock is given back before the work begins, which may take long.
        let next = mail.lock().take();
        match next {
            Some(work) => work(),
            None => {
                idle::wait(clock::now() + NAP, || mail.lock().is_some());
            }
        }
    }
}
