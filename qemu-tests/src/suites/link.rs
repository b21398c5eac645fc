//! The link of the network card, which exercises have the harness take down and up again.

use core::time::Duration;

use vring::transport::Transport;
use vring_protocol::Event;

use crate::kernel::clock;
use crate::report::event;

/// Where the card has the state of its link, and the bit in it (VIRTIO 1.4, 5.1.4).
pub(super) const STATUS: usize = 6;
/// See [`STATUS`].
pub(super) const LINK_UP: u16 = 1;

/// How long the harness and QEMU may take on a host that is busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Has the link up again where an exercise failed that may have left it down, or what comes after it
/// would fail for that alone. It waits until the card says so: what is wrong with its interrupts is
/// told already.
pub(super) fn back_up(transport: &impl Transport) {
    event(&Event::SetLink { up: true });
    let until = clock::now() + PATIENCE;
    while !is_up(transport) {
        if clock::now() > until {
            log::warn!("the link is still down after {PATIENCE:?}");
            return;
        }
        core::hint::spin_loop();
    }
}

/// Whether the card says that its link is up, driven or not.
fn is_up(transport: &impl Transport) -> bool {
    let mut status = [0; 2];
    let read = transport.read_config(STATUS, &mut status);
    read.is_ok() && u16::from_le_bytes(status) & LINK_UP != 0
}
