//! What has to hold: of the rings, of how the run ended, and of every buffer after the reset.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use guest_services::Progress;
use vring::device::net::{RECEIVE_QUEUE, Transmitter};
use vring::features::Feature;
use vring::ring::layout::vring_init;
use vring::transport::QueueAreas;
use vring::virtqueue::Counters;
use vring_protocol::{Event, Options, QueueCounters, Transport};

use super::{Card, Served};
use crate::kernel::clock;
use crate::kernel::device_interrupts::DeviceInterrupts;
use crate::kernel::platform::Identity;
use crate::kernel::transports::AnyTransport;
use crate::report::{Report, event};

const HERE: &str = "qemu-tests/src/suites/net/verdict.rs";

/// The rings lie as `vring_init` lays them out, and are as large as was asked for and fits.
pub(super) fn rings(card: &mut Card, options: &Options, report: &mut Report) {
    let (rx, tx, control) = card.driver().parts();
    let packed = control.features().has(Feature::RING_PACKED);
    for (check, num, areas) in [
        ("net_ring_rx", rx.size(), rx.areas()),
        ("net_ring_tx", tx.size(), tx.areas()),
    ] {
        report.check(
            check,
            num <= options.queue_size && is_ring(packed, options.transport, num, areas),
            &format!("a ring of at most {} descriptors", options.queue_size),
            &format!("{num} descriptors, {areas:x?}"),
            HERE,
        );
    }
}

/// Whether a ring of the format that was negotiated has these areas.
fn is_ring(packed: bool, transport: Transport, num: u16, areas: QueueAreas) -> bool {
    if packed {
        return is_packed_ring(num, areas);
    }
    // A legacy device is told of a page, and takes the used ring to be aligned to one.
    let least = if transport.is_legacy() { 12 } else { 2 };
    num.is_power_of_two() && is_vring(num, areas, least)
}

/// Whether the areas have the alignment that a packed ring needs, and do not overlap.
fn is_packed_ring(num: u16, areas: QueueAreas) -> bool {
    let (desc, driver, device) = (areas.desc.0, areas.driver.0, areas.device.0);
    desc.is_multiple_of(16)
        && driver.is_multiple_of(4)
        && device.is_multiple_of(4)
        && driver >= desc + 16 * u64::from(num)
        && device >= driver + 4
}

/// Whether some alignment of the used ring, as `vring_init` takes it, of so many bits at least, gives
/// these areas.
fn is_vring(num: u16, areas: QueueAreas, least: u32) -> bool {
    let QueueAreas {
        desc,
        driver,
        device,
    } = areas;
    let alignment = if least == 12 { 4096 } else { 16 };
    (least..=12).any(|log| {
        vring_init(num, 1 << log).is_ok_and(|layout| {
            desc.0.is_multiple_of(alignment)
                && desc.checked_add(layout.avail as u64) == Some(driver)
                && desc.checked_add(layout.used as u64) == Some(device)
        })
    })
}

/// The peer had all it wanted, and the gateway answered.
pub(super) fn end(served: &Served, options: &Options, report: &mut Report) {
    report.check(
        "net_peer_finished",
        served.progress == Progress::Finished,
        "the peer says finish",
        &format!("{:?}", served.progress),
        "the peer's side: xtask",
    );
    if options.ping > 0 {
        let pings = served.pings;
        let answered = |p: guest_services::Pings| (p.sent, p.received) == (options.ping, p.sent);
        report.check(
            "net_ping",
            pings.is_some_and(answered),
            &format!("{} replies", options.ping),
            &format!("{pings:?}"),
            "the gateway, or frames that got lost",
        );
    }
}

/// How long the device may take for the last frames that it was given.
const LAST_FRAMES: Duration = Duration::from_secs(10);

/// Resets the card and accounts for every buffer that it was ever given. The card, for more.
pub(super) fn reset(
    card: Card,
    interrupts: &DeviceInterrupts,
    served: &Served,
    report: &mut Report,
) -> Option<AnyTransport> {
    let fault = card.fault();
    let mut driver = card.into_driver();
    let outstanding = drain(driver.tx());
    report.check(
        "net_every_frame_went_out",
        outstanding == 0,
        "no frame is left in the transmit queue",
        &format!("{outstanding} after {LAST_FRAMES:?}"),
        HERE,
    );
    let (rx, tx, _) = driver.parts();
    let (runts, counters) = (rx.runts(), [("rx", rx.counters()), ("tx", tx.counters())]);
    let mut returned = [0u64; 2];
    let reset =
        driver.shutdown(|queue, _buffer| returned[usize::from(queue != RECEIVE_QUEUE)] += 1);
    let (transport, why) = match reset {
        Ok(transport) => (Some(transport), String::new()),
        Err((_, why)) => (None, why.to_string()),
    };
    report.check(
        "net_reset",
        transport.is_some(),
        "a reset that the device confirms",
        &why,
        HERE,
    );

    let queues: Vec<_> = (0..)
        .zip(counters)
        .zip(returned)
        .map(|((index, (name, counters)), returned)| QueueCounters {
            index,
            name: name.into(),
            submitted: counters.submitted,
            completed: counters.completed,
            returned_by_reset: returned,
            kicks: counters.kicks,
            suppressed_kicks: counters.suppressed_kicks,
            faults: counters.faults,
        })
        .collect();
    let seen = format!("{queues:?}");
    let kept = |q: &QueueCounters| q.submitted == q.completed + q.returned_by_reset;
    let submitted: u64 = queues.iter().map(|q| q.submitted).sum();
    report.check(
        "net_every_buffer_came_back",
        submitted > 0 && queues.iter().all(kept) && Identity::leaks() == 0,
        "submitted = completed + returned by the reset, and nothing leaked",
        &seen,
        HERE,
    );
    let honest = |(_, counters): &(_, Counters)| counters.faults == 0 && counters.overruns == 0;
    report.check(
        "net_no_faults",
        fault.is_none() && runts == 0 && counters.iter().all(honest),
        "a device that keeps to the specification",
        &format!("{fault:?}, {runts} runts, {counters:?}"),
        HERE,
    );
    // Nothing received, nothing to interrupt for.
    let received = counters[0].1.completed > 0;
    let raised = interrupts.queue_count();
    report.check(
        "net_interrupts_come_when_armed",
        (raised > 0) == (interrupts.is_enabled() && received),
        if interrupts.is_enabled() {
            "some"
        } else {
            "none"
        },
        &format!("{raised} with {}", interrupts.name()),
        "qemu-tests/src/kernel/device_interrupts.rs",
    );
    event(&Event::Counters {
        queues,
        interrupts: raised,
        spurious_interrupts: served.spurious + interrupts.foreign_count(),
    });
    transport
}

/// Takes back the frames that have gone out until all have, or for so long; how many are left.
fn drain(tx: &mut Transmitter<Identity, Box<[u8]>>) -> u16 {
    let until = clock::now() + LAST_FRAMES;
    while tx.reclaim(drop).is_ok() && tx.outstanding() > 0 && clock::now() < until {
        core::hint::spin_loop();
    }
    tx.outstanding()
}
