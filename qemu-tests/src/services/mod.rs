//! The network services that the guest offers to its peer, over smoltcp and any of its devices.
//!
//! `vring-protocol` says what each service does; here is the guest's side of it, one module for
//! each. Nothing in this crate touches hardware or reads a clock: the caller hands in a device and
//! the time, so the same code runs in the guest kernel and in this crate's tests on the host.
//!
//! ```text
//!   frames ─▶ device ─▶ Interface ─▶ sockets ─▶ control, sink, source, paced, burst, ping
//!                                       ▲                        │
//!                                       └───────── Services::poll ┘
//! ```
//!
//! [`Services::poll`] does a bounded amount of work and says when to call it again.
#![no_std]

extern crate alloc;

mod burst;
mod control;
mod datagrams;
mod paced;
mod ping;
mod server;
mod sink;
mod source;

#[cfg(test)]
mod tests;

use alloc::vec;
use alloc::vec::Vec;

use smoltcp::iface::{Config as InterfaceConfig, Interface, PollIngressSingleResult, PollResult};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::phy::Device;
use smoltcp::socket::udp;
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Address, Ipv4Cidr};
use vring_protocol::{Options, port};

use burst::Burst;
use control::Control;
use paced::Paced;
use ping::Pinger;
use server::Server;
use sink::Sink;
use source::Source;

/// Frames taken from the device before the services and the transmit side have their turn.
const INGRESS_BURST: usize = 64;

/// Rounds of sending, each a frame of every socket that has one, before the device is looked at.
const EGRESS_ROUNDS: usize = 64;

/// How long to wait at most for a device that has no room for a frame now.
const BACK_OFF: Duration = Duration::from_millis(1);

/// Who the guest is, and what it does on its own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Hardware address.
    pub mac: [u8; 6],
    /// Address and prefix length.
    pub ip: Ipv4Cidr,
    /// The gateway, which also is whom the guest pings.
    pub gateway: Ipv4Address,
    /// Echo requests to send to the gateway.
    pub ping: u32,
    /// Time without any request from the peer after which to give up.
    pub idle: Duration,
}

impl Config {
    /// Takes what the command line says; `None` when an address does not parse.
    #[must_use]
    pub fn new(mac: [u8; 6], options: &Options) -> Option<Self> {
        Some(Self {
            mac,
            ip: options.ip.parse().ok()?,
            gateway: options.gateway.parse().ok()?,
            ping: options.ping,
            idle: Duration::from_secs(options.idle_seconds.into()),
        })
    }
}

/// What [`Services::poll`] leaves to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There may be more to do at once.
    Busy,
    /// Nothing to do before this time, unless the device has something.
    Idle(Instant),
    /// The peer has ended the run, and has been told so.
    Finished,
    /// The peer has not asked for anything for too long.
    GaveUp,
}

/// What came of the guest's own pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pings {
    /// Requests sent.
    pub sent: u32,
    /// Replies that matched a request, each counted once.
    pub received: u32,
}

/// Every service, their sockets and the interface.
pub struct Services {
    interface: Interface,
    sockets: SocketSet<'static>,
    control: Server<Control>,
    sink: Server<Sink>,
    source: Server<Source>,
    paced: (SocketHandle, Paced),
    burst: (SocketHandle, Burst),
    ping: Pinger,
    idle: Duration,
    last_request: Instant,
}

impl Services {
    /// Opens every service on a device. The time is the first that [`poll`](Self::poll) may see.
    #[must_use]
    pub fn new(config: &Config, device: &mut impl Device, now: Instant) -> Self {
        let mac = EthernetAddress(config.mac);
        let mut interface_config = InterfaceConfig::new(mac.into());
        // Sequence numbers that differ from run to run, without need for secrecy.
        interface_config.random_seed = now.total_micros().unsigned_abs();
        let mut interface = Interface::new(interface_config, device, now);
        interface.update_ip_addrs(|addresses| {
            // There is room for one: the list is empty.
            let _ = addresses.push(IpCidr::Ipv4(config.ip));
        });
        // There is room for one route as well.
        let _ = interface
            .routes_mut()
            .add_default_ipv4_route(config.gateway);

        let max_payload = device.capabilities().ip_mtu() - IP_AND_UDP_HEADERS;
        let mut sockets = SocketSet::new(Vec::new());
        Self {
            control: Server::new(port::CONTROL, config.idle, &mut sockets),
            sink: Server::new(port::SINK, config.idle, &mut sockets),
            source: Server::new(port::SOURCE, config.idle, &mut sockets),
            paced: (udp(&mut sockets, port::PACED), Paced::new(max_payload)),
            burst: (udp(&mut sockets, port::BURST), Burst::new(max_payload)),
            ping: Pinger::new(config.gateway, config.ping, &mut sockets),
            interface,
            sockets,
            idle: config.idle,
            last_request: now,
        }
    }

