//! Channel 2 of the 8254 timer: a clock of known frequency, to measure the others by.
//!
//! The channel counts down from 65536 at 1.193182 MHz while its gate (port 0x61) is open, and is
//! not connected to an interrupt, so that nothing has to be acknowledged.

use x86_64::instructions::port::Port;

/// Ticks a second.
pub(super) const FREQUENCY: u64 = 1_193_182;

const CHANNEL_2: u16 = 0x42;
const COMMAND: u16 = 0x43;
const GATE: u16 = 0x61;

/// The running channel.
pub(super) struct Pit(());

fn write(port: u16, value: u8) {
    let mut port = Port::<u8>::new(port);
    // SAFETY: the timer's ports and its gate; the kernel uses them only here.
    unsafe { port.write(value) };
}

fn read(port: u16) -> u8 {
    let mut port = Port::<u8>::new(port);
    // SAFETY: as in `write`.
    unsafe { port.read() }
}

impl Pit {
    /// Starts to count down from 65536, with the speaker off.
    pub(super) fn start() -> Self {
        write(GATE, read(GATE) & !0b11);
        write(COMMAND, 0b1011_0000); // channel 2, low byte then high byte, mode 0
        write(CHANNEL_2, 0);
        write(CHANNEL_2, 0);
        write(GATE, read(GATE) & !0b10 | 0b01);
        Self(())
    }

    /// Whether it has counted to the end, from where it starts over.
    pub(super) fn wrapped(&self) -> bool {
        read(GATE) & 1 << 5 != 0
    }

    /// Ticks since the start; it wraps after 54.9 ms.
    pub(super) fn elapsed(&self) -> u16 {
        write(COMMAND, 0b1000_0000); // latch channel 2
        let low = read(CHANNEL_2);
        let high = read(CHANNEL_2);
        u16::from_le_bytes([low, high]).wrapping_neg()
    }
}
