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
mod packed;
mod split;
pub(crate) mod storage;

pub(crate) use counts::Counts;
pub use notify::need_event;
pub use storage::Slot;
