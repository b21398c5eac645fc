//! The frames of the exercise: echo requests whose bytes can be checked, and ARP, so that the peer
//! finds the guest and the guest the peer.

use alloc::boxed::Box;
use alloc::vec;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
    EthernetRepr, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr,
};

use super::super::{HEADER, LONGEST};

/// Bytes of a receive buffer: the header, and the longest frame.
pub(super) const RECEIVE: usize = HEADER + LONGEST;

const ETHERNET: usize = 14;

/// Who sends, or who is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Station {
    pub(super) mac: EthernetAddress,
    pub(super) ip: Ipv4Address,
}

/// Number of an echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Echo {
    pub(super) ident: u16,
    pub(super) seq: u16,
}

/// What a received frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The answer to an echo request, and whether it has the bytes of the request.
    Answer {
        echo: Echo,
        intact: bool,
    },
    /// Somebody asks who has the address.
    WhoHas {
        asked: Ipv4Address,
        by: Station,
    },
    /// Somebody has the address that was asked for.
    IsAt(Station),
    Other,
}

/// The bytes of an echo request: each has a length and a content of its own.
fn payload(echo: Echo) -> impl ExactSizeIterator<Item = u8> {
    let Echo { ident, seq } = echo;
    let len = 40 + usize::from(seq) * 7 % 1200;
    (0..len).map(move |at| (at as u8) ^ (seq as u8) ^ ((seq >> 8) as u8) ^ (ident as u8))
}

/// A frame with room for the device's header in front, and its Ethernet header.
fn frame(from: Station, to: EthernetAddress, kind: EthernetProtocol, len: usize) -> Box<[u8]> {
    let mut bytes = vec![0; HEADER + ETHERNET + len].into_boxed_slice();
    let header = EthernetRepr {
        src_addr: from.mac,
        dst_addr: to,
        ethertype: kind,
    };
    header.emit(&mut EthernetFrame::new_unchecked(&mut bytes[HEADER..]));
    bytes
}

/// An echo request.
pub(super) fn request(from: Station, to: Station, echo: Echo) -> Box<[u8]> {
    let data: vec::Vec<u8> = payload(echo).collect();
    let icmp = Icmpv4Repr::EchoRequest {
        ident: echo.ident,
        seq_no: echo.seq,
        data: &data,
    };
    let ip = Ipv4Repr {
        src_addr: from.ip,
        dst_addr: to.ip,
        next_header: IpProtocol::Icmp,
        payload_len: icmp.buffer_len(),
        hop_limit: 64,
    };
    let len = ip.buffer_len() + icmp.buffer_len();
    let mut bytes = frame(from, to.mac, EthernetProtocol::Ipv4, len);
    let checksums = ChecksumCapabilities::default();
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes[HEADER + ETHERNET..]);
    ip.emit(&mut packet, &checksums);
    icmp.emit(
        &mut Icmpv4Packet::new_unchecked(packet.payload_mut()),
        &checksums,
    );
    bytes
}

/// Asks everybody who has `ip`.
pub(super) fn who_has(from: Station, ip: Ipv4Address) -> Box<[u8]> {
    let nobody = Station {
        mac: EthernetAddress([0; 6]),
        ip,
    };
    arp(
        ArpOperation::Request,
        from,
        nobody,
        EthernetAddress::BROADCAST,
    )
}

/// Answers that `from` is there.
pub(super) fn is_at(from: Station, to: Station) -> Box<[u8]> {
    arp(ArpOperation::Reply, from, to, to.mac)
}

fn arp(operation: ArpOperation, from: Station, to: Station, mac: EthernetAddress) -> Box<[u8]> {
    let arp = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: from.mac,
        source_protocol_addr: from.ip,
        target_hardware_addr: to.mac,
        target_protocol_addr: to.ip,
    };
    let mut bytes = frame(from, mac, EthernetProtocol::Arp, arp.buffer_len());
    arp.emit(&mut ArpPacket::new_unchecked(
        &mut bytes[HEADER + ETHERNET..],
    ));
    bytes
}

/// What a frame is, the device's header taken off.
pub(super) fn read(frame: &[u8]) -> Seen {
    let seen = EthernetFrame::new_checked(frame)
        .ok()
        .and_then(|frame| match frame.ethertype() {
            EthernetProtocol::Arp => read_arp(frame.payload()),
            EthernetProtocol::Ipv4 => read_ip(frame.payload()),
            _ => None,
        });
    seen.unwrap_or(Seen::Other)
}

fn read_arp(bytes: &[u8]) -> Option<Seen> {
    let packet = ArpPacket::new_checked(bytes).ok()?;
    let ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: mac,
        source_protocol_addr: ip,
        target_protocol_addr: asked,
        ..
    } = ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let by = Station { mac, ip };
    match operation {
        ArpOperation::Request => Some(Seen::WhoHas { asked, by }),
        ArpOperation::Reply => Some(Seen::IsAt(by)),
        ArpOperation::Unknown(_) => None,
    }
}

fn read_ip(bytes: &[u8]) -> Option<Seen> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    if packet.next_header() != IpProtocol::Icmp {
        return None;
    }
    let icmp = Icmpv4Packet::new_checked(packet.payload()).ok()?;
    match Icmpv4Repr::parse(&icmp, &ChecksumCapabilities::default()).ok()? {
        Icmpv4Repr::EchoReply {
            ident,
            seq_no: seq,
            data,
        } => {
            let echo = Echo { ident, seq };
            let intact = data.iter().copied().eq(payload(echo));
            Some(Seen::Answer { echo, intact })
        }
        _ => None,
    }
}
