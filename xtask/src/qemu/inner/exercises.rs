//! A suite that talks to nobody but the gateway: the harness does what the guest asks it to, and
//! waits for its last word.

use super::live::Live;
use super::serial::Serial;
use super::{END_SECONDS, Run, verdict};
use crate::qemu::arch::Arch;
use crate::qemu::job::Job;
use crate::qemu::report::{Failure, Findings};
use crate::qemu::stop::Stop;

/// The guest's test of interrupts that no device has raised.
const SPURIOUS: &str = "bug_class_73_spurious_interrupts_are_counted";

/// What QEMU's word for a riscv64 machine has whose interrupt controller takes messages.
const MESSAGES: &str = "aia=aplic-imsic";

impl Run<'_> {
    /// Runs the guest's exercises to their end.
    pub(super) fn exercises(&mut self, live: &mut Live, serial: &mut Serial) -> Result<(), Stop> {
        self.phase("exercises");
        self.grant_until_done(live, serial, END_SECONDS + self.job.boot_seconds)?;
        verdict::take_announcements(self.job, &mut self.findings, &serial.events);
        Ok(())
    }
}

/// Whether the exercises say what they have to, beside their own checks.
pub(super) fn told(job: &Job, findings: &Findings) -> Vec<Failure> {
    let mut failures = Vec::new();
    let mut want = |ok: bool, check: &str, expected: &str, seen: String| {
        if !ok {
            let hint = "the serial log has what the guest found";
            failures.push(Failure::new(check, expected, seen, hint));
        }
    };
    let modes: Vec<&str> = findings.waiting.iter().map(|w| w.mode.as_str()).collect();
    want(
        modes == ["poll", "interrupt", "hybrid"],
        "ways to wait",
        "poll, interrupt and hybrid measured",
        modes.join(", "),
    );
    let changes = findings.interrupts.iter().filter(|row| row.config >= 2);
    let answered = findings.interrupts.iter().all(|row| row.answers > 0);
    want(
        answered && changes.count() > 0,
        "interrupts",
        "answers in every exercise, and interrupts for the configuration in one",
        format!("{:?}", findings.interrupts),
    );
    // Lines of a PLIC are the devices' alone: there, the guest raises none.
    let raises = job.arch != Arch::Riscv64 || job.machine.contains(MESSAGES);
    want(
        !raises || findings.tests.passed.iter().any(|name| name == SPURIOUS),
        SPURIOUS,
        "interrupts that the guest raises itself, on every machine whose controller can",
        "no such test passed".into(),
    );
    failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::report::{InterruptCounts, Waiting};

    #[test]
    fn exercises_that_say_nothing_are_failures() {
        let mut job = crate::qemu::inner::verdict::tests::job();
        let mut findings = Findings::default();
        assert_eq!(told(&job, &findings).len(), 3);
        findings.interrupts.push(InterruptCounts {
            answers: 1,
            config: 2,
            ..InterruptCounts::default()
        });
        findings.waiting = ["poll", "interrupt", "hybrid"]
            .map(|mode| Waiting {
                mode: mode.into(),
                ..Waiting::default()
            })
            .to_vec();
        assert_eq!(told(&job, &findings).len(), 1);
        job.arch = Arch::Riscv64;
        job.machine = "virt".into();
        assert!(told(&job, &findings).is_empty());
        job.machine = "virt,aia=aplic-imsic".into();
        assert_eq!(told(&job, &findings).len(), 1);
        findings.tests.passed.push(SPURIOUS.into());
        assert!(told(&job, &findings).is_empty());
        findings.waiting.pop();
        findings.interrupts[0].answers = 0;
        assert_eq!(told(&job, &findings).len(), 2);
    }
}
