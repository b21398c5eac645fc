//! The ways out: a verdict for the harness, and the end after a panic or an exception.

use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

use vring_protocol::{EVENT_PREFIX, EXIT_FAILED};

use super::{arch, serial};

/// Text as the inside of a JSON string, without the heap.
struct Escaped<'a>(fmt::Arguments<'a>);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Writer<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl Write for Writer<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|c| match c {
                    '"' | '\\' => write!(self.0, "\\{c}"),
                    '\n' => self.0.write_str("\\n"),
                    c if c.is_control() => write!(self.0, "\\u{:04x}", u32::from(c)),
                    c => self.0.write_char(c),
                })
            }
        }
        Writer(f).write_fmt(self.0)
    }
}

/// Ends the run with a failed check, in the words of the protocol.
///
/// Whatever led here may hold the serial port's lock or have ruined the heap: this uses neither.
/// Of several processors that fail at once, or one that fails again here, the first one speaks.
pub(super) fn failed(check: &str, seen: fmt::Arguments<'_>) -> ! {
    static SPEAKS: AtomicUsize = AtomicUsize::new(usize::MAX);
    arch::cpu::disable_interrupts();
    let me = arch::cpu::index();
    let first = SPEAKS.compare_exchange(usize::MAX, me, Ordering::Relaxed, Ordering::Relaxed);
    match first {
        Ok(_) => {}
        // It failed while it told of the first failure: nothing more can be said.
        Err(speaks) if speaks == me => arch::exit(EXIT_FAILED),
        // The first one ends the run.
        Err(_) => loop {
            core::hint::spin_loop();
        },
    }
    serial::print_now(format_args!("\ntest {check} ... FAILED\n{seen}\n"));
    serial::print_now(format_args!(
        "{EVENT_PREFIX}{{\"event\":\"failure\",\"check\":\"{check}\",\"expected\":\"none\",\
         \"seen\":\"{}\",\"hint\":\"the serial log above\"}}\n",
        Escaped(seen)
    ));
    arch::exit(EXIT_FAILED)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let cpu = arch::cpu::index();
    failed("panic", format_args!("on processor {cpu}: {info}"))
}
