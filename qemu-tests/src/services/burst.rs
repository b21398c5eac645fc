//! Datagrams as fast as they go: what the network drops may be lost, what the rings drop may not.

use smoltcp::socket::udp::{Socket, UdpMetadata};
use vring_protocol::Kind;

use crate::datagrams::{Received, receive, reply, send_data};

/// The service. One peer at a time.
pub(crate) struct Burst {
    max_payload: usize,
    received: Received,
    /// Datagrams sent since the last start.
    sent: u32,
    /// Datagrams to send.
    wanted: u32,
    to: Option<UdpMetadata>,
    /// Who is owed the counts, once they change no more.
    owed: Option<UdpMetadata>,
}

impl Burst {
    /// Sends datagrams of up to `max_payload` bytes.
    pub(crate) fn new(max_payload: usize) -> Self {
        Self {
            max_payload,
            received: Received::default(),
            sent: 0,
            wanted: 0,
            to: None,
            owed: None,
        }
    }

    /// Takes in what has come and sends what there is room for; true when something had come, or
    /// something is left to send.
    pub(crate) fn poll(&mut self, socket: &mut Socket<'_>) -> bool {
        let mut asked = false;
        while let Some((datagram, from)) = receive(socket) {
            asked = true;
            match datagram.kind {
                Kind::Data => self.received.record(datagram.seq),
                Kind::Start => self.start(from, datagram.value),
                Kind::Query => self.owed = Some(from),
                Kind::Ack | Kind::Stats => {}
            }
        }
        while let (Some(to), true) = (self.to, self.sent < self.wanted) {
            if !send_data(socket, to, self.sent + 1, self.max_payload) {
                // Room will come as the device takes what is there.
                return asked;
            }
            self.sent += 1;
        }
        if let Some(to) = self.owed {
            let (sent, received) = (self.sent, self.received.distinct);
            if reply(socket, to, Kind::Stats, sent, received) {
                self.owed = None;
            }
        }
        asked
    }

    fn start(&mut self, from: UdpMetadata, count: u32) {
        let repeated = self.to.is_some_and(|to| to.endpoint == from.endpoint)
            && count == self.wanted
            && self.sent < self.wanted;
        if repeated {
            return;
        }
        *self = Self::new(self.max_payload);
        self.wanted = count;
        self.to = Some(from);
        self.owed = (count == 0).then_some(from);
    }
}
