//! What of the crate's ordering rests on the processor: the CPU's, or loom's under
//! `--cfg vring_loom`. The other half of that switch is in `shared`.
//!
//! [`fence`] is that of [`ring::notify`](crate::ring::notify). The rest is for
//! [`adapter::futures`](crate::adapter).

#[cfg(all(feature = "futures", not(vring_loom)))]
pub(crate) use core::sync::atomic::AtomicUsize;
#[cfg(all(feature = "futures", vring_loom))]
pub(crate) use loom::sync::atomic::AtomicUsize;

#[cfg(not(vring_loom))]
pub(crate) use core::sync::atomic::fence;
#[cfg(vring_loom)]
pub(crate) use loom::sync::atomic::fence;

#[cfg(all(feature = "futures", not(vring_loom)))]
pub(crate) use spin::Mutex;

/// A lock that loom watches, with the calls of `spin::Mutex`.
#[cfg(all(feature = "futures", vring_loom))]
pub(crate) struct Mutex<T>(loom::sync::Mutex<T>);

#[cfg(all(feature = "futures", vring_loom))]
// A model that has panicked has failed already.
#[allow(clippy::unwrap_used)]
impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(loom::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap()
    }

    pub(crate) fn into_inner(self) -> T {
        self.0.into_inner().unwrap()
    }
}
