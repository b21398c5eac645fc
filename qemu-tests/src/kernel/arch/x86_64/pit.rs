//! Channel 0 of the 8254 timer: a clock of known frequency, to measure the others by.
//!
//! It is the one channel that every machine has with its gate open. Its interrupt stays masked.

use x86_64::instructions::port::Port;

/// Ticks a second.
pub(super) const FREQUENCY: u64 = 1_193_182;

const CHANNEL_0: u16 = 0x40;
const COMMAND: u16 = 0x43;

/// The counter of the timer, counting down from 65536.
pub(super) struct Pit(());

fn write(port: u16, value: u8) {
    let mut port = Port::<u8>::new(port);
    // SAFETY: the timer's ports, which the kernel uses only here.
    unsafe { port.write(value) };
}

fn read(port: u16) -> u8 {
    let mut port = Port::<u8>::new(port);
    // SAFETY: as in `write`.
    unsafe { port.read() }
}

impl Pit {
    /// Starts to count.
    pub(super) fn start() -> Self {
        write(COMMAND, 0b0011_0000); // channel 0, low byte then high byte, mode 0
        write(CHANNEL_0, 0);
        write(CHANNEL_0, 0);
        Self(())
    }

    /// Ticks since the start; `None` once it has counted to the end, after 54.9 ms.
    pub(super) fn elapsed(&self) -> Option<u16> {
        write(COMMAND, 0b1100_0010); // read back status and count of channel 0
        let status = read(CHANNEL_0);
        let low = read(CHANNEL_0);
        let high = read(CHANNEL_0);
        let at_the_end = status & 1 << 7 != 0;
        (!at_the_end).then(|| u16::from_le_bytes([low, high]).wrapping_neg())
    }
}
