//! Sends as many bytes as the peer asks for, then their SHA-256.

use alloc::vec::Vec;

use sha2::{Digest, Sha256};
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::Instant;

use crate::server::Conversation;

/// A connection to the source.
#[derive(Default)]
pub(crate) struct Source {
    /// The request as far as it has come.
    request: Vec<u8>,
    /// Bytes sent.
    sent: u64,
    hash: Sha256,
    /// What is left of the digest, once the bytes are out.
    digest: Option<Vec<u8>>,
}

/// Bytes of the request.
const REQUEST: usize = 8;

impl Conversation for Source {
    fn poll(&mut self, _: Instant, socket: &mut Socket<'_>) -> bool {
        let mut active = false;
        let Some(count) = self.count(socket, &mut active) else {
            return active;
        };
        while self.sent < count && socket.can_send() {
            let given = socket.send(|room| {
                let len = (count - self.sent).min(room.len() as u64) as usize;
                let room = &mut room[..len];
                fill(room, self.sent);
                self.hash.update(&*room);
                self.sent += len as u64;
                (len, ())
            });
            active |= given.is_ok();
        }
        if self.sent == count {
            let hash = &mut self.hash;
            let digest = self
                .digest
                .get_or_insert_with(|| hash.finalize_reset().to_vec());
            if let Ok(taken @ 1..) = socket.send_slice(digest) {
                digest.drain(..taken);
                active = true;
            }
            if digest.is_empty() {
                socket.close();
            }
        }
        active
    }
}

impl Source {
    /// How many bytes are wanted, once the peer has said so in full.
    fn count(&mut self, socket: &mut Socket<'_>, active: &mut bool) -> Option<u64> {
        while self.request.len() < REQUEST && socket.can_recv() {
            let wanted = REQUEST - self.request.len();
            let taken = socket.recv(|bytes| {
                let bytes = &bytes[..wanted.min(bytes.len())];
                self.request.extend_from_slice(bytes);
                (bytes.len(), ())
            });
            *active |= taken.is_ok();
        }
        let count = self.request.as_slice().try_into().ok();
        if count.is_none() && socket.state() == State::CloseWait {
            // The peer will not say.
            socket.close();
        }
        count.map(u64::from_le_bytes)
    }
}

/// Fills `room` with the bytes that belong at `offset`: a sequence that does not repeat, so that a
/// piece that is lost, doubled or displaced shows in the digest.
fn fill(room: &mut [u8], offset: u64) {
    let lead = ((8 - offset % 8) % 8).min(room.len() as u64) as usize;
    let (head, body) = room.split_at_mut(lead);
    let word = |index: u64| {
        let mixed = (index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).to_le_bytes()
    };
    let from = (offset % 8) as usize;
    head.copy_from_slice(&word(offset / 8)[from..from + lead]);
    for (index, chunk) in (offset.div_ceil(8)..).zip(body.chunks_mut(8)) {
        chunk.copy_from_slice(&word(index)[..chunk.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::fill;
    use alloc::vec;

    #[test]
    fn bytes_depend_on_their_offset_alone() {
        let mut whole = vec![0; 1000];
        fill(&mut whole, 0);
        for cut in [1, 7, 8, 9, 500, 999] {
            let mut pieces = vec![0; 1000];
            let (a, b) = pieces.split_at_mut(cut);
            fill(a, 0);
            fill(b, cut as u64);
            assert_eq!(pieces, whole, "cut at {cut}");
        }
        let mut short = [0; 3];
        fill(&mut short, 2);
        assert_eq!(short, whole[2..5]);
    }
}
