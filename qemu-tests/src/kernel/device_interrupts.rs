//! How a device interrupts: by messages (MSI-X), by its line (INTx), or not at all.
//!
//! A handler does what is due in any kernel: for a line it acknowledges, which takes the line down
//! again and says whether it was the device at all, and then it notes that there is work. The work
//! itself is the poll loop's.
//!
//! Devices have as many vectors as they like, which may be fewer than one for each queue: see
//! [`Sharing`].

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use spin::Once;
use vring::adapter::futures::Notifier;
use vring::transport::pci::{Address, ConfigAccess as _, MsixError, MsixTable, PciTransport};
use vring::transport::{Interrupt, Isr, RegisterAccess};

use super::interrupts::{self, Hook, Vector};
use super::{Machine, arch, idle, pci};

/// The bit of a function's command register that keeps its line down (PCI 3.0, 6.2.2).
const COMMAND: u16 = 0x04;
/// See [`COMMAND`].
const INTX_DISABLE: u16 = 1 << 10;

/// Whom a device's handlers wake: the tasks that wait for each queue, and for the configuration.
pub(crate) struct Wakes {
    /// By the queue's index.
    pub(crate) queues: [Notifier; 2],
    /// Of the configuration.
    pub(crate) config: Notifier,
}

/// What the handlers of a device note.
#[derive(Default)]
struct Noted {
    wakes: Once<Wakes>,
    /// Interrupts for queues.
    queues: AtomicU64,
    /// Interrupts for the configuration.
    config: AtomicU64,
    /// Interrupts of a vector that serves queues and configuration alike.
    either: AtomicU64,
    /// Interrupts of the line that were not the device's.
    foreign: AtomicU64,
    /// Interrupts of the line that are to be overlooked.
    overlook: AtomicU64,
}

impl Noted {
    /// Handlers may run on several processors at once, each its own.
    fn add(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the device is to be overlooked this time.
    fn overlooks(&self) -> bool {
        let one_less = |left: u64| left.checked_sub(1);
        let taken = self
            .overlook
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        taken.is_ok()
    }

    fn all(&self) -> u64 {
        [&self.queues, &self.config, &self.either, &self.foreign]
            .map(|count| count.load(Ordering::Relaxed))
            .iter()
            .sum()
    }

    /// Wakes who waits for these queues.
    fn wake_queues(&self, mut which: impl FnMut(u16) -> bool) {
        let queues = self.wakes.get().into_iter().flat_map(|wakes| &wakes.queues);
        let which = (0..).zip(queues).filter(|(queue, _)| which(*queue));
        which.for_each(|(_, notifier)| notifier.wake());
    }

    /// Wakes who waits for the configuration.
    fn wake_config(&self) {
        if let Some(wakes) = self.wakes.get() {
            wakes.config.wake();
        }
    }
}

/// How the sources of a device's interrupts share the vectors of its MSI-X table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// One for each queue and one for the configuration. Of two, the queues share the first; a
    /// single one serves all.
    Each,
    /// One serves all, however many there are.
    One,
    /// The configuration's alone: the queues are polled.
    ConfigOnly,
}

impl Sharing {
    /// The vectors of the queues, if they have any, and the configuration's.
    fn place(self, queues: u16, vectors: u16) -> (Option<Vec<u16>>, u16) {
        match self {
            Self::Each if vectors > queues => (Some((0..queues).collect()), queues),
            Self::Each if vectors > 1 => (Some(alloc::vec![0; queues.into()]), 1),
            Self::Each | Self::One => (Some(alloc::vec![0; queues.into()]), 0),
            Self::ConfigOnly => (None, 0),
        }
    }
}

/// The interrupts of one device. When this is dropped, the device has to be reset: a line has no
/// handler for it any more.
pub(crate) struct DeviceInterrupts {
    mode: Mode,
    noted: Arc<Noted>,
    /// [`Noted::all`] when the loop last looked for work.
    seen: u64,
    address: Option<Address>,
}

enum Mode {
    Messages {
        queues: Option<Vec<u16>>,
        config: u16,
        /// What the vectors in use raise, by their place in the table.
        raised: Vec<Vector>,
        /// Masks a vector of the table, or lets it send.
        mask: Box<dyn FnMut(u16, bool) -> Result<(), MsixError>>,
    },
    Line(Hook),
    Poll,
}

/// Why a device cannot interrupt that way.
#[derive(Debug)]
pub(crate) enum InterruptError {
    /// MSI-X.
    Msix(MsixError),
    /// The transport has no vectors: a device over MMIO has one line.
    NoVectors,
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
    /// Nothing keeps the device's interrupts back: it is none of PCI, or it has none.
    NotHeld,
}