    /// What came of the guest's pings, once they are over (with none to send: at once).
    #[must_use]
    pub fn pings(&self) -> Option<Pings> {
        self.ping.result()
    }

    /// Waits no longer for the echo request that is out: the caller knows that it may be lost.
    pub fn forgive_ping(&mut self) {
        self.ping.forgive();
    }

    /// Echo requests sent so far.
    #[must_use]
    pub fn pings_sent(&self) -> u32 {
        self.ping.sent()
    }

    /// Takes in what the device has, lets every service act, and sends what there is room for.
    pub fn poll(&mut self, now: Instant, device: &mut impl Device) -> Progress {
        let mut busy = false;
        for _ in 0..INGRESS_BURST {
            match self
                .interface
                .poll_ingress_single(now, device, &mut self.sockets)
            {
                PollIngressSingleResult::None => break,
                _ => busy = true,
            }
        }
        if self.serve(now) {
            self.last_request = now;
            busy = true;
        }
        for _ in 0..EGRESS_ROUNDS {
            match self.interface.poll_egress(now, device, &mut self.sockets) {
                PollResult::None => break,
                PollResult::SocketStateChanged => busy = true,
            }
        }

        if self.control.is_over() {
            Progress::Finished
        } else if busy {
            Progress::Busy
        } else if now >= self.last_request + self.idle {
            Progress::GaveUp
        } else {
            Progress::Idle(self.deadline(now))
        }
    }

    /// Lets every service act; true when the peer had asked for something.
    fn serve(&mut self, now: Instant) -> bool {
        let sockets = &mut self.sockets;
        let mut asked = self.control.poll(now, sockets);
        asked |= self.sink.poll(now, sockets);
        asked |= self.source.poll(now, sockets);
        asked |= self.paced.1.poll(now, sockets.get_mut(self.paced.0));
        asked |= self.burst.1.poll(sockets.get_mut(self.burst.0));
        // The guest's own pings keep the peer waiting: that is not the peer's fault.
        self.ping.poll(now, sockets);
        asked || self.ping.result().is_none()
    }

    /// When there may be something to do although the device is silent.
    fn deadline(&mut self, now: Instant) -> Instant {
        let interface = self.interface.poll_at(now, &self.sockets);
        // "At once", right after sending all that could be sent: the device has no room.
        let interface = interface.map(|at| if at <= now { now + BACK_OFF } else { at });
        let services = [interface, self.paced.1.deadline(), self.ping.deadline()];
        let give_up = self.last_request + self.idle;
        services.into_iter().flatten().fold(give_up, Instant::min)
    }
}

/// Bytes of the IPv4 and the UDP header.
const IP_AND_UDP_HEADERS: usize = 28;

/// Datagrams that a socket holds for either direction: two windows of the paced service.
const UDP_PACKETS: usize = 128;

/// Bytes of them.
const UDP_BYTES: usize = 192 * 1024;

/// A UDP socket bound to `port`.
fn udp(sockets: &mut SocketSet<'static>, port: u16) -> SocketHandle {
    let buffer = || {
        udp::PacketBuffer::new(
            vec![udp::PacketMetadata::EMPTY; UDP_PACKETS],
            vec![0; UDP_BYTES],
        )
    };
    let mut socket = udp::Socket::new(buffer(), buffer());
    // Fails for port 0 and for a socket that is open.
    let bound = socket.bind(port);
    debug_assert!(bound.is_ok());
    sockets.add(socket)
}
