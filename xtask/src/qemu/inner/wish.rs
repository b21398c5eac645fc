//! What the command line steered to, beside what came of it.

use vring_protocol::Transport;

use crate::qemu::features::{self, bit};
use crate::qemu::job::{Job, Link};
use crate::qemu::report::{Failure, Findings, NotOffered};
use crate::qemu::vhost;

/// What of a cell the kernel's vhost-net does not have. A run on its own is not asked: there, a
/// feature that is required and absent is a failure.
pub(super) fn not_offered(job: &Job) -> anyhow::Result<Option<NotOffered>> {
    if job.link != Link::VhostTap || job.cell.is_empty() {
        return Ok(None);
    }
    let offered = vhost::features()?;
    let missing = job.steer.require.iter().filter(|name| {
        // What the network device is about is QEMU's business, but for what changes the rings.
        let ring = name.starts_with("VIRTIO_F_") || *name == "VIRTIO_NET_F_MRG_RXBUF";
        ring && bit(name).is_some_and(|bit| offered >> bit & 1 == 0)
    });
    let features: Vec<String> = missing.cloned().collect();
    let uname = rustix::system::uname();
    Ok((!features.is_empty()).then(|| NotOffered {
        by: format!("vhost-net of Linux {}", uname.release().to_string_lossy()),
        features,
    }))
}

/// Whether the driver accepted what it had to, and nothing that it had not.
pub(super) fn features(job: &Job, findings: &Findings) -> Vec<Failure> {
    let mut failures = Vec::new();
    let Some(seen) = &findings.features else {
        return failures;
    };
    // The exercises over queues of their own know features that the network driver does not.
    let pieces = findings.pieces.iter().flat_map(|pieces| &pieces.acked);
    let pairs = findings.pairs.iter().flat_map(|pairs| &pairs.acked);
    let acked: Vec<&String> = seen.acked.iter().chain(pieces).chain(pairs).collect();
    let all = acked.iter().map(|name| name.as_str()).collect::<Vec<_>>();
    for name in &job.steer.require {
        if !acked.contains(&name) {
            let offered = if seen.offered.contains(name) {
                "offered, and not acknowledged"
            } else {
                "not offered"
            };
            failures.push(Failure::new(
                format!("feature {name}"),
                "offered and acknowledged",
                offered,
                "the back end, or the driver, does not have it: features in the report",
            ));
        }
    }
    for name in &job.steer.refuse {
        if acked.contains(&name) {
            failures.push(Failure::new(
                format!("feature {name}"),
                "not acknowledged",
                all.join(" "),
                "the driver accepted what it was told to refuse",
            ));
        }
    }
    if let (Some(asked), Some(ring)) = (job.steer.ring(), &findings.ring)
        && asked != ring
    {
        failures.push(Failure::new(
            "ring",
            asked,
            ring,
            "VIRTIO_F_RING_PACKED chooses it: features in the report",
        ));
    }
    failures
}

/// Whether the queues have the size that driver and device allow.
pub(super) fn sizes(job: &Job, findings: &Findings) -> Vec<Failure> {
    let packed = findings.ring.as_deref() == Some("packed");
    let (receive, transmit) = job.device_sizes;
    let mut failures = Vec::new();
    for queue in &findings.queues {
        let most = match queue.name.as_str() {
            "rx" => receive,
            "tx" => transmit,
            _ => continue,
        };
        let expected = match job.transport {
            // There is no way to tell the device of another.
            Transport::PciLegacy => most,
            _ => features::queue_size(job.queue_size, most, packed),
        };
        if queue.num != expected {
            failures.push(Failure::new(
                format!("size of queue {} ({})", queue.index, queue.name),
                format!("{expected}: {} asked for, {most} at most", job.queue_size),
                queue.num,
                "the driver takes the smaller of both; a split ring the power of two below",
            ));
        }
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::report::{Addresses, Features, Pieces, Queue};

    fn job(require: &[&str], refuse: &[&str]) -> Job {
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        let mut job = super::super::verdict::tests::job();
        job.steer.require = names(require);
        job.steer.refuse = names(refuse);
        job
    }

    fn found(offered: &[&str], acked: &[&str]) -> Findings {
        let names = |list: &[&str]| list.iter().map(ToString::to_string).collect();
        Findings {
            features: Some(Features {
                offered: names(offered),
                acked: names(acked),
                ..Features::default()
            }),
            ring: Some("split".into()),
            ..Findings::default()
        }
    }

    #[test]
    fn what_is_required_and_not_acknowledged_is_a_failure() {
        let seen = |job: &Job, findings: &Findings| -> Vec<String> {
            let failures = features(job, findings).into_iter();
            failures.map(|failure| failure.seen).collect()
        };
        let required = job(&["A", "B"], &[]);
        let mut findings = found(&["A"], &[]);
        let expected = ["offered, and not acknowledged", "not offered"];
        assert_eq!(seen(&required, &findings), expected);
        findings.pieces = Some(Pieces {
            acked: vec!["A".into(), "B".into()],
            ..Pieces::default()
        });
        assert!(seen(&required, &findings).is_empty());
        assert_eq!(seen(&job(&[], &["B"]), &findings), ["A B"]);
        assert!(seen(&job(&[], &["C"]), &findings).is_empty());
    }

    #[test]
    fn another_ring_and_another_size_are_failures() {
        let packed = job(&["VIRTIO_F_RING_PACKED"], &[]);
        let mut findings = found(&[], &["VIRTIO_F_RING_PACKED"]);
        assert_eq!(features(&packed, &findings).len(), 1);
        findings.ring = Some("packed".into());
        assert!(features(&packed, &findings).is_empty());
        for (index, name, num) in [(0, "rx", 200), (1, "tx", 128)] {
            findings.queues.push(Queue {
                index,
                name: name.into(),
                num,
                driver: Addresses::default(),
                host: None,
                host_sizes: None,
                host_num: None,
                matches_driver: false,
            });
        }
        let mut packed = packed;
        packed.queue_size = 200;
        assert_eq!(sizes(&packed, &findings).len(), 1);
        findings.ring = Some("split".into());
        assert_eq!(sizes(&packed, &findings).len(), 1);
    }
}
