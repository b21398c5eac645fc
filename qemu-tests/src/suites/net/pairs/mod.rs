//! The card with two queue pairs, each driven by a processor of its own (VIRTIO 1.4, 5.1.6.5.5).
//!
//! The first processor brings the card up, has the device use both pairs by a command on the
//! control queue, and gives the receive and transmit queue of the second pair away: they move to
//! the second processor by value, as each of them is `Send` and shares nothing with the others. From
//! there on both work at the same time, and each is interrupted by its own queue. At the end the
//! queues come back, and with the reset every buffer.

mod frames;
mod verdict;
mod worker;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use guest_services::Config;
use smoltcp::wire::{EthernetAddress, Ipv4Address};
use vring::buffer::{Readable, Writable};
use vring::device::net::F;
use vring::features::{Feature, Features, Wish};
use vring::init::{self, Live, QueueConfig};
use vring::transport::config::{self, Field};
use vring::transport::pci::MsixTable;
use vring::transport::{DeviceId, QueueIndex};
use vring::virtqueue::Virtqueue;
use vring_protocol::{Event, Options};

use self::verdict::judge;
use self::worker::{Alarm, PATIENCE, Rx, Shared, Tally, Tx, Worker};
use super::{LOCAL_MAC, facts};
use crate::kernel::access::Access;
use crate::kernel::device_interrupts::Interrupting as _;
use crate::kernel::platform::Identity;
use crate::kernel::smp::{self, run_on};
use crate::kernel::transports::{AnyTransport, Found};
use crate::kernel::{Machine, clock, interrupts};
use crate::report::{Report, event};

const HERE: &str = "qemu-tests/src/suites/net/pairs/mod.rs";

/// Queue pairs, and processors.
const PAIRS: usize = 2;

/// `VIRTIO_NET_F_CTRL_VQ` and `VIRTIO_NET_F_MQ`: the control queue, and several queue pairs.
const CTRL_VQ: Feature = feature(17);
/// See [`CTRL_VQ`].
const MQ: Feature = feature(22);

/// What this exercise is able to use.
const WANTED: Features = Features::of(&[
    F::MAC,
    CTRL_VQ,
    MQ,
    Feature::EVENT_IDX,
    Feature::RING_PACKED,
    Feature::IN_ORDER,
]);

const MAC: Field<[u8; 6]> = Field::gated(0, F::MAC);
const MAX_VIRTQUEUE_PAIRS: Field<u16> = Field::gated(8, MQ);

/// Class and command of `VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET`, and the answer to a command that was done.
const CTRL_MQ: [u8; 2] = [4, 0];
const CTRL_OK: u8 = 0;

const fn feature(bit: u8) -> Feature {
    match Feature::new(bit) {
        Some(feature) => feature,
        None => panic!("a bit of the 128"),
    }
}

/// A command, and the byte that the device answers with.
type Ctrl = Virtqueue<Identity, (Readable<Box<[u8]>>, Writable<Box<[u8]>>)>;

/// The card with its queues.
struct Card {
    live: Live<Identity, AnyTransport>,
    max_pairs: u16,
    mac: EthernetAddress,
    ctrl: Ctrl,
    pairs: [(Rx, Tx); PAIRS],
    alarms: [Arc<Alarm>; PAIRS],
    /// Kept, as dropping it is not meant to happen while the device runs.
    table: MsixTable<Access>,
}

/// Drives the card, and leaves it reset.
pub(super) fn run(machine: &Machine, config: &Config, options: &Options, report: &mut Report) {
    if smp::running() < PAIRS {
        event(&Event::Skipped {
            what: "a processor for each queue pair".into(),
            why: format!(
                "{} of {} processors run",
                machine.started.running, machine.started.described
            ),
            fix: "give the machine two: --cpus 2".into(),
        });
        return;
    }
    let expected = "a card with two queue pairs, and a control queue";
    let Some(mut card) = report.step("pairs_init", expected, start(machine, options), HERE) else {
        return;
    };
    let set = set_pairs(&mut card);
    let ready = report
        .step("pairs_set", "the device uses two pairs", set, HERE)
        .is_some();
    let outcome = ready.then(|| exchange(card, config, options.pairs));
    let Some(outcome) = outcome else { return };
    if let Some(after) = report.step("pairs_run", "both processors are over", outcome, HERE) {
        judge(after, options.pairs, report);
    }
}

/// A vector of the table for each queue of the pairs, which interrupts the pair's own processor.
fn interrupt_each(
    table: &mut MsixTable<Access>,
    alarms: &[Arc<Alarm>; PAIRS],
) -> Result<(), String> {
    for (cpu, alarm) in alarms.iter().enumerate() {
        let (receives, transmits) = (alarm.clone(), alarm.clone());
        let vectors = [
            interrupts::allocate(move || receives.receive(cpu)),
            interrupts::allocate(move || transmits.transmit(cpu)),
        ];
        for (entry, vector) in (2 * cpu as u16..).zip(vectors) {
            let vector = vector.ok_or("the kernel has no interrupt vector left")?;
            let message = smp::message_on(cpu, vector);
            let message = message.ok_or_else(|| format!("no message reaches processor {cpu}"))?;
            table.set(entry, message).map_err(|why| why.to_string())?;
            table.unmask(entry).map_err(|why| why.to_string())?;
        }
    }
    Ok(())
}

