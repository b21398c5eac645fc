//! The host's view of each vring beside the driver's.

use anyhow::Context as _;
use serde_json::Value;

use crate::qemu::report::{Addresses, Queue};

/// A vring as the host holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HostQueue {
    pub(crate) num: u16,
    pub(crate) at: Addresses,
    /// Bytes of each area, where the host tells.
    pub(crate) sizes: Option<Addresses>,
}

fn number(answer: &Value, name: &str) -> anyhow::Result<u64> {
    answer[name]
        .as_u64()
        .with_context(|| format!("QEMU's answer has no number {name:?}: {answer}"))
}

fn num(answer: &Value, name: &str) -> anyhow::Result<u16> {
    let num = number(answer, name)?;
    u16::try_from(num).with_context(|| format!("QEMU says that a queue has {num} descriptors"))
}

/// Reads `x-query-virtio-vhost-queue-status`.
pub(crate) fn parse_vhost(answer: &Value) -> anyhow::Result<HostQueue> {
    let get = |name| number(answer, name);
    Ok(HostQueue {
        num: num(answer, "num")?,
        at: Addresses {
            desc: get("desc-phys")?,
            avail: get("avail-phys")?,
            used: get("used-phys")?,
        },
        sizes: Some(Addresses {
            desc: get("desc-size")?,
            avail: get("avail-size")?,
            used: get("used-size")?,
        }),
    })
}

/// Reads `x-query-virtio-queue-status`, for a device that QEMU runs itself.
pub(crate) fn parse_virtio(answer: &Value) -> anyhow::Result<HostQueue> {
    let get = |name| number(answer, name);
    Ok(HostQueue {
        num: num(answer, "vring-num")?,
        at: Addresses {
            desc: get("vring-desc")?,
            avail: get("vring-avail")?,
            used: get("vring-used")?,
        },
        sizes: None,
    })
}

/// The bytes of each area by the specification: the driver and the device area of a packed ring
/// are an event suppression structure each.
pub(crate) fn expected_sizes(num: u16, packed: bool, event_idx: bool) -> Addresses {
    let num = u64::from(num);
    if packed {
        return Addresses {
            desc: 16 * num,
            avail: 4,
            used: 4,
        };
    }
    let event = if event_idx { 2 } else { 0 };
    Addresses {
        desc: 16 * num,
        avail: 4 + 2 * num + event,
        used: 4 + 8 * num + event,
    }
}

/// Compares; the queue for the report, and what differs.
pub(crate) fn compare(
    mut queue: Queue,
    host: HostQueue,
    packed: bool,
    event_idx: bool,
) -> (Queue, Vec<String>) {
    let mut differences = Vec::new();
    let mut check = |what: &str, driver: u64, host: u64| {
        if driver != host {
            differences.push(format!("{what}: driver {driver:#x}, host {host:#x}"));
        }
    };
    check("num", queue.num.into(), host.num.into());
    check("desc", queue.driver.desc, host.at.desc);
    check("avail", queue.driver.avail, host.at.avail);
    check("used", queue.driver.used, host.at.used);
    if let Some(sizes) = host.sizes {
        let expected = expected_sizes(queue.num, packed, event_idx);
        check("bytes of desc", expected.desc, sizes.desc);
        check("bytes of avail", expected.avail, sizes.avail);
        check("bytes of used", expected.used, sizes.used);
    }
    queue.host = Some(host.at);
    queue.host_num = Some(host.num);
    queue.host_sizes = host.sizes;
    queue.matches_driver = differences.is_empty();
    (queue, differences)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn driver() -> Queue {
        Queue {
            index: 0,
            name: "rx".into(),
            num: 256,
            driver: Addresses {
                desc: 267_776_000,
                avail: 267_780_096,
                used: 267_784_192,
            },
            host: None,
            host_sizes: None,
            host_num: None,
            matches_driver: false,
        }
    }

    fn answer() -> Value {
        // As QEMU 7.2 gave it.
        json!({"avail": 139_812_188_585_984_u64, "avail-phys": 267_780_096, "avail-size": 516,
            "call": 0, "desc": 139_812_188_581_888_u64, "desc-phys": 267_776_000,
            "desc-size": 4096, "kick": 0, "name": "virtio-net", "num": 256,
            "used": 139_812_188_590_080_u64, "used-phys": 267_784_192, "used-size": 2052})
    }

    #[test]
    fn equal_is_equal() {
        let host = parse_vhost(&answer()).unwrap();
        let (queue, differences) = compare(driver(), host, false, false);
        assert!(
            queue.matches_driver && differences.is_empty(),
            "{differences:?}"
        );
    }

    #[test]
    fn each_difference_is_named() {
        let mut answer = answer();
        answer["used-phys"] = json!(1);
        let (queue, differences) = compare(driver(), parse_vhost(&answer).unwrap(), false, true);
        assert!(!queue.matches_driver);
        // With EVENT_IDX both rings are two bytes longer than what the host says here.
        assert_eq!(differences.len(), 3, "{differences:?}");
        assert!(differences[0].contains("used"), "{differences:?}");
    }

    #[test]
    fn a_packed_ring_has_other_sizes() {
        let mut answer = answer();
        answer["avail-size"] = json!(4);
        answer["used-size"] = json!(4);
        for event_idx in [false, true] {
            let host = parse_vhost(&answer).unwrap();
            assert!(compare(driver(), host, true, event_idx).0.matches_driver);
            assert!(!compare(driver(), host, false, event_idx).0.matches_driver);
        }
    }

    #[test]
    fn an_answer_without_a_field_is_an_error() {
        let error = parse_vhost(&json!({"num": 256})).unwrap_err().to_string();
        assert!(error.contains("desc-phys"), "{error}");
        assert!(parse_virtio(&json!({"vring-num": 70_000})).is_err());
    }
}
