//! The virtual timer of the generic timer, once a deadline.

use core::time::Duration;

use aarch64_cpu::registers::{CNTV_CTL_EL0, CNTV_CVAL_EL0, Writeable};
use arm_gic::{IntId, Trigger};

use super::{clock, gic};
use crate::kernel::clock::frequency;
use crate::kernel::interrupts::Vector;

/// The timer's private interrupt, on every machine that keeps to the Base System Architecture.
const INTERRUPT: IntId = IntId::ppi(11);

/// Gives the timer `vector`.
pub(crate) fn start(vector: Vector) {
    silence();
    let enabled = gic::enable(INTERRUPT, Trigger::Level, vector);
    assert!(
        enabled,
        "no GICv2 with a timer interrupt in the device tree: -machine virt,gic-version=2 has one"
    );
}

/// Raises the vector once `after` has passed.
pub(crate) fn set(after: Duration) {
    let ticks = after.as_nanos() * u128::from(frequency()) / 1_000_000_000;
    let ticks = u64::try_from(ticks).unwrap_or(u64::MAX);
    CNTV_CVAL_EL0.set(clock::counter().saturating_add(ticks));
    CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
}

/// Called when it has raised the vector, which it goes on to do until it is turned off.
pub(crate) fn silence() {
    CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::CLEAR);
}