fn start(machine: &Machine, options: &Options) -> Result<Card, String> {
    let (transport, id) = (options.transport, DeviceId::NETWORK);
    let found = Found::with_access(machine, transport, Access::of(options), id);
    let mut found = found.map_err(|why| why.to_string())?;
    let table = found.enable_msix(machine);
    let mut table = table.map_err(|why| why.to_string())?;
    let alarms = [Arc::<Alarm>::default(), Arc::default()];
    interrupt_each(&mut table, &alarms)?;

    let require = facts::by_name(&options.require)?;
    let wish = Wish {
        want: WANTED,
        // The rest is asked of the network driver, and of the exercise with pieces.
        require: (require & WANTED) | Features::of(&[CTRL_VQ, MQ]),
        refuse: facts::by_name(&options.refuse)?,
        ..Wish::default()
    };
    let reset =
        init::reset(found.into_transport(), &Identity).map_err(|error| error.why.to_string())?;
    let negotiated = reset.negotiate(&wish);
    let mut negotiated = negotiated.map_err(|error| error.why.to_string())?;
    let features = negotiated.features();
    let transport = negotiated.transport();
    let max_pairs = config::read(transport, &Identity, features, MAX_VIRTQUEUE_PAIRS);
    let max_pairs = max_pairs.map_err(|why| why.to_string())?;
    if !(PAIRS as u16..=0x8000).contains(&max_pairs) {
        return Err(format!("max_virtqueue_pairs is {max_pairs}"));
    }
    let mac = config::read(transport, &Identity, features, MAC).unwrap_or(LOCAL_MAC);

    let mut pending = Vec::new();
    for pair in 0..PAIRS as u16 {
        let queue = |index: u16| QueueConfig::new(options.queue_size).vector(Some(index));
        let rx = negotiated.queue(QueueIndex(2 * pair), &queue(2 * pair));
        let tx = negotiated.queue(QueueIndex(2 * pair + 1), &queue(2 * pair + 1));
        pending.push((
            rx.map_err(|why| why.to_string())?,
            tx.map_err(|why| why.to_string())?,
        ));
    }
    // Behind the queues of all pairs that the device has (VIRTIO 1.4, 5.1.2).
    let control = max_pairs.checked_mul(2).map(QueueIndex);
    let control = control.ok_or("no number is left for the control queue")?;
    let ctrl = negotiated.queue(control, &QueueConfig::new(4));
    let ctrl = ctrl.map_err(|why| why.to_string())?;
    let live = negotiated.finish();
    let live = live.map_err(|aborted| aborted.why.to_string())?;
    let foreign = "a queue of another device";
    let mut pairs = Vec::new();
    for (rx, tx) in pending {
        pairs.push((
            rx.start(&live).map_err(|_| foreign)?,
            tx.start(&live).map_err(|_| foreign)?,
        ));
    }
    Ok(Card {
        ctrl: ctrl.start(&live).map_err(|_| foreign)?,
        pairs: pairs.try_into().map_err(|_| "a pair for each processor")?,
        live,
        max_pairs,
        mac: EthernetAddress(mac),
        alarms,
        table,
    })
}

/// Has the device use as many pairs as there are processors.
fn set_pairs(card: &mut Card) -> Result<(), String> {
    match command(&mut card.ctrl, PAIRS as u16)? {
        CTRL_OK => Ok(()),
        answer => Err(format!(
            "{PAIRS} of {} pairs: the device answers {answer}",
            card.max_pairs
        )),
    }
}

/// `VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET`; the device's answer.
fn command(ctrl: &mut Ctrl, pairs: u16) -> Result<u8, String> {
    let words = [CTRL_MQ, pairs.to_le_bytes()].concat();
    let command = Readable(words.into_boxed_slice());
    // What the device does not write is no "done".
    let answer = Writable(Box::from([u8::MAX]));
    let given = ctrl.submit((command, answer));
    given.map_err(|rejected| format!("the command was rejected: {:?}", rejected.why))?;
    ctrl.kick();
    let until = clock::now() + PATIENCE;
    while clock::now() < until {
        if let Some(done) = ctrl.next_completion().map_err(|fault| fault.to_string())? {
            let (_, Writable(answer)) = done.into_buf();
            return Ok(answer[0]);
        }
        core::hint::spin_loop();
    }
    Err("the device does not answer on its control queue".into())
}

/// What is left after the exercise.
struct After {
    live: Live<Identity, AnyTransport>,
    max_pairs: u16,
    ctrl: Ctrl,
    done: [(Worker, Tally); PAIRS],
    /// Kept as before.
    table: MsixTable<Access>,
}

/// Gives the second pair away, drives the first one, and waits for the second.
fn exchange(card: Card, config: &Config, wanted: u16) -> Result<After, String> {
    let Card {
        live,
        max_pairs,
        mac,
        ctrl,
        pairs,
        alarms,
        table,
    } = card;
    // An address for each, the guest's own and the next one.
    let [a, b, c, d] = config.ip.address().octets();
    let ips = [0, 1].map(|more| Ipv4Address::new(a, b, c, d.wrapping_add(more)));
    let shared = Arc::<Shared>::default();
    let mut cores = (0..)
        .zip(pairs)
        .zip(alarms)
        .map(|((cpu, (rx, tx)), alarm)| Worker {
            cpu,
            rx,
            tx,
            mac,
            ips,
            gateway: config.gateway,
            wanted,
            alarm,
            shared: shared.clone(),
        });
    let (Some(first), Some(second)) = (cores.next(), cores.next()) else {
        return Err("a pair for each processor".into());
    };
    let there = run_on(1, move || second.run()).map_err(|why| why.to_string())?;
    let here = first.run();
    // It waits for the first one, and gives up by itself.
    let there = there.wait(PATIENCE).map_err(|why| why.to_string())?;
    Ok(After {
        live,
        max_pairs,
        ctrl,
        done: [here, there],
        table,
    })
}
