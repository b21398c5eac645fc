//! The traffic: each phase with its capture, its tap counters and its checks.

use std::time::{Duration, Instant};

use serde_json::json;

use super::capture::{self, Capture};
use super::live::Live;
use super::serial::Serial;
use super::{QMP_SECONDS, Run};
use crate::qemu::channel::Frame;
use crate::qemu::job::{GUEST, Link};
use crate::qemu::limits::Deadline;
use crate::qemu::peer::{Progress, datagram, ping, stream};
use crate::qemu::report::{Bulk, Failure, Flow};
use crate::qemu::stop::Stop;
use crate::qemu::tap::{LinkCounters, Tap};

/// Which way a flow goes, to know which of the tap's counters is its.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Up,
    Down,
}

/// What the tap dropped between two looks. The guest receives what the tap transmits.
fn dropped(way: Way, before: LinkCounters, after: LinkCounters) -> u64 {
    match way {
        Way::Up => after.rx_dropped.saturating_sub(before.rx_dropped),
        Way::Down => after.tx_dropped.saturating_sub(before.tx_dropped),
    }
}

fn check_bulk(name: &str, wanted: u64, bulk: Bulk) -> Option<Failure> {
    (bulk.bytes != wanted || !bulk.sha256_ok).then(|| {
        let digest = if bulk.sha256_ok { "equal" } else { "different" };
        Failure::new(
            name,
            format!("{wanted} bytes with the same SHA-256 at both ends"),
            format!("{} bytes, {digest} SHA-256", bulk.bytes),
            format!("{name}.pcap has the first frames"),
        )
    })
}

impl Run<'_> {
    /// Runs a phase with what it needs around it.
    fn captured<T>(
        &mut self,
        name: &str,
        live: &mut Live,
        serial: &mut Serial,
        work: impl FnOnce(Deadline, Progress<'_>) -> Result<T, Stop>,
    ) -> Result<T, Stop> {
        self.phase(name);
        let file = self.job.dir.join(format!("{name}.pcap"));
        let limit = self.deadline.within(QMP_SECONDS);
        let mut capture = None;
        match self.job.link {
            Link::VhostTap => capture = Some(Capture::start(&file)?),
            Link::User => {
                let arguments = json!({"qom-type": "filter-dump", "id": "dump", "netdev": "n0",
                    "file": file, "maxlen": capture::SNAP});
                live.qmp.execute("object-add", arguments, limit)?;
            }
        }
        let outlet = &mut self.outlet;
        let mut told = Instant::now();
        let result = work(self.deadline, &mut |done, total| {
            if told.elapsed() > Duration::from_millis(200) || done >= total {
                told = Instant::now();
                outlet.send(Frame::Progress { done, total });
                serial.pump(&mut **outlet);
            }
        });
        drop(capture);
        if self.job.link == Link::User && result.is_ok() {
            live.qmp
                .execute("object-del", json!({"id": "dump"}), limit)?;
            capture::trim(&file)?;
        }
        serial.pump(self.outlet);
        result
    }

    fn flow(
        &mut self,
        name: &str,
        way: Way,
        live: &mut Live,
        serial: &mut Serial,
        tap: Option<&Tap>,
        work: impl FnOnce(Deadline, Progress<'_>) -> Result<Flow, Stop>,
    ) -> Result<Flow, Stop> {
        let before = tap.map(Tap::counters).transpose()?;
        let mut flow = self.captured(name, live, serial, work)?;
        if let (Some(tap), Some(before)) = (tap, before) {
            flow.dropped_by_tap = Some(dropped(way, before, tap.counters()?));
        }
        Ok(flow)
    }

    /// Pings, bulk data, paced and unpaced datagrams.
    pub(super) fn traffic(
        &mut self,
        live: &mut Live,
        serial: &mut Serial,
        tap: Option<&Tap>,
    ) -> Result<(), Stop> {
        let load = self.job.load;
        let to = live.endpoints(self.job, self.deadline.within(QMP_SECONDS))?;
        // From outside, the user-mode network passes no ping on: there only the guest pings.
        if self.job.link == Link::VhostTap {
            let result = self.captured("ping", live, serial, |deadline, progress| {
                ping::ping(GUEST, load.pings, deadline, progress)
            })?;
            self.findings.ping = Some(result);
        }

        let bulk = self.captured("tcp_up", live, serial, |deadline, progress| {
            stream::up(to.source, load.tcp_bytes, deadline, progress)
        })?;
        self.findings.tcp.up = Some(bulk);
        self.findings
            .failures
            .extend(check_bulk("tcp_up", load.tcp_bytes, bulk));

        let bulk = self.captured("tcp_down", live, serial, |deadline, progress| {
            stream::down(to.sink, load.tcp_bytes, deadline, progress)
        })?;
        self.findings.tcp.down = Some(bulk);
        self.findings
            .failures
            .extend(check_bulk("tcp_down", load.tcp_bytes, bulk));

        let flow = self.flow(
            "udp_up",
            Way::Up,
            live,
            serial,
            tap,
            |deadline, progress| datagram::paced_up(to.paced, load.datagrams, deadline, progress),
        )?;
        self.findings.udp.up = Some(flow);
        let flow = self.flow(
            "udp_down",
            Way::Down,
            live,
            serial,
            tap,
            |deadline, progress| datagram::paced_down(to.paced, load.datagrams, deadline, progress),
        )?;
        self.findings.udp.down = Some(flow);

        let flow = self.flow("burst_up", Way::Up, live, serial, tap, |deadline, _| {
            datagram::burst_up(to.burst, load.burst, deadline)
        })?;
        self.findings.burst.up = Some(flow);
        let flow = self.flow("burst_down", Way::Down, live, serial, tap, |deadline, _| {
            datagram::burst_down(to.burst, load.burst, deadline)
        })?;
        self.findings.burst.down = Some(flow);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_those_of_the_way() {
        let before = LinkCounters {
            rx_dropped: 1,
            tx_dropped: 2,
            ..LinkCounters::default()
        };
        let after = LinkCounters {
            rx_dropped: 4,
            tx_dropped: 9,
            ..LinkCounters::default()
        };
        assert_eq!(dropped(Way::Up, before, after), 3);
        assert_eq!(dropped(Way::Down, before, after), 7);
    }

    #[test]
    fn bulk_data_must_be_whole() {
        let bulk = Bulk {
            bytes: 10,
            sha256_ok: true,
            seconds: 1.0,
        };
        assert!(check_bulk("tcp_up", 10, bulk).is_none());
        assert!(check_bulk("tcp_up", 11, bulk).is_some());
        let damaged = Bulk {
            sha256_ok: false,
            ..bulk
        };
        assert!(check_bulk("tcp_up", 10, damaged).is_some());
    }
}
