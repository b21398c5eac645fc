//! A TCP service: a few sockets that listen on one port, and a conversation for each.
//!
//! There is more than one socket, so that a peer may connect again while the last connection is
//! still being taken down.

use alloc::vec;
use alloc::vec::Vec;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::time::{Duration, Instant};

/// Connections that a service takes at a time.
const CONNECTIONS: usize = 2;

/// Bytes of a socket's receive and of its transmit buffer.
const BUFFER: usize = 128 * 1024;

/// What a service does with one connection.
pub(crate) trait Conversation: Default {
    /// Acts on a connection as far as it can without waiting, and once more after its end; true
    /// when bytes were taken or given.
    fn poll(&mut self, now: Instant, socket: &mut tcp::Socket<'_>) -> bool;

    /// Whether it was the last of all conversations.
    fn is_over(&self) -> bool {
        false
    }
}

/// The sockets of a service, each with its conversation.
pub(crate) struct Server<C> {
    port: u16,
    connections: Vec<(SocketHandle, C)>,
}

impl<C: Conversation> Server<C> {
    /// Listens. A peer that falls silent in mid-connection is dropped after `timeout`.
    pub(crate) fn new(port: u16, timeout: Duration, sockets: &mut SocketSet<'static>) -> Self {
        let connection = |_| {
            let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
            let mut socket = tcp::Socket::new(buffer(), buffer());
            socket.set_timeout(Some(timeout));
            socket.set_nagle_enabled(false);
            (sockets.add(socket), C::default())
        };
        Self {
            port,
            connections: (0..CONNECTIONS).map(connection).collect(),
        }
    }

    /// Lets each conversation act; true when one of them did something.
    pub(crate) fn poll(&mut self, now: Instant, sockets: &mut SocketSet<'_>) -> bool {
        let mut active = false;
        for (handle, conversation) in &mut self.connections {
            let socket = sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if socket.is_listening() {
                continue;
            }
            active |= conversation.poll(now, socket);
            if !socket.is_open() && !conversation.is_over() {
                *conversation = C::default();
                // Fails for port 0 and for a socket that is open.
                let listening = socket.listen(self.port);
                debug_assert!(listening.is_ok());
            }
        }
        active
    }

    /// Whether the last conversation is over.
    pub(crate) fn is_over(&self) -> bool {
        self.connections
            .iter()
            .any(|(_, conversation)| conversation.is_over())
    }
}
