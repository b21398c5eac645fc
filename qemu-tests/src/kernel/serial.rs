//! The first serial port: where the kernel speaks, and the backend of `log`.
//!
//! One lock keeps lines whole. A panic or an exception may have interrupted the holder of that
//! lock, so the last words take a way of their own: [`print_now`].

use core::fmt::{self, Write};

use log::{LevelFilter, Log, Metadata, Record};
use spin::Mutex;

use super::arch::{self, Console};

static PORT: Mutex<Option<Console>> = Mutex::new(None);

struct SerialLog;

impl Log for SerialLog {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        print(format_args!(
            "[{:>5} {}] {}\n",
            record.level(),
            record.target(),
            record.args()
        ));
    }

    fn flush(&self) {}
}

/// Opens the port. Without one the kernel runs on in silence, and the harness sees a time limit.
pub(super) fn init() {
    *PORT.lock() = arch::console();
    // Fails only when a logger is set already.
    if log::set_logger(&SerialLog).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Writes to the port, one caller at a time. Not for interrupt handlers.
pub(crate) fn print(text: fmt::Arguments<'_>) {
    if let Some(port) = PORT.lock().as_mut() {
        // The port itself cannot fail; a failing `Display` cuts its own text short.
        let _ = port.write_fmt(text);
    }
}

/// Writes without regard for whoever holds the port: last words only.
pub(crate) fn print_now(text: fmt::Arguments<'_>) {
    if let Some(mut port) = arch::console() {
        let _ = port.write_fmt(text);
    }
}
