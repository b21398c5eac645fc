//! The network driver: what the tests of its parts share.

/// Runs a generic function on each kind of platform; in pages of 1024 bytes a receive buffer takes
/// two or three descriptors.
macro_rules! every_platform {
    ($f:ident) => {{
        $f(&vring::testing::InPlace::new());
        $f(&vring::testing::Bouncing::new());
        $f(&vring::testing::Discontiguous::new(1024));
    }};
}

#[path = "net/both_ways.rs"]
mod both_ways;
#[path = "net/bring_up.rs"]
mod bring_up;
#[path = "net/burst.rs"]
mod burst;
#[path = "net/cores.rs"]
mod cores;
#[path = "net/facts.rs"]
mod facts;
#[path = "net/halves.rs"]
mod halves;
#[path = "net/receive.rs"]
mod receive;
#[path = "net/send.rs"]
mod send;
#[path = "net/shutdown.rs"]
mod shutdown;
mod support;
#[path = "support/net.rs"]
mod wire;

use vring::buffer::Window;
use vring::device::net::{Driver, Options};
use vring::init::{InitError, InitFailure};
use vring::testing::{Event, FakeDevice, InPlace};

use wire::{Buffer, buffer};

/// The error of a driver that must not start, with everything cleaned up behind it.
fn refused(platform: &InPlace, device: &FakeDevice, options: Options) -> InitFailure {
    let InitError { transport, why } =
        Driver::<_, _, Buffer>::new(platform.clone(), device.transport(), options).unwrap_err();
    // The transport is there for another try.
    assert!(transport.device().status().is_empty(), "it was reset");
    device.assert_clean();
    platform.assert_no_leaks();
    why
}

fn frame(len: usize, headroom: usize, byte: u8) -> Window<Buffer> {
    let mut frame = Window::new(buffer(headroom + len), headroom, len);
    frame.as_mut_slice().fill(byte);
    frame
}

fn resets(device: &FakeDevice) -> usize {
    let is_reset = |event: &&Event| **event == Event::Reset;
    device.events().iter().filter(is_reset).count()
}
