//! The shortest conversation that there is: who has the gateway's address? The gateway has.

use guest_services::Config;

/// Bytes of a frame.
pub(super) const FRAME: usize = 60;

/// A broadcast: who has the gateway's address?
pub(super) fn question(mac: [u8; 6], config: &Config) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let parts: [&[u8]; 8] = [
        &[0xff; 6],
        &mac,
        &[8, 6],                   // ARP
        &[0, 1, 8, 0, 6, 4, 0, 1], // a request of Ethernet for IPv4
        &mac,
        &config.ip.address().octets(),
        &[0; 6],
        &config.gateway.octets(),
    ];
    for (place, byte) in frame.iter_mut().zip(parts.concat()) {
        *place = byte;
    }
    frame
}

/// Whether a frame is the gateway's reply.
pub(super) fn is_answer(frame: &[u8], config: &Config) -> bool {
    frame.get(12..14) == Some(&[8, 6])
        && frame.get(20..22) == Some(&[0, 2])
        && frame.get(28..32) == Some(&config.gateway.octets())
}
