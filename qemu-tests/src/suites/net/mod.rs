//! virtio-net: finds the card, brings it up, serves the peer until it says `finish`, resets the
//! card, and counts what came back. At the end [`pieces`] drives the card once more, without the
//! network driver. Then, where they are asked for, [`pairs`] has a queue pair for each processor, and
//! [`batches`] a driver that counts what leaves the virtual machine; with interrupts [`awaited`] has
//! tasks that sleep drive it.
//!
//! [`serve`] is the loop that a kernel with interrupts writes: poll until there is no work, arm,
//! look again, halt until an interrupt or until a timer of the protocol stack.

mod awaited;
mod batches;
mod bring_up;
pub(super) mod facts;
mod pairs;
mod pieces;
mod verdict;

use alloc::string::ToString;
use core::time::Duration;

use guest_services::{Config, Pings, Progress, Services};
use smoltcp::time::Instant;
use vring::adapter::smoltcp::Device;
use vring_protocol::{Event, Options};

use crate::kernel::device_interrupts::DeviceInterrupts;
use crate::kernel::platform::Identity;
use crate::kernel::transports::AnyTransport;
use crate::kernel::{Machine, clock};
use crate::report::{self, Report};

/// The card as smoltcp sees it.
type Card = Device<Identity, AnyTransport>;

/// The queues that the card is driven with: receive, transmit.
pub(super) const QUEUES: u16 = 2;

/// Bytes of the device's header (VIRTIO 1.4, 5.1.6.1), which a legacy device knows the count of
/// buffers of only with `VIRTIO_NET_F_MRG_RXBUF`.
pub(super) const HEADER: usize = 12;
/// See [`HEADER`].
const LEGACY_HEADER: usize = 10;

/// Bytes of the longest frame.
const LONGEST: usize = 1514;

/// Runs the suite.
pub(crate) fn run(machine: &Machine, options: &Options, report: &mut Report) {
    let Some((mut card, mut interrupts, place)) = bring_up::run(machine, options, report) else {
        return;
    };
    facts::announce(&mut card, &interrupts, place, options.transport);
    verdict::rings(&mut card, options, report);

    let mac = card.control().mac().unwrap_or(LOCAL_MAC);
    let Some(config) = Config::new(mac, options) else {
        let seen = alloc::format!("ip={} gw={}", options.ip, options.gateway);
        report.fail("net_addresses", "IPv4", &seen, "the command line");
        return;
    };
    let mut services = Services::new(&config, &mut card, now());
    report::event(&Event::Ready {
        ip: config.ip.address().to_string(),
    });
    let served = serve(&mut services, &mut card, &mut interrupts);
    verdict::end(&served, options, report);
    let transport = verdict::reset(card, &interrupts, &served, report);
    let Some(transport) = transport else { return };
    if options.counted_registers {
        facts::registers();
    }
    if options.pieces > 0 {
        pieces::run(transport, &config, options, report);
    }
    if options.awaited > 0 && interrupts.is_enabled() {
        awaited::run(machine, &config, options, report);
    }
    if options.pairs > 0 {
        pairs::run(machine, &config, options, report);
    }
    if options.batches > 0 {
        batches::run(machine, &config, options, report);
    }
}

/// For a card without an address: locally administered (VIRTIO 1.4, 5.1.4.2).
pub(super) const LOCAL_MAC: [u8; 6] = [0x02, b'v', b'r', b'i', b'n', b'g'];

/// How the services ended, and what the loop counted.
struct Served {
    progress: Progress,
    pings: Option<Pings>,
    /// Wakes by an interrupt that found nothing to do.
    spurious: u64,
}

/// Drives the services until they are over, or the card is broken.
fn serve(services: &mut Services, card: &mut Card, interrupts: &mut DeviceInterrupts) -> Served {
    let mut served = Served {
        progress: Progress::Busy,
        pings: None,
        spurious: 0,
    };
    let (mut interrupted, mut worked) = (false, false);
    loop {
        interrupted |= interrupts.take();
        served.progress = services.poll(now(), card);
        if served.pings.is_none() {
            served.pings = services.pings();
            served.pings.iter().for_each(facts::pings);
        }
        match served.progress {
            Progress::Busy => worked = true,
            Progress::Idle(until) => {
                served.spurious += u64::from(interrupted && !worked);
                (interrupted, worked) = (false, false);
                if interrupts.is_enabled() {
                    if card.arm() {
                        worked = true;
                    } else {
                        interrupts.wait(since_boot(until));
                    }
                    card.disarm();
                } else {
                    core::hint::spin_loop();
                }
            }
            Progress::Finished | Progress::GaveUp => return served,
        }
        if card.fault().is_some() {
            return served;
        }
    }
}

/// The clock as smoltcp reads it.
fn now() -> Instant {
    Instant::from_micros(clock::now().as_micros() as i64)
}

fn since_boot(instant: Instant) -> Duration {
    Duration::from_micros(instant.total_micros().unsigned_abs())
}
