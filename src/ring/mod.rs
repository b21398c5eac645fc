//! The rings: indices, descriptors, ordering. They know no buffers, transports or devices.
//!
//! [`layout`] is public: the shapes of shared memory, as the specification and Linux's
//! `virtio_ring.h` have them. The rings themselves are reached through
//! [`Virtqueue`](crate::virtqueue::Virtqueue).

pub(crate) mod core;
mod counts;
pub(crate) mod format;
pub mod layout;
pub(crate) mod notify;
#[cfg(all(test, vring_loom, feature = "alloc"))]
#[allow(unsafe_code)] // a platform and a buffer for models
pub(crate) mod ordering;
mod packed;
#[allow(unsafe_code)] // a buffer that is there or not, as the number beside it says
mod payload;
mod split;
pub(crate) mod storage;
pub(crate) mod take;
#[cfg(all(test, feature = "test-util", not(vring_loom)))]
mod tests;

pub(crate) use counts::Counts;
pub use notify::need_event;
pub use storage::Slot;
