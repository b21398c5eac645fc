//! The Generic Interrupt Controller, version 2, and its frame for messages (GICv2m).
//!
//! A write of an interrupt's number to the frame raises that interrupt: that is an MSI-X message.
//! The processor has one core, which every interrupt goes to.

use core::ops::Range;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use arm_gic::gicv2::GicV2;
use arm_gic::{IntId, InterruptGroup, Trigger};
use dtoolkit::fdt::Fdt;
use spin::{Mutex, Once};
use vring::transport::pci::Message;

use super::{cpu, memory};
use crate::kernel::arch::virt::registers::Registers;
use crate::kernel::arch::virt::tree;
use crate::kernel::interrupts::{self, Vector};

/// Interrupts that exist at most; higher numbers have other meanings.
const INTERRUPTS: usize = 1020;

// The frame's registers.
const MESSAGE_TYPE: usize = 0x008;
const MESSAGE_SET: u64 = 0x040;

/// Of the distributor: a bit for each interrupt, which a 1 makes pending.
const SET_PENDING: usize = 0x200;

/// What the device tree says.
#[derive(Clone, Debug)]
pub(crate) struct Controllers {
    /// Distributor and processor interface.
    gic: Option<[Range<u64>; 2]>,
    /// The frame for messages.
    frame: Option<Range<u64>>,
}

impl Controllers {
    /// Looks for a GICv2 and its frame.
    pub(crate) fn read(tree: Fdt<'static>) -> Self {
        let gic = tree::compatible(tree, "arm,cortex-a15-gic", &|_| true);
        let frame = tree::compatible(tree, "arm,gic-v2m-frame", &|_| true);
        let gic = gic.and_then(|gic| {
            let mut ranges = tree::ranges(&gic);
            Some([ranges.next()?, ranges.next()?])
        });
        Self {
            gic,
            frame: frame.and_then(|frame| tree::ranges(&frame).next()),
        }
    }

    /// Whether there is anything that can interrupt.
    pub(crate) fn are_usable(&self) -> bool {
        self.gic.is_some()
    }
}

struct Gic {
    controller: Mutex<GicV2<'static>>,
    /// The distributor once more, for what `controller` has no word for.
    distributor: Registers,
    group: InterruptGroup,
    frame: Option<Frame>,
}

struct Frame {
    address: u64,
    /// The first shared interrupt that is not in use yet, and the one after the last.
    next: AtomicU32,
    end: u32,
}

static GIC: Once<Gic> = Once::new();

/// Which vector an interrupt has; 0 is none.
static VECTOR_OF: [AtomicU8; INTERRUPTS] = [const { AtomicU8::new(0) }; INTERRUPTS];

/// Turns the controller on, every interrupt disabled. Without one the machine has no interrupts.
pub(super) fn init(described: &Controllers) {
    let Some([distributor, interface]) = &described.gic else {
        return;
    };
    GIC.call_once(|| {
        for place in [distributor, interface] {
            memory::map_device(place.start, place.end - place.start);
        }
        // SAFETY: the device tree's word. What is written there takes one write, of a register that
        // nobody else uses.
        let raw = unsafe { Registers::new(distributor.start, distributor.end - distributor.start) };
        let (distributor, interface) = (distributor.start as usize, interface.start as usize);
        // SAFETY: the device tree's word, and nobody else uses it.
        let mut controller = unsafe { GicV2::new(distributor as *mut _, interface as *mut _) };
        controller.enable_all_interrupts(false);
        controller.setup();
        let group = if controller.typer().has_security_extension() {
            InterruptGroup::Group1
        } else {
            InterruptGroup::Group0
        };
        Gic {
            controller: Mutex::new(controller),
            distributor: raw,
            group,
            frame: described.frame.as_ref().map(Frame::new),
        }
    });
}

impl Frame {
    fn new(place: &Range<u64>) -> Self {
        // SAFETY: the device tree's word, and nobody else uses it.
        let registers = unsafe { Registers::new(place.start, place.end - place.start) };
        let kind = registers.read(MESSAGE_TYPE);
        let (first, count) = (kind >> 16 & 0x3ff, kind & 0x3ff);
        Self {
            address: place.start,
            next: AtomicU32::new(first),
            end: first + count,
        }
    }
}

/// Has an interrupt raise `vector`; whether the controller has that interrupt.
#[must_use]
pub(super) fn enable(interrupt: IntId, trigger: Trigger, vector: Vector) -> bool {
    let (Some(gic), Some(vector_of)) = (GIC.get(), VECTOR_OF.get(u32::from(interrupt) as usize))
    else {
        return false;
    };
    vector_of.store(vector.number(), Ordering::Relaxed);
    // An interrupt in between would wait for the lock for ever.
    cpu::without_interrupts(|| {
        let mut controller = gic.controller.lock();
        if !interrupt.is_private() {
            controller.set_trigger(interrupt, trigger);
        }
        controller.enable_interrupt(interrupt, true).is_ok()
    })
}

/// The message that raises `vector`: what goes into an entry of an MSI-X table.
pub(crate) fn message(vector: Vector) -> Option<Message> {
    let frame = GIC.get()?.frame.as_ref()?;
    let take = |next: u32| (next < frame.end).then(|| next + 1);
    let interrupt = frame
        .next
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
        .ok()?;
    // The frame counts from the first private interrupt on, as the controller does.
    let shared = IntId::spi(interrupt.checked_sub(32)?);
    if !enable(shared, Trigger::Edge, vector) {
        return None;
    }
    // SAFETY: the register of the frame that raises interrupts, by the device tree's word.
    Some(unsafe { Message::new(frame.address + MESSAGE_SET, interrupt) })
}

/// Makes the interrupt pending that raises `vector`; whether there is one that software can.
pub(crate) fn raise(vector: Vector) -> bool {
    let mut vectors = VECTOR_OF.iter();
    let number = vectors.position(|of| of.load(Ordering::Relaxed) == vector.number());
    let (Some(gic), Some(number)) = (GIC.get(), number) else {
        return false;
    };
    let register = SET_PENDING + 4 * (number / 32);
    gic.distributor.write(register, 1 << (number % 32));
    true
}

/// Takes the interrupt that is pending, if there still is one.
pub(super) extern "C" fn handle() {
    let Some(gic) = GIC.get() else { return };
    let acknowledge = || {
        gic.controller
            .lock()
            .get_and_acknowledge_interrupt(gic.group)
    };
    let Some(interrupt) = acknowledge() else {
        return;
    };
    // A handler may enable others: the lock is free meanwhile.
    if let Some(vector) = VECTOR_OF.get(u32::from(interrupt) as usize) {
        interrupts::dispatch(vector.load(Ordering::Relaxed));
    }
    gic.controller.lock().end_interrupt(interrupt, gic.group);
}
