//! Bulk data over TCP, checked by SHA-256 at both ends, and the word that ends the run.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use super::{Progress, SOCKET_TICK, Stall, is_quiet};
use crate::qemu::limits::Deadline;
use crate::qemu::report::Bulk;
use crate::qemu::stop::Stop;

const CHUNK: usize = 64 << 10;
const DIGEST: usize = 32;

/// Pseudo-random bytes, different in every chunk: a lost, repeated or swapped segment shows.
struct Noise(u64);

impl Noise {
    fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            // xorshift64*
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            let word = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}

fn connect(to: SocketAddr, stall: &Stall) -> Result<TcpStream, Stop> {
    // The guest may still be putting its listener back after the connection before.
    let stream =
        stall.current.poll(
            &format!("a connection to {to}"),
            || match TcpStream::connect_timeout(&to, Duration::from_secs(5)) {
                Ok(stream) => Ok(Some(stream)),
                Err(_) => Ok(None),
            },
        )?;
    stream
        .set_read_timeout(Some(SOCKET_TICK))
        .and_then(|()| stream.set_write_timeout(Some(SOCKET_TICK)))
        .context("cannot set the time limits of a socket")?;
    Ok(stream)
}

fn write_all(
    stream: &mut TcpStream,
    mut bytes: &[u8],
    stall: &mut Stall,
    what: &str,
) -> Result<(), Stop> {
    while !bytes.is_empty() {
        stall.check(what)?;
        match stream.write(bytes) {
            Ok(count) => {
                bytes = &bytes[count..];
                if count > 0 {
                    stall.progress();
                }
            }
            Err(error) if is_quiet(&error) => {}
            Err(error) => return Err(anyhow::Error::new(error).context(what.to_owned()).into()),
        }
    }
    Ok(())
}

/// Reads what there is, at least one byte; 0 at the end of the stream.
fn read_some(
    stream: &mut TcpStream,
    bytes: &mut [u8],
    stall: &mut Stall,
    what: &str,
) -> Result<usize, Stop> {
    loop {
        stall.check(what)?;
        match stream.read(bytes) {
            Ok(count) => {
                stall.progress();
                return Ok(count);
            }
            Err(error) if is_quiet(&error) => {}
            Err(error) => return Err(anyhow::Error::new(error).context(what.to_owned()).into()),
        }
    }
}

/// Sends bytes to the guest's sink; it answers with their digest.
pub(crate) fn down(
    to: SocketAddr,
    bytes: u64,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Bulk, Stop> {
    const WHAT: &str = "the guest to take TCP data";
    let start = Instant::now();
    let mut stall = Stall::new(deadline);
    let mut stream = connect(to, &stall)?;
    let mut digest = Sha256::new();
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let mut chunk = vec![0; CHUNK];
    let mut sent = 0;
    while sent < bytes {
        let size = (bytes - sent).min(CHUNK as u64) as usize;
        noise.fill(&mut chunk[..size]);
        digest.update(&chunk[..size]);
        write_all(&mut stream, &chunk[..size], &mut stall, WHAT)?;
        sent += size as u64;
        progress(sent, bytes);
    }
    stream
        .shutdown(Shutdown::Write)
        .context("cannot end the TCP data")?;
    let mut answer = Vec::new();
    let mut buffer = [0; DIGEST + 1];
    while answer.len() <= DIGEST {
        match read_some(&mut stream, &mut buffer, &mut stall, "the guest's digest")? {
            0 => break,
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    Ok(Bulk {
        bytes: sent,
        sha256_ok: answer[..] == digest.finalize()[..],
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Asks the guest's source for bytes; their digest follows them.
pub(crate) fn up(
    to: SocketAddr,
    bytes: u64,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Bulk, Stop> {
    const WHAT: &str = "TCP data from the guest";
    let start = Instant::now();
    let mut stall = Stall::new(deadline);
    let mut stream = connect(to, &stall)?;
    write_all(&mut stream, &bytes.to_le_bytes(), &mut stall, WHAT)?;
    let mut digest = Sha256::new();
    let mut received = 0;
    let mut answer = Vec::new();
    let mut chunk = vec![0; CHUNK];
    while answer.len() <= DIGEST {
        let count = read_some(&mut stream, &mut chunk, &mut stall, WHAT)?;
        if count == 0 {
            break;
        }
        let data = (bytes - received).min(count as u64) as usize;
        digest.update(&chunk[..data]);
        received += data as u64;
        answer.extend_from_slice(&chunk[data..count]);
        progress(received, bytes);
    }
    Ok(Bulk {
        bytes: received,
        sha256_ok: received == bytes && answer[..] == digest.finalize()[..],
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Tells the guest that the run is over, and waits for its word.
pub(crate) fn finish(to: SocketAddr, deadline: Deadline) -> Result<(), Stop> {
    const WHAT: &str = "the guest's goodbye";
    let mut stall = Stall::new(deadline);
    let mut stream = connect(to, &stall)?;
    write_all(&mut stream, b"finish\n", &mut stall, WHAT)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 16];
    while !answer.ends_with(b"\n") && answer.len() < 64 {
        match read_some(&mut stream, &mut buffer, &mut stall, WHAT)? {
            0 => break,
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    if answer != b"bye\n" {
        return Err(Stop::Broken(anyhow::anyhow!(
            "the guest answered {:?} to `finish` where `bye` was due",
            String::from_utf8_lossy(&answer)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, Lie};
    use super::*;

    const BYTES: u64 = 300_001;

    #[test]
    fn bulk_goes_both_ways() {
        let fake = Fake::start(Lie::None);
        let mut last = (0, 0);
        let deadline = Deadline::seconds(20);
        let to = fake.endpoints();
        let result = down(to.sink, BYTES, deadline, &mut |done, all| {
            last = (done, all)
        })
        .unwrap();
        assert!(result.sha256_ok && result.bytes == BYTES, "{result:?}");
        assert_eq!(last, (BYTES, BYTES));
        let result = up(to.source, BYTES, deadline, &mut |_, _| ()).unwrap();
        assert!(result.sha256_ok && result.bytes == BYTES, "{result:?}");
        finish(to.control, deadline).unwrap();
    }

    #[test]
    fn damaged_data_is_noticed() {
        let fake = Fake::start(Lie::FlipBit);
        let deadline = Deadline::seconds(20);
        let to = fake.endpoints();
        assert!(
            !down(to.sink, BYTES, deadline, &mut |_, _| ())
                .unwrap()
                .sha256_ok
        );
        assert!(
            !up(to.source, BYTES, deadline, &mut |_, _| ())
                .unwrap()
                .sha256_ok
        );
    }

    #[test]
    fn data_that_ends_early_is_noticed() {
        let fake = Fake::start(Lie::CutShort);
        let deadline = Deadline::seconds(20);
        let to = fake.endpoints();
        let result = up(to.source, BYTES, deadline, &mut |_, _| ()).unwrap();
        assert!(!result.sha256_ok && result.bytes < BYTES, "{result:?}");
        assert!(finish(to.control, deadline).is_err());
    }

    #[test]
    fn nobody_there_is_a_time_limit() {
        let deadline = Deadline::after(Duration::from_millis(100));
        let nobody = SocketAddr::from(([127, 0, 0, 1], 1));
        let stop = finish(nobody, deadline).unwrap_err();
        assert!(matches!(stop, Stop::TimeLimit { .. }), "{stop}");
    }
}
