//! What a person sees: progress on standard error, the report on standard output.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::cli::Format;
use super::report::{Addresses, Bulk, Flow, Report, StepStatus};
use crate::told::{told, told_whole};

/// How much is said, and where.
#[derive(Debug)]
pub(crate) struct Ui {
    quiet: bool,
    terminal: bool,
    bar: ProgressBar,
}

impl Ui {
    pub(crate) fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && !quiet;
        let target = if terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(None, target);
        bar.set_style(ProgressStyle::default_spinner());
        if terminal {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        Self {
            quiet,
            terminal,
            bar,
        }
    }

    /// A step that a person may want to know of.
    pub(crate) fn note(&self, text: &str) {
        if self.terminal {
            self.bar.println(text);
        } else if !self.quiet {
            eprintln!("{text}");
        }
    }

    /// A line of the result, as it comes.
    pub(crate) fn line(&self, text: &str) {
        if !self.quiet {
            self.bar.suspend(|| told(format_args!("{text}")));
        }
    }

    /// What is going on now.
    pub(crate) fn phase(&self, name: &str) {
        if self.terminal {
            self.bar.set_style(ProgressStyle::default_spinner());
            self.bar.set_message(name.to_owned());
        } else if !self.quiet {
            eprintln!("... {name}");
        }
    }

    pub(crate) fn progress(&self, done: u64, total: u64) {
        if self.terminal {
            let message = self.bar.message();
            let name = message.split(' ').next().unwrap_or_default();
            let percent = (done * 100).checked_div(total).unwrap_or(100).min(100);
            self.bar.set_message(format!("{name} {percent} %"));
        }
    }

    /// Nothing more moves.
    pub(crate) fn end(&self) {
        self.bar.finish_and_clear();
    }

    /// The report, in the form asked for; the last line is the verdict and where the report is.
    pub(crate) fn report(&self, report: &Report, path: &Path, format: Format) {
        let shown = path.display();
        if format == Format::Json {
            // The same text as in the file.
            told(format_args!(
                "{}",
                serde_json::to_string_pretty(report).unwrap_or_default()
            ));
            if self.terminal {
                eprintln!("{} ({shown})", verdict(report));
            }
            return;
        }
        if !self.quiet {
            told_whole(&human(report));
        }
        told(format_args!("{}: {shown}", verdict(report)));
    }

    /// The end of a matrix, whose lines have been printed as they came.
    pub(crate) fn matrix(&self, report: &Report, path: &Path, format: Format) {
        let shown = path.display();
        if format == Format::Json {
            print_whole(path);
            return;
        }
        if !self.quiet {
            // The lines have said what failed and what was skipped; many for one reason.
            let mut fixes: Vec<&str> = Vec::new();
            for skipped in &report.findings.skipped {
                if !fixes.contains(&skipped.fix.as_str()) {
                    told(format_args!(
                        "skipped    {}\n  fix: {}",
                        skipped.why, skipped.fix
                    ));
                    fixes.push(&skipped.fix);
                }
            }
            let (of_cells, others): (Vec<_>, Vec<_>) = report
                .findings
                .failures
                .iter()
                .partition(|failure| failure.check.starts_with("cell "));
            for failure in others {
                told(format_args!(
                    "FAILED     {}: {}",
                    failure.check, failure.seen
                ));
                told(format_args!("  hint: {}", failure.hint));
            }
            if !of_cells.is_empty() {
                let kept = path.with_file_name(super::session::ARTIFACTS);
                told(format_args!(
                    "kept       a directory for each cell in {}",
                    kept.display()
                ));
            }
        }
        told(format_args!("{}: {shown}", verdict(report)));
    }
}

fn print_whole(path: &Path) {
    match std::fs::read_to_string(path) {
        Ok(text) => told_whole(&text),
        Err(error) => eprintln!("cannot read {}: {error}", path.display()),
    }
}

fn verdict(report: &Report) -> &'static str {
    match report.exit_code {
        super::stop::EXIT_OK => "ok",
        super::stop::EXIT_USAGE => "cannot be understood",
        super::stop::EXIT_MISSING => "cannot run here",
        super::stop::EXIT_TIME => "FAILED: a time limit ran out",
        super::stop::EXIT_INTERRUPTED => "interrupted",
        _ => "FAILED",
    }
}

fn addresses(at: Addresses) -> String {
    format!(
        "desc {:#x} avail {:#x} used {:#x}",
        at.desc, at.avail, at.used
    )
}

fn mark(ok: bool) -> &'static str {
    if ok { "ok" } else { "FAILED" }
}

