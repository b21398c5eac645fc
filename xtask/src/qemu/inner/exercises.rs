//! A suite that talks to nobody but the gateway: the harness does what the guest asks it to, and
//! waits for its last word.

use serde_json::json;
use vring_protocol::Event;

use super::live::Live;
use super::serial::Serial;
use super::{END_SECONDS, QMP_SECONDS, Run, verdict};
use crate::qemu::report::{Failure, Findings};
use crate::qemu::stop::Stop;

/// What of the guest's last word and the next wish of a link there is.
enum Word {
    SetLink { up: bool },
    Done,
}

/// The wish after so many that were granted, or the end.
fn next(events: &[Event], granted: usize) -> Option<Word> {
    let mut wishes = events.iter().filter_map(|event| match event {
        Event::SetLink { up } => Some(Word::SetLink { up: *up }),
        _ => None,
    });
    let done = || verdict::done(events).map(|_| Word::Done);
    wishes.nth(granted).or_else(done)
}

impl Run<'_> {
    /// Runs the guest's exercises to their end.
    pub(super) fn exercises(&mut self, live: &mut Live, serial: &mut Serial) -> Result<(), Stop> {
        self.phase("exercises");
        let mut granted = 0;
        loop {
            let limit = self.deadline.within(END_SECONDS + self.job.boot_seconds);
            let word = serial.wait("the guest's next word", limit, self.outlet, |events| {
                next(events, granted)
            })?;
            match word {
                Word::Done => {
                    verdict::take_announcements(self.job, &mut self.findings, &serial.events);
                    return Ok(());
                }
                Word::SetLink { up } => {
                    granted += 1;
                    let arguments = json!({"name": "net0", "up": up});
                    let limit = self.deadline.within(QMP_SECONDS);
                    live.qmp.execute("set_link", arguments, limit)?;
                }
            }
        }
    }
}

/// Whether the exercises say what they have to, beside their own checks.
pub(super) fn told(findings: &Findings) -> Vec<Failure> {
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
    failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::report::{InterruptCounts, Waiting};

    #[test]
    fn wishes_are_granted_one_by_one_and_before_the_end() {
        let (passed, failed) = (1, 0);
        let mut events = vec![
            Event::SetLink { up: false },
            Event::Ready { ip: String::new() },
        ];
        let wish = |events: &[Event], granted| match next(events, granted) {
            Some(Word::SetLink { up }) => Some(Some(up)),
            Some(Word::Done) => Some(None),
            None => None,
        };
        assert_eq!(wish(&events, 0), Some(Some(false)));
        assert_eq!(wish(&events, 1), None);
        events.extend([Event::SetLink { up: true }, Event::Done { passed, failed }]);
        assert_eq!(wish(&events, 1), Some(Some(true)));
        assert_eq!(wish(&events, 2), Some(None));
    }

    #[test]
    fn exercises_that_say_nothing_are_failures() {
        let mut findings = Findings::default();
        assert_eq!(told(&findings).len(), 2);
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
        assert!(told(&findings).is_empty());
        findings.waiting.pop();
        findings.interrupts[0].answers = 0;
        assert_eq!(told(&findings).len(), 2);
    }
}