impl fmt::Display for InterruptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Msix(error) => error.fmt(f),
            Self::NoVectors => f.write_str(
                "a device over MMIO has one interrupt line and no messages: use interrupts=intx",
            ),
            Self::NoVector => f.write_str("the kernel has no interrupt vector left"),
            Self::NoMessage => f.write_str(
                "the machine's interrupt controller takes no messages, or no more of them: use \
                 interrupts=intx",
            ),
            Self::NoLine => f.write_str("the device has no interrupt line"),
            Self::Unrouted { line } => write!(f, "no interrupt controller has line {line}"),
            Self::NoStatus => f.write_str("the transport has no interrupt status to read"),
            Self::NotHeld => f.write_str(
                "no interrupts to hold back: it takes interrupts=msix, or a line of a PCI function",
            ),
        }
    }
}

impl From<MsixError> for InterruptError {
    fn from(error: MsixError) -> Self {
        Self::Msix(error)
    }
}

/// A device as its interrupts are set up.
pub(crate) trait Interrupting {
    /// How it is reached.
    type Access: RegisterAccess + 'static;

    /// Turns MSI-X on.
    fn enable_msix(&mut self, machine: &Machine)
    -> Result<MsixTable<Self::Access>, InterruptError>;

    /// What an interrupt handler acknowledges with.
    fn take_isr(&mut self) -> Option<Isr>;

    /// The interrupt controllers' input that its line drives.
    fn line(&self, machine: &Machine) -> Result<u32, InterruptError>;

    /// Where its function is, if it is one of PCI.
    fn address(&self) -> Option<Address>;
}

impl<A: RegisterAccess + 'static> Interrupting for PciTransport<A> {
    type Access = A;

    fn enable_msix(&mut self, machine: &Machine) -> Result<MsixTable<A>, InterruptError> {
        let map = |address, len| pci::map_registers(machine, address, len);
        Ok(PciTransport::enable_msix(self, machine.pci, map)?)
    }

    fn take_isr(&mut self) -> Option<Isr> {
        vring::transport::Transport::take_isr(self)
    }

    fn line(&self, machine: &Machine) -> Result<u32, InterruptError> {
        arch::line_of(machine, PciTransport::address(self))
    }

    fn address(&self) -> Option<Address> {
        Some(PciTransport::address(self))
    }
}

impl DeviceInterrupts {
    /// No interrupts.
    pub(crate) fn poll() -> Self {
        Self::new(Mode::Poll, Arc::default(), None)
    }

    /// Messages for so many queues and for the configuration.
    pub(crate) fn msix<D: Interrupting>(
        machine: &Machine,
        device: &mut D,
        queues: u16,
        sharing: Sharing,
    ) -> Result<Self, InterruptError> {
        let mut table = device.enable_msix(machine)?;
        let (of_queues, config) = sharing.place(queues, table.len());
        let noted = Arc::<Noted>::default();
        let mut raised = Vec::new();
        let last = of_queues.iter().flatten().copied().max();
        for entry in 0..=last.map_or(config, |last| last.max(config)) {
            let noted = noted.clone();
            let has_queue = of_queues.as_ref().is_some_and(|all| all.contains(&entry));
            let served = of_queues.clone();
            let vector = interrupts::allocate(move || {
                match (has_queue, entry == config) {
                    (true, true) => Noted::add(&noted.either),
                    (true, false) => Noted::add(&noted.queues),
                    (false, _) => Noted::add(&noted.config),
                }
                let served = served.as_deref().unwrap_or_default();
                noted.wake_queues(|queue| served.get(usize::from(queue)) == Some(&entry));
                if entry == config {
                    noted.wake_config();
                }
            });
            let vector = vector.ok_or(InterruptError::NoVector)?;
            let message = arch::message(vector).ok_or(InterruptError::NoMessage)?;
            table.set(entry, message)?;
            table.unmask(entry)?;
            raised.push(vector);
        }
        let mode = Mode::Messages {
            queues: of_queues,
            config,
            raised,
            // The table stays with the device.
            mask: Box::new(move |entry, masked| match masked {
                true => table.mask(entry),
                false => table.unmask(entry),
            }),
        };
        Ok(Self::new(mode, noted, device.address()))
    }

