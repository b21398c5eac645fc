//! What the guest asks of the harness while it runs to its end.

use serde_json::json;
use vring_protocol::Event;

use super::live::Live;
use super::serial::Serial;
use super::{QMP_SECONDS, Run, verdict};
use crate::qemu::stop::Stop;

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Does what the guest asks for until it has said its last word. It may take so many seconds for
    /// each.
    pub(super) fn grant_until_done(
        &mut self,
        live: &mut Live,
        serial: &mut Serial,
        seconds: u64,
    ) -> Result<(), Stop> {
        let mut granted = 0;
        loop {
            let limit = self.deadline.within(seconds);
            let word = serial.wait("the guest's last word", limit, self.outlet, |events| {
                next(events, granted)
            })?;
            match word {
                Word::Done => return Ok(()),
                Word::SetLink { up } => {
                    granted += 1;
                    let arguments = json!({"name": "net0", "up": up});
                    let limit = self.deadline.within(QMP_SECONDS);
                    if let Err(stop) = live.qmp.execute("set_link", arguments, limit) {
                        return self.ended_early(live, serial, stop);
                    }
                }
            }
        }
    }

    /// A guest that has seen its wish granted may end before QEMU has answered the harness. Its
    /// last word says so, and its checks whether it saw it.
    fn ended_early(&mut self, live: &Live, serial: &mut Serial, stop: Stop) -> Result<(), Stop> {
        if !live.qmp.ended {
            return Err(stop);
        }
        let limit = self.deadline.within(QMP_SECONDS);
        let waiting_for = "the guest's last word";
        match serial.wait(waiting_for, limit, self.outlet, verdict::done) {
            Ok(_) => Ok(()),
            Err(_) => Err(stop),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_granted_one_by_one_and_before_the_end() {
        let done = Event::Done {
            passed: 1,
            failed: 0,
        };
        let mut events = vec![
            Event::SetLink { up: false },
            Event::Ready { ip: String::new() },
        ];
        assert_eq!(next(&events, 0), Some(Word::SetLink { up: false }));
        assert_eq!(next(&events, 1), None);
        events.extend([Event::SetLink { up: true }, done]);
        assert_eq!(next(&events, 1), Some(Word::SetLink { up: true }));
        assert_eq!(next(&events, 2), Some(Word::Done));
    }
}
