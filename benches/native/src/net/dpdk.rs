//! DPDK's own driver for virtio devices, in a second `dpdk-testpmd`.
//!
//! Both processes count; the one where frames arrive says how many a second those were, by its own
//! clock. They stop for the ping-pong, which needs their cores.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bench_sampling::report::Subject;
use bench_sampling::share::Watch;
use vring_hosted::testpmd::{Device, Forward, Setup, Testpmd};

use super::{Devices, FIRST, Operation, Ring, SIZE, poller};
use crate::host::{Host, LIMIT, SAMPLE, Unit};

/// Traffic in front of a sample, after a start that empties rings first.
const SETTLE: Duration = Duration::from_millis(40);

/// A way of DPDK's driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path {
    pub(crate) ring: Ring,
    pub(crate) vectorized: bool,
}

impl Path {
    /// All of them: the eight rings, and the vectorized way of both formats.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let plain = Ring::all().map(|ring| Self {
            ring,
            vectorized: false,
        });
        // The packed one is there in order only.
        let packed = Ring {
            in_order: true,
            ..Ring::PACKED
        };
        let vectorized = [Ring::SPLIT, packed].map(|ring| Self {
            ring,
            vectorized: true,
        });
        plain.chain(vectorized)
    }

    pub(crate) fn name(self) -> String {
        let vectorized = if self.vectorized { " vectorized" } else { "" };
        format!("DPDK virtio-user {}{vectorized}", self.ring.name())
    }

    fn options(self) -> String {
        let Ring {
            packed,
            in_order,
            mergeable,
        } = self.ring;
        format!(
            ",queue_size={SIZE},packed_vq={},in_order={},mrg_rxbuf={},vectorized={}",
            u8::from(packed),
            u8::from(in_order),
            u8::from(mergeable),
            u8::from(self.vectorized)
        )
    }
}

const fn of_driver(operation: Operation) -> Forward {
    match operation {
        Operation::Transmit => Forward::TransmitOnly,
        Operation::Receive => Forward::ReceiveOnly,
        Operation::Loop => Forward::Io,
    }
}

/// How long a line of the log may take: on two busy cores, it comes when there is nothing better to
/// do.
const LOG: Duration = Duration::from_secs(20);

struct Pair<'a> {
    host: &'a Host,
    operation: Operation,
    device: &'a Testpmd,
    driver: Testpmd,
}

/// A session of DPDK's driver.
///
/// # Errors
/// When one of the processes fails, or the driver does not take that path here.
pub(crate) fn session(
    host: &Host,
    devices: &mut Devices,
    subject: &Subject,
    path: Path,
    operation: Operation,
) -> anyhow::Result<()> {
    devices.session(host, operation, |running| {
        let setup = Setup {
            device: Device::VirtioUser {
                socket: running.socket.clone(),
                options: path.options(),
            },
            forward: of_driver(operation),
            auto_start: false,
            cores: Some((host.there, host.here)),
            pages: host.pages,
        };
        let driver = Testpmd::launch(&setup, LIMIT)?;
        driver.ready()?;
        check_path(&driver, path, operation)?;
        let device = &running.testpmd;
        device.halt()?;
        let pair = Pair {
            host,
            operation,
            device,
            driver,
        };
        host.on_core(|| pair.measure(subject))?;
        // As it was found.
        device.forward(0)
    })
}

/// Whether the driver has said that it takes the vectorized way: it falls back in silence where it
/// has no code for the processor.
fn check_path(driver: &Testpmd, path: Path, operation: Operation) -> anyhow::Result<()> {
    let directions = match operation {
        // The split ring is vectorized on receiving only.
        Operation::Transmit if !path.ring.packed => &[][..],
        Operation::Transmit => &["Tx path"],
        Operation::Receive => &["Rx path"],
        Operation::Loop if !path.ring.packed => &["Rx path"],
        Operation::Loop => &["Rx path", "Tx path"],
    };
    for direction in directions {
        let is_it = |line: &str| line.contains("using") && line.contains(direction);
        // It may come late: it takes another pipe than answers do.
        let lines = driver.process().wait_for_line(0, LOG, is_it)?;
        let line = lines.last().context("there is no such line")?;
        if line.contains("vectorized") != path.vectorized {
            bail!("DPDK takes another way on this machine: {}", line.trim());
        }
    }
    Ok(())
}

impl Pair<'_> {
    fn measure(&self, subject: &Subject) -> anyhow::Result<()> {
        let clocks = [poller(self.device)?, poller(&self.driver)?];
        self.host.repeat(2 * SAMPLE, || {
            let outcome = bench_sampling::sample(&self.host.placement, || {
                self.start()?;
                std::thread::sleep(SETTLE);
                let counter = self.counter();
                counter.stats()?;
                let watch = Watch::start(&clocks);
                std::thread::sleep(SAMPLE);
                let ended = watch.end();
                let rate = counter.stats()?.received_rate;
                anyhow::ensure!(rate != 0 || !ended.alone, "no frame arrives");
                self.stop()?;
                anyhow::Ok((rate as f64 / Unit::Mpps.scale(), ended))
            })?;
            subject.outcome(outcome, Unit::Mpps.name());
            Ok(outcome)
        })
    }

    /// Where frames arrive.
    fn counter(&self) -> &Testpmd {
        match self.operation {
            Operation::Transmit => self.device,
            Operation::Receive | Operation::Loop => &self.driver,
        }
    }

    fn start(&self) -> anyhow::Result<()> {
        self.device.forward(0)?;
        let first = if self.operation == Operation::Loop {
            FIRST
        } else {
            0
        };
        self.driver.forward(first)
    }

    fn stop(&self) -> anyhow::Result<()> {
        self.driver.halt()?;
        self.device.halt()
    }
}