fn rate(amount: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { amount / seconds } else { 0.0 }
}

fn bulk_line(name: &str, bulk: Option<Bulk>) -> Option<String> {
    let bulk = bulk?;
    let mib = bulk.bytes as f64 / f64::from(1 << 20);
    Some(format!(
        "  {name:<10} {mib:.1} MiB in {:.1} s ({:.2} MiB/s), sha256 {}\n",
        bulk.seconds,
        rate(mib, bulk.seconds),
        mark(bulk.sha256_ok)
    ))
}

fn flow_line(name: &str, flow: Option<Flow>) -> Option<String> {
    let flow = flow?;
    let dropped = flow
        .dropped_by_tap
        .map(|count| format!(", {count} dropped by the tap"))
        .unwrap_or_default();
    Some(format!(
        "  {name:<10} {} sent, {} received{dropped} in {:.1} s ({:.0}/s)\n",
        flow.sent,
        flow.received,
        flow.seconds,
        rate(flow.received as f64, flow.seconds)
    ))
}

/// The report as text.
pub(crate) fn human(report: &Report) -> String {
    let mut out = String::new();
    write_human(report, &mut out).unwrap_or_default();
    out
}

fn write_human(report: &Report, out: &mut String) -> std::fmt::Result {
    let found = &report.findings;
    if let Some(accel) = &report.accel {
        let outer = report
            .accel_outer
            .as_ref()
            .map(|outer| format!(", in a Linux under {outer}"))
            .unwrap_or_default();
        writeln!(
            out,
            "guest      {} on {} under {accel}{outer}; vhost {}",
            report.arch, report.machine, found.vhost.mode
        )?;
    }
    if let Some(device) = &found.device {
        writeln!(
            out,
            "device     {} at {} (configuration by {}), interrupts: {}",
            device.transport, device.address, device.pci_access, device.interrupts
        )?;
    }
    if let Some(ring) = &found.ring {
        writeln!(out, "ring       {ring}")?;
    }
    if let Some(features) = &found.features {
        writeln!(out, "features   {}", features.acked.join(" "))?;
        for (what, names) in [
            ("required", &features.required),
            ("to be refused", &features.forbidden),
        ] {
            if !names.is_empty() {
                writeln!(out, "  {what}: {}", names.join(" "))?;
            }
        }
    }
    if !found.queues.is_empty() {
        writeln!(
            out,
            "queues     as the driver laid them out and as the host has them"
        )?;
    }
    for queue in &found.queues {
        let host = match (queue.host, queue.matches_driver) {
            (_, true) => "the host has the same".into(),
            (Some(host), false) => format!("the host has {}", addresses(host)),
            (None, false) => "the host was not asked".into(),
        };
        writeln!(
            out,
            "  {} {:<8} num {} {}: {host}",
            queue.index,
            queue.name,
            queue.num,
            addresses(queue.driver)
        )?;
    }
    if found.vhost.started {
        let worker = found.vhost.worker.as_deref().unwrap_or("not found");
        writeln!(out, "vhost      started, worker {worker}")?;
    }
    for step in &found.vhost.steps {
        let status = match step.status {
            StepStatus::Observed => "observed",
            StepStatus::NotTaken => "not taken",
            StepStatus::Missing => "MISSING",
        };
        let detail = step.reason.as_ref().or(step.evidence.first());
        let detail = detail.map(String::as_str).unwrap_or_default();
        writeln!(out, "  {status:<9} {}: {detail}", step.step)?;
    }
    let lines: String = [
        found.ping.map(|p| {
            format!(
                "  {:<10} {} sent, {} answered\n",
                "ping", p.sent, p.received
            )
        }),
        found.ping_by_guest.map(|p| {
            format!(
                "  {:<10} {} sent, {} answered (by the guest)\n",
                "ping", p.sent, p.received
            )
        }),
        bulk_line("tcp up", found.tcp.up),
        bulk_line("tcp down", found.tcp.down),
        flow_line("udp up", found.udp.up),
        flow_line("udp down", found.udp.down),
        flow_line("burst up", found.burst.up),
        flow_line("burst down", found.burst.down),
    ]
    .into_iter()
    .flatten()
    .collect();
    if !lines.is_empty() {
        write!(
            out,
            "traffic    up leaves the guest, down enters it\n{lines}"
        )?;
    }
    if let Some(counters) = &found.counters {
        writeln!(
            out,
            "counters   {} kicks, {} suppressed, {} interrupts ({} spurious), {} faults",
            counters.kicks,
            counters.suppressed_kicks,
            counters.interrupts,
            counters.spurious_interrupts,
            counters.faults
        )?;
        for queue in &counters.queues {
            writeln!(
                out,
                "  {} {:<8} {} submitted = {} completed + {} returned by the reset",
                queue.index, queue.name, queue.submitted, queue.completed, queue.returned_by_reset
            )?;
        }
    }
    if let Some(pieces) = &found.pieces {
        writeln!(
            out,
            "pieces     {} pings, {} answered, over queues of the guest's own, a frame in {} \
             descriptors of the ring; {} queues reset in mid-traffic, {} buffers back",
            pieces.sent, pieces.received, pieces.descriptors, pieces.queue_resets, pieces.returned
        )?;
    }
    for row in &found.interrupts {
        writeln!(
            out,
            "interrupts {}, {}: {} for queues, {} for the configuration, {} foreign, {} nobody's; \
             {} answers",
            row.exercise,
            row.device,
            row.queues,
            row.config,
            row.foreign,
            row.unclaimed,
            row.answers
        )?;
    }
    if !found.waiting.is_empty() {
        writeln!(
            out,
            "waiting    the median from question to answer by the guest's clock, and counts a packet"
        )?;
    }
    for way in &found.waiting {
        let each = |count: u64| count as f64 / f64::from(way.packets.max(1));
        writeln!(
            out,
            "  {:<10} {:.0} µs, {:.2} interrupts, {:.2} doorbells, {:.2} halts",
            way.mode,
            way.median_us,
            each(way.interrupts),
            each(way.doorbells),
            each(way.halts)
        )?;
    }
    for pair in found.pairs.iter().flat_map(|pairs| &pairs.pairs) {
        writeln!(
            out,
            "processor {} {} pings over a queue pair of its own, {} answered there and {} by the \
             other pair; {} interrupts by answers here, {} elsewhere",
            pair.cpu,
            pair.sent,
            pair.received,
            pair.astray,
            pair.interrupts,
            pair.interrupts_elsewhere
        )?;
    }
    for batch in &found.batches {
        writeln!(
            out,
            "batches    {} packets by {}: {} transmit kicks, {} receive kicks, {} interrupts, \
             {} other register accesses",
            batch.packets,
            batch.batch,
            batch.transmit_kicks,
            batch.receive_kicks,
            batch.interrupts,
            batch.register_accesses
        )?;
    }
    for row in &found.awaited {
        writeln!(
            out,
            "awaited    {} packets by {}: {} polls, {} halts, {} interrupts, {} waits for room, \
             {} futures dropped, {} forgotten",
            row.packets,
            row.executor,
            row.polls,
            row.halts,
            row.interrupts,
            row.waits_for_room,
            row.dropped,
            row.forgotten
        )?;
    }
    if !found.tests.passed.is_empty() || !found.tests.failed.is_empty() {
        writeln!(
            out,
            "tests      {} passed, {} failed in the guest",
            found.tests.passed.len(),
            found.tests.failed.len()
        )?;
    }
    if let Some(total) = found.duration_s.get("total") {
        writeln!(out, "time       {total:.0} s")?;
    }
    let failed = |what: &str| {
        found
            .failures
            .iter()
            .any(|failure| failure.expected == what)
    };
    for skipped in found
        .skipped
        .iter()
        .filter(|skipped| !failed(&skipped.what))
    {
        writeln!(
            out,
            "skipped    {}: {}\n  fix: {}",
            skipped.what, skipped.why, skipped.fix
        )?;
    }
    for failure in &found.failures {
        writeln!(
            out,
            "FAILED     {}\n  expected: {}\n  seen: {}\n  hint: {}",
            failure.check, failure.expected, failure.seen, failure.hint
        )?;
    }
    if !found.failures.is_empty() && !report.artifacts.is_empty() {
        writeln!(out, "kept")?;
        for artifact in &report.artifacts {
            writeln!(out, "  {}", artifact.path.display())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_can_be_read() {
        let mut report = Report::unfinished(Vec::new());
        report.accel = Some("tcg".into());
        report.findings.tcp.up = Some(Bulk {
            bytes: 8 << 20,
            sha256_ok: true,
            seconds: 4.0,
        });
        let text = human(&report);
        assert!(
            text.contains("8.0 MiB in 4.0 s (2.00 MiB/s), sha256 ok"),
            "{text}"
        );
        assert!(text.contains("FAILED     run\n  expected:"), "{text}");
        assert!(!text.contains('\x1b'), "no colours");
    }
}
