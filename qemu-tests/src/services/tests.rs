//! Each service against a peer that is another smoltcp interface at the end of a wire in memory.

extern crate std;

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use sha2::{Digest, Sha256};
use smoltcp::iface::{Config as InterfaceConfig, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint, Ipv4Address};
use vring_protocol::{Datagram, Kind, Options, port};

use crate::{Config, Pings, Progress, Services};

const MTU: usize = 1514;

/// Frames that an end of the wire holds: what a transmit ring would.
const ROOM: usize = 64;

type Queue = Rc<RefCell<VecDeque<Vec<u8>>>>;

/// One end of a wire. Every `lose`th frame that it sends gets lost (0: none).
struct End {
    receive: Queue,
    transmit: Queue,
    lose: usize,
    sent: usize,
}

fn wire() -> (End, End) {
    let (a, b) = (Queue::default(), Queue::default());
    let end = |receive: &Queue, transmit: &Queue| End {
        receive: receive.clone(),
        transmit: transmit.clone(),
        lose: 0,
        sent: 0,
    };
    (end(&a, &b), end(&b, &a))
}

struct Frame(Vec<u8>);
struct Room<'a>(&'a mut End);

impl RxToken for Frame {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Room<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, give: F) -> R {
        let mut frame = vec![0; len];
        let result = give(&mut frame);
        self.0.sent += 1;
        if self.0.lose == 0 || !self.0.sent.is_multiple_of(self.0.lose) {
            self.0.transmit.borrow_mut().push_back(frame);
        }
        result
    }
}

