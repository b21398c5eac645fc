//! Each service, asked by a peer that is another smoltcp interface.

extern crate std;

mod rig;

use alloc::vec;
use alloc::vec::Vec;

use sha2::{Digest, Sha256};
use smoltcp::socket::udp;
use smoltcp::time::Duration;
use vring_protocol::{Datagram, Kind, port};

use crate::{Pings, Progress};
use rig::{Rig, datagram, send};

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

#[test]
fn a_ping_that_is_forgiven_is_not_waited_for() {
    let mut rig = Rig::new(50);
    rig.peer.lose = 10;
    let start = rig.now;
    while rig.services.pings().is_none() {
        rig.run(|_, _| true);
        rig.services.forgive_ping();
    }
    let pings = rig.services.pings().unwrap();
    assert_eq!((pings.sent, rig.services.pings_sent()), (50, 50));
    assert!(pings.received < 50, "{pings:?}");
    let waited = rig.now - start;
    assert!(waited < Duration::from_secs(2), "{waited:?}");
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
