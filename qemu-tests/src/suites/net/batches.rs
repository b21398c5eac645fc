//! What crosses the border of the virtual machine for a packet: the card once more, with a driver
//! that sends questions in batches and waits for the answers.
//!
//! A packet is an ARP request that the peer answers. A batch is sent with one kick; then the guest
//! sleeps until interrupts have brought every answer, and gives the buffers back. Doorbell stores
//! and interrupts are counted where they happen; every other access of a register goes through
//! [`Access::Counted`], which is there to show that there is none.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use core::time::Duration;

use guest_services::Config;
use vring::buffer::Window;
use vring::device::net::{Driver, Options as DriverOptions};
use vring::transport::DeviceId;
use vring_protocol::{Event, Options};

use super::super::arp::{FRAME, is_answer, question};
use super::{HEADER, LOCAL_MAC, bring_up, facts};
use crate::kernel::access::{Access, Counts};
use crate::kernel::device_interrupts::DeviceInterrupts;
use crate::kernel::platform::Identity;
use crate::kernel::transports::{AnyTransport, Found};
use crate::kernel::{Machine, clock};
use crate::report::{Report, event};

const HERE: &str = "qemu-tests/src/suites/net/batches.rs";

/// How long the answers to a batch may take on a host that is busy.
const PATIENCE: Duration = Duration::from_secs(20);

type Card = Driver<Identity, AnyTransport, Box<[u8]>>;

/// Drives the card, and leaves it reset.
pub(super) fn run(machine: &Machine, config: &Config, options: &Options, report: &mut Report) {
    let counted = match start(machine, options) {
        Ok((mut card, mut interrupts)) => {
            let counted = Options::BATCHES.iter().try_for_each(|batch| {
                let happened =
                    exchange(&mut card, &mut interrupts, config, *batch, options.batches)?;
                event(&happened);
                Ok(())
            });
            let reset = card.shutdown(|_, _| {}).map_err(|(_, why)| why.to_string());
            counted.and(reset.map(drop))
        }
        Err(why) => Err(why),
    };
    let seen = counted.as_ref().err().map_or("", String::as_str);
    report.check(
        "batches",
        counted.is_ok(),
        "every packet is answered",
        seen,
        HERE,
    );
}

fn start(machine: &Machine, options: &Options) -> Result<(Card, DeviceInterrupts), String> {
    let (transport, id) = (options.transport, DeviceId::NETWORK);
    let found = Found::with_access(machine, transport, Access::Counted, id);
    let mut found = found.map_err(|why| why.to_string())?;
    let interrupts = bring_up::choose(machine, &mut found, &options.interrupts);
    let interrupts = interrupts.map_err(|why| why.to_string())?;
    let transport = found.into_transport();
    let mut wanted = DriverOptions::default();
    wanted.receive_size = options.queue_size;
    wanted.transmit_size = options.queue_size;
    wanted.receive_vector = interrupts.queue_vector(0);
    wanted.transmit_vector = interrupts.queue_vector(1);
    wanted.config_vector = interrupts.config_vector();
    wanted.refuse = facts::by_name(&options.refuse)?;
    let card = Driver::new(Identity, transport, wanted);
    let mut card: Card = card.map_err(|error| error.why.to_string())?;
    let len = card.rx().buffer_len();
    let mut buffers = core::iter::repeat_with(|| vec![0; len].into_boxed_slice());
    card.rx()
        .refill(&mut buffers)
        .map_err(|error| format!("{:?}", error.why))?;
    Ok((card, interrupts))
}

/// Sends so many packets in batches; what that took.
fn exchange(
    card: &mut Card,
    interrupts: &mut DeviceInterrupts,
    config: &Config,
    batch: u32,
    packets: u32,
) -> Result<Event, String> {
    let (rx, tx, control) = card.parts();
    let question = question(control.mac().unwrap_or(LOCAL_MAC), config);
    let frame = || {
        let mut bytes = vec![0; HEADER + FRAME].into_boxed_slice();
        bytes[HEADER..].copy_from_slice(&question);
        Window::new(bytes, HEADER, FRAME)
    };
    let before = (rx.counters(), tx.counters(), interrupts.queue_count());
    let accesses = Counts::now().accesses;
    let rounds = packets.div_ceil(batch);
    for _ in 0..rounds {
        for _ in 0..batch {
            tx.transmit(frame())
                .map_err(|error| format!("{:?}", error.why))?;
        }
        tx.kick();
        let until = clock::now() + PATIENCE;
        let mut answers = 0;
        while answers < batch {
            interrupts.take();
            while let Some(frame) = rx.receive().map_err(|fault| fault.to_string())? {
                answers += u32::from(is_answer(frame.as_slice(), config));
                rx.give(frame.into_memory())
                    .map_err(|(_, why)| format!("{why:?}"))?;
            }
            if answers < batch {
                if clock::now() > until {
                    return Err(format!(
                        "{answers} of {batch} packets answered in {PATIENCE:?}"
                    ));
                }
                // However soon a look would find the answers, somebody who sleeps would not.
                if !rx.arm() && !interrupts.wait(until) {
                    return Err(format!(
                        "no interrupt ended the halt in {PATIENCE:?}, {answers} of {batch} packets \
                         answered before"
                    ));
                }
                rx.disarm();
            }
        }
        rx.kick();
        tx.reclaim(drop).map_err(|fault| fault.to_string())?;
    }
    let (received, sent) = (rx.counters(), tx.counters());
    Ok(Event::Batches {
        batch,
        packets: rounds * batch,
        transmit_kicks: sent.kicks - before.1.kicks,
        receive_kicks: received.kicks - before.0.kicks,
        suppressed_kicks: sent.suppressed_kicks - before.1.suppressed_kicks
            + (received.suppressed_kicks - before.0.suppressed_kicks),
        interrupts: interrupts.queue_count() - before.2,
        register_accesses: Counts::now().accesses - accesses,
    })
}
