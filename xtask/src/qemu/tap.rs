//! A tap interface with an address, made by system calls: no `ip` program, nothing that stays.
//!
//! The interface is not persistent: it lives as long as its file descriptors, one for each of its
//! queues, which QEMU inherits; so it goes away with the last process that holds one.

use std::fs::OpenOptions;
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::Context as _;

/// What the kernel counted on an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkCounters {
    pub(crate) rx_packets: u64,
    pub(crate) rx_dropped: u64,
    pub(crate) tx_packets: u64,
    pub(crate) tx_dropped: u64,
}

/// A tap interface; dropped, it is gone once QEMU has closed its own descriptors.
#[derive(Debug)]
pub(crate) struct Tap {
    queues: Vec<OwnedFd>,
    name: String,
}

fn request(name: &str) -> anyhow::Result<libc::ifreq> {
    // SAFETY: `ifreq` is a plain C struct of integers and byte arrays: all zeroes is a value of it.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    anyhow::ensure!(
        !name.is_empty() && name.len() < request.ifr_name.len(),
        "an interface cannot be named {name:?}"
    );
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(request)
}

fn control(fd: i32, code: libc::Ioctl, request: &mut libc::ifreq) -> std::io::Result<()> {
    // SAFETY: every code used in this module takes a pointer to an `ifreq`, reads and writes only
    // inside it, and keeps no pointer.
    let result = unsafe { libc::ioctl(fd, code, std::ptr::from_mut(request)) };
    if result < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    for (to, from) in data[2..].iter_mut().zip(address.octets()) {
        *to = from as libc::c_char;
    }
    libc::sockaddr {
        sa_family: libc::AF_INET as libc::sa_family_t,
        sa_data: data,
    }
}

/// Brings an existing interface up.
pub(crate) fn set_up(name: &str) -> anyhow::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    let mut up = request(name)?;
    control(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &mut up)
        .with_context(|| format!("cannot read the flags of {name}"))?;
    // SAFETY: SIOCGIFFLAGS just filled this member of the union.
    let flags = unsafe { up.ifr_ifru.ifru_flags };
    up.ifr_ifru.ifru_flags = flags | libc::IFF_UP as libc::c_short;
    control(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &mut up)
        .with_context(|| format!("cannot bring {name} up"))
}

/// Makes the interface, or another queue of one that has several.
fn open_queue(name: &str, multi_queue: bool) -> anyhow::Result<OwnedFd> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .context("cannot open /dev/net/tun")?;
    let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    if multi_queue {
        flags |= libc::IFF_MULTI_QUEUE;
    }
    let mut make = request(name)?;
    make.ifr_ifru.ifru_flags = flags as libc::c_short;
    control(file.as_raw_fd(), libc::TUNSETIFF, &mut make)
        .with_context(|| format!("cannot make the tap interface {name}"))?;
    Ok(file.into())
}

impl Tap {
    /// Makes the interface, with so many queues, and gives it an address.
    ///
    /// Linux has a flow's frames leave by the queue that its last frame came in by.
    pub(crate) fn new(
        name: &str,
        address: Ipv4Addr,
        netmask: Ipv4Addr,
        queues: u16,
    ) -> anyhow::Result<Self> {
        let tap = Self {
            queues: (0..queues)
                .map(|_| open_queue(name, queues > 1))
                .collect::<anyhow::Result<_>>()?,
            name: name.into(),
        };
        // Neighbour discovery of IPv6 would only blur the counters; without IPv6 there is no file.
        drop(std::fs::write(
            format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"),
            "1",
        ));
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
        let mut set = request(name)?;
        set.ifr_ifru.ifru_addr = socket_address(address);
        control(socket.as_raw_fd(), libc::SIOCSIFADDR, &mut set)
            .with_context(|| format!("cannot give {name} the address {address}"))?;
        set.ifr_ifru.ifru_netmask = socket_address(netmask);
        control(socket.as_raw_fd(), libc::SIOCSIFNETMASK, &mut set)
            .with_context(|| format!("cannot give {name} the netmask {netmask}"))?;
        set_up(name)?;
        Ok(tap)
    }

    /// The descriptors for QEMU, one a queue; they can be taken once.
    pub(crate) fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.queues)
    }

    /// What the kernel counted so far.
    pub(crate) fn counters(&self) -> anyhow::Result<LinkCounters> {
        let text = std::fs::read_to_string("/proc/net/dev").context("cannot read /proc/net/dev")?;
        parse_counters(&text, &self.name)
            .with_context(|| format!("/proc/net/dev says nothing of {}", self.name))
    }
}

fn parse_counters(text: &str, name: &str) -> Option<LinkCounters> {
    let line = text.lines().find_map(|line| {
        let (interface, rest) = line.split_once(':')?;
        (interface.trim() == name).then_some(rest)
    })?;
    let fields: Vec<u64> = line
        .split_ascii_whitespace()
        .map_while(|word| word.parse().ok())
        .collect();
    // receive: bytes packets errs drop fifo frame compressed multicast; transmit: the same order
    Some(LinkCounters {
        rx_packets: *fields.get(1)?,
        rx_dropped: *fields.get(3)?,
        tx_packets: *fields.get(9)?,
        tx_dropped: *fields.get(11)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read() {
        let text = "Inter-|   Receive  |  Transmit\n face |bytes ...\n\
                    \x20   lo:  10 1 0 0 0 0 0 0 10 1 0 0 0 0 0 0\n\
                    \x20 tap0: 1234 12 0 3 0 0 0 0 5678 56 0 7 0 0 0 0\n";
        let seen = parse_counters(text, "tap0").unwrap();
        let expected = LinkCounters {
            rx_packets: 12,
            rx_dropped: 3,
            tx_packets: 56,
            tx_dropped: 7,
        };
        assert_eq!(seen, expected);
        assert!(parse_counters(text, "tap1").is_none());
    }

    #[test]
    fn a_name_must_fit() {
        assert!(request("a-name-that-is-too-long").is_err());
        assert!(request("").is_err());
    }
}
