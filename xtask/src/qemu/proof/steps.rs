//! The steps of QEMU's `vhost_net_start`, each with what shows that it was taken.
//!
//! System calls show the steps: between the driver's `DRIVER_OK` and the first frame, one thread
//! makes the eventfds of the guest and host notifiers and hands everything to `/dev/vhost-net`.
//! Nothing is assumed: a step without evidence is `missing`, which fails the run, unless this host
//! never takes it, and then the reason says why.

use super::strace::Call;
use crate::qemu::report::{Step, StepStatus};

/// What else is known, to tell notifications by ioeventfd from trapped ones.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Notifications {
    /// Times that QEMU traced `virtio_set_status`: tracing works.
    pub(crate) traced_status: usize,
    /// Times that QEMU traced a doorbell store that it had to handle itself.
    pub(crate) traced_notify: usize,
    /// Doorbell stores that the guest counted.
    pub(crate) kicks: Option<u64>,
}

/// Counts the traced events in QEMU's log: statuses, and doorbell stores that QEMU handled, but for
/// those to the control queue, whose index this is. That queue is never vhost's.
///
/// Of a device on PCI by its legacy interface only the queue's own event tells of a doorbell, and
/// QEMU itself gives that once for each queue when it takes a device back from vhost: after a reset,
/// and where an exercise takes the link down. So it counts from the driver's first `DRIVER_OK` to the
/// reset that ends it, which is when the traffic is and what the guest's count is of.
pub(crate) fn count_trace(log: &str, control: Option<u16>) -> (usize, usize) {
    const DRIVER_OK: u32 = 4;
    // `QueueNotify` is at 0x50.
    let doorbells = [
        "virtio_pci_notify_write",
        "virtio_mmio_write_offset virtio_mmio_write offset 0x50 ",
    ];
    let is_doorbell = |event: &str| {
        doorbells.iter().any(|doorbell| event.starts_with(doorbell))
            && (control.is_none() || rung(event) != control)
    };
    let (mut statuses, mut notified, mut running) = (0, 0, false);
    let mut over = false;
    for event in log.lines().map(event) {
        if event.starts_with("virtio_set_status ") {
            statuses += 1;
            let value = event
                .rsplit(' ')
                .next()
                .and_then(|value| value.parse().ok());
            let runs = value.is_some_and(|value: u32| value & DRIVER_OK != 0);
            over |= running && !runs;
            running = runs && !over;
        } else if is_doorbell(event) || running && event.starts_with("virtio_queue_notify ") {
            notified += 1;
        }
    }
    (statuses, notified)
}

/// The queue whose doorbell was rung: `virtio_pci_notify_write <offset> = <queue> (<bytes>)`.
fn rung(event: &str) -> Option<u16> {
    let (_, value) = event.split_once(" = 0x")?;
    let (queue, _) = value.split_once(' ')?;
    u16::from_str_radix(queue, 16).ok()
}

/// The event of a line, which may begin with `123@456.789:`.
fn event(line: &str) -> &str {
    match line.split_once(':') {
        Some((prefix, rest))
            if prefix.contains('@')
                && prefix
                    .bytes()
                    .all(|b| b"@.".contains(&b) || b.is_ascii_digit()) =>
        {
            rest
        }
        _ => line,
    }
}

fn observed(step: &str, evidence: Vec<String>) -> Step {
    let status = if evidence.is_empty() {
        StepStatus::Missing
    } else {
        StepStatus::Observed
    };
    Step {
        step: step.into(),
        status,
        reason: evidence
            .is_empty()
            .then(|| "nothing shows that QEMU took this step".into()),
        evidence,
    }
}

fn not_taken(step: &str, reason: &str) -> Step {
    Step {
        step: step.into(),
        status: StepStatus::NotTaken,
        evidence: Vec::new(),
        reason: Some(reason.into()),
    }
}

/// The calls of one start of vhost: those around the last `VHOST_SET_FEATURES` but one that
/// handed over a back end.
#[derive(Debug, Default)]
struct Start<'a> {
    /// Calls of that thread between the ones before and `VHOST_SET_FEATURES`: notifiers.
    before: Vec<&'a Call>,
    /// Calls from `VHOST_SET_FEATURES` to the last `VHOST_NET_SET_BACKEND`.
    after: Vec<&'a Call>,
}

