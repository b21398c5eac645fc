//! The bell of a single task.

use alloc::sync::Arc;
use core::task::Waker;

use super::bell::{Bell, Busy, Notifier};

/// How often a waker is tried to be taken back from who just calls it: longer than calls take, and
/// not for ever, as who calls may be whom the task has interrupted.
const TRIES: u32 = 1000;

/// A task that waits for one thing.
pub(super) struct Sleeper {
    bell: Arc<Bell>,
    /// What sits in the bell.
    seated: Option<Waker>,
}

impl Sleeper {
    pub(super) fn new() -> Self {
        Self {
            bell: Bell::new(),
            seated: None,
        }
    }

    pub(super) fn notifier(&self) -> Notifier {
        Notifier(self.bell.clone())
    }

    /// How often it rang: to be asked after a waker was put down.
    pub(super) fn rings(&self) -> usize {
        self.bell.rings()
    }

    /// Puts the waker down. One that is there is left alone: each ring calls it, so that the task is
    /// polled after whatever it has not seen. So it may be polled while it is called, and what it has
    /// interrupted goes on when it sleeps.
    pub(super) fn sit(&mut self, waker: &Waker) -> Result<(), Busy> {
        if self.seated.as_ref().is_some_and(|it| it.will_wake(waker)) {
            return Ok(());
        }
        let copy = waker.clone();
        self.bell.visit().sit(0, waker)?;
        self.seated = Some(copy);
        Ok(())
    }
}

impl Drop for Sleeper {
    /// The bell stays for as long as a handler has it. The waker does not.
    fn drop(&mut self) {
        if self.seated.is_none() {
            return;
        }
        for _ in 0..TRIES {
            if self.bell.visit().rise(0).is_ok() {
                return;
            }
            core::hint::spin_loop();
        }
    }
}
