//! The 8259 pair: moved away from the exceptions and masked, as interrupts come through the APICs.

use x86_64::instructions::port::Port;

use super::LEGACY_VECTOR;

/// Command and data ports of the first and the second chip.
const CHIPS: [(u16, u16); 2] = [(0x20, 0x21), (0xa0, 0xa1)];

/// Initializes both chips (a half-initialized one may still raise vector 7) and masks every line.
pub(super) fn disable() {
    for (index, (command, data)) in (0u8..).zip(CHIPS) {
        let cascade = [1 << 2, 2][usize::from(index)];
        write(command, 0x11); // edge-triggered, cascaded, four words follow
        write(data, LEGACY_VECTOR + 8 * index);
        write(data, cascade);
        write(data, 1); // 8086 mode
        write(data, 0xff); // all masked
    }
}

fn write(port: u16, value: u8) {
    let mut port = Port::<u8>::new(port);
    // SAFETY: the ports are the chips' or nobody's, and the kernel uses them only here.
    unsafe { port.write(value) };
}
