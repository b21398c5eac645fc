//! The guest's services on ordinary sockets, honest or not: what the peer's tests talk to.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use vring_protocol::{Datagram, Kind};

use super::Endpoints;

/// How the fake misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    None,
    FlipBit,
    CutShort,
    DropSome,
}

/// The services, each on a thread and a port of its own.
#[derive(Debug)]
pub(crate) struct Fake {
    endpoints: Endpoints,
}

impl Fake {
    pub(crate) fn start(lie: Lie) -> Self {
        let endpoints = Endpoints {
            control: tcp(move |stream| control(stream, lie)),
            sink: tcp(move |stream| sink(stream, lie)),
            source: tcp(move |stream| source(stream, lie)),
            paced: udp(move |socket| paced(socket, lie)),
            burst: udp(move |socket| burst(socket, lie)),
        };
        Self { endpoints }
    }

    pub(crate) fn endpoints(&self) -> Endpoints {
        self.endpoints
    }
}

fn tcp(serve: impl Fn(&mut std::net::TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            serve(&mut stream.unwrap());
        }
    });
    address
}

fn udp(serve: impl FnOnce(UdpSocket) + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || serve(socket));
    address
}

fn control(stream: &mut std::net::TcpStream, lie: Lie) {
    let mut word = [0; 7];
    stream.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"finish\n");
    let answer: &[u8] = if lie == Lie::CutShort {
        b"by"
    } else {
        b"bye\n"
    };
    stream.write_all(answer).unwrap();
}

fn sink(stream: &mut std::net::TcpStream, lie: Lie) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    if lie == Lie::FlipBit {
        bytes[1000] ^= 1;
    }
    stream.write_all(&Sha256::digest(&bytes)).unwrap();
}

fn source(stream: &mut std::net::TcpStream, lie: Lie) {
    let mut count = [0; 8];
    stream.read_exact(&mut count).unwrap();
    let mut bytes: Vec<u8> = (0..u64::from_le_bytes(count))
        .map(|at| (at * 7) as u8)
        .collect();
    let digest = Sha256::digest(&bytes);
    if lie == Lie::FlipBit {
        bytes[1000] ^= 1;
    }
    if lie == Lie::CutShort {
        bytes.truncate(1000);
        // The peer may hang up first.
        drop(stream.write_all(&bytes));
        return;
    }
    stream.write_all(&bytes).unwrap();
    stream.write_all(&digest).unwrap();
}

fn send(socket: &UdpSocket, to: SocketAddr, kind: Kind, seq: u32, value: u32) {
    let bytes = Datagram { kind, seq, value }.to_bytes();
    // Loopback refuses a datagram for a socket that is closed: the peer has had enough.
    drop(socket.send_to(&bytes, to));
}

fn paced(socket: UdpSocket, lie: Lie) {
    let (mut highest, mut distinct, mut since) = (0, 0, 0);
    let mut bytes = [0; 2048];
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let mut peer = None;
    loop {
        let Ok((count, from)) = socket.recv_from(&mut bytes) else {
            if let Some(peer) = peer {
                send(&socket, peer, Kind::Ack, highest, distinct);
            }
            continue;
        };
        match Datagram::parse(&bytes[..count]).unwrap() {
            Datagram {
                kind: Kind::Data,
                seq,
                ..
            } => {
                if lie == Lie::DropSome && seq % 50 == 0 {
                    continue;
                }
                peer = Some(from);
                (highest, distinct, since) = (seq.max(highest), distinct + 1, since + 1);
                if since >= Datagram::ACK_EVERY {
                    since = 0;
                    send(&socket, from, Kind::Ack, highest, distinct);
                }
            }
            Datagram {
                kind: Kind::Start,
                value,
                ..
            } => {
                peer = None;
                paced_source(&socket, from, value, lie);
            }
            _ => {}
        }
    }
}

fn paced_source(socket: &UdpSocket, to: SocketAddr, count: u32, lie: Lie) {
    let (mut next, mut acknowledged, mut received, mut sent) = (1, 0, 0, 0);
    let mut bytes = [0; 2048];
    while received < count {
        if next <= acknowledged + Datagram::WINDOW {
            if lie != Lie::DropSome || next % 50 != 0 {
                send(socket, to, Kind::Data, next, 0);
            }
            next += 1;
            sent += 1;
            continue;
        }
        match socket.recv_from(&mut bytes) {
            Ok((count, _)) => {
                let ack = Datagram::parse(&bytes[..count]).unwrap();
                if ack.kind == Kind::Ack {
                    acknowledged = ack.seq.max(acknowledged);
                    received = ack.value;
                }
            }
            Err(_) => acknowledged = next - 1,
        }
    }
    send(socket, to, Kind::Stats, sent, received);
}

fn burst(socket: UdpSocket, lie: Lie) {
    let (mut sent, mut received) = (0, 0);
    let mut bytes = [0; 2048];
    loop {
        let (count, from) = socket.recv_from(&mut bytes).unwrap();
        match Datagram::parse(&bytes[..count]).unwrap() {
            Datagram {
                kind: Kind::Data,
                seq,
                ..
            } => {
                received += u32::from(lie != Lie::DropSome || seq % 50 != 0);
            }
            Datagram {
                kind: Kind::Start,
                value,
                ..
            } => {
                (sent, received) = (value, 0);
                for seq in 1..=value {
                    if lie != Lie::DropSome || seq % 50 != 0 {
                        send(&socket, from, Kind::Data, seq, 0);
                    }
                }
                if value == 0 {
                    send(&socket, from, Kind::Stats, sent, received);
                }
            }
            Datagram {
                kind: Kind::Query, ..
            } => send(&socket, from, Kind::Stats, sent, received),
            _ => {}
        }
    }
}
