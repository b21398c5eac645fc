//! The fence of [`ring::notify`](crate::ring::notify): the CPU's, or loom's under
//! `--cfg vring_loom`. The other half of that switch is in `shared`.

#[cfg(not(vring_loom))]
pub(crate) use core::sync::atomic::fence;
#[cfg(vring_loom)]
pub(crate) use loom::sync::atomic::fence;