impl Device for End {
    type RxToken<'a> = Frame;
    type TxToken<'a> = Room<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Frame, Room<'_>)> {
        let frame = self.receive.borrow_mut().pop_front()?;
        Some((Frame(frame), Room(self)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Room<'_>> {
        let has_room = self.transmit.borrow().len() < ROOM;
        has_room.then_some(Room(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

/// The guest and its peer, on a clock of their own.
struct Rig {
    services: Services,
    guest: End,
    peer: End,
    interface: Interface,
    sockets: SocketSet<'static>,
    now: Instant,
    last: Progress,
}

impl Rig {
    fn new(ping: u32) -> Self {
        let options = Options {
            ping,
            ..Options::default()
        };
        let (mut guest, mut peer) = wire();
        let now = Instant::from_millis(1);
        let config = Config::new([2, 0, 0, 0, 0, 1], &options).unwrap();
        let mac = EthernetAddress([2, 0, 0, 0, 0, 2]);
        let mut interface = Interface::new(InterfaceConfig::new(mac.into()), &mut peer, now);
        interface.update_ip_addrs(|addresses| {
            let gateway = IpAddress::Ipv4(config.gateway);
            addresses.push(IpCidr::new(gateway, 24)).unwrap();
        });
        Self {
            services: Services::new(&config, &mut guest, now),
            guest,
            peer,
            interface,
            sockets: SocketSet::new(Vec::new()),
            now,
            last: Progress::Busy,
        }
    }

    /// Lets both ends act until `done`, each step a millisecond, for at most ten minutes.
    fn run(&mut self, mut done: impl FnMut(&mut SocketSet<'static>, Progress) -> bool) {
        for _ in 0..600_000 {
            self.now += Duration::from_millis(1);
            self.last = self.services.poll(self.now, &mut self.guest);
            // It sends one frame of each socket at a time.
            while self
                .interface
                .poll(self.now, &mut self.peer, &mut self.sockets)
                == PollResult::SocketStateChanged
            {}
            if done(&mut self.sockets, self.last) {
                return;
            }
        }
        panic!("not done after ten minutes; the guest was {:?}", self.last)
    }

    fn connect(&mut self, port: u16, local: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 65536]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket
            .connect(self.interface.context(), (guest_address(), port), local)
            .unwrap();
        self.sockets.add(socket)
    }

    fn bind(&mut self, local: u16) -> SocketHandle {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 256], vec![0; 512 * 1024]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(local).unwrap();
        self.sockets.add(socket)
    }

    /// Sends all of `bytes`, ends the stream unless `keep` says otherwise, and reads to the end.
    fn converse(&mut self, port: u16, local: u16, bytes: &[u8], keep: bool) -> Vec<u8> {
        let handle = self.connect(port, local);
        let (mut sent, mut got, mut connected) = (0, Vec::new(), false);
        self.run(|sockets, _| {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(handle);
            connected |= socket.may_send();
            if sent < bytes.len() && socket.can_send() {
                sent += socket.send_slice(&bytes[sent..]).unwrap();
                if sent == bytes.len() && !keep {
                    socket.close();
                }
            }
            while socket.can_recv() {
                let read = socket.recv(|bytes| (bytes.len(), bytes.to_vec()));
                got.extend(read.unwrap());
            }
            connected && sent == bytes.len() && !socket.may_recv()
        });
        self.sockets.get_mut::<tcp::Socket<'_>>(handle).close();
        // The end of the stream is acknowledged late, and a third connection would find no socket.
        let later = self.now + Duration::from_millis(20);
        while self.now < later {
            self.run(|_, _| true);
        }
        got
    }

    /// Sends one datagram and waits for one of `kind`.
    fn ask(&mut self, socket: SocketHandle, port: u16, question: Datagram, kind: Kind) -> Datagram {
        send(&mut self.sockets, socket, port, question);
        let mut answer = None;
        self.run(|sockets, _| {
            let socket = sockets.get_mut::<udp::Socket<'_>>(socket);
            while let Ok((bytes, _)) = socket.recv() {
                answer = Datagram::parse(bytes).filter(|datagram| datagram.kind == kind);
            }
            answer.is_some()
        });
        answer.unwrap()
    }
}

fn guest_address() -> IpAddress {
    IpAddress::Ipv4(Ipv4Address::new(10, 0, 2, 15))
}

fn send(sockets: &mut SocketSet<'_>, socket: SocketHandle, port: u16, datagram: Datagram) {
    let to = IpEndpoint::new(guest_address(), port);
    let socket = sockets.get_mut::<udp::Socket<'_>>(socket);
    socket.send_slice(&datagram.to_bytes(), to).unwrap();
}

fn datagram(kind: Kind, seq: u32, value: u32) -> Datagram {
    Datagram { kind, seq, value }
}

fn noise(len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

#[test]
fn the_sink_answers_with_the_digest_of_what_it_took() {
    let mut rig = Rig::new(0);
    for (local, len) in [(50_000, 1_000_000), (50_001, 1), (50_002, 131_073)] {
        let bytes = noise(len);
        let digest = rig.converse(port::SINK, local, &bytes, false);
        assert_eq!(digest, Sha256::digest(&bytes).to_vec(), "{len} bytes");
    }
}

#[test]
fn the_sink_takes_every_byte_once_when_frames_get_lost() {
    let mut rig = Rig::new(0);
    rig.peer.lose = 7;
    rig.guest.lose = 11;
    let bytes = noise(200_000);
    let digest = rig.converse(port::SINK, 50_000, &bytes, false);
    assert_eq!(digest, Sha256::digest(&bytes).to_vec());
}

#[test]
fn the_source_sends_as_much_as_was_asked_and_its_digest() {
    let mut rig = Rig::new(0);
    for (local, count, keep) in [
        (50_000, 1_000_000u64, true),
        (50_001, 0, false),
        (50_002, 9, true),
    ] {
        let mut got = rig.converse(port::SOURCE, local, &count.to_le_bytes(), keep);
        let digest = got.split_off(got.len() - 32);
        assert_eq!(got.len() as u64, count);
        assert_eq!(digest, Sha256::digest(&got).to_vec());
    }
}

#[test]
fn the_source_closes_on_a_peer_that_does_not_ask() {
    let mut rig = Rig::new(0);
    assert!(
        rig.converse(port::SOURCE, 50_000, &[1, 2, 3], false)
            .is_empty()
    );
}

#[test]
fn finish_is_answered_and_ends_the_run() {
    let mut rig = Rig::new(0);
    assert_eq!(
        rig.converse(port::CONTROL, 50_000, b"hello\n", true),
        b"unknown\n"
    );
    assert_ne!(rig.last, Progress::Finished);
    assert_eq!(
        rig.converse(port::CONTROL, 50_001, b"finish\n", true),
        b"bye\n"
    );
    rig.run(|_, progress| progress == Progress::Finished);
}

#[test]
fn a_silent_peer_is_given_up() {
    let mut rig = Rig::new(0);
    let start = rig.now;
    rig.run(|_, progress| progress == Progress::GaveUp);
    let waited = rig.now - start;
    assert!(waited >= Duration::from_secs(60) && waited < Duration::from_secs(61));
}

#[test]
fn the_guest_pings_its_gateway() {
    let mut rig = Rig::new(100);
    assert_eq!(rig.services.pings(), None);
    let start = rig.now;
    rig.run(|_, progress| progress != Progress::Busy);
    while rig.services.pings().is_none() {
        rig.run(|_, _| true);
    }
    let all = Pings {
        sent: 100,
        received: 100,
    };
    assert_eq!(rig.services.pings(), Some(all));
    assert!(rig.now - start < Duration::from_secs(2));
}

#[test]
fn a_ping_that_gets_lost_is_not_received() {
    let mut rig = Rig::new(50);
    rig.peer.lose = 10;
    while rig.services.pings().is_none() {
        rig.run(|_, _| true);
    }
    let pings = rig.services.pings().unwrap();
    assert_eq!(pings.sent, 50);
    assert!((40..50).contains(&pings.received), "{pings:?}");
}

/// Sends `count` paced datagrams the way the protocol tells the peer to.
fn pace_to_the_guest(rig: &mut Rig, local: u16, count: u32) -> Datagram {
    let socket = rig.bind(local);
    let (mut sent, mut settled, mut patience) = (0, 0, 200);
    let mut last = datagram(Kind::Ack, 0, 0);
    rig.run(|sockets, _| {
        patience -= 1;
        if patience == 0 {
            (settled, patience) = (sent, 200);
        }
        while sent < count && sent - settled < Datagram::WINDOW {
            sent += 1;
            send(sockets, socket, port::PACED, datagram(Kind::Data, sent, 0));
        }
        let socket = sockets.get_mut::<udp::Socket<'_>>(socket);
        while let Ok((bytes, _)) = socket.recv() {
            last = Datagram::parse(bytes).unwrap();
            assert_eq!(last.kind, Kind::Ack);
            (settled, patience) = (settled.max(last.seq), 200);
        }
        sent == count && settled == count
    });
    last
}

#[test]
fn paced_datagrams_are_acknowledged_to_the_last() {
    let mut rig = Rig::new(0);
    let last = pace_to_the_guest(&mut rig, 40_000, 5000);
    assert_eq!((last.seq, last.value), (5000, 5000));
    // Another port is another sequence.
    let last = pace_to_the_guest(&mut rig, 40_001, 10);
    assert_eq!((last.seq, last.value), (10, 10));
}

#[test]
fn an_acknowledgement_does_not_count_what_got_lost() {
    let mut rig = Rig::new(0);
    rig.peer.lose = 10;
    let last = pace_to_the_guest(&mut rig, 40_000, 1000);
    assert!((890..=910).contains(&last.value), "{last:?}");
}

/// Receives the guest's paced datagrams until it sends its counts.
fn pace_from_the_guest(rig: &mut Rig, count: u32) -> (u32, Datagram) {
    let socket = rig.bind(40_000);
    send(
        &mut rig.sockets,
        socket,
        port::PACED,
        datagram(Kind::Start, 0, count),
    );
    let mut seen = vec![];
    let mut stats = None;
    rig.run(|sockets, _| {
        let mut fresh = false;
        while let Ok((bytes, _)) = sockets.get_mut::<udp::Socket<'_>>(socket).recv() {
            let got = Datagram::parse(bytes).unwrap();
            match got.kind {
                Kind::Data => {
                    assert!(!seen.contains(&got.seq), "{} came twice", got.seq);
                    seen.push(got.seq);
                    fresh = true;
                }
                _ => stats = Some(got),
            }
        }
        if fresh {
            let highest = seen.iter().copied().max().unwrap();
            let ack = datagram(Kind::Ack, highest, seen.len() as u32);
            send(sockets, socket, port::PACED, ack);
        }
        stats.is_some()
    });
    (seen.len() as u32, stats.unwrap())
}

#[test]
fn the_guest_sends_until_as_many_as_asked_have_arrived() {
    let mut rig = Rig::new(0);
    let (seen, stats) = pace_from_the_guest(&mut rig, 3000);
    assert_eq!((seen, stats), (3000, datagram(Kind::Stats, 3000, 3000)));
}

#[test]
fn the_guest_makes_up_for_datagrams_that_got_lost() {
    let mut rig = Rig::new(0);
    rig.guest.lose = 20;
    rig.peer.lose = 20;
    let (seen, stats) = pace_from_the_guest(&mut rig, 1000);
    assert!(
        seen >= 1000 && stats.value >= 1000 && stats.seq > 1000,
        "{seen} {stats:?}"
    );
}

#[test]
fn a_burst_is_counted() {
    let mut rig = Rig::new(0);
    let socket = rig.bind(40_000);
    let start = datagram(Kind::Start, 0, 0);
    let stats = rig.ask(socket, port::BURST, start, Kind::Stats);
    assert_eq!(stats, datagram(Kind::Stats, 0, 0));
    for round in 0..10 {
        for seq in round * 100..round * 100 + 100 {
            send(
                &mut rig.sockets,
                socket,
                port::BURST,
                datagram(Kind::Data, seq, 0),
            );
        }
        rig.run(|sockets, _| sockets.get::<udp::Socket<'_>>(socket).send_queue() == 0);
    }
    let query = datagram(Kind::Query, 0, 0);
    let stats = rig.ask(socket, port::BURST, query, Kind::Stats);
    assert_eq!(stats, datagram(Kind::Stats, 0, 1000));
    let stats = rig.ask(socket, port::BURST, start, Kind::Stats);
    assert_eq!(stats, datagram(Kind::Stats, 0, 0));
}

#[test]
fn the_guest_bursts_as_many_as_were_asked_and_then_answers() {
    let mut rig = Rig::new(0);
    let socket = rig.bind(40_000);
    send(
        &mut rig.sockets,
        socket,
        port::BURST,
        datagram(Kind::Start, 0, 2000),
    );
    send(
        &mut rig.sockets,
        socket,
        port::BURST,
        datagram(Kind::Query, 0, 0),
    );
    let (mut seen, mut stats) = (0, None);
    rig.run(|sockets, _| {
        while let Ok((bytes, _)) = sockets.get_mut::<udp::Socket<'_>>(socket).recv() {
            let got = Datagram::parse(bytes).unwrap();
            match got.kind {
                Kind::Data => seen += 1,
                _ => stats = Some(got),
            }
        }
        stats.is_some()
    });
    assert_eq!((seen, stats), (2000, Some(datagram(Kind::Stats, 2000, 0))));
}
