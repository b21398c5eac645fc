//! Echo requests to the guest, on a raw socket: no `ping` program is needed.

use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Progress, is_quiet};
use crate::qemu::limits::Deadline;
use crate::qemu::report::Ping;
use crate::qemu::stop::Stop;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;
const HEADER: usize = 8;
const PAYLOAD: usize = 56;
/// How long a reply may take: under emulation within emulation on a busy machine, seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The Internet checksum.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn request(id: u16, seq: u16) -> [u8; HEADER + PAYLOAD] {
    let mut packet = [0; HEADER + PAYLOAD];
    packet[0] = ECHO_REQUEST;
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    packet[6..8].copy_from_slice(&seq.to_be_bytes());
    for (at, byte) in packet[HEADER..].iter_mut().enumerate() {
        *byte = at as u8 ^ seq as u8;
    }
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Whether an IP packet is the reply to this request, payload and all.
fn answers(packet: &[u8], request: &[u8]) -> bool {
    let header = usize::from(packet.first().copied().unwrap_or(0) & 0xf) * 4;
    packet.get(header..).is_some_and(|icmp| {
        icmp.len() == request.len()
            && icmp[0] == ECHO_REPLY
            && icmp[4..] == request[4..]
            && checksum(icmp) == 0
    })
}

/// Sends echo requests one after the other.
pub(crate) fn ping(
    to: Ipv4Addr,
    count: u32,
    deadline: Deadline,
    progress: Progress<'_>,
) -> Result<Ping, Stop> {
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))
        .context("cannot open a raw socket")?;
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .context("cannot set the time limit of a raw socket")?;
    let id = std::process::id() as u16;
    let mut result = Ping::default();
    for seq in 0..count {
        let request = request(id, seq as u16);
        deadline.check("replies to ping")?;
        socket
            .send_to(&request, &SocketAddrV4::new(to, 0).into())
            .context("cannot send an echo request")?;
        result.sent += 1;
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            let mut buffer = [MaybeUninit::uninit(); 512];
            match socket.recv(&mut buffer) {
                Ok(size) => {
                    // SAFETY: `recv` filled the first `size` bytes, and `u8` has no padding.
                    let packet = unsafe { &*(std::ptr::from_ref(&buffer[..size]) as *const [u8]) };
                    if answers(packet, &request) {
                        result.received += 1;
                        break;
                    }
                }
                Err(error) if is_quiet(&error) => deadline.check("replies to ping")?,
                Err(error) => {
                    return Err(anyhow::Error::new(error).context("cannot receive").into());
                }
            }
        }
        progress(u64::from(result.sent), u64::from(count));
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_carries_its_checksum() {
        assert_eq!(checksum(&request(7, 9)), 0);
        // RFC 1071's example.
        assert_eq!(checksum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn a_reply_is_told_from_others() {
        let request = request(7, 9);
        let mut packet = vec![0x45];
        packet.resize(20, 0);
        packet.extend_from_slice(&request);
        assert!(!answers(&packet, &request), "our own request");
        packet[20] = ECHO_REPLY;
        packet[22..24].fill(0);
        let sum = checksum(&packet[20..]).to_be_bytes();
        packet[22..24].copy_from_slice(&sum);
        assert!(answers(&packet, &request));
        let last = packet.len() - 1;
        packet[last] ^= 1;
        assert!(!answers(&packet, &request), "damaged payload");
        assert!(!answers(&[], &request));
    }
}
