//! The guest's own echo requests to its gateway, one after the other.

use alloc::vec;
use alloc::vec::Vec;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpAddress, Ipv4Address};

use crate::Pings;

/// The identifier of the guest's requests.
const IDENT: u16 = 0x7672;

/// Bytes of payload: what `ping` sends.
const PAYLOAD: usize = 56;

/// How long to wait for a reply before the next request, and for stragglers at the end.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends requests and matches replies.
pub(crate) struct Pinger {
    socket: SocketHandle,
    to: Ipv4Address,
    wanted: u32,
    sent: u32,
    /// Whether request `i` was answered; a reply that comes late still counts, once.
    answered: Vec<bool>,
    /// When the last request is given up.
    deadline: Instant,
    /// Requests that nobody waits for: what carried them was taken away.
    forgiven: u32,
}

impl Pinger {
    /// Will send `wanted` requests.
    pub(crate) fn new(to: Ipv4Address, wanted: u32, sockets: &mut SocketSet<'static>) -> Self {
        let buffer =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 1024]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        // Fails for a socket that is open.
        let bound = socket.bind(icmp::Endpoint::Ident(IDENT));
        debug_assert!(bound.is_ok());
        Self {
            socket: sockets.add(socket),
            to,
            wanted,
            sent: 0,
            answered: Vec::new(),
            deadline: Instant::ZERO,
            forgiven: 0,
        }
    }

    /// The counts, once every request was answered or given up.
    pub(crate) fn result(&self) -> Option<Pings> {
        let over = self.sent == self.wanted && self.is_settled();
        over.then(|| Pings {
            sent: self.sent,
            received: self.received(),
        })
    }

    /// Waits no longer for the request that is out, if one is.
    pub(crate) fn forgive(&mut self) {
        if self.answered.last() == Some(&false) && self.deadline != Instant::ZERO {
            self.deadline = Instant::ZERO;
            self.forgiven += 1;
        }
    }

    /// Requests sent so far.
    pub(crate) fn sent(&self) -> u32 {
        self.sent
    }

    /// When the request that is out is given up.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.result().is_none().then_some(self.deadline)
    }

    fn received(&self) -> u32 {
        self.answered
            .iter()
            .map(|answered| u32::from(*answered))
            .sum()
    }

    /// Whether nothing is to be waited for. At the end that is every reply, before it the last.
    fn is_settled(&self) -> bool {
        let last = self.sent == self.wanted;
        let answered = match last {
            true => self.received() + self.forgiven >= self.wanted,
            false => self.answered.last().is_none_or(|answered| *answered),
        };
        answered || self.deadline == Instant::ZERO
    }

    /// Takes in replies and sends the next request when its time has come.
    pub(crate) fn poll(&mut self, now: Instant, sockets: &mut SocketSet<'_>) {
        if self.result().is_some() {
            return;
        }
        let socket = sockets.get_mut::<icmp::Socket<'_>>(self.socket);
        while let Ok((bytes, from)) = socket.recv() {
            if let Some(seq) = reply_to(bytes).filter(|_| from == IpAddress::Ipv4(self.to)) {
                // The latest request of that number.
                let behind = (self.sent as u16).wrapping_sub(seq);
                let index = (self.sent as usize).checked_sub(usize::from(behind));
                if let Some(answered) = index.and_then(|i| self.answered.get_mut(i)) {
                    *answered = true;
                }
            }
        }
        if now >= self.deadline {
            // Given up, for now.
            self.deadline = Instant::ZERO;
        }
        if self.is_settled() && self.sent < self.wanted && self.request(socket) {
            self.answered.push(false);
            self.sent += 1;
            self.deadline = now + PATIENCE;
        }
    }

    fn request(&self, socket: &mut icmp::Socket<'_>) -> bool {
        let seq_no = self.sent as u16;
        let request = Icmpv4Repr::EchoRequest {
            ident: IDENT,
            seq_no,
            data: &payload(seq_no),
        };
        let Ok(room) = socket.send(request.buffer_len(), IpAddress::Ipv4(self.to)) else {
            return false;
        };
        let mut packet = Icmpv4Packet::new_unchecked(room);
        request.emit(&mut packet, &ChecksumCapabilities::default());
        true
    }
}

fn payload(seq: u16) -> [u8; PAYLOAD] {
    core::array::from_fn(|i| (i as u8) ^ (seq as u8))
}

/// The sequence number of an echo reply that carries what the request carried.
fn reply_to(bytes: &[u8]) -> Option<u16> {
    let packet = Icmpv4Packet::new_checked(bytes).ok()?;
    match Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).ok()? {
        Icmpv4Repr::EchoReply {
            ident: IDENT,
            seq_no,
            data,
        } if data == payload(seq_no) => Some(seq_no),
        _ => None,
    }
}
