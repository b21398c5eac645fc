//! The card once more, awaited: interrupt handlers wake tasks, and the processor halts where none
//! has anything to do.
//!
//! [`parts`] has the network driver's halves in tasks of embassy's executor, beside one for the
//! configuration and one for the clock. [`tickets`] has bare queues in one future that a
//! `block_on` of a dozen lines runs. Both ask the gateway for its address, over and over; both
//! drop futures in flight and forget others, and account for every buffer at the end.

mod parts;
mod tickets;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use core::future::poll_fn;
use core::pin::Pin;
use core::task::Poll;
use core::time::Duration;

use guest_services::Config;
use vring::transport::DeviceId;
use vring_protocol::{Event, Options};

use super::super::arp::{FRAME, question};
use super::super::link;
use super::bring_up;
use crate::kernel::access::Access;
use crate::kernel::device_interrupts::DeviceInterrupts;
use crate::kernel::executor::Effort;
use crate::kernel::transports::{AnyTransport, Found};
use crate::kernel::{Machine, clock};
use crate::report::{Report, event};

const HERE: &str = "qemu-tests/src/suites/net/awaited";

/// How long it may take on a host that is busy.
const PATIENCE: Duration = Duration::from_secs(Options::AWAITED_SECONDS);

/// Fewer packets do not come to what there is to try.
const LEAST: u32 = 64;

/// What came of one executor.
#[derive(Default)]
struct Outcome {
    /// Questions that went out, each answered.
    packets: u32,
    /// Of the processor.
    effort: Effort,
    /// Interrupts for queues.
    interrupts: u64,
    /// Times that a task awaited room in a queue that was full.
    waits_for_room: u32,
    /// Times that the clock woke a task, where one waited for it.
    ticks: u32,
    /// Changes of the configuration.
    config_changes: u32,
    /// Futures that were dropped while what they waited for was with the device.
    dropped: u32,
    /// And that were forgotten.
    forgotten: u32,
    /// Buffers that were made.
    made: u64,
    /// Buffers that came back, or that a forgotten future keeps.
    back: u64,
    /// What a queue says that has not all its slots, or has a fault.
    unsound: Option<String>,
}

/// Drives the card with one executor and then with the other, and leaves it reset.
pub(super) fn run(machine: &Machine, config: &Config, options: &Options, report: &mut Report) {
    let packets = options.awaited.max(LEAST);
    let outcome = open(machine, options).and_then(|(transport, interrupts)| {
        parts::run(transport, &interrupts, config, options, packets)
    });
    let whole = outcome.is_ok();
    judge("embassy", outcome, report);
    if !whole {
        link_back_up(machine, options);
    }
    // Tasks that never ended still have the card.
    if whole {
        let outcome = open(machine, options).and_then(|(transport, interrupts)| {
            tickets::run(transport, &interrupts, config, options, packets)
        });
        let whole = outcome.is_ok();
        judge("block_on", outcome, report);
        if !whole {
            link_back_up(machine, options);
        }
    }
}

/// Leaves the link up, whatever has come of an executor: the card has other exercises to come.
fn link_back_up(machine: &Machine, options: &Options) {
    let (transport, id) = (options.transport, DeviceId::NETWORK);
    match Found::with_access(machine, transport, Access::of(options), id) {
        Ok(found) => link::back_up(&found.into_transport()),
        Err(why) => log::warn!("no look at the link: {why}"),
    }
}

fn open(machine: &Machine, options: &Options) -> Result<(AnyTransport, DeviceInterrupts), String> {
    let (transport, id) = (options.transport, DeviceId::NETWORK);
    let found = Found::with_access(machine, transport, Access::of(options), id);
    let mut found = found.map_err(|why| why.to_string())?;
    let interrupts = bring_up::choose(machine, &mut found, &options.interrupts);
    let interrupts = interrupts.map_err(|why| why.to_string())?;
    Ok((found.into_transport(), interrupts))
}

fn judge(executor: &str, outcome: Result<Outcome, String>, report: &mut Report) {
    let failed = outcome.as_ref().err().map_or("", String::as_str);
    report.check(
        &format!("awaited_{executor}"),
        outcome.is_ok(),
        "every packet is answered, and what is awaited comes",
        failed,
        HERE,
    );
    let Ok(outcome) = outcome else { return };
    report.check(
        &format!("awaited_{executor}_buffers"),
        outcome.made == outcome.back && outcome.made > 0 && outcome.unsound.is_none(),
        "every buffer and every slot is back, and nobody has done wrong",
        &format!(
            "{} of {} buffers, {:?}",
            outcome.back, outcome.made, outcome.unsound
        ),
        HERE,
    );
    event(&Event::Awaited {
        executor: executor.into(),
        packets: outcome.packets,
        polls: outcome.effort.polls,
        halts: outcome.effort.halts,
        interrupts: outcome.interrupts,
        waits_for_room: outcome.waits_for_room,
        ticks: outcome.ticks,
        config_changes: outcome.config_changes,
        dropped: outcome.dropped,
        forgotten: outcome.forgotten,
    });
}

/// What becomes of a future that is not awaited to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Drop,
    Forget,
}

/// Polls a future once, and lets go of it if it waits: the way to its end, or its result.
async fn once<F: Future>(future: F, end: End, outcome: &mut Outcome) -> Option<F::Output> {
    // In a box, so that what is forgotten stays where it is.
    let mut future: Pin<Box<F>> = Box::pin(future);
    let polled = poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
    match (polled, end) {
        (Poll::Ready(output), _) => return Some(output),
        (Poll::Pending, End::Drop) => {
            outcome.dropped += 1;
            drop(future);
        }
        (Poll::Pending, End::Forget) => {
            outcome.forgotten += 1;
            core::mem::forget(future);
        }
    }
    None
}

/// When to give up.
fn deadline() -> Duration {
    clock::now() + PATIENCE
}

/// A question with so much room in front for the device's header.
fn bytes(room: usize, mac: [u8; 6], config: &Config) -> Box<[u8]> {
    let mut bytes = vec![0; room + FRAME].into_boxed_slice();
    bytes[room..].copy_from_slice(&question(mac, config));
    bytes
}
