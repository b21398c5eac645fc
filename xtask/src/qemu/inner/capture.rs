//! The first frames of each phase, as a pcap.
//!
//! A capture of everything would slow the very traffic that it records, so each phase has a small
//! budget of frames, after which its socket is closed.

use std::fs::File;
use std::io::{BufWriter, Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};

/// Frames for each phase.
pub(crate) const FRAMES: usize = 400;
/// Bytes kept of each frame.
pub(crate) const SNAP: usize = 128;
/// Ethernet.
const LINK_TYPE: u32 = 1;
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

/// A running capture of every frame in this network namespace.
#[derive(Debug)]
pub(crate) struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

fn file_header() -> Vec<u8> {
    let mut header = 0xa1b2_c3d4_u32.to_ne_bytes().to_vec();
    header.extend(2u16.to_ne_bytes());
    header.extend(4u16.to_ne_bytes());
    for word in [0, 0, SNAP as u32, LINK_TYPE] {
        header.extend(word.to_ne_bytes());
    }
    header
}

fn record_header(time: Duration, kept: usize, whole: usize) -> Vec<u8> {
    [
        time.as_secs() as u32,
        time.subsec_micros(),
        kept as u32,
        whole as u32,
    ]
    .iter()
    .flat_map(|word| word.to_ne_bytes())
    .collect()
}

impl Capture {
    /// Begins to capture into a file.
    pub(crate) fn start(path: &Path) -> anyhow::Result<Self> {
        let all = Protocol::from(i32::from((libc::ETH_P_ALL as u16).to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all))
            .context("cannot open a packet socket")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut out = BufWriter::new(
            File::create(path).with_context(|| format!("cannot write {}", path.display()))?,
        );
        out.write_all(&file_header())?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut frame = [0; 65536];
            let mut left = FRAMES;
            while left > 0 && !told.load(Ordering::SeqCst) {
                let Ok(whole) = (&socket).read(&mut frame) else {
                    continue;
                };
                let time = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                let kept = whole.min(SNAP);
                // The capture is an artifact, not a dependency.
                drop(out.write_all(&record_header(time, kept, whole)));
                drop(out.write_all(&frame[..kept]));
                left -= 1;
            }
            drop(out.flush());
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // It has nothing to say.
            drop(thread.join());
        }
    }
}

/// Cuts a pcap that something else wrote down to the same budget.
pub(crate) fn trim(path: &Path) -> anyhow::Result<()> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let end = end_of_frames(&bytes, FRAMES);
    if end < bytes.len() {
        let file = File::options().write(true).open(path)?;
        file.set_len(end as u64)?;
    }
    Ok(())
}

/// Cuts every pcap in a directory.
pub(crate) fn trim_all(dir: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "pcap")
        {
            trim(&path)?;
        }
    }
    Ok(())
}

fn end_of_frames(bytes: &[u8], frames: usize) -> usize {
    let mut at = FILE_HEADER;
    for _ in 0..frames {
        let Some(length) = bytes.get(at + 8..at + 12) else {
            break;
        };
        let mut word = [0; 4];
        word.copy_from_slice(length);
        let next = at + RECORD_HEADER + u32::from_ne_bytes(word) as usize;
        if next > bytes.len() {
            break;
        }
        at = next;
    }
    at.min(bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pcap_is_cut_between_frames() {
        let mut bytes = file_header();
        assert_eq!(bytes.len(), FILE_HEADER);
        for size in [10usize, 20, 30] {
            bytes.extend(record_header(Duration::from_secs(1), size, size));
            bytes.extend(vec![0; size]);
        }
        let two = FILE_HEADER + 2 * RECORD_HEADER + 30;
        assert_eq!(end_of_frames(&bytes, 2), two);
        assert_eq!(end_of_frames(&bytes, 9), bytes.len());
        assert_eq!(end_of_frames(&bytes[..bytes.len() - 1], 9), two);
        assert_eq!(end_of_frames(&[], 9), 0);
    }
}
