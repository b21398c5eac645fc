//! What the part beside QEMU tells the part in front of the person: frames on a byte stream.
//!
//! Each frame is a line of JSON; [`Frame::File`] is followed by that many raw bytes. The stream is
//! a virtio-serial port (nested), a pipe (native) or nothing at all (off: a channel in the process).

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::mpsc::Sender;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::report::Findings;

/// Files larger than this are cut in the middle of nowhere; the note says so.
const FILE_LIMIT: u64 = 16 << 20;

/// One message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "frame", rename_all = "snake_case")]
pub(crate) enum Frame {
    /// A cell of a matrix begins: what follows is its.
    Cell { name: String },
    /// A phase begins; the one before it is over.
    Phase { name: String },
    /// How far the phase is.
    Progress { done: u64, total: u64 },
    /// A line of the guest's serial port.
    Serial { line: String },
    /// All that is known by now; each replaces the one before.
    Findings { findings: Box<Findings> },
    /// A file follows.
    File { name: String, bytes: u64 },
    /// The far side cannot go on.
    Broken { message: String },
    /// The last frame.
    Bye,
}

/// Where frames go.
pub(crate) trait Outlet: Send {
    /// Sends a frame; a reader that is gone is not the sender's concern.
    fn send(&mut self, frame: Frame);
    /// Brings a file home.
    fn file(&mut self, name: &str, path: &Path) -> anyhow::Result<()>;
}

/// An outlet into a byte stream.
#[derive(Debug)]
pub(crate) struct StreamOutlet<W> {
    stream: W,
    ships_files: bool,
}

impl<W: Write> StreamOutlet<W> {
    /// For a far side on another machine.
    pub(crate) fn new(stream: W) -> Self {
        Self {
            stream,
            ships_files: true,
        }
    }

    /// For a far side on this machine, whose files need not travel.
    pub(crate) fn in_place(stream: W) -> Self {
        Self {
            stream,
            ships_files: false,
        }
    }

    fn line(&mut self, frame: &Frame) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(frame)?;
        line.push(b'\n');
        self.stream.write_all(&line)?;
        self.stream.flush()?;
        Ok(())
    }
}

impl<W: Write + Send> Outlet for StreamOutlet<W> {
    fn send(&mut self, frame: Frame) {
        // Without a reader there is nobody to tell.
        drop(self.line(&frame));
    }

    fn file(&mut self, name: &str, path: &Path) -> anyhow::Result<()> {
        if !self.ships_files {
            return Ok(());
        }
        let file =
            std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
        let bytes = file.metadata()?.len().min(FILE_LIMIT);
        self.line(&Frame::File {
            name: name.into(),
            bytes,
        })?;
        let copied = std::io::copy(&mut std::io::Read::take(file, bytes), &mut self.stream)?;
        anyhow::ensure!(copied == bytes, "{} shrank while read", path.display());
        Ok(())
    }
}

/// An outlet within the process: files are in place already.
#[derive(Debug)]
pub(crate) struct LocalOutlet(pub(crate) Sender<Frame>);

impl Outlet for LocalOutlet {
    fn send(&mut self, frame: Frame) {
        drop(self.0.send(frame));
    }

    fn file(&mut self, _name: &str, _path: &Path) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Reads frames until the stream ends; files are written into `dir`, those of a cell into a
/// directory of its name there.
pub(crate) fn receive(
    mut stream: impl BufRead,
    dir: &Path,
    frames: &Sender<Frame>,
) -> anyhow::Result<()> {
    let mut line = Vec::new();
    let mut place = dir.to_path_buf();
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        let frame: Frame = serde_json::from_slice(&line).with_context(|| {
            format!(
                "not a frame: {:?}",
                String::from_utf8_lossy(&line[..line.len().min(80)])
            )
        })?;
        if let Frame::File { name, bytes } = &frame {
            check_name(name)?;
            let mut file = std::fs::File::create(place.join(name))?;
            let copied = std::io::copy(&mut std::io::Read::take(&mut stream, *bytes), &mut file)?;
            anyhow::ensure!(copied == *bytes, "the stream ended within {name}");
        }
        if let Frame::Cell { name } = &frame {
            check_name(name)?;
            place = dir.join(name);
            std::fs::create_dir_all(&place)?;
        }
        let last = frame == Frame::Bye;
        if frames.send(frame).is_err() || last {
            return Ok(());
        }
    }
}

/// What came from elsewhere stays in its place.
fn check_name(name: &str) -> anyhow::Result<()> {
    let plain = name
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    anyhow::ensure!(
        plain && !name.is_empty() && !name.starts_with('.'),
        "{name:?} is no file name"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_files_travel() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        std::fs::write(&source, b"line\nraw\0bytes").unwrap();
        let mut wire = Vec::new();
        let mut outlet = StreamOutlet::new(&mut wire);
        outlet.send(Frame::Phase { name: "a".into() });
        outlet.file("copy.log", &source).unwrap();
        outlet.send(Frame::Cell { name: "b".into() });
        outlet.file("copy.log", &source).unwrap();
        outlet.send(Frame::Bye);
        let (sender, receiver) = std::sync::mpsc::channel();
        receive(wire.as_slice(), dir.path(), &sender).unwrap();
        drop(sender);
        let frames: Vec<Frame> = receiver.iter().collect();
        assert_eq!(frames.len(), 5);
        assert_eq!(frames[4], Frame::Bye);
        for name in ["copy.log", "b/copy.log"] {
            let copy = std::fs::read(dir.path().join(name)).unwrap();
            assert_eq!(copy, b"line\nraw\0bytes");
        }
    }

    #[test]
    fn a_damaged_stream_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (sender, _receiver) = std::sync::mpsc::channel();
        for wire in [
            &b"nonsense\n"[..],
            b"{\"frame\":\"file\",\"name\":\"../x\",\"bytes\":1}\n.",
            b"{\"frame\":\"cell\",\"name\":\"../x\"}\n",
            b"{\"frame\":\"file\",\"name\":\"x\",\"bytes\":10}\nshort",
        ] {
            assert!(receive(wire, dir.path(), &sender).is_err());
        }
    }
}