fn find_start(calls: &[Call], queues: usize) -> Start<'_> {
    let Some(features) = calls
        .iter()
        .position(|call| call.name == "VHOST_SET_FEATURES" && call.result == 0)
    else {
        return Start::default();
    };
    let thread = calls[features].thread;
    let mut before: Vec<&Call> = calls[..features]
        .iter()
        .rev()
        .filter(|call| call.thread == thread)
        .take_while(|call| {
            matches!(
                call.name.as_str(),
                "eventfd2" | "VHOST_SET_VRING_CALL" | "KVM_IOEVENTFD" | "KVM_IRQFD"
            )
        })
        .collect();
    before.reverse();
    let mut backends = 0;
    let after = calls[features..]
        .iter()
        .filter(|call| call.thread == thread)
        .take_while(|call| {
            let more = backends < queues;
            backends += usize::from(call.name == "VHOST_NET_SET_BACKEND");
            more
        })
        .collect();
    Start { before, after }
}

impl Start<'_> {
    fn named(&self, name: &str) -> Vec<String> {
        self.before
            .iter()
            .chain(&self.after)
            .filter(|call| call.name == name && call.result == 0)
            .map(|call| call.text.clone())
            .collect()
    }

    /// A step that is taken once for each queue.
    fn each(&self, step: &str, name: &str, queues: usize) -> Step {
        let evidence = self.named(name);
        if evidence.len() >= queues && queues > 0 {
            return observed(step, evidence);
        }
        let mut missing = observed(step, Vec::new());
        missing.reason = Some(format!(
            "{name} was seen {} times for {queues} queues",
            evidence.len()
        ));
        missing
    }

    /// Splits the eventfds into those that went with `VHOST_SET_VRING_CALL` (guest notifiers)
    /// and the others (host notifiers). QEMU makes the one kind before or after the other,
    /// depending on its version.
    fn notifiers(&self, queues: usize) -> (Vec<String>, Vec<String>) {
        let made: Vec<usize> = (0..self.before.len())
            .filter(|&at| self.before[at].name == "eventfd2" && self.before[at].result >= 0)
            .collect();
        let last_call = self
            .before
            .iter()
            .rposition(|call| call.name == "VHOST_SET_VRING_CALL")
            .unwrap_or(0);
        let guest_end = made.partition_point(|&at| at < last_call);
        let guest = guest_end.saturating_sub(queues)..guest_end;
        let text = |at: usize| self.before[at].text.clone();
        let pick = |inside: bool| {
            made.iter()
                .enumerate()
                .filter(|(nth, _)| guest.contains(nth) == inside)
                .map(|(_, &at)| text(at))
                .collect()
        };
        (pick(true), pick(false))
    }
}

/// The steps of the start in their order.
pub(crate) fn steps(calls: &[Call], queues: usize, notifications: Notifications) -> Vec<Step> {
    let start = find_start(calls, queues);
    let (guest, host) = start.notifiers(queues);
    let enough = |found: Vec<String>| {
        if found.len() >= queues {
            found
        } else {
            Vec::new()
        }
    };
    let mut all = vec![
        observed("virtio_pci_set_guest_notifiers", enough(guest)),
        observed("virtio_bus_set_host_notifier", enough(host)),
        ioeventfd(&start, notifications),
        observed(
            "vhost_dev_start: features",
            start.named("VHOST_SET_FEATURES"),
        ),
        observed(
            "vhost_dev_start: memory table",
            start.named("VHOST_SET_MEM_TABLE"),
        ),
        start.each("vhost_kernel_set_vring_num", "VHOST_SET_VRING_NUM", queues),
        start.each(
            "vhost_kernel_set_vring_base",
            "VHOST_SET_VRING_BASE",
            queues,
        ),
    ];
    let endian = start.named("VHOST_SET_VRING_ENDIAN");
    all.push(if endian.is_empty() {
        not_taken(
            "vhost_kernel_set_vring_endian",
            "only for a device without VERSION_1 of a guest whose byte order differs from the \
             host's: guest and host are little-endian, as every device with VERSION_1 is",
        )
    } else {
        observed("vhost_kernel_set_vring_endian", endian)
    });
    all.extend([
        start.each(
            "vhost_kernel_set_vring_addr",
            "VHOST_SET_VRING_ADDR",
            queues,
        ),
        start.each(
            "vhost_kernel_set_vring_kick",
            "VHOST_SET_VRING_KICK",
            queues,
        ),
        start.each(
            "vhost_kernel_set_vring_call",
            "VHOST_SET_VRING_CALL",
            queues,
        ),
        start.each(
            "vhost_kernel_net_set_backend",
            "VHOST_NET_SET_BACKEND",
            queues,
        ),
        not_taken(
            "vhost_set_vring_enable",
            "the kernel's vhost has no such operation (vhost-user has): setting the back end \
             starts the ring",
        ),
    ]);
    all
}

