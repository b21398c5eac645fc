//! What the paced and the burst service share: counting what comes, and sending what is wanted.

use smoltcp::socket::udp::{Socket, UdpMetadata};
use vring_protocol::{Datagram, Kind};

/// Counts the distinct datagrams of a sequence, which may lose some, double some and overtake.
///
/// It remembers the last [`Received::SPAN`] sequence numbers. What comes later than that is taken
/// for a repetition, so that the count never says too much.
#[derive(Clone, Debug, Default)]
pub(crate) struct Received {
    /// Bit `seq % SPAN`: whether that one of the last `SPAN` has come.
    seen: [u64; Self::SPAN as usize / 64],
    /// One more than the highest sequence number.
    end: u32,
    /// Distinct datagrams.
    pub(crate) distinct: u32,
}

impl Received {
    /// Sequence numbers that are remembered.
    const SPAN: u32 = 1024;

    /// The highest sequence number, 0 before the first.
    pub(crate) fn highest(&self) -> u32 {
        self.end.saturating_sub(1)
    }

    /// Takes note of a sequence number.
    pub(crate) fn record(&mut self, seq: u32) {
        let end = seq.saturating_add(1);
        if end > self.end {
            if end - self.end >= Self::SPAN {
                self.seen.fill(0);
            } else {
                (self.end..end).for_each(|fresh| *self.word(fresh) &= !Self::bit(fresh));
            }
            self.end = end;
        } else if self.end - end >= Self::SPAN {
            return;
        }
        let word = self.word(seq);
        let fresh = *word & Self::bit(seq) == 0;
        *word |= Self::bit(seq);
        self.distinct += u32::from(fresh);
    }

    fn word(&mut self, seq: u32) -> &mut u64 {
        &mut self.seen[(seq % Self::SPAN / 64) as usize]
    }

    fn bit(seq: u32) -> u64 {
        1 << (seq % 64)
    }
}

/// The next datagram that is of the protocol, and who sent it.
pub(crate) fn receive(socket: &mut Socket<'_>) -> Option<(Datagram, UdpMetadata)> {
    loop {
        let (bytes, from) = socket.recv().ok()?;
        if let Some(datagram) = Datagram::parse(bytes) {
            return Some((datagram, from));
        }
    }
}

/// Sends a datagram of the header alone; false when there is no room now.
pub(crate) fn reply(
    socket: &mut Socket<'_>,
    to: UdpMetadata,
    kind: Kind,
    seq: u32,
    value: u32,
) -> bool {
    let datagram = Datagram { kind, seq, value };
    socket.send_slice(&datagram.to_bytes(), to).is_ok()
}

/// Sends payload number `seq`; false when there is no room now.
///
/// Lengths vary with the number: mostly short, which is what a ring finds hard, and every 16th of
/// full size, up to `max` bytes.
pub(crate) fn send_data(socket: &mut Socket<'_>, to: UdpMetadata, seq: u32, max: usize) -> bool {
    let len = match seq % 16 {
        0 => max,
        _ => max.min(Datagram::LEN + (seq as usize * 7) % 113),
    };
    let Ok(room) = socket.send(len, to) else {
        return false;
    };
    let datagram = Datagram {
        kind: Kind::Data,
        seq,
        value: 0,
    };
    let (header, padding) = room.split_at_mut(Datagram::LEN);
    header.copy_from_slice(&datagram.to_bytes());
    padding.fill(seq as u8);
    true
}

#[cfg(test)]
mod tests {
    use super::Received;

    fn after(sequence: impl IntoIterator<Item = u32>) -> Received {
        let mut received = Received::default();
        sequence.into_iter().for_each(|seq| received.record(seq));
        received
    }

    #[test]
    fn distinct_datagrams_are_counted_once() {
        let received = after([0, 1, 1, 3, 2, 3, 0]);
        assert_eq!((received.distinct, received.highest()), (4, 3));
    }

    #[test]
    fn a_number_comes_anew_when_its_bit_is_taken_over() {
        let received = after((0..5000).chain(4000..5000));
        assert_eq!((received.distinct, received.highest()), (5000, 4999));
    }

    #[test]
    fn a_leap_forgets_what_is_too_far_behind() {
        let received = after([5, 1_000_000, 5, 999_999]);
        assert_eq!((received.distinct, received.highest()), (3, 1_000_000));
    }
}
