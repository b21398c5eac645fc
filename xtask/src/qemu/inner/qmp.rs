//! A client of QEMU's machine protocol, on a socket that QEMU inherited.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::qemu::limits::Deadline;
use crate::qemu::stop::Stop;

/// A connection; every command and answer is logged.
#[derive(Debug)]
pub(crate) struct Qmp {
    stream: UnixStream,
    pending: Vec<u8>,
    log: File,
    start: Instant,
    /// The connection is closed: QEMU has ended, and answers nothing more.
    pub(crate) ended: bool,
}

impl Qmp {
    /// Greets QEMU; the version that it gives.
    pub(crate) fn connect(
        stream: UnixStream,
        log: &Path,
        deadline: Deadline,
    ) -> Result<(Self, String), Stop> {
        stream
            .set_read_timeout(Some(Duration::from_millis(50)))
            .context("cannot set a time limit on the QMP socket")?;
        let log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut qmp = Self {
            stream,
            pending: Vec::new(),
            log,
            start: Instant::now(),
            ended: false,
        };
        let greeting = qmp.read(deadline, "QEMU's greeting")?;
        let version = &greeting["QMP"]["version"];
        let number = |name: &str| version["qemu"][name].as_u64().unwrap_or(0);
        let package = version["package"].as_str().unwrap_or("");
        let version = format!(
            "{}.{}.{} {package}",
            number("major"),
            number("minor"),
            number("micro")
        );
        qmp.execute("qmp_capabilities", json!({}), deadline)?;
        Ok((qmp, version.trim().into()))
    }

    fn note(&mut self, direction: &str, text: &str) {
        // The log is an artifact, not a dependency.
        let time = self.start.elapsed().as_secs_f64();
        drop(writeln!(self.log, "{time:8.3} {direction} {text}"));
    }

    fn read(&mut self, deadline: Deadline, waiting_for: &str) -> Result<Value, Stop> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                let text = String::from_utf8_lossy(&line);
                self.note("<", text.trim());
                let value = serde_json::from_slice(&line)
                    .with_context(|| format!("QEMU's answer is no JSON: {}", text.trim()))?;
                return Ok(value);
            }
            deadline.check(waiting_for)?;
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    self.ended = true;
                    return Err(Stop::Broken(anyhow::anyhow!(
                        "QEMU went away while the harness waited for {waiting_for}"
                    )));
                }
                Ok(count) => self.pending.extend_from_slice(&chunk[..count]),
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                    ) => {}
                Err(error) => {
                    self.ended = true;
                    return Err(anyhow::Error::new(error).context("the QMP socket").into());
                }
            }
        }
    }

    /// Gives a command and returns what it returned.
    pub(crate) fn execute(
        &mut self,
        command: &str,
        arguments: Value,
        deadline: Deadline,
    ) -> Result<Value, Stop> {
        let request = json!({"execute": command, "arguments": arguments}).to_string();
        self.note(">", &request);
        let sent = self.stream.write_all(format!("{request}\n").as_bytes());
        self.ended |= sent.is_err();
        sent.with_context(|| format!("cannot send {command} to QEMU"))?;
        let waiting_for = format!("QEMU's answer to {command}");
        loop {
            let mut answer = self.read(deadline, &waiting_for)?;
            if let Some(result) = answer.get_mut("return") {
                return Ok(result.take());
            }
            if let Some(error) = answer.get("error") {
                return Err(Stop::Broken(anyhow::anyhow!(
                    "QEMU refuses {command}: {}",
                    error["desc"].as_str().unwrap_or("without a reason")
                )));
            }
            // Anything else is an event.
        }
    }

    /// Gives a command of the human monitor.
    pub(crate) fn human(&mut self, line: &str, deadline: Deadline) -> Result<String, Stop> {
        let answer = self.execute(
            "human-monitor-command",
            json!({"command-line": line}),
            deadline,
        )?;
        Ok(answer.as_str().unwrap_or_default().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};

    fn fake(answers: &'static [&'static str]) -> UnixStream {
        let (near, mut far) = UnixStream::pair().unwrap();
        std::thread::spawn(move || {
            let greeting = r#"{"QMP":{"version":{"qemu":{"major":7,"minor":2,"micro":1},"package":"P"},"capabilities":[]}}"#;
            writeln!(far, "{greeting}").unwrap();
            let mut lines = BufReader::new(far.try_clone().unwrap());
            for answer in std::iter::once(&r#"{"return":{}}"#).chain(answers) {
                lines.read_line(&mut String::new()).unwrap();
                writeln!(far, "{answer}").unwrap();
            }
        });
        near
    }

    #[test]
    fn answers_are_told_from_events_and_errors() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let stream = fake(&[
            "{\"event\":\"RESUME\"}\n{\"return\":{\"x\":1}}",
            r#"{"error":{"class":"GenericError","desc":"no such thing"}}"#,
        ]);
        let deadline = Deadline::seconds(10);
        let (mut qmp, version) = Qmp::connect(stream, &log, deadline).unwrap();
        assert_eq!(version, "7.2.1 P");
        assert_eq!(qmp.execute("a", json!({}), deadline).unwrap()["x"], 1);
        let stop = qmp.execute("b", json!({}), deadline).unwrap_err();
        assert!(stop.to_string().contains("no such thing"), "{stop}");
        assert!(!qmp.ended, "a refusal is an answer");
        let stop = qmp.execute("c", json!({}), deadline).unwrap_err();
        assert!(matches!(stop, Stop::Broken(_)), "{stop}");
        assert!(qmp.ended);
        assert!(std::fs::read_to_string(log).unwrap().contains("RESUME"));
    }
}