fn ioeventfd(start: &Start<'_>, seen: Notifications) -> Step {
    const STEP: &str = "virtio_pci_ioeventfd_assign";
    let mut evidence = start.named("KVM_IOEVENTFD");
    let kicks = seen.kicks.unwrap_or(0);
    if seen.traced_status > 0 && seen.traced_notify == 0 && kicks > 0 {
        evidence.push(format!(
            "the guest stored to its doorbells {kicks} times, and QEMU handled none of them: \
             no doorbell in a trace that shows virtio_set_status {} times",
            seen.traced_status
        ));
    }
    let mut step = observed(STEP, evidence);
    if step.status == StepStatus::Missing {
        step.reason = Some(format!(
            "the guest counted {kicks} doorbell stores, QEMU traced {} of them and \
             virtio_set_status {} times",
            seen.traced_notify, seen.traced_status
        ));
    }
    step
}

#[cfg(test)]
mod tests {
    use super::super::strace;
    use super::*;

    /// As QEMU 7.2 under TCG wrote it for a driver without MSI-X (thread 96 is the vCPU).
    const LOG: &str = "\
86 1.1 ioctl(3, VHOST_SET_OWNER, 0) = 0
86 1.2 eventfd2(0, EFD_CLOEXEC|EFD_NONBLOCK) = 14
86 1.3 ioctl(3, VHOST_SET_VRING_CALL, 0x7ffe) = 0
86 1.4 eventfd2(0, EFD_CLOEXEC|EFD_NONBLOCK) = 15
86 1.5 ioctl(3, VHOST_SET_VRING_ERR, 0x7ffe) = 0
96 2.0 ioctl(12, TUNSETOFFLOAD, 0) = 0
96 2.1 eventfd2(0, EFD_CLOEXEC|EFD_NONBLOCK) = 16
96 2.2 ioctl(3, VHOST_SET_VRING_CALL, 0x7f28) = 0
96 2.3 eventfd2(0, EFD_CLOEXEC|EFD_NONBLOCK) = 19
96 2.4 ioctl(3, VHOST_SET_VRING_CALL, 0x7f28) = 0
96 2.5 eventfd2(0, EFD_CLOEXEC|EFD_NONBLOCK) = 20
96 2.6 eventfd2(0, EFD_CLOEXEC|EFD_NONBLOCK) = 21
96 2.7 ioctl(3, VHOST_SET_FEATURES, 0x7f28) = 0
96 2.8 ioctl(3, VHOST_SET_MEM_TABLE, 0x561d) = 0
96 3.0 ioctl(3, VHOST_SET_VRING_NUM, 0x7f28) = 0
96 3.1 ioctl(3, VHOST_SET_VRING_BASE, 0x7f28) = 0
96 3.2 ioctl(3, VHOST_SET_VRING_ADDR, 0x7f28) = 0
96 3.3 ioctl(3, VHOST_SET_VRING_KICK, 0x7f28) = 0
96 3.4 ioctl(3, VHOST_SET_VRING_NUM, 0x7f28) = 0
96 3.5 ioctl(3, VHOST_SET_VRING_BASE, 0x7f28) = 0
96 3.6 ioctl(3, VHOST_SET_VRING_ADDR, 0x7f28) = 0
96 3.7 ioctl(3, VHOST_SET_VRING_KICK, 0x7f28) = 0
96 3.8 ioctl(3, VHOST_NET_SET_BACKEND, 0x7f28) = 0
96 3.9 ioctl(3, VHOST_NET_SET_BACKEND, 0x7f28) = 0
96 9.0 ioctl(3, VHOST_NET_SET_BACKEND, 0x7f28) = 0
96 9.1 ioctl(3, VHOST_SET_VRING_CALL, 0x7f28) = 0
";

    const KICKED: Notifications = Notifications {
        traced_status: 5,
        traced_notify: 0,
        kicks: Some(9),
    };

