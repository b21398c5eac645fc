//! The MSI-X table and the device's vector registers: a vector for each queue, fewer, one for all,
//! and what is refused.

use alloc::format;
use alloc::string::{String, ToString};

use vring::device::net::Driver;
use vring::init::{InitFailure, QueueError};
use vring::transport::pci::PciTransport;
use vring::transport::{
    Doorbell, Isr, Native, Register, RegisterAccess, Transport, TransportError,
};
use vring_protocol::Options;

use super::card::{Card, How, PATIENCE, transport, wanted};
use super::{Bench, judge};
use crate::kernel::device_interrupts::{DeviceInterrupts, Sharing};
use crate::kernel::platform::Identity;
use crate::kernel::{clock, pci};
use crate::report::Report;

const HERE: &str = "qemu-tests/src/suites/interrupts/vectors.rs";

/// Questions of each way to share.
const ROUNDS: u32 = 20;

/// No device here has so many vectors.
const TOO_MANY: u16 = 0x7ff;

/// Runs the exercises; with a card that has no vectors it goes on with the line.
pub(super) fn run(bench: &mut Bench<'_>, report: &mut Report) {
    judge(
        report,
        "bug_class_70_present_is_not_enabled",
        not_enabled(bench),
        "MSI-X that is there and not enabled: a vector is refused by name",
        HERE,
    );
    let count = count(bench);
    // The crate's word for it is what is tried here: the harness knows how many there are.
    if bench.options.vectors == Some(0) {
        bench.how = How::Line;
        judge(
            report,
            "bug_class_70_without_msix_the_line",
            fall_back(bench, count),
            "an error that says what to use instead, and interrupts by the line",
            HERE,
        );
        return;
    }
    judge(
        report,
        "bug_class_70_every_vector_is_there",
        every(bench.options.vectors, &count),
        "as many vectors as the harness has QEMU give the card",
        HERE,
    );
    let Ok(vectors) = count else { return };
    for (check, sharing) in [
        ("bug_class_70_vectors_for_each", Sharing::Each),
        ("bug_class_70_one_vector_for_all", Sharing::One),
    ] {
        let must = "interrupts for each queue where it is to interrupt";
        judge(report, check, shared(bench, sharing, vectors), must, HERE);
    }
    judge(
        report,
        "bug_class_70_fewer_vectors_are_a_typed_error",
        beyond(bench, vectors),
        "the vector and how many there are",
        HERE,
    );
    // With fewer, a vector's number is also a queue's, which the same write selects.
    if bench.options.vectors.is_none_or(|given| given > 3) {
        judge(
            report,
            "bug_class_70_no_vector_is_read_back",
            refused(bench, vectors.saturating_sub(1)),
            "NO_VECTOR read back is an error with what was read",
            HERE,
        );
    } else {
        log::info!("no check of NO_VECTOR: it takes four vectors, and there are {vectors}");
    }
}

/// Whether the table has the length that was given.
fn every(given: Option<u16>, count: &Result<u16, String>) -> Result<String, String> {
    let count = count.clone()?;
    let is_whole = match given {
        Some(given) => count == given,
        None => count >= Options::USUAL_VECTORS,
    };
    if !is_whole {
        return Err(format!("{count} vectors; QEMU was given {given:?}"));
    }
    Ok(format!("{count} vectors"))
}

/// Vectors of the card's table.
fn count(bench: &Bench<'_>) -> Result<u16, String> {
    let mut transport = transport(bench.machine, bench.cards[0])?;
    let map = |address, len| pci::map_registers(bench.machine, address, len);
    let table = transport.enable_msix(&bench.machine.pci, map);
    let vectors = table.map_err(|why| why.to_string())?.len();
    transport.disable_msix(&bench.machine.pci);
    Ok(vectors)
}

fn shared(bench: &Bench<'_>, sharing: Sharing, vectors: u16) -> Result<String, String> {
    let how = How::Messages(sharing);
    let mut card = Card::start(bench.machine, bench.cards[0], how, bench.options)?;
    let expected = match (sharing, vectors) {
        (Sharing::Each, 3..) => (Some(0), Some(1), Some(2)),
        (Sharing::Each, 2) => (Some(0), Some(0), Some(1)),
        _ => (Some(0), Some(0), Some(0)),
    };
    let of = &card.interrupts;
    let placed = (of.queue_vector(0), of.queue_vector(1), of.config_vector());
    if placed != expected {
        return Err(format!(
            "of {vectors} vectors: {placed:?}, expected {expected:?}"
        ));
    }
    card.converse(ROUNDS)?;
    let raised = card.interrupts.vectors();
    let counts = || {
        raised
            .iter()
            .map(|vector| vector.count())
            .collect::<alloc::vec::Vec<_>>()
    };
    let received = counts();
    let of = |counts: &[u64], vector: Option<u16>| {
        vector.and_then(|at| counts.get(usize::from(at)).copied())
    };
    // A device tells of the first frame that is out whatever the event index says.
    let sent_first = placed.1 != placed.0 && of(&received, placed.1) > Some(1);
    let changed = |counts: &[u64]| placed.2 != placed.0 && of(counts, placed.2) != Some(0);
    if of(&received, placed.0) < Some(1) || sent_first || changed(&received) {
        return Err(format!(
            "{received:?} interrupts of the vectors: answers are the first one's"
        ));
    }
    // Now the other queue: its frames are out.
    card.disarm();
    transmitted(&mut card)?;
    let sent = counts();
    if of(&sent, placed.1) <= of(&received, placed.1) || changed(&sent) {
        return Err(format!("{received:?}, then {sent:?} when a frame was out"));
    }
    card.tell(match sharing {
        Sharing::Each => "vectors: each",
        Sharing::One => "vectors: one",
        Sharing::ConfigOnly => "vectors: configuration",
    });
    card.stop()?;
    Ok(format!("of {vectors} vectors {placed:?} raised {sent:?}"))
}

