//! Datagrams paced by acknowledgement, so that none needs to be lost, in either direction.

use smoltcp::socket::udp::{Socket, UdpMetadata};
use smoltcp::time::{Duration, Instant};
use vring_protocol::{Datagram, Kind};

use crate::datagrams::{Received, receive, reply, send_data};

/// After so long without an acknowledgement, what is outstanding is taken for lost.
const PATIENCE: Duration = Duration::from_millis(200);

/// The service: one peer at a time receives, one at a time sends.
pub(crate) struct Paced {
    max_payload: usize,
    received: Received,
    /// Datagrams that have come since the last acknowledgement.
    unacknowledged: u32,
    /// Who sent it. Another peer, or another port of the same one, starts anew.
    from: Option<UdpMetadata>,
    sender: Option<Sender>,
    /// Who is owed the counts.
    owed: Option<UdpMetadata>,
}

/// The guest's own sequence to a peer.
struct Sender {
    to: UdpMetadata,
    /// How many the peer wants to receive.
    wanted: u32,
    /// How many it has acknowledged.
    arrived: u32,
    /// The last number sent. They count from 1: who has acknowledged 0 has seen nothing.
    last: u32,
    /// The highest number that was acknowledged or given up.
    settled: u32,
    /// When the outstanding ones are given up.
    deadline: Instant,
}

impl Paced {
    /// Sends datagrams of up to `max_payload` bytes.
    pub(crate) fn new(max_payload: usize) -> Self {
        Self {
            max_payload,
            received: Received::default(),
            unacknowledged: 0,
            from: None,
            sender: None,
            owed: None,
        }
    }

    /// When something is to be done although nothing comes.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let sender = self.sender.as_ref()?;
        (!sender.is_done()).then_some(sender.deadline)
    }

    /// Takes in what has come and sends what may go out; true when something had come.
    pub(crate) fn poll(&mut self, now: Instant, socket: &mut Socket<'_>) -> bool {
        let mut asked = false;
        while let Some((datagram, from)) = receive(socket) {
            asked = true;
            match datagram.kind {
                Kind::Data => {
                    if self.from.replace(from).map(|from| from.endpoint) != Some(from.endpoint) {
                        self.received = Received::default();
                    }
                    self.received.record(datagram.seq);
                    self.unacknowledged += 1;
                    if self.unacknowledged >= Datagram::ACK_EVERY && self.acknowledge(socket) {
                        self.unacknowledged = 0;
                    }
                }
                Kind::Start => self.start(now, from, datagram.value),
                Kind::Ack => self.acknowledged(now, datagram),
                Kind::Query => self.owed = Some(from),
                Kind::Stats => {}
            }
        }
        if self.unacknowledged > 0 && self.acknowledge(socket) {
            self.unacknowledged = 0;
        }
        if let Some(sender) = &mut self.sender {
            sender.send(now, socket, self.max_payload);
        }
        if let Some(to) = self.owed {
            let (sent, received) = self.counts();
            if reply(socket, to, Kind::Stats, sent, received) {
                self.owed = None;
            }
        }
        asked
    }

    /// Says what has come. False when there is no room now.
    fn acknowledge(&self, socket: &mut Socket<'_>) -> bool {
        let (seq, distinct) = (self.received.highest(), self.received.distinct);
        self.from
            .is_some_and(|to| reply(socket, to, Kind::Ack, seq, distinct))
    }

    /// Begins to send, or with a count of 0 forgets all counts.
    fn start(&mut self, now: Instant, from: UdpMetadata, count: u32) {
        if count == 0 {
            *self = Self::new(self.max_payload);
            self.owed = Some(from);
        } else if !self.sender.as_ref().is_some_and(|s| s.answers(from, count)) {
            self.sender = Some(Sender {
                to: from,
                wanted: count,
                arrived: 0,
                last: 0,
                settled: 0,
                deadline: now + PATIENCE,
            });
        }
    }

    fn acknowledged(&mut self, now: Instant, ack: Datagram) {
        let Some(sender) = &mut self.sender else {
            return;
        };
        if sender.is_done() || ack.seq > sender.last {
            return;
        }
        sender.settled = sender.settled.max(ack.seq);
        sender.arrived = sender.arrived.max(ack.value.min(sender.last));
        sender.deadline = now + PATIENCE;
        if sender.is_done() {
            self.owed = Some(sender.to);
        }
    }

    /// The counts of the sequence that the guest sent, or that it received when it sent none.
    fn counts(&self) -> (u32, u32) {
        match &self.sender {
            Some(sender) => (sender.last, sender.arrived),
            None => (0, self.received.distinct),
        }
    }
}

impl Sender {
    fn is_done(&self) -> bool {
        self.arrived >= self.wanted
    }

    /// Whether a request to start is the one that is being served: requests may be repeated.
    fn answers(&self, from: UdpMetadata, count: u32) -> bool {
        self.to.endpoint == from.endpoint && self.wanted == count && !self.is_done()
    }

    /// Sends up to the window's end, and never more than are wanted still.
    fn send(&mut self, now: Instant, socket: &mut Socket<'_>, max_payload: usize) {
        if self.is_done() {
            return;
        }
        if now >= self.deadline {
            self.settled = self.last;
            self.deadline = now + PATIENCE;
        }
        let may_go = Datagram::WINDOW.min(self.wanted - self.arrived);
        while self.last - self.settled < may_go
            && send_data(socket, self.to, self.last + 1, max_payload)
        {
            self.last += 1;
        }
    }
}