    /// The line that the firmware gave the device, which others may have as well.
    pub(crate) fn intx<D: Interrupting>(
        machine: &Machine,
        device: &mut D,
    ) -> Result<Self, InterruptError> {
        let isr = device.take_isr().ok_or(InterruptError::NoStatus)?;
        let noted = Arc::<Noted>::default();
        let handler = {
            let noted = noted.clone();
            move || {
                if noted.overlooks() {
                    return false;
                }
                let why = isr.ack();
                if why.contains(Interrupt::QUEUE) {
                    Noted::add(&noted.queues);
                    noted.wake_queues(|_| true);
                }
                if why.contains(Interrupt::CONFIG) {
                    Noted::add(&noted.config);
                    noted.wake_config();
                }
                if why.is_empty() {
                    Noted::add(&noted.foreign);
                }
                !why.is_empty()
            }
        };
        let line = device.line(machine)?;
        let hook = interrupts::share(line, handler, InterruptError::NoVector, |vector| {
            arch::route(machine, line, vector)
        })?;
        Ok(Self::new(Mode::Line(hook), noted, device.address()))
    }

    fn new(mode: Mode, noted: Arc<Noted>, address: Option<Address>) -> Self {
        Self {
            mode,
            noted,
            seen: 0,
            address,
        }
    }

    /// The word for it in the protocol.
    pub(crate) fn name(&self) -> &'static str {
        match self.mode {
            Mode::Messages { .. } => "msix",
            Mode::Line(_) => "intx",
            Mode::Poll => "poll",
        }
    }

    /// The MSI-X vector to give to a queue.
    pub(crate) fn queue_vector(&self, queue: u16) -> Option<u16> {
        match &self.mode {
            Mode::Messages { queues, .. } => queues.as_ref()?.get(usize::from(queue)).copied(),
            Mode::Line(_) | Mode::Poll => None,
        }
    }

    /// The MSI-X vector to give to the configuration.
    pub(crate) fn config_vector(&self) -> Option<u16> {
        match self.mode {
            Mode::Messages { config, .. } => Some(config),
            Mode::Line(_) | Mode::Poll => None,
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
    /// deadline, and says which: an interrupt that was slept through is none. Without interrupts it
    /// returns at once, for the next poll.
    pub(crate) fn wait(&self, deadline: Duration) -> bool {
        if self.is_enabled() {
            idle::wait(deadline, || self.noted.all() != self.seen)
        } else {
            core::hint::spin_loop();
            true
        }
    }

    /// Keeps the device's interrupts back, or lets them go on. What it raises meanwhile is pending:
    /// it comes afterwards.
    pub(crate) fn hold(&mut self, machine: &Machine, held: bool) -> Result<(), InterruptError> {
        match (&mut self.mode, self.address) {
            (Mode::Messages { raised, mask, .. }, _) => {
                for (entry, _) in (0..).zip(raised.iter()) {
                    mask(entry, held)?;
                }
            }
            (Mode::Line(_), Some(address)) => {
                let others = machine.pci.read16(address, COMMAND) & !INTX_DISABLE;
                let disable = if held { INTX_DISABLE } else { 0 };
                machine.pci.write16(address, COMMAND, others | disable);
            }
            (Mode::Line(_), None) | (Mode::Poll, _) => return Err(InterruptError::NotHeld),
        }
        Ok(())
    }

    /// Has the handler of a line overlook its device so many times: the line stays up meanwhile.
    pub(crate) fn overlook(&self, interrupts: u64) {
        self.noted.overlook.store(interrupts, Ordering::Relaxed);
    }

    /// The kernel's vectors, by their places in the table; of a line, one.
    pub(crate) fn vectors(&self) -> Vec<Vector> {
        match &self.mode {
            Mode::Messages { raised, .. } => raised.clone(),
            Mode::Line(hook) => alloc::vec![hook.vector()],
            Mode::Poll => Vec::new(),
        }
    }

    /// Has the handlers wake tasks from now on: to be said once, before anybody sleeps.
    pub(crate) fn wake(&self, wakes: Wakes) {
        self.noted.wakes.call_once(|| wakes);
    }

    /// Interrupts for queues so far.
    pub(crate) fn queue_count(&self) -> u64 {
        self.noted.queues.load(Ordering::Relaxed) + self.noted.either.load(Ordering::Relaxed)
    }

    /// Interrupts for the configuration so far, or that may have been.
    pub(crate) fn config_count(&self) -> u64 {
        self.noted.config.load(Ordering::Relaxed) + self.noted.either.load(Ordering::Relaxed)
    }

    /// Interrupts so far that were not the device's.
    pub(crate) fn foreign_count(&self) -> u64 {
        self.noted.foreign.load(Ordering::Relaxed)
    }
}