/// Sleeps until a frame is out.
fn transmitted(card: &mut Card) -> Result<(), String> {
    let until = clock::now() + PATIENCE;
    for _ in 0..ROUNDS {
        let before = card.interrupts.queue_count();
        let tx = card.driver().tx();
        tx.reclaim(drop).map_err(|fault| fault.to_string())?;
        card.interrupts.take();
        let raced_in = card.driver().tx().arm();
        card.ask(1)?;
        while !raced_in && card.interrupts.queue_count() == before {
            let slept = card.sleep(until);
            slept.map_err(|why| format!("of the transmit queue: {why}"))?;
        }
        card.driver().tx().disarm();
        card.spin_for(1)?;
    }
    Ok(())
}

/// Why a driver with these vectors is refused.
fn why<T: Transport>(
    bench: &Bench<'_>,
    transport: T,
    vectors: [Option<u16>; 3],
) -> Result<InitFailure, String> {
    let mut wanted = wanted(bench.options)?;
    [
        wanted.receive_vector,
        wanted.transmit_vector,
        wanted.config_vector,
    ] = vectors;
    let driver = Driver::<_, _, alloc::boxed::Box<[u8]>>::new(Identity, transport, wanted);
    match driver {
        Ok(_) => Err(format!("a driver with {vectors:?}")),
        Err(error) => Ok(error.why),
    }
}

/// Compares what was refused with what had to be.
fn same(why: &InitFailure, expected: TransportError) -> Result<String, String> {
    match why {
        InitFailure::Transport(seen) | InitFailure::Queue(QueueError::Transport(seen))
            if *seen == expected =>
        {
            Ok(why.to_string())
        }
        other => Err(format!("{other:?}, expected {expected:?}")),
    }
}

fn not_enabled(bench: &Bench<'_>) -> Result<String, String> {
    let transport = transport(bench.machine, bench.cards[0])?;
    let why = why(bench, transport, [Some(0), None, None])?;
    same(&why, TransportError::NoVectors)
}

fn beyond(bench: &Bench<'_>, vectors: u16) -> Result<String, String> {
    let mut transport = transport(bench.machine, bench.cards[0])?;
    let table = DeviceInterrupts::msix(bench.machine, &mut transport, 2, Sharing::One);
    table.map_err(|why| why.to_string())?;
    let vector = vectors;
    let why = why(bench, transport, [Some(0), Some(vector), Some(0)])?;
    same(&why, TransportError::VectorOutOfRange { vector, vectors })
}

/// The device is given a vector that it does not have, and says so by NO_VECTOR.
fn refused(bench: &Bench<'_>, vector: u16) -> Result<String, String> {
    let map = |address, len| pci::map_registers(bench.machine, address, len);
    let access = Confused { vector };
    let transport = PciTransport::with_access(&bench.machine.pci, bench.cards[0], access, map);
    let mut transport = transport.map_err(|why| why.to_string())?;
    let table = transport.enable_msix(&bench.machine.pci, map);
    table.map_err(|why| why.to_string())?;
    let why = why(bench, transport, [Some(0), Some(vector), Some(0)])?;
    let got = 0xffff;
    same(&why, TransportError::VectorRefused { vector, got })
}

fn fall_back(bench: &Bench<'_>, count: Result<u16, String>) -> Result<String, String> {
    let why = match count {
        Ok(vectors) => return Err(format!("{vectors} vectors of a table that is not there")),
        Err(why) => why,
    };
    if !why.contains("use INTx") {
        return Err(why);
    }
    let mut card = bench.first()?;
    card.converse(ROUNDS)?;
    let count = card.interrupts.queue_count();
    card.stop()?;
    if count == 0 {
        return Err("no interrupt of the line".into());
    }
    Ok(format!("{why}: {count} interrupts of the line"))
}

/// Reaches registers as [`Native`] does, but gives the device another vector than the driver said:
/// of 16-bit registers, only a vector's is written with that number.
#[derive(Clone, Copy)]
struct Confused {
    vector: u16,
}

// SAFETY: every call is handed on once, as it is, but for the one number, which only vector registers
// are given: no memory is lent or freed on what a vector is.
unsafe impl RegisterAccess for Confused {
    fn read8(&self, at: Register<u8>) -> u8 {
        Native.read8(at)
    }
    fn write8(&self, at: Register<u8>, value: u8) {
        Native.write8(at, value);
    }
    fn read16(&self, at: Register<u16>) -> u16 {
        Native.read16(at)
    }
    fn write16(&self, at: Register<u16>, value: u16) {
        let confused = value == self.vector;
        Native.write16(at, if confused { TOO_MANY } else { value });
    }
    fn read32(&self, at: Register<u32>) -> u32 {
        Native.read32(at)
    }
    fn write32(&self, at: Register<u32>, value: u32) {
        Native.write32(at, value);
    }
    fn doorbell(&self, at: Register<u16>, value: u16) -> Doorbell {
        Native.doorbell(at, value)
    }
    fn doorbell_with_data(&self, at: Register<u32>, value: u16) -> Doorbell {
        Native.doorbell_with_data(at, value)
    }
    fn doorbell32(&self, at: Register<u32>, value: u16) -> Doorbell {
        Native.doorbell32(at, value)
    }
    fn isr(&self, at: Register<u8>) -> Isr {
        Native.isr(at)
    }
    fn isr_pair(&self, status: Register<u32>, ack: Register<u32>) -> Isr {
        Native.isr_pair(status, ack)
    }
}
