//! The guest's services and a peer, at the two ends of a wire in memory that may lose frames.

use alloc::collections::VecDeque;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use smoltcp::iface::{Config as InterfaceConfig, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr, IpEndpoint, Ipv4Address};
use vring_protocol::{Datagram, Kind, Options};

use crate::{Config, Progress, Services};

const MTU: usize = 1514;

/// Frames that an end of the wire holds: what a transmit ring would.
const ROOM: usize = 64;

type Queue = Rc<RefCell<VecDeque<Vec<u8>>>>;

/// One end of a wire. Every `lose`th frame that it sends gets lost (0: none).
pub(super) struct End {
    receive: Queue,
    transmit: Queue,
    pub(super) lose: usize,
    sent: usize,
}

pub(super) fn wire() -> (End, End) {
    let (a, b) = (Queue::default(), Queue::default());
    let end = |receive: &Queue, transmit: &Queue| End {
        receive: receive.clone(),
        transmit: transmit.clone(),
        lose: 0,
        sent: 0,
    };
    (end(&a, &b), end(&b, &a))
}

pub(crate) struct Frame(Vec<u8>);
pub(crate) struct Room<'a>(&'a mut End);

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
pub(super) struct Rig {
    pub(super) services: Services,
    pub(super) guest: End,
    pub(super) peer: End,
    pub(super) interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    pub(super) now: Instant,
    pub(super) last: Progress,
}

impl Rig {
    pub(super) fn new(ping: u32) -> Self {
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
    pub(super) fn run(&mut self, mut done: impl FnMut(&mut SocketSet<'static>, Progress) -> bool) {
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

    pub(super) fn connect(&mut self, port: u16, local: u16) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 65536]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket
            .connect(self.interface.context(), (guest_address(), port), local)
            .unwrap();
        self.sockets.add(socket)
    }

    pub(super) fn bind(&mut self, local: u16) -> SocketHandle {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 256], vec![0; 512 * 1024]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(local).unwrap();
        self.sockets.add(socket)
    }

    /// Sends all of `bytes`, ends the stream unless `keep` says otherwise, and reads to the end.
    pub(super) fn converse(&mut self, port: u16, local: u16, bytes: &[u8], keep: bool) -> Vec<u8> {
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
    pub(super) fn ask(
        &mut self,
        socket: SocketHandle,
        port: u16,
        question: Datagram,
        kind: Kind,
    ) -> Datagram {
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

pub(super) fn guest_address() -> IpAddress {
    IpAddress::Ipv4(Ipv4Address::new(10, 0, 2, 15))
}

pub(super) fn send(
    sockets: &mut SocketSet<'_>,
    socket: SocketHandle,
    port: u16,
    datagram: Datagram,
) {
    let to = IpEndpoint::new(guest_address(), port);
    let socket = sockets.get_mut::<udp::Socket<'_>>(socket);
    socket.send_slice(&datagram.to_bytes(), to).unwrap();
}

pub(super) fn datagram(kind: Kind, seq: u32, value: u32) -> Datagram {
    Datagram { kind, seq, value }
}
