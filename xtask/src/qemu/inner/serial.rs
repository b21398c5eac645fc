//! The guest's serial port: its log, its events, its tests, and its last words.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use anyhow::Context as _;
use vring_protocol::Event;

use crate::qemu::channel::{Frame, Outlet};
use crate::qemu::limits::Deadline;
use crate::qemu::report::{Failure, Tests};
use crate::qemu::stop::Stop;

/// Lines kept for a message about a guest that fell silent.
const TAIL: usize = 15;

/// What the guest has said so far.
#[derive(Debug)]
pub(crate) struct Serial {
    lines: Receiver<String>,
    recent: VecDeque<String>,
    ended: bool,
    /// Set when QEMU closes the port, that is, ends.
    pub(crate) gone: &'static AtomicBool,
    pub(crate) events: Vec<Event>,
    pub(crate) tests: Tests,
    /// Events that cannot be read.
    pub(crate) damaged: Vec<Failure>,
}

/// What a line says of a test: its name, and whether it passed.
fn parse_test(line: &str) -> Option<(&str, bool)> {
    let rest = line.trim_end().strip_prefix("test ")?;
    if let Some(name) = rest.strip_suffix(" ... ok") {
        return Some((name, true));
    }
    Some((rest.strip_suffix(" ... FAILED")?, false))
}

impl Serial {
    /// Reads the port on a thread of its own, into the log as well.
    pub(crate) fn watch(stream: UnixStream, log: &Path) -> anyhow::Result<Self> {
        let mut log =
            File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let (sender, lines) = channel();
        // One byte for each guest that this process runs: waits on any thread may look at it.
        let gone: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                // The log is an artifact, not a dependency.
                drop(log.write_all(&line));
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                if sender.send(text).is_err() {
                    break;
                }
            }
            gone.store(true, Ordering::SeqCst);
        });
        Ok(Self {
            lines,
            recent: VecDeque::new(),
            ended: false,
            gone,
            events: Vec::new(),
            tests: Tests::default(),
            damaged: Vec::new(),
        })
    }

    /// Takes in what has come.
    pub(crate) fn pump(&mut self, outlet: &mut dyn Outlet) {
        loop {
            match self.lines.try_recv() {
                Ok(line) => self.take(line, outlet),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.ended = true;
                    return;
                }
            }
        }
    }

    fn take(&mut self, line: String, outlet: &mut dyn Outlet) {
        match Event::parse(&line) {
            Some(Ok(event)) => self.events.push(event),
            Some(Err(error)) => self.damaged.push(Failure::new(
                "serial",
                "an event of the protocol",
                format!("{error}: {line}"),
                "the guest and the harness disagree about the protocol, or log text broke a line",
            )),
            None => {
                if let Some((name, passed)) = parse_test(&line) {
                    if passed {
                        self.tests.passed.push(name.into());
                    } else {
                        self.tests.failed.push(name.into());
                    }
                }
            }
        }
        if self.recent.len() == TAIL {
            self.recent.pop_front();
        }
        self.recent.push_back(line.clone());
        outlet.send(Frame::Serial { line });
    }

    /// Waits until the events hold what is wanted.
    pub(crate) fn wait<T>(
        &mut self,
        waiting_for: &str,
        deadline: Deadline,
        outlet: &mut dyn Outlet,
        find: impl Fn(&[Event]) -> Option<T>,
    ) -> Result<T, Stop> {
        deadline.poll(waiting_for, || {
            // The end is read before the lines: whatever came before it is then taken in.
            let ended = self.ended;
            self.pump(outlet);
            match find(&self.events) {
                None if ended => Err(Stop::Broken(anyhow::anyhow!(
                    "the guest ended before {waiting_for}"
                ))),
                found => Ok(found),
            }
        })
    }

    /// The last lines.
    pub(crate) fn tail(&self) -> String {
        let lines: Vec<&str> = self.recent.iter().map(String::as_str).collect();
        if lines.is_empty() {
            "nothing on the serial port".into()
        } else {
            lines.join("\n")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::channel::LocalOutlet;

    #[test]
    fn lines_become_events_and_tests() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("serial.log");
        let mut serial = Serial::watch(near, &log).unwrap();
        let done = Event::Done {
            passed: 1,
            failed: 1,
        };
        let text = format!(
            "hello\r\ntest a ... ok\r\ntest b ... FAILED\n@vring {{\"event\":\"new\"}}\n{}\nlast",
            done.to_line()
        );
        far.write_all(text.as_bytes()).unwrap();
        drop(far);
        let (sender, frames) = channel();
        let mut outlet = LocalOutlet(sender);
        let deadline = Deadline::seconds(10);
        let find = |events: &[Event]| events.contains(&done).then_some(());
        serial.wait("the end", deadline, &mut outlet, find).unwrap();
        let stop = serial
            .wait::<()>("more", deadline, &mut outlet, |_| None)
            .unwrap_err();
        assert!(stop.to_string().contains("before more"), "{stop}");
        assert_eq!(serial.tests.passed, ["a"]);
        assert_eq!(serial.tests.failed, ["b"]);
        assert_eq!(serial.damaged.len(), 1);
        assert!(serial.tail().ends_with("last"));
        assert_eq!(frames.try_iter().count(), 6);
        assert!(serial.gone.load(Ordering::SeqCst));
        assert!(std::fs::read_to_string(log).unwrap().starts_with("hello"));
    }
}
