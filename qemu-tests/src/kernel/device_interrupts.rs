//! How a device interrupts: by messages (MSI-X), by its line (INTx), or not at all.
//!
//! A handler does what is due in any kernel: for a line it acknowledges, which takes the line down
//! again, and then it notes that there is work. The work itself is the poll loop's.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::any::Any;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use vring::transport::pci::{MsixError, PciTransport};
use vring::transport::{Interrupt, RegisterAccess, Transport};

use super::interrupts;
use super::{Machine, arch, idle, pci};

/// What the handlers of a device note.
#[derive(Debug, Default)]
struct Noted {
    /// Interrupts for queues.
    queues: AtomicU64,
    /// Interrupts for the configuration.
    config: AtomicU64,
    /// Interrupts of the line that were not the device's.
    foreign: AtomicU64,
}

impl Noted {
    /// Handlers do not interrupt each other, and there is one processor.
    fn add(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn all(&self) -> u64 {
        [&self.queues, &self.config, &self.foreign]
            .map(|count| count.load(Ordering::Relaxed))
            .iter()
            .sum()
    }
}

/// The interrupts of one device.
pub(crate) struct DeviceInterrupts {
    mode: Mode,
    noted: Arc<Noted>,
    /// [`Noted::all`] when the loop last looked for work.
    seen: u64,
}

enum Mode {
    /// Vector `i` of the table is queue `i`'s, the one after them the configuration's.
    Messages {
        queues: u16,
        /// The table, kept, as dropping it is not meant to happen while the device runs.
        _table: Box<dyn Any>,
    },
    Line,
    Poll,
}

/// Why a device cannot interrupt that way.
#[derive(Debug)]
pub(crate) enum InterruptError {
    /// MSI-X.
    Msix(MsixError),
    /// The kernel has no vector left.
    NoVector,
    /// The machine's interrupt controller takes no messages, or no more of them.
    NoMessage,
    /// The device has no interrupt pin, or the firmware gave it no line.
    NoLine,
    /// No interrupt controller has the line.
    Unrouted {
        /// The line.
        line: u32,
    },
    /// The transport has no interrupt status, or somebody has it already.
    NoStatus,
}

impl fmt::Display for InterruptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Msix(error) => error.fmt(f),
            Self::NoVector => f.write_str("the kernel has no interrupt vector left"),
            Self::NoMessage => f.write_str(
                "the machine's interrupt controller takes no messages, or no more of them: use \
                 interrupts=intx",
            ),
            Self::NoLine => f.write_str("the device has no interrupt line"),
            Self::Unrouted { line } => write!(f, "no interrupt controller has line {line}"),
            Self::NoStatus => f.write_str("the transport has no interrupt status to read"),
        }
    }
}

impl From<MsixError> for InterruptError {
    fn from(error: MsixError) -> Self {
        Self::Msix(error)
    }
}

impl DeviceInterrupts {
    /// No interrupts.
    pub(crate) fn poll() -> Self {
        Self::new(Mode::Poll, Arc::default())
    }

    /// A message for each of `queues` queues, and one for the configuration.
    pub(crate) fn msix<A: RegisterAccess + 'static>(
        machine: &Machine,
        transport: &mut PciTransport<A>,
        queues: u16,
    ) -> Result<Self, InterruptError> {
        let map = |address, len| pci::map_registers(machine, address, len);
        let mut table = transport.enable_msix(&machine.pci, map)?;
        let noted = Arc::<Noted>::default();
        for entry in 0..=queues {
            let noted = noted.clone();
            let vector = interrupts::allocate(move || {
                Noted::add(if entry < queues {
                    &noted.queues
                } else {
                    &noted.config
                });
            });
            let message = arch::message(vector.ok_or(InterruptError::NoVector)?);
            table.set(entry, message.ok_or(InterruptError::NoMessage)?)?;
            table.unmask(entry)?;
        }
        let mode = Mode::Messages {
            queues,
            _table: Box::new(table),
        };
        Ok(Self::new(mode, noted))
    }

    /// The line that the firmware gave the device.
    pub(crate) fn intx<A: RegisterAccess>(
        machine: &Machine,
        transport: &mut PciTransport<A>,
    ) -> Result<Self, InterruptError> {
        let isr = transport.take_isr().ok_or(InterruptError::NoStatus)?;
        let noted = Arc::<Noted>::default();
        let handler = {
            let noted = noted.clone();
            move || {
                let why = isr.ack();
                if why.contains(Interrupt::QUEUE) {
                    Noted::add(&noted.queues);
                } else if why.contains(Interrupt::CONFIG) {
                    Noted::add(&noted.config);
                } else {
                    Noted::add(&noted.foreign);
                }
            }
        };
        let vector = interrupts::allocate(handler).ok_or(InterruptError::NoVector)?;
        arch::route(machine, transport.address(), vector)?;
        Ok(Self::new(Mode::Line, noted))
    }

    fn new(mode: Mode, noted: Arc<Noted>) -> Self {
        Self {
            mode,
            noted,
            seen: 0,
        }
    }

    /// The word for it in the protocol.
    pub(crate) fn name(&self) -> &'static str {
        match self.mode {
            Mode::Messages { .. } => "msix",
            Mode::Line => "intx",
            Mode::Poll => "poll",
        }
    }

    /// The MSI-X vector to give to a queue.
    pub(crate) fn queue_vector(&self, queue: u16) -> Option<u16> {
        match self.mode {
            Mode::Messages { queues, .. } => (queue < queues).then_some(queue),
            Mode::Line | Mode::Poll => None,
        }
    }

    /// The MSI-X vector to give to the configuration.
    pub(crate) fn config_vector(&self) -> Option<u16> {
        match self.mode {
            Mode::Messages { queues, .. } => Some(queues),
            Mode::Line | Mode::Poll => None,
        }
    }

    /// Whether the device interrupts at all.
    pub(crate) fn is_enabled(&self) -> bool {
        !matches!(self.mode, Mode::Poll)
    }

    /// Whether there has been an interrupt since this was last asked: there may be work.
    pub(crate) fn take(&mut self) -> bool {
        let all = self.noted.all();
        core::mem::replace(&mut self.seen, all) != all
    }

    /// Halts until there is an interrupt that [`take`](Self::take) has not told of, or until the
    /// deadline. Without interrupts it returns at once, for the next poll.
    pub(crate) fn wait(&self, deadline: Duration) {
        if self.is_enabled() {
            idle::wait(deadline, || self.noted.all() != self.seen);
        } else {
            core::hint::spin_loop();
        }
    }

    /// Interrupts for queues so far.
    pub(crate) fn queue_count(&self) -> u64 {
        self.noted.queues.load(Ordering::Relaxed)
    }

    /// Interrupts so far that were not the device's.
    pub(crate) fn foreign_count(&self) -> u64 {
        self.noted.foreign.load(Ordering::Relaxed)
    }
}