    fn by_name<'a>(steps: &'a [Step], name: &str) -> &'a Step {
        steps.iter().find(|step| step.step == name).unwrap()
    }

    #[test]
    fn every_step_of_a_start_is_found() {
        let steps = steps(&strace::parse(LOG), 2, KICKED);
        for step in &steps {
            assert_ne!(step.status, StepStatus::Missing, "{step:?}");
        }
        let not_taken: Vec<_> = steps
            .iter()
            .filter(|step| step.status == StepStatus::NotTaken)
            .map(|step| step.step.as_str())
            .collect();
        assert_eq!(
            not_taken,
            ["vhost_kernel_set_vring_endian", "vhost_set_vring_enable"]
        );
        let guest = by_name(&steps, "virtio_pci_set_guest_notifiers");
        assert!(guest.evidence[0].ends_with("= 16") && guest.evidence[1].ends_with("= 19"));
        let host = by_name(&steps, "virtio_bus_set_host_notifier");
        assert!(host.evidence[0].ends_with("= 20") && host.evidence[1].ends_with("= 21"));
        let backend = by_name(&steps, "vhost_kernel_net_set_backend");
        assert_eq!(
            backend.evidence.len(),
            2,
            "the stop is no part of the start"
        );
    }

    #[test]
    fn with_host_notifiers_first_they_are_still_told_apart() {
        let log = LOG
            .replace(
                "96 2.1 eventfd2",
                "96 2.1 eventfd2(0, A) = 100\n96 2.1 eventfd2(0, B) = 101\n96 2.1 eventfd2",
            )
            .replace("96 2.5 eventfd2(0, EFD_CLOEXEC|EFD_NONBLOCK) = 20\n", "")
            .replace("96 2.6 eventfd2(0, EFD_CLOEXEC|EFD_NONBLOCK) = 21\n", "");
        let steps = steps(&strace::parse(&log), 2, KICKED);
        let guest = by_name(&steps, "virtio_pci_set_guest_notifiers");
        assert!(guest.evidence[0].ends_with("= 16") && guest.evidence[1].ends_with("= 19"));
        let host = by_name(&steps, "virtio_bus_set_host_notifier");
        assert!(host.evidence[0].ends_with("= 100") && host.evidence[1].ends_with("= 101"));
    }

    #[test]
    fn a_step_that_is_not_there_is_missing() {
        let without = LOG.replace("96 3.6 ioctl(3, VHOST_SET_VRING_ADDR, 0x7f28) = 0\n", "");
        let steps_without = steps(&strace::parse(&without), 2, KICKED);
        let step = by_name(&steps_without, "vhost_kernel_set_vring_addr");
        assert_eq!(step.status, StepStatus::Missing);
        let nothing = steps(&[], 2, Notifications::default());
        let missing = nothing
            .iter()
            .filter(|step| step.status == StepStatus::Missing);
        assert_eq!(missing.count(), nothing.len() - 2);
    }

    #[test]
    fn silence_proves_nothing_without_a_working_trace() {
        for seen in [
            Notifications {
                traced_status: 0,
                ..KICKED
            },
            Notifications {
                traced_notify: 1,
                ..KICKED
            },
            Notifications {
                kicks: Some(0),
                ..KICKED
            },
        ] {
            let steps = steps(&strace::parse(LOG), 2, seen);
            let step = by_name(&steps, "virtio_pci_ioeventfd_assign");
            assert_eq!(step.status, StepStatus::Missing, "{seen:?}");
        }
    }

    #[test]
    fn trace_lines_are_counted() {
        let log = "virtio_set_status vdev 0x1 val 1\n\
                   123@1795344.1:virtio_set_status vdev 0x1 val 3\n\
                   virtio_pci_notify_write 0x0 = 0x0 (2)\nother: virtio_set_status \n\
                   virtio_mmio_write_offset virtio_mmio_write offset 0x50 value 0x1\n\
                   virtio_mmio_write_offset virtio_mmio_write offset 0x64 value 0x1\n\
                   virtio_set_status vdev 0x1 val 7\nvirtio_queue_notify vdev 0x1 n 1 vq 0x2\n\
                   virtio_set_status vdev 0x1 val 0\nvirtio_queue_notify vdev 0x1 n 1 vq 0x2\n\
                   virtio_set_status vdev 0x1 val 7\nvirtio_queue_notify vdev 0x1 n 1 vq 0x2\n";
        assert_eq!(count_trace(log, None), (5, 3));
        let log = "virtio_pci_notify_write 0x10 = 0x4 (2)\n\
                   virtio_pci_notify_write_pio 0x10 = 0x14 (2)\n\
                   virtio_pci_notify_write of another form\n";
        assert_eq!(count_trace(log, None), (0, 3));
        assert_eq!(
            count_trace(log, Some(4)),
            (0, 2),
            "the control queue's is QEMU's to handle"
        );
    }
}
